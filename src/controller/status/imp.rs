//! The conditions about IM and Presence: the verdicts of [`crate::imp`], carried over.

use super::symptom::{self, Symptom};
use super::{Found, links};
use crate::api::conditions::{Findings, State, Type, Verdict};
use crate::api::reasons::Reason;
use crate::imp::report::{Progress, Report, Status, reasons};

/// A Secret is missing, so that nothing can be asked.
pub(super) fn not_asked(findings: &mut Findings, missing: &str) {
    findings.add(
        Type::AxlAuthenticated,
        Verdict::no(Reason::SecretMissing, missing),
    );
    for kind in [
        Type::ComponentsRegistered,
        Type::RoutersInSync,
        Type::ImpFederationOff,
    ] {
        findings.add(
            kind,
            Verdict::unknown(
                Reason::SecretMissing,
                "cannot be looked at: a Secret is missing, see AxlAuthenticated",
            ),
        );
    }
}

/// What IM and Presence was found to be.
pub(super) fn verdicts(findings: &mut Findings, found: &Found<'_>, report: &Report) {
    for (kind, verdict) in [
        (Type::AxlAuthenticated, &report.axl_authenticated),
        (Type::ComponentsRegistered, &report.components_registered),
        (Type::RoutersInSync, &report.routers_in_sync),
        (Type::ImpFederationOff, &report.imp_federation_off),
    ] {
        let state = match verdict.status {
            Status::True => State::True,
            Status::False => State::False,
            Status::Unknown => State::Unknown,
        };
        findings.add(
            kind,
            Verdict {
                state,
                reason: verdict.reason,
                message: verdict.message.clone(),
            },
        );
    }
    if report.routers_in_sync.status == Status::True
        && let Some(verdict) = not_known_any_more(found)
    {
        findings.add(Type::RoutersInSync, verdict);
    }
    match &report.progress {
        Progress::Done => {}
        Progress::Reconciling(message) => {
            findings.reconciling = Some((Reason::InProgress.as_str(), message.clone()));
        }
        Progress::Stalled(message) => {
            let reason = [
                &report.axl_authenticated,
                &report.components_registered,
                &report.routers_in_sync,
            ]
            .iter()
            .find(|verdict| verdict.status == Status::False)
            .map_or(reasons::RESTART_BY_HAND, |verdict| verdict.reason);
            findings.stalled = Some((reason, message.clone()));
        }
    }
}
/// What was proven of a router is over when it refuses a row that it had read.
fn not_known_any_more(found: &Found<'_>) -> Option<Verdict> {
    let lost = links::all(found)
        .filter(|_| found.valid.active)
        .find(|link| symptom::of(found, *link) == Some(Symptom::RowLost))?;
    Some(Verdict::no(
        Symptom::RowLost.reason(),
        Symptom::RowLost.sentence(found, lost),
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::super::testing::{verdict, world};
    use super::*;
    use serde_json::Value;

    #[test]
    fn a_missing_secret_leaves_what_hangs_on_it_unknown() {
        let world = world("", Value::Null);
        assert_eq!(
            verdict(&world, Type::AxlAuthenticated).reason,
            "SecretMissing"
        );
        assert_eq!(
            verdict(&world, Type::ComponentsRegistered).state,
            State::Unknown
        );
        assert_eq!(verdict(&world, Type::EdgeAvailable).state, State::True);
    }
}
