//! The scenario in a lab with IPv6 before IPv4, by an operator that the chart installed for three namespaces: each
//! connection is looked at for its family, and the operator has no right outside its namespaces.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use super::report::{Talk, ensure};
use super::resource::{self, Account, OPERATOR, Sample};
use super::world::World;
use super::{Scenario, deletion, evidence, install, ready, registration, rights, traffic};
use testkit_base::Error;
use testkit_lab::{hosts, layout, network};

/// The namespaces that the operator watches; the first one is the sample's.
const WATCHED: [&str; 3] = ["federation", "federation-b", "federation-c"];
/// What the load balancer of the sample has.
const BALANCER: [&str; 2] = ["2001:db8::cb00:710a", "203.0.113.10"];
/// A deleted Service has to be back within this time.
const BACK: Duration = Duration::from_secs(3);
const SOON: Duration = Duration::from_mins(1);

/// Plays the steps on a fresh lab.
pub async fn play(scenario: &mut Scenario<'_>) {
    let chart = "The chart installs the operator for three namespaces, without a ClusterRole; a resource in each";
    scenario.step(31, chart, &[], installed).await;
    let objects = "Pods, Service, addresses and NetworkPolicy: IPv6 before IPv4";
    scenario.step(32, objects, &[31], objects_of_both_families).await;
    let rows = "The rows in IM&P; both XCP Routers restarted once, one after the other";
    let registered = async |talk: Talk, world: &World, sample: &Sample| {
        registration::rows(talk, world, sample).await?;
        registration::restarts(talk, world, sample).await
    };
    scenario.step(33, rows, &[31], registered).await;
    scenario
        .step(34, "Public records verified, A and AAAA", &[31], records)
        .await;
    scenario
        .step(35, "alice ↔ bob, both streams over IPv6", &[32], messages)
        .await;
    scenario
        .step(
            36,
            "Ready; one router linked over IPv4, the other over IPv6",
            &[31],
            linked,
        )
        .await;
    let namespaces = "A Service that is deleted comes back in each namespace, also after a restart of the operator";
    scenario.step(37, namespaces, &[31], come_back).await;
    let left = "A namespace that is not watched any more is left alone; another writer is named";
    scenario.step(38, left, &[37], unwatched).await;
}

/// Makes the sample one of a cluster with IPv6 before IPv4.
pub fn adapt(sample: &mut Sample) {
    let service = json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6", "IPv4"]});
    let spec = json!({
        "edge": {"service": service},
        "dns": {"resolvers": [network::DNS_LAN6, network::DNS_LAN]},
    });
    resource::merge(&mut sample.resource.spec, spec);
}

/// The resource of another namespace: prepared, with a domain of its own.
fn neighbour(sample: &Sample, namespace: &str) -> Sample {
    let mut other = sample.clone();
    namespace.clone_into(&mut other.namespace);
    let spec = json!({
        "activation": "Prepared", "domains": [format!("{namespace}.lab")], "chatNodeAliases": [],
        "edge": {"hostname": format!("edge.{namespace}.lab"), "replicas": 1, "service": {"type": "ClusterIP"}},
    });
    resource::merge(&mut other.resource.spec, spec);
    other
}

/// Installs or changes the chart's release, for these namespaces.
async fn release(world: &World, verb: &str, namespaces: &[&str]) -> Result<(), Error> {
    let chart = layout::repository().join("charts/xmpp-federation-operator");
    let chart = chart.display().to_string();
    let watched = format!("watchNamespaces={{{}}}", namespaces.join(","));
    #[rustfmt::skip]
    let words = [
        verb, OPERATOR.1, &chart, "--namespace", OPERATOR.0, "--wait", "--timeout", "120s", "--set", "crds.enabled=false",
        "--set", &watched, "--set", "clusterNetworks={fd44:0:0:1::/64,fd96::/112,10.244.0.0/18,10.96.0.0/16}",
        "--set", "image.repository=localhost/xmpp-federation-operator", "--set", "image.tag=dev",
        "--set", "edgeImage.repository=localhost/xmpp-federation-edge", "--set", "edgeImage.tag=dev",
    ];
    world.lab.helm(&words).await.map(drop)
}

