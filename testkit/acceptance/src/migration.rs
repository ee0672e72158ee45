//! Moving a domain from Expressway to the edge and back, on a lab that runs: everything is prepared beside Expressway's
//! row, activated when that is gone, and rolled back. Restarts are counted at the routers, whatever the operator says.

use std::time::{Duration, Instant};

use serde_json::json;

use super::imp::{Row, State};
use super::install::operator_pods;
use super::object::{condition, expect_condition};
use super::object::{list, text};
use super::registration::{component_id, linked, restart_counts};
use super::report::{Report, Talk, ensure};
use super::resource::{Sample, sample_file};
use super::world::World;
use super::{deletion, endings, traffic};
use testkit_base::Error;

/// The component id of an Expressway-E.
const EXPRESSWAY: &str = "cm-2_s2scp-1.exp-e-coluc-com";
/// Whatever changes is seen within this time.
const SEEN: Duration = Duration::from_secs(40);
/// A round of restarts, and links that work after it.
const ROUND: Duration = Duration::from_mins(2);
/// How long is watched that nothing is done.
const WATCH: Duration = Duration::from_secs(3);

/// Plays the steps on a lab in which the twelve were played.
pub async fn scenario(world: &World, steps: &[u8]) -> Result<Report, Error> {
    let sample = &Sample::read()?;
    let mut report = Report::only(steps);
    report
        .step(
            15,
            "Prepared beside Expressway's row: everything but rows and links",
            &[],
            async |talk| prepared(talk, world, sample).await,
        )
        .await;
    report
        .step(
            16,
            "Active while Expressway's row stands: refused by its name",
            &[15],
            async |talk| refused(talk, world, sample).await,
        )
        .await;
    report
        .step(
            17,
            "Expressway's federation goes Off: one round of restarts, messages flow",
            &[16],
            async |talk| activated(talk, world, sample).await,
        )
        .await;
    report
        .step(
            18,
            "The Kubernetes cluster is built anew from Git: its rows are found, nothing is restarted",
            &[],
            async |talk| rebuilt(talk, world, sample).await,
        )
        .await;
    report
        .step(
            19,
            "Back to Expressway: our rows leave, nothing is restarted by us",
            &[],
            async |talk| rolled_back(talk, world, sample).await,
        )
        .await;
    report
        .step(
            20,
            "Deletions that cannot remove rows give up in time and name what is left",
            &[],
            async |talk| deletion::give_up(talk, world, sample).await,
        )
        .await;
    report
        .step(21, "A namespace is deleted with all that is in it", &[], async |talk| {
            deletion::namespace(talk, world, sample).await
        })
        .await;
    // The lab is left as it was found, as far as nothing has to be waited for.
    world
        .imp
        .sql(&format!("DELETE FROM xmpps2snodes WHERE cp_id = '{EXPRESSWAY}'"))
        .await?;
    world
        .lab
        .kubectl(&["apply", "-f", &sample_file().display().to_string()])
        .await?;
    Ok(report)
}

/// The rows of a component in the publisher's table; all of them without one.
fn rows(state: &State, id: Option<&str>) -> Vec<Row> {
    let all = state.nodes.first().map_or(&[][..], |node| &node.rows);
    let fits = |row: &&Row| id.is_none_or(|id| row.cp_id == id);
    all.iter().filter(fits).cloned().collect()
}

/// Watches for a while that no router is restarted and the table stays as it is.
async fn nothing_happens(talk: Talk, world: &World, before: &State) -> Result<(), Error> {
    let began = Instant::now();
    talk.wait("anything that must not happen", WATCH + SEEN, async || {
        let left = WATCH.saturating_sub(began.elapsed());
        ensure(left.is_zero(), || format!("{} s to watch", left.as_secs()))
    })
    .await?;
    let now = world.imp.state().await?;
    ensure(restart_counts(&now) == restart_counts(before), || {
        format!(
            "restarts went from {:?} to {:?}",
            restart_counts(before),
            restart_counts(&now)
        )
    })?;
    ensure(rows(&now, None) == rows(before, None), || {
        format!("the table changed to {:?}", rows(&now, None))
    })?;
    talk.fact("routers and table", "the same as before");
    Ok(())
}

/// Waits for Ready, with how the resource says it.
async fn ready(talk: Talk, world: &World, sample: &Sample, limit: Duration) -> Result<(), Error> {
    let said = talk
        .wait("Ready=True", limit, async || {
            sample.observed(world, "Ready", "True").await
        })
        .await?;
    talk.fact("Ready", said);
    Ok(())
}

