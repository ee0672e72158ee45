//! A change and the intent of it. [`Recorded`] has no other maker than this module, and this module makes it from a ledger
//! that was saved: no machine can request a change whose intent is not in the ledger.

use xmpp_federation_core::ComponentId;

use crate::axl::Table;
use crate::clock::Stamp;
use crate::ledger::Ledger;
use crate::observation::Observation;
use crate::pkid::Pkid;
use crate::store::StoreError;

/// Something to change at IM&P.
#[derive(Debug, Clone)]
pub enum Change {
    Insert {
        table: Table,
        pkid: Pkid,
        id: ComponentId,
    },
    Delete {
        table: Table,
        pkid: Pkid,
        id: ComponentId,
        /// Whether the last read of the rows showed it.
        shown: bool,
    },
    /// Restart `Cisco XCP Router`.
    Restart {
        node: String,
        /// The word for why, for metrics.
        cause: &'static str,
        /// It is not sent at this time or later.
        not_after: Stamp,
    },
}

/// A change whose intent stands in the saved ledger.
#[derive(Debug, Clone)]
pub struct Recorded {
    pub change: Change,
    /// Why, as the end of a sentence.
    pub reason: String,
    /// Made in this module alone.
    _saved: (),
}

/// A change whose intent is not saved yet.
#[derive(Debug, Clone)]
pub struct Unsaved(Recorded);

impl Unsaved {
    /// With the ledger that has to be saved first, also where it has the intent already: that shows that nobody else wrote.
    pub fn new(
        change: Change,
        reason: String,
        now: Stamp,
        fresh: Pkid,
        record: &Ledger,
        seen: &Observation,
    ) -> (Ledger, Self) {
        let mut ledger = record.clone();
        match &change {
            Change::Insert { pkid, id, .. } => ledger.intend_insert(*pkid, id),
            Change::Delete { pkid, .. } => ledger.intend_delete(*pkid),
            Change::Restart { node, .. } => ledger.intend_restart(node, &reason, fresh.to_string(), now, seen),
        }
        let recorded = Recorded {
            change,
            reason,
            _saved: (),
        };
        (ledger, Self(recorded))
    }

    /// The restart that it is, by its id in that ledger.
    pub fn restart_in(&self, ledger: &Ledger) -> Option<String> {
        let Change::Restart { node, .. } = &self.0.change else {
            return None;
        };
        let restart = ledger.nodes.get(node)?.restart.as_ref();
        restart.map(|restart| restart.id.clone())
    }

    /// The change once the ledger was saved.
    pub fn saved(self, result: &Result<(), StoreError>) -> Option<Recorded> {
        result.is_ok().then_some(self.0)
    }
}
