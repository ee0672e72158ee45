//! Step two: the spec and what it refers to, as the typed and only input of `build`. Pure.

use std::net::IpAddr;
use std::str::FromStr;

use kube::ResourceExt;
use xmpp_federation_core::edge_config::{
    Cidr, HostPort, HumanDuration, Limits, Peer, Privacy, StaticRoute, TlsMode, TlsVersion,
};
use xmpp_federation_core::fingerprint::{Fingerprint, FingerprintError};
use xmpp_federation_core::{ComponentId, Domain};

use super::names::Owner;
use crate::api::spec::{self, LimitsSpec, PodSpec, PullPolicy, ServiceSpec, XmppFederationSpec};
use crate::api::values::DomainName;
use crate::api::{XmppFederation, later};
use xmpp_federation_imp::access::AxlVersion;
use xmpp_federation_imp::window::Window;

/// What the operator itself adds to every resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Image of the edge where the spec names none.
    pub edge_image: String,
    /// The operator's namespace: home of lease and ledgers, and who may ask the edges' admin port.
    pub namespace: String,
    /// Networks of pods and Services that DNS must never lead an edge to.
    pub cluster_networks: Vec<Cidr>,
}

/// A spec without contradictions, in the types of the field.
#[derive(Debug, Clone, PartialEq)]
pub struct ValidSpec {
    /// Owner of all objects.
    pub owner: Owner,
    /// Whether rows and links are wanted.
    pub active: bool,
    /// Presence domains, then chat aliases.
    pub hosted: Vec<Domain>,
    /// Public host name.
    pub hostname: Domain,
    /// Names that the certificate must have.
    pub certificate_names: Vec<Domain>,
    /// Component id of each slot.
    pub component_ids: Vec<ComponentId>,
    /// Wanted pods.
    pub replicas: u16,
    /// Image of the edge.
    pub image: String,
    /// When it is pulled.
    pub pull_policy: Option<PullPolicy>,
    /// The Service.
    pub service: ServiceSpec,
    /// Public addresses given by hand.
    pub public_addresses: Vec<IpAddr>,
    /// The edge's limits.
    pub limits: Limits,
    /// Time from unready to stop.
    pub drain_delay: HumanDuration,
    /// What is passed on to the pods.
    pub pod: PodSpec,
    /// Certificates and security mode.
    pub tls: TlsTerms,
    /// TLS from the first byte is served too.
    pub direct_tls: bool,
    /// Load balancers whose PROXY headers are believed.
    pub proxy_sources: Vec<Cidr>,
    /// Policy per remote domain.
    pub peers: Vec<Peer>,
    /// Who may federate.
    pub privacy: Privacy,
    /// Fixed addresses.
    pub static_routes: Vec<StaticRoute>,
    /// Resolvers that see public DNS.
    pub resolvers: Vec<IpAddr>,
    /// Private networks that DNS may lead to.
    pub allow_private: Vec<Cidr>,
    /// Networks that it must not lead to.
    pub deny: Vec<Cidr>,
    /// The clusters of IM and Presence, in the order of the spec; at least one.
    pub imp: Vec<ImpCluster>,
    /// Namespace of the operator.
    pub operator_namespace: String,
}

/// Certificates and security mode.
#[derive(Debug, Clone, PartialEq)]
pub struct TlsTerms {
    /// A brought certificate's Secret; `None`: our own authority.
    pub brought_certificate: Option<String>,
    /// The Secret with the certificate shown where the edge connects; `None`: the same one.
    pub client_certificate: Option<String>,
    /// Security mode.
    pub mode: TlsMode,
    /// Whether a peer's certificate must be valid and name its domain.
    pub require_client_certificates: bool,
    /// ConfigMap and key with revocation lists.
    pub revocation_lists: Option<spec::ConfigMapKeyRef>,
    /// Public authorities count.
    pub system_anchors: bool,
    /// Secret and key with further authorities.
    pub anchors: Option<spec::SecretKeyRef>,
    /// Lowest TLS version.
    pub min_version: TlsVersion,
}

