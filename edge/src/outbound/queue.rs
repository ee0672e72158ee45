//! Stanzas that wait for one pair of domains: one after the other in blocks, so that a small one
//! costs little more memory than its bytes, and a block is written as it is.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use crate::budget::fair;
use xmpp_federation_xml::{ns, split};

/// Bytes of a full block, and bytes written at once; a larger stanza has a block of its own.
pub(super) const BLOCK: usize = 64 * 1024;
/// How long stanzas are added to a block: all of them grow as old as the first.
const SPAN: Duration = Duration::from_millis(250);

/// Bytes that are little. A remote domain with no more waiting is refused nothing because of
/// others: a quarter of the memory is for such domains only.
const SMALL: usize = 16 * 1024;
const RESERVE: usize = 4;

/// How many bytes may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct QueueBounds {
    /// For one remote domain.
    pub(super) domain: usize,
    /// For all together.
    pub(super) total: usize,
}

impl QueueBounds {
    /// A report has nobody who could be told that it found no room: only the memory counts.
    pub(super) fn of_reports(total: usize) -> Self {
        Self {
            domain: usize::MAX,
            total,
        }
    }

    /// Whether a stanza may wait for a domain that has `domain` bytes waiting, while all together
    /// have `total`.
    pub(super) fn admit(self, domain: usize, total: usize, stanza: usize) -> bool {
        let own = domain.saturating_add(stanza);
        if own > self.domain {
            return false;
        }
        if own <= SMALL || self.domain == usize::MAX {
            return total.saturating_add(stanza) <= self.total;
        }
        own <= fair(self.total - self.total / RESERVE, total.saturating_sub(domain))
    }
}

#[derive(Debug)]
struct Block {
    /// When the first stanza came.
    at: Instant,
    bytes: Vec<u8>,
    count: usize,
    /// Bytes of the largest stanza.
    longest: usize,
}

/// What [`StanzaQueue::take`] found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Portion {
    /// Stanzas one after the other in one piece.
    pub(super) bytes: Bytes,
    /// Their number.
    pub(super) count: usize,
    /// Stanzas that the peer would not take.
    pub(super) too_large: Vec<Bytes>,
    /// There was no room for the next stanza.
    pub(super) held_back: bool,
}

/// What may be taken from a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SendRoom {
    /// Bytes at most.
    pub(super) bytes: usize,
    /// Bytes of the first stanza if that is larger.
    pub(super) first: usize,
}

#[cfg(test)]
impl SendRoom {
    pub(super) fn of(bytes: usize) -> Self {
        Self { bytes, first: 0 }
    }
}

/// Stanzas of one pair, in order.
#[derive(Debug, Default)]
pub(super) struct StanzaQueue {
    blocks: VecDeque<Block>,
    bytes: usize,
    count: usize,
}

impl StanzaQueue {
    pub(super) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Stanzas that wait.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Their bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a stanza; `more`: bytes that come right behind it.
    pub(super) fn push(&mut self, now: Instant, stanza: &[u8], more: usize) {
        let size = stanza.len();
        self.bytes += size;
        self.count += 1;
        if let Some(last) = self.blocks.back_mut()
            && last.bytes.len() + size <= BLOCK
            && now.duration_since(last.at) < SPAN
        {
            let (len, room) = (last.bytes.len(), last.bytes.capacity());
            if len + size > room {
                let wanted = (len + size + more).max(2 * room).min(BLOCK);
                last.bytes.reserve_exact(wanted.max(len + size) - len);
            }
            last.bytes.extend_from_slice(stanza);
            last.count += 1;
            last.longest = last.longest.max(size);
            return;
        }
        if let Some(full) = self.blocks.back_mut()
            && full.bytes.capacity() - full.bytes.len() > full.bytes.len() / 8
        {
            full.bytes.shrink_to_fit();
        }
        let mut bytes = Vec::with_capacity((size + more).min(BLOCK).max(size));
        bytes.extend_from_slice(stanza);
        self.blocks.push_back(Block {
            at: now,
            bytes,
            count: 1,
            longest: size,
        });
    }

    /// Makes a block of the first stanzas that there is room for; whether there is any.
    fn cut(&mut self, room: SendRoom) -> bool {
        let Some(block) = self.blocks.front_mut() else {
            return false;
        };
        let (mut bytes, mut count, mut longest) = (0, 0, 0);
        for stanza in split(&block.bytes, ns::SERVER) {
            let size = stanza.bytes().len();
            if bytes + size > room.bytes && !(count == 0 && size <= room.first) {
                break;
            }
            (bytes, count, longest) = (bytes + size, count + 1, longest.max(size));
        }
        if count == 0 {
            return false;
        }
        if count < block.count {
            let rest = block.bytes.split_off(bytes);
            let first = Block {
                at: block.at,
                bytes: std::mem::replace(&mut block.bytes, rest),
                count,
                longest,
            };
            block.count -= count;
            self.blocks.push_front(first);
        }
        true
    }

