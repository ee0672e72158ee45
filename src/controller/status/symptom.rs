//! What a link that does not work is a symptom of. Nothing announces most of these: a router that
//! was not restarted, a port that was closed and a wrong secret all look like messages that do not
//! arrive, and are told apart by what the edge met at the link and what the operator knows of rows
//! and restarts.

use xmpp_federation_core::Release;
use xmpp_federation_core::edge_status::{LinkState, LinkStatus};

use super::Inputs;
use crate::api::reasons::Reason;
use crate::controller::dereference::EdgePod;
use crate::controller::validate::ImpCluster;
use xmpp_federation_imp::BY_HAND;
use xmpp_federation_imp::desired::RestartMode;
use xmpp_federation_imp::reasons::Reason as ImpReason;
use xmpp_federation_imp::report::{NodeReport, Report};

/// One pod's link to one node.
#[derive(Debug, Clone, Copy)]
pub(super) struct PodLink<'a> {
    pub(super) pod: &'a EdgePod,
    pub(super) status: &'a LinkStatus,
}

/// Why a link does not work; first those that a person has to do something about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Symptom {
    /// The shared secret is wrong.
    WrongSecret,
    /// The node's router provably read the row and does not know it any more.
    RowLost,
    /// The link is up and everything comes back.
    Returned,
    /// No TCP connection.
    NoWay,
    /// The row is in the table, and the router was not restarted since: symptom two of Cisco's guide.
    TableNotRead,
    /// The row is not there yet.
    NoRow,
    /// The operator is restarting the router.
    Restarting,
    /// Anything else, and what is not over yet.
    Other,
    /// A state that a later release's edge tells of.
    NotKnown,
}

/// What is wrong with a link; `None`: nothing.
pub(super) fn of(inputs: &Inputs<'_>, link: PodLink<'_>) -> Option<Symptom> {
    let status = link.status;
    let node = node(inputs, status);
    let restarting = node.is_some_and(|node| {
        let pending = node.pending_restart.as_ref();
        pending.is_some_and(|pending| !pending.id.is_empty())
    });
    let Some(state) = status.state.known() else {
        return Some(Symptom::NotKnown);
    };
    Some(match state {
        LinkState::Up if status.returned.as_ref().is_some_and(|r| r.everything) => Symptom::Returned,
        LinkState::Up => return None,
        LinkState::WrongSecret => Symptom::WrongSecret,
        _ if restarting => Symptom::Restarting,
        LinkState::Unreachable => Symptom::NoWay,
        LinkState::UnknownComponent | LinkState::NotGateway => match (report(inputs, status), node) {
            (Some(report), _) if !stands(report, status) => Symptom::NoRow,
            (_, Some(node)) if node.in_sync => Symptom::RowLost,
            _ => Symptom::TableNotRead,
        },
        LinkState::Connecting | LinkState::Failed => Symptom::Other,
    })
}

/// What the cluster of a link was found to be.
fn report<'a>(inputs: &Inputs<'a>, link: &LinkStatus) -> Option<&'a Report> {
    let result = inputs.effects.clusters.iter().find(|l| l.entry == link.router)?;
    result.report.as_deref().ok()
}

/// The entry of the spec that a link belongs to; `None`: the spec does not name it any more.
fn entry<'a>(inputs: &Inputs<'a>, link: &LinkStatus) -> Option<&'a ImpCluster> {
    inputs.valid.imp.iter().find(|entry| entry.spec.name == link.router)
}

fn node<'a>(inputs: &Inputs<'a>, link: &LinkStatus) -> Option<&'a NodeReport> {
    let nodes = &report(inputs, link)?.nodes;
    nodes.iter().find(|node| node.name == link.node)
}

fn stands(report: &Report, link: &LinkStatus) -> bool {
    let mut slots = report.slots.iter();
    slots.any(|slot| slot.component_id.as_str() == link.component_id && slot.registered)
}

impl Symptom {
    /// The word of the condition.
    pub(super) const fn reason(self) -> Reason {
        match self {
            Self::WrongSecret => Reason::RouterSecretWrong,
            Self::RowLost => Reason::RowNotKnown,
            Self::Returned => Reason::EverythingReturned,
            Self::NoWay => Reason::RouterUnreachable,
            Self::TableNotRead => Reason::TableNotRead,
            Self::NoRow | Self::Restarting | Self::Other => Reason::LinksDown,
            Self::NotKnown => Reason::LinkStateUnknown,
        }
    }