/// One cluster of IM and Presence.
#[derive(Debug, Clone, PartialEq)]
pub struct ImpCluster {
    /// The entry of the spec; its plain values are used as they are.
    pub spec: spec::ImpSpec,
    /// When routers may be restarted, in mode Window.
    pub window: Option<Window>,
    /// Which hosted domains it serves; empty: all.
    pub domains: Vec<Domain>,
    /// HTTPS port of AXL and Control Center.
    pub axl_port: u16,
    /// Fixed AXL version; `None`: detected.
    pub axl_version: Option<AxlVersion>,
    /// Port of the routers.
    pub router_port: u16,
    /// Address overrides by lower-case node name.
    pub addresses: Vec<(String, IpAddr)>,
    /// SHA-256 fingerprints of the nodes' certificates.
    pub pins: Vec<Fingerprint>,
}

/// Names that another resource holds already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Namespace and name of the other, as `namespace/name`.
    pub resource: String,
    /// Its domains and aliases as written.
    pub domains: Vec<String>,
    /// Its component ids.
    pub component_ids: Vec<String>,
}

/// Why a spec is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Values are wrong or not available; one sentence each.
    #[error("{}", .0.join("; "))]
    Invalid(Vec<String>),
    /// Another resource has a name already.
    #[error("{0}")]
    UsedTwice(String),
}

/// Collects problems while values are read.
struct Problems(Vec<String>);

impl Problems {
    fn domain(&mut self, field: &str, name: &DomainName) -> Option<Domain> {
        Domain::parse_canonical(&name.0)
            .map_err(|e| self.0.push(format!("{field}: {e}")))
            .ok()
    }
    fn domains(&mut self, field: &str, names: &[DomainName]) -> Vec<Domain> {
        names
            .iter()
            .enumerate()
            .filter_map(|(i, name)| self.domain(&format!("{field}[{i}]"), name))
            .collect()
    }
    fn parsed<T: FromStr>(&mut self, field: &str, text: &str, wanted: &str) -> Option<T> {
        text.parse()
            .map_err(|_| self.0.push(format!("{field}: {text:?} is not {wanted}")))
            .ok()
    }
    /// A port; 0 with a problem noted, so that the value is used nowhere.
    fn port(&mut self, field: &str, number: i32) -> u16 {
        let port = u16::try_from(number).unwrap_or_default();
        if port == 0 {
            self.0
                .push(format!("{field}: {number} is not a TCP port; write 1 to 65535"));
        }
        port
    }
    fn pins<'a>(&mut self, field: &str, texts: impl IntoIterator<Item = &'a String>) -> Vec<Fingerprint> {
        let read = |text: &String| {
            text.parse()
                .map_err(|error: FingerprintError| self.0.push(format!("{field}: {error}")))
                .ok()
        };
        texts.into_iter().filter_map(read).collect()
    }
    fn all<'a, T: FromStr>(&mut self, field: &str, texts: impl Iterator<Item = &'a str>, wanted: &str) -> Vec<T> {
        texts
            .enumerate()
            .filter_map(|(i, text)| self.parsed(&format!("{field}[{i}]"), text, wanted))
            .collect()
    }
}

const AN_ADDRESS: &str = "an IP address such as 192.0.2.10 or 2001:db8::10";
const A_NETWORK: &str = "a network such as 192.0.2.0/24 or 2001:db8::/32";

