//! Transitions of the ledger by what was observed, before anything is planned; pure. Rows that appeared or went,
//! routers that provably restarted, requests that came in.

use std::collections::BTreeSet;

use xmpp_federation_core::Activation;

use crate::announcement;
use crate::axl::Row;
use crate::clock::{Elapsed, Stamp};
use crate::control_center::{ImpFederation, RestartAnswer};
use crate::desired::Desired;
use crate::observation::{Observation, started_after};
use crate::pkid::Pkid;
use crate::reasons::Reason;
use crate::report::Event;

use super::nodes::nodes;
use super::slots::slots;
use super::{Ledger, Readable, Round, RoundCause};
use crate::records::{ActionKind, ActionRecord, Baseline, Outcome, RowState, UpTimeMark};

/// Takes in what was seen; returns the events it is worth. Does nothing where another resource
/// has the cluster.
pub fn apply(ledger: &mut Ledger, desired: &Desired, seen: &mut Observation, now: Stamp) -> Vec<Event> {
    let mut events = Vec::new();
    if seen.barred.is_some() {
        return events;
    }
    claim(ledger, desired);
    if ledger.claimed_by_another(&desired.owner).is_some() {
        return events;
    }
    slots(ledger, desired, seen);
    let desired = &*desired.within(ledger.slots);
    if desired.activation == Activation::Active {
        ledger.known_as.insert(desired.target.publisher.clone());
        if desired.place.reach.is_some() {
            ledger.reach.clone_from(&desired.place.reach);
        }
    }
    if std::mem::take(&mut seen.human_looked) && ledger.vanished >= 2 {
        ledger.vanished = 0;
    }
    if std::mem::take(&mut ledger.restored) {
        ledger
            .handled_restart_token
            .clone_from(&desired.requests.restart_routers);
    }
    nodes(ledger, seen, &mut events);
    replace_future_stamps(ledger, now);
    commands_on_their_way(ledger, seen, now);
    rows(ledger, desired, seen, now, &mut events);
    readable(ledger, desired, seen, now);
    end_excuses(ledger, seen);
    requests(ledger, desired, seen, now);
    federation(ledger, seen, now);
    routers(ledger, seen, now, &mut events);
    canary(ledger, desired, seen, now);
    events
}

/// An active resource takes a cluster that nobody has.
fn claim(ledger: &mut Ledger, desired: &Desired) {
    let stale = ledger.owner.as_ref().is_some_and(|owner| desired.may_take_from(owner));
    match desired.activation {
        Activation::Active if stale || ledger.owner.is_none() => {
            ledger.owner = Some(desired.owner.clone());
            // What another resource was asked for is not done for this one, nor what somebody did to its rows.
            ledger.rounds.clear();
            ledger.vanished = 0;
            ledger.slots = None;
            // A token that came with the resource was meant for a cluster before this.
            ledger
                .handled_restart_token
                .clone_from(&desired.requests.restart_routers);
        }
        Activation::Prepared => ledger.free(&desired.owner),
        Activation::Active => {}
    }
}

/// A time that lies ahead of the clock is replaced by now: intervals start anew instead of never ending.
fn replace_future_stamps(ledger: &mut Ledger, now: Stamp) {
    for record in ledger.nodes.values_mut() {
        let planned = record.restart.as_mut().map(|restart| &mut restart.planned);
        for stamp in record.last_restart.iter_mut().chain(planned) {
            if now.since(stamp) == Elapsed::Estimated(None) {
                *stamp = now;
            }
        }
    }
}

/// What may still arrive: counted by this process's own clock alone, and over only with a look at
/// the node that is later than the latest arrival.
fn commands_on_their_way(ledger: &mut Ledger, seen: &Observation, now: Stamp) {
    if ledger.commands_lost && !seen.node_list().is_empty() {
        ledger.commands_lost = false;
        for node in seen.node_list() {
            ledger.node_mut(&node.name).on_its_way = Some(now);
        }
    }
    for (name, record) in &mut ledger.nodes {
        let Some(since) = &mut record.on_its_way else {
            continue;
        };
        if since.process != now.process {
            *since = now;
        }
        let looked = seen.services.get(name).is_some_and(|services| {
            matches!(services.asked.since(since), Elapsed::Certain(elapsed)
                if elapsed >= seen.timings.latest_arrival)
        });
        if looked {
            record.on_its_way = None;
        }
    }
}

