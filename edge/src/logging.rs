//! Logging: one JSON object per line on standard output, level switchable at run time.
//!
//! A thread of its own writes the lines. If nobody reads standard output, lines are dropped and
//! counted; the workers never wait for it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, Filter, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, reload};

/// Lines that wait for standard output at most; about 400 bytes each as a rule.
const WAITING: usize = 4096;
/// How long the end of the process waits for standard output to take the last lines.
const LAST_LINES: Duration = Duration::from_secs(2);
/// Lines of a minute that libraries write. A peer can cause some of them: the TLS library warns of
/// odd handshakes. Nothing in such a line says which peer it was.
const LIBRARIES: u32 = 60;

/// A level that cannot be set.
#[derive(Debug, thiserror::Error)]
pub enum LevelError {
    /// It is not understood.
    #[error(
        "{0:?} is not a log level: write error, warn, info, debug or trace, and parts apart as info,dialback=debug or info,edge::dialback=debug"
    )]
    Unknown(String),
    /// The process logs no more.
    #[error("the log level cannot be changed: {0}")]
    Fixed(#[from] reload::Error),
}

/// Topics: short names that stand for the modules whose lines belong to them. Any other module is
/// named by its path: `edge::inbound::session`, `hickory_resolver`.
pub const TOPICS: &[(&str, &[&str])] = &[
    ("streams", &["stream", "inbound", "outbound"]),
    (
        "dialback",
        &[
            "dialback",
            "inbound::dialback",
            "outbound::verify",
            "outbound::stream",
            "stream::pair",
        ],
    ),
    ("dns", &["resolve", "outbound::connect"]),
    (
        "tls",
        &["tls", "inbound::external", "outbound::connect", "outbound::opening"],
    ),
    ("links", &["router", "clusters"]),
    ("config", &["config", "reload"]),
    ("control", &["control", "admin"]),
    ("refused", &["refusal", "observe::log_rate"]),
];

/// The crate's name as its lines carry it; people write `edge`.
const CRATE: &str = "xmpp_federation_edge";

/// Reads a level such as `info`, `info,dialback=debug` or `info,edge::dialback=debug`.
pub fn parse_level(text: &str) -> Result<Targets, LevelError> {
    let error = || LevelError::Unknown(text.to_owned());
    let mut directives = Vec::new();
    for part in text.split(',').map(str::trim) {
        let Some((module, level)) = part.split_once('=') else {
            // A bare word that is no level would be read as a module whose every line is wanted.
            if !is_level(part) {
                return Err(error());
            }
            directives.push(part.to_owned());
            continue;
        };
        if module.is_empty() || !is_level(level) {
            return Err(error());
        }
        let topic = TOPICS.iter().find(|(topic, _)| *topic == module);
        match (topic, module.strip_prefix("edge")) {
            (Some((_, modules)), _) => {
                let modules = modules.iter();
                directives.extend(modules.map(|module| format!("{CRATE}::{module}={level}")));
            }
            (None, Some(rest)) if rest.is_empty() || rest.starts_with("::") => {
                directives.push(format!("{CRATE}{rest}={level}"));
            }
            _ => directives.push(format!("{module}={level}")),
        }
    }
    directives.join(",").parse().map_err(|_| error())
}

fn is_level(text: &str) -> bool {
    // The empty text would be read as a level too.
    !text.is_empty() && text.parse::<tracing::level_filters::LevelFilter>().is_ok()
}

/// Changes the level of a running process.
#[derive(Debug, Clone)]
pub struct LogLevel {
    handle: reload::Handle<Targets, Registry>,
    current: Arc<Mutex<String>>,
    dropped: DroppedLines,
    writing: Arc<Mutex<Option<WorkerGuard>>>,
}

/// Lines that were not written, since the process started.
#[derive(Debug, Clone)]
pub struct DroppedLines {
    output: ErrorCounter,
    libraries: Arc<AtomicU64>,
}

impl DroppedLines {
    /// Standard output was not read fast enough.
    pub fn by_output(&self) -> u64 {
        self.output.dropped_lines() as u64
    }

    /// Libraries wrote more than their share of a minute.
    pub fn of_libraries(&self) -> u64 {
        self.libraries.load(Ordering::Relaxed)
    }
}

/// Holds the lines of libraries to their rate, except those of `debug` and `trace`: only an
/// administrator switches these on.
#[derive(Debug)]
struct LibraryRate {
    minute: Mutex<(Instant, u32)>,
    dropped: Arc<AtomicU64>,
}

impl LibraryRate {
    fn new(dropped: Arc<AtomicU64>) -> Self {
        Self {
            minute: Mutex::new((Instant::now(), 0)),
            dropped,
        }
    }

    fn admit(&self, target: &str, level: Level, now: Instant) -> bool {
        let own = target
            .strip_prefix(CRATE)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
        if own || level > Level::INFO {
            return true;
        }
        let mut minute = self.minute.lock();
        if now.duration_since(minute.0) >= Duration::from_mins(1) {
            *minute = (now, 0);
        }
        if minute.1 < LIBRARIES {
            minute.1 += 1;
            return true;
        }
        self.dropped.fetch_add(1, Ordering::Relaxed);
        false
    }
}

