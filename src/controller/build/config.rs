//! The edge's configuration: one file for all pods, in a ConfigMap.

use std::collections::BTreeMap;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::ConfigMap;
use xmpp_federation_core::edge_config::{
    CertificateFiles, Dialback, Dns, EdgeConfig, Endpoint, HostPort, Listen, Log, ProxyProtocol, Router, Tls,
    TrustAnchors,
};

use super::stateful_set::{CERTIFICATE_DIR, CLIENT_CERTIFICATE_DIR, CONFIG_DIR, CONTROL_SOCKET, REVOCATION_LISTS};
use crate::controller::names::{ADMIN_PORT, DIALBACK_KEY, EDGE_CONFIG, router_file};
use crate::controller::objects::NodeAddresses;
use crate::controller::validate::{ImpCluster, ValidSpec};

/// Port of direct TLS (XEP-0368), in the pods and at the Service.
pub const DIRECT_TLS_PORT: u16 = 5270;

/// Addresses of the XCP routers by name of the entry in spec.imp.
pub type RouterAddresses = BTreeMap<String, NodeAddresses>;

/// What the file says.
pub fn edge_config(valid: &ValidSpec, links: &RouterAddresses) -> EdgeConfig {
    let file = |name: &str| PathBuf::from(format!("{CONFIG_DIR}/{name}"));
    let certificate = |name: &str| PathBuf::from(format!("{CERTIFICATE_DIR}/{name}"));
    let client = |name: &str| PathBuf::from(format!("{CLIENT_CERTIFICATE_DIR}/{name}"));
    let config = EdgeConfig {
        written_by: None,
        requires: Vec::new(),
        domains: valid.hosted.clone(),
        listen: Listen {
            control: Some(PathBuf::from(CONTROL_SOCKET)),
            admin: std::net::SocketAddr::from(([0_u16; 8], ADMIN_PORT)),
            direct_tls: valid
                .direct_tls
                .then(|| std::net::SocketAddr::from(([0_u16; 8], DIRECT_TLS_PORT))),
            ..Listen::default()
        },
        dialback: Dialback {
            sign: file(&format!("dialback/{DIALBACK_KEY}")),
            accept: Vec::new(),
        },
        tls: Tls {
            mode: valid.tls.mode,
            certificates: vec![CertificateFiles {
                certificate_file: certificate("tls.crt"),
                private_key_file: certificate("tls.key"),
            }],
            client_certificate: valid.tls.client_certificate.as_ref().map(|_| CertificateFiles {
                certificate_file: client("tls.crt"),
                private_key_file: client("tls.key"),
            }),
            trust_anchors: TrustAnchors {
                system: valid.tls.system_anchors,
                file: valid.tls.anchors.as_ref().map(|_| file("anchors.pem")),
            },
            revocation_lists: valid
                .tls
                .revocation_lists
                .iter()
                .map(|_| file(REVOCATION_LISTS))
                .collect(),
            require_client_certificates: valid.tls.require_client_certificates,
            min_version: valid.tls.min_version,
        },
        privacy: valid.privacy.clone(),
        partners: valid.partners.clone(),
        dns: Dns {
            resolvers: valid.resolvers.clone(),
            allow_private_targets: valid.allow_private.clone(),
            deny_targets: valid.deny.clone(),
        },
        routers: valid.imp.iter().map(|imp| router(valid, imp, links)).collect(),
        limits: valid.limits.clone(),
        proxy_protocol: ProxyProtocol {
            trusted_sources: valid.proxy_sources.clone(),
        },
        drain_delay: valid.drain_delay,
        log: Log::default(),
    };
    config.signed()
}

/// One cluster's links; none while no link is wanted.
fn router(valid: &ValidSpec, imp: &ImpCluster, links: &RouterAddresses) -> Router {
    let name = &imp.spec.name;
    let nodes = links.get(name).filter(|_| valid.active);
    Router {
        name: name.clone(),
        domains: imp.domains.clone(),
        profile: imp.router.profile,
        component_ids: valid.component_ids.clone(),
        secret_file: PathBuf::from(format!("{CONFIG_DIR}/{}", router_file(name))),
        endpoints: nodes
            .into_iter()
            .flatten()
            .map(|(name, address)| Endpoint {
                name: name.clone(),
                address: HostPort {
                    host: address.clone(),
                    port: imp.router.port,
                },
            })
            .collect(),
    }
}

