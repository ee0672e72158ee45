//! The nodes of a cluster, by the keys that they have in `processnode`: added, renamed, replaced,
//! and gone. One odd answer must not make the operator forget a node, as it would restart the
//! others without a look at it: a node is gone when a second read, a while later, does not list it.

use std::collections::{BTreeMap, BTreeSet};

use crate::axl::Node;
use crate::observation::{MissingNode, Observation};
use crate::pkid::Pkid;
use crate::reasons::Reason;
use crate::report::Event;

use super::{Ledger, NodeRecord};
use crate::records::Baseline;

/// Takes in the node list; those that are missing, and not for long enough, are put back into it.
pub(super) fn nodes(ledger: &mut Ledger, seen: &mut Observation, events: &mut Vec<Event>) {
    let Some(list) = &mut seen.nodes else {
        return;
    };
    for name in identify(ledger, &list.value) {
        seen.services.remove(&name);
    }
    let mut missing = BTreeMap::new();
    for (name, record) in &mut ledger.nodes {
        let Some(pkid) = record.pkid.filter(|_| !record.gone) else {
            continue;
        };
        let before = seen.missing_nodes.get(&pkid).copied();
        if let Some(before) = before.filter(|before| before.read == list.asked) {
            missing.insert(pkid, before);
        } else if !list.value.iter().any(|node| node.pkid == pkid) {
            let since = before.map_or(list.asked, |before| before.since);
            let confirmed = before.is_some() && list.asked.since(&since).reached(seen.timings.confirm_missing);
            if confirmed {
                record.leave();
                events.push(removed(name));
                if !ledger.canary_passed {
                    ledger.canary.take_if(|first| first == name);
                }
                continue;
            }
            let read = list.asked;
            missing.insert(pkid, MissingNode { since, read });
            list.value.push(Node {
                pkid,
                name: name.clone(),
                publisher: false,
            });
        }
    }
    seen.missing_nodes = missing;
}

fn removed(name: &str) -> Event {
    let message = format!(
        "IM&P's node list does not name {name} any more, confirmed by a second read; nothing waits for that node from now on"
    );
    Reason::NodeRemoved.event(true, message)
}

/// Gives every node of the list its record; returns the names that are not what they were.
fn identify(ledger: &mut Ledger, list: &[Node]) -> BTreeSet<String> {
    let mut changed = BTreeSet::new();
    let mut moved: BTreeMap<Pkid, NodeRecord> = BTreeMap::new();
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    for node in list {
        let old = ledger
            .nodes
            .iter()
            .find(|(name, record)| record.pkid == Some(node.pkid) && **name != node.name)
            .map(|(name, _)| name.clone());
        if let Some(old) = old
            && let Some(record) = ledger.nodes.remove(&old)
        {
            moved.insert(node.pkid, record);
            changed.extend([old.clone(), node.name.clone()]);
            names.insert(old, node.name.clone());
        }
    }
    for node in list {
        let mut record = match moved.remove(&node.pkid) {
            Some(record) => record,
            None => ledger.nodes.remove(&node.name).unwrap_or_default(),
        };
        if record.pkid.is_some_and(|pkid| pkid != node.pkid) {
            // Another machine under the name of one that was there before.
            record = NodeRecord::default();
            changed.insert(node.name.clone());
        }
        record.pkid = Some(node.pkid);
        record.gone = false;
        ledger.nodes.insert(node.name.clone(), record);
    }
    if !changed.is_empty() {
        ledger.rename(&names, &changed);
    }
    changed
}

impl NodeRecord {
    /// The node left. What may still arrive there stays on the record; what it knew does not.
    fn leave(&mut self) {
        self.gone = true;
        self.loaded.clear();
        self.loaded_before.clear();
        self.excused.clear();
        if let Some(restart) = &mut self.restart {
            restart.ids.clear();
            restart.rounds.clear();
        }
    }
}

impl Ledger {
    /// The nodes that the list named when it was read last, in its order: publisher first.
    pub fn node_names(&self) -> Vec<String> {
        let listed = self.nodes.iter().filter(|(_, record)| !record.gone);
        let is_publisher = |record: &NodeRecord| record.pkid.is_some_and(|pkid| pkid.to_string() == self.publisher);
        let (first, others): (Vec<_>, Vec<_>) = listed.partition(|(_, record)| is_publisher(record));
        first.into_iter().chain(others).map(|(name, _)| name.clone()).collect()
    }

