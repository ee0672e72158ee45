//! What an administrator meets after the twelve steps, played on the lab that they leave: a certificate of one's own that
//! goes wrong, and an operator that ends.

use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::DeleteParams;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::pod::Pod;
use super::report::{Talk, ensure};
use super::resource::{OPERATOR, Sample};
use super::world::World;
use super::{Scenario, traffic};
use testkit_base::Error;

/// Name of the Secret with the certificate that is brought.
const CERTIFICATE: &str = "brought-certificate";
/// Whatever breaks is named within this time.
const NAMED: Duration = Duration::from_secs(30);
/// Pods are replaced one after the other, each drains first.
const ROLLED: Duration = Duration::from_mins(3);

/// Plays the steps on a lab in which the twelve were played.
pub async fn play(scenario: &mut Scenario<'_>) {
    let brought = "A brought certificate that does not fit its key is named; the one in force stays";
    scenario.step(13, brought, &[], brought_certificate).await;
    let ends = "The operator's leader ends; a standby goes on and disturbs nothing";
    scenario.step(14, ends, &[], leader_ends).await;
}

/// A certificate with all names of the sample.
struct Brought {
    certificate: String,
    key: String,
    sha256: String,
}

impl Brought {
    fn new() -> Result<Self, Error> {
        let made = rcgen::generate_simple_self_signed(["coluc.com", "conf.coluc.com"].map(str::to_owned))?;
        Ok(Self {
            certificate: made.cert.pem(),
            key: made.signing_key.serialize_pem(),
            sha256: HEXLOWER.encode(&Sha256::digest(made.cert.der())),
        })
    }

    /// Puts it into the Secret, with that key.
    async fn bring(&self, sample: &Sample, key: &str) -> Result<(), Error> {
        let data = [("tls.crt", &*self.certificate), ("tls.key", key)];
        sample.apply_secret(CERTIFICATE, Some("kubernetes.io/tls"), &data).await
    }

    /// Waits until all pods are ready and show it, and none refuses the newest configuration.
    async fn in_force(&self, talk: Talk, world: &World, sample: &Sample, what: &str) -> Result<Vec<Pod>, Error> {
        talk.wait(what, ROLLED, async || {
            sample.status().await?.expect("Ready", "True")?;
            let pods = sample.pods().await?;
            ensure(pods.len() == 2, || format!("{} pods", pods.len()))?;
            for pod in &pods {
                ensure(pod.ready && !pod.terminating, || format!("{} is not ready", pod.name))?;
                let status = world.edge_status(pod).await?;
                let shown = status.certificate_sha256.as_ref() == Some(&self.sha256);
                ensure(shown && status.rejected.is_none(), || {
                    format!("{} shows {status:?}", pod.name)
                })?;
            }
            Ok(pods)
        })
        .await
    }
}

/// Has the resource use the certificate of a Secret, or its own authority's.
async fn use_certificate(sample: &Sample, certificate: Value) -> Result<(), Error> {
    sample
        .patch(json!({"spec": {"tls": {"certificate": certificate}}}))
        .await
}

async fn brought_certificate(talk: Talk, world: &World, sample: &Sample) -> Result<(), Error> {
    let restarts = world.imp.restarts().await?;
    let outcome = broken_and_mended(talk, world, sample).await;
    // Whatever was seen, the lab is left as it was.
    use_certificate(sample, Value::Null).await?;
    outcome?;
    talk.wait("the own authority's certificate", ROLLED, async || {
        let status = sample.status().await?;
        status.expect("Ready", "True")?;
        ensure(
            status.certificate.secret_name != CERTIFICATE,
            || "the brought one is still shown",
        )
    })
    .await?;
    sample
        .api::<Secret>()
        .delete(CERTIFICATE, &DeleteParams::default())
        .await?;
    let sentence = "a router was restarted for a certificate";
    world.imp.no_restart_since(&restarts, sentence).await?;
    traffic::messages(talk, &world.alice, &world.bob).await
}

