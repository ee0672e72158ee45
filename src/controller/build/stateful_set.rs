//! The pods.

use serde_json::{Map, Value, json};
use xmpp_federation_core::edge_config::FINISH_AT_MOST;

use super::config::{DIRECT_TLS_PORT, FILE};
use crate::controller::names::{ADMIN_PORT, DIALBACK_KEY};
use crate::controller::validate::ValidSpec;

/// Where the configuration and secrets are mounted.
pub const CONFIG_DIR: &str = "/etc/xmpp-federation/edge";
/// Where the certificate is mounted.
pub const CERTIFICATE_DIR: &str = "/etc/xmpp-federation/tls";
/// Where a certificate for connecting is mounted.
pub const CLIENT_CERTIFICATE_DIR: &str = "/etc/xmpp-federation/client-tls";
/// File with revocation lists, beside the configuration.
pub const REVOCATION_LISTS: &str = "revocation-lists.pem";
/// Writable folder.
const RUN_DIR: &str = "/run/xmpp-federation";
/// Unix socket of the edge's `ctl`.
pub const CONTROL_SOCKET: &str = "/run/xmpp-federation/control.sock";
/// Seconds that a pod has after the drain delay: what the edge takes, and some for its last log lines.
const FINISH_SECONDS: u64 = FINISH_AT_MOST.as_secs() + 5;
/// A user of no machine.
const USER: i64 = 65532;

/// The StatefulSet.
pub fn stateful_set(valid: &ValidSpec, pods: u16) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": valid.owner.metadata(&valid.owner.edge()),
        "spec": {
            "replicas": pods,
            "serviceName": valid.owner.pods(),
            "podManagementPolicy": "Parallel",
            "revisionHistoryLimit": 3,
            "selector": {"matchLabels": valid.owner.pod_labels()},
            "template": {"metadata": pod_metadata(valid), "spec": pod_spec(valid)},
        },
    })
}

fn pod_metadata(valid: &ValidSpec) -> Value {
    let mut labels: Map<String, Value> = valid.pod.labels.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
    if let Value::Object(own) = valid.owner.labels() {
        labels.extend(own);
    }
    let mut annotations: Map<String, Value> = valid
        .pod
        .annotations
        .iter()
        .map(|(k, v)| (k.clone(), json!(v)))
        .collect();
    // A component id is read at start only; another host name needs new pods.
    let base = valid.component_ids.first().map_or("", |id| id.as_str());
    annotations.insert("xmppfederation.io/component-id".to_owned(), json!(base));
    json!({"labels": labels, "annotations": annotations})
}

fn pod_spec(valid: &ValidSpec) -> Value {
    let grace = valid.drain_delay.0.as_secs().saturating_add(FINISH_SECONDS);
    let mut spec = json!({
        "serviceAccountName": valid.owner.edge(),
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": grace,
        "securityContext": {
            "runAsNonRoot": true,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container(valid)],
        "volumes": volumes(valid),
    });
    let Some(map) = spec.as_object_mut() else {
        return spec;
    };
    let pod = &valid.pod;
    let affinity = pod.affinity.as_ref().map_or_else(
        || {
            json!({"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{
                "weight": 100,
                "podAffinityTerm": {
                    "topologyKey": "kubernetes.io/hostname",
                    "labelSelector": {"matchLabels": valid.owner.pod_labels()},
                },
            }]}})
        },
        |affinity| json!(affinity),
    );
    map.insert("affinity".to_owned(), affinity);
    for (key, value, present) in [
        ("nodeSelector", json!(pod.node_selector), !pod.node_selector.is_empty()),
        ("tolerations", json!(pod.tolerations), !pod.tolerations.is_empty()),
        (
            "topologySpreadConstraints",
            json!(pod.topology_spread_constraints),
            !pod.topology_spread_constraints.is_empty(),
        ),
        (
            "priorityClassName",
            json!(pod.priority_class_name),
            pod.priority_class_name.is_some(),
        ),
        (
            "imagePullSecrets",
            json!(pod.image_pull_secrets),
            !pod.image_pull_secrets.is_empty(),
        ),
    ] {
        if present {
            map.insert(key.to_owned(), value);
        }
    }
    spec
}

