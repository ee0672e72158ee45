//! `testkit`: one command for all parts of the lab, that is everything around the product that a test needs and nobody
//! ships.
//!
//! - [`testkit_lab`]: network namespaces, Kubernetes, containerd, images, the "cloud" load balancer
//! - [`testkit_simulator`]: the simulated Unified CM IM and Presence cluster
//! - [`testkit_dns`]: authoritative and recursive DNS of the lab
//! - [`testkit_partners`]: real XMPP servers as federation partners, and their users
//! - [`testkit_bench`]: the benchmark of servers, the edge among them, and that of the operator
//! - [`testkit_acceptance`]: the acceptance scenario, step by step
//!
//! Nothing here uses the protocol code of the edge or the operator. Tests that start this program are in `tests`.

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "testkit", about = "The lab of the XMPP federation operator")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Starts, inspects and removes labs.
    Lab(testkit_lab::Args),
    /// Runs the simulated IM and Presence cluster.
    Imp(testkit_simulator::Args),
    /// Runs the lab's DNS server.
    Dns(testkit_dns::Args),
    /// Runs a partner's XMPP client with an HTTP face.
    Partner(testkit_partners::Args),
    /// Becomes a partner's XMPP server.
    PartnerServer(testkit_partners::server::ServerArgs),
    /// Plays the acceptance scenario.
    Demo(testkit_acceptance::Args),
    /// Compares servers: throughput, processor time, memory.
    Bench(testkit_bench::Args),
    /// Measures the operator with hundreds of resources, beside cert-manager.
    BenchOperator(testkit_bench::operator::Args),
    /// Relays without any check; the floor of the comparison.
    #[command(hide = true)]
    BenchRelay(testkit_bench::relay::Args),
}

fn main() -> std::process::ExitCode {
    let command = Cli::parse().command;
    // A line for each look-up would be part of what is measured.
    let level = match command {
        Command::Bench(_) | Command::BenchOperator(_) => tracing::Level::WARN,
        _ => tracing::Level::INFO,
    };
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_max_level(level)
        .init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("testkit: cannot start its threads: {error}");
            return std::process::ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(async {
        match command {
            Command::Lab(args) => testkit_lab::run(args).await,
            Command::Imp(args) => testkit_simulator::run(args).await,
            Command::Dns(args) => testkit_dns::run(args).await,
            Command::Partner(args) => testkit_partners::run(args).await,
            Command::PartnerServer(args) => testkit_partners::server::run(&args),
            Command::Demo(args) => testkit_acceptance::run(args).await,
            Command::Bench(args) => testkit_bench::run(args).await,
            Command::BenchOperator(args) => testkit_bench::operator::run(args).await,
            Command::BenchRelay(args) => testkit_bench::relay::run(&args),
        }
    });
    match outcome {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("testkit: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}
