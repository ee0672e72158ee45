//! How a cluster's nodes are reached.

use xmpp_federation_core::Fingerprint;

use crate::access::{AxlVersion, Credentials, NodeAddress, ServerTrust, Target};
use crate::axl::Axl;
use crate::control_center::ControlCenter;
use crate::http::Caller;

/// Changes when anything about reaching the cluster does; the first line is the publisher.
pub(super) fn target_key(target: &Target) -> String {
    let account = |account: &Credentials| format!("{}/{}", account.secret.uid, account.secret);
    let trust = match &target.tls {
        ServerTrust::Ca { pem, .. } => format!("{:?}", Fingerprint::of(pem)),
        ServerTrust::Pinned(pinned) => format!("{pinned:?}"),
        ServerTrust::Insecure => "insecure".to_owned(),
    };
    format!(
        "{}:{}\n{:?}\n{:?}\n{}\n{}\n{trust}",
        target.publisher,
        target.port,
        target.addresses,
        target.axl_version,
        account(&target.axl),
        target.control_center.as_ref().map(account).unwrap_or_default(),
    )
}

/// `https://host:port` of a host, with its override.
pub(crate) fn server(target: &Target, host: &str) -> String {
    let port = target
        .addresses
        .get(host)
        .and_then(|address: &NodeAddress| address.port)
        .unwrap_or(target.port);
    if host.contains(':') {
        format!("https://[{host}]:{port}")
    } else {
        format!("https://{host}:{port}")
    }
}

pub(super) fn axl<'a>(caller: &'a Caller, target: &'a Target, version: Option<AxlVersion>) -> Axl<'a> {
    Axl {
        caller,
        server: server(target, &target.publisher),
        account: &target.axl,
        fixed: target.axl_version,
        version,
    }
}

pub(super) fn control_center<'a>(caller: &'a Caller, target: &'a Target, node: &'a str) -> ControlCenter<'a> {
    ControlCenter {
        caller,
        server: server(target, node),
        node,
        account: target.control_center.as_ref().unwrap_or(&target.axl),
    }
}
