//! Why a call to AXL or Control Center failed, as a sentence with its remedy.

use std::time::Duration;

use jiff::Timestamp;

use super::soap::{Fault, SoapError};
use crate::access::LoginHold;
use crate::reasons::Reason;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, strum::Display)]
pub enum Interface {
    #[strum(serialize = "AXL")]
    Axl,
    #[strum(serialize = "Control Center")]
    ControlCenter,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.sentence())]
pub struct CallError {
    pub interface: Interface,
    pub server: String,
    /// The Secret whose account was used, with its version.
    pub secret: String,
    pub kind: CallErrorKind,
}

#[derive(Debug, Clone, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "kebab-case")]
pub enum CallErrorKind {
    /// HTTP 401.
    #[strum(serialize = "401")]
    Unauthorized {
        /// When this Secret version is tried again at the earliest.
        retry_at: Timestamp,
    },
    /// Not sent, because this account was answered 401, or may have been.
    Held(LoginHold),
    /// Not sent, because whether this Secret version was accepted could not be recorded.
    Unrecorded(String),
    /// Not sent, because it would have been sent too late, or by an operator that does not lead any more.
    HeldUp,
    /// HTTP 403.
    #[strum(serialize = "403")]
    Forbidden,
    /// HTTP 503, or a fault that asks to slow down.
    Throttled(Option<Duration>),
    /// HTTP 599 to every version, or to the one that is set.
    #[strum(serialize = "599")]
    VersionUnsupported,
    Fault(Fault),
    Http(u16),
    /// No connection: the name, the port or the network.
    Connect(String),
    Certificate(String),
    /// The TLS handshake failed for another reason.
    Tls(String),
    Timeout,
    /// The connection broke; the request may have arrived.
    Interrupted(String),
    TooLarge,
    /// The answer is none.
    Malformed(SoapError),
    /// The answer lacks something or says something that cannot be.
    Unexpected(String),
}

impl CallErrorKind {
    pub fn word(&self) -> &'static str {
        self.into()
    }
}

impl CallError {
    /// Whether IM&P may have carried out the request nevertheless.
    pub fn may_have_arrived(&self) -> bool {
        match self.kind {
            CallErrorKind::Timeout
            | CallErrorKind::Interrupted(_)
            | CallErrorKind::TooLarge
            | CallErrorKind::Malformed(_)
            | CallErrorKind::Unexpected(_) => true,
            CallErrorKind::Http(status) => status >= 500,
            CallErrorKind::Unauthorized { .. }
            | CallErrorKind::Held(_)
            | CallErrorKind::Unrecorded(_)
            | CallErrorKind::HeldUp
            | CallErrorKind::Forbidden
            | CallErrorKind::Throttled(_)
            | CallErrorKind::VersionUnsupported
            | CallErrorKind::Fault(_)
            | CallErrorKind::Connect(_)
            | CallErrorKind::Certificate(_)
            | CallErrorKind::Tls(_) => false,
        }
    }

    /// When to try again after this failed `count` times in a row (from 1), as seen from `now`:
    /// doubled each time up to 5 min. Without jitter, because a publisher has one caller, and each
    /// of its calls waits for the one before. `unit` is a second.
    pub fn back_off(&self, count: u32, now: Timestamp, unit: Duration) -> Duration {
        let doubling = |first: u32, most: u32| {
            let factor = 1_u32 << count.saturating_sub(1).min(12);
            unit.saturating_mul(first.saturating_mul(factor).min(most))
        };
        match &self.kind {
            CallErrorKind::Unauthorized { retry_at } | CallErrorKind::Held(LoginHold { retry_at, .. }) => {
                Duration::try_from(retry_at.duration_since(now)).unwrap_or(Duration::ZERO)
            }
            CallErrorKind::Throttled(Some(wait)) => (*wait).clamp(doubling(10, 300), unit.saturating_mul(600)),
            CallErrorKind::Throttled(None) => doubling(10, 300),
            CallErrorKind::Forbidden | CallErrorKind::VersionUnsupported => doubling(60, 300),
            _ => doubling(5, 300),
        }
    }

    pub fn reason(&self) -> Reason {
        match self.kind {
            CallErrorKind::Unauthorized { .. } | CallErrorKind::Held(_) => Reason::Unauthorized,
            CallErrorKind::Unrecorded(_) => Reason::LedgerUnavailable,
            CallErrorKind::Forbidden => Reason::Forbidden,
            CallErrorKind::Throttled(_) => Reason::Throttled,
            CallErrorKind::VersionUnsupported => Reason::AxlVersionUnsupported,
            CallErrorKind::Fault(_) => Reason::SoapFault,
            CallErrorKind::Certificate(_) => Reason::CertificateRefused,
            CallErrorKind::Tls(_) => Reason::TlsHandshakeFailed,
            CallErrorKind::Connect(_)
            | CallErrorKind::Timeout
            | CallErrorKind::Interrupted(_)
            | CallErrorKind::HeldUp => Reason::Unreachable,
            CallErrorKind::Http(_)
            | CallErrorKind::TooLarge
            | CallErrorKind::Malformed(_)
            | CallErrorKind::Unexpected(_) => Reason::BadAnswer,
        }
    }

