//! `RouterLinksUp`: every pod is linked to every router, and the routers take what they are sent.

use std::fmt::Write as _;

use xmpp_federation_core::edge_status::LinkState;

use super::symptom::{self, PodLink, Symptom};
use super::{Inputs, answering};
use crate::api::bounds;
use crate::api::conditions::Verdict;
use crate::api::reasons::Reason;
use crate::api::status::{LinkTrouble, LinksStatus};
use crate::controller::effects::ClusterResult;
use xmpp_federation_imp::reasons::Reason as ImpReason;

/// Further links that are named beside the first.
const NAMED: usize = 4;

/// One verdict per cluster.
pub(super) fn verdicts(inputs: &Inputs<'_>) -> Vec<(String, Verdict)> {
    inputs
        .effects
        .clusters
        .iter()
        .map(|result| (result.entry.clone(), of_one(inputs, result)))
        .collect()
}

/// The links as the status has them: one that works has no symptom.
pub(super) fn shown(inputs: &Inputs<'_>) -> LinksStatus {
    let (mut up, mut wanted, mut down) = (0, 0, Vec::new());
    for result in &inputs.effects.clusters {
        if unwanted(inputs, result).is_some() {
            continue;
        }
        let mut links = 0;
        for link in all(inputs, &result.entry) {
            links += 1;
            match symptom::of(inputs, link) {
                None => up += 1,
                Some(symptom) => down.push(LinkTrouble {
                    pod: link.pod.name.clone(),
                    imp: result.entry.clone(),
                    node: link.status.node.clone(),
                    reason: symptom.reason().to_string(),
                    since: link.status.since.clone(),
                }),
            }
        }
        // Where the nodes are not known, those that the pods dial are wanted.
        wanted += expected(inputs, &nodes(result)).max(links);
    }
    // Pods tell of their links in an order that moves.
    down.sort();
    let (down, further) = bounds::first(down);
    LinksStatus {
        up: format!("{up}/{wanted}"),
        down,
        further,
    }
}

/// Why no link to a cluster is opened; `None`: each pod wants one to each of its nodes.
fn unwanted(inputs: &Inputs<'_>, result: &ClusterResult) -> Option<Verdict> {
    if !inputs.valid.active {
        let why = "spec.activation is Prepared, so no link is opened";
        return Some(Verdict::unknown(Reason::Prepared, why));
    }
    match &result.report {
        Ok(report) if report.barred => Some(Verdict::unknown(
            ImpReason::SameCluster,
            "no link is opened for it, see ComponentsRegistered",
        )),
        Ok(report) if report.served_by_others() => Some(Verdict::unknown(
            ImpReason::ForeignComponents,
            "no link is opened while rows of others stand in IM&P's table, see ComponentsRegistered",
        )),
        _ => None,
    }
}

fn nodes(result: &ClusterResult) -> Vec<&str> {
    let report = result.report.iter();
    report
        .flat_map(|report| &report.nodes)
        .map(|node| node.name.as_str())
        .collect()
}

fn expected(inputs: &Inputs<'_>, nodes: &[&str]) -> usize {
    nodes.len() * usize::from(inputs.pods_allowed)
}

fn of_one(inputs: &Inputs<'_>, result: &ClusterResult) -> Verdict {
    let missing = inputs.material.router_missing(&result.entry);
    if let Some(error) = missing.filter(|_| inputs.valid.active) {
        return Verdict::no(error.reason(), error.to_string());
    }
    if let Some(verdict) = unwanted(inputs, result) {
        return verdict;
    }
    let nodes = nodes(result);
    let links: Vec<PodLink<'_>> = all(inputs, &result.entry).collect();
    if let Some(verdict) = broken(inputs, &links) {
        return verdict;
    }
    let up = links.iter().filter(|link| link.status.state == LinkState::Up).count();
    if up == 0 {
        return Verdict::unknown(
            Reason::NotLookedYet,
            if nodes.is_empty() {
                "the nodes of IM and Presence are not known yet"
            } else {
                "no edge pod tells of its links yet"
            },
        );
    }
    let expected = expected(inputs, &nodes);
    if up < expected {
        return Verdict::no(
            Reason::LinksDown,
            format!(
                "{up} of {expected} links (pods × nodes {}) are up; the others are not attempted yet",
                nodes.join(", ")
            ),
        );
    }
    Verdict::yes(
        Reason::AsWanted,
        format!(
            "every edge pod is linked to {}",
            if nodes.is_empty() {
                "its routers".to_owned()
            } else {
                nodes.join(", ")
            }
        ),
    )
}

