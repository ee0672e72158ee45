//! The line of the log about a pair of domains that was authenticated on a stream, or was not.

use std::time::Duration;

use xmpp_federation_core::Domain;

use crate::observe::registry::StreamEntry;
use crate::words::{Direction, Mechanism, Role};

/// `took`: the time of dialback; `failed`: why the pair is not authenticated.
pub(crate) fn pair_changed(
    entry: &StreamEntry,
    (local, remote): (&Domain, &Domain),
    mechanism: Mechanism,
    took: Option<Duration>,
    failed: Option<&str>,
) {
    let ours = entry.direction == Direction::Outbound;
    let role = if ours { Role::Initiating } else { Role::Receiving };
    let (role, mechanism) = match mechanism {
        Mechanism::Dialback => (Some(role.as_str()), None),
        Mechanism::External => (None, Some(mechanism.as_str())),
    };
    let (address, peer) = if ours {
        (Some(entry.peer), None)
    } else {
        (None, Some(entry.peer))
    };
    macro_rules! line {
        ($level:ident) => {
            tracing::$level!(
                role, mechanism, %local, %remote, address = address.map(display), peer = peer.map(display),
                from = "PENDING", to = if failed.is_some() { "FAILED" } else { "CONNECTED" }, reason = failed,
                ms = took.map(|took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX)),
                "state of the pair changed"
            )
        };
    }
    // Of what we refuse there is a line already.
    if ours && failed.is_some() {
        line!(warn);
    } else {
        line!(info);
    }
}
