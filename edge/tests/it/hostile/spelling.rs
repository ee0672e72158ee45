//! One spelling per domain on each side: servers of the time of RFC 3920 read some spellings as
//! another domain.

use rstest::rstest;
use xmpp_federation_core::Domain;
use xmpp_federation_core::edge_config::{LinkProfile, PrivacyMode};

use crate::support::{Lab, Peer, Router, RouterLink, Speaker, attribute, config, header, live};

/// The hosted domain with an umlaut, and coluc.com.
const HOSTED: &str = "xn--kln-sna.coluc.com";

async fn start(partner: &'static str) -> (Lab, Peer, Router, RouterLink) {
    let (peer, router) = (Peer::new(partner).await, Router::new().await);
    let mut config = config(&[&peer], &[&router]);
    config.domains.push(Domain::parse(HOSTED).unwrap());
    let lab = Lab::start(live(config));
    let link = router.accept().await;
    (lab, peer, router, link)
}

fn addresses(stanza: &str) -> (String, String) {
    (attribute(stanza, "message", "from"), attribute(stanza, "message", "to"))
}

const SHARP: &str = "stra\u{df}e.lan";
const SHARP_LINK: &str = "xn--strae-oqa.lan";
const UMLAUT: &str = "b\u{fc}cher.example";

#[rstest]
#[case::nameprep_would_change_it(
    "stra\u{df}e.lan",
    "ceo@stra\u{df}e.lan -> ceo@xn--strae-oqa.lan",
    "v@coluc.com -> v@coluc.com"
)]
#[case::a_label_of_it(
    "stra\u{df}e.lan",
    "ceo@xn--strae-oqa.lan/x -> ceo@xn--strae-oqa.lan/x",
    "v@coluc.com -> v@coluc.com"
)]
#[case::capital_sharp_s(
    "stra\u{df}e.lan",
    "ceo@stra\u{1e9e}e.lan -> ceo@xn--strae-oqa.lan",
    "v@coluc.com -> v@coluc.com"
)]
#[case::domain_alone("stra\u{df}e.lan", "stra\u{df}e.lan -> xn--strae-oqa.lan", "coluc.com -> coluc.com")]
#[case::umlaut(
    "b\u{fc}cher.example",
    "b@b\u{fc}cher.example -> b@b\u{fc}cher.example",
    "v@coluc.com -> v@coluc.com"
)]
#[case::umlaut_as_a_label(
    "b\u{fc}cher.example",
    "b@xn--bcher-kva.example -> b@b\u{fc}cher.example",
    "v@coluc.com -> v@coluc.com"
)]
#[case::umlaut_in_capitals(
    "b\u{fc}cher.example",
    "b@B\u{dc}CHER.EXAMPLE -> b@b\u{fc}cher.example",
    "v@coluc.com -> v@coluc.com"
)]
#[case::umlaut_decomposed(
    "b\u{fc}cher.example",
    "b@bu\u{308}cher.example -> b@b\u{fc}cher.example",
    "v@coluc.com -> v@coluc.com"
)]
#[case::trailing_dots("vngtp.lab", "b@vngtp.lab./x -> b@vngtp.lab/x", "v@coluc.com./y -> v@coluc.com/y")]
#[case::ideographic_dots(
    "vngtp.lab",
    "b@vngtp\u{3002}lab -> b@vngtp.lab",
    "v@coluc\u{ff61}com -> v@coluc.com"
)]
#[case::soft_hyphens("vngtp.lab", "b@vn\u{ad}gtp.lab -> b@vngtp.lab", "v@\u{ad}coluc.com -> v@coluc.com")]
#[case::wide_letters(
    "vngtp.lab",
    "b@\u{ff56}ngtp.lab -> b@vngtp.lab",
    "v@\u{ff43}oluc.com -> v@coluc.com"
)]
#[case::case_of_ascii_may_stay("vngtp.lab", "b@VNGTP.Lab -> b@VNGTP.Lab", "v@Coluc.COM -> v@Coluc.COM")]
#[case::hosted_u_label(
    "vngtp.lab",
    "b@vngtp.lab -> b@vngtp.lab",
    "v@k\u{f6}ln.coluc.com -> v@k\u{f6}ln.coluc.com"
)]
#[case::hosted_a_label(
    "vngtp.lab",
    "b@vngtp.lab -> b@vngtp.lab",
    "v@xn--kln-sna.coluc.com -> v@k\u{f6}ln.coluc.com"
)]
#[case::other_parts_stay(
    "vngtp.lab",
    "stra\u{df}e@vngtp.lab./a@vngtp.lab. -> stra\u{df}e@vngtp.lab/a@vngtp.lab.",
    "stra\u{df}e@coluc.com./coluc.com. -> stra\u{df}e@coluc.com/coluc.com."
)]
#[tokio::test]
async fn towards_a_router_each_domain_has_one_spelling(
    #[case] partner: &'static str,
    #[case] from: &str,
    #[case] to: &str,
    #[values(false, true)] with_namespace: bool,
) {
    let ((from, written_from), (to, written_to)) = (from.split_once(" -> ").unwrap(), to.split_once(" -> ").unwrap());
    let (lab, peer, _router, mut link) = start(partner).await;
    let hosted = if to.contains("ln") {
        "k\u{f6}ln.coluc.com"
    } else {
        "coluc.com"
    };
    let (mut bob, id) = peer.open(lab.s2s, "coluc.com").await;
    peer.authenticate(&mut bob, &id, hosted).await;
    let namespace = if with_namespace { " xmlns='jabber:server' " } else { "" };
    bob.say(&format!(
        "<message from='{from}'{namespace} id='&lt;1' to='{to}' type='chat'><body>{from}</body></message>"
    ))
    .await;
    let heard = link.hear().await;
    assert_eq!(addresses(&heard), (written_from.to_owned(), written_to.to_owned()));
    assert_eq!(attribute(&heard, "message", "id"), "&lt;1");
    assert!(
        heard.ends_with(&format!(" type='chat'><body>{from}</body></message>")),
        "{heard}"
    );
}

