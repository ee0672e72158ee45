//! Moving a domain from Expressway to the edge and back, on a lab that runs: everything is prepared beside Expressway's
//! row, activated when that is gone, and rolled back. Restarts are counted at the routers, whatever the operator says.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use serde_json::json;

use super::registration::{component_id, linked};
use super::report::{Talk, ensure};
use super::resource::{Condition, OPERATOR, Sample};
use super::world::World;
use super::{Scenario, deletion, endings, install, traffic};
use testkit_base::Error;
use testkit_simulator::{ClusterState, Row};

/// The component id of an Expressway-E.
const EXPRESSWAY: &str = "cm-2_s2scp-1.exp-e-coluc-com";
/// Whatever changes is seen within this time.
const SEEN: Duration = Duration::from_secs(40);
/// A round of restarts, and links that work after it.
const ROUND: Duration = Duration::from_mins(2);
/// How long is watched that nothing is done.
const WATCH: Duration = Duration::from_secs(3);

/// Plays the steps on a lab in which the twelve were played.
pub async fn play(scenario: &mut Scenario<'_>) -> Result<(), Error> {
    let beside = "Prepared beside Expressway's row: everything but rows and links";
    scenario.step(15, beside, &[], prepared).await;
    let foreign = "Active while Expressway's row stands: refused by its name";
    scenario.step(16, foreign, &[15], refused).await;
    let off = "Expressway's federation goes Off: one round of restarts, messages flow";
    scenario.step(17, off, &[16], activated).await;
    let anew = "The Kubernetes cluster is built anew from Git: its rows are found, nothing is restarted";
    scenario.step(18, anew, &[], rebuilt).await;
    let back = "Back to Expressway: our rows leave, nothing is restarted by us";
    scenario.step(19, back, &[], rolled_back).await;
    let in_time = "Deletions that cannot remove rows give up in time and name what is left";
    scenario.step(20, in_time, &[], deletion::give_up).await;
    let all = "A namespace is deleted with all that is in it";
    scenario.step(21, all, &[], deletion::namespace).await;
    // The lab is left as it was found, as far as nothing has to be waited for.
    expressway_leaves(scenario.world).await?;
    install::apply_sample(scenario.world).await.map(drop)
}

async fn expressway_leaves(world: &World) -> Result<(), Error> {
    let sql = format!("DELETE FROM xmpps2snodes WHERE cp_id = '{EXPRESSWAY}'");
    world.imp.sql(&sql).await
}

fn rows(state: &ClusterState) -> &[Row] {
    state.nodes.first().map_or(&[], |node| &node.rows)
}

/// Watches for a while that no router is restarted and the table stays as it is.
async fn nothing_happens(talk: Talk, world: &World, before: &ClusterState) -> Result<(), Error> {
    let began = Instant::now();
    talk.wait("anything that must not happen", WATCH + SEEN, async || {
        let left = WATCH.saturating_sub(began.elapsed());
        ensure(left.is_zero(), || format!("{} s to watch", left.as_secs()))
    })
    .await?;
    let now = world.imp.state().await?;
    no_restart(&now, before, "a router was restarted")?;
    ensure(rows(&now) == rows(before), || {
        format!("the table changed to {:?}", rows(&now))
    })?;
    talk.fact("routers and table", "the same as before");
    Ok(())
}

/// An error with that sentence if a router was restarted between two moments.
fn no_restart(now: &ClusterState, before: &ClusterState, sentence: &str) -> Result<(), Error> {
    for (now, before) in now.nodes.iter().zip(&before.nodes) {
        let (now_count, count) = (now.router.restarts.len(), before.router.restarts.len());
        ensure(now_count == count, || {
            format!("{sentence}: {} went from {count} to {now_count}", now.name)
        })?;
    }
    Ok(())
}

/// Waits for a condition about the resource as it is now.
async fn observed(talk: Talk, sample: &Sample, kind: &str, status: &str, limit: Duration) -> Result<Condition, Error> {
    let what = format!("{kind}={status}");
    talk.wait(&what, limit, async || sample.observed(kind, status).await)
        .await
}

/// The same for `Ready=True` with that reason.
async fn ready(talk: Talk, sample: &Sample, reason: &str, limit: Duration) -> Result<(), Error> {
    let said = talk.wait("Ready=True", limit, async || {
        let said = sample.observed("Ready", "True").await?;
        ensure(said.reason == reason, || said.to_string())?;
        Ok(said)
    });
    talk.fact("Ready", said.await?);
    Ok(())
}

