//! The objects as they are sent, against committed files with one object a line. `UPDATE_GOLDEN=1`
//! writes them anew.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::path::PathBuf;

use rstest::rstest;
use serde::Serialize;
use serde_json::{Value, json};
use xmpp_federation_core::SecretBytes;

use super::material::{Certificate, Dialback, Material, RouterSecret};
use super::{DesiredObject, DesiredObjects, RouterAddresses, Topology, all};
use crate::api::spec as api;
use crate::controller::testing::{entry, spec, spec_with, validated};
use crate::controller::validate::{Refusal, ValidSpec};
use crate::tls::KeyMaterial;

fn bytes(text: &str) -> SecretBytes {
    SecretBytes::new(text.as_bytes().to_vec())
}

/// All of it new, or all of it the user's.
fn material(valid: &ValidSpec) -> Material {
    let own = KeyMaterial {
        ca_certificate: "authority".to_owned(),
        ca_key: bytes("key of the authority"),
        certificate: "leaf".to_owned(),
        key: bytes("key of the leaf"),
    };
    let brought = valid.tls.brought_certificate.clone();
    let routers = valid.imp.iter().map(|imp| RouterSecret {
        entry: imp.spec.name.clone(),
        bytes: Some(bytes("routers")),
        missing: None,
    });
    Material {
        dialback: Ok(Dialback {
            secret: bytes("0123456789abcdef0123456789abcdef"),
            fresh: brought.is_none(),
        }),
        certificate: Ok(match brought {
            Some(secret) => Certificate::Brought {
                secret,
                pem: "brought".to_owned(),
            },
            None => Certificate::Own {
                material: own,
                new_authority: true,
                issued: None,
            },
        }),
        chains: Vec::new(),
        routers: routers.collect(),
        others: Ok(()),
        brought: Vec::new(),
    }
}

fn everything() -> Value {
    let mut spec = spec();
    let fields = json!({
        "edge": {
            "hostname": "eft-xwye-a.coluc.com", "replicas": 3, "slots": 4, "image": "edge:2", "imagePullPolicy": "Always",
            "directTls": {"enabled": true}, "proxyProtocol": {"trustedSources": ["192.0.2.0/24"]},
            "limits": {"maxStanzaBytes": 20000, "messagesPerSecond": 500, "idleTimeout": "5m"}, "drainDelay": "30s",
            "service": {
                "type": "LoadBalancer", "annotations": {"example.com/pool": "a"}, "loadBalancerClass": "example.com/lb",
                "externalTrafficPolicy": "Cluster", "loadBalancerSourceRanges": ["198.51.100.0/24"],
                "ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv4", "IPv6"],
                "labels": {"pool": "a"}, "nodePort": 31269, "directTlsNodePort": 31270, "loadBalancerIP": "203.0.113.7",
                "allocateLoadBalancerNodePorts": false, "sessionAffinity": "ClientIP",
            },
            "minReady": "45s",
            "networkPolicy": {
                "metricsFrom": [{"namespaceSelector": {"matchLabels": {"team": "metrics"}}}],
                "extraIngress": [{"from": [{"ipBlock": {"cidr": "192.0.2.0/24"}}], "ports": [{"port": 9000}]}],
                "extraEgress": [{"to": [{"podSelector": {}}]}],
            },
            "pod": {
                "resources": {"requests": {"cpu": "1000m"}, "limits": {"memory": "1Gi"}},
                "nodeSelector": {"zone": "a"}, "tolerations": [{"key": "edge", "operator": "Exists"}],
                "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                    {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a", "b"]}]},
                ]}}},
                "topologySpreadConstraints": [
                    {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"},
                ],
                "securityContext": {"runAsUser": 1000, "fsGroupChangePolicy": "OnRootMismatch"}, "priorityClassName": "high", "imagePullSecrets": [{"name": "pull"}],
                "annotations": {"team": "voice"}, "labels": {"team": "voice"},
            },
        },
        "tls": {
            "mode": "Optional", "requireClientCertificates": true, "minVersion": "VersionTLS13",
            "clientCertificate": {"secretRef": {"name": "client"}},
            "revocationLists": {"configMapRef": {"name": "lists", "key": "crl.pem"}},
            "trustAnchors": {"system": false, "secretRef": {"name": "anchors", "key": "ca.pem"}},
        },
        "dns": {"resolvers": ["192.0.2.53"], "allowPrivateTargets": ["10.1.0.0/16", "fd00::/8"]},
        "partners": [
            {"domain": "routed.lab", "route": [
                {"host": "198.51.100.20", "port": 5270}, {"host": "2001:db8::20"}, {"host": "edge.routed.lab"},
            ], "comment": "their administrators are reached under 12345"},
            {"domain": "peer.lab", "tls": {"mode": "Required", "requireCertificate": true}, "limits": {"messagesPerSecond": 50}},
            {"domain": "*.peer.lab"},
        ],
    });
    let (Value::Object(spec), Value::Object(fields)) = (&mut spec, fields) else {
        unreachable!("objects")
    };
    spec.extend(fields);
    let entries = spec.get_mut("imp").unwrap().as_array_mut().unwrap();
    entries.push(entry("second", "cups2.example.net", &["conf.coluc.com"]));
    Value::Object(std::mem::take(spec))
}

