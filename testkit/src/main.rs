//! `testkit`: one command for all parts of the lab.

use clap::{Parser, Subcommand};
use testkit::{demo, dns, imp, lab, load, partner};

#[derive(Parser)]
#[command(name = "testkit", about = "The lab of the XMPP federation operator")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Starts, inspects and removes labs
    Lab(lab::Args),
    /// Runs the simulated IM and Presence cluster
    Imp(imp::Args),
    /// Runs the lab's DNS server
    Dns(dns::Args),
    /// Runs a partner's XMPP client with an HTTP face
    Partner(partner::Args),
    /// Becomes a partner's XMPP server
    PartnerServer(partner::server::ServerArgs),
    /// Plays the acceptance scenario
    Demo(demo::Args),
    /// Compares servers: throughput, processor time, memory
    Bench(load::Args),
    /// Relays without any check; the floor of the comparison
    #[command(hide = true)]
    BenchRelay(load::relay::Args),
}

fn main() -> std::process::ExitCode {
    let command = Cli::parse().command;
    // A line for each look-up would be part of what is measured.
    let level = match command {
        Command::Bench(_) => tracing::Level::WARN,
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
            Command::Lab(args) => lab::run(args).await,
            Command::Imp(args) => imp::run(args).await,
            Command::Dns(args) => dns::run(args).await,
            Command::Partner(args) => partner::run(args).await,
            Command::PartnerServer(args) => partner::server::run(&args),
            Command::Demo(args) => demo::run(args).await,
            Command::Bench(args) => load::run(args).await,
            Command::BenchRelay(args) => load::relay::run(&args),
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
