//! What a status may hold at most: a longer one is refused by the API server, and would never change again.

use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};

use super::status::XmppFederationStatus;

/// Longest message of a condition, in bytes; the schema counts characters.
pub const MESSAGE: usize = 32_768;
/// Longest message elsewhere in the status: there may be a thousand of them, and an object has 1.5 MB.
const TEXT: usize = 512;
/// All own records, of 64 names with two services each, and those of 2,000 partners: the verdict of each is what a new
/// process goes by while DNS does not answer.
const RECORDS: usize = 2_200;
/// Longest messages of all records together, in bytes.
const RECORDS_TEXT: usize = 600_000;
/// Links that do not work, and partners that fail, which a status names.
const NAMED: usize = 16;
/// Longest value of a request.
const VALUE: usize = 1024;

/// As many of the items as fit, joined, and how many are left out.
pub fn list(items: &[impl AsRef<str>], joint: &str, most: usize) -> String {
    let items: Vec<&str> = items.iter().map(AsRef::as_ref).collect();
    let whole = items.join(joint);
    if whole.len() <= most {
        return whole;
    }
    let mut text = String::new();
    for (index, item) in items.iter().enumerate() {
        let rest = format!("{joint}… and {} more", items.len() - index);
        let joint = if index == 0 { "" } else { joint };
        if text.len() + joint.len() + item.len() + rest.len() > most {
            return if index == 0 { cut(item, most) } else { text + &rest };
        }
        text.push_str(joint);
        text.push_str(item);
    }
    text
}

/// A message that fits, cut between two parts or sentences where that is possible.
pub fn message(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    for joint in ["; ", ". "] {
        let parts: Vec<&str> = text.split(joint).collect();
        if parts.len() > 1 {
            return list(&parts, joint, most);
        }
    }
    cut(text, most)
}

fn cut(text: &str, most: usize) -> String {
    let end = (0..=most.saturating_sub("…".len()))
        .rev()
        .find(|end| text.is_char_boundary(*end))
        .unwrap_or_default();
    let kept = text.get(..end).unwrap_or_default();
    if kept.len() == text.len() {
        kept.to_owned()
    } else {
        format!("{kept}…")
    }
}

/// The first of the items, and how many are left out; `None`: none is.
pub fn first<T>(mut items: Vec<T>) -> (Vec<T>, Option<i32>) {
    let further = items.len().saturating_sub(NAMED);
    items.truncate(NAMED);
    (items, i32::try_from(further).ok().filter(|further| *further > 0))
}

/// A request's value as the status has it: a long one by its hash.
pub fn request_value(value: &str) -> String {
    if value.len() <= VALUE {
        return value.to_owned();
    }
    format!("sha256:{}", HEXLOWER.encode(&Sha256::digest(value.as_bytes())))
}

impl XmppFederationStatus {
    /// The same within the limits of its schema.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        for condition in &mut self.conditions {
            condition.message = message(&condition.message, MESSAGE);
        }
        if let Some(edge) = &mut self.edge {
            edge.addresses.truncate(32);
        }
        if let Some(links) = &mut self.links {
            links.down.truncate(NAMED);
        }
        if let Some(partners) = &mut self.partners {
            partners.failing.truncate(NAMED);
            for partner in &mut partners.failing {
                partner.reason = message(&partner.reason, TEXT);
            }
        }
        self.records.truncate(RECORDS);
        let most = TEXT.min(RECORDS_TEXT / self.records.len().max(1));
        for record in &mut self.records {
            record.message = message(&record.message, most);
        }
        self.imp.truncate(32);
        for imp in &mut self.imp {
            if let Some(leaving) = &mut imp.leaving {
                leaving.message = message(&leaving.message, TEXT);
            }
            imp.nodes.truncate(16);
            imp.registrations.truncate(32);
            let old = imp.recent_actions.len().saturating_sub(20);
            imp.recent_actions.drain(..old);
            for action in &mut imp.recent_actions {
                action.action = message(&action.action, TEXT);
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::api::status::{ImpStatus, PartnerTrouble, PartnersStatus, RecordStatus};
    use rstest::rstest;

    #[rstest]
    #[case::all_fit(&["one", "two"], 8, "one; two")]
    #[case::some_fit(&["one", "two", "three three three", "four four four"], 30, "one; two; … and 2 more")]
    #[case::the_last_one_is_as_long_as_the_rest(&["one", "two three four five"], 24, "one; two three four five")]
    #[case::none_fits(&["one two three", "four"], 10, "one two…")]
    fn a_list_is_cut_between_items(#[case] items: &[&str], #[case] most: usize, #[case] text: &str) {
        let list = list(items, "; ", most);
        assert_eq!(list, text);
        assert!(list.len() <= most);
    }

    #[test]
    fn a_message_is_cut_between_sentences_and_never_within_a_character() {
        let long = "An umlaut: ü. ".repeat(40);
        let short = message(&long, 100);
        assert!(short.len() <= 100, "{}", short.len());
        assert!(short.ends_with("An umlaut: ü. … and 36 more"), "{short}");
        assert_eq!(message(&"ü".repeat(100), 10), "üüü…");
        assert_eq!(message("short", 10), "short");
    }

    #[rstest]
    #[case(0, 0, None)]
    #[case(16, 16, None)]
    #[case(17, 16, Some(1))]
    #[case(1000, 16, Some(984))]
    fn the_first_items_are_named_and_the_rest_is_counted(
        #[case] items: usize,
        #[case] named: usize,
        #[case] further: Option<i32>,
    ) {
        let (first, rest) = first(vec![(); items]);
        assert_eq!((first.len(), rest), (named, further));
    }

    #[test]
    fn a_long_value_of_a_request_is_told_from_another_one() {
        let long = "x".repeat(5000);
        assert_eq!(request_value("short"), "short");
        assert_eq!(request_value(&long).len(), 71);
        assert_ne!(request_value(&long), request_value(&"x".repeat(5001)));
    }

    #[test]
    fn a_status_fits_into_its_schema_and_into_an_object() {
        let record = RecordStatus {
            name: "_xmpp-server._tcp.example.com".to_owned(),
            state: "Wrong".to_owned(),
            message: "It is wrong. ".repeat(1000),
            unanswered_since: None,
        };
        let partner = PartnerTrouble {
            domain: "vngtp.lab".to_owned(),
            local: None,
            reason: "It does not answer. ".repeat(1000),
            since: None,
        };
        let status = XmppFederationStatus {
            partners: Some(PartnersStatus {
                failing: vec![partner; 50],
                ..PartnersStatus::default()
            }),
            records: vec![record; 3000],
            imp: vec![ImpStatus::default(); 50],
            ..XmppFederationStatus::default()
        }
        .bounded();
        assert_eq!(status.records.len(), 2200);
        assert_eq!(status.imp.len(), 32);
        assert_eq!(status.partners.as_ref().unwrap().failing.len(), 16);
        assert!(serde_json::to_vec(&status).unwrap().len() < 1_000_000);
        assert_eq!(status.clone().bounded(), status);
    }
}
