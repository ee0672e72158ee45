//! Names that not every XML parser takes: a router, or a peer, with an older one would end its
//! stream over them, with everybody else's stanzas on it.

use std::time::Duration;

use rstest::rstest;

use xmpp_federation_core::edge_config::LinkProfile;

use crate::support::{COMPONENT, Lab, attribute, header, scene, to_alice, to_bob};

/// Well-formed since the fifth edition of XML 1.0 only, each in a stanza of any kind.
pub(crate) const NAMES: [&str; 12] = [
    "\u{132}",
    "\u{218}",
    "\u{220}",
    "\u{370}",
    "\u{1e9e}",
    "\u{2070}",
    "\u{200c}",
    "\u{2c00}",
    "\u{3001}",
    "\u{fb00}",
    "\u{ff21}",
    "\u{10000}",
];

pub(crate) fn stanzas(from: &str, to: &str, name: &str) -> Vec<String> {
    let with = |attributes: &str, inside: &str| {
        format!("<message from='{from}' to='{to}' id='n'{attributes}>{inside}</message>")
    };
    vec![
        with("", &format!("<{name}/>")),
        with("", &format!("<a><{name} xmlns='u:a'>x</{name}></a>")),
        with("", &format!("<a{name} xmlns='u:a'/>")),
        with(&format!(" {name}='1'"), ""),
        with(&format!(" xmlns:p='u:p' p:{name}='1'"), ""),
        with(&format!(" xmlns:{name}='u:p'"), "<a/>"),
        with("", &format!("<{name}:a xmlns:{name}='u:p'/>")),
    ]
}

/// What an answer says, and whom it is for.
pub(crate) fn is_refused(answer: &str, from: &str) {
    assert!(answer.contains("<not-acceptable "), "{answer}");
    assert!(answer.contains("type='error'"), "{answer}");
    assert_eq!(attribute(answer, "message", "to"), from);
    assert_eq!(attribute(answer, "message", "id"), "n");
}

#[tokio::test]
async fn a_name_that_only_one_edition_of_xml_allows_is_answered_and_the_streams_live() {
    let (lab, peer, mut link, mut bystander) = scene().await;
    let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    let mut count = 0;
    let mut back = None;
    for (n, name) in NAMES.into_iter().enumerate() {
        // Each user has a rate of refused stanzas.
        let from = format!("bob{n}@vngtp.lab/r");
        for stanza in stanzas(&from, "alice@coluc.com", name) {
            bob.say(&stanza).await;
            let answer = peer.accepted(&mut back).await.hear("</message>").await;
            is_refused(&answer, &from);
            count += 1;
        }
    }
    // The stream lives, the link never saw any of them, and nobody else lost anything.
    bob.say(&to_alice("after")).await;
    assert_eq!(attribute(&link.hear().await, "message", "id"), "after");
    assert_eq!(bystander.exchange(&mut link).await, Vec::<String>::new());
    let bounced = "xmpp_edge_stanzas_bounced_total{cause=\"unportable\"}";
    lab.counts(bounced, count);
    lab.counts("peers_refused_total{check=\"xml\"}", count);
    let failures = lab.edge.registry.failures(None);
    let reasons = failures.iter().flat_map(|domain| &domain.attempts);
    assert!(
        reasons
            .into_iter()
            .any(|noted| noted.attempt.reason.contains("\u{10000}")),
        "{failures:?}"
    );
}

#[tokio::test]
async fn a_prefix_bound_on_the_stream_header_is_refused_where_it_is_used() {
    let (lab, peer, _router, mut link) = Lab::with_link().await;
    let mut bob = crate::support::Speaker::connect(lab.s2s).await;
    let odd = |text: &str| text.replace(" from=", " xmlns:\u{132}='u:i' from=");
    bob.open(&odd(&header("vngtp.lab", "coluc.com", ""))).await;
    bob.starttls().await;
    bob.start_tls_as_client("coluc.com").await;
    let features = bob.open(&odd(&header("vngtp.lab", "coluc.com", ""))).await;
    let id = attribute(&features, "stream:stream", "id");
    peer.authenticate(&mut bob, &id, "coluc.com").await;
    let message =
        |inside: &str| format!("<message from='bob@vngtp.lab' to='alice@coluc.com' id='n'>{inside}</message>");
    bob.say(&message("<a/>")).await;
    assert!(!link.hear().await.contains('\u{132}'));
    bob.say(&message("<\u{132}:a/>")).await;
    let mut back = peer.accept_authenticated("coluc.com").await;
    is_refused(&back.hear("</message>").await, "bob@vngtp.lab");
    bob.say(&message("<b/>")).await;
    assert!(link.hear().await.contains("<b/>"));
}

#[tokio::test]
async fn a_namespace_that_a_parser_may_separate_names_with_is_answered_too() {
    let (lab, peer, _router, mut link) = Lab::with_link().await;
    let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    let message =
        |inside: &str| format!("<message from='bob@vngtp.lab' to='alice@coluc.com' id='n'>{inside}</message>");
    let mut back = None;
    for inside in [
        "<a xmlns='u:&#10;a'/>",
        "<a xmlns:p='u:|' p:b='1'/>",
        "<p:a xmlns:p='u: '/>",
    ] {
        bob.say(&message(inside)).await;
        let answer = peer.accepted(&mut back).await.hear("</message>").await;
        is_refused(&answer, "bob@vngtp.lab");
    }
    bob.say(&message("<a xmlns='http://example/a?b#c~!$&amp;\u{fc}'/>"))
        .await;
    assert!(link.hear().await.contains("a?b#c"));
}