/// The same for `ComponentsRegistered=False` with that reason.
async fn not_registered(talk: Talk, sample: &Sample, reason: &str, limit: Duration) -> Result<Condition, Error> {
    let what = "ComponentsRegistered=False";
    let said = talk.wait(what, limit, async || {
        let said = sample.observed("ComponentsRegistered", "False").await?;
        ensure(said.reason == reason, || said.to_string())?;
        Ok(said)
    });
    let said = said.await?;
    talk.fact("ComponentsRegistered", &said);
    Ok(said)
}

/// Step 18: the resource is gone and its rows stayed; the record of them is gone too. Then all is applied again.
async fn rebuilt(talk: Talk, world: &World, sample: &Sample) -> Result<(), Error> {
    let before = world.imp.state().await?;
    let ours = rows(&before);
    ensure(ours.len() == 2, || format!("the table has {ours:?}"))?;
    let retain = sample.imp_with(json!({"onDelete": "Retain"}));
    sample.patch(json!({"spec": {"imp": [retain]}})).await?;
    sample.delete(Duration::from_secs(30)).await?;
    let told = sample.event_with("RowsRetained", None).await?;
    talk.fact("onDelete: Retain", &told);
    for row in ours {
        ensure(told.contains(&row.pkid), || {
            format!("the Event does not name {}", row.pkid)
        })?;
    }
    lose_records(talk, sample).await?;
    talk.fact("records", "deleted, and the operator's process is another one");
    endings::emptied_but(talk, sample, &sample.keys()).await?;
    talk.say(install::apply_sample(world).await?);
    let said = not_registered(talk, sample, "IdenticalForeignRow", ROUND).await?;
    ensure(said.message.contains("xmppfederation.io/adopt-rows"), || {
        format!("it does not say what to do: {said}")
    })?;
    nothing_happens(talk, world, &before).await?;

    sample.annotate("adopt-rows").await?;
    observed(talk, sample, "ComponentsRegistered", "True", SEEN).await?;
    let said = observed(talk, sample, "RoutersInSync", "Unknown", SEEN).await?;
    talk.fact("adopted; RoutersInSync", &said);
    ensure(said.message.contains("restart-routers"), || {
        format!("it does not say what would prove it: {said}")
    })?;
    talk.wait("pods and links that work as they are", ROUND, async || {
        sample.observed("EdgeAvailable", "True").await?;
        sample.observed("RouterLinksUp", "True").await?;
        let ids = [component_id(0), component_id(1)];
        let nodes = world.imp.state().await?.nodes;
        nodes.iter().try_for_each(|node| linked(node, &ids))
    })
    .await?;
    traffic::messages(talk, &world.alice, &world.bob).await?;
    nothing_happens(talk, world, &before).await
}

/// Deletes the record of every cluster; then another process of the operator is there.
async fn lose_records(talk: Talk, sample: &Sample) -> Result<(), Error> {
    deletion::no_operator(talk, sample).await?;
    let records: Api<ConfigMap> = Api::namespaced(sample.kube.clone(), OPERATOR.0);
    let label = ListParams::default().labels("xmppfederation.io/imp-ledger=true");
    let found = records.list_metadata(&label).await?.items.len();
    ensure(found > 0, || "there was no record")?;
    records.delete_collection(&DeleteParams::default(), &label).await?;
    sample.scale_operator(1).await
}

/// Step 15: rows leave, Expressway's comes.
async fn prepared(talk: Talk, world: &World, sample: &Sample) -> Result<(), Error> {
    let before = world.imp.state().await?;
    sample.patch(json!({"spec": {"activation": "Prepared"}})).await?;
    rows_leave(talk, world, &before).await?;
    let sql = format!("INSERT INTO xmpps2snodes (pkid, cp_id) VALUES (newid(), '{EXPRESSWAY}')");
    world.imp.sql(&sql).await?;
    talk.fact("Expressway's row", format_args!("{EXPRESSWAY} stands"));
    sample.annotate("refresh").await?;
    ready(talk, sample, "Prepared", SEEN).await?;
    let status = sample.status().await?;
    for kind in ["EdgeAvailable", "CertificateReady", "RecordsVerified"] {
        talk.fact(kind, status.expect(kind, "True")?.status);
    }
    let looked = status.records.len();
    ensure(looked >= 2, || format!("{looked} records were looked at"))?;
    let pods = sample.pods().await?;
    ensure(pods.len() == 2 && pods.iter().all(|pod| pod.ready), || {
        format!("the pods are {pods:?}")
    })?;
    let links = world.imp.links().await?;
    ensure(links == 0, || format!("{links} links to the routers"))?;
    talk.fact("pods", "2 run, without a link");
    nothing_happens(talk, world, &world.imp.state().await?).await
}

