//! (being written)

/// Arguments of `testkit dns`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs `testkit dns`.
pub async fn run(_args: Args) -> Result<(), crate::Error> {
    Err("not written yet".into())
}
