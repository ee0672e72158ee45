//! The disruption budget: evictions take one pod at a time; a broken pod holds no drain up.

use serde_json::{Value, json};

use crate::controller::validate::ValidSpec;

/// Governs evictions only; rolling is the StatefulSet's.
pub fn budget(valid: &ValidSpec) -> Value {
    json!({
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": valid.owner.metadata(&valid.owner.edge()),
        "spec": {
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": valid.owner.pod_labels()},
        },
    })
}
