//! Steps 11 and 12: a pod ends under load, and the resource is deleted.

use std::time::{Duration, Instant};

use kube::api::{DeleteParams, DynamicObject, ListParams};
use kube::discovery::{Discovery, Scope, verbs};
use kube::{Api, ResourceExt};

use super::registration::{component_id, linked};
use super::report::{Talk, ensure};
use super::resource::{SECRETS, Sample};
use super::traffic::{self, Run};
use super::world::World;
use super::{imp, install};
use testkit_base::Error;
use testkit_simulator::ClusterState;

/// Messages each way while the pod ends.
const IN_FLIGHT: usize = 200;
/// Sent at once; the rest follow while the pod drains and a new one starts.
const BURST: usize = 100;
const PAUSE: Duration = Duration::from_millis(200);

/// Step 11: an edge pod is deleted while messages are in flight.
pub async fn pod_deleted(talk: Talk, world: &World, sample: &Sample) -> Result<(), Error> {
    let (alice, bob) = (&world.alice, &world.bob);
    let pods = sample.pods().await?;
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
        sample.delete_pod(victim, &DeleteParams::default()).await?;
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
        let now = sample.pods().await?;
        let ready = now.iter().filter(|pod| pod.ready && !pod.terminating).count();
        ensure(ready == pods.len(), || {
            format!("{ready} of {} pods are ready", pods.len())
        })?;
        ensure(
            !now.iter().any(|pod| pod.uid == victim.uid),
            || "the old pod is still there",
        )?;
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
fn stanzas(state: &ClusterState, id: &str) -> u64 {
    let links = state.nodes.iter().flat_map(|node| &node.router.links);
    links
        .filter(|link| link.id == id)
        .map(|link| link.sent + link.received)
        .sum()
}

/// Step 12: the resource is deleted, and applied again.
pub async fn removal(talk: Talk, world: &World, sample: &Sample) -> Result<(), Error> {
    install::operator_runs(sample).await?;
    let account = sample.account().await?;
    let before = world.imp.restarts().await?;
    let began = Instant::now();
    sample.delete(Duration::from_secs(90)).await?;
    talk.fact("deleted", format_args!("in {:.1} s", began.elapsed().as_secs_f64()));
    let rows = imp::rows_over_axl(&world.imp_ca(), &account.user, &account.password).await?;
    ensure(rows.is_empty(), || format!("rows are left: {rows:?}"))?;
    talk.say(imp::as_cli(&rows));
    emptied(talk, sample).await?;
    talk.fact("namespace", format_args!("{}: nothing of ours left", sample.namespace));
    let sentence = "a router was restarted by the deletion";
    world.imp.no_restart_since(&before, sentence).await?;
    talk.fact("routers", "not restarted");
    let cleaned = |note: &str| note.contains("Cisco XCP Router") && note.contains("restart");
    let event = sample
        .event(None, |event| event.note.as_deref().is_some_and(cleaned))
        .await;
    let event = event.map_err(|error| format!("what a restart would still clean: {error}"))?;
    talk.fact("Event", event);
    again(talk, world, sample).await
}

/// Waits until nothing of ours is left in the namespace.
pub async fn emptied(talk: Talk, sample: &Sample) -> Result<(), Error> {
    emptied_but(talk, sample, &[]).await
}

/// The same, but for these Secrets, which have to be there.
pub async fn emptied_but(talk: Talk, sample: &Sample, secrets: &[String]) -> Result<(), Error> {
    let kept: Vec<String> = secrets.iter().map(|name| format!("Secret/{name}")).collect();
    talk.wait("an empty namespace", Duration::from_mins(1), async || {
        let mut left = remains(sample).await?;
        ensure(kept.iter().all(|kept| left.contains(kept)), || {
            format!("not all of {} are there: {}", kept.join(", "), left.join(", "))
        })?;
        left.retain(|left| !kept.contains(left));
        ensure(left.is_empty(), || format!("left: {}", left.join(", ")))
    })
    .await
}

/// Objects in the namespace that neither Kubernetes nor the administrator put there.
async fn remains(sample: &Sample) -> Result<Vec<String>, Error> {
    let known = Discovery::new(sample.kube.clone()).run().await?;
    let mut found = Vec::new();
    for (resource, capabilities) in known
        .groups()
        .flat_map(kube::discovery::ApiGroup::recommended_resources)
    {
        if capabilities.scope == Scope::Cluster || !capabilities.supports_operation(verbs::LIST) {
            continue;
        }
        let kind = resource.kind.as_str();
        let objects: Api<DynamicObject> = Api::namespaced_with(sample.kube.clone(), &sample.namespace, &resource);
        for object in objects.list_metadata(&ListParams::default()).await? {
            let name = object.name_any();
            let expected = match kind {
                "Event" | "LimitRange" | "ResourceQuota" => true,
                "ConfigMap" => name == "kube-root-ca.crt",
                "ServiceAccount" => name == "default",
                "Secret" => SECRETS.contains(&name.as_str()),
                _ => false,
            };
            if !expected {
                found.push(format!("{kind}/{name}"));
            }
        }
    }
    Ok(found)
}

/// The lab is left working.
async fn again(talk: Talk, world: &World, sample: &Sample) -> Result<(), Error> {
    let applied = Instant::now();
    talk.say(install::apply_sample(world).await?);
    sample.becomes(talk, "Ready", "True", Duration::from_secs(115)).await?;
    talk.fact(
        "applied again",
        format_args!("Ready after {:.1} s", applied.elapsed().as_secs_f64()),
    );
    traffic::messages(talk, &world.alice, &world.bob).await
}
