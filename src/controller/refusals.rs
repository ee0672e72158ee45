//! Pods that the API server does not create: only events of their StatefulSet tell why.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use kube::ResourceExt;

use super::names::ObjectName;
use super::pods::PodState;

/// The events that are watched.
pub const SELECTOR: &str = "involvedObject.kind=StatefulSet,reason=FailedCreate";

/// A refusal that is older was no refusal of the last try: the controller tries again within 17 min.
const LASTS: Duration = Duration::from_mins(30);

/// The API server did not create a pod.
#[derive(Debug, Clone)]
pub struct PodRefusal {
    /// UID of the `StatefulSet`.
    pub controller: String,
    /// Name of the resource.
    pub instance: String,
    /// Slot of the pod.
    pub index: u16,
    /// The API server's words.
    pub words: String,
    /// When it was told last.
    last: Timestamp,
}

impl PartialEq for PodRefusal {
    /// A repetition is no news.
    fn eq(&self, other: &Self) -> bool {
        self.controller == other.controller && self.index == other.index && self.words == other.words
    }
}

/// The resource whose `StatefulSet` an event is about.
pub fn instance(event: &Event) -> Option<ObjectName> {
    let name = event.involved_object.name.as_deref()?.strip_suffix("-edge")?;
    Some(ObjectName {
        namespace: event.namespace()?,
        name: name.to_owned(),
    })
}

impl PodRefusal {
    /// Takes an event apart; `None`: of no `StatefulSet` of ours.
    pub fn new(event: &Event) -> Option<Self> {
        let message = event.message.as_deref()?;
        let (told, words) = message.split_once(" failed error: ").unwrap_or(("", message));
        let pod = told.split_once("Pod ").and_then(|(_, rest)| rest.split(' ').next());
        let index = pod.and_then(|pod| pod.rsplit('-').next()?.parse().ok());
        let series = event
            .series
            .as_ref()
            .and_then(|series| series.last_observed_time.as_ref());
        let time = series.map(|time| time.0);
        let time = time.or(event.last_timestamp.as_ref().map(|time| time.0));
        let time = time.or(event.event_time.as_ref().map(|time| time.0));
        let time = time.or(event.metadata.creation_timestamp.as_ref().map(|time| time.0));
        Some(Self {
            controller: event.involved_object.uid.clone()?,
            instance: instance(event)?.name,
            index: index.unwrap_or(0),
            words: words.trim().to_owned(),
            last: time?,
        })
    }

    /// Whether that pod, which was created then, is the one that was refused before.
    pub fn is_over(&self, pod: &PodState, created: Timestamp) -> bool {
        self.instance == pod.instance && self.index == pod.index && self.last <= created
    }

    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        let known = REMEDIES.iter().find(|(words, _)| self.words.contains(words));
        known.map_or("remove that cause", |(_, remedy)| *remedy)
    }
}

/// Words of the API server's admission, and the remedy.
const REMEDIES: [(&str, &str); 9] = [
    (
        "must specify ",
        "set what the quota wants in spec.edge.pod.resources, or make a LimitRange with a default for it",
    ),
    (
        "exceeded quota",
        "raise the ResourceQuota, or lower spec.edge.pod.resources or spec.edge.replicas",
    ),
    (
        "no PriorityClass with name",
        "create that PriorityClass, or correct spec.edge.pod.priorityClassName",
    ),
    (
        "violates PodSecurity",
        "change what spec.edge.pod asks for, or the namespace's label pod-security.kubernetes.io/enforce",
    ),
    (
        "security context constraint",
        "give no user or group in spec.edge.pod.securityContext, or one of the namespace's range; or grant the pods' ServiceAccount a constraint that admits them, such as nonroot-v2",
    ),
    (
        " per Container is ",
        "change spec.edge.pod.resources, or the LimitRange of the namespace",
    ),
    (
        " per Pod is ",
        "change spec.edge.pod.resources, or the LimitRange of the namespace",
    ),
    (
        "failed calling webhook",
        "look at the pods of that webhook, or remove its configuration",
    ),
    (
        "admission webhook",
        "do what the webhook asks for, or ask for an exception there",
    ),
];

