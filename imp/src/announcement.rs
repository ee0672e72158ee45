//! Profile Xcp: whether a node's router, as it runs now, knows our components as its gateways.
//!
//! A router of this profile accepts the link of any component that has the secret, so an open link
//! proves nothing about the rows. Its announcement does: `<default-gateway/>` is there only if the id
//! stood in the configuration that the router read when it started. A router announces a component to
//! all others and never to itself, so it takes another link of ours to see it: another replica's, or
//! that to another node which passes announcements on. Seen without `<default-gateway/>`, a node is
//! not in sync. Seen by nobody, what comes back decides, as with profile Component.
//!
//! An announcement counts only over a link that was opened after the router's start, by clocks that
//! do not jump: the router's up time, the age of the link, and this process's own clock around both
//! answers.

use std::collections::{BTreeMap, BTreeSet};

use xmpp_federation_core::ComponentId;

use super::clock::Stamp;
use super::control_center::ServiceState;
use super::desired::{Desired, Link, LinkAge};
use super::observation::Reading;
use crate::control_center::Services;
use crate::text::names;

/// What the announcements of one node's router prove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// Over every link that shows it, each opened after the router's start, it announced gateways.
    Gateway,
    /// It does not know these components as gateways.
    NotGateway(Vec<ComponentId>),
    /// No link of ours shows it, or it cannot be told whether that link is younger than the router.
    Nothing,
}

/// Looks at the links to one node.
pub fn proof(
    node: &str,
    wanted: &[ComponentId],
    links: &[Link],
    services: &BTreeMap<String, Reading<Services>>,
) -> Proof {
    let router = services.get(node);
    let mut unknown = BTreeSet::new();
    let mut ages = Vec::new();
    for link in links.iter().filter(|link| link.node == node) {
        let age = link.opened.map_or(Age::Unknown, |opened| age(&opened, router));
        for announced in &link.announced {
            if !wanted.contains(&announced.component_id) {
                continue;
            }
            ages.push(age);
            // What another process of the router said is over.
            if !announced.gateway && age != Age::Older {
                unknown.insert(announced.component_id.clone());
            }
        }
    }
    if !unknown.is_empty() {
        Proof::NotGateway(unknown.into_iter().collect())
    } else if !ages.is_empty() && ages.iter().all(|age| *age == Age::Younger) {
        Proof::Gateway
    } else {
        Proof::Nothing
    }
}

/// Whether a link shows that its router has read the row: it was opened after the router's start,
/// no other link saw that the router announces the component without the way to foreign domains,
/// and what is sent over it does not come back.
pub fn works(link: &Link, desired: &Desired, services: &BTreeMap<String, Reading<Services>>) -> bool {
    let own = std::slice::from_ref(&link.component_id);
    let unknown = matches!(proof(&link.node, own, &desired.links, services), Proof::NotGateway(_));
    let younger = link
        .opened
        .is_some_and(|opened| age(&opened, services.get(&link.node)) == Age::Younger);
    link.bouncing.is_none() && younger && !unknown
}

/// The first of these routers that announces one of our components without the way to foreign
/// domains, though it started after all rows were readable; as a sentence.
pub fn unannounced<'a>(
    mut nodes: impl Iterator<Item = &'a String>,
    desired: &Desired,
    services: &BTreeMap<String, Reading<Services>>,
) -> Option<String> {
    nodes.find_map(|node| {
        let Proof::NotGateway(ids) = proof(node, desired.wanted(), &desired.links, services) else {
            return None;
        };
        Some(format!(
            "Cisco XCP Router on {node} started after all rows were readable and accepts the links, but announces {} without default-gateway, as other links of the edge see: its configuration was perhaps written later than it started. Look at Cisco XCP Config Manager on {node}; the annotation xmppfederation.io/restart-routers restarts every router once more",
            names(ids.iter().map(ComponentId::as_str))
        ))
    })
}

/// The sentence for routers that started after all rows were readable, none of which announces us
/// otherwise than as its gateway.
pub fn in_sync(nodes: &[String], desired: &Desired, services: &BTreeMap<String, Reading<Services>>) -> String {
    let all = names(nodes.iter().map(String::as_str));
    let started = format!("Cisco XCP Router on {all} started after all rows were readable");
    let unseen = nodes
        .iter()
        .filter(|node| proof(node, desired.wanted(), &desired.links, services) != Proof::Gateway);
    let unseen: Vec<_> = unseen.map(String::as_str).collect();
    if unseen.is_empty() {
        return format!("{started} and announces the edge as its gateway");
    }
    format!(
        "{started}, and nothing sent there is known to come back; no other link of the edge sees how the router announces it on {}",
        names(unseen.into_iter())
    )
}

/// A link's age, compared with that of the router process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Age {
    Younger,
    Older,
    Unknown,
}

