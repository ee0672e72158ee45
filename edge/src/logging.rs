//! Logging: one JSON object per line on standard output, level switchable at run time.

use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, reload};

/// A level that is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{given:?} is not a log level: write error, warn, info, debug or trace, and parts apart as info,dialback=debug or info,edge::dialback=debug"
)]
pub struct LevelError {
    given: String,
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
        ],
    ),
    ("dns", &["resolve", "outbound::connect"]),
    (
        "tls",
        &[
            "tls",
            "inbound::external",
            "outbound::connect",
            "outbound::opening",
        ],
    ),
    ("links", &["router"]),
    ("config", &["config", "reload"]),
    ("control", &["control", "admin"]),
    ("refused", &["refusal", "log_rate"]),
];

/// The crate's name as its lines carry it; people write `edge`.
const CRATE: &str = "xmpp_federation_edge";

/// Reads a level such as `info`, `info,dialback=debug` or `info,edge::dialback=debug`.
pub fn parse_level(text: &str) -> Result<Targets, LevelError> {
    let error = || LevelError {
        given: text.to_owned(),
    };
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
}

impl LogLevel {
    /// Takes effect with the next line.
    pub fn set(&self, text: &str) -> Result<(), String> {
        let level = parse_level(text).map_err(|error| error.to_string())?;
        self.handle
            .reload(level)
            .map_err(|error| format!("the log level cannot be changed: {error}"))?;
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        text.clone_into(&mut current);
        Ok(())
    }

    /// The level in force, as it was set.
    pub fn get(&self) -> String {
        self.current
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Begins to log; once per process.
pub fn start(level: &str) -> Result<LogLevel, LevelError> {
    let (filter, handle) = reload::Layer::new(parse_level(level)?);
    let lines = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false);
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .init();
    Ok(LogLevel {
        handle,
        current: Arc::new(Mutex::new(level.to_owned())),
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
    #[case(
        "info,edge::dialback=debug",
        "xmpp_federation_edge::dialback",
        Level::DEBUG,
        true
    )]
    #[case(
        "info,edge::dialback=debug",
        "xmpp_federation_edge::inbound",
        Level::DEBUG,
        false
    )]
    #[case("warn,edge=info", "hickory_resolver", Level::INFO, false)]
    #[case(
        "info,dialback=debug",
        "xmpp_federation_edge::inbound::dialback",
        Level::DEBUG,
        true
    )]
    #[case(
        "info,dialback=debug",
        "xmpp_federation_edge::inbound::session",
        Level::DEBUG,
        false
    )]
    #[case(
        "warn, links=info",
        "xmpp_federation_edge::router::link",
        Level::INFO,
        true
    )]
    #[case(
        "info,hickory_resolver=debug",
        "hickory_resolver::x",
        Level::DEBUG,
        true
    )]
    fn levels_apply_to_their_parts(
        #[case] text: &str,
        #[case] target: &str,
        #[case] level: Level,
        #[case] logged: bool,
    ) {
        let filter = parse_level(text).map(|targets| targets.would_enable(target, &level));
        assert_eq!(filter, Ok(logged));
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
        let error = parse_level(text)
            .map(drop)
            .map_err(|error| error.to_string());
        assert!(error.is_err_and(|error| error.contains("info,edge::dialback=debug")));
    }
}
