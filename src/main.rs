//! The operator's binary: sets up logging, health, leadership, and runs the controller.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{CommandFactory as _, FromArgMatches as _, Parser};
use kube::client::retry::RetryPolicy;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tower::buffer::BufferLayer;
use tower::retry::RetryLayer;
use tracing::{error, info};
use xmpp_federation_core::edge_config::{Cidr, HumanDuration};
use xmpp_federation_imp::{Manager, preflight};
use xmpp_federation_operator::controller::ledger_store::KubeStore;
use xmpp_federation_operator::controller::{Context, PodUsers, ResourceGuard, Settings, watch};
use xmpp_federation_operator::edges;
use xmpp_federation_operator::runtime::api_error::{ApiError, bounded};
use xmpp_federation_operator::runtime::leadership::{self, Leadership};
use xmpp_federation_operator::runtime::lease::{Election, HeldLease};
use xmpp_federation_operator::runtime::metrics::{Held, Metrics};
use xmpp_federation_operator::runtime::{health, logging, memory, platform, preflight_file};

/// Kubernetes operator for XMPP federation of Cisco Unified CM IM and Presence.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Namespace of the operator: home of the ledgers.
    #[arg(long, env = "POD_NAMESPACE")]
    namespace: String,
    /// Name of this pod: holder of the Leases, and reporter of events.
    #[arg(long, env = "POD_NAME")]
    pod_name: String,
    /// Namespaces to watch, separated by commas; absent: all.
    #[arg(long, env = "WATCH_NAMESPACES", value_delimiter = ',')]
    watch_namespaces: Vec<String>,
    /// Namespace of the Lease for the whole cluster, the same for all installations.
    #[arg(long, env = "LEASE_NAMESPACE", default_value = "kube-system")]
    lease_namespace: String,
    /// Image of the edge where a resource names none.
    #[arg(long, env = "EDGE_IMAGE")]
    edge_image: String,
    /// Names of Secrets for pulling that image, separated by commas, where a resource names none.
    #[arg(long, env = "EDGE_IMAGE_PULL_SECRETS", value_delimiter = ',')]
    edge_image_pull_secrets: Vec<String>,
    /// Use only Secrets with the label xmppfederation.io/use=allowed, whatever a resource refers to: true or false.
    #[arg(long, env = "REQUIRE_LABELLED_SECRETS", default_value_t = false, action = clap::ArgAction::Set)]
    require_labelled_secrets: bool,
    /// Networks of pods and Services, separated by commas: DNS must never lead an edge there.
    #[arg(long, env = "CLUSTER_NETWORKS", value_delimiter = ',')]
    cluster_networks: Vec<Cidr>,
    /// Federations whose edge pods a new release replaces at a time; the next one waits until they work again. 0: all.
    #[arg(long, env = "UPGRADES_AT_ONCE", default_value = "1")]
    upgrades_at_once: u16,
    /// How long a federation may not work after that before no other one is upgraded, besides the time that its pods take
    /// one after the other.
    #[arg(long, env = "UPGRADE_TIMEOUT", default_value = "10m")]
    upgrade_timeout: HumanDuration,
    /// Where /livez, /readyz and /metrics are served.
    #[arg(long, env = "HEALTH_ADDRESS", default_value = "[::]:8081")]
    health_address: SocketAddr,
    /// Log directives, as `info` or `info,xmpp_federation_operator=debug,xmpp_federation_imp=debug`.
    #[arg(long, env = "LOG_LEVEL", default_value = "info")]
    log: String,
}

/// The subcommand that looks at an IM&P cluster and needs no Kubernetes.
const PREFLIGHT: &str = "preflight";

fn main() -> ExitCode {
    let subcommand = preflight::options::Options::command().name(PREFLIGHT);
    let command = Args::command()
        .subcommand(subcommand)
        .subcommand_negates_reqs(true)
        .args_conflicts_with_subcommands(true);
    let matches = command.get_matches();
    let failed = |error: clap::Error| -> ExitCode { error.exit() };
    match matches.subcommand() {
        Some((PREFLIGHT, matches)) => {
            preflight::options::Options::from_arg_matches(matches).map_or_else(failed, |options| look(&options))
        }
        _ => Args::from_arg_matches(&matches).map_or_else(failed, operate),
    }
}

/// The pre-flight check: 0 where nothing failed, 1 where something did, 2 for wrong use.
fn look(options: &preflight::options::Options) -> ExitCode {
    let logging = options.log.as_deref().map_or(Ok(()), logging::to_stderr);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let prepared = logging.and_then(|()| {
        let runtime = runtime.map_err(|error| format!("the runtime cannot be set up: {error}"))?;
        Ok((runtime, options.plan(preflight_file::read)?))
    });
    match prepared {
        Ok((runtime, plan)) => {
            let report = runtime.block_on(preflight::run(&plan));
            print!("{}", options.print(&report));
            // A resolver that hangs is not waited for.
            runtime.shutdown_background();
            ExitCode::from(u8::from(report.failed()))
        }
        Err(sentence) => {
            eprintln!("{sentence}");
            ExitCode::from(2)
        }
    }
}

fn operate(args: Args) -> ExitCode {
    if let Err(sentence) = logging::init(&args.log) {
        eprintln!("{sentence}");
        return ExitCode::from(2);
    }
    memory::share();
    // Few threads: reconciles wait for the network, and memory is counted.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            error!(%error, "the runtime cannot be set up");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            error!(sentence, "stopped");
            ExitCode::FAILURE
        }
    }
}

