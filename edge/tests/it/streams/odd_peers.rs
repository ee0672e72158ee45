//! What servers of the field say that is unusual and right, or wrong and harmless.

use std::time::Duration;

use rstest::rstest;
use xmpp_federation_core::edge_config::{EdgeConfig, TlsMode};

use crate::support::{
    DIALBACK, KEY, Lab, PLAIN_DIALBACK, PROCEED, Peer, STARTTLS, Speaker, VALID, attribute, client_tls, features,
    give_terms, has, header, server_tls, to_alice,
};

fn peer_terms(config: &mut EdgeConfig, terms: &str) {
    give_terms(config, crate::support::terms("vngtp.lab", terms));
}

const MESSAGE: &str = "<message from='alice@coluc.com' to='bob@vngtp.lab' id='m1'/>";

/// sslscan, nmap and others end the line.
#[rstest]
#[case::line_end("\r\n")]
#[case::spaces("  \n\t ")]
#[tokio::test]
async fn white_space_behind_starttls_is_no_reason_to_refuse(#[case] behind: &str) {
    let (lab, peer, _link) = Lab::configured(|_| {}).await;
    let mut tool = Speaker::connect(lab.s2s).await;
    tool.open(&header("vngtp.lab", "coluc.com", "")).await;
    tool.say(&format!("{STARTTLS}{behind}")).await;
    tool.hear("<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>").await;
    tool.start_tls_as_client("coluc.com").await;
    let text = tool.open(&header("vngtp.lab", "coluc.com", "")).await;
    let id = attribute(&text, "stream:stream", "id");
    peer.authenticate(&mut tool, &id, "coluc.com").await;
}

/// What comes where TLS should begin: in the packet of the element before it, and in a later one.
#[rstest]
#[case::line_end_later("", "\r\n", true)]
#[case::both("\n", "\r\n", true)]
#[case::as_much_as_there_may_be("", "                ", true)]
#[case::more("", "                 ", false)]
#[case::clear_text("", "<stream:stream>", false)]
#[case::clear_text_behind_white_space("\n", "\n<iq/>", false)]
#[tokio::test]
async fn white_space_that_comes_after_proceed_is_no_reason_to_refuse(
    #[case] behind: &str,
    #[case] later: &str,
    #[case] taken: bool,
) {
    let (lab, peer, _link) = Lab::configured(|_| {}).await;
    let mut tool = Speaker::connect(lab.s2s).await;
    tool.open(&header("vngtp.lab", "coluc.com", "")).await;
    tool.say(&format!("{STARTTLS}{behind}")).await;
    tool.hear(PROCEED).await;
    for byte in later.split("") {
        tool.say(byte).await;
    }
    let tls = tool.try_tls_as_client("coluc.com", client_tls().as_ref().clone());
    assert_eq!(tls.await.is_ok(), taken);
    let failed = lab.metric("xmpp_edge_tls_failures_total{direction=\"inbound\"}");
    assert_eq!(failed, u64::from(!taken));
    if taken {
        let text = tool.open(&header("vngtp.lab", "coluc.com", "")).await;
        let id = attribute(&text, "stream:stream", "id");
        peer.authenticate(&mut tool, &id, "coluc.com").await;
    }
}

#[tokio::test]
async fn where_tls_comes_first_nothing_comes_before_it() {
    let (lab, _peer, _link) = Lab::configured(|_| {}).await;
    let mut tool = Speaker::connect(lab.direct_tls).await;
    tool.say("\n").await;
    let tls = tool.try_tls_as_client("coluc.com", client_tls().as_ref().clone());
    assert!(tls.await.is_err());
}

/// Takes one connection of the edge to where TLS begins, and says this there.
async fn proceed(peer: &Peer, behind: &str, later: &str) -> Speaker {
    let mut speaker = peer.accept_tcp().await;
    speaker.hear("version='1.0'>").await;
    let own = header("vngtp.lab", "coluc.com", "clear");
    speaker.say(&(own + &features(STARTTLS))).await;
    speaker.hear(STARTTLS).await;
    speaker.say(&format!("{PROCEED}{behind}")).await;
    // The edge has read that by then.
    tokio::time::sleep(Duration::from_millis(50)).await;
    speaker.say(later).await;
    speaker
}

#[rstest]
#[case::line_end("\r\n", "")]
#[case::line_end_later("", "\r\n")]
#[case::both("\n", " \r\n")]
#[tokio::test]
async fn white_space_behind_a_peers_proceed_is_no_reason_to_give_up(#[case] behind: &str, #[case] later: &str) {
    let (lab, peer, link) = Lab::configured(|_| {}).await;
    // The verification of a key and the stream for stanzas.
    let (mut bob, _) = peer.open(lab.s2s, "coluc.com").await;
    bob.say(KEY).await;
    for element in ["db:verify", "db:result"] {
        let mut speaker = proceed(&peer, behind, later).await;
        speaker.start_tls_as_server().await;
        speaker.hear("version='1.0'>").await;
        speaker
            .say(&(header("vngtp.lab", "coluc.com", "id") + &features(DIALBACK)))
            .await;
        let asked = speaker.hear(&format!("</{element}>")).await;
        let id = match element {
            "db:verify" => format!(" id='{}'", attribute(&asked, element, "id")),
            _ => String::new(),
        };
        let valid = format!("<{element} from='vngtp.lab' to='coluc.com'{id} type='valid'/>");
        speaker.say(&valid).await;
        if element == "db:verify" {
            bob.hear("type='valid'/>").await;
            link.say(MESSAGE);
        } else {
            speaker.hear("id='m1'/>").await;
        }
    }
}

