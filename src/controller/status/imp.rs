//! The conditions about IM and Presence: the verdicts of [`xmpp_federation_imp`], carried over.

use super::clusters::{over_all, sentences};
use super::symptom::{self, Symptom};
use super::{Inputs, links};
use crate::api::conditions::{Findings, Status, Type, Verdict};
use crate::api::reasons::Reason;
use crate::controller::effects::ClusterResult;
use crate::controller::rows::execute::PendingCleanup;
use xmpp_federation_imp::reasons::Reason as ImpReason;
use xmpp_federation_imp::report::{Progress, Report};

/// What the clusters of IM and Presence were found to be.
pub(super) fn verdicts(findings: &mut Findings, inputs: &Inputs<'_>) {
    for kind in [
        Type::AxlAuthenticated,
        Type::ComponentsRegistered,
        Type::RoutersInSync,
        Type::ImpFederationOff,
    ] {
        let mut named: Vec<(String, Verdict)> = inputs
            .effects
            .clusters
            .iter()
            .map(|result| {
                let mut verdict = of_one(kind, result);
                if kind == Type::RoutersInSync && verdict.status == Status::True {
                    verdict = not_known_any_more(inputs, result).unwrap_or(verdict);
                }
                (result.entry.clone(), verdict)
            })
            .collect();
        if kind == Type::ComponentsRegistered {
            named.extend(inputs.effects.pending.iter().map(|pending| {
                let verdict = Verdict::no(Reason::ClusterLeft, pending_sentence(pending));
                (pending.name.clone(), verdict)
            }));
            named.extend(inputs.effects.hidden.iter().map(|hidden| {
                let verdict = Verdict::unknown(ImpReason::LedgerUnavailable, hidden.sentence.as_str());
                ("ledgers".to_owned(), verdict)
            }));
        }
        findings.add(kind, over_all(named));
    }
    progress(findings, inputs);
}

/// A cluster that the spec names no more still has rows.
fn pending_sentence(pending: &PendingCleanup) -> String {
    let message = &pending.message;
    let by_hand = if pending.rows.is_empty() {
        String::new()
    } else {
        let rows = pending.rows.join("; ");
        format!("; or remove them by hand, on its publisher's command line: {rows}")
    };
    format!("it is not in spec.imp any more, and its rows are being removed: {message}{by_hand}")
}

/// One cluster's verdict on one condition.
fn of_one(kind: Type, result: &ClusterResult) -> Verdict {
    let report = match &result.report {
        Ok(report) => report,
        Err(verdict) if kind == Type::AxlAuthenticated => return verdict.clone(),
        Err(verdict) => {
            return Verdict::unknown(
                verdict.reason,
                if verdict.status == Status::False {
                    "cannot be looked at for want of a Secret, see AxlAuthenticated"
                } else {
                    "cannot be looked at yet, see AxlAuthenticated"
                },
            );
        }
    };
    let verdict = match kind {
        Type::ComponentsRegistered => &report.components_registered,
        Type::RoutersInSync => &report.routers_in_sync,
        Type::ImpFederationOff => &report.imp_federation_off,
        _ => &report.axl_authenticated,
    };
    verdict.clone().widen()
}

/// What was proven of a router is over when it refuses a row that it had read.
fn not_known_any_more(inputs: &Inputs<'_>, result: &ClusterResult) -> Option<Verdict> {
    let lost = links::all(inputs, &result.entry)
        .filter(|_| inputs.valid.active)
        .find(|link| symptom::of(inputs, *link) == Some(Symptom::RowLost))?;
    Some(Verdict::no(
        Symptom::RowLost.reason(),
        Symptom::RowLost.sentence(inputs, lost),
    ))
}

/// A cluster that waits for a person stalls the resource, while the operator goes on with the others.
fn progress(findings: &mut Findings, inputs: &Inputs<'_>) {
    let several = inputs.effects.clusters.len() > 1;
    let mut reconciling = Vec::new();
    let mut stalled = Vec::new();
    let mut why = None;
    for result in &inputs.effects.clusters {
        let Ok(report) = &result.report else {
            continue;
        };
        match &report.progress {
            Progress::Done => {}
            Progress::Reconciling(message) => reconciling.push((result.entry.as_str(), message)),
            Progress::Stalled(message) => {
                stalled.push((result.entry.as_str(), message));
                why.get_or_insert_with(|| reason_of(report));
            }
        }
    }
    let told = |sentences_of: &[(&str, &String)]| {
        if several {
            sentences(sentences_of.iter().map(|(name, text)| (*name, text.as_str())))
        } else {
            sentences_of
                .first()
                .map(|(_, text)| (*text).clone())
                .unwrap_or_default()
        }
    };
    if !reconciling.is_empty() {
        findings.reconciling = Some((Reason::InProgress, told(&reconciling)));
    } else if let Some(pending) = inputs.effects.pending.first() {
        let message = format!("{}: {}", pending.name, pending.message);
        findings.reconciling = Some((Reason::ClusterLeft, message));
    }
    if let Some(why) = why {
        findings.stalled = Some((why, told(&stalled)));
    }
}

/// The reason of the first condition that fails.
fn reason_of(report: &Report) -> Reason {
    [
        &report.axl_authenticated,
        &report.components_registered,
        &report.routers_in_sync,
    ]
    .iter()
    .find(|verdict| verdict.status == Status::False)
    .map_or(ImpReason::RestartByHand, |verdict| verdict.reason)
    .into()
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
        assert_eq!(verdict(&world, Type::AxlAuthenticated).reason.as_str(), "SecretMissing");
        assert_eq!(verdict(&world, Type::ComponentsRegistered).status, Status::Unknown);
        assert_eq!(verdict(&world, Type::EdgeAvailable).status, Status::True);
    }
}
