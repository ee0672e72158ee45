//! Accounts: HTTP Basic, roles, lockout. One set for AXL and Control Center on all nodes, as in the real cluster.

use super::calls::fingerprint;
use super::config::Account;
use base64::Engine as _;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

/// The accounts and what happened to them.
#[derive(Debug)]
pub struct Auth(Mutex<State>);

#[derive(Debug)]
struct State {
    accounts: Vec<Account>,
    lockout_after: u32,
    lockout: Duration,
    failures: BTreeMap<String, Failures>,
    sessions: HashSet<String>,
}

#[derive(Debug, Default)]
struct Failures {
    count: u32,
    locked_at: Option<Instant>,
}

/// What the credentials of one request are worth.
#[derive(Debug, Clone)]
pub struct Login {
    /// User name, where one was given.
    pub user: Option<String>,
    /// `ok`, `bad` or `none`.
    pub verdict: &'static str,
    /// Fingerprint of what was given.
    pub credential: Option<String>,
    /// Roles of the account, where the password was right.
    pub axl: bool,
    pub control_center: bool,
}

/// For `/state`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AccountState {
    /// User name.
    pub username: String,
    /// Failed logins since the last good one.
    pub failures: u32,
    /// No password is good enough at the moment.
    pub locked: bool,
}

impl Default for Login {
    fn default() -> Self {
        Self {
            user: None,
            verdict: "none",
            credential: None,
            axl: false,
            control_center: false,
        }
    }
}

impl Auth {
    /// Accounts with their lockout policy (0 failures: never locked).
    pub fn new(accounts: Vec<Account>, lockout_after: u32, lockout: Duration) -> Self {
        Self(Mutex::new(State {
            accounts,
            lockout_after,
            lockout,
            failures: BTreeMap::new(),
            sessions: HashSet::new(),
        }))
    }

    /// Judges an `Authorization` header.
    pub fn login(&self, header: Option<&str>) -> Login {
        let mut login = Login::default();
        let Some((user, password)) = header.and_then(basic) else {
            return login;
        };
        login.user = Some(user.clone());
        login.credential = Some(fingerprint(&user, &password));
        login.verdict = "bad";
        let state = &mut *self.0.lock();
        let found = state
            .accounts
            .iter()
            .find(|account| account.username.eq_ignore_ascii_case(&user));
        let failures = state.failures.entry(user.to_lowercase()).or_default();
        if failures.locked_at.is_some_and(|at| at.elapsed() >= state.lockout) {
            *failures = Failures::default();
        }
        match found {
            Some(account) if account.password == password && failures.locked_at.is_none() => {
                failures.count = 0;
                login.verdict = "ok";
                login.axl = account.axl;
                login.control_center = account.control_center;
            }
            _ => {
                failures.count += 1;
                if state.lockout_after > 0 && failures.count >= state.lockout_after {
                    failures.locked_at.get_or_insert_with(Instant::now);
                }
            }
        }
        login
    }

    /// Sets the first account's password and ends its lockout.
    pub fn set_password(&self, password: &str) {
        let mut state = self.0.lock();
        if let Some(account) = state.accounts.first_mut() {
            password.clone_into(&mut account.password);
            let user = account.username.to_lowercase();
            state.failures.remove(&user);
        }
    }

    /// A new session cookie value.
    pub fn open_session(&self) -> String {
        let id = uuid::Uuid::new_v4().simple().to_string().to_uppercase();
        self.0.lock().sessions.insert(id.clone());
        id
    }

    /// Whether the session is still known.
    pub fn session_lives(&self, id: &str) -> bool {
        self.0.lock().sessions.contains(id)
    }

    /// Forgets all sessions.
    pub fn forget_sessions(&self) {
        self.0.lock().sessions.clear();
    }

    /// Failures per user name.
    pub fn state(&self) -> Vec<AccountState> {
        let state = self.0.lock();
        state
            .failures
            .iter()
            .map(|(username, failures)| AccountState {
                username: username.clone(),
                failures: failures.count,
                locked: failures.locked_at.is_some_and(|at| at.elapsed() < state.lockout),
            })
            .collect()
    }
}

fn basic(header: &str) -> Option<(String, String)> {
    let (scheme, value) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let bytes = base64::engine::general_purpose::STANDARD.decode(value.trim()).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.into(), password.into()))
}
