//! (being written)

/// Arguments of `testkit lab`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs `testkit lab`.
pub async fn run(_args: Args) -> Result<(), crate::Error> {
    Err("not written yet".into())
}
