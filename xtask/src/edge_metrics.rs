//! The reference of the edge's metrics, from their table. That the table is what is registered is a test of the edge.

use std::fmt::Write as _;

use xmpp_federation_edge::observe::metrics::described::{METRICS, MetricKind};

/// The page.
pub fn page() -> String {
    let mut out = String::from(
        "# Metrics of the edge

<!-- Generated from edge/src/metrics/described.rs; `cargo run -p xtask -- generate` writes it anew. -->

`/metrics` of the admin port shows these metrics as OpenMetrics text. Labels take their values from small fixed sets or from the
configuration, never from peers, so a stranger cannot make the number of series grow. Values that a later release adds end
a list with `…`.

| metric | kind | meaning | labels |
|---|---|---|---|
",
    );
    for metric in METRICS {
        let (kind, suffix) = match metric.kind {
            MetricKind::Counter => ("counter", "_total"),
            MetricKind::Gauge => ("gauge", ""),
            MetricKind::Histogram => ("histogram", ""),
        };
        let labels: Vec<_> = metric
            .labels
            .iter()
            .map(|(name, values)| format!("`{name}`: {values}"))
            .collect();
        let labels = if labels.is_empty() {
            "–".to_owned()
        } else {
            labels.join("; ")
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "| `xmpp_edge_{}{suffix}` | {kind} | {} | {labels} |",
            metric.name, metric.help
        );
    }
    out
}
