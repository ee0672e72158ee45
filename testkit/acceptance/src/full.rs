//! The twelve steps.

use super::{Scenario, endings, evidence, install, ready, registration, symptoms, traffic};

/// Plays the steps, all or only some.
pub async fn play(scenario: &mut Scenario<'_>) {
    let mut watch = None;
    scenario
        .step(
            1,
            "Apply the CRD, the operator and the sample resource",
            &[],
            async |talk, world, sample| {
                let applied = install::apply(talk, world, sample).await?;
                watch = Some(ready::watch(sample, applied));
                Ok(())
            },
        )
        .await;
    let restricted = "Edge pods Ready; operator and edge under Pod Security restricted";
    scenario.step(2, restricted, &[1], install::pods_ready).await;
    scenario
        .step(3, "The rows in IM&P, read over AXL", &[1], registration::rows)
        .await;
    let restarted = "Both XCP Routers restarted once, one after the other";
    scenario.step(4, restarted, &[3], registration::restarts).await;
    scenario
        .step(5, "IM&P's own federation is not On", &[1], registration::own_federation)
        .await;
    scenario
        .step(
            6,
            "Public records verified, the partner's looked up",
            &[1],
            registration::records,
        )
        .await;
    scenario
        .step(
            7,
            "alice ↔ bob: message, presence, IQ, conference alias, over TLS and dialback",
            &[2],
            async |talk, world, sample| {
                traffic::messages(talk, &world.alice, &world.bob).await?;
                traffic::subscriptions(talk, &world.alice, &world.bob).await?;
                traffic::pings(talk, &world.alice, &world.bob).await?;
                traffic::conference(talk, &world.alias, &world.bob).await?;
                evidence::partner_saw_tls_and_dialback(talk, world)?;
                let mut logs = Vec::new();
                for pod in sample.pods().await? {
                    logs.push(sample.log(&pod).await?);
                }
                evidence::dialback_roles(talk, &logs)
            },
        )
        .await;
    scenario
        .step(8, "kubectl get xfed: Ready", &[1], async |talk, world, sample| {
            ready::show(talk, world, sample, watch.take()).await
        })
        .await;
    let refused = "Symptom one: IM&P refuses the credentials (401)";
    scenario.step(9, refused, &[8], symptoms::wrong_password).await;
    let not_restarted = "Symptom two: the XCP Router was not restarted";
    scenario
        .step(10, not_restarted, &[8], symptoms::router_not_restarted)
        .await;
    let in_flight = "An edge pod is deleted while messages are in flight";
    scenario.step(11, in_flight, &[7], endings::pod_deleted).await;
    scenario
        .step(
            12,
            "The resource is deleted, then applied again",
            &[1],
            endings::removal,
        )
        .await;
}
