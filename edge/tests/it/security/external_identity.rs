//! The authorization identity of SASL EXTERNAL: what partners take and refuse of it.

use rstest::rstest;

use crate::support::partner::{EXTERNAL, Event, Partner, REMOTE, Reply, Rules};
use crate::support::pki::{partners, pki};
use crate::support::{DIALBACK, Lab, Peer, Router, RouterLink, config};

/// Base64 of `coluc.com` and `conf.coluc.com`.
const COLUC: &str = "Y29sdWMuY29t";
const CONF: &str = "Y29uZi5jb2x1Yy5jb20=";

fn message(from: &str, id: &str) -> String {
    format!("<message from='alice@{from}' to='bob@{REMOTE}' id='{id}'/>")
}

async fn start(rules: Rules) -> (Lab, Router, RouterLink, Partner) {
    let (peer, router) = (Peer::new(REMOTE).await, Router::new().await);
    let lab = Lab::start(pki().live(config(&[&peer], &[&router])));
    let link = router.accept().await;
    (lab, router, link, Partner::start(peer, partners().clone(), rules))
}

fn identities(events: &[Event]) -> Vec<&str> {
    let auths = events.iter().filter_map(|event| match event {
        Event::Auth(_, identity) => Some(identity.as_str()),
        _ => None,
    });
    auths.collect()
}

fn keys(events: &[Event]) -> usize {
    let keys = events.iter();
    keys.filter(|event| matches!(event, Event::Key(..))).count()
}

const ONLY_EXTERNAL: (&str, &str) = (EXTERNAL, "");
fn both() -> String {
    format!("{EXTERNAL}{DIALBACK}")
}

#[rstest]
#[case::takes_any(true, |_: &str, _: &str| Reply::Yes, &[COLUC], &[COLUC], 0)]
#[case::wants_the_identity_and_offers_no_dialback(
    false, |_: &str, identity: &str| if identity == "=" { Reply::End } else { Reply::Yes }, &[COLUC], &[COLUC], 0
)]
#[case::wants_none_and_says_so(
    true, |_: &str, identity: &str| if identity == "=" { Reply::Yes } else { Reply::No("invalid-authzid") }, &[COLUC, "="], &["="], 0
)]
#[case::wants_none_says_anything_and_offers_no_dialback(
    false, |_: &str, identity: &str| if identity == "=" { Reply::Yes } else { Reply::No("not-authorized") }, &[COLUC, "="], &["="], 0
)]
#[case::wants_none_ends_the_stream_and_offers_no_dialback(
    false, |_: &str, identity: &str| if identity == "=" { Reply::Yes } else { Reply::End }, &[COLUC, "="], &["="], 0
)]
#[case::refuses_the_certificate(true, |_: &str, _: &str| Reply::No("not-authorized"), &[COLUC], &[], 2)]
#[case::refuses_both_forms(true, |_: &str, _: &str| Reply::No("invalid-authzid"), &[COLUC, "="], &[], 2)]
#[case::refuses_both_forms_and_does_dialback_without_saying_so(
    false, |_: &str, _: &str| Reply::No("not-authorized"), &[COLUC, "="], &[], 2
)]
#[case::ends_the_stream_whatever_comes(true, |_: &str, _: &str| Reply::End, &[COLUC], &[], 2)]
#[tokio::test]
async fn each_partner_gets_a_form_that_it_takes_and_it_is_remembered(
    #[case] dialback: bool,
    #[case] auth: fn(&str, &str) -> Reply,
    #[case] first: &[&str],
    #[case] second: &[&str],
    #[case] dialbacks: usize,
) {
    let offers: &'static str = Box::leak(both().into_boxed_str());
    let rules = Rules {
        offers: if dialback { (offers, DIALBACK) } else { ONLY_EXTERNAL },
        auth,
        ..Rules::DIALBACK
    };
    let (lab, _router, mut link, mut partner) = start(rules).await;
    link.say(&message("coluc.com", "m1"));
    partner.message("m1").await;
    assert_eq!(identities(&partner.seen), first);
    // A second stream: an orderly end of the first one.
    let streams = lab.edge.registry.streams(None);
    let stream = streams.iter().find(|stream| !stream.detail.pairs.is_empty());
    assert!(lab.edge.registry.close(stream.unwrap().id));
    partner.until("the end", |event| matches!(event, Event::End(_))).await;
    lab.outbound(0).await;
    let before = partner.seen.len();
    link.say(&message("coluc.com", "m2"));
    partner.message("m2").await;
    assert_eq!(identities(&partner.seen[before..]), second);
    assert_eq!(keys(&partner.seen), dialbacks);
    let nothing = tokio::time::timeout(std::time::Duration::from_millis(50), link.hear()).await;
    assert!(nothing.is_err(), "{nothing:?}");
}

#[tokio::test]
async fn one_hosted_domain_that_is_refused_does_not_keep_another_from_external() {
    let rules = Rules {
        offers: ONLY_EXTERNAL,
        auth: |from, _| match from {
            "coluc.com" => Reply::Yes,
            _ => Reply::No("not-authorized"),
        },
        key: |_: &str, _: &str| Reply::No(""),
        ..Rules::DIALBACK
    };
    let (_lab, _router, mut link, mut partner) = start(rules).await;
    link.say(&message("conf.coluc.com", "refused"));
    let answer = link.hear().await;
    assert!(answer.contains("<internal-server-error "), "{answer}");
    assert_eq!(identities(&partner.seen), Vec::<&str>::new());
    link.say(&message("coluc.com", "m1"));
    partner.message("m1").await;
    assert_eq!(identities(&partner.seen), [CONF, "=", COLUC]);
}
