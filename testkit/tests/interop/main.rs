//! The edge against real servers: Prosody 0.12 and ejabberd 23.01, other edges, and itself as three replicas behind one
//! address. Hosts are network namespaces, names are in the lab's DNS, users are real clients at real servers and the
//! simulated IM and Presence's own; there is no Kubernetes.
//!
//! - [`world`]: hosts and processes; [`edges`], [`partners`]: what runs on them
//! - [`exchange`]: one message and what became of it; [`evidence`]: how both sides say it went
//! - [`burst`]: hundreds of domains at once
//! - [`cases`]: one thing after the other; [`replicas`]: three edges as one, rotation; [`matrix`]: all security modes
//! - [`table`]: the results
//!
//! Needs root, Prosody and ejabberd, so it runs in `make test` (with `--ignored`), not in a plain `cargo test`. Results are
//! printed, and written to `target/interop.txt`. Variables: `INTEROP_ONLY=replicas,matrix` plays some parts,
//! `INTEROP_BURSTS=10` has ten rounds of the burst (default 2, at most 10),
//! `INTEROP_ROTATION_PAUSE=60` sets the seconds between two replicas' reloads during the rotation (default 2),
//! `INTEROP_KEEP_LOGS=1` keeps the logs also of a success.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "tests")]

mod burst;
mod cases;
mod edges;
mod evidence;
mod exchange;
mod matrix;
mod partners;
mod replicas;
mod table;
mod world;

use table::Table;
use testkit_lab::{Lab, Options};
use world::World;

fn name() -> String {
    testkit_lab::layout::name_here("iop")
}

/// Whether a part is to be played.
fn wanted(part: &str) -> bool {
    std::env::var("INTEROP_ONLY").map_or(true, |only| {
        only.is_empty() || only.split(',').any(|one| one.trim() == part)
    })
}

#[test]
#[ignore = "needs root, Prosody and ejabberd: make test"]
fn the_edge_federates_with_real_servers() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let table = runtime.block_on(async {
        let options = Options {
            kubernetes: false,
            hosts: false,
            ..Options::named(&name())
        };
        let lab = Lab::up(&options).await.unwrap();
        let played = play(&lab).await;
        let failed = !played.as_ref().is_ok_and(Table::all_as_expected);
        let keep = failed || std::env::var_os("INTEROP_KEEP_LOGS").is_some();
        let kept = keep.then(|| lab.failure_logs());
        lab.down(kept.as_deref()).await.unwrap();
        played.unwrap()
    });
    table.print();
    assert!(
        table.all_as_expected(),
        "not everything went as expected: see the table above; logs are kept in target/lab-logs/{}",
        name()
    );
}

async fn play(lab: &Lab) -> Result<Table, testkit_base::Error> {
    world::start(lab).await?;
    let inside = lab.clone();
    lab.inside(async move || {
        let world = World::enter(inside).await?;
        let mut table = Table::default();
        if wanted("cases") {
            cases::play(&world, &mut table).await;
        }
        if wanted("replicas") {
            replicas::play(&world, &mut table).await;
        }
        if wanted("burst") {
            burst::play(&world, &mut table).await;
        }
        if wanted("matrix") {
            matrix::play(&world, &mut table).await?;
        }
        Ok(table)
    })
    .await
}
