//! What an administrator meets after the twelve steps, played on the lab that they leave: a certificate of one's own that
//! goes wrong, and an operator that ends.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::install::{apply_object, operator_pods};
use super::object::text;
use super::object::{Pod, expect_condition};
use super::registration::restart_counts;
use super::report::{Report, Talk, ensure};
use super::resource::Sample;
use super::traffic;
use super::world::World;
use testkit_base::Error;

/// Name of the Secret with the certificate that is brought.
const CERTIFICATE: &str = "brought-certificate";
/// Whatever breaks is named within this time.
const NAMED: Duration = Duration::from_secs(30);
/// Pods are replaced one after the other, each drains first.
const ROLLED: Duration = Duration::from_mins(3);

/// Plays the steps on a lab in which the twelve were played.
pub async fn scenario(world: &World, steps: &[u8]) -> Result<Report, Error> {
    let sample = &Sample::read()?;
    let mut report = Report::only(steps);
    report
        .step(
            13,
            "A brought certificate that does not fit its key is named; the one in force stays",
            &[],
            async |talk| brought_certificate(talk, world, sample).await,
        )
        .await;
    report
        .step(
            14,
            "The operator's leader ends; a standby goes on and disturbs nothing",
            &[],
            async |talk| leader_ends(talk, world, sample).await,
        )
        .await;
    Ok(report)
}

/// A certificate with all names of the sample, and its key.
fn pair(sample: &Sample) -> Result<(String, String), Error> {
    let names: Vec<String> = ["/spec/domains", "/spec/chatNodeAliases"]
        .iter()
        .flat_map(|pointer| super::object::list(&sample.resource, pointer))
        .filter_map(|name| name.as_str().map(ToOwned::to_owned))
        .collect();
    let made = rcgen::generate_simple_self_signed(names)?;
    Ok((made.cert.pem(), made.signing_key.serialize_pem()))
}

async fn bring(world: &World, sample: &Sample, certificate: &str, key: &str) -> Result<(), Error> {
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"name": CERTIFICATE, "namespace": sample.namespace},
        "stringData": {"tls.crt": certificate, "tls.key": key}});
    apply_object(world, &secret).await
}

async fn patch(world: &World, sample: &Sample, patch: &Value) -> Result<(), Error> {
    let resource = format!("xmppfederation/{}", sample.name);
    let (namespace, patch) = (sample.namespace.as_str(), patch.to_string());
    world
        .lab
        .kubectl(&["-n", namespace, "patch", &resource, "--type=merge", "-p", &patch])
        .await?;
    Ok(())
}

/// Waits until all pods are ready with the newest configuration and show what is asked for.
async fn all_show(
    talk: Talk,
    world: &World,
    sample: &Sample,
    what: &str,
    wanted: impl Fn(&Value) -> bool,
) -> Result<Vec<Pod>, Error> {
    talk.wait(what, ROLLED, async || {
        expect_condition(&sample.now(world).await?, "Ready", "True")?;
        let pods = sample.pods(world).await?;
        ensure(pods.len() == 2, || format!("{} pods", pods.len()))?;
        for pod in &pods {
            ensure(pod.ready && !pod.terminating, || format!("{} is not ready", pod.name))?;
            let status = world.edge_status(pod).await?;
            ensure(wanted(&status), || format!("{} shows {status}", pod.name))?;
        }
        Ok(pods)
    })
    .await
}

async fn brought_certificate(talk: Talk, world: &World, sample: &Sample) -> Result<(), Error> {
    let restarts = restart_counts(&world.imp.state().await?);
    let outcome = broken_and_mended(talk, world, sample).await;
    // Whatever was seen, the lab is left as it was.
    patch(world, sample, &json!({"spec": {"tls": {"certificate": null}}})).await?;
    outcome?;
    talk.wait("the own authority's certificate", ROLLED, async || {
        let resource = sample.now(world).await?;
        expect_condition(&resource, "Ready", "True")?;
        ensure(text(&resource, "/status/certificate/secretName") != CERTIFICATE, || {
            "the brought one is still shown".to_owned()
        })
    })
    .await?;
    let namespace = sample.namespace.as_str();
    world
        .lab
        .kubectl(&["-n", namespace, "delete", "secret", CERTIFICATE])
        .await?;
    ensure(restart_counts(&world.imp.state().await?) == restarts, || {
        "a router was restarted for a certificate".to_owned()
    })?;
    traffic::messages(talk, &world.alice, &world.bob).await
}

