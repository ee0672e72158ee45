//! Addresses that are odd, foreign or written in another way: one domain is one domain however it
//! is spelt, and what is no domain federates with nobody.

use std::sync::Arc;
use std::time::Duration;

use rstest::rstest;
use xmpp_federation_core::Domain;
use xmpp_federation_core::edge_config::PrivacyMode;

use crate::support::dns::Dns;
use crate::support::{Lab, Peer, Router, RouterLink, Speaker, attribute, config, header, live, scene, to_bob};

/// An edge with these lists whose DNS knows nothing; vngtp.lab has a route.
async fn start(mode: PrivacyMode, domains: &[&str]) -> (Lab, Peer, RouterLink, Arc<Dns>) {
    let (peer, router) = (Peer::new("vngtp.lab").await, Router::new().await);
    let mut config = config(&[&peer], &[&router]);
    config.privacy.mode = mode;
    config.privacy.domains = domains.iter().map(|text| Domain::parse(text).unwrap().into()).collect();
    let dns = Arc::new(Dns::default());
    let lab = Lab::start(dns.resolves(live(config)));
    let link = router.accept().await;
    (lab, peer, link, dns)
}

/// The condition that a key in the name of this domain is answered with; the stream lives.
async fn refusal(bob: &mut Speaker, from: &str) -> String {
    bob.say(&format!("<db:result from='{from}' to='coluc.com'>k</db:result>"))
        .await;
    let answer = bob.hear("</db:result>").await;
    assert_eq!(attribute(&answer, "db:result", "to"), from, "echoed as written");
    assert_eq!(attribute(&answer, "db:result", "type"), "error");
    let error = answer.split("<error").nth(1).unwrap();
    let condition = error.split('<').nth(1).unwrap();
    condition.split([' ', '/', '>']).next().unwrap().to_owned()
}

#[rstest]
#[case::as_listed("evil.example")]
#[case::capitals("EVIL.Example")]
#[case::trailing_dot("evil.example.")]
#[case::ideographic_dot("evil\u{3002}example")]
#[case::fullwidth_dot("evil\u{ff0e}example")]
#[case::halfwidth_dot("evil\u{ff61}example")]
#[case::fullwidth_letters("\u{ff45}\u{ff56}\u{ff49}\u{ff4c}.example")]
#[case::soft_hyphen("ev\u{ad}il.example")]
#[case::mathematical_letters("\u{1d41e}vil.example")]
#[case::u_label("b\u{fc}cher.example")]
#[case::u_label_in_capitals("B\u{dc}CHER.EXAMPLE")]
#[case::decomposed("bu\u{308}cher.example")]
#[case::a_label("xn--bcher-kva.example")]
#[case::a_label_in_capitals("XN--BCHER-KVA.EXAMPLE.")]
#[case::sharp_s("stra\u{df}e.de")]
#[case::sharp_s_as_a_label("xn--strae-oqa.de")]
#[tokio::test]
async fn a_denied_domain_is_denied_under_every_name(#[case] alias: &str) {
    let listed = ["evil.example", "b\u{fc}cher.example", "stra\u{df}e.de"];
    let (lab, peer, mut link, dns) = start(PrivacyMode::DenyList, &listed).await;
    // As the sender of a stream,
    let mut named = Speaker::connect(lab.s2s).await;
    named.say(&header(alias, "coluc.com", "")).await;
    assert_eq!(named.condition().await, "policy-violation");
    // in a key on another's stream,
    let (mut bob, id) = peer.open(lab.s2s, "coluc.com").await;
    assert_eq!(refusal(&mut bob, alias).await, "not-allowed");
    // in a question to us,
    bob.say(&format!(
        "<db:verify from='{alias}' to='coluc.com' id='1'>k</db:verify>"
    ))
    .await;
    let answer = bob.hear("</db:verify>").await;
    assert!(answer.contains("<not-allowed "), "{answer}");
    // and as a recipient.
    link.say(&format!("<message from='alice@coluc.com' to='eve@{alias}' id='m1'/>"));
    let error = link.hear().await;
    assert!(error.contains("<not-allowed "), "{error}");
    // Towards the router a domain has one spelling; the case of ASCII may stay.
    let spelling = match Domain::parse(alias).unwrap().as_str() {
        "xn--bcher-kva.example" => "b\u{fc}cher.example".to_owned(),
        canonical => canonical.to_owned(),
    };
    let same = alias.eq_ignore_ascii_case(&spelling);
    let spelling = if same { alias } else { &spelling };
    assert_eq!(attribute(&error, "message", "from"), format!("eve@{spelling}"));
    peer.authenticate(&mut bob, &id, "coluc.com").await;
    bob.say(&format!("<message from='eve@{alias}' to='alice@coluc.com'/>"))
        .await;
    assert_eq!(bob.condition().await, "invalid-from");
    let asked = dns.asked();
    assert!(asked.is_empty(), "looked up before the lists: {asked:?}");
}

