//! What peers have begun and not ended, over all streams with them: the beginning of an element or of a
//! TLS record, and what was read of a peer that waits for its turn. Each stream has its own bounds,
//! which many streams together could use for more than the memory that there is.

use std::io;
use std::sync::Arc;

use crate::budget::{Pool, Share, fair};

/// Bytes of one stream that are little, which it gets where others get nothing more.
const SMALL: usize = 4 * 1024;
/// Part of all that only configured partners' streams get, and a second one beside it that only they
/// and small beginnings get.
const RESERVED: usize = 8;

/// All streams together.
#[derive(Debug)]
pub struct Incomplete {
    most: usize,
    held: Arc<Pool>,
}

impl Incomplete {
    /// At most this many bytes.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            held: Arc::default(),
        })
    }

    /// Bytes held now.
    pub fn held(&self) -> usize {
        self.held.held()
    }

    /// The part of one stream. `partner`: it is with a configured partner.
    pub fn part(self: &Arc<Self>, partner: bool) -> Part {
        Part {
            share: Share::new(self.held.clone()),
            of: self.clone(),
            partner,
        }
    }

    /// Whether one stream may have this much while others have that much.
    fn admits(&self, own: usize, others: usize, partner: bool) -> bool {
        let reserved = self.most / RESERVED;
        let most = match (partner, own <= SMALL) {
            (true, _) => self.most,
            (false, true) => self.most - reserved,
            (false, false) => self.most - 2 * reserved,
        };
        own <= most.saturating_sub(others).min(SMALL) || own <= fair(most, others)
    }
}

/// What one stream has of it.
#[derive(Debug)]
pub struct Part {
    of: Arc<Incomplete>,
    share: Share,
    partner: bool,
}

impl Part {
    /// The stream is with a configured partner from now on.
    pub fn of_partner(&mut self) {
        self.partner = true;
    }

    /// The stream has this much now; an error if it is more than before, and there is no room.
    #[inline]
    pub fn set(&mut self, bytes: usize) -> io::Result<()> {
        if bytes == self.share.bytes() {
            return Ok(());
        }
        self.change(bytes)
    }

    fn change(&mut self, bytes: usize) -> io::Result<()> {
        let less = bytes < self.share.bytes();
        self.share.set(bytes);
        if less || self.of.admits(bytes, self.share.others(), self.partner) {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::OutOfMemory,
            "unfinished data of all streams fills its part of the memory, so this stream gets no more",
        ))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const KIB: usize = 1024;

    /// Streams of which each takes as much as it gets up to `most`; gives them.
    fn fill(all: &Arc<Incomplete>, streams: usize, most: usize, partner: bool) -> Vec<Part> {
        let grow = |_| {
            let mut part = all.part(partner);
            let mut bytes = 0;
            while bytes < most && part.set(bytes + KIB).is_ok() {
                bytes += KIB;
            }
            part.set(bytes).unwrap();
            part
        };
        (0..streams).map(grow).collect()
    }

    #[test]
    fn one_stream_has_its_own_bounds_only() {
        let all = Incomplete::new(8 * KIB * KIB);
        let one = fill(&all, 1, 256 * KIB, false);
        assert_eq!(one[0].share.bytes(), 256 * KIB);
        drop(one);
        assert_eq!(all.held(), 0);
    }

    #[test]
    fn many_strangers_leave_room_for_partners_and_for_small_beginnings() {
        let all = Incomplete::new(8 * KIB * KIB);
        let mut strangers = fill(&all, 200, 64 * KIB, false);
        assert!(all.held() < 7 * KIB * KIB, "{}", all.held());
        let new = fill(&all, 100, SMALL, false);
        assert!(new.iter().all(|part| part.share.bytes() == SMALL));
        strangers.extend(fill(&all, 1000, 64 * KIB, false));
        // Little is bounded as well.
        assert_eq!(all.held(), 7 * KIB * KIB);
        let partners = fill(&all, 3, 256 * KIB, true);
        assert!(partners.iter().all(|part| part.share.bytes() == 256 * KIB));
        drop((strangers, new));
        assert_eq!(all.held(), 3 * 256 * KIB);
    }

    #[test]
    fn nobody_gets_more_than_there_is() {
        let all = Incomplete::new(KIB * KIB);
        let partners = fill(&all, 1000, 256 * KIB, true);
        assert_eq!(all.held(), KIB * KIB);
        assert!(all.part(true).set(1).is_err());
        drop(partners);
        assert_eq!(all.held(), 0);
    }

    #[test]
    fn what_a_stream_has_already_is_not_judged_again() {
        let all = Incomplete::new(100 * KIB);
        let mut one = all.part(false);
        one.set(40 * KIB).unwrap();
        let _others = fill(&all, 20, SMALL, false);
        one.set(40 * KIB).unwrap();
        one.set(30 * KIB).unwrap();
        assert!(one.set(60 * KIB).is_err());
    }
}
