//! The answer to the user: conditions and status from what was found. Pure; a fixed point, as
//! nothing in it moves unless something happened.
//!
//! One file per condition; [`upgrades`] is what a new release means for the pods, [`clusters`] is what several clusters mean together, [`symptom`] what a
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
pub(super) mod testing;
mod upgrades;

use jiff::Timestamp;
use xmpp_federation_core::edge_status::EdgeStatus;

use details::details;

use super::apply::{AppliedObjects, ApplyError};
use super::build::DesiredObjects;
use super::build::material::Material;
use super::dereference::{EdgePod, KubeView};
use super::effects::Effects;
use super::kube::Error;
use super::upgrade::Progress;
use super::validate::ValidSpec;
use crate::api::conditions::{self, Findings, Status, Type, Verdict};
use crate::api::reasons::Reason;
use crate::api::status::XmppFederationStatus;

/// All that one reconcile found out.
pub struct Inputs<'a> {
    pub valid: &'a ValidSpec,
    pub view: &'a KubeView,
    pub material: &'a Material,
    pub desired: &'a DesiredObjects,
    /// What became of the objects in this reconcile.
    pub applied: &'a AppliedObjects,
    /// Pods that may run now.
    pub pods_allowed: u16,
    pub effects: &'a Effects,
    /// How far the pods are with the template of this release.
    pub progress: &'a Progress,
    pub now: Timestamp,
}

pub fn run(inputs: &Inputs<'_>, previous: &XmppFederationStatus, generation: Option<i64>) -> XmppFederationStatus {
    let mut findings = findings(inputs);
    let assemble = |findings: &_| conditions::assemble(&previous.conditions, generation, inputs.now, findings);
    let mut conditions = assemble(&findings);
    let halted = upgrades::halted(inputs, &conditions);
    let mut details = details(inputs, previous);
    if let Some(edge) = &mut details.edge {
        edge.upgrade = Some(upgrades::word(inputs.progress, halted.is_some()).to_owned());
    }
    if let Some(sentence) = halted {
        findings.stalled.get_or_insert((Reason::UpgradeHalted, sentence));
        conditions = assemble(&findings);
    }
    XmppFederationStatus {
        observed_generation: generation,
        conditions,
        ..details
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
    findings.add(
        Type::EdgeAvailable,
        with_additions(edge::verdict(inputs), &inputs.applied.added),
    );
    findings.add(Type::RouterLinksUp, clusters::over_all(links::verdicts(inputs)));
    findings.add(Type::RecordsVerified, records::verdict(inputs));
    findings.add(Type::PartnersReachable, partners::verdict(inputs));
    imp::verdicts(&mut findings, inputs);
    not_applied(&mut findings, &inputs.applied.failed);
    findings
}

/// Names fields that others have added to objects of ours: they may be why pods do not run.
fn with_additions(verdict: Verdict, added: &[String]) -> Verdict {
    if added.is_empty() {
        return verdict;
    }
    let reason = match verdict.status {
        Status::True => Reason::FieldsAdded,
        _ => verdict.reason,
    };
    let message = format!(
        "{}; others have set fields that the operator does not: {}; remove them, or set what they are for in the spec",
        verdict.message,
        added.join(", ")
    );
    Verdict {
        reason,
        message,
        ..verdict
    }
}

fn refused(error: &Error) -> (Reason, bool) {
    (Reason::ApiRefused, matches!(error.code(), Some(400 | 403 | 422)))
}

/// Objects that are not as wanted: the first one's error, and how many more there are.
fn not_applied(findings: &mut Findings, failed: &[ApplyError]) {
    let Some(first) = failed.first() else { return };
    let (reason, lasting) = match first {
        ApplyError::Foreign { .. } | ApplyError::Unmarked(_) => (Reason::ForeignObject, true),
        ApplyError::Predecessor { .. } => (Reason::FormerObject, false),
        ApplyError::Undone { .. } => (Reason::WritesUndone, true),
        ApplyError::Json(_) => (Reason::InternalError, true),
        // A value that only the API server can judge, such as a pod's affinity; a webhook that refuses.
        ApplyError::Kube(error) => refused(error),
        ApplyError::Untold(error) => refused(error),
    };
    let more = match failed.len() - 1 {
        0 => String::new(),
        more => format!("; {more} more objects could not be written"),
    };
    let found = Some((reason, format!("{first}{more}")));
    if lasting {
        findings.stalled = findings.stalled.take().or(found);
    } else {
        findings.reconciling = found.or(findings.reconciling.take());
    }
}

/// The pods that go on and answered, with what they say of themselves.
fn answering(pods: &[EdgePod]) -> impl Iterator<Item = (&EdgePod, &EdgeStatus)> {
    pods.iter()
        .filter(|pod| !pod.stopping)
        .filter_map(|pod| pod.status.as_ref().ok().map(|status| (pod, status)))
}
