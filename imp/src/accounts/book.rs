//! The record of logins in memory, and as the store has it.

use super::{Login, LoginRecord, LoginState, NAME, USE, Use};
use crate::clock::Stamp;
use crate::store::{LedgerStore, StoreError, StoredText};

/// The record in memory, and what is known of the one in the store.
#[derive(Default)]
pub struct Book {
    pub record: LoginRecord,
    written: LoginRecord,
    /// Its version; `None`: there is none.
    version: Option<String>,
}

impl Book {
    pub fn of(stored: Option<&StoredText>) -> Result<Self, serde_json::Error> {
        let record: LoginRecord = match stored {
            Some(stored) if !stored.data.is_empty() => serde_json::from_str(&stored.data)?,
            _ => LoginRecord::default(),
        };
        Ok(Self {
            written: record.clone(),
            record,
            version: stored.map(|stored| stored.version.clone()),
        })
    }

    /// Takes in what the store has. Only the leader writes: a former leader wrote last, or a person edited or deleted it.
    /// What this process knows stays true, and what is unreadable is replaced.
    pub fn see(&mut self, stored: Option<&StoredText>) {
        let version = stored.map(|stored| stored.version.clone());
        if version == self.version {
            return;
        }
        let found = Self::of(stored).unwrap_or_default();
        self.record.merge(&found.written);
        (self.written, self.version) = (found.written, version);
    }

    /// The entry in the store that says that this use is under way.
    pub fn written_use(&self, of: &Use, now: Stamp) -> Option<Login> {
        let written = self.written.secrets.get(&of.key())?;
        let LoginState::Trying(since) = written.state else {
            return None;
        };
        let covers =
            since.process == now.process && !now.since(&since).reached(USE) && *written == of.login(written.state);
        covers.then(|| written.clone())
    }

    /// Writes what is not in the store yet.
    pub async fn write(&mut self, store: &dyn LedgerStore) -> Result<(), StoreError> {
        if self.record == self.written {
            return Ok(());
        }
        for _ in 0..3 {
            let text =
                serde_json::to_string(&self.record).map_err(|error| StoreError::Unavailable(error.to_string()))?;
            match store.write(NAME, text, self.version.as_deref()).await {
                Ok(stored) => {
                    self.version = Some(stored.version);
                    self.written = self.record.clone();
                    return Ok(());
                }
                Err(StoreError::Conflict) => self.see(store.read(NAME).await?.as_ref()),
                Err(error) => return Err(error),
            }
        }
        Err(StoreError::Conflict)
    }

    /// The same; in memory the outcome is noted in any case, and the next process reads "in use".
    pub async fn write_outcome(&mut self, store: &dyn LedgerStore) {
        if let Err(error) = self.write(store).await {
            tracing::warn!(%error, "the outcome of a login could not be recorded");
        }
    }
}
