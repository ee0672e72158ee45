#![allow(clippy::unwrap_used, reason = "tests")]
use super::*;

fn domain(text: &str) -> Domain {
    Domain::parse(text).unwrap()
}

/// Pushes stanzas; gives what is left.
fn push(route: &Route, bounds: QueueBounds, local: &Domain, stanzas: &[&str]) -> Vec<String> {
    let text = stanzas.concat();
    let mut at = 0;
    let mut parts = Vec::new();
    for stanza in stanzas {
        parts.push(at..at + stanza.len());
        at += stanza.len();
    }
    route.push(bounds, local, text.as_bytes(), &mut parts);
    parts.into_iter().map(|part| text[part].to_owned()).collect()
}

#[test]
fn of_several_stanzas_those_that_fit_are_queued_and_the_others_are_left_in_order() {
    let total = Arc::new(AtomicUsize::new(0));
    let (route, local) = (Route::new(domain("a.example"), total.clone()), domain("coluc.com"));
    let bounds = QueueBounds {
        domain: 15,
        total: 1024,
    };
    let stanzas = ["<a/>", "<too-large/>", "<b/>", "<c/>", "<d/>", "<e/>"];
    let left = push(&route, bounds, &local, &stanzas);
    assert_eq!(left, ["<too-large/>", "<d/>", "<e/>"]);
    assert_eq!(total.load(Ordering::Relaxed), 12);
    let (taken, more) = route.take(&local, None, SendRoom::of);
    assert_eq!((&taken.bytes[..], taken.count, more), (&b"<a/><b/><c/>"[..], 3, false));
    assert_eq!(total.load(Ordering::Relaxed), 0);
    assert!(push(&route, bounds, &local, &["<d/>", "<e/>"]).is_empty());
}

#[test]
fn bytes_are_bounded_for_the_remote_domain_and_over_all() {
    let total = Arc::new(AtomicUsize::new(0));
    let route = Route::new(domain("a.example"), total.clone());
    let other = Route::new(domain("b.example"), total.clone());
    let (one, two) = (domain("coluc.com"), domain("conf.coluc.com"));
    let bounds = QueueBounds { domain: 25, total: 40 };
    assert!(push(&route, bounds, &one, &["<message/>"]).is_empty());
    assert!(push(&route, bounds, &two, &["<message/>"]).is_empty());
    assert_eq!(push(&route, bounds, &one, &["<message/>"]).len(), 1);
    assert!(push(&other, bounds, &one, &["<message/>", "<message/>"]).is_empty());
    assert_eq!(push(&other, bounds, &two, &["<b/>"]).len(), 1);
    assert_eq!(route.depth(None), (2, 20));
    assert_eq!(route.depth(Some(&two)), (1, 10));
    assert_eq!(route.take_older(Duration::ZERO, &one).len(), 1);
    assert_eq!(total.load(Ordering::Relaxed), 30);
    assert!(!route.is_settled());
    route.take(&two, None, SendRoom::of);
    assert!(route.is_settled());
}
