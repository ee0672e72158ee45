//! Step two: the spec and what it refers to, as the typed and only input of `build`. Pure.

mod claims;
mod clusters;
mod edge;
mod partners;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::net::IpAddr;
use std::str::FromStr;

use k8s_openapi::api::core::v1::LocalObjectReference;
use xmpp_federation_core::edge_config::{Cidr, HumanDuration, Limits, Partner, Privacy, PrivacyMode, TlsMode};
use xmpp_federation_core::fingerprint::{Fingerprint, FingerprintError};
use xmpp_federation_core::{ComponentId, Domain, DomainError, DomainMap, DomainPattern};
use xmpp_federation_imp::desired::SlotSource;

use super::names::Owner;
use crate::api::bounds;
use crate::api::later;
use crate::api::slots::Slots;
use crate::api::spec::{NetworkPolicySpec, PodSpec, PullPolicy, ServiceSpec, XmppFederationSpec};
use crate::api::values::{DomainName, RemoteName};
use claims::used_twice;
pub use claims::{Claim, claim};
use clusters::clusters;
pub use clusters::{ImpCluster, dropped_entry};
pub use edge::TlsTerms;
use edge::{limits, proxy_sources, service, tls_terms};
use partners::partners;

/// Who decides as which user pods run, where the spec does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodUsers {
    /// The operator.
    Fixed,
    /// The cluster, which refuses others.
    Assigned,
}

/// What the operator itself adds to every resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Image of the edge where the spec names none.
    pub edge_image: String,
    /// Secrets in the namespace of the resource for pulling it, where the spec names none.
    pub edge_pull_secrets: Vec<String>,
    /// The operator's namespace: home of lease and ledgers. Its pods may use the edges' admin port.
    pub namespace: String,
    /// Only Secrets with [`crate::api::USE_LABEL`] are used.
    pub labelled_secrets: bool,
    /// Networks of pods and Services that DNS must never lead an edge to.
    pub cluster_networks: Vec<Cidr>,
    /// Users of pods for which the spec names none.
    pub pod_users: PodUsers,
    /// Federations whose pods a release replaces at a time; 0: all.
    pub upgrades_at_once: u16,
    /// How long one of them may not work, besides the time that its pods take one after the other.
    pub upgrade_timeout: HumanDuration,
}

/// A spec without contradictions, in the types of the field.
#[allow(clippy::struct_excessive_bools, reason = "each is a field of the spec of its own")]
#[derive(Debug, Clone, PartialEq)]
pub struct ValidSpec {
    pub owner: Owner,
    /// Whether rows and links are wanted.
    pub active: bool,
    /// Presence domains, then chat aliases.
    pub hosted: Vec<Domain>,
    pub hostname: Domain,
    /// Names that the certificate must have.
    pub certificate_names: Vec<Domain>,
    /// Component id of each slot.
    pub component_ids: Vec<ComponentId>,
    /// Who says how many.
    pub slots: SlotSource,
    pub replicas: u16,
    pub image: String,
    /// The spec gives it.
    pub image_given: bool,
    /// When it is pulled.
    pub pull_policy: Option<PullPolicy>,
    pub service: ServiceSpec,
    /// Public addresses given by hand.
    pub public_addresses: Vec<IpAddr>,
    pub limits: Limits,
    /// Time from unready to stop.
    pub drain_delay: HumanDuration,
    /// Time from ready to available.
    pub min_ready: HumanDuration,
    pub network_policy: NetworkPolicySpec,
    /// What is passed on to the pods.
    pub pod: PodSpec,
    /// The spec gives the Secrets for pulling the image.
    pub pull_secrets_given: bool,
    /// Certificates and security mode.
    pub tls: TlsTerms,
    /// TLS from the first byte is served too.
    pub direct_tls: bool,
    /// Load balancers whose PROXY headers are believed.
    pub proxy_sources: Vec<Cidr>,
    /// Remote domains with terms or hosts of their own.
    pub partners: Vec<Partner>,
    /// The remote domains that may federate.
    pub privacy: Privacy,
    /// Resolvers that see public DNS.
    pub resolvers: Vec<IpAddr>,
    /// Private networks that DNS may lead to.
    pub allow_private: Vec<Cidr>,
    /// Networks that it must not lead to.
    pub deny: Vec<Cidr>,
    /// The clusters of IM and Presence, in the order of the spec; at least one.
    pub imp: Vec<ImpCluster>,
    pub operator_namespace: String,
    pub pod_users: PodUsers,
}

impl ValidSpec {
    /// The remote domains that federate and that the spec names themselves, each once; a wildcard names none.
    pub fn named_partners(&self) -> impl Iterator<Item = &Domain> {
        let Privacy { mode, domains } = &self.privacy;
        let allowed = domains.iter().filter(|_| *mode == PrivacyMode::AllowList);
        let partners = self.partners.iter().map(|partner| &partner.domain);
        let denied = self.denied();
        let named = allowed.chain(partners).filter_map(DomainPattern::exact);
        let mut known = HashSet::new();
        named.filter(move |domain| denied.get(domain).is_none() && known.insert(*domain))
    }

