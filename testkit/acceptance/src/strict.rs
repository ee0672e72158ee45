//! The scenario on a strict cluster: two nodes, policies that are enforced, a quota that demands limits, and users that the
//! platform assigns. The twelve steps are the same; further ones show that the strictness is real.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use kube::Api;
use kube::api::PostParams;
use serde_json::{Value, json};

use super::pod::Pod;
use super::probe::{self, Probe, Prober};
use super::report::{Talk, ensure};
use super::resource::Sample;
use super::world::World;
use super::{Scenario, full, traffic};
use testkit_base::Error;
use testkit_lab::{Lab, hosts, layout, network};

type KubePod = k8s_openapi::api::core::v1::Pod;

/// What the cluster has beforehand.
const CLUSTER: &str = include_str!("strict.yaml");
/// Namespace of another federation in the same cluster.
const NEIGHBOUR: &str = "neighbour";
/// A host that a partner's route names, and its port.
const INSIDE: (&str, u16) = ("10.244.200.60", 5299);
/// Pods and policies are settled within this time.
const SETTLED: Duration = Duration::from_mins(1);

/// Makes the cluster strict, and puts the operator's own policy in place before its pod comes.
pub async fn prepare(lab: &Lab) -> Result<(), Error> {
    let apply = ["apply", "--server-side", "--field-manager=platform", "-f", "-"];
    lab.kubectl_with_input(&apply, CLUSTER).await?;
    operator_policy(lab, "apply").await
}

async fn operator_policy(lab: &Lab, verb: &str) -> Result<(), Error> {
    let file = layout::repository().join("deploy/network-policy.yaml");
    lab.kubectl(&[verb, "-f", &file.display().to_string()]).await.map(drop)
}

/// Plays the twelve steps, then what only a strict cluster shows.
pub async fn play(scenario: &mut Scenario<'_>) {
    full::play(scenario).await;
    let places = "Edge pods on both nodes, with users that the platform assigned, within the quota";
    scenario.step(22, places, &[12], places_and_users).await;
    let policies = "Policies: what has to pass passes, and nothing else";
    scenario.step(23, policies, &[12], policies_hold).await;
}

async fn places_and_users(talk: Talk, _: &World, sample: &Sample) -> Result<(), Error> {
    sample.becomes(talk, "Ready", "True", SETTLED).await?;
    let pods = sample.pods().await?;
    let nodes: BTreeSet<&str> = pods.iter().map(|pod| pod.node.as_str()).collect();
    ensure(nodes == BTreeSet::from(["node1", "node2"]), || {
        format!("the pods are on {nodes:?}")
    })?;
    let operator = sample.operator().await?;
    let all = pods
        .iter()
        .map(|pod| (pod, 1_000_660_000))
        .chain([(&operator, 1_000_650_000)]);
    for (pod, first) in all {
        let (user, groups) = pod.user()?;
        let assigned = first..first + 10_000;
        ensure(assigned.contains(&user) && groups.contains(&first), || {
            format!("{} runs as user {user} with groups {groups:?}", pod.name)
        })?;
        talk.fact(
            &pod.name,
            format_args!("on {}, user {user}, groups {groups:?}", pod.node),
        );
    }
    // Both are real: a pod with a user of its own is refused, and so is one that is too large for the quota.
    refused(
        talk,
        sample,
        json!({"runAsUser": 65532}),
        json!({}),
        "security context constraint",
    )
    .await?;
    let large = json!({"limits": {"memory": "64Gi"}});
    refused(talk, sample, json!({}), large, "exceeded quota").await
}

