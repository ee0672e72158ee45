//! What a router sends that no partner may get: answered, or named in the log, never silently gone.

use std::time::Duration;

use rstest::rstest;
use tracing::Level;
use xmpp_federation_core::edge_config::LinkProfile;

use crate::support::log::Log;
use crate::support::{COMPONENT, Lab, attribute};

fn in_envelope(profile: LinkProfile, stanza: &str) -> String {
    match profile {
        LinkProfile::Component => stanza.to_owned(),
        LinkProfile::Xcp => format!("<route type='session'>{stanza}</route>"),
    }
}

#[rstest]
#[tokio::test]
async fn a_domain_that_is_missing_in_domains_is_answered_and_named_with_the_remedy(
    #[values(LinkProfile::Component, LinkProfile::Xcp)] profile: LinkProfile,
) {
    let log = Log::start(Level::WARN);
    let (lab, _peer, mut link) = Lab::linked(profile).await;
    let stanza = |n: usize| {
        let text =
            format!("<message from='alice@forgotten.example/r' to='bob@vngtp.lab' id='{n}'><body>x</body></message>");
        in_envelope(profile, &text)
    };
    link.say(&stanza(0));
    let error = link.hear().await;
    assert!(error.contains("<not-authorized "), "{error}");
    assert_eq!(attribute(&error, "message", "id"), "0");
    assert_eq!(attribute(&error, "message", "from"), "bob@vngtp.lab");
    assert_eq!(attribute(&error, "message", "to"), "alice@forgotten.example/r");
    assert_eq!(log.lines_with("the domain forgotten.example, which is not"), 1);
    assert_eq!(log.lines_with("spec.domains"), 1);
    // The answer that the router gives back because it does not know that domain either.
    link.say(&error);
    for n in 1..200 {
        link.say(&stanza(n));
    }
    for n in 1..200 {
        let error = link.hear().await;
        assert_eq!(attribute(&error, "message", "id"), n.to_string());
    }
    let lines = log.lines_with("forgotten.example");
    assert!((1..100).contains(&lines), "{lines} lines");
    lab.counts("stanzas_bounced_total{cause=\"foreign-sender\"}", 200);
}

#[rstest]
#[tokio::test]
async fn what_comes_back_to_the_edge_as_it_was_is_reported_to_its_sender(
    #[values(LinkProfile::Component, LinkProfile::Xcp)] profile: LinkProfile,
) {
    let (lab, peer, mut link) = Lab::linked(profile).await;
    let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    let stanza = "<message from='bob@vngtp.lab' to='alice@coluc.com' id='7'><body>x</body></message>";
    bob.say(stanza).await;
    let heard = link.hear().await;
    assert_eq!(attribute(&heard, "message", "id"), "7");
    link.say(&heard);
    let mut back = peer.accept_authenticated("coluc.com").await;
    let error = back.hear("</message>").await;
    assert_eq!(attribute(&error, "message", "id"), "7");
    assert_eq!(attribute(&error, "message", "to"), "bob@vngtp.lab");
    assert!(error.contains("<recipient-unavailable "), "{error}");
    // Neither its sender's domain, which the lists do not admit, nor the router hears anything.
    link.say(&in_envelope(
        profile,
        "<message from='eve@evil.example' to='alice@coluc.com' id='8'/>",
    ));
    link.stays_silent(Duration::from_millis(100)).await;
    lab.counts("stanzas_dropped_total{cause=\"foreign-sender\"}", 1);
}

#[rstest]
#[case::announcement(
    "<presence from='cm-1.jabber' to='presence@-internal' sequence='3:1203010001' config-ns='config-manager' comp-id='cm-1'><x xmlns='http://www.jabber.com/schemas/component-presence.xsd' protocol-version='1.1'/></presence>",
    "announcement"
)]
#[case::somebody_goes(
    "<presence from='jsm-1.jabber' to='presence@-internal' type='unavailable'/>",
    "announcement"
)]
#[case::an_answer_of_the_config_manager(
    "<xdb from='config@-internal' to='ID' id='2' ns='config-manager' type='result'><config id='ID'/></xdb>",
    "xdb"
)]
#[case::data("<data from='log@-internal' type='notice'>started</data>", "data")]
#[case::x("<x xmlns='jabber:x:event'/>", "x")]
#[case::handshake("<handshake id='65f0c3a1'/>", "handshake")]
#[case::a_request_of_the_routers_own_parts(
    "<iq from='config@-internal' to='ID' type='get' id='1'><q xmlns='urn:q'/></iq>",
    "internal"
)]
#[case::something_else("<log from='cm-1.jabber' type='warn'>x</log>", "other")]
#[tokio::test]
async fn what_a_router_says_besides_stanzas_is_dropped_by_name(
    #[values(LinkProfile::Component, LinkProfile::Xcp)] profile: LinkProfile,
    #[values(false, true)] routed: bool,
    #[case] text: &str,
    #[case] word: &str,
) {
    const TIMES: usize = 150;
    let log = Log::start(Level::WARN);
    let (lab, peer, mut link) = Lab::linked(profile).await;
    if routed && profile == LinkProfile::Component {
        // That profile has no envelopes.
        return;
    }
    let text = text.replace("ID", COMPONENT);
    let text = if routed {
        format!("<route from='cm-1.jabber' to='{COMPONENT}' type='session'>{text}</route>")
    } else {
        text
    };
    let metric = format!("xmpp_edge_router_elements_dropped_total{{element=\"{word}\"}}");
    let before = usize::from(word == "announcement" && profile == LinkProfile::Xcp);
    link.say(&text.repeat(TIMES));
    link.say(&in_envelope(
        profile,
        "<message from='alice@coluc.com' to='bob@vngtp.lab' id='after'/>",
    ));
    let mut stream = peer.accept_authenticated("coluc.com").await;
    let heard = stream.hear("/>").await;
    assert!(heard.contains("id='after'"), "{heard}");
    assert_eq!(lab.metric(&metric), (TIMES + before) as u64);
    let lines = log.lines_with("WARN");
    if word == "other" {
        assert!((1..100).contains(&lines), "{lines}");
    } else {
        assert_eq!(lines, 0);
    }
    link.stays_silent(Duration::from_millis(20)).await;
}
