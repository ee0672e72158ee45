//! The answer to the user: conditions and status from what was found. Pure; a fixed point, as
//! nothing in it moves unless something happened.
//!
//! One file per condition; [`clusters`] is what several clusters mean together, [`symptom`] what a
//! link that does not work is a sign of, [`imp`] carries over the verdicts of [`xmpp_federation_imp`],
//! [`details`] is everything but the conditions.

mod certificate;
mod clusters;
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

use jiff::Timestamp;
use xmpp_federation_core::edge_status::EdgeStatus;

use details::details;

use super::build::DesiredObjects;
use super::build::material::Material;
use super::dereference::{EdgePod, Snapshot};
use super::effects::Effects;
use super::validate::ValidSpec;
use crate::api::conditions::{self, Findings, Type};
use crate::api::status::XmppFederationStatus;

/// All that one reconcile found out.
pub struct Inputs<'a> {
    pub valid: &'a ValidSpec,
    pub observed: &'a Snapshot,
    pub material: &'a Material,
    pub desired: &'a DesiredObjects,
    /// The pods' controller was changed in this reconcile.
    pub controller_changed: bool,
    /// Pods that may run now.
    pub pods_allowed: u16,
    pub effects: &'a Effects,
    pub now: Timestamp,
}

pub fn run(inputs: &Inputs<'_>, previous: &XmppFederationStatus, generation: Option<i64>) -> XmppFederationStatus {
    XmppFederationStatus {
        observed_generation: generation,
        conditions: conditions::assemble(&previous.conditions, generation, inputs.now, &findings(inputs)),
        ..details(inputs, previous)
    }
}

/// The verdicts on all conditions.
fn findings(inputs: &Inputs<'_>) -> Findings {
    let mut findings = Findings {
        active: inputs.valid.active,
        ..Findings::default()
    };
    findings.add(Type::DialbackSecretReady, dialback::verdict(inputs));
    findings.add(Type::CertificateReady, certificate::verdict(inputs));
    findings.add(Type::EdgeAvailable, edge::verdict(inputs));
    findings.add(Type::RouterLinksUp, clusters::over_all(links::verdicts(inputs)));
    findings.add(Type::RecordsVerified, records::verdict(inputs));
    findings.add(Type::PartnersReachable, partners::verdict(inputs));
    imp::verdicts(&mut findings, inputs);
    findings
}

/// The pods that go on and answered, with what they say of themselves.
fn answering(pods: &[EdgePod]) -> impl Iterator<Item = (&EdgePod, &EdgeStatus)> {
    pods.iter()
        .filter(|pod| !pod.stopping)
        .filter_map(|pod| pod.status.as_ref().ok().map(|status| (pod, status)))
}
