//! One Lease that a candidate wants.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::Api;
use kube::api::PostParams;

use super::super::api_error::ApiError;
use super::super::leadership::Clock;
use super::{HeldLease, LEASE_DURATION, LeaseError, RENEW_DEADLINE};

/// Tries against others that write at the same moment.
const TRIES: usize = 5;
/// A Lease that was released longer ago than this is claimed by nobody.
const LONG_RELEASED: jiff::SignedDuration = jiff::SignedDuration::from_mins(1);

/// What a candidate has seen of a Lease.
#[derive(Debug, Default)]
pub struct Observed {
    version: Option<String>,
    since: Duration,
}

impl Observed {
    fn see(&mut self, lease: &Lease, now: Duration) {
        if self.version.is_none() || self.version != lease.metadata.resource_version {
            self.version.clone_from(&lease.metadata.resource_version);
            self.since = now;
        }
    }

    /// Another holder that may be alive.
    pub fn holder(&mut self, lease: &Lease, identity: &str, now: Duration) -> Option<String> {
        self.see(lease, now);
        let holder = holder_of(lease).filter(|holder| *holder != identity)?;
        let spec = lease.spec.as_ref();
        let seconds = spec
            .and_then(|spec| spec.lease_duration_seconds)
            .and_then(|seconds| u64::try_from(seconds).ok())
            .map_or(LEASE_DURATION, Duration::from_secs);
        (now.saturating_sub(self.since) < seconds).then(|| holder.to_owned())
    }

    /// Who claims a Lease that is not wanted here. One that was just released is about to be taken by the next pod of
    /// the same installation. How long ago that was is read from the other machine's clock: a wrong one costs a
    /// change of leaders, and never gives two of them.
    pub fn claimed(&mut self, lease: &Lease, now: Duration) -> Option<String> {
        if let Some(holder) = self.holder(lease, "", now) {
            return Some(holder);
        }
        let renewed = lease.spec.as_ref()?.renew_time.as_ref()?.0;
        let released = holder_of(lease).is_none()
            && now.saturating_sub(self.since) < LEASE_DURATION
            && Timestamp::now().duration_since(renewed) < LONG_RELEASED;
        released.then(|| "a pod that ended just now".to_owned())
    }
}

fn holder_of(lease: &Lease) -> Option<&str> {
    let holder = lease.spec.as_ref()?.holder_identity.as_deref()?;
    (!holder.is_empty()).then_some(holder)
}

/// A Lease that a candidate wants.
pub struct Claim {
    api: Api<Lease>,
    namespace: String,
    name: String,
    labels: BTreeMap<String, String>,
    observed: Observed,
    /// Until when it is ours, counted from before the request that said so.
    until: Option<Duration>,
    /// The last renewal was answered before the one before it had run out: nobody took the Lease for abandoned.
    continuous: bool,
}

impl Claim {
    /// A Lease that was not looked at yet.
    pub fn new(api: Api<Lease>, namespace: &str, name: &str, labels: BTreeMap<String, String>) -> Self {
        Self {
            api,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            labels,
            observed: Observed::default(),
            until: None,
            continuous: false,
        }
    }

    /// Whether it was ours when it was looked at last.
    pub fn is_ours(&self) -> bool {
        self.until.is_some()
    }

    /// Whether it was ours without a gap since the renewal before the last one.
    pub fn is_continuous(&self) -> bool {
        self.continuous
    }

    /// Until when it is ours.
    pub fn until(&self) -> Duration {
        self.until.unwrap_or_default()
    }

    /// Takes or renews it; gives the other holder that keeps it from us.
    pub async fn take(&mut self, identity: &str, clock: &Clock) -> Result<Option<HeldLease>, LeaseError> {
        for _ in 0..TRIES {
            let began = clock();
            let lease = self.read().await?;
            let exists = lease.is_some();
            let written = match lease {
                None => self.api.create(&PostParams::default(), &self.fresh(identity)).await,
                Some(lease) => {
                    if let Some(holder) = self.observed.holder(&lease, identity, began) {
                        self.until = None;
                        return Ok(Some(HeldLease {
                            namespace: self.namespace.clone(),
                            name: self.name.clone(),
                            holder,
                        }));
                    }
                    let lease = self.renewed(lease, identity);
                    self.api.replace(&self.name, &PostParams::default(), &lease).await
                }
            };
            match written {
                Ok(_) => {
                    let before = self.until.replace(began + RENEW_DEADLINE);
                    self.continuous = before.is_some_and(|until| clock() < until);
                    return Ok(None);
                }
                // Another candidate was faster, a person annotated or deleted it, or the answer to our own write was
                // lost and the client repeated it. The next look tells.
                Err(kube::Error::Api(status)) if status.code == 409 || (status.code == 404 && exists) => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
        Err(LeaseError::Contested {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        })
    }

    /// Gives it up if it is ours.
    pub async fn release(&mut self, identity: &str) -> Result<(), LeaseError> {
        if self.until.take().is_none() {
            return Ok(());
        }
        for _ in 0..TRIES {
            let Some(mut lease) = self.read().await? else {
                return Ok(());
            };
            let Some(spec) = lease
                .spec
                .as_mut()
                .filter(|spec| spec.holder_identity.as_deref() == Some(identity))
            else {
                return Ok(());
            };
            spec.holder_identity = None;
            match self.api.replace(&self.name, &PostParams::default(), &lease).await {
                Ok(_) => return Ok(()),
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
        Ok(())
    }

    async fn read(&self) -> Result<Option<Lease>, LeaseError> {
        self.api.get_opt(&self.name).await.map_err(|error| self.failed(error))
    }

    fn failed(&self, error: kube::Error) -> LeaseError {
        LeaseError::Api {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            error: ApiError::from(error),
        }
    }

    fn fresh(&self, identity: &str) -> Lease {
        let metadata = ObjectMeta {
            name: Some(self.name.clone()),
            labels: Some(self.labels.clone()),
            ..ObjectMeta::default()
        };
        Lease {
            metadata,
            spec: Some(spec(identity, 0, None)),
        }
    }

    fn renewed(&self, mut lease: Lease, identity: &str) -> Lease {
        let old = lease.spec.take().unwrap_or_default();
        let transitions = old.lease_transitions.unwrap_or(0);
        lease.spec = Some(if old.holder_identity.as_deref() == Some(identity) {
            spec(identity, transitions, old.acquire_time)
        } else {
            spec(identity, transitions.saturating_add(1), None)
        });
        lease
            .metadata
            .labels
            .get_or_insert_default()
            .extend(self.labels.clone());
        lease
    }
}

fn spec(identity: &str, transitions: i32, acquired: Option<MicroTime>) -> LeaseSpec {
    let now = MicroTime(Timestamp::now());
    LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: i32::try_from(LEASE_DURATION.as_secs()).ok(),
        acquire_time: Some(acquired.unwrap_or_else(|| now.clone())),
        renew_time: Some(now),
        lease_transitions: Some(transitions),
        ..LeaseSpec::default()
    }
}
