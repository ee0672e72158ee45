//! The edge's binary: reads the configuration, listens, serves, drains on SIGTERM.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Parser, Subcommand};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, watch};
use xmpp_federation_core::edge_config::{Head, Log};
use xmpp_federation_edge::admin::{Admin, waiting};
use xmpp_federation_edge::config::{Live, LoadError, Loader};
use xmpp_federation_edge::control::{self, Control, ControlError, Request};
use xmpp_federation_edge::logging::{self, LogLevel};
use xmpp_federation_edge::observe::metrics::Metrics;
use xmpp_federation_edge::observe::registry::Registry;
use xmpp_federation_edge::observe::trace::Line;
use xmpp_federation_edge::reload::{self, Rejection, Reloader};
use xmpp_federation_edge::runtime::Edge;
use xmpp_federation_edge::stream::listen::{self, Listeners};
use xmpp_federation_edge::{ctl, probe};

/// XMPP server-to-server gateway between the public network and component links.
#[derive(Debug, Parser)]
#[command(version, about, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(flatten)]
    run: Run,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Where the configuration is when no option says so.
const DEFAULT_CONFIG: &str = "/etc/xmpp-federation/edge/edge.yaml";

#[derive(Debug, Args)]
struct Run {
    /// The configuration file (YAML).
    #[arg(long, env = "EDGE_CONFIG", default_value = DEFAULT_CONFIG)]
    config: PathBuf,
    /// Which of the component ids this process uses, counted from 0.
    #[arg(long, env = "EDGE_INDEX", default_value_t = 0)]
    index: usize,
    /// Only check the configuration and the files it names; exit with 0 or 2.
    #[arg(long)]
    check: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Ask a running edge through its control socket.
    Ctl {
        /// The control socket; absent: listen.control of the configuration.
        #[arg(long, global = true, env = "EDGE_CONTROL")]
        socket: Option<PathBuf>,
        /// The configuration file that names the socket.
        #[arg(long, global = true, env = "EDGE_CONFIG", default_value = DEFAULT_CONFIG)]
        config: PathBuf,
        /// JSON instead of tables.
        #[arg(long, global = true)]
        json: bool,
        #[command(subcommand)]
        request: Request,
    },
    /// Look at a remote domain step by step: DNS, TCP, TLS, certificate, features, dialback.
    /// Exit code 0: all good; 1: something is bad; 2: the arguments or the configuration are wrong.
    Probe(Probe),
}

#[derive(Debug, Args)]
struct Probe {
    /// The remote domain.
    domain: String,
    /// The hosted domain to speak for; absent: the configuration's first one.
    #[arg(long)]
    from: Option<String>,
    /// The edge's configuration: its lists, routes, certificates and dialback secret are used.
    #[arg(long, env = "EDGE_CONFIG")]
    config: Option<PathBuf>,
    /// Ask this DNS server, IP address with or without port; may be given several times.
    #[arg(long)]
    dns: Vec<String>,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// Exit code for a configuration or an argument that must be corrected first.
const WRONG_CONFIGURATION: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command {
        Some(Command::Ctl {
            socket,
            config,
            json,
            request,
        }) => ctl(socket, &config, json, &request),
        Some(Command::Probe(arguments)) => probe(&arguments),
        None if cli.run.check => check(&cli.run),
        None => run(&cli.run),
    }
}

fn fail(code: u8, message: &str) -> ExitCode {
    eprintln!("error: {message}");
    ExitCode::from(code)
}

fn check(arguments: &Run) -> ExitCode {
    match Loader::new(&arguments.config, arguments.index).strict().load() {
        Ok(live) => {
            for warning in &live.warnings {
                eprintln!("warning: {warning}");
            }
            println!("{} is good", arguments.config.display());
            ExitCode::SUCCESS
        }
        Err(error) => fail(WRONG_CONFIGURATION, &error.to_string()),
    }
}

