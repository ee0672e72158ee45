//! The entries of spec.imp.

use xmpp_federation_core::Domain;
use xmpp_federation_core::fingerprint::Fingerprint;

use super::{Problems, Refusal};
use crate::api::spec::{self, XmppFederationSpec};
use xmpp_federation_imp::access::{A_HOST, AxlVersion, Host};
use xmpp_federation_imp::desired::RestartMode;
use xmpp_federation_imp::window::Window;

/// One cluster of IM and Presence.
#[derive(Debug, Clone, PartialEq)]
pub struct ImpCluster {
    /// The entry of the spec; its plain values are used as they are.
    pub spec: spec::ImpSpec,
    /// Who restarts routers, and when.
    pub restart: RestartMode,
    /// Which hosted domains it serves; empty: all.
    pub domains: Vec<Domain>,
    /// HTTPS port of AXL and Control Center.
    pub axl_port: u16,
    /// Fixed AXL version; `None`: detected.
    pub axl_version: Option<AxlVersion>,
    /// Port of the routers.
    pub router_port: u16,
    /// Hosts to use instead, by lower-case node name.
    pub addresses: Vec<(String, Host)>,
    /// SHA-256 fingerprints of the nodes' certificates.
    pub pins: Vec<Fingerprint>,
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
    let restart = match (entry.restart.mode, window) {
        (spec::RestartMode::Automatic, _) => RestartMode::Automatic,
        (spec::RestartMode::Manual, _) => RestartMode::Manual,
        (spec::RestartMode::Window, Some(window)) => RestartMode::Window(Box::new(window)),
        // Refused, so that the value is used nowhere.
        (spec::RestartMode::Window, None) => {
            let missing = entry.restart.window.is_none();
            problems.0.extend(missing.then(|| {
                format!("{field}.restart.mode: Window needs restart.window; write its schedule and duration")
            }));
            RestartMode::Manual
        }
    };
    let axl_version = entry.axl.version.as_ref().and_then(|text| {
        let read = text.parse::<AxlVersion>();
        read.map_err(|error| problems.0.push(format!("{field}.axl.version: {error}")))
            .ok()
    });
    ImpCluster {
        spec: entry.clone(),
        restart,
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
