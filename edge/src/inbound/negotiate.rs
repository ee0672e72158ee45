//! From the first byte of a peer's connection to a stream on which dialback may begin: headers,
//! STARTTLS, headers again.

use std::sync::Arc;

use xmpp_federation_core::edge_config::TlsMode;
use xmpp_federation_core::{Domain, StreamId};

use crate::config::Live;
use crate::dialback::elements::{Received, Reply, reply};
use crate::edge::Edge;
use crate::metrics::Direction;
use crate::outbound::connect::note_tls;
use crate::stanza::is_stanza;
use crate::stream::direct_tls::{self, Service};
use crate::stream::{Failure, Wire, major_version};
use crate::xml::{HeaderToSend, StreamErrorCondition, StreamHeader, XmlWriter, ns};

/// What negotiation found out.
#[derive(Debug)]
pub struct Negotiated {
    /// The id of our latest header.
    pub id: StreamId,
    /// The domain the peer names as its own; not authenticated.
    pub from: Option<Domain>,
}

/// Domains of a header.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Addresses {
    from: Option<Domain>,
    to: Option<Domain>,
}

/// A new, unpredictable id.
fn new_id() -> StreamId {
    StreamId::from_random(rand::random())
}

/// Our header as answer to the peer's.
fn answer(theirs: Option<&StreamHeader>, id: &StreamId, fallback: &str) -> String {
    let header = HeaderToSend {
        content_ns: ns::SERVER,
        from: Some(theirs.and_then(|h| h.to.as_deref()).unwrap_or(fallback)),
        to: theirs.and_then(|h| h.from.as_deref()),
        id: Some(id.as_str()),
        version: true,
        dialback: true,
    };
    // What the framer let in can be written again.
    header.write().unwrap_or_default()
}

/// A header for an error that comes before any of the peer's was understood.
pub fn header_for_error(live: &Live) -> String {
    let fallback = live.config.domains.first().map_or("", Domain::as_str);
    answer(None, &new_id(), fallback)
}

/// Negotiates. Time limits are the caller's.
pub async fn negotiate(
    edge: &Arc<Edge>,
    wire: &mut Wire,
    service: Service,
) -> Result<Negotiated, Failure> {
    let live = edge.live();
    if service == Service::DirectTls {
        // The listener outlives a reload that disables TLS.
        let config = live.tls.server.as_ref().ok_or_else(tls_disabled)?;
        start_tls(edge, wire, direct_tls::server(config)).await?;
        return over_tls(edge, &live, wire, None).await;
    }
    let mode = live.config.tls.mode;
    let before = exchange_headers(&live, wire).await?;
    let Some(server) = live
        .tls
        .server
        .clone()
        .filter(|_| mode != TlsMode::Disabled)
    else {
        send_features(&live, wire, None).await?;
        return Ok(before.into());
    };
    if before.pre_xmpp_1 {
        return if mode == TlsMode::Required {
            Err(Failure::fault(
                StreamErrorCondition::PolicyViolation,
                "TLS is required here, and a stream without version cannot start it",
            ))
        } else {
            Ok(before.into())
        };
    }
    send_features(&live, wire, Some(mode)).await?;
    if !starttls_asked(wire, mode).await? {
        return Ok(before.into());
    }
    start_tls(edge, wire, server).await?;
    over_tls(edge, &live, wire, Some(before.addresses)).await
}

fn tls_disabled() -> std::io::Error {
    std::io::Error::other("TLS is disabled now, which leaves nothing to say on this port")
}

async fn start_tls(
    edge: &Edge,
    wire: &mut Wire,
    config: Arc<rustls::ServerConfig>,
) -> Result<(), Failure> {
    let session = rustls::ServerConnection::new(config).map_err(std::io::Error::other)?;
    let Wire {
        transport, framer, ..
    } = &mut *wire;
    if let Err(error) = transport.start_tls(session.into(), framer.buffer()).await {
        // Who closes before the first byte has not tried.
        if transport.has_received() {
            edge.metrics.tls_failed(Direction::Inbound);
        }
        return Err(std::io::Error::new(error.kind(), format!("TLS handshake: {error}")).into());
    }
    Ok(())
}

/// TLS is up: the stream begins, or begins anew. `before`: what was said in clear, and may not
/// change; `None` where TLS came first.
async fn over_tls(
    edge: &Arc<Edge>,
    live: &Live,
    wire: &mut Wire,
    before: Option<Addresses>,
) -> Result<Negotiated, Failure> {
    let after = exchange_headers(live, wire).await?;
    note_tls(
        edge,
        live,
        Direction::Inbound,
        wire,
        after.addresses.from.as_ref(),
    );
    let Some(before) = before else {
        if !after.pre_xmpp_1 {
            send_features(live, wire, None).await?;
        }
        return Ok(after.into());
    };
    if after.pre_xmpp_1 {
        return Err(Failure::fault(
            StreamErrorCondition::UnsupportedVersion,
            "the version vanished after STARTTLS",
        ));
    }
    let changed = |old: &Option<Domain>, new: &Option<Domain>| old.is_some() && old != new;
    if changed(&before.from, &after.addresses.from) {
        return Err(Failure::fault(
            StreamErrorCondition::InvalidFrom,
            "the stream's from changed after STARTTLS",
        ));
    }
    if changed(&before.to, &after.addresses.to) {
        return Err(Failure::fault(
            StreamErrorCondition::HostUnknown,
            "the stream's to changed after STARTTLS",
        ));
    }
    send_features(live, wire, None).await?;
    Ok(after.into())
}

