//! The rule of one 401: AXL and Control Center on every node share an account, and IM&P locks it
//! after a few failures. A Secret version that was answered 401 is not used again, anywhere, for
//! an hour; this is kept in one ConfigMap for all clusters, because it is known before any
//! publisher is.
//!
//! The first use of a version is written down before the call: where the operator dies in
//! between, the answer may have been 401 and counts as one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use super::store::{LedgerStore, StoreError, Stored};
use crate::imp::clock::{Clock, Stamp};
use crate::imp::desired::SecretVersion;
use crate::imp::error::CallErrorKind;

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
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum LoginState {
    /// A call may be under way since.
    Trying(Stamp),
    /// The last call told nothing about the account.
    Untold,
    /// It was accepted.
    Accepted,
    /// It was answered 401 then.
    Rejected(Stamp),
}

/// By `namespace/name`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    secrets: BTreeMap<String, Login>,
}

/// What an answer says about the account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Anything but 401.
    Accepted,
    /// 401.
    Rejected,
    /// No answer.
    Untold,
}

/// Whether a version may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    /// Yes, and nothing has to be written.
    Go,
    /// Yes, after writing that it is tried.
    GoFirst,
    /// Not before then.
    Hold {
        since: Timestamp,
        retry_at: Timestamp,
    },
}

fn decide(login: Option<&Login>, secret: &SecretVersion, now: Stamp) -> Decision {
    let Some(login) = login.filter(|login| {
        login.uid == secret.uid && login.resource_version == secret.resource_version
    }) else {
        return Decision::GoFirst;
    };
    let rests = |since: Stamp| {
        let elapsed = now.since(&since);
        if elapsed.reached(REST) {
            Decision::GoFirst
        } else {
            Decision::Hold {
                since: since.wall,
                retry_at: now.plus(elapsed.left(REST)).wall,
            }
        }
    };
    match login.state {
        LoginState::Accepted => Decision::Go,
        LoginState::Untold => Decision::GoFirst,
        LoginState::Trying(since) if since.process == now.process => Decision::GoFirst,
        LoginState::Trying(since) | LoginState::Rejected(since) => rests(since),
    }
}

/// Guards the use of accounts, over all clusters of this process.
pub struct Logins {
    store: Arc<dyn LedgerStore>,
    clock: Arc<dyn Clock>,
    /// One call at a time per Secret, so that a 401 is known before the next.
    gates: Mutex<BTreeMap<String, Arc<AsyncMutex<()>>>>,
    record: AsyncMutex<Option<(Record, Option<Stored>)>>,
}

/// The right to make one call with a Secret's account.
pub struct Permit {
    logins: Arc<Logins>,
    secret: SecretVersion,
    first: bool,
    _gate: OwnedMutexGuard<()>,
}

impl Logins {
    /// Keeps its record in that store.
    pub fn new(store: Arc<dyn LedgerStore>, clock: Arc<dyn Clock>) -> Self {
        Self {
            store,
            clock,
            gates: Mutex::default(),
            record: AsyncMutex::new(None),
        }
    }

    /// Waits for its turn and asks for permission to make one call.
    pub async fn begin(self: &Arc<Self>, secret: &SecretVersion) -> Result<Permit, CallErrorKind> {
        let key = key(secret);
        let gate = {
            let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(gates.entry(key.clone()).or_default())
        };
        let gate = gate.lock_owned().await;
        let now = self.clock.now();
        let decision = {
            let mut record = self.record.lock().await;
            if record.is_none() {
                *record = Some(self.load().await?);
            }
            let known = record
                .as_ref()
                .and_then(|(record, _)| record.secrets.get(&key));
            decide(known, secret, now)
        };
        let first = match decision {
            Decision::Hold { since, retry_at } => {
                return Err(CallErrorKind::Held { since, retry_at });
            }
            Decision::Go => false,
            Decision::GoFirst => {
                self.note(secret, LoginState::Trying(now))
                    .await
                    .map_err(|error| CallErrorKind::Unrecorded(error.to_string()))?;
                true
            }
        };
        Ok(Permit {
            logins: Arc::clone(self),
            secret: secret.clone(),
            first,
            _gate: gate,
        })
    }

