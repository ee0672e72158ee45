//! From the first byte of a peer's connection to a stream on which dialback or SASL EXTERNAL may
//! begin: headers, STARTTLS as the security mode has it, headers again.
//!
//! | mode | STARTTLS | dialback in clear |
//! |---|---|---|
//! | Required | offered as required | refused with `policy-violation`, `db:verify` too; the stream lives |
//! | Optional | offered | goes on |
//! | Disabled | not offered; `<failure/>` and the end if asked for | goes on |
//!
//! Where TLS came first ([`Service::DirectTls`]), there is only what follows it, and mode Disabled
//! refuses. The mode is that of the domain which the header names as `from`, and the general one
//! until then. Every domain that comes up later on the stream is held to its own ([`terms::check`]).

use std::sync::Arc;

use xmpp_federation_core::edge_config::TlsMode;
use xmpp_federation_core::{Domain, StreamId};

use crate::config::Live;
use crate::dialback::elements::{DialbackElement, Reply, reply};
use crate::observe::registry::StreamEntry;
use crate::outbound::connect::note_tls;
use crate::refusal::{Check, Refusal};
use crate::shared::Shared;
use crate::stanza::is_stanza;
use crate::stream::direct_tls::{self};
use crate::stream::tls::TlsSession;
use crate::stream::{Failure, Wire, major_version};
use crate::terms;
use crate::tls::Verdict;
use crate::words::{Direction, Service, Stage};
use xmpp_federation_xml::{Element, HeaderToSend, StreamHeader, XmlWriter, ns};

/// What negotiation found out.
#[derive(Debug)]
pub struct NegotiatedStream {
    /// The id of our latest header.
    pub id: StreamId,
    /// The domains of the peer's latest header; not authenticated.
    pub addresses: Addresses,
    /// What a peer that stays in clear said instead of `<starttls/>`.
    pub first: Option<Element>,
}

/// Domains of a header.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Addresses {
    /// The domain that the peer names as its own.
    pub from: Option<Domain>,
    /// The hosted domain that it wants.
    pub to: Option<Domain>,
}

impl Addresses {
    /// Whether the stream is about the same domains after a restart: what was named stays, what
    /// was not may be named now.
    pub(super) fn check_kept(&self, after: &Self) -> Result<(), Failure> {
        let changed = |old: &Option<Domain>, new: &Option<Domain>| old.is_some() && old != new;
        if changed(&self.from, &after.from) {
            return Err(Failure::invalid_from(
                "the stream's from changed when the stream was restarted",
            ));
        }
        if changed(&self.to, &after.to) {
            return Err(Failure::host_unknown(
                "the stream's to changed when the stream was restarted",
            ));
        }
        Ok(())
    }
}

/// What the peer's header says.
pub(super) struct PeerHeader {
    pub(super) addresses: Addresses,
    pub(super) pre_xmpp_1: bool,
}

/// A new, unpredictable id.
pub(super) fn new_id() -> StreamId {
    StreamId::from_random(rand::random())
}

/// An address of a header; some servers write an empty one where they name none.
fn named(address: Option<&str>) -> Option<&str> {
    address.filter(|address| !address.is_empty())
}

/// An address of the peer's header as our answer repeats it, unless it is too long to be a domain in
/// any spelling.
fn echoed(address: Option<&str>) -> Option<&str> {
    named(address).filter(|address| address.len() <= Domain::LONGEST)
}

/// Our header as answer to the peer's.
pub(super) fn answer_header(live: &Live, theirs: Option<&StreamHeader>, id: &StreamId) -> String {
    let fallback = live.config.domains.first().map_or("", Domain::as_str);
    let header = HeaderToSend {
        content_ns: ns::SERVER,
        from: Some(echoed(theirs.and_then(|h| h.to.as_deref())).unwrap_or(fallback)),
        to: echoed(theirs.and_then(|h| h.from.as_deref())),
        id: Some(id.as_str()),
        // A server from before XMPP 1.0 is answered as such (RFC 6120 section 4.7.5).
        version: !theirs.is_some_and(|theirs| matches!(major_version(theirs), Ok(None))),
        dialback: true,
    };
    // What the framer let in can be written again.
    header.write().unwrap_or_default()
}

/// A header for an error that comes before any of the peer's was understood.
pub fn header_for_error(live: &Live) -> String {
    answer_header(live, None, &new_id())
}

/// Judges the peer's header; ours has been written by then, since an error needs it first.
pub(super) fn read_header(
    shared: &Shared,
    live: &Live,
    theirs: &StreamHeader,
    entry: &StreamEntry,
) -> Result<PeerHeader, Failure> {
    if theirs.default_ns() != ns::SERVER {
        return Err(Failure::invalid_namespace(
            "the content namespace of the stream must be jabber:server",
        ));
    }
    let version = major_version(theirs)?;
    let domain = |text: Option<&str>| {
        let named = named(text);
        named
            .map(Domain::parse)
            .transpose()
            .map_err(|_| Failure::improper_addressing("from and to of a stream must be domains"))
    };
    let (from, to) = (domain(theirs.from.as_deref())?, domain(theirs.to.as_deref())?);
    let log = |refusal: Refusal| {
        shared.refused(entry, Stage::Features, to.as_ref(), from.as_ref(), &refusal);
        refusal
    };
    if let Some(to) = &to {
        terms::hosted(live, to).map_err(log)?;
    }
    if let Some(from) = &from {
        if live.hosted.contains(from) {
            return Err(log(Refusal::new(Check::OwnDomain, format!("{from} is hosted here"))).into());
        }
        terms::admitted(live, from).map_err(log)?;
    }
    Ok(PeerHeader {
        addresses: Addresses { from, to },
        pre_xmpp_1: version.is_none(),
    })
}

