//! Which pods may run: those that can deliver whatever arrives at them.
//!
//! A pod takes its share of all traffic, whichever domain it is for. One that the routers of a
//! domain do not know would bounce its share of that domain's, while the others deliver theirs. So
//! each domain is asked on its own, over the clusters that serve it, and the fewest pods that any
//! of them allows run:
//!
//! - Of intercluster peers one is enough: the edge takes whichever has a link.
//! - A domain that no pod can deliver yet (its cluster was added just now) says nothing: to stop
//!   pods would help nobody, and the first link of a first registration needs them.
//! - A cluster that fails as a whole, its publisher and its links, says nothing either: to hold back
//!   pods that others need would not bring a stanza more to it. Where its links stand it counts, also
//!   while its publisher is down: it is being served, and a pod unknown to it would bounce.
//! - What is not known changes nothing.
//!
//! A pod that has to stop drains first, so nothing is lost by it; when a failed cluster is back and
//! does not know the newest pods, they pause until its routers have read their rows.

use xmpp_federation_core::Domain;

use xmpp_federation_imp::report::{SlotReport, SlotSync};

/// What one cluster says of the slots.
#[derive(Debug, Clone)]
pub struct ClusterSlots<'a> {
    /// The domains it serves; empty: all.
    pub domains: &'a [Domain],
    /// Its publisher does not answer and no link to it is up.
    pub failing: bool,
    /// In slot order; empty: nothing is known.
    pub slots: &'a [SlotReport],
}

