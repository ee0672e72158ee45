//! Certificates judged against domains, files read, and handshakes over memory.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::collections::HashMap;
use std::io;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rstest::rstest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use rustls::SignatureScheme;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};

impl TlsSettings {
    fn judge_proven(&self, chain: &[CertificateDer<'static>], domain: &Domain, pins: &[Fingerprint]) -> Verdict {
        let proven = true;
        self.judge(PeerCertificates { chain, proven }, domain, pins)
    }
}

struct Authority(CertifiedIssuer<'static, KeyPair>);

struct TestCertificate {
    chain: String,
    key: String,
}

impl Authority {
    fn new() -> Self {
        Self::named("test authority")
    }

    fn named(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn issue(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> TestCertificate {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        TestCertificate {
            chain: certificate.pem(),
            key: key.serialize_pem(),
        }
    }
}

fn settings(yaml: &str, files: &[(&str, &str)]) -> Result<TlsSettings, FieldError> {
    let files: HashMap<String, Vec<u8>> = files
        .iter()
        .map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec()))
        .collect();
    let tls: Tls = serde_yaml::from_str(yaml).unwrap();
    TlsSettings::load(&tls, true, &|field, path| {
        files
            .get(path.to_str().unwrap())
            .cloned()
            .ok_or_else(|| FieldError::new(field.to_owned(), io::Error::from(io::ErrorKind::NotFound).to_string()))
    })
}

const ONE: &str = "\
certificates: [{certificateFile: /c, privateKeyFile: /k}]
trustAnchors: {system: false, file: /ca}";

fn with(authority: &Authority, own: &TestCertificate) -> TlsSettings {
    settings(
        ONE,
        &[("/c", &own.chain), ("/k", &own.key), ("/ca", &authority.0.pem())],
    )
    .unwrap()
}

fn chain(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .map(Result::unwrap)
        .collect()
}

#[rstest]
#[case("absent", &[], true)]
#[case("server", &[ExtendedKeyUsagePurpose::ServerAuth], true)]
#[case("client", &[ExtendedKeyUsagePurpose::ClientAuth], true)]
#[case("any", &[ExtendedKeyUsagePurpose::Any], true)]
#[case("mail", &[ExtendedKeyUsagePurpose::EmailProtection], false)]
#[case("mail and server", &[ExtendedKeyUsagePurpose::EmailProtection, ExtendedKeyUsagePurpose::ServerAuth], true)]
fn the_same_usages_count_in_both_directions(
    #[case] name: &str,
    #[case] usages: &[ExtendedKeyUsagePurpose],
    #[case] valid: bool,
) {
    let authority = Authority::new();
    let own = authority.issue(&["coluc.com"], |_| {});
    let peer = authority.issue(&["vngtp.lab"], |params| {
        params.extended_key_usages = usages.to_vec();
    });
    let verdict = with(&authority, &own).judge_proven(&chain(&peer.chain), &Domain::parse("vngtp.lab").unwrap(), &[]);
    assert_eq!(verdict == Verdict::Valid, valid, "{name}: {verdict:?}");
}

#[test]
fn a_verdict_names_the_check_that_failed() {
    let authority = Authority::new();
    let own = authority.issue(&["coluc.com"], |_| {});
    let settings = with(&authority, &own);
    let domain = Domain::parse("vngtp.lab").unwrap();
    let judge = |issued: &TestCertificate| match settings.judge_proven(&chain(&issued.chain), &domain, &[]) {
        Verdict::Invalid(reason) => reason,
        other => other.reason().map_or_else(|| format!("{other:?}"), str::to_owned),
    };

    assert_eq!(settings.judge_proven(&[], &domain, &[]), Verdict::Missing);
    let wrong_name = judge(&authority.issue(&["other.example"], |_| {}));
    assert!(
        wrong_name.contains("do not cover vngtp.lab; it names other.example"),
        "{wrong_name}"
    );
    let stranger = judge(&Authority::named("stranger").issue(&["vngtp.lab"], |_| {}));
    assert!(stranger.contains("no trusted authority"), "{stranger}");
    let namesake = judge(&Authority::new().issue(&["vngtp.lab"], |_| {}));
    assert!(namesake.contains("not signed by the authority"), "{namesake}");
    let expired = judge(&authority.issue(&["vngtp.lab"], |params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    }));
    assert!(expired.contains("expired 2021-01-01"), "{expired}");
    let early = judge(&authority.issue(&["vngtp.lab"], |params| {
        params.not_before = rcgen::date_time_ymd(2050, 1, 1);
        params.not_after = rcgen::date_time_ymd(2051, 1, 1);
    }));
    assert!(early.contains("not valid before 2050-01-01"), "{early}");
    let common_name_only = judge(&authority.issue(&[], |params| {
        params.distinguished_name.push(DnType::CommonName, "vngtp.lab");
    }));
    assert!(common_name_only.contains("it names no domain"), "{common_name_only}");
    let garbage = settings.judge_proven(&[CertificateDer::from(vec![0x30, 3, 1, 2, 3])], &domain, &[]);
    assert!(matches!(garbage, Verdict::Invalid(_)), "{garbage:?}");
    assert_eq!(judge(&authority.issue(&["vngtp.lab"], |_| {})), "Valid");
}

#[test]
fn an_authority_that_shows_its_own_certificate_can_only_be_pinned() {
    let mut params = CertificateParams::new(vec!["vngtp.lab".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let itself = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let itself = Authority(itself);
    let own = itself.issue(&["coluc.com"], |_| {});
    let settings = with(&itself, &own);
    let shown = chain(&itself.0.pem());
    let domain = Domain::parse("vngtp.lab").unwrap();
    let verdict = settings.judge_proven(&shown, &domain, &[]);
    let reason = verdict.reason().unwrap();
    for says in ["CA:true", "can only be pinned", "pinnedSha256"] {
        assert!(reason.contains(says), "{reason}");
    }
    let pin = [Fingerprint::of(&shown[0])];
    assert_eq!(settings.judge_proven(&shown, &domain, &pin), Verdict::Valid);
}

#[test]
fn a_certificate_whose_key_was_not_proven_counts_for_nothing() {
    let authority = Authority::new();
    let settings = with(&authority, &authority.issue(&["coluc.com"], |_| {}));
    let chain = chain(&authority.issue(&["vngtp.lab"], |_| {}).chain);
    let domain = Domain::parse("vngtp.lab").unwrap();
    for pins in [vec![], vec![Fingerprint::of(&chain[0])]] {
        for proven in [true, false] {
            let chain = &chain;
            let verdict = settings.judge(PeerCertificates { chain, proven }, &domain, &pins);
            assert_eq!(verdict == Verdict::Valid, proven, "{verdict:?}");
        }
    }
}

#[test]
fn a_chain_that_peers_refuse_is_loaded_with_a_warning() {
    let (authority, other) = (Authority::new(), Authority::named("another"));
    let own = authority.issue(&["coluc.com"], |_| {});
    let warnings = |chain: String, ca: &Authority| {
        let loaded = settings(ONE, &[("/c", &chain), ("/k", &own.key), ("/ca", &ca.0.pem())]).unwrap();
        loaded.warnings.join("\n")
    };
    assert_eq!(warnings(own.chain.clone(), &authority), "");
    assert_eq!(warnings(own.chain.clone() + &authority.0.pem(), &other), "");
    for chain in [own.chain.clone(), own.chain.clone() + &other.0.pem()] {
        let said = warnings(chain, &other);
        let words = "the certificate in /c is refused by peers that check it: certificate";
        assert!(said.starts_with(words) && said.contains("CN=test authority"), "{said}");
    }
}

#[test]
fn files_that_do_not_fit_are_refused_by_field_and_without_their_contents() {
    let authority = Authority::new();
    let own = authority.issue(&["coluc.com"], |_| {});
    let other = authority.issue(&["coluc.com"], |_| {});
    let ca = authority.0.pem();
    let error = |c: &str, k: &str, ca: &str| {
        let error = settings(ONE, &[("/c", c), ("/k", k), ("/ca", ca)]).unwrap_err();
        assert!(!error.message.contains("BEGIN PRIVATE"), "{error:?}");
        format!("{}: {}", error.field, error.message)
    };
    let mismatch = error(&own.chain, &other.key, &ca);
    assert!(
        mismatch.starts_with("tls.certificates[0].privateKeyFile: /k is not the key of"),
        "{mismatch}"
    );
    let no_key = error(&own.chain, &own.chain, &ca);
    assert!(no_key.contains("holds no PEM private key"), "{no_key}");
    let no_chain = error(&own.key, &own.key, &ca);
    assert!(
        no_chain.starts_with("tls.certificates[0].certificateFile: /c holds no PEM"),
        "{no_chain}"
    );
    let no_anchor = error(&own.chain, &own.key, "# empty");
    assert!(
        no_anchor.starts_with("tls.trustAnchors.file: /ca holds no PEM"),
        "{no_anchor}"
    );
    let error = settings(ONE, &[("/c", &own.chain)]).unwrap_err();
    assert_eq!(error.field, "tls.trustAnchors.file");
}

fn client(settings: &TlsSettings, local: &str) -> Arc<ClientConfig> {
    let client = settings.client_for(&Domain::parse(local).unwrap());
    client.unwrap().config.clone()
}

/// A handshake over memory; both sides' sight of the other's chain, and the server's leaf.
async fn handshake(
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    name: &str,
) -> io::Result<(Option<Vec<CertificateDer<'static>>>, Vec<CertificateDer<'static>>)> {
    let (near, far) = tokio::io::duplex(16 * 1024);
    let domain = Domain::parse(name).unwrap();
    let connect = tokio_rustls::TlsConnector::from(client).connect(server_name(&domain).unwrap(), near);
    let accept = tokio_rustls::TlsAcceptor::from(server).accept(far);
    let (client, server) = tokio::join!(connect, accept);
    let (mut client, mut server) = (client?, server?);
    client.write_all(b"x").await?;
    client.flush().await?;
    assert_eq!(server.read_u8().await?, b'x');
    let seen = server.get_ref().1.peer_certificates().map(<[_]>::to_vec);
    Ok((
        seen,
        client.get_ref().1.peer_certificates().unwrap_or_default().to_vec(),
    ))
}

#[tokio::test]
async fn sni_chooses_the_certificate_and_both_chains_are_seen() {
    let authority = Authority::new();
    let first = authority.issue(&["coluc.com"], |_| {});
    let second = authority.issue(&["*.coluc.com"], |_| {});
    let settings = settings(
        "\
certificates: [{certificateFile: /c, privateKeyFile: /k}, {certificateFile: /c2, privateKeyFile: /k2}]
trustAnchors: {system: false, file: /ca}",
        &[
            ("/c", &first.chain),
            ("/k", &first.key),
            ("/c2", &second.chain),
            ("/k2", &second.key),
            ("/ca", &authority.0.pem()),
        ],
    )
    .unwrap();
    let (server, client) = (settings.server.clone().unwrap(), client(&settings, "coluc.com"));
    for (asked, shown) in [
        ("coluc.com", &first),
        ("conf.coluc.com", &second),
        ("elsewhere.example", &first),
    ] {
        let (of_client, of_server) = handshake(server.clone(), client.clone(), asked).await.unwrap();
        assert_eq!(of_server, chain(&shown.chain), "{asked}");
        assert_eq!(
            of_client.unwrap(),
            chain(&first.chain),
            "the client's certificate is seen"
        );
    }
    assert_eq!(settings.leaf_sha256.unwrap(), sha256_hex(&chain(&first.chain)[0]));
}

/// A signer that shows somebody else's certificate.
#[derive(Debug)]
struct Thief(Arc<CertifiedKey>);

impl ResolvesServerCert for Thief {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

impl rustls::client::ResolvesClientCert for Thief {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
    fn has_certs(&self) -> bool {
        true
    }
}

#[rstest]
#[case(&rustls::version::TLS13)]
#[case(&rustls::version::TLS12)]
#[tokio::test]
async fn a_certificate_without_its_key_fails_the_handshake(#[case] version: &'static SupportedProtocolVersion) {
    let authority = Authority::new();
    let own = authority.issue(&["coluc.com"], |_| {});
    let victim = authority.issue(&["vngtp.lab"], |_| {});
    let settings = with(&authority, &own);
    let provider = settings.trust.provider.clone();
    let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
    let key = provider.key_provider.load_private_key(key).unwrap();
    let stolen = Arc::new(CertifiedKey::new(chain(&victim.chain), key));

    let server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Thief(stolen.clone())));
    let as_server = handshake(Arc::new(server), client(&settings, "coluc.com"), "vngtp.lab").await;
    assert!(as_server.unwrap_err().to_string().contains("BadSignature"));

    let client = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(SignatureOnly(provider.signature_verification_algorithms)))
        .with_client_cert_resolver(Arc::new(Thief(stolen)));
    assert!(
        handshake(settings.server.unwrap(), Arc::new(client), "coluc.com")
            .await
            .is_err()
    );
}

#[tokio::test]
async fn the_minimum_version_is_kept() {
    let authority = Authority::new();
    let own = authority.issue(&["coluc.com"], |_| {});
    let strict = settings(
        &format!("{ONE}\nminVersion: VersionTLS13"),
        &[("/c", &own.chain), ("/k", &own.key), ("/ca", &authority.0.pem())],
    )
    .unwrap();
    let old = client_config_of(&strict, &rustls::version::TLS12);
    assert!(
        handshake(strict.server.clone().unwrap(), old, "coluc.com")
            .await
            .is_err()
    );
    let old = client_config_of(&strict, &rustls::version::TLS12);
    assert!(
        handshake(with(&authority, &own).server.unwrap(), old, "coluc.com")
            .await
            .is_ok()
    );
}

fn client_config_of(settings: &TlsSettings, version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
    let provider = settings.trust.provider.clone();
    let verifier = SignatureOnly(provider.signature_verification_algorithms);
    Arc::new(
        ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth(),
    )
}

#[test]
fn a_pinned_certificate_counts_and_no_other_whatever_its_chain() {
    let authority = Authority::new();
    let own = authority.issue(&["coluc.com"], |_| {});
    let settings = with(&authority, &own);
    let domain = Domain::parse("vngtp.lab").unwrap();
    let pinned = Authority::named("stranger").issue(&["other.example"], |_| {});
    let valid = authority.issue(&["vngtp.lab"], |_| {});
    let pins = [Fingerprint::of(&chain(&pinned.chain)[0])];
    let judge = |issued: &TestCertificate| settings.judge_proven(&chain(&issued.chain), &domain, &pins);
    assert_eq!(judge(&pinned), Verdict::Valid);
    let other = judge(&valid);
    assert!(
        other.reason().unwrap().contains("not one that is pinned for vngtp.lab"),
        "{other:?}"
    );
    assert_eq!(settings.judge_proven(&[], &domain, &pins), Verdict::Missing);
}

/// A revocation list of this authority that names these serial numbers.
fn list(authority: &Authority, serials: &[u64], issued: i32, next: i32) -> String {
    let revoked = serials.iter().map(|serial| rcgen::RevokedCertParams {
        serial_number: (*serial).into(),
        revocation_time: rcgen::date_time_ymd(2024, 1, 1),
        reason_code: None,
        invalidity_date: None,
    });
    let list = rcgen::CertificateRevocationListParams {
        this_update: rcgen::date_time_ymd(issued, 1, 1),
        next_update: rcgen::date_time_ymd(next, 1, 1),
        crl_number: 1_u64.into(),
        issuing_distribution_point: None,
        revoked_certs: revoked.collect(),
        key_identifier_method: rcgen::KeyIdMethod::Sha256,
    };
    list.signed_by(&authority.0).unwrap().pem().unwrap()
}

fn with_lists(authority: &Authority, files: &[&str]) -> Result<TlsSettings, FieldError> {
    let own = authority.issue(&["coluc.com"], |_| {});
    let ca = authority.0.pem();
    let names: Vec<String> = (0..files.len()).map(|n| format!("/crl{n}")).collect();
    let yaml = format!("{ONE}\nrevocationLists: [{}]", names.join(", "));
    let mut all = vec![("/c", &*own.chain), ("/k", &*own.key), ("/ca", &*ca)];
    all.extend(names.iter().map(String::as_str).zip(files.iter().copied()));
    settings(&yaml, &all)
}

#[rstest]
#[case::named(&[7], 2024, 2099, true)]
#[case::named_by_a_list_past_its_time(&[7], 2024, 2025, true)]
#[case::others_named(&[8, 9], 2024, 2099, false)]
#[case::nobody_named(&[], 2024, 2099, false)]
fn what_its_authority_revoked_proves_nothing(
    #[case] serials: &[u64],
    #[case] issued: i32,
    #[case] next: i32,
    #[case] revoked: bool,
) {
    let authority = Authority::new();
    let peer = authority.issue(&["vngtp.lab"], |params| {
        params.serial_number = Some(7_u64.into());
    });
    let settings = with_lists(&authority, &[&list(&authority, serials, issued, next)]).unwrap();
    let domain = Domain::parse("vngtp.lab").unwrap();
    let verdict = settings.judge_proven(&chain(&peer.chain), &domain, &[]);
    if revoked {
        assert!(verdict.reason().unwrap().contains("was revoked"), "{verdict:?}");
    } else {
        assert_eq!(verdict, Verdict::Valid);
    }
    let stale = settings.warnings.join("\n");
    assert_eq!(
        stale.contains("was to be replaced by 2025-01-01"),
        next == 2025,
        "{stale}"
    );
}

#[test]
fn the_latest_list_of_an_authority_counts_and_one_of_another_says_nothing() {
    let (authority, other) = (Authority::new(), Authority::named("other authority"));
    let peer = authority.issue(&["vngtp.lab"], |params| {
        params.serial_number = Some(7_u64.into());
    });
    let domain = Domain::parse("vngtp.lab").unwrap();
    let (old, new) = (list(&authority, &[], 2023, 2099), list(&authority, &[7], 2024, 2099));
    let elsewhere = list(&other, &[7], 2025, 2099);
    // Both in one file, or each in its own, in any order.
    for files in [vec![format!("{old}{new}")], vec![elsewhere.clone(), new, old]] {
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        let settings = with_lists(&authority, &files).unwrap();
        let verdict = settings.judge_proven(&chain(&peer.chain), &domain, &[]);
        assert!(matches!(verdict, Verdict::Invalid(_)), "{verdict:?}");
    }
    let settings = with_lists(&authority, &[&elsewhere]).unwrap();
    let verdict = settings.judge_proven(&chain(&peer.chain), &domain, &[]);
    assert_eq!(verdict, Verdict::Valid);
}

#[rstest]
#[case("# nothing", "holds no PEM revocation list")]
#[case(
    "-----BEGIN X509 CRL-----\nMAMCAQE=\n-----END X509 CRL-----\n",
    "holds an unusable revocation list"
)]
#[case(
    "-----BEGIN X509 CRL-----\n****\n-----END X509 CRL-----\n",
    "holds an unusable revocation list"
)]
fn a_revocation_list_that_cannot_be_read_is_named_by_file_and_field(#[case] text: &str, #[case] says: &str) {
    let authority = Authority::new();
    let good = list(&authority, &[], 2024, 2099);
    let error = with_lists(&authority, &[&good, text]).unwrap_err();
    assert_eq!(error.field, "tls.revocationLists[1]");
    assert!(error.message.starts_with("/crl1 "), "{error:?}");
    assert!(error.message.contains(says), "{error:?}");
}

