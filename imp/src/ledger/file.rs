//! A ledger as it is stored: one text, written into the object it was read from.

use serde::{Deserialize, Serialize};

use super::{Ledger, SCHEMA};
use crate::store::{LedgerStore, StoreError, StoredText};

/// A ledger with what is needed to write it back.
#[derive(Debug, Clone)]
pub struct LedgerFile {
    /// The ledger as it was read or written last.
    pub ledger: Ledger,
    name: String,
    stored: Option<StoredVersion>,
}

/// A version of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredVersion {
    version: String,
    uid: String,
}

impl From<&StoredText> for StoredVersion {
    fn from(stored: &StoredText) -> Self {
        Self {
            version: stored.version.clone(),
            uid: stored.uid.clone(),
        }
    }
}

impl StoredVersion {
    /// Whether that text is this version.
    pub fn is_of(&self, stored: &StoredText) -> bool {
        self.version == stored.version && self.uid == stored.uid
    }
}

/// The text: a ledger knows the object it was written into.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredLedger {
    uid: String,
    ledger: Ledger,
}

/// What the names of ledgers start with.
const PREFIX: &str = "xmpp-federation-imp-";

/// Name of a publisher's ledger.
pub fn ledger_name(publisher: &str) -> String {
    format!("{PREFIX}{publisher}")
}

/// The publisher's pkid in a ledger's name.
pub fn publisher_of(name: &str) -> Option<&str> {
    name.strip_prefix(PREFIX)
        .filter(|rest| rest.parse::<crate::pkid::Pkid>().is_ok())
}

impl LedgerFile {
    /// The ledger of the publisher with that pkid, as it is stored. One that is absent is unknown; one that was
    /// restored into another object keeps its rows and proves nothing before they are seen.
    ///
    /// # Errors
    /// Why the text cannot be read, with the remedy.
    pub fn of(publisher: &str, stored: Option<&StoredText>) -> Result<Self, String> {
        let name = ledger_name(publisher);
        let ledger = match stored {
            Some(stored) if !stored.data.is_empty() => parse(&name, stored)?,
            _ => Ledger::unknown(publisher),
        };
        let stored = stored.map(StoredVersion::from);
        Ok(Self { ledger, name, stored })
    }

    /// Whether it was read from that version, or written as it.
    pub fn is_of_version(&self, stored: &StoredText) -> bool {
        self.stored.as_ref().is_some_and(|version| version.is_of(stored))
    }

    /// Whether both are the same version of the same object.
    pub fn is_version_of(&self, other: &Self) -> bool {
        self.name == other.name && self.stored == other.stored
    }

    /// Writes a changed ledger; on success it is the one in here. A ledger that somebody deleted is made again: this
    /// process is the only one that writes, so nobody knows more.
    pub async fn save(&mut self, store: &dyn LedgerStore, ledger: Ledger) -> Result<(), StoreError> {
        match self.write(store, ledger.clone()).await {
            Err(StoreError::Conflict) => {}
            written => return written,
        }
        let found = store.read(&self.name).await?;
        // Making one ends between object and text where a process ends.
        if found.as_ref().is_some_and(|found| !found.data.is_empty()) {
            return Err(StoreError::Conflict);
        }
        self.stored = found.as_ref().map(StoredVersion::from);
        self.write(store, ledger).await
    }

    async fn write(&mut self, store: &dyn LedgerStore, ledger: Ledger) -> Result<(), StoreError> {
        let at = match &self.stored {
            Some(stored) => stored.clone(),
            // First the object, for its uid.
            None => StoredVersion::from(&store.write(&self.name, String::new(), None).await?),
        };
        self.stored = Some(at.clone());
        let wrapped = StoredLedger { uid: at.uid, ledger };
        let text = serde_json::to_string(&wrapped).map_err(|error| StoreError::Unavailable(error.to_string()))?;
        let written = store.write(&self.name, text, Some(&at.version)).await?;
        self.stored = Some(StoredVersion::from(&written));
        self.ledger = wrapped.ledger;
        Ok(())
    }
}

/// Whose cluster a text says that it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// It does not say.
    Unknown,
    Nobody,
    /// The resource with this UID.
    Of(String),
}

impl Claim {
    pub fn of(ledger: &Ledger) -> Self {
        ledger
            .owner
            .as_ref()
            .map_or(Self::Nobody, |owner| Self::Of(owner.uid.clone()))
    }

    /// What a text tells that is no ledger for this release.
    pub fn in_text(text: &str) -> Self {
        let value: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
        match value.pointer("/ledger/owner") {
            Some(serde_json::Value::Null) => Self::Nobody,
            Some(owner) => match owner.get("uid").and_then(serde_json::Value::as_str) {
                Some(uid) => Self::Of(uid.to_owned()),
                None => Self::Unknown,
            },
            None => Self::Unknown,
        }
    }
}

