//! `testkit partner-server`: becomes a real XMPP server with a configuration made for the lab.

use std::net::IpAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::prosody;
use crate::Error;

/// Kinds of servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Debian's Prosody
    Prosody,
}

/// Arguments of `testkit partner-server`.
#[derive(Clone, Debug, clap::Args)]
pub struct ServerArgs {
    /// Which server
    #[arg(long, value_enum, default_value = "prosody")]
    pub kind: Kind,
    /// Folder for configuration, accounts, certificate and log; made when absent
    #[arg(long)]
    pub dir: PathBuf,
    /// Address to listen on: 5269 for servers, 5222 for clients (without TLS: lab only)
    #[arg(long)]
    pub address: IpAddr,
    /// The resolver to ask, port 53
    #[arg(long)]
    pub dns: IpAddr,
    /// The XMPP domain
    #[arg(long)]
    pub domain: String,
    /// Users with their passwords
    #[arg(long = "user", value_name = "NAME:PASSWORD", value_parser = parse_user)]
    pub users: Vec<(String, String)>,
    /// The server's log [default: server.log in the folder]
    #[arg(long)]
    pub log: Option<PathBuf>,
    /// CA file that partners' certificates are checked against; dialback decides either way
    #[arg(long)]
    pub ca: Option<PathBuf>,
}

fn parse_user(text: &str) -> Result<(String, String), String> {
    text.split_once(':')
        .map(|(name, password)| (name.to_owned(), password.to_owned()))
        .ok_or_else(|| "write NAME:PASSWORD".to_owned())
}

/// Runs `testkit partner-server`; returns only when the server cannot be started.
pub fn run(args: &ServerArgs) -> Result<(), Error> {
    let mut command = prepare(args)?;
    let error = command.exec();
    Err(format!("cannot start {}: {error}", command.get_program().display()).into())
}

/// Writes everything the server needs and says how it is started.
pub fn prepare(args: &ServerArgs) -> Result<Command, Error> {
    std::fs::create_dir_all(&args.dir)
        .map_err(|error| format!("cannot make {}: {error}", args.dir.display()))?;
    // Servers resolve relative names against places of their own.
    let args = ServerArgs {
        dir: args.dir.canonicalize()?,
        log: args.log.as_deref().map(std::path::absolute).transpose()?,
        ..args.clone()
    };
    match args.kind {
        Kind::Prosody => prosody::prepare(&args),
    }
}

/// A self-signed certificate for the domain; an existing one stays.
pub(super) fn certificate(dir: &Path, domain: &str) -> Result<(PathBuf, PathBuf), Error> {
    let (certificate, key) = (dir.join("server.crt"), dir.join("server.key"));
    if !(certificate.exists() && key.exists()) {
        let made = rcgen::generate_simple_self_signed(vec![domain.to_owned()])?;
        std::fs::write(&certificate, made.cert.pem())?;
        std::fs::write(&key, made.signing_key.serialize_pem())?;
    }
    Ok((certificate, key))
}
