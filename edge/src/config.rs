//! The configuration in force: the file and everything it names, as one immutable snapshot.

use std::collections::HashSet;
use std::sync::Arc;

use xmpp_federation_core::edge_config::EdgeConfig;
use xmpp_federation_core::{Domain, SecretBytes};

use crate::dialback::DialbackSecrets;
use crate::policy::Policy;
use crate::resolve::Resolver;
use crate::tls::TlsSettings;

/// One loaded configuration. Tasks take the current one from a
/// `tokio::sync::watch::Receiver<Arc<Live>>` whenever they decide something, so a reload is seen
/// at the next decision.
#[derive(Debug)]
pub struct Live {
    /// The file as read.
    pub config: EdgeConfig,
    /// SHA-256 of the file's bytes, lower-case hexadecimal.
    pub config_hash: String,
    /// The hosted domains, for look-up.
    pub hosted: HashSet<Domain>,
    /// Who may federate.
    pub policy: Policy,
    /// What dialback keys are made and checked with.
    pub dialback: DialbackSecrets,
    /// Certificates and their checks.
    pub tls: TlsSettings,
    /// Where domains are reached.
    pub resolver: Arc<Resolver>,
    /// Shared secret of each entry in `config.routers`, in that order.
    pub router_secrets: Vec<SecretBytes>,
}
