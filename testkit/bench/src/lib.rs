//! `testkit bench`: the data path of servers, in one chain and one run.
//!
//! ```text
//! component ──XEP-0114──▶ server under test ──S2S (TLS, dialback)──▶ peer      outbound
//! component ◀──XEP-0114── server under test ◀──S2S (TLS, dialback)── peer      inbound
//! ```
//! Component and peer are the generator (this process), the same for every server, so that what differs
//! between columns is the server alone. Everything has addresses of one loopback interface in a network
//! namespace made for the run; load and servers share the machine's processors. The servers take turns within
//! each case, so that a change of the machine's speed meets all of them.
//!
//! - [`place`]: the namespace and addresses; [`server`]: the servers, how they are configured, what they use
//! - [`conn`], [`peer`], [`component`]: negotiation, blocking, a thread for each stream
//! - [`message`], [`pump`]: the data phase, one thread, made to cost less than what it measures
//! - [`chain`]: all of it put together; [`cases`]: what is measured; [`report`]: the table
//! - [`relay`]: the floor, a server that checks nothing
//! - [`operator`]: `testkit bench-operator`, the operator on an API server, beside cert-manager
//! - [`usage`]: what a process uses of the machine
//!
//! Nothing here uses protocol code of the edge.

pub mod cases;
pub mod chain;
pub mod component;
pub mod conn;
pub mod message;
pub mod operator;
pub mod peer;
pub mod place;
pub mod pump;
pub mod relay;
pub mod report;
pub mod server;
pub mod usage;

use std::path::PathBuf;

use cases::Sizes;
use server::Candidate;

use testkit_base::Error;
use testkit_dns::{LabDns, RecordSpec, Zones};

/// Arguments of `testkit bench`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// A server under test, repeatable: `prosody`, `ejabberd`, `relay`, or NAME=BINARY for an edge.
    #[arg(long = "server", required = true)]
    servers: Vec<Candidate>,
    /// Only cases whose name contains this text, repeatable.
    #[arg(long = "case")]
    cases: Vec<String>,
    /// How often each flow is measured; the median counts.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Milliseconds of each measurement.
    #[arg(long, default_value_t = 600)]
    window: u64,
    /// A moment of each case with TLS: fails if any does not work, and measures nothing.
    #[arg(long)]
    smoke: bool,
    /// Folder for configurations and logs.
    #[arg(long, default_value = "target/bench")]
    dir: PathBuf,
}

/// Runs `testkit bench`.
pub async fn run(args: Args) -> Result<(), Error> {
    place::enter()?;
    let zones = Zones::from_records(&records(place::PLACES))?;
    let dns = LabDns::start(&[(place::DNS, 53).into()], zones).await?;
    let sizes = if args.smoke {
        Sizes::smoke()
    } else {
        Sizes::full(args.rounds.max(1), args.window)
    };
    let (servers, filters, dir) = (args.servers, args.cases, args.dir);
    let measured = tokio::task::spawn_blocking(move || cases::measure(&servers, &filters, sizes, &dir));
    let outcome = measured.await?;
    dns.stop().await;
    let (columns, rows) = outcome?;
    let text = report::table(&columns, &rows);
    print!("{text}");
    if args.smoke && report::incomplete(&rows) {
        return Err("a case does not work".into());
    }
    Ok(())
}

/// Every domain of every peer, each with its address.
fn records(places: u8) -> Vec<RecordSpec> {
    let mut records = Vec::new();
    for n in 0..places {
        let place = place::Place::new(n);
        let mut add = |name: String, record_type: &str, value: String| {
            records.push(RecordSpec {
                name,
                record_type: record_type.to_owned(),
                ttl: 3600,
                values: vec![value],
            });
        };
        let zone = &place.zone;
        add(
            zone.clone(),
            "SOA",
            format!("ns.{zone} hostmaster.{zone} 1 3600 600 86400 60"),
        );
        add(zone.clone(), "NS", format!("ns.{zone}"));
        for name in (0..chain::LANES).map(|n| format!("l{n:04}")) {
            add(format!("{name}.{zone}"), "A", place.peer.to_string());
        }
        for name in (0..chain::FRESH).map(|n| format!("f{n:04}")) {
            add(format!("{name}.{zone}"), "A", place.peer.to_string());
        }
    }
    records
}
