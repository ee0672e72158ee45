//! Step 8: the resource is Ready, how long it took, and what operator and edge need.

use std::time::{Duration, Instant};

use kube::runtime::wait::await_condition;
use tokio::task::JoinHandle;

use super::install;
use super::pod::Pod;
use super::report::{Talk, ensure};
use super::resource::{Federation, Sample};
use super::world::World;
use testkit_base::Error;

/// Goal from `kubectl apply` to Ready.
const GOAL: Duration = Duration::from_secs(30);
const OPERATOR_MB: f64 = 30.0;
const EDGE_MB: f64 = 15.0;

/// Watches for Ready beside the other steps: the time from `applied` to it.
pub fn watch(sample: &Sample, applied: Instant) -> JoinHandle<Result<Duration, Error>> {
    let (resources, name) = (sample.resources(), sample.name.clone());
    tokio::spawn(async move {
        let ready = |resource: Option<&Federation>| {
            let status = resource.and_then(|resource| resource.status.as_ref());
            status.is_some_and(|status| status.expect("Ready", "True").is_ok())
        };
        let limit = Duration::from_secs(115);
        tokio::time::timeout(limit, await_condition(resources, &name, ready))
            .await
            .map_err(|_| format!("{name} was not Ready within {} s", limit.as_secs()))??;
        Ok(applied.elapsed())
    })
}

/// What `kubectl get` shows of a resource that is Ready, with two pods and two nodes.
fn columns(table: &str, name: &str) -> Result<(), Error> {
    let mut lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let (head, row) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let wanted = ["NAME", "READY", "REASON", "EDGE", "LINKS", "PARTNERS", "ADDRESS", "AGE"];
    ensure(head == wanted, || format!("the columns are {head:?}"))?;
    match row.as_slice() {
        [of, "True", _, "2/2", "4/4", _, _, _] if *of == name => Ok(()),
        _ => Err(format!("the row is {row:?}").into()),
    }
}

/// Shows the resource, the time, the memory.
pub async fn show(
    talk: Talk,
    world: &World,
    sample: &Sample,
    watch: Option<JoinHandle<Result<Duration, Error>>>,
) -> Result<(), Error> {
    install::operator_runs(sample).await?;
    let took = match watch {
        Some(watch) => Some(watch.await??),
        None => None,
    };
    sample.becomes(talk, "Ready", "True", Duration::from_mins(1)).await?;
    let table = world.lab.kubectl(&["-n", &sample.namespace, "get", "xfed"]).await?;
    talk.say(table.trim_end());
    columns(&table, &sample.name)?;
    for condition in sample.status().await?.conditions {
        talk.fact(&condition.kind, condition.status);
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
    for pod in sample.operators().await? {
        measure("the operator", &pod, OPERATOR_MB)?;
    }
    for pod in sample.pods().await? {
        measure(&pod.name, &pod, EDGE_MB)?;
    }
    Ok(())
}
