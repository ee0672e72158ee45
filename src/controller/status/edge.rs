//! `EdgeAvailable`: pods run, are ready and have the newest configuration.

use std::fmt::Write as _;

use super::{Inputs, answering};
use crate::api::conditions::Verdict;
use crate::api::reasons::Reason;
use crate::api::spec::ServiceType;
use crate::controller::dereference::EdgePod;
use crate::controller::objects::Content;

pub(super) fn verdict(inputs: &Inputs<'_>) -> Verdict {
    let pods: Vec<&EdgePod> = inputs
        .view
        .pods
        .iter()
        .filter(|p| !p.stopping && p.index < inputs.pods_allowed)
        .collect();
    let wanted = usize::from(inputs.pods_allowed);
    if inputs.valid.replicas == 0 {
        return Verdict::no(
            Reason::NoPods,
            "spec.edge.replicas is 0, so nobody is reached; set it above 0",
        );
    }
    let rejected = answering(&inputs.view.pods).find_map(|(pod, status)| {
        let rejected = status
            .rejected
            .as_ref()
            .filter(|r| r.config_hash == inputs.desired.config_hash)?;
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
        if let (Some(error), None) = (inputs.material.no_router_secret(), &inputs.view.existing.stateful_set) {
            message.push_str(": they cannot start, ");
            message.push_str(&error.to_string());
            return Verdict::no(Reason::SecretMissing, message);
        }
        let troubled = pods
            .iter()
            .find_map(|p| p.trouble.as_ref().filter(|_| !p.ready).map(|t| (&p.name, t)));
        if let Some((name, trouble)) = troubled {
            let _ = write!(message, "; pod {name}: {trouble}");
        }
        let _ = write!(
            message,
            "; look at them with kubectl describe pod -l {}",
            inputs.valid.owner.selector()
        );
        return Verdict::no(Reason::PodsNotReady, message);
    }
    if being_replaced(inputs) {
        return Verdict::no(
            Reason::PodsReplaced,
            "edge pods are being replaced, one after the other; the ones that run go on serving",
        );
    }
    if let Some(verdict) = outdated(inputs, &pods) {
        return verdict;
    }
    if inputs.effects.addresses.is_empty() && inputs.valid.service.type_ == ServiceType::LoadBalancer {
        return Verdict::no(
            Reason::NoAddress,
            format!(
                "Service {} has no public address yet; check the controller of load balancers, or set spec.edge.publicAddresses",
                inputs.valid.owner.edge()
            ),
        );
    }
    let held = inputs.valid.replicas.saturating_sub(inputs.pods_allowed);
    if held > 0 {
        return Verdict::yes(
            Reason::AsWanted,
            format!(
                "{ready} of {} edge pods run; {held} more start once the routers know their component ids, see RoutersInSync",
                inputs.valid.replicas
            ),
        );
    }
    Verdict::yes(
        Reason::AsWanted,
        format!("{ready} of {wanted} edge pods are ready with the newest configuration"),
    )
}

/// Pods that have not loaded the newest configuration.
fn outdated(inputs: &Inputs<'_>, pods: &[&EdgePod]) -> Option<Verdict> {
    let stale: Vec<&str> = pods
        .iter()
        .filter(|pod| !matches!(&pod.status, Ok(s) if s.config_hash == inputs.desired.config_hash))
        .map(|pod| pod.name.as_str())
        .collect();
    let name = stale.first()?;
    let why = pods
        .iter()
        .find_map(|p| p.status.as_ref().err().filter(|_| p.name == *name));
    Some(match why {
        Some(error) => Verdict::unknown(Reason::ConfigNotLoaded, format!("pod {name}: {error}")),
        None => Verdict::no(
            Reason::ConfigNotLoaded,
            format!(
                "{} have not loaded the newest configuration yet; they are told again until they have",
                stale.join(", ")
            ),
        ),
    })
}

/// Whether pods of an earlier template run, by the status of their controller.
fn being_replaced(inputs: &Inputs<'_>) -> bool {
    match inputs.view.existing.stateful_set.as_ref().map(|set| &set.content) {
        Some(Content::StatefulSet(rollout)) => inputs.applied.changed_controller() || !rollout.seen || rollout.behind,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::super::testing::{status, verdict, world};
    use crate::api::conditions::{Status, Type};
    use crate::controller::kube::Kind;
    use crate::controller::objects::ExistingObject;
    use rstest::rstest;
    use serde_json::Value;
    use xmpp_federation_core::edge_status::RejectedConfig;

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
        let set = ExistingObject::new(Kind::StatefulSet, serde_json::from_value(set).unwrap(), None);
        world.stateful_set = Some(std::sync::Arc::new(set));
        assert_eq!(verdict(&world, Type::EdgeAvailable).reason.as_str(), reason);
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
            (verdict.status, verdict.reason.as_str()),
            (Status::False, "ConfigRejected")
        );
        assert!(verdict.message.contains("line 3: tls.mode"), "{}", verdict.message);
    }

    #[test]
    fn a_pod_with_an_older_configuration_is_named() {
        let mut world = world("", Value::Null);
        status(&mut world).config_hash = "older".to_owned();
        let verdict = verdict(&world, Type::EdgeAvailable);
        assert_eq!(
            (verdict.status, verdict.reason.as_str()),
            (Status::False, "ConfigNotLoaded")
        );
        assert!(verdict.message.contains("coluc-edge-0"), "{}", verdict.message);
    }

    #[test]
    fn a_service_without_an_address_is_not_available() {
        let mut world = world("", Value::Null);
        world.addresses.clear();
        assert_eq!(verdict(&world, Type::EdgeAvailable).reason.as_str(), "NoAddress");
    }
}
