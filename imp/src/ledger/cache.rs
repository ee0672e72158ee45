//! All ledgers as this process read or wrote them last. Only one process writes at a time, so the cache reads each
//! ledger once. After a failed write it reads that ledger again. Resources that share a cluster see here what another
//! resource wrote, without a read.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Ledger;
use crate::ledger::file::{LedgerFile, publisher_of};
use crate::store::{LedgerStore, StoreError};

pub struct LedgerCache {
    store: Arc<dyn LedgerStore>,
    files: Mutex<Files>,
}

#[derive(Default)]
struct Files {
    /// Every ledger that exists is in here.
    complete: bool,
    by_publisher: BTreeMap<String, LedgerFile>,
}

impl LedgerCache {
    /// Knows none yet.
    pub fn new(store: Arc<dyn LedgerStore>) -> Self {
        Self {
            store,
            files: Mutex::default(),
        }
    }

    /// The ledger of the publisher with that pkid.
    pub async fn get(&self, publisher: &str) -> Result<LedgerFile, StoreError> {
        if let Some(known) = self.files.lock().by_publisher.get(publisher) {
            return Ok(known.clone());
        }
        let file = LedgerFile::load(&*self.store, publisher).await?;
        let mut files = self.files.lock();
        files.by_publisher.insert(publisher.to_owned(), file.clone());
        Ok(file)
    }

    /// The same where it differs from what the caller has.
    pub async fn newer(&self, publisher: &str, than: Option<&LedgerFile>) -> Result<Option<LedgerFile>, StoreError> {
        let same = |file: &LedgerFile| than.is_some_and(|own| own.is_version_of(file));
        if self.files.lock().by_publisher.get(publisher).is_some_and(same) {
            return Ok(None);
        }
        self.get(publisher).await.map(Some)
    }

    /// Writes a changed ledger; on success it is the one in `file`.
    pub async fn save(&self, file: &mut LedgerFile, ledger: Ledger) -> Result<(), StoreError> {
        let publisher = file.ledger.publisher.clone();
        let result = file.save(&*self.store, ledger).await;
        let mut files = self.files.lock();
        if result.is_ok() {
            files.by_publisher.insert(publisher, file.clone());
        } else {
            files.by_publisher.remove(&publisher);
            files.complete = false;
        }
        result
    }

    /// Reads in all that exist, by publisher.
    pub async fn in_all<R>(&self, read: impl FnOnce(&BTreeMap<String, LedgerFile>) -> R) -> Result<R, StoreError> {
        if !self.files.lock().complete {
            for name in self.store.names().await? {
                if let Some(publisher) = publisher_of(&name) {
                    self.get(publisher).await?;
                }
            }
            self.files.lock().complete = true;
        }
        Ok(read(&self.files.lock().by_publisher))
    }

    /// The one of that resource for which this holds.
    pub async fn of_owner(&self, uid: &str, is_it: impl Fn(&Ledger) -> bool) -> Result<Option<LedgerFile>, StoreError> {
        let ours = |ledger: &Ledger| ledger.owner.as_ref().is_some_and(|owner| owner.uid == uid);
        self.in_all(|files| {
            let mut files = files.values();
            files.find(|file| ours(&file.ledger) && is_it(&file.ledger)).cloned()
        })
        .await
    }
}