fn container(valid: &ValidSpec) -> Value {
    let probe = |path: &str, period: u32, failures: u32| {
        json!({
            "httpGet": {"path": path, "port": "admin", "scheme": "HTTP"},
            "periodSeconds": period,
            "timeoutSeconds": 2,
            "failureThreshold": failures,
        })
    };
    let resources = valid.pod.resources.as_ref().map_or_else(
        || json!({"requests": {"cpu": "50m", "memory": "32Mi"}, "limits": {"memory": "512Mi"}}),
        |resources| json!(resources),
    );
    let mut ports = vec![
        json!({"name": "xmpp-server", "containerPort": 5269, "protocol": "TCP"}),
        json!({"name": "admin", "containerPort": ADMIN_PORT, "protocol": "TCP"}),
    ];
    if valid.direct_tls {
        ports.push(json!({"name": "xmpps-server", "containerPort": DIRECT_TLS_PORT, "protocol": "TCP"}));
    }
    let mut mounts = vec![
        json!({"name": "edge", "mountPath": CONFIG_DIR, "readOnly": true}),
        json!({"name": "tls", "mountPath": CERTIFICATE_DIR, "readOnly": true}),
        json!({"name": "run", "mountPath": RUN_DIR}),
    ];
    if valid.tls.client_certificate.is_some() {
        mounts.push(json!({"name": "client-tls", "mountPath": CLIENT_CERTIFICATE_DIR, "readOnly": true}));
    }
    let mut container = json!({
        "name": "edge",
        "image": valid.image,
        "args": ["--config", format!("{CONFIG_DIR}/{FILE}"), "--index", "$(POD_INDEX)"],
        "env": [{
            "name": "POD_INDEX",
            "valueFrom": {"fieldRef": {
                "apiVersion": "v1",
                "fieldPath": "metadata.labels['apps.kubernetes.io/pod-index']",
            }},
        }],
        "ports": ports,
        // A slow start is no failure: the probe asks every second, for a minute.
        "startupProbe": probe("/livez", 1, 60),
        "livenessProbe": probe("/livez", 10, 3),
        "readinessProbe": probe("/readyz", 2, 2),
        "resources": resources,
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": mounts,
    });
    if let (Some(policy), Some(map)) = (valid.pull_policy, container.as_object_mut()) {
        map.insert("imagePullPolicy".to_owned(), json!(policy));
    }
    container
}

/// One projected volume without subPath for what the edge watches: only so do changes arrive.
fn volumes(valid: &ValidSpec) -> Value {
    let mut sources = vec![
        json!({"configMap": {"name": valid.owner.edge(), "items": [{"key": FILE, "path": FILE}]}}),
        json!({"secret": {
            "name": valid.owner.dialback(),
            "items": [{"key": DIALBACK_KEY, "path": format!("dialback/{DIALBACK_KEY}")}],
        }}),
        // Without items: a cluster that comes or goes needs no new pods.
        json!({"secret": {"name": valid.owner.router()}}),
    ];
    if let Some(anchors) = &valid.tls.anchors {
        sources.push(json!({"secret": {
            "name": anchors.name,
            "items": [{"key": anchors.key, "path": "anchors.pem"}],
        }}));
    }
    if let Some(lists) = &valid.tls.revocation_lists {
        sources.push(json!({"configMap": {
            "name": lists.name,
            "items": [{"key": lists.key, "path": REVOCATION_LISTS}],
        }}));
    }
    let pair = |name: &str, secret: &str| {
        json!({"name": name, "secret": {
            "secretName": secret,
            "defaultMode": 0o440,
            "items": [{"key": "tls.crt", "path": "tls.crt"}, {"key": "tls.key", "path": "tls.key"}],
        }})
    };
    let certificate = valid
        .tls
        .brought_certificate
        .clone()
        .unwrap_or_else(|| valid.owner.certificate());
    let mut volumes = vec![
        json!({"name": "edge", "projected": {"defaultMode": 0o440, "sources": sources}}),
        pair("tls", &certificate),
        json!({"name": "run", "emptyDir": {"medium": "Memory", "sizeLimit": "4Mi"}}),
    ];
    if let Some(client) = &valid.tls.client_certificate {
        volumes.push(pair("client-tls", client));
    }
    json!(volumes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::super::super::testing::{spec_with, validated};
    use super::*;

    #[test]
    fn pods_satisfy_pod_security_restricted_and_have_no_token() {
        let valid = validated(&spec_with("", Value::Null)).unwrap();
        let set = stateful_set(&valid, 2);
        let at = |pointer: &str| set.pointer(pointer).cloned().unwrap_or_default();
        let pod = "/spec/template/spec";
        assert_eq!(at(&format!("{pod}/automountServiceAccountToken")), json!(false));
        assert_eq!(at(&format!("{pod}/securityContext/runAsNonRoot")), json!(true));
        assert_eq!(
            at(&format!("{pod}/securityContext/seccompProfile/type")),
            json!("RuntimeDefault")
        );
        let security = at(&format!("{pod}/containers/0/securityContext"));
        assert_eq!(
            security,
            json!({
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": {"drop": ["ALL"]},
            })
        );
        assert!(!set.to_string().contains("subPath"));
        assert_eq!(at(&format!("{pod}/terminationGracePeriodSeconds")), json!(45));
    }

    #[test]
    fn a_users_labels_cannot_replace_ours() {
        let labels = json!({"labels": {"app.kubernetes.io/instance": "other", "team": "voice"}});
        let valid = validated(&spec_with("/edge/pod", labels)).unwrap();
        let set = stateful_set(&valid, 1);
        let labels = set.pointer("/spec/template/metadata/labels").unwrap();
        assert_eq!(labels["app.kubernetes.io/instance"], json!("coluc"));
        assert_eq!(labels["team"], json!("voice"));
    }
}
