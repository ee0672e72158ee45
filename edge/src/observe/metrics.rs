//! What is counted, in Prometheus' terms. Labels come from small fixed sets only, never from peers.

pub mod described;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::Ordering;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use strum::{VariantArray as _, VariantNames as _};
use xmpp_federation_core::edge_status::{LinkState, RefusalCounts};

use crate::config::Live;
use crate::logging::DroppedLines;
use crate::observe::registry::Registry;
use crate::refusal::Check;
use crate::resolve::Method;
use crate::words::{Direction, Mechanism, Role, Stage};
pub use described::Metrics;
use described::{Counters, Label};

const fn label(name: &'static str, value: &'static str) -> Label {
    (name, Cow::Borrowed(value))
}

fn direction(direction: Direction) -> Label {
    label("direction", direction.as_str())
}

fn named(name: &'static str, value: &str) -> Label {
    (name, Cow::Owned(value.to_owned()))
}

fn count<const N: usize>(counters: &Counters<N>, labels: &[Label; N]) {
    counters.get_or_create(labels).inc();
}

fn as_gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Why an inbound connection is turned away, or ends without a proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, strum::IntoStaticStr)]
#[strum(serialize_all = "kebab-case")]
pub enum Bound {
    /// Connections in all.
    Total,
    /// Those of an IPv4 address or a /64 of IPv6.
    PerAddress,
    /// Those of a /56.
    #[strum(serialize = "per-56")]
    Per56,
    /// Those of a /48.
    #[strum(serialize = "per-48")]
    Per48,
    /// New ones in a second.
    Rate,
    /// A PROXY header that cannot be read.
    ProxyHeader,
    /// No proof came in time.
    Time,
    /// Too much came without a proof.
    Bytes,
    /// Unfinished data of all streams.
    Incomplete,
}

impl Bound {
    /// Those at which connections are turned away.
    pub const REFUSES: [Self; 6] = [
        Self::Total,
        Self::PerAddress,
        Self::Per56,
        Self::Per48,
        Self::Rate,
        Self::ProxyHeader,
    ];
    /// Those at which connections without a proof end.
    pub const ENDS: [Self; 7] = [
        Self::Total,
        Self::PerAddress,
        Self::Per56,
        Self::Per48,
        Self::Time,
        Self::Bytes,
        Self::Incomplete,
    ];

    /// The word used in logs and metrics.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// How many keys are being verified, and how many wait.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TurnCounts {
    /// Being verified.
    pub running: usize,
    /// Waiting for their turn.
    pub waiting: usize,
}

/// What waits, at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Depths {
    /// Each cluster's name, and the stanzas and bytes that wait for its links.
    pub links: Vec<(String, usize, usize)>,
    /// Each cluster's name, and how many senders are suspected and refused there.
    pub suspects: Vec<(String, usize, usize)>,
    /// Stanzas that wait for streams to remote domains.
    pub outbound_stanzas: usize,
    /// Their bytes.
    pub outbound_bytes: usize,
    /// Remote domains with something waiting or a stream open.
    pub outbound_domains: usize,
    /// Keys of peers.
    pub verifications: TurnCounts,
    /// Bytes of stanzas that were sent and may not have been read.
    pub sent_bytes: usize,
    /// Bytes that peers have begun and not ended.
    pub incomplete_bytes: usize,
}

