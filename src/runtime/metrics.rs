//! The operator's metrics, all with bounded labels, in OpenMetrics text.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use xmpp_federation_imp::records::{ActionKind, Outcome};

use crate::api::conditions;

/// Prefix of every name.
const PREFIX: &str = "xmpp_federation";

/// Label of something that went well or not. Callers of all labels pass constants only, so that the number of series is
/// bounded.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByResult {
    /// `ok` or `error`.
    pub result: &'static str,
}

/// Label of an error.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByCategory {
    /// Its category.
    pub category: &'static str,
}

/// Label of a watch.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByKind {
    /// The kind of the objects.
    pub kind: &'static str,
}

/// Label of a request to the Kubernetes API.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByVerb {
    /// Its verb, as RBAC has it.
    pub verb: &'static str,
}

/// Label of the federations that a new release concerns.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByState {
    /// `waiting`, `rolling` or `halted`.
    pub state: &'static str,
}

/// Labels of one resource.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Resource {
    /// Namespace of the resource.
    pub namespace: String,
    /// Name of the resource.
    pub name: String,
}

/// Labels of a certificate of one resource.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Certificate {
    /// Namespace of the resource.
    pub namespace: String,
    /// Name of the resource.
    pub name: String,
    /// Its field in `spec.tls`.
    pub certificate: &'static str,
}

/// Labels of a condition of one resource.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ConditionOf {
    /// Namespace of the resource.
    pub namespace: String,
    /// Name of the resource.
    pub name: String,
    /// Its type.
    pub condition: &'static str,
}

/// Labels of a call to IM and Presence.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Call {
    /// Operation, as `executeSQLQuery`.
    pub operation: &'static str,
    /// Outcome, as `ok`, `401`, `fault`, `timeout`.
    pub outcome: &'static str,
}

/// Labels of a router restart.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Restart {
    /// The node; clusters have a handful of them.
    pub node: String,
    /// Why, a word from a fixed set.
    pub reason: &'static str,
}

/// Labels of something done to IM and Presence.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Act {
    /// What, as `InsertRow`.
    pub action: &'static str,
    /// How it went: `done`, `not-done`, `unknown`.
    pub outcome: &'static str,
}

/// Labels of a Lease that another operator holds.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Held {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease.
    pub name: String,
    /// Namespace and name of the holder's pod.
    pub holder: String,
}

