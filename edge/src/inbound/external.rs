//! SASL EXTERNAL on an inbound stream (RFC 6120 section 6, XEP-0178 section 3): the certificate of
//! the TLS session proves the domain that the stream's header names as `from`.
//!
//! It authenticates that header's pair of domains and nothing else; other pairs need dialback. A
//! failure leaves the stream to dialback, too.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::time::Instant;
use xmpp_federation_core::Domain;

use super::negotiate::{Addresses, answer_header, features, new_id, read_header};
use super::session::Session;
use crate::config::Live;
use crate::observe::log_rate::Party;
use crate::refusal::{Check, Refusal};
use crate::stream::{Failure, pair_changed};
use crate::terms;
use crate::tls::JudgementCache;
use crate::words::{Direction, Mechanism, Stage};
use xmpp_federation_xml::{Element, StreamHeader, ns};

/// Failed attempts on one stream; the next one ends it (RFC 6120 section 6.4.5).
const ATTEMPTS: u8 = 3;

/// SASL on one stream.
#[derive(Debug, Default)]
pub(super) struct External {
    /// What the latest header of the peer names.
    pub(super) addresses: Addresses,
    /// What is kept of the peer's certificate.
    pub(super) certificate: JudgementCache,
    failures: u8,
    /// `<success/>` was sent: the peer's next word is a new header.
    pub(super) restarting: bool,
}

impl External {
    pub(super) fn new(addresses: Addresses) -> Self {
        Self {
            addresses,
            ..Self::default()
        }
    }
}