fn ctl(socket: Option<PathBuf>, config: &std::path::Path, json: bool, request: &Request) -> ExitCode {
    let socket = match socket {
        Some(socket) => socket,
        None => match socket_of(config) {
            Ok(socket) => socket,
            Err(error) => return fail(WRONG_CONFIGURATION, &error.to_string()),
        },
    };
    let show: fn(&Value) -> String = match request {
        _ if json => pretty,
        Request::Connections { .. } => ctl::connections,
        Request::Failures { .. } => ctl::failures,
        _ => pretty,
    };
    let asking = async {
        match request {
            Request::Trace { .. } => follow(&socket, request, json).await.map(|()| String::new()),
            _ => control::ask(&socket, request).await.map(|answer| show(&answer)),
        }
    };
    match one_thread().map(|runtime| runtime.block_on(asking)) {
        Ok(Ok(text)) => print(&text).map_or_else(|error| fail(1, &error.to_string()), |()| ExitCode::SUCCESS),
        Ok(Err(error)) => fail(1, &error.to_string()),
        Err(error) => fail(1, &format!("no runtime: {error}")),
    }
}

fn one_thread() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}

/// Prints at once; a reader that went away is an error, not a panic.
fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Prints the lines of a trace as they come.
async fn follow(socket: &std::path::Path, request: &Request, json: bool) -> Result<(), ControlError> {
    let mut lines = control::Answers::new(socket, request).await?;
    while let Some(value) = lines.next().await? {
        let text = match serde_json::from_value::<Line>(value.clone()) {
            Ok(line) if !json => line.to_string(),
            _ => value.to_string(),
        };
        if print(&(text + "\n")).is_err() {
            // The reader has closed the pipe: it has seen enough.
            return Ok(());
        }
    }
    Ok(())
}

fn probe(arguments: &Probe) -> ExitCode {
    let plan = probe::Plan::new(
        &arguments.domain,
        arguments.from.as_deref(),
        arguments.config.as_deref(),
        &arguments.dns,
    );
    let plan = match plan {
        Ok(plan) => plan,
        Err(error) => return fail(WRONG_CONFIGURATION, &error.to_string()),
    };
    let report = match one_thread().map(|runtime| runtime.block_on(plan.run())) {
        Ok(report) => report,
        Err(error) => return fail(1, &format!("no runtime: {error}")),
    };
    let text = if arguments.json {
        pretty(&serde_json::to_value(&report).unwrap_or_default())
    } else {
        report.to_string()
    };
    if print(&text).is_err() || !report.good {
        return ExitCode::from(1);
    }
    ExitCode::SUCCESS
}

fn socket_of(config: &std::path::Path) -> io::Result<PathBuf> {
    let path = config.display();
    let wrong = |reason| io::Error::other(format!("{path}{reason}"));
    let text = std::fs::read_to_string(config)
        .map_err(|error| wrong(format!(" cannot be read: {error}; name the socket with --socket")))?;
    // A running edge may have refused the rest of the file.
    let head = Head::of(&text).map_err(|error| wrong(format!(": {error}")))?;
    let missing = || wrong(" sets no listen.control, so the edge has no control socket".to_owned());
    head.listen.control.ok_or_else(missing)
}

fn run(arguments: &Run) -> ExitCode {
    let loader = Loader::new(&arguments.config, arguments.index);
    let first = loader.load();
    let level = match &first {
        Ok(live) => live.config.log.level.clone(),
        // It is waited for.
        Err(LoadError::Later { .. }) => Log::default().level,
        Err(error) => return fail(WRONG_CONFIGURATION, &error.to_string()),
    };
    let level = match logging::start(&level) {
        Ok(level) => level,
        Err(error) => return fail(WRONG_CONFIGURATION, &error.to_string()),
    };
    let served = runtime().and_then(|runtime| runtime.block_on(serve(loader, first, level.clone())));
    if let Err(error) = &served {
        tracing::error!(reason = %error, "the edge cannot run");
    }
    level.finish();
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(1, &error.to_string()),
    }
}

/// Tasks that a worker runs before it looks at the sockets again; a turn takes a millisecond at most
/// as a rule.
const TURNS: u32 = 11;

/// As many workers as the cgroup allows processors; each costs memory, and one needs no pool.
fn runtime() -> io::Result<tokio::runtime::Runtime> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let mut builder = if workers == 1 {
        tokio::runtime::Builder::new_current_thread()
    } else {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(workers);
        builder
    };
    builder
        .event_interval(TURNS)
        .max_blocking_threads(4)
        .enable_all()
        .build()
}

