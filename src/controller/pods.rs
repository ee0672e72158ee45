//! Edge pods, as the snapshot keeps them.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{ContainerStateWaiting, Pod};
use kube::ResourceExt;

use crate::api::{CONFIG_HASH, INSTANCE_LABEL};

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
    /// The hash of the configuration that its annotation asks it to load.
    pub notified: Option<String>,
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
        let unscheduled = condition("PodScheduled", "False").and_then(|c| c.message.clone());
        Some(Self {
            index: name.rsplit('-').next().and_then(|n| n.parse().ok()).unwrap_or(0),
            uid: pod.uid().unwrap_or_default(),
            instance,
            controller: owner.name.clone(),
            ip: status.and_then(|s| s.pod_ip.as_ref()).and_then(|ip| ip.parse().ok()),
            ready: condition("Ready", "True").is_some(),
            stopping: pod.metadata.deletion_timestamp.is_some(),
            notified: pod.annotations().get(CONFIG_HASH).cloned(),
            trouble: waiting.or(unscheduled),
            name,
        })
    }
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
}
