//! `testkit bench-operator`: the operator with hundreds of resources on an API server, beside the same writes sent raw and
//! beside cert-manager.
//!
//! Each part has an API server of its own, without controllers and nodes: nothing but the operator writes. The API server
//! counts the operator's requests by its audit log. Load, API server and operator share the machine's processors.
//!
//! - [`stage`]: the API server, the resolver, the operator's process; [`audit`]: requests as the API server counts them
//! - [`resource`]: the resources; [`replay`]: the machine's ceiling
//! - [`measure`], [`cert_manager`]: the parts; [`figures`]: the table

pub mod audit;
pub mod cert_manager;
pub mod figures;
pub mod measure;
pub mod replay;
pub mod resource;
pub mod stage;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::report;
use figures::Found;
use stage::{Dns, Stage};
use testkit_base::Error;

/// Arguments of `testkit bench-operator`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The operator's binary.
    #[arg(long)]
    operator: PathBuf,
    /// Only this part, repeatable.
    #[arg(long = "part", value_enum)]
    parts: Vec<Part>,
    /// Resources that are created at once.
    #[arg(long, default_value_t = 500)]
    resources: usize,
    /// Resources whose memory is measured, and on which the operator is started anew.
    #[arg(long, default_value_t = 1000)]
    most: usize,
    /// Seconds for which requests are counted while nothing changes.
    #[arg(long, default_value_t = 300)]
    idle: u64,
    /// Seconds until the resident memory is read again.
    #[arg(long, default_value_t = 600)]
    rest: u64,
    /// Seconds after which the rest of the resources is not waited for.
    #[arg(long, default_value_t = 300)]
    limit: u64,
    /// Starts of the operator with three watched namespaces.
    #[arg(long, default_value_t = 3)]
    starts: usize,
    /// Name of the lab.
    #[arg(long, default_value = "benchoperator")]
    name: String,
    /// File for the figures.
    #[arg(long, default_value = "target/bench-operator.json")]
    json: PathBuf,
}

/// A part of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// One resource: its writes sent raw; a pod whose image cannot be pulled.
    One,
    /// Many resources: until their certificates stand; requests, memory, a new start.
    Many,
    /// The same while the resolver is dead.
    Dead,
    /// Three watched namespaces.
    Namespaces,
    /// cert-manager.
    CertManager,
}

/// What [`Args`] says of sizes and times.
#[derive(Debug, Clone)]
pub struct Sizes {
    operator: String,
    resources: usize,
    most: usize,
    idle: Duration,
    rest: Duration,
    limit: Duration,
    starts: usize,
}

/// Runs `testkit bench-operator`.
pub async fn run(args: Args) -> Result<(), Error> {
    let binary = std::path::absolute(&args.operator)?;
    if !binary.is_file() {
        return Err(format!(
            "there is no operator at {}: build it with cargo build --release",
            binary.display()
        )
        .into());
    }
    let sizes = Sizes {
        operator: binary.display().to_string(),
        resources: args.resources.max(1),
        most: args.most,
        idle: Duration::from_secs(args.idle.max(1)),
        rest: Duration::from_secs(args.rest),
        limit: Duration::from_secs(args.limit),
        starts: args.starts,
    };
    let mut found = Found::default();
    let mut failed = Vec::new();
    macro_rules! part {
        ($part:ident, $dns:ident, $work:path, $into:expr) => {
            if args.parts.is_empty() || args.parts.contains(&Part::$part) {
                let began = Instant::now();
                let sizes = sizes.clone();
                let work = async move |stage: Stage| $work(stage, sizes).await;
                let outcome = stage::on(&args.name, Dns::$dns, work).await;
                eprintln!(
                    "bench-operator: {:?}: {:.0} s",
                    Part::$part,
                    began.elapsed().as_secs_f64()
                );
                match outcome {
                    Ok(one) => $into = Some(one),
                    Err(error) => failed.push(format!("{:?}: {error}", Part::$part)),
                }
            }
        };
    }
    part!(One, Answers, measure::one, found.one);
    part!(Many, Answers, measure::many, found.many);
    part!(Dead, Swallows, measure::dead, found.dead);
    part!(Namespaces, Answers, measure::namespaces, found.namespaces);
    part!(CertManager, Answers, cert_manager::issue, found.cert_manager);
    let columns = ["operator", "raw", "cert-manager"].map(str::to_owned);
    let rows = figures::rows(&found, &sizes);
    print!("{}", report::table(&columns, &rows));
    std::fs::write(&args.json, format!("{:#}\n", report::json(&columns, &rows)))?;
    if failed.is_empty() {
        Ok(())
    } else {
        Err(failed.join("\n").into())
    }
}
