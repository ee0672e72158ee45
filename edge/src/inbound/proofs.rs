//! Keys of ours that proved something on a connection. A key proves one connection: a peer that holds it
//! could otherwise have any number that never give way.

use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use parking_lot::Mutex;
use xmpp_federation_core::{Domain, StreamId};

/// Keys of which it is remembered that they were shown: between this many and twice as many. The edge
/// makes one for each of its streams, and must be made to connect for that.
const KEPT: usize = 8192;

/// What was shown.
#[derive(Debug, Default)]
pub(super) struct Proofs {
    seed: RandomState,
    shown: Mutex<ShownKeys>,
}

#[derive(Debug, Default)]
struct ShownKeys {
    lately: HashSet<u64>,
    before: HashSet<u64>,
}

impl Proofs {
    /// Whether the key of this stream between these domains is shown for the first time.
    pub(super) fn is_first(&self, local: &Domain, remote: &Domain, id: &StreamId) -> bool {
        let key = self.seed.hash_one((local, remote, id));
        let mut guard = self.shown.lock();
        let shown = &mut *guard;
        if shown.before.contains(&key) || !shown.lately.insert(key) {
            return false;
        }
        if shown.lately.len() >= KEPT {
            shown.before = std::mem::take(&mut shown.lately);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_key_is_the_first_once_and_the_memory_is_bounded() {
        let domain = |text| Domain::parse(text).unwrap();
        let (ours, theirs) = (domain("coluc.com"), domain("vngtp.lab"));
        let proofs = Proofs::default();
        for n in 0..10 * KEPT {
            let id: StreamId = StreamId::from_peer(&n.to_string()).unwrap();
            assert!(proofs.is_first(&ours, &theirs, &id));
            assert!(!proofs.is_first(&ours, &theirs, &id));
            assert!(proofs.is_first(&theirs, &ours, &id));
        }
        let shown = proofs.shown.lock();
        assert!(shown.lately.len() < KEPT && shown.before.len() <= KEPT);
    }
}
