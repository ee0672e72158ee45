//! Which certificates count, which of ours is shown, and what is remembered of a handshake.

use std::sync::{Arc, Mutex};

use rcgen::{CustomExtension, OtherNameValue, SanType};
use rustls::pki_types::CertificateDer;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, SignatureScheme, SupportedProtocolVersion};
use xmpp_federation_core::edge_config::{CertificateFiles, EdgeConfig, TlsMode};

use super::world::World;
use crate::support::pki::{Identity, Watching, certified, client, pki, server, server_asking};
use crate::support::{AUTH, Lab, PLAIN_DIALBACK, PROCEED, Speaker, features, give_terms, header, pin};

const EXTERNAL: &str = "<mechanism>EXTERNAL</mechanism>";
const MESSAGE: &str = "<message from='alice@coluc.com' to='bob@vngtp.lab' id='m1'><body>hi</body></message>";

/// Opens a stream to the edge up to TLS.
async fn begin(lab: &Lab, to: &str) -> Speaker {
    let mut speaker = Speaker::connect(lab.s2s).await;
    speaker.open(&header("vngtp.lab", to, "")).await;
    speaker.starttls().await;
    speaker
}

/// Opens a stream that shows this; gives the features behind TLS.
async fn open(lab: &Lab, shows: &Identity) -> Option<(Speaker, String)> {
    let mut speaker = begin(lab, "coluc.com").await;
    speaker.tls_client(client(Some(shows)), "coluc.com").await.ok()?;
    speaker
        .try_say(header("vngtp.lab", "coluc.com", "").as_bytes())
        .await
        .ok()?;
    let features = speaker.hear_any(&["</stream:features>"]).await?;
    Some((speaker, features))
}

fn verdict(lab: &Lab) -> String {
    let streams = lab.edge.registry.streams(None);
    streams.last().unwrap().detail.certificate.clone().unwrap()
}

#[tokio::test]
async fn other_names_count_for_nothing_beside_a_dns_name() {
    let world = World::with_files(|_| {}, &[]).await;
    let other = |kind: u64, text: &str| {
        let oid = vec![1, 3, 6, 1, 5, 5, 7, 8, kind];
        SanType::OtherName((oid, OtherNameValue::Utf8String(text.to_owned())))
    };
    for (named, others, counts) in [
        ("vngtp.lab", vec![], true),
        ("vngtp.lab", vec![other(5, "vngtp.lab")], true),
        ("corp.example", vec![other(5, "vngtp.lab")], false),
        ("corp.example", vec![other(7, "_xmpp-server.vngtp.lab")], false),
    ] {
        let identity = pki().issue(&[named], |params| {
            params.subject_alt_names.extend(others.clone());
        });
        let (_speaker, features) = open(&world.lab, &identity).await.unwrap();
        let verdict = verdict(&world.lab);
        assert_eq!(features.contains(EXTERNAL), counts, "{named} {others:?}: {verdict}");
        assert_eq!(verdict.contains("SRVName or xmppAddr"), !counts, "{verdict}");
    }
}

#[tokio::test]
async fn a_pin_that_goes_during_the_restart_is_no_proof_any_more() {
    let identity = Identity::self_signed(&["vngtp.lab"]);
    let pinned = |config: &mut EdgeConfig| give_terms(config, pin(&identity.sha256()));
    let world = World::with_files(pinned, &[]).await;
    let (mut speaker, features) = open(&world.lab, &identity).await.unwrap();
    assert!(features.contains(EXTERNAL), "{}", verdict(&world.lab));
    speaker.say(AUTH).await;
    speaker
        .hear("<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>")
        .await;
    let mut config = world.config.clone();
    give_terms(&mut config, pin(&"00".repeat(32)));
    world.lab.live.send(Arc::new(pki().live(config))).unwrap();
    speaker.say(&header("vngtp.lab", "coluc.com", "")).await;
    assert_eq!(speaker.condition().await, "policy-violation");
    world
        .lab
        .counts("authenticated_streams{direction=\"inbound\",mechanism=\"external\"}", 0);
}

#[tokio::test]
async fn after_a_failed_handshake_a_later_attempt_says_nothing_in_clear() {
    let world = World::with_files(|config| config.tls.mode = TlsMode::Optional, &[]).await;
    world.link.say(MESSAGE);
    let mut first = world.peer.accept_starttls().await;
    first.say(PROCEED).await;
    drop(first);
    // The next attempt, with STARTTLS stripped.
    let mut second = world.peer.accept_tcp().await;
    second.hear("version='1.0'>").await;
    second.say(&header("vngtp.lab", "coluc.com", "clear")).await;
    second.say(&features(PLAIN_DIALBACK)).await;
    let said = second.hear_end().await;
    assert!(!said.contains("db:result"), "{said}");
    let failures = format!("{:?}", world.lab.edge.registry.failures(None));
    assert!(failures.contains("the edge sends nothing to it in clear"), "{failures}");
}

