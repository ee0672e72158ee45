//! The rule of one 401: AXL and Control Center on every node share an account, and IM&P locks it
//! after a few failures. A Secret version that was answered 401 is not used again, anywhere, for
//! an hour; nor is another Secret with the same user and password. This is kept in one ConfigMap
//! for all clusters, because it is known before any publisher is.
//!
//! Every use is written down before the call, also of an account that was accepted before: where
//! the operator dies in between, the answer may have been 401 and counts as one, until a human asks
//! for another try. Calls in quick succession are one use: it is written down before the first of them,
//! and its outcome after the last, or at once if it is a 401. Which Secrets have the same account is told by a keyed digest; its key is a
//! random one of this installation, kept in a Secret, so that the ConfigMap tells nothing about
//! passwords.

mod book;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use data_encoding::HEXLOWER;
use hmac::{Hmac, Mac};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use crate::access::{Credentials, LoginHold, SecretVersion};
use crate::clock::{Clock, Stamp};
use crate::error::CallErrorKind;
use crate::store::{LedgerStore, StoreError, StoredText};
use book::Book;

/// Name of the ConfigMap.
const NAME: &str = "xmpp-federation-imp-logins";
/// How long a rejected version rests.
pub const REST: Duration = Duration::from_hours(1);
/// Calls within this time after a use was written down are part of it.
const USE: Duration = Duration::from_secs(10);
/// Secrets in the record at which those are dropped of which nothing follows: Secrets come and go.
const KEPT: usize = 256;
/// Without another call for this long a use is over.
const PAUSE: Duration = Duration::from_millis(300);

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
    /// In use since: the call under way may be one of [`USE`] later.
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
        if self.secrets.len() >= KEPT {
            // Nothing rests because of the others.
            let counts = |login: &Login| matches!(login.state, LoginState::Trying(_) | LoginState::Rejected(_));
            self.secrets.retain(|_, login| counts(login));
        }
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

    /// Adds what only `other` knows.
    fn merge(&mut self, other: &Self) {
        for (key, login) in &other.secrets {
            self.secrets.entry(key.clone()).or_insert_with(|| login.clone());
        }
        for (account, rejection) in &other.rejected {
            let known = self.rejected.entry(account.clone());
            known.or_insert_with(|| rejection.clone());
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
            let rest = if told { REST } else { REST + USE };
            (!elapsed.reached(rest)).then(|| LoginHold {
                since: since.wall,
                retry_at: now.plus(elapsed.left(rest)).wall,
                other: (*key != wanted.key()).then(|| key.clone()),
                told,
            })
        })
        .max_by_key(|rest| rest.retry_at)
}

/// Whether this process may call anybody at this moment.
pub type Permission = Arc<dyn Fn() -> bool + Send + Sync>;