/// Why an attempt fails: the condition (RFC 6120 section 6.5) and what goes into the log.
type SaslFailure = (&'static str, Refusal);

impl Session {
    pub(super) fn take_sasl(&mut self, live: &Live, element: &Element) -> Result<(), Failure> {
        if !self.wire.is_open() {
            return Ok(());
        }
        if self.pairs.is_empty() {
            self.guard.entry.comes_to(Stage::External);
        }
        let plain = |condition, reason: &'static str| Err((condition, Refusal::new(Check::Certificate, reason)));
        let outcome = match element.name() {
            "auth" => self.authenticate(live, element),
            "abort" => plain("aborted", "the peer gave SASL up"),
            "response" => plain("malformed-request", "an answer to no challenge"),
            _ => {
                return Err(Failure::unsupported_stanza_type("no element that a peer sends in SASL"));
            }
        };
        let mut behind = self.wire.framer.buffer().iter();
        let pipelined = behind.any(|byte| !byte.is_ascii_whitespace());
        match outcome {
            Ok(()) if pipelined => Err(Failure::violation(
                Check::Protocol,
                "more was sent behind <auth/> before its answer",
            )),
            Ok(()) => {
                self.shared().metrics.sasl(Direction::Inbound, "success");
                self.wire.queue(format!("<success xmlns='{}'/>", ns::SASL));
                self.wire.restart();
                self.external.restarting = true;
                self.last_use = Instant::now();
                Ok(())
            }
            Err((condition, refusal)) => {
                self.shared().metrics.sasl(Direction::Inbound, condition);
                let Addresses { from, to } = &self.external.addresses;
                let entry = &self.guard.entry;
                self.shared()
                    .refused(entry, Stage::External, to.as_ref(), from.as_ref(), &refusal);
                let sasl = ns::SASL;
                self.wire
                    .queue(format!("<failure xmlns='{sasl}'><{condition}/></failure>"));
                self.external.failures += 1;
                if self.external.failures > ATTEMPTS {
                    return Err(Failure::violation(Check::Protocol, "too many failed authentications"));
                }
                Ok(())
            }
        }
    }

    fn authenticate(&self, live: &Live, element: &Element) -> Result<(), SaslFailure> {
        let failed = |condition, reason: &'static str| (condition, Refusal::new(Check::Certificate, reason));
        let portable = element.unportable().is_none();
        let Some(auth) = portable.then(|| element.parse().ok()).flatten() else {
            return Err(failed("malformed-request", "<auth/> cannot be read"));
        };
        if auth.attr("mechanism") != Some("EXTERNAL") {
            let reason = "the peer asks for another mechanism than EXTERNAL";
            return Err(failed("invalid-mechanism", reason));
        }
        let Some(shown) = self.wire.transport.shown() else {
            return Err(failed("encryption-required", "SASL EXTERNAL without TLS"));
        };
        if !self.pairs.is_empty() || !self.pending.is_empty() {
            let reason = "SASL EXTERNAL on a stream that uses dialback already";
            return Err(failed("not-authorized", reason));
        }
        let Addresses {
            from: Some(from),
            to: Some(_),
        } = &self.external.addresses
        else {
            let reason = "SASL EXTERNAL on a stream whose header lacks from or to";
            return Err(failed("not-authorized", reason));
        };
        authorized_as(&auth.text(), from)?;
        terms::admitted(live, from)
            .and_then(|()| terms::certificate(live, shown, &self.external.certificate, from))
            .map_err(|refusal| ("not-authorized", refusal))
    }

    /// The stream starts anew after `<success/>`: same domains, new id, no SASL any more.
    pub(super) fn restarted(&mut self, live: &Arc<Live>, theirs: &StreamHeader) -> Result<(), Failure> {
        let id = new_id();
        self.wire.queue(answer_header(live, Some(theirs), &id));
        self.id = id;
        self.external.restarting = false;
        self.guard.entry.comes_to(Stage::Features);
        let announced = read_header(self.shared(), live, theirs, &self.guard.entry)?;
        if announced.pre_xmpp_1 {
            return Err(Failure::unsupported_version("the version vanished after SASL"));
        }
        self.external.addresses.check_kept(&announced.addresses)?;
        let Addresses {
            from: Some(remote),
            to: Some(local),
        } = announced.addresses
        else {
            return Err(Failure::improper_addressing("from and to must be named after SASL"));
        };
        // The configuration may be another one by now.
        if let Some(shown) = self.wire.transport.shown() {
            let kept = &self.external.certificate;
            terms::certificate(live, shown, kept, &remote).inspect_err(|refusal| {
                let (local, remote) = (Some(&local), Some(&remote));
                self.shared()
                    .refused(&self.guard.entry, Stage::External, local, remote, refusal);
            })?;
        }
        self.wire.queue(features(live, Some(&remote), None, false));
        let peer = self.guard.entry.peer;
        let party = Party::Caller(peer.ip(), Some(&remote));
        if self.shared().may_log("SASL EXTERNAL", party) {
            pair_changed(&self.guard.entry, (&local, &remote), Mechanism::External, None, None);
        }
        let written = theirs.from.as_deref().unwrap_or_default();
        self.authenticated(live, local, remote, Mechanism::External, written);
        Ok(())
    }
}

/// Whether the authorisation identity of `<auth/>` is the stream's `from`. None at all, or `=` for
/// an empty one, means what the certificate proves.
fn authorized_as(text: &str, from: &Domain) -> Result<(), SaslFailure> {
    let failed = |condition, reason: &'static str| (condition, Refusal::new(Check::Certificate, reason));
    if text.is_empty() || text == "=" {
        return Ok(());
    }
    let Ok(identity) = STANDARD.decode(text) else {
        let reason = "the authorisation identity is not base64";
        return Err(failed("incorrect-encoding", reason));
    };
    let identity = String::from_utf8(identity).ok();
    let identity = identity.and_then(|text| Domain::parse(&text).ok());
    if identity.as_ref() == Some(from) {
        Ok(())
    } else {
        let reason = "the authorisation identity is not the stream's from";
        Err(failed("invalid-authzid", reason))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::none("", None)]
    #[case::empty("=", None)]
    #[case::the_same("dm5ndHAubGFi", None)] // vngtp.lab
    #[case::the_same_in_other_words("Vk5HVFAuTEFCLg==", None)] // VNGTP.LAB.
    #[case::another("ZXZpbC5leGFtcGxl", Some("invalid-authzid"))] // evil.example
    #[case::an_address_in_it("Ym9iQHZuZ3RwLmxhYg==", Some("invalid-authzid"))] // bob@vngtp.lab
    #[case::no_utf_8("/w==", Some("invalid-authzid"))]
    #[case::no_base64("vngtp.lab", Some("incorrect-encoding"))]
    #[case::padding_missing("Vk5HVFAuTEFCLg", Some("incorrect-encoding"))]
    #[case::white_space("dm5n dHAubGFi", Some("incorrect-encoding"))]
    #[case::two_equals_signs("==", Some("incorrect-encoding"))]
    fn only_the_streams_own_domain_is_an_authorisation_identity(#[case] text: &str, #[case] expected: Option<&str>) {
        let from = Domain::parse("vngtp.lab").unwrap();
        let condition = authorized_as(text, &from).err().map(|(condition, _)| condition);
        assert_eq!(condition, expected);
    }
}