#[rstest]
#[case::sharp_s(SHARP_LINK, SHARP, SHARP_LINK)]
#[case::sharp_s_as_the_link_writes_it(SHARP_LINK, SHARP_LINK, SHARP_LINK)]
#[case::umlaut(UMLAUT, UMLAUT, UMLAUT)]
#[case::umlaut_as_a_label(UMLAUT, "xn--bcher-kva.example", UMLAUT)]
#[case::umlaut_in_capitals(UMLAUT, "XN--BCHER-KVA.example.", UMLAUT)]
#[case::trailing_dot("vngtp.lab", "vngtp.lab.", "vngtp.lab")]
#[case::ideographic_dot("vngtp.lab", "vngtp\u{3002}lab", "vngtp.lab")]
#[case::soft_hyphen("vngtp.lab", "vngtp.l\u{ad}ab", "vngtp.lab")]
#[case::case_of_ascii_may_stay("vngtp.lab", "VNGTP.lab", "VNGTP.lab")]
#[tokio::test]
async fn towards_a_peer_the_spelling_is_that_of_the_header(
    #[case] partner: &'static str,
    #[case] to: &str,
    #[case] written: &str,
    #[values("xn--kln-sna.coluc.com", "K\u{d6}LN.coluc.com.", "coluc.com.")] from: &str,
) {
    let (_lab, peer, _router, link) = start(partner).await;
    link.say(&format!(
        "<message from='alice@{from}/a&apos;' to='bob@{to}/b' id='1'><body>x</body></message>"
    ));
    let hosted = if from == "coluc.com." {
        "coluc.com"
    } else {
        "k\u{f6}ln.coluc.com"
    };
    // It looks at the header itself: `to` is the partner's name as the peer has it.
    let mut stream = peer.accept_authenticated(hosted).await;
    let heard = stream.hear("</message>").await;
    assert_eq!(
        heard,
        format!("<message from='alice@{hosted}/a&apos;' to='bob@{written}/b' id='1'><body>x</body></message>")
    );
}