async fn installed(talk: Talk, world: &World, sample: &Sample) -> Result<(), Error> {
    let file = |name: &str| layout::repository().join(name).display().to_string();
    let apply = ["apply", "--server-side", "-f", &file("crds")];
    talk.say(world.lab.kubectl(&apply).await?.trim());
    let namespace = ["apply", "-f", &file("deploy/namespace.yaml")];
    talk.say(world.lab.kubectl(&namespace).await?.trim());
    let account = Account {
        user: hosts::AXL_USER.to_owned(),
        password: hosts::AXL_PASSWORD.to_owned(),
    };
    let ca = std::fs::read_to_string(world.imp_ca())?;
    for namespace in WATCHED {
        neighbour(sample, namespace).prepare(&account, &ca).await?;
    }
    release(world, "install", &WATCHED).await?;
    talk.fact("helm install", format_args!("watchNamespaces: {}", WATCHED.join(", ")));
    let bindings: Api<ClusterRoleBinding> = Api::all(sample.kube.clone());
    for binding in bindings.list(&ListParams::default()).await? {
        let mut subjects = binding.subjects.iter().flatten();
        ensure(
            !subjects.any(|subject| subject.namespace.as_deref() == Some(OPERATOR.0)),
            || format!("the operator has rights everywhere: {:?}", binding.metadata.name),
        )?;
    }
    talk.fact("ClusterRoleBinding", "none for the operator");
    sample.apply_with(json!({})).await?;
    let [_, others @ ..] = WATCHED;
    for namespace in others {
        neighbour(sample, namespace).apply_with(json!({})).await?;
    }
    Ok(())
}

async fn objects_of_both_families(talk: Talk, world: &World, sample: &Sample) -> Result<(), Error> {
    install::pods_ready(talk, world, sample).await?;
    for pod in sample.operators().await?.iter().chain(&sample.pods().await?) {
        let families: Vec<bool> = pod.addresses.iter().map(IpAddr::is_ipv6).collect();
        ensure(families == [true, false], || {
            format!("{} has {:?}", pod.name, pod.addresses)
        })?;
        talk.fact(&pod.name, format_args!("{:?}", pod.addresses));
    }
    let services = sample.api::<Service>();
    let service = talk
        .wait("both addresses of the Service", SOON, async || {
            let service = services.get(&service_of(sample)).await?;
            let value = serde_json::to_value(&service)?;
            let shown = value.pointer("/status/loadBalancer/ingress").and_then(Value::as_array);
            let shown = shown
                .into_iter()
                .flatten()
                .filter_map(|entry| entry.get("ip")?.as_str());
            let shown: Vec<&str> = shown.collect();
            ensure(shown == BALANCER, || format!("the Service shows {shown:?}"))?;
            Ok(value)
        })
        .await?;
    let spec = |field: &str| service.pointer(&format!("/spec/{field}")).cloned().unwrap_or_default();
    let (policy, families) = (spec("ipFamilyPolicy"), spec("ipFamilies"));
    ensure(
        policy == "RequireDualStack" && families == json!(["IPv6", "IPv4"]),
        || format!("the Service has {policy} {families}"),
    )?;
    talk.fact("Service", format_args!("{policy} {families}, {}", spec("clusterIPs")));
    talk.wait("both addresses in the status", SOON, async || {
        let addresses = sample.status().await?.edge.addresses;
        let [six, four] = BALANCER;
        let set: BTreeSet<&str> = addresses.iter().map(String::as_str).collect();
        ensure(set == BTreeSet::from([six, four]), || {
            format!("status.edge.addresses is {addresses:?}")
        })?;
        talk.fact("status.edge.addresses", addresses.join(", "));
        Ok(())
    })
    .await?;
    let available = sample.becomes(talk, "EdgeAvailable", "True", SOON).await?;
    talk.fact("EdgeAvailable", &available);
    talk.wait("both routers in the NetworkPolicy", SOON, async || {
        let policies = sample.api::<NetworkPolicy>();
        let policies = policies.list(&ListParams::default()).await?;
        let text = serde_json::to_string(&policies.items)?;
        let wanted = [
            "0.0.0.0/0".to_owned(),
            "::/0".to_owned(),
            format!("{}/32", hosts::PUBLISHER),
            format!("{}/128", hosts::SUBSCRIBER6),
        ];
        let missing = wanted.iter().find(|block| !text.contains(&format!("\"{block}\"")));
        ensure(missing.is_none(), || format!("the NetworkPolicy has no {missing:?}"))?;
        talk.fact("NetworkPolicy", wanted.join(", "));
        Ok(())
    })
    .await
}

fn service_of(sample: &Sample) -> String {
    format!("{}-edge", sample.name)
}

