//! Partners whose certificates few libraries take: TLS stands, dialback goes on, and a pin counts if
//! the peer has proven that it holds the key.

use std::sync::{Arc, OnceLock};

use rcgen::{BasicConstraints, IsCa};
use rstest::rstest;
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, SupportedProtocolVersion};
use xmpp_federation_core::Fingerprint;
use xmpp_federation_core::edge_config::{EdgeConfig, PrivacyMode};
use xmpp_federation_edge::probe::{Plan, Rating as Finding};

use crate::support::dns::Dns;
use crate::support::odd::{Odd, OddIdentity};
use crate::support::partner::{Partner, Rules};
use crate::support::pki::{Identity, client_showing, pki, server_showing};
use crate::support::{
    DIALBACK, Lab, PROCEED, Peer, Router, RouterLink, STARTTLS, Speaker, VALID, attribute, config, features,
    give_terms, header, terms as partner_terms,
};

const EXTERNAL: &str = "<mechanism>EXTERNAL</mechanism>";
const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

/// What is unusual, whether a library verifies signatures of its key, and what is said of it.
const KINDS: [(Odd, bool, &str); 8] = [
    (Odd::Version1, true, "no X.509 v3 certificate; it can only be pinned"),
    (
        Odd::CriticalExtension,
        true,
        "a critical extension that is not known here; it can only be pinned",
    ),
    (Odd::LongSerial, true, "no trusted authority issued it"),
    (
        Odd::Rsa1024,
        true,
        "its RSA key has 1024 bits, fewer than 2048; it can only be pinned",
    ),
    (
        Odd::Rsa16384,
        false,
        "it has an RSA key of 16384 bits; signatures of this key cannot be verified here",
    ),
    (Odd::P192, false, "it has a key of an unusual elliptic curve"),
    (Odd::ExplicitCurve, false, "it has a key of an unusual elliptic curve"),
    (Odd::Garbage, false, "it has a key that is not where X.509 has it"),
];

/// All kinds, self-signed.
fn identities() -> &'static [OddIdentity] {
    static MADE: OnceLock<Vec<OddIdentity>> = OnceLock::new();
    MADE.get_or_init(|| {
        let kinds = KINDS.iter();
        kinds.map(|(odd, ..)| OddIdentity::new(*odd, None)).collect()
    })
}

fn pinned(config: &mut EdgeConfig) {
    let mut entry = partner_terms("vngtp.lab", "tls: {}");
    entry.tls.pinned_sha256 = identities().iter().map(|one| Fingerprint::of(&one.0.cert[0])).collect();
    give_terms(config, entry);
}

async fn lab(change: impl FnOnce(&mut EdgeConfig)) -> (Lab, Peer, RouterLink, Router) {
    lab_by(Way::StartTls, change).await
}

/// How the edge finds the partner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// By a static route.
    StartTls,
    /// By a record of direct TLS.
    Direct,
}

const WAYS: [Way; 2] = [Way::StartTls, Way::Direct];

/// A configuration that leads to the peer this way, and what is looked up.
fn leading_to(peer: &Peer, routers: &[&Router], way: Way) -> (EdgeConfig, Arc<Dns>) {
    let port = peer.listener.local_addr().unwrap().port();
    let dns = Dns::default().direct(0, port, "host.partner.example.");
    let mut config = match way {
        Way::StartTls => config(&[peer], routers),
        Way::Direct => config(&[], routers),
    };
    config.privacy.mode = PrivacyMode::AllowAll;
    config.dns.allow_private_targets = vec!["127.0.0.0/8".parse().unwrap()];
    (config, Arc::new(dns.others(&["127.0.0.1"])))
}

async fn lab_by(way: Way, change: impl FnOnce(&mut EdgeConfig)) -> (Lab, Peer, RouterLink, Router) {
    let (peer, router) = (Peer::new("vngtp.lab").await, Router::new().await);
    let (mut config, dns) = leading_to(&peer, &[&router], way);
    change(&mut config);
    let lab = Lab::start(dns.resolves(pki().live(config)));
    let link = router.accept().await;
    (lab, peer, link, router)
}

/// Opens a stream to the edge that shows this; gives the features behind TLS.
async fn open(lab: &Lab, shows: Arc<ClientConfig>, direct: bool) -> std::io::Result<(Speaker, String)> {
    let mut speaker = Speaker::connect(if direct { lab.direct_tls } else { lab.s2s }).await;
    if !direct {
        speaker.open(&header("vngtp.lab", "coluc.com", "")).await;
        speaker.starttls().await;
    }
    speaker.tls_client(shows, "coluc.com").await?;
    speaker.try_say(header("vngtp.lab", "coluc.com", "").as_bytes()).await?;
    match speaker.hear_any(&["</stream:features>"]).await {
        Some(features) => Ok((speaker, features)),
        None => Err(std::io::ErrorKind::UnexpectedEof.into()),
    }
}

