//! All ledgers, read from the texts that the store knows: each version once, and found by the resource that has the cluster.
//! What another resource or a person wrote is seen here at once. After a failed write the ledger is read anew before anything else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;

use super::Ledger;
use crate::desired::Owner;
use crate::ledger::file::{Claim, LedgerFile, StoredVersion, ledger_name, publisher_of};
use crate::store::{LedgerStore, StoreError, StoredText};

pub struct LedgerCache {
    store: Arc<dyn LedgerStore>,
    files: Mutex<Files>,
}

/// A ledger that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadableLedger {
    /// The publisher's pkid.
    pub publisher: String,
    /// What is wrong, and the remedy.
    pub sentence: String,
    version: StoredVersion,
    claim: Claim,
}

impl UnreadableLedger {
    /// Whether it may be the ledger of a cluster that this resource has.
    pub fn may_be_of(&self, uid: &str) -> bool {
        match &self.claim {
            Claim::Unknown => true,
            Claim::Nobody => false,
            Claim::Of(owner) => owner == uid,
        }
    }
}

type Content = Result<Arc<LedgerFile>, Arc<UnreadableLedger>>;

#[derive(Default)]
struct Files {
    /// Changes of the store that were taken in.
    changes: u64,
    by_publisher: BTreeMap<String, Content>,
    /// UIDs of resources, each with the publisher of a readable ledger that says so.
    by_owner: BTreeSet<(String, String)>,
    /// Publishers of ledgers that cannot be read.
    unreadable: BTreeSet<String>,
    /// Publishers of ledgers whose last write failed: it may have been done all the same.
    doubtful: BTreeSet<String>,
    /// Publishers of ledgers that are being written: the store may know of it before the answer is heard.
    writing: BTreeSet<String>,
    /// As this process wrote them last.
    written: BTreeMap<String, Arc<LedgerFile>>,
}

impl Files {
    /// Takes in what changed in the store.
    fn follow(&mut self, store: &dyn LedgerStore) -> Result<(), StoreError> {
        let (count, names) = store.changed(self.changes)?;
        for name in names {
            if let Some(publisher) = publisher_of(&name) {
                // One that vanished and that somebody has stays.
                let _ = self.see(publisher, store.get(&name)?.as_deref());
            }
        }
        self.changes = count;
        Ok(())
    }

    fn put(&mut self, publisher: &str, content: Option<Content>) {
        if let Some(owner) = self.owner(publisher) {
            self.by_owner.remove(&(owner.uid, publisher.to_owned()));
        }
        self.unreadable.remove(publisher);
        let Some(content) = content else {
            self.by_publisher.remove(publisher);
            return;
        };
        if content.is_err() {
            self.unreadable.insert(publisher.to_owned());
        }
        self.by_publisher.insert(publisher.to_owned(), content);
        if let Some(owner) = self.owner(publisher) {
            self.by_owner.insert((owner.uid, publisher.to_owned()));
        }
    }

    /// Takes in a text that the store knows. One that somebody else wrote while this process runs is distrusted: it may be
    /// an older one, whose requests were served since.
    fn take(&mut self, publisher: &str, stored: &StoredText) -> Content {
        let known = self.by_publisher.get(publisher);
        let before = match known {
            Some(Ok(file)) if file.is_of_version(stored) => return Ok(Arc::clone(file)),
            Some(Err(unreadable)) if unreadable.version.is_of(stored) => return Err(Arc::clone(unreadable)),
            Some(Ok(file)) => Claim::of(&file.ledger),
            Some(Err(unreadable)) => unreadable.claim.clone(),
            None => Claim::Unknown,
        };
        let by_us = self.doubtful.contains(publisher) || self.writing.contains(publisher);
        let strange = |file: &LedgerFile| match known {
            _ if by_us => false,
            Some(Ok(known)) => known.ledger != file.ledger,
            Some(Err(_)) => true,
            None => false,
        };
        let own = self.written.get(publisher).filter(|own| own.is_of_version(stored));
        let read = |own: Option<&Arc<LedgerFile>>| match own {
            Some(own) => Ok(Arc::clone(own)),
            None => LedgerFile::of(publisher, Some(stored)).map(|mut file| {
                if strange(&file) {
                    file.ledger.distrust();
                }
                Arc::new(file)
            }),
        };
        let content = read(own).map_err(|sentence| {
            let claim = match Claim::in_text(&stored.data) {
                Claim::Unknown => before,
                claim => claim,
            };
            Arc::new(UnreadableLedger {
                publisher: publisher.to_owned(),
                sentence,
                version: StoredVersion::from(stored),
                claim,
            })
        });
        self.put(publisher, Some(content.clone()));
        content
    }

    /// A ledger that somebody has and that was there: what deletes it or leaves it empty does not end the claim.
    fn owned(&self, publisher: &str) -> Option<&Arc<LedgerFile>> {
        let file = self.by_publisher.get(publisher)?.as_ref().ok()?;
        file.ledger.owner.is_some().then_some(file)
    }

    /// Takes in one that the store knows (`None`: there is none); `None`: it has to be read or made anew.
    fn see(&mut self, publisher: &str, stored: Option<&StoredText>) -> Option<Content> {
        match stored {
            Some(stored) if !stored.data.is_empty() => Some(self.take(publisher, stored)),
            _ if self.owned(publisher).is_some() => None,
            _ => {
                self.put(publisher, None);
                let unknown = LedgerFile::of(publisher, stored).ok()?;
                Some(Ok(Arc::new(unknown)))
            }
        }
    }