/// Step 18: the resource is gone and its rows stayed; the record of them is gone too. Then all is applied again.
async fn rebuilt(talk: Talk, world: &World, sample: &Sample) -> Result<(), Error> {
    let before = world.imp.state().await?;
    let ours = rows(&before, None);
    ensure(ours.len() == 2, || format!("the table has {ours:?}"))?;
    sample
        .patch(
            world,
            &json!({"spec": {"imp": [sample.imp_with("onDelete", &json!("Retain"))]}}),
        )
        .await?;
    let resource = sample.reference();
    let namespace = sample.namespace.as_str();
    world
        .lab
        .kubectl(&["-n", namespace, "delete", &resource, "--timeout=30s"])
        .await?;
    let told = sample.event(world, "RowsRetained").await?;
    talk.fact("onDelete: Retain", &told);
    for row in &ours {
        ensure(told.contains(&row.pkid), || {
            format!("the Event does not name {}", row.pkid)
        })?;
    }
    lose_records(world).await?;
    talk.fact("records", "deleted, and the operator's process is another one");
    endings::emptied(talk, world, sample).await?;
    world
        .lab
        .kubectl(&["apply", "-f", &sample_file().display().to_string()])
        .await?;
    let said = talk
        .wait("ComponentsRegistered=False", ROUND, async || {
            sample
                .observed(world, "ComponentsRegistered", "False")
                .await
                .and_then(|said| {
                    ensure(said.reason == "IdenticalForeignRow", || said.to_string())?;
                    Ok(said)
                })
        })
        .await?;
    talk.fact("ComponentsRegistered", &said);
    ensure(said.message.contains("xmppfederation.io/adopt-rows"), || {
        format!("it does not say what to do: {said}")
    })?;
    nothing_happens(talk, world, &before).await?;

    sample.annotate(world, "adopt-rows").await?;
    talk.wait("ComponentsRegistered=True", SEEN, async || {
        sample.observed(world, "ComponentsRegistered", "True").await
    })
    .await?;
    let said = talk
        .wait("RoutersInSync=Unknown", SEEN, async || {
            sample.observed(world, "RoutersInSync", "Unknown").await
        })
        .await?;
    talk.fact("adopted; RoutersInSync", &said);
    ensure(said.message.contains("restart-routers"), || {
        format!("it does not say what would prove it: {said}")
    })?;
    talk.wait("pods and links that work as they are", ROUND, async || {
        sample.observed(world, "EdgeAvailable", "True").await?;
        sample.observed(world, "RouterLinksUp", "True").await?;
        let ids = [component_id(0), component_id(1)];
        let nodes = world.imp.state().await?.nodes;
        nodes.iter().try_for_each(|node| linked(node, &ids))
    })
    .await?;
    traffic::messages(talk, &world.alice, &world.bob).await?;
    nothing_happens(talk, world, &before).await
}

/// Deletes the record of every cluster; then another process of the operator is there.
async fn lose_records(world: &World) -> Result<(), Error> {
    let pods = operator_pods(world).await?;
    let (namespace, _) = pods.first().ok_or("there is no operator")?;
    let deployment = "deployment/xmpp-federation-operator";
    let scale = async |replicas: &str| {
        let replicas = format!("--replicas={replicas}");
        let arguments = ["-n", namespace, "scale", deployment, &replicas];
        world.lab.kubectl(&arguments).await
    };
    scale("0").await?;
    let gone = ["-n", namespace, "wait", "pods", "--for=delete", "--timeout=60s", "-l"];
    let gone = [&gone[..], &[super::install::OPERATOR]].concat();
    world.lab.kubectl(&gone).await?;
    let label = "xmppfederation.io/imp-ledger=true";
    let deleted = world
        .lab
        .kubectl(&["-n", namespace, "delete", "configmap", "-l", label])
        .await?;
    ensure(deleted.contains("xmpp-federation-imp-"), || {
        format!("there was no record: {deleted}")
    })?;
    scale("1").await?;
    Ok(())
}

