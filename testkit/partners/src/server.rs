//! Real XMPP servers with configurations made for the lab; `testkit partner-server` becomes a Prosody with a single domain.

use std::net::IpAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

pub use super::config::{HostConfig, Kind, Proof, ServerConfig, Tls};
use super::{ejabberd, prosody};
use testkit_base::Error;

/// Arguments of `testkit partner-server`.
#[derive(Clone, Debug, clap::Args)]
pub struct ServerArgs {
    /// Folder for configuration, accounts, certificate and log; made when absent.
    #[arg(long)]
    pub dir: PathBuf,
    /// Addresses to listen on: 5269 for servers, 5222 for clients (without TLS: lab only).
    #[arg(long = "address", required = true)]
    pub addresses: Vec<IpAddr>,
    /// The resolver to ask, port 53.
    #[arg(long)]
    pub dns: IpAddr,
    /// The XMPP domain.
    #[arg(long)]
    pub domain: String,
    /// Users with their passwords.
    #[arg(long = "user", value_name = "NAME:PASSWORD", value_parser = parse_user)]
    pub users: Vec<(String, String)>,
    /// The server's log [default: server.log in the folder]
    #[arg(long)]
    pub log: Option<PathBuf>,
}

fn parse_user(text: &str) -> Result<(String, String), String> {
    text.split_once(':')
        .map(|(name, password)| (name.to_owned(), password.to_owned()))
        .ok_or_else(|| "write NAME:PASSWORD".to_owned())
}

/// Runs `testkit partner-server`; returns only when the server cannot be started.
pub fn run(args: &ServerArgs) -> Result<(), Error> {
    make_folder(&args.dir)?;
    let dir = args.dir.canonicalize()?;
    let host = HostConfig {
        domain: args.domain.clone(),
        tls: Tls::Required,
        proof: Proof::Any,
        certificate: Some(certificate(&dir, &args.domain)?),
        users: args.users.clone(),
    };
    let mut command = prepare(&ServerConfig {
        kind: Kind::Prosody,
        dir,
        addresses: args.addresses.clone(),
        dns: args.dns,
        log: args.log.clone(),
        ca: None,
        hosts: vec![host],
    })?;
    let error = command.exec();
    Err(format!("cannot start {}: {error}", command.get_program().display()).into())
}

fn make_folder(dir: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(dir).map_err(|error| format!("cannot make {}: {error}", dir.display()).into())
}

/// Writes everything the server needs and says how it is started: in the foreground. ejabberd makes its accounts when it is
/// up, and says `accounts are made` on standard output then; Prosody's are there from the start.
pub fn prepare(config: &ServerConfig) -> Result<Command, Error> {
    make_folder(&config.dir)?;
    // Servers resolve relative names against places of their own.
    let absolute = |path: &Option<PathBuf>| path.as_deref().map(std::path::absolute).transpose();
    let config = ServerConfig {
        dir: config.dir.canonicalize()?,
        log: absolute(&config.log)?,
        ca: absolute(&config.ca)?,
        ..config.clone()
    };
    match config.kind {
        Kind::Prosody => prosody::prepare(&config),
        Kind::Ejabberd => ejabberd::prepare(&config),
    }
}

/// A self-signed certificate for the domain; an existing one stays.
fn certificate(dir: &Path, domain: &str) -> Result<(PathBuf, PathBuf), Error> {
    let (certificate, key) = (dir.join("server.crt"), dir.join("server.key"));
    if !(certificate.exists() && key.exists()) {
        let made = rcgen::generate_simple_self_signed(vec![domain.to_owned()])?;
        std::fs::write(&certificate, made.cert.pem())?;
        std::fs::write(&key, made.signing_key.serialize_pem())?;
    }
    Ok((certificate, key))
}