/// Checks a spec against itself, this release and the claims of others.
pub fn run(
    owner: Owner,
    spec: &XmppFederationSpec,
    settings: &Settings,
    claims: &[Claim],
) -> Result<ValidSpec, Refusal> {
    let mut problems = Problems(later::refused(spec));
    let domains = problems.domains("spec.domains", &spec.domains);
    let aliases = problems.domains("spec.chatNodeAliases", &spec.chat_node_aliases);
    let hostname = problems.domain("spec.edge.hostname", &spec.edge.hostname);
    let mut hosted = domains.clone();
    for alias in aliases {
        if hosted.contains(&alias) {
            problems
                .0
                .push(format!("spec.chatNodeAliases: {alias} is listed twice; remove one"));
        } else {
            hosted.push(alias);
        }
    }
    let privacy = Privacy {
        mode: spec.privacy.mode,
        domains: problems.domains("spec.privacy.domains", &spec.privacy.domains),
    };
    let static_routes = static_routes(&mut problems, spec);
    let slots = spec.slots();
    let replicas = u16::try_from(spec.edge.replicas.max(0)).unwrap_or(0);
    if replicas > slots {
        problems.0.push(format!(
            "spec.edge.slots: {slots} is less than replicas ({replicas}); each replica needs a component id registered ahead"
        ));
    }
    let public_addresses = problems.all(
        "spec.edge.publicAddresses",
        spec.edge.public_addresses.iter().map(|a| a.0.as_str()),
        AN_ADDRESS,
    );
    let resolvers = problems.all(
        "spec.dns.resolvers",
        spec.dns.resolvers.iter().map(|a| a.0.as_str()),
        AN_ADDRESS,
    );
    let allow_private = problems.all(
        "spec.dns.allowPrivateTargets",
        spec.dns.allow_private_targets.iter().map(|n| n.0.as_str()),
        A_NETWORK,
    );
    let proxy_sources = proxy_sources(&mut problems, spec);
    let peers = peers(&mut problems, spec);
    let direct_tls = spec.edge.direct_tls.as_ref().is_some_and(|d| d.enabled);
    if direct_tls && spec.tls.mode == TlsMode::Disabled {
        problems.0.push(
            "spec.edge.directTls: is enabled while spec.tls.mode is Disabled; disable it, or choose Required or Optional"
                .to_owned(),
        );
    }
    let imp = clusters(&mut problems, spec, &hosted);
    let (Some(hostname), true) = (hostname, problems.0.is_empty()) else {
        return Err(Refusal::Invalid(problems.0));
    };
    let component_ids = spec.component_ids(&hostname);
    used_twice(&hosted, &component_ids, claims)?;

    let mut certificate_names = hosted.clone();
    if !certificate_names.contains(&hostname) {
        certificate_names.push(hostname.clone());
    }
    Ok(ValidSpec {
        owner,
        active: later::wants_registration(spec.activation),
        hosted,
        hostname,
        certificate_names,
        component_ids,
        replicas,
        image: spec.edge.image.clone().unwrap_or_else(|| settings.edge_image.clone()),
        pull_policy: spec.edge.image_pull_policy,
        service: spec.edge.service.clone(),
        public_addresses,
        limits: limits(&spec.edge.limits),
        drain_delay: spec.edge.drain_delay.0,
        pod: spec.edge.pod.clone(),
        tls: tls_terms(spec),
        direct_tls,
        proxy_sources,
        peers,
        privacy,
        static_routes,
        resolvers,
        allow_private,
        deny: settings.cluster_networks.clone(),
        imp,
        operator_namespace: settings.namespace.clone(),
    })
}

fn static_routes(problems: &mut Problems, spec: &XmppFederationSpec) -> Vec<StaticRoute> {
    let mut routes = Vec::new();
    for (i, route) in spec.static_routes.iter().enumerate() {
        let field = format!("spec.staticRoutes[{i}]");
        let Some(domain) = problems.domain(&format!("{field}.domain"), &route.domain) else {
            continue;
        };
        let addresses = route
            .addresses
            .iter()
            .enumerate()
            .map(|(n, a)| HostPort {
                host: a.host.clone(),
                port: problems.port(&format!("{field}.addresses[{n}].port"), a.port),
            })
            .collect();
        routes.push(StaticRoute { domain, addresses });
    }
    routes
}

