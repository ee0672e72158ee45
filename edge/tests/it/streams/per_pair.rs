//! What a partner does with one hosted domain touches no other: neither its stanzas nor its stream.

use std::time::Duration;

use rstest::rstest;
use tokio::time::Instant;
use xmpp_federation_core::edge_config::EdgeConfig;
use xmpp_federation_edge::config::Live;
use xmpp_federation_edge::observe::failures::AttemptInfo;
use xmpp_federation_edge::words::Stage;

use crate::support::partner::{EXTERNAL, Event, Partner, REMOTE, Reply, Rules};
use crate::support::pki::{files, partners, pki};
use crate::support::{DIALBACK, Lab, Peer, Router, RouterLink, config, live, to_bob};

const GOOD: &str = "coluc.com";
const BAD: &str = "conf.coluc.com";
/// How long a stanza of a domain without trouble may take.
const PROMPT: Duration = Duration::from_secs(3);

fn message(from: &str, id: &str) -> String {
    format!("<message from='alice@{from}' to='bob@{REMOTE}' id='{id}'/>")
}

struct Scene {
    lab: Lab,
    _router: Router,
    link: RouterLink,
    partner: Partner,
}

impl Scene {
    /// An edge whose certificate names both domains.
    async fn new(rules: Rules) -> Self {
        Self::with(rules, |config| pki().live(config)).await
    }

    async fn with(rules: Rules, live: impl FnOnce(EdgeConfig) -> Live) -> Self {
        let (peer, router) = (Peer::new(REMOTE).await, Router::new().await);
        let mut config = config(&[&peer], &[&router]);
        config.limits.dialback_timeout.0 = Duration::from_secs(6);
        let lab = Lab::start(live(config));
        let link = router.accept().await;
        Self {
            lab,
            _router: router,
            link,
            partner: Partner::start(peer, partners().clone(), rules),
        }
    }

    /// Sends messages from the domain without trouble; each arrives promptly, all on one stream.
    async fn all_is_well(&mut self, what: &str) {
        let mut stream = None;
        for n in 0..5 {
            let (id, start) = (format!("{what}{n}"), Instant::now());
            self.link.say(&message(GOOD, &id));
            let connection = self.partner.message(&id).await;
            let took = start.elapsed();
            assert!(took < PROMPT, "{id}: {took:?}");
            assert_eq!(*stream.get_or_insert(connection), connection, "{id}");
        }
    }

    /// The next thing that comes over the link: an error for the domain with trouble.
    async fn refused(&mut self, condition: &str) {
        let answer = self.link.hear().await;
        assert!(answer.contains(&format!("<{condition} ")), "{answer}");
        assert!(answer.contains("alice@conf.coluc.com"), "{answer}");
    }

    async fn nothing_is_bounced(&mut self) {
        let wait = Duration::from_millis(50);
        let nothing = tokio::time::timeout(wait, self.link.hear()).await;
        assert!(nothing.is_err(), "{nothing:?}");
    }
}

fn only_good(from: &str) -> Reply {
    if from == GOOD { Reply::Yes } else { Reply::End }
}

#[rstest]
#[case::with_an_error(only_good)]
#[case::by_saying_nothing(|from: &str| if from == GOOD { Reply::Yes } else { Reply::Silence })]
#[tokio::test]
async fn a_domain_refused_at_the_header_delays_no_other(#[case] header: fn(&str) -> Reply) {
    let mut scene = Scene::new(Rules {
        header,
        ..Rules::DIALBACK
    })
    .await;
    // Both wait before any stream is open, the bad one first.
    scene.link.say(&message(BAD, "bad"));
    let opened = |event: &Event| matches!(event, Event::Header(_, from) if from == BAD);
    scene.partner.until("the bad header", opened).await;
    scene.all_is_well("good").await;
    // It is tried and tried again, and then it is told.
    scene.refused("remote-server-timeout").await;
    scene.all_is_well("later").await;
    scene.nothing_is_bounced().await;
}

