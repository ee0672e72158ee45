//! Every metric with its labels and their values: what is registered, and what
//! `docs/reference/edge-metrics.md` is written from.

use std::borrow::Cow;
use std::sync::OnceLock;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry as Collected;

use super::label;
use crate::logging::DroppedLines;

pub(super) type Label = (&'static str, Cow<'static, str>);
pub(super) type Counters<const N: usize> = Family<[Label; N], Counter>;
type Gauges<const N: usize> = Family<[Label; N], Gauge>;
type Durations<const N: usize> = Family<[Label; N], Histogram, fn() -> Histogram>;

/// 1 ms to 30 s: a look-up, a dialback.
fn seconds() -> Histogram {
    Histogram::new([0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0])
}

/// How Prometheus treats it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows; its name ends with `_total`.
    Counter,
    /// A value as it is now.
    Gauge,
    /// Durations in seconds: `_bucket`, `_sum`, `_count`.
    Histogram,
}

/// One metric.
#[derive(Debug, Clone, Copy)]
pub struct Description {
    /// Its name without the prefix `xmpp_edge_` and without the suffix of its kind.
    pub name: &'static str,
    /// Its kind.
    pub kind: MetricKind,
    /// Its meaning.
    pub help: &'static str,
    /// Its labels, each with the values it takes in words.
    pub labels: &'static [(&'static str, &'static str)],
}

const DIRECTION: (&str, &str) = ("direction", "`inbound`, `outbound`");
const STAGES: &str =
    "`resolve`, `connect`, `tls`, `certificate`, `features`, `external`, `dialback`, `policy`, `stream`";
const STATES: &str = "`connecting`, `up`, `unreachable`, `unknown-component`, `not-gateway`, `wrong-secret`, `failed`";
const CAUSES: &str = "a name of the bounce table: `denied`, `not-found`, `unreachable`, `insecure`, `dialback-invalid`, `dialback-failed`, `queue-full`, `stream-lost`, `link-lost`, `router-refused`, `link-down`, `foreign-sender`, `malformed`, `bad-envelope`, `not-for-us`, `unportable`, `breaks-links`, `stopping`, `too-large`";

const DROPS: &str = "a name of the bounce table, as above; `refused-rate`: refused beyond its sender's rate of refused stanzas, from a peer";

/// Declares the metrics, in the order of the reference: kind, name, type, labels and meaning.
macro_rules! metrics {
    ($($kind:ident $name:ident: $type:ty, [$($label:expr),*], $help:literal;)*) => {
        /// Every metric.
        pub const METRICS: &[Description] = &[$(Description {
            name: stringify!($name),
            kind: MetricKind::$kind,
            help: $help,
            labels: &[$($label),*],
        }),*];

        /// The counters of one edge. Numbers of streams and links are gauges that are read from
        /// [`crate::observe::registry::Registry`] when asked for.
        #[derive(Debug)]
        pub struct Metrics {
            pub(super) collected: Collected,
            $(pub(super) $name: $type,)*
            /// Absent where the process writes no log of ours, as in tests.
            pub(super) log: OnceLock<DroppedLines>,
        }

        impl Default for Metrics {
            fn default() -> Self {
                let mut collected = Collected::with_prefix("xmpp_edge");
                $(let $name: $type = metrics!(@make $kind);
                collected.register(stringify!($name), $help, $name.clone());)*
                let metrics = Self { collected, $($name,)* log: OnceLock::new() };
                let version = [label("version", env!("CARGO_PKG_VERSION"))];
                metrics.build_info.get_or_create(&version).set(1);
                metrics
            }
        }
    };
    (@make Histogram) => { Family::new_with_constructor(seconds) };
    (@make $kind:ident) => { Default::default() };
}

