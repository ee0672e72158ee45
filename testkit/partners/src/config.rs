//! What a server of the lab is to be like.

use std::net::IpAddr;
use std::path::PathBuf;

/// Kinds of servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Debian's Prosody.
    Prosody,
    /// Debian's ejabberd.
    Ejabberd,
}

/// What a server wants of the streams between servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tls {
    /// TLS, or nothing.
    Required,
    /// TLS where the other side takes part.
    Optional,
    /// TLS neither offered nor used.
    Off,
}

/// What convinces a server of who the other one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Proof {
    /// SASL EXTERNAL where the certificate is good for it, dialback otherwise.
    Any,
    /// Only a certificate: no dialback.
    Certificate,
}

/// One process of an XMPP server.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Which server.
    pub kind: Kind,
    /// Folder for configuration, accounts and log; made when absent.
    pub dir: PathBuf,
    /// Addresses to listen on: 5269 for servers, 5222 for clients (without TLS: lab only). Prosody connects to others over
    /// the family of the first one, ejabberd over each that is here.
    pub addresses: Vec<IpAddr>,
    /// The resolver to ask, port 53.
    pub dns: IpAddr,
    /// The server's log; absent: `server.log` in the folder.
    pub log: Option<PathBuf>,
    /// CA file that other servers' certificates are checked against; absent: none is good.
    pub ca: Option<PathBuf>,
    /// Virtual hosts.
    pub hosts: Vec<HostConfig>,
}

/// One domain of a server.
#[derive(Clone, Debug)]
pub struct HostConfig {
    /// The XMPP domain, as the server knows it: a U-label where it is international.
    pub domain: String,
    /// TLS with other servers.
    pub tls: Tls,
    /// Who is believed.
    pub proof: Proof,
    /// Files of certificate and key; absent: the host has none.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Users with their passwords.
    pub users: Vec<(String, String)>,
}

impl ServerConfig {
    pub(super) fn log_file(&self) -> PathBuf {
        self.log.clone().unwrap_or_else(|| self.dir.join("server.log"))
    }
}
