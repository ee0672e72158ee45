//! Leadership by a `coordination.k8s.io` Lease.
//!
//! Every write replaces the object under the resourceVersion that was read, so two candidates
//! can never both win. Whether the holder is alive is judged by when *we* saw the lease change,
//! on our own monotonic clock; the times written into it are for people.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// A holder that has not renewed for this long may be succeeded.
pub const LEASE_DURATION: Duration = Duration::from_secs(15);
/// A leader that could not renew for this long stops leading.
pub const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// Time between tries.
pub const RETRY_PERIOD: Duration = Duration::from_secs(2);

/// A candidate for leadership.
#[derive(Clone)]
pub struct LeaderElection {
    api: Api<Lease>,
    name: String,
    identity: String,
}

/// What one look at the lease calls for.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Nobody holds it, or it is ours already: write.
    Take,
    /// Somebody else holds it and may be alive.
    Wait,
}

/// What a candidate has seen of the lease.
#[derive(Debug, Default)]
struct Observed {
    version: Option<String>,
    since: Option<Instant>,
}

impl Observed {
    /// Judges a lease as read at `now`.
    fn judge(&mut self, lease: &Lease, identity: &str, now: Instant) -> Step {
        let spec = lease.spec.as_ref();
        let holder = spec.and_then(|s| s.holder_identity.as_deref()).unwrap_or("");
        if self.version != lease.metadata.resource_version || self.since.is_none() {
            self.version.clone_from(&lease.metadata.resource_version);
            self.since = Some(now);
        }
        if holder.is_empty() || holder == identity {
            return Step::Take;
        }
        let seconds = spec
            .and_then(|s| s.lease_duration_seconds)
            .and_then(|s| u64::try_from(s).ok())
            .map_or(LEASE_DURATION, Duration::from_secs);
        match self.since {
            Some(since) if now.duration_since(since) >= seconds => Step::Take,
            _ => Step::Wait,
        }
    }
}