/// Our features; `starttls`: in which mode it is offered, `None` when TLS is up or not wanted.
/// `from`: who the peer says it is.
pub(super) fn features(live: &Live, from: Option<&Domain>, starttls: Option<TlsMode>, external: bool) -> String {
    let mut w = XmlWriter::new();
    w.start("stream:features");
    if let Some(mode) = starttls {
        w.start("starttls").attr("xmlns", ns::TLS);
        if mode == TlsMode::Required {
            w.start("required").end();
        }
        w.end();
    }
    if external {
        w.start("mechanisms").attr("xmlns", ns::SASL);
        w.start("mechanism").text("EXTERNAL").end().end();
    }
    if starttls != Some(TlsMode::Required) {
        w.start("dialback")
            .attr("xmlns", ns::DIALBACK_FEATURE)
            .start("errors")
            .end()
            .end();
    }
    let limits = &live.config.limits;
    w.start("limits").attr("xmlns", ns::STREAM_LIMITS);
    // Dialback has no features after it: what holds then is told now.
    let largest = live.policy.terms(from).max_stanza_bytes;
    w.start("max-bytes").text(&largest.to_string()).end();
    w.start("idle-seconds")
        .text(&limits.idle_timeout.0.as_secs().to_string())
        .end();
    w.end().end();
    // Numbers and fixed names are always writable.
    w.finish().unwrap_or_default()
}

fn tls_disabled() -> std::io::Error {
    std::io::Error::other("TLS is disabled now, which leaves nothing to say on this port")
}

/// One connection being negotiated. Time limits are the caller's.
pub(super) struct Negotiation<'a> {
    shared: &'a Arc<Shared>,
    live: Arc<Live>,
    wire: &'a mut Wire,
    entry: &'a StreamEntry,
}

impl<'a> Negotiation<'a> {
    pub(super) fn new(shared: &'a Arc<Shared>, wire: &'a mut Wire, entry: &'a StreamEntry) -> Self {
        Self {
            live: shared.live(),
            shared,
            wire,
            entry,
        }
    }

    /// Starts as the service has it: with TLS, or in clear with STARTTLS where the mode has it.
    pub(super) async fn run(mut self, service: Service) -> Result<NegotiatedStream, Failure> {
        if service == Service::DirectTls {
            // The listener outlives a reload that disables TLS.
            let config = self.live.tls.server.as_deref().map(direct_tls::server);
            let config = config.ok_or_else(tls_disabled)?;
            self.start_tls(config, &Addresses::default()).await?;
            return self.over_tls(None).await;
        }
        let (id, announced) = self.exchange_headers().await?;
        let addresses = announced.addresses;
        let mode = terms::mode(&self.live, &self.shared.memory, addresses.from.as_ref());
        let in_clear = |addresses, first| NegotiatedStream { id, addresses, first };
        if announced.pre_xmpp_1 {
            if mode != TlsMode::Required {
                return Ok(in_clear(addresses, None));
            }
            // A stream without version cannot start TLS.
            if addresses.from.is_some() {
                let refusal = terms::no_tls(&self.live, addresses.from.as_ref());
                return Err(self.refuse(refusal, &addresses));
            }
            // Whose terms count is known once a domain is named.
            let first = self.asked(mode, None, &addresses).await?;
            return Ok(in_clear(addresses, first));
        }
        let server = self.live.tls.server.clone();
        let offered = Some(mode).filter(|mode| *mode != TlsMode::Disabled && server.is_some());
        let text = features(&self.live, addresses.from.as_ref(), offered, false);
        self.wire.send(text).await?;
        match (self.asked(mode, offered, &addresses).await?, server) {
            (None, Some(server)) => {
                self.start_tls(server, &addresses).await?;
                self.over_tls(Some(addresses)).await
            }
            (first, _) => Ok(in_clear(addresses, first)),
        }
    }

