//! The rule of one 401: AXL and Control Center on every node share an account, and IM&P locks it
//! after a few failures. A Secret version that was answered 401 is not used again, anywhere, for
//! an hour; nor is another Secret with the same user and password. This is kept in one ConfigMap
//! for all clusters, because it is known before any publisher is.
//!
//! Every use is written down before the call, also of an account that was accepted before: where
//! the operator dies in between, the answer may have been 401 and counts as one, until a human asks
//! for another try. Which Secrets have the same account is told by a keyed digest; its key is a
//! random one of this installation, kept in a Secret, so that the ConfigMap tells nothing about
//! passwords.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::HEXLOWER;
use hmac::{Hmac, Mac};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use tokio::sync::{Mutex as AsyncMutex, OnceCell, OwnedMutexGuard};

use crate::access::{Credentials, LoginHold, SecretVersion};
use crate::clock::{Clock, Stamp};
use crate::error::CallErrorKind;
use crate::store::{LedgerStore, StoreError, StoredText};

/// Name of the ConfigMap.
const NAME: &str = "xmpp-federation-imp-logins";
/// How long a rejected version rests.
pub const REST: Duration = Duration::from_hours(1);

/// What is known of one Secret's last used version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Login {
    uid: String,
    resource_version: String,
    state: LoginState,
    /// Digest of user and password; `None` where the key for it cannot be had.
    #[serde(default)]
    account: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum LoginState {
    /// A call is under way since.
    Trying(Stamp),
    /// The last call told nothing about the account.
    Untold,
    /// It was accepted.
    Accepted,
    /// It was answered 401 then.
    Rejected(Stamp),
}

/// All that is known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct LoginRecord {
    /// By `namespace/name`.
    secrets: BTreeMap<String, Login>,
    /// Accounts that were answered 401, by digest: when, and in which Secret (`namespace/name`).
    /// The Secret may have been edited since; another one may still hold the account.
    #[serde(default)]
    rejected: BTreeMap<String, (Stamp, String)>,
}

impl LoginRecord {
    fn note(&mut self, of: &Use, state: LoginState) {
        self.secrets.insert(of.key(), of.login(state));
        let Some(account) = &of.account else {
            return;
        };
        match state {
            LoginState::Rejected(now) => {
                self.rejected.retain(|_, (since, _)| !now.since(since).reached(REST));
                self.rejected.insert(account.clone(), (now, of.key()));
            }
            LoginState::Accepted => {
                self.rejected.remove(account);
            }
            LoginState::Trying(_) | LoginState::Untold => {}
        }
    }
}

/// What an answer says about the account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginOutcome {
    /// Anything but 401.
    Accepted,
    /// 401.
    Rejected,
    /// No answer.
    Untold,
}

/// One use of a Secret: which, and whose account it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Use {
    secret: SecretVersion,
    account: Option<String>,
}

impl Use {
    fn key(&self) -> String {
        format!("{}/{}", self.secret.namespace, self.secret.name)
    }

    /// Whether that entry is about this account.
    fn concerns(&self, key: &str, login: &Login) -> bool {
        let same_version =
            key == self.key() && login.uid == self.secret.uid && login.resource_version == self.secret.resource_version;
        // Another version of the same Secret is a human's new try, whatever is in it.
        let same_account = key != self.key() && self.account.is_some() && login.account == self.account;
        same_version || same_account
    }

    fn login(&self, state: LoginState) -> Login {
        Login {
            uid: self.secret.uid.clone(),
            resource_version: self.secret.resource_version.clone(),
            state,
            account: self.account.clone(),
        }
    }
}

/// Why this account must not be used now; `None`: it may be.
fn rest(record: &LoginRecord, wanted: &Use, now: Stamp) -> Option<LoginHold> {
    let logins = record
        .secrets
        .iter()
        .filter(|(key, login)| wanted.concerns(key, login))
        .filter_map(|(key, login)| match login.state {
            LoginState::Rejected(since) => Some((since, key, true)),
            // Of this process: its own call, which is over, since only one is made at a time.
            LoginState::Trying(since) if since.process != now.process => Some((since, key, false)),
            LoginState::Trying(_) | LoginState::Untold | LoginState::Accepted => None,
        });
    let edited = wanted
        .account
        .as_ref()
        .and_then(|account| record.rejected.get(account))
        .filter(|(_, key)| *key != wanted.key())
        .map(|(since, key)| (*since, key, true));
    logins
        .chain(edited)
        .filter_map(|(since, key, told)| {
            let elapsed = now.since(&since);
            (!elapsed.reached(REST)).then(|| LoginHold {
                since: since.wall,
                retry_at: now.plus(elapsed.left(REST)).wall,
                other: (*key != wanted.key()).then(|| key.clone()),
                told,
            })
        })
        .max_by_key(|rest| rest.retry_at)
}

/// Guards the use of accounts, over all clusters of this process.
pub struct Logins {
    store: Arc<dyn LedgerStore>,
    clock: Arc<dyn Clock>,
    /// One call at a time per Secret and per account, so that a 401 is known before the next.
    gates: Mutex<BTreeMap<String, Arc<AsyncMutex<()>>>>,
    record: AsyncMutex<Option<(LoginRecord, Option<StoredText>)>>,
    key: OnceCell<[u8; 32]>,
}

/// The right to make one call with a Secret's account.
pub struct Permit {
    logins: Arc<Logins>,
    granted: Use,
    _gates: Vec<OwnedMutexGuard<()>>,
}