async fn broken_and_mended(talk: Talk, world: &World, sample: &Sample) -> Result<(), Error> {
    let first = Brought::new()?;
    first.bring(sample, &first.key).await?;
    use_certificate(sample, json!({"secretRef": {"name": CERTIFICATE}})).await?;
    let pods = first
        .in_force(talk, world, sample, "pods with the brought certificate")
        .await?;
    talk.wait("it in the status", NAMED, async || {
        let shown = sample.status().await?.certificate.secret_name;
        ensure(shown == CERTIFICATE, || format!("it names {shown:?}"))
    })
    .await?;
    talk.fact("brought", format_args!("Secret {CERTIFICATE}, in force"));

    // The certificate is renewed, and its key forgotten.
    let renewed = Brought::new()?;
    let began = Instant::now();
    renewed.bring(sample, &first.key).await?;
    let said = talk
        .wait("EdgeAvailable=False", NAMED, async || {
            let said = sample.status().await?.expect("EdgeAvailable", "False")?;
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
            let rejected = world.edge_status(pod).await?.rejected;
            ensure(rejected.is_some_and(|rejected| !rejected.reason.is_empty()), || {
                format!("{} rejects nothing", pod.name)
            })?;
            let metrics = world.edge_metrics(pod).await?;
            let line = "xmpp_edge_configuration_refused 1";
            ensure(metrics.lines().any(|had| had == line), || {
                format!("the metrics of {} lack {line:?}", pod.name)
            })
        })
        .await?;
        let log = sample.log(pod).await?;
        ensure(log.contains("the new configuration is refused"), || {
            format!("the log of {} does not say so", pod.name)
        })?;
    }
    talk.fact("/status, metric and log", "say the same on every pod");
    let now = sample.pods().await?;
    ensure(
        now.iter().all(|pod| pod.ready),
        || "a pod is out of service because of a bad configuration",
    )?;
    traffic::unharmed(talk, &world.alice, &world.bob, 20).await?;

    renewed.bring(sample, &renewed.key).await?;
    let mended = renewed.in_force(talk, world, sample, "the renewed certificate").await?;
    let same = |pod: &Pod| pods.iter().any(|before| before.uid == pod.uid);
    ensure(mended.iter().all(same), || "a pod was replaced to renew a certificate")?;
    talk.fact("mended", "with the right key; no pod was replaced");
    Ok(())
}

async fn leader_ends(talk: Talk, world: &World, sample: &Sample) -> Result<(), Error> {
    let restarts = world.imp.restarts().await?;
    let edges: Vec<String> = uids(&sample.pods().await?);
    let operators = sample.operators().await?;
    let first = operators.iter().find(|pod| pod.ready).ok_or("no operator is ready")?;
    sample.scale_operator(2).await?;
    talk.wait("a standby", Duration::from_mins(1), async || {
        let ready = sample.operators().await?.iter().filter(|pod| pod.ready).count();
        ensure(ready == 2, || format!("{ready} operators are ready"))
    })
    .await?;
    let outcome = taken_over(talk, sample, first).await;
    sample.scale_operator(1).await?;
    outcome?;
    ensure(uids(&sample.pods().await?) == edges, || "an edge pod was replaced")?;
    world.imp.no_restart_since(&restarts, "a router was restarted").await?;
    talk.fact("edge pods and routers", "the same as before");
    traffic::messages(talk, &world.alice, &world.bob).await
}

fn uids(pods: &[Pod]) -> Vec<String> {
    let mut uids: Vec<String> = pods.iter().map(|pod| pod.uid.clone()).collect();
    uids.sort();
    uids
}

/// The leader's pod is deleted at once, without waiting for its end.
async fn taken_over(talk: Talk, sample: &Sample, leader: &Pod) -> Result<(), Error> {
    let leases: Api<Lease> = Api::namespaced(sample.kube.clone(), "kube-system");
    let holder = async || -> Result<String, Error> {
        let lease = leases.get(OPERATOR.1).await?.spec.unwrap_or_default();
        Ok(lease.holder_identity.unwrap_or_default())
    };
    let before = holder().await?;
    ensure(before == format!("{}/{}", OPERATOR.0, leader.name), || {
        format!("the lease is held by {before:?}, not by {}", leader.name)
    })?;
    let began = Instant::now();
    sample
        .delete_pod(leader, &DeleteParams::default().grace_period(0))
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
    let token = sample.annotate("refresh").await?;
    talk.wait(
        "a request served by the new leader",
        Duration::from_mins(1),
        async || {
            let status = sample.status().await?;
            status.served(&token)?;
            status.expect("Ready", "True")
        },
    )
    .await?;
    talk.fact("new leader", "serves requests; the resource is Ready");
    Ok(())
}
