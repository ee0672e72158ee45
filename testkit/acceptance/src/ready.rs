//! Step 8: the resource is Ready, how long it took, and what operator and edge need.

use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::install;
use super::object::{Pod, expect_condition};
use super::object::{list, text};
use super::report::Talk;
use super::resource::Sample;
use super::world::World;
use testkit_base::Error;
use testkit_lab::Lab;

/// Goal from `kubectl apply` to Ready.
const GOAL: Duration = Duration::from_secs(30);
const OPERATOR_MB: f64 = 30.0;
const EDGE_MB: f64 = 15.0;

/// Watches for Ready beside the other steps: the time from `applied` to it.
#[derive(Debug)]
pub struct Watch(JoinHandle<Result<Duration, Error>>);

impl Watch {
    /// Starts watching.
    pub fn start(lab: &Lab, sample: &Sample, applied: Instant) -> Self {
        let (lab, sample) = (lab.clone(), sample.clone());
        Self(tokio::spawn(async move {
            lab.kubectl(&[
                "-n",
                &sample.namespace,
                "wait",
                "--for=condition=Ready",
                &format!("xmppfederation/{}", sample.name),
                "--timeout=115s",
            ])
            .await?;
            Ok(applied.elapsed())
        }))
    }

    /// Waits for it.
    pub async fn took(self) -> Result<Duration, Error> {
        self.0.await?
    }
}

/// Shows the resource, the time, the memory.
pub async fn show(talk: Talk, world: &World, sample: &Sample, watch: Option<Watch>) -> Result<(), Error> {
    let took = match watch {
        Some(watch) => Some(watch.took().await?),
        None => None,
    };
    let resource = talk
        .wait("Ready=True", Duration::from_mins(1), async || {
            let resource = sample.now(world).await?;
            expect_condition(&resource, "Ready", "True")?;
            Ok(resource)
        })
        .await?;
    let table = world.lab.kubectl(&["-n", &sample.namespace, "get", "xfed"]).await?;
    talk.say(table.trim_end());
    for condition in list(&resource, "/status/conditions") {
        talk.fact(text(condition, "/type"), text(condition, "/status"));
    }
    if let Some(took) = took {
        let goal = if took <= GOAL { "met" } else { "MISSED" };
        talk.fact(
            "from apply to Ready",
            format_args!("{:.1} s (goal {} s: {goal})", took.as_secs_f64(), GOAL.as_secs()),
        );
    }
    // Goals, as the time is: the figures of an unoptimised build on a busy machine prove little.
    let measure = |what: &str, pod: &Pod, goal: f64| -> Result<(), Error> {
        let (now, peak) = pod.memory()?;
        let verdict = if now < goal { "met" } else { "MISSED" };
        talk.fact(
            &format!("memory of {what}"),
            format_args!("{now:.1} MB resident, {peak:.1} MB at most (goal {goal} MB: {verdict})"),
        );
        Ok(())
    };
    for (_, pod) in install::operator_pods(world).await? {
        measure("the operator", &pod, OPERATOR_MB)?;
    }
    for pod in sample.pods(world).await? {
        measure(&pod.name, &pod, EDGE_MB)?;
    }
    Ok(())
}
