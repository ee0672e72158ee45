//! Steps 11 and 12: a pod ends under load, and the resource is deleted.

use std::time::{Duration, Instant};

use super::imp::{self, State};
use super::object::expect_condition;
use super::object::{list, text};
use super::ready::Watch;
use super::registration::{component_id, linked, restart_counts};
use super::report::{Talk, ensure};
use super::resource::{Sample, sample_file};
use super::traffic::{self, Run};
use super::world::World;
use testkit_base::Error;

/// Messages each way while the pod ends.
const IN_FLIGHT: usize = 200;
/// Sent at once; the rest follow while the pod drains and a new one starts.
const BURST: usize = 100;
const PAUSE: Duration = Duration::from_millis(200);

/// Step 11: an edge pod is deleted while messages are in flight.
pub async fn pod_deleted(talk: Talk, world: &World, sample: &Sample) -> Result<(), Error> {
    let (alice, bob) = (&world.alice, &world.bob);
    let pods = sample.pods(world).await?;
    let victim = pods.first().ok_or("there is no edge pod")?;
    let there = Run::prepare(alice, bob, IN_FLIGHT).await?;
    let back = Run::prepare(bob, alice, IN_FLIGHT).await?;
    let began = Instant::now();
    let id = component_of(&victim.name)?;
    let carried = stanzas(&world.imp.state().await?, &id);
    let deletion = async {
        // Deleted only when it carries some of these messages, and most are still to come.
        let carried = talk
            .wait(
                "messages over the pod to be deleted",
                Duration::from_secs(10),
                async || {
                    let now = stanzas(&world.imp.state().await?, &id).saturating_sub(carried);
                    ensure(now > 0, || format!("{id} carried none yet"))?;
                    Ok(now)
                },
            )
            .await?;
        world
            .lab
            .kubectl(&["-n", &sample.namespace, "delete", "pod", &victim.name, "--wait=false"])
            .await?;
        talk.fact(
            "deleted while messages flow",
            format_args!("{}, which had carried {carried} of them", victim.name),
        );
        Ok::<(), Error>(())
    };
    tokio::try_join!(
        there.send(alice, bob, BURST, PAUSE),
        back.send(bob, alice, BURST, PAUSE),
        deletion
    )?;
    talk.fact(
        "sent",
        format_args!("{IN_FLIGHT} each way in {:.1} s", began.elapsed().as_secs_f64()),
    );
    let mut lost = 0;
    for (run, sender, receiver) in [(&there, alice, bob), (&back, bob, alice)] {
        let account = run.settle(sender, receiver, Duration::from_mins(1)).await?;
        talk.fact(&format!("{} → {}", sender.jid(), receiver.jid()), account);
        lost += account.lost;
    }
    talk.wait("the new pod in service", Duration::from_secs(90), async || {
        let now = sample.pods(world).await?;
        let ready = now.iter().filter(|pod| pod.ready && !pod.terminating).count();
        ensure(ready == pods.len(), || {
            format!("{ready} of {} pods are ready", pods.len())
        })?;
        ensure(!now.iter().any(|pod| pod.uid == victim.uid), || {
            "the old pod is still there".to_owned()
        })?;
        let ids: Vec<String> = (0..pods.len()).map(component_id).collect();
        for node in &world.imp.state().await?.nodes {
            linked(node, &ids)?;
        }
        Ok(())
    })
    .await?;
    talk.fact(
        "new pod in service",
        format_args!("{:.1} s after the deletion", began.elapsed().as_secs_f64()),
    );
    ensure(lost == 0, || {
        format!("{lost} messages were neither delivered nor reported")
    })
}

/// The component id of a pod of the StatefulSet, by its number.
fn component_of(pod: &str) -> Result<String, Error> {
    let number = pod.rsplit('-').next().unwrap_or_default();
    let number = number
        .parse()
        .map_err(|error| format!("the pod name {pod} has no number at its end: {error}"))?;
    Ok(component_id(number))
}

/// Stanzas that went over a component's links, both ways.
fn stanzas(state: &State, id: &str) -> u64 {
    let links = state.nodes.iter().flat_map(|node| &node.router.links);
    links
        .filter(|link| link.id == id)
        .map(|link| link.sent + link.received)
        .sum()
}

