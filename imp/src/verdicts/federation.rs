//! `ImpFederationOff`: what is known of IM&P's own XMPP federation.

use crate::control_center::ImpFederation;
use crate::desired::FederationCheck;
use crate::observation::{CheckAnswer, Observation};
use crate::plan::federation_on;
use crate::reasons::Reason;
use crate::report::Verdict;
use crate::text::names;

pub(super) const TURN_OFF: &str = "turn it off in Cisco Unified CM IM and Presence Administration > Presence > Inter-Domain Federation > XMPP Federation > Settings (XMPP Federation Node Status: Off)";

pub(super) fn verdict(seen: &Observation, check: Option<&FederationCheck>) -> Verdict {
    if seen.node_list().is_empty() {
        return Reason::NotProven.unknown("The state of IM&P's own XMPP federation has not been read yet");
    }
    let checked = seen.federation_check.as_ref().map(|c| &c.seen.value);
    let on = federation_on(seen);
    if !on.is_empty() {
        let by_check = match checked {
            Some(CheckAnswer::On(value)) if seen.federation_is_open() => {
                format!("; imp[].federationCheck answered {value:?}")
            }
            _ => String::new(),
        };
        return Reason::FederationOn.no(format!(
            "IM&P's own XMPP federation is on ({}{by_check}), and both at once is not supported; {TURN_OFF}",
            on.join(", ")
        ));
    }
    let unknown: Vec<&str> = seen
        .node_list()
        .iter()
        .map(|node| node.name.as_str())
        .filter(|name| seen.federation(name) != ImpFederation::Off)
        .collect();
    if unknown.is_empty() {
        return Reason::NotActivated.yes(if seen.federation_is_open() {
                "imp[].federationCheck answered the value that means off, and no node's Cisco XCP XMPP Federation Connection Manager is started"
            } else {
                "Cisco XCP XMPP Federation Connection Manager is not activated on any node"
            },
        );
    }
    let nodes = names(unknown.into_iter());
    let check = match (check, checked) {
        (None, _) => {
            ". So would a query of your own in imp[].federationCheck, whose meaning you answer for, because Cisco publishes none"
                .to_owned()
        }
        (Some(_), Some(CheckAnswer::Unreadable(why))) => {
            format!(". imp[].federationCheck tells nothing: {why}; correct or remove it")
        }
        (Some(_), _) => ". imp[].federationCheck has not been answered yet".to_owned(),
    };
    Reason::NotProven.unknown(format!(
            "Cisco XCP XMPP Federation Connection Manager on {nodes} is neither started nor reported as not activated (reason code -1068), and a stopped service may start again; deactivating it (Cisco Unified IM and Presence Serviceability > Tools > Service Activation) would prove that IM&P's own XMPP federation is off{check}"
        ),
    )
}
