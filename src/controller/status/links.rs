//! `RouterLinksUp`: every pod is linked to every router.

use xmpp_federation_core::edge_status::{LinkState, LinkStatus};

use super::super::dereference::EdgePod;
use super::super::effects::Looked;
use super::{Found, answering};
use crate::api::conditions::Verdict;
use crate::api::reasons::Reason;
use crate::imp::report::reasons;

/// One verdict per cluster.
pub(super) fn verdicts(found: &Found<'_>) -> Vec<(String, Verdict)> {
    found
        .imp
        .iter()
        .map(|looked| (looked.entry.clone(), of_one(found, looked)))
        .collect()
}

fn of_one(found: &Found<'_>, looked: &Looked) -> Verdict {
    let valid = found.valid;
    if !valid.active {
        return Verdict::unknown(
            Reason::Prepared,
            "spec.activation is Prepared, so no link is opened",
        );
    }
    if let Some(sentence) = found.material.router_missing(&looked.entry) {
        return Verdict::no(Reason::SecretMissing, sentence.clone());
    }
    let nodes: Vec<&str> = match &looked.report {
        Ok(report) if report.barred => {
            return Verdict::unknown(
                reasons::SAME_CLUSTER,
                "no link is opened for it, see ComponentsRegistered",
            );
        }
        Ok(report) => report.nodes.iter().map(|n| n.name.as_str()).collect(),
        Err(_) => Vec::new(),
    };
    let mut up = 0;
    let mut down = Vec::new();
    for (pod, status) in
        answering(&found.observed.pods).filter(|(p, _)| p.index < found.pods_allowed)
    {
        for link in status.links.iter().filter(|l| l.router == looked.entry) {
            if link.state == LinkState::Up {
                up += 1;
                continue;
            }
            down.push(describe(pod, link));
        }
    }
    if let Some(first) = down.first() {
        let more = if down.len() > 1 {
            format!(" (and {} more)", down.len() - 1)
        } else {
            String::new()
        };
        return Verdict::no(Reason::LinksDown, format!("{first}{more}"));
    }
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
    let expected = nodes.len() * usize::from(found.pods_allowed);
    if up < expected {
        return Verdict::no(
            Reason::LinksDown,
            format!(
                "{up} of {expected} links (pods × nodes {}) are up; the others are not attempted yet",
                nodes.join(", ")
            ),
        );
    }
    Verdict::yes(format!(
        "every edge pod is linked to {}",
        if nodes.is_empty() {
            "its routers".to_owned()
        } else {
            nodes.join(", ")
        }
    ))
}

fn describe(pod: &EdgePod, link: &LinkStatus) -> String {
    let reason = link.reason.as_deref().unwrap_or("no reason given");
    let remedy = match link.state {
        LinkState::UnknownComponent => {
            "its XCP router has not read the table since the row was written, see RoutersInSync"
        }
        LinkState::Unreachable => {
            "check port and firewall; what arrives there shows `utils network capture eth0 file axl_inject.pcap count 1000000 size all` on that node"
        }
        LinkState::NotGateway => {
            return format!(
                "{node} accepts the link of pod {} at {} since {}, but its Cisco XCP Router does not know the component id {} as a gateway yet ({reason}), so stanzas for partners bounce there: it reads its table only when it starts and needs a restart after the row was written, see RoutersInSync",
                pod.name,
                link.address,
                link.since,
                link.component_id,
                node = link.node,
            );
        }
        LinkState::WrongSecret => "correct the Secret of spec.imp[].router.secretRef",
        LinkState::Connecting => "wait for the handshake",
        LinkState::Up | LinkState::Failed => "read the pod's log",
    };
    format!(
        "pod {} has no link to {} at {} ({:?}: {reason}); {remedy}",
        pod.name, link.node, link.address, link.state
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::super::testing::{link, status, verdict, world};
    use super::*;
    use crate::api::conditions::{State, Type};
    use rstest::rstest;
    use serde_json::{Value, json};

    #[rstest]
    #[case(LinkState::UnknownComponent, "see RoutersInSync")]
    #[case(
        LinkState::NotGateway,
        "needs a restart after the row was written, see RoutersInSync"
    )]
    #[case(LinkState::NotGateway, "since 2023-11-14T22:13:20Z")]
    #[case(
        LinkState::Unreachable,
        "utils network capture eth0 file axl_inject.pcap count 1000000 size all"
    )]
    #[case(LinkState::WrongSecret, "spec.imp[].router.secretRef")]
    fn a_link_that_is_down_is_told_with_its_own_remedy(
        #[case] state: LinkState,
        #[case] remedy: &str,
    ) {
        let mut world = world("", Value::Null);
        status(&mut world).links = vec![link(state)];
        let verdict = verdict(&world, Type::RouterLinksUp);
        assert_eq!(verdict.state, State::False);
        assert!(verdict.message.contains(remedy), "{}", verdict.message);
        assert!(
            verdict.message.contains("ecup10.coluc.com"),
            "{}",
            verdict.message
        );
    }

    #[test]
    fn prepared_opens_no_link_and_is_not_blamed_for_it() {
        let verdict = verdict(
            &world("/activation", json!("Prepared")),
            Type::RouterLinksUp,
        );
        assert_eq!(
            (verdict.state, verdict.reason),
            (State::Unknown, "Prepared")
        );
    }
}
