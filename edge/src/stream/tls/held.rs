//! What is kept of a TLS session's input between two reads: the records of a handshake message that
//! is not complete, and the beginning of a record.
//!
//! The library bounds what such a message says of its own length, not what its records take: one
//! byte of it may come in a record of 16 kB. It also wants to find all of them where they were.
//! Records are therefore completed one by one behind what is kept, so that nothing is moved twice,
//! and what is kept is bounded.

use rustls::Error;

/// Type, version and length of a record.
const HEADER: usize = 5;
/// A record of the greatest length that the library takes (RFC 5246 section 6.2.3).
const RECORD: usize = HEADER + 16 * 1024 + 2048;
/// Records of a message that is not complete: as much as the library keeps where it keeps them
/// itself, which is the longest message that it takes.
const MESSAGE: usize = 64 * 1024;
/// The most that is kept.
pub(super) const MOST: usize = MESSAGE + RECORD;

#[derive(Default)]
pub(super) struct RecordBuffer {
    bytes: Vec<u8>,
    /// Length of the whole records at the beginning; the beginning of another one is behind them.
    whole: usize,
}

impl RecordBuffer {
    /// For the library, which has seen all of it but the end of the last record.
    pub(super) fn bytes(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Takes what the last record lacks, its header first, if anything is kept: how much that is,
    /// and whether the library can tell more than before, which it can of a header and of a record.
    pub(super) fn complete(&mut self, records: &[u8]) -> Option<(usize, bool)> {
        if self.bytes.is_empty() {
            return None;
        }
        let begun = self.begun();
        let missing = length(begun).unwrap_or(HEADER).saturating_sub(begun.len());
        let taken = records.get(..missing).unwrap_or(records);
        let needed = self.bytes.len() + taken.len();
        if needed > self.bytes.capacity() {
            // Twice as much each time, and never more than may be needed.
            let room = (2 * self.bytes.capacity()).min(MOST).max(needed);
            self.bytes.reserve_exact(room - self.bytes.len());
        }
        self.bytes.extend_from_slice(taken);
        let begun = self.begun();
        let is_header = begun.len() == HEADER;
        // Only now: the library moves what records hold together, and headers do not survive it.
        let is_whole = length(begun) == Some(begun.len());
        if is_whole {
            self.whole = self.bytes.len();
        }
        Some((taken.len(), is_header || is_whole))
    }

    /// The library has used up this many of the bytes that are kept.
    pub(super) fn used(&mut self, bytes: usize) -> Result<(), Error> {
        if bytes >= self.bytes.len() {
            *self = Self::default();
        } else {
            self.bytes.drain(..bytes);
            self.whole = self.whole.saturating_sub(bytes);
        }
        self.check()
    }

    /// Keeps what the library has not used up of these bytes, of which the first `whole` are whole records.
    pub(super) fn keep(&mut self, records: &[u8], used: usize, whole: usize) -> Result<(), Error> {
        let rest = records.get(used..).unwrap_or_default();
        self.whole = whole.saturating_sub(used);
        self.check()?;
        self.bytes = rest.to_vec();
        Ok(())
    }

    fn check(&self) -> Result<(), Error> {
        if self.whole > MESSAGE {
            let reason = "a handshake message is not complete after 64 kB of records";
            return Err(Error::General(reason.to_owned()));
        }
        Ok(())
    }

    /// The beginning of the last record.
    fn begun(&self) -> &[u8] {
        self.bytes.get(self.whole..).unwrap_or_default()
    }

    /// Memory that it takes.
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }
}

/// Length of the record that begins here, its header included; `None`: the header is not complete.
fn length(begun: &[u8]) -> Option<usize> {
    let [_, _, _, high, low, ..] = *begun else {
        return None;
    };
    Some(HEADER + usize::from(u16::from_be_bytes([high, low])))
}

/// How many of these bytes, at a record's beginning, belong to whole records.
pub(super) fn whole_records(records: &[u8]) -> usize {
    let mut whole = 0;
    while let Some(length) = records.get(whole..).and_then(length)
        && whole + length <= records.len()
    {
        whole += length;
    }
    whole
}
