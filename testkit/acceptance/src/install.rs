//! Steps 1 and 2: what is applied, and that it runs under Pod Security `restricted`.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use kube::api::PostParams;
use kube::runtime::wait::{await_condition, conditions};
use serde_json::json;

use super::report::{Talk, ensure};
use super::resource::{Account, OPERATOR, Sample, sample_file};
use super::world::World;
use testkit_base::Error;
use testkit_lab::{hosts, layout};

/// Applies everything; the moment before the resource itself was applied.
pub async fn apply(talk: Talk, world: &World, sample: &Sample) -> Result<Instant, Error> {
    let folder = |name: &str| layout::repository().join(name).display().to_string();
    let kubectl = &world.lab;
    let crds = kubectl
        .kubectl(&["apply", "--server-side", "-f", &folder("crds")])
        .await?;
    talk.say(crds.trim());
    let operator = kubectl.kubectl(&["apply", "-k", &folder("deploy")]).await?;
    talk.fact(
        "kubectl apply -k deploy",
        format_args!("{} objects", operator.lines().count()),
    );
    let account = Account {
        user: hosts::AXL_USER.to_owned(),
        password: hosts::AXL_PASSWORD.to_owned(),
    };
    sample
        .prepare(&account, &std::fs::read_to_string(world.imp_ca())?)
        .await?;
    talk.fact("namespace and Secrets", format_args!("{}: made", sample.namespace));
    let definitions: Api<CustomResourceDefinition> = Api::all(sample.kube.clone());
    let established = conditions::is_crd_established();
    let established = await_condition(definitions, "xmppfederations.xmppfederation.io", established);
    tokio::time::timeout(Duration::from_secs(30), established)
        .await
        .map_err(|_| "the definition of the resource is not Established after 30 s")??;
    let applied = Instant::now();
    talk.say(apply_sample(world).await?);
    Ok(applied)
}

/// Applies the sample as an administrator does; what kubectl says.
pub async fn apply_sample(world: &World) -> Result<String, Error> {
    world
        .lab
        .kubectl(&["apply", "-f", &sample_file().display().to_string()])
        .await
}

/// Waits for the operator and the edge pods, and shows that their namespaces refuse more than `restricted`.
pub async fn pods_ready(talk: Talk, _: &World, sample: &Sample) -> Result<(), Error> {
    let operator = talk
        .wait("the operator's pod", Duration::from_secs(90), async || {
            let pod = sample.operator().await?;
            ensure(pod.ready, || format!("{} is not ready", pod.name))?;
            Ok(pod)
        })
        .await?;
    talk.fact("operator", format_args!("{} is Ready", operator.name));
    let pods = talk
        .wait("the edge pods", Duration::from_secs(90), async || {
            let pods = sample.pods().await?;
            let ready = pods.iter().filter(|pod| pod.ready && !pod.terminating).count();
            ensure(ready == 2, || format!("{ready} of 2 are ready"))?;
            Ok(pods)
        })
        .await?;
    for pod in &pods {
        talk.fact("edge", format_args!("{} is Ready at {}", pod.name, pod.address()?));
    }
    let namespaces: Api<Namespace> = Api::all(sample.kube.clone());
    for namespace in [OPERATOR.0, &sample.namespace] {
        let labels = namespaces.get(namespace).await?.metadata.labels.unwrap_or_default();
        let level = labels
            .get("pod-security.kubernetes.io/enforce")
            .map_or("none", String::as_str);
        ensure(level == "restricted", || {
            format!("the namespace {namespace} enforces {level}, not restricted")
        })?;
        privileged_pod_is_refused(sample, namespace).await?;
        let what = format!("Pod Security of {namespace}");
        talk.fact(&what, "restricted; a privileged pod is refused");
    }
    Ok(())
}

/// An error unless an operator is ready: without it nothing is worth waiting for.
pub async fn operator_runs(sample: &Sample) -> Result<(), Error> {
    let pods = sample.operators().await?;
    ensure(pods.iter().any(|pod| pod.ready), || "not tried: no operator is ready")
}

/// Tries to start a pod that `restricted` forbids.
async fn privileged_pod_is_refused(sample: &Sample, namespace: &str) -> Result<(), Error> {
    let pod = serde_json::from_value(json!({"metadata": {"name": "too-much"}, "spec": {"containers": [
        {"name": "c", "image": "localhost/none", "securityContext": {"privileged": true}}]}}))?;
    let trial = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let pods: Api<k8s_openapi::api::core::v1::Pod> = Api::namespaced(sample.kube.clone(), namespace);
    match pods.create(&trial, &pod).await {
        Err(kube::Error::Api(refused)) if refused.message.contains("violates PodSecurity \"restricted") => Ok(()),
        Err(other) => Err(other.into()),
        Ok(_) => Err(format!("the namespace {namespace} admits a privileged pod").into()),
    }
}