#[test]
fn a_forged_revocation_list_is_not_taken_for_the_authoritys() {
    let authority = Authority::new();
    let peer = authority.issue(&["vngtp.lab"], |_| {});
    // Same name, another key.
    let forged = list(&Authority::new(), &[], 2024, 2099);
    let settings = with_lists(&authority, &[&forged]).unwrap();
    let domain = Domain::parse("vngtp.lab").unwrap();
    let verdict = settings.judge_proven(&chain(&peer.chain), &domain, &[]);
    assert!(
        verdict.reason().unwrap().contains("is not signed by that authority"),
        "{verdict:?}"
    );
}

#[tokio::test]
async fn the_client_certificate_is_the_special_one_else_the_one_that_covers_the_sender() {
    let authority = Authority::new();
    let first = authority.issue(&["coluc.com"], |_| {});
    let second = authority.issue(&["conf.coluc.com"], |_| {});
    let special = authority.issue(&["coluc.com", "conf.coluc.com"], |_| {});
    let ca = authority.0.pem();
    let files = [
        ("/c", &*first.chain),
        ("/k", &*first.key),
        ("/c2", &*second.chain),
        ("/k2", &*second.key),
        ("/c3", &*special.chain),
        ("/k3", &*special.key),
        ("/ca", &*ca),
    ];
    let two = "certificates: [{certificateFile: /c, privateKeyFile: /k}, {certificateFile: /c2, privateKeyFile: /k2}]
trustAnchors: {system: false, file: /ca}";
    let general = settings(two, &files).unwrap();
    let with_special = format!("{two}\nclientCertificate: {{certificateFile: /c3, privateKeyFile: /k3}}");
    let with_special = settings(&with_special, &files).unwrap();
    for (settings, local, shown, proves) in [
        (&general, "coluc.com", &first, true),
        (&general, "conf.coluc.com", &second, true),
        (&general, "other.example", &first, false),
        (&with_special, "coluc.com", &special, true),
        (&with_special, "conf.coluc.com", &special, true),
        (&with_special, "other.example", &special, false),
    ] {
        let domain = Domain::parse(local).unwrap();
        let client = settings.client_for(&domain).unwrap();
        assert_eq!(client.proves(&domain), proves, "{local}");
        let server = settings.server.clone().unwrap();
        let (seen, _) = handshake(server, client.config.clone(), "coluc.com").await.unwrap();
        assert_eq!(seen.unwrap(), chain(&shown.chain), "{local}");
    }
    assert_eq!(with_special.certificates.len(), 2);
    assert!(with_special.client_certificate.is_some());
}