/// The ConfigMap that holds it.
pub fn config_map(valid: &ValidSpec, text: String) -> ConfigMap {
    ConfigMap {
        metadata: valid.owner.metadata(&valid.owner.edge()),
        data: Some(BTreeMap::from([(EDGE_CONFIG.to_owned(), text)])),
        ..ConfigMap::default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::controller::testing::{entry, spec_with, validated, with_entries};
    use rstest::rstest;
    use serde_json::{Value, json};
    use xmpp_federation_core::Domain;
    use xmpp_federation_core::edge_config::LinkProfile;

    fn links() -> RouterAddresses {
        let node = ("ecup10.coluc.com".to_owned(), "10.244.200.10".to_owned());
        RouterAddresses::from([("main".to_owned(), vec![node])])
    }

    #[rstest]
    #[case("", Value::Null)]
    #[case("/privacy", json!({"mode": "DenyList", "domains": ["bad.example"]}))]
    #[case("/privacy", json!({"mode": "AllowAll"}))]
    #[case("/partners", json!([{"domain": "vngtp.lab", "route": [{"host": "198.51.100.20", "port": 5270}]}]))]
    #[case("/partners", json!([{"domain": "vngtp.lab", "route": [{"host": "2001:db8::20"}, {"host": "edge_1.vngtp.lab"}], "comment": "tel. 12345"}, {"domain": "*.vngtp.lab", "tls": {}, "limits": {}}]))]
    #[case("/edge/limits", json!({"maxStanzaBytes": 20000, "idleTimeout": "5m", "messagesPerSecond": 500, "bytesPerSecond": 1_000_000}))]
    #[case("/privacy", json!({"domains": ["*.partner.example", "partner.example"]}))]
    #[case("/tls", json!({"minVersion": "VersionTLS13", "trustAnchors": {"system": false, "secretRef": {"name": "a", "key": "b"}}}))]
    #[case("/tls", json!({"mode": "Optional", "requireClientCertificates": true, "clientCertificate": {"secretRef": {"name": "c"}}, "revocationLists": {"configMapRef": {"name": "r", "key": "crl.pem"}}}))]
    #[case("/tls", json!({"mode": "Disabled"}))]
    #[case("/partners", json!([{"domain": "vngtp.lab", "tls": {"mode": "Optional"}, "limits": {"maxStanzaBytes": 20000, "messagesPerSecond": 50, "bytesPerSecond": 100_000}}, {"domain": "other.lab", "tls": {"requireCertificate": true, "pinnedSha256": ["AB:cdabcdabcdabcdabcdabcdabcdabcdabcdabcdabcdabcdabcdabcdabcdabcd"]}}]))]
    #[case("/edge/directTls", json!({"enabled": true}))]
    #[case("/edge/proxyProtocol", json!({"trustedSources": ["192.0.2.0/24"]}))]
    #[case("/activation", json!("Prepared"))]
    #[case("/imp/0/router/profile", json!("Xcp"))]
    fn what_is_built_is_what_the_edge_accepts(#[case] path: &str, #[case] value: Value) {
        let valid = validated(&spec_with(path, value)).unwrap();
        let config = edge_config(&valid, &links());
        assert_eq!(EdgeConfig::from_yaml(&config.to_yaml()).unwrap(), config);
        assert_eq!(
            config.clone().signed(),
            config,
            "it says who wrote it, and what a reader must know"
        );
    }

    #[rstest]
    #[case(json!("Component"), LinkProfile::Component)]
    #[case(json!("Xcp"), LinkProfile::Xcp)]
    fn the_links_speak_the_profile_of_the_resource(#[case] profile: Value, #[case] expected: LinkProfile) {
        let valid = validated(&spec_with("/imp/0/router/profile", profile)).unwrap();
        let config = edge_config(&valid, &links());
        assert!(config.routers.iter().all(|r| r.profile == expected));
    }

    #[test]
    fn prepared_opens_no_link() {
        let valid = validated(&spec_with("/activation", json!("Prepared"))).unwrap();
        assert!(
            edge_config(&valid, &links())
                .routers
                .iter()
                .all(|r| r.endpoints.is_empty())
        );
    }

    #[test]
    fn each_cluster_has_its_router_with_its_own_nodes_domains_and_port() {
        let other = entry("second", "cups2.example.net", &["conf.coluc.com"]);
        let valid = validated(&with_entries(&["coluc.com"], &[other])).unwrap();
        let mut links = links();
        let node = ("cups2.example.net".to_owned(), "10.244.201.10".to_owned());
        links.insert("second".to_owned(), vec![node]);
        links.insert("gone".to_owned(), Vec::new());
        let config = edge_config(&valid, &links);
        assert_eq!(EdgeConfig::from_yaml(&config.to_yaml()).unwrap(), config);
        let told: Vec<String> = config
            .routers
            .iter()
            .map(|router| {
                let domains: Vec<&str> = router.domains.iter().map(Domain::as_str).collect();
                let endpoints: Vec<String> = router
                    .endpoints
                    .iter()
                    .map(|endpoint| endpoint.address.to_string())
                    .collect();
                format!(
                    "{} {} {} {}",
                    router.name,
                    domains.join(","),
                    endpoints.join(","),
                    router.secret_file.display()
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                "main coluc.com 10.244.200.10:7400 /etc/xmpp-federation/edge/router-main",
                "second conf.coluc.com 10.244.201.10:7401 /etc/xmpp-federation/edge/router-second",
            ]
        );
        let policy = json!(super::super::policy::policy(&valid, &links)).to_string();
        for allowed in [
            r#"{"ports":[{"port":7400,"protocol":"TCP"}],"to":[{"ipBlock":{"cidr":"10.244.200.10/32"}}]}"#,
            r#"{"ports":[{"port":7401,"protocol":"TCP"}],"to":[{"ipBlock":{"cidr":"10.244.201.10/32"}}]}"#,
        ] {
            assert!(policy.contains(allowed), "{policy}");
        }
    }

    #[test]
    fn the_same_input_gives_the_same_bytes() {
        let valid = validated(&spec_with("", Value::Null)).unwrap();
        assert_eq!(
            edge_config(&valid, &links()).to_yaml(),
            edge_config(&valid, &links()).to_yaml()
        );
    }
}
