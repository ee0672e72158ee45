//! Leadership by `coordination.k8s.io` Leases.
//!
//! An installation for the whole cluster has one Lease, in a namespace that all installations know. An installation
//! for some namespaces has one Lease in each of them, and needs them all. So two installations of one kind exclude
//! each other where they overlap. Between the two kinds the one for the whole cluster comes first: an installation
//! for namespaces reads that Lease at every renewal, and stops while somebody claims it. A new leader for the whole
//! cluster waits until each leader for namespaces must have seen it, if there is one.
//!
//! Every write replaces the object under the resourceVersion that was read, so two candidates can never both win.
//! Whether a holder is alive is judged by when *we* saw the Lease change, on our own clock; the times written into
//! it are for people, with one exception that costs no safety ([`Observed::claimed`]).

mod claim;
#[cfg(test)]
mod tests;

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::api::ListParams;
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::api_error::ApiError;
use super::leadership::{Clock, Leadership};
use claim::{Claim, Observed};

/// A holder that has not renewed for this long may be succeeded.
pub const LEASE_DURATION: Duration = Duration::from_secs(15);
/// A leader that could not renew for this long stops leading.
pub const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// Time between tries.
pub const RETRY_PERIOD: Duration = Duration::from_secs(2);
/// A standby names the holder this often.
const REMIND: Duration = Duration::from_mins(5);

/// Name of the Lease for the whole cluster.
pub const CLUSTER_LEASE: &str = "xmpp-federation-operator";
/// Name of the Lease for one namespace.
pub const NAMESPACE_LEASE: &str = "xmpp-federation-operator-namespace";
/// Marks Leases for one namespace.
const SCOPE: (&str, &str) = ("xmppfederation.io/lease", "namespace");

/// A Lease that somebody else holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldLease {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Namespace and name of the pod that holds it.
    pub holder: String,
}

impl std::fmt::Display for HeldLease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Lease {} in namespace {} is held by {}",
            self.name, self.namespace, self.holder
        )
    }
}

/// What one round over all Leases came to.
#[derive(Debug, PartialEq, Eq)]
enum Round {
    /// All are ours until then.
    Leading(Duration),
    /// Somebody else leads, or has to stop first.
    Standby(HeldLease),
    /// Somebody claims the whole cluster: our Leases are given back, after the end of our leadership.
    Yield(HeldLease),
}

/// Why a Lease could not be read or written.
#[derive(Debug, thiserror::Error)]
enum LeaseError {
    #[error("Lease {name} in namespace {namespace}: {error}")]
    Api {
        namespace: String,
        name: String,
        error: ApiError,
    },
    #[error("Lease {name} in namespace {namespace} is changed by others again and again")]
    Contested { namespace: String, name: String },
    #[error("the Leases of all namespaces cannot be listed: {0}")]
    List(ApiError),
    #[error("the Kubernetes API did not answer in time")]
    Timeout,
}

/// The other kind of installation.
enum Others {
    /// This one is for the whole cluster: Leases of all namespaces, and when leaders there must have stopped.
    Namespaces { all: Api<Lease>, stopped: Option<Duration> },
    /// This one is for namespaces: the Lease for the whole cluster.
    Cluster {
        api: Api<Lease>,
        namespace: String,
        observed: Observed,
    },
}

/// A candidate for leadership.
pub struct Election {
    identity: String,
    clock: Clock,
    /// In the order of their namespaces, so that no two candidates wait for each other.
    claims: Vec<Claim>,
    others: Others,
}

impl Election {
    /// A candidate named `identity` (namespace and name of its pod) for the whole cluster, or for the namespaces that
    /// are named. `home` has the Lease for the whole cluster.
    pub fn new(client: &Client, home: &str, watched: &[String], identity: &str, clock: Clock) -> Self {
        let api = |namespace: &str| Api::namespaced(client.clone(), namespace);
        let mut namespaces = watched.to_vec();
        namespaces.sort();
        namespaces.dedup();
        let claims = namespaces.iter().map(|namespace| {
            let labels = [(SCOPE.0.to_owned(), SCOPE.1.to_owned())];
            Claim::new(api(namespace), namespace, NAMESPACE_LEASE, labels.into())
        });
        let (claims, others) = if watched.is_empty() {
            let claim = Claim::new(api(home), home, CLUSTER_LEASE, [].into());
            let others = Others::Namespaces {
                all: Api::all(client.clone()),
                stopped: None,
            };
            (vec![claim], others)
        } else {
            let others = Others::Cluster {
                api: api(home),
                namespace: home.to_owned(),
                observed: Observed::default(),
            };
            (claims.collect(), others)
        };
        Self {
            identity: identity.to_owned(),
            clock,
            claims,
            others,
        }
    }

    /// Waits until this candidate leads. Errors are retried and logged. `standby` is told who holds a Lease, each time
    /// that this changes.
    pub async fn acquire(&mut self, leadership: &Leadership, standby: impl Fn(Option<&HeldLease>)) {
        let mut told: Option<(HeldLease, Duration)> = None;
        loop {
            let now = (self.clock)();
            let round = within(RENEW_DEADLINE, self.round()).await;
            if let Ok(Round::Yield(_)) = round {
                self.release().await;
            }
            match round {
                Ok(Round::Leading(until)) => {
                    leadership.extend(until);
                    if leadership.still() {
                        info!(identity = self.identity, leases = self.claims.len(), "leading");
                        standby(None);
                        return;
                    }
                }
                Ok(Round::Standby(held) | Round::Yield(held)) => {
                    let known = told.as_ref().filter(|(before, _)| *before == held);
                    if known.is_none_or(|(_, at)| now.saturating_sub(*at) >= REMIND) {
                        info!(identity = self.identity, "{held}; this operator stands by");
                        standby(Some(&held));
                        told = Some((held, now));
                    }
                }
                Err(reason) => warn!(%reason, "leadership cannot be had; trying again in 2 s"),
            }
            tokio::time::sleep(RETRY_PERIOD).await;
        }
    }

