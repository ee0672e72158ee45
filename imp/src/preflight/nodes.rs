//! The nodes: reach of each, its services over Control Center, and the port of its router.

use futures::future::join_all;

use super::explain::{explain, within};
use super::plan::Plan;
use super::probe::{self, HostProbe};
use super::publisher::{Access, NodeName};
use super::report::{Check, CheckRow, PreflightReport};
use crate::control_center::listing::Listing;
use crate::control_center::{ControlCenter, ImpFederation, ServiceState, Services, Which};
use crate::error::{CallErrorKind, Interface};
use crate::observation::CALLS_PER_MINUTE;

/// How a router is restarted where the interface does not do it.
const BY_HAND: &str = "restart it by hand in Cisco Unified IM and Presence Serviceability > Tools > Control Center - Network Services, or with the CLI command `utils service restart Cisco XCP Router`";

pub async fn look(plan: &Plan, access: Option<&Access>, nodes: &[NodeName], report: &mut PreflightReport) {
    // Hosts are looked at side by side; questions with an account go one after the other.
    let looks = join_all(nodes.iter().map(|node| async move {
        let look = probe::host(plan, &node.name).await;
        let router = match &look.addresses {
            Ok(addresses) if !addresses.is_empty() => Some(probe::connect(addresses, plan.router_port).await.map(drop)),
            _ => None,
        };
        (look, router)
    }))
    .await;
    // One call is for the list of services.
    let mut calls_left = CALLS_PER_MINUTE - 1;
    let mut listed = false;
    for (node, (look, router)) in nodes.iter().zip(looks) {
        let trusted = reach(plan, node, &look, report);
        if let Some(access) = access {
            if trusted && calls_left == 0 {
                report.add(
                    Check::ControlCenter
                        .skipped(&node.name, "more calls in one minute would exceed what IM&P allows")
                        .remedy("Ask this node alone, with --publisher and --node"),
                );
            } else {
                calls_left = calls_left.saturating_sub(1);
                services(plan, access, node, trusted, &mut listed, report).await;
            }
        }
        report.add(router_port(plan, node, router));
    }
}

fn reach(plan: &Plan, node: &NodeName, look: &HostProbe, report: &mut PreflightReport) -> bool {
    match node.looked_at {
        Some(trusted) => trusted,
        None => look.rows(plan, &node.name, report),
    }
}

fn router_port(plan: &Plan, node: &NodeName, router: Option<Result<(), String>>) -> CheckRow {
    let port = plan.router_port;
    match router {
        Some(Ok(())) => Check::RouterPort.ok(&node.name, format!("TCP {port} takes connections from here; the edge's pods connect from their own nodes")),
        Some(Err(why)) => Check::RouterPort.failed(&node.name, format!("no connection to TCP {port} from here: {why}"))
            .remedy("Open the port from the nodes that run the edge, and from nowhere else: it has no encryption, and whoever knows the secret reads IM&P's configuration"),
        None => Check::RouterPort.skipped(&node.name, "there is no address to connect to"),
    }
}

async fn services(
    plan: &Plan,
    access: &Access,
    node: &NodeName,
    trusted: bool,
    listed: &mut bool,
    report: &mut PreflightReport,
) {
    let name = &node.name;
    let account = access.control_center();
    let why_not = if trusted {
        account.rests()
    } else {
        Some("no password is sent to a server that was not reached or not accepted")
    };
    if let Some(why) = why_not {
        report.add(Check::ControlCenter.skipped(name, why));
        return;
    }
    let control_center = ControlCenter {
        caller: &access.caller,
        server: access.target.server(name),
        node: name,
        account: &account.credentials,
    };
    let asked = &control_center.server;
    let result = within(
        plan,
        Interface::ControlCenter,
        asked,
        control_center.services(Which::Needed),
    )
    .await;
    account.note(&result);
    let services = match result {
        Ok(services) => services,
        Err(error) => {
            let (found, remedy) = explain(&error, plan);
            report.add(Check::ControlCenter.failed(name, found).remedy(remedy));
            return;
        }
    };
    report.add(Check::ControlCenter.ok(
        name,
        format!("user {} may ask for services", account.credentials.username),
    ));
    report.add(router(name, services.router, services.up_time));
    report.add(federation(name, &services));
    if !*listed {
        *listed = true;
        let result = within(plan, Interface::ControlCenter, asked, control_center.listing()).await;
        account.note(&result);
        let row = match result {
            Ok(listing) => restart(name, listing),
            Err(error) if matches!(error.kind, CallErrorKind::Fault(_)) => Check::Restart.unproven(name, "this version gives no list of services; whether it restarts the router over this interface is seen only by trying"),
            Err(error) => {
                let (found, remedy) = explain(&error, plan);
                Check::Restart.warning(name, format!("the list of services cannot be read: {found}"))
                    .remedy(remedy)
            }
        };
        report.add(row);
    }
}

fn router(name: &str, state: ServiceState, up_time: Option<u64>) -> CheckRow {
    match (state, up_time) {
        (ServiceState::Started, Some(seconds)) => Check::Router.ok(name, format!("Cisco XCP Router is started, up for {seconds} s")),
        (ServiceState::Started, None) => Check::Router.warning(name, "Cisco XCP Router is started, and no usable up time is told")
            .remedy("Without up times no restart can be proven: ask again in a minute; if it stays, set restart.mode to Manual and expect RoutersInSync to stay Unknown"),
        (other, _) => Check::Router.failed(name, format!("Cisco XCP Router is {}", format!("{other:?}").to_lowercase()))
            .remedy("Bring it up: Cisco Unified IM and Presence Serviceability > Tools > Control Center - Network Services"),
    }
}

fn federation(name: &str, services: &Services) -> CheckRow {
    const WHERE: &str = "Presence > Inter-Domain Federation > XMPP Federation > Settings";
    match services.federation {
        ImpFederation::Off => Check::Federation.ok(name, "IM&P's own XMPP federation is Off, as it has to be"),
        ImpFederation::On => Check::Federation.failed(name, "IM&P's own XMPP federation is On; both at once is not supported, and nothing is registered until it is Off")
            .remedy(format!("Set XMPP Federation Node Status to Off on every node: {WHERE}")),
        ImpFederation::Unknown => Check::Federation.unproven(name, "its service is activated and not started, which proves neither On nor Off")
            .remedy(format!("Look at XMPP Federation Node Status: {WHERE}")),
    }
}

fn restart(name: &str, listing: Listing) -> CheckRow {
    match listing {
        Listing::Deployable => Check::Restart.unproven(name, "Cisco XCP Router is listed as deployable, which a restart over this interface needs; whether it is carried out is unproven until it is tried")
            .remedy("With restart.mode Manual nothing is tried"),
        Listing::NotDeployable => Check::Restart.warning(name, "Cisco XCP Router is listed as not deployable: expect the restart over this interface to be refused")
            .remedy(format!("Plan for restart.mode Manual, and {BY_HAND}")),
        Listing::Unsaid => Check::Restart.unproven(name, "Cisco XCP Router is listed, without a word on whether it may be restarted; that is seen only by trying"),
        Listing::Absent => Check::Restart.warning(name, "Cisco XCP Router is not in the list of services: expect the restart over this interface to be refused")
            .remedy(format!("Plan for restart.mode Manual, and {BY_HAND}")),
    }
}