/// Other bytes are no part of the stream: neither read as XML nor forgotten.
#[rstest]
#[case("<message from='bob@vngtp.lab' to='alice@coluc.com'/>", "")]
#[case("", "<message from='bob@vngtp.lab' to='alice@coluc.com'/>")]
#[case("", "\n<message from='bob@vngtp.lab' to='alice@coluc.com'/>")]
#[tokio::test]
async fn clear_text_behind_a_peers_proceed_ends_the_attempt(#[case] behind: &str, #[case] later: &str) {
    let (lab, peer, link) = Lab::configured(|_| {}).await;
    link.say(MESSAGE);
    let mut speaker = proceed(&peer, behind, later).await;
    let server = server_tls().as_ref().clone();
    assert!(speaker.try_tls_as_server(server).await.is_err());
    let failed = "xmpp_edge_tls_failures_total{direction=\"outbound\"}";
    let counted = |lab: &Lab| !behind.is_empty() || lab.metric(failed) > 0;
    lab.until("it is counted", counted).await;
}

/// A header without `to` and `version`, as servers from before XMPP 1.0 open their verification
/// streams with, or with an empty `from`.
fn old_header(from: &str) -> String {
    format!(
        "<?xml version='1.0'?><stream:stream xmlns='jabber:server' xmlns:db='jabber:server:dialback' \
         xmlns:stream='http://etherx.jabber.org/streams'{from}>"
    )
}

const VERIFY: &str = "<db:verify from='vngtp.lab' to='coluc.com' id='0a1b2c3d4'>k</db:verify>";

#[rstest]
#[case::optional(TlsMode::Optional, "", true)]
#[case::optional_for_this_one(TlsMode::Required, "tls: {mode: Optional}", true)]
#[case::disabled_for_this_one(TlsMode::Required, "tls: {mode: Disabled}", true)]
#[case::required(TlsMode::Required, "", false)]
#[case::required_of_this_one(TlsMode::Optional, "tls: {mode: Required}", false)]
#[tokio::test]
async fn an_old_servers_question_in_clear_is_judged_by_its_own_terms(
    #[case] mode: TlsMode,
    #[case] terms: &str,
    #[case] answered: bool,
    #[values("", " from=''", " from='vngtp.lab'")] from: &str,
) {
    let (lab, _peer, _link) = Lab::configured(|config| {
        config.tls.mode = mode;
        if !terms.is_empty() {
            peer_terms(config, terms);
        }
    })
    .await;
    let mut old = Speaker::connect(lab.s2s).await;
    old.say(&old_header(from)).await;
    old.say(VERIFY).await;
    if answered {
        let answer = old.hear("type='invalid'/>").await;
        assert_eq!(attribute(&answer, "db:verify", "id"), "0a1b2c3d4");
        assert!(!answer.contains("to=''"), "{answer}");
        return;
    }
    let end = old.hear("policy-violation").await;
    assert!(!end.contains("type='invalid'"), "{end}");
    // Partner and remedy are named, whether or not the header said who it is.
    let failures = lab.edge.registry.failures(None);
    let [failure] = &failures[..] else {
        panic!("{failures:?}");
    };
    assert_eq!(failure.domain.as_str(), "vngtp.lab");
    let reason = &failure.attempts[0].attempt.reason;
    has(reason, ["TLS is required of vngtp.lab", "tls.mode"]);
}

/// As the logs of working federations with Cisco's servers show it: a language that is none, ids
/// of nine hexadecimal digits, the key repeated in the answers.
mod xcp_edge {
    use super::*;

    const LANGUAGE: &str = " xml:lang='en-US.UTF-8'";

    fn xcp_header(id: &str) -> String {
        header("vngtp.lab", "coluc.com", id).replace(" from=", &format!("{LANGUAGE} from="))
    }

    /// Takes one of the edge's connections to features with dialback.
    async fn accept(peer: &Peer) -> Speaker {
        let (mut stream, local) = peer.accept_tls().await;
        assert_eq!(local, "coluc.com");
        stream.say(&xcp_header("5d0f3a7c1")).await;
        stream.say(&features(PLAIN_DIALBACK)).await;
        stream
    }