    fn pop(&mut self) -> Option<Block> {
        let block = self.blocks.pop_front()?;
        self.bytes = self.bytes.saturating_sub(block.bytes.len());
        self.count = self.count.saturating_sub(block.count);
        if self.blocks.is_empty() {
            // An idle queue holds no memory.
            self.blocks = VecDeque::new();
        }
        Some(block)
    }

    /// Takes stanzas, at most a block's bytes; `largest`: what the peer says it takes. `room` is told
    /// how many bytes would be taken.
    pub(super) fn take(&mut self, largest: Option<usize>, room: impl FnOnce(usize) -> SendRoom) -> Portion {
        let mut taken = Portion::default();
        let Some(first) = self.blocks.front() else { return taken };
        let wanted = self.bytes.min(BLOCK).max(first.bytes.len());
        let room = room(wanted);
        if room.bytes < first.bytes.len() {
            taken.held_back = !self.cut(room);
            if taken.held_back {
                return taken;
            }
        }
        let mut joined = BytesMut::new();
        while let Some(next) = self.blocks.front() {
            let before = joined.len().max(taken.bytes.len());
            if before > 0 && before + next.bytes.len() > BLOCK.min(room.bytes) {
                break;
            }
            let together = before + self.bytes;
            let Some(block) = self.pop() else { break };
            let (bytes, count) = block.fitting(largest, &mut taken.too_large);
            taken.count += count;
            if before == 0 {
                // Most often it is the only one, and is not copied.
                taken.bytes = bytes;
                continue;
            }
            if joined.is_empty() {
                joined.reserve(together.min(BLOCK));
                joined.extend_from_slice(&taken.bytes);
            }
            joined.extend_from_slice(&bytes);
        }
        if !joined.is_empty() {
            taken.bytes = joined.freeze();
        }
        taken
    }

    /// Takes what has waited longer than `life`, in pieces of several stanzas.
    pub(super) fn take_older(&mut self, now: Instant, life: Duration) -> Vec<Bytes> {
        let mut taken = Vec::new();
        while let Some(block) = self.blocks.front()
            && now.duration_since(block.at) >= life
            && let Some(block) = self.pop()
        {
            taken.push(Bytes::from(block.bytes));
        }
        taken
    }
}

