//! Everything but the conditions.

use std::collections::BTreeSet;

use super::{Inputs, links, partners};
use crate::api::bounds;
use crate::api::status::{
    ActionStatus, CertificateStatus, DialbackStatus, EdgeStatus, ImpStatus, LeavingStatus, NodeStatus, OWN_AUTHORITY,
    PendingRestart, RecordStatus, RegistrationStatus, XmppFederationStatus,
};
use crate::controller::build::chains::ChainField;
use crate::controller::dereference::EdgePod;
use crate::records::RecordState;
use xmpp_federation_imp::report::Report;

/// Bytes; the pods' words are not ours.
const MOST_RELEASES: usize = 128;

/// The status, without its conditions; what cannot be looked at now stays as it was.
pub fn details(inputs: &Inputs<'_>, previous: &XmppFederationStatus) -> XmppFederationStatus {
    let valid = inputs.valid;
    let running: Vec<&EdgePod> = inputs.view.pods.iter().filter(|p| !p.stopping).collect();
    let ready = running.iter().filter(|p| p.ready).count();
    let number = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    XmppFederationStatus {
        observed_generation: previous.observed_generation,
        conditions: Vec::new(),
        edge: Some(EdgeStatus {
            replicas: number(running.len()),
            ready_replicas: number(ready),
            ready: format!("{ready}/{}", valid.replicas),
            release: releases(inputs, previous),
            upgrade: None,
            slots: slots(inputs, previous),
            selector: valid.owner.selector(),
            addresses: inputs.effects.reach.shown(),
        }),
        links: Some(links::shown(inputs)),
        partners: Some(partners::shown(inputs, previous.partners.as_ref())),
        certificate: certificate(inputs, ChainField::Certificate),
        client_certificate: certificate(inputs, ChainField::ClientCertificate),
        dialback: inputs.material.dialback.as_ref().ok().map(|_| DialbackStatus {
            secret_name: valid.owner.dialback(),
            rotated_at: None,
            stage: "Steady".to_owned(),
        }),
        records: records(inputs, previous),
        imp: clusters(inputs, previous),
        handled_requests: previous.handled_requests.clone(),
    }
}

/// What the pods say that they are of; while none answers, as it was.
fn releases(inputs: &Inputs<'_>, previous: &XmppFederationStatus) -> Option<String> {
    let told = super::answering(&inputs.view.pods).filter_map(|(_, status)| status.version.as_deref());
    let told: BTreeSet<&str> = told.collect();
    if told.is_empty() {
        return previous.edge.as_ref().and_then(|edge| edge.release.clone());
    }
    Some(bounds::message(&Vec::from_iter(told).join(", "), MOST_RELEASES))
}

/// As the ledgers record them; what is not known now is as it was.
fn slots(inputs: &Inputs<'_>, previous: &XmppFederationStatus) -> Option<i32> {
    let reports = inputs
        .effects
        .clusters
        .iter()
        .filter_map(|result| result.report.as_ref().ok());
    let recorded = reports.filter_map(|report| report.recorded_slots).max();
    let before = || previous.edge.as_ref().and_then(|edge| edge.slots);
    recorded.map(i32::from).or_else(before)
}

/// One that is shown to peers.
fn certificate(inputs: &Inputs<'_>, field: ChainField) -> Option<CertificateStatus> {
    let chain = inputs.material.chains.iter().find(|chain| chain.field == field)?;
    let found = chain.found.as_ref().ok()?;
    Some(CertificateStatus {
        source: if chain.authority.is_some() {
            OWN_AUTHORITY
        } else {
            "Secret"
        }
        .to_owned(),
        secret_name: chain.secret.clone(),
        not_after: found.not_after.to_string(),
        issuer: found.issuer.clone(),
        fingerprint: found.fingerprint.to_string(),
    })
}

/// Ours, then partners'; what cannot be looked at is as it was.
fn records(inputs: &Inputs<'_>, previous: &XmppFederationStatus) -> Vec<RecordStatus> {
    let records = &inputs.effects.records;
    if !records.own_seen || records.error.is_some() {
        return previous.records.clone();
    }
    let partners_seen = records.partners_seen && records.partners_error.is_none();
    let of_a_partner = |record: &&RecordStatus| record.state.parse().is_ok_and(RecordState::is_of_a_partner);
    let before = previous.records.iter().filter(of_a_partner).filter(|_| !partners_seen);
    records
        .found
        .iter()
        .map(RecordStatus::from)
        .chain(before.cloned())
        .collect()
}

