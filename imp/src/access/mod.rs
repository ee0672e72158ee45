//! How a cluster is reached: names, addresses, accounts, trust.

mod host;
mod version;

use std::collections::BTreeMap;

use jiff::Timestamp;
use xmpp_federation_core::{Fingerprint, SecretBytes};

pub use host::{A_HOST, Host, HostError};
pub use version::{AxlVersion, AxlVersionError};

/// How to reach an IM&P cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// Name of the entry in `spec.imp`.
    pub name: String,
    /// Host name or address of the publisher, lower case.
    pub publisher: String,
    /// HTTPS port of AXL and Control Center, 8443 by default.
    pub port: u16,
    /// Fixed AXL version; `None`: detected.
    pub axl_version: Option<AxlVersion>,
    /// Hosts to use instead, by node name (lower case); names not in here are resolved.
    pub addresses: BTreeMap<String, NodeAddress>,
    /// Account for AXL.
    pub axl: Credentials,
    /// Account for Control Center; `None`: the same.
    pub control_center: Option<Credentials>,
    /// How the nodes' certificates are judged.
    pub tls: ServerTrust,
}

impl Target {
    /// Changes when anything about reaching the cluster does; the first line tells where the publisher is.
    pub(crate) fn key(&self) -> String {
        let account = |account: &Credentials| format!("{}/{}", account.secret.uid, account.secret);
        let trust = match &self.tls {
            ServerTrust::Ca { pem, .. } => format!("{:?}", Fingerprint::of(pem)),
            ServerTrust::Pinned(pinned) => format!("{pinned:?}"),
            ServerTrust::Insecure => "insecure".to_owned(),
        };
        format!(
            "{}:{} {:?}\n{:?}\n{:?}\n{}\n{}\n{trust}",
            self.publisher,
            self.port,
            self.addresses.get(&self.publisher),
            self.addresses,
            self.axl_version,
            account(&self.axl),
            self.control_center.as_ref().map(account).unwrap_or_default(),
        )
    }

    /// `https://host:port` of a host, with its override.
    pub(crate) fn server(&self, host: &str) -> String {
        let port = self.addresses.get(host).and_then(|address| address.port);
        let port = port.unwrap_or(self.port);
        if host.contains(':') {
            format!("https://[{host}]:{port}")
        } else {
            format!("https://{host}:{port}")
        }
    }
}

/// Where a node answers instead of what its name resolves to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeAddress {
    /// The host. Certificates are for the node's own name all the same.
    pub host: Host,
    /// The HTTPS port, where it is not the target's.
    pub port: Option<u16>,
}

impl<T: Into<Host>> From<T> for NodeAddress {
    fn from(host: T) -> Self {
        let host = host.into();
        Self { host, port: None }
    }
}

/// A user name and password read from a Secret.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// Where they come from.
    pub secret: SecretVersion,
    /// User name.
    pub username: String,
    /// Password.
    pub password: SecretBytes,
}

impl PartialEq for Credentials {
    /// A version of a Secret has one content.
    fn eq(&self, other: &Self) -> bool {
        self.secret == other.secret
    }
}

/// One version of a Secret: its content as it was read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretVersion {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID: a Secret deleted and created again is another one.
    pub uid: String,
    /// `metadata.resourceVersion`.
    pub resource_version: String,
}

impl std::fmt::Display for SecretVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}/{} (resourceVersion {})",
            self.namespace, self.name, self.resource_version
        )
    }
}

/// How a node's certificate is judged; exactly one way.
#[derive(Debug, Clone, PartialEq)]
pub enum ServerTrust {
    /// It must chain to one of these certificates (PEM) and carry the host's name.
    Ca {
        /// One or more certificates.
        pem: Vec<u8>,
        /// Where they come from, for messages: `Secret imp-ca, key ca.crt`.
        source: String,
    },
    /// The leaf's SHA-256 fingerprint must be one of these; neither name nor issuer count.
    Pinned(Vec<Fingerprint>),
    /// Anything is accepted: the explicit opt-out.
    Insecure,
}

/// Why an account rests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginHold {
    /// When it was answered 401, or may have been.
    pub since: Timestamp,
    /// When it is tried again at the earliest.
    pub retry_at: Timestamp,
    /// `namespace/name` of another Secret with the same account that was used then.
    pub other: Option<String>,
    /// Whether the answer is known: `false` where an operator ended during the call.
    pub told: bool,
}