#[test]
fn where_tls_is_not_spoken_no_certificate_is_read() {
    let tls: Tls = serde_yaml::from_str("mode: Disabled\ntrustAnchors: {system: false}").unwrap();
    let settings = TlsSettings::load(&tls, false, &|_, _| panic!("nothing is to be read")).unwrap();
    assert!(settings.server.is_none());
    assert!(settings.client_for(&Domain::parse("coluc.com").unwrap()).is_none());
}

#[test]
fn a_verdict_is_no_longer_than_a_line_whatever_the_certificate_holds() {
    let authority = Authority::new();
    let own = authority.issue(&["coluc.com"], |_| {});
    let huge = authority.issue(&["vngtp.lab"], |params| {
        let mut extension = rcgen::CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![0x41; 40_000]);
        extension.set_criticality(true);
        params.custom_extensions.push(extension);
        params.extended_key_usages = (0..2000)
            .map(|n| ExtendedKeyUsagePurpose::Other(vec![1, 3, 6, 1, 4, 1, 99_999, n]))
            .collect();
    });
    let domain = Domain::parse("vngtp.lab").unwrap();
    for certificate in [chain(&huge.chain), vec![CertificateDer::from(vec![0x30; 60_000])]] {
        let verdict = with(&authority, &own).judge_proven(&certificate, &domain, &[]);
        let reason = verdict.reason().unwrap();
        assert!(reason.len() < 400, "{} bytes", reason.len());
    }
}