    /// Entries of partners that the deny list refuses.
    pub fn refused_partners(&self) -> impl Iterator<Item = &DomainPattern> {
        let denied = self.denied();
        let partners = self.partners.iter().map(|partner| &partner.domain);
        partners.filter(move |pattern| match pattern.exact() {
            Some(domain) => denied.get(domain).is_some(),
            None => self.privacy.mode == PrivacyMode::DenyList && self.privacy.domains.contains(pattern),
        })
    }

    fn denied(&self) -> DomainMap<()> {
        let Privacy { mode, domains } = &self.privacy;
        let denied = domains.iter().filter(|_| *mode == PrivacyMode::DenyList);
        denied.map(|domain| (domain.clone(), ())).collect()
    }
}

/// Why a spec is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Values are wrong or not available; one sentence each.
    #[error("{}", bounds::list(.0, "; ", bounds::MESSAGE))]
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
    fn pattern(&mut self, field: &str, name: &RemoteName) -> Option<DomainPattern> {
        name.0
            .parse()
            .map_err(|e: DomainError| self.0.push(format!("{field}: {e}")))
            .ok()
    }
    fn patterns(&mut self, field: &str, names: &[RemoteName]) -> Vec<DomainPattern> {
        let each = names.iter().enumerate();
        each.filter_map(|(i, name)| self.pattern(&format!("{field}[{i}]"), name))
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

/// What is passed on to the pods, with the operator's Secrets for pulling where none is named.
fn pod(spec: &PodSpec, pull_secrets: &[String]) -> PodSpec {
    let mut pod = spec.clone();
    if pod.image_pull_secrets.is_empty() {
        let reference = |name: &String| LocalObjectReference { name: name.clone() };
        pod.image_pull_secrets = pull_secrets.iter().map(|name| reference(name).into()).collect();
    }
    pod
}

/// Checks a spec against itself, this release and the claims of others.
pub fn run<'a>(
    owner: Owner,
    spec: &XmppFederationSpec,
    slots: Slots,
    settings: &Settings,
    claims: impl IntoIterator<Item = &'a Claim>,
) -> Result<ValidSpec, Refusal> {
    let mut problems = Problems(later::refused(spec));
    problems.0.extend(spec.edge.unknown_fields());
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
        domains: problems.patterns("spec.privacy.domains", &spec.privacy.domains),
    };
    let replicas = u16::try_from(spec.edge.replicas.max(0)).unwrap_or(0);
    if replicas > slots.count {
        problems.0.push(format!(
            "spec.edge.slots: {slots} is less than replicas ({replicas}); each replica needs a component id registered ahead: lower replicas, or set slots to {replicas}, which restarts Cisco XCP Router on every node"
        ));
    }
    let most = spec.edge.autoscaling.as_ref().map(|scaling| scaling.max_replicas);
    if let Some(most) = most.filter(|most| *most > i32::from(slots.count)) {
        problems.0.push(format!(
            "spec.edge.autoscaling.maxReplicas: {most} is above slots ({slots_are}); each replica needs a component id registered ahead: lower it, or set slots to {most}, which restarts Cisco XCP Router on every node",
            slots_are = slots.to_string().trim_end_matches(',')
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
    let direct_tls = spec.edge.direct_tls.as_ref().is_some_and(|d| d.enabled);
    service(&mut problems, &spec.edge.service, direct_tls);
    let proxy_sources = proxy_sources(&mut problems, spec);
    let partners = partners(&mut problems, spec);
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
    let component_ids = slots.component_ids(&hostname);
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
        slots: slots.source,
        replicas,
        image_given: spec.edge.image.is_some(),
        image: spec.edge.image.clone().unwrap_or_else(|| settings.edge_image.clone()),
        pull_policy: spec.edge.image_pull_policy,
        service: spec.edge.service.clone(),
        public_addresses,
        limits: limits(&spec.edge.limits),
        drain_delay: spec.edge.drain_delay.0,
        min_ready: spec.edge.min_ready.0,
        network_policy: spec.edge.network_policy.clone(),
        pull_secrets_given: !spec.edge.pod.image_pull_secrets.is_empty(),
        pod: pod(&spec.edge.pod, &settings.edge_pull_secrets),
        tls: tls_terms(spec),
        direct_tls,
        proxy_sources,
        partners,
        privacy,
        resolvers,
        allow_private,
        deny: settings.cluster_networks.clone(),
        imp,
        operator_namespace: settings.namespace.clone(),
        pod_users: settings.pod_users,
    })
}

/// Component id of each slot, as far as the host name is one.
pub fn component_ids(spec: &XmppFederationSpec, slots: Slots) -> Vec<ComponentId> {
    let host = Domain::parse(&spec.edge.hostname.0);
    host.map_or_else(|_| Vec::new(), |host| slots.component_ids(&host))
}
