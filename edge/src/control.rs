//! The control socket: a Unix socket for whoever may run commands in the pod.
//!
//! One JSON object per line each way: `{"command":"retry","domain":"vngtp.lab"}` is answered by
//! `{"result":…}` or `{"error":"…"}`.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use xmpp_federation_core::Domain;

use crate::admin::Admin;
use crate::logging::LogLevel;

/// What can be asked of a running edge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "camelCase", deny_unknown_fields)]
pub enum Request {
    /// Open streams with peers, state of dialback included.
    Connections,
    /// Closes one stream in an orderly way.
    Close {
        /// Its number in `connections`.
        id: u64,
    },
    /// All remote domains whose last attempt failed, with reasons.
    Failures,
    /// Forgets the back-off of a remote domain, or of all and of the links.
    Retry {
        /// The remote domain; absent: all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        domain: Option<String>,
    },
    /// Sets the log level until the next change of `log.level` or the end of the process.
    Log {
        /// As `log.level` in the configuration.
        level: String,
    },
    /// What `/status` tells.
    Status,
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
    /// process is replaced.
    pub fn bind(path: &Path, admin: Admin, level: LogLevel) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self {
            listener,
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
                        // Whoever hangs up early does not want the answer.
                        let _ = converse(stream, &admin, &level).await;
                    });
                }
                Err(error) => {
                    tracing::warn!(reason = %error, path = %self.path.display(), "the control socket accepts no connection");
                    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                }
            }
        }
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
            Ok(request) => answer(request, admin, level),
            Err(error) => Response::Error(format!("the request is not understood: {error}")),
        };
        let mut text = serde_json::to_string(&response).map_err(io::Error::other)?;
        text.push('\n');
        writer.write_all(text.as_bytes()).await?;
    }
}

fn answer(request: Request, admin: &Admin, level: &LogLevel) -> Response {
    let edge = admin.edge();
    let value = |value: Result<Value, serde_json::Error>| match value {
        Ok(value) => Response::Result(value),
        Err(error) => Response::Error(error.to_string()),
    };
    match request {
        Request::Connections => value(serde_json::to_value(edge.registry.streams())),
        Request::Failures => value(serde_json::to_value(edge.registry.failing_partners())),
        Request::Status => value(serde_json::to_value(admin.status())),
        Request::Close { id } if edge.registry.close(id) => {
            Response::Result(json!({"closing": id}))
        }
        Request::Close { id } => Response::Error(format!(
            "there is no stream {id}; `connections` lists the open ones"
        )),
        Request::Retry { domain: None } => {
            edge.retry(None);
            Response::Result(json!({"retrying": "all"}))
        }
        Request::Retry { domain: Some(text) } => match Domain::parse(&text) {
            Ok(domain) => {
                edge.retry(Some(&domain));
                Response::Result(json!({"retrying": domain}))
            }
            Err(error) => Response::Error(error.to_string()),
        },
        Request::Log { level: text } => match level.set(&text) {
            Ok(()) => {
                tracing::info!(
                    level = text,
                    "the log level was changed through the control socket"
                );
                Response::Result(json!({"level": text}))
            }
            Err(error) => Response::Error(error),
        },
    }
}

/// Asks a running edge; for `ctl`.
pub async fn ask(path: &Path, request: &Request) -> Result<Value, String> {
    let unreachable = |error: io::Error| {
        format!(
            "no edge answers at {}: {error}; is it running, and is listen.control set?",
            path.display()
        )
    };
    let mut stream = UnixStream::connect(path).await.map_err(unreachable)?;
    let mut line = serde_json::to_string(request).map_err(|error| error.to_string())?;
    line.push('\n');
    stream
        .write_all(line.as_bytes())
        .await
        .map_err(unreachable)?;
    let mut answer = String::new();
    BufReader::new(stream)
        .read_line(&mut answer)
        .await
        .map_err(unreachable)?;
    match serde_json::from_str(&answer) {
        Ok(Response::Result(value)) => Ok(value),
        Ok(Response::Error(error)) => Err(error),
        Err(error) => Err(format!("the edge's answer is not understood: {error}")),
    }
}