/// Waits until no row of ours is left, and shows that no router was restarted for it.
async fn rows_leave(talk: Talk, world: &World, before: &ClusterState) -> Result<(), Error> {
    talk.wait("a table without rows of ours", SEEN, async || {
        let left = world.imp.rows().await?;
        ensure(left.is_empty(), || format!("{left:?}"))?;
        let links = world.imp.links().await?;
        ensure(links == 0, || format!("{links} links"))
    })
    .await?;
    no_restart(
        &world.imp.state().await?,
        before,
        "a router was restarted to remove rows",
    )?;
    talk.fact("Prepared", "no row and no link of ours; no router restarted");
    Ok(())
}

/// Step 16: two edges on one cluster are refused.
async fn refused(talk: Talk, world: &World, sample: &Sample) -> Result<(), Error> {
    let before = world.imp.state().await?;
    // The routers still know our ids from before: a link would take a part of Expressway's traffic.
    let links = world.imp.links().await?;
    ensure(links == 0, || format!("{links} links to begin with"))?;
    sample.patch(json!({"spec": {"activation": "Active"}})).await?;
    let said = not_registered(talk, sample, "ForeignComponents", SEEN).await?;
    ensure(said.message.contains(EXPRESSWAY), || {
        format!("it does not name the row: {said}")
    })?;
    let now = sample.status().await?;
    for (kind, status) in [("Ready", "False"), ("Stalled", "True")] {
        let said = now.expect(kind, status)?;
        ensure(said.reason == "ForeignComponents", || format!("{kind} is {said}"))?;
    }
    nothing_happens(talk, world, &before).await?;
    let links = world.imp.links().await?;
    ensure(links == 0, || format!("{links} links were opened"))?;
    talk.fact("links", "none");
    Ok(())
}

/// Step 17: the row goes, ours come, every router is restarted once.
async fn activated(talk: Talk, world: &World, sample: &Sample) -> Result<(), Error> {
    let before = world.imp.state().await?;
    expressway_leaves(world).await?;
    let began = Instant::now();
    sample.annotate("refresh").await?;
    ready(talk, sample, "AsWanted", ROUND).await?;
    talk.fact("Active", format_args!("after {:.1} s", began.elapsed().as_secs_f64()));
    let now = world.imp.state().await?;
    let ids = [component_id(0), component_id(1)];
    for (node, old) in now.nodes.iter().zip(&before.nodes) {
        let new = node.router.restarts.get(old.router.restarts.len()..);
        let new = new.unwrap_or_default();
        let [restart] = new else {
            return Err(format!("{} was restarted {} times", node.name, new.len()).into());
        };
        ensure(restart.by == "control-center", || {
            format!("{} was restarted by {}", node.name, restart.by)
        })?;
        ensure(ids.iter().all(|id| restart.loaded_ids.contains(id)), || {
            format!("{} loaded {:?}", node.name, restart.loaded_ids)
        })?;
        linked(node, &ids)?;
        talk.fact(&node.name, "restarted once, knows both ids, linked");
    }
    traffic::messages(talk, &world.alice, &world.bob).await?;
    traffic::unharmed(talk, &world.alice, &world.bob, 20).await?;
    nothing_happens(talk, world, &now).await
}

/// Step 19: as step 15, with rows that were taken over.
async fn rolled_back(talk: Talk, world: &World, sample: &Sample) -> Result<(), Error> {
    let actions = sample.status().await?.cluster().recent_actions;
    talk.fact("last action", actions.last().map_or("", |last| &last.action));
    prepared(talk, world, sample).await?;
    let conditions = sample.status().await?.conditions;
    if let Some(said) = conditions.iter().find(|said| said.kind == "ComponentsRegistered") {
        talk.fact("ComponentsRegistered", said);
    }
    expressway_leaves(world).await
}
