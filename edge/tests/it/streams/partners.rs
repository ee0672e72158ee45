//! Partners by wildcard, the entry that counts for a domain, and reloads that change it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use xmpp_federation_core::edge_config::{EdgeConfig, PrivacyMode};

use crate::support::{Lab, Peer, Router, RouterLink, Speaker, attribute, config, live, pin};

/// An edge with an entry for all domains below `partner.example`, which are reached at `first`, and one for
/// `b.partner.example`, which is reached at `second`.
async fn below(change: impl FnOnce(&mut EdgeConfig)) -> (Lab, Peer, Peer, RouterLink) {
    let (first, second) = (
        Peer::new("a.partner.example").await,
        Peer::new("b.partner.example").await,
    );
    let router = Router::new().await;
    let mut config = config(&[&first, &second], &[&router]);
    config.partners[0].domain = "*.partner.example".parse().unwrap();
    change(&mut config);
    let lab = Lab::start(live(config));
    let link = router.accept().await;
    (lab, first, second, link)
}

fn to(domain: &str, id: &str) -> String {
    format!("<message from='alice@coluc.com' to='bob@{domain}' id='{id}'/>")
}

fn from(domain: &str, id: &str) -> String {
    format!("<message from='bob@{domain}' to='alice@coluc.com' id='{id}'/>")
}

async fn heard(link: &mut RouterLink, id: &str) {
    assert_eq!(attribute(&link.hear().await, "message", "id"), id);
}

async fn refused_as_not_allowed(link: &mut RouterLink, domain: &str) {
    link.say(&to(domain, "refused"));
    let error = link.hear().await;
    assert!(
        error.contains("<not-allowed ") && error.contains("id='refused'"),
        "{error}"
    );
}

fn reload(lab: &Lab, change: impl FnOnce(&mut EdgeConfig)) {
    let mut config = lab.live.borrow().config.clone();
    change(&mut config);
    lab.live.send(Arc::new(live(config))).unwrap();
}

#[tokio::test]
async fn a_wildcard_admits_and_routes_the_domains_below_it_and_not_its_own() {
    let (lab, first, second, mut link) = below(|_| {}).await;
    let mut bob = first.open_authenticated(lab.s2s, "coluc.com").await;
    bob.say(&from("a.partner.example", "in")).await;
    heard(&mut link, "in").await;
    let mut open = Vec::new();
    for peer in [&first, &second] {
        link.say(&to(peer.domain, "out"));
        let mut stream = peer.accept_authenticated("coluc.com").await;
        stream.hear("id='out'").await;
        open.push(stream);
    }
    // Any depth, at the host of the wildcard.
    let deep = Peer {
        domain: "x.y.partner.example",
        ..first
    };
    link.say(&to(deep.domain, "deep"));
    let mut stream = deep.accept_authenticated("coluc.com").await;
    stream.hear("id='deep'").await;
    refused_as_not_allowed(&mut link, "partner.example").await;
    refused_as_not_allowed(&mut link, "otherpartner.example").await;
}

#[tokio::test]
async fn stricter_terms_of_an_entry_that_begins_to_count_end_the_streams_that_do_not_meet_them() {
    let (lab, first, second, mut link) = below(|_| {}).await;
    let mut a = first.open_authenticated(lab.s2s, "coluc.com").await;
    let mut b = second.open_authenticated(lab.s2s, "coluc.com").await;
    link.say(&to("a.partner.example", "1"));
    let mut outbound = first.accept_authenticated("coluc.com").await;
    outbound.hear("id='1'").await;

    // A pin of a domain that was under the wildcard.
    let pinned = pin(&"00".repeat(32)).tls;
    reload(&lab, |config| {
        let mut entry = config.partners[0].clone();
        entry.domain = "a.partner.example".parse().unwrap();
        entry.tls = pinned.clone();
        config.partners.push(entry);
    });
    assert!(a.hear("</stream:stream>").await.contains("<policy-violation "));
    assert!(outbound.hear("</stream:stream>").await.contains("<policy-violation "));
    b.say(&from("b.partner.example", "2")).await;
    heard(&mut link, "2").await;

    // The entry of the other one goes, and the wildcard, which is stricter now, counts for it.
    reload(&lab, |config| {
        config.partners.remove(1);
        config.partners[0].tls = pinned.clone();
    });
    assert!(b.hear("</stream:stream>").await.contains("<policy-violation "));
}