/// How many pods may run, of `wanted` ones, while `running` do (`None`: there is no controller yet).
pub fn pods_to_run(wanted: u16, hosted: &[Domain], clusters: &[ClusterSlots<'_>], running: Option<u16>) -> u16 {
    // Where none runs there is nothing to leave as it is, and nobody would be served.
    let running = running.filter(|running| *running > 0);
    // Where all fail, none is excused: it stays as it is.
    let all_fail = clusters.iter().all(|cluster| cluster.failing);
    let allowed = hosted.iter().filter_map(|domain| {
        let serving: Vec<&ClusterSlots<'_>> = clusters
            .iter()
            .filter(|cluster| all_fail || !cluster.failing)
            .filter(|cluster| cluster.domains.is_empty() || cluster.domains.contains(domain))
            .collect();
        (!serving.is_empty()).then(|| pods_of_domain(wanted, &serving, running))
    });
    allowed.min().unwrap_or(wanted)
}

/// What is known of a slot over clusters of which any one is enough.
fn best(clusters: &[&ClusterSlots<'_>], slot: usize) -> SlotSync {
    let mut best = SlotSync::NotInSync;
    for cluster in clusters {
        match cluster.slots.get(slot).map(|slot| slot.sync) {
            Some(SlotSync::InSync) => return SlotSync::InSync,
            Some(SlotSync::NotInSync) => {}
            Some(SlotSync::Unknown) | None => best = SlotSync::Unknown,
        }
    }
    best
}

/// Once any slot is in sync, only pods of leading slots in sync.
fn pods_of_domain(wanted: u16, serving: &[&ClusterSlots<'_>], running: Option<u16>) -> u16 {
    let known = serving.iter().map(|cluster| cluster.slots.len()).max();
    let slots: Vec<SlotSync> = (0..known.unwrap_or(0)).map(|slot| best(serving, slot)).collect();
    let any = slots.contains(&SlotSync::InSync);
    let unknown = slots.is_empty() || slots.contains(&SlotSync::Unknown);
    if !any {
        return match running {
            // Nothing is proven: no pod is started or stopped because of that.
            Some(running) if unknown => wanted.min(running),
            _ => wanted,
        };
    }
    let leading = slots
        .iter()
        .enumerate()
        .take_while(|(index, sync)| match sync {
            SlotSync::InSync => true,
            SlotSync::Unknown => running.is_some_and(|running| *index < usize::from(running)),
            SlotSync::NotInSync => false,
        })
        .count();
    match u16::try_from(leading).unwrap_or(u16::MAX) {
        // Slot 0 lags behind another one: to stop all pods would bring no stanza to a router.
        0 => wanted.min(running.unwrap_or(wanted)),
        leading => wanted.min(leading),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use rstest::rstest;
    use xmpp_federation_core::{ComponentId, Realm};

    fn domain(name: &str) -> Domain {
        Domain::parse(name).unwrap()
    }

    fn slots(states: &str) -> Vec<SlotReport> {
        let host = domain("edge.example.com");
        states
            .chars()
            .zip(0..)
            .map(|(state, index)| SlotReport {
                component_id: ComponentId::of_realm(&Realm::of_replica(&host, index)),
                registered: true,
                sync: match state {
                    'y' => SlotSync::InSync,
                    'n' => SlotSync::NotInSync,
                    _ => SlotSync::Unknown,
                },
            })
            .collect()
    }

    #[rstest]
    // First registration: nothing is in sync, everybody runs (the first link is the canary).
    #[case(2, "nn", None, 2)]
    #[case(2, "nn", Some(2), 2)]
    #[case(2, "", None, 2)]
    // In sync.
    #[case(2, "yy", Some(2), 2)]
    #[case(1, "yy", Some(2), 1)]
    // A third replica whose row no router has read.
    #[case(3, "yyn", Some(2), 2)]
    #[case(3, "yyy", Some(2), 3)]
    // An operator that has just started knows nothing: nobody is started or stopped.
    #[case(3, "", Some(2), 2)]
    #[case(2, "??", Some(2), 2)]
    // Somebody scaled all away, or the resource had none: that proves nothing, and some have to run.
    #[case(2, "", Some(0), 2)]
    #[case(2, "??", Some(0), 2)]
    #[case(3, "y??", Some(0), 1)]
    #[case(2, "ny", Some(0), 2)]
    // A lost ledger stops no running pod and starts none.
    #[case(3, "yy?", Some(3), 3)]
    #[case(3, "yy?", Some(2), 2)]
    // Slot 0 lags behind: to stop all pods would bring no stanza to a router.
    #[case(2, "ny", Some(2), 2)]
    fn only_pods_of_slots_in_sync_run_once_any_is(
        #[case] wanted: u16,
        #[case] states: &str,
        #[case] running: Option<u16>,
        #[case] expected: u16,
    ) {
        for failing in [false, true] {
            let cluster = ClusterSlots {
                domains: &[],
                failing,
                slots: &slots(states),
            };
            let hosted = [domain("coluc.com"), domain("conf.coluc.com")];
            assert_eq!(
                pods_to_run(wanted, &hosted, &[cluster], running),
                expected,
                "failing: {failing}"
            );
        }
    }

    // Each cluster: domains it serves ("" for all, or "a", "b"), slots, '!' behind them if it fails.
    #[rstest]
    // Both in sync; a new one beside one in sync stops nobody and holds back nobody.
    #[case::both(&[("a", "yyy"), ("b", "yyy")], 3, Some(3), 3)]
    #[case::added(&[("a", "yy"), ("b", "nn")], 2, Some(2), 2)]
    #[case::added_and_scaled(&[("a", "yyy"), ("b", "nnn")], 3, Some(2), 3)]
    #[case::first_of_two(&[("a", "nn"), ("b", "nn")], 2, None, 2)]
    // A third pod that b does not know would bounce its share of b's domain …
    #[case::one_behind(&[("a", "yyy"), ("b", "yyn")], 3, Some(2), 2)]
    #[case::one_behind_runs(&[("a", "yyy"), ("b", "yyn")], 3, Some(3), 2)]
    // … unless a peer takes it.
    #[case::peer(&[("", "yyy"), ("b", "yyn")], 3, Some(2), 3)]
    #[case::peers(&[("", "yyn"), ("", "yyy")], 3, Some(2), 3)]
    #[case::peers_behind(&[("", "yyn"), ("", "yyn")], 3, Some(2), 2)]
    // A dead cluster holds back nothing that others need, and stops nothing.
    #[case::dead(&[("a", "yyy"), ("b", "yyn!")], 3, Some(2), 3)]
    #[case::dead_and_unknown(&[("a", "yyy"), ("b", "!")], 3, Some(2), 3)]
    #[case::dead_peer_is_no_help(&[("", "yyy!"), ("", "yyn")], 3, Some(3), 2)]
    #[case::all_dead(&[("a", "yyn!"), ("b", "yyy!")], 3, Some(2), 2)]
    // An operator that has just started, or one publisher that was not asked yet.
    #[case::unknown(&[("a", ""), ("b", "")], 3, Some(2), 2)]
    #[case::one_unknown(&[("a", "yyy"), ("b", "")], 3, Some(2), 2)]
    #[case::unknown_beside_a_peer(&[("", "yyy"), ("b", "")], 3, Some(2), 3)]
    fn of_several_clusters_each_domain_is_asked(
        #[case] clusters: &[(&str, &str)],
        #[case] wanted: u16,
        #[case] running: Option<u16>,
        #[case] expected: u16,
    ) {
        let owned: Vec<_> = clusters
            .iter()
            .map(|(serves, states)| {
                let domains: Vec<Domain> = serves.chars().map(|c| domain(&format!("{c}.example"))).collect();
                (domains, slots(states.trim_end_matches('!')), states.ends_with('!'))
            })
            .collect();
        let clusters: Vec<ClusterSlots<'_>> = owned
            .iter()
            .map(|(domains, slots, failing)| ClusterSlots {
                domains,
                failing: *failing,
                slots,
            })
            .collect();
        let hosted = [domain("a.example"), domain("b.example")];
        assert_eq!(pods_to_run(wanted, &hosted, &clusters, running), expected);
    }
}