#[rstest]
#[case::double_s_is_not_sharp_s("strasse.de")]
#[case::below_a_denied_domain("sub.evil.example")]
#[case::above_a_denied_domain("example.org")]
#[case::cyrillic_letter("\u{435}vil.example")]
#[tokio::test]
async fn another_domain_is_not_denied_with_it(#[case] other: &str) {
    let listed = ["evil.example", "stra\u{df}e.de"];
    let (lab, peer, _link, dns) = start(PrivacyMode::DenyList, &listed).await;
    let (mut bob, _) = peer.open(lab.s2s, "coluc.com").await;
    assert_eq!(refusal(&mut bob, other).await, "remote-server-not-found");
    let asked = dns.asked();
    assert!(!asked.is_empty());
    assert!(
        asked.iter().all(|name| name.ends_with('.') && name.is_ascii()),
        "{asked:?}"
    );
}

#[rstest]
#[case::as_the_peer_writes_it("bob@stra\u{df}e.de/x", "alice@coluc.com", "/x", "alice@coluc.com")]
#[case::a_label("bob@xn--strae-oqa.de", "alice@coluc.com", "", "alice@coluc.com")]
#[case::trailing_dots("bob@stra\u{df}e.de.", "alice@coluc.com./phone", "", "alice@coluc.com/phone")]
#[case::ideographic_dots("bob@stra\u{df}e\u{3002}de", "alice@coluc\u{3002}com", "", "alice@coluc.com")]
#[case::addresses_in_resources(
    "bob@stra\u{df}e.de/a@evil.example",
    "coluc.com/b@other.example/c",
    "/a@evil.example",
    "coluc.com/b@other.example/c"
)]
#[case::references("bob@stra&#xDF;e.de", "alice&#64;coluc.com", "", "alice&#64;coluc.com")]
#[tokio::test]
async fn a_partner_with_an_umlaut_is_known_under_every_name(
    #[case] from: &str,
    #[case] to: &str,
    #[case] resource: &str,
    #[case] written_to: &str,
) {
    let (peer, router) = (Peer::new("stra\u{df}e.de").await, Router::new().await);
    let lab = Lab::start(live(config(&[&peer], &[&router])));
    let mut link = router.accept().await;
    // The edge speaks first to the authoritative server: with the name as people write it.
    let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    bob.say(&format!("<message from='{from}' to='{to}' id='1'/>")).await;
    // With the name that means the same to an older router.
    assert_eq!(
        link.hear().await,
        format!("<message from='bob@xn--strae-oqa.de{resource}' to='{written_to}' id='1'/>")
    );
    // What is not the same domain only looks like it.
    bob.say("<message from='bob@strasse.de' to='alice@coluc.com'/>").await;
    assert_eq!(bob.condition().await, "invalid-from");
}