    /// What is, with which values, and what to do.
    pub(super) fn sentence(self, inputs: &Inputs<'_>, link: PodLink<'_>) -> String {
        let LinkStatus {
            node,
            address,
            component_id,
            since,
            ..
        } = link.status;
        let pod = &link.pod.name;
        let why = link.status.reason.as_deref().unwrap_or("no reason given");
        match self {
            Self::WrongSecret => {
                let secret = entry(inputs, link.status).map(|entry| &entry.router.secret);
                let secret = secret.map_or_else(
                    || "its Secret".to_owned(),
                    |secret| format!("key {:?} of Secret {}", secret.key, secret.name),
                );
                format!(
                    "pod {pod} has no link to {node} at {address} since {since}: the XCP router refuses the shared secret; correct {secret} (spec.imp[].router.secretRef), which the pods take over without a restart"
                )
            }
            Self::RowLost => row_lost(inputs, link),
            Self::Returned => returned(inputs, link),
            Self::NoWay => format!(
                "pod {pod} has no link to {node} at {address} since {since}: {why}. {}What of it arrives at IM&P shows, on that node's command line, `utils network capture eth0 file axl_inject.pcap count 1000000 size all`: nothing to {port} means that a firewall or NetworkPolicy between the pods and {node} drops it, connections that are reset mean that Cisco XCP Router does not listen",
                service(inputs, link.status),
                port = entry(inputs, link.status).map_or_else(
                    || "the port of that address".to_owned(),
                    |entry| format!("port {}", entry.router.port)
                )
            ),
            Self::TableNotRead => format!(
                "the XCP router of {node} at {address} {} {component_id} of pod {pod} since {since}{}: its row stands in IM&P's table, but Cisco XCP Router on {node} has not read the table since the row was written, of which IM&P may show no notice. {}",
                refuses(link.status),
                was_up(link.status),
                restart_advice(inputs, link.status)
            ),
            Self::NoRow => format!(
                "the XCP router of {node} at {address} {} {component_id} of pod {pod} since {since}{}: its row is not in IM&P's table; see ComponentsRegistered",
                refuses(link.status),
                was_up(link.status)
            ),
            Self::Restarting => format!(
                "pod {pod} has no link to {node} at {address}, whose Cisco XCP Router is being restarted; see RoutersInSync"
            ),
            Self::Other => format!(
                "pod {pod} has no link to {node} at {address} ({} since {since}: {why}); {}",
                link.status.state,
                if link.status.state == LinkState::Connecting {
                    "wait for the handshake"
                } else {
                    "read the pod's log"
                }
            ),
            Self::NotKnown => format!(
                "pod {pod} says that its link to {node} at {address} is {} since {since}: {why}. This operator {} does not know that state; update it to the release of the pod, or read the pod's log",
                link.status.state,
                Release::own()
            ),
        }
    }
}

/// What Control Center says about the router that cannot be reached.
fn service(inputs: &Inputs<'_>, link: &LinkStatus) -> String {
    let state = node(inputs, link).and_then(|node| node.router);
    state.map_or_else(String::new, |state| {
        format!("Control Center last said that Cisco XCP Router is {state:?} there. ")
    })
}

/// How a router shows that it does not know the component id.
fn refuses(link: &LinkStatus) -> &'static str {
    if link.state == LinkState::NotGateway {
        // Profile Xcp: its announcement lacks the way to foreign domains, and stanzas bounce.
        "accepts the link, but knows no gateway by the id"
    } else {
        "refuses"
    }
}

fn was_up(link: &LinkStatus) -> String {
    link.last_up.as_ref().map_or_else(String::new, |up| {
        format!(" (the link was up from {} until {})", up.from, up.until)
    })
}

/// What to do about a router that has not read the table.
fn restart_advice(inputs: &Inputs<'_>, link: &LinkStatus) -> String {
    let node = &link.node;
    let by_hand = format!("Restart Cisco XCP Router on {node}: {BY_HAND}");
    let manual = entry(inputs, link).is_some_and(|entry| entry.restart.mode == RestartMode::Manual);
    let plan = report(inputs, link).map(|report| report.routers_in_sync.reason);
    match plan {
        Some(
            ImpReason::RestartByHand
            | ImpReason::RestartRefused
            | ImpReason::RestartHangs
            | ImpReason::RestartOutcomeUnknown,
        ) => by_hand,
        _ if manual => {
            format!("spec.imp[].restart.mode is Manual, so a person does it. {by_hand}")
        }
        Some(ImpReason::Unproven) => format!(
            "The operator's record does not say that it has to be restarted, so it is not unasked: set the annotation xmppfederation.io/restart-routers to a new value. Or by hand: {by_hand}"
        ),
        _ => "The operator restarts it when its rules allow; RoutersInSync says what that waits for".to_owned(),
    }
}

/// In sync by all that is known, and refused.
fn row_lost(inputs: &Inputs<'_>, link: PodLink<'_>) -> String {
    let LinkStatus {
        node,
        address,
        component_id,
        since,
        ..
    } = link.status;
    let table = report(inputs, link.status).and_then(|report| report.table.as_deref());
    format!(
        "the XCP router of {node} at {address} {} {component_id} of pod {} since {since}{}, although it had provably started behind the row and the row stands in the publisher's table: IM&P was restored or rebuilt, or the router restarted by itself while {node}'s copy of the table lacked the row. On that node's command line, look at `run sql select * from {}`. If the row is there, restart the router: {BY_HAND}; or set the annotation xmppfederation.io/restart-routers to a new value, which restarts all of them, one after the other. If it is not, mend the replication first (`utils dbreplication runtimestate`)",
        refuses(link.status),
        link.pod.name,
        was_up(link.status),
        table.unwrap_or("xmpps2snodes")
    )
}

/// Accepted, and nothing is taken.
fn returned(inputs: &Inputs<'_>, link: PodLink<'_>) -> String {
    let LinkStatus {
        node,
        component_id,
        returned,
        ..
    } = link.status;
    let (sent, back, since, condition) = returned.as_ref().map_or((0, 0, "", ""), |r| {
        (r.sent, r.returned, r.since.as_str(), r.condition.as_str())
    });
    format!(
        "the XCP router of {node} accepts {component_id} of pod {} but returns everything: {back} of {sent} messages and requests since {since}, all with {condition}. A router that has not read its table does that, and IM&P may show no notice. {}",
        link.pod.name,
        match self::node(inputs, link.status) {
            Some(self_node) if self_node.in_sync => format!(
                "This one provably started behind the rows; look at IM&P's services on {node} (Cisco Unified IM and Presence Serviceability > Tools > Control Center - Feature Services), then restart its router: {BY_HAND}; or set the annotation xmppfederation.io/restart-routers to a new value, which restarts all of them, one after the other"
            ),
            _ => restart_advice(inputs, link.status),
        }
    )
}