/// Step 15: rows leave, Expressway's comes.
async fn prepared(talk: Talk, world: &World, sample: &Sample) -> Result<(), Error> {
    let before = world.imp.state().await?;
    sample
        .patch(world, &json!({"spec": {"activation": "Prepared"}}))
        .await?;
    rows_leave(talk, world, &before).await?;
    world
        .imp
        .sql(&format!(
            "INSERT INTO xmpps2snodes (pkid, cp_id) VALUES (newid(), '{EXPRESSWAY}')"
        ))
        .await?;
    talk.fact("Expressway's row", format_args!("{EXPRESSWAY} stands"));
    sample.annotate(world, "refresh").await?;
    ready(talk, world, sample, SEEN).await?;
    let resource = sample.now(world).await?;
    for kind in ["EdgeAvailable", "CertificateReady", "RecordsVerified"] {
        let said = expect_condition(&resource, kind, "True")?;
        talk.fact(kind, said.status);
    }
    let looked = list(&resource, "/status/records").len();
    ensure(looked >= 2, || format!("{looked} records were looked at"))?;
    let pods = sample.pods(world).await?;
    ensure(pods.len() == 2 && pods.iter().all(|pod| pod.ready), || {
        format!("the pods are {pods:?}")
    })?;
    let now = world.imp.state().await?;
    let links: usize = now.nodes.iter().map(|node| node.router.links.len()).sum();
    ensure(links == 0, || format!("{links} links to the routers"))?;
    talk.fact("pods", "2 run, without a link");
    nothing_happens(talk, world, &now).await
}

/// Waits until no row of ours is left, and shows that no router was restarted for it.
async fn rows_leave(talk: Talk, world: &World, before: &State) -> Result<(), Error> {
    talk.wait("a table without rows of ours", SEEN, async || {
        let state = world.imp.state().await?;
        let left = rows(&state, None);
        ensure(left.is_empty(), || format!("{left:?}"))?;
        let links: usize = state.nodes.iter().map(|node| node.router.links.len()).sum();
        ensure(links == 0, || format!("{links} links"))
    })
    .await?;
    let now = world.imp.state().await?;
    ensure(restart_counts(&now) == restart_counts(before), || {
        "a router was restarted to remove rows".to_owned()
    })?;
    talk.fact("Prepared", "no row and no link of ours; no router restarted");
    Ok(())
}

/// Step 16: two edges on one cluster are refused.
async fn refused(talk: Talk, world: &World, sample: &Sample) -> Result<(), Error> {
    let before = world.imp.state().await?;
    sample.patch(world, &json!({"spec": {"activation": "Active"}})).await?;
    let said = talk
        .wait("ComponentsRegistered=False", SEEN, async || {
            let said = sample.observed(world, "ComponentsRegistered", "False").await?;
            ensure(said.reason == "ForeignComponents", || said.to_string())?;
            Ok(said)
        })
        .await?;
    talk.fact("ComponentsRegistered", &said);
    ensure(said.message.contains(EXPRESSWAY), || {
        format!("it does not name the row: {said}")
    })?;
    // The routers still know our ids from before: a link would take a part of Expressway's traffic.
    let links: usize = before.nodes.iter().map(|node| node.router.links.len()).sum();
    ensure(links == 0, || format!("{links} links to begin with"))?;
    let resource = sample.now(world).await?;
    for (kind, status) in [("Ready", "False"), ("Stalled", "True")] {
        let said = expect_condition(&resource, kind, status)?;
        ensure(said.reason == "ForeignComponents", || format!("{kind} is {said}"))?;
    }
    nothing_happens(talk, world, &before).await?;
    let now = world.imp.state().await?;
    let links: usize = now.nodes.iter().map(|node| node.router.links.len()).sum();
    ensure(links == 0, || format!("{links} links were opened"))?;
    talk.fact("links", "none");
    Ok(())
}

/// Step 17: the row goes, ours come, every router is restarted once.
async fn activated(talk: Talk, world: &World, sample: &Sample) -> Result<(), Error> {
    let before = world.imp.state().await?;
    world
        .imp
        .sql(&format!("DELETE FROM xmpps2snodes WHERE cp_id = '{EXPRESSWAY}'"))
        .await?;
    let began = Instant::now();
    sample.annotate(world, "refresh").await?;
    ready(talk, world, sample, ROUND).await?;
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
    let resource = sample.now(world).await?;
    let actions = list(&resource, "/status/imp/0/recentActions");
    let last = actions.last().map_or("", |action| text(action, "/action"));
    talk.fact("last action", last);
    prepared(talk, world, sample).await?;
    let resource = sample.now(world).await?;
    if let Some(said) = condition(&resource, "ComponentsRegistered") {
        talk.fact("ComponentsRegistered", said);
    }
    world
        .imp
        .sql(&format!("DELETE FROM xmpps2snodes WHERE cp_id = '{EXPRESSWAY}'"))
        .await
}