#[rstest]
#[case::v6_in_brackets("[::1]")]
#[case::v6("::1")]
#[case::v6_with_zone("[fe80::1%eth0]")]
#[case::v4("127.0.0.1")]
#[case::v4_mapped("[::ffff:127.0.0.1]")]
#[case::v4_short("127.1")]
#[case::v4_in_hexadecimal("0x7f.1")]
#[case::v4_out_of_range("1.2.3.256")]
#[case::v4_in_fullwidth_digits("\u{ff11}27.0.0.1")]
#[case::v4_with_a_dot("127.0.0.1.")]
#[case::with_a_port("vngtp.lab:5269")]
#[case::single_label("localhost")]
#[case::single_label_of_a_cluster("kubernetes")]
#[case::root(".")]
#[case::empty("")]
#[case::two_dots("a..example")]
#[case::dot_first(".vngtp.lab")]
#[case::two_dots_last("vngtp.lab..")]
#[case::hyphen_first("-a.example")]
#[case::underscore("under_score.example")]
#[case::space("vngtp.lab x")]
#[case::line_end("vngtp.lab&#10;")]
#[case::nul_by_percent("vngtp.lab%00.example")]
#[case::slash_by_reference("vngtp.lab&#x2F;x")]
#[case::long_label("LABEL.example")]
#[case::long_name("LONG")]
#[case::bad_punycode("xn--\u{e9}.example")]
#[case::punycode_of_ascii("xn--vngtp-.lab")]
#[tokio::test]
async fn what_is_no_domain_federates_with_nobody(#[case] name: &str) {
    let name = name
        .replace("LABEL", &"a".repeat(64))
        .replace("LONG", &format!("{0}.{0}.{0}.{0}.{0}", "a".repeat(60)));
    let (lab, peer, mut link, mut bystander) = scene().await;
    // An empty attribute of a header names nobody, as if it were absent.
    if !name.is_empty() {
        let mut named = Speaker::connect(lab.s2s).await;
        named.say(&header(&name, "coluc.com", "")).await;
        assert_eq!(named.condition().await, "improper-addressing");
        let mut asked = Speaker::connect(lab.s2s).await;
        asked.say(&header("vngtp.lab", &name, "")).await;
        assert_eq!(asked.condition().await, "improper-addressing");
    }
    for element in [
        format!("<db:result from='{name}' to='coluc.com'>k</db:result>"),
        format!("<db:verify from='vngtp.lab' to='{name}' id='1'>k</db:verify>"),
    ] {
        let (mut hostile, _) = peer.open(lab.s2s, "coluc.com").await;
        hostile.say(&element).await;
        assert_eq!(hostile.condition().await, "improper-addressing", "{element}");
    }
    // In stanzas a slash begins the resource.
    if !name.contains("&#x2F;") {
        let mut hostile = peer.open_authenticated(lab.s2s, "coluc.com").await;
        hostile
            .say(&format!("<message from='bob@vngtp.lab' to='alice@{name}'/>"))
            .await;
        assert_eq!(hostile.condition().await, "improper-addressing");
        link.say(&format!("<message from='alice@coluc.com' to='bob@{name}' id='m1'/>"));
        let error = link.hear().await;
        assert!(error.contains("<jid-malformed "), "{error}");
    }
    assert!(bystander.exchange(&mut link).await.is_empty());
}

#[rstest]
#[case::two_ats_in_from("bob@evil.example@vngtp.lab", "alice@coluc.com", "improper-addressing")]
#[case::our_domain_behind_an_at("bob@coluc.com@vngtp.lab", "alice@coluc.com", "improper-addressing")]
#[case::two_ats_in_to("bob@vngtp.lab", "alice@evil.example@coluc.com", "improper-addressing")]
#[case::domain_in_the_resource("evil.example/bob@vngtp.lab", "alice@coluc.com", "invalid-from")]
#[case::our_domain_in_from("coluc.com/bob@vngtp.lab", "alice@coluc.com", "invalid-from")]
#[case::only_a_resource("/vngtp.lab", "alice@coluc.com", "improper-addressing")]
#[case::only_a_user("bob@", "alice@coluc.com", "improper-addressing")]
#[case::empty_from("", "alice@coluc.com", "improper-addressing")]
#[case::empty_to("bob@vngtp.lab", "", "improper-addressing")]
#[case::below_the_partner("bob@sub.vngtp.lab", "alice@coluc.com", "invalid-from")]
#[case::above_ours("bob@vngtp.lab", "alice@com.example", "host-unknown")]
#[case::below_ours("bob@vngtp.lab", "alice@sub.coluc.com", "host-unknown")]
#[case::relay("bob@vngtp.lab", "carol@bystander.example", "host-unknown")]
#[case::component("bob@vngtp.lab", "cm-2_s2scp-1.eft-xwye-a-coluc-com", "improper-addressing")]
#[case::internal_name("bob@vngtp.lab", "x@router-internal", "improper-addressing")]
#[case::to_the_partner_itself("bob@vngtp.lab", "carol@vngtp.lab", "host-unknown")]
#[tokio::test]
async fn only_addresses_of_the_pair_count(
    #[values("message", "presence", "iq")] kind: &str,
    #[case] from: &str,
    #[case] to: &str,
    #[case] expected: &str,
) {
    let (lab, peer, mut link, mut bystander) = scene().await;
    let mut hostile = peer.open_authenticated(lab.s2s, "coluc.com").await;
    hostile
        .say(&format!("<{kind} from='{from}' to='{to}' type='get' id='h'/>"))
        .await;
    assert_eq!(hostile.condition().await, expected);
    assert!(bystander.exchange(&mut link).await.is_empty());
}