#[tokio::test]
async fn a_chain_is_taken_up_to_16_kb() {
    let with = |bytes: usize| {
        let leaf = pki().issue(&["vngtp.lab"], |_| {}).chain[0].len();
        pki().issue(&["vngtp.lab"], |made| {
            let filling = vec![0; bytes - leaf - 30];
            made.custom_extensions
                .push(CustomExtension::from_oid_content(&[1, 2, 3, 4], filling));
        })
    };
    for (bytes, taken) in [(16_200, true), (17_000, false)] {
        let identity = with(bytes);
        let length = identity.chain[0].len();
        let world = World::with_files(|_| {}, &[]).await;
        let opened = open(&world.lab, &identity).await;
        assert_eq!(opened.is_some(), taken, "{length}");
        world.link.say(MESSAGE);
        let mut speaker = world.peer.accept_starttls().await;
        speaker.say(PROCEED).await;
        let up = speaker.tls_server(server(&identity)).await.is_ok();
        let goes_on = up && speaker.hear_any(&["version='1.0'>"]).await.is_some();
        assert_eq!(goes_on, taken, "{length}");
        if !taken {
            let failures = format!("{:?}", world.lab.edge.registry.failures(None));
            assert!(failures.contains("more than the 16384"), "{failures}");
        }
    }
}

const ECDSA_ONLY: [SignatureScheme; 2] = [
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
];
const RSA_ONLY: [SignatureScheme; 3] = [
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PSS_SHA384,
    SignatureScheme::RSA_PKCS1_SHA256,
];

fn watching(schemes: &[SignatureScheme], version: &'static SupportedProtocolVersion) -> (Arc<Watching>, ClientConfig) {
    let watching = Arc::new(Watching {
        schemes: schemes.to_vec(),
        leaf: Mutex::new(None),
    });
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(watching.clone())
        .with_no_client_auth();
    (watching, config)
}

fn named(certificate: &str, key: &str) -> CertificateFiles {
    CertificateFiles {
        certificate_file: certificate.into(),
        private_key_file: key.into(),
    }
}

fn seen(watching: &Watching) -> Option<CertificateDer<'static>> {
    watching.leaf.lock().unwrap().take()
}

#[tokio::test]
async fn of_several_certificates_for_a_domain_the_peer_gets_one_that_it_can_verify() {
    let elliptic = pki().issue(&["coluc.com", "conf.coluc.com"], |_| {});
    let rsa = pki().issue_rsa(&["coluc.com", "conf.coluc.com"]);
    let files = [
        ("/ec", &*elliptic.chain_pem),
        ("/ec-key", &*elliptic.key_pem),
        ("/rsa", &*rsa.chain_pem),
        ("/rsa-key", &*rsa.key_pem),
    ];
    let peers = pki().issue(&["vngtp.lab"], |_| {});
    for order in [["/ec", "/rsa"], ["/rsa", "/ec"]] {
        let two = |config: &mut EdgeConfig| {
            let files = order.map(|name| named(name, &format!("{name}-key")));
            config.tls.certificates = files.to_vec();
        };
        let first = if order[0] == "/ec" { &elliptic } else { &rsa };
        let all = [&ECDSA_ONLY[..], &RSA_ONLY[..]].concat();
        for (schemes, expected) in [(&ECDSA_ONLY[..], &elliptic), (&RSA_ONLY[..], &rsa), (&all, first)] {
            for version in [&TLS12, &TLS13] {
                let case = format!("{order:?} {schemes:?} {version:?}");
                let world = World::with_files(two, &files).await;
                let (watching, config) = watching(schemes, version);
                let mut speaker = begin(&world.lab, "coluc.com").await;
                speaker.tls_client(Arc::new(config), "coluc.com").await.unwrap();
                assert_eq!(seen(&watching).as_ref(), expected.chain.first(), "{case}");
                // Where the edge connects.
                world.link.say(MESSAGE);
                let mut speaker = world.peer.accept_starttls().await;
                speaker.say(PROCEED).await;
                let asking = server_asking(certified(&peers), schemes.to_vec(), &[version]);
                let (_, chain) = speaker.tls_server(asking).await.unwrap();
                assert_eq!(chain.first(), expected.chain.first(), "outbound, {case}");
            }
        }
    }
}

#[tokio::test]
async fn without_sni_the_header_says_whose_certificate_is_shown() {
    let (first, second) = (
        pki().issue(&["coluc.com"], |_| {}),
        pki().issue(&["conf.coluc.com"], |_| {}),
    );
    let files = [
        ("/1", &*first.chain_pem),
        ("/1-key", &*first.key_pem),
        ("/2", &*second.chain_pem),
        ("/2-key", &*second.key_pem),
    ];
    let two = |config: &mut EdgeConfig| {
        config.tls.certificates = vec![named("/1", "/1-key"), named("/2", "/2-key")];
    };
    let world = World::with_files(two, &files).await;
    for (to, sni, expected) in [
        ("coluc.com", None, &first),
        ("conf.coluc.com", None, &second),
        ("conf.coluc.com", Some("coluc.com"), &first),
        // The target of an SRV record, as some peers ask.
        ("conf.coluc.com", Some("xmpp.coluc.com"), &second),
        ("coluc.com", Some("xmpp.coluc.com"), &first),
    ] {
        for version in [&TLS12, &TLS13] {
            let (watching, mut config) = watching(&ECDSA_ONLY, version);
            config.enable_sni = sni.is_some();
            let mut speaker = begin(&world.lab, to).await;
            let name = sni.unwrap_or("nobody.example");
            speaker.tls_client(Arc::new(config), name).await.unwrap();
            assert_eq!(seen(&watching).as_ref(), expected.chain.first(), "{to} {sni:?}");
        }
    }
}
