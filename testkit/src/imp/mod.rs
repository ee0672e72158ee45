//! (being written)

/// Arguments of `testkit imp`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs `testkit imp`.
pub async fn run(_args: Args) -> Result<(), crate::Error> {
    Err("not written yet".into())
}
