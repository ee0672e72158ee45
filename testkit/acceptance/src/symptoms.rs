//! Steps 9 and 10: the two symptoms of Cisco's guide, made and cured.

use std::time::{Duration, Instant};

use serde_json::json;

use super::registration::{component_id, linked};
use super::report::{Talk, ensure};
use super::resource::{Account, CREDENTIALS, Sample};
use super::traffic;
use super::world::World;
use testkit_base::Error;
use testkit_simulator::{ClusterState, fingerprint};

/// How long the operator is watched for a second use of refused credentials.
const WATCH: Duration = Duration::from_secs(10);
/// How a person restarts a router, on IM&P's command line.
const BY_HAND: &str = "utils service restart Cisco XCP Router";
/// How long the cure may take.
const CURE: Duration = Duration::from_secs(30);

/// Step 9: the password changes at IM&P.
pub async fn wrong_password(talk: Talk, world: &World, sample: &Sample) -> Result<(), Error> {
    let old = sample.account().await?;
    let fingerprint = fingerprint(&old.user, &old.password);
    let new = Account {
        user: old.user.clone(),
        password: format!("new-{:x}", rand::random::<u64>()),
    };
    let from = world.imp.last_call().await?;
    world.imp.set_password(&new.password).await?;
    let outcome = refused_once(talk, world, sample, from, &fingerprint).await;
    // Whatever was seen, the lab is left with the right Secret.
    let began = Instant::now();
    sample.apply_credentials(&new).await?;
    outcome?;
    sample.becomes(talk, "AxlAuthenticated", "True", CURE).await?;
    talk.fact(
        "right Secret",
        format_args!("AxlAuthenticated=True after {:.1} s", began.elapsed().as_secs_f64()),
    );
    Ok(())
}

async fn refused_once(talk: Talk, world: &World, sample: &Sample, from: u64, fingerprint: &str) -> Result<(), Error> {
    sample.annotate("refresh").await?;
    let said = sample.becomes(talk, "AxlAuthenticated", "False", CURE).await?;
    talk.fact("AxlAuthenticated", &said);
    for word in ["401", CREDENTIALS, "https://cups.ciscotac.net:8443/axl"] {
        ensure(said.message.contains(word), || {
            format!("the message does not name {word}: {}", said.message)
        })?;
    }
    // Asking again must not make it use the same Secret again.
    sample.annotate("refresh").await?;
    traffic::unharmed(talk, &world.alice, &world.bob, 20).await?;
    let watched = Instant::now();
    talk.wait("a second attempt that must not come", WATCH + CURE, async || {
        let left = WATCH.saturating_sub(watched.elapsed());
        ensure(left.is_zero(), || format!("{} s to watch", left.as_secs()))
    })
    .await?;
    let attempts: Vec<_> = world
        .imp
        .calls(from)
        .await?
        .into_iter()
        .filter(|call| call.auth == "bad" && call.credential.as_deref() == Some(fingerprint))
        .collect();
    for call in &attempts {
        talk.fact(
            "refused attempt",
            format_args!("{} on {}: {} {}", call.service, call.node, call.operation, call.status),
        );
    }
    ensure(attempts.len() == 1, || {
        format!("{} attempts with the refused Secret instead of one", attempts.len())
    })
}