fn rows(ledger: &mut Ledger, desired: &Desired, seen: &Observation, now: Stamp, events: &mut Vec<Event>) {
    let Some(rows) = seen.rows.as_ref().filter(|_| seen.rows_current()) else {
        return;
    };
    let stood = ledger.standing();
    let mut gone = Vec::new();
    let mut late = Vec::new();
    for (pkid, record) in &mut ledger.rows {
        let shown = rows.value.iter().any(|row| row.pkid == pkid.to_string());
        match record.state {
            RowState::Planned if shown => {
                record.state = RowState::Present;
                late.push((ActionKind::InsertRow, *pkid, record.component_id.to_string()));
            }
            RowState::Deleting if !shown => {
                late.push((ActionKind::DeleteRow, *pkid, record.component_id.to_string()));
                gone.push((*pkid, false));
            }
            RowState::Present if !shown => {
                let confirmed = seen
                    .missing_since
                    .get(pkid)
                    .is_some_and(|since| rows.asked.since(since).reached(seen.timings.confirm_missing));
                if confirmed {
                    gone.push((*pkid, true));
                }
            }
            _ => {}
        }
    }
    for (action, pkid, id) in late {
        unanswered(ledger, action, pkid, &id, now, events);
    }
    // Whoever removes rows that are to go does as they should.
    let is_wanted = |ledger: &Ledger, pkid: &Pkid| {
        let row = ledger.rows.get(pkid);
        row.is_some_and(|row| desired.wanted().contains(&row.component_id))
    };
    for (pkid, vanished) in &mut gone {
        *vanished &= is_wanted(ledger, pkid);
    }
    // However many rows went: that was one time.
    if gone.iter().any(|(_, vanished)| *vanished) {
        ledger.vanished = ledger.vanished.saturating_add(1);
    }
    for (pkid, vanished) in gone {
        if vanished {
            let id = ledger.rows.get(&pkid).map(|row| row.component_id.to_string());
            let message = format!(
                "Somebody removed the row of {} ({pkid}) from IM&P's table; it will be inserted again once",
                id.unwrap_or_default()
            );
            events.push(Reason::RowsVanished.event(true, message));
        }
        ledger.forget_row(&pkid, &stood);
    }
    let same = |row: &&Row| {
        ledger
            .record_of(row)
            .is_some_and(|record| record.component_id.as_str() == row.cp_id)
    };
    let shown = rows.value.iter().filter(same).filter_map(|row| row.pkid.parse().ok());
    ledger.recall(&shown.collect());
}

/// A write whose answer was not heard, or whose process ended, turns out to have been done.
fn unanswered(ledger: &mut Ledger, action: ActionKind, pkid: Pkid, id: &str, now: Stamp, events: &mut Vec<Event>) {
    let subject = format!("{id} ({pkid})");
    let told = ledger
        .actions
        .iter()
        .any(|known| known.action == action && known.subject == subject && known.result.is_done());
    if told {
        return;
    }
    let shows = match action {
        ActionKind::InsertRow => "shows the row",
        _ => "does not show the row any more",
    };
    let record = ActionRecord {
        at: now.wall,
        action,
        subject,
        reason: "it was under way".to_owned(),
        result: Outcome::Done,
        outcome: format!("1 row, whose answer was not heard or not recorded; the table {shows}"),
    };
    events.extend(record.event());
    ledger.acted(record);
}

