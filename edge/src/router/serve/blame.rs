//! A link that a router ended over a stanza: whose it was.

use std::time::Duration;

use tokio::time::{Instant, timeout};
use xmpp_federation_core::Domain;

use super::LiveLink;
use crate::bounce::Cause;
use crate::clusters::suspects::{PERIOD, is_about_a_stanza};
use crate::jid::domain_part;
use crate::observe::failures::Attempt;
use crate::stream::Failure;
use crate::stream::transport::Turn;
use crate::words::{Direction, Stage};
use xmpp_federation_xml::{Frame, ns};

/// How long what a router said last is waited for once the connection is broken.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// Suspects that a line of the log names.
const NAMED: usize = 8;

impl LiveLink<'_> {
    /// What the router said before it broke the connection: writing to it fails before that is
    /// read. `None`: no stream error.
    pub(super) async fn last_words(&mut self) -> Option<Failure> {
        let wire = &mut self.wire;
        let listen = async {
            loop {
                while let Ok(Some(frame)) = wire.framer.next_frame() {
                    match frame {
                        Frame::Element(element) if element.is(ns::STREAMS, "error") => {
                            return Some(wire.peer_error(&element));
                        }
                        Frame::End => return None,
                        Frame::Header(_) | Frame::Element(_) => {}
                    }
                }
                match wire.transport.read_on(wire.framer.buffer()).await {
                    Ok(Turn::Read) => {}
                    Ok(Turn::Flushed | Turn::End) | Err(_) => return None,
                }
            }
        };
        timeout(LAST_WORDS, listen).await.ok().flatten()
    }

    /// The link has ended: if the router did so over a stanza, its senders are found. Gives why
    /// what is unproven did not arrive.
    pub(super) fn find_the_sender(&mut self, end: &Result<(), Failure>) -> Cause {
        let Err(Failure::Peer { condition, .. }) = end else {
            return Cause::LinkLost;
        };
        if !is_about_a_stanza(*condition) || self.window.is_empty() {
            return Cause::LinkLost;
        }
        let (link, now) = (self.link, Instant::now());
        let (routers, queue) = (&link.routers, &link.cluster.queue);
        let (router, node) = (&link.cluster.name, &link.endpoint.name);
        let (condition, minutes) = (condition.as_str(), PERIOD.as_secs() / 60);
        let alone = self.window.front().filter(|_| self.alone);
        let Some((sender, refused)) = alone.and_then(|alone| queue.convict(alone, now)) else {
            let suspects = queue.accuse(self.window.iter(), now);
            let named = suspects.get(..NAMED).unwrap_or(&suspects);
            tracing::warn!(
                router,
                node,
                condition,
                suspects = suspects.len(),
                senders = named.join(" "),
                minutes,
                "the XCP router ended the link over a stanza; stanzas of all possible senders go one by one for {minutes} minutes"
            );
            routers.outbound.report_refused(queue);
            return Cause::LinkLost;
        };
        for batch in refused {
            routers.outbound.report(&batch.bytes, Cause::BreaksLinks);
        }
        routers.outbound.report_refused(queue);
        tracing::warn!(
            router,
            node,
            condition,
            %sender,
            minutes,
            "the XCP router ended the link over a stanza of this sender; the edge refuses the sender's stanzas for {minutes} minutes"
        );
        let remote = Domain::parse(domain_part(&sender)).ok();
        if let Some(remote) = remote.filter(|remote| !routers.shared.live().hosted.contains(remote)) {
            let attempt = Attempt {
                direction: Direction::Inbound,
                stage: Stage::Stream,
                local: None,
                address: None,
                reason: format!(
                    "the XCP router of {node} ended its link with {condition} over a stanza of {sender}; the edge refuses the sender's stanzas for {minutes} minutes"
                ),
            };
            routers.shared.attempt_failed(&remote, attempt);
        }
        Cause::BreaksLinks
    }
}
