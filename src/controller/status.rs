//! The answer to the user: conditions and status from what was found. Pure; a fixed point, as
//! nothing in it moves unless something happened.

use std::fmt::Write as _;
use std::net::IpAddr;

use jiff::Timestamp;
use xmpp_federation_core::Domain;
use xmpp_federation_core::edge_config::PrivacyMode;
use xmpp_federation_core::edge_status::LinkState;

use super::build::{Desired, Links, sha256};
use super::dereference::{EdgePod, Observed};
use super::effects::Records;
use super::material::{Certificate, Material};
use super::validate::Validated;
use crate::api::conditions::{Findings, State, Type, Verdict};
use crate::api::reasons::Reason;
use crate::api::spec::ServiceType;
use crate::api::status::{
    ActionStatus, CertificateStatus, DialbackStatus, EdgeStatus, ImpStatus, NodeStatus,
    PendingRestart, RecordStatus, RegistrationStatus, XmppFederationStatus,
};
use crate::imp::report::{Progress, Report, Status, reasons};
use crate::records::RecordState;

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
    findings.add(Type::DialbackSecretReady, dialback(found));
    findings.add(Type::CertificateReady, certificate(found));
    findings.add(Type::EdgeAvailable, edge(found));
    findings.add(Type::RouterLinksUp, links(found));
    findings.add(Type::RecordsVerified, records(found));
    findings.add(Type::PartnersReachable, partners(found));
    match found.imp {
        Ok(report) => imp(&mut findings, report),
        Err(missing) => {
            findings.add(
                Type::AxlAuthenticated,
                Verdict::no(Reason::SecretMissing, missing.clone()),
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
    }
    findings
}

fn imp(findings: &mut Findings, report: &Report) {
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

fn dialback(found: &Found<'_>) -> Verdict {
    let name = found.valid.owner.dialback();
    let secret = match &found.material.dialback {
        Err(sentence) => return Verdict::no(Reason::SecretMissing, sentence.clone()),
        Ok(dialback) => &dialback.secret,
    };
    // As the edge shows it: tells secrets apart without giving them away.
    let first = sha256(secret.expose());
    let mark: String = sha256(&unhex(&first)).chars().take(16).collect();
    let stale: Vec<&str> = answering(&found.observed.pods)
        .filter(|(_, status)| status.dialback_secrets.first().is_some_and(|m| *m != mark))
        .map(|(pod, _)| pod.name.as_str())
        .collect();
    if stale.is_empty() {
        Verdict::yes(format!("Secret {name}, the same in all pods"))
    } else {
        Verdict::no(
            Reason::ConfigNotLoaded,
            format!(
                "{} still sign with another secret than Secret {name} holds; they are being told",
                stale.join(", ")
            ),
        )
    }
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    digits
        .chunks_exact(2)
        .filter_map(|pair| match pair {
            [high, low] => u8::try_from(high * 16 + low).ok(),
            _ => None,
        })
        .collect()
}

fn answering(
    pods: &[EdgePod],
) -> impl Iterator<Item = (&EdgePod, &xmpp_federation_core::edge_status::EdgeStatus)> {
    pods.iter()
        .filter(|pod| !pod.stopping)
        .filter_map(|pod| pod.status.as_ref().ok().map(|status| (pod, status)))
}

fn names(domains: &[&Domain]) -> String {
    domains
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

fn certificate(found: &Found<'_>) -> Verdict {
    let certificate = match &found.material.certificate {
        Err(sentence) => return Verdict::no(Reason::SecretMissing, sentence.clone()),
        Ok(certificate) => certificate,
    };
    let secret = certificate_secret(found.valid, certificate);
    let info = match certificate.inspect() {
        Err(sentence) => {
            return Verdict::no(
                Reason::SecretInvalid,
                format!("Secret {secret}: {sentence}"),
            );
        }
        Ok(info) => info,
    };
    if info.not_after <= found.now {
        return Verdict::no(
            Reason::CertificateExpired,
            format!(
                "the certificate in Secret {secret} expired on {}; peers refuse it; renew it",
                info.not_after
            ),
        );
    }
    let missing = info.missing(&found.valid.hosted);
    if !missing.is_empty() {
        return Verdict::no(
            Reason::CertificateNames,
            format!(
                "the certificate in Secret {secret} does not cover {}; have it issued with all of them as subject alternative names",
                names(&missing)
            ),
        );
    }
    if let Err(sentence) = &found.material.others {
        return Verdict::no(Reason::SecretMissing, sentence.clone());
    }
    Verdict::yes(format!(
        "Secret {secret}, issued by {}, valid until {}",
        info.issuer, info.not_after
    ))
}

fn certificate_secret(valid: &Validated, certificate: &Certificate) -> String {
    match certificate {
        Certificate::Own { .. } => valid.owner.certificate(),
        Certificate::Brought { secret, .. } => secret.clone(),
    }
}

fn edge(found: &Found<'_>) -> Verdict {
    let pods: Vec<&EdgePod> = found
        .observed
        .pods
        .iter()
        .filter(|p| !p.stopping && p.index < found.pods_allowed)
        .collect();
    let wanted = usize::from(found.pods_allowed);
    if found.valid.replicas == 0 {
        return Verdict::no(
            Reason::NoPods,
            "spec.edge.replicas is 0, so nobody is reached; set it above 0",
        );
    }
    let rejected = answering(&found.observed.pods).find_map(|(pod, status)| {
        let rejected = status
            .rejected
            .as_ref()
            .filter(|r| r.config_hash == found.desired.config_hash)?;
        Some((pod, rejected))
    });
    if let Some((pod, rejected)) = rejected {
        return Verdict::no(
            Reason::ConfigRejected,
            format!(
                "pod {} refused the newest configuration and goes on with the one before: {}; correct the field in the spec",
                pod.name, rejected.reason
            ),
        );
    }
    let ready = pods.iter().filter(|pod| pod.ready).count();
    if ready < wanted {
        let mut message = format!("{ready} of {wanted} edge pods are ready");
        if let (Err(sentence), None) = (&found.material.router, &found.observed.live.stateful_set) {
            message.push_str(": they cannot start, ");
            message.push_str(sentence);
            return Verdict::no(Reason::SecretMissing, message);
        }
        let troubled = pods.iter().find_map(|p| {
            p.trouble
                .as_ref()
                .filter(|_| !p.ready)
                .map(|t| (&p.name, t))
        });
        if let Some((name, trouble)) = troubled {
            let _ = write!(message, "; pod {name}: {trouble}");
        }
        let _ = write!(
            message,
            "; look at them with kubectl describe pod -l {}",
            found.valid.owner.selector()
        );
        return Verdict::no(Reason::PodsNotReady, message);
    }
    if being_replaced(found) {
        return Verdict::no(
            Reason::PodsReplaced,
            "edge pods are being replaced, one after the other; the ones that run go on serving",
        );
    }
    let stale: Vec<&str> = pods
        .iter()
        .filter(|pod| !matches!(&pod.status, Ok(s) if s.config_hash == found.desired.config_hash))
        .map(|pod| pod.name.as_str())
        .collect();
    if let Some(name) = stale.first() {
        let why = pods
            .iter()
            .find_map(|p| p.status.as_ref().err().filter(|_| p.name == *name));
        return match why {
            Some(error) => {
                Verdict::unknown(Reason::ConfigNotLoaded, format!("pod {name}: {error}"))
            }
            None => Verdict::no(
                Reason::ConfigNotLoaded,
                format!(
                    "{} have not loaded the newest configuration yet; they are told again until they have",
                    stale.join(", ")
                ),
            ),
        };
    }
    if found.addresses.is_empty() && found.valid.service.type_ == ServiceType::LoadBalancer {
        return Verdict::no(
            Reason::NoAddress,
            format!(
                "Service {} has no public address yet; check the controller of load balancers, or set spec.edge.publicAddresses",
                found.valid.owner.edge()
            ),
        );
    }
    let held = found.valid.replicas.saturating_sub(found.pods_allowed);
    if held > 0 {
        return Verdict::yes(format!(
            "{ready} of {} edge pods run; {held} more start once the routers know their component ids, see RoutersInSync",
            found.valid.replicas
        ));
    }
    Verdict::yes(format!(
        "{ready} of {wanted} edge pods are ready with the newest configuration"
    ))
}

/// Whether pods of an earlier template run, as far as their controller has told by now.
fn being_replaced(found: &Found<'_>) -> bool {
    let Some(set) = &found.observed.live.stateful_set else {
        return false;
    };
    let number = |pointer: &str| {
        set.data
            .pointer(pointer)
            .and_then(serde_json::Value::as_i64)
    };
    let text = |pointer: &str| {
        set.data
            .pointer(pointer)
            .and_then(serde_json::Value::as_str)
    };
    let unseen = set.metadata.generation > number("/status/observedGeneration");
    let updated = number("/status/updatedReplicas").unwrap_or(0);
    let behind = text("/status/updateRevision") != text("/status/currentRevision")
        && updated < number("/spec/replicas").unwrap_or(0);
    found.controller_changed || unseen || behind
}

fn links(found: &Found<'_>) -> Verdict {
    let valid = found.valid;
    if !valid.active {
        return Verdict::unknown(
            Reason::Prepared,
            "spec.activation is Prepared, so no link is opened",
        );
    }
    if let Err(sentence) = &found.material.router {
        return Verdict::no(Reason::SecretMissing, sentence.clone());
    }
    if found.imp.as_ref().is_ok_and(Report::served_by_others) {
        return Verdict::unknown(
            reasons::FOREIGN_COMPONENTS,
            "no link is opened while rows of others stand in IM&P's table, see ComponentsRegistered",
        );
    }
    let nodes: Vec<&str> = match found.imp {
        Ok(report) => report.nodes.iter().map(|n| n.name.as_str()).collect(),
        Err(_) => Vec::new(),
    };
    let mut up = 0;
    let mut down = Vec::new();
    for (pod, status) in
        answering(&found.observed.pods).filter(|(p, _)| p.index < found.pods_allowed)
    {
        for link in status
            .links
            .iter()
            .filter(|l| l.router == valid.imp.spec.name)
        {
            if link.state == LinkState::Up {
                up += 1;
                continue;
            }
            down.push(describe(pod, link));
        }
    }
    if let Some(first) = down.first() {
        let more = if down.len() > 1 {
            format!(" (and {} more)", down.len() - 1)
        } else {
            String::new()
        };
        return Verdict::no(Reason::LinksDown, format!("{first}{more}"));
    }
    if up == 0 {
        return Verdict::unknown(
            Reason::NotLookedYet,
            if nodes.is_empty() {
                "the nodes of IM and Presence are not known yet"
            } else {
                "no edge pod tells of its links yet"
            },
        );
    }
    let expected = nodes.len() * usize::from(found.pods_allowed);
    if up < expected {
        return Verdict::no(
            Reason::LinksDown,
            format!(
                "{up} of {expected} links (pods × nodes {}) are up; the others are not attempted yet",
                nodes.join(", ")
            ),
        );
    }
    Verdict::yes(format!(
        "every edge pod is linked to {}",
        if nodes.is_empty() {
            "its routers".to_owned()
        } else {
            nodes.join(", ")
        }
    ))
}

fn describe(pod: &EdgePod, link: &xmpp_federation_core::edge_status::LinkStatus) -> String {
    let reason = link.reason.as_deref().unwrap_or("no reason given");
    let remedy = match link.state {
        LinkState::UnknownComponent => {
            "its XCP router has not read the table since the row was written, see RoutersInSync"
        }
        LinkState::Unreachable => {
            "check port and firewall; what arrives there shows `utils network capture eth0 file axl_inject.pcap count 1000000 size all` on that node"
        }
        LinkState::WrongSecret => "correct the Secret of spec.imp[].router.secretRef",
        LinkState::Connecting => "wait for the handshake",
        LinkState::Up | LinkState::Failed => "read the pod's log",
    };
    format!(
        "pod {} has no link to {} at {} ({:?}: {reason}); {remedy}",
        pod.name, link.node, link.address, link.state
    )
}

fn records(found: &Found<'_>) -> Verdict {
    let records = match found.records {
        Ok(records) => records,
        Err(sentence) => return Verdict::unknown(Reason::RecordsUnknown, sentence.clone()),
    };
    let of = |states: &[RecordState]| records.found.iter().find(|r| states.contains(&r.state));
    if let Some(record) = of(&[RecordState::Wrong, RecordState::Absent]) {
        return Verdict::no(
            Reason::RecordsWrong,
            format!("{}: {}", record.name, record.message),
        );
    }
    if let Some(record) = of(&[RecordState::Unknown]) {
        return Verdict::unknown(
            Reason::RecordsUnknown,
            format!("{}: {}", record.name, record.message),
        );
    }
    let own = records
        .found
        .iter()
        .filter(|r| r.state == RecordState::Verified)
        .count();
    Verdict::yes(format!(
        "{own} SRV records lead to {}",
        found.valid.hostname
    ))
}

fn partners(found: &Found<'_>) -> Verdict {
    let valid = found.valid;
    if valid.privacy.mode == PrivacyMode::AllowList
        && valid.privacy.domains.is_empty()
        && valid.static_routes.is_empty()
    {
        return Verdict::no(
            Reason::EmptyAllowList,
            "the allow list is empty, so nothing federates; list partners in spec.privacy.domains",
        );
    }
    let failing = answering(&found.observed.pods)
        .flat_map(|(pod, status)| status.failing_partners.iter().map(move |f| (pod, f)))
        .next();
    if let Some((pod, failure)) = failing {
        return Verdict::no(
            Reason::PartnersFailing,
            format!(
                "{} since {} (pod {}): {}",
                failure.domain, failure.since, pod.name, failure.reason
            ),
        );
    }
    let missing = |records: &Records| {
        records
            .found
            .iter()
            .find(|r| r.state == RecordState::PartnerMissing)
            .cloned()
    };
    if let Some(record) = found.records.as_ref().ok().and_then(missing) {
        return Verdict::no(
            Reason::PartnersFailing,
            format!("{}: {}", record.name, record.message),
        );
    }
    if valid.privacy.mode != PrivacyMode::AllowList && valid.static_routes.is_empty() {
        return Verdict::unknown(Reason::NoPartners, "no partner is configured by name");
    }
    Verdict::yes("no configured partner fails")
}

/// Everything but the conditions.
pub fn details(found: &Found<'_>, previous: &XmppFederationStatus) -> XmppFederationStatus {
    let valid = found.valid;
    let running: Vec<&EdgePod> = found.observed.pods.iter().filter(|p| !p.stopping).collect();
    let ready = running.iter().filter(|p| p.ready).count();
    let number = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    let certificate = found
        .material
        .certificate
        .as_ref()
        .ok()
        .and_then(|certificate| {
            let info = certificate.inspect().ok()?;
            Some(CertificateStatus {
                source: match certificate {
                    Certificate::Own { .. } => "OwnAuthority".to_owned(),
                    Certificate::Brought { .. } => "Secret".to_owned(),
                },
                secret_name: certificate_secret(valid, certificate),
                not_after: info.not_after.to_string(),
                issuer: info.issuer,
                fingerprint: info.fingerprint_sha256,
            })
        });
    XmppFederationStatus {
        observed_generation: previous.observed_generation,
        conditions: Vec::new(),
        edge: Some(EdgeStatus {
            replicas: number(running.len()),
            ready_replicas: number(ready),
            ready: format!("{ready}/{}", valid.replicas),
            selector: valid.owner.selector(),
            addresses: found.addresses.iter().map(ToString::to_string).collect(),
        }),
        certificate,
        dialback: found
            .material
            .dialback
            .as_ref()
            .ok()
            .map(|_| DialbackStatus {
                secret_name: valid.owner.dialback(),
                rotated_at: None,
                stage: "Steady".to_owned(),
            }),
        records: match found.records {
            Ok(records) => records
                .found
                .iter()
                .map(|r| RecordStatus {
                    name: r.name.clone(),
                    state: format!("{:?}", r.state),
                    message: r.message.clone(),
                })
                .collect(),
            Err(_) => previous.records.clone(),
        },
        imp: match found.imp {
            Ok(report) => vec![imp_status(found, report, previous)],
            Err(_) => previous.imp.clone(),
        },
        handled_requests: previous.handled_requests.clone(),
    }
}

fn imp_status(found: &Found<'_>, report: &Report, previous: &XmppFederationStatus) -> ImpStatus {
    let name = &found.valid.imp.spec.name;
    let before = previous.imp.iter().find(|imp| imp.name == *name);
    ImpStatus {
        name: name.clone(),
        axl_version: report
            .axl_version
            .clone()
            .or_else(|| before.and_then(|b| b.axl_version.clone())),
        table: report
            .table
            .clone()
            .or_else(|| before.and_then(|b| b.table.clone())),
        nodes: report
            .nodes
            .iter()
            .map(|node| NodeStatus {
                name: node.name.clone(),
                address: found
                    .links
                    .iter()
                    .find(|(name, _)| *name == node.name)
                    .map_or_else(|| node.name.clone(), |(_, address)| address.clone()),
                router: if node
                    .pending_restart
                    .as_ref()
                    .is_some_and(|p| !p.id.is_empty())
                {
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
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::super::build::{Known, all};
    use super::super::dereference::{Live, Secrets};
    use super::super::material::Dialback;
    use super::super::testing::{spec_with, validated};
    use super::*;
    use rstest::rstest;
    use serde_json::{Value, json};
    use xmpp_federation_core::SecretBytes;
    use xmpp_federation_core::edge_status::{
        EdgeStatus as Told, LinkStatus, PartnerFailure, RejectedConfig, StreamCounts,
    };

    /// A world in which one pod runs; each test spoils one thing.
    struct World {
        valid: Validated,
        material: Material,
        pods: Vec<EdgePod>,
        addresses: Vec<IpAddr>,
        desired: Desired,
        stateful_set: Option<kube::api::DynamicObject>,
    }

    fn link(state: LinkState) -> LinkStatus {
        LinkStatus {
            router: "main".to_owned(),
            node: "ecup10.coluc.com".to_owned(),
            address: "10.244.200.10:7400".to_owned(),
            component_id: "cm-2_s2scp-1.eft-xwye-a-coluc-com".parse().unwrap(),
            state,
            since: "2023-11-14T22:13:20Z".to_owned(),
            reason: None,
        }
    }

    fn world(path: &str, value: Value) -> World {
        let mut spec = spec_with(path, value);
        spec.edge.replicas = spec.edge.replicas.min(1);
        let valid = validated(&spec).unwrap();
        let secret = SecretBytes::new(vec![b'a'; 64]);
        let material = Material {
            dialback: Ok(Dialback {
                secret: secret.clone(),
                fresh: false,
            }),
            certificate: Err("no certificate".to_owned()),
            router: Ok(SecretBytes::new(b"secret".to_vec())),
            others: Ok(()),
            brought: Vec::new(),
        };
        let desired = all(
            &valid,
            &material,
            &Known {
                links: Links::new(),
                pods: 1,
            },
        );
        let mark = sha256(&unhex(&sha256(secret.expose())));
        let told = Told {
            config_hash: desired.config_hash.clone(),
            rejected: None,
            certificate_sha256: None,
            dialback_secrets: vec![mark.chars().take(16).collect()],
            draining: false,
            links: vec![link(LinkState::Up)],
            failing_partners: Vec::new(),
            streams: StreamCounts::default(),
        };
        let pod = EdgePod {
            name: "coluc-edge-0".to_owned(),
            uid: "pod-1".to_owned(),
            index: 0,
            ready: true,
            stopping: false,
            told: None,
            trouble: None,
            status: Ok(told),
        };
        World {
            valid,
            material,
            pods: vec![pod],
            addresses: vec!["203.0.113.10".parse().unwrap()],
            desired,
            stateful_set: None,
        }
    }

    fn verdict(world: &World, kind: Type) -> Verdict {
        let observed = Observed {
            secrets: Secrets::default(),
            revocation_lists: None,
            live: Live {
                stateful_set: world.stateful_set.clone(),
                ..Live::default()
            },
            pods: world.pods.clone(),
        };
        let found = Found {
            valid: &world.valid,
            observed: &observed,
            material: &world.material,
            desired: &world.desired,
            controller_changed: false,
            pods_allowed: world.valid.replicas,
            imp: &Err("Secret cups-axl does not exist".to_owned()),
            records: &Err("no answer".to_owned()),
            addresses: &world.addresses,
            links: &Links::new(),
            now: Timestamp::from_second(1_700_000_000).unwrap(),
        };
        let findings = findings(&found);
        findings
            .verdicts
            .into_iter()
            .find(|(k, _)| *k == kind)
            .unwrap()
            .1
    }

    fn status(world: &mut World) -> &mut Told {
        world.pods.first_mut().unwrap().status.as_mut().unwrap()
    }

    #[rstest]
    #[case(Type::EdgeAvailable)]
    #[case(Type::DialbackSecretReady)]
    #[case(Type::RouterLinksUp)]
    #[case(Type::PartnersReachable)]
    fn in_a_sound_world_all_is_well(#[case] kind: Type) {
        let verdict = verdict(&world("", Value::Null), kind);
        assert_eq!(verdict.state, State::True, "{}", verdict.message);
    }

    #[rstest]
    // generation, seen, current and newest revision, pods of the newest
    #[case(2, 2, ("b", "b"), 1, "AsWanted")]
    #[case(3, 2, ("b", "b"), 1, "PodsReplaced")]
    #[case(3, 3, ("b", "c"), 0, "PodsReplaced")]
    #[case(3, 3, ("b", "c"), 1, "AsWanted")]
    fn pods_of_an_earlier_template_are_not_available(
        #[case] generation: i64,
        #[case] seen: i64,
        #[case] revisions: (&str, &str),
        #[case] updated: i64,
        #[case] reason: &str,
    ) {
        let mut world = world("", Value::Null);
        let set = serde_json::json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet",
            "metadata": {"name": "coluc-edge", "generation": generation},
            "spec": {"replicas": 1},
            "status": {"observedGeneration": seen, "updatedReplicas": updated,
                "currentRevision": revisions.0, "updateRevision": revisions.1},
        });
        world.stateful_set = Some(serde_json::from_value(set).unwrap());
        assert_eq!(verdict(&world, Type::EdgeAvailable).reason, reason);
    }

    #[test]
    fn a_refused_configuration_is_told_with_its_reason() {
        let mut world = world("", Value::Null);
        let hash = world.desired.config_hash.clone();
        status(&mut world).config_hash = "older".to_owned();
        status(&mut world).rejected = Some(RejectedConfig {
            config_hash: hash,
            reason: "line 3: tls.mode: …".to_owned(),
        });
        let verdict = verdict(&world, Type::EdgeAvailable);
        assert_eq!(
            (verdict.state, verdict.reason),
            (State::False, "ConfigRejected")
        );
        assert!(
            verdict.message.contains("line 3: tls.mode"),
            "{}",
            verdict.message
        );
    }

    #[test]
    fn a_pod_with_an_older_configuration_is_named() {
        let mut world = world("", Value::Null);
        status(&mut world).config_hash = "older".to_owned();
        let verdict = verdict(&world, Type::EdgeAvailable);
        assert_eq!(
            (verdict.state, verdict.reason),
            (State::False, "ConfigNotLoaded")
        );
        assert!(
            verdict.message.contains("coluc-edge-0"),
            "{}",
            verdict.message
        );
    }

    #[test]
    fn a_pod_that_signs_with_another_secret_is_named() {
        let mut world = world("", Value::Null);
        status(&mut world).dialback_secrets = vec!["0123456789abcdef".to_owned()];
        let verdict = verdict(&world, Type::DialbackSecretReady);
        assert_eq!(verdict.state, State::False);
        assert!(
            verdict.message.contains("coluc-edge-0"),
            "{}",
            verdict.message
        );
    }

    #[test]
    fn a_service_without_an_address_is_not_available() {
        let mut world = world("", Value::Null);
        world.addresses.clear();
        assert_eq!(verdict(&world, Type::EdgeAvailable).reason, "NoAddress");
    }

    #[rstest]
    #[case(LinkState::UnknownComponent, "see RoutersInSync")]
    #[case(
        LinkState::Unreachable,
        "utils network capture eth0 file axl_inject.pcap count 1000000 size all"
    )]
    #[case(LinkState::WrongSecret, "spec.imp[].router.secretRef")]
    fn a_link_that_is_down_is_told_with_its_own_remedy(
        #[case] state: LinkState,
        #[case] remedy: &str,
    ) {
        let mut world = world("", Value::Null);
        status(&mut world).links = vec![link(state)];
        let verdict = verdict(&world, Type::RouterLinksUp);
        assert_eq!(verdict.state, State::False);
        assert!(verdict.message.contains(remedy), "{}", verdict.message);
        assert!(
            verdict.message.contains("ecup10.coluc.com"),
            "{}",
            verdict.message
        );
    }

    #[test]
    fn a_failing_partner_is_told_with_its_last_reason() {
        let mut world = world("", Value::Null);
        status(&mut world).failing_partners = vec![PartnerFailure {
            domain: Domain::parse("vngtp.lab").unwrap(),
            reason: "no SRV record".to_owned(),
            since: "2023-11-14T22:13:20Z".to_owned(),
        }];
        let verdict = verdict(&world, Type::PartnersReachable);
        assert_eq!(verdict.reason, "PartnersFailing");
        assert!(
            verdict.message.contains("no SRV record"),
            "{}",
            verdict.message
        );
    }

    #[test]
    fn an_empty_allow_list_is_said() {
        let verdict = verdict(
            &world("/privacy", json!({"mode": "AllowList"})),
            Type::PartnersReachable,
        );
        assert_eq!(
            (verdict.state, verdict.reason),
            (State::False, "EmptyAllowList")
        );
    }

    #[test]
    fn prepared_opens_no_link_and_is_not_blamed_for_it() {
        let verdict = verdict(
            &world("/activation", json!("Prepared")),
            Type::RouterLinksUp,
        );
        assert_eq!(
            (verdict.state, verdict.reason),
            (State::Unknown, "Prepared")
        );
    }

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
