//! Writes `crds/xmppfederations.yaml`; `--check` says whether the committed file is what would be
//! written, and shows the first difference.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use xmpp_federation_operator::api::crd;

/// Generates the CustomResourceDefinition.
#[derive(Parser)]
struct Args {
    /// Compare only; exit with 1 if the file differs.
    #[arg(long)]
    check: bool,
    /// The file.
    #[arg(long, default_value = "crds/xmppfederations.yaml")]
    file: PathBuf,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let wanted = crd::yaml();
    if !args.check {
        return match std::fs::write(&args.file, wanted) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{} cannot be written: {error}", args.file.display());
                ExitCode::FAILURE
            }
        };
    }
    let found = std::fs::read_to_string(&args.file).unwrap_or_default();
    if found == wanted {
        return ExitCode::SUCCESS;
    }
    eprintln!(
        "{} is not what the code gives; run `cargo run --bin crdgen`",
        args.file.display()
    );
    let lines = found.lines().count().max(wanted.lines().count());
    for number in 0..lines {
        let (have, want) = (found.lines().nth(number), wanted.lines().nth(number));
        if have != want {
            eprintln!(
                "line {}:\n- {}\n+ {}",
                number + 1,
                have.unwrap_or(""),
                want.unwrap_or("")
            );
            break;
        }
    }
    ExitCode::FAILURE
}
