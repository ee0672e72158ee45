//! Kubernetes of a lab: etcd, the control plane, and kube-proxy and kubelet of each node, all from the one binary `kube`.
//!
//! Timings are the defaults of each component. What differs from the defaults, and why:
//!
//! | component | setting | why |
//! |---|---|---|
//! | etcd | `--unsafe-no-fsync` | a lab's data ends with the lab; saves the disk |
//! | kube-apiserver | `--service-account-*`, certificates, `Node,RBAC` | as kubeadm sets them |
//! | kube-apiserver | admission plugin `OwnerReferencesPermissionEnforcement` | OpenShift has it: it asks for rights that nobody else asks for |
//! | kube-apiserver | an audit log of the operator's account | which of its rights it uses |
//! | kube-controller-manager, kube-scheduler | `--leader-elect=false`, `--secure-port=0` | there is one of each, and nobody scrapes them |
//! | kube-proxy | `--conntrack-max-per-core=0` | the limit belongs to the whole machine |
//! | kubelet | `evictionHard`, `imageGC*` off (all but 1 Mi of memory) | the machine's disk and memory are not the lab's alone: a full disk must not evict pods |
//! | kubelet | `enforceNodeAllocatable: []` | no limit on the lab's own cgroup |
//! | kubelet | `failSwapOn: false`, `failCgroupV1: false` | takes the machine as it is |
//! | kubelet | `cgroupRoot: /xf-NAME/NODE` | labs side by side |
//! | kubelet | `clusterDNS: 10.244.200.53` | the lab's DNS; it has no names of Services, so in-cluster names other than the apiserver's injected address do not resolve |
//! | containerd | `restrict_oom_score_adj` | the machine may lack the right to lower it |
//! | containerd | `disable_apparmor` | a profile would stay in the machine's kernel |
//! | CNI | `ptp` without masquerading | partners see pods' addresses; `NetworkPolicy` is enforced only where kube-router runs ([`enforce_policies`]) |

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::cluster::{self, Node};
use super::command;
use super::layout::{self, Layout};
use super::network::{self, LAN_GATEWAY, LAN_GATEWAY6};
use super::node::{self, wait_until};
use super::pki::Authority;
use super::process::{self, Place};
use testkit_base::Error;

/// The control plane's components that end before the apiserver.
const CONTROLLERS: [&str; 2] = ["kube-scheduler", "kube-controller-manager"];
/// Components of each node that end before its containerd.
const ON_NODES: [&str; 2] = ["kubelet", "kube-proxy"];
/// Enforces network policies, where that is wanted.
const POLICY_AGENT: &str = "kube-router";

/// Programs of Kubernetes that end first, whatever node they are on: they depend on the others.
pub fn stop_first() -> impl Iterator<Item = &'static str> {
    ON_NODES.into_iter().chain([POLICY_AGENT]).chain(CONTROLLERS)
}

/// Starts everything; returns when all nodes are Ready and pods can be created.
pub async fn start(lab: &Layout, nodes: &[Node], images: &[std::path::PathBuf]) -> Result<(), Error> {
    let dir = lab.kubernetes_dir();
    let ca = certificates(&dir)?;
    for node in nodes {
        network::add_node(lab, node).await?;
        node::create(lab, node).await?;
        let user = format!("system:node:{}", node.name);
        ca.kubeconfig(&dir, &kubelet_file(node), &user, Some("system:nodes"))?;
        let config = dir.join(format!("{}.json", kubelet_file(node)));
        fs::write(config, serde_json::to_vec_pretty(&kubelet_config(lab, node))?)?;
    }
    let starter = Starter::new(lab)?;
    starter.api_server(cluster::dual(nodes), &audit(lab)?)?;
    // Images are unpacked while the apiserver comes up.
    let runtime = async |node| {
        node::start_containerd(lab, node).await?;
        for image in images {
            node::import(lab, node, image).await?;
        }
        Ok::<_, Error>(())
    };
    let runtimes = futures::future::try_join_all(nodes.iter().map(runtime));
    let (runtimes, apiserver) = tokio::join!(runtimes, ready(lab));
    runtimes?;
    apiserver?;
    let control = &starter.control;
    starter.start(control, "kube-controller-manager", &controller_manager(&starter.dir))?;
    starter.start(control, "kube-scheduler", &scheduler(&starter.dir))?;
    for node in nodes {
        starter.start_on(node, "kube-proxy", &proxy(&starter.dir, node))?;
        starter.start_on(node, "kubelet", &kubelet(&starter.dir, node))?;
    }
    nodes_ready(lab, nodes).await
}

