//! Step three: secret material, then all desired objects, one file each, and the edge's own check of them. Pure but for new secrets.

mod budget;
mod config;
pub mod material;
mod policy;
mod running;
mod secrets;
mod services;
mod stateful_set;

use data_encoding::HEXLOWER;
use jiff::Timestamp;
use serde_json::Value;
use xmpp_federation_core::edge_config::EdgeConfig;

use super::dereference::Observed;
use super::validate::{Refusal, Validated};
pub use config::{Links, Nodes, edge_config};
use material::Material;
pub use running::{ClusterSlots, pods_to_run};

/// All objects of one resource. Applying takes this apart field by field, so that none can be
/// forgotten.
#[derive(Debug, Clone, PartialEq)]
pub struct Desired {
    /// Stored once and never changed afterwards; `None`: exists already, or may not be made.
    pub dialback: Option<Value>,
    /// Stored once and never changed afterwards.
    pub authority: Option<Value>,
    /// The leaf of our own authority; `None`: a brought one is used.
    pub certificate: Wanted,
    /// Copies of the routers' secrets.
    pub router: Wanted,
    /// Configuration.
    pub config: Value,
    /// The pods' account.
    pub account: Value,
    /// Headless Service.
    pub pods_service: Value,
    /// Public Service.
    pub service: Value,
    /// Disruption budget.
    pub budget: Value,
    /// Network policy.
    pub policy: Value,
    /// The pods' controller; kept as it is while something that pods mount is missing.
    pub stateful_set: Wanted,
    /// SHA-256 of the configuration file that pods should load.
    pub config_hash: String,
    /// What is written into the pods' annotation: changes with anything the pods mount.
    pub mounted_hash: String,
}

/// Whether an object is wanted.
#[derive(Debug, Clone, PartialEq)]
pub enum Wanted {
    /// So.
    Object(Value),
    /// Not at all.
    Absent,
    /// It cannot be told now; what exists stays.
    AsItIs,
}

/// What comes from earlier looks at the world besides the spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Addresses of the XCP routers.
    pub links: Links,
    /// Pods that may run now.
    pub pods: u16,
}

/// Everything that a resource needs.
#[derive(Debug)]
pub struct Built {
    /// What its Secrets hold.
    pub material: Material,
    /// The objects.
    pub desired: Desired,
}

/// Builds everything; `rotate`: a person asks for a new dialback secret.
pub fn run(
    valid: &Validated,
    observed: &Observed,
    known: &Known,
    rotate: bool,
    now: Timestamp,
) -> Result<Built, Refusal> {
    let material = material::run(valid, observed, rotate, now);
    let desired = all(valid, &material, known)?;
    Ok(Built { material, desired })
}

/// The objects.
pub fn all(valid: &Validated, material: &Material, known: &Known) -> Result<Desired, Refusal> {
    let links = dialled(material, &known.links);
    let config = edge_config(valid, &links);
    accepted_by_the_edge(&config)?;
    let text = config.to_yaml();
    let config_hash = sha256(text.as_bytes());
    let mounted_hash = secrets::mounted_hash(&config_hash, material);
    let mountable = material.dialback.is_ok()
        && material.certificate.is_ok()
        && material.others.is_ok()
        && (material.no_router_secret().is_none() || !valid.active);
    Ok(Desired {
        dialback: secrets::dialback(valid, material),
        authority: secrets::authority(valid, material),
        certificate: secrets::certificate(valid, material),
        router: secrets::router(valid, material),
        config: config::config_map(valid, &text),
        account: services::account(valid),
        pods_service: services::headless(valid),
        service: services::public(valid),
        budget: budget::budget(valid),
        policy: policy::policy(valid, &links),
        stateful_set: if mountable {
            Wanted::Object(stateful_set::stateful_set(valid, known.pods))
        } else {
            Wanted::AsItIs
        },
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
    let sentence = |problem| format!("spec gives the edge a value that it refuses: {problem}");
    Err(Refusal::Invalid(problems.iter().map(sentence).collect()))
}

/// The routers that pods dial: not those whose secret nobody has, as they would refuse it. The
/// pods serve the other clusters meanwhile.
fn dialled(material: &Material, links: &Links) -> Links {
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
