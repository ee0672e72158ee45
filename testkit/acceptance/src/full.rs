//! The twelve steps.

use super::ready::Watch;
use super::report::Report;
use super::resource::Sample;
use super::world::World;
use super::{endings, evidence, install, ready, registration, symptoms, traffic};
use testkit_base::Error;

/// Plays the steps, all or only some.
#[allow(clippy::too_many_lines, reason = "a list of twelve steps")]
pub async fn scenario(world: &World, steps: &[u8]) -> Result<Report, Error> {
    let sample = &Sample::read()?;
    let mut report = Report::only(steps);
    let mut watch = None;
    report
        .step(
            1,
            "Apply the CRD, the operator and the sample resource",
            &[],
            async |talk| {
                let applied = install::apply(talk, world, sample).await?;
                watch = Some(Watch::start(&world.lab, sample, applied));
                Ok(())
            },
        )
        .await;
    report
        .step(
            2,
            "Edge pods Ready; operator and edge under Pod Security restricted",
            &[1],
            async |talk| install::pods_ready(talk, world, sample).await,
        )
        .await;
    report
        .step(3, "The rows in IM&P, read over AXL", &[1], async |talk| {
            install::operator_runs(world).await?;
            registration::rows(talk, world, sample).await
        })
        .await;
    report
        .step(
            4,
            "Both XCP Routers restarted once, one after the other",
            &[3],
            async |talk| registration::restarts(talk, world).await,
        )
        .await;
    report
        .step(5, "IM&P's own federation is not On", &[1], async |talk| {
            install::operator_runs(world).await?;
            registration::own_federation(talk, world, sample).await
        })
        .await;
    report
        .step(
            6,
            "Public records verified, the partner's looked up",
            &[1],
            async |talk| {
                install::operator_runs(world).await?;
                registration::records(talk, world, sample).await
            },
        )
        .await;
    report
        .step(
            7,
            "alice ↔ bob: message, presence, IQ, conference alias, over TLS and dialback",
            &[2],
            async |talk| {
                traffic::messages(talk, &world.alice, &world.bob).await?;
                traffic::subscriptions(talk, &world.alice, &world.bob).await?;
                traffic::pings(talk, &world.alice, &world.bob).await?;
                traffic::conference(talk, &world.alias, &world.bob).await?;
                evidence::partner_saw_tls_and_dialback(talk, world, 0)?;
                let mut logs = Vec::new();
                for pod in sample.pods(world).await? {
                    let namespace = sample.namespace.as_str();
                    logs.push(world.lab.kubectl(&["-n", namespace, "logs", &pod.name]).await?);
                }
                evidence::dialback_roles(talk, &logs)
            },
        )
        .await;
    report
        .step(8, "kubectl get xfed: Ready", &[1], async |talk| {
            install::operator_runs(world).await?;
            ready::show(talk, world, sample, watch.take()).await
        })
        .await;
    report
        .step(
            9,
            "Symptom one: IM&P refuses the credentials (401)",
            &[8],
            async |talk| symptoms::wrong_password(talk, world, sample).await,
        )
        .await;
    report
        .step(
            10,
            "Symptom two: the XCP Router was not restarted",
            &[8],
            async |talk| symptoms::router_not_restarted(talk, world, sample).await,
        )
        .await;
    report
        .step(
            11,
            "An edge pod is deleted while messages are in flight",
            &[7],
            async |talk| endings::pod_deleted(talk, world, sample).await,
        )
        .await;
    report
        .step(12, "The resource is deleted, then applied again", &[1], async |talk| {
            install::operator_runs(world).await?;
            endings::removal(talk, world, sample).await
        })
        .await;
    Ok(report)
}
