//! Clusters that a resource has rows in, or a claim on, and that no entry of its spec leads to any
//! more. The ledger keeps how they were reached, so that their rows can be removed as in a deletion.

use jiff::Timestamp;

use super::driver::Manager;
use super::ledger::cache::ResourceLedgers;
use crate::desired::Sibling;
use crate::pkid::Pkid;
use crate::records::{ActionKind, ActionRecord, Outcome, RowRecord};
use crate::report::Registration;
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
    /// Rows of ours that may stand in its table.
    pub rows: Vec<Registration>,
    /// A publisher in the spec that has not answered where its entry leads now: it may be another name of this one,
    /// whose rows are then wanted.
    pub unclear: Option<String>,
}

/// What is known of the clusters that a resource has left.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct DroppedRecords {
    /// Those whose ledgers can be read.
    pub known: Vec<DroppedRecord>,
    /// Why there may be more: a sentence with the remedy for each ledger that cannot be read.
    pub unreadable: Vec<String>,
}

impl Manager {
    /// The clusters that this resource has left, given the entries of its spec. Waits for nobody.
    pub fn left_by(&self, owner_uid: &str, entries: &[Sibling]) -> DroppedRecords {
        self.keep(owner_uid, entries);
        let ResourceLedgers {
            readable: files,
            unreadable,
        } = match self.ledgers().of(owner_uid) {
            Ok(ledgers) => ledgers,
            Err(error) => {
                return DroppedRecords {
                    known: Vec::new(),
                    unreadable: vec![error.to_string()],
                };
            }
        };
        // Until an entry has answered to this process, every cluster of ours that its name ever led to may be meant.
        // Names are given to new machines, so clusters of others tell nothing of it.
        let known = |entry: &Sibling| {
            if let Some(pkid) = self.pkid_of(owner_uid, entry) {
                return vec![pkid];
            }
            let ledgers = files.iter().map(|file| &file.ledger);
            let had_it = ledgers.filter(|ledger| ledger.known_as.contains(&entry.publisher));
            had_it.map(|ledger| ledger.publisher.clone()).collect()
        };
        let wanted: Vec<Vec<String>> = entries.iter().map(known).collect();
        let is_wanted = |publisher: &String| wanted.iter().flatten().any(|pkid| pkid == publisher);
        let unclear = entries
            .iter()
            .zip(&wanted)
            .find_map(|(entry, pkids)| pkids.is_empty().then(|| entry.publisher.clone()));
        let registration = |(pkid, row): (&Pkid, &RowRecord)| Registration {
            component_id: row.component_id.clone(),
            pkid: *pkid,
        };
        let known = files
            .iter()
            .map(|file| &file.ledger)
            .filter(|ledger| !is_wanted(&ledger.publisher))
            .map(|ledger| DroppedRecord {
                publisher: ledger.publisher.clone(),
                name: ledger
                    .known_as
                    .first()
                    .cloned()
                    .unwrap_or_else(|| ledger.publisher.clone()),
                reach: ledger.reach.clone(),
                rows: ledger.rows.iter().map(registration).collect(),
                unclear: unclear.clone(),
            });
        // A cluster that the spec names tells of its ledger itself.
        let unreadable = unreadable.iter().filter(|ledger| !is_wanted(&ledger.publisher));
        DroppedRecords {
            known: known.collect(),
            unreadable: unreadable.map(|ledger| ledger.sentence.clone()).collect(),
        }
    }