async fn serve(loader: Loader, first: Result<Live, LoadError>, level: LogLevel) -> io::Result<()> {
    // Before anything slow: a signal that comes early must not kill.
    let (mut terminate, mut interrupt, hangup) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
        signal(SignalKind::hangup())?,
    );
    let metrics = Arc::new(Metrics::default());
    metrics.follow_log(level.dropped());
    let live = match first {
        Ok(live) => live,
        Err(refused) => {
            let port = listen_at("listen.admin", waiting::doors(loader.path()).admin)?;
            let live = tokio::select! {
                live = waiting::until_loaded(&loader, refused, port, &metrics) => live,
                _ = terminate.recv() => return Ok(()),
                _ = interrupt.recv() => return Ok(()),
            };
            level.set(&live.config.log.level).map_err(io::Error::other)?;
            live
        }
    };
    let listen = live.config.listen.clone();
    let index = loader.index();
    metrics.configuration_loaded(&live);
    reload::warn(&live);

    let s2s = listen_at("listen.s2s", listen.s2s)?;
    let direct_tls = match listen.direct_tls {
        Some(address) => Some(listen_at("listen.directTls", address)?),
        None => None,
    };
    let admin_port = listen_at("listen.admin", listen.admin)?;
    let (sender, receiver) = watch::channel(Arc::new(live));
    let edge = Edge::new(receiver.clone(), index, metrics.clone(), Arc::new(Registry::default()));
    let rejection = Arc::new(Rejection::default());
    let admin = Admin::new(edge.clone(), rejection.clone());
    if let Some(path) = &listen.control {
        let control = Control::bind(path, admin.clone(), level.clone())
            .map_err(|error| io::Error::other(format!("listen.control: {} cannot be used: {error}", path.display())))?;
        tokio::spawn(control.serve());
    }
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        index,
        s2s = %listen.s2s,
        direct_tls = listen.direct_tls.map(|address| address.to_string()),
        admin = %listen.admin,
        config = %loader.path().display(),
        config_hash = edge.live().config_hash,
        domains = edge.live().config.domains.len(),
        "the edge starts"
    );
    let budget = &edge.live().budget;
    tracing::info!(
        limit = %budget.limit,
        sum_bytes = budget.sum(),
        connections = budget.connections,
        verifications = budget.verifications,
        routes = budget.routes,
        outbound_waiting_bytes = budget.outbound_waiting,
        "bounds on memory"
    );
    tokio::spawn(admin.serve(admin_port));
    let reloader = Reloader::new(loader, sender, rejection, metrics);
    tokio::spawn(reload_at(hangup, reloader.asked()));
    tokio::spawn(reloader.run());
    tokio::spawn(follow_reloads(receiver, level.clone(), edge.clone()));
    let stop = stop(terminate, interrupt, level);
    edge.run(Listeners { s2s, direct_tls }, stop).await;
    Ok(())
}

/// `SIGHUP` asks for what happens anyway when a file changes.
async fn reload_at(mut hangup: Signal, reload: Arc<Notify>) {
    while hangup.recv().await.is_some() {
        tracing::info!(signal = "SIGHUP", "the configuration and its files are read again");
        reload.notify_one();
    }
}

/// Completes at the first signal; a second one ends the process at once.
async fn stop(mut terminate: Signal, mut interrupt: Signal, level: LogLevel) {
    let name = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    };
    tracing::info!(signal = name, "asked to stop; a second signal stops at once");
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::warn!("stopping at once; queued stanzas are lost");
        level.finish();
        std::process::exit(1);
    });
}

/// Takes over what no stream or link looks at: the log level and whose failures are kept apart.
async fn follow_reloads(mut live: watch::Receiver<Arc<Live>>, level: LogLevel, edge: Arc<Edge>) {
    let mut current = live.borrow_and_update().config.log.level.clone();
    while live.changed().await.is_ok() {
        edge.registry.partners_changed();
        let wanted = live.borrow_and_update().config.log.level.clone();
        if wanted != current {
            if let Err(error) = level.set(&wanted) {
                tracing::warn!("log.level: {error}; the old level stays");
            }
            current = wanted;
        }
    }
}

/// Listens, or says why not and what to do.
fn listen_at(field: &str, address: SocketAddr) -> io::Result<TcpListener> {
    listen::bind(address).map_err(|error| {
        let remedy = match error.kind() {
            io::ErrorKind::AddrInUse => "; another process has this port, stop it or change the port",
            io::ErrorKind::PermissionDenied => "; ports below 1024 need a privilege, choose a higher one",
            _ => "",
        };
        io::Error::new(
            error.kind(),
            format!("{field}: cannot listen at {address}: {error}{remedy}"),
        )
    })
}
