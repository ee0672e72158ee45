//! Step five: what lies outside Kubernetes. At most one action towards IM and Presence, by the
//! plan of [`crate::imp`]; public records looked at when they are due. Nothing sleeps.

mod imp;
mod records;

use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt;
use serde_json::Value;

pub use imp::{addresses_written, desired};
pub use records::Records;

use super::build::Links;
use super::context::{Context, Memory};
use super::delete::{self, LastReach};
use super::dereference::Observed;
use super::events::Note;
use super::kube::Error;
use super::validate::Validated;
use super::watch;
use crate::api::{XmppFederation, request};
use crate::imp::report::Report;

/// A resolver that says nothing holds nothing up for longer.
const DNS_TIMEOUT: Duration = Duration::from_secs(10);

/// What a person asks for by annotation; each value is served once.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// `refresh`.
    pub refresh: Option<String>,
    /// `restart-routers`.
    pub restart_routers: Option<String>,
    /// `adopt-rows`.
    pub adopt_rows: Option<String>,
}

impl Asked {
    /// The values on the resource.
    pub fn of(object: &XmppFederation) -> Self {
        let value = |name: &str| object.annotations().get(name).cloned();
        Self {
            refresh: value(request::REFRESH),
            restart_routers: value(request::RESTART_ROUTERS),
            adopt_rows: value(request::ADOPT_ROWS),
        }
    }
}

/// What the world outside answered.
pub struct Outcome {
    /// IM and Presence, or which Secret is missing.
    pub imp: Result<Report, String>,
    /// Public records, or why they could not be looked at.
    pub records: Result<Records, String>,
    /// Addresses of the routers.
    pub links: Links,
    /// Public addresses of the edge.
    pub addresses: Vec<IpAddr>,
    /// What was done.
    pub notes: Vec<Note>,
}

/// Does what is due; `None`: the finalizer was added first, and the reconcile starts again.
pub async fn run(
    context: &Context,
    object: &XmppFederation,
    valid: &Validated,
    observed: &Observed,
    known: &Links,
    memory: &Memory,
) -> Result<Option<Outcome>, Error> {
    let asked = Asked::of(object);
    let mut notes = Vec::new();
    let live = watch::known(context)
        .iter()
        .filter_map(ResourceExt::uid)
        .collect();
    let wanted = desired(valid, &observed.secrets, &observed.pods, &asked, live);
    context.remember(&valid.owner.uid, |memory| {
        LastReach::see(&mut memory.reach, wanted.as_ref().ok(), Timestamp::now());
    });
    let imp = match wanted {
        Err(sentence) => Err(sentence),
        Ok(mut desired) => {
            // Without the finalizer nothing is written: a deletion would leave rows behind.
            desired.hold_acts = !delete::has_finalizer(object);
            let report = context.imp.reconcile(&desired).await;
            notes.extend(report.events.iter().map(Note::of));
            if report.wants_to_act {
                delete::add_finalizer(&context.client, object).await?;
                return Ok(None);
            }
            Ok(report)
        }
    };
    let links = match &imp {
        Ok(report) if !report.nodes.is_empty() => {
            imp::router_addresses(valid, &report.nodes, known).await
        }
        _ => known.clone(),
    };
    let addresses = public_addresses(valid, observed);
    let last = memory.records.clone();
    let records = records::look(valid, addresses.clone(), asked.refresh.as_ref(), last).await;
    Ok(Some(Outcome {
        imp,
        records,
        links,
        addresses,
        notes,
    }))
}

/// Given by hand, or what the Service shows.
fn public_addresses(valid: &Validated, observed: &Observed) -> Vec<IpAddr> {
    if !valid.public_addresses.is_empty() {
        return valid.public_addresses.clone();
    }
    observed
        .live
        .service
        .as_ref()
        .and_then(|s| s.data.pointer("/status/loadBalancer/ingress"))
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|ingress| ingress.get("ip")?.as_str()?.parse().ok())
        .collect()
}