impl Logins {
    /// Keeps its record in that store.
    pub fn new(store: Arc<dyn LedgerStore>, clock: Arc<dyn Clock>) -> Self {
        Self {
            store,
            clock,
            gates: Mutex::default(),
            record: AsyncMutex::new(None),
            key: OnceCell::new(),
        }
    }

    /// The time by which all this goes.
    pub fn now(&self) -> Stamp {
        self.clock.now()
    }

    /// Waits for its turn and asks for permission to make one call.
    pub async fn begin(self: &Arc<Self>, credentials: &Credentials) -> Result<Permit, CallErrorKind> {
        let wanted = self.usage(credentials).await;
        // The Secret first, always: no two can wait for each other.
        let mut gates = vec![self.gate(format!("secret {}", wanted.key())).await];
        if let Some(account) = &wanted.account {
            gates.push(self.gate(format!("account {account}")).await);
        }
        let now = self.clock.now();
        let rest = {
            let mut record = self.record.lock().await;
            if record.is_none() {
                *record = Some(self.load().await?);
            }
            record.as_ref().and_then(|(record, _)| rest(record, &wanted, now))
        };
        if let Some(rest) = rest {
            return Err(CallErrorKind::Held(rest));
        }
        self.note(&wanted, LoginState::Trying(now))
            .await
            .map_err(|error| CallErrorKind::Unrecorded(error.to_string()))?;
        Ok(Permit {
            logins: Arc::clone(self),
            granted: wanted,
            _gates: gates,
        })
    }

    /// A human asks for another try where it is not known whether the last one was answered 401.
    pub async fn ask_again(&self, credentials: &Credentials) {
        let wanted = self.usage(credentials).await;
        let now = self.clock.now();
        let mut guard = self.record.lock().await;
        let Some((record, _)) = guard.as_mut() else {
            return;
        };
        for (key, login) in &mut record.secrets {
            let open = matches!(login.state, LoginState::Trying(since) if since.process != now.process);
            if open && wanted.concerns(key, login) {
                login.state = LoginState::Untold;
            }
        }
    }

    async fn gate(&self, key: String) -> OwnedMutexGuard<()> {
        let gate = {
            let mut gates = self.gates.lock();
            // Those that nobody holds or waits for are made anew when they are wanted.
            gates.retain(|_, gate| Arc::strong_count(gate) > 1);
            Arc::clone(gates.entry(key).or_default())
        };
        gate.lock_owned().await
    }

    async fn usage(&self, credentials: &Credentials) -> Use {
        let key = self.key.get_or_try_init(|| self.store.key()).await;
        let account = match key {
            Ok(key) => digest(key, credentials),
            Err(error) => {
                tracing::warn!(%error, "Secrets with the same account cannot be told");
                None
            }
        };
        Use {
            secret: credentials.secret.clone(),
            account,
        }
    }

    async fn load(&self) -> Result<(LoginRecord, Option<StoredText>), CallErrorKind> {
        let unrecorded = |error: String| CallErrorKind::Unrecorded(error);
        let stored = self
            .store
            .read(NAME)
            .await
            .map_err(|error| unrecorded(error.to_string()))?;
        let record = match &stored {
            Some(stored) if !stored.data.is_empty() => serde_json::from_str(&stored.data)
                .map_err(|error| unrecorded(format!("ConfigMap {NAME} is not readable ({error}); delete it")))?,
            _ => LoginRecord::default(),
        };
        Ok((record, stored))
    }

    /// Notes a state in memory and in the store; in memory also where the store fails.
    async fn note(&self, of: &Use, state: LoginState) -> Result<(), StoreError> {
        let mut guard = self.record.lock().await;
        let (record, stored) = guard.get_or_insert_with(Default::default);
        record.note(of, state);
        for _ in 0..3 {
            let text = serde_json::to_string(record).map_err(|error| StoreError::Unavailable(error.to_string()))?;
            let expected = stored.as_ref().map(|stored| stored.version.as_str());
            match self.store.write(NAME, text, expected).await {
                Ok(written) => {
                    *stored = Some(written);
                    return Ok(());
                }
                // Only the leader writes; another version is that of a leader before.
                Err(StoreError::Conflict) => {
                    *stored = self.store.read(NAME).await?;
                    let text = stored.as_ref().map_or("", |stored| &stored.data);
                    *record = serde_json::from_str(text).unwrap_or_default();
                    record.note(of, state);
                }
                Err(error) => return Err(error),
            }
        }
        Err(StoreError::Conflict)
    }
}

impl Permit {
    /// Says what came of the call; returns when the version may be used again, if it was rejected.
    pub async fn finish(self, outcome: LoginOutcome) -> Timestamp {
        let now = self.logins.clock.now();
        let state = match outcome {
            LoginOutcome::Rejected => LoginState::Rejected(now),
            LoginOutcome::Accepted => LoginState::Accepted,
            LoginOutcome::Untold => LoginState::Untold,
        };
        if let Err(error) = self.logins.note(&self.granted, state).await {
            // In memory it is noted, so this process keeps the rule; the next one reads "trying".
            tracing::warn!(secret = %self.granted.secret, %error, "the outcome of a login could not be recorded");
        }
        now.plus(REST).wall
    }
}

/// Tells accounts apart without telling anything about them.
fn digest(key: &[u8; 32], credentials: &Credentials) -> Option<String> {
    let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(key).ok()?;
    // The length keeps user and password apart.
    mac.update(&u64::try_from(credentials.username.len()).ok()?.to_be_bytes());
    mac.update(credentials.username.as_bytes());
    mac.update(credentials.password.expose());
    let bytes = mac.finalize().into_bytes();
    bytes.get(..16).map(|bytes| HEXLOWER.encode(bytes))
}

#[cfg(test)]
mod tests;
