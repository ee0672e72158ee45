//! The moment between the connection and the request: the use of the account is noted there, and only there,
//! because a request that finds no server takes no password anywhere.

use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;

use crate::access::Credentials;
use crate::accounts::{LoginOutcome, Logins, Permit, REST};
use crate::clock::Stamp;
use crate::error::CallErrorKind;

tokio::task_local! {
    /// The call for which the client connects. Without a pool of connections it does so in the task of the call.
    static SENDING: Arc<Sending>;
}

/// One call, before and after its use of the account is noted.
pub struct Sending {
    logins: Arc<Logins>,
    account: Credentials,
    not_after: Option<Stamp>,
    state: Mutex<(Stage, Option<Permit>)>,
}

/// How far a call came.
#[derive(Debug, Clone)]
pub enum Stage {
    /// No connection stood.
    Connecting,
    /// A connection stood, but the account was in use, or the note took longer than a connection may.
    Unnoted,
    /// The request may not be sent.
    Refused(CallErrorKind),
    /// The request was about to be sent.
    Sent,
}

/// Why a connection that stands is not used; [`Stage`] says more.
#[derive(Debug, thiserror::Error)]
#[error("the connection is not used")]
struct Unused;

/// Holds a new connection back until its request may be sent.
pub async fn about_to_send<C>(connection: C) -> Result<C, Box<dyn std::error::Error + Send + Sync>> {
    let sending = SENDING.try_with(Arc::clone)?;
    if sending.may_send().await {
        Ok(connection)
    } else {
        Err(Box::new(Unused))
    }
}

impl Sending {
    /// Of a call with that account, which is not sent at `not_after` or later.
    pub fn new(logins: &Arc<Logins>, account: &Credentials, not_after: Option<Stamp>) -> Self {
        Self {
            logins: Arc::clone(logins),
            account: account.clone(),
            not_after,
            state: Mutex::new((Stage::Connecting, None)),
        }
    }

    /// Runs a request of this call.
    pub async fn scope<T>(self: &Arc<Self>, request: impl Future<Output = T>) -> T {
        SENDING.scope(Arc::clone(self), request).await
    }

    /// How far it came.
    pub fn stage(&self) -> Stage {
        self.state.lock().0.clone()
    }

    /// Waits for the account, and notes its use.
    pub async fn begin(&self) -> Result<(), CallErrorKind> {
        let permit = self.logins.begin(&self.account).await?;
        self.state.lock().1 = Some(permit);
        Ok(())
    }

    async fn may_send(&self) -> bool {
        let noted = self.state.lock().1.is_some();
        if !noted {
            self.state.lock().0 = Stage::Unnoted;
            match self.logins.try_begin(&self.account).await {
                Some(Ok(permit)) => self.state.lock().1 = Some(permit),
                Some(Err(kind)) => {
                    self.state.lock().0 = Stage::Refused(kind);
                    return false;
                }
                None => return false,
            }
        }
        let now = self.logins.now();
        let late = self.not_after.is_some_and(|last| now.mono_ms >= last.mono_ms) || !self.logins.may_send();
        self.state.lock().0 = if late {
            Stage::Refused(CallErrorKind::HeldUp)
        } else {
            Stage::Sent
        };
        !late
    }

    /// Notes what came of the call; returns when the account may be used again, if it was rejected.
    pub async fn finish(&self, outcome: LoginOutcome) -> Timestamp {
        let permit = self.state.lock().1.take();
        match permit {
            Some(permit) => permit.finish(outcome).await,
            None => self.logins.now().plus(REST).wall,
        }
    }
}
