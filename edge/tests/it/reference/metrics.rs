//! The table of metrics, from which `docs/reference/edge-metrics.md` is written, is what is registered.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use strum::{IntoEnumIterator as _, VariantNames as _};
use xmpp_federation_core::edge_status::{LinkState, LinkStatus};
use xmpp_federation_edge::bounce::Cause;
use xmpp_federation_edge::observe::metrics::described::{METRICS, MetricKind};
use xmpp_federation_edge::observe::metrics::{Bound, Depths, Metrics};
use xmpp_federation_edge::observe::registry::Registry;
use xmpp_federation_edge::refusal::Check;
use xmpp_federation_edge::words::{Direction, Role, Stage};

fn full_name(name: &str, kind: MetricKind) -> String {
    let suffix = if kind == MetricKind::Counter { "_total" } else { "" };
    format!("xmpp_edge_{name}{suffix}")
}

#[test]
fn every_word_of_checks_causes_and_stages_is_in_the_reference() {
    let values = |metric: &str, label: &str| {
        let metric = METRICS.iter().find(|described| described.name == metric);
        let mut labels = metric.unwrap().labels.iter();
        labels.find(|(name, _)| *name == label).unwrap().1
    };
    let causes: Vec<_> = Cause::iter().map(Cause::as_str).collect();
    for (text, words) in [
        (values("peers_refused", "check"), Check::VARIANTS),
        (values("stanzas_bounced", "cause"), &causes),
        (values("attempts_failed", "stage"), Stage::VARIANTS),
    ] {
        for word in words {
            assert!(text.contains(&format!("`{word}`")), "{word} is not in {text}");
        }
    }
}

/// Metrics in which everything happened once.
fn everything() -> String {
    let (metrics, registry) = (Metrics::default(), std::sync::Arc::new(Registry::default()));
    registry.add_link(LinkStatus {
        router: "main".to_owned(),
        node: "ecup10.coluc.com".to_owned(),
        address: "198.51.100.1:7400".to_owned(),
        component_id: "cm-2_s2scp-1.eft-xwye-a-coluc-com".parse().unwrap(),
        state: LinkState::Up.into(),
        since: String::new(),
        reason: None,
        last_up: None,
        returned: None,
        open_seconds: None,
        announced: None,
        sightings: Vec::new(),
    });
    let of = Direction::Inbound;
    metrics.connection_refused(Bound::Total);
    metrics.unproven_ended(Bound::Time);
    metrics.route_refused();
    metrics.tls_established(of, "TLSv1_3", "TLS13_AES_128_GCM_SHA256");
    metrics.tls_failed(of);
    metrics.certificate_judged(of, "valid");
    metrics.dialback(Role::Receiving, "valid", Duration::from_millis(1));
    metrics.stanzas(of, 1, 100);
    metrics.bounced("denied");
    metrics.dropped("denied");
    metrics.stream_error(of, true, "host-unknown");
    metrics.resolved(None, "temporary", Duration::from_millis(1));
    metrics.link_failed("unreachable");
    metrics.returned("item-not-found");
    metrics.router_element_dropped("xdb");
    metrics.configuration_refused(true);
    metrics.sasl(of, "success");
    metrics.proxy_header("v2");
    metrics.paused("rate");
    metrics.pair_kept_alone("refused");
    metrics.peer_refused("policy");
    metrics.verification_refused("too-late");
    metrics.log_line_left_out();
    metrics.attempt_failed(of, Stage::Resolve);
    metrics.set_depths(&Depths {
        links: vec![("main".to_owned(), 1, 100)],
        suspects: vec![("main".to_owned(), 1, 0)],
        ..Depths::default()
    });
    metrics.render(&registry)
}

/// Each metric that a text has samples of, with the names of its labels.
fn found(text: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut found = BTreeMap::<String, BTreeSet<String>>::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let end = line.find(['{', ' ']).unwrap();
        let (name, rest) = line.split_at(end);
        let labels = rest
            .strip_prefix('{')
            .map_or("", |rest| rest.split('}').next().unwrap());
        let names = labels
            .split(',')
            .filter_map(|label| label.split_once('='))
            .map(|(name, _)| name.to_owned())
            .filter(|name| name != "le");
        found.entry(name.to_owned()).or_default().extend(names);
    }
    found
}

#[test]
fn what_is_registered_is_exactly_what_the_table_says() {
    let text = everything();
    let mut found = found(&text);
    for metric in METRICS {
        let name = full_name(metric.name, metric.kind);
        let names = match metric.kind {
            MetricKind::Histogram => vec![format!("{name}_count"), format!("{name}_sum"), format!("{name}_bucket")],
            _ => vec![name.clone()],
        };
        let labels: BTreeSet<_> = metric.labels.iter().map(|(name, _)| (*name).to_owned()).collect();
        for sample in names {
            assert_eq!(found.remove(&sample).as_ref(), Some(&labels), "{sample} in\n{text}");
        }
        // The encoder ends the meaning with a full stop.
        let help = format!("# HELP xmpp_edge_{} {}.", metric.name, metric.help);
        assert!(text.contains(&help), "{help:?} is missing in\n{text}");
        assert!(!metric.help.is_empty());
    }
    assert!(found.is_empty(), "not in the table: {found:?}");
}