/// All desired rows are there and the propagation delay is over, by this process's own reads.
fn readable(ledger: &mut Ledger, desired: &Desired, seen: &Observation, now: Stamp) {
    let ids: BTreeSet<_> = desired.wanted().iter().cloned().collect();
    let known = ledger
        .readable
        .as_ref()
        .is_some_and(|readable| readable.ids.is_superset(&ids));
    if ids.is_empty() || known || !seen.rows_current() {
        return;
    }
    let delay = desired.restart.propagation_delay;
    let over = ids.iter().all(|id| {
        seen.present_since
            .get(id)
            .is_some_and(|since| now.since(since).reached(delay))
    });
    if over {
        ledger.readable = Some(Readable {
            ids,
            baseline: Baseline::at(now),
        });
    }
}

/// A service that runs again is missed when it stops once more.
fn end_excuses(ledger: &mut Ledger, seen: &Observation) {
    for (name, record) in &mut ledger.nodes {
        if let Some(services) = seen.services.get(name) {
            let down = &services.value.down;
            record.excused.retain(|name| down.iter().any(|down| down.name == name));
        }
    }
}

/// The annotation `restart-routers`, once per value.
fn requests(ledger: &mut Ledger, desired: &Desired, seen: &mut Observation, now: Stamp) {
    let token = &desired.requests.restart_routers;
    let Some(token) = token.as_ref().filter(|_| *token != ledger.handled_restart_token) else {
        return;
    };
    if desired.activation == Activation::Prepared || seen.node_list().is_empty() {
        return;
    }
    ledger.handled_restart_token = Some(token.clone());
    // A human has looked: what was unclear may be commanded again.
    for record in ledger.nodes.values_mut() {
        let open = record.restart.as_ref().is_some_and(|restart| {
            !matches!(restart.answer, Some(RestartAnswer::Accepted))
                || now.since(&restart.planned).reached(seen.timings.restart_deadline)
        });
        if open {
            record.restart = None;
        }
    }
    for (name, services) in &seen.services {
        // Those that it was told of: what is still coming is waited for.
        let down = services.value.down.iter();
        let stays = down.filter(|down| services.value.stays_down(down, &seen.timings));
        ledger.node_mut(name).excused = stays.map(|down| down.name.to_owned()).collect();
    }
    seen.restart_not_before.clear();
    ledger
        .rounds
        .retain(|round| !matches!(round.cause, RoundCause::Requested(_)));
    ledger
        .rounds
        .push(round(RoundCause::Requested(token.clone()), seen, now));
}

/// Every router of the list has to start after now.
fn round(cause: RoundCause, seen: &Observation, now: Stamp) -> Round {
    Round {
        cause,
        baseline: Baseline::at(now),
        pending: seen.node_names().collect(),
    }
}

/// IM&P's own federation going Off asks for a round, where rows of ours need the routers.
fn federation(ledger: &mut Ledger, seen: &Observation, now: Stamp) {
    let states: Vec<ImpFederation> = seen
        .node_list()
        .iter()
        .map(|node| seen.federation(&node.name))
        .collect();
    if states.contains(&ImpFederation::On) {
        ledger.federation_was_on = true;
        return;
    }
    let off = !states.is_empty() && states.iter().all(|state| *state == ImpFederation::Off);
    if !ledger.federation_was_on || !off {
        return;
    }
    ledger.federation_was_on = false;
    if ledger.rows.values().any(|row| row.state == RowState::Present) {
        ledger.rounds.push(round(RoundCause::FederationOff, seen, now));
    }
}

/// Which routers provably started after what.
fn routers(ledger: &mut Ledger, seen: &Observation, now: Stamp, events: &mut Vec<Event>) {
    let names: Vec<String> = seen.node_names().collect();
    for name in &names {
        if let Some(readable) = &mut ledger.readable {
            if started_after(&readable.baseline, name, &seen.services) {
                let ids = readable.ids.clone();
                let loaded = &mut ledger.nodes.entry(name.clone()).or_default().loaded;
                if !loaded.is_superset(&ids) {
                    loaded.extend(ids);
                    let message = format!("Cisco XCP Router on {name} started after all rows were readable");
                    events.push(Reason::RouterInSync.event(false, message));
                }
            } else {
                note_up_time(&mut readable.baseline, name, seen);
            }
        }
        for round in &mut ledger.rounds {
            if !round.pending.contains(name) {
                continue;
            }
            if started_after(&round.baseline, name, &seen.services) {
                round.pending.remove(name);
            } else {
                note_up_time(&mut round.baseline, name, seen);
            }
        }
        close_restart(ledger, name, seen, now, events);
    }
    // A round does not wait for nodes that are no more.
    ledger.rounds.retain_mut(|round| {
        if !names.is_empty() {
            round.pending.retain(|name| names.contains(name));
        }
        !round.pending.is_empty()
    });
}

