//! (being written)

/// Arguments of `testkit demo`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs `testkit demo`.
pub async fn run(_args: Args) -> Result<(), crate::Error> {
    Err("not written yet".into())
}