fn brought_and_prepared() -> Value {
    let mut spec = spec();
    let fields = json!({
        "activation": "Prepared",
        "edge": {"hostname": "eft-xwye-a.coluc.com", "replicas": 1, "slots": 1, "service": {"type": "ClusterIP"}},
        "tls": {"certificate": {"secretRef": {"name": "brought"}}},
    });
    let (Value::Object(spec), Value::Object(fields)) = (&mut spec, fields) else {
        unreachable!("objects")
    };
    spec.extend(fields);
    Value::Object(std::mem::take(spec))
}

#[rstest]
#[case("guide", spec())]
#[case("everything", everything())]
#[case("brought-and-prepared", brought_and_prepared())]
fn the_objects_are_the_committed_ones(#[case] name: &str, #[case] spec: Value) {
    let valid = validated(&serde_json::from_value(spec).unwrap()).unwrap();
    let nodes = |name: &str, address: &str| vec![(name.to_owned(), address.to_owned())];
    let topology = Topology {
        routers: RouterAddresses::from([
            ("main".to_owned(), nodes("cups.ciscotac.net", "10.244.200.10")),
            ("second".to_owned(), nodes("cups2.example.net", "fd00::10")),
        ]),
        pods: 2,
        unsure: false,
    };
    let built: Vec<Value> = objects(&all(&valid, &material(&valid), &topology).unwrap());
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("src/controller/build/golden/{name}.jsonl"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let lines: Vec<String> = built.iter().map(|object| format!("{object}\n")).collect();
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, lines.concat()).unwrap();
    }
    let text = std::fs::read_to_string(&file).unwrap();
    let committed: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(built.len(), committed.len());
    for (built, committed) in built.iter().zip(&committed) {
        assert_eq!(built, committed);
        // What is sent is hashed: not even the order of fields may change.
        assert_eq!(built.to_string(), committed.to_string());
    }
}

#[test]
fn a_configuration_that_no_config_map_holds_is_refused_with_its_size() {
    let hosts: Vec<Value> = (0..8)
        .map(|n| json!({"host": format!("{}.{}{n}.example", "h".repeat(60), "h".repeat(30))}))
        .collect();
    let entry = |n| json!({"domain": format!("{}{n}.example", "d".repeat(50)), "route": hosts});
    let build = |count: usize| {
        let mut spec: api::XmppFederationSpec = serde_json::from_value(spec()).unwrap();
        spec.partners = serde_json::from_value((0..count).map(entry).collect()).unwrap();
        let valid = validated(&spec).unwrap();
        let topology = Topology {
            routers: RouterAddresses::new(),
            pods: 2,
            unsure: false,
        };
        all(&valid, &material(&valid), &topology).map(|_| ())
    };
    assert_eq!(build(900), Ok(()));
    let Err(Refusal::Invalid(sentences)) = build(1000) else {
        unreachable!("refused")
    };
    let [sentence] = &sentences[..] else {
        unreachable!("one sentence")
    };
    assert!(
        sentence.starts_with("spec.partners and spec.privacy.domains: "),
        "{sentence}"
    );
    assert!(sentence.contains("a ConfigMap holds 1048576"), "{sentence}");
}