/// Tries to create a pod that is not allowed.
async fn refused(talk: Talk, sample: &Sample, user: Value, resources: Value, words: &str) -> Result<(), Error> {
    let mut context = json!({"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}});
    if let (Some(context), Some(user)) = (context.as_object_mut(), user.as_object()) {
        context.extend(user.clone());
    }
    let container = json!({"name": "c", "image": "localhost/none", "resources": resources, "securityContext":
        {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}});
    let pod = json!({"metadata": {"name": "refused"}, "spec": {"securityContext": context, "containers": [container]}});
    let trial = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    match sample
        .api::<KubePod>()
        .create(&trial, &serde_json::from_value(pod)?)
        .await
    {
        Err(kube::Error::Api(said)) if said.message.contains(words) => {
            talk.fact("refused", said.message);
            Ok(())
        }
        Err(other) => Err(other.into()),
        Ok(_) => Err(format!("a pod is admitted that should be refused with {words:?}").into()),
    }
}

async fn policies_hold(talk: Talk, world: &World, sample: &Sample) -> Result<(), Error> {
    let neighbour = neighbour(talk, world, sample).await?;
    let outcome = table_holds(talk, world, sample, &neighbour).await;
    // Whatever was seen, the policies and the resource are left as they were.
    operator_policy(&world.lab, "apply").await?;
    sample
        .patch(json!({"spec": {"edge": {"networkPolicy": null}, "partners": null}}))
        .await?;
    neighbour.delete(SETTLED).await?;
    outcome?;
    sample.becomes(talk, "Ready", "True", SETTLED).await?;
    traffic::messages(talk, &world.alice, &world.bob).await
}

/// Another federation, which has pods and no links.
async fn neighbour(talk: Talk, world: &World, sample: &Sample) -> Result<Sample, Error> {
    let mut neighbour = sample.clone();
    NEIGHBOUR.clone_into(&mut neighbour.namespace);
    let account = sample.account().await?;
    neighbour
        .prepare(&account, &std::fs::read_to_string(world.imp_ca())?)
        .await?;
    let spec = json!({"activation": "Prepared", "domains": ["neighbour.lab"], "chatNodeAliases": [],
        "edge": {"hostname": "xmpp.neighbour.lab", "replicas": 1, "slots": 1}});
    neighbour.apply_with(spec).await?;
    talk.wait("the neighbour's pod", SETTLED, async || {
        let pods = neighbour.pods().await?;
        ensure(
            pods.len() == 1 && pods.iter().all(|pod| pod.ready),
            || "it is not ready",
        )
    })
    .await?;
    Ok(neighbour)
}

async fn table_holds(talk: Talk, world: &World, sample: &Sample, neighbour: &Sample) -> Result<(), Error> {
    let lab = &world.lab;
    let (address, port) = INSIDE;
    if !lab.namespace_file(Some("inside")).exists() {
        lab.add_host("inside", &[address.parse::<IpAddr>()?]).await?;
        let listener = layout::tool("pause")?.display().to_string();
        lab.spawn_in(Some("inside"), "inside", &[&listener, &port.to_string()], &[].into())?;
        let dns = format!("{}:5353", network::DNS_LAN);
        lab.spawn_testkit(Some("dns"), "dns-5353", &["dns", "--bind", &dns])?;
    }
    let route = json!([{"domain": "inside.lab", "route": [{"host": "xmpp.inside.lab", "port": port}]}]);
    let monitoring = json!([{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]);
    let enabled = async |enabled: bool| {
        let policy = json!({"enabled": enabled, "metricsFrom": monitoring});
        sample
            .patch(json!({"spec": {"edge": {"networkPolicy": policy}, "partners": route}}))
            .await?;
        neighbour
            .patch(json!({"spec": {"edge": {"networkPolicy": {"enabled": enabled}}}}))
            .await?;
        operator_policy(lab, if enabled { "apply" } else { "delete" }).await
    };
    enabled(true).await?;
    let probes = probes(world, sample, neighbour).await?;
    talk.wait("every connection as it has to be", SETTLED, async || {
        probe::check(&probes, false).await
    })
    .await?;
    talk.say(probe::table(&probes));
    // What refuses is the policies and nothing else.
    enabled(false).await?;
    talk.wait("all of them passing without policies", SETTLED, async || {
        probe::check(&probes, true).await
    })
    .await?;
    talk.fact("without the policies", format_args!("all {} pass", probes.len()));
    enabled(true).await?;
    talk.wait("the policies in force again", SETTLED, async || {
        probe::check(&probes, false).await
    })
    .await
}

/// The table.
async fn probes(world: &World, sample: &Sample, neighbour: &Sample) -> Result<Vec<Probe>, Error> {
    let lab = &world.lab;
    let pod = async |namespace: &str, name: &str| -> Result<Pod, Error> {
        let pods: Api<KubePod> = Api::namespaced(sample.kube.clone(), namespace);
        Ok(Pod::from(pods.get(name).await?))
    };
    let (operator, resolver) = (sample.operator().await?, pod("stranger", "resolver").await?);
    let monitoring = Prober::pod("monitoring", &pod("monitoring", "prometheus").await?)?;
    let stranger = Prober::pod("stranger", &resolver)?;
    let neighbours = neighbour
        .pods()
        .await?
        .into_iter()
        .next()
        .ok_or("the neighbour has no pod")?;
    let neighbours_address = neighbours.address()?.to_string();
    let operator_address = operator.address()?.to_string();
    let (public, other_public) = (balancer(lab, sample).await?, balancer(lab, neighbour).await?);
    let service = [
        "-n",
        "stranger",
        "get",
        "service",
        "resolver",
        "-o=jsonpath={.spec.clusterIP}",
    ];
    let resolver_service = lab.kubectl(&service).await?;
    let (dns, api) = (network::DNS_LAN.to_string(), network::LAN_GATEWAY.to_string());
    let [publisher, subscriber, partner] =
        [hosts::PUBLISHER, hosts::SUBSCRIBER, hosts::PARTNER].map(|address| address.to_string());
    let (passes, refused) = (true, false);
    let mut probes = Vec::new();
    for pod in sample.pods().await? {
        let address = pod.address()?.to_string();
        let edge = Prober::pod(&format!("edge on {}", pod.node), &pod)?;
        probes.extend([
            edge.dns(passes, "DNS", &dns, 53),
            edge.tcp(passes, "DNS", &dns, 53),
            edge.dns(passes, "DNS on 5353", &dns, 5353),
            edge.tcp(passes, "DNS whose pod listens on 5353", &resolver_service, 53),
            edge.tcp(passes, "router", &publisher, 7400),
            edge.tcp(passes, "router", &subscriber, 7400),
            edge.tcp(passes, "partner's host by name", INSIDE.0, INSIDE.1),
            edge.tcp(passes, "partner in the internet", &partner, 5269),
            edge.tcp(passes, "other federation", &other_public, 5269),
            edge.tcp(passes, "other federation's pod", &neighbours_address, 5269),
            edge.tcp(refused, "other federation's admin port", &neighbours_address, 8080),
            edge.tcp(refused, "API server", &api, 6443),
            edge.tcp(refused, "API server's Service", "10.96.0.1", 443),
            edge.tcp(refused, "another port of the router's host", &publisher, 8443),
            edge.tcp(refused, "a private address that nobody named", &dns, 8080),
            edge.tcp(refused, "a pod of others", &monitoring_address(sample).await?, 9090),
            edge.tcp(refused, "operator", &operator_address, 8081),
            stranger.tcp(passes, &format!("edge on {}", pod.node), &address, 5269),
            stranger.tcp(refused, &format!("admin port on {}", pod.node), &address, 8080),
            monitoring.tcp(passes, &format!("metrics on {}", pod.node), &address, 8080),
        ]);
        let operator = Prober::pod("operator", &operator)?;
        probes.extend([
            operator.tcp(passes, &format!("admin port on {}", pod.node), &address, 8080),
            operator.tcp(refused, &format!("edge on {}", pod.node), &address, 5269),
        ]);
    }
    let internet = Prober::host("internet", lab.namespace_file(Some("vngtp")));
    let operator_pod = Prober::pod("operator", &operator)?;
    probes.extend([
        internet.tcp(passes, "edge", &public, 5269),
        stranger.tcp(passes, "edge's public address", &public, 5269),
        stranger.tcp(refused, "operator", &operator_address, 8081),
        monitoring.tcp(refused, "operator", &operator_address, 8081),
        operator_pod.tcp(passes, "API server's Service", "10.96.0.1", 443),
        operator_pod.dns(passes, "DNS", &dns, 53),
        operator_pod.tcp(passes, "DNS whose pod listens on 5353", &resolver_service, 53),
        operator_pod.tcp(passes, "AXL and Control Center", &publisher, 8443),
        operator_pod.tcp(refused, "router", &publisher, 7400),
        operator_pod.tcp(refused, "a private address that nobody named", &dns, 8080),
    ]);
    Ok(probes)
}

async fn monitoring_address(sample: &Sample) -> Result<String, Error> {
    let pods: Api<KubePod> = Api::namespaced(sample.kube.clone(), "monitoring");
    Ok(Pod::from(pods.get("prometheus").await?).address()?.to_string())
}

/// The public address of a federation.
async fn balancer(lab: &Lab, of: &Sample) -> Result<String, Error> {
    let service = format!("{}-edge", of.name);
    let address = "-o=jsonpath={.status.loadBalancer.ingress[0].ip}";
    lab.kubectl(&["-n", &of.namespace, "get", "service", &service, address])
        .await
}