/// Why a pod is not created now, of those of one `StatefulSet` whose slot has none.
pub fn current<'a>(
    refusals: &'a [Arc<PodRefusal>],
    controller: &str,
    is_missing: impl Fn(u16) -> bool,
    now: Timestamp,
) -> Option<&'a PodRefusal> {
    let refusals = refusals.iter().filter(|refusal| {
        let young = now.duration_since(refusal.last).unsigned_abs() < LASTS;
        refusal.controller == controller && young && is_missing(refusal.index)
    });
    let refusal = refusals.max_by_key(|refusal| (Reverse(refusal.index), refusal.last));
    refusal.map(Arc::as_ref)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::api::INSTANCE_LABEL;
    use crate::controller::snapshots::Snapshots;
    use rstest::rstest;
    use serde_json::json;

    fn event(set: &str, message: &str, minute: u32) -> Event {
        serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Event", "metadata": {"name": format!("{set}.1"), "namespace": "federation"},
            "involvedObject": {"kind": "StatefulSet", "name": set, "namespace": "federation", "uid": "s"},
            "reason": "FailedCreate", "message": message, "count": 3,
            "firstTimestamp": "2026-11-30T10:00:00Z", "lastTimestamp": format!("2026-11-30T10:{minute:02}:00Z"),
        }))
        .unwrap()
    }

    #[rstest]
    #[case::quota(
        "create Pod coluc-edge-1 in StatefulSet coluc-edge failed error: pods \"coluc-edge-1\" is forbidden: failed quota: cpu: must specify limits.cpu for: edge",
        1,
        "pods \"coluc-edge-1\" is forbidden: failed quota: cpu: must specify limits.cpu for: edge",
        "set what the quota wants in spec.edge.pod.resources"
    )]
    #[case::quota_used_up(
        "create Pod coluc-edge-0 in StatefulSet coluc-edge failed error: pods \"coluc-edge-0\" is forbidden: exceeded quota: pods, requested: pods=1, used: pods=0, limited: pods=0",
        0,
        "pods \"coluc-edge-0\" is forbidden: exceeded quota: pods",
        "raise the ResourceQuota"
    )]
    #[case::limit_range(
        "create Pod coluc-edge-0 in StatefulSet coluc-edge failed error: pods \"coluc-edge-0\" is forbidden: maximum memory usage per Container is 256Mi, but limit is 512Mi",
        0,
        "pods",
        "or the LimitRange of the namespace"
    )]
    #[case::priority_class(
        "create Pod coluc-edge-0 in StatefulSet coluc-edge failed error: pods \"coluc-edge-0\" is forbidden: no PriorityClass with name nosuch was found",
        0,
        "pods",
        "correct spec.edge.pod.priorityClassName"
    )]
    #[case::pod_security(
        "create Pod coluc-edge-0 in StatefulSet coluc-edge failed error: pods \"coluc-edge-0\" is forbidden: violates PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false",
        0,
        "pods",
        "pod-security.kubernetes.io/enforce"
    )]
    #[case::openshift(
        "create Pod coluc-edge-0 in StatefulSet coluc-edge failed error: pods \"coluc-edge-0\" is forbidden: unable to validate against any security context constraint: [provider \"anyuid\": Forbidden]",
        0,
        "pods",
        "such as nonroot-v2"
    )]
    #[case::webhook(
        "create Pod coluc-edge-0 in StatefulSet coluc-edge failed error: admission webhook \"validate.example\" denied the request: no",
        0,
        "admission webhook \"validate.example\" denied the request: no",
        "do what the webhook asks for"
    )]
    #[case::webhook_down(
        "create Pod coluc-edge-0 in StatefulSet coluc-edge failed error: Internal error occurred: failed calling webhook \"x.example\": no endpoints",
        0,
        "Internal error",
        "look at the pods of that webhook"
    )]
    #[case::combined(
        "(combined from similar events): create Pod coluc-edge-2 in StatefulSet coluc-edge failed error: something else",
        2,
        "something else",
        "remove that cause"
    )]
    #[case::other_words("something new", 0, "something new", "remove that cause")]
    fn a_refusal_is_told_in_the_api_servers_words_with_a_remedy(
        #[case] message: &str,
        #[case] index: u16,
        #[case] words: &str,
        #[case] remedy: &str,
    ) {
        let refusal = PodRefusal::new(&event("coluc-edge", message, 0)).unwrap();
        assert_eq!((refusal.index, &*refusal.instance), (index, "coluc"));
        assert!(refusal.words.starts_with(words), "{refusal:?}");
        assert!(refusal.remedy().contains(remedy), "{}", refusal.remedy());
    }

    #[test]
    fn events_of_others_are_passed_over_and_repetitions_are_no_news() {
        assert!(PodRefusal::new(&event("postgres", "create Pod postgres-0", 0)).is_none());
        let first = PodRefusal::new(&event("coluc-edge", "a", 0)).unwrap();
        assert_eq!(first, PodRefusal::new(&event("coluc-edge", "a", 5)).unwrap());
        assert_ne!(first, PodRefusal::new(&event("coluc-edge", "b", 0)).unwrap());
    }

    #[rstest]
    #[case::it_came("coluc-edge-1", 5, false)]
    #[case::it_was_there_before("coluc-edge-1", 0, true)]
    #[case::of_another_slot("coluc-edge-0", 5, true)]
    fn a_refusal_is_over_when_its_pod_came(#[case] pod: &str, #[case] minute: u32, #[case] stays: bool) {
        let snapshots = Snapshots::default();
        let message = "create Pod coluc-edge-1 in StatefulSet coluc-edge failed error: a";
        assert!(snapshots.see_refusal(&event("coluc-edge", message, 1)));
        let pod = serde_json::from_value(json!({"metadata": {"name": pod, "namespace": "federation", "uid": "u",
            "creationTimestamp": format!("2026-11-30T10:{minute:02}:00Z"), "labels": {INSTANCE_LABEL: "coluc"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "coluc-edge", "uid": "s"}]}}));
        assert!(snapshots.see_pod(&pod.unwrap()));
        assert_eq!(snapshots.refusals.all().len(), usize::from(stays));
    }

    #[rstest]
    // Pods that exist, minutes later, the set's UID, and what is told.
    #[case::the_first_missing_one(&[], 20, "s", Some("b"))]
    #[case::another_one_is_missing(&[0], 20, "s", Some("c"))]
    #[case::all_came(&[0, 1], 20, "s", None)]
    #[case::long_over(&[], 59, "s", None)]
    #[case::of_a_former_set(&[], 20, "another", None)]
    fn the_last_refusal_of_a_pod_that_is_missing_counts(
        #[case] exist: &[u16],
        #[case] minute: u32,
        #[case] controller: &str,
        #[case] told: Option<&str>,
    ) {
        let refused = |index: u16, words: &str, minute| {
            let message = format!("create Pod coluc-edge-{index} in StatefulSet coluc-edge failed error: {words}");
            Arc::new(PodRefusal::new(&event("coluc-edge", &message, minute)).unwrap())
        };
        let refusals = [refused(0, "a", 1), refused(0, "b", 2), refused(1, "c", 3)];
        let now = format!("2026-11-30T10:{minute}:00Z").parse().unwrap();
        let found = current(&refusals, controller, |index| !exist.contains(&index), now);
        assert_eq!(found.map(|refusal| &*refusal.words), told);
    }
}