#[rstest]
#[case::names_of_a_cluster("kubernetes.default")]
#[case::services_of_a_cluster("kubernetes.default.svc")]
#[case::reverse_names("1.0.0.127.in-addr.arpa")]
#[tokio::test]
async fn names_inside_are_asked_of_dns_absolutely_or_not_at_all(#[case] name: &str) {
    let (lab, peer, _link, dns) = start(PrivacyMode::AllowAll, &[]).await;
    let (mut bob, _) = peer.open(lab.s2s, "coluc.com").await;
    assert_eq!(refusal(&mut bob, name).await, "remote-server-not-found");
    let expected = [
        format!("_xmpp-server._tcp.{name}."),
        format!("_xmpps-server._tcp.{name}."),
        format!("{name}."),
    ];
    let asked = dns.asked();
    assert!(asked.iter().all(|name| expected.contains(name)), "{asked:?}");
    let (lab, peer, _link, dns) = start(PrivacyMode::AllowList, &[]).await;
    let (mut bob, _) = peer.open(lab.s2s, "coluc.com").await;
    assert_eq!(refusal(&mut bob, name).await, "not-allowed");
    assert!(dns.asked().is_empty());
}

/// The router is asked for its own domains only, whatever spelling it uses.
#[rstest]
#[case::capitals("alice@COLUC.com", true)]
#[case::trailing_dot("alice@coluc.com.", true)]
#[case::foreign("eve@evil.example", false)]
#[case::foreign_with_ours_in_the_resource("eve@evil.example/alice@coluc.com", false)]
#[case::the_partners_own("bob@vngtp.lab", false)]
#[case::two_ats("alice@coluc.com@evil.example", false)]
#[case::below_ours("alice@sub.coluc.com", false)]
#[case::component("cm-2_s2scp-1.eft-xwye-a-coluc-com", false)]
#[case::nobody("", false)]
#[tokio::test]
async fn only_hosted_senders_leave(#[case] from: &str, #[case] leaves: bool) {
    let (_lab, peer, _router, link) = Lab::with_link().await;
    link.say(&format!("<message from='{from}' to='bob@vngtp.lab' id='odd'/>"));
    link.say(&to_bob("good"));
    let mut stream = peer.accept_authenticated("coluc.com").await;
    let heard = stream.hear("id='good'/>").await;
    assert_eq!(heard.contains("id='odd'"), leaves, "{heard}");
    assert!(stream.is_silent(Duration::from_millis(20)).await);
}

/// A stanza that uses what the peer's header put in scope means the same at the router.
#[rstest]
#[case::prefix_of_the_header(
    "<message from='bob@vngtp.lab' to='alice@coluc.com'><u:x u:y='z'/></message>",
    "<message xmlns:u='urn:u&amp;1' from='bob@vngtp.lab' to='alice@coluc.com' xml:lang='de'><u:x u:y='z'/></message>"
)]
#[case::prefixed_stanza(
    "<s:message from='bob@vngtp.lab' to='alice@coluc.com'><s:body>x</s:body></s:message>",
    "<message from='bob@vngtp.lab' to='alice@coluc.com' xml:lang='de'><body>x</body></message>"
)]
#[case::explicit_namespace(
    "<message xmlns='jabber:server' from='bob@vngtp.lab' to='alice@coluc.com'><body>x</body></message>",
    "<message from='bob@vngtp.lab' to='alice@coluc.com' xml:lang='de'><body>x</body></message>"
)]
#[case::own_language(
    "<message xml:lang='fr' from='bob@vngtp.lab' to='alice@coluc.com'/>",
    "<message xml:lang='fr' from='bob@vngtp.lab' to='alice@coluc.com'/>"
)]
#[tokio::test]
async fn what_the_header_put_in_scope_goes_along(#[case] text: &str, #[case] expected: &str) {
    let (lab, peer, _router, mut link) = Lab::with_link().await;
    let opening = header("vngtp.lab", "coluc.com", "").replace(
        " version='1.0'>",
        " xmlns:s='jabber:server' xmlns:u='urn:u&amp;1' xml:lang='de' version='1.0'>",
    );
    let (mut bob, id) = Speaker::secured(lab.s2s, &opening).await;
    peer.authenticate(&mut bob, &id, "coluc.com").await;
    bob.say(text).await;
    assert_eq!(parts(&link.hear().await), parts(expected));
}

/// Tags with their attributes in order of name: where a declaration is put does not matter.
fn parts(xml: &str) -> Vec<Vec<String>> {
    let tag = |tag: &str| {
        let mut words: Vec<_> = tag.split_whitespace().map(str::to_owned).collect();
        words.sort();
        words
    };
    xml.split(['<', '>']).map(tag).collect()
}
