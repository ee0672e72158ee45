//! The acceptance scenario: one resource becomes a working federation, step by step, each step proven by the other side.
//!
//! ```text
//! testkit demo --name demo                    twelve steps on a fresh lab, which is left running
//! testkit demo --name demo --step 7 --step 11 some steps on a lab that is running
//! testkit demo --stage beyond --keep          further steps on a lab that is running
//! testkit demo --stage restore                the cluster is lost and restored; a resource is deleted and applied again
//! testkit demo --stage migration --keep       from Expressway and back, and deletions with something in the way
//! testkit demo --stage rights --keep          Secrets by label, and which of its rights the operator used in the stages before
//! testkit demo --stage dual                   the scenario with IPv6 before IPv4, by the chart, on a fresh lab
//! testkit demo --stage strict                 twelve steps and more on two nodes with policies, a quota, assigned users
//! ```
//! The last line is `demo: N passed, N failed`; the exit status says the same.

mod aftermath;
mod beyond;
mod deletion;
mod dual;
mod endings;
mod evidence;
mod full;
mod imp;
mod install;
mod labelled;
mod migration;
mod pod;
mod probe;
mod ready;
mod registration;
pub mod report;
mod resource;
mod restore;
mod rights;
mod strict;
mod symptoms;
pub mod traffic;
pub mod users;
mod world;

use report::{Report, Talk};
use resource::Sample;
use testkit_base::Error;
use testkit_lab::cluster::{DUAL, ONE, TWO};
use testkit_lab::{Lab, Options};
use world::World;

/// What is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Stage {
    /// Kubernetes, operator and edge.
    Full,
    /// What may happen afterwards, on a lab in which the twelve steps were played.
    Beyond,
    /// From Expressway and back, and deletions with something in the way, on such a lab.
    Migration,
    /// Secrets by label, and which of its rights the operator used in the stages before.
    Rights,
    /// The scenario with IPv6 before IPv4, by an operator that the chart installs for three namespaces.
    Dual,
    /// The twelve steps and more on a strict cluster: two nodes, policies in force, a quota, assigned users.
    Strict,
    /// A cluster that is lost and restored, on a lab that runs or on a fresh one. For ten minutes afterwards no router is
    /// restarted unasked.
    Restore,
}

/// Arguments of `testkit demo`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name of the lab.
    #[arg(long, default_value = "demo")]
    pub name: String,
    /// Folder of the lab [default: target/lab/NAME]
    #[arg(long)]
    pub dir: Option<std::path::PathBuf>,
    /// What is played.
    #[arg(long, value_enum, default_value = "full")]
    pub stage: Stage,
    /// Play only this step, on a lab that is running; may be repeated.
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=41))]
    pub step: Vec<u8>,
    /// Leave the lab running; without it the lab is removed at the end, its logs kept after a failure.
    #[arg(long)]
    pub keep: bool,
}

/// Runs `testkit demo`; a failure ends the process here, so that the count stays the last line.
pub async fn run(args: Args) -> Result<(), Error> {
    let report = play(args).await.unwrap_or_else(|error| {
        eprintln!("testkit: {error}");
        Report::never_began()
    });
    if report.close().is_err() {
        std::process::exit(1);
    }
    Ok(())
}

async fn play(args: Args) -> Result<Report, Error> {
    let strict = args.stage == Stage::Strict;
    let options = Options {
        dir: args.dir,
        nodes: match args.stage {
            Stage::Dual => DUAL,
            Stage::Strict => TWO,
            _ => ONE,
        },
        policies: strict,
        ..Options::named(&args.name)
    };
    let running = matches!(
        args.stage,
        Stage::Beyond | Stage::Migration | Stage::Rights | Stage::Restore
    );
    let lab = if args.step.is_empty() && !running {
        let lab = Lab::up(&options).await?;
        if strict {
            strict::prepare(&lab).await?;
        }
        lab
    } else {
        match Lab::attach(&options.name, options.dir.as_deref()) {
            // It needs nothing of the steps before.
            Err(_) if args.stage == Stage::Restore => Lab::up(&options).await?,
            attached => attached?,
        }
    };
    let inside = lab.clone();
    let (stage, steps) = (args.stage, args.step);
    let outcome = lab
        .inside(async move || {
            let world = World::of(inside)?;
            let mut sample = Sample::of(&world.lab).await?;
            if stage == Stage::Dual {
                dual::adapt(&mut sample);
            }
            let mut scenario = Scenario {
                report: Report::only(&steps),
                world: &world,
                sample: &sample,
            };
            match stage {
                Stage::Beyond => beyond::play(&mut scenario).await,
                Stage::Migration => migration::play(&mut scenario).await?,
                Stage::Rights => rights::play(&mut scenario).await,
                Stage::Dual => dual::play(&mut scenario).await,
                Stage::Restore => restore::play(&mut scenario).await,
                Stage::Full => full::play(&mut scenario).await,
                Stage::Strict => strict::play(&mut scenario).await,
            }
            Ok(scenario.report)
        })
        .await;
    let passed = outcome.as_ref().is_ok_and(Report::all_passed);
    if !passed {
        aftermath::collect(&lab).await;
    }
    if args.keep {
        println!(
            "\nThe lab is left running. `make shell` opens a shell in it: kubectl get xfed -A, kubectl get pods -A."
        );
        println!(
            "Logs are in {}. `make clean-lab` removes the lab.",
            lab.layout().logs_dir().display()
        );
    } else {
        let logs = (!passed).then(|| lab.failure_logs());
        lab.down(logs.as_deref()).await?;
        if let Some(logs) = logs {
            println!("\nThe logs are kept in {}.", logs.display());
        }
    }
    outcome
}

/// A scenario on Kubernetes: its steps get the world and the sample.
struct Scenario<'a> {
    report: Report,
    world: &'a World,
    sample: &'a Sample,
}

impl Scenario<'_> {
    /// Plays one step: see [`Report::step`].
    async fn step(
        &mut self,
        number: u8,
        headline: &str,
        needs: &[u8],
        work: impl AsyncFnOnce(Talk, &World, &Sample) -> Result<(), Error>,
    ) {
        let (world, sample) = (self.world, self.sample);
        let work = async |talk| work(talk, world, sample).await;
        self.report.step(number, headline, needs, work).await;
    }
}
