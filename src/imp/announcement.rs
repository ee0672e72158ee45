//! Profile Xcp: whether a node's router, as it runs now, knows our components as its gateways.
//!
//! A router of this profile accepts the link of whoever has the secret, so an open link proves
//! nothing about the rows. Its announcement does: `<default-gateway/>` is there only if the id stood
//! in the configuration that the router read when it started. It counts only over a link that was
//! opened after that start, by clocks that do not jump: the router's up time, the age of the link,
//! and this process's own clock around both answers.

use std::collections::BTreeMap;

use xmpp_federation_core::ComponentId;

use super::clock::Stamp;
use super::control_center::ServiceState;
use super::desired::{Desired, Link};
use super::observation::{Seen, Services};
use super::report::{Verdict, reasons};
use super::restart::names;

/// How a router announced a component over a link that is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announced {
    /// As its gateway.
    pub gateway: bool,
    /// When the edge was asked.
    pub asked: Stamp,
    /// Whole seconds for which the link had been open then.
    pub open_seconds: u64,
}

/// What the announcements of one node's router prove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// Over every open link, each opened after the router's start, it announced a gateway.
    Gateway,
    /// It does not know these components as gateways.
    NotGateway(Vec<ComponentId>),
    /// No link is open, or it cannot be told whether it is younger than the router.
    Nothing,
}

/// Looks at the links to one node.
pub fn proof(
    node: &str,
    wanted: &[ComponentId],
    links: &[Link],
    services: &BTreeMap<String, Seen<Services>>,
) -> Proof {
    let open: Vec<_> = links
        .iter()
        .filter(|link| link.node == node && wanted.contains(&link.component_id))
        .filter_map(|link| Some((&link.component_id, link.announced?)))
        .collect();
    let mut unknown: Vec<ComponentId> = open
        .iter()
        .filter(|(_, announced)| !announced.gateway)
        .map(|(id, _)| (*id).clone())
        .collect();
    if !unknown.is_empty() {
        unknown.sort();
        return Proof::NotGateway(unknown);
    }
    let all_younger = open
        .iter()
        .all(|(_, announced)| is_younger(announced, services.get(node)));
    if !open.is_empty() && all_younger {
        Proof::Gateway
    } else {
        Proof::Nothing
    }
}

/// What the announcements say about routers that started after all rows were readable.
pub fn verdict(
    nodes: &[String],
    desired: &Desired,
    services: &BTreeMap<String, Seen<Services>>,
) -> Verdict {
    let mut unseen = Vec::new();
    for node in nodes {
        match proof(node, desired.wanted(), &desired.links, services) {
            Proof::Gateway => {}
            Proof::Nothing => unseen.push(node.as_str()),
            Proof::NotGateway(ids) => {
                return Verdict::no(
                    reasons::NOT_ANNOUNCED,
                    format!(
                        "Cisco XCP Router on {node} started after all rows were readable and accepts the links, but announces {} without default-gateway: its configuration was perhaps written later than it started. Look at Cisco XCP Config Manager on {node}; the annotation xmppfederation.io/restart-routers restarts every router once more",
                        names(ids.iter().map(ComponentId::as_str))
                    ),
                );
            }
        }
    }
    let all = names(nodes.iter().map(String::as_str));
    if unseen.is_empty() {
        return Verdict::yes(
            reasons::IN_SYNC,
            format!(
                "Cisco XCP Router on {all} started after all rows were readable and announces the edge as its gateway"
            ),
        );
    }
    Verdict::unknown(
        reasons::ANNOUNCEMENT_UNSEEN,
        format!(
            "Cisco XCP Router on {all} started after all rows were readable; that it announces the edge as its gateway, over a link opened later, is not seen on {}: see RouterLinksUp",
            names(unseen.into_iter())
        ),
    )
}

