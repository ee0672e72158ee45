//! Every metric with its labels and their values: what is registered, and what
//! `docs/reference/edge-metrics.md` is written from.

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

const fn described(
    name: &'static str,
    kind: MetricKind,
    labels: &'static [(&'static str, &'static str)],
    help: &'static str,
) -> Description {
    Description {
        name,
        kind,
        help,
        labels,
    }
}

const DIRECTION: (&str, &str) = ("direction", "`inbound`, `outbound`");
const STAGES: &str =
    "`resolve`, `connect`, `tls`, `certificate`, `features`, `external`, `dialback`, `policy`, `stream`";
const STATES: &str = "`connecting`, `up`, `unreachable`, `unknown-component`, `not-gateway`, `wrong-secret`, `failed`";
const CAUSES: &str = "a name of the bounce table: `denied`, `not-found`, `unreachable`, `insecure`, `dialback-invalid`, `dialback-failed`, `queue-full`, `stream-lost`, `link-lost`, `router-refused`, `link-down`, `foreign-sender`, `malformed`, `bad-envelope`, `not-for-us`, `unportable`, `breaks-links`, `stopping`, `too-large`";

const DROPS: &str = "a name of the bounce table, as above; `refused-rate`: refused beyond its sender's rate of refused stanzas, from a peer";