fn proxy_sources(problems: &mut Problems, spec: &XmppFederationSpec) -> Vec<Cidr> {
    let proxies = spec.edge.proxy_protocol.iter();
    let networks = proxies.flat_map(|proxy| &proxy.trusted_sources);
    problems.all(
        "spec.edge.proxyProtocol.trustedSources",
        networks.map(|network| network.0.as_str()),
        A_NETWORK,
    )
}

/// What the spec says of certificates and modes, in the edge's words.
fn tls_terms(spec: &XmppFederationSpec) -> TlsTerms {
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

fn peers(problems: &mut Problems, spec: &XmppFederationSpec) -> Vec<Peer> {
    let mut peers: Vec<Peer> = Vec::new();
    for (i, peer) in spec.peers.iter().enumerate() {
        let field = format!("spec.peers[{i}]");
        let Some(domain) = problems.domain(&format!("{field}.domain"), &peer.domain) else {
            continue;
        };
        let pinned_sha256 = problems.pins(&format!("{field}.pinnedSha256"), &peer.pinned_sha256);
        peers.push(Peer {
            domain,
            tls_mode: peer.tls_mode,
            require_certificate: peer.require_certificate,
            pinned_sha256,
            max_stanza_bytes: peer.max_stanza_bytes.and_then(|n| usize::try_from(n).ok()),
            messages_per_second: peer.messages_per_second.and_then(|n| u32::try_from(n).ok()),
            bytes_per_second: peer.bytes_per_second.and_then(|n| u64::try_from(n).ok()),
        });
    }
    peers
}

/// All entries of spec.imp, and what may not be between them.
fn clusters(problems: &mut Problems, spec: &XmppFederationSpec, hosted: &[Domain]) -> Vec<ImpCluster> {
    if spec.imp.is_empty() {
        problems
            .0
            .push("spec.imp: is empty; describe at least one cluster of IM and Presence".to_owned());
    }
    let found: Vec<ImpCluster> = spec.imp.iter().map(|entry| imp(problems, entry, hosted)).collect();
    for (i, entry) in found.iter().enumerate() {
        let earlier = found.get(..i).unwrap_or_default();
        let name = &entry.spec.name;
        if earlier.iter().any(|other| other.spec.name == *name) {
            problems.0.push(format!(
                "spec.imp[{name}]: the name is used by two entries; give each its own"
            ));
        } else if let Some(other) = earlier.iter().find(|other| other.publisher() == entry.publisher()) {
            problems.0.push(format!(
                "spec.imp[{name}].publisher: {} is the publisher of spec.imp[{}] too; a cluster has one entry, put all its domains there",
                entry.publisher(),
                other.spec.name
            ));
        }
    }
    // With an entry that serves all, nothing can be left over.
    let unserved: Vec<&str> = hosted
        .iter()
        .filter(|domain| !found.iter().any(|entry| entry.serves(domain)))
        .map(Domain::as_str)
        .collect();
    if !unserved.is_empty() && !found.is_empty() {
        problems.0.push(format!(
            "spec.imp: no entry serves {}; add it to the domains of one, or leave domains of an entry empty for all",
            unserved.join(", ")
        ));
    }
    found
}

/// An entry that is in the spec no more, as it was accepted last. Its domains count no longer.
pub fn dropped_entry(entry: &spec::ImpSpec) -> Result<ImpCluster, Refusal> {
    let mut problems = Problems(Vec::new());
    let found = imp(
        &mut problems,
        &spec::ImpSpec {
            domains: Vec::new(),
            ..entry.clone()
        },
        &[],
    );
    if problems.0.is_empty() {
        Ok(found)
    } else {
        Err(Refusal::Invalid(problems.0))
    }
}

impl ImpCluster {
    /// Host name or address of the publisher, as names are compared.
    pub fn publisher(&self) -> String {
        self.spec.publisher.to_ascii_lowercase()
    }

    /// Whether the cluster has that domain's users.
    pub fn serves(&self, domain: &Domain) -> bool {
        self.domains.is_empty() || self.domains.contains(domain)
    }
}

fn imp(problems: &mut Problems, entry: &spec::ImpSpec, hosted: &[Domain]) -> ImpCluster {
    let field = format!("spec.imp[{}]", entry.name);
    let domains = problems.domains(&format!("{field}.domains"), &entry.domains);
    for domain in &domains {
        if !hosted.contains(domain) {
            problems.0.push(format!(
                "{field}.domains: {domain} is not in spec.domains or chatNodeAliases; add it there"
            ));
        }
    }
    let mut addresses = Vec::new();
    for node in &entry.nodes {
        let at = format!("{field}.nodes[{}].address", node.name);
        if let Some(address) = problems.parsed(&at, &node.address, AN_ADDRESS) {
            addresses.push((node.name.to_ascii_lowercase(), address));
        }
    }
    if let Some(check) = &entry.federation_check
        && !is_one_select(&check.query)
    {
        problems.0.push(format!(
            "{field}.federationCheck.query: {:?} is not one SELECT on one line of at most 1000 bytes without a semicolon and without INTO; write one",
            check.query
        ));
    }
    let pins = problems.pins(
        &format!("{field}.tls.pinnedSha256"),
        entry.tls.pinned_sha256.iter().flatten(),
    );
    let window = entry.restart.window.as_ref().and_then(|window| {
        let zone = window.time_zone.as_deref();
        Window::new(&window.schedule, window.duration.get(), zone)
            .map_err(|sentences| {
                let at = format!("{field}.restart.window");
                let sentences = sentences.into_iter().map(|said| format!("{at}.{said}"));
                problems.0.extend(sentences);
            })
            .ok()
    });
    if window.is_none() && entry.restart.mode == spec::RestartMode::Window {
        let missing = entry.restart.window.is_none();
        problems
            .0
            .extend(missing.then(|| {
                format!("{field}.restart.mode: Window needs restart.window; write its schedule and duration")
            }));
    }
    let axl_version = entry.axl.version.as_ref().and_then(|text| {
        let read = text.parse::<AxlVersion>();
        read.map_err(|error| problems.0.push(format!("{field}.axl.version: {error}")))
            .ok()
    });
    ImpCluster {
        spec: entry.clone(),
        window,
        domains,
        axl_port: problems.port(&format!("{field}.axl.port"), entry.axl.port),
        axl_version,
        router_port: problems.port(&format!("{field}.router.port"), entry.router.port),
        addresses,
        pins,
    }
}

/// Whether a query can do nothing but read, and is one.
fn is_one_select(query: &str) -> bool {
    let lower = query.to_ascii_lowercase();
    let mut words = lower.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    lower.starts_with("select ")
        && query.len() <= 1000
        && !query.contains(|c: char| c == ';' || c.is_control())
        && !words.any(|word| word == "into")
}

fn limits(spec: &LimitsSpec) -> Limits {
    let given = |value: Option<i32>| value.and_then(|v| usize::try_from(v).ok());
    let usize_or = |value: Option<i32>, default: usize| given(value).unwrap_or(default);
    let d = Limits::default();
    Limits {
        max_stanza_bytes: usize_or(spec.max_stanza_bytes, d.max_stanza_bytes),
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

fn used_twice(hosted: &[Domain], ids: &[ComponentId], claims: &[Claim]) -> Result<(), Refusal> {
    for claim in claims {
        if let Some(domain) = hosted.iter().find(|d| claim.domains.iter().any(|c| c == d.as_str())) {
            return Err(Refusal::UsedTwice(format!(
                "{domain} is served by XmppFederation {} already; remove it from one of the two",
                claim.resource
            )));
        }
        if let Some(id) = ids.iter().find(|i| claim.component_ids.iter().any(|c| c == i.as_str())) {
            return Err(Refusal::UsedTwice(format!(
                "the component id {id} follows from the host names of this resource and of XmppFederation {}; use another edge.hostname in one of the two",
                claim.resource
            )));
        }
    }
    Ok(())
}

/// Component id of each slot, as far as the host name is one.
pub fn component_ids(spec: &XmppFederationSpec) -> Vec<ComponentId> {
    let Ok(host) = Domain::parse(&spec.edge.hostname.0) else {
        return Vec::new();
    };
    spec.component_ids(&host)
}

/// Names that older resources hold; the newcomer waits, so that no running federation is disturbed.
pub fn claims(object: &XmppFederation, others: &[XmppFederation]) -> Vec<Claim> {
    let age = |o: &XmppFederation| (o.creation_timestamp().map(|t| t.0), o.uid());
    others
        .iter()
        .filter(|other| other.uid() != object.uid() && age(other) < age(object))
        .map(|other| {
            let resource = format!("{}/{}", other.namespace().unwrap_or_default(), other.name_any());
            claim(resource, &other.spec)
        })
        .collect()
}

/// What a resource claims; values that are no domains claim nothing.
fn claim(resource: String, spec: &XmppFederationSpec) -> Claim {
    let domains = spec
        .domains
        .iter()
        .chain(&spec.chat_node_aliases)
        .map(|d| d.0.clone())
        .collect();
    let ids = component_ids(spec).into_iter();
    let component_ids = ids.map(|id| id.as_str().to_owned()).collect();
    Claim {
        resource,
        domains,
        component_ids,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::super::testing::{entry, owner, settings, spec_with, validated, with_entries};
    use super::*;
    use rstest::rstest;
    use serde_json::{Value, json};

    fn sentences(path: &str, value: Value) -> String {
        match validated(&spec_with(path, value)) {
            Err(Refusal::Invalid(sentences)) => sentences.join("; "),
            other => panic!("{path} was accepted: {other:?}"),
        }
    }

    #[test]
    fn the_guides_resource_gets_the_guides_component_ids() {
        let valid = validated(&spec_with("", Value::Null)).unwrap();
        let ids: Vec<&str> = valid.component_ids.iter().map(ComponentId::as_str).collect();
        assert_eq!(
            ids,
            [
                "cm-2_s2scp-1.eft-xwye-a-coluc-com",
                "cm-2_s2scp-1.eft-xwye-a-1-coluc-com"
            ]
        );
        let names: Vec<&str> = valid.certificate_names.iter().map(Domain::as_str).collect();
        assert_eq!(names, ["coluc.com", "conf.coluc.com", "eft-xwye-a.coluc.com"]);
        assert!(valid.active);
    }

    #[rstest]
    #[case("SELECT paramvalue FROM processconfig WHERE paramname = 'x'", true)]
    #[case("select into_value from t", true)]
    #[case("SELECT a FROM b; DELETE FROM b", false)]
    #[case("SELECT a FROM b INTO TEMP c", false)]
    #[case("SELECT a FROM b\nWHERE c", false)]
    #[case("DELETE FROM b", false)]
    #[case("EXECUTE PROCEDURE select ()", false)]
    #[case("selection", false)]
    fn a_check_of_the_federation_only_reads(#[case] query: &str, #[case] taken: bool) {
        let check = json!({"query": query, "offValue": "0"});
        let valid = validated(&spec_with("/imp/0/federationCheck", check));
        assert_eq!(valid.is_ok(), taken, "{:?}", valid.err());
    }

    #[rstest]
    #[case("/domains", json!(["bücher.example"]), "write \"xn--bcher-kva.example\"")]
    #[case("/domains", json!(["192.0.2.1"]), "is an IP address")]
    #[case("/privacy/domains", json!(["coluc.com"]), "hosted here; the list names remote domains only")]
    #[case("/staticRoutes", json!([{"domain": "conf.coluc.com", "addresses": [{"host": "198.51.100.20"}]}]), "hosted here and routed elsewhere")]
    #[case("/chatNodeAliases", json!(["coluc.com"]), "listed twice")]
    #[case("/edge/slots", json!(1), "each replica needs a component id")]
    #[case("/edge/publicAddresses", json!(["edge"]), "is not an IP address")]
    #[case("/imp/0/domains", json!(["other.example"]), "add it there")]
    #[case("/imp/0/nodes", json!([{"name": "ecup10.coluc.com", "address": "ecup10"}]), "spec.imp[main].nodes[ecup10.coluc.com].address")]
    #[case("/imp/0/tls", json!({"pinnedSha256": ["zz"]}), "64 hexadecimal digits")]
    #[case("/imp/0/axl", json!({"version": "14"}), "spec.imp[main].axl.version: \"14\" is not an AXL version; write major and minor number")]
    #[case("/imp/0/axl", json!({"port": 0}), "spec.imp[main].axl.port: 0 is not a TCP port; write 1 to 65535")]
    #[case("/imp/0/router/port", json!(74000), "spec.imp[main].router.port: 74000 is not a TCP port")]
    #[case("/staticRoutes", json!([{"domain": "a.example", "addresses": [{"host": "198.51.100.20", "port": -1}]}]), "spec.staticRoutes[0].addresses[0].port: -1 is not a TCP port")]
    #[case("/imp/0/restart", json!({"mode": "Window"}), "spec.imp[main].restart.mode: Window needs restart.window")]
    #[case("/imp/0/restart", json!({"mode": "Window", "window": {"schedule": "0 2 30 2 *", "duration": "1h"}}), "spec.imp[main].restart.window.schedule: \"0 2 30 2 *\" never comes")]
    #[case("/imp/0/restart", json!({"mode": "Window", "window": {"schedule": "0 2 * * *", "duration": "30s"}}), "spec.imp[main].restart.window.duration: 30 s is too short")]
    #[case("/imp/0/restart", json!({"mode": "Window", "window": {"schedule": "0 2 * * *", "duration": "1h", "timeZone": "CEST"}}), "spec.imp[main].restart.window.timeZone: \"CEST\" is not")]
    #[case("/edge/proxyProtocol", json!({"trustedSources": ["lb"]}), "trustedSources[0]: \"lb\" is not a network")]
    #[case("/edge/proxyProtocol", json!({"trustedSources": ["0.0.0.0/0"]}), "proxyProtocol.trustedSources[0]: 0.0.0.0/0 is every address")]
    #[case("/tls", json!({"mode": "Disabled", "requireClientCertificates": true}), "tls.requireClientCertificates: true cannot hold with tls.mode Disabled")]
    #[case("/peers", json!([{"domain": "coluc.com"}]), "spec.peers[0].domain: coluc.com is hosted here")]
    #[case("/peers", json!([{"domain": "a.example"}, {"domain": "a.example"}]), "spec.peers[1].domain: a.example has two entries")]
    #[case("/peers", json!([{"domain": "a.example", "pinnedSha256": ["zz"]}]), "spec.peers[0].pinnedSha256: \"zz\" is not a SHA-256")]
    #[case("/peers", json!([{"domain": "a.example", "tlsMode": "Disabled", "requireCertificate": true}]), "spec.peers[0].requireCertificate: true cannot hold with tlsMode Disabled, where nobody shows a certificate; set this peer's tlsMode to Required")]
    fn a_wrong_value_is_named_with_its_field_and_remedy(#[case] path: &str, #[case] value: Value, #[case] says: &str) {
        let said = sentences(path, value);
        assert!(said.contains(says), "{said}");
    }

    #[rstest]
    #[case("/edge/autoscaling", json!({"maxReplicas": 4}))]
    #[case("/dialback", json!({"rotateEvery": "2160h"}))]
    #[case("/dialback", json!({"secretRef": {"name": "a", "key": "b"}}))]
    #[case("/tls", json!({"certificate": {"issuerRef": {"name": "a"}}}))]
    #[case("/tls", json!({"clientCertificate": {"issuerRef": {"name": "a"}}}))]
    #[case("/dns", json!({"publish": "ExternalDns"}))]
    fn a_value_that_comes_later_is_refused_also_when_it_is_stored_already(#[case] path: &str, #[case] value: Value) {
        let said = sentences(path, value);
        assert!(said.contains("is not available in this release; "), "{said}");
    }

    #[rstest]
    #[case::peers(&[], &["other.example.net"], &[])]
    #[case::split(&["coluc.com"], &["other.example.net"], &["conf.coluc.com"])]
    #[case::three(&["coluc.com"], &["b.example.net", "c.example.net"], &["coluc.com", "conf.coluc.com"])]
    fn several_clusters_are_taken(#[case] own: &[&str], #[case] publishers: &[&str], #[case] domains: &[&str]) {
        let others: Vec<Value> = publishers
            .iter()
            .zip('b'..)
            .map(|(publisher, name)| entry(&name.to_string(), publisher, domains))
            .collect();
        let valid = validated(&with_entries(own, &others)).unwrap();
        assert_eq!(valid.imp.len(), publishers.len() + 1);
        let hosted = valid.hosted.iter();
        assert!(hosted.clone().all(|d| valid.imp.iter().any(|imp| imp.serves(d))));
    }

    #[rstest]
    #[case::same_publisher(&[], &entry("b", "CUPS.ciscotac.net", &[]), "spec.imp[b].publisher: cups.ciscotac.net is the publisher of spec.imp[main] too")]
    #[case::same_name(&[], &entry("main", "b.example.net", &[]), "spec.imp[main]: the name is used by two entries")]
    #[case::unserved(&["coluc.com"], &entry("b", "b.example.net", &["coluc.com"]), "spec.imp: no entry serves conf.coluc.com")]
    #[case::foreign_domain(&[], &entry("b", "b.example.net", &["other.example"]), "spec.imp[b].domains: other.example is not in spec.domains")]
    fn what_two_clusters_may_not_share_is_named(#[case] own: &[&str], #[case] other: &Value, #[case] says: &str) {
        let Err(Refusal::Invalid(sentences)) = validated(&with_entries(own, std::slice::from_ref(other))) else {
            panic!("accepted")
        };
        assert!(sentences.iter().any(|s| s.contains(says)), "{sentences:?}");
    }

    #[test]
    fn an_entry_that_left_the_spec_is_judged_without_its_domains() {
        let left: spec::ImpSpec = serde_json::from_value(entry("b", "B.example.net", &["gone.example"])).unwrap();
        let found = dropped_entry(&left).unwrap();
        assert_eq!(found.publisher(), "b.example.net");
        assert!(found.domains.is_empty());
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let mut spec = spec_with("/domains", json!(["COLUC.com"]));
        spec.edge.slots = Some(1);
        let Err(Refusal::Invalid(sentences)) = validated(&spec) else {
            panic!("accepted")
        };
        assert_eq!(sentences.len(), 2, "{sentences:?}");
    }

    #[rstest]
    // The same domain; a realm that two host names share; nothing in common.
    #[case("coluc.com", "other.example.net", Some("coluc.com is served by XmppFederation b/b"))]
    #[case("other.example", "eft-xwye.a.coluc.com", Some("follows from the host names"))]
    #[case("other.example", "other.example.net", None)]
    fn names_of_another_resource_are_refused_naming_it(
        #[case] domain: &str,
        #[case] hostname: &str,
        #[case] says: Option<&str>,
    ) {
        let mut other = spec_with("/domains", json!([domain]));
        other.chat_node_aliases.clear();
        other.edge.hostname = DomainName(hostname.to_owned());
        let claims = [claim("b/b".to_owned(), &other)];
        let result = run(owner(), &spec_with("", Value::Null), &settings(), &claims);
        match (result, says) {
            (Err(Refusal::UsedTwice(said)), Some(says)) => {
                assert!(said.contains(says) && said.contains("b/b"), "{said}");
            }
            (Ok(_), None) => {}
            (other, _) => panic!("{other:?}"),
        }
    }
}