/// Handles of all metrics; cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    /// Reconciles by result.
    pub reconciles: Family<ByResult, Counter>,
    /// Seconds of one reconcile.
    pub reconcile_duration: Histogram,
    /// Failed reconciles by category.
    pub reconcile_errors: Family<ByCategory, Counter>,
    /// Errors of watches by kind.
    pub watch_errors: Family<ByKind, Counter>,
    /// Requests to the Kubernetes API by verb.
    pub api_requests: Family<ByVerb, Counter>,
    /// AXL and Control Center requests.
    pub axl_requests: Family<Call, Counter>,
    /// Rows written and adopted, routers restarted and back.
    pub imp_actions: Family<Act, Counter>,
    /// XCP Router restarts asked for.
    pub router_restarts: Family<Restart, Counter>,
    /// End of the validity of a certificate and its chain, seconds since 1970.
    pub certificate_not_after: Family<Certificate, Gauge>,
    /// Public SRV records that are as they should be.
    pub srv_record_ready: Family<Resource, Gauge>,
    /// Conditions of resources as a whole: 1 is True, 0 False, -1 Unknown.
    pub condition: Family<ConditionOf, Gauge>,
    /// 1 while this process is the leader.
    pub leader: Gauge,
    /// 1 for the Lease that another operator holds, while this process stands by.
    pub lease_held_by_other: Family<Held, Gauge>,
    /// Federations by state while a new release replaces their edge pods.
    pub upgrade_federations: Family<ByState, Gauge>,
    /// Deletions that gave up and left rows in IM and Presence.
    pub abandoned_rows: Counter,
    /// Seconds since 1970 of the last finished reconcile.
    pub last_reconcile: Gauge<f64, AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Registers everything.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix(PREFIX);
        registry.register(
            "build",
            "Version of this operator",
            Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]),
        );
        macro_rules! register {
            ($name:literal, $help:literal, $metric:expr) => {{
                let metric = $metric;
                registry.register($name, $help, metric.clone());
                metric
            }};
        }
        let reconciles = register!("reconcile", "Reconciles by result", Family::default());
        let reconcile_duration = register!(
            "reconcile_duration_seconds",
            "Time of one reconcile",
            Histogram::new(exponential_buckets(0.005, 2.0, 12))
        );
        let reconcile_errors = register!("reconcile_errors", "Failed reconciles by category", Family::default());
        let watch_errors = register!("watch_errors", "Errors of watches by kind of object", Family::default());
        let api_requests = register!(
            "api_requests",
            "Requests to the Kubernetes API by verb",
            Family::default()
        );
        let axl_requests = register!(
            "axl_requests",
            "Requests to AXL and Control Center by operation and outcome",
            Family::default()
        );
        let imp_actions = register!(
            "imp_actions",
            "Rows written and adopted, XCP Routers restarted and back, by action and outcome",
            Family::default()
        );
        let router_restarts = register!(
            "router_restarts",
            "Restarts of the XCP Router asked for, by node and reason",
            Family::default()
        );
        let certificate_not_after = register!(
            "certificate_not_after_timestamp_seconds",
            "First end of validity in the chain of a certificate shown to peers",
            Family::default()
        );
        let srv_record_ready = register!(
            "srv_record_ready",
            "Public SRV records that are as they should be",
            Family::default()
        );
        let condition = register!(
            "condition",
            "Ready, Reconciling, Stalled and Paused of a resource: 1 is True, 0 is False, -1 is Unknown; absent: the resource has no such condition",
            Family::default()
        );
        let leader = register!("leader", "Whether this process is the leader", Gauge::default());
        let lease_held_by_other = register!(
            "lease_held_by_other",
            "Lease for which this process stands by, and its holder",
            Family::default()
        );
        let upgrade_federations = register!(
            "upgrade_federations",
            "Federations whose edge pods wait for this release (waiting), are replaced (rolling), or halt it (halted)",
            Family::default()
        );
        let abandoned_rows = register!(
            "abandoned_rows",
            "Rows left in IM and Presence by deletions that gave up",
            Counter::default()
        );
        let last_reconcile = register!(
            "last_reconcile_timestamp_seconds",
            "Time of the last finished reconcile",
            Gauge::default()
        );
        Self {
            registry: Arc::new(registry),
            reconciles,
            reconcile_duration,
            reconcile_errors,
            watch_errors,
            api_requests,
            axl_requests,
            imp_actions,
            router_restarts,
            certificate_not_after,
            srv_record_ready,
            condition,
            leader,
            lease_held_by_other,
            upgrade_federations,
            abandoned_rows,
            last_reconcile,
        }
    }

    /// Counts a request to the Kubernetes API, by its HTTP method and whether it opens a watch.
    pub fn count_api_request(&self, method: &http::Method, query: Option<&str>) {
        let watches = query.is_some_and(|query| query.split('&').any(|part| part == "watch=true"));
        let verb = match method.as_str() {
            "GET" if watches => "watch",
            "GET" => "get",
            "POST" => "create",
            "PUT" => "update",
            "PATCH" => "patch",
            "DELETE" => "delete",
            _ => "other",
        };
        self.api_requests.get_or_create(&ByVerb { verb }).inc();
    }

    /// Removes the figures of a resource that is gone: they would go on as if it were there.
    pub fn forget(&self, resource: &Resource) {
        for certificate in ["certificate", "clientCertificate"] {
            self.certificate_ends(resource, certificate, None);
        }
        self.srv_record_ready.remove(resource);
        self.conditions(resource, conditions::SUMMARY.map(|name| (name, None)));
    }

    /// Conditions by type, as 1, 0 or -1; `None`: the resource has none of that type.
    pub fn conditions(&self, of: &Resource, all: impl IntoIterator<Item = (&'static str, Option<i64>)>) {
        for (condition, value) in all {
            let labels = ConditionOf {
                namespace: of.namespace.clone(),
                name: of.name.clone(),
                condition,
            };
            if let Some(value) = value {
                self.condition.get_or_create(&labels).set(value);
            } else {
                self.condition.remove(&labels);
            }
        }
    }

    /// When a certificate ends; `None`: there is none that can be read.
    pub fn certificate_ends(&self, of: &Resource, certificate: &'static str, end: Option<i64>) {
        let labels = Certificate {
            namespace: of.namespace.clone(),
            name: of.name.clone(),
            certificate,
        };
        if let Some(end) = end {
            self.certificate_not_after.get_or_create(&labels).set(end);
        } else {
            self.certificate_not_after.remove(&labels);
        }
    }

    /// How many federations are in which state while a new release replaces their edge pods.
    pub fn upgrades(&self, waiting: usize, rolling: usize, halted: usize) {
        for (state, count) in [("waiting", waiting), ("rolling", rolling), ("halted", halted)] {
            let gauge = self.upgrade_federations.get_or_create(&ByState { state });
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// Names the Lease that another operator holds, in place of the one before.
    pub fn stand_by(&self, held: Option<Held>) {
        self.lease_held_by_other.clear();
        if let Some(held) = held {
            self.lease_held_by_other.get_or_create(&held).set(1);
        }
    }

    /// All metrics as OpenMetrics text.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut out = String::new();
        text::encode(&mut out, &self.registry)?;
        Ok(out)
    }
}

impl xmpp_federation_imp::counter::Counter for Metrics {
    fn called(&self, operation: &'static str, outcome: &'static str) {
        let call = Call { operation, outcome };
        self.axl_requests.get_or_create(&call).inc();
    }

    fn restarted(&self, node: &str, cause: &'static str) {
        let restart = Restart {
            node: node.to_owned(),
            reason: cause,
        };
        self.router_restarts.get_or_create(&restart).inc();
    }

    fn acted(&self, action: ActionKind, outcome: Outcome) {
        let act = Act {
            action: action.into(),
            outcome: outcome.into(),
        };
        self.imp_actions.get_or_create(&act).inc();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn names_carry_prefix_unit_and_labels() {
        let metrics = Metrics::new();
        metrics
            .axl_requests
            .get_or_create(&Call {
                operation: "executeSQLQuery",
                outcome: "ok",
            })
            .inc();
        metrics.count_api_request(&http::Method::GET, Some("limit=500&watch=true"));
        metrics.count_api_request(&http::Method::GET, Some("limit=500"));
        let gone = Resource {
            namespace: "federation".to_owned(),
            name: "coluc".to_owned(),
        };
        for certificate in ["certificate", "clientCertificate"] {
            metrics.certificate_ends(&gone, certificate, Some(1));
        }
        metrics.srv_record_ready.get_or_create(&gone).set(1);
        metrics.conditions(&gone, [("Ready", Some(1)), ("Stalled", None)]);
        let ready = r#"xmpp_federation_condition{namespace="federation",name="coluc",condition="Ready"} 1"#;
        assert!(metrics.encode().unwrap().contains(ready));
        assert!(metrics.encode().unwrap().contains("coluc"));
        metrics.forget(&gone);
        let text = metrics.encode().unwrap();
        assert!(!text.contains("coluc"), "{text}");
        for verb in ["watch", "get"] {
            let line = format!("xmpp_federation_api_requests_total{{verb=\"{verb}\"}} 1");
            assert!(text.contains(&line), "{text}");
        }
        let line = r#"xmpp_federation_axl_requests_total{operation="executeSQLQuery",outcome="ok"} 1"#;
        assert!(text.contains(line), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }
}
