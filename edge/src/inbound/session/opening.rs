//! The beginning of an inbound stream: negotiated, or refused with the reason.

use super::{Session, Verifications, count_excess, gave_way, shutdown};
use crate::inbound::Inbound;
use crate::inbound::external::External;
use crate::inbound::negotiate::{self, Negotiation};
use crate::inbound::table::Place;
use crate::jid::DomainCache;
use crate::observe::log_rate::Party;
use crate::observe::registry::StreamGuard;
use crate::stream::pace::PacedTurns;
use crate::stream::transport::Transport;
use crate::stream::{Failure, Wire, negotiation_limits};
use crate::words::{Direction, Service};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use xmpp_federation_core::Domain;
use xmpp_federation_xml::Element;

/// A stream on which nothing was ever proven ends after this time whatever it sends, or after twice the
/// idle time.
const UNPROVEN: Duration = Duration::from_mins(2);

/// Bytes received on a connection until something is proven, at most: a long chain of certificates and
/// a key for each pair that one stream may have.
const UNPROVEN_BYTES: u64 = 192 * 1024;

/// A stream that was negotiated, and what the peer said already.
pub(super) type NewSession = (Box<Session>, Option<Box<Element>>);

/// Negotiates; tells the peer why if that fails.
pub(super) async fn open(
    inbound: Arc<Inbound>,
    tcp: TcpStream,
    guard: StreamGuard,
    place: Place,
    service: Service,
    deadline: Instant,
) -> Option<NewSession> {
    let began = Instant::now();
    let live = inbound.shared.live();
    let limits = &live.config.limits;
    let peer = guard.entry.peer;
    let partner = inbound.shared.is_partners_address(&live, peer.ip());
    let paced = (!partner).then(|| PacedTurns::new(inbound.pace.clone()));
    let mut wire = Wire::new(
        Transport::new(tcp)
            .of(&guard.entry)
            .counted(inbound.shared.incomplete.part(partner))
            .unproven(UNPROVEN_BYTES, paced),
        negotiation_limits(limits),
        Direction::Inbound,
        inbound.shared.metrics.clone(),
    );
    let negotiated = tokio::select! {
        negotiated = timeout_at(deadline, Negotiation::new(&inbound.shared, &mut wire, &guard.entry).run(service)) => {
            negotiated.unwrap_or(Err(Failure::Timeout("the negotiation of the stream")))
        }
        () = inbound.close.cancelled() => Err(shutdown()),
        () = guard.entry.close.cancelled() => Err(Failure::Closed),
        () = place.give_way.cancelled() => Err(gave_way()),
    };
    let unproven = UNPROVEN.min(2 * limits.idle_timeout.0);
    drop(live);
    match negotiated {
        Ok(negotiated) => {
            guard.update(|detail| detail.phase = "established");
            tracing::debug!(
                %peer, from = negotiated.addresses.from.as_ref().map(Domain::as_str), stream_id = %negotiated.id,
                "inbound stream negotiated"
            );
            let changes = inbound.shared.changes();
            let session = Box::new(Session {
                inbound,
                wire,
                guard,
                place,
                unproven_until: Some(began + unproven),
                id: negotiated.id,
                pairs: Vec::new(),
                pending: Verifications::default(),
                shown: Vec::new(),
                last_use: Instant::now(),
                external: External::new(negotiated.addresses),
                domains: DomainCache::default(),
                lanes: Vec::new(),
                last: None,
                paused: None,
                throttled: None,
                turn_began: Instant::now(),
                long_turn: false,
                held: 0,
                changes,
            });
            Some((session, negotiated.first.map(Box::new)))
        }
        // Load balancers look whether somebody listens, and leave.
        Err(Failure::Io(_) | Failure::Ended) if !wire.transport.has_received() => {
            tracing::debug!(%peer, "a connection was closed before its first byte");
            None
        }
        Err(failure) => {
            let claimed = guard.entry.claimed();
            if inbound
                .shared
                .may_log("inbound stream failed", Party::Caller(peer.ip(), claimed.as_ref()))
            {
                let stage = failure.stage(guard.entry.stage()).as_str();
                tracing::info!(%peer, stage, reason = %failure, "inbound stream failed during its negotiation");
            }
            inbound.shared.stream_refused(&guard.entry, &failure);
            count_excess(&inbound, &failure, true);
            let live = inbound.shared.live();
            wire.hang_up(&failure, || negotiate::header_for_error(&live)).await;
            None
        }
    }
}
