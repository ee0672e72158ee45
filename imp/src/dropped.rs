//! Clusters that a resource has rows in, or a claim on, and that no entry of its spec leads to any
//! more. The ledger keeps how they were reached, so that their rows can be removed as in a deletion.

use jiff::Timestamp;

use super::driver::Manager;
use super::machine::rows_left;
use crate::records::{ActionKind, ActionRecord, Outcome};
use crate::store::StoreError;

/// Such a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DroppedRecord {
    /// The publisher's pkid.
    pub publisher: String,
    /// A name under which it was reached.
    pub name: String,
    /// What the controller noted with the last active reconcile ([`super::desired::Place::reach`]).
    pub reach: Option<String>,
    /// Rows of ours, each with the SQL that removes it by hand.
    pub rows: Vec<String>,
    /// A publisher in the spec that was never reached: it may be another name of this one, whose
    /// rows are then wanted.
    pub unclear: Option<String>,
}

impl Manager {
    /// The clusters that this resource has left, given the publishers in its spec (lower case).
    ///
    /// # Errors
    /// The ledgers cannot be read.
    pub async fn left_by(&self, owner_uid: &str, publishers: &[String]) -> Result<Vec<DroppedRecord>, StoreError> {
        let files = self.ledgers().all().await?;
        let known = |publisher: &String| {
            self.pkid_of(publisher).or_else(|| {
                let file = files.iter().find(|f| f.ledger.known_as.contains(publisher));
                file.map(|file| file.ledger.publisher.clone())
            })
        };
        let wanted: Vec<Option<String>> = publishers.iter().map(known).collect();
        let unclear = publishers
            .iter()
            .zip(&wanted)
            .find_map(|(name, pkid)| pkid.is_none().then(|| name.clone()));
        Ok(files
            .iter()
            .map(|file| &file.ledger)
            .filter(|ledger| ledger.owner.as_ref().is_some_and(|o| o.uid == owner_uid))
            .filter(|ledger| !wanted.contains(&Some(ledger.publisher.clone())))
            .map(|ledger| DroppedRecord {
                publisher: ledger.publisher.clone(),
                name: ledger
                    .known_as
                    .first()
                    .cloned()
                    .unwrap_or_else(|| ledger.publisher.clone()),
                reach: ledger.reach.clone(),
                rows: rows_left(ledger, None),
                unclear: unclear.clone(),
            })
            .collect())
    }

    /// Gives a cluster up: the claim on it ends, and its rows stay as they are. They stay in the
    /// ledger too, so that the next resource that is active there knows them as ours.
    ///
    /// # Errors
    /// The ledger cannot be read or written.
    pub async fn give_up(&self, owner_uid: &str, publisher: &str, why: &str, at: Timestamp) -> Result<(), StoreError> {
        let mut file = self.ledgers().get(publisher).await?;
        let mut ledger = file.ledger.clone();
        if ledger.owner.as_ref().is_none_or(|o| o.uid != owner_uid) {
            return Ok(());
        }
        ledger.owner = None;
        ledger.rounds.clear();
        let rows: Vec<&str> = ledger.rows.values().map(|row| row.component_id.as_str()).collect();
        if !rows.is_empty() {
            let subject = rows.join(", ");
            ledger.acted(ActionRecord {
                at,
                action: ActionKind::GiveUpRows,
                subject,
                reason: why.to_owned(),
                outcome: "left as they are".to_owned(),
                result: Outcome::Done,
            });
        }
        self.ledgers().save(&mut file, ledger).await
    }
}
