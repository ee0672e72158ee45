//! JSON lines: on standard output, or on standard error for a command whose output is another.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Starts logging. `directives` is a list such as `info` or `info,kube=debug`; the environment
/// variable `RUST_LOG` wins over it.
pub fn init(directives: &str) -> Result<(), String> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(value) if !value.is_empty() => EnvFilter::try_new(&value)
            .map_err(|error| format!("RUST_LOG {value:?} is no list of log directives: {error}"))?,
        _ => filter(directives)?,
    };
    start(filter, std::io::stdout)
}

/// The same on standard error, by `directives` alone.
pub fn to_stderr(directives: &str) -> Result<(), String> {
    start(filter(directives)?, std::io::stderr)
}

/// The operator tells itself, in sentences and not at each try, what these tell of failed requests and watches.
const LIBRARIES: &str = "kube_runtime::watcher=error,kube_client::client::builder=off";

fn filter(directives: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(format!("{LIBRARIES},{directives}"))
        .map_err(|error| format!("{directives:?} is no list of log directives: {error}; use for example info"))
}

fn start<W>(filter: EnvFilter, writer: W) -> Result<(), String>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_env_filter(filter)
        .with_writer(writer)
        .try_init()
        .map_err(|error| format!("logging was started twice: {error}"))
}