struct Exchanged {
    id: StreamId,
    addresses: Addresses,
    pre_xmpp_1: bool,
}

impl From<Exchanged> for Negotiated {
    fn from(exchanged: Exchanged) -> Self {
        Self {
            id: exchanged.id,
            from: exchanged.addresses.from,
        }
    }
}

/// Reads the peer's header, answers with ours, and then judges: an error needs our header first.
async fn exchange_headers(live: &Live, wire: &mut Wire) -> Result<Exchanged, Failure> {
    let theirs = wire.header().await?;
    let id = new_id();
    let fallback = live.config.domains.first().map_or("", Domain::as_str);
    wire.send(answer(Some(&theirs), &id, fallback)).await?;
    if theirs.default_ns() != ns::SERVER {
        return Err(Failure::fault(
            StreamErrorCondition::InvalidNamespace,
            "the content namespace of the stream must be jabber:server",
        ));
    }
    let version = major_version(&theirs)?;
    let domain = |text: Option<&str>| {
        text.map(Domain::parse).transpose().map_err(|_| {
            Failure::fault(
                StreamErrorCondition::ImproperAddressing,
                "from and to of a stream must be domains",
            )
        })
    };
    let addresses = Addresses {
        from: domain(theirs.from.as_deref())?,
        to: domain(theirs.to.as_deref())?,
    };
    if addresses
        .to
        .as_ref()
        .is_some_and(|to| !live.hosted.contains(to))
    {
        return Err(Failure::fault(
            StreamErrorCondition::HostUnknown,
            "this domain is not hosted here",
        ));
    }
    if let Some(from) = &addresses.from {
        if live.hosted.contains(from) {
            return Err(Failure::fault(
                StreamErrorCondition::InvalidFrom,
                "a domain hosted here cannot come in from outside",
            ));
        }
        if live.policy.check(from).is_err() {
            return Err(Failure::fault(
                StreamErrorCondition::PolicyViolation,
                "federation with this domain is not allowed here",
            ));
        }
    }
    Ok(Exchanged {
        id,
        addresses,
        pre_xmpp_1: version.is_none(),
    })
}

/// `starttls`: in which mode it is offered; `None` when dialback comes next.
async fn send_features(
    live: &Live,
    wire: &mut Wire,
    starttls: Option<TlsMode>,
) -> Result<(), Failure> {
    let mut w = XmlWriter::new();
    w.start("stream:features");
    if let Some(mode) = starttls {
        w.start("starttls").attr("xmlns", ns::TLS);
        if mode == TlsMode::Required {
            w.start("required").end();
        }
        w.end();
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
    w.start("max-bytes")
        .text(&limits.max_stanza_bytes.to_string())
        .end();
    w.start("idle-seconds")
        .text(&limits.idle_timeout.0.as_secs().to_string())
        .end();
    w.end().end();
    // Numbers and fixed names are always writable.
    wire.send(w.finish().unwrap_or_default()).await
}

/// Waits for `<starttls/>`; `false` if the peer goes on in clear and may.
async fn starttls_asked(wire: &mut Wire, mode: TlsMode) -> Result<bool, Failure> {
    loop {
        let element = wire.element().await?;
        if element.is(ns::TLS, "starttls") {
            if wire.framer.buffered() > 0 {
                wire.send(format!("<failure xmlns='{}'/>", ns::TLS)).await?;
                return Err(Failure::fault(
                    StreamErrorCondition::PolicyViolation,
                    "more was sent behind <starttls/> in clear",
                ));
            }
            wire.send(format!("<proceed xmlns='{}'/>", ns::TLS)).await?;
            // What is said from here on in clear would be read as TLS and fail.
            wire.restart();
            return Ok(true);
        }
        if let Some(kind) = Received::kind_of(&element) {
            let received = Received::parse(&element, kind).map_err(|error| {
                Failure::fault(StreamErrorCondition::ImproperAddressing, error.to_string())
            })?;
            if received.answer.is_some() {
                return Err(Failure::fault(
                    StreamErrorCondition::PolicyViolation,
                    "a dialback answer that was not asked for",
                ));
            }
            if mode == TlsMode::Required {
                let refused = reply(&received, Reply::Error("policy-violation")).map_err(|_| {
                    Failure::fault(
                        StreamErrorCondition::BadFormat,
                        "addresses XML cannot express",
                    )
                })?;
                wire.send(refused).await?;
                continue;
            }
            // Optional mode is refused by the configuration until it is complete.
            return Ok(false);
        }
        return Err(if is_stanza(&element, ns::SERVER) {
            Failure::fault(
                StreamErrorCondition::PolicyViolation,
                "no stanza before TLS and dialback",
            )
        } else {
            Failure::fault(
                StreamErrorCondition::UnsupportedStanzaType,
                "only STARTTLS is possible here",
            )
        });
    }
}