impl Metrics {
    /// The text for Prometheus, with the gauges as they are now.
    pub fn render(&self, registry: &Registry) -> String {
        let counts = registry.counts();
        for (of, count) in [
            (Direction::Inbound, counts.inbound),
            (Direction::Outbound, counts.outbound),
        ] {
            self.streams.get_or_create(&[direction(of)]).set(as_gauge(count));
        }
        let authenticated = registry.authenticated();
        for of in [Direction::Inbound, Direction::Outbound] {
            for mechanism in [Mechanism::Dialback, Mechanism::External] {
                let word = mechanism.as_str();
                let count = authenticated.get(&(of, word)).copied().unwrap_or(0);
                self.authenticated_streams
                    .get_or_create(&[direction(of), label("mechanism", word)])
                    .set(as_gauge(count));
            }
        }
        let links = registry.links();
        // Nodes that are not configured any more must not be told of.
        self.link_state.clear();
        self.link_returns_everything.clear();
        for link in &links {
            let everything = link.returned.as_ref().is_some_and(|r| r.everything);
            self.link_returns_everything
                .get_or_create(&[named("router", &link.router), named("node", &link.node)])
                .set(i64::from(everything));
            let labels = [
                named("router", &link.router),
                named("node", &link.node),
                label("state", link.state.known().map_or("", LinkState::into)),
            ];
            self.link_state.get_or_create(&labels).set(1);
        }
        for state in LinkState::VARIANTS {
            let count = links.iter().filter(|link| link.state == *state).count();
            let gauge = self.links.get_or_create(&[label("state", state.into())]);
            gauge.set(as_gauge(count));
        }
        self.failing_partners.set(as_gauge(registry.failing_count()));
        for (reason, lines) in self.lines_dropped_by_the_log() {
            let counter = self.log_lines_dropped.get_or_create(&[label("reason", reason)]);
            counter.inner().store(lines, Ordering::Relaxed);
        }
        let mut text = String::new();
        if encode(&mut text, &self.collected).is_err() {
            // Writing into a String does not fail.
            let _ = writeln!(text, "# EOF");
        }
        text
    }

    /// From now on tells what this log does not write.
    pub fn follow_log(&self, dropped: DroppedLines) {
        // There is one log in a process.
        let _ = self.log.set(dropped);
    }

    /// What the log itself counts, by reason; nothing before there is one.
    fn lines_dropped_by_the_log(&self) -> Vec<(&'static str, u64)> {
        let of = |dropped: &DroppedLines| vec![("output", dropped.by_output()), ("libraries", dropped.of_libraries())];
        self.log.get().map_or_else(Vec::new, of)
    }

    /// Lines that standard output did not take.
    pub(crate) fn unwritten_lines(&self) -> u64 {
        self.log.get().map_or(0, DroppedLines::by_output)
    }