#[tokio::test]
async fn a_wildcard_that_goes_or_is_denied_ends_the_streams_of_the_domains_that_it_covered() {
    for denied in [false, true] {
        let (lab, first, second, mut link) = below(|_| {}).await;
        let mut a = first.open_authenticated(lab.s2s, "coluc.com").await;
        let mut b = second.open_authenticated(lab.s2s, "coluc.com").await;
        reload(&lab, |config| {
            if denied {
                config.privacy.mode = PrivacyMode::DenyList;
                config.privacy.domains = vec!["*.partner.example".parse().unwrap()];
            } else {
                config.partners.remove(0);
            }
        });
        assert!(a.hear("</stream:stream>").await.contains("<policy-violation "));
        refused_as_not_allowed(&mut link, "a.partner.example").await;
        // Refusal wins over an entry of its own, which admits it where nothing refuses it.
        if denied {
            assert!(b.hear("</stream:stream>").await.contains("<policy-violation "));
            refused_as_not_allowed(&mut link, "b.partner.example").await;
        } else {
            b.say(&from("b.partner.example", "stays")).await;
            heard(&mut link, "stays").await;
        }
    }
}

/// When the last message of each of these domains came, of so many from each.
async fn last_of(link: &mut RouterLink, streams: &mut [(&str, Speaker)], count: usize, body: usize) -> Vec<Duration> {
    let body = format!("'><body>{}</body></message>", "x".repeat(body));
    let started = Instant::now();
    for (domain, stream) in &mut *streams {
        let each = (0..count).map(|n| from(domain, &n.to_string()).replace("'/>", &body));
        stream.say(&each.collect::<String>()).await;
    }
    let mut last = HashMap::new();
    for _ in 0..count * streams.len() {
        let sender = attribute(&link.hear().await, "message", "from");
        last.insert(sender, started.elapsed());
    }
    streams
        .iter()
        .map(|(domain, _)| last[&format!("bob@{domain}")])
        .collect()
}

#[tokio::test]
async fn domains_below_a_wildcard_have_its_rate_together() {
    let (lab, first, second, mut link) = below(|config| {
        config.limits.messages_per_second = Some(10_000);
        config.partners[0].limits.messages_per_second = Some(40);
    })
    .await;
    let a = first.open_authenticated(lab.s2s, "coluc.com").await;
    let b = second.open_authenticated(lab.s2s, "coluc.com").await;
    let deep = Peer {
        domain: "x.y.partner.example",
        ..first
    };
    let x = deep.open_authenticated(lab.s2s, "coluc.com").await;
    let mut streams = [
        ("a.partner.example", a),
        ("x.y.partner.example", x),
        ("b.partner.example", b),
    ];
    let took = last_of(&mut link, &mut streams, 40, 10).await;
    // One second's at once, as many within the second after it.
    assert!(took[0].max(took[1]) >= Duration::from_millis(950), "{took:?}");
    assert!(took[2] < took[0].max(took[1]), "{took:?}");
}

#[tokio::test]
async fn a_partner_without_a_rate_is_read_no_faster_than_the_default_rate() {
    let (lab, first, second, mut link) = below(|config| {
        config.limits.bytes_per_second = Some(5000);
        config.partners[1].limits.bytes_per_second = Some(1_000_000);
    })
    .await;
    let a = first.open_authenticated(lab.s2s, "coluc.com").await;
    let b = second.open_authenticated(lab.s2s, "coluc.com").await;
    let mut streams = [("a.partner.example", a), ("b.partner.example", b)];
    let took = last_of(&mut link, &mut streams, 10, 900).await;
    assert!(took[0] >= Duration::from_millis(700), "{took:?}");
    assert!(took[1] < took[0], "{took:?}");
}
