//! JSON lines on standard output.

use tracing_subscriber::EnvFilter;

/// Starts logging. `directives` is a list such as `info` or `info,kube=debug`; the environment
/// variable `RUST_LOG` wins over it.
pub fn init(directives: &str) -> Result<(), String> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(value) if !value.is_empty() => EnvFilter::try_new(&value)
            .map_err(|error| format!("RUST_LOG {value:?} is no list of log directives: {error}"))?,
        _ => EnvFilter::try_new(directives).map_err(|error| {
            format!("{directives:?} is no list of log directives: {error}; use for example info")
        })?,
    };
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_env_filter(filter)
        .try_init()
        .map_err(|error| format!("logging was started twice: {error}"))
}

/// The same on standard error, for a command whose output is something else.
pub fn to_stderr(directives: &str) -> Result<(), String> {
    let filter = EnvFilter::try_new(directives).map_err(|error| {
        format!("{directives:?} is no list of log directives: {error}; use for example info")
    })?;
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .try_init()
        .map_err(|error| format!("logging was started twice: {error}"))
}
