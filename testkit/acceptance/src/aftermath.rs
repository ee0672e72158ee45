//! What a failed run leaves for its reader: the pods' logs, events and the resource, beside the lab's own logs.

use testkit_lab::Lab;

/// Writes what Kubernetes still knows into the lab's log folder; what cannot be had is left out.
pub async fn collect(lab: &Lab) {
    let save = async |file: &str, question: &[&str]| {
        let path = lab.layout().logs_dir().join(file);
        if let Ok(text) = lab.kubectl(question).await
            && let Err(error) = std::fs::write(&path, text)
        {
            eprintln!("cannot write {}: {error}", path.display());
        }
    };
    save("resources.yaml", &["get", "xfed", "-A", "-o", "yaml"]).await;
    save("events.txt", &["get", "events", "-A", "--sort-by=.lastTimestamp"]).await;
    save("pods.txt", &["get", "pods", "-A", "-o", "wide"]).await;
    let names = "-o=jsonpath={range .items[*]}{.metadata.namespace} {.metadata.name}{\"\\n\"}{end}";
    let pods = lab.kubectl(&["get", "pods", "-A", names]).await.unwrap_or_default();
    for (namespace, pod) in pods.lines().filter_map(|line| line.split_once(' ')) {
        let logs = ["-n", namespace, "logs", pod];
        save(&format!("pod-{pod}.log"), &logs).await;
        save(
            &format!("pod-{pod}.previous.log"),
            &[&logs[..], &["--previous"]].concat(),
        )
        .await;
    }
}
