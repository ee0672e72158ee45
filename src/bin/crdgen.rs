//! Writes the definition of the resource to where people and the chart take it from, and the
//! reference of reasons; `--check` says whether the committed files are what would be written, and shows the first difference.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use xmpp_federation_imp::report::reasons as imp_reasons;
use xmpp_federation_operator::api::{Reason, crd};

/// Generates the CustomResourceDefinition and the reference of reasons.
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
    /// The reference of the conditions' and events' reasons.
    #[arg(long, default_value = "docs/reference/reasons.md")]
    reasons: PathBuf,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let handle = if args.check { compare } else { write };
    let definition = crd::yaml();
    let wanted = args.files.iter().map(|file| (file, definition.clone()));
    let problems: Vec<String> = wanted
        .chain([(&args.reasons, reasons())])
        .filter_map(|(file, wanted)| handle(file, &wanted).err())
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

/// One table per catalogue, in its order.
fn reasons() -> String {
    let mut text = "# Reasons of conditions and events\n\n\
        <!-- Generated from src/api/reasons.rs and imp/src/report.rs; `cargo run --bin crdgen` writes it anew. -->\n\n\
        The message of a condition or event has the values and what to do; this page explains the words.\n"
        .to_owned();
    let mut table = |title: &str, rows: &[(&str, &str, &str)]| {
        let head = "| reason | meaning | what to do |\n|---|---|---|";
        // Writing to a String cannot fail.
        let _ = writeln!(text, "\n## {title}\n\n{head}");
        for (word, meaning, remedy) in rows {
            let remedy = if remedy.is_empty() { "–" } else { remedy };
            let _ = writeln!(text, "| `{word}` | {meaning} | {remedy} |");
        }
    };
    let rows: Vec<_> = Reason::ALL
        .iter()
        .map(|reason| (reason.as_str(), reason.meaning(), reason.remedy()))
        .collect();
    table("The resource, its pods and its records", &rows);
    let rows: Vec<_> = imp_reasons::ALL
        .iter()
        .map(|reason| (reason.word, reason.meaning, reason.remedy))
        .collect();
    table("IM and Presence", &rows);
    text
}

fn write(file: &Path, wanted: &str) -> Result<(), String> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder).map_err(|error| format!("{} cannot be made: {error}", folder.display()))?;
    }
    std::fs::write(file, wanted).map_err(|error| format!("{} cannot be written: {error}", file.display()))
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