#[rstest]
#[case::invalid(|_: &str, local: &str| if local == GOOD { Reply::Yes } else { Reply::No("") }, "internal-server-error")]
#[case::error(|_: &str, local: &str| if local == GOOD { Reply::Yes } else { Reply::Error }, "remote-server-timeout")]
#[tokio::test]
async fn a_domain_refused_at_dialback_gets_its_own_stream_and_no_other_loses_its(
    #[case] key: fn(&str, &str) -> Reply,
    #[case] condition: &str,
) {
    let mut scene = Scene::new(Rules { key, ..Rules::DIALBACK }).await;
    scene.all_is_well("good").await;
    scene.link.say(&message(BAD, "bad"));
    scene.refused(condition).await;
    // It was a guest first, and then it asked in its own name.
    let asked: Vec<_> = scene.partner.rest(Duration::from_millis(50)).await;
    let streams: Vec<_> = asked
        .iter()
        .filter_map(|event| match event {
            Event::Key(connection, from) if from == BAD => Some(*connection),
            _ => None,
        })
        .collect();
    assert_eq!(streams, [0, 1], "{asked:?}");
    scene.all_is_well("later").await;
    scene.lab.counts("pairs_kept_alone_total{reason=\"refused\"}", 1);
    // From now on it troubles nobody's stream.
    scene.link.say(&message(BAD, "bad again"));
    scene.refused(condition).await;
    let asked = scene.partner.rest(Duration::from_millis(50)).await;
    let guest = asked.iter().any(|event| matches!(event, Event::Key(0, _)));
    assert!(!guest, "{asked:?}");
    scene.nothing_is_bounced().await;
}

#[rstest]
#[case::at_the_header(Rules { header: only_good, ..Rules::DIALBACK }, Stage::Features)]
#[case::at_dialback(
    Rules { key: |_, local| if local == GOOD { Reply::Yes } else { Reply::Error }, ..Rules::DIALBACK },
    Stage::Dialback
)]
#[tokio::test]
async fn a_partner_that_refuses_one_domain_fails_for_that_one_only(#[case] rules: Rules, #[case] stage: Stage) {
    let mut scene = Scene::new(rules).await;
    scene.link.say(&message(BAD, "bad"));
    scene.refused("remote-server-timeout").await;
    scene.all_is_well("good").await;
    let registry = &scene.lab.edge.registry;
    let failing = registry.failing_partners();
    let locals: Vec<_> = failing.iter().map(|one| one.local.as_deref()).collect();
    assert_eq!(locals, [Some(BAD)], "{failing:?}");
    scene.lab.counts("failing_partners", 1);
    let shown = scene.lab.edge.failures(None).pop().unwrap();
    assert_eq!(shown.failing_pairs.len(), 1, "{shown:?}");
    assert_eq!(shown.failing_pairs[0].local.as_str(), BAD);
    assert!(shown.failing && shown.last_success.is_some());
    let of_bad = |noted: &AttemptInfo| noted.attempt.local.as_ref().is_some_and(|local| local.as_str() == BAD);
    assert!(shown.attempts.iter().all(of_bad), "{shown:?}");
    assert_eq!(shown.attempts[0].attempt.stage, stage);
}

/// Field reports: a server that takes EXTERNAL and then leaves the `db:result` of a second domain
/// unanswered, or ends the stream because of it.
#[rstest]
#[case::unanswered(Reply::Silence, "unanswered")]
#[case::ended(Reply::End, "ended")]
#[tokio::test]
async fn a_second_domain_on_a_stream_by_external_goes_on_with_a_stream_of_its_own(
    #[case] reply: Reply,
    #[case] reason: &str,
) {
    let offers: &'static str = Box::leak(format!("{EXTERNAL}{DIALBACK}").into_boxed_str());
    let mut scene = Scene::new(Rules {
        offers: (offers, DIALBACK),
        auth: |_, _| Reply::Yes,
        key: match reply {
            Reply::Silence => |_, _| Reply::Silence,
            _ => |_, _| Reply::End,
        },
        ..Rules::DIALBACK
    })
    .await;
    scene.all_is_well("good").await;
    scene.link.say(&message(BAD, "second"));
    let connection = scene.partner.message("second").await;
    assert_eq!(connection, 1, "{:?}", scene.partner.seen);
    let kept = format!("xmpp_edge_pairs_kept_alone_total{{reason=\"{reason}\"}}");
    assert_eq!(scene.lab.metric(&kept), 1);
    if reply == Reply::Silence {
        scene.all_is_well("later").await;
        scene.nothing_is_bounced().await;
    }
    // The next one does not run into it again.
    let keys = scene.partner.seen.iter();
    assert_eq!(keys.filter(|event| matches!(event, Event::Key(..))).count(), 1);
}

