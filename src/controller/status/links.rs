//! `RouterLinksUp`: every pod is linked to every router, and the routers take what they are sent.

use std::fmt::Write as _;

use xmpp_federation_core::edge_status::LinkState;

use super::symptom::{self, PodLink, Symptom};
use super::{Inputs, answering};
use crate::api::conditions::Verdict;
use crate::api::reasons::Reason;
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

fn of_one(inputs: &Inputs<'_>, result: &ClusterResult) -> Verdict {
    let valid = inputs.valid;
    if !valid.active {
        return Verdict::unknown(Reason::Prepared, "spec.activation is Prepared, so no link is opened");
    }
    if let Some(error) = inputs.material.router_missing(&result.entry) {
        return Verdict::no(Reason::SecretMissing, error.to_string());
    }
    let nodes: Vec<&str> = match &result.report {
        Ok(report) if report.barred => {
            return Verdict::unknown(
                ImpReason::SameCluster,
                "no link is opened for it, see ComponentsRegistered",
            );
        }
        Ok(report) if report.served_by_others() => {
            return Verdict::unknown(
                ImpReason::ForeignComponents,
                "no link is opened while rows of others stand in IM&P's table, see ComponentsRegistered",
            );
        }
        Ok(report) => report.nodes.iter().map(|n| n.name.as_str()).collect(),
        Err(_) => Vec::new(),
    };
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
    let expected = nodes.len() * usize::from(inputs.pods_allowed);
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
    use super::super::testing::{World, link, report, status, verdict, world};
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

    #[rstest]
    #[case(LinkState::UnknownComponent, "TableNotRead")]
    #[case(LinkState::Unreachable, "RouterUnreachable")]
    fn a_link_is_judged_also_while_nothing_is_known_of_im_and_presence(#[case] state: LinkState, #[case] reason: &str) {
        let mut world = world("", Value::Null);
        status(&mut world).links = vec![link(state)];
        assert_eq!(verdict(&world, Type::RouterLinksUp).reason.as_str(), reason);
    }
}
