//! The ConfigMap with the ledger.

use crate::ledger::Ledger;

/// The ConfigMap.
#[derive(Debug, Clone, Default)]
pub struct Store {
    /// Version of the object; `None`: there is none.
    version: Option<u64>,
    object: u64,
    /// The object into which the text was written, and the ledger.
    pub(super) content: Option<(u64, Ledger)>,
    count: u64,
}

impl Store {
    /// The ledger and the version to name when writing.
    pub fn load(&self, trusting: bool) -> (Option<u64>, Ledger) {
        let ledger = match &self.content {
            Some((object, ledger)) => {
                let mut ledger = ledger.clone();
                if *object != self.object && !trusting {
                    ledger.distrust();
                }
                ledger
            }
            None => Ledger::unknown("p"),
        };
        (self.version, ledger)
    }

    /// Writes over that version; the new one.
    pub fn save(&mut self, expected: Option<u64>, ledger: &Ledger) -> Option<u64> {
        if expected != self.version {
            return None;
        }
        self.count += 1;
        if self.version.is_none() {
            self.object = self.count;
        }
        self.version = Some(self.count);
        self.content = Some((self.object, ledger.clone()));
        self.version
    }

    pub(super) fn lose(&mut self) {
        self.version = None;
        self.content = None;
    }

    pub(super) fn restore(&mut self, ledger: Ledger, object: u64) {
        self.count += 1;
        self.version = Some(self.count);
        self.object = self.count;
        self.content = Some((object, ledger));
    }

    /// Whether that version is the one that is stored.
    pub fn is_current(&self, version: Option<u64>) -> bool {
        version == self.version
    }

    pub fn content(&self) -> Option<&Ledger> {
        self.content.as_ref().map(|(_, ledger)| ledger)
    }
}
