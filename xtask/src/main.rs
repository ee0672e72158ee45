//! `cargo run -p xtask -- generate [--check]`: writes the committed files that are made from the code, or compares them
//! and shows the first difference of each.
//!
//! - the definition of the resource, in `crds` and for the chart
//! - [`reasons`]: the reference of the conditions' and events' reasons
//! - [`edge_config`]: the reference of the edge's configuration
//! - [`edge_metrics`]: the reference of the edge's metrics

mod edge_config;
mod edge_metrics;
mod reasons;

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use xmpp_federation_operator::api::crd;

/// The folder that the paths of the files begin at.
const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Tasks of the repository.
#[derive(Parser)]
enum Task {
    /// Writes the files that are made from the code.
    Generate {
        /// Compare only; exit with 1 if a file differs.
        #[arg(long)]
        check: bool,
    },
}

fn main() -> ExitCode {
    let Task::Generate { check } = Task::parse();
    let handle = if check { compare } else { write };
    let problems: Vec<String> = match files() {
        Ok(files) => files
            .iter()
            .filter_map(|(file, wanted)| handle(file, wanted).err())
            .collect(),
        Err(problem) => vec![problem],
    };
    for problem in &problems {
        eprintln!("{problem}");
    }
    if problems.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Every generated file with its text.
fn files() -> Result<[(&'static str, String); 5], String> {
    let definition = crd::yaml();
    Ok([
        ("crds/xmppfederations.yaml", definition.clone()),
        ("charts/xmpp-federation-operator/files/xmppfederations.yaml", definition),
        ("docs/reference/reasons.md", reasons::page()),
        ("docs/reference/edge-config.md", edge_config::page()?),
        ("docs/reference/edge-metrics.md", edge_metrics::page()),
    ])
}

fn write(file: &str, wanted: &str) -> Result<(), String> {
    std::fs::write(Path::new(REPOSITORY).join(file), wanted)
        .map_err(|error| format!("{file} cannot be written: {error}"))
}

fn compare(file: &str, wanted: &str) -> Result<(), String> {
    let found = std::fs::read_to_string(Path::new(REPOSITORY).join(file)).unwrap_or_default();
    if found == wanted {
        return Ok(());
    }
    let lines = found.lines().count().max(wanted.lines().count());
    let difference = (0..lines).find_map(|number| {
        let (have, want) = (found.lines().nth(number), wanted.lines().nth(number));
        (have != want).then(|| {
            format!(
                "line {}:\n- {}\n+ {}",
                number + 1,
                have.unwrap_or(""),
                want.unwrap_or("")
            )
        })
    });
    Err(format!(
        "{file} is not what the code gives; run `cargo run -p xtask -- generate`\n{}",
        difference.unwrap_or_default()
    ))
}
