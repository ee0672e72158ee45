//! The control socket: a Unix socket for users who may run commands in the pod.
//!
//! One JSON object per line each way: `{"command":"retry","domain":"vngtp.lab"}` is answered by
//! `{"result":…}` or `{"error":"…"}`; a trace by a result per line until its time is over or the
//! asking side hangs up.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use socket2::{SockAddr, Socket, Type};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{Instant, sleep_until, timeout_at};
use xmpp_federation_core::edge_config::{HumanDuration, ValueError};
use xmpp_federation_core::{Domain, DomainError};

use crate::admin::Admin;
use crate::logging::{LevelError, LogLevel};
use crate::observe::trace::{Filter, FilterError, MAX_TRACERS, Subscription};

/// What can be asked of a running edge: the commands of `ctl`, and a line of JSON each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, clap::Subcommand)]
#[serde(tag = "command", rename_all = "camelCase", deny_unknown_fields)]
pub enum Request {
    /// Open streams with peers: direction, address, TLS, certificate, authenticated pairs, traffic.
    Connections {
        /// Only those of this remote domain.
        #[arg(long)]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        peer: Option<String>,
    },
    /// Close one stream by its number in `connections`.
    Close {
        /// The number.
        id: u64,
    },
    /// The last attempts that failed, by remote domain: when, at which stage, and why.
    Failures {
        /// The remote domain; absent: all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        domain: Option<String>,
    },
    /// Try a remote domain again at once; without one: all, and the links.
    Retry {
        /// The remote domain.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        domain: Option<String>,
    },
    /// Tell the log level, or set it until the configuration's changes: `info`, or
    /// `info,dialback=debug`. Topics: streams, dialback, dns, tls, links, config, control, refused;
    /// single modules as `edge::inbound::session`.
    Log {
        /// The level; absent: the one in force is told.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        level: Option<String>,
    },
    /// Configuration, links, failing partners, numbers of streams.
    Status,
    /// Watch what is said on streams, until interrupted or the time is over. Keys are never shown.
    Trace {
        /// A remote domain, or an address with or without port.
        #[arg(long)]
        peer: String,
        /// Show whole stanzas: people's messages.
        #[arg(long)]
        #[serde(default)]
        bodies: bool,
        /// For how long: `30s`, `5m`, `1h`.
        #[arg(long = "for", value_name = "TIME", default_value = "10m", value_parser = seconds)]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seconds: Option<u64>,
    },
}

fn seconds(text: &str) -> Result<u64, ValueError> {
    text.parse().map(|HumanDuration(time)| time.as_secs().max(1))
}

/// The answer to a request.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Response {
    /// Done; with what was asked for.
    Result(Value),
    /// Not done; a sentence.
    Error(String),
}

/// Why a request is not answered with what it asks for.
#[derive(Debug, thiserror::Error)]
enum RequestError {
    #[error("the request is not understood: {0}")]
    Unknown(serde_json::Error),
    #[error(transparent)]
    Domain(#[from] DomainError),
    #[error(transparent)]
    Filter(#[from] FilterError),
    #[error("{MAX_TRACERS} traces are running already; end one of them first")]
    Traces,
    #[error("there is no stream {0}; `connections` lists the open ones")]
    Stream(u64),
    #[error(transparent)]
    Level(#[from] LevelError),
    #[error(transparent)]
    Answer(#[from] serde_json::Error),
}

/// Why `ctl` has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody is there.
    #[error("no edge answers at {}: {error}; is it running, and is listen.control set?", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// The connection broke.
    #[error("the edge's answer cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It is no answer.
    #[error("the edge's answer is not understood: {0}")]
    Unknown(#[from] serde_json::Error),
    /// The edge says why.
    #[error("{0}")]
    Refused(String),
    /// It says nothing.
    #[error("the edge ended the connection without an answer")]
    Ended,
}

/// How long a trace runs if nothing else is said, seconds.
const TRACE_SECONDS: u64 = 600;
/// How long one may run.
const MAX_TRACE_SECONDS: u64 = 24 * 3600;
/// Connections that may wait to be accepted.
const WAITING: i32 = 128;
/// Longest request line.
const MAX_LINE: u64 = 16 * 1024;

/// Serves the control socket.
#[derive(Debug)]
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
    admin: Admin,
    level: LogLevel,
}

impl Control {
    /// Listens at a path that only this user may connect to; a socket left behind by an earlier
    /// process is replaced, and nothing else.
    pub fn bind(path: &Path, admin: Admin, level: LogLevel) -> io::Result<Self> {
        remove_stale(path)?;
        let socket = Socket::new(socket2::Domain::UNIX, Type::STREAM, None)?;
        socket.bind(&SockAddr::unix(path)?)?;
        // Before it listens: nobody connects with other permissions.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        socket.listen(WAITING)?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            listener: UnixListener::from_std(socket.into())?,
            path: path.to_owned(),
            admin,
            level,
        })
    }

    /// Serves until the process ends.
    pub async fn serve(self) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let (admin, level) = (self.admin.clone(), self.level.clone());
                    tokio::spawn(async move {
                        // A client that hangs up early does not want the answer.
                        let _ = converse(stream, &admin, &level).await;
                    });
                }
                Err(error) => {
                    tracing::warn!(reason = %error, path = %self.path.display(), "the control socket accepts no connection");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }
}

