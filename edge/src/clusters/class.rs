//! The sources of one class, served in turn by deficit round robin.

use super::suspects::Suspects;
use crate::clusters::batch::{Batch, Source};
use crate::clusters::room::Room;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use tokio::sync::watch;

/// A source goes on when it is down to this part of its share.
pub(super) const LOW_WATER: usize = 4;

/// Bytes a source may send per turn. Small against what a busy peer brings with one read, so that
/// one stanza of a quiet peer passes many flooding ones in the first round.
pub(super) const QUANTUM: usize = 16 * 1024;

/// Room of a queue that is kept for the next source instead of being given back.
pub(super) const SPARE: usize = 32;

/// The sources of one class.
#[derive(Debug, Default)]
pub(super) struct Class {
    /// Those with something waiting, no others.
    pub(super) sources: HashMap<Source, SourceQueue>,
    /// The same, by turn.
    pub(super) turns: VecDeque<Source>,
    pub(super) bytes: usize,
    pub(super) spare: Option<VecDeque<Batch>>,
    /// How often a source was looked at for its turn.
    #[cfg(test)]
    pub(super) looks: usize,
}

impl Class {
    /// Appends to what waits of a source; gives what waits of it then.
    pub(super) fn append(&mut self, source: &Source, batch: Batch) -> &mut SourceQueue {
        let size = batch.bytes.len();
        self.bytes += size;
        let waiting = match self.sources.entry(source.clone()) {
            Entry::Occupied(waiting) => waiting.into_mut(),
            Entry::Vacant(free) => {
                self.turns.push_back(source.clone());
                free.insert(SourceQueue {
                    batches: self.spare.take().unwrap_or_default(),
                    deficit: QUANTUM,
                    ..SourceQueue::default()
                })
            }
        };
        waiting.bytes += size;
        waiting.batches.push_back(batch);
        waiting
    }

    pub(super) fn take_each(
        &mut self,
        wanted: &impl Fn(&Batch) -> bool,
        give: &mut impl FnMut(&Source, Batch),
        room: Room,
    ) {
        let share = room.share(self.sources.len());
        let mut total = 0;
        self.sources.retain(|source, waiting| {
            while let Some(batch) = waiting.batches.pop_front_if(|batch| wanted(batch)) {
                waiting.bytes = waiting.bytes.saturating_sub(batch.bytes.len());
                total += batch.bytes.len();
                give(source, batch);
            }
            waiting.release(share);
            !waiting.batches.is_empty()
        });
        if total > 0 {
            self.bytes = self.bytes.saturating_sub(total);
            let sources = &self.sources;
            self.turns.retain(|source| sources.contains_key(source));
        }
    }

    pub(super) fn sift(&mut self, suspects: &mut Suspects, room: Room) {
        let share = room.share(self.sources.len());
        let (mut before, mut after) = (0, 0);
        self.sources.retain(|source, waiting| {
            before += waiting.bytes;
            let batches = std::mem::take(&mut waiting.batches).into_iter();
            waiting.batches = batches.filter_map(|batch| suspects.sift(source, batch)).collect();
            waiting.bytes = waiting.batches.iter().map(|batch| batch.bytes.len()).sum();
            after += waiting.bytes;
            waiting.release(share);
            !waiting.batches.is_empty()
        });
        self.bytes = (self.bytes + after).saturating_sub(before);
        let sources = &self.sources;
        self.turns.retain(|source| sources.contains_key(source));
    }

    /// The next batch of at most so many stanzas by deficit round robin. Looks at each source three times at most, however
    /// large the batches are.
    pub(super) fn next(&mut self, suspects: &mut Suspects, most: usize, room: Room) -> Option<Batch> {
        let share = room.share(self.sources.len());
        let mut passed = 0;
        loop {
            #[cfg(test)]
            {
                self.looks += 1;
            }
            let source = self.turns.front()?;
            let Some(waiting) = self.sources.get_mut(source) else {
                self.turns.pop_front();
                continue;
            };
            let size = waiting.batches.front().map_or(0, |next| next.bytes.len());
            if size > waiting.deficit && self.turns.len() > 1 {
                waiting.deficit += QUANTUM;
                self.turns.rotate_left(1);
                passed += 1;
                if passed == self.turns.len() {
                    self.pass_rounds();
                }
                continue;
            }
            let batch = match waiting.batches.front_mut() {
                Some(first) if first.count > most => Some(suspects.split(first, most)),
                _ => None,
            };
            let rest = waiting.batches.front().map_or(0, |rest| rest.count);
            let batch = match batch {
                Some(batch) if rest > 0 => Some(batch),
                Some(whole) => waiting.batches.pop_front().map(|_| whole),
                None => waiting.batches.pop_front(),
            };
            let size = batch.as_ref().map_or(0, |batch| batch.bytes.len());
            waiting.deficit = waiting.deficit.saturating_sub(size);
            waiting.bytes = waiting.bytes.saturating_sub(size);
            self.bytes = self.bytes.saturating_sub(size);
            waiting.release(share);
            if waiting.batches.is_empty()
                && let Some(source) = self.turns.pop_front()
                && let Some(gone) = self.sources.remove(&source)
            {
                self.idle(gone);
            }
            if batch.is_some() {
                return batch;
            }
        }
    }

    /// Nobody could send for a whole round: as many rounds as nobody can send in pass at once.
    pub(super) fn pass_rounds(&mut self) {
        let rounds = self.sources.values().map(SourceQueue::rounds).min();
        let passing = rounds.unwrap_or(0) * QUANTUM;
        for waiting in self.sources.values_mut() {
            waiting.deficit += passing;
        }
        #[cfg(test)]
        {
            self.looks += self.sources.len();
        }
    }

    /// An idle source costs no memory; one queue's room is kept, since most often the next
    /// source is the only one.
    pub(super) fn idle(&mut self, gone: SourceQueue) {
        if gone.batches.capacity() <= SPARE {
            self.spare = Some(gone.batches);
        }
        if self.sources.is_empty() && self.sources.capacity() > SPARE {
            self.sources = HashMap::new();
            self.turns = VecDeque::new();
        }
    }
}

/// What waits from one source.
#[derive(Debug, Default)]
pub(super) struct SourceQueue {
    pub(super) batches: VecDeque<Batch>,
    pub(super) bytes: usize,
    /// Bytes it may still send in this round.
    pub(super) deficit: usize,
    /// Dropped when its producers may go on.
    pub(super) hold: Option<watch::Sender<bool>>,
}

impl SourceQueue {
    /// Rounds that must pass before it may send its next batch.
    pub(super) fn rounds(&self) -> usize {
        let next = self.batches.front().map_or(0, |next| next.bytes.len());
        next.saturating_sub(self.deficit).div_ceil(QUANTUM)
    }

    pub(super) fn release(&mut self, share: usize) {
        if self.bytes <= share / LOW_WATER {
            self.hold = None;
        }
    }
}
