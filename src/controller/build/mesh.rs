//! Service meshes: the pods ask to be left out, each mesh in its own words.
//!
//! A proxy beside the edge answers the probes and the operator in its place, takes TCP 5269 as traffic of the mesh (mutual TLS
//! that no partner speaks, or a wait for the first bytes of a protocol in which the client speaks first and late), and hides
//! where a peer comes from.

use std::collections::BTreeMap;

use crate::api::spec::PodSpec;

/// Istio's sidecars, Istio's ambient mode, Kuma.
const LABELS: &[(&str, &str)] = &[
    ("sidecar.istio.io/inject", "false"),
    ("istio.io/dataplane-mode", "none"),
    ("kuma.io/sidecar-injection", "disabled"),
];
/// Linkerd, Consul; older releases of Istio and Kuma read annotations only.
const ANNOTATIONS: &[(&str, &str)] = &[
    ("linkerd.io/inject", "disabled"),
    ("consul.hashicorp.com/connect-inject", "false"),
    ("sidecar.istio.io/inject", "false"),
    ("kuma.io/sidecar-injection", "disabled"),
];

/// The labels of a pod, the user's among them.
pub fn labels(pod: &PodSpec) -> BTreeMap<String, String> {
    with(LABELS, pod, &pod.labels)
}

/// The annotations of a pod, the user's among them.
pub fn annotations(pod: &PodSpec) -> BTreeMap<String, String> {
    with(ANNOTATIONS, pod, &pod.annotations)
}

/// What the user says holds: a word given as label or as annotation is said in no other way.
fn with(ours: &[(&str, &str)], pod: &PodSpec, given: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let said = |name: &str| pod.labels.contains_key(name) || pod.annotations.contains_key(name);
    let ours = ours.iter().filter(|(name, _)| !said(name));
    let ours = ours.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    ours.chain(given.clone()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    #[rstest]
    #[case::istio("sidecar.istio.io/inject", Some("false"), Some("false"))]
    #[case::istio_ambient("istio.io/dataplane-mode", Some("none"), None)]
    #[case::kuma("kuma.io/sidecar-injection", Some("disabled"), Some("disabled"))]
    #[case::linkerd("linkerd.io/inject", None, Some("disabled"))]
    #[case::consul("consul.hashicorp.com/connect-inject", None, Some("false"))]
    fn a_pod_is_in_no_mesh_unless_the_user_says_so(
        #[case] name: &str,
        #[case] label: Option<&str>,
        #[case] annotation: Option<&str>,
    ) {
        let both = |pod: serde_json::Value| {
            let pod: PodSpec = serde_json::from_value(pod).unwrap();
            let value = |of: BTreeMap<String, String>| of.get(name).cloned();
            (value(labels(&pod)), value(annotations(&pod)))
        };
        let owned = |value: Option<&str>| value.map(str::to_owned);
        assert_eq!(
            both(json!({"labels": {"team": "voice"}})),
            (owned(label), owned(annotation))
        );
        let given = owned(Some("enabled"));
        assert_eq!(both(json!({"labels": {name: "enabled"}})), (given.clone(), None));
        assert_eq!(both(json!({"annotations": {name: "enabled"}})), (None, given));
    }
}
