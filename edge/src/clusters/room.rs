//! How much one cluster may hold.

/// The smallest share of a source, however many there are.
pub(super) const SMALLEST_SHARE: usize = 64 * 1024;

/// What one cluster may hold in memory, in bytes; all of it together is at most [`Room::PARTS`] times
/// [`Room::high_water`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room(pub(super) usize);

impl Default for Room {
    fn default() -> Self {
        Self::MOST
    }
}

impl Room {
    /// What waits at most 4, the windows of two links 2, answers 8, what waits of suspects 1; and 1 for
    /// what is over a bound when that is noticed.
    const PARTS: usize = 16;
    /// However much memory there is.
    pub(super) const MOST: Self = Self(4 * 1024 * 1024);

    /// One cluster's of so many, which may hold this much together.
    pub fn of(all: usize, clusters: usize) -> Self {
        let part = all / clusters.max(1) / Self::PARTS;
        Self(part.clamp(SMALLEST_SHARE, Self::MOST.0))
    }

    /// Bytes that all sources of a class with something waiting share: each may have its part of it
    /// waiting before it is paused.
    pub const fn high_water(self) -> usize {
        self.0
    }

    /// Bytes waiting of a class at which no peer of it is read; they go on below
    /// [`Self::high_water`].
    pub(super) const fn shut(self) -> usize {
        2 * self.0
    }

    /// Bytes written to a link and not proven: what a broken link may have to report.
    pub const fn window(self) -> usize {
        self.0
    }

    /// Bytes of answers to a router that may wait before it is read with care.
    pub const fn answers(self) -> usize {
        2 * self.0
    }

    /// Bytes of them at which it is not read at all.
    pub const fn many_answers(self) -> usize {
        8 * self.0
    }

    /// Bytes that all suspects may have waiting.
    pub(super) const fn suspects(self) -> usize {
        self.0
    }

    pub(super) fn share(self, sources: usize) -> usize {
        (self.0 / sources.max(1)).max(SMALLEST_SHARE)
    }
}