/// A command whose router provably started since is over.
fn close_restart(ledger: &mut Ledger, name: &str, seen: &Observation, now: Stamp, events: &mut Vec<Event>) {
    let Some(record) = ledger.nodes.get_mut(name) else {
        return;
    };
    let back = record
        .restart
        .as_ref()
        .is_some_and(|restart| started_after(&restart.baseline, name, &seen.services));
    if back && let Some(restart) = record.restart.take() {
        record.loaded.extend(restart.ids);
        for round in &mut ledger.rounds {
            if restart.rounds.contains(&round.cause) {
                round.pending.remove(name);
            }
        }
        let seconds =
            |up_time: Option<u64>| up_time.map_or_else(|| "not known".to_owned(), |up_time| format!("{up_time} s"));
        let before = restart.baseline.up_times.get(name).map(|mark| mark.seconds);
        let after = seen.services.get(name).and_then(|services| services.value.up_time);
        let record = ActionRecord {
            at: now.wall,
            action: ActionKind::RouterBack,
            subject: name.to_owned(),
            reason: restart.reason,
            result: Outcome::Done,
            outcome: format!(
                "up time {} before the command of {}, {} after",
                seconds(before),
                restart.planned.wall.strftime("%Y-%m-%d %H:%M:%S UTC"),
                seconds(after)
            ),
        };
        events.extend(record.event());
        ledger.acted(record);
    }
}

/// Notes an up time read after the baseline, so that a smaller one proves a restart without clocks.
fn note_up_time(baseline: &mut Baseline, name: &str, seen: &Observation) {
    if baseline.up_times.contains_key(name) {
        return;
    }
    let Some(services) = seen.services.get(name) else {
        return;
    };
    // What another process wrote was written before this one read it, and so before it looked.
    let later = services.asked.process != baseline.at.process || services.asked.mono_ms >= baseline.at.mono_ms;
    if let Some(seconds) = services.value.up_time
        && later
    {
        baseline.up_times.insert(
            name.to_owned(),
            UpTimeMark {
                seconds,
                asked: services.asked,
            },
        );
    }
}

