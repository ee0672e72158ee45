//! Steps 1 and 2: what is applied, and that it runs under Pod Security `restricted`.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::object::Pod;
use super::object::{list, text};
use super::report::{Talk, ensure};
use super::resource::{Account, Sample, sample_file};
use super::world::World;
use testkit_base::Error;
use testkit_lab::{hosts, layout};

/// Label of the operator's pods.
pub const OPERATOR: &str = "app.kubernetes.io/name=xmpp-federation-operator";

/// Applies everything; the moment before the resource itself was applied.
pub async fn apply(talk: Talk, world: &World, sample: &Sample) -> Result<Instant, Error> {
    let repository = layout::repository();
    let folder = |name: &str| repository.join(name).display().to_string();
    let kubectl = &world.lab;
    let crds = kubectl
        .kubectl(&["apply", "--server-side", "-f", &folder("crds")])
        .await?;
    talk.say(crds.trim());
    let operator = kubectl.kubectl(&["apply", "-k", &folder("deploy")]).await?;
    talk.fact("kubectl apply -k deploy", counted(&operator));
    let account = Account {
        user: hosts::AXL_USER.to_owned(),
        password: hosts::AXL_PASSWORD.to_owned(),
    };
    let ca = std::fs::read_to_string(world.imp_ca())?;
    for object in sample.prerequisites(&account, &ca, hosts::ROUTER_SECRET) {
        apply_object(world, &object).await?;
    }
    talk.fact("namespace and Secrets", format_args!("{}: made", sample.namespace));
    kubectl
        .kubectl(&[
            "wait",
            "--for=condition=Established",
            "crd/xmppfederations.xmppfederation.io",
            "--timeout=30s",
        ])
        .await?;
    let applied = Instant::now();
    let sample_path = sample_file().display().to_string();
    let said = kubectl.kubectl(&["apply", "-f", &sample_path]).await?;
    talk.say(said.trim());
    Ok(applied)
}

/// Applies one object given as JSON.
pub async fn apply_object(world: &World, object: &Value) -> Result<(), Error> {
    let text = object.to_string();
    world.lab.kubectl_with_input(&["apply", "-f", "-"], &text).await?;
    Ok(())
}

fn counted(said: &str) -> String {
    let lines = said.lines().filter(|line| !line.trim().is_empty()).count();
    format!("{lines} objects")
}

/// Waits for the operator and the edge pods, and shows that their namespaces refuse more than `restricted`.
pub async fn pods_ready(talk: Talk, world: &World, sample: &Sample) -> Result<(), Error> {
    let operator = talk
        .wait("the operator's pod", Duration::from_secs(90), async || {
            let pods = operator_pods(world).await?;
            let (namespace, pod) = pods.into_iter().next().ok_or("there is no pod yet")?;
            ensure(pod.ready, || format!("{} is not ready", pod.name))?;
            Ok((namespace, pod))
        })
        .await?;
    talk.fact("operator", format_args!("{} is Ready", operator.1.name));
    let wanted = sample
        .resource
        .pointer("/spec/edge/replicas")
        .and_then(Value::as_u64)
        .unwrap_or(2);
    let pods = talk
        .wait("the edge pods", Duration::from_secs(90), async || {
            let pods = sample.pods(world).await?;
            let ready = pods.iter().filter(|pod| pod.ready && !pod.terminating).count();
            ensure(ready as u64 == wanted, || format!("{ready} of {wanted} are ready"))?;
            Ok(pods)
        })
        .await?;
    for pod in &pods {
        talk.fact("edge", format_args!("{} is Ready at {}", pod.name, pod.address));
    }
    for namespace in [operator.0.as_str(), &sample.namespace] {
        let object = world.get(&["namespace", namespace]).await?;
        let level = object
            .pointer("/metadata/labels/pod-security.kubernetes.io~1enforce")
            .and_then(Value::as_str)
            .unwrap_or("none");
        ensure(level == "restricted", || {
            format!("the namespace {namespace} enforces {level}, not restricted")
        })?;
        let refusal = privileged_pod(world, namespace).await?;
        talk.fact(&format!("Pod Security of {namespace}"), refusal);
    }
    Ok(())
}

/// An error unless an operator is ready: without it nothing is worth waiting for.
pub async fn operator_runs(world: &World) -> Result<(), Error> {
    let pods = operator_pods(world).await?;
    ensure(pods.iter().any(|(_, pod)| pod.ready), || {
        "not tried: no operator is ready".to_owned()
    })
}

/// Namespace and pod of each operator pod.
pub async fn operator_pods(world: &World) -> Result<Vec<(String, Pod)>, Error> {
    let pods = world.get(&["pods", "-A", "-l", OPERATOR]).await?;
    Ok(list(&pods, "/items")
        .iter()
        .map(|pod| (text(pod, "/metadata/namespace").to_owned(), Pod::read(pod)))
        .collect())
}

/// Tries to start a pod that `restricted` forbids; returns the refusal.
async fn privileged_pod(world: &World, namespace: &str) -> Result<String, Error> {
    let pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "too-much", "namespace": namespace},
        "spec": {"containers": [{"name": "c", "image": "localhost/none", "securityContext": {"privileged": true}}]}});
    let tried = world
        .lab
        .kubectl_with_input(&["create", "--dry-run=server", "-f", "-"], &pod.to_string())
        .await;
    match tried {
        Err(refused) if refused.to_string().contains("violates PodSecurity \"restricted") => {
            Ok("restricted; a privileged pod is refused".to_owned())
        }
        Err(other) => Err(other),
        Ok(_) => Err(format!("the namespace {namespace} admits a privileged pod").into()),
    }
}