    #[tokio::test]
    async fn its_stanzas_arrive() {
        let (lab, peer, mut link) = Lab::configured(|_| {}).await;
        let mut bob = Speaker::connect(lab.s2s).await;
        bob.open(&xcp_header("")).await;
        bob.starttls().await;
        bob.start_tls_as_client("coluc.com").await;
        bob.open(&xcp_header("")).await;
        bob.say("<db:result from='vngtp.lab' to='coluc.com'>0f1e2d3c4b5a</db:result>")
            .await;
        let mut asked = accept(&peer).await;
        let question = asked.hear("</db:verify>").await;
        let id = attribute(&question, "db:verify", "id");
        asked
            .say(&format!(
                "<db:verify from='vngtp.lab' to='coluc.com' id='{id}' type='valid'>0f1e2d3c4b5a</db:verify>"
            ))
            .await;
        bob.hear("type='valid'/>").await;
        bob.say(&to_alice("x")).await;
        let stanza = link.hear().await;
        assert_eq!(attribute(&stanza, "message", "xml:lang"), "en-US.UTF-8");
        assert_eq!(attribute(&stanza, "message", "id"), "x");
    }

    #[tokio::test]
    async fn it_gets_ours() {
        let (_lab, peer, link) = Lab::configured(|_| {}).await;
        link.say(MESSAGE);
        let mut stream = accept(&peer).await;
        let shown = stream.hear("</db:result>").await;
        let key = shown.split('>').nth(1).unwrap().split('<').next().unwrap();
        stream
            .say(&format!(
                "<db:result from='vngtp.lab' to='coluc.com' type='valid'>{key}</db:result>"
            ))
            .await;
        stream.hear("id='m1'").await;
    }

    #[tokio::test]
    async fn its_questions_in_clear_are_answered_where_its_terms_allow_it() {
        let (lab, _peer, _link) = Lab::configured(|config| peer_terms(config, "tls: {mode: Optional}")).await;
        let mut asking = Speaker::connect(lab.s2s).await;
        let features = asking.open(&xcp_header("")).await;
        assert!(!features.contains("<required/>"), "{features}");
        asking.say(VERIFY).await;
        let answer = asking.hear("type='invalid'/>").await;
        assert_eq!(attribute(&answer, "db:verify", "id"), "0a1b2c3d4");
    }
}

#[rstest]
#[case::of_another_namespace("<bidi xmlns='urn:xmpp:bidi'/><dialback xmlns='urn:xmpp:features:dialback'/>")]
// Our certificate does not count there, and nothing else is offered.
#[case::only_external(
    "<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>EXTERNAL</mechanism></mechanisms>"
)]
#[case::nothing("")]
#[tokio::test]
async fn features_after_tls_may_be_odd(#[case] odd: &str) {
    let (_lab, peer, link) = Lab::configured(|_| {}).await;
    link.say(MESSAGE);
    let mut stream = peer.accept_tls_with("odd-features").await;
    stream.say(&features(odd)).await;
    let asked = stream.hear("</db:result>").await;
    assert!(!asked.contains("bidi"), "{asked}");
    stream.say(VALID).await;
    stream.hear("id='m1'").await;
}

#[rstest]
#[case::without("")]
#[case::empty(" from=''")]
#[tokio::test]
async fn an_inbound_header_need_not_name_its_sender(#[case] from: &str) {
    let (lab, peer, mut link) = Lab::configured(|_| {}).await;
    let header = header("vngtp.lab", "coluc.com", "").replace(" from='vngtp.lab'", from);
    let mut bob = Speaker::connect(lab.s2s).await;
    bob.say(&header).await;
    bob.hear("</stream:features>").await;
    bob.starttls().await;
    bob.start_tls_as_client("coluc.com").await;
    bob.say(&header).await;
    let text = bob.hear("</stream:features>").await;
    assert!(!text.contains("to=''"), "{text}");
    let id = attribute(&text, "stream:stream", "id");
    peer.authenticate(&mut bob, &id, "coluc.com").await;
    let message = "<message from='bob@vngtp.lab' to='alice@coluc.com' id='x'/>";
    bob.say(message).await;
    assert_eq!(link.hear().await, message);
}

/// The answer to a header that names its sender, as some servers write it.
#[tokio::test]
async fn an_answer_to_our_header_may_have_an_empty_to() {
    let (_lab, peer, link) = Lab::configured(|_| {}).await;
    link.say(MESSAGE);
    let (mut stream, _) = peer.accept_tls().await;
    stream.say(&header("vngtp.lab", "", "id-1")).await;
    stream.say(&features(PLAIN_DIALBACK)).await;
    stream.hear("</db:result>").await;
    stream.say(VALID).await;
    stream.hear("id='m1'").await;
}

/// A name that only the header binds makes the stanza be written anew, however deep it is.
#[tokio::test]
async fn a_stanza_of_the_greatest_depth_is_written_anew() {
    let (lab, peer, mut link) = Lab::configured(|config| config.limits.max_depth = 256).await;
    let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    let (open, close) = ("<a>".repeat(255), "</a>".repeat(255));
    bob.say(&format!(
        "<s:message xmlns:s='jabber:server' xmlns='urn:x' from='bob@vngtp.lab' to='alice@coluc.com'>{open}{close}</s:message>"
    ))
    .await;
    let stanza = link.hear().await;
    assert_eq!(stanza.matches("</a>").count() + stanza.matches("<a/>").count(), 255);
}