    async fn load(&self) -> Result<(Record, Option<Stored>), CallErrorKind> {
        let unrecorded = |error: String| CallErrorKind::Unrecorded(error);
        let stored = self
            .store
            .read(NAME)
            .await
            .map_err(|error| unrecorded(error.to_string()))?;
        let record = match &stored {
            Some(stored) if !stored.data.is_empty() => {
                serde_json::from_str(&stored.data).map_err(|error| {
                    unrecorded(format!(
                        "ConfigMap {NAME} is not readable ({error}); delete it"
                    ))
                })?
            }
            _ => Record::default(),
        };
        Ok((record, stored))
    }

    /// Notes a state in memory and in the store; in memory also where the store fails.
    async fn note(&self, secret: &SecretVersion, state: LoginState) -> Result<(), StoreError> {
        let mut guard = self.record.lock().await;
        let (record, stored) = guard.get_or_insert_with(Default::default);
        let login = Login {
            uid: secret.uid.clone(),
            resource_version: secret.resource_version.clone(),
            state,
        };
        record.secrets.insert(key(secret), login.clone());
        for _ in 0..3 {
            let text = serde_json::to_string(record)
                .map_err(|error| StoreError::Unavailable(error.to_string()))?;
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
                    record.secrets.insert(key(secret), login.clone());
                }
                Err(error) => return Err(error),
            }
        }
        Err(StoreError::Conflict)
    }
}

impl Permit {
    /// Says what came of the call; returns when the version may be used again, if it was rejected.
    pub async fn finish(self, outcome: Outcome) -> Timestamp {
        let now = self.logins.clock.now();
        let state = match outcome {
            Outcome::Rejected => Some(LoginState::Rejected(now)),
            Outcome::Accepted if self.first => Some(LoginState::Accepted),
            Outcome::Untold if self.first => Some(LoginState::Untold),
            Outcome::Accepted | Outcome::Untold => None,
        };
        if let Some(state) = state
            && let Err(error) = self.logins.note(&self.secret, state).await
        {
            // In memory it is noted, so this process keeps the rule; the next one reads "trying".
            tracing::warn!(secret = %self.secret, %error, "the outcome of a login could not be recorded");
        }
        now.plus(REST).wall
    }
}

fn key(secret: &SecretVersion) -> String {
    format!("{}/{}", secret.namespace, secret.name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use rstest::rstest;

    fn stamp(process: u64, second: i64) -> Stamp {
        Stamp {
            wall: Timestamp::from_second(1_000_000 + second).unwrap(),
            process,
            mono_ms: u64::try_from(second).unwrap() * 1000,
        }
    }

    fn secret(resource_version: &str) -> SecretVersion {
        SecretVersion {
            namespace: "ns".into(),
            name: "cups-axl".into(),
            uid: "u".into(),
            resource_version: resource_version.into(),
        }
    }

    fn held_until(second: i64) -> Decision {
        Decision::Hold {
            since: stamp(1, 0).wall,
            retry_at: stamp(1, second).wall,
        }
    }

    #[rstest]
    #[case::accepted(LoginState::Accepted, "7", stamp(1, 10), Decision::Go)]
    #[case::accepted_of_another_version(LoginState::Accepted, "8", stamp(1, 10), Decision::GoFirst)]
    #[case::rejected(LoginState::Rejected(stamp(1, 0)), "7", stamp(1, 10), held_until(3600))]
    #[case::rejected_in_another_process(
        LoginState::Rejected(stamp(1, 0)),
        "7",
        stamp(2, 10),
        held_until(3600)
    )]
    #[case::rejected_an_hour_ago(
        LoginState::Rejected(stamp(1, 0)),
        "7",
        stamp(1, 3600),
        Decision::GoFirst
    )]
    #[case::rejected_of_another_version(
        LoginState::Rejected(stamp(1, 0)),
        "8",
        stamp(1, 10),
        Decision::GoFirst
    )]
    #[case::died_while_trying(LoginState::Trying(stamp(1, 0)), "7", stamp(2, 10), held_until(3600))]
    #[case::nothing_told(LoginState::Untold, "7", stamp(2, 10), Decision::GoFirst)]
    fn one_401_per_secret_version(
        #[case] state: LoginState,
        #[case] used: &str,
        #[case] now: Stamp,
        #[case] expected: Decision,
    ) {
        let login = Login {
            uid: "u".into(),
            resource_version: "7".into(),
            state,
        };
        assert_eq!(decide(Some(&login), &secret(used), now), expected);
    }

    #[test]
    fn a_secret_never_used_is_tried_first() {
        assert_eq!(decide(None, &secret("1"), stamp(1, 0)), Decision::GoFirst);
    }
}