/// Those of the spec, then those that left it.
fn clusters(inputs: &Inputs<'_>, previous: &XmppFederationStatus) -> Vec<ImpStatus> {
    let before = |name: &str| previous.imp.iter().find(|imp| imp.name == name);
    let named = inputs.effects.clusters.iter().filter_map(|result| {
        let before = before(&result.entry);
        match &result.report {
            Ok(report) => Some(imp_status(inputs, &result.entry, report, before)),
            Err(_) => before.cloned(),
        }
    });
    let pending = inputs.effects.pending.iter().map(|pending| ImpStatus {
        name: pending.name.clone(),
        leaving: Some(LeavingStatus {
            since: pending.since.to_string(),
            message: pending.message.clone(),
        }),
        table: pending.table.clone(),
        ..ImpStatus::default()
    });
    // What cannot be read now is leaving as it was.
    let hidden = inputs.effects.hidden.iter().flat_map(|hidden| {
        let left = previous.imp.iter().filter(|imp| imp.leaving.is_some());
        left.filter(|imp| !hidden.known.contains(&imp.name))
    });
    named.chain(pending).chain(hidden.cloned()).collect()
}

fn imp_status(inputs: &Inputs<'_>, name: &str, report: &Report, before: Option<&ImpStatus>) -> ImpStatus {
    let addresses = inputs.effects.routers.get(name);
    ImpStatus {
        name: name.to_owned(),
        leaving: None,
        axl_version: report
            .axl_version
            .clone()
            .or_else(|| before.and_then(|b| b.axl_version.clone())),
        table: report.table.clone().or_else(|| before.and_then(|b| b.table.clone())),
        nodes: report
            .nodes
            .iter()
            .map(|node| NodeStatus {
                name: node.name.clone(),
                address: addresses
                    .into_iter()
                    .flatten()
                    .find(|(name, _)| *name == node.name)
                    .map_or_else(|| node.name.clone(), |(_, address)| address.clone()),
                router: if node.pending_restart.as_ref().is_some_and(|p| !p.id.is_empty()) {
                    "Restarting"
                } else if node.in_sync {
                    "InSync"
                } else if node.router.is_none() {
                    "Unknown"
                } else {
                    "RestartNeeded"
                }
                .to_owned(),
                pending_restart: node.pending_restart.as_ref().and_then(|p| {
                    Some(PendingRestart {
                        id: p.id.clone(),
                        reason: p.reason.clone(),
                        started_at: p.started_at.clone()?,
                    })
                }),
            })
            .collect(),
        registrations: report
            .registrations
            .iter()
            .map(|row| RegistrationStatus {
                component_id: row.component_id.to_string(),
                pkid: row.pkid.to_string(),
            })
            .collect(),
        handled_restart_token: report.handled_restart_token.clone(),
        recent_actions: report
            .recent_actions
            .iter()
            .map(|action| ActionStatus {
                at: action.at.to_string(),
                action: format!(
                    "{} {}: {} ({})",
                    action.action, action.subject, action.outcome, action.reason
                ),
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{report, with_inputs, world};
    use super::*;
    use rstest::rstest;
    use serde_json::Value;
    use xmpp_federation_imp::reasons::Reason;
    use xmpp_federation_imp::report::Verdict;

    #[rstest]
    #[case::nothing_is_registered(true, None, None, None)]
    #[case::registered(true, Some(4), None, Some(4))]
    #[case::the_ledger_has_another_number(true, Some(2), Some(4), Some(2))]
    #[case::the_ledger_is_lost(true, None, Some(4), Some(4))]
    #[case::the_cluster_is_not_asked(false, None, Some(4), Some(4))]
    fn slots_are_those_of_the_ledger(
        #[case] asked: bool,
        #[case] recorded_slots: Option<u16>,
        #[case] before: Option<i32>,
        #[case] expected: Option<i32>,
    ) {
        let mut world = world("", Value::Null);
        if asked {
            let report = report(true, true, Verdict::yes(Reason::Registered, "all know them"));
            world.imp = Ok(Report {
                recorded_slots,
                ..report
            });
        }
        let previous = XmppFederationStatus {
            edge: Some(EdgeStatus {
                slots: before,
                ..EdgeStatus::default()
            }),
            ..XmppFederationStatus::default()
        };
        let status = with_inputs(&world, |inputs| details(inputs, &previous));
        assert_eq!(status.edge.and_then(|edge| edge.slots), expected);
    }
}
