//! cert-manager beside the operator: the same number of certificates, of a CA `ClusterIssuer`.

use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use serde_json::{Value, json};
use testkit_base::Error;
use testkit_lab::layout;
use tokio::time::sleep;

use super::Sizes;
use super::audit::Requests;
use super::resource::names;
use super::stage::{self, Arrived, CERT_MANAGER, NAMESPACES, Stage};

/// What it needs.
#[derive(Debug, Clone, Copy)]
pub struct Issued {
    /// The certificates.
    pub certificates: Arrived,
    /// Requests until the last one.
    pub requests: Requests,
    /// Requests while nothing changes.
    pub idle: Requests,
    /// Processor time meanwhile, in seconds.
    pub processor: f64,
    /// Most and last resident memory, in kB.
    pub memory: (u64, u64),
}

/// Issues certificates and waits until their Secrets are there.
pub async fn issue(mut stage: Stage, sizes: Sizes) -> Result<Issued, Error> {
    let definitions = std::fs::read_to_string(layout::tools_dir().join("cert-manager.yaml"))?;
    stage.apply(&definitions).await?;
    stage.install(&[]).await?;
    #[rustfmt::skip]
    stage.lab.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=30s"]).await?;
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [authority()?, issuer(), rights()]});
    stage.apply(&list.to_string()).await?;
    let program = layout::tool(CERT_MANAGER)?.display().to_string();
    let kubeconfig = stage.kubeconfig(CERT_MANAGER).display().to_string();
    let usage = stage.spawn(CERT_MANAGER, &[&program, &kubeconfig])?;
    let ready = ["wait", "--for=condition=Ready", "clusterissuer/bench", "--timeout=60s"];
    stage.lab.kubectl(&ready).await?;
    stage.audit.count()?;
    let certificates = stage.arrivals(&stage::kind("", "v1", "Secret"), "-tls", sizes.resources, sizes.limit);
    let wanted = names(0..sizes.resources).iter().map(|name| certificate(name)).collect();
    let kind = stage::kind("cert-manager.io", "v1", "Certificate");
    stage.create(&kind, NAMESPACES[1], wanted).await?;
    let certificates = certificates.await;
    stage.still_runs(CERT_MANAGER)?;
    let requests = stage.audit.count()?;
    // Its status follows.
    sleep(Duration::from_secs(20).min(sizes.idle)).await;
    stage.audit.count()?;
    let processor = usage.processor_time()?;
    sleep(sizes.idle).await;
    Ok(Issued {
        certificates,
        requests,
        idle: stage.audit.count()?,
        processor: usage.processor_time()? - processor,
        memory: (usage.highest_memory()?, usage.memory()?),
    })
}

fn authority() -> Result<Value, Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key)?.pem();
    Ok(json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "bench-ca", "namespace": "kube-system"},
        "type": "kubernetes.io/tls", "stringData": {"tls.crt": certificate, "tls.key": key.serialize_pem()},
    }))
}

fn issuer() -> Value {
    json!({
        "apiVersion": "cert-manager.io/v1", "kind": "ClusterIssuer", "metadata": {"name": "bench"},
        "spec": {"ca": {"secretName": "bench-ca"}},
    })
}

fn rights() -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": CERT_MANAGER},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": CERT_MANAGER, "namespace": CERT_MANAGER}],
    })
}

/// With the operator's algorithm: RSA keys, which cert-manager makes by default, take longer.
fn certificate(name: &str) -> Value {
    json!({
        "apiVersion": "cert-manager.io/v1", "kind": "Certificate", "metadata": {"name": name},
        "spec": {
            "secretName": format!("{name}-tls"), "dnsNames": [format!("{name}.example")],
            "privateKey": {"algorithm": "ECDSA", "size": 256},
            "issuerRef": {"name": "bench", "kind": "ClusterIssuer"},
        },
    })
}
