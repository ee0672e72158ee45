//! Services and the pods' account.

use serde_json::{Map, Value, json};

use super::config::DIRECT_TLS_PORT;
use crate::api::spec::ServiceType;
use crate::controller::names::ADMIN_PORT;
use crate::controller::validate::ValidSpec;

/// The pods' account: has no rights, and its token is not mounted.
pub fn account(valid: &ValidSpec) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": valid.owner.metadata(&valid.owner.edge()),
        "automountServiceAccountToken": false,
    })
}

/// Names the pods; also those that are not ready, so that their metrics can be read.
pub fn headless(valid: &ValidSpec) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": valid.owner.metadata(&valid.owner.pods()),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": true,
            "selector": valid.owner.pod_labels(),
            "ports": [
                {"name": "xmpp-server", "port": 5269, "protocol": "TCP", "targetPort": "xmpp-server"},
                {"name": "admin", "port": ADMIN_PORT, "protocol": "TCP", "targetPort": "admin"},
            ],
        },
    })
}

/// What peers reach.
pub fn public(valid: &ValidSpec) -> Value {
    let service = &valid.service;
    let mut spec = Map::new();
    let mut put = |key: &str, value: Value| spec.insert(key.to_owned(), value);
    put("type", json!(service.type_));
    put("selector", valid.owner.pod_labels());
    let mut ports = vec![json!({"name": "xmpp-server", "port": 5269, "protocol": "TCP", "targetPort": "xmpp-server"})];
    if valid.direct_tls {
        ports.push(
            json!({"name": "xmpps-server", "port": DIRECT_TLS_PORT, "protocol": "TCP", "targetPort": "xmpps-server"}),
        );
    }
    put("ports", json!(ports));
    if service.type_ != ServiceType::ClusterIP {
        put("externalTrafficPolicy", json!(service.external_traffic_policy));
    }
    if service.type_ == ServiceType::LoadBalancer {
        if let Some(class) = &service.load_balancer_class {
            put("loadBalancerClass", json!(class));
        }
        if !service.load_balancer_source_ranges.is_empty() {
            put("loadBalancerSourceRanges", json!(service.load_balancer_source_ranges));
        }
    }
    if let Some(policy) = service.ip_family_policy {
        put("ipFamilyPolicy", json!(policy));
    }
    if !service.ip_families.is_empty() {
        put("ipFamilies", json!(service.ip_families));
    }
    let mut metadata = valid.owner.metadata(&valid.owner.edge());
    if let (false, Some(map)) = (service.annotations.is_empty(), metadata.as_object_mut()) {
        map.insert("annotations".to_owned(), json!(service.annotations));
    }
    json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec})
}