impl<S: Subscriber> Filter<S> for LibraryRate {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        let metadata = event.metadata();
        self.admit(metadata.target(), *metadata.level(), Instant::now())
    }
}

impl LogLevel {
    /// Takes effect with the next line.
    pub fn set(&self, text: &str) -> Result<(), LevelError> {
        self.handle.reload(parse_level(text)?)?;
        let mut current = self.current.lock();
        text.clone_into(&mut current);
        Ok(())
    }

    /// The level in force, as it was set.
    pub fn get(&self) -> String {
        self.current.lock().clone()
    }

    /// Lines that were not written.
    pub fn dropped(&self) -> DroppedLines {
        self.dropped.clone()
    }

    /// The process ends: waits a moment for the last lines, and not longer if nobody reads them.
    pub fn finish(&self) {
        let writing = self.writing.lock();
        let guard = { writing }.take();
        let (done, written) = mpsc::channel();
        // While standard output takes nothing, the guard does not come back: it gets a thread.
        let thread = std::thread::Builder::new().spawn(move || {
            drop(guard);
            let _ = done.send(());
        });
        if thread.is_ok() {
            let _ = written.recv_timeout(LAST_LINES);
        }
    }
}

/// Begins to log; once per process.
pub fn start(level: &str) -> Result<LogLevel, LevelError> {
    let (filter, handle) = reload::Layer::new(parse_level(level)?);
    let (output, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(WAITING)
        .thread_name("log")
        .finish(std::io::stdout());
    let dropped = DroppedLines {
        output: output.error_counter(),
        libraries: Arc::default(),
    };
    let lines = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_writer(output)
        .with_filter(LibraryRate::new(dropped.libraries.clone()));
    tracing_subscriber::registry().with(filter).with(lines).init();
    Ok(LogLevel {
        handle,
        current: Arc::new(Mutex::new(level.to_owned())),
        dropped,
        writing: Arc::new(Mutex::new(Some(guard))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use tracing::Level;

    #[rstest]
    #[case("info", "xmpp_federation_edge::inbound", Level::INFO, true)]
    #[case("info", "xmpp_federation_edge::inbound", Level::DEBUG, false)]
    #[case("info,edge::dialback=debug", "xmpp_federation_edge::dialback", Level::DEBUG, true)]
    #[case("info,edge::dialback=debug", "xmpp_federation_edge::inbound", Level::DEBUG, false)]
    #[case("warn,edge=info", "hickory_resolver", Level::INFO, false)]
    #[case("info,dialback=debug", "xmpp_federation_edge::inbound::dialback", Level::DEBUG, true)]
    #[case("info,dialback=debug", "xmpp_federation_edge::inbound::session", Level::DEBUG, false)]
    #[case("warn, links=info", "xmpp_federation_edge::router::link", Level::INFO, true)]
    #[case("info,hickory_resolver=debug", "hickory_resolver::x", Level::DEBUG, true)]
    fn levels_apply_to_their_parts(
        #[case] text: &str,
        #[case] target: &str,
        #[case] level: Level,
        #[case] logged: bool,
    ) {
        let filter = parse_level(text).map(|targets| targets.would_enable(target, &level));
        assert_eq!(filter.unwrap(), logged);
    }

    #[test]
    fn libraries_have_so_many_lines_a_minute_unless_an_administrator_asks_for_more() {
        let rate = LibraryRate::new(Arc::default());
        let began = Instant::now();
        let written = |target, level, now| {
            let all = (0..1000).filter(|_| rate.admit(target, level, now));
            all.count()
        };
        let most = LIBRARIES as usize;
        assert_eq!(written("rustls::check", Level::WARN, began), most);
        assert_eq!(written("log", Level::ERROR, began), 0);
        assert_eq!(written("rustls::check", Level::DEBUG, began), 1000);
        assert_eq!(written("xmpp_federation_edge", Level::WARN, began), 1000);
        let own = "xmpp_federation_edge::inbound::session";
        assert_eq!(written(own, Level::INFO, began), 1000);
        assert_eq!(rate.dropped.load(Ordering::Relaxed), 2000 - u64::from(LIBRARIES));
        let next = began + Duration::from_mins(1);
        assert_eq!(written("hickory_net::udp", Level::WARN, next), most);
    }

    #[test]
    fn every_topic_stands_for_modules_that_exist() {
        let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        for module in TOPICS.iter().flat_map(|(_, modules)| *modules) {
            let path = source.join(module.replace("::", "/"));
            let found = path.with_extension("rs").exists() || path.join("mod.rs").exists();
            assert!(found, "{module} is no module");
        }
    }

    #[rstest]
    #[case("")]
    #[case("verbose")]
    #[case("info,")]
    #[case("edge=loud")]
    #[case("info,dialback")]
    #[case("info,=debug")]
    fn what_is_no_level_is_refused_with_an_example(#[case] text: &str) {
        let error = parse_level(text).map(drop).map_err(|error| error.to_string());
        assert!(error.is_err_and(|error| error.contains("info,edge::dialback=debug")));
    }
}