    /// What is kept under nodes' names goes with the nodes; an up time under a name that another
    /// machine has now proves nothing.
    fn rename(&mut self, names: &BTreeMap<String, String>, changed: &BTreeSet<String>) {
        let forget = |baseline: &mut Baseline| {
            baseline.up_times.retain(|name, _| !changed.contains(name));
        };
        if let Some(readable) = &mut self.readable {
            forget(&mut readable.baseline);
        }
        for record in self.nodes.values_mut() {
            if let Some(restart) = &mut record.restart {
                forget(&mut restart.baseline);
            }
        }
        let renamed = |name: &String| names.get(name).unwrap_or(name).clone();
        for round in &mut self.rounds {
            forget(&mut round.baseline);
            round.pending = round.pending.iter().map(renamed).collect();
        }
        if let Some(first) = &mut self.canary {
            *first = renamed(first);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::clock::Stamp;
    use crate::observation::Reading;
    use rstest::rstest;

    fn at(second: u64) -> Stamp {
        Stamp {
            wall: jiff::Timestamp::from_second(i64::try_from(second).unwrap()).unwrap(),
            process: 1,
            mono_ms: second * 1_000,
        }
    }

    fn read(seen: &mut Observation, second: u64, list: &[(u128, &str)]) {
        let node = |(pkid, name): &(u128, &str)| Node {
            pkid: Pkid::from_u128(*pkid),
            name: (*name).to_owned(),
            publisher: *pkid == 1,
        };
        seen.nodes = Some(Reading {
            value: list.iter().map(node).collect(),
            asked: at(second),
            answered: at(second),
        });
    }

    /// Reads one list after the other, learning three times from each.
    fn after(reads: &[(u64, &[(u128, &str)])]) -> (Ledger, Observation, Vec<Event>) {
        let (mut ledger, mut seen) = (Ledger::unknown("p"), Observation::default());
        let mut events = Vec::new();
        for (second, list) in reads {
            read(&mut seen, *second, list);
            for _ in 0..3 {
                nodes(&mut ledger, &mut seen, &mut events);
            }
            for record in ledger.nodes.values_mut().filter(|record| !record.gone) {
                record.loaded.insert("cm-2_s2scp-1.slot-0".parse().unwrap());
            }
        }
        (ledger, seen, events)
    }

    const BOTH: &[(u128, &str)] = &[(1, "a"), (2, "b")];
    const FIRST: &[(u128, &str)] = &[(1, "a")];

    #[rstest]
    #[case::all_there(&[(0, BOTH), (3_600, BOTH)], &["a", "b"], false, 0)]
    #[case::one_odd_answer(&[(0, BOTH), (3_600, FIRST)], &["a", "b"], true, 0)]
    #[case::a_second_one_too_soon(&[(0, BOTH), (3_600, FIRST), (3_659, FIRST)], &["a", "b"], true, 0)]
    #[case::it_is_back(&[(0, BOTH), (3_600, FIRST), (3_660, BOTH)], &["a", "b"], false, 0)]
    #[case::back_and_missing_counts_anew(&[(0, BOTH), (3_600, FIRST), (3_660, BOTH), (3_720, FIRST)], &["a", "b"], true, 0)]
    #[case::confirmed(&[(0, BOTH), (3_600, FIRST), (3_660, FIRST)], &["a"], false, 1)]
    #[case::told_once(&[(0, BOTH), (3_600, FIRST), (3_660, FIRST), (7_200, FIRST)], &["a"], false, 1)]
    #[case::added(&[(0, FIRST), (3_600, BOTH)], &["a", "b"], false, 0)]
    fn nodes_come_and_go(
        #[case] reads: &[(u64, &[(u128, &str)])],
        #[case] names: &[&str],
        #[case] missing: bool,
        #[case] told: usize,
    ) {
        let (ledger, seen, events) = after(reads);
        let listed: Vec<&str> = seen.node_list().iter().map(|node| node.name.as_str()).collect();
        assert_eq!((listed.as_slice(), !seen.missing_nodes.is_empty()), (names, missing));
        assert_eq!(events.len(), told, "{events:?}");
        for (name, record) in &ledger.nodes {
            assert_eq!(record.gone, !names.contains(&name.as_str()));
            assert_eq!(record.loaded.is_empty(), record.gone);
        }
    }

    #[test]
    fn a_renamed_node_keeps_its_record_also_where_names_are_swapped() {
        let (mut ledger, mut seen, mut events) = after(&[(0, BOTH)]);
        ledger.nodes.get_mut("a").unwrap().last_restart = Some(at(1));
        ledger.canary = Some("a".into());
        read(&mut seen, 3_600, &[(1, "b"), (2, "a")]);
        nodes(&mut ledger, &mut seen, &mut events);
        assert_eq!(ledger.nodes["b"].last_restart, Some(at(1)));
        assert_eq!(ledger.nodes["a"].last_restart, None);
        assert_eq!(ledger.canary.as_deref(), Some("b"));
        read(&mut seen, 7_200, &[(1, "c"), (2, "a")]);
        nodes(&mut ledger, &mut seen, &mut events);
        assert_eq!(ledger.nodes.keys().collect::<Vec<_>>(), ["a", "c"]);
        assert!(!ledger.nodes["c"].loaded.is_empty());
        assert!(events.is_empty() && seen.missing_nodes.is_empty());
    }

    #[test]
    fn another_machine_under_an_old_name_knows_nothing() {
        let (mut ledger, mut seen, mut events) = after(&[(0, BOTH)]);
        read(&mut seen, 3_600, &[(1, "a"), (3, "b")]);
        nodes(&mut ledger, &mut seen, &mut events);
        assert!(ledger.nodes["b"].loaded.is_empty());
        assert!(!ledger.nodes["a"].loaded.is_empty());
    }

    #[test]
    fn another_process_does_not_forget_what_stands_on_the_record() {
        let (mut ledger, _, mut events) = after(&[(0, BOTH)]);
        let mut seen = Observation::default();
        read(&mut seen, 10, FIRST);
        nodes(&mut ledger, &mut seen, &mut events);
        assert_eq!(seen.node_list().len(), 2);
        assert!(!seen.missing_nodes.is_empty());
    }
}