/// Whether a link was opened after the start of the router that was seen running.
fn age(link: &LinkAge, router: Option<&Reading<Services>>) -> Age {
    let running = router.filter(|seen| seen.value.router == ServiceState::Started);
    let Some((seen, up_time)) = running.and_then(|seen| Some((seen, seen.value.up_time?))) else {
        return Age::Unknown;
    };
    if link.asked.process != seen.answered.process {
        return Age::Unknown;
    }
    let before = |at: &Stamp, seconds: u64| i128::from(at.mono_ms) - i128::from(seconds).saturating_mul(1_000);
    // Whole seconds are told: each may be up to one older, neither is ever younger.
    if before(&link.asked, link.seconds.saturating_add(1)) >= before(&seen.answered, up_time) {
        Age::Younger
    } else if before(&link.asked, link.seconds) < before(&seen.asked, up_time.saturating_add(1)) {
        Age::Older
    } else {
        Age::Unknown
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::control_center::ImpFederation;
    use crate::desired::Announcement;
    use jiff::Timestamp;
    use rstest::rstest;

    const ID: &str = "cm-2_s2scp-1.eft-xwye-a-coluc-com";
    const OTHER: &str = "cm-2_s2scp-1.eft-xwye-a-1-coluc-com";
    const ELSEWHERE: &str = "cm-9_s2scp-1.elsewhere";

    fn stamp(process: u64, seconds: u64) -> Stamp {
        Stamp {
            wall: Timestamp::UNIX_EPOCH,
            process,
            mono_ms: seconds * 1_000,
        }
    }

    /// A link of `id` that has been open for `seconds` at 1000 s of this process's clock, and what
    /// was announced over it.
    fn link(id: &str, seconds: Option<u64>, announced: &[(&str, bool)]) -> Link {
        let announced = announced.iter().map(|(id, gateway)| Announcement {
            component_id: id.parse().unwrap(),
            gateway: *gateway,
        });
        Link {
            node: "ecup10".to_owned(),
            component_id: id.parse().unwrap(),
            up: seconds.is_some(),
            bouncing: None,
            opened: seconds.map(|seconds| LinkAge {
                asked: stamp(1, 1_000),
                seconds,
            }),
            announced: announced.collect(),
        }
    }

    /// A router seen at 900 s of this process's clock, up for 300 s then: it started at 600 s.
    fn services(process: u64, up_time: Option<u64>) -> BTreeMap<String, Reading<Services>> {
        let seen = Reading {
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
    #[case::opened_after_the_start(&[link(ID, Some(399), &[(OTHER, true)])], Proof::Gateway)]
    #[case::opened_just_now(&[link(ID, Some(0), &[(OTHER, true)])], Proof::Gateway)]
    #[case::passed_on_by_the_other_node(&[link(ID, Some(1), &[(ID, true)])], Proof::Gateway)]
    #[case::perhaps_opened_before(&[link(ID, Some(400), &[(OTHER, true)])], Proof::Nothing)]
    #[case::opened_before(&[link(ID, Some(5_000), &[(OTHER, true)])], Proof::Nothing)]
    #[case::an_absurd_age(&[link(ID, Some(u64::MAX), &[(OTHER, true)])], Proof::Nothing)]
    #[case::no_link(&[], Proof::Nothing)]
    #[case::not_open(&[link(ID, None, &[])], Proof::Nothing)]
    #[case::seen_by_nobody(&[link(ID, Some(1), &[]), link(OTHER, Some(1), &[])], Proof::Nothing)]
    #[case::not_a_gateway(&[link(OTHER, Some(1), &[(ID, false)])], Proof::NotGateway(vec![ID.parse().unwrap()]))]
    #[case::not_a_gateway_perhaps_before(&[link(OTHER, Some(400), &[(ID, false)])], Proof::NotGateway(vec![ID.parse().unwrap()]))]
    #[case::not_a_gateway_of_the_last_process(&[link(OTHER, Some(403), &[(ID, false)])], Proof::Nothing)]
    #[case::one_of_two(&[link(ID, Some(1), &[(OTHER, false)]), link(OTHER, Some(1), &[(ID, true)])], Proof::NotGateway(vec![OTHER.parse().unwrap()]))]
    #[case::both(&[link(ID, Some(1), &[(OTHER, true)]), link(OTHER, Some(1), &[(ID, true)])], Proof::Gateway)]
    #[case::only_one_is_seen(&[link(ID, Some(1), &[]), link(OTHER, Some(1), &[(ID, true)])], Proof::Gateway)]
    #[case::one_may_be_older(&[link(ID, Some(400), &[(OTHER, true)]), link(OTHER, Some(1), &[(ID, true)])], Proof::Nothing)]
    #[case::somebody_elses(&[link(ID, Some(1), &[(ELSEWHERE, false)])], Proof::Nothing)]
    fn only_another_link_that_is_younger_than_the_router_proves_that_it_is_a_gateway(
        #[case] links: &[Link],
        #[case] expected: Proof,
    ) {
        let wanted: Vec<ComponentId> = [ID, OTHER].map(|id| id.parse().unwrap()).into();
        assert_eq!(proof("ecup10", &wanted, links, &services(1, Some(300))), expected);
    }

    #[rstest]
    #[case::another_process(services(2, Some(300)))]
    #[case::no_up_time(services(1, None))]
    #[case::not_seen(BTreeMap::new())]
    fn a_clock_that_proves_nothing_is_no_proof(#[case] services: BTreeMap<String, Reading<Services>>) {
        let wanted = [ID.parse().unwrap()];
        let links = [link(OTHER, Some(1), &[(ID, true)])];
        assert_eq!(proof("ecup10", &wanted, &links, &services), Proof::Nothing);
    }
}