/// Step 12: the resource is deleted, and applied again.
pub async fn removal(talk: Talk, world: &World, sample: &Sample) -> Result<(), Error> {
    let account = sample.account(world).await?;
    let before = restart_counts(&world.imp.state().await?);
    let began = Instant::now();
    world
        .lab
        .kubectl(&[
            "-n",
            &sample.namespace,
            "delete",
            &format!("xmppfederation/{}", sample.name),
            "--timeout=90s",
        ])
        .await?;
    talk.fact("deleted", format_args!("in {:.1} s", began.elapsed().as_secs_f64()));
    let rows = imp::rows_over_axl(&world.imp_ca(), &account.user, &account.password).await?;
    ensure(rows.is_empty(), || format!("rows are left: {rows:?}"))?;
    talk.say(imp::as_cli(&rows));
    emptied(talk, world, sample).await?;
    talk.fact("namespace", format_args!("{}: nothing of ours left", sample.namespace));
    ensure(restart_counts(&world.imp.state().await?) == before, || {
        "a router was restarted by the deletion".to_owned()
    })?;
    talk.fact("routers", "not restarted");
    talk.fact("Event", event(world, sample).await?);
    again(talk, world, sample).await
}

/// Waits until nothing of ours is left in the namespace.
pub async fn emptied(talk: Talk, world: &World, sample: &Sample) -> Result<(), Error> {
    talk.wait("an empty namespace", Duration::from_mins(1), async || {
        let left = remains(world, sample).await?;
        ensure(left.is_empty(), || format!("left: {}", left.join(", ")))
    })
    .await
}

/// Objects in the namespace that neither Kubernetes nor the administrator put there.
async fn remains(world: &World, sample: &Sample) -> Result<Vec<String>, Error> {
    let kinds = world
        .lab
        .kubectl(&["api-resources", "--namespaced", "--verbs=list", "-o", "name"])
        .await?;
    let kinds: Vec<&str> = kinds
        .lines()
        .map(str::trim)
        .filter(|kind| !kind.is_empty() && !kind.starts_with("events"))
        .collect();
    let all = world.get(&["-n", &sample.namespace, &kinds.join(",")]).await?;
    let theirs = sample.secret_names();
    Ok(list(&all, "/items")
        .iter()
        .filter_map(|object| {
            let (kind, name) = (text(object, "/kind"), text(object, "/metadata/name"));
            let expected = match kind {
                "ConfigMap" => name == "kube-root-ca.crt",
                "ServiceAccount" => name == "default",
                "Secret" => theirs.iter().any(|secret| secret == name),
                _ => false,
            };
            (!expected).then(|| format!("{kind}/{name}"))
        })
        .collect())
}

/// The event that says what a restart would still clean.
async fn event(world: &World, sample: &Sample) -> Result<String, Error> {
    let events = world
        .get(&[
            "-n",
            &sample.namespace,
            "events.v1.",
            "--sort-by=.metadata.creationTimestamp",
        ])
        .await?;
    list(&events, "/items")
        .iter()
        .rev()
        .find(|event| {
            text(event, "/involvedObject/kind") == "XmppFederation"
                && text(event, "/message").contains("Cisco XCP Router")
                && text(event, "/message").contains("restart")
        })
        .map(|event| format!("{}: {}", text(event, "/reason"), text(event, "/message")))
        .ok_or_else(|| "no Event says what a restart would still clean".into())
}

/// The lab is left working.
async fn again(talk: Talk, world: &World, sample: &Sample) -> Result<(), Error> {
    let applied = Instant::now();
    let path = sample_file().display().to_string();
    world.lab.kubectl(&["apply", "-f", &path]).await?;
    let watch = Watch::start(&world.lab, sample, applied);
    talk.wait(
        "Ready=True after it was applied again",
        Duration::from_secs(110),
        async || {
            let resource = sample.now(world).await?;
            expect_condition(&resource, "Ready", "True")
        },
    )
    .await?;
    talk.fact(
        "applied again",
        format_args!("Ready after {:.1} s", watch.took().await?.as_secs_f64()),
    );
    traffic::messages(talk, &world.alice, &world.bob).await
}
