//! What is said of single remote domains: terms, and hosts used instead of DNS.

use xmpp_federation_core::edge_config::{Partner, PartnerLimits, PartnerTls, RouteHost};

use super::Problems;
use crate::api::spec::{HostAndPort, PartnerLimitsSpec, PartnerTlsSpec, XmppFederationSpec};

/// In the edge's words, without the comments: a comment that changes is no change of the configuration.
pub(super) fn partners(problems: &mut Problems, spec: &XmppFederationSpec) -> Vec<Partner> {
    let mut partners = Vec::with_capacity(spec.partners.len());
    for (i, partner) in spec.partners.iter().enumerate() {
        let field = format!("spec.partners[{i}]");
        let tls = partner.tls.as_ref();
        let tls = tls.map(|spec| tls_terms(problems, &format!("{field}.tls"), spec));
        if partner.route.as_ref().is_some_and(Vec::is_empty) {
            problems.0.push(format!(
                "{field}.route: is empty; give at least one host, or remove it so that DNS is used"
            ));
        }
        let hosts = partner.route.iter().flatten().enumerate();
        let route = hosts.map(|(n, host)| route_host(problems, &format!("{field}.route[{n}]"), host));
        let route = route.collect();
        let Some(domain) = problems.pattern(&format!("{field}.domain"), &partner.domain) else {
            continue;
        };
        partners.push(Partner {
            tls: tls.unwrap_or_default(),
            route,
            limits: partner.limits.as_ref().map(limits).unwrap_or_default(),
            ..Partner::new(domain)
        });
    }
    partners
}

fn tls_terms(problems: &mut Problems, field: &str, spec: &PartnerTlsSpec) -> PartnerTls {
    PartnerTls {
        mode: spec.mode,
        require_certificate: spec.require_certificate,
        pinned_sha256: problems.pins(&format!("{field}.pinnedSha256"), &spec.pinned_sha256),
    }
}

fn route_host(problems: &mut Problems, field: &str, spec: &HostAndPort) -> RouteHost {
    RouteHost {
        host: spec.host.clone(),
        port: problems.port(&format!("{field}.port"), spec.port),
    }
}

fn limits(spec: &PartnerLimitsSpec) -> PartnerLimits {
    PartnerLimits {
        max_stanza_bytes: spec.max_stanza_bytes.and_then(|n| usize::try_from(n).ok()),
        messages_per_second: spec.messages_per_second.and_then(|n| u32::try_from(n).ok()),
        bytes_per_second: spec.bytes_per_second.and_then(|n| u64::try_from(n).ok()),
    }
}