/// What a user of ours answers to is what the link wrote. The partner is called by the name that it
/// has for itself: servers of RFC 3920 know a domain by A-labels if it was configured so.
#[rstest]
#[case::nameprep_would_change_it(SHARP)]
#[case::nameprep_would_change_it_and_the_server_knows_it(SHARP_LINK)]
#[case::umlaut(UMLAUT)]
#[case::umlaut_configured_with_a_labels("xn--bcher-kva.example")]
#[case::final_sigma("\u{3b2}\u{3cc}\u{3bb}\u{3bf}\u{3c2}.example")]
#[tokio::test]
async fn an_answer_to_what_the_link_wrote_reaches_its_sender(
    #[case] partner: &'static str,
    #[values(LinkProfile::Component, LinkProfile::Xcp)] profile: LinkProfile,
) {
    let (peer, router) = (Peer::new(partner).await, Router::new().await);
    let mut config = config(&[&peer], &[&router]);
    config.routers[0].profile = profile;
    let lab = Lab::start(live(config));
    let mut link = match profile {
        LinkProfile::Component => router.accept().await,
        LinkProfile::Xcp => router.accept_xcp().await,
    };
    let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    bob.say(&format!("<message from='bob@{partner}' to='alice@coluc.com.' id='1'/>"))
        .await;
    let heard = link.hear().await;
    let (from, to) = addresses(&heard);
    assert_eq!(to, "alice@coluc.com");
    // The envelope has the same addresses.
    assert!(
        profile == LinkProfile::Component || heard.matches(&from).count() == 2,
        "{heard}"
    );
    let answer = format!("<message from='{to}' to='{from}' id='2'/>");
    link.say(&match profile {
        LinkProfile::Component => answer,
        LinkProfile::Xcp => {
            format!("<route from='{to}' to='{from}' type='session'>{answer}</route>")
        }
    });
    let mut stream = peer.accept_authenticated("coluc.com").await;
    let heard = stream.hear("id='2'/>").await;
    assert_eq!(addresses(&heard).1, format!("bob@{partner}"));
}

/// The edge's own errors have the spelling of their side too.
#[tokio::test]
async fn errors_have_the_spelling_of_their_side() {
    // A server that was configured with A-labels, and says so.
    let own = "xn--bcher-kva.example";
    let (peer, router) = (Peer::new(own).await, Router::new().await);
    let mut config = config(&[&peer], &[&router]);
    config.privacy.mode = PrivacyMode::DenyList;
    config.privacy.domains = vec![Domain::parse("\u{df}.example").unwrap().into()];
    config.domains.push(Domain::parse(HOSTED).unwrap());
    let lab = Lab::start(live(config));
    let mut link = router.accept().await;
    let ours = "alice@k\u{f6}ln.coluc.com".to_owned();
    let (mut bob, id) = peer.open(lab.s2s, "coluc.com").await;
    peer.authenticate(&mut bob, &id, "k\u{f6}ln.coluc.com").await;

    // To the router: what may not leave,
    link.say(&format!(
        "<message from='alice@{HOSTED}' to='eve@\u{df}.example' id='denied'/>"
    ));
    let error = link.hear().await;
    assert!(error.contains("<not-allowed "), "{error}");
    assert_eq!(addresses(&error), ("eve@xn--zca.example".to_owned(), ours.clone()));
    // and what a partner did not take.
    link.say(&format!("<message from='alice@{HOSTED}' to='bob@{own}' id='refused'/>"));
    let mut called = peer.accept("refusing").await;
    called.hear("</db:result>").await;
    called
        .say(&format!(
            "<db:result from='{own}' to='k\u{f6}ln.coluc.com' type='invalid'/>"
        ))
        .await;
    let error = link.hear().await;
    assert!(error.contains("id='refused'"), "{error}");
    assert_eq!(addresses(&error), (format!("bob@{UMLAUT}"), ours.clone()));

    // To a partner: what the router did not take.
    link.echo.store(false, std::sync::atomic::Ordering::SeqCst);
    bob.say(&format!("<message from='bob@{UMLAUT}' to='alice@{HOSTED}' id='lost'/>"))
        .await;
    assert!(link.hear().await.contains("id='lost'"));
    link.cut().await;
    let mut stream = peer.accept_authenticated("k\u{f6}ln.coluc.com").await;
    let error = stream.hear("</message>").await;
    assert!(error.contains("<recipient-unavailable "), "{error}");
    assert_eq!(addresses(&error), (ours, format!("bob@{own}")));
}