/// Access to the Kubernetes API, each request counted: for Leases, which have their own deadlines, and for all else,
/// which is written by a leader only.
async fn clients(metrics: &Metrics, leadership: &Leadership) -> Result<(kube::Client, kube::Client), String> {
    let mut config = kube::Config::infer()
        .await
        .map_err(|error| format!("no access to a Kubernetes API: {error}"))?;
    // Each try of a write has to be allowed, so the tries are made above the guard.
    config.default_retry = false;
    let counter = metrics.clone();
    let counting = tower::util::MapRequestLayer::new(move |request: http::Request<kube::client::Body>| {
        counter.count_api_request(request.method(), request.uri().query());
        request
    });
    let builder = || {
        kube::client::ClientBuilder::try_from(config.clone())
            .map_err(|error| format!("the client of the Kubernetes API cannot be set up: {error}"))
    };
    let leases = builder()?.with_layer(&counting).build();
    let guarded = builder()?
        .with_layer(&leadership.guard())
        .with_layer(&BufferLayer::new(1024))
        .with_layer(&RetryLayer::new(RetryPolicy::server_retry()))
        .with_layer(&counting)
        .build();
    Ok((leases, guarded))
}

/// Says which cluster this is; who decides as which users pods run in it.
async fn greet(client: &kube::Client, namespace: &str) -> Result<PodUsers, ApiError> {
    let version = bounded(client.apiserver_version()).await?;
    info!(
        version = env!("CARGO_PKG_VERSION"),
        kubernetes = version.git_version,
        namespace,
        "started"
    );
    let assigned = platform::assigns_users(client).await?;
    Ok(if assigned { PodUsers::Assigned } else { PodUsers::Fixed })
}

/// Is cancelled when the process is asked to end.
fn stop_signal() -> Result<CancellationToken, String> {
    let stop = CancellationToken::new();
    let mut term = signal(SignalKind::terminate()).map_err(|e| format!("SIGTERM cannot be caught: {e}"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| format!("SIGINT cannot be caught: {e}"))?;
    tokio::spawn({
        let stop = stop.clone();
        async move {
            tokio::select! { _ = term.recv() => {}, _ = interrupt.recv() => {} }
            stop.cancel();
        }
    });
    Ok(stop)
}

async fn run(args: Args) -> Result<(), String> {
    // Two libraries bring TLS; both take the provider that is installed first.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        return Err("a TLS provider was installed twice".to_owned());
    }
    let stop = stop_signal()?;
    let metrics = Metrics::new();
    let readiness = health::Readiness::default();
    let server = tokio::spawn(health::serve(
        args.health_address,
        readiness.clone(),
        metrics.clone(),
        stop.clone(),
    ));
    tokio::spawn(memory::give_back());
    let clock = leadership::boot_clock();
    let leadership = Leadership::new(clock.clone());
    let (leases, client) = clients(&metrics, &leadership).await?;
    let pod_users = greet(&leases, &args.namespace).await.map_err(|e| e.to_string())?;
    // A standby is ready: it can take over at any moment.
    readiness.set_ready();

    let identity = format!("{}/{}", args.namespace, args.pod_name);
    let watched = &args.watch_namespaces;
    let mut election = Election::new(&leases, &args.lease_namespace, watched, &identity, clock);
    let standby = |held: Option<&HeldLease>| {
        readiness.set_standby(held.map(|held| format!("this operator stands by: {held}")));
        metrics.stand_by(held.map(|held| Held {
            namespace: held.namespace.clone(),
            name: held.name.clone(),
            holder: held.holder.clone(),
        }));
    };
    tokio::select! {
        () = stop.cancelled() => return Ok(()),
        () = election.acquire(&leadership, standby) => {}
    }
    metrics.leader.set(1);

    let ledgers = Arc::new(KubeStore::new(client.clone(), &args.namespace));
    let guard = ResourceGuard::new(client.clone(), leadership.asked());
    let edges = edges::Client::new().map_err(|error| error.to_string())?;
    let settings = Settings {
        edge_image: args.edge_image,
        edge_pull_secrets: args.edge_image_pull_secrets,
        namespace: args.namespace,
        labelled_secrets: args.require_labelled_secrets,
        cluster_networks: args.cluster_networks,
        pod_users,
        upgrades_at_once: args.upgrades_at_once,
        upgrade_timeout: args.upgrade_timeout,
    };
    let context = Arc::new(Context::new(
        client,
        Manager::new(Arc::clone(&ledgers) as Arc<_>, Arc::new(guard))
            .counted_by(Arc::new(metrics.clone()))
            .permitted_by(Arc::new(leadership.asked())),
        edges,
        metrics.clone(),
        settings,
        args.pod_name,
    ));
    let imp = Arc::clone(&context.environment.imp);
    let controller = tokio::spawn(watch::run(
        context,
        ledgers,
        args.watch_namespaces,
        readiness,
        stop.clone().cancelled_owned(),
    ));

    // The Leases are given back only after the last write: reconciles under way are finished first.
    let finished = CancellationToken::new();
    let held = tokio::spawn({
        let finished = finished.clone();
        async move { election.hold(&leadership, &finished).await }
    });
    tokio::pin!(held);
    tokio::select! {
        _ = &mut held => {
            // Whoever holds it now may write; this process may not, not even to its end.
            return Err("leadership was lost; another instance goes on".to_owned());
        }
        outcome = controller => {
            if let Err(error) = outcome {
                return Err(format!("the controller failed: {error}"));
            }
        }
    }
    imp.finish().await;
    metrics.leader.set(0);
    finished.cancel();
    if let Err(error) = held.await {
        return Err(format!("the Leases could not be released: {error}"));
    }
    if !stop.is_cancelled() {
        return Err("the watch ended; the kubelet starts this process anew".to_owned());
    }
    if let Ok(Err(error)) = server.await {
        return Err(format!("the health server failed: {error}"));
    }
    info!("stopped in order");
    Ok(())
}
