//! Steps 3 to 6: rows in IM&P, restarts, IM&P's own federation, public records.

use std::time::Duration;

use super::imp;
use super::install;
use super::report::{Talk, ensure};
use super::resource::Sample;
use super::world::World;
use testkit_base::Error;
use testkit_simulator::{Federation, NodeState, Status};

/// `propagationDelay` of the sample, in milliseconds.
const PROPAGATION_MS: u64 = 2000;

/// The component id of a replica: design's rule for realms.
pub fn component_id(replica: usize) -> String {
    match replica {
        0 => "cm-2_s2scp-1.eft-xwye-a-coluc-com".to_owned(),
        n => format!("cm-2_s2scp-1.eft-xwye-a-{n}-coluc-com"),
    }
}

/// Step 3: the rows, read by AXL's own interface.
pub async fn rows(talk: Talk, world: &World, sample: &Sample) -> Result<(), Error> {
    install::operator_runs(sample).await?;
    let account = sample.account().await?;
    let wanted = [component_id(0), component_id(1)];
    let rows = talk
        .wait("the rows in xmpps2snodes", Duration::from_mins(1), async || {
            let rows = imp::rows_over_axl(&world.imp_ca(), &account.user, &account.password).await?;
            let ids: Vec<&str> = rows.iter().map(|row| row.cp_id.as_str()).collect();
            ensure(wanted.iter().all(|id| ids.contains(&id.as_str())), || {
                format!("the table has {ids:?}")
            })?;
            Ok(rows)
        })
        .await?;
    talk.say(imp::as_cli(&rows));
    ensure(rows.len() == wanted.len(), || {
        format!("{} rows instead of {}", rows.len(), wanted.len())
    })?;
    for row in &rows {
        uuid::Uuid::parse_str(&row.pkid).map_err(|error| format!("the pkid {} is no UUID: {error}", row.pkid))?;
    }
    Ok(())
}

/// Step 4: when and in which order the routers were restarted.
pub async fn restarts(talk: Talk, world: &World, _: &Sample) -> Result<(), Error> {
    let wanted = [component_id(0), component_id(1)];
    let state = talk
        .wait(
            "both routers restarted and linked",
            Duration::from_secs(90),
            async || {
                let state = world.imp.state().await?;
                for node in &state.nodes {
                    ensure(!node.router.restarts.is_empty(), || {
                        format!("{} was not restarted yet", node.name)
                    })?;
                    linked(node, &wanted)?;
                }
                Ok(state)
            },
        )
        .await?;
    let mut spans = Vec::new();
    for node in &state.nodes {
        let ours: Vec<_> = node
            .router
            .restarts
            .iter()
            .filter(|restart| restart.by == "control-center")
            .collect();
        let [restart] = ours.as_slice() else {
            return Err(format!(
                "{} was restarted {} times by Control Center, not once",
                node.name,
                ours.len()
            )
            .into());
        };
        ensure(wanted.iter().all(|id| restart.loaded_ids.contains(id)), || {
            format!("{} loaded {:?} when it started", node.name, restart.loaded_ids)
        })?;
        let ended = restart
            .started_at_ms
            .ok_or_else(|| format!("the restart of {} is not over", node.name))?;
        spans.push((restart.requested_at_ms, ended, node));
    }
    spans.sort_by_key(|span| span.0);
    let written = readable_at(world, spans.first().map_or(0, |span| span.0)).await?;
    let mut previous: Option<(u64, &NodeState)> = None;
    for (requested, ended, node) in spans {
        let after_rows = requested.saturating_sub(written);
        talk.fact(
            &node.name,
            format_args!(
                "restarted once: asked {:.1} s after the rows were read back, back after {:.1} s, loaded both ids",
                seconds(after_rows),
                seconds(ended - requested)
            ),
        );
        ensure(requested >= written + PROPAGATION_MS, || {
            format!(
                "{} was restarted {after_rows} ms after the rows were read back, before propagation",
                node.name
            )
        })?;
        if let Some((before_ended, before)) = previous {
            ensure(requested >= before_ended, || {
                format!("{} was restarted while {} was away", node.name, before.name)
            })?;
            let linked = before.router.first_link_at_ms.unwrap_or(u64::MAX);
            ensure(requested >= linked, || {
                format!("{} was restarted before the link to {} worked", node.name, before.name)
            })?;
            talk.fact(
                "order",
                format_args!(
                    "{} linked first, {} asked {:.1} s later",
                    before.name,
                    node.name,
                    seconds(requested - linked)
                ),
            );
        }
        previous = Some((ended, node));
    }
    Ok(())
}

