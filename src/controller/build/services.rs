//! Services and the pods' account.

use k8s_openapi::api::core::v1::{Service, ServiceAccount, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Serialize;

use super::config::DIRECT_TLS_PORT;
use crate::api::spec::ServiceType;
use crate::controller::names::ADMIN_PORT;
use crate::controller::validate::ValidSpec;

/// The pods' account: has no rights, and its token is not mounted.
pub fn account(valid: &ValidSpec) -> ServiceAccount {
    ServiceAccount {
        metadata: valid.owner.metadata(&valid.owner.edge()),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}

/// A port that leads to the pods' port of the same name.
fn port(name: &str, number: u16) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        port: number.into(),
        protocol: Some("TCP".to_owned()),
        target_port: Some(IntOrString::String(name.to_owned())),
        ..ServicePort::default()
    }
}

/// Names the pods; also those that are not ready, so that their metrics can be read.
pub fn headless(valid: &ValidSpec) -> Service {
    Service {
        metadata: valid.owner.metadata(&valid.owner.pods()),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            publish_not_ready_addresses: Some(true),
            selector: Some(valid.owner.pod_labels()),
            ports: Some(vec![port("xmpp-server", 5269), port("admin", ADMIN_PORT)]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

/// What peers reach.
pub fn public(valid: &ValidSpec) -> Service {
    let service = &valid.service;
    let public_port = |name: &str, number, node_port: Option<i32>| ServicePort {
        node_port,
        ..port(name, number)
    };
    let mut ports = vec![public_port("xmpp-server", 5269, service.node_port)];
    if valid.direct_tls {
        ports.push(public_port(
            "xmpps-server",
            DIRECT_TLS_PORT,
            service.direct_tls_node_port,
        ));
    }
    let outside = service.type_ != ServiceType::ClusterIP;
    let ranges = service.load_balancer_source_ranges.iter();
    // Fields that do not go with the type are refused before.
    let spec = ServiceSpec {
        type_: word(&service.type_),
        selector: Some(valid.owner.pod_labels()),
        ports: Some(ports),
        ip_family_policy: service.ip_family_policy.as_ref().and_then(word),
        ip_families: some(service.ip_families.iter().filter_map(word).collect()),
        // Said, so that an address that somebody adds by hand does not stay.
        external_ips: Some(Vec::new()),
        session_affinity: service.session_affinity.as_ref().and_then(word),
        external_traffic_policy: word(&service.external_traffic_policy).filter(|_| outside),
        load_balancer_class: service.load_balancer_class.clone(),
        load_balancer_ip: service.load_balancer_ip.as_ref().map(|address| address.0.clone()),
        load_balancer_source_ranges: some(ranges.map(|range| range.0.clone()).collect()),
        allocate_load_balancer_node_ports: service.allocate_load_balancer_node_ports,
        health_check_node_port: service.health_check_node_port,
        ..ServiceSpec::default()
    };
    let mut metadata = valid.owner.metadata(&valid.owner.edge());
    metadata.annotations = Some(service.annotations.clone()).filter(|map| !map.is_empty());
    let mut labels = service.labels.clone();
    labels.extend(valid.owner.labels());
    metadata.labels = Some(labels);
    Service {
        metadata,
        spec: Some(spec),
        ..Service::default()
    }
}

/// An enum of the spec as Kubernetes writes it.
pub fn word(value: &impl Serialize) -> Option<String> {
    serde_json::to_value(value).ok()?.as_str().map(str::to_owned)
}

/// An empty list is left out.
pub fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    Some(list).filter(|list| !list.is_empty())
}
