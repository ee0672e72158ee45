//! Edge pods, as the snapshot keeps them.

use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStateWaiting, Pod, PodCondition};
use kube::ResourceExt;

use crate::api::{CONFIG_HASH, INSTANCE_LABEL};

/// A pod that should have ended this long ago is on a node that does not tell.
const OVERDUE: Duration = Duration::from_secs(30);

/// What is read of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodState {
    pub name: String,
    pub uid: String,
    /// Name of the resource, by its label.
    pub instance: String,
    /// Name of the `StatefulSet` that owns it.
    pub controller: String,
    /// Its slot.
    pub index: u16,
    /// Its address, once it has one.
    pub ip: Option<IpAddr>,
    /// Whether Kubernetes calls it ready.
    pub ready: bool,
    /// Whether it is being deleted.
    pub stopping: bool,
    /// When it is to have ended, if it is being deleted.
    pub ends: Option<Timestamp>,
    /// The node that it is on.
    pub node: Option<String>,
    /// The hash of the configuration that its annotation asks it to load.
    pub notified: Option<String>,
    /// Who keeps it although it has ended.
    pub finalizers: Vec<String>,
    /// Why it does not run, as Kubernetes says.
    pub trouble: Option<String>,
}

impl PodState {
    /// Takes a pod apart; `before`: as it was known. `None`: no pod of a `StatefulSet` of ours.
    pub fn new(pod: &Pod, before: Option<&Self>) -> Option<Self> {
        let name = pod.name_any();
        let instance = pod.labels().get(INSTANCE_LABEL)?.clone();
        let owner = pod
            .owner_references()
            .iter()
            .find(|owner| owner.kind == "StatefulSet")?;
        let status = pod.status.as_ref();
        let condition = |kind: &str, holds: &str| {
            let mut conditions = status.and_then(|s| s.conditions.as_ref()).into_iter().flatten();
            conditions.find(|c| c.type_ == kind && c.status == holds)
        };
        let containers = status.and_then(|s| s.container_statuses.as_ref()).into_iter().flatten();
        let mut waiting = containers.filter_map(|c| c.state.as_ref()?.waiting.as_ref());
        let waiting = waiting.find_map(|waiting| {
            // The kubelet tells the cause and the wait for the next try in turns.
            let backs_off = waiting
                .reason
                .as_deref()
                .is_some_and(|reason| reason.ends_with("BackOff"));
            let cause =
                before.filter(|before| backs_off && !before.ready && Some(&before.uid) == pod.metadata.uid.as_ref());
            cause
                .and_then(|before| before.trouble.clone())
                .or_else(|| told(waiting))
        });
        let reason = |c: &PodCondition| c.reason.clone().unwrap_or_else(|| "Unschedulable".to_owned());
        let unscheduled = condition("PodScheduled", "False");
        let unscheduled = unscheduled.and_then(|c| Some(format!("{}: {}", reason(c), c.message.as_ref()?)));
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
        // The kubelet sets both alike, but for gates of others; the node's controller alone sets the one.
        let apart = condition("Ready", "False").filter(|_| condition("ContainersReady", "True").is_some());
        let apart = apart.and_then(|ready| {
            if ready.reason.as_deref() == Some("ReadinessGatesNotReady") {
                let gates = ready.message.as_deref().unwrap_or("readiness gates are not ready");
                return Some(format!(
                    "{gates}; what sets these gates, as a load balancer's controller, has not done so yet"
                ));
            }
            let node = node.as_ref()?;
            Some(format!(
                "node {node} does not report any more; {}",
                out_of_service(node)
            ))
        });
        Some(Self {
            index: name.rsplit('-').next().and_then(|n| n.parse().ok()).unwrap_or(0),
            uid: pod.uid().unwrap_or_default(),
            instance,
            controller: owner.name.clone(),
            ip: status.and_then(|s| s.pod_ip.as_ref()).and_then(|ip| ip.parse().ok()),
            ready: condition("Ready", "True").is_some(),
            stopping: pod.metadata.deletion_timestamp.is_some(),
            ends: pod.metadata.deletion_timestamp.as_ref().map(|time| time.0),
            finalizers: pod.finalizers().to_vec(),
            node,
            notified: pod.annotations().get(CONFIG_HASH).cloned(),
            trouble: waiting.or(unscheduled).or(apart),
            name,
        })
    }

    /// When its end is overdue, if it is being deleted.
    pub fn overdue(&self) -> Option<Timestamp> {
        self.ends?.checked_add(OVERDUE).ok()
    }

    /// Why it goes on being deleted, if its end is overdue.
    pub fn hangs(&self, now: Timestamp) -> Option<String> {
        if self.overdue().is_none_or(|at| at > now) {
            return None;
        }
        let name = &self.name;
        if !self.finalizers.is_empty() {
            let kept = self.finalizers.join(", ");
            return Some(format!(
                "pod {name} should have ended, and its finalizers keep it, so it is not replaced: {kept}; look at the controller that sets them"
            ));
        }
        let node = self.node.as_deref()?;
        let remedy = out_of_service(node);
        Some(format!(
            "pod {name} should have ended, and node {node} does not confirm it, so it is not replaced; {remedy}"
        ))
    }
}