/// Removes the socket of a process that is gone.
fn remove_stale(path: &Path) -> io::Result<()> {
    let taken = |kind, why: &str| {
        let remedy = "give listen.control another path";
        Err(io::Error::new(kind, format!("{why}, or {remedy}")))
    };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(found) if !found.file_type().is_socket() => {
            let why = "there is something that is not a socket; move it away";
            return taken(io::ErrorKind::AlreadyExists, why);
        }
        Ok(_) => {}
    }
    let socket = Socket::new(socket2::Domain::UNIX, Type::STREAM, None)?;
    // A process that does not accept must not hold this one.
    socket.set_nonblocking(true)?;
    match socket.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        _ => taken(io::ErrorKind::AddrInUse, "another process answers there; stop it"),
    }
}

async fn converse(stream: UnixStream, admin: &Admin, level: &LogLevel) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::with_capacity(1024, reader);
    loop {
        let mut line = String::new();
        if (&mut reader).take(MAX_LINE).read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let response = match serde_json::from_str(&line) {
            Ok(Request::Trace { peer, bodies, seconds }) => match watch(admin, &peer, bodies) {
                Ok(watching) => {
                    let seconds = seconds.unwrap_or(TRACE_SECONDS).min(MAX_TRACE_SECONDS);
                    return trace(watching, &mut reader, &mut writer, seconds).await;
                }
                Err(error) => Err(error),
            },
            Ok(request) => answer(request, admin, level),
            Err(error) => Err(RequestError::Unknown(error)),
        };
        let response = response.map_or_else(|error| Response::Error(error.to_string()), Response::Result);
        say(&mut writer, &response).await?;
    }
}

async fn say(writer: &mut OwnedWriteHalf, response: &Response) -> io::Result<()> {
    let mut text = serde_json::to_string(response).map_err(io::Error::other)?;
    text.push('\n');
    writer.write_all(text.as_bytes()).await
}

fn watch(admin: &Admin, peer: &str, bodies: bool) -> Result<Subscription, RequestError> {
    let filter = Filter::parse(peer)?;
    let watching = admin.edge().registry.tracers.watch(filter, bodies);
    watching.ok_or(RequestError::Traces)
}

/// Tells lines until the time is over or the other side hangs up.
async fn trace(
    mut watching: Subscription,
    reader: &mut BufReader<OwnedReadHalf>,
    writer: &mut OwnedWriteHalf,
    seconds: u64,
) -> io::Result<()> {
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut ignored = [0; 64];
    loop {
        let line = tokio::select! {
            line = watching.next() => line,
            () = sleep_until(end) => None,
            read = reader.read(&mut ignored) => match read? {
                0 => return Ok(()),
                _ => continue,
            },
        };
        let Some(line) = line else {
            return Ok(());
        };
        let value = serde_json::to_value(line).map_err(io::Error::other)?;
        // A reader that takes nothing must not keep the trace for ever.
        match timeout_at(end, say(writer, &Response::Result(value))).await {
            Ok(said) => said?,
            Err(_) => return Ok(()),
        }
    }
}