impl LeaderElection {
    /// A candidate named `identity` (the pod's name and UID) for the lease `name` in `namespace`.
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            identity: identity.to_owned(),
        }
    }

    /// Waits until this candidate leads. Errors are retried; they are logged with the reason.
    pub async fn acquire(&self) {
        let mut observed = Observed::default();
        loop {
            match bounded(self.try_acquire(&mut observed)).await {
                Ok(true) => {
                    info!(lease = self.name, identity = self.identity, "leading");
                    return;
                }
                Ok(false) => {}
                Err(reason) => warn!(
                    lease = self.name,
                    %reason, "the lease cannot be read or written; trying again in 2 s"
                ),
            }
            tokio::time::sleep(RETRY_PERIOD).await;
        }
    }

    /// Renews until leadership is lost, then returns; the caller must stop all writing at once.
    /// Returns early, with the lease released, once `stop` is cancelled.
    pub async fn hold(&self, stop: &CancellationToken) {
        let mut last = Instant::now();
        loop {
            tokio::select! {
                () = stop.cancelled() => {
                    self.release().await;
                    return;
                }
                () = tokio::time::sleep(RETRY_PERIOD) => {}
            }
            let left = RENEW_DEADLINE.saturating_sub(last.elapsed());
            match tokio::time::timeout(left, self.renew()).await {
                Ok(Ok(true)) => last = Instant::now(),
                Ok(Ok(false)) => {
                    warn!(lease = self.name, "another operator holds the lease; this one stops");
                    return;
                }
                Ok(Err(reason)) => warn!(lease = self.name, %reason, "the lease was not renewed"),
                Err(_) => {}
            }
            if last.elapsed() >= RENEW_DEADLINE {
                warn!(
                    lease = self.name,
                    "the lease was not renewed for 10 s; this operator stops"
                );
                return;
            }
        }
    }

    async fn try_acquire(&self, observed: &mut Observed) -> Result<bool, kube::Error> {
        let Some(lease) = self.api.get_opt(&self.name).await? else {
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(self.name.clone()),
                    ..ObjectMeta::default()
                },
                spec: Some(self.spec(0, None)),
            };
            return won(self.api.create(&PostParams::default(), &lease).await);
        };
        match observed.judge(&lease, &self.identity, Instant::now()) {
            Step::Wait => Ok(false),
            Step::Take => self.write(lease).await,
        }
    }

    async fn renew(&self) -> Result<bool, kube::Error> {
        let lease = self.api.get(&self.name).await?;
        let holder = lease.spec.as_ref().and_then(|s| s.holder_identity.as_deref());
        if holder != Some(self.identity.as_str()) {
            return Ok(false);
        }
        self.write(lease).await
    }

    async fn write(&self, mut lease: Lease) -> Result<bool, kube::Error> {
        let old = lease.spec.take().unwrap_or_default();
        let transitions = old.lease_transitions.unwrap_or(0);
        lease.spec = Some(if old.holder_identity.as_deref() == Some(self.identity.as_str()) {
            self.spec(transitions, old.acquire_time)
        } else {
            self.spec(transitions.saturating_add(1), None)
        });
        won(self.api.replace(&self.name, &PostParams::default(), &lease).await)
    }

    /// Gives the lease up, so that a standby takes over at once.
    async fn release(&self) {
        let outcome = bounded(async {
            let mut lease = self.api.get(&self.name).await?;
            let Some(spec) = lease.spec.as_mut() else {
                return Ok(());
            };
            if spec.holder_identity.as_deref() == Some(self.identity.as_str()) {
                spec.holder_identity = None;
                self.api.replace(&self.name, &PostParams::default(), &lease).await?;
            }
            Ok(())
        })
        .await;
        if let Err(reason) = outcome {
            warn!(
                lease = self.name,
                %reason, "the lease was not released; a standby waits up to 15 s"
            );
        }
    }

    fn spec(&self, transitions: i32, acquired: Option<MicroTime>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(LEASE_DURATION.as_secs()).ok(),
            acquire_time: Some(acquired.unwrap_or_else(|| now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }
}

/// A conflict means that somebody else was faster, which is an answer and no failure.
fn won(result: Result<Lease, kube::Error>) -> Result<bool, kube::Error> {
    match result {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

/// The client retries for long by itself; a lease cannot wait that long.
async fn bounded<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, LeaseError> {
    let answer = tokio::time::timeout(RENEW_DEADLINE, call).await;
    Ok(answer.map_err(|_| LeaseError::Timeout)??)
}

/// Why the lease could not be read or written.
#[derive(Debug, thiserror::Error)]
enum LeaseError {
    #[error(transparent)]
    Kube(#[from] kube::Error),
    #[error("no answer from the Kubernetes API within 10 s")]
    Timeout,
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn lease(holder: Option<&str>, version: &str) -> Lease {
        Lease {
            metadata: ObjectMeta {
                resource_version: Some(version.to_owned()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: holder.map(ToOwned::to_owned),
                lease_duration_seconds: Some(15),
                ..LeaseSpec::default()
            }),
        }
    }

    #[rstest]
    #[case::free(None, Step::Take)]
    #[case::released(Some(""), Step::Take)]
    #[case::ours(Some("me"), Step::Take)]
    #[case::somebody_elses(Some("other"), Step::Wait)]
    fn a_lease_is_taken_only_where_nobody_else_may_be_alive(#[case] holder: Option<&str>, #[case] step: Step) {
        let mut observed = Observed::default();
        assert_eq!(observed.judge(&lease(holder, "1"), "me", Instant::now()), step);
    }

    #[test]
    fn a_silent_holder_is_succeeded_after_the_lease_duration_by_our_clock_and_not_before() {
        let mut observed = Observed::default();
        let start = Instant::now();
        let after = |s| start + Duration::from_secs(s);
        assert_eq!(observed.judge(&lease(Some("other"), "1"), "me", start), Step::Wait);
        assert_eq!(observed.judge(&lease(Some("other"), "2"), "me", after(14)), Step::Wait);
        assert_eq!(observed.judge(&lease(Some("other"), "2"), "me", after(28)), Step::Wait);
        assert_eq!(observed.judge(&lease(Some("other"), "2"), "me", after(29)), Step::Take);
    }
}
