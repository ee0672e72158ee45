//! The disruption budget: evictions take one pod at a time; a broken pod holds no drain up.

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::controller::validate::ValidSpec;

/// Governs evictions only; rolling is the StatefulSet's.
pub fn budget(valid: &ValidSpec) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: valid.owner.metadata(&valid.owner.edge()),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            selector: Some(valid.owner.pod_selector()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    }
}