/// When the rows that led to the first restart could be read back.
async fn readable_at(world: &World, first_restart: u64) -> Result<u64, Error> {
    let calls = world.imp.calls(0).await?;
    let table: Vec<_> = calls
        .iter()
        .filter(|call| call.service == "axl" && call.auth == "ok" && call.at_ms <= first_restart)
        .collect();
    let insert = table
        .iter()
        .rev()
        .find(|call| call.detail.to_lowercase().contains("insert"))
        .ok_or("no INSERT before the first restart in the record of calls")?;
    table
        .iter()
        .find(|call| call.seq > insert.seq && call.operation == "executeSQLQuery" && call.detail.contains("cp_id"))
        .map(|call| call.at_ms)
        .ok_or_else(|| "the rows were not read back before the first restart".into())
}

/// An error unless the node's router runs and all ids are linked to it.
pub fn linked(node: &NodeState, ids: &[String]) -> Result<(), Error> {
    let router = &node.router;
    ensure(router.status == Status::Started, || {
        format!("the router of {} is {:?}", node.name, router.status)
    })?;
    for id in ids {
        ensure(router.links.iter().any(|link| &link.id == id), || {
            format!("{id} has no link to {}", node.name)
        })?;
    }
    Ok(())
}

#[allow(clippy::cast_precision_loss, reason = "durations of a demo")]
fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

/// Step 5: IM&P's own federation.
pub async fn own_federation(talk: Talk, world: &World, sample: &Sample) -> Result<(), Error> {
    install::operator_runs(sample).await?;
    let state = world.imp.state().await?;
    ensure(state.federation != Federation::On, || "IM&P's own federation is on")?;
    talk.fact(
        "IM&P says",
        format_args!("its own XMPP federation is {:?}", state.federation),
    );
    let asked: Vec<_> = world
        .imp
        .calls(0)
        .await?
        .into_iter()
        .filter(|call| call.service == "control-center" && call.operation == "soapGetServiceStatus")
        .collect();
    for node in &state.nodes {
        let count = asked.iter().filter(|call| call.node == node.name).count();
        ensure(count > 0, || format!("Control Center of {} was never asked", node.name))?;
    }
    let limit = Duration::from_secs(30);
    talk.fact(
        "ImpFederationOff",
        sample.becomes(talk, "ImpFederationOff", "True", limit).await?,
    );
    Ok(())
}

/// Step 6: public records, ours and the partner's.
pub async fn records(talk: Talk, world: &World, sample: &Sample) -> Result<(), Error> {
    install::operator_runs(sample).await?;
    sample
        .becomes(talk, "RecordsVerified", "True", Duration::from_mins(1))
        .await?;
    let zone = world.zone("coluc.com").await?;
    let records = sample.status().await?.records;
    for domain in ["coluc.com", "conf.coluc.com"] {
        let name = format!("_xmpp-server._tcp.{domain}");
        let status = records
            .iter()
            .find(|record| record.name.trim_end_matches('.') == name)
            .ok_or_else(|| format!("the status has no record {name}"))?;
        ensure(status.state == "Verified", || {
            format!("{name} is {}: {}", status.state, status.message)
        })?;
        let served = zone
            .iter()
            .find(|record| record.name.trim_end_matches('.') == name)
            .ok_or_else(|| format!("the lab's DNS has no {name}"))?;
        talk.fact(&name, format_args!("Verified; DNS serves {}", served.values.join(", ")));
    }
    let operators = sample.operators().await?;
    let partner = "_xmpp-server._tcp.vngtp.lab.";
    let query = talk
        .wait(
            "the look-up of the partner's record",
            Duration::from_secs(30),
            async || world.query_from(&operators, partner, "SRV").await,
        )
        .await?;
    talk.fact(
        partner.trim_end_matches('.'),
        format_args!("asked by the operator at {}: {}", query.source, query.answer),
    );
    Ok(())
}