impl Block {
    /// Sets aside what is larger than `largest`; gives the rest and its number.
    fn fitting(self, largest: Option<usize>, too_large: &mut Vec<Bytes>) -> (Bytes, usize) {
        let Some(largest) = largest.filter(|largest| self.longest > *largest) else {
            return (Bytes::from(self.bytes), self.count);
        };
        let (mut fitting, mut count) = (BytesMut::new(), 0);
        for stanza in split(&self.bytes, ns::SERVER) {
            if stanza.bytes().len() > largest {
                too_large.push(stanza.bytes().clone());
            } else {
                count += 1;
                fitting.extend_from_slice(stanza.bytes());
            }
        }
        (fitting.freeze(), count)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const MIB: usize = 1024 * 1024;

    fn all(queue: &mut StanzaQueue, largest: Option<usize>) -> (Vec<u8>, usize, Vec<Bytes>) {
        let (mut bytes, mut count, mut too_large) = (Vec::new(), 0, Vec::new());
        while !queue.is_empty() {
            let taken = queue.take(largest, SendRoom::of);
            assert!(taken.bytes.len() <= BLOCK || taken.count == 1);
            bytes.extend_from_slice(&taken.bytes);
            count += taken.count;
            too_large.extend(taken.too_large);
        }
        assert_eq!((queue.bytes(), queue.count()), (0, 0));
        (bytes, count, too_large)
    }

    #[test]
    fn stanzas_come_out_in_order_and_in_pieces_of_a_block() {
        let mut queue = StanzaQueue::default();
        let (mut expected, now) = (Vec::new(), Instant::now());
        for n in 0..5000_u32 {
            let body = "x".repeat(usize::try_from(n % 97).unwrap());
            let stanza = format!("<m id='{n}'>{body}</m>");
            expected.extend_from_slice(stanza.as_bytes());
            queue.push(now + SPAN * (n / 1500), stanza.as_bytes(), 0);
        }
        let large = vec![b' '; BLOCK + 1];
        queue.push(now, &large, 0);
        expected.extend_from_slice(&large);
        assert_eq!((queue.bytes(), queue.count()), (expected.len(), 5001));
        let (bytes, count, too_large) = all(&mut queue, None);
        assert_eq!((bytes, count, too_large.len()), (expected, 5001, 0));
    }

    #[test]
    fn what_waits_takes_little_more_memory_than_its_bytes() {
        let mut queue = StanzaQueue::default();
        let (stanza, now) = ([b'x'; 243], Instant::now());
        for n in 0..10_000 {
            // As they come with each read, and one by one.
            let more = if n < 5000 { 243 * (200 - n % 200) } else { 0 };
            queue.push(now, &stanza, more);
        }
        let used: usize = queue
            .blocks
            .iter()
            .map(|block| block.bytes.capacity() + size_of::<Block>())
            .sum();
        assert!(used < queue.bytes() / 20 * 21, "{used} of {}", queue.bytes());
    }

    #[test]
    fn what_the_peer_would_not_take_is_set_aside_and_the_rest_keeps_its_order() {
        let mut queue = StanzaQueue::default();
        for text in ["<a/>", "<too-large/>", "<b/>", "<c/>", "<also-large/>"] {
            queue.push(Instant::now(), text.as_bytes(), 0);
        }
        let (bytes, count, too_large) = all(&mut queue, Some(4));
        assert_eq!((&bytes[..], count), (&b"<a/><b/><c/>"[..], 3));
        assert_eq!(too_large, [&b"<too-large/>"[..], &b"<also-large/>"[..]]);
    }

    #[test]
    fn a_block_is_cut_where_there_is_no_room_for_all_of_it() {
        let mut queue = StanzaQueue::default();
        for text in ["<a/>", "<b/>", "<larger/>", "<c/>"] {
            queue.push(Instant::now(), text.as_bytes(), 0);
        }
        let mut take = |bytes, first| {
            let taken = queue.take(None, |wanted| {
                assert!(wanted >= bytes);
                SendRoom { bytes, first }
            });
            (
                String::from_utf8(taken.bytes.to_vec()).unwrap(),
                taken.count,
                taken.held_back,
            )
        };
        let taken = |text: &str, count| (text.to_owned(), count, false);
        let none = (String::new(), 0, true);
        assert_eq!(take(3, 0), none);
        assert_eq!(take(9, 0), taken("<a/><b/>", 2));
        assert_eq!(take(8, 8), none);
        assert_eq!(take(0, 9), taken("<larger/>", 1));
        assert_eq!(take(4, 0), taken("<c/>", 1));
        assert_eq!((queue.bytes(), queue.count()), (0, 0));
    }

    #[test]
    fn what_is_too_old_is_taken_and_the_rest_waits_on() {
        let mut queue = StanzaQueue::default();
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        for n in 0..4 {
            queue.push(start + second * n, format!("<a{n}/>").as_bytes(), 0);
        }
        let old = queue.take_older(start + second * 2, second);
        assert_eq!(old.concat(), b"<a0/><a1/>");
        assert_eq!((queue.count(), queue.bytes()), (2, 10));
        assert!(queue.take_older(start + second * 2, second).is_empty());
        assert_eq!(queue.take(None, SendRoom::of).bytes, &b"<a2/><a3/>"[..]);
    }

    /// Fills domains one after the other with stanzas; gives what each has.
    fn fill(bounds: QueueBounds, domains: usize, stanza: usize) -> Vec<usize> {
        let (mut total, mut each) = (0, vec![0; domains]);
        for own in &mut each {
            while bounds.admit(*own, total, stanza) {
                *own += stanza;
                total += stanza;
            }
        }
        assert!(total <= bounds.total);
        each
    }

    #[test]
    fn a_single_domain_gets_its_bound_and_many_share_what_there_is() {
        let bounds = QueueBounds {
            domain: 32 * MIB,
            total: 128 * MIB,
        };
        assert!(fill(bounds, 1, 243)[0] > 32 * MIB - 243);
        let each = fill(bounds, 100, 10_000);
        assert!(each.iter().all(|own| *own >= 10_000), "{each:?}");
        // However much others have waiting, little is always taken.
        let total: usize = each.iter().sum();
        let mut own = 0;
        while bounds.admit(own, total + own, 500) {
            own += 500;
        }
        assert!(own > SMALL - 500, "{own}");
        let scarce = QueueBounds {
            total: 32 * MIB,
            ..bounds
        };
        let each = fill(scarce, 3, 243);
        assert!(each[0] > 15 * MIB && each[1] > 5 * MIB && each[2] > MIB, "{each:?}");
    }
}
