//! What a failed run leaves for its reader: the pods' logs, events and the resource, beside the lab's own logs.

use std::path::Path;

use super::object::Pod;
use super::object::{list, text};
use testkit_lab::Lab;

/// Writes what Kubernetes still knows into the lab's log folder; what cannot be had is left out.
pub async fn collect(lab: &Lab) {
    let folder = lab.layout().logs_dir();
    let questions: [(&str, &[&str]); 3] = [
        ("resources.yaml", &["get", "xfed", "-A", "-o", "yaml"]),
        ("events.txt", &["get", "events", "-A", "--sort-by=.lastTimestamp"]),
        ("pods.txt", &["get", "pods", "-A", "-o", "wide"]),
    ];
    for (file, question) in questions {
        write(&folder.join(file), lab.kubectl(question).await.ok());
    }
    let Ok(pods) = lab.kubectl(&["get", "pods", "-A", "-o", "json"]).await else {
        return;
    };
    let pods: serde_json::Value = serde_json::from_str(&pods).unwrap_or_default();
    for pod in list(&pods, "/items") {
        let (namespace, pod) = (text(pod, "/metadata/namespace"), Pod::read(pod));
        for (suffix, previous) in [("", "--previous=false"), (".previous", "--previous=true")] {
            let log = lab.kubectl(&["-n", namespace, "logs", previous, &pod.name]).await;
            write(&folder.join(format!("pod-{}{suffix}.log", pod.name)), log.ok());
        }
    }
}

fn write(path: &Path, text: Option<String>) {
    if let Some(text) = text
        && let Err(error) = std::fs::write(path, text)
    {
        eprintln!("cannot write {}: {error}", path.display());
    }
}