metrics! {
    Gauge build_info: Gauges<1>, [("version", "the release")],
        "Always 1; the label names the release";
    Gauge streams: Gauges<1>, [DIRECTION],
        "Open streams with peers";
    Gauge authenticated_streams: Gauges<2>, [DIRECTION, ("mechanism", "`dialback`, `external`")],
        "Open streams with an authenticated pair of domains, by how their first pair was authenticated";
    Counter connections_refused: Counters<1>, [("reason", "the bound that is reached: `total`, `per-address`, `per-56`, `per-48`; `rate`: too many new ones at once; `proxy-header`")],
        "Inbound connections turned away before any stream";
    Counter unproven_connections_ended: Counters<1>, [("reason", "the bound at which they were closed for newer ones: `total`, `per-address`, `per-56`, `per-48`; `time`: no proof within two minutes; `bytes`: too much came without a proof; `incomplete`: unfinished data of all streams filled its part of the memory")],
        "Inbound connections ended without a proof (an authenticated pair, or a `db:verify` with a key of this edge)";
    Counter streams_cut: Counter, [],
        "Inbound streams that were not read to their end in time after our side was closed: what their peers sent last is lost";
    Counter proxy_headers: Counters<1>, [("outcome", "`v1`, `v2`, `local` (the balancer's own), `malformed`, `timeout`")],
        "PROXY headers of trusted load balancers";
    Counter peers_refused: Counters<1>, [("check", "the check that failed, as in the log: `policy`, `own-domain`, `hosted`, `tls-required`, `tls-downgrade`, `tls-handshake`, `tls-disabled`, `certificate`, `pin`, `dialback`, `limits`, `addressing`, `authenticated`, `protocol`, `xml`, `size`, `time`")],
        "Peers' streams, pairs and keys that were refused";
    Counter attempts_failed: Counters<2>, [DIRECTION, ("stage", STAGES)],
        "Attempts that failed, as ctl failures shows them";
    Counter tls_handshakes: Counters<3>, [DIRECTION, ("version", "`TLSv1_2`, `TLSv1_3`"), ("cipher", "the suite's registered name")],
        "TLS handshakes that ended well";
    Counter tls_failures: Counters<1>, [DIRECTION],
        "TLS handshakes that failed";
    Counter peer_certificates: Counters<2>, [DIRECTION, ("verdict", "`valid`, `missing`, `invalid`, `unproven` (its key is of an unsupported kind)")],
        "Certificates of peers by what they prove";
    Counter sasl: Counters<2>, [DIRECTION, ("outcome", "`success`; outbound `failure`; inbound the condition of RFC 6120 section 6.5 that the peer was told")],
        "SASL EXTERNAL exchanges";
    Histogram dialback_seconds: Durations<2>, [("role", "`initiating`, `receiving`, `authoritative`"), ("outcome", "`valid`, `invalid`, `error`, `timeout`")],
        "Dialbacks, and how long they took";
    Histogram resolution_seconds: Durations<2>, [("method", "`srv`, `address`, `static-route`, `none`"), ("outcome", "`ok`, `not-found`, `disabled`, `refused`, `temporary`")],
        "Look-ups of remote domains, and how long they took";
    Counter stanzas: Counters<1>, [DIRECTION],
        "Stanzas passed on: inbound ones to links, outbound ones to peers";
    Counter stanza_bytes: Counters<1>, [DIRECTION],
        "Bytes of the stanzas passed on";
    Counter stanzas_bounced: Counters<1>, [("cause", CAUSES)],
        "Stanza errors made, by cause";
    Counter stanza_errors: Counters<1>, [("condition", "a condition of RFC 6120 section 8.3.3")],
        "Stanza errors made, by the condition that their receivers see";
    Counter stanzas_dropped: Counters<1>, [("cause", DROPS)],
        "Stanzas that could not be delivered and must not be answered";
    Counter stanzas_unaccounted: Counter, [],
        "At most as many stanzas were lost without an answer with outbound streams: the peer's system had taken them, its server may not have read them, and they were too many to be kept";
    Counter stream_errors: Counters<3>, [DIRECTION, ("sender", "`edge`, `peer`"), ("condition", "a condition of RFC 6120 section 4.9.3")],
        "Streams that ended with an error";
    Counter pauses: Counters<1>, [("reason", "`link-queue`: the routers take too little; `rate`: the peer sends more than it may; `refused`: many of its users send stanzas that are refused")],
        "Times that a peer was not read for a while";
    Gauge link_queue_stanzas: Gauges<1>, [("router", "name of the cluster in the configuration")],
        "Stanzas that wait for a link to an XCP router";
    Gauge link_queue_bytes: Gauges<1>, [("router", "name of the cluster in the configuration")],
        "Bytes of the stanzas that wait for a link to an XCP router";
    Gauge suspects: Gauges<2>, [("router", "name of the cluster in the configuration"), ("state", "`suspected`: sent one by one; `refused`")],
        "Senders whose stanzas are sent one by one, or refused, because a router ended a link";
    Gauge outbound_queue_stanzas: Gauge, [],
        "Stanzas that wait for streams to remote domains";
    Gauge outbound_queue_bytes: Gauge, [],
        "Bytes of the stanzas that wait for streams to remote domains";
    Gauge outbound_sent_bytes: Gauge, [],
        "Bytes of stanzas that were sent to peers and are kept until it is clear that they were read";
    Gauge incomplete_bytes: Gauge, [],
        "Bytes of unfinished elements and TLS records, and of data that was read from peers and is not processed yet";
    Counter routes_refused: Counter, [],
        "Stanzas refused because too many remote domains have waiting stanzas or an open outbound stream";
    Gauge outbound_domains: Gauge, [],
        "Remote domains with waiting stanzas or an open outbound stream";
    Counter pairs_kept_alone: Counters<1>, [("reason", "`refused`: the remote server refused the hosted domain; `unanswered`: it left its `db:result` unanswered on the stream of another one; `ended`: it ended that stream")],
        "Times that a hosted domain got streams of its own to a remote domain";
    Gauge links: Gauges<1>, [("state", STATES)],
        "Links to XCP routers, by state";
    Gauge link_state: Gauges<3>, [("router", "name of the cluster in the configuration"), ("node", "name of the node in the configuration"), ("state", STATES)],
        "1 for the state that the link to this node is in";
    Gauge link_returns_everything: Gauges<2>, [("router", "name of the cluster in the configuration"), ("node", "name of the node in the configuration")],
        "1 while the router of this node accepts the link but returns every message and request as an error";
    Counter stanzas_returned: Counters<1>, [("condition", "a stanza error condition of RFC 6120 section 8.3.3")],
        "Messages and requests that came back from a router as errors";
    Counter router_elements_dropped: Counters<1>, [("element", "`announcement` (of a component that is not this edge's), `xdb`, `data`, `x`, `handshake`, `internal` (a stanza from or to the router's own parts), `other`")],
        "Elements of routers other than users' stanzas; all are dropped";
    Counter link_failures: Counters<1>, [("state", STATES)],
        "Failures of links to XCP routers";
    Gauge failing_partners: Gauge, [],
        "Configured remote domains for which the last attempt failed, for a hosted domain at least";
    Counter configuration_reloads: Counters<1>, [("outcome", "`loaded`, `refused`")],
        "Configurations read";
    Gauge configuration_refused: Gauge, [],
        "1 while the newest configuration is refused and an older one is in force";
    Gauge verifications: Gauges<1>, [("state", "`running`: authoritative servers are being asked; `waiting`: for their turn")],
        "Dialback keys of peers that are not answered yet";
    Counter verifications_refused: Counters<1>, [("reason", "`no-room`: too many wait already; `too-late`: their time was over before their turn came")],
        "Dialback keys of peers that were not verified because too many keys were waiting or being verified";
    Counter log_lines_dropped: Counters<1>, [("reason", "`rate`: its subject has used up its lines of this minute; `output`: standard output is not read fast enough; `libraries`: libraries have used up their lines of this minute")],
        "Lines of the log that were not written";
    Gauge certificate_expiry_timestamp_seconds: Gauge, [],
        "When the first of the edge's certificates expires, Unix time";
}

#[cfg(test)]
mod tests {
    use super::METRICS;
    use crate::observe::metrics::Bound;

    #[test]
    fn every_bound_on_connections_is_described() {
        for (name, bounds) in [
            ("connections_refused", &Bound::REFUSES[..]),
            ("unproven_connections_ended", &Bound::ENDS[..]),
        ] {
            let metric = METRICS.iter().find(|metric| metric.name == name);
            let (_, values) = metric
                .and_then(|metric| metric.labels.first())
                .copied()
                .unwrap_or_default();
            for bound in bounds {
                assert!(values.contains(&format!("`{}`", bound.as_str())), "{name}: {bound:?}");
            }
        }
    }
}