/// Starts an agent on each node that enforces network policies as the API defines them; returns when all have set up their
/// rules.
pub async fn enforce_policies(lab: &Layout, nodes: &[Node]) -> Result<(), Error> {
    let (agent, dir) = (layout::tool(POLICY_AGENT)?, lab.kubernetes_dir().display().to_string());
    for node in nodes {
        let mut words = vec![agent.display().to_string()];
        let flags = format!(
            "--run-firewall=true --run-router=false --run-service-proxy=false --run-loadbalancer=false
             --kubeconfig=@/policy-agent.kubeconfig --hostname-override={} --service-cluster-ip-range=10.96.0.0/16",
            node.name
        );
        words.extend(in_dir(&flags, &dir));
        let place = node::place(lab, node)?;
        process::start(lab, &node.process(POLICY_AGENT), &place, &words, &BTreeMap::new())?;
    }
    wait_until("the agents of policies", Duration::from_secs(30), async || {
        for node in nodes {
            running(lab, &[node.process(POLICY_AGENT)])?;
            let mut words = node::place(lab, node)?.prefix();
            words.extend(command::words("iptables -w -S KUBE-ROUTER-FORWARD"));
            if !command::output(&words, None).await?.success {
                return Ok(false);
            }
        }
        Ok(true)
    })
    .await
}

/// Name of the files of a node's kubelet, without ending.
fn kubelet_file(node: &Node) -> String {
    format!("kubelet-{}", node.name)
}

/// Starts etcd and the API server alone, the latter with `flags` more; each of `clients` (file, user, group) gets a
/// kubeconfig. No controller runs: nothing but these clients writes.
pub async fn start_api_server(lab: &Layout, flags: &[String], clients: &[(&str, &str, &str)]) -> Result<(), Error> {
    let dir = lab.kubernetes_dir();
    let ca = certificates(&dir)?;
    for (file, user, group) in clients {
        ca.kubeconfig(&dir, file, user, Some(group))?;
    }
    Starter::new(lab)?.api_server(false, flags)?;
    ready(lab).await
}

struct Starter<'a> {
    lab: &'a Layout,
    kube: String,
    dir: String,
    /// Where the control plane runs.
    control: Place,
}

impl<'a> Starter<'a> {
    fn new(lab: &'a Layout) -> Result<Self, Error> {
        Ok(Self {
            lab,
            kube: layout::tool("kube")?.display().to_string(),
            dir: lab.kubernetes_dir().display().to_string(),
            control: Place {
                network: Some(network::namespace_file(lab, None)),
                ..Place::default()
            },
        })
    }

    fn api_server(&self, dual: bool, flags: &[String]) -> Result<(), Error> {
        self.start(&self.control, "etcd", &etcd(self.lab))?;
        let flags = [apiserver(&self.dir, dual), flags.to_vec()].concat();
        self.start(&self.control, "kube-apiserver", &flags)
    }

    fn start(&self, place: &Place, process: &str, flags: &[String]) -> Result<(), Error> {
        let mut words = vec![self.kube.clone(), cluster::program(process).to_owned()];
        words.extend_from_slice(flags);
        process::start(self.lab, process, place, &words, &BTreeMap::new()).map(drop)
    }

    fn start_on(&self, node: &Node, program: &str, flags: &[String]) -> Result<(), Error> {
        self.start(&node::place(self.lab, node)?, &node.process(program), flags)
    }
}