    /// What was refused so far.
    pub fn refused(&self) -> RefusalCounts {
        let by = |counters: &Counters<1>, name: &'static str, reasons: &[&'static str]| {
            let counts = reasons.iter().filter_map(|reason| {
                let counter = counters.get(&[label(name, reason)])?;
                Some(((*reason).to_owned(), counter.get()))
            });
            counts.collect()
        };
        let mut log_lines: BTreeMap<_, _> = by(&self.log_lines_dropped, "reason", &["rate"]);
        let others = self.lines_dropped_by_the_log().into_iter();
        let others = others.filter(|(_, lines)| *lines > 0);
        log_lines.extend(others.map(|(reason, lines)| (reason.to_owned(), lines)));
        RefusalCounts {
            connections: by(&self.connections_refused, "reason", &Bound::REFUSES.map(Bound::as_str)),
            unproven_connections: by(
                &self.unproven_connections_ended,
                "reason",
                &Bound::ENDS.map(Bound::as_str),
            ),
            peers: by(&self.peers_refused, "check", Check::VARIANTS),
            log_lines,
        }
    }

    /// A line was left out because its cause has enough of them in this minute.
    pub fn log_line_left_out(&self) {
        count(&self.log_lines_dropped, &[label("reason", "rate")]);
    }

    /// A configuration came into force.
    pub fn configuration_loaded(&self, live: &Live) {
        count(&self.configuration_reloads, &[label("outcome", "loaded")]);
        let first = live
            .tls
            .certificates
            .iter()
            .chain(&live.tls.client_certificate)
            .map(|shown| shown.not_after.as_second())
            .min();
        self.certificate_expiry_timestamp_seconds.set(first.unwrap_or_default());
    }

    /// Whether the configuration found last is refused.
    pub fn configuration_refused(&self, refused: bool) {
        if refused {
            count(&self.configuration_reloads, &[label("outcome", "refused")]);
        }
        self.configuration_refused.set(i64::from(refused));
    }

    /// A remote domain got no route, since there are too many.
    pub fn route_refused(&self) {
        self.routes_refused.inc();
    }

    /// A connection on which nothing was proven was ended at this bound.
    pub fn unproven_ended(&self, bound: Bound) {
        count(&self.unproven_connections_ended, &[label("reason", bound.as_str())]);
    }

    /// An inbound stream was not read to its end after our side was closed.
    pub fn stream_cut(&self) {
        self.streams_cut.inc();
    }

    /// A connection was turned away before any stream.
    pub fn connection_refused(&self, bound: Bound) {
        count(&self.connections_refused, &[label("reason", bound.as_str())]);
    }

    /// A TLS handshake ended well; version and suite as rustls names them.
    pub fn tls_established(&self, of: Direction, version: &str, suite: &str) {
        let labels = [
            direction(of),
            ("version", Cow::Owned(version.to_owned())),
            ("cipher", Cow::Owned(suite.to_owned())),
        ];
        count(&self.tls_handshakes, &labels);
    }

    /// A TLS handshake failed.
    pub fn tls_failed(&self, of: Direction) {
        count(&self.tls_failures, &[direction(of)]);
    }

    /// A peer's certificate was judged: `valid`, `missing`, `invalid`.
    pub fn certificate_judged(&self, of: Direction, verdict: &'static str) {
        count(&self.peer_certificates, &[direction(of), label("verdict", verdict)]);
    }

    /// One dialback ended: `valid`, `invalid`, `error`, `timeout`.
    pub fn dialback(&self, role: Role, outcome: &'static str, took: Duration) {
        let labels = [label("role", role.as_str()), label("outcome", outcome)];
        self.dialback_seconds.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// Stanzas went through, in one batch: inbound ones to a link, outbound ones to a peer.
    pub fn stanzas(&self, of: Direction, count: usize, bytes: usize) {
        let labels = [direction(of)];
        self.stanzas.get_or_create(&labels).inc_by(count as u64);
        self.stanza_bytes.get_or_create(&labels).inc_by(bytes as u64);
    }

    /// A stanza error was made; `cause` is a name of the bounce table.
    pub fn bounced(&self, cause: &'static str) {
        count(&self.stanzas_bounced, &[label("cause", cause)]);
        if let Some(condition) = crate::bounce::condition_of(cause) {
            count(&self.stanza_errors, &[label("condition", condition)]);
        }
    }

    /// A stanza was dropped because nobody may be told (errors, results): a name of the bounce
    /// table.
    pub fn dropped(&self, cause: &'static str) {
        count(&self.stanzas_dropped, &[label("cause", cause)]);
    }

    /// Stanzas were lost with a stream, and nobody can be told.
    pub fn stanzas_unaccounted(&self, stanzas: usize) {
        self.stanzas_unaccounted.inc_by(stanzas as u64);
    }

    /// A stream ended with an error; `sent` by us, else received; condition of RFC 6120.
    pub fn stream_error(&self, of: Direction, sent: bool, condition: &'static str) {
        let sender = if sent { "edge" } else { "peer" };
        let labels = [direction(of), label("sender", sender), label("condition", condition)];
        count(&self.stream_errors, &labels);
    }

    /// A look-up ended: `ok`, `not-found`, `disabled`, `refused`, `temporary`.
    pub fn resolved(&self, method: Option<Method>, outcome: &'static str, took: Duration) {
        let labels = [
            label("method", method.map_or("none", Method::as_str)),
            label("outcome", outcome),
        ];
        self.resolution_seconds
            .get_or_create(&labels)
            .observe(took.as_secs_f64());
    }

    /// What waits now.
    pub fn set_depths(&self, depths: &Depths) {
        self.link_queue_stanzas.clear();
        self.link_queue_bytes.clear();
        self.suspects.clear();
        for (router, suspected, refused) in &depths.suspects {
            for (state, count) in [("suspected", suspected), ("refused", refused)] {
                let labels = [named("router", router), label("state", state)];
                self.suspects.get_or_create(&labels).set(as_gauge(*count));
            }
        }
        for (router, stanzas, bytes) in &depths.links {
            let labels = [named("router", router)];
            let (waiting, size) = (&self.link_queue_stanzas, &self.link_queue_bytes);
            waiting.get_or_create(&labels).set(as_gauge(*stanzas));
            size.get_or_create(&labels).set(as_gauge(*bytes));
        }
        self.outbound_queue_stanzas.set(as_gauge(depths.outbound_stanzas));
        self.outbound_queue_bytes.set(as_gauge(depths.outbound_bytes));
        self.outbound_domains.set(as_gauge(depths.outbound_domains));
        self.outbound_sent_bytes.set(as_gauge(depths.sent_bytes));
        self.incomplete_bytes.set(as_gauge(depths.incomplete_bytes));
        let TurnCounts { running, waiting } = depths.verifications;
        for (state, count) in [("running", running), ("waiting", waiting)] {
            let gauge = self.verifications.get_or_create(&[label("state", state)]);
            gauge.set(as_gauge(count));
        }
    }

    /// A SASL exchange ended: `success`, or why not in a word of ours.
    pub fn sasl(&self, of: Direction, outcome: &'static str) {
        count(&self.sasl, &[direction(of), label("outcome", outcome)]);
    }

    /// A PROXY header was read, or not: `v1`, `v2`, `local`, `malformed`, `timeout`.
    pub fn proxy_header(&self, outcome: &'static str) {
        count(&self.proxy_headers, &[label("outcome", outcome)]);
    }

    /// A peer is not read for a while: `link-queue`, `rate`, `refused`.
    pub fn paused(&self, reason: &'static str) {
        count(&self.pauses, &[label("reason", reason)]);
    }

    /// A hosted domain gets streams of its own to a remote domain: `refused`, `unanswered`, `ended`.
    pub fn pair_kept_alone(&self, reason: &'static str) {
        let reason = [label("reason", reason)];
        self.pairs_kept_alone.get_or_create(&reason).inc();
    }

    /// A key was not verified because too many others were: `no-room`, `too-late`.
    pub fn verification_refused(&self, reason: &'static str) {
        count(&self.verifications_refused, &[label("reason", reason)]);
    }

    /// A peer was refused by this check.
    pub fn peer_refused(&self, check: &'static str) {
        count(&self.peers_refused, &[label("check", check)]);
    }

    /// An attempt failed at this stage.
    pub fn attempt_failed(&self, of: Direction, stage: Stage) {
        count(&self.attempts_failed, &[direction(of), label("stage", stage.as_str())]);
    }

    /// A stanza came back from a router as an error; a word of RFC 6120 section 8.3.3.
    pub fn returned(&self, condition: &'static str) {
        count(&self.stanzas_returned, &[label("condition", condition)]);
    }

    /// A router said something besides users' stanzas; a word of [`crate::router`].
    pub fn router_element_dropped(&self, element: &'static str) {
        count(&self.router_elements_dropped, &[label("element", element)]);
    }

    /// A link attempt ended badly or a link broke; a [`LinkState`] in words.
    pub fn link_failed(&self, state: &'static str) {
        count(&self.link_failures, &[label("state", state)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_is_read_back_in_prometheus_text() {
        let metrics = Metrics::default();
        metrics.stanzas(Direction::Inbound, 3, 700);
        metrics.dialback(Role::Receiving, "valid", Duration::from_millis(20));
        metrics.resolved(None, "temporary", Duration::from_secs(4));
        metrics.configuration_refused(true);
        let text = metrics.render(&Registry::default());
        for line in [
            "xmpp_edge_stanzas_total{direction=\"inbound\"} 3",
            "xmpp_edge_stanza_bytes_total{direction=\"inbound\"} 700",
            "xmpp_edge_dialback_seconds_count{role=\"receiving\",outcome=\"valid\"} 1",
            "xmpp_edge_resolution_seconds_count{method=\"none\",outcome=\"temporary\"} 1",
            "xmpp_edge_configuration_refused 1",
            "xmpp_edge_configuration_reloads_total{outcome=\"refused\"} 1",
            "xmpp_edge_streams{direction=\"outbound\"} 0",
            "xmpp_edge_links{state=\"up\"} 0",
            "# EOF",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
    }
}
