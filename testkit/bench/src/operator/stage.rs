//! A stage: an API server with nothing else in a lab of its own, a resolver, and the operator as a process that has the
//! rights of the chart.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _};
use kube::api::{Api, DynamicObject, PartialObjectMeta, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, GroupVersionKind};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, Config, ResourceExt as _};
use serde_json::{Value, json};
use testkit_base::Error;
use testkit_lab::network::DNS_LAN;
use testkit_lab::{Lab, Options, kubernetes, layout, node, process};

use super::audit::Audit;
use crate::usage::Usage;

/// Namespaces of the resources; bodies of requests in the first one are in the audit log.
pub const NAMESPACES: [&str; 3] = ["bench-a", "bench-b", "bench-c"];
/// Namespace of the operator.
pub const SYSTEM: &str = "xmpp-federation-system";
/// Requests of the bench under way at once.
pub const PARALLEL: usize = 16;
/// Name of the operator's process and kubeconfig.
pub const OPERATOR: &str = "operator";
/// Name of cert-manager's process and kubeconfig.
pub const CERT_MANAGER: &str = "cert-manager";

/// Both are in the same flow of the API server's priority and fairness.
const CLIENTS: [(&str, &str, &str); 2] = [
    (
        OPERATOR,
        "system:serviceaccount:xmpp-federation-system:xmpp-federation-operator",
        "system:serviceaccounts",
    ),
    (
        CERT_MANAGER,
        "system:serviceaccount:cert-manager:cert-manager",
        "system:serviceaccounts",
    ),
];

/// What the resolver does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dns {
    /// Answers at once that no name exists.
    Answers,
    /// Takes packets and never answers.
    Swallows,
}

/// A running stage, as seen from inside its network.
pub struct Stage {
    /// The lab.
    pub lab: Lab,
    /// The administrator's client, whose requests are not in the audit log.
    pub client: Client,
    /// Requests of the operator and of cert-manager.
    pub audit: Audit,
}

/// Objects that came into being.
#[derive(Debug, Clone, Copy)]
pub struct Arrived {
    /// How many.
    pub count: usize,
    /// When the last one came, since the beginning.
    pub last: Duration,
}

/// Makes a stage, works on it from inside, and removes it.
pub async fn on<T: Send + 'static>(
    name: &str,
    dns: Dns,
    work: impl AsyncFnOnce(Stage) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let lab = Lab::up(&Options {
        kubernetes: false,
        hosts: false,
        ..Options::named(name)
    })
    .await?;
    let outcome = match prepare(&lab, dns).await {
        Ok(()) => {
            let inner = lab.clone();
            lab.inside(async move || work(Stage::enter(inner).await?).await).await
        }
        Err(error) => Err(error),
    };
    let logs = outcome.is_err().then(|| lab.failure_logs());
    lab.down(logs.as_deref()).await?;
    outcome
}

async fn prepare(lab: &Lab, dns: Dns) -> Result<(), Error> {
    lab.add_host("dns", &[DNS_LAN]).await?;
    match dns {
        Dns::Answers => {
            lab.spawn_testkit(Some("dns"), "dns", &["dns", "--bind", &DNS_LAN.to_string()])?;
        }
        Dns::Swallows => {
            let rule = "add table inet x; add chain inet x y {type filter hook input priority 0; policy drop;}";
            let done = lab.exec_in(Some("dns"), &["nft", rule]).await?;
            if !done.success {
                return Err(format!("nft {rule}: {}", done.stderr.trim()).into());
            }
        }
    }
    let users = CLIENTS.map(|(_, user, _)| user);
    let policy = json!({
        "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived", "ResponseStarted"],
        "rules": [
            {"level": "Request", "users": users, "namespaces": NAMESPACES.get(..1)},
            {"level": "Metadata", "users": users},
        ],
    });
    let file = lab.dir().join("audit-policy.json");
    std::fs::write(&file, policy.to_string())?;
    let flags = [
        format!("--audit-policy-file={}", file.display()),
        format!("--audit-log-path={}", lab.layout().audit_log().display()),
        "--audit-log-maxsize=100000".to_owned(),
    ];
    kubernetes::start_api_server(lab.layout(), &flags, &CLIENTS).await
}

/// The API resource of a kind.
pub fn kind(group: &str, version: &str, kind: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
}

impl Stage {
    async fn enter(lab: Lab) -> Result<Self, Error> {
        // Somebody else in this process may have chosen one already.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let audit = Audit::new(lab.layout().audit_log());
        let client = client(lab.kubeconfig()).await?;
        Ok(Self { lab, client, audit })
    }

    /// The kubeconfig of one of the clients.
    pub fn kubeconfig(&self, file: &str) -> PathBuf {
        self.lab.layout().kubernetes_dir().join(format!("{file}.kubeconfig"))
    }

