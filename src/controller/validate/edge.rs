//! What is passed on to the edge: certificates, modes, limits.

use xmpp_federation_core::edge_config::{Cidr, Limits, TlsMode, TlsVersion};

use super::{A_NETWORK, Problems};
use crate::api::spec::{self, LimitsSpec, ServiceSpec, ServiceType, TrafficPolicy, XmppFederationSpec};

/// Certificates and security mode.
#[derive(Debug, Clone, PartialEq)]
pub struct TlsTerms {
    /// A brought certificate's Secret; `None`: our own authority.
    pub brought_certificate: Option<String>,
    /// The Secret with the certificate shown where the edge connects; `None`: the same one.
    pub client_certificate: Option<String>,
    pub mode: TlsMode,
    /// Whether a peer's certificate must be valid and name its domain.
    pub require_client_certificates: bool,
    /// ConfigMap and key with revocation lists.
    pub revocation_lists: Option<spec::ConfigMapKeyRef>,
    /// Public authorities count.
    pub system_anchors: bool,
    /// Secret and key with further authorities.
    pub anchors: Option<spec::SecretKeyRef>,
    pub min_version: TlsVersion,
}

pub(super) fn proxy_sources(problems: &mut Problems, spec: &XmppFederationSpec) -> Vec<Cidr> {
    let proxies = spec.edge.proxy_protocol.iter();
    let networks = proxies.flat_map(|proxy| &proxy.trusted_sources);
    problems.all(
        "spec.edge.proxyProtocol.trustedSources",
        networks.map(|network| network.0.as_str()),
        A_NETWORK,
    )
}

/// Fields that the type of the Service, or what is served, leaves without effect; Kubernetes itself refuses most of them.
pub(super) fn service(problems: &mut Problems, spec: &ServiceSpec, direct_tls: bool) {
    let mut refuse = |fields: &[(&str, bool)], why: &str| {
        let given = fields.iter().filter(|(_, given)| *given);
        let sentence = |(field, _): &(&str, bool)| format!("spec.edge.service.{field}: {why}");
        problems.0.extend(given.map(sentence));
    };
    let health_check = ("healthCheckNodePort", spec.health_check_node_port.is_some());
    let direct_port = ("directTlsNodePort", spec.direct_tls_node_port.is_some());
    if spec.type_ == ServiceType::ClusterIP {
        let node_ports = [("nodePort", spec.node_port.is_some()), direct_port];
        refuse(
            &node_ports,
            "a Service of type ClusterIP has no node port; remove it, or choose type NodePort or LoadBalancer",
        );
    } else if !direct_tls {
        refuse(
            &[direct_port],
            "has no effect while spec.edge.directTls is not enabled; enable that, or remove the port",
        );
    }
    if spec.type_ != ServiceType::LoadBalancer {
        let balancers = [
            ("loadBalancerClass", spec.load_balancer_class.is_some()),
            ("loadBalancerIP", spec.load_balancer_ip.is_some()),
            ("loadBalancerSourceRanges", !spec.load_balancer_source_ranges.is_empty()),
            (
                "allocateLoadBalancerNodePorts",
                spec.allocate_load_balancer_node_ports.is_some(),
            ),
            health_check,
        ];
        let why = format!(
            "a Service of type {:?} has no load balancer; remove it, or choose type LoadBalancer",
            spec.type_
        );
        refuse(&balancers, &why);
    } else if spec.external_traffic_policy != TrafficPolicy::Local {
        refuse(
            &[health_check],
            "load balancers use it only with externalTrafficPolicy Local; remove it, or choose Local",
        );
    }
}

/// What the spec says of certificates and modes, in the edge's words.
pub(super) fn tls_terms(spec: &XmppFederationSpec) -> TlsTerms {
    TlsTerms {
        brought_certificate: spec
            .tls
            .certificate
            .as_ref()
            .and_then(|c| c.secret_ref.as_ref())
            .map(|r| r.name.clone()),
        client_certificate: spec
            .tls
            .client_certificate
            .as_ref()
            .and_then(|c| c.secret_ref.as_ref())
            .map(|r| r.name.clone()),
        mode: spec.tls.mode,
        require_client_certificates: spec.tls.require_client_certificates,
        revocation_lists: spec
            .tls
            .revocation_lists
            .as_ref()
            .map(|lists| lists.config_map_ref.clone()),
        system_anchors: spec.tls.trust_anchors.system,
        anchors: spec.tls.trust_anchors.secret_ref.clone(),
        min_version: spec.tls.min_version,
    }
}

pub(super) fn limits(spec: &LimitsSpec) -> Limits {
    let given = |value: Option<i32>| value.and_then(|v| usize::try_from(v).ok());
    let usize_or = |value: Option<i32>, default: usize| given(value).unwrap_or(default);
    let d = Limits::default();
    Limits {
        max_stanza_bytes: usize_or(spec.max_stanza_bytes, d.max_stanza_bytes),
        messages_per_second: spec.messages_per_second.and_then(|rate| u32::try_from(rate).ok()),
        bytes_per_second: spec.bytes_per_second.and_then(|rate| u64::try_from(rate).ok()),
        max_unauthenticated_bytes: usize_or(spec.max_unauthenticated_bytes, d.max_unauthenticated_bytes),
        max_connections: given(spec.max_connections),
        max_connections_per_address: usize_or(spec.max_connections_per_address, d.max_connections_per_address),
        max_connections_per56: usize_or(spec.max_connections_per56, d.max_connections_per56),
        max_connections_per48: usize_or(spec.max_connections_per48, d.max_connections_per48),
        new_connections_per_second: spec
            .new_connections_per_second
            .and_then(|rate| u32::try_from(rate).ok()),
        max_pairs_per_stream: usize_or(spec.max_pairs_per_stream, d.max_pairs_per_stream),
        max_verifications: given(spec.max_verifications),
        // The edge ignores it and says so.
        max_queued_stanzas: given(spec.max_queued_stanzas),
        max_queued_bytes: usize_or(spec.max_queued_bytes, d.max_queued_bytes),
        negotiation_timeout: spec.negotiation_timeout.map_or(d.negotiation_timeout, |t| t.0),
        dialback_timeout: spec.dialback_timeout.map_or(d.dialback_timeout, |t| t.0),
        idle_timeout: spec.idle_timeout.map_or(d.idle_timeout, |t| t.0),
        ..d
    }
}
