//! Why a router has to be restarted, if it has to.

use std::fmt;

use xmpp_federation_core::ComponentId;

use crate::ledger::{Ledger, RoundCause};
use crate::text::names;

/// Why a router has to be restarted; displays as a sentence's part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// Rows that it has not read, by component id.
    Rows(Vec<ComponentId>),
    /// A round that was asked for, or that IM&P's own federation calls for.
    Round(RoundCause),
}

impl Need {
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Rows(_) => "rows",
            Self::Round(RoundCause::Requested(_)) => "requested",
            Self::Round(RoundCause::FederationOff) => "federation-off",
        }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rows(ids) => write!(
                f,
                "its router has not read the new row of {}",
                names(ids.iter().map(ComponentId::as_str))
            ),
            Self::Round(RoundCause::Requested(token)) => write!(
                f,
                "the annotation xmppfederation.io/restart-routers asks for it ({token:?})"
            ),
            Self::Round(RoundCause::FederationOff) => f.write_str("IM&P's own XMPP federation was turned off"),
        }
    }
}

/// Why this node's router has to be restarted, if it has to.
pub fn need(node: &str, ids: &[ComponentId], ledger: &Ledger) -> Option<Need> {
    let unread: Vec<ComponentId> = ids
        .iter()
        .filter(|id| asks_restart(id, ledger) && !ledger.has_loaded(node, id))
        .cloned()
        .collect();
    if !unread.is_empty() {
        return Some(Need::Rows(unread));
    }
    ledger
        .rounds
        .iter()
        .find(|round| round.pending.contains(node))
        .map(|round| Need::Round(round.cause.clone()))
}

fn asks_restart(id: &ComponentId, ledger: &Ledger) -> bool {
    ledger
        .rows
        .values()
        .any(|row| row.component_id == *id && row.asks_restart)
}