/// Guards the use of accounts, over all clusters of this process.
pub struct Logins {
    store: Arc<dyn LedgerStore>,
    clock: Arc<dyn Clock>,
    permission: OnceLock<Permission>,
    /// One call at a time per Secret and per account, so that a 401 is known before the next.
    gates: Mutex<BTreeMap<String, Arc<AsyncMutex<()>>>>,
    book: AsyncMutex<Option<Book>>,
    /// How many calls were answered.
    outcomes: AtomicU64,
    /// The end of uses is about to be written.
    ending: AtomicBool,
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
            permission: OnceLock::new(),
            gates: Mutex::default(),
            book: AsyncMutex::new(None),
            outcomes: AtomicU64::default(),
            ending: AtomicBool::default(),
        }
    }

    /// Asks that before each request; the first one that is given counts.
    pub fn permitted_by(&self, permission: Permission) {
        self.permission.get_or_init(|| permission);
    }

    /// Whether a request may be sent at this moment.
    pub fn may_send(&self) -> bool {
        self.permission.get().is_none_or(|permission| permission())
    }

    /// The time by which all this goes.
    pub fn now(&self) -> Stamp {
        self.clock.now()
    }

    /// Whether the account may be used as far as is known now; writes nothing down.
    pub async fn check(&self, credentials: &Credentials) -> Result<(), CallErrorKind> {
        let wanted = self.usage(credentials).await;
        self.rest(&wanted, self.clock.now()).await
    }

    /// Waits for its turn and asks for permission to make one call.
    pub async fn begin(self: &Arc<Self>, credentials: &Credentials) -> Result<Permit, CallErrorKind> {
        let wanted = self.usage(credentials).await;
        let mut gates = Vec::new();
        for gate in self.gates_of(&wanted) {
            gates.push(gate.lock_owned().await);
        }
        self.permit(wanted, gates).await
    }

    /// The same; `None` while another call uses the account.
    pub async fn try_begin(self: &Arc<Self>, credentials: &Credentials) -> Option<Result<Permit, CallErrorKind>> {
        let wanted = self.usage(credentials).await;
        let gates = self.gates_of(&wanted).into_iter().map(AsyncMutex::try_lock_owned);
        let gates = gates.collect::<Result<Vec<_>, _>>().ok()?;
        Some(self.permit(wanted, gates).await)
    }

    async fn permit(self: &Arc<Self>, wanted: Use, gates: Vec<OwnedMutexGuard<()>>) -> Result<Permit, CallErrorKind> {
        let now = self.clock.now();
        self.rest(&wanted, now).await?;
        self.note_use(&wanted, now)
            .await
            .map_err(|error| CallErrorKind::Unrecorded(error.to_string()))?;
        Ok(Permit {
            logins: Arc::clone(self),
            granted: wanted,
            _gates: gates,
        })
    }

    /// An error while the account rests.
    async fn rest(&self, wanted: &Use, now: Stamp) -> Result<(), CallErrorKind> {
        let mut guard = self.book.lock().await;
        let stored = self.store.get(NAME);
        let stored = stored.map_err(|error| CallErrorKind::Unrecorded(error.to_string()))?;
        let book = match &mut *guard {
            Some(book) => {
                book.see(stored.as_deref());
                book
            }
            none => none.insert(load(stored.as_deref())?),
        };
        rest(&book.record, wanted, now).map_or(Ok(()), |rest| Err(CallErrorKind::Held(rest)))
    }

    /// A human asks for another try where it is not known whether the last one was answered 401.
    pub async fn ask_again(&self, credentials: &Credentials) {
        let wanted = self.usage(credentials).await;
        let now = self.clock.now();
        let mut guard = self.book.lock().await;
        let Some(book) = guard.as_mut() else {
            return;
        };
        for (key, login) in &mut book.record.secrets {
            let open = matches!(login.state, LoginState::Trying(since) if since.process != now.process);
            if open && wanted.concerns(key, login) {
                login.state = LoginState::Untold;
            }
        }
    }

    /// The Secret first, always: no two can wait for each other.
    fn gates_of(&self, of: &Use) -> Vec<Arc<AsyncMutex<()>>> {
        let mut gates = self.gates.lock();
        // Those that nobody holds or waits for are made anew when they are wanted.
        gates.retain(|_, gate| Arc::strong_count(gate) > 1);
        let secret = format!("secret {}", of.key());
        let account = of.account.as_ref().map(|account| format!("account {account}"));
        let keys = std::iter::once(secret).chain(account);
        keys.map(|key| Arc::clone(gates.entry(key).or_default())).collect()
    }

    async fn usage(&self, credentials: &Credentials) -> Use {
        let account = match self.store.key().await {
            Ok(key) => digest(&key, credentials),
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

    /// Writes down that an account is in use, unless that is written already.
    async fn note_use(&self, of: &Use, now: Stamp) -> Result<(), StoreError> {
        let mut guard = self.book.lock().await;
        let book = guard.get_or_insert_default();
        if let Some(login) = book.written_use(of, now) {
            book.record.secrets.insert(of.key(), login);
            return Ok(());
        }
        book.record.note(of, LoginState::Trying(now));
        book.write(&*self.store).await
    }

    /// Notes an outcome in memory, and a 401 at once in the store.
    async fn note_outcome(self: &Arc<Self>, of: &Use, state: LoginState) {
        let mut guard = self.book.lock().await;
        let book = guard.get_or_insert_default();
        book.record.note(of, state);
        self.outcomes.fetch_add(1, Ordering::AcqRel);
        if matches!(state, LoginState::Rejected(_)) {
            book.write_outcome(&*self.store).await;
        } else if !self.ending.swap(true, Ordering::AcqRel) {
            let logins = Arc::clone(self);
            tokio::spawn(async move {
                let mut last = None;
                while last.replace(logins.outcomes.load(Ordering::Acquire)) != last {
                    tokio::time::sleep(PAUSE).await;
                }
                logins.ending.store(false, Ordering::Release);
                logins.finish().await;
            });
        }
    }

    /// Writes the outcomes of uses that are over; an operator that ends in order waits for this.
    pub async fn finish(&self) {
        if let Some(book) = self.book.lock().await.as_mut() {
            book.write_outcome(&*self.store).await;
        }
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
        self.logins.note_outcome(&self.granted, state).await;
        now.plus(REST).wall
    }
}

fn load(stored: Option<&StoredText>) -> Result<Book, CallErrorKind> {
    Book::of(stored)
        .map_err(|error| CallErrorKind::Unrecorded(format!("ConfigMap {NAME} is not readable ({error}); delete it")))
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
