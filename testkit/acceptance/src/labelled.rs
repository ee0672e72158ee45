//! The operator is made to use only Secrets with a label, while a federation runs on Secrets without it.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::report::{Talk, ensure};
use super::resource::{CREDENTIALS, OPERATOR, SECRETS, Sample};
use super::world::World;
use super::{install, traffic};
use testkit_base::Error;

const LABEL: &str = "xmppfederation.io/use";
/// Everything is in order within this time.
const READY: Duration = Duration::from_mins(2);
/// What changes is said within this time.
const SAID: Duration = Duration::from_secs(40);
/// The routers' secret.
const ROUTER: &str = SECRETS[2];

/// Plays the step; the operator requires no label afterwards.
pub async fn required(talk: Talk, world: &World, sample: &Sample) -> Result<(), Error> {
    install::apply_sample(world).await?;
    in_order(talk, sample).await?;
    let (restarts, links) = (world.imp.restarts().await?, world.imp.links().await?);
    require(sample, true).await?;
    not_allowed(talk, sample, "AxlAuthenticated", CREDENTIALS).await?;
    not_allowed(talk, sample, "RouterLinksUp", ROUTER).await?;
    unharmed(talk, world, &restarts, links).await?;
    for secret in SECRETS {
        label(sample, secret, &json!("allowed")).await?;
    }
    in_order(talk, sample).await?;
    talk.fact("all labelled", "everything is in order");
    label(sample, CREDENTIALS, &Value::Null).await?;
    not_allowed(talk, sample, "AxlAuthenticated", CREDENTIALS).await?;
    sample.becomes(talk, "RouterLinksUp", "True", SAID).await?;
    unharmed(talk, world, &restarts, links).await?;
    require(sample, false).await?;
    in_order(talk, sample).await?;
    for secret in SECRETS {
        label(sample, secret, &Value::Null).await?;
    }
    Ok(())
}

async fn in_order(talk: Talk, sample: &Sample) -> Result<(), Error> {
    let ready = talk.wait("Ready=True", READY, async || {
        let said = sample.observed("Ready", "True").await?;
        ensure(said.reason == "AsWanted", || said.to_string())
    });
    ready.await
}

/// Waits until the condition names the Secret and the command that allows it.
async fn not_allowed(talk: Talk, sample: &Sample, kind: &str, secret: &str) -> Result<(), Error> {
    let command = format!("kubectl label secret {secret} {LABEL}=allowed");
    let what = format!("{kind}=False");
    let said = talk.wait(&what, SAID, async || {
        let said = sample.observed(kind, "False").await?;
        let named = said.reason == "SecretNotAllowed" && said.message.contains(&command);
        ensure(named, || said.to_string())?;
        Ok(said)
    });
    talk.fact(kind, said.await?);
    Ok(())
}

/// Messages flow over the same links, and no router was restarted.
async fn unharmed(talk: Talk, world: &World, restarts: &[(String, usize)], links: usize) -> Result<(), Error> {
    traffic::messages(talk, &world.alice, &world.bob).await?;
    let sentence = "a router was restarted for a label";
    world.imp.no_restart_since(restarts, sentence).await?;
    let now = world.imp.links().await?;
    ensure(now == links, || format!("{links} links became {now}"))
}

/// Another pod of the operator, that requires the label or does not.
async fn require(sample: &Sample, required: bool) -> Result<(), Error> {
    let (namespace, name) = OPERATOR;
    let deployments: Api<Deployment> = Api::namespaced(sample.kube.clone(), namespace);
    let variable = json!({"name": "REQUIRE_LABELLED_SECRETS", "value": required.to_string()});
    let containers = json!([{"name": "operator", "env": [variable]}]);
    let patch = json!({"spec": {"template": {"spec": {"containers": containers}}}});
    let patch = Patch::Strategic(patch);
    deployments.patch(name, &PatchParams::default(), &patch).await?;
    Ok(())
}

async fn label(sample: &Sample, secret: &str, value: &Value) -> Result<(), Error> {
    let patch = Patch::Merge(json!({"metadata": {"labels": {LABEL: value}}}));
    let secrets = sample.api::<Secret>();
    secrets.patch(secret, &PatchParams::default(), &patch).await?;
    Ok(())
}