fn parse(name: &str, stored: &StoredText) -> Result<Ledger, String> {
    #[derive(Deserialize)]
    struct SchemaOnly {
        ledger: Schema,
    }
    #[derive(Deserialize)]
    struct Schema {
        schema: u32,
    }
    let unreadable = |error: &serde_json::Error| {
        format!(
            "ConfigMap {name} is not readable ({error}); run the release that wrote it, restore it (rows are then ours, and nothing in it restarts a router), or delete it: rows in IM&P are then foreign and have to be adopted by annotation"
        )
    };
    let schema: SchemaOnly = serde_json::from_str(&stored.data).map_err(|error| unreadable(&error))?;
    if schema.ledger.schema > SCHEMA {
        return Err(format!(
            "ConfigMap {name} was written by a newer release (schema {}, this one knows {SCHEMA}); run that release",
            schema.ledger.schema
        ));
    }
    let wrapped: StoredLedger = serde_json::from_str(&stored.data).map_err(|error| unreadable(&error))?;
    let mut ledger = wrapped.ledger;
    if wrapped.uid != stored.uid {
        ledger.distrust();
    }
    Ok(ledger)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use crate::records::Outcome;
    use crate::store::MemoryStore;

    /// As the first release writes it.
    const TEXT: &str = include_str!("../testdata/ledger.json");

    #[test]
    fn a_ledger_of_the_first_release_is_read_and_written_as_it_was() {
        let stored = StoredText {
            data: TEXT.to_owned(),
            version: "1".to_owned(),
            uid: "1f0c".to_owned(),
        };
        let ledger = parse("l", &stored).unwrap();
        let wrapped = StoredLedger {
            uid: stored.uid,
            ledger,
        };
        let before: serde_json::Value = serde_json::from_str(TEXT).unwrap();
        assert_eq!(serde_json::to_value(&wrapped).unwrap(), before);
    }

    #[test]
    fn what_a_later_release_wrote_beside_it_is_kept() {
        let mut text: serde_json::Value = serde_json::from_str(TEXT).unwrap();
        let ledger = &mut text["ledger"];
        ledger["tomorrow"] = serde_json::json!({"a": [1]});
        for node in ledger["nodes"].as_object_mut().unwrap().values_mut() {
            node["tomorrow"] = serde_json::json!(true);
        }
        let after = text.clone();
        // What is in a row or an action ends with it.
        for row in text["ledger"]["rows"].as_object_mut().unwrap().values_mut() {
            row["tomorrow"] = serde_json::json!("x");
        }
        text["ledger"]["actions"][0]["tomorrow"] = serde_json::json!(1);
        let stored = StoredText {
            data: text.to_string(),
            version: "1".to_owned(),
            uid: "1f0c".to_owned(),
        };
        let ledger = parse("l", &stored).unwrap();
        let wrapped = StoredLedger {
            uid: stored.uid,
            ledger,
        };
        assert_eq!(serde_json::to_value(&wrapped).unwrap(), after);
    }

    #[test]
    fn actions_of_the_first_release_count_as_done_and_others_keep_their_result() {
        let stored = StoredText {
            data: TEXT.to_owned(),
            version: "1".to_owned(),
            uid: "1f0c".to_owned(),
        };
        let mut ledger = parse("l", &stored).unwrap();
        assert!(!ledger.actions.is_empty() && ledger.actions.iter().all(|action| action.result.is_done()));
        ledger.actions[0].result = Outcome::NotDone;
        let data = serde_json::to_string(&StoredLedger {
            uid: stored.uid.clone(),
            ledger,
        })
        .unwrap();
        let read = parse("l", &StoredText { data, ..stored }).unwrap();
        assert_eq!(read.actions[0].result, Outcome::NotDone);
    }

    #[tokio::test]
    async fn a_ledger_that_was_deleted_is_made_again_with_what_this_process_knows() {
        const PUBLISHER: &str = "055c13d9-943d-459d-a3c6-af1d1176936d";
        let store = MemoryStore::default();
        let load = || LedgerFile::of(PUBLISHER, store.get(&ledger_name(PUBLISHER)).unwrap().as_deref()).unwrap();
        let mut file = load();
        let mut ledger = file.ledger.clone();
        ledger.known_as.insert("cups.example".to_owned());
        file.save(&store, ledger.clone()).await.unwrap();
        store.clear();
        ledger.known_as.insert("cups2.example".to_owned());
        file.save(&store, ledger.clone()).await.unwrap();
        assert_eq!(load().ledger, ledger);
        // A ledger of somebody else is not written over.
        let mut other = load();
        other.save(&store, ledger.clone()).await.unwrap();
        assert_eq!(file.save(&store, ledger).await, Err(StoreError::Conflict));
    }
}
