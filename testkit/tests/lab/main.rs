//! The lab itself: a real Kubernetes, the cloud's addresses, two labs side by side, and nothing left afterwards.
//!
//! Needs root and what `make setup` builds, so it runs in `make test` (with `--ignored`), not in a plain `cargo test`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod clouds;
mod nodes;
mod operator;
mod upgrades;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use testkit_base::Error;
use testkit_lab::layout::{self, Layout, name_here};
use testkit_lab::{Lab, Options, node};

fn options(letter: char) -> Options {
    Options {
        hosts: false,
        ..Options::named(&name_here(&format!("self{letter}")))
    }
}

const MANIFEST: &str = r#"
apiVersion: v1
kind: Namespace
metadata:
  name: try
  labels: {pod-security.kubernetes.io/enforce: restricted}
---
apiVersion: v1
kind: Service
metadata: {name: try, namespace: try}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  selector: {app: try}
  ports: [{port: 5269, targetPort: 8080}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: try, namespace: try}
spec:
  replicas: 2
  podManagementPolicy: Parallel
  serviceName: try
  selector: {matchLabels: {app: try}}
  template:
    metadata: {labels: {app: try}}
    spec:
      automountServiceAccountToken: false
      securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}
      containers:
        - name: try
          image: localhost/xf-pause:dev
          args: ["8080"]
          readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities: {drop: [ALL]}
"#;

/// What a lab could leave on the machine outside its folder.
fn traces() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for mount in fs::read_to_string("/proc/self/mounts").unwrap().lines() {
        // A namespace of another lab comes and goes.
        if !mount.contains("/netns") {
            found.insert(format!("mount {mount}"));
        }
    }
    for folder in [
        "/var/lib",
        "/var/log",
        "/run",
        "/opt",
        "/usr/libexec",
        "/etc/cni",
        "/run/containerd",
    ] {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if !path.to_string_lossy().contains("/xf-") {
                found.insert(format!("file {}", path.display()));
            }
        }
    }
    for setting in [
        "vm/overcommit_memory",
        "vm/panic_on_oom",
        "kernel/panic",
        "kernel/panic_on_oops",
    ] {
        let value = fs::read_to_string(Path::new("/proc/sys").join(setting)).unwrap();
        found.insert(format!("setting {setting} = {}", value.trim()));
    }
    found
}

/// What is left of one lab by name.
fn remains(lab: &Layout) -> Vec<String> {
    let mut found = Vec::new();
    for folder in [
        "/run",
        "/run/netns",
        "/sys/fs/cgroup",
        "/sys/fs/cgroup/memory",
        "/sys/fs/cgroup/pids",
    ] {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if lab.owns_namespace(&entry.file_name().to_string_lossy()) {
                found.push(entry.path().display().to_string());
            }
        }
    }
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).replace('\0', " ");
        let own = entry.file_name().to_string_lossy() == std::process::id().to_string();
        if !own && (words.contains(&lab.tag()) || words.contains(&lab.dir().display().to_string())) {
            found.push(format!("process {} {words}", entry.file_name().to_string_lossy()));
        }
    }
    if lab.dir().exists() {
        found.push(lab.dir().display().to_string());
    }
    found
}

async fn run_pods(lab: &Lab) -> Result<(), Error> {
    lab.kubectl_with_input(&["apply", "-f", "-"], MANIFEST).await?;
    lab.kubectl(&["-n", "try", "rollout", "status", "statefulset/try", "--timeout=60s"])
        .await?;
    node::wait_until("the load balancer's address", Duration::from_secs(10), async || {
        let words = [
            "-n",
            "try",
            "get",
            "service",
            "try",
            "-o=jsonpath={.status.loadBalancer.ingress[0].ip}",
        ];
        Ok(lab.kubectl(&words).await? == "203.0.113.10")
    })
    .await?;
    lab.add_host("client", &["198.51.100.77".parse::<std::net::IpAddr>()?])
        .await
}

/// Which pods answered ten connections of the internet host to the load balancer.
async fn answers(lab: &Lab) -> Result<BTreeSet<String>, Error> {
    let connect = async || {
        let script = "exec 3<>/dev/tcp/203.0.113.10/5269 && cat <&3";
        lab.exec_in(Some("client"), &["timeout", "5", "bash", "-c", script])
            .await
    };
    // kube-proxy learns of pods a little later than their StatefulSet.
    let what = "an answer of the load balancer";
    node::wait_until(what, Duration::from_secs(10), async || Ok(connect().await?.success)).await?;
    let mut names = BTreeSet::new();
    for _ in 0..10 {
        let output = connect().await?;
        if !output.success {
            return Err(format!("the load balancer does not answer: {}", output.stderr).into());
        }
        names.insert(output.stdout.trim().to_owned());
    }
    Ok(names)
}