async fn broken_and_mended(talk: Talk, world: &World, sample: &Sample) -> Result<(), Error> {
    let (certificate, key) = pair(sample)?;
    bring(world, sample, &certificate, &key).await?;
    let reference = json!({"spec": {"tls": {"certificate": {"secretRef": {"name": CERTIFICATE}}}}});
    patch(world, sample, &reference).await?;
    let pods = all_show(talk, world, sample, "pods with the brought certificate", |status| {
        status.get("rejected").is_none_or(Value::is_null)
    })
    .await?;
    talk.wait("it in the status", NAMED, async || {
        let resource = sample.now(world).await?;
        let shown = text(&resource, "/status/certificate/secretName");
        ensure(shown == CERTIFICATE, || format!("it names {shown:?}"))
    })
    .await?;
    talk.fact("brought", format_args!("Secret {CERTIFICATE}, in force"));

    // The certificate is renewed, and its key forgotten.
    let (renewed, renewed_key) = pair(sample)?;
    let began = Instant::now();
    bring(world, sample, &renewed, &key).await?;
    let said = talk
        .wait("EdgeAvailable=False", NAMED, async || {
            let said = expect_condition(&sample.now(world).await?, "EdgeAvailable", "False")?;
            ensure(said.reason == "ConfigRejected", || said.to_string())?;
            Ok(said)
        })
        .await?;
    talk.fact("EdgeAvailable", &said);
    talk.fact("named after", format_args!("{:.1} s", began.elapsed().as_secs_f64()));
    ensure(said.message.contains("is not the key of the certificate"), || {
        format!("the message does not say what is wrong: {said}")
    })?;
    for pod in &pods {
        talk.wait("the pod's own word", NAMED, async || {
            let status = world.edge_status(pod).await?;
            ensure(!text(&status, "/rejected/reason").is_empty(), || {
                format!("{} rejects nothing", pod.name)
            })?;
            let metrics = world.edge_metrics(pod).await?;
            let line = "xmpp_edge_configuration_refused 1";
            ensure(metrics.lines().any(|had| had == line), || {
                format!("the metrics of {} lack {line:?}", pod.name)
            })
        })
        .await?;
        let log = world.lab.kubectl(&["-n", &sample.namespace, "logs", &pod.name]).await?;
        ensure(log.contains("the new configuration is refused"), || {
            format!("the log of {} does not say so", pod.name)
        })?;
    }
    talk.fact("/status, metric and log", "say the same on every pod");
    let now = sample.pods(world).await?;
    ensure(now.iter().all(|pod| pod.ready), || {
        "a pod is out of service because of a bad configuration".to_owned()
    })?;
    traffic::unharmed(talk, &world.alice, &world.bob, 20).await?;

    bring(world, sample, &renewed, &renewed_key).await?;
    let mended = all_show(talk, world, sample, "the renewed certificate", |status| {
        status.get("rejected").is_none_or(Value::is_null)
    })
    .await?;
    let same = |pod: &Pod| pods.iter().any(|before| before.uid == pod.uid);
    ensure(mended.iter().all(same), || {
        "a pod was replaced to renew a certificate".to_owned()
    })?;
    talk.fact("mended", "with the right key; no pod was replaced");
    Ok(())
}

async fn leader_ends(talk: Talk, world: &World, sample: &Sample) -> Result<(), Error> {
    let restarts = restart_counts(&world.imp.state().await?);
    let edges: Vec<String> = uids(&sample.pods(world).await?);
    let (namespace, first) = operator_pods(world)
        .await?
        .into_iter()
        .find(|(_, pod)| pod.ready)
        .ok_or("no operator is ready")?;
    let deployment = "deployment/xmpp-federation-operator";
    let scale = async |replicas: &str| {
        let replicas = format!("--replicas={replicas}");
        let arguments = ["-n", namespace.as_str(), "scale", deployment, &replicas];
        world.lab.kubectl(&arguments).await
    };
    scale("2").await?;
    talk.wait("a standby", Duration::from_mins(1), async || {
        let ready = operator_pods(world).await?;
        let ready = ready.iter().filter(|(_, pod)| pod.ready).count();
        ensure(ready == 2, || format!("{ready} operators are ready"))
    })
    .await?;
    let outcome = taken_over(talk, world, sample, &namespace, &first.name).await;
    scale("1").await?;
    outcome?;
    ensure(uids(&sample.pods(world).await?) == edges, || {
        "an edge pod was replaced".to_owned()
    })?;
    ensure(restart_counts(&world.imp.state().await?) == restarts, || {
        "a router was restarted".to_owned()
    })?;
    talk.fact("edge pods and routers", "the same as before");
    traffic::messages(talk, &world.alice, &world.bob).await
}

fn uids(pods: &[Pod]) -> Vec<String> {
    let mut uids: Vec<String> = pods.iter().map(|pod| pod.uid.clone()).collect();
    uids.sort();
    uids
}

/// The leader's pod is deleted at once, without waiting for its end.
async fn taken_over(talk: Talk, world: &World, sample: &Sample, namespace: &str, leader: &str) -> Result<(), Error> {
    let holder = async || -> Result<String, Error> {
        let lease = world
            .get(&["-n", namespace, "lease", "xmpp-federation-operator"])
            .await?;
        Ok(text(&lease, "/spec/holderIdentity").to_owned())
    };
    let before = holder().await?;
    ensure(before == leader, || {
        format!("the lease is held by {before:?}, not by {leader}")
    })?;
    let began = Instant::now();
    world
        .lab
        .kubectl(&["-n", namespace, "delete", "pod", leader, "--grace-period=0", "--force"])
        .await?;
    let after = talk
        .wait("another holder of the lease", Duration::from_mins(1), async || {
            let now = holder().await?;
            ensure(!now.is_empty() && now != before, || format!("held by {now:?}"))?;
            Ok(now)
        })
        .await?;
    talk.fact(
        "lease",
        format_args!("{before} → {after} after {:.1} s", began.elapsed().as_secs_f64()),
    );
    let token = format!("{:x}", rand::random::<u64>());
    let annotation = format!("xmppfederation.io/refresh={token}");
    let resource = format!("xmppfederation/{}", sample.name);
    let arguments = [
        "-n",
        &sample.namespace,
        "annotate",
        "--overwrite",
        &resource,
        &annotation,
    ];
    world.lab.kubectl(&arguments).await?;
    talk.wait(
        "a request served by the new leader",
        Duration::from_mins(1),
        async || {
            let now = sample.now(world).await?;
            let served = super::object::list(&now, "/status/handledRequests")
                .iter()
                .any(|request| text(request, "/value") == token);
            ensure(served, || "it is not served yet".to_owned())?;
            expect_condition(&now, "Ready", "True")
        },
    )
    .await?;
    talk.fact("new leader", "serves requests; the resource is Ready");
    Ok(())
}
