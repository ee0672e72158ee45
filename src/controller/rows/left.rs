//! Rows that a deletion leaves in IM and Presence: which, and how a person removes them.

use crate::api::XmppFederation;
use crate::api::reasons::Reason;
use crate::api::spec::ImpSpec;
use crate::api::status::ImpStatus;
use crate::controller::environment::Environment;
use crate::controller::events::{LONGEST, Note};
use crate::controller::names::Owner;
use xmpp_federation_imp::report::{Removal, row_left};

/// The rows of ours that may stand in a cluster's table, each with the command that removes it.
/// The ledger knows best; the status remembers where the ledger was lost.
pub async fn rows(
    env: &Environment,
    object: &XmppFederation,
    owner: &Owner,
    imp: &ImpSpec,
    removal: Option<Removal>,
) -> Vec<String> {
    if let Some(rows) = removal.map(|r| r.rows_left).filter(|r| !r.is_empty()) {
        return rows;
    }
    let status = object.status.as_ref();
    let status = status.and_then(|s| s.imp.iter().find(|entry| entry.name == imp.name));
    let table = status.and_then(|entry| entry.table.as_deref());
    match env.imp.recorded(&owner.uid, &imp.publisher, table).await {
        Ok(Some(rows)) => rows,
        _ => status.map(of_status).unwrap_or_default(),
    }
}

/// The rows that a status shows.
pub fn of_status(imp: &ImpStatus) -> Vec<String> {
    imp.registrations
        .iter()
        .map(|row| row_left(&row.component_id, &row.pkid, imp.table.as_deref()))
        .collect()
}

/// Says it in the log, whole; the notes say it in as many events as it takes. Without rows there
/// is nothing to say of rows that were to stay.
pub fn tell(owner: &Owner, reason: Reason, why: &str, rows: &[String]) -> Vec<Note> {
    let abandoned = reason == Reason::RowsAbandoned;
    if rows.is_empty() && !abandoned {
        return Vec::new();
    }
    let list = rows.join("; ");
    if abandoned {
        tracing::warn!(
            namespace = owner.namespace,
            name = owner.name,
            why,
            rows = list,
            "the deletion gives up; rows may be left in IM and Presence"
        );
    } else {
        tracing::info!(
            namespace = owner.namespace,
            name = owner.name,
            why,
            rows = list,
            "rows stay in IM and Presence"
        );
    }
    let mut messages = vec![match (abandoned, rows.is_empty()) {
        (true, true) => {
            format!("Gave up removing rows from IM and Presence: {why}; no row of ours is known")
        }
        (true, false) => format!(
            "Gave up removing rows from IM and Presence: {why}; {} may be left. On the publisher's command line:",
            rows.len()
        ),
        (false, _) => format!(
            "{} rows stay in IM and Presence: {why}. To remove them, on the publisher's command line:",
            rows.len()
        ),
    }];
    for (number, row) in rows.iter().enumerate() {
        let joint = if number == 0 { " " } else { "; " };
        match messages.last_mut() {
            Some(newest) if newest.len() + joint.len() + row.len() <= LONGEST => {
                newest.push_str(joint);
                newest.push_str(row);
            }
            _ => messages.push(row.clone()),
        }
    }
    messages
        .into_iter()
        .map(|message| Note {
            warning: abandoned,
            reason: reason.to_string(),
            message,
        })
        .collect()
}

/// Counts rows given up; where none is known there may be one all the same.
pub fn count(env: &Environment, rows: &[String]) {
    let rows = u64::try_from(rows.len()).unwrap_or(u64::MAX);
    env.metrics.abandoned_rows.inc_by(rows.max(1));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::testing::owner;
    use rstest::rstest;

    fn many(count: usize) -> Vec<String> {
        (0..count)
            .map(|n| {
                let id = format!("cm-2_s2scp-1.eft-xwye-a-{n}-coluc-com");
                row_left(&id, "055c13d9-943d-459d-a3c6-af1d1176936d", None)
            })
            .collect()
    }

    #[rstest]
    #[case(0, 1)]
    #[case(1, 1)]
    #[case(2, 1)]
    #[case(60, 11)]
    fn every_row_stands_in_an_event_that_the_api_takes(#[case] rows: usize, #[case] events: usize) {
        let rows = many(rows);
        let notes = tell(&owner(), Reason::RowsAbandoned, "HTTP 401", &rows);
        assert_eq!(notes.len(), events);
        for note in &notes {
            assert!(note.warning && note.message.len() <= LONGEST, "{note:?}");
        }
        for row in &rows {
            let holders = notes.iter().filter(|n| n.message.contains(row)).count();
            assert_eq!(holders, 1, "{row}");
        }
    }

    #[test]
    fn a_row_is_named_with_what_removes_it() {
        assert_eq!(
            row_left("cm-2_s2scp-1.a-b", "055c13d9", Some("xmpp2snodes")),
            "cm-2_s2scp-1.a-b (055c13d9): run sql delete from xmpp2snodes where pkid = '055c13d9'"
        );
    }

    #[test]
    fn rows_that_were_to_stay_are_no_warning() {
        let notes = tell(&owner(), Reason::RowsRetained, "onDelete is Retain", &many(1));
        assert!(notes.iter().all(|note| !note.warning), "{notes:?}");
        assert!(tell(&owner(), Reason::RowsRetained, "onDelete is Retain", &[]).is_empty());
    }
}