    fn owner(&self, publisher: &str) -> Option<Owner> {
        self.by_publisher.get(publisher)?.as_ref().ok()?.ledger.owner.clone()
    }
}

/// Those of the clusters that one resource has.
#[derive(Debug, Default)]
pub struct ResourceLedgers {
    pub readable: Vec<Arc<LedgerFile>>,
    /// Those that may be.
    pub unreadable: Vec<Arc<UnreadableLedger>>,
}

/// A ledger changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LedgerChange {
    /// Who had the cluster, and who has it now.
    pub owners: BTreeSet<Owner>,
    /// Names under which its publisher was reached.
    pub known_as: BTreeSet<String>,
    /// Who had it has it no more.
    pub freed: bool,
    /// It is not readable, or was not.
    pub unreadable: bool,
}

impl LedgerCache {
    pub fn new(store: Arc<dyn LedgerStore>) -> Self {
        Self {
            store,
            files: Mutex::default(),
        }
    }

    /// The ledger of the publisher with that pkid. Only one that is in doubt, or that vanished, is asked for.
    pub async fn get(&self, publisher: &str) -> Result<Arc<LedgerFile>, StoreError> {
        let name = ledger_name(publisher);
        let known = {
            let mut files = self.files.lock();
            let stored = self.store.get(&name)?;
            let doubtful = files.doubtful.contains(publisher);
            files.see(publisher, stored.as_deref()).filter(|_| !doubtful)
        };
        if let Some(content) = known {
            return readable(content);
        }
        let stored = self.store.read(&name).await?;
        let vanished = {
            let mut files = self.files.lock();
            let seen = files.see(publisher, stored.as_ref());
            files.doubtful.remove(publisher);
            match seen {
                Some(content) => return readable(content),
                None => files.owned(publisher).cloned(),
            }
        };
        let mut file = vanished.ok_or(StoreError::Conflict)?;
        tracing::warn!(name, "the ledger was deleted and is made again");
        let ledger = file.ledger.clone();
        self.save(&mut file, ledger).await?;
        Ok(file)
    }

    /// The same where it differs from what the caller has.
    pub async fn newer(
        &self,
        publisher: &str,
        than: Option<&Arc<LedgerFile>>,
    ) -> Result<Option<Arc<LedgerFile>>, StoreError> {
        let file = self.get(publisher).await?;
        let same = than.is_some_and(|own| own.is_version_of(&file));
        Ok((!same).then_some(file))
    }

    /// Writes a changed ledger; on success it is the one in `file`.
    pub async fn save(&self, file: &mut Arc<LedgerFile>, ledger: Ledger) -> Result<(), StoreError> {
        let publisher = file.ledger.publisher.clone();
        let mut next = (**file).clone();
        self.files.lock().writing.insert(publisher.clone());
        let result = next.save(&*self.store, ledger).await;
        let mut files = self.files.lock();
        files.writing.remove(&publisher);
        if result.is_ok() {
            *file = Arc::new(next);
            files.doubtful.remove(&publisher);
            files.written.insert(publisher.clone(), Arc::clone(file));
            files.put(&publisher, Some(Ok(Arc::clone(file))));
        } else {
            files.doubtful.insert(publisher);
        }
        result
    }

    /// The ledgers of that resource; one that cannot be read hides no other.
    pub fn of(&self, uid: &str) -> Result<ResourceLedgers, StoreError> {
        let mut files = self.files.lock();
        files.follow(&*self.store)?;
        let owned = files.by_owner.range((uid.to_owned(), String::new())..);
        let owned = owned.take_while(|(owner, _)| owner == uid);
        let unreadable = files.unreadable.iter();
        let content = |publisher: &String| files.by_publisher.get(publisher).cloned();
        Ok(ResourceLedgers {
            readable: owned.filter_map(|(_, publisher)| content(publisher)?.ok()).collect(),
            unreadable: unreadable
                .filter_map(|publisher| content(publisher)?.err())
                .filter(|ledger| ledger.may_be_of(uid))
                .collect(),
        })
    }

    /// The text of that name changed in the store; `None`: it is no ledger.
    pub fn changed(&self, name: &str) -> Option<LedgerChange> {
        let publisher = publisher_of(name)?;
        let mut files = self.files.lock();
        let mut change = LedgerChange::default();
        let mut look = |files: &Files| match files.by_publisher.get(publisher) {
            Some(Ok(file)) => {
                change.owners.extend(file.ledger.owner.clone());
                change.known_as.extend(file.ledger.known_as.iter().cloned());
            }
            Some(Err(_)) => change.unreadable = true,
            None => {}
        };
        look(&files);
        let before = files.owner(publisher);
        if let Ok(stored) = self.store.get(name) {
            files.see(publisher, stored.as_deref());
        }
        look(&files);
        change.freed = before.is_some() && before != files.owner(publisher);
        Some(change)
    }
}

fn readable(content: Content) -> Result<Arc<LedgerFile>, StoreError> {
    content.map_err(|unreadable| StoreError::Unreadable(unreadable.sentence.clone()))
}

#[cfg(test)]
mod tests;