    /// Goes on where TLS is up; `before`: what the peer's header in clear said, `None` where TLS
    /// came first (XEP-0368).
    pub(super) async fn over_tls(&mut self, before: Option<Addresses>) -> Result<NegotiatedStream, Failure> {
        let (id, announced) = self.exchange_headers().await?;
        let PeerHeader { addresses, pre_xmpp_1 } = announced;
        let verdict = note_tls(
            self.shared,
            &self.live,
            Direction::Inbound,
            self.wire,
            addresses.from.as_ref(),
        );
        if let Some(before) = before {
            if pre_xmpp_1 {
                return Err(Failure::unsupported_version("the version vanished after STARTTLS"));
            }
            before.check_kept(&addresses)?;
        } else {
            let from = addresses.from.as_ref();
            if terms::mode(&self.live, &self.shared.memory, from) == TlsMode::Disabled {
                let reason = "the peer begins with TLS, which is disabled for it here";
                return Err(self.refuse(Refusal::new(Check::TlsDisabled, reason), &addresses));
            }
        }
        if !pre_xmpp_1 {
            let external = verdict == Some(Verdict::Valid) && addresses.to.is_some();
            let text = features(&self.live, addresses.from.as_ref(), None, external);
            self.wire.send(text).await?;
        }
        Ok(NegotiatedStream {
            id,
            addresses,
            first: None,
        })
    }

    /// The handshake; content that came right behind it is in the framer afterwards.
    pub(super) async fn start_tls(
        &mut self,
        server: Arc<rustls::ServerConfig>,
        addresses: &Addresses,
    ) -> Result<(), Failure> {
        self.entry.comes_to(Stage::Tls);
        let session = TlsSession::server(server).map_err(std::io::Error::other)?;
        let session = session.for_domain(addresses.to.clone());
        let Wire { transport, framer, .. } = &mut *self.wire;
        if let Err(error) = transport.start_tls(session, framer.buffer()).await {
            let reason = format!("TLS handshake: {error}");
            // Who closes before the first byte has not tried.
            if transport.has_received() {
                self.shared.metrics.tls_failed(Direction::Inbound);
                self.refuse(Refusal::new(Check::TlsHandshake, reason.clone()), addresses);
            }
            return Err(Failure::Io(std::io::Error::new(error.kind(), reason)));
        }
        self.entry.comes_to(Stage::Features);
        Ok(())
    }

    fn refuse(&self, refusal: Refusal, addresses: &Addresses) -> Failure {
        let (local, remote) = (addresses.to.as_ref(), addresses.from.as_ref());
        self.shared
            .refused(self.entry, self.entry.stage(), local, remote, &refusal);
        refusal.into()
    }

    /// Reads the peer's header, answers with ours, and then judges.
    async fn exchange_headers(&mut self) -> Result<(StreamId, PeerHeader), Failure> {
        let theirs = self.wire.header().await?;
        let id = new_id();
        let ours = answer_header(&self.live, Some(&theirs), &id);
        self.wire.send(ours).await?;
        Ok((id, read_header(self.shared, &self.live, &theirs, self.entry)?))
    }

    /// Waits for what the peer says first. `None`: it wants TLS and was told to proceed.
    async fn asked(
        &mut self,
        mode: TlsMode,
        offered: Option<TlsMode>,
        addresses: &Addresses,
    ) -> Result<Option<Element>, Failure> {
        loop {
            let element = self.wire.element().await?;
            if element.is(ns::TLS, "starttls") {
                self.proceed(offered.is_some(), addresses).await?;
                return Ok(None);
            }
            if mode != TlsMode::Required {
                return Ok(Some(element));
            }
            let Some(kind) = DialbackElement::kind_of(&element) else {
                return Err(if is_stanza(&element, ns::SERVER) {
                    Failure::violation(Check::TlsRequired, "no stanza before TLS and dialback")
                } else {
                    Failure::unsupported_stanza_type("only STARTTLS is possible here")
                });
            };
            let received = DialbackElement::parse(&element, kind)
                .map_err(|error| Failure::improper_addressing(error.to_string()))?;
            if received.answer.is_some() {
                return Err(Failure::violation(
                    Check::Protocol,
                    "a dialback answer that was not asked for",
                ));
            }
            let remote = &received.from_domain;
            if addresses.from.is_none()
                && terms::mode(&self.live, &self.shared.memory, Some(remote)) != TlsMode::Required
            {
                // Only now it is known whose mode counts.
                return Ok(Some(element));
            }
            let refusal = terms::no_tls(&self.live, Some(remote));
            let condition = refusal.check.dialback_condition();
            let local = Some(&received.to_domain);
            self.shared
                .refused(self.entry, Stage::Dialback, local, Some(remote), &refusal);
            let refused = reply(&received, Reply::Error(condition))
                .map_err(|_| Failure::bad_format("addresses with characters that XML does not allow"))?;
            self.wire.send(refused).await?;
        }
    }

    async fn proceed(&mut self, offered: bool, addresses: &Addresses) -> Result<(), Failure> {
        let failure = format!("<failure xmlns='{}'/>", ns::TLS);
        if !offered {
            self.wire.send(failure).await?;
            let reason = "the peer asks for TLS, which is disabled for it here";
            return Err(self.refuse(Refusal::new(Check::TlsDisabled, reason), addresses));
        }
        // White space means nothing, and some tools send a line end.
        if self.wire.framer.holds_more_than_space() {
            self.wire.send(failure).await?;
            return Err(Failure::violation(
                Check::Protocol,
                "more was sent behind <starttls/> in clear",
            ));
        }
        self.wire.send(format!("<proceed xmlns='{}'/>", ns::TLS)).await?;
        // What is said from here on in clear would be read as TLS and fail.
        self.wire.restart();
        Ok(())
    }
}
