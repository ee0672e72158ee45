//! What a failed call means to somebody at a command line: what was found, and what to do.

use std::time::Duration;

use super::plan::Plan;
use crate::error::{CallError, CallErrorKind, Interface};

/// Waits for a call no longer than the plan allows.
pub async fn within<T>(
    plan: &Plan,
    interface: Interface,
    server: &str,
    call: impl Future<Output = Result<T, CallError>>,
) -> Result<T, CallError> {
    let limit: Duration = plan.call_limit;
    match tokio::time::timeout(limit, call).await {
        Ok(result) => result,
        Err(_) => Err(CallError {
            interface,
            server: server.to_owned(),
            secret: String::new(),
            kind: CallErrorKind::Timeout,
        }),
    }
}

/// What was found, and the remedy.
pub fn explain(error: &CallError, plan: &Plan) -> (String, String) {
    let server = &error.server;
    let found = match &error.kind {
        CallErrorKind::Unauthorized { .. } => {
            "HTTP 401: IM&P refuses user name or password; the account is not used again".to_owned()
        }
        CallErrorKind::Forbidden => "HTTP 403: the password is right, and the user lacks a role".to_owned(),
        CallErrorKind::VersionUnsupported => match plan.axl_version {
            Some(version) => format!("HTTP 599: version {version}, as given, is not answered"),
            None => "HTTP 599 to every version from 15.0 to 9.1".to_owned(),
        },
        CallErrorKind::Connect(why) => format!("no connection: {why}"),
        CallErrorKind::Certificate(why) => format!("the certificate was not accepted: {why}"),
        CallErrorKind::Tls(why) => format!("the TLS handshake failed: {why}"),
        CallErrorKind::Timeout => {
            format!("no answer within {} s", plan.call_limit.as_secs())
        }
        CallErrorKind::Throttled(_) => "IM&P asks to slow down".to_owned(),
        CallErrorKind::Fault(fault) => format!("a SOAP fault: {fault}"),
        CallErrorKind::Held(_) | CallErrorKind::Unrecorded(_) | CallErrorKind::HeldUp => {
            "not asked, so that the account is not locked".to_owned()
        }
        CallErrorKind::Http(_)
        | CallErrorKind::Interrupted(_)
        | CallErrorKind::TooLarge
        | CallErrorKind::Malformed(_)
        | CallErrorKind::Unexpected(_) => error.to_string(),
    };
    (found, remedy(error, server))
}

fn remedy(error: &CallError, server: &str) -> String {
    match (&error.kind, error.interface) {
        (CallErrorKind::Unauthorized { .. }, Interface::Axl) => format!(
            "Test them once in a browser at {server}/axl; correct the password, or unlock the user in IM&P. Accounts are locked after a few failures (3 by default), so do not simply run this again"
        ),
        (CallErrorKind::Unauthorized { .. }, Interface::ControlCenter) => format!(
            "Test them once in a browser at {server}/controlcenterservice2/services/ControlCenterServices?wsdl; correct the password, or unlock the user in IM&P, before this is run again"
        ),
        (CallErrorKind::Forbidden, Interface::Axl) => {
            "Put the user into a group with the role Standard AXL API Access (and Standard CCM Admin Users): User Management > User Settings > User Group".to_owned()
        }
        (CallErrorKind::Forbidden, Interface::ControlCenter) => {
            "Put the user into a group with Standard CCM Admin Users and a serviceability role (Standard SERVICEABILITY): User Management > User Settings > User Group".to_owned()
        }
        (CallErrorKind::VersionUnsupported, _) => {
            "Check that Cisco AXL Web Service is activated (Cisco Unified IM and Presence Serviceability > Tools > Service Activation), and --axl-version".to_owned()
        }
        (CallErrorKind::Http(404), Interface::Axl) => {
            "Check that Cisco AXL Web Service is started, and that this is an IM&P publisher".to_owned()
        }
        (CallErrorKind::Unexpected(_) | CallErrorKind::Malformed(_), _) => {
            "Check that this is an IM&P publisher, not Unified CM, and that no proxy stands between".to_owned()
        }
        (CallErrorKind::Throttled(_), _) => "Run this again in a few minutes".to_owned(),
        (CallErrorKind::Connect(_) | CallErrorKind::Timeout | CallErrorKind::Interrupted(_), _) => {
            "Check the network between here and there, and that the service is started".to_owned()
        }
        _ => String::new(),
    }
}
