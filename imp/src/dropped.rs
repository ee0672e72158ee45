//! Clusters that a resource has rows in, or a claim on, and that no entry of its spec leads to any
//! more. The ledger keeps how they were reached, so that their rows can be removed as in a deletion.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::driver::Manager;
use super::machine::rows_left;
use crate::ledger::file::LedgerFile;
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
        let dropped = |files: &BTreeMap<String, LedgerFile>| self.dropped_in(files, owner_uid, publishers);
        self.ledgers().in_all(dropped).await
    }

    fn dropped_in(
        &self,
        files: &BTreeMap<String, LedgerFile>,
        owner_uid: &str,
        publishers: &[String],
    ) -> Vec<DroppedRecord> {
        // Until this process has reached a name, every cluster that it ever led to may be meant.
        let known = |publisher: &String| {
            if let Some(pkid) = self.pkid_of(publisher) {
                return vec![pkid];
            }
            let had_it = files.values().filter(|file| file.ledger.known_as.contains(publisher));
            had_it.map(|file| file.ledger.publisher.clone()).collect()
        };
        let wanted: Vec<Vec<String>> = publishers.iter().map(known).collect();
        let unclear = publishers
            .iter()
            .zip(&wanted)
            .find_map(|(name, pkids)| pkids.is_empty().then(|| name.clone()));
        files
            .values()
            .map(|file| &file.ledger)
            .filter(|ledger| ledger.owner.as_ref().is_some_and(|o| o.uid == owner_uid))
            .filter(|ledger| !wanted.iter().flatten().any(|pkid| *pkid == ledger.publisher))
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
            .collect()
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::sync::Arc;

    use super::*;
    use crate::ledger::Ledger;
    use crate::ledger::file::LedgerFile;
    use crate::store::MemoryStore;
    use crate::testing::desired;
    use rstest::rstest;

    const FIRST: &str = "11111111-1111-4111-8111-111111111111";
    const SECOND: &str = "22222222-2222-4222-8222-222222222222";

    /// IM&P was installed anew under the same name, so the name led to two clusters; the record of the former one
    /// stays when it is given up.
    #[rstest]
    #[case::the_former_first(FIRST, SECOND)]
    #[case::the_former_last(SECOND, FIRST)]
    #[tokio::test]
    async fn a_new_process_drops_no_cluster_that_its_spec_names(#[case] former: &str, #[case] live: &str) {
        let (store, owner) = (Arc::new(MemoryStore::default()), desired().owner);
        for (publisher, owner) in [(former, None), (live, Some(owner.clone()))] {
            let mut file = LedgerFile::load(&*store, publisher).await.unwrap();
            let mut ledger = Ledger::unknown(publisher);
            ledger.known_as.insert("cups.ciscotac.net".to_owned());
            ledger.owner = owner;
            file.save(&*store, ledger).await.unwrap();
        }
        let manager = Manager::new(store, Arc::new(crate::testing::Unguarded));
        let left = manager.left_by(&owner.uid, &["cups.ciscotac.net".to_owned()]).await;
        assert_eq!(left.unwrap(), []);
        let left = manager
            .left_by(&owner.uid, &["other.example.net".to_owned()])
            .await
            .unwrap();
        assert_eq!(left.len(), 1);
    }
}
