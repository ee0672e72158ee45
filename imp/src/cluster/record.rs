//! The ledger of a cluster: loaded, learned from what was read, written.

use super::{Cluster, Manager};
use crate::desired::{Desired, Sibling};
use crate::ledger::file::LedgerFile;
use crate::ledger::{Ledger, transitions};
use crate::observation::{Exclusion, Observation};
use crate::report::Event;
use crate::store::StoreError;

impl Manager {
    /// Loads the ledger where it is not, and writes what was learned.
    pub(super) async fn update_ledger(&self, cluster: &mut Cluster, desired: &Desired, events: &mut Vec<Event>) {
        let publisher = cluster
            .seen
            .node_list()
            .iter()
            .find(|node| node.publisher)
            .map(|node| node.pkid.to_string());
        let loaded = match publisher {
            Some(pkid) => {
                let newer = self.ledgers.newer(&pkid, cluster.file.as_ref()).await;
                if newer.is_ok() {
                    cluster.ledger_error = None;
                }
                newer
            }
            // IM&P does not answer: what is known of the cluster is found by the publisher's name.
            None if cluster.file.is_none() && cluster.seen.axl_failure.is_some() => {
                let is_it = |ledger: &Ledger| match &desired.place.only {
                    Some(pkid) => ledger.publisher == *pkid,
                    None => ledger.known_as.contains(&desired.target.publisher),
                };
                self.ledger_of(&desired.owner.uid, is_it).await
            }
            None => Ok(None),
        };
        match loaded {
            Ok(Some(file)) => {
                if cluster.file.replace(file).is_some() {
                    cluster.seen.outdate();
                }
                cluster.ledger_error = None;
            }
            Ok(None) => {}
            Err(error) => {
                cluster.ledger_error = Some(error);
                return;
            }
        }
        let Some(file) = &mut cluster.file else {
            return;
        };
        cluster.seen.barred = self.barred(&cluster.seen, &file.ledger, desired);
        let mut ledger = file.ledger.clone();
        let before = ledger.actions.clone();
        let learned = transitions::apply(&mut ledger, desired, &mut cluster.seen, self.clock.now());
        if ledger != file.ledger
            && let Err(error) = self.ledgers.save(file, ledger).await
        {
            cluster.ledger_error = Some(error);
            return;
        }
        for action in &file.ledger.actions {
            if !before.contains(action) {
                action.announce(&*self.counter);
            }
        }
        events.extend(learned);
    }

    pub(super) async fn ledger_of(
        &self,
        owner_uid: &str,
        is_it: impl Fn(&Ledger) -> bool,
    ) -> Result<Option<LedgerFile>, StoreError> {
        let ours = |ledger: &Ledger| {
            let owner = ledger.owner.as_ref();
            owner.is_some_and(|owner| owner.uid == owner_uid)
        };
        let mut files = self.ledgers.all().await?.into_iter();
        Ok(files.find(|file| ours(&file.ledger) && is_it(&file.ledger)))
    }

    /// Why nothing may be done at the publisher of this ledger.
    fn barred(&self, seen: &Observation, ledger: &Ledger, desired: &Desired) -> Option<Exclusion> {
        let place = &desired.place;
        let only = place.only.as_ref();
        if seen.nodes.is_some() && only.is_some_and(|pkid| *pkid != ledger.publisher) {
            return Some(Exclusion::Elsewhere(ledger.publisher.clone()));
        }
        let same = |sibling: &&Sibling| match self.pkid_of(&sibling.publisher) {
            Some(pkid) => pkid == ledger.publisher,
            // Not asked by this process yet; the ledger knows its names.
            None => ledger.known_as.contains(&sibling.publisher),
        };
        let sibling = place.earlier.iter().find(same)?;
        Some(Exclusion::SameAs(sibling.entry.clone()))
    }

    /// Changes the ledger; whether it was written.
    pub(super) async fn record(&self, cluster: &mut Cluster, change: impl FnOnce(&mut Ledger)) -> bool {
        let Some(file) = &mut cluster.file else {
            return false;
        };
        let mut ledger = file.ledger.clone();
        change(&mut ledger);
        match self.ledgers.save(file, ledger).await {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%error, "the ledger could not be written");
                cluster.ledger_error = Some(error);
                false
            }
        }
    }
}