fn objects(desired: &DesiredObjects) -> Vec<Value> {
    let DesiredObjects {
        dialback,
        authority,
        certificate,
        router,
        config,
        account,
        pods_service,
        service,
        budget,
        policy,
        stateful_set,
        template_inputs: _,
        config_hash: _,
        mounted_hash,
    } = desired;
    vec![
        json!(dialback),
        json!(authority),
        wanted(certificate),
        wanted(router),
        wanted(config),
        json!(account),
        json!(pods_service),
        json!(service),
        json!(budget),
        wanted(policy),
        wanted(stateful_set),
        json!(mounted_hash),
    ]
}

fn wanted(object: &DesiredObject<impl Serialize>) -> Value {
    match object {
        DesiredObject::Present(object) => json!(object),
        DesiredObject::Absent => json!("absent"),
        DesiredObject::Unchanged => json!("unchanged"),
    }
}

/// What one field of spec.edge makes of one object, by their JSON pointers.
#[rstest]
#[case::platform_users("pod", json!({"securityContext": {}}), "StatefulSet", "/spec/template/spec/securityContext", json!({"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}}))]
#[case::own_users("pod", json!({}), "StatefulSet", "/spec/template/spec/securityContext/runAsUser", json!(65532))]
#[case::own_profile("pod", json!({"securityContext": {"seccompProfile": {"type": "Localhost", "localhostProfile": "edge.json"}}}), "StatefulSet", "/spec/template/spec/securityContext/seccompProfile/localhostProfile", json!("edge.json"))]
#[case::own_profile_as_the_usual_user("pod", json!({"securityContext": {"seccompProfile": {"type": "Localhost", "localhostProfile": "edge.json"}}}), "StatefulSet", "/spec/template/spec/securityContext/fsGroup", json!(65532))]
#[case::own_user_alone("pod", json!({"securityContext": {"runAsUser": 1000}}), "StatefulSet", "/spec/template/spec/securityContext/fsGroup", json!(null))]
#[case::ready_for_a_while("minReady", json!("30s"), "StatefulSet", "/spec/minReadySeconds", json!(30))]
#[case::not_at_all("minReady", json!("0s"), "StatefulSet", "/spec/minReadySeconds", json!(0))]
#[case::node_port("service", json!({"type": "NodePort", "nodePort": 31269}), "Service", "/spec/ports/0/nodePort", json!(31269))]
#[case::health_check("service", json!({"healthCheckNodePort": 31271}), "Service", "/spec/healthCheckNodePort", json!(31271))]
#[case::no_policy_inside("service", json!({"type": "ClusterIP"}), "Service", "/spec/externalTrafficPolicy", json!(null))]
#[case::a_quantity_as_a_number("pod", json!({"resources": {"limits": {"cpu": 1}}}), "StatefulSet", "/spec/template/spec/containers/0/resources/limits/cpu", json!("1"))]
#[case::as_a_fraction("pod", json!({"resources": {"requests": {"cpu": 0.5}}}), "StatefulSet", "/spec/template/spec/containers/0/resources/requests/cpu", json!("0.5"))]
#[case::as_text("pod", json!({"resources": {"requests": {"cpu": "1000m"}}}), "StatefulSet", "/spec/template/spec/containers/0/resources/requests/cpu", json!("1000m"))]
#[case::own_labels_stay("service", json!({"labels": {"app.kubernetes.io/managed-by": "me", "a": "b"}}), "Service", "/metadata/labels/app.kubernetes.io~1managed-by", json!("xmpp-federation-operator"))]
#[case::no_policy("networkPolicy", json!({"enabled": false}), "NetworkPolicy", "", json!("absent"))]
#[case::the_operator_alone("networkPolicy", json!({}), "NetworkPolicy", "/spec/ingress/1/from", json!([{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "xmpp-federation-system"}}}]))]
fn a_field_of_the_edge_reaches_its_object(
    #[case] field: &str,
    #[case] value: Value,
    #[case] kind: &str,
    #[case] pointer: &str,
    #[case] expected: Value,
) {
    let valid = validated(&spec_with(&format!("/edge/{field}"), value)).unwrap();
    let topology = Topology {
        routers: RouterAddresses::new(),
        pods: 2,
        unsure: false,
    };
    let desired = all(&valid, &material(&valid), &topology).unwrap();
    let object = match kind {
        "StatefulSet" => wanted(&desired.stateful_set),
        "Service" => json!(desired.service),
        _ => wanted(&desired.policy),
    };
    assert_eq!(
        object.pointer(pointer).cloned().unwrap_or_default(),
        expected,
        "{object}"
    );
}
