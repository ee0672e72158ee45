//! The answer to the user: conditions and status from what was found. Pure; a fixed point, as
//! nothing in it moves unless something happened.
//!
//! One file per condition; [`symptom`] tells what a link that does not work is a sign of, [`imp`]
//! carries over the verdicts of [`crate::imp`], [`details`] is everything but the conditions.

mod certificate;
mod details;
mod dialback;
mod edge;
mod imp;
mod links;
mod partners;
mod records;
mod symptom;
#[cfg(test)]
mod testing;

use std::net::IpAddr;

use jiff::Timestamp;
use xmpp_federation_core::edge_status::EdgeStatus;

pub use details::details;

use super::build::{Desired, Links};
use super::dereference::{EdgePod, Observed};
use super::effects::Records;
use super::material::Material;
use super::validate::Validated;
use crate::api::conditions::{Findings, Type};
use crate::imp::report::Report;

/// All that one reconcile found out.
pub struct Found<'a> {
    /// The spec.
    pub valid: &'a Validated,
    /// What exists.
    pub observed: &'a Observed,
    /// Secret material.
    pub material: &'a Material,
    /// What is wanted.
    pub desired: &'a Desired,
    /// The pods' controller was changed in this reconcile.
    pub controller_changed: bool,
    /// Pods that may run now.
    pub pods_allowed: u16,
    /// IM and Presence, or which Secret is missing.
    pub imp: &'a Result<Report, String>,
    /// Public records, or why they could not be looked at.
    pub records: &'a Result<Records, String>,
    /// Public addresses.
    pub addresses: &'a [IpAddr],
    /// Addresses of the routers, by node.
    pub links: &'a Links,
    /// Now.
    pub now: Timestamp,
}

/// The verdicts on all conditions.
pub fn findings(found: &Found<'_>) -> Findings {
    let mut findings = Findings {
        active: found.valid.active,
        ..Findings::default()
    };
    findings.add(Type::DialbackSecretReady, dialback::verdict(found));
    findings.add(Type::CertificateReady, certificate::verdict(found));
    findings.add(Type::EdgeAvailable, edge::verdict(found));
    findings.add(Type::RouterLinksUp, links::verdict(found));
    findings.add(Type::RecordsVerified, records::verdict(found));
    findings.add(Type::PartnersReachable, partners::verdict(found));
    match found.imp {
        Ok(report) => imp::verdicts(&mut findings, found, report),
        Err(missing) => imp::not_asked(&mut findings, missing),
    }
    findings
}

/// The pods that go on and answered, with what they say of themselves.
fn answering(pods: &[EdgePod]) -> impl Iterator<Item = (&EdgePod, &EdgeStatus)> {
    pods.iter()
        .filter(|pod| !pod.stopping)
        .filter_map(|pod| pod.status.as_ref().ok().map(|status| (pod, status)))
}
