//! Accounts of a process without Kubernetes: whether an account may be used once more.

use parking_lot::Mutex;

use crate::access::Credentials;
use crate::error::{CallError, CallErrorKind};

/// What is known of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccountState {
    /// Never used.
    New,
    /// Its password was accepted.
    Accepted,
    /// It was answered 401.
    Rejected,
    /// It was used, and nobody knows what was answered.
    Untold,
}

/// One account, and what is known of it.
pub struct Account {
    pub credentials: Credentials,
    standing: Mutex<AccountState>,
}

impl Account {
    pub fn new(credentials: Credentials) -> Self {
        Self {
            credentials,
            standing: Mutex::new(AccountState::New),
        }
    }

    /// Why it is not used again; `None`: it may be. Stricter than the operator, which goes on after
    /// an answer that got lost: here somebody is there to be told.
    pub fn rests(&self) -> Option<&'static str> {
        match *self.standing.lock() {
            AccountState::New | AccountState::Accepted => None,
            AccountState::Rejected => {
                Some("the account was answered 401 and is not used again, so that it is not locked")
            }
            AccountState::Untold => Some(
                "the account was used once without an answer, which may have been 401; it is not used again, so that it is not locked",
            ),
        }
    }

    /// Takes in what came of a call.
    pub fn note<T>(&self, result: &Result<T, CallError>) {
        let mut standing = self.standing.lock();
        let told = match result {
            Ok(_) => AccountState::Accepted,
            Err(error) => match &error.kind {
                CallErrorKind::Unauthorized { .. } => AccountState::Rejected,
                CallErrorKind::Forbidden
                | CallErrorKind::Throttled(_)
                | CallErrorKind::Fault(_)
                | CallErrorKind::TooLarge
                | CallErrorKind::Malformed(_)
                | CallErrorKind::Unexpected(_) => AccountState::Accepted,
                CallErrorKind::Timeout | CallErrorKind::Interrupted(_) => AccountState::Untold,
                // Nothing was sent, or it was answered before anybody looked at the password.
                _ => *standing,
            },
        };
        // What was accepted once is not doubted because of a lost answer.
        if !(*standing == AccountState::Accepted && told == AccountState::Untold) {
            *standing = told;
        }
    }
}