    /// Whether it is about the account: these belong to `AxlAuthenticated` whatever the interface.
    pub fn is_about_account(&self) -> bool {
        matches!(
            self.kind,
            CallErrorKind::Unauthorized { .. } | CallErrorKind::Held(_) | CallErrorKind::Forbidden
        )
    }

    fn role(&self) -> &'static str {
        match self.interface {
            Interface::Axl => "Standard AXL API Access (with Standard CCM Admin Users)",
            Interface::ControlCenter => "Standard CCM Admin Users with a serviceability role (Standard SERVICEABILITY)",
        }
    }

    fn sentence(&self) -> String {
        let (interface, server, secret) = (self.interface, &self.server, &self.secret);
        match &self.kind {
            CallErrorKind::Unauthorized { retry_at } => format!(
                "{interface} at {server} answered 401 to the user of Secret {secret}. {} It is not tried again before {} so that the account is not locked: edit the Secret with the right password, or correct the account in IM&P",
                self.remedy_401(),
                minute(*retry_at)
            ),
            CallErrorKind::Held(rest) => self.held(rest),
            CallErrorKind::Unrecorded(why) => format!(
                "{interface} at {server} is not asked, because the use of Secret {secret} cannot be recorded: {why}"
            ),
            CallErrorKind::HeldUp => format!(
                "{interface} at {server} was not called, because the operator was held up, or ceased to lead, between the record of the call and its sending"
            ),
            CallErrorKind::Forbidden => format!(
                "{interface} at {server} answered 403: the user of Secret {secret} lacks a role; give its group the role {} in IM&P (User Management > User Settings > User Group)",
                self.role()
            ),
            CallErrorKind::Throttled(_) => {
                format!("{interface} at {server} asks to slow down; the call is repeated later")
            }
            CallErrorKind::VersionUnsupported => format!(
                "{interface} at {server} answers 599 to every version from 15.0 to 9.1, or to the one that imp[].axl.version sets; check that Cisco AXL Web Service is activated, and remove imp[].axl.version or correct it"
            ),
            CallErrorKind::Fault(fault) => {
                format!("{interface} at {server} answered a fault: {fault}")
            }
            CallErrorKind::Http(404) => format!(
                "{interface} at {server} answered HTTP 404; check that {} is started (Cisco Unified IM and Presence Serviceability > Tools)",
                match self.interface {
                    Interface::Axl => "Cisco AXL Web Service",
                    Interface::ControlCenter => "Cisco Tomcat with Control Center Services",
                }
            ),
            CallErrorKind::Http(status) => {
                format!(
                    "{interface} at {server} answered HTTP {status}, which it does not on its own; check that imp[].publisher names IM and Presence and that no proxy stands between"
                )
            }
            CallErrorKind::Connect(why) => format!(
                "no connection to {interface} at {server}: {why}; check the name, the network, and that TCP 8443 is open; on IM&P, `utils network capture eth0 file axl_inject.pcap count 1000000 size all` shows what arrives"
            ),
            CallErrorKind::Certificate(why) => format!(
                "the certificate of {server} was not accepted: {why}; set imp[].tls.caSecretRef to the CA of its tomcat certificate, or pin its SHA-256 fingerprint with imp[].tls.pinnedSha256"
            ),
            CallErrorKind::Tls(why) => format!(
                "the TLS handshake with {server} failed: {why}; releases before 11.5 may speak only TLS 1.0 or 1.1, which is not supported"
            ),
            CallErrorKind::Timeout => format!("{interface} at {server} did not answer in time"),
            CallErrorKind::Interrupted(why) => {
                format!("the connection to {interface} at {server} broke before the answer was complete: {why}")
            }
            CallErrorKind::TooLarge => {
                format!("the answer of {interface} at {server} is larger than 4 MiB and was not read")
            }
            CallErrorKind::Malformed(why) => format!(
                "the answer of {interface} at {server} {why}; check that imp[].publisher names IM and Presence and that no proxy stands between"
            ),
            CallErrorKind::Unexpected(what) => format!("{interface} at {server}: {what}"),
        }
    }

    fn held(&self, rest: &LoginHold) -> String {
        let (interface, server, secret) = (self.interface, &self.server, &self.secret);
        let since = minute(rest.since);
        let whose = rest.other.as_ref().map_or_else(
            || format!("the user of Secret {secret}"),
            |other| format!("the user of Secret {other}, who is that of Secret {secret} too,"),
        );
        let (what, remedy) = if rest.told {
            (format!("{whose} was answered 401 at {since}"), "")
        } else {
            (
                format!("the operator ended at {since} during a call by {whose} and may have been answered 401"),
                ", or, if the password is right, set the annotation xmppfederation.io/refresh to a new value",
            )
        };
        format!(
            "{what}; {interface} at {server} is not asked before {} so that the account is not locked. {} Edit the Secret with the right password, or correct the account in IM&P{remedy}",
            minute(rest.retry_at),
            self.remedy_401()
        )
    }

    fn remedy_401(&self) -> String {
        let page = match self.interface {
            Interface::Axl => "axl",
            Interface::ControlCenter => "controlcenterservice2/services/ControlCenterServices?wsdl",
        };
        format!("Test the credentials in a browser at {}/{page}.", self.server)
    }
}

fn minute(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}