/// The operator asks for both families; a wrong AAAA is told, and an AAAA without an A is enough.
async fn records(talk: Talk, world: &World, sample: &Sample) -> Result<(), Error> {
    registration::records(talk, world, sample).await?;
    let host = "eft-xwye-a.coluc.com";
    let operators = sample.operators().await?;
    for kind in ["A", "AAAA"] {
        let query = world.query_from(&operators, &format!("{host}."), kind).await?;
        talk.fact(
            &format!("{kind} of {host}"),
            format_args!("asked from {}", query.source),
        );
    }
    let [six, _] = BALANCER;
    world.set_record(host, "AAAA", &["2001:db8::dead"]).await?;
    sample.annotate("refresh").await?;
    let limit = Duration::from_secs(40);
    let told = sample.becomes(talk, "RecordsVerified", "False", limit).await?;
    ensure(told.message.contains("2001:db8::dead"), || {
        format!("RecordsVerified is {told}")
    })?;
    talk.fact("AAAA of another host", &told);
    world.set_record(host, "AAAA", &[six]).await?;
    world.set_record(host, "A", &[]).await?;
    sample.annotate("refresh").await?;
    let alone = sample.becomes(talk, "RecordsVerified", "True", limit).await?;
    talk.fact("AAAA alone", &alone);
    world.set_record(host, "A", &["203.0.113.10"]).await?;
    sample.annotate("refresh").await.map(drop)
}

/// Messages, and the addresses of the sockets that carried them.
async fn messages(talk: Talk, world: &World, sample: &Sample) -> Result<(), Error> {
    talk.wait("links to all routers", SOON, async || {
        let links = world.imp.links().await?;
        ensure(links == 4, || format!("{links} of 4"))
    })
    .await?;
    traffic::messages(talk, &world.alice, &world.bob).await?;
    traffic::pings(talk, &world.alice, &world.bob).await?;
    traffic::conference(talk, &world.alias, &world.bob).await?;
    evidence::partner_saw_tls_and_dialback(talk, world)?;
    let sockets = world
        .lab
        .exec_in(Some("vngtp"), &["ss", "-Htn", "state", "established"])
        .await?;
    let sockets: Vec<(String, String)> = sockets
        .stdout
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace().skip(2);
            Some((words.next()?.to_owned(), words.next()?.to_owned()))
        })
        .filter(|(own, peer)| own.ends_with(":5269") || peer.ends_with(":5269"))
        .collect();
    let own = format!("[{}]:", hosts::PARTNER6);
    let pods: Vec<String> = sample
        .pods()
        .await?
        .iter()
        .filter_map(|pod| pod.addresses.first().map(|address| format!("[{address}]:")))
        .collect();
    let from_pod = |(_, peer): &&(String, String)| pods.iter().any(|pod| peer.starts_with(pod));
    let to_balancer = |(_, peer): &&(String, String)| *peer == format!("[{}]:5269", BALANCER[0]);
    for (what, found) in [
        ("edge's stream to the partner", sockets.iter().find(from_pod)),
        ("partner's stream to the edge", sockets.iter().find(to_balancer)),
    ] {
        let (here, there) = found.ok_or_else(|| format!("no {what} over IPv6: {sockets:?}"))?;
        ensure(here.starts_with(&own), || format!("{what}: {here}"))?;
        talk.fact(what, format_args!("{here} {there}"));
    }
    let four = sockets
        .iter()
        .find(|(own, _)| own.starts_with(&hosts::PARTNER.to_string()));
    ensure(four.is_none(), || format!("a stream over IPv4: {four:?}"))?;
    talk.fact("streams over IPv4", "none");
    Ok(())
}

/// Each pod's links, with the addresses that it dials.
async fn linked(talk: Talk, world: &World, sample: &Sample) -> Result<(), Error> {
    ready::show(talk, world, sample, None).await?;
    let wanted = BTreeSet::from([
        format!("{}:7400", hosts::PUBLISHER),
        format!("[{}]:7400", hosts::SUBSCRIBER6),
    ]);
    for pod in sample.pods().await? {
        let links = world.edge_status(&pod).await?.links;
        let up: BTreeSet<String> = links
            .into_iter()
            .filter(|link| link.state == "Up")
            .map(|link| link.address)
            .collect();
        ensure(up == wanted, || format!("{} has links to {up:?}", pod.name))?;
        talk.fact(&pod.name, format_args!("linked to {up:?}"));
    }
    Ok(())
}