/// What the edge says of the certificate on its only stream of this direction.
fn verdict(lab: &Lab, direction: &str) -> String {
    let streams = lab.edge.registry.streams(None);
    let mut verdicts = streams.iter().filter(|s| s.direction == direction);
    verdicts.next_back().unwrap().detail.certificate.clone().unwrap()
}

fn showing(key: &Arc<CertifiedKey>, version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
    client_showing(Some(key.clone()), &[version])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_connects_with_one_is_authenticated_by_dialback() {
    let (lab, peer, mut link, _router) = lab(|_| {}).await;
    let counted = |lab: &Lab, verdict: &str| {
        lab.metric(&format!(
            "xmpp_edge_peer_certificates_total{{direction=\"inbound\",verdict=\"{verdict}\"}}"
        ))
    };
    for ((odd, _, says), identity) in KINDS.iter().zip(identities()) {
        for version in VERSIONS {
            for direct in [false, true] {
                let opened = open(&lab, showing(&identity.0, version), direct).await;
                let (mut speaker, features) = opened.unwrap_or_else(|e| panic!("{odd:?} {version:?}: {e}"));
                assert!(!features.contains(EXTERNAL), "{odd:?}: {features}");
                let found = verdict(&lab, "inbound");
                assert!(found.contains(says), "{odd:?}: {found}");
                let id = attribute(&features, "stream:stream", "id");
                peer.authenticate(&mut speaker, &id, "coluc.com").await;
                speaker
                    .say("<message from='bob@vngtp.lab' to='alice@coluc.com'/>")
                    .await;
                link.hear().await;
                speaker.say("</stream:stream>").await;
                speaker.hear_end().await;
            }
        }
    }
    let kinds = |proven| KINDS.iter().filter(|(_, one, _)| *one == proven).count();
    assert_eq!(usize::try_from(counted(&lab, "invalid")), Ok(4 * kinds(true)));
    assert_eq!(usize::try_from(counted(&lab, "unproven")), Ok(4 * kinds(false)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pin_counts_where_the_key_was_proven_and_for_its_owner_only() {
    let (lab, _peer, _link, _router) = lab(pinned).await;
    let failures = "xmpp_edge_tls_failures_total{direction=\"inbound\"}";
    for ((odd, proven, says), identity) in KINDS.iter().zip(identities()) {
        for version in VERSIONS {
            let (mut speaker, features) = open(&lab, showing(&identity.0, version), false).await.unwrap();
            assert_eq!(features.contains(EXTERNAL), *proven, "{odd:?} {version:?}: {features}");
            if *proven {
                assert_eq!(verdict(&lab, "inbound"), "valid", "{odd:?}");
            } else {
                let found = verdict(&lab, "inbound");
                assert!(found.contains(says), "{odd:?}: {found}");
            }
            speaker
                .say("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>=</auth>")
                .await;
            let answer = speaker.hear("urn:ietf:params:xml:ns:xmpp-sasl'").await;
            assert_eq!(answer.contains("<success"), *proven, "{odd:?}: {answer}");
            speaker.finish_writing().await;
            speaker.hear_end().await;

            let failed = lab.metric(failures);
            let stolen = open(&lab, showing(&identity.stolen().0, version), false).await;
            if *proven {
                assert!(stolen.is_err(), "{odd:?} {version:?}: without the key");
                lab.until("the handshake failed", |lab| lab.metric(failures) == failed + 1)
                    .await;
            } else {
                assert!(!stolen.unwrap().1.contains(EXTERNAL), "{odd:?}");
            }
        }
    }
}

/// Takes the edge's connection up to TLS, and shows this.
async fn accept(
    peer: &Peer,
    way: Way,
    key: &Arc<CertifiedKey>,
    version: &'static SupportedProtocolVersion,
) -> std::io::Result<Speaker> {
    let mut speaker = peer.accept_tcp().await;
    if way == Way::StartTls {
        speaker.hear("version='1.0'>").await;
        speaker.say(&header("vngtp.lab", "coluc.com", "clear")).await;
        speaker
            .say("<stream:features><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/></stream:features>")
            .await;
        speaker.hear(STARTTLS).await;
        speaker.say(PROCEED).await;
    }
    speaker.tls_server(server_showing(key.clone(), &[version])).await?;
    Ok(speaker)
}

fn cases() -> impl Iterator<Item = (&'static SupportedProtocolVersion, Way)> {
    VERSIONS.into_iter().flat_map(|version| WAYS.map(|way| (version, way)))
}

const MESSAGE: &str = "<message from='alice@coluc.com' to='bob@vngtp.lab' id='m1'><body>hi</body></message>";

/// What the edge says on a stream that it opened, up to its key.
async fn key_shown(speaker: &mut Speaker) -> Option<String> {
    speaker.hear_any(&["version='1.0'>"]).await?;
    speaker.say(&header("vngtp.lab", "coluc.com", "secure")).await;
    speaker.say(&features(DIALBACK)).await;
    speaker.hear_any(&["</db:result>"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_one_is_reached_and_believes_the_key() {
    for ((odd, _, says), identity) in KINDS.iter().zip(identities()) {
        for (version, way) in cases() {
            let (lab, peer, link, _router) = lab_by(way, |_| {}).await;
            link.say(MESSAGE);
            let mut speaker = accept(&peer, way, &identity.0, version).await.unwrap();
            let shown = key_shown(&mut speaker).await;
            assert!(shown.is_some(), "{odd:?} {version:?} {way:?}");
            let found = verdict(&lab, "outbound");
            assert!(found.contains(says), "{odd:?}: {found}");
            speaker.say(VALID).await;
            speaker.hear("id='m1'").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_server_gets_stanzas_where_its_key_was_proven() {
    for ((odd, proven, says), identity) in KINDS.iter().zip(identities()) {
        for (version, way) in cases() {
            let (lab, peer, mut link, _router) = lab_by(way, pinned).await;
            link.say(MESSAGE);
            let mut speaker = accept(&peer, way, &identity.0, version).await.unwrap();
            let shown = key_shown(&mut speaker).await;
            assert_eq!(shown.is_some(), *proven, "{odd:?} {version:?} {way:?}");
            if !*proven {
                let bounced = link.hear().await;
                assert!(bounced.contains("type='error'"), "{bounced}");
                let failures = format!("{:?}", lab.edge.registry.failures(None));
                assert!(failures.contains(says), "{odd:?}: {failures}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_the_key_of_what_it_shows_gets_nothing() {
    for odd in [Odd::Version1, Odd::Rsa1024] {
        for (version, way) in cases() {
            let (_lab, peer, link, _router) = lab_by(way, pinned).await;
            link.say(MESSAGE);
            let identity = OddIdentity::new(odd, None).stolen();
            let accepted = accept(&peer, way, &identity.0, version).await;
            if let Ok(mut speaker) = accepted {
                assert!(speaker.hear_any(&["version='1.0'>"]).await.is_none(), "{odd:?}");
            }
        }
    }
}

/// What a probe finds of a server with one, whose dialback works.
#[tokio::test(flavor = "multi_thread")]
async fn a_probe_of_a_server_with_one_tells_what_it_is_and_goes_on() {
    for ((odd, proven, says), identity) in KINDS.iter().zip(identities()) {
        for (version, way) in cases() {
            for pin in [false, true] {
                let case = format!("{odd:?} {version:?} {way:?}, pinned {pin}");
                let peer = Peer::new("vngtp.lab").await;
                let (mut config, dns) = leading_to(&peer, &[], way);
                if pin {
                    pinned(&mut config);
                }
                let live = Arc::new(pki().live(config));
                let remote = "vngtp.lab".parse().unwrap();
                let plan = Plan::with_live(remote, None, live, Some(dns)).unwrap();
                let counts = *proven || !pin;
                let script = async {
                    let mut speaker = accept(&peer, way, &identity.0, version).await.unwrap();
                    let shown = key_shown(&mut speaker).await;
                    assert_eq!(shown.is_some(), counts, "{case}");
                    if counts {
                        let valid = "<db:result from='vngtp.lab' to='coluc.com' type='valid'/>";
                        speaker.say(valid).await;
                        speaker.say("</stream:stream>").await;
                    }
                };
                let (report, ()) = tokio::join!(plan.run(), script);
                let about = |check| report.findings.iter().rfind(|one| one.check == check);
                assert_eq!(about("tls").unwrap().verdict, Finding::Good, "{report}");
                let certificate = about("certificate").unwrap();
                let expected = match (pin, proven) {
                    (true, true) => Finding::Good,
                    (true, false) => Finding::Bad,
                    (false, _) => Finding::Warning,
                };
                assert_eq!(certificate.verdict, expected, "{case}: {report}");
                let told = certificate.detail.contains(says);
                assert_eq!(told, expected != Finding::Good, "{case}: {report}");
                assert_eq!(report.good, counts, "{case}: {report}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_of_a_server_without_the_key_of_what_it_shows_stops_there() {
    for (version, way) in cases() {
        let peer = Peer::new("vngtp.lab").await;
        let (config, lookup) = leading_to(&peer, &[], way);
        let live = Arc::new(pki().live(config));
        let remote = "vngtp.lab".parse().unwrap();
        let plan = Plan::with_live(remote, None, live, Some(lookup)).unwrap();
        let identity = OddIdentity::new(Odd::Version1, None).stolen();
        let script = async {
            if let Ok(mut speaker) = accept(&peer, way, &identity.0, version).await {
                assert!(speaker.hear_any(&["version='1.0'>"]).await.is_none());
            }
        };
        let (report, ()) = tokio::join!(plan.run(), script);
        let tls = report.findings.iter().find(|one| one.check == "tls");
        assert_eq!(tls.unwrap().verdict, Finding::Bad, "{report}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_issues_one_does_not_make_its_names_count() {
    let (lab, _peer, _link, _router) = lab(|_| {}).await;
    let (certificate, key) = (pki().ca.pem(), pki().ca.key().serialize_pem());
    for (odd, counts) in [
        (Odd::Usual, true),
        (Odd::Version1, false),
        (Odd::CriticalExtension, false),
        (Odd::Rsa1024, false),
    ] {
        let identity = OddIdentity::new(odd, Some((&certificate, &key)));
        let (_speaker, features) = open(&lab, showing(&identity.0, &TLS13), false).await.unwrap();
        assert_eq!(
            features.contains(EXTERNAL),
            counts,
            "{odd:?}: {}",
            verdict(&lab, "inbound")
        );
    }
}

fn expired() -> Identity {
    pki().issue(&["vngtp.lab"], |params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    })
}

const ANCHOR: &str = "tls.trustAnchors";

/// What is told of a certificate that proves nothing helps against what is wrong with it.
#[rstest]
#[case::of_an_authority(authority(), None, "can only be pinned", "dialback decides then", &[ANCHOR])]
#[case::of_an_unknown_authority(Identity::self_signed(&["vngtp.lab"]), None, "no trusted authority", ANCHOR, &[])]
#[case::expired(expired(), None, "expired 2021", "dialback decides then", &[ANCHOR])]
#[case::of_another_name(pki().issue(&["other.example"], |_| {}), None, "do not cover", "dialback decides then", &[ANCHOR])]
#[case::required_of_an_authority(authority(), Some(REQUIRED), "can only be pinned", "its entry in partners", &[ANCHOR])]
#[case::required_of_an_unknown_authority(Identity::self_signed(&["vngtp.lab"]), Some(REQUIRED), "no trusted", ANCHOR, &[])]
#[case::another_one_is_pinned(expired(), Some(PINNED), "not one that is pinned", "change tls.pinnedSha256", &[ANCHOR, "must get one"])]
#[tokio::test]
async fn a_probe_names_what_helps_against_a_certificate_and_nothing_else(
    #[case] shown: Identity,
    #[case] terms: Option<&str>,
    #[case] says: &str,
    #[case] helps: &str,
    #[case] helps_not: &[&str],
) {
    let peer = Peer::new("vngtp.lab").await;
    let mut config = config(&[&peer], &[]);
    if let Some(terms) = terms {
        give_terms(&mut config, partner_terms("vngtp.lab", terms));
    }
    let live = Arc::new(pki().live(config));
    let _partner = Partner::start(peer, shown, Rules::DIALBACK);
    let plan = Plan::with_live("vngtp.lab".parse().unwrap(), None, live, None).unwrap();
    let report = plan.run().await;
    let found = report.findings.iter().find(|one| one.check == "certificate").unwrap();
    assert!(found.detail.contains(says), "{report}");
    let remedy = found.remedy.as_deref().unwrap_or_default();
    assert!(remedy.contains(helps), "{report}");
    for other in helps_not {
        assert!(!remedy.contains(other), "{report}");
    }
}

const REQUIRED: &str = "tls: {requireCertificate: true}";
const PINNED: &str = "tls: {pinnedSha256: ['0000000000000000000000000000000000000000000000000000000000000000']}";

/// A certificate for authorities that a server shows as its own.
fn authority() -> Identity {
    pki().issue(&["vngtp.lab"], |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    })
}
