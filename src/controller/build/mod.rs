//! Step three: secret material, then all desired objects, one file each, and the edge's own check of them. Pure but for new secrets.

mod budget;
pub mod chains;
mod config;
pub mod material;
mod mesh;
mod policy;
mod running;
pub mod secrets;
mod services;
mod stateful_set;
#[cfg(test)]
mod tests;

use data_encoding::HEXLOWER;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde_json::Value;
use xmpp_federation_core::edge_config::{EdgeConfig, Problem};

use super::dereference::KubeView;
use super::validate::{Refusal, ValidSpec};
pub use config::{RouterAddresses, edge_config};
use material::Material;
pub use running::{ClusterSlots, pods_to_run};

/// All objects of one resource. Applying takes this apart field by field, so that none can be
/// forgotten.
pub struct DesiredObjects {
    /// Stored once and never changed afterwards; `None`: exists already, or may not be made.
    pub dialback: Option<Secret>,
    /// Stored once and never changed afterwards.
    pub authority: Option<Secret>,
    /// The leaf of our own authority; `None`: a brought one is used.
    pub certificate: DesiredObject<Secret>,
    pub router: DesiredObject<Secret>,
    pub config: DesiredObject<ConfigMap>,
    pub account: ServiceAccount,
    pub pods_service: Service,
    pub service: Service,
    pub budget: PodDisruptionBudget,
    pub policy: DesiredObject<NetworkPolicy>,
    /// The pods' controller; kept as it is while something that pods mount is missing.
    pub stateful_set: DesiredObject<Value>,
    /// SHA-256 of what of the resource is in the template of its pods.
    pub template_inputs: String,
    /// SHA-256 of the configuration file that pods should load.
    pub config_hash: String,
    /// What is written into the pods' annotation: changes with anything the pods mount.
    pub mounted_hash: String,
}

/// Whether an object has to exist.
pub enum DesiredObject<T> {
    /// It has to be like this.
    Present(T),
    /// It is deleted if it is ours.
    Absent,
    /// Its content is not known now; one that exists stays as it is.
    Unchanged,
}

/// What earlier observations add to the spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    /// Addresses of the XCP routers.
    pub routers: RouterAddresses,
    /// Pods that may run now.
    pub pods: u16,
    /// Pods may have links, and nothing tells yet to where: what leads to routers stays as it is.
    pub unsure: bool,
}

/// Everything that a resource needs.
pub struct Output {
    /// What its Secrets hold.
    pub material: Material,
    pub desired: DesiredObjects,
}

/// Builds everything; `rotate`: a person asks for a new dialback secret.
pub fn run(
    valid: &ValidSpec,
    view: &KubeView,
    topology: &Topology,
    rotate: bool,
    now: Timestamp,
) -> Result<Output, Refusal> {
    let material = material::run(valid, view, rotate, now);
    let desired = all(valid, &material, topology)?;
    Ok(Output { material, desired })
}

pub fn all(valid: &ValidSpec, material: &Material, topology: &Topology) -> Result<DesiredObjects, Refusal> {
    let links = dialled(material, &topology.routers);
    let config = edge_config(valid, &links);
    accepted_by_the_edge(&config)?;
    let template_inputs = stateful_set::inputs(valid, &config.requires);
    let text = config.to_yaml();
    fits_a_config_map(&text)?;
    let config_hash = sha256(text.as_bytes());
    let mounted_hash = secrets::mounted_hash(&config_hash, material);
    let mountable = material.dialback.is_ok()
        && material.certificate.is_ok()
        && material.others.is_ok()
        && (material.no_router_secret().is_none() || !valid.active);
    let config = if topology.unsure {
        DesiredObject::Unchanged
    } else {
        DesiredObject::Present(config::config_map(valid, text))
    };
    let policy = match (valid.network_policy.enabled, topology.unsure) {
        (false, _) => DesiredObject::Absent,
        (true, true) => DesiredObject::Unchanged,
        (true, false) => DesiredObject::Present(policy::policy(valid, &links)),
    };
    Ok(DesiredObjects {
        dialback: secrets::dialback(valid, material),
        authority: secrets::authority(valid, material),
        certificate: secrets::certificate(valid, material),
        router: secrets::router(valid, material),
        config,
        account: services::account(valid),
        pods_service: services::headless(valid),
        service: services::public(valid),
        budget: budget::budget(valid),
        policy,
        stateful_set: if mountable {
            // Plain data with string keys always serialises.
            let set = stateful_set::stateful_set(valid, topology.pods);
            DesiredObject::Present(serde_json::to_value(set).unwrap_or_default())
        } else {
            DesiredObject::Unchanged
        },
        template_inputs,
        config_hash,
        mounted_hash,
    })
}

/// The edge's own rules, asked before its pods are: what they refuse never reaches them.
pub fn accepted_by_the_edge(config: &EdgeConfig) -> Result<(), Refusal> {
    let problems = config.problems();
    if problems.is_empty() {
        return Ok(());
    }
    let sentence = |problem: &Problem| {
        let section = problem.field.split(['.', '[']).next().unwrap_or_default();
        match section {
            "privacy" | "partners" | "tls" => format!("spec.{problem}"),
            "limits" | "proxyProtocol" => format!("spec.edge.{problem}"),
            _ => format!("spec gives the edge a value that it refuses: {problem}"),
        }
    };
    Err(Refusal::Invalid(problems.iter().map(sentence).collect()))
}

/// The API server refuses a ConfigMap with more, with words that name no field of the spec.
const MOST_CONFIG_BYTES: usize = 1024 * 1024;

fn fits_a_config_map(text: &str) -> Result<(), Refusal> {
    if text.len() <= MOST_CONFIG_BYTES {
        return Ok(());
    }
    Err(Refusal::Invalid(vec![format!(
        "spec.partners and spec.privacy.domains: they make a configuration of {} bytes for the edge, and a ConfigMap holds {MOST_CONFIG_BYTES}; name fewer domains and hosts, or wildcards such as *.example.com",
        text.len()
    )]))
}

/// The routers that pods dial: not those whose secret is missing, as they would refuse the link. The
/// pods serve the other clusters meanwhile.
fn dialled(material: &Material, links: &RouterAddresses) -> RouterAddresses {
    links
        .iter()
        .filter(|(entry, _)| material.router(entry).is_some_and(|router| router.bytes.is_some()))
        .map(|(entry, nodes)| (entry.clone(), nodes.clone()))
        .collect()
}

/// Lower-case hexadecimal SHA-256.
pub fn sha256(bytes: &[u8]) -> String {
    use sha2::{Digest as _, Sha256};
    HEXLOWER.encode(&Sha256::digest(bytes))
}