fn certificates(dir: &Path) -> Result<Authority, Error> {
    let ca = Authority::create(dir)?;
    ca.server(dir, "apiserver")?;
    ca.server(dir, "kubelet")?;
    ca.client(
        dir,
        "apiserver-kubelet-client",
        "kube-apiserver-kubelet-client",
        Some("system:masters"),
    )?;
    ca.kubeconfig(dir, "admin", "lab-admin", Some("system:masters"))?;
    ca.kubeconfig(dir, "cloud", "lab-cloud", Some("system:masters"))?;
    ca.kubeconfig(dir, "controller-manager", "system:kube-controller-manager", None)?;
    ca.kubeconfig(dir, "scheduler", "system:kube-scheduler", None)?;
    ca.kubeconfig(dir, "proxy", "system:kube-proxy", None)?;
    ca.kubeconfig(dir, "policy-agent", "lab-policy-agent", Some("system:masters"))?;
    Ok(ca)
}

fn etcd(lab: &Layout) -> Vec<String> {
    let mut flags = vec![format!("--data-dir={}", lab.dir().join("etcd").display())];
    flags.extend(command::words(
        "--listen-client-urls=http://127.0.0.1:2379 --advertise-client-urls=http://127.0.0.1:2379
         --listen-peer-urls=http://127.0.0.1:2380 --unsafe-no-fsync",
    ));
    flags
}

/// Flags for a log of every request of the operator, without bodies: a Secret's bytes stay in the API server.
fn audit(lab: &Layout) -> Result<Vec<String>, Error> {
    let operator = "system:serviceaccount:xmpp-federation-system:xmpp-federation-operator";
    let policy = json!({
        "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
        "rules": [{"level": "Metadata", "users": [operator]}],
    });
    let file = lab.kubernetes_dir().join("audit-policy.json");
    fs::write(&file, policy.to_string())?;
    Ok(vec![
        format!("--audit-policy-file={}", file.display()),
        format!("--audit-log-path={}", lab.audit_log().display()),
        // In one file, however long the lab runs.
        "--audit-log-maxsize=100000".to_owned(),
    ])
}

fn apiserver(dir: &str, dual: bool) -> Vec<String> {
    let (bind, advertise, services) = if dual {
        // The first range is that of Services which ask for nothing, and of the API's own address.
        ("::", IpAddr::from(LAN_GATEWAY6), "fd96::/112,10.96.0.0/16")
    } else {
        ("0.0.0.0", LAN_GATEWAY.into(), "10.96.0.0/16")
    };
    // `dir` comes after the split at spaces: a path may have some.
    let flags = format!(
        "--etcd-servers=http://127.0.0.1:2379 --bind-address={bind} --advertise-address={advertise} --secure-port=6443
         --authorization-mode=Node,RBAC --allow-privileged=true
         --enable-admission-plugins=NodeRestriction,OwnerReferencesPermissionEnforcement
         --service-cluster-ip-range={services} --kubelet-preferred-address-types=InternalIP
         --service-account-issuer=https://kubernetes.default.svc.cluster.local
         --cert-dir=@ --client-ca-file=@/ca.crt --tls-cert-file=@/apiserver.crt --tls-private-key-file=@/apiserver.key
         --kubelet-certificate-authority=@/ca.crt --kubelet-client-certificate=@/apiserver-kubelet-client.crt
         --kubelet-client-key=@/apiserver-kubelet-client.key
         --service-account-key-file=@/sa.pub --service-account-signing-key-file=@/sa.key"
    );
    in_dir(&flags, dir)
}

fn controller_manager(dir: &str) -> Vec<String> {
    in_dir(
        "--kubeconfig=@/controller-manager.kubeconfig --leader-elect=false --secure-port=0
         --use-service-account-credentials=true --service-account-private-key-file=@/sa.key --root-ca-file=@/ca.crt
         --cluster-signing-cert-file=@/ca.crt --cluster-signing-key-file=@/ca.key",
        dir,
    )
}

fn scheduler(dir: &str) -> Vec<String> {
    in_dir(
        "--kubeconfig=@/scheduler.kubeconfig --leader-elect=false --secure-port=0",
        dir,
    )
}

fn proxy(dir: &str, node: &Node) -> Vec<String> {
    // The range of pods only: a host of the LAN is outside the cluster.
    let six = node.six.map(|six| format!("{}/{},", six.pods.0, six.pods.1));
    let pods = format!("{}10.244.0.0/17", six.unwrap_or_default());
    let flags = format!(
        "--kubeconfig=@/proxy.kubeconfig --proxy-mode=nftables --hostname-override={} --cluster-cidr={pods}
         --conntrack-max-per-core=0",
        node.name
    );
    in_dir(&flags, dir)
}

