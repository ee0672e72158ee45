//! Logging: one JSON object per line on standard output, level switchable at run time.

use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, reload};

/// A level that is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{given:?} is not a log level: write error, warn, info, debug or trace, and parts apart as info,edge::dialback=debug"
)]
pub struct LevelError {
    given: String,
}

/// Reads a level such as `info` or `info,edge::dialback=debug`.
pub fn parse_level(text: &str) -> Result<Targets, LevelError> {
    let error = || LevelError {
        given: text.to_owned(),
    };
    // People write `edge`, the crate's name is longer.
    let parts = text
        .split(',')
        .map(|part| match part.trim().strip_prefix("edge") {
            Some(rest) if rest.is_empty() || rest.starts_with("::") || rest.starts_with('=') => {
                format!("xmpp_federation_edge{rest}")
            }
            _ => part.trim().to_owned(),
        });
    let text: Vec<String> = parts.collect();
    if text.iter().any(String::is_empty) {
        return Err(error());
    }
    // A bare word that is no level would be read as a module whose every line is wanted.
    let known = |part: &&String| {
        part.contains('=') || part.parse::<tracing::level_filters::LevelFilter>().is_ok()
    };
    if !text.iter().all(|part| known(&part)) {
        return Err(error());
    }
    text.join(",").parse().map_err(|_| error())
}

/// Changes the level of a running process.
#[derive(Debug, Clone)]
pub struct LogLevel(reload::Handle<Targets, Registry>);

impl LogLevel {
    /// Takes effect with the next line.
    pub fn set(&self, text: &str) -> Result<(), String> {
        let level = parse_level(text).map_err(|error| error.to_string())?;
        self.0
            .reload(level)
            .map_err(|error| format!("the log level cannot be changed: {error}"))
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
    Ok(LogLevel(handle))
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
    fn levels_apply_to_their_parts(
        #[case] text: &str,
        #[case] target: &str,
        #[case] level: Level,
        #[case] logged: bool,
    ) {
        let filter = parse_level(text).map(|targets| targets.would_enable(target, &level));
        assert_eq!(filter, Ok(logged));
    }

    #[rstest]
    #[case("")]
    #[case("verbose")]
    #[case("info,")]
    #[case("edge=loud")]
    fn what_is_no_level_is_refused_with_an_example(#[case] text: &str) {
        let error = parse_level(text)
            .map(drop)
            .map_err(|error| error.to_string());
        assert!(error.is_err_and(|error| error.contains("info,edge::dialback=debug")));
    }
}