/// Names that are longer than any domain are no names (soft hyphens make any length of one).
#[rstest]
#[case::header_from(&|long: &str| Said::Header(long.to_owned(), "coluc.com".to_owned()))]
#[case::header_to(&|long: &str| Said::Header("vngtp.lab".to_owned(), long.to_owned()))]
#[case::key(&|long: &str| Said::Element(format!("<db:result from='{long}' to='coluc.com'>k</db:result>")))]
#[case::question(&|long: &str| Said::Element(format!("<db:verify from='vngtp.lab' to='{long}' id='1'>k</db:verify>")))]
#[case::sender(&|long: &str| Said::Stanza(format!("<message from='b@{long}' to='v@coluc.com'/>")))]
#[case::recipient(&|long: &str| Said::Stanza(format!("<message from='b@vngtp.lab' to='v@{long}'/>")))]
#[tokio::test]
async fn a_name_of_more_than_1_kb_is_none(#[case] said: &dyn Fn(&str) -> Said) {
    let (lab, peer, _router, link) = start("vngtp.lab").await;
    let spelled = |name: &str| format!("{}{name}", "\u{ad}".repeat((1024 - name.len()) / 2 + 1));
    for name in ["vngtp.lab", "coluc.com"] {
        let long = spelled(name);
        assert!(long.len() > 1023 && long.len() < 1030);
        let condition = match said(&long) {
            Said::Header(from, to) => {
                let mut named = Speaker::connect(lab.s2s).await;
                named.say(&crate::support::header(&from, &to, "")).await;
                let answer = named.hear("</stream:stream>").await;
                assert!(answer.len() < 1000, "{answer}");
                assert!(answer.contains("<improper-addressing "), "{answer}");
                continue;
            }
            Said::Element(element) => {
                let (mut bob, _) = peer.open(lab.s2s, "coluc.com").await;
                bob.say(&element).await;
                bob.condition().await
            }
            Said::Stanza(stanza) => {
                let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
                bob.say(&stanza).await;
                bob.condition().await
            }
        };
        assert_eq!(condition, "improper-addressing");
    }
    drop(link);
}

enum Said {
    Header(String, String),
    Element(String),
    Stanza(String),
}

/// Prosody with a host that is configured by its A-labels answers so.
#[tokio::test]
async fn a_server_that_knows_itself_by_the_other_labels_only_is_called_by_them() {
    let (_lab, peer, _router, link) = start("xn--bcher-kva.example").await;
    link.say("<message from='v@coluc.com' to='b@b\u{fc}cher.example/\u{fc}' id='1'/>");
    let mut first = peer.accept_tcp().await;
    let opened = first.hear("version='1.0'>").await;
    assert_eq!(attribute(&opened, "stream:stream", "to"), UMLAUT);
    first.say(&header("", "coluc.com", "x")).await;
    first
        .say("<stream:error><host-unknown xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>")
        .await;
    let mut stream = peer.accept_authenticated("coluc.com").await;
    let stanza = stream.hear("id='1'/>").await;
    assert_eq!(attribute(&stanza, "message", "to"), "b@xn--bcher-kva.example/\u{fc}");
    link.say("<message from='v@coluc.com' to='b\u{fc}cher.example' id='2'/>");
    let stanza = stream.hear("id='2'/>").await;
    assert_eq!(attribute(&stanza, "message", "to"), "xn--bcher-kva.example");
}
