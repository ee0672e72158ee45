//! The entries of spec.imp.

use std::time::Duration;

use xmpp_federation_core::Domain;
use xmpp_federation_core::edge_config::LinkProfile;
use xmpp_federation_core::fingerprint::Fingerprint;

use super::{Problems, Refusal};
use crate::api::spec::{self, SecretKeyRef, XmppFederationSpec};
use xmpp_federation_imp::access::{A_HOST, AxlVersion, Host};
use xmpp_federation_imp::desired::{RestartMode, RestartPolicy};
use xmpp_federation_imp::window::Window;

/// One cluster of IM and Presence.
#[derive(Debug, Clone, PartialEq)]
pub struct ImpCluster {
    /// The entry of the spec; its plain values are used as they are.
    pub spec: spec::ImpSpec,
    /// Who restarts routers, and when.
    pub restart: RestartPolicy,
    /// Which hosted domains it serves; empty: all.
    pub domains: Vec<Domain>,
    /// HTTPS port of AXL and Control Center.
    pub axl_port: u16,
    /// Fixed AXL version; `None`: detected.
    pub axl_version: Option<AxlVersion>,
    /// The links to the routers.
    pub router: RouterTerms,
    /// Hosts to use instead, by lower-case node name.
    pub addresses: Vec<(String, Host)>,
    /// SHA-256 fingerprints of the nodes' certificates.
    pub pins: Vec<Fingerprint>,
}

/// How the edges reach the XCP routers of a cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct RouterTerms {
    pub profile: LinkProfile,
    pub port: u16,
    /// The shared secret of the handshake.
    pub secret: SecretKeyRef,
}

/// All entries of spec.imp, and what may not be between them.
pub(super) fn clusters(problems: &mut Problems, spec: &XmppFederationSpec, hosted: &[Domain]) -> Vec<ImpCluster> {
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
        if let Some(address) = problems.parsed(&at, &node.address, A_HOST) {
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
    let axl_version = entry.axl.version.as_ref().and_then(|text| {
        let read = text.parse::<AxlVersion>();
        read.map_err(|error| problems.0.push(format!("{field}.axl.version: {error}")))
            .ok()
    });
    ImpCluster {
        spec: entry.clone(),
        restart: restart(problems, &field, entry),
        domains,
        axl_port: problems.port(&format!("{field}.axl.port"), entry.axl.port),
        axl_version,
        router: router(problems, &format!("{field}.router"), &entry.router),
        addresses,
        pins,
    }
}

/// Who restarts routers, and when. What is refused is used nowhere.
fn restart(problems: &mut Problems, field: &str, entry: &spec::ImpSpec) -> RestartPolicy {
    let Some(given) = &entry.restart else {
        problems.0.extend(
            entry
                .router
                .profile
                .link()
                .map(|_| format!("{field}.restart: is missing; write restart.mode, Automatic, Window or Manual")),
        );
        return RestartPolicy {
            mode: RestartMode::Manual,
            propagation_delay: Duration::ZERO,
            min_interval: Duration::ZERO,
        };
    };
    let window = given.window.as_ref().and_then(|window| {
        let zone = window.time_zone.as_deref();
        Window::new(&window.schedule, window.duration.get(), zone)
            .map_err(|sentences| {
                let at = format!("{field}.restart.window");
                let sentences = sentences.into_iter().map(|said| format!("{at}.{said}"));
                problems.0.extend(sentences);
            })
            .ok()
    });
    let mode = match (given.mode, window) {
        (spec::RestartMode::Automatic, _) => RestartMode::Automatic,
        (spec::RestartMode::Manual, _) => RestartMode::Manual,
        (spec::RestartMode::Window, Some(window)) => RestartMode::Window(Box::new(window)),
        (spec::RestartMode::Window, None) => {
            let missing = given.window.is_none();
            problems.0.extend(missing.then(|| {
                format!("{field}.restart.mode: Window needs restart.window; write its schedule and duration")
            }));
            RestartMode::Manual
        }
    };
    RestartPolicy {
        mode,
        propagation_delay: given.propagation_delay.get(),
        min_interval: given.min_interval.get(),
    }
}

/// The links to the routers. What is refused is used nowhere.
fn router(problems: &mut Problems, field: &str, given: &spec::RouterSpec) -> RouterTerms {
    let link = given.profile.link();
    let secret = given.secret_ref.clone().unwrap_or_else(|| {
        problems.0.extend(link.map(|_| {
            format!("{field}.secretRef: is missing; name the Secret and the key with the routers' shared secret")
        }));
        SecretKeyRef {
            name: String::new(),
            key: String::new(),
        }
    });
    RouterTerms {
        // S2s is refused with all that is not available yet.
        profile: link.unwrap_or_default(),
        port: problems.port(&format!("{field}.port"), given.port()),
        secret,
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