#[rstest]
#[case::error("<message from='bob@vngtp.lab' to='alice@coluc.com' type='error'><\u{132}/></message>")]
#[case::result("<iq from='bob@vngtp.lab' to='alice@coluc.com' type='result' id='1'><\u{132}/></iq>")]
#[case::iq_error("<iq from='bob@vngtp.lab' to='alice@coluc.com' type='error' id='1'><\u{132}/></iq>")]
#[tokio::test]
async fn an_error_or_result_with_such_a_name_is_dropped_counted_and_named(#[case] stanza: &str) {
    let (lab, peer, _router, mut link) = Lab::with_link().await;
    let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    bob.say(stanza).await;
    bob.say(&to_alice("after")).await;
    assert!(link.hear().await.contains("id='after'"));
    let dropped = "xmpp_edge_stanzas_dropped_total{cause=\"unportable\"}";
    lab.counts(dropped, 1);
    let failures = lab.edge.registry.failures(None);
    assert!(failures[0].attempts[0].attempt.reason.contains("\u{132}"));
    let nobody = tokio::time::timeout(Duration::from_millis(100), peer.listener.accept());
    assert!(nobody.await.is_err(), "somebody is told");
}

#[rstest]
#[case::component(LinkProfile::Component)]
#[case::xcp(LinkProfile::Xcp)]
#[tokio::test]
async fn from_a_router_such_a_name_is_answered_and_the_link_and_the_partners_stream_live(#[case] profile: LinkProfile) {
    let (lab, peer, mut link) = Lab::linked(profile).await;
    let xcp = profile == LinkProfile::Xcp;
    let say = |stanza: &str, declared: &str| {
        if xcp {
            link.say(&format!(
                "<route from='alice@coluc.com' to='bob@vngtp.lab' type='session'{declared}>{stanza}</route>"
            ));
        } else {
            link.say(stanza);
        }
    };
    let mut count = 0;
    for name in NAMES {
        for stanza in stanzas("alice@coluc.com/r", "bob@vngtp.lab", name) {
            say(&stanza, "");
            count += 1;
        }
    }
    if xcp {
        let clean = "<message from='alice@coluc.com/r' to='bob@vngtp.lab' id='n'><a/></message>";
        say(clean, " \u{132}='1'");
        say(clean, " xmlns:\u{132}='u:p'");
        say(clean, " xmlns:p='u:&#10;'");
        count += 3;
    }
    say(
        "<message from='alice@coluc.com' to='bob@vngtp.lab' type='error'><\u{132}/></message>",
        "",
    );
    say("<message from='alice@coluc.com' to='bob@vngtp.lab' id='after'/>", "");
    for _ in 0..count {
        is_refused(&link.hear().await, "alice@coluc.com/r");
    }
    let mut stream = peer.accept_authenticated("coluc.com").await;
    let first = stream.hear(">").await;
    assert!(first.contains("id='after'"), "{first}");
    lab.counts("stanzas_bounced_total{cause=\"unportable\"}", count);
    lab.counts("stanzas_dropped_total{cause=\"unportable\"}", 1);
    assert_eq!(lab.edge.registry.links()[0].component_id.as_str(), COMPONENT);
}

#[rstest]
#[case::attribute("<db:result from='other.example' to='coluc.com' \u{132}='1'>key</db:result>")]
#[case::prefix(
    "<\u{ff21}:result xmlns:\u{ff21}='jabber:server:dialback' from='other.example' to='coluc.com'>key</\u{ff21}:result>"
)]
#[case::inside("<db:result from='other.example' to='coluc.com'>key<\u{10000}/></db:result>")]
#[tokio::test]
async fn a_dialback_element_with_such_a_name_is_answered_and_the_stream_lives(#[case] element: &str) {
    let (lab, peer, _router, mut link) = Lab::with_link().await;
    let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    bob.say(element).await;
    let answer = bob.hear("</db:result>").await;
    assert!(answer.contains("<not-acceptable "), "{answer}");
    assert_eq!(attribute(&answer, "db:result", "to"), "other.example");
    bob.say(&to_alice("after")).await;
    assert!(link.hear().await.contains("id='after'"));
}

#[tokio::test]
async fn other_names_of_a_stream_header_end_the_stream() {
    let (lab, ..) = Lab::with_link().await;
    for odd in [" \u{132}='1'", " xmlns:p='u:&#10;'"] {
        let mut bob = crate::support::Speaker::connect(lab.s2s).await;
        let text = header("vngtp.lab", "coluc.com", "");
        bob.say(&text.replace(" from=", &format!("{odd} from="))).await;
        assert_eq!(bob.condition().await, "bad-format");
    }
}

#[tokio::test]
async fn features_with_such_a_name_are_read_all_the_same() {
    let (_lab, peer, _router, link) = Lab::with_link().await;
    link.say(&to_bob("1"));
    let mut stream = peer.accept_tls_with("id").await;
    stream
        .say(
            "<stream:features><\u{ff21} xmlns='u:a' \u{10000}='1'/>\
             <dialback xmlns='urn:xmpp:features:dialback'><errors/></dialback></stream:features>",
        )
        .await;
    stream.hear("</db:result>").await;
    stream
        .say("<db:result from='vngtp.lab' to='coluc.com' type='valid' \u{ff21}='1'/>")
        .await;
    stream.hear("id='1'/>").await;
}
