//! `EdgeAvailable`: pods run, are ready and have the newest configuration.

use std::collections::BTreeMap;

use xmpp_federation_core::Release;
use xmpp_federation_core::edge_status::EdgeStatus;

use super::{Inputs, answering, upgrades};
use crate::api::conditions::{Status, Verdict};
use crate::api::reasons::Reason;
use crate::api::spec::ServiceType;
use crate::controller::apply;
use crate::controller::build::DesiredObject;
use crate::controller::dereference::EdgePod;
use crate::controller::refusals;
use crate::controller::upgrade::Progress;

pub(super) fn verdict(inputs: &Inputs<'_>) -> Verdict {
    let mut verdict = availability(inputs);
    if let Some((reason, sentence)) = upgrades::waits(inputs) {
        if verdict.status == Status::True {
            verdict.reason = reason;
        }
        verdict.message += &sentence;
    }
    if let Some(sentence) = releases_apart(inputs) {
        verdict.message += &sentence;
    }
    verdict
}

fn availability(inputs: &Inputs<'_>) -> Verdict {
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
        Some((pod, status, rejected))
    });
    if let Some((pod, status, rejected)) = rejected {
        let meanwhile = if status.config_hash.is_empty() {
            "serves nobody until it can read it"
        } else {
            "goes on with the one before"
        };
        // A pod of another release says itself what to do.
        let remedy = if of_this_release(status) {
            "; correct the field in the spec"
        } else {
            ""
        };
        return Verdict::no(
            Reason::ConfigRejected,
            format!(
                "pod {} refused the newest configuration and {meanwhile}: {}{remedy}",
                pod.name, rejected.reason
            ),
        );
    }
    let ready = pods.iter().filter(|pod| pod.ready).count();
    if ready < wanted {
        return too_few(inputs, &pods, &format!("{ready} of {wanted} edge pods are ready"));
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
    if inputs.effects.reach.shown().is_empty() && inputs.valid.service.type_ == ServiceType::LoadBalancer {
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

/// Why fewer pods are ready than wanted.
fn too_few(inputs: &Inputs<'_>, pods: &[&EdgePod], how_many: &str) -> Verdict {
    let (owner, view) = (&inputs.valid.owner, inputs.view);
    let no = |reason, why: String| Verdict::no(reason, format!("{how_many}{why}"));
    let set = view.existing.stateful_set.as_ref();
    if let (Some(error), None) = (inputs.material.no_router_secret(), set) {
        return no(error.reason(), format!(": they cannot start, {error}"));
    }
    let is_missing = |index| index < inputs.pods_allowed && !view.pods.iter().any(|pod| pod.index == index);
    let refusal = set.and_then(|set| refusals::current(&view.refusals, &set.uid, is_missing, inputs.now));
    if let Some(refusal) = refusal {
        let (edge, index) = (owner.edge(), refusal.index);
        let (words, remedy) = (&refusal.words, refusal.remedy());
        let why = format!("; pod {edge}-{index} is not created: {words}; {remedy}");
        return no(Reason::PodsNotCreated, why);
    }
    let mut needed = view.pods.iter().filter(|pod| pod.index < inputs.pods_allowed);
    if let Some(why) = needed.find_map(|pod| pod.hangs(inputs.now)) {
        return no(Reason::PodsNotReady, format!("; {why}"));
    }
    let mut unready = pods.iter().filter(|pod| !pod.ready);
    let trouble = unready.find_map(|pod| Some(format!("; pod {}: {}", pod.name, pod.trouble.as_ref()?)));
    let look = if view.pods.is_empty() {
        format!("none exists yet; look at kubectl describe statefulset {}", owner.edge())
    } else {
        format!("look at them with kubectl describe pod -l {}", owner.selector())
    };
    no(Reason::PodsNotReady, format!("{}; {look}", trouble.unwrap_or_default()))
}

fn of_this_release(status: &EdgeStatus) -> bool {
    status.version.as_ref() == Some(&Release::own().to_string())
}

/// Pods of another release than the operator's, and what they ignore.
fn releases_apart(inputs: &Inputs<'_>) -> Option<String> {
    let mut others: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut ignored = String::new();
    for (pod, status) in answering(&inputs.view.pods).filter(|(_, status)| !of_this_release(status)) {
        let version = status.version.as_deref().unwrap_or("unknown");
        others.entry(version).or_default().push(&pod.name);
        if let Some(field) = status.ignored_fields.first() {
            ignored = format!(" and ignore {field} of their configuration");
        }
    }
    let named = others
        .iter()
        .map(|(version, pods)| format!("{} ({version})", pods.join(", ")));
    let named = named.collect::<Vec<_>>().join(", ");
    if named.is_empty() {
        return None;
    }
    let image = &inputs.valid.image;
    let remedy = if inputs.valid.image_given {
        format!("Their image is {image}; set spec.edge.image to that of the operator's release, or remove it")
    } else if matches!(inputs.progress, Progress::Waits(_)) {
        "They are replaced in their turn".to_owned()
    } else if being_replaced(inputs) {
        "They are replaced by the roll-out".to_owned()
    } else {
        format!(
            "The operator wants {image} for them; if they stay, correct EDGE_IMAGE of the operator (edgeImage of its chart)"
        )
    };
    Some(format!(
        ". Edge pods are of another release than this operator ({}){ignored}: {named}. {remedy}",
        Release::own(),
    ))
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
        None if matches!(inputs.desired.config, DesiredObject::Unchanged) => Verdict::unknown(
            Reason::ConfigNotLoaded,
            "the edge pods go on with the configuration that they have: a new one is written when it is known which routers they dial, 10 min after the start of the operator at the latest",
        ),
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
    !apply::is_rolled_out(inputs.view.existing.rollout(), inputs.applied.changed_controller())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::sync::Arc;

    use super::super::testing::{status, verdict, world};
    use crate::api::conditions::{Status, Type};
    use crate::controller::build::DesiredObject;
    use crate::controller::kube::Kind;
    use crate::controller::objects::ExistingObject;
    use crate::controller::refusals::PodRefusal;
    use crate::records::{Reach, ServiceAddresses};
    use rstest::rstest;
    use serde_json::{Value, json};
    use xmpp_federation_core::edge_status::{EdgeStatus, RejectedConfig};

    fn controller(generation: i64, seen: i64, revisions: (&str, &str), updated: i64) -> Arc<ExistingObject> {
        let set = serde_json::json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet",
            "metadata": {"name": "coluc-edge", "generation": generation},
            "spec": {"replicas": 1},
            "status": {"observedGeneration": seen, "updatedReplicas": updated,
                "currentRevision": revisions.0, "updateRevision": revisions.1},
        });
        let set = ExistingObject::new(Kind::StatefulSet, serde_json::from_value(set).unwrap(), None);
        Arc::new(set)
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
        world.stateful_set = Some(controller(generation, seen, revisions, updated));
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
    fn a_pod_that_waits_for_a_later_release_is_told_with_what_it_says_itself() {
        let mut world = world("", Value::Null);
        let hash = world.desired.config_hash.clone();
        *status(&mut world) = EdgeStatus {
            version: Some("0.0.9".to_owned()),
            rejected: Some(RejectedConfig {
                config_hash: hash,
                reason: "edge.yaml: line 2: requires: this edge 0.0.9 does not know peer-quarantine".to_owned(),
            }),
            ..EdgeStatus::default()
        };
        let verdict = verdict(&world, Type::EdgeAvailable);
        assert_eq!(verdict.reason.as_str(), "ConfigRejected");
        for says in [
            "serves nobody until it can read it: edge.yaml: line 2",
            "coluc-edge-0 (0.0.9)",
        ] {
            assert!(verdict.message.contains(says), "{}", verdict.message);
        }
        assert!(!verdict.message.contains("correct the field"), "{}", verdict.message);
    }

    #[rstest]
    #[case::older(Some("0.0.9"), "coluc-edge-0 (0.0.9)")]
    #[case::later(Some("99.0.0"), "coluc-edge-0 (99.0.0)")]
    #[case::without_a_version(None, "coluc-edge-0 (unknown)")]
    fn pods_of_another_release_are_named_with_both_versions(#[case] version: Option<&str>, #[case] says: &str) {
        let mut world = world("/edge/image", json!("registry.example/edge:other"));
        status(&mut world).version = version.map(str::to_owned);
        status(&mut world).ignored_fields = vec!["peers[0].comment".to_owned()];
        let verdict = verdict(&world, Type::EdgeAvailable);
        assert_eq!((verdict.status, verdict.reason.as_str()), (Status::True, "AsWanted"));
        for says in [
            says,
            "Edge pods are of another release than this operator (0.1.0)",
            "and ignore peers[0].comment of their configuration",
            "Their image is registry.example/edge:other; set spec.edge.image to that of the operator's release",
        ] {
            assert!(
                verdict
                    .message
                    .contains(&says.replace("0.1.0", env!("CARGO_PKG_VERSION"))),
                "{}",
                verdict.message
            );
        }
    }

    #[rstest]
    #[case::a_roll_out_goes_on(None, 0, "They are replaced by the roll-out")]
    #[case::none_goes_on(None, 1, "if they stay, correct EDGE_IMAGE of the operator")]
    #[case::an_image_is_given(
        Some("registry.example/edge:other"),
        0,
        "set spec.edge.image to that of the operator's"
    )]
    fn the_remedy_for_pods_of_another_release_is_of_its_cause(
        #[case] image: Option<&str>,
        #[case] updated: i64,
        #[case] says: &str,
    ) {
        let mut world = world("/edge/image", json!(image));
        status(&mut world).version = Some("0.0.9".to_owned());
        world.stateful_set = Some(controller(3, 3, ("b", "c"), updated));
        let message = verdict(&world, Type::EdgeAvailable).message;
        assert!(message.contains(says), "{message}");
        assert_eq!(message.contains("spec.edge.image"), image.is_some(), "{message}");
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
    fn a_configuration_that_is_held_back_is_not_told_as_one_that_pods_should_load() {
        let mut world = world("", Value::Null);
        status(&mut world).config_hash = "older".to_owned();
        world.desired.config = DesiredObject::Unchanged;
        let verdict = verdict(&world, Type::EdgeAvailable);
        assert_eq!(
            (verdict.status, verdict.reason.as_str()),
            (Status::Unknown, "ConfigNotLoaded")
        );
        assert!(!verdict.message.contains("told again"), "{}", verdict.message);
    }

    #[test]
    fn a_service_without_an_address_is_not_available() {
        let mut world = world("", Value::Null);
        world.reach = Reach::default();
        assert_eq!(verdict(&world, Type::EdgeAvailable).reason.as_str(), "NoAddress");
    }

    #[test]
    fn a_load_balancer_with_a_host_name_is_one_with_an_address() {
        let mut world = world("", Value::Null);
        world.reach = Reach {
            service: ServiceAddresses {
                names: vec!["edge-1.elb.example".to_owned()],
                ..ServiceAddresses::default()
            },
            ..Reach::default()
        };
        assert_eq!(verdict(&world, Type::EdgeAvailable).reason.as_str(), "AsWanted");
        assert_eq!(world.reach.shown(), ["edge-1.elb.example"]);
    }

    const REFUSED: &str = "create Pod coluc-edge-0 in StatefulSet coluc-edge failed error: pods \"coluc-edge-0\" is forbidden: failed quota: cpu: must specify limits.cpu for: edge";

    #[rstest]
    #[case::refused(
        "none",
        "PodsNotCreated",
        "0 of 1 edge pods are ready; pod coluc-edge-0 is not created: pods \"coluc-edge-0\" is forbidden: failed quota: cpu: must specify limits.cpu for: edge; set what the quota wants"
    )]
    #[case::it_came("unready", "PodsNotReady", "look at them with kubectl describe pod -l")]
    #[case::it_is_ready("ready", "AsWanted", "1 of 1 edge pods are ready")]
    #[case::of_a_former_set(
        "another",
        "PodsNotReady",
        "none exists yet; look at kubectl describe statefulset coluc-edge"
    )]
    #[case::being_deleted("ends", "PodsNotReady", "look at them with kubectl describe pod -l")]
    #[case::on_a_dead_node(
        "overdue",
        "PodsNotReady",
        "pod coluc-edge-0 should have ended, and node node1 does not confirm it"
    )]
    fn pods_that_do_not_come_are_told_with_the_cause(#[case] case: &str, #[case] reason: &str, #[case] says: &str) {
        let mut world = world("", Value::Null);
        let set = controller(2, 2, ("b", "b"), 1);
        let controller_uid = if case == "another" { "former" } else { set.uid.as_str() };
        let event = json!({"metadata": {"name": "coluc-edge.1", "namespace": "federation"}, "message": REFUSED,
            "lastTimestamp": "2023-11-14T22:13:00Z", "reason": "FailedCreate",
            "involvedObject": {"kind": "StatefulSet", "name": "coluc-edge", "uid": controller_uid}});
        let refusal = PodRefusal::new(&serde_json::from_value(event).unwrap()).unwrap();
        world.refusals = vec![Arc::new(refusal)];
        world.stateful_set = Some(set);
        let pod = world.pods.first_mut().unwrap();
        let state = Arc::make_mut(&mut pod.pod);
        state.ready = case == "ready";
        state.stopping = ["ends", "overdue"].contains(&case);
        let ends = if case == "ends" {
            "2023-11-14T22:13:00Z"
        } else {
            "2023-11-14T22:00:00Z"
        };
        state.ends = state.stopping.then(|| ends.parse().unwrap());
        if ["none", "another"].contains(&case) {
            world.pods.clear();
        }
        let verdict = verdict(&world, Type::EdgeAvailable);
        assert_eq!(verdict.reason.as_str(), reason, "{}", verdict.message);
        assert!(verdict.message.contains(says), "{}", verdict.message);
        assert_eq!(
            verdict.message.contains("kubectl describe pod"),
            says.contains("describe pod")
        );
    }
}