fn kubelet(dir: &str, node: &Node) -> Vec<String> {
    let (file, name) = (kubelet_file(node), node.name);
    // The first one decides which of a pod's addresses is its first.
    let addresses = node.families().into_iter().map(|family| family.own.to_string());
    let address = addresses.collect::<Vec<_>>().join(",");
    let flags = format!(
        "--kubeconfig=@/{file}.kubeconfig --config=@/{file}.json --hostname-override={name} --node-ip={address}"
    );
    in_dir(&flags, dir)
}

/// Splits flags at spaces and puts `dir` in place of `@`.
fn in_dir(flags: &str, dir: &str) -> Vec<String> {
    flags.split_whitespace().map(|flag| flag.replace('@', dir)).collect()
}

fn kubelet_config(lab: &Layout, node: &Node) -> serde_json::Value {
    let dir = lab.kubernetes_dir();
    let file = |name: &str| dir.join(name).display().to_string();
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {"x509": {"clientCAFile": file("ca.crt")}},
        "tlsCertFile": file("kubelet.crt"),
        "tlsPrivateKeyFile": file("kubelet.key"),
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": node::cgroup(lab, node),
        "enforceNodeAllocatable": [],
        "failCgroupV1": false,
        "failSwapOn": false,
        "evictionHard": {"memory.available": "1Mi"},
        "imageGCHighThresholdPercent": 100,
        "clusterDNS": network::resolvers(node.six.is_some()),
        "clusterDomain": "cluster.local",
        "resolvConf": network::resolv_conf(lab, None).display().to_string(),
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
    })
}

/// Words that run kubectl as the lab's administrator from outside the lab.
pub fn kubectl(lab: &Layout, arguments: &[&str]) -> Result<Vec<String>, Error> {
    let place = Place {
        network: Some(network::namespace_file(lab, None)),
        ..Place::default()
    };
    let mut words = place.prefix();
    words.push(layout::tool("kube")?.display().to_string());
    words.extend([
        "kubectl".to_owned(),
        "--kubeconfig".to_owned(),
        lab.kubeconfig().display().to_string(),
    ]);
    words.extend(arguments.iter().map(|word| (*word).to_owned()));
    Ok(words)
}

/// Waits until the apiserver says that it is ready.
async fn ready(lab: &Layout) -> Result<(), Error> {
    let words = kubectl(lab, &["get", "--raw", "/readyz"])?;
    wait_until("kube-apiserver", Duration::from_mins(2), async || {
        running(lab, &["etcd", "kube-apiserver"])?;
        Ok(command::output(&words, None).await?.success)
    })
    .await
}

/// Waits until all nodes are Ready and the default service account, which every pod needs, exists.
async fn nodes_ready(lab: &Layout, nodes: &[Node]) -> Result<(), Error> {
    let template = "-o=jsonpath={.items[*].status.conditions[?(@.type==\"Ready\")].status}";
    let states = kubectl(lab, &["get", "nodes", template])?;
    let account = kubectl(lab, &["get", "serviceaccount", "default", "-o=name"])?;
    let mut components: Vec<String> = CONTROLLERS.map(str::to_owned).to_vec();
    for node in nodes {
        components.extend(ON_NODES.map(|program| node.process(program)));
        components.push(node.process("containerd"));
    }
    let all_ready = vec!["True"; nodes.len()].join(" ");
    wait_until("the Kubernetes nodes", Duration::from_mins(2), async || {
        running(lab, &components)?;
        Ok(command::output(&states, None).await?.stdout == all_ready && command::output(&account, None).await?.success)
    })
    .await
}

/// An error naming the component that has ended, and its log.
fn running(lab: &Layout, components: &[impl AsRef<str>]) -> Result<(), Error> {
    for component in components {
        let component = component.as_ref();
        if process::find(lab, component)?.is_none() {
            return Err(format!("{component} ended: see {}", lab.log(component).display()).into());
        }
    }
    Ok(())
}
