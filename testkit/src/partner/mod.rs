//! (being written)

/// Arguments of `testkit partner`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs `testkit partner`.
pub async fn run(_args: Args) -> Result<(), crate::Error> {
    Err("not written yet".into())
}