    /// Gives a cluster up: the claim on it ends, and its rows stay as they are. They stay in the
    /// ledger too, so that the next resource that is active there knows them as ours.
    ///
    /// # Errors
    /// The ledger cannot be read or written.
    pub async fn give_up(&self, owner_uid: &str, publisher: &str, why: &str, at: Timestamp) -> Result<(), StoreError> {
        let mut file = self.ledgers().get(publisher).await?;
        let mut ledger = file.ledger.clone();
        if !ledger.is_of(owner_uid) {
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
    use crate::ledger::Ledger;
    use std::net::IpAddr;
    use std::sync::Arc;

    use super::*;
    use crate::access::NodeAddress;
    use crate::desired::Owner;
    use crate::ledger::file::{LedgerFile, ledger_name};
    use crate::records::RowState;
    use crate::store::{LedgerStore as _, MemoryStore};
    use crate::testing::desired;
    use rstest::rstest;

    const FIRST: &str = "11111111-1111-4111-8111-111111111111";
    const SECOND: &str = "22222222-2222-4222-8222-222222222222";

    async fn store(store: &MemoryStore, publisher: &str, owner: Option<Owner>) {
        let mut file = LedgerFile::of(publisher, None).unwrap();
        let mut ledger = Ledger::unknown(publisher);
        ledger.known_as.insert("cups.ciscotac.net".to_owned());
        ledger.owner = owner;
        file.save(store, ledger).await.unwrap();
    }

    fn entry(publisher: &str, address: Option<[u8; 4]>) -> Sibling {
        Sibling {
            entry: "main".to_owned(),
            publisher: publisher.to_owned(),
            port: 8443,
            address: address.map(|address| NodeAddress::from(IpAddr::from(address))),
        }
    }

    fn answered(manager: &Manager, uid: &str, entry: &Sibling, pkid: &str) {
        let mut desired = desired();
        desired.owner.uid = uid.to_owned();
        desired.target.name.clone_from(&entry.entry);
        desired.target.publisher.clone_from(&entry.publisher);
        let address = entry.address.clone().map(|address| (entry.publisher.clone(), address));
        desired.target.addresses = address.into_iter().collect();
        manager.answered(&desired, pkid.to_owned());
    }

    /// IM&P was installed anew under the same name, so the name led to two clusters; the record of the former one
    /// stays when it is given up.
    #[rstest]
    #[case::the_former_first(FIRST, SECOND)]
    #[case::the_former_last(SECOND, FIRST)]
    #[tokio::test]
    async fn a_new_process_drops_no_cluster_that_its_spec_names(#[case] former: &str, #[case] live: &str) {
        let (texts, owner) = (Arc::new(MemoryStore::default()), desired().owner);
        store(&texts, former, None).await;
        store(&texts, live, Some(owner.clone())).await;
        let manager = Manager::new(texts, Arc::new(crate::testing::Unguarded));
        let left = manager.left_by(&owner.uid, &[entry("cups.ciscotac.net", None)]);
        assert_eq!(left, DroppedRecords::default());
        let left = manager.left_by(&owner.uid, &[entry("other.example.net", None)]);
        assert_eq!(left.known.len(), 1);
    }

    /// The cluster that this name led to before is given up, and the name was moved to the other one.
    #[rstest]
    #[case::nothing_answered_yet(false)]
    #[case::the_former_answered_there_before_the_entry_led_elsewhere(true)]
    #[tokio::test]
    async fn an_entry_that_gets_an_old_name_back_has_not_answered_there(#[case] before: bool) {
        let (texts, owner) = (Arc::new(MemoryStore::default()), desired().owner);
        store(&texts, FIRST, None).await;
        let mut file = LedgerFile::of(SECOND, None).unwrap();
        let mut ledger = Ledger::unknown(SECOND);
        ledger.known_as.insert("cups-new".to_owned());
        ledger.owner = Some(owner.clone());
        file.save(&*texts, ledger).await.unwrap();
        let manager = Manager::new(texts, Arc::new(crate::testing::Unguarded));
        if before {
            answered(&manager, &owner.uid, &entry("cups.ciscotac.net", None), FIRST);
            let moved = entry("cups-new", None);
            assert_eq!(manager.left_by(&owner.uid, &[moved]), DroppedRecords::default());
        }
        let back = entry("cups.ciscotac.net", None);
        let left = manager.left_by(&owner.uid, std::slice::from_ref(&back)).known;
        let unclear: Vec<_> = left.iter().map(|cluster| cluster.unclear.as_deref()).collect();
        assert_eq!(unclear, [Some("cups.ciscotac.net")]);
        answered(&manager, &owner.uid, &back, SECOND);
        assert_eq!(manager.left_by(&owner.uid, &[back]), DroppedRecords::default());
    }

    #[rstest]
    #[case::of_two_resources("r-1", "r-2")]
    #[case::of_one_resource("r-1", "r-1")]
    #[tokio::test]
    async fn one_name_may_lead_to_two_clusters(#[case] one: &str, #[case] other: &str) {
        let texts = Arc::new(MemoryStore::default());
        let owner = |uid: &str| Owner {
            uid: uid.to_owned(),
            ..desired().owner
        };
        store(&texts, FIRST, Some(owner(one))).await;
        store(&texts, SECOND, Some(owner(other))).await;
        let manager = Manager::new(texts, Arc::new(crate::testing::Unguarded));
        let first = entry("cups.ciscotac.net", Some([192, 0, 2, 1]));
        let second = Sibling {
            entry: "second".to_owned(),
            ..entry("cups.ciscotac.net", Some([192, 0, 2, 2]))
        };
        answered(&manager, one, &first, FIRST);
        answered(&manager, other, &second, SECOND);
        for uid in [one, other] {
            let mut entries = vec![first.clone(), second.clone()];
            if one != other {
                entries.retain(|entry| (entry == &first) == (uid == one));
            }
            assert_eq!(manager.left_by(uid, &entries), DroppedRecords::default());
        }
    }

    #[tokio::test]
    async fn an_entry_whose_override_changed_has_not_answered() {
        let (texts, owner) = (Arc::new(MemoryStore::default()), desired().owner);
        store(&texts, FIRST, None).await;
        store(&texts, SECOND, Some(owner.clone())).await;
        let manager = Manager::new(texts, Arc::new(crate::testing::Unguarded));
        answered(
            &manager,
            &owner.uid,
            &entry("other.example", Some([192, 0, 2, 1])),
            FIRST,
        );
        let moved = entry("other.example", Some([192, 0, 2, 2]));
        let left = manager.left_by(&owner.uid, &[moved]).known;
        let unclear: Vec<_> = left.iter().map(|cluster| cluster.unclear.as_deref()).collect();
        assert_eq!(unclear, [Some("other.example")]);
    }

    #[rstest]
    #[case::broken("{", true)]
    #[case::newer(r#"{"uid": "1", "ledger": {"schema": 99, "owner": {"uid": "r-1"}}}"#, true)]
    #[case::newer_of_another(r#"{"uid": "1", "ledger": {"schema": 99, "owner": {"uid": "r-2"}}}"#, false)]
    #[case::broken_of_nobody(r#"{"uid": "1", "ledger": {"schema": 1, "owner": null, "odd": 1}}"#, false)]
    #[case::newer_that_keeps_owners_elsewhere(r#"{"uid": "1", "ledger": {"schema": 99, "owners": []}}"#, true)]
    #[tokio::test]
    async fn a_ledger_that_cannot_be_read_hides_only_itself_and_is_told_to_whom_it_may_concern(
        #[case] text: &str,
        #[case] told: bool,
    ) {
        let (texts, owner) = (Arc::new(MemoryStore::default()), desired().owner);
        store(&texts, FIRST, Some(owner.clone())).await;
        let name = ledger_name(SECOND);
        texts.write(&name, text.to_owned(), None).await.unwrap();
        let manager = Manager::new(texts, Arc::new(crate::testing::Unguarded));
        let left = manager.left_by(&owner.uid, &[entry("other.example.net", None)]);
        assert_eq!(left.known.len(), 1);
        assert_eq!(left.unreadable.len(), usize::from(told), "{left:?}");
        for sentence in left.unreadable {
            assert!(sentence.starts_with(&format!("ConfigMap {name} ")), "{sentence}");
        }
    }

    /// The former cluster that the name led to is not left yet, and this process has not asked.
    #[rstest]
    #[case::nothing_answered_yet(None, &[FIRST, SECOND], false)]
    #[case::the_live_one_answered(Some(SECOND), &[SECOND], true)]
    #[tokio::test]
    async fn a_name_that_led_to_two_clusters_tells_of_none_until_one_has_answered(
        #[case] publisher: Option<&str>,
        #[case] told: &[&str],
        #[case] known: bool,
    ) {
        let (texts, mut desired) = (Arc::new(MemoryStore::default()), desired());
        for publisher in [FIRST, SECOND] {
            let mut file = LedgerFile::of(publisher, None).unwrap();
            let mut ledger = Ledger::unknown(publisher);
            ledger.known_as.insert("cups.ciscotac.net".to_owned());
            ledger.owner = Some(desired.owner.clone());
            let row = RowRecord {
                component_id: "cm-2_s2scp-1.eft-xwye-a-coluc-com".parse().unwrap(),
                state: RowState::Present,
                asks_restart: true,
            };
            ledger.rows.insert(publisher.parse().unwrap(), row);
            file.save(&*texts, ledger).await.unwrap();
        }
        let manager = Manager::new(texts, Arc::new(crate::testing::Unguarded));
        // Nobody listens there.
        let nobody = IpAddr::from([127, 0, 0, 1]);
        let address = (desired.target.publisher.clone(), NodeAddress::from(nobody));
        desired.target.addresses = [address].into();
        desired.target.port = 1;
        let entry = Sibling::of(&desired.target);
        if let Some(publisher) = publisher {
            manager.answered(&desired, publisher.to_owned());
        }
        let rows = manager.recorded(&desired.owner.uid, &entry, None).unwrap().unwrap();
        assert_eq!(rows.len(), told.len(), "{rows:?}");
        for (row, publisher) in rows.iter().zip(told) {
            assert!(row.contains(publisher), "{rows:?}");
        }
        let report = manager.reconcile(&desired).await;
        let registered: Vec<String> = report.registrations.iter().map(|row| row.pkid.to_string()).collect();
        let of_the_live_one: &[&str] = if known { &[SECOND] } else { &[] };
        assert_eq!(registered, of_the_live_one);
    }
}