/// How to tell Kubernetes that a node is dead.
fn out_of_service(node: &str) -> String {
    format!(
        "repair the node, or if it is certainly off: kubectl taint nodes {node} node.kubernetes.io/out-of-service=nodeshutdown:NoExecute"
    )
}

fn told(waiting: &ContainerStateWaiting) -> Option<String> {
    let reason = waiting.reason.clone()?;
    Some(match &waiting.message {
        Some(message) => format!("{reason}: {message}"),
        None => reason,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    fn waiting(reason: &str, message: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "coluc-edge-1", "namespace": "federation", "uid": "u",
                "labels": {INSTANCE_LABEL: "coluc"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "coluc-edge", "uid": "s"}]},
            "status": {"containerStatuses": [{"name": "edge", "image": "", "imageID": "", "ready": false,
                "restartCount": 0, "state": {"waiting": {"reason": reason, "message": message}}}]},
        }))
        .unwrap()
    }

    #[test]
    fn an_image_that_cannot_be_pulled_is_told_with_its_cause_and_not_in_turns() {
        let first = PodState::new(&waiting("ErrImagePull", "no such image"), None).unwrap();
        assert_eq!(first.trouble.as_deref(), Some("ErrImagePull: no such image"));
        let second = PodState::new(&waiting("ImagePullBackOff", "Back-off pulling"), Some(&first)).unwrap();
        assert_eq!(second, first);
        let alone = PodState::new(&waiting("ImagePullBackOff", "Back-off pulling"), None).unwrap();
        assert_eq!(alone.trouble.as_deref(), Some("ImagePullBackOff: Back-off pulling"));
    }

    #[rstest]
    #[case::unschedulable(json!([{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/2 nodes are available"}]), Some("Unschedulable: 0/2 nodes are available"))]
    #[case::gated(json!([{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated", "message": "gates"}]), Some("SchedulingGated: gates"))]
    #[case::not_ready(json!([{"type": "Ready", "status": "False"}, {"type": "ContainersReady", "status": "False"}]), None)]
    #[case::node_lost(json!([{"type": "Ready", "status": "False"}, {"type": "ContainersReady", "status": "True"}]), Some("node n1 does not report any more; repair the node, or if it is certainly off: kubectl taint nodes n1 node.kubernetes.io/out-of-service=nodeshutdown:NoExecute"))]
    #[case::readiness_gate(json!([{"type": "Ready", "status": "False", "reason": "ReadinessGatesNotReady", "message": "corresponding condition of pod readiness gate \"g\" does not exist."}, {"type": "ContainersReady", "status": "True"}]), Some("corresponding condition of pod readiness gate \"g\" does not exist.; what sets these gates, as a load balancer's controller, has not done so yet"))]
    #[case::ready(json!([{"type": "Ready", "status": "True"}, {"type": "ContainersReady", "status": "True"}]), None)]
    fn a_pod_that_cannot_run_is_told_with_scheduler_or_node(
        #[case] conditions: serde_json::Value,
        #[case] trouble: Option<&str>,
    ) {
        let mut pod = waiting("", "");
        pod.spec = serde_json::from_value(json!({"nodeName": "n1", "containers": []})).unwrap();
        pod.status = serde_json::from_value(json!({"conditions": conditions})).unwrap();
        assert_eq!(PodState::new(&pod, None).unwrap().trouble.as_deref(), trouble);
    }

    #[test]
    fn a_pod_whose_end_is_overdue_is_on_a_dead_node() {
        let mut pod = waiting("", "");
        pod.spec = serde_json::from_value(json!({"nodeName": "n1", "containers": []})).unwrap();
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        assert_eq!(PodState::new(&pod, None).unwrap().overdue(), None);
        let time = serde_json::from_value(json!("2026-11-30T10:00:00Z")).unwrap();
        pod.metadata.deletion_timestamp = Some(time);
        let state = PodState::new(&pod, None).unwrap();
        assert_eq!(state.hangs(at("2026-11-30T10:00:29Z")), None);
        let told = state.hangs(at("2026-11-30T10:00:30Z")).unwrap();
        assert!(
            told.starts_with("pod coluc-edge-1 should have ended, and node n1 does not confirm it"),
            "{told}"
        );
        pod.metadata.finalizers = Some(vec!["batch.kubernetes.io/job-tracking".to_owned()]);
        let state = PodState::new(&pod, None).unwrap();
        let told = state.hangs(at("2026-11-30T10:00:30Z")).unwrap();
        assert!(
            told.contains("its finalizers keep it") && told.contains("job-tracking") && !told.contains("taint"),
            "{told}"
        );
    }
}