/// A second load balancer has another address; the first one's address is given out again after its deletion.
async fn addresses_are_lent(lab: &Lab) -> Result<(), Error> {
    let address_of = async |name: &str, expected: &str| {
        let query = [
            "-n",
            "try",
            "get",
            "service",
            name,
            "-o=jsonpath={.status.loadBalancer.ingress[0].ip}",
        ];
        let what = format!("the address {expected} of {name}");
        node::wait_until(&what, Duration::from_secs(10), async || {
            Ok(lab.kubectl(&query).await? == expected)
        })
        .await
    };
    let create = async |name: &str| {
        lab.kubectl(&["-n", "try", "create", "service", "loadbalancer", name, "--tcp=1"])
            .await
    };
    create("second").await?;
    address_of("second", "203.0.113.11").await?;
    lab.kubectl(&["-n", "try", "delete", "service", "try"]).await?;
    create("third").await?;
    address_of("third", "203.0.113.10").await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and set-up; `make test` runs it"]
async fn two_labs_run_side_by_side_and_leave_nothing() {
    let before = traces();
    let (a, b) = (options('a'), options('b'));
    let (a, b) = tokio::join!(Lab::up(&a), Lab::up(&b));
    let (a, b) = (a.unwrap(), b.unwrap());
    for lab in [&a, &b] {
        run_pods(lab).await.unwrap();
    }
    a.down(None).await.unwrap();
    assert_eq!(remains(a.layout()), Vec::<String>::new());
    // The other one goes on, unharmed.
    assert_eq!(
        answers(&b).await.unwrap(),
        BTreeSet::from(["try-0".to_owned(), "try-1".to_owned()])
    );
    let logs = b.kubectl(&["-n", "try", "logs", "try-0"]).await.unwrap();
    assert!(logs.contains("serves port 8080"), "{logs}");
    // A pod reaches another one through its Service: replies must find their way back through the address translation.
    let service = ["-n", "try", "get", "service", "try", "-o=jsonpath={.spec.clusterIP}"];
    let address = b.kubectl(&service).await.unwrap();
    let pod = node::pod_processes(b.layout())
        .unwrap()
        .first()
        .expect("a pod's process")
        .pid;
    let script = format!("exec 3<>/dev/tcp/{address}/5269 && cat <&3");
    for _ in 0..10 {
        let inside = format!("--net=/proc/{pod}/ns/net");
        let status = Command::new("nsenter")
            .args([&inside, "timeout", "5", "bash", "-c", &script])
            .output()
            .unwrap();
        assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
    }
    addresses_are_lent(&b).await.unwrap();
    b.down(None).await.unwrap();
    assert_eq!(remains(b.layout()), Vec::<String>::new());
    let after = traces();
    let left: Vec<&String> = after.symmetric_difference(&before).collect();
    assert_eq!(left, Vec::<&String>::new());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and set-up; `make test` runs it"]
async fn a_start_that_was_killed_is_taken_away_by_the_next_one() {
    let options = options('c');
    let layout = Layout::new(&options.name, None).unwrap();
    let mut aborted = Command::new(layout::binary("testkit").unwrap())
        .args(["lab", "up", "--without-hosts", "--name", &options.name])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    node::wait_until("the start to be half done", Duration::from_mins(1), async || {
        Ok(layout.log("containerd").exists() && !layout.log("kubelet").exists())
    })
    .await
    .unwrap();
    aborted.kill().unwrap();
    aborted.wait().unwrap();
    assert_ne!(remains(&layout), Vec::<String>::new());
    let lab = Lab::up(&options).await.unwrap();
    run_pods(&lab).await.unwrap();
    lab.down(None).await.unwrap();
    assert_eq!(remains(&layout), Vec::<String>::new());
    // Removing what is not there is no error.
    Lab::remove(&layout, None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and set-up; `make test` runs it"]
async fn work_inside_a_lab_uses_its_network_and_its_resolver() {
    let lab = Lab::up(&Options {
        kubernetes: false,
        ..options('d')
    })
    .await
    .unwrap();
    let (addresses, resolver) = lab
        .inside(async || {
            let addresses = Command::new("ip").args(["-4", "-o", "addr"]).output()?.stdout;
            Ok((
                String::from_utf8_lossy(&addresses).into_owned(),
                fs::read_to_string("/etc/resolv.conf")?,
            ))
        })
        .await
        .unwrap();
    // A host that is added from inside is there for everybody.
    let copy = lab.clone();
    let add = async move || {
        copy.add_host("late", &["198.51.100.78".parse::<std::net::IpAddr>()?])
            .await
    };
    lab.inside(add).await.unwrap();
    let late = lab.exec_in(Some("late"), &["ip", "-4", "-o", "addr"]).await.unwrap();
    assert!(late.stdout.contains("198.51.100.78/24"), "{late:?}");
    assert!(
        addresses.contains("10.244.0.1/16") && addresses.contains("198.51.100.1/24"),
        "{addresses}"
    );
    assert_eq!(resolver, "nameserver 10.244.200.53\n");
    assert_ne!(fs::read_to_string("/etc/resolv.conf").unwrap(), resolver);
    lab.spawn_in(None, "sleeper", &["sleep", "60"], &std::collections::BTreeMap::new())
        .unwrap();
    let elsewhere = Options {
        dir: Some("/tmp/another-folder".into()),
        ..options('d')
    };
    let refused = Lab::up(&elsewhere).await.unwrap_err().to_string();
    assert!(refused.contains("choose another name"), "{refused}");
    assert!(lab.processes().unwrap().iter().all(|(_, alive)| *alive));
    lab.down(None).await.unwrap();
    assert_eq!(remains(lab.layout()), Vec::<String>::new());
}
