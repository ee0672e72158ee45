//! Writes the definition of the resource to where people and the chart take it from; `--check`
//! says whether the committed files are what would be written, and shows the first difference.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use xmpp_federation_operator::api::crd;

/// Generates the CustomResourceDefinition.
#[derive(Parser)]
struct Args {
    /// Compare only; exit with 1 if a file differs.
    #[arg(long)]
    check: bool,
    /// The files; all get the same text.
    #[arg(
        long = "file",
        default_values = [
            "crds/xmppfederations.yaml",
            "charts/xmpp-federation-operator/files/xmppfederations.yaml",
        ]
    )]
    files: Vec<PathBuf>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let wanted = crd::yaml();
    let handle = if args.check { compare } else { write };
    let problems: Vec<String> = args
        .files
        .iter()
        .filter_map(|file| handle(file, &wanted).err())
        .collect();
    for problem in &problems {
        eprintln!("{problem}");
    }
    if problems.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn write(file: &Path, wanted: &str) -> Result<(), String> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)
            .map_err(|error| format!("{} cannot be made: {error}", folder.display()))?;
    }
    std::fs::write(file, wanted)
        .map_err(|error| format!("{} cannot be written: {error}", file.display()))
}

fn compare(file: &Path, wanted: &str) -> Result<(), String> {
    let found = std::fs::read_to_string(file).unwrap_or_default();
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
        "{} is not what the code gives; run `cargo run --bin crdgen`\n{}",
        file.display(),
        difference.unwrap_or_default()
    ))
}
