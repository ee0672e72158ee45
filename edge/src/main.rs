//! The edge's binary: reads the configuration, listens, serves, drains on SIGTERM.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Parser, Subcommand};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use xmpp_federation_edge::admin::Admin;
use xmpp_federation_edge::config::{Live, Loader};
use xmpp_federation_edge::control::{self, Control, Request};
use xmpp_federation_edge::edge::Edge;
use xmpp_federation_edge::logging::{self, LogLevel};
use xmpp_federation_edge::metrics::Metrics;
use xmpp_federation_edge::registry::Registry;
use xmpp_federation_edge::reload::{self, Rejection, Reloader};
use xmpp_federation_edge::stream::listen::{self, Listeners};

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
        #[command(subcommand)]
        request: Ctl,
    },
}

#[derive(Debug, Subcommand)]
enum Ctl {
    /// Open streams with peers: direction, address, TLS, authenticated pairs.
    Connections,
    /// Close one stream by its number in `connections`.
    Close {
        /// The number.
        id: u64,
    },
    /// Remote domains whose last attempt failed, with the reason.
    Failures,
    /// Try a remote domain again at once; without one: all, and the links.
    Retry {
        /// The remote domain.
        domain: Option<String>,
    },
    /// Set the log level until the configuration's changes: `info`, or `info,edge::dialback=debug`.
    Log {
        /// The level.
        level: String,
    },
    /// Configuration, links, failing partners, numbers of streams.
    Status,
}

impl From<Ctl> for Request {
    fn from(ctl: Ctl) -> Self {
        match ctl {
            Ctl::Connections => Self::Connections,
            Ctl::Close { id } => Self::Close { id },
            Ctl::Failures => Self::Failures,
            Ctl::Retry { domain } => Self::Retry { domain },
            Ctl::Log { level } => Self::Log { level },
            Ctl::Status => Self::Status,
        }
    }
}

/// Exit code for a configuration or an argument that must be corrected first.
const WRONG_CONFIGURATION: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command {
        Some(Command::Ctl {
            socket,
            config,
            request,
        }) => ctl(socket, &config, request),
        None if cli.run.check => check(&cli.run),
        None => run(&cli.run),
    }
}

fn fail(code: u8, message: &str) -> ExitCode {
    eprintln!("error: {message}");
    ExitCode::from(code)
}

fn check(arguments: &Run) -> ExitCode {
    match Loader::new(&arguments.config, arguments.index).load() {
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

fn ctl(socket: Option<PathBuf>, config: &std::path::Path, request: Ctl) -> ExitCode {
    let socket = match socket {
        Some(socket) => socket,
        None => match socket_of(config) {
            Ok(socket) => socket,
            Err(error) => return fail(WRONG_CONFIGURATION, &error),
        },
    };
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(1, &format!("no runtime: {error}")),
    };
    match runtime.block_on(control::ask(&socket, &request.into())) {
        Ok(value) => {
            println!(
                "{}",
                serde_json::to_string_pretty(&value).unwrap_or_default()
            );
            ExitCode::SUCCESS
        }
        Err(error) => fail(1, &error),
    }
}

fn socket_of(config: &std::path::Path) -> Result<PathBuf, String> {
    let text = std::fs::read_to_string(config).map_err(|error| {
        format!(
            "{} cannot be read: {error}; name the socket with --socket",
            config.display()
        )
    })?;
    let parsed = xmpp_federation_core::edge_config::EdgeConfig::from_yaml(&text)
        .map_err(|error| format!("{}: {error}", config.display()))?;
    parsed.listen.control.ok_or_else(|| {
        format!(
            "{} sets no listen.control, so the edge has no control socket",
            config.display()
        )
    })
}

fn run(arguments: &Run) -> ExitCode {
    let loader = Loader::new(&arguments.config, arguments.index);
    let live = match loader.load() {
        Ok(live) => live,
        Err(error) => return fail(WRONG_CONFIGURATION, &error.to_string()),
    };
    let level = match logging::start(&live.config.log.level) {
        Ok(level) => level,
        Err(error) => return fail(WRONG_CONFIGURATION, &error.to_string()),
    };
    match runtime().and_then(|runtime| runtime.block_on(serve(loader, live, level))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(reason = %error, "the edge cannot run");
            fail(1, &error.to_string())
        }
    }
}

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
    builder.max_blocking_threads(4).enable_all().build()
}

async fn serve(loader: Loader, live: Live, level: LogLevel) -> io::Result<()> {
    // Before anything slow: a signal that comes early must not kill.
    let (terminate, interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let listen = live.config.listen.clone();
    let index = loader.index();
    let metrics = Arc::new(Metrics::default());
    metrics.configuration_loaded(&live);
    reload::warn(&live);

    let s2s = listen_at("listen.s2s", listen.s2s)?;
    let direct_tls = match listen.direct_tls {
        Some(address) => Some(listen_at("listen.directTls", address)?),
        None => None,
    };
    let admin_port = listen_at("listen.admin", listen.admin)?;
    let (sender, receiver) = watch::channel(Arc::new(live));
    let edge = Edge::new(
        receiver.clone(),
        index,
        metrics.clone(),
        Arc::new(Registry::default()),
    );
    let rejection = Arc::new(Rejection::default());
    let admin = Admin::new(edge.clone(), rejection.clone());
    if let Some(path) = &listen.control {
        let control = Control::bind(path, admin.clone(), level.clone()).map_err(|error| {
            io::Error::other(format!(
                "listen.control: {} cannot be used: {error}",
                path.display()
            ))
        })?;
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
    tokio::spawn(admin.serve(admin_port));
    tokio::spawn(Reloader::new(loader, sender, rejection, metrics).run());
    tokio::spawn(follow_log_level(receiver, level));
    edge.run(Listeners { s2s, direct_tls }, stop(terminate, interrupt))
        .await;
    Ok(())
}

/// Completes at the first signal; a second one ends the process at once.
async fn stop(mut terminate: Signal, mut interrupt: Signal) {
    let name = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    };
    tracing::info!(
        signal = name,
        "asked to stop; a second signal stops at once"
    );
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::warn!("stopping at once; what is queued is lost");
        std::process::exit(1);
    });
}

async fn follow_log_level(mut live: watch::Receiver<Arc<Live>>, level: LogLevel) {
    let mut current = live.borrow_and_update().config.log.level.clone();
    while live.changed().await.is_ok() {
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
            io::ErrorKind::AddrInUse => {
                "; another process has this port, stop it or change the port"
            }
            io::ErrorKind::PermissionDenied => {
                "; ports below 1024 need a privilege, choose a higher one"
            }
            _ => "",
        };
        io::Error::new(
            error.kind(),
            format!("{field}: cannot listen at {address}: {error}{remedy}"),
        )
    })
}