    /// Objects of a kind in a namespace.
    pub fn api(&self, kind: &ApiResource, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), namespace, kind)
    }

    /// Applies a manifest.
    pub async fn apply(&self, manifest: &str) -> Result<(), Error> {
        let words = ["apply", "--server-side", "-f", "-"];
        self.lab.kubectl_with_input(&words, manifest).await.map(drop)
    }

    /// Creates objects of a kind in a namespace.
    pub async fn create(&self, kind: &ApiResource, namespace: &str, objects: Vec<Value>) -> Result<(), Error> {
        let api = self.api(kind, namespace);
        let create = |object: Value| {
            let api = api.clone();
            async move {
                let object: DynamicObject = serde_json::from_value(object)?;
                api.create(&PostParams::default(), &object).await?;
                Ok::<_, Error>(())
            }
        };
        let requests = futures::stream::iter(objects).map(create).buffer_unordered(PARALLEL);
        requests.try_collect().await
    }

    /// Applies the chart and makes the namespaces with the Secrets that the resources name.
    pub async fn install(&self, watched: &[&str]) -> Result<(), Error> {
        self.make_namespaces().await?;
        self.apply_chart(watched, &[]).await?;
        let crd = "crd/xmppfederations.xmppfederation.io";
        #[rustfmt::skip]
        self.lab.kubectl(&["wait", "--for=condition=Established", crd, "--timeout=30s"]).await?;
        Ok(())
    }

    /// Makes the namespaces, with the Secrets that the resources name.
    pub async fn make_namespaces(&self) -> Result<(), Error> {
        let mut objects = Vec::new();
        for name in NAMESPACES.iter().chain([&SYSTEM]) {
            objects.push(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}));
        }
        for namespace in NAMESPACES {
            for (name, data) in [
                ("axl", json!({"username": "axluser", "password": "axlpassword"})),
                ("router", json!({"secret": "router-secret"})),
                (
                    "imp-ca",
                    json!({"ca.crt": rcgen::generate_simple_self_signed([])?.cert.pem()}),
                ),
            ] {
                objects.push(json!({"apiVersion": "v1", "kind": "Secret", "stringData": data,
                    "metadata": {"name": name, "namespace": namespace}}));
            }
        }
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        self.apply(&list.to_string()).await
    }

    /// Applies the chart with these namespaces and further words of helm.
    pub async fn apply_chart(&self, watched: &[&str], more: &[&str]) -> Result<(), Error> {
        let chart = layout::repository().join("charts/xmpp-federation-operator");
        let watched = format!("watchNamespaces={}", json!(watched));
        let chart = chart.display().to_string();
        #[rustfmt::skip]
        let words = ["template", "xmpp-federation-operator", &chart, "--namespace", SYSTEM, "--set-json", &watched];
        self.apply(&self.lab.helm(&[&words, more].concat()).await?).await
    }

    /// Starts the operator and waits until it leads.
    pub async fn start_operator(&self, binary: &str, watched: &[&str]) -> Result<Usage, Error> {
        let watched = watched.join(",");
        #[rustfmt::skip]
        let mut words = vec![
            binary, "--namespace", SYSTEM, "--pod-name", "bench-0", "--edge-image", "localhost/none:bench",
            "--health-address", "127.0.0.1:8081",
        ];
        if !watched.is_empty() {
            words.extend(["--watch-namespaces", &watched]);
        }
        let usage = self.spawn(OPERATOR, &words)?;
        node::wait_until("the operator's leadership", Duration::from_mins(1), async || {
            self.still_runs(OPERATOR)?;
            Ok(metric("leader").await.unwrap_or_default() > 0.0)
        })
        .await?;
        Ok(usage)
    }

    /// Ends the operator, which gives its Lease back.
    pub async fn stop_operator(&self) -> Result<(), Error> {
        process::stop(self.lab.layout(), OPERATOR, Duration::from_secs(5)).await
    }

    /// Starts a program that finds its kubeconfig in the environment.
    pub fn spawn(&self, name: &str, words: &[&str]) -> Result<Usage, Error> {
        let file = self.kubeconfig(name).display().to_string();
        let environment = BTreeMap::from([("KUBECONFIG".to_owned(), file)]);
        let record = self.lab.spawn_in(None, name, words, &environment)?;
        Ok(Usage(u32::try_from(record.pid)?))
    }

    /// An error with its last words if a program has ended.
    pub fn still_runs(&self, name: &str) -> Result<(), Error> {
        match process::find(self.lab.layout(), name)? {
            Some(_) => Ok(()),
            None => Err(format!("{name} ended: {}", self.lab.tail(name)).into()),
        }
    }

    /// Waits for objects of a kind whose names end so, until there are `wanted` or the limit is over.
    pub fn arrivals(
        &self,
        kind: &ApiResource,
        suffix: &'static str,
        wanted: usize,
        limit: Duration,
    ) -> impl Future<Output = Arrived> + use<> {
        let api: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(self.client.clone(), kind);
        let began = Instant::now();
        let seen = tokio::spawn(async move {
            let mut names = std::collections::BTreeSet::new();
            let mut last = Duration::ZERO;
            let mut objects = std::pin::pin!(
                watcher(api, watcher::Config::default())
                    .default_backoff()
                    .applied_objects()
            );
            while names.len() < wanted {
                match tokio::time::timeout(limit.saturating_sub(began.elapsed()), objects.next()).await {
                    Ok(Some(Ok(object))) if object.name_any().ends_with(suffix) => {
                        if names.insert((object.namespace(), object.name_any())) {
                            last = began.elapsed();
                        }
                    }
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => break,
                }
            }
            Arrived {
                count: names.len(),
                last,
            }
        });
        async {
            seen.await.unwrap_or(Arrived {
                count: 0,
                last: Duration::ZERO,
            })
        }
    }
}

/// A client by its kubeconfig.
pub async fn client(kubeconfig: PathBuf) -> Result<Client, Error> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// The sum of a metric of the operator over its labels, without `value="watch"`.
pub async fn metric(name: &str) -> Result<f64, Error> {
    let text = reqwest::get("http://127.0.0.1:8081/metrics").await?.text().await?;
    let name = format!("xmpp_federation_{name}");
    let series = text
        .lines()
        .filter_map(|line| line.strip_prefix(&name)?.rsplit_once(' '));
    let counted =
        series.filter(|(labels, _)| matches!(labels.chars().next(), None | Some('{')) && !labels.contains("\"watch\""));
    Ok(counted.filter_map(|(_, value)| value.parse::<f64>().ok()).sum())
}