fn answer(request: Request, admin: &Admin, level: &LogLevel) -> Result<Value, RequestError> {
    let edge = admin.edge();
    let domain = |text: Option<String>| text.map(|text| Domain::parse(&text)).transpose();
    Ok(match request {
        Request::Connections { peer } => serde_json::to_value(edge.streams(domain(peer)?.as_ref()))?,
        Request::Failures { domain: only } => serde_json::to_value(edge.failures(domain(only)?.as_ref()))?,
        // Told before, line by line.
        Request::Trace { .. } => Value::Null,
        Request::Status => serde_json::to_value(admin.status())?,
        Request::Close { id } if edge.registry.close(id) => json!({"closing": id}),
        Request::Close { id } => return Err(RequestError::Stream(id)),
        Request::Retry { domain: only } => {
            let only = domain(only)?;
            edge.retry(only.as_ref());
            json!({"retrying": only.as_ref().map_or("all", Domain::as_str)})
        }
        Request::Log { level: None } => json!({"level": level.get()}),
        Request::Log { level: Some(text) } => {
            level.set(&text)?;
            tracing::info!(level = text, "the log level was changed through the control socket");
            json!({"level": text})
        }
    })
}

/// Asks a running edge; for `ctl`.
pub async fn ask(path: &Path, request: &Request) -> Result<Value, ControlError> {
    let mut answers = Answers::new(path, request).await?;
    answers.next().await?.ok_or(ControlError::Ended)
}

/// A request whose answers come one by one.
#[derive(Debug)]
pub struct Answers {
    reader: BufReader<OwnedReadHalf>,
    /// Kept open: its end would say that nobody listens any more.
    _writer: OwnedWriteHalf,
}

impl Answers {
    /// Asks.
    pub async fn new(path: &Path, request: &Request) -> Result<Self, ControlError> {
        let unreachable = |error| ControlError::Unreachable {
            path: path.to_owned(),
            error,
        };
        let stream = UnixStream::connect(path).await.map_err(unreachable)?;
        let (reader, mut writer) = stream.into_split();
        let mut line = serde_json::to_string(request)?;
        line.push('\n');
        writer.write_all(line.as_bytes()).await.map_err(unreachable)?;
        Ok(Self {
            reader: BufReader::new(reader),
            _writer: writer,
        })
    }

    /// The next answer; `None` when there are no more.
    pub async fn next(&mut self) -> Result<Option<Value>, ControlError> {
        let mut answer = String::new();
        if self.reader.read_line(&mut answer).await? == 0 {
            return Ok(None);
        }
        match serde_json::from_str(&answer)? {
            Response::Result(value) => Ok(Some(value)),
            Response::Error(error) => Err(ControlError::Refused(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::config::fixture::Folder;

    #[test]
    fn only_the_socket_of_a_process_that_is_gone_is_removed() {
        let folder = Folder::new();
        let path = folder.path().join("control");
        remove_stale(&path).unwrap();

        folder.write("control", "somebody's");
        let error = remove_stale(&path).unwrap_err().to_string();
        assert!(error.contains("not a socket"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "somebody's");
        std::fs::remove_file(&path).unwrap();

        let other = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let error = remove_stale(&path).unwrap_err().to_string();
        assert!(error.contains("another process"), "{error}");
        // Also one that does not get round to accepting.
        let waiting: Vec<_> = std::iter::from_fn(|| {
            let socket = Socket::new(socket2::Domain::UNIX, Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            let connected = socket.connect(&SockAddr::unix(&path).unwrap());
            connected.is_ok().then_some(socket)
        })
        .take(10_000)
        .collect();
        assert!(remove_stale(&path).is_err(), "{} wait", waiting.len());
        drop(other);

        remove_stale(&path).unwrap();
        assert!(!path.exists());
    }
}