    /// Renews until leadership is lost, then returns; the caller must stop all writing at once.
    /// Returns early, with the Leases released, once `stop` is cancelled.
    pub async fn hold(&mut self, leadership: &Leadership, stop: &CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => {
                    leadership.end();
                    self.release().await;
                    return;
                }
                () = tokio::time::sleep(RETRY_PERIOD.min(leadership.left())) => {}
            }
            if !leadership.still() {
                warn!("the Leases were not renewed for 10 s; this operator stops");
                return;
            }
            match within(leadership.left(), self.round()).await {
                Ok(Round::Leading(until)) => leadership.extend(until),
                Ok(Round::Standby(held)) => {
                    leadership.end();
                    warn!("{held}; this operator stops");
                    return;
                }
                Ok(Round::Yield(held)) => {
                    leadership.end();
                    warn!("{held}; this operator stops");
                    // What was sent before arrives meanwhile.
                    tokio::time::sleep(RETRY_PERIOD).await;
                    self.release().await;
                    return;
                }
                Err(reason) => warn!(%reason, "leadership was not renewed"),
            }
        }
    }

    /// Takes or renews all Leases.
    async fn round(&mut self) -> Result<Round, LeaseError> {
        let all_ours = self.claims.iter().all(Claim::is_ours);
        if !all_ours && let (Some(held), _) = self.cluster_wide().await? {
            return Ok(Round::Yield(held));
        }
        // Renewals do not wait for each other.
        let ours = self.claims.iter_mut().filter(|claim| claim.is_ours());
        let renewals = ours.map(|claim| claim.take(&self.identity, &self.clock));
        let mut results = futures::future::join_all(renewals).await;
        if results.iter().all(|result| matches!(result, Ok(None))) {
            for claim in &mut self.claims {
                if !claim.is_ours() {
                    let result = claim.take(&self.identity, &self.clock).await;
                    let missed = !matches!(result, Ok(None));
                    results.push(result);
                    if missed {
                        break;
                    }
                }
            }
        }
        let (taken, failed): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
        if let Some(held) = taken.into_iter().flatten().flatten().next() {
            return Ok(Round::Standby(held));
        }
        if let Some(Err(error)) = failed.into_iter().next() {
            return Err(error);
        }
        let until = self.claims.iter().map(Claim::until).min().unwrap_or_default();
        if let Some(held) = self.leaders_of_namespaces().await? {
            return Ok(Round::Standby(held));
        }
        Ok(match self.cluster_wide().await? {
            (Some(held), _) => Round::Yield(held),
            (None, until_read) => Round::Leading(until.min(until_read)),
        })
    }

    /// Who claims the whole cluster, and until when the answer that nobody does is good.
    async fn cluster_wide(&mut self) -> Result<(Option<HeldLease>, Duration), LeaseError> {
        let Others::Cluster {
            api,
            namespace,
            observed,
        } = &mut self.others
        else {
            return Ok((None, Duration::MAX));
        };
        let now = (self.clock)();
        let lease = api.get_opt(CLUSTER_LEASE).await.map_err(|error| LeaseError::Api {
            namespace: namespace.clone(),
            name: CLUSTER_LEASE.to_owned(),
            error: error.into(),
        })?;
        let holder = lease.and_then(|lease| observed.claimed(&lease, now));
        let held = holder.map(|holder| HeldLease {
            namespace: namespace.clone(),
            name: CLUSTER_LEASE.to_owned(),
            holder,
        });
        Ok((held, now + RENEW_DEADLINE))
    }

    /// A new leader for the whole cluster looks for leaders of namespaces; one of them while it may not have stopped.
    async fn leaders_of_namespaces(&mut self) -> Result<Option<HeldLease>, LeaseError> {
        let continuous = self.claims.iter().all(Claim::is_continuous);
        let Others::Namespaces { all, stopped } = &mut self.others else {
            return Ok(None);
        };
        let now = (self.clock)();
        if !continuous {
            *stopped = None;
        }
        if now >= *stopped.get_or_insert(now + LEASE_DURATION) {
            return Ok(None);
        }
        let params = ListParams::default().labels(&format!("{}={}", SCOPE.0, SCOPE.1));
        let leases = all
            .list(&params)
            .await
            .map_err(|error| LeaseError::List(error.into()))?;
        let held = leases.into_iter().find_map(|lease| {
            let holder = lease.spec?.holder_identity.filter(|holder| !holder.is_empty())?;
            Some(HeldLease {
                namespace: lease.metadata.namespace.unwrap_or_default(),
                name: lease.metadata.name.unwrap_or_default(),
                holder,
            })
        });
        if held.is_none() {
            *stopped = Some(now);
        }
        Ok(held)
    }

    /// Gives all Leases up, so that a standby takes over at once.
    async fn release(&mut self) {
        for claim in &mut self.claims {
            let released = within(RENEW_DEADLINE, claim.release(&self.identity)).await;
            if let Err(reason) = released {
                warn!(%reason, "the Lease was not released; a standby waits up to 15 s");
            }
        }
    }
}

async fn within<T>(time: Duration, answer: impl Future<Output = Result<T, LeaseError>>) -> Result<T, LeaseError> {
    tokio::time::timeout(time, answer)
        .await
        .map_err(|_| LeaseError::Timeout)?
}