/// Deletes the edge's Service in a namespace; how long it was away.
async fn delete_service(talk: Talk, sample: &Sample) -> Result<(), Error> {
    let (services, name) = (sample.api::<Service>(), service_of(sample));
    let before = services.get(&name).await?.metadata.uid;
    let began = Instant::now();
    services.delete(&name, &DeleteParams::default()).await?;
    talk.wait("the Service", BACK, async || {
        let now = services.get_opt(&name).await?.ok_or("it is away")?;
        ensure(now.metadata.uid != before, || "it is still the old one".to_owned())
    })
    .await?;
    let what = format!("Service of {}", sample.namespace);
    talk.fact(&what, format_args!("back after {} ms", began.elapsed().as_millis()));
    Ok(())
}

/// An error if the API server refused the operator anything, or the operator's log tells of a right that it lacks.
async fn nothing_forbidden(talk: Talk, world: &World, sample: &Sample) -> Result<(), Error> {
    let operator = sample.operator().await?;
    let log = sample.log(&operator).await?;
    ensure(!log.is_empty(), || "the operator has no log")?;
    let told = log.lines().find(|line| line.to_lowercase().contains("forbidden"));
    ensure(told.is_none(), || {
        format!("the operator's log: {}", told.unwrap_or_default())
    })?;
    let requests = rights::requests(world)?;
    let refused = requests.iter().find(|event| event.is_forbidden());
    ensure(refused.is_none(), || format!("the API server refused {refused:?}"))?;
    ensure(
        !requests.is_empty(),
        || "the API server has no record of the operator's requests",
    )?;
    let requests = requests.len();
    talk.fact(
        "forbidden to the operator",
        format_args!("nothing of {requests} requests"),
    );
    Ok(())
}

async fn come_back(talk: Talk, world: &World, sample: &Sample) -> Result<(), Error> {
    let all = WATCHED.map(|namespace| match namespace {
        namespace if namespace == sample.namespace => sample.clone(),
        namespace => neighbour(sample, namespace),
    });
    for one in &all {
        one.looked_at(talk, SOON).await?;
        delete_service(talk, one).await?;
    }
    nothing_forbidden(talk, world, sample).await?;
    deletion::another_operator(talk, sample).await?;
    talk.fact("operator", "restarted");
    for one in &all {
        one.looked_at(talk, SOON).await?;
        delete_service(talk, one).await?;
    }
    sample.becomes(talk, "Ready", "True", SOON).await?;
    nothing_forbidden(talk, world, sample).await
}

/// Takes the last namespace out of the release and puts it back.
async fn unwatched(talk: Talk, world: &World, sample: &Sample) -> Result<(), Error> {
    let [first, second, last] = WATCHED;
    let other = neighbour(sample, last);
    release(world, "upgrade", &[first, second]).await?;
    sample.looked_at(talk, SOON).await?;
    let (services, name) = (other.api::<Service>(), service_of(&other));
    services.delete(&name, &DeleteParams::default()).await?;
    // What comes back at once in a namespace that is watched.
    delete_service(talk, sample).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    ensure(services.get_opt(&name).await?.is_none(), || {
        format!("the Service of {last} came back, although {last} is not watched")
    })?;
    talk.fact(last, "left alone");
    release(world, "upgrade", &WATCHED).await?;
    talk.wait("the Service in the namespace that is watched again", SOON, async || {
        services.get(&name).await.map(drop).map_err(Into::into)
    })
    .await?;
    talk.fact(last, "watched again");
    undone(talk, sample).await
}

/// Another writer changes a field of the Service back after each write, until the operator names it.
async fn undone(talk: Talk, sample: &Sample) -> Result<(), Error> {
    let (services, name) = (sample.api::<Service>(), service_of(sample));
    let other = PatchParams {
        field_manager: Some("meddler".to_owned()),
        ..PatchParams::default()
    };
    let cluster = Patch::Merge(json!({"spec": {"externalTrafficPolicy": "Cluster"}}));
    let mut writes = 0;
    let began = Instant::now();
    let told = loop {
        ensure(began.elapsed() < SOON, || {
            format!("{writes} writes of another, and nothing is told")
        })?;
        let now = services.get(&name).await?;
        let policy = now.spec.and_then(|spec| spec.external_traffic_policy);
        if policy.as_deref() != Some("Cluster") {
            services.patch(&name, &other, &cluster).await?;
            writes += 1;
        }
        if let Ok(told) = sample.status().await?.expect("Stalled", "True") {
            break told;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    ensure(
        told.reason == "WritesUndone" && told.message.contains("meddler"),
        || format!("Stalled is {told}"),
    )?;
    talk.fact("another writer", format_args!("after {writes} writes: {told}"));
    Ok(())
}