/// Every metric, in the order of the reference.
#[rustfmt::skip]
pub const METRICS: &[Description] = &[
    described("build_info", MetricKind::Gauge, &[("version", "the release")],
        "Always 1; the label names the release"),
    described("streams", MetricKind::Gauge, &[DIRECTION],
        "Open streams with peers"),
    described("authenticated_streams", MetricKind::Gauge, &[DIRECTION, ("mechanism", "`dialback`, `external`")],
        "Open streams with an authenticated pair of domains, by how their first pair was authenticated"),
    described("connections_refused", MetricKind::Counter, &[("reason", "the bound that is reached: `total`, `per-address`, `per-56`, `per-48`; `rate`: too many new ones at once; `proxy-header`")],
        "Inbound connections turned away before any stream"),
    described("unproven_connections_ended", MetricKind::Counter, &[("reason", "the bound at which they were closed for newer ones: `total`, `per-address`, `per-56`, `per-48`; `time`: no proof within two minutes; `bytes`: too much came without a proof; `incomplete`: unfinished data of all streams filled its part of the memory")],
        "Inbound connections ended without a proof (an authenticated pair, or a `db:verify` with a key of this edge)"),
    described("streams_cut", MetricKind::Counter, &[],
        "Inbound streams that were not read to their end in time after our side was closed: what their peers sent last is lost"),
    described("proxy_headers", MetricKind::Counter, &[("outcome", "`v1`, `v2`, `local` (the balancer's own), `malformed`, `timeout`")],
        "PROXY headers of trusted load balancers"),
    described("peers_refused", MetricKind::Counter, &[("check", "the check that failed, as in the log: `policy`, `own-domain`, `hosted`, `tls-required`, `tls-downgrade`, `tls-handshake`, `tls-disabled`, `certificate`, `pin`, `dialback`, `limits`, `addressing`, `authenticated`, `protocol`, `xml`, `size`, `time`")],
        "Peers' streams, pairs and keys that were refused"),
    described("attempts_failed", MetricKind::Counter, &[DIRECTION, ("stage", STAGES)],
        "Attempts that failed, as ctl failures shows them"),
    described("tls_handshakes", MetricKind::Counter, &[DIRECTION, ("version", "`TLSv1_2`, `TLSv1_3`"), ("cipher", "the suite's registered name")],
        "TLS handshakes that ended well"),
    described("tls_failures", MetricKind::Counter, &[DIRECTION],
        "TLS handshakes that failed"),
    described("peer_certificates", MetricKind::Counter, &[DIRECTION, ("verdict", "`valid`, `missing`, `invalid`, `unproven` (its key is of an unsupported kind)")],
        "Certificates of peers by what they prove"),
    described("sasl", MetricKind::Counter, &[DIRECTION, ("outcome", "`success`; outbound `failure`; inbound the condition of RFC 6120 section 6.5 that the peer was told")],
        "SASL EXTERNAL exchanges"),
    described("dialback_seconds", MetricKind::Histogram, &[("role", "`initiating`, `receiving`, `authoritative`"), ("outcome", "`valid`, `invalid`, `error`, `timeout`")],
        "Dialbacks, and how long they took"),
    described("resolution_seconds", MetricKind::Histogram, &[("method", "`srv`, `address`, `static-route`, `none`"), ("outcome", "`ok`, `not-found`, `disabled`, `refused`, `temporary`")],
        "Look-ups of remote domains, and how long they took"),
    described("stanzas", MetricKind::Counter, &[DIRECTION],
        "Stanzas passed on: inbound ones to links, outbound ones to peers"),
    described("stanza_bytes", MetricKind::Counter, &[DIRECTION],
        "Bytes of the stanzas passed on"),
    described("stanzas_bounced", MetricKind::Counter, &[("cause", CAUSES)],
        "Stanza errors made, by cause"),
    described("stanza_errors", MetricKind::Counter, &[("condition", "a condition of RFC 6120 section 8.3.3")],
        "Stanza errors made, by the condition that their receivers see"),
    described("stanzas_dropped", MetricKind::Counter, &[("cause", DROPS)],
        "Stanzas that could not be delivered and must not be answered"),
    described("stanzas_unaccounted", MetricKind::Counter, &[],
        "At most as many stanzas were lost without an answer with outbound streams: the peer's system had taken them, its server may not have read them, and they were too many to be kept"),
    described("stream_errors", MetricKind::Counter, &[DIRECTION, ("sender", "`edge`, `peer`"), ("condition", "a condition of RFC 6120 section 4.9.3")],
        "Streams that ended with an error"),
    described("pauses", MetricKind::Counter, &[("reason", "`link-queue`: the routers take too little; `rate`: the peer sends more than it may; `refused`: many of its users send stanzas that are refused")],
        "Times that a peer was not read for a while"),
    described("link_queue_stanzas", MetricKind::Gauge, &[("router", "name of the cluster in the configuration")],
        "Stanzas that wait for a link to an XCP router"),
    described("link_queue_bytes", MetricKind::Gauge, &[("router", "name of the cluster in the configuration")],
        "Bytes of the stanzas that wait for a link to an XCP router"),
    described("suspects", MetricKind::Gauge, &[("router", "name of the cluster in the configuration"), ("state", "`suspected`: sent one by one; `refused`")],
        "Senders whose stanzas are sent one by one, or refused, because a router ended a link"),
    described("outbound_queue_stanzas", MetricKind::Gauge, &[],
        "Stanzas that wait for streams to remote domains"),
    described("outbound_queue_bytes", MetricKind::Gauge, &[],
        "Bytes of the stanzas that wait for streams to remote domains"),
    described("outbound_sent_bytes", MetricKind::Gauge, &[],
        "Bytes of stanzas that were sent to peers and are kept until it is clear that they were read"),
    described("incomplete_bytes", MetricKind::Gauge, &[],
        "Bytes of unfinished elements and TLS records, and of data that was read from peers and is not processed yet"),
    described("routes_refused", MetricKind::Counter, &[],
        "Stanzas refused because too many remote domains have waiting stanzas or an open outbound stream"),
    described("outbound_domains", MetricKind::Gauge, &[],
        "Remote domains with waiting stanzas or an open outbound stream"),
    described("pairs_kept_alone", MetricKind::Counter, &[("reason", "`refused`: the remote server refused the hosted domain; `unanswered`: it left its `db:result` unanswered on the stream of another one; `ended`: it ended that stream")],
        "Times that a hosted domain got streams of its own to a remote domain"),
    described("links", MetricKind::Gauge, &[("state", STATES)],
        "Links to XCP routers, by state"),
    described("link_state", MetricKind::Gauge, &[("router", "name of the cluster in the configuration"), ("node", "name of the node in the configuration"), ("state", STATES)],
        "1 for the state that the link to this node is in"),
    described("link_returns_everything", MetricKind::Gauge, &[("router", "name of the cluster in the configuration"), ("node", "name of the node in the configuration")],
        "1 while the router of this node accepts the link but returns every message and request as an error"),
    described("stanzas_returned", MetricKind::Counter, &[("condition", "a stanza error condition of RFC 6120 section 8.3.3")],
        "Messages and requests that came back from a router as errors"),
    described("router_elements_dropped", MetricKind::Counter, &[("element", "`announcement` (of a component that is not this edge's), `xdb`, `data`, `x`, `handshake`, `internal` (a stanza from or to the router's own parts), `other`")],
        "Elements of routers other than users' stanzas; all are dropped"),
    described("link_failures", MetricKind::Counter, &[("state", STATES)],
        "Failures of links to XCP routers"),
    described("failing_partners", MetricKind::Gauge, &[],
        "Configured remote domains for which the last attempt failed, for a hosted domain at least"),
    described("configuration_reloads", MetricKind::Counter, &[("outcome", "`loaded`, `refused`")],
        "Configurations read"),
    described("configuration_refused", MetricKind::Gauge, &[],
        "1 while the newest configuration is refused and an older one is in force"),
    described("verifications", MetricKind::Gauge, &[("state", "`running`: authoritative servers are being asked; `waiting`: for their turn")],
        "Dialback keys of peers that are not answered yet"),
    described("verifications_refused", MetricKind::Counter, &[("reason", "`no-room`: too many wait already; `too-late`: their time was over before their turn came")],
        "Dialback keys of peers that were not verified because too many keys were waiting or being verified"),
    described("log_lines_dropped", MetricKind::Counter, &[("reason", "`rate`: its subject has used up its lines of this minute; `output`: standard output is not read fast enough; `libraries`: libraries have used up their lines of this minute")],
        "Lines of the log that were not written"),
    described("certificate_expiry_timestamp_seconds", MetricKind::Gauge, &[],
        "When the first of the edge's certificates expires, Unix time"),
];

/// The meaning of a metric; empty for one that is not in the table, which a test finds.
pub(super) fn help(name: &str) -> &'static str {
    METRICS
        .iter()
        .find(|metric| metric.name == name)
        .map_or("", |metric| metric.help)
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