/// A router that is not being restarted accepts one of our ids: the rows do what they are for. On
/// the very first registration no router knows an id before it was restarted.
fn canary(ledger: &mut Ledger, desired: &Desired, seen: &Observation, now: Stamp) {
    if ledger.canary_passed {
        return;
    }
    ledger.canary_passed = desired.links.iter().any(|link| {
        let ours = ledger
            .rows
            .values()
            .any(|row| row.component_id == link.component_id && row.state == RowState::Present);
        let restarting = ledger
            .nodes
            .get(&link.node)
            .and_then(|record| record.restart.as_ref())
            // One that a human is asked about is not under way.
            .is_some_and(|restart| !now.since(&restart.planned).reached(seen.timings.restart_deadline));
        // A router of profile Xcp takes the link of any component, before it has read the row, too.
        let knows = !desired.announces
            || (ledger.has_loaded(&link.node, &link.component_id)
                && announcement::works(link, desired, &seen.services));
        link.up && ours && !restarting && knows
    });
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::desired::Owner;
    use crate::observation::Reading;
    use crate::records::RowRecord;
    use crate::testing::desired;
    use rstest::rstest;
    use xmpp_federation_core::ComponentId;

    /// Pkid and slot of the rows that the table shows; slots that the router is then known to have read.
    #[rstest]
    #[case::all_stand(&[(1, 0), (2, 1)], &[0, 1])]
    #[case::one_went(&[(1, 0)], &[0])]
    #[case::one_went_and_another_came(&[(1, 0), (9, 1)], &[0])]
    #[case::one_has_another_id(&[(1, 0), (2, 5)], &[0])]
    #[case::none_stands(&[], &[])]
    fn what_a_router_had_read_counts_after_a_restore_where_the_same_row_stands(
        #[case] table: &[(u128, usize)],
        #[case] read: &[usize],
    ) {
        let id = |slot: &usize| -> ComponentId { format!("cm-2_s2scp-1.slot-{slot}").parse().unwrap() };
        let now = Stamp {
            wall: jiff::Timestamp::UNIX_EPOCH,
            process: 1,
            mono_ms: 1_000,
        };
        let mut desired = desired();
        desired.component_ids = vec![id(&0), id(&1)];
        let row = |slot: usize| RowRecord {
            component_id: id(&slot),
            state: RowState::Present,
            asks_restart: true,
        };
        let mut ledger = Ledger {
            owner: Some(desired.owner.clone()),
            rows: [(Pkid::from_u128(1), row(0)), (Pkid::from_u128(2), row(1))].into(),
            ..Ledger::unknown("055c13d9-943d-459d-a3c6-af1d1176936d")
        };
        ledger.node_mut("ecup10").loaded.extend([id(&0), id(&1)]);
        ledger.distrust();
        // Restored twice before anybody looked.
        ledger.distrust();
        let known =
            |ledger: &Ledger| -> Vec<usize> { (0..2).filter(|slot| ledger.has_loaded("ecup10", &id(slot))).collect() };
        let mut seen = Observation::default();
        apply(&mut ledger, &desired, &mut seen, now);
        assert_eq!(known(&ledger), [0_usize; 0], "nobody has looked yet");
        let row = |(pkid, slot): &(u128, usize)| Row {
            pkid: Pkid::from_u128(*pkid).to_string(),
            cp_id: id(slot).to_string(),
        };
        seen.rows = Some(Reading {
            value: table.iter().map(row).collect(),
            asked: now,
            answered: now,
        });
        apply(&mut ledger, &desired, &mut seen, now);
        assert_eq!(known(&ledger), read);
        assert!(ledger.nodes.values().all(|node| node.loaded_before.is_empty()));
        assert!(ledger.rounds.is_empty() && ledger.rows.values().all(|row| !row.asks_restart));
    }

    #[rstest]
    #[case::it_lives(&[], &["r-1", "r-2"], None, false)]
    #[case::it_is_gone(&[], &["r-1"], None, true)]
    #[case::it_is_gone_from_a_namespace_that_is_watched(&["federation", "former"], &["r-1"], None, true)]
    #[case::its_namespace_is_not_watched_any_more(&["federation"], &["r-1"], None, false)]
    #[case::and_a_person_adopts_rows(&["federation"], &["r-1"], Some("1"), false)]
    #[case::and_a_person_names_it(&["federation"], &["r-1"], Some("former/coluc"), true)]
    #[case::it_lives_and_a_person_names_it(&["federation", "former"], &["r-1", "r-2"], Some("former/coluc"), false)]
    fn a_cluster_is_taken_from_a_resource_that_is_known_to_be_gone(
        #[case] watched: &[&str],
        #[case] live: &[&str],
        #[case] adopt_rows: Option<&str>,
        #[case] taken: bool,
    ) {
        let mut desired = desired();
        desired.live_owners = live.iter().copied().into();
        let watched: Vec<String> = watched.iter().map(ToString::to_string).collect();
        desired.live_owners.see_only(&watched);
        desired.requests.adopt_rows = adopt_rows.map(str::to_owned);
        let other = Owner {
            namespace: "former".to_owned(),
            uid: "r-2".to_owned(),
            ..desired.owner.clone()
        };
        let mut ledger = Ledger {
            owner: Some(other),
            ..Ledger::unknown("055c13d9-943d-459d-a3c6-af1d1176936d")
        };
        claim(&mut ledger, &desired);
        assert_eq!(ledger.is_of(&desired.owner.uid), taken);
    }
}