/// An edge with a certificate for each domain.
fn two_certificates(mut config: EdgeConfig) -> Live {
    let pem = |domain: &str| {
        let made = pki().issue(&[domain], |_| {});
        made.pem()
    };
    config.tls.certificates = vec![files("/good"), files("/bad")];
    pki().live_with(config, &[("/good", &pem(GOOD)), ("/bad", &pem(BAD))])
}

#[tokio::test]
async fn where_certificates_count_each_domain_shows_its_own_on_its_own_stream() {
    let mut scene = Scene::with(
        Rules {
            offers: (EXTERNAL, DIALBACK),
            auth: |_, _| Reply::Yes,
            key: |_, _| Reply::No(""),
            ..Rules::DIALBACK
        },
        two_certificates,
    )
    .await;
    scene.all_is_well("good").await;
    scene.link.say(&message(BAD, "second"));
    assert_eq!(scene.partner.message("second").await, 1);
    scene.all_is_well("later").await;
    scene.nothing_is_bounced().await;
}

#[tokio::test]
async fn where_a_certificate_was_asked_for_a_domain_that_it_does_not_name_is_no_guest() {
    let mut scene = Scene::with(Rules::DIALBACK, two_certificates).await;
    scene.all_is_well("good").await;
    scene.link.say(&message(BAD, "second"));
    assert_eq!(scene.partner.message("second").await, 1);
    let key = |event: &Event| *event == Event::Key(0, BAD.to_owned());
    assert!(!scene.partner.seen.iter().any(key));
}

#[rstest]
#[case::named_by_the_certificate(true)]
#[case::without_certificates(false)]
#[tokio::test(flavor = "multi_thread")]
async fn domains_share_a_stream_where_nothing_speaks_against_it(#[case] shown: bool) {
    let live = |config| {
        if shown { pki().live(config) } else { live(config) }
    };
    let mut scene = Scene::with(Rules::DIALBACK, live).await;
    // All at once: the first one's stream is waited for.
    let both = message(BAD, "second") + &message(GOOD, "first");
    scene.link.say(&both);
    let mut streams = Vec::new();
    for _ in 0..2 {
        let message = |event: &Event| matches!(event, Event::Message(..));
        match scene.partner.until("a message", message).await {
            Event::Message(connection, _) => streams.push(connection),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(streams, [0, 0], "{:?}", scene.partner.seen);
    assert_eq!(scene.partner.seen[0], Event::Header(0, BAD.to_owned()));
}

#[tokio::test]
async fn domains_share_no_stream_with_a_server_that_closes_instead_of_answering() {
    let mut scene = Scene::new(Rules {
        offers: ("", ""),
        ..Rules::DIALBACK
    })
    .await;
    scene.link.say(&message(GOOD, "first"));
    assert_eq!(scene.partner.message("first").await, 0);
    scene.link.say(&message(BAD, "second"));
    assert_eq!(scene.partner.message("second").await, 1);
}

#[tokio::test]
async fn a_partner_that_ends_the_stream_instead_of_answering_is_named_with_its_remedy() {
    let (lab, peer, _router, link) = Lab::with_link().await;
    link.say(&to_bob("1"));
    let mut stream = peer.accept("stream-id").await;
    stream.hear("</db:result>").await;
    stream.say("</stream:stream>").await;
    drop(stream);
    let remote = "vngtp.lab".parse().unwrap();
    lab.until("it is noted", |lab| !lab.edge.failures(Some(&remote)).is_empty())
        .await;
    let shown = serde_json::to_string(&lab.edge.failures(Some(&remote))).unwrap();
    for part in [
        "\"dialback\"",
        "instead of answering our db:result for coluc.com",
        "ask its administrator",
    ] {
        assert!(shown.contains(part), "{part} is missing: {shown}");
    }
}
