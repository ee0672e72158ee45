//! A lab with two Kubernetes nodes beside its control plane.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use testkit_base::Error;
use testkit_lab::cluster::TWO;
use testkit_lab::{Lab, Options, node};

use super::{answers, options, remains, run_pods};

/// Each pod with its node.
async fn places(lab: &Lab) -> Result<Vec<(String, String)>, Error> {
    let template = r#"-o=jsonpath={range .items[*]}{.metadata.name} {.spec.nodeName}{"\n"}{end}"#;
    let listed = lab.kubectl(&["-n", "try", "get", "pods", template]).await?;
    let pair = |line: &str| {
        line.split_once(' ')
            .map(|(pod, node)| (pod.to_owned(), node.to_owned()))
    };
    Ok(listed.lines().filter_map(pair).collect())
}

async fn both_nodes_work(lab: &Lab) -> Result<(), Error> {
    run_pods(lab).await?;
    let pods = places(lab).await?;
    let nodes: BTreeSet<&str> = pods.iter().map(|(_, node)| node.as_str()).collect();
    assert_eq!(nodes, BTreeSet::from(["node1", "node2"]), "{pods:?}");
    for (pod, _) in &pods {
        let logs = lab.kubectl(&["-n", "try", "logs", pod]).await?;
        assert!(logs.contains("serves port 8080"), "{logs}");
    }
    // From each pod to each pod through the Service, also on the other node.
    let service = ["-n", "try", "get", "service", "try", "-o=jsonpath={.spec.clusterIP}"];
    let script = format!("exec 3<>/dev/tcp/{}/5269 && cat <&3", lab.kubectl(&service).await?);
    for process in node::pod_processes(lab.layout())? {
        let inside = format!("--net=/proc/{}/ns/net", process.pid);
        let mut seen = BTreeSet::new();
        for _ in 0..30 {
            let output = Command::new("nsenter")
                .args([&inside, "timeout", "5", "bash", "-c", &script])
                .output()?;
            seen.insert(String::from_utf8_lossy(&output.stdout).trim().to_owned());
        }
        assert_eq!(seen, BTreeSet::from(["try-0".to_owned(), "try-1".to_owned()]));
    }
    // The load balancer has one active node, and leaves it when the pod there has gone.
    let before = answers(lab).await?;
    let [pod] = &*before.into_iter().collect::<Vec<_>>() else {
        return Err("the load balancer led to several nodes".into());
    };
    let active = pods.iter().find(|(name, _)| name == pod).map(|(_, node)| node.as_str());
    lab.kubectl(&["cordon", active.unwrap_or_default()]).await?;
    lab.kubectl(&["-n", "try", "delete", "pod", pod]).await?;
    let other: Vec<String> = pods
        .iter()
        .map(|(name, _)| name.clone())
        .filter(|name| name != pod)
        .collect();
    node::wait_until("the other node", Duration::from_secs(20), async || {
        Ok(answers(lab).await?.into_iter().any(|name| other.contains(&name)))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and set-up; `make test` runs it"]
async fn pods_of_two_nodes_reach_each_other_and_the_balancer_follows_them() {
    let lab = Lab::up(&Options {
        nodes: TWO,
        ..options('n')
    })
    .await
    .unwrap();
    both_nodes_work(&lab).await.unwrap();
    lab.down(None).await.unwrap();
    assert_eq!(remains(lab.layout()), Vec::<String>::new());
}