/// Step 10: a third replica whose id no router has loaded.
pub async fn router_not_restarted(talk: Talk, world: &World, sample: &Sample) -> Result<(), Error> {
    let before = world.imp.restarts().await?;
    let bounced = bounced(&world.imp.state().await?);
    let imp = sample.imp_with(json!({"restart": {"mode": "Manual"}}));
    let edge = json!({"replicas": 3, "slots": 3});
    sample.patch(json!({"spec": {"imp": [imp], "edge": edge}})).await?;
    talk.fact("changed", "restart mode Manual, 3 replicas, 3 slots");
    let nodes: Vec<&String> = before.iter().map(|(name, _)| name).collect();
    let said = talk
        .wait("RoutersInSync=False", Duration::from_mins(1), async || {
            let said = sample.status().await?.expect("RoutersInSync", "False")?;
            for node in &nodes {
                ensure(said.message.contains(node.as_str()), || {
                    format!("it does not name {node}: {said}")
                })?;
            }
            ensure(said.message.contains(BY_HAND), || {
                format!("it does not say how to restart them: {said}")
            })?;
            Ok(said)
        })
        .await?;
    talk.fact("RoutersInSync", &said);
    traffic::unharmed(talk, &world.alice, &world.bob, 50).await?;
    let pods = sample.pods().await?;
    ensure(pods.len() == 2, || {
        let names: Vec<_> = pods.iter().map(|pod| pod.name.as_str()).collect();
        format!("the third pod runs although no router knows it: {names:?}")
    })?;
    let state = world.imp.state().await?;
    let sentence = "a router was restarted in mode Manual";
    world.imp.no_restart_since(&before, sentence).await?;
    ensure(self::bounced(&state) == bounced, || "a router bounced traffic")?;
    for node in &state.nodes {
        let notice = if node.notice { "shown" } else { "not shown" };
        talk.fact(
            &node.name,
            format_args!("IM&P's own notice \"requires a restart\" is {notice}"),
        );
    }
    talk.fact("third pod", "not started; no router restarted; traffic unharmed");
    by_hand(talk, world, &component_id(2)).await?;
    third_in_service(talk, world, sample).await
}

fn bounced(state: &ClusterState) -> u64 {
    state.nodes.iter().map(|node| node.router.bounced).sum()
}

/// Restarts one router after the other, as the message says.
async fn by_hand(talk: Talk, world: &World, id: &str) -> Result<(), Error> {
    let nodes = talk
        .wait("the third row on both nodes", Duration::from_secs(30), async || {
            let state = world.imp.state().await?;
            for node in &state.nodes {
                ensure(node.rows.iter().any(|row| row.cp_id == id), || {
                    format!("{} does not have it", node.name)
                })?;
            }
            Ok(state.nodes)
        })
        .await?;
    // The propagation delay of the sample.
    tokio::time::sleep(Duration::from_secs(2)).await;
    for node in &nodes {
        world.imp.restart_router(&node.name).await?;
        talk.wait(
            &format!("{} to be back", node.name),
            Duration::from_mins(1),
            async || {
                let state = world.imp.state().await?;
                let now = state.nodes.iter().find(|now| now.name == node.name);
                let router = &now.ok_or("the node is gone")?.router;
                ensure(
                    router.restarts.len() > node.router.restarts.len(),
                    || "the restart did not begin",
                )?;
                linked(now.ok_or("the node is gone")?, &[component_id(0), component_id(1)])?;
                ensure(router.loaded_ids.iter().any(|loaded| loaded == id), || {
                    format!("it loaded {:?}", router.loaded_ids)
                })
            },
        )
        .await?;
        talk.fact(&node.name, "router restarted by hand, loaded the third id");
    }
    Ok(())
}

async fn third_in_service(talk: Talk, world: &World, sample: &Sample) -> Result<(), Error> {
    let limit = Duration::from_mins(1);
    talk.fact(
        "RoutersInSync",
        sample.becomes(talk, "RoutersInSync", "True", limit).await?,
    );
    talk.wait("the third pod in service", Duration::from_mins(1), async || {
        let pods = sample.pods().await?;
        let ready = pods.iter().filter(|pod| pod.ready).count();
        ensure(ready == 3, || format!("{ready} of 3 pods are ready"))?;
        for node in &world.imp.state().await?.nodes {
            linked(node, &[component_id(2)])?;
        }
        Ok(())
    })
    .await?;
    talk.fact(
        "third pod",
        format_args!("Ready; {} linked to both nodes", component_id(2)),
    );
    traffic::unharmed(talk, &world.alice, &world.bob, 20).await?;
    let id = component_id(2);
    for node in world.imp.state().await?.nodes {
        if let Some(link) = node.router.links.iter().find(|link| link.id == id) {
            talk.fact(
                &node.name,
                format_args!("{} stanzas to the third pod, {} from it", link.sent, link.received),
            );
        }
    }
    Ok(())
}