/// Whether a link was opened after the start of the router that was seen running.
fn is_younger(link: &Announced, router: Option<&Seen<Services>>) -> bool {
    let Some(seen) = router.filter(|seen| seen.value.router == ServiceState::Started) else {
        return false;
    };
    let Some(up_time) = seen.value.up_time else {
        return false;
    };
    if link.asked.process != seen.answered.process {
        return false;
    }
    let before = |at: &Stamp, seconds: u64| {
        i128::from(at.mono_ms) - i128::from(seconds).saturating_mul(1_000)
    };
    // Whole seconds are told: the link may be up to one older, the router never younger.
    let opened = before(&link.asked, link.open_seconds.saturating_add(1));
    opened >= before(&seen.answered, up_time)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::imp::control_center::ImpFederation;
    use jiff::Timestamp;
    use rstest::rstest;

    const ID: &str = "cm-2_s2scp-1.eft-xwye-a-coluc-com";
    const OTHER: &str = "cm-2_s2scp-1.eft-xwye-a-1-coluc-com";

    fn stamp(process: u64, seconds: u64) -> Stamp {
        Stamp {
            wall: Timestamp::UNIX_EPOCH,
            process,
            mono_ms: seconds * 1_000,
        }
    }

    fn link(id: &str, announced: Option<(bool, u64)>) -> Link {
        Link {
            node: "ecup10".to_owned(),
            component_id: id.parse().unwrap(),
            up: announced.is_some_and(|(gateway, _)| gateway),
            bouncing: None,
            announced: announced.map(|(gateway, open_seconds)| Announced {
                gateway,
                asked: stamp(1, 1_000),
                open_seconds,
            }),
        }
    }

    /// A router seen at 900 s of this process's clock, up for 300 s then: it started at 600 s.
    fn services(process: u64, up_time: Option<u64>) -> BTreeMap<String, Seen<Services>> {
        let seen = Seen {
            value: Services {
                router: ServiceState::Started,
                up_time,
                federation: ImpFederation::Off,
                down: Vec::new(),
                youngest: None,
            },
            asked: stamp(process, 899),
            answered: stamp(process, 900),
        };
        BTreeMap::from([("ecup10".to_owned(), seen)])
    }

    #[rstest]
    #[case::opened_after_the_start(&[link(ID, Some((true, 399)))], Proof::Gateway)]
    #[case::opened_just_now(&[link(ID, Some((true, 0)))], Proof::Gateway)]
    #[case::perhaps_opened_before(&[link(ID, Some((true, 400)))], Proof::Nothing)]
    #[case::opened_before(&[link(ID, Some((true, 5_000)))], Proof::Nothing)]
    #[case::an_absurd_age(&[link(ID, Some((true, u64::MAX)))], Proof::Nothing)]
    #[case::no_link(&[], Proof::Nothing)]
    #[case::not_open(&[link(ID, None)], Proof::Nothing)]
    #[case::not_a_gateway(&[link(ID, Some((false, 1)))], Proof::NotGateway(vec![ID.parse().unwrap()]))]
    #[case::one_of_two(&[link(OTHER, Some((false, 1))), link(ID, Some((true, 1)))], Proof::NotGateway(vec![OTHER.parse().unwrap()]))]
    #[case::both(&[link(OTHER, Some((true, 1))), link(ID, Some((true, 1)))], Proof::Gateway)]
    #[case::the_other_is_not_open(&[link(OTHER, None), link(ID, Some((true, 1)))], Proof::Gateway)]
    #[case::the_other_may_be_older(&[link(OTHER, Some((true, 400))), link(ID, Some((true, 1)))], Proof::Nothing)]
    #[case::somebody_elses(&[link("cm-9_s2scp-1.elsewhere", Some((true, 1)))], Proof::Nothing)]
    fn only_a_link_younger_than_the_router_proves_that_it_is_a_gateway(
        #[case] links: &[Link],
        #[case] expected: Proof,
    ) {
        let wanted: Vec<ComponentId> = [ID, OTHER].map(|id| id.parse().unwrap()).into();
        assert_eq!(
            proof("ecup10", &wanted, links, &services(1, Some(300))),
            expected
        );
    }

    #[rstest]
    #[case::another_process(services(2, Some(300)))]
    #[case::no_up_time(services(1, None))]
    #[case::not_seen(BTreeMap::new())]
    fn a_clock_that_proves_nothing_is_no_proof(#[case] services: BTreeMap<String, Seen<Services>>) {
        let wanted = [ID.parse().unwrap()];
        let links = [link(ID, Some((true, 1)))];
        assert_eq!(proof("ecup10", &wanted, &links, &services), Proof::Nothing);
    }
}