/// The links to one cluster of the pods that may run.
pub(super) fn all<'a>(inputs: &Inputs<'a>, router: &'a str) -> impl Iterator<Item = PodLink<'a>> + use<'a> {
    let allowed = inputs.pods_allowed;
    answering(&inputs.view.pods)
        .filter(move |(pod, _)| pod.index < allowed)
        .flat_map(move |(pod, told)| {
            let own = told.links.iter().filter(move |link| link.router == router);
            own.map(move |status| PodLink { pod, status })
        })
}

/// What is wrong with the links, the symptom that needs a person most first.
fn broken(inputs: &Inputs<'_>, links: &[PodLink<'_>]) -> Option<Verdict> {
    let mut wrong: Vec<(Symptom, PodLink<'_>)> = links
        .iter()
        .filter_map(|link| Some((symptom::of(inputs, *link)?, *link)))
        .collect();
    // Stable: by pod within one symptom.
    wrong.sort_by_key(|(symptom, _)| *symptom);
    let (symptom, first) = wrong.first()?;
    let mut message = symptom.sentence(inputs, *first);
    let others = wrong.get(1..).unwrap_or_default();
    if !others.is_empty() {
        message += ". The same or the like:";
        for (symptom, link) in others.iter().take(NAMED) {
            let _ = write!(
                message,
                " pod {} to {} ({});",
                link.pod.name,
                link.status.node,
                symptom.reason()
            );
        }
        if let Some(more) = others.len().checked_sub(NAMED + 1) {
            let _ = write!(message, " and {} more;", more + 1);
        }
        message.pop();
    }
    let verdict = if *symptom == Symptom::NotKnown {
        Verdict::unknown
    } else {
        Verdict::no
    };
    Some(verdict(symptom.reason(), message))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::super::testing::{World, details_of, link, report, status, verdict, world};
    use crate::api::conditions::{Status, Type};
    use rstest::rstest;
    use serde_json::{Value, json};
    use xmpp_federation_core::edge_status::{LastUp, LinkState, LinkStatus, ReturnedStanzas, StateWord};
    use xmpp_federation_imp::reasons::Reason as ImpReason;
    use xmpp_federation_imp::report::{PendingRestart, Verdict};

    /// What is known of the node's router.
    #[derive(Debug, Clone, Copy)]
    enum Router {
        /// No row of this id is in the table.
        NoRow,
        /// A restart is needed; the condition's reason.
        Behind(ImpReason),
        InSync,
        Restarting,
    }

    fn seen(mode: &str, router: Router, link: LinkStatus) -> World {
        let mut world = world("/imp/0/restart/mode", json!(mode));
        world.imp = Ok(match router {
            Router::NoRow => report(false, false, Verdict::no(ImpReason::Registering, "not written")),
            Router::Behind(reason) => report(true, false, Verdict::no(reason, "restart it")),
            Router::InSync => report(true, true, Verdict::yes(ImpReason::InSync, "all of them")),
            Router::Restarting => {
                let mut report = report(true, false, Verdict::no(ImpReason::Restarting, "restarting"));
                let node = report.nodes.first_mut().unwrap();
                node.pending_restart = Some(PendingRestart {
                    id: "r-1".to_owned(),
                    reason: "row written".to_owned(),
                    started_at: None,
                });
                report
            }
        });
        status(&mut world).links = vec![link];
        world
    }

    /// A link over which everything comes back.
    fn bouncing() -> LinkStatus {
        LinkStatus {
            returned: Some(ReturnedStanzas {
                since: "2023-11-14T22:13:20Z".to_owned(),
                sent: 41,
                returned: 40,
                condition: "remote-server-not-found".to_owned(),
                everything: true,
            }),
            ..link(LinkState::Up)
        }
    }

    const CAPTURE: &str = "utils network capture eth0 file axl_inject.pcap count 1000000 size all";
    const CLI: &str = "utils service restart Cisco XCP Router";
    const MENU: &str = "Tools > Control Center - Network Services";
    const ASK: &str = "xmppfederation.io/restart-routers";

    #[rstest]
    #[case::port("Automatic", Router::InSync, link(LinkState::Unreachable), "RouterUnreachable", &[CAPTURE, "port 7400", "firewall", "is Started there"])]
    #[case::port_of_a_router_that_is_behind("Manual", Router::Behind(ImpReason::RestartByHand), link(LinkState::Unreachable), "RouterUnreachable", &[CAPTURE])]
    #[case::secret("Automatic", Router::InSync, link(LinkState::WrongSecret), "RouterSecretWrong", &["Secret cups-router", "key \"secret\"", "spec.imp[].router.secretRef"])]
    #[case::secret_during_a_restart("Automatic", Router::Restarting, link(LinkState::WrongSecret), "RouterSecretWrong", &["cups-router"])]
    #[case::row("Automatic", Router::NoRow, link(LinkState::UnknownComponent), "LinksDown", &["not in IM&P's table", "ComponentsRegistered"])]
    #[case::table_by_plan("Automatic", Router::Behind(ImpReason::MinInterval), link(LinkState::UnknownComponent), "TableNotRead", &["The operator restarts it", "RoutersInSync", "no notice"])]
    #[case::table_by_hand("Manual", Router::Behind(ImpReason::RestartByHand), link(LinkState::UnknownComponent), "TableNotRead", &[CLI, MENU])]
    #[case::table_and_manual("Manual", Router::Behind(ImpReason::Propagating), link(LinkState::UnknownComponent), "TableNotRead", &["is Manual", CLI, MENU])]
    #[case::table_and_refused("Automatic", Router::Behind(ImpReason::RestartRefused), link(LinkState::UnknownComponent), "TableNotRead", &[CLI, MENU])]
    #[case::table_and_no_record("Automatic", Router::Behind(ImpReason::Unproven), link(LinkState::UnknownComponent), "TableNotRead", &[ASK, CLI])]
    #[case::no_gateway("Manual", Router::Behind(ImpReason::RestartByHand), link(LinkState::NotGateway), "TableNotRead", &["accepts the link, but knows no gateway", CLI, MENU, "since 2023-11-14T22:13:20Z"])]
    #[case::no_gateway_any_more("Automatic", Router::InSync, link(LinkState::NotGateway), "RowNotKnown", &["restored or rebuilt"])]
    #[case::lost("Automatic", Router::InSync, link(LinkState::UnknownComponent), "RowNotKnown", &["restored or rebuilt", "run sql select * from xmpps2snodes", "utils dbreplication runtimestate", ASK, CLI])]
    #[case::restarting("Automatic", Router::Restarting, link(LinkState::Unreachable), "LinksDown", &["is being restarted"])]
    #[case::restarting_refuses("Automatic", Router::Restarting, link(LinkState::UnknownComponent), "LinksDown", &["is being restarted"])]
    #[case::anything_else("Automatic", Router::InSync, link(LinkState::Failed), "LinksDown", &["read the pod's log"])]
    #[case::returned("Automatic", Router::InSync, bouncing(), "EverythingReturned", &["40 of 41", "remote-server-not-found", CLI, ASK, "Feature Services"])]
    #[case::returned_by_plan("Automatic", Router::Behind(ImpReason::MinInterval), bouncing(), "EverythingReturned", &["The operator restarts it"])]
    #[case::returned_and_manual("Manual", Router::Behind(ImpReason::RestartByHand), bouncing(), "EverythingReturned", &[CLI, MENU])]
    fn each_symptom_has_its_own_reason_and_remedy(
        #[case] mode: &str,
        #[case] router: Router,
        #[case] link: LinkStatus,
        #[case] reason: &str,
        #[case] parts: &[&str],
    ) {
        let verdict = verdict(&seen(mode, router, link), Type::RouterLinksUp);
        assert_eq!((verdict.status, verdict.reason.as_str()), (Status::False, reason));
        for part in parts.iter().chain(&["ecup10.coluc.com", "coluc-edge-0"]) {
            assert!(verdict.message.contains(part), "{part:?} is not in {}", verdict.message);
        }
    }

    #[test]
    fn a_state_of_a_later_release_is_shown_as_it_is_said_and_blames_nobody() {
        let mut asleep = link(LinkState::Up);
        asleep.state = StateWord::Later("Hibernating".to_owned());
        asleep.reason = Some("the node sleeps".to_owned());
        let verdict = verdict(&seen("Automatic", Router::InSync, asleep), Type::RouterLinksUp);
        assert_eq!(
            (verdict.status, verdict.reason.as_str()),
            (Status::Unknown, "LinkStateUnknown")
        );
        for part in [
            "coluc-edge-0",
            "is Hibernating since 2023-11-14T22:13:20Z: the node sleeps",
            "This operator 0.1.0",
        ] {
            let part = part.replace("0.1.0", env!("CARGO_PKG_VERSION"));
            assert!(verdict.message.contains(&part), "{}", verdict.message);
        }
    }

    #[test]
    fn single_users_who_are_away_are_not_told() {
        let mut link = bouncing();
        link.returned.as_mut().unwrap().everything = false;
        let verdict = verdict(&seen("Automatic", Router::InSync, link), Type::RouterLinksUp);
        assert_eq!(verdict.status, Status::True, "{}", verdict.message);
    }

    #[rstest]
    #[case(LinkState::UnknownComponent, Status::False)]
    #[case(LinkState::Unreachable, Status::True)]
    #[case(LinkState::WrongSecret, Status::True)]
    #[case(LinkState::Up, Status::True)]
    fn a_router_that_refuses_what_it_had_read_is_not_in_sync_any_more(
        #[case] state: LinkState,
        #[case] in_sync: Status,
    ) {
        let mut link = link(state);
        link.last_up = Some(LastUp {
            from: "2023-11-01T08:00:00Z".to_owned(),
            until: "2023-11-14T22:13:20Z".to_owned(),
        });
        let world = seen("Automatic", Router::InSync, link);
        let verdict = verdict(&world, Type::RoutersInSync);
        assert_eq!(verdict.status, in_sync, "{}", verdict.message);
        if in_sync == Status::False {
            assert_eq!(verdict.reason.as_str(), "RowNotKnown");
            let lasted = "the link was up from 2023-11-01T08:00:00Z until 2023-11-14T22:13:20Z";
            assert!(verdict.message.contains(lasted), "{}", verdict.message);
        }
    }

    #[test]
    fn what_a_person_has_to_do_is_said_before_what_passes() {
        let mut world = seen(
            "Automatic",
            Router::Behind(ImpReason::MinInterval),
            link(LinkState::UnknownComponent),
        );
        let links = &mut status(&mut world).links;
        for (state, node) in [
            (LinkState::Connecting, "ecup10s.coluc.com"),
            (LinkState::WrongSecret, "ecup10t.coluc.com"),
        ] {
            let mut more = link(state);
            node.clone_into(&mut more.node);
            links.push(more);
        }
        let verdict = verdict(&world, Type::RouterLinksUp);
        assert_eq!(verdict.reason.as_str(), "RouterSecretWrong");
        for part in [
            "to ecup10t.coluc.com",
            "pod coluc-edge-0 to ecup10.coluc.com (TableNotRead);",
            "pod coluc-edge-0 to ecup10s.coluc.com (LinksDown)",
        ] {
            assert!(verdict.message.contains(part), "{}", verdict.message);
        }
    }

    #[test]
    fn prepared_opens_no_link_and_is_not_blamed_for_it() {
        let verdict = verdict(&world("/activation", json!("Prepared")), Type::RouterLinksUp);
        assert_eq!((verdict.status, verdict.reason.as_str()), (Status::Unknown, "Prepared"));
    }

    fn to(node: &str, link: LinkStatus) -> LinkStatus {
        LinkStatus {
            node: node.to_owned(),
            ..link
        }
    }

    /// A cluster with two nodes, as far as it was read.
    fn of_two_nodes(path: &str, value: Value, known: bool, links: Vec<LinkStatus>) -> World {
        let mut world = world(path, value);
        if known {
            let mut report = report(true, false, Verdict::yes(ImpReason::InSync, "all of them"));
            let mut second = report.nodes.first().unwrap().clone();
            "ecup10s.coluc.com".clone_into(&mut second.name);
            report.nodes.push(second);
            world.imp = Ok(report);
        }
        status(&mut world).links = links;
        world
    }

    const FIRST: &str = "ecup10.coluc.com";
    const SECOND: &str = "ecup10s.coluc.com";

    /// The column has the links that work, of those that are wanted; the others are named in an order that does not move.
    #[rstest]
    #[case::all_work(true, vec![to(FIRST, link(LinkState::Up)), to(SECOND, link(LinkState::Up))], "2/2", &[])]
    #[case::one_is_not_attempted(true, vec![to(FIRST, link(LinkState::Up))], "1/2", &[])]
    #[case::none_is_told(true, vec![], "0/2", &[])]
    #[case::one_is_down(true, vec![to(SECOND, link(LinkState::Unreachable)), to(FIRST, link(LinkState::Up))], "1/2", &["ecup10s.coluc.com RouterUnreachable"])]
    #[case::both_are_down(true, vec![to(SECOND, link(LinkState::WrongSecret)), to(FIRST, link(LinkState::UnknownComponent))], "0/2", &["ecup10.coluc.com TableNotRead", "ecup10s.coluc.com RouterSecretWrong"])]
    #[case::everything_comes_back(true, vec![to(FIRST, bouncing()), to(SECOND, link(LinkState::Up))], "1/2", &["ecup10.coluc.com EverythingReturned"])]
    #[case::nodes_are_not_known(false, vec![to(FIRST, link(LinkState::Up))], "1/1", &[])]
    #[case::nothing_is_known(false, vec![], "0/0", &[])]
    fn links_are_counted_and_those_that_do_not_work_are_named(
        #[case] known: bool,
        #[case] links: Vec<LinkStatus>,
        #[case] up: &str,
        #[case] down: &[&str],
    ) {
        let world = of_two_nodes("", Value::Null, known, links);
        let found = details_of(&world).links.unwrap();
        assert!(
            found
                .down
                .iter()
                .all(|link| link.pod == "coluc-edge-0" && link.imp == "main")
        );
        let told = found.down.iter().map(|link| format!("{} {}", link.node, link.reason));
        assert_eq!(told.collect::<Vec<_>>(), down);
        assert_eq!(found.up, up);
        let (working, wanted) = up.split_once('/').unwrap();
        let all = verdict(&world, Type::RouterLinksUp).status == Status::True;
        assert_eq!(all, working == wanted && wanted != "0");
    }

    #[test]
    fn prepared_wants_no_link() {
        let links = vec![to(FIRST, link(LinkState::Unreachable))];
        let world = of_two_nodes("/activation", json!("Prepared"), true, links);
        let found = details_of(&world).links.unwrap();
        assert_eq!((found.up.as_str(), found.down.len()), ("0/0", 0));
    }

    /// What goes on by itself at a link changes nothing in the status.
    #[test]
    fn counts_that_go_on_are_no_change_of_the_links() {
        let links = |sent: u64| {
            let mut first = to(FIRST, bouncing());
            let returned = first.returned.as_mut().unwrap();
            (returned.sent, returned.returned) = (sent, sent);
            first.open_seconds = Some(sent);
            let down = LinkStatus {
                reason: Some(format!("attempt {sent}")),
                ..to(SECOND, link(LinkState::Unreachable))
            };
            let links = if sent > 9 { vec![down, first] } else { vec![first, down] };
            details_of(&of_two_nodes("", Value::Null, true, links)).links
        };
        assert_eq!(links(9), links(900));
    }

    #[rstest]
    #[case(LinkState::UnknownComponent, "TableNotRead")]
    #[case(LinkState::Unreachable, "RouterUnreachable")]
    fn a_link_is_judged_also_while_nothing_is_known_of_im_and_presence(#[case] state: LinkState, #[case] reason: &str) {
        let mut world = world("", Value::Null);
        status(&mut world).links = vec![link(state)];
        assert_eq!(verdict(&world, Type::RouterLinksUp).reason.as_str(), reason);
    }
}
