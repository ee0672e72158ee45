//! Certificates judged against domains, files read, and handshakes over memory.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::collections::HashMap;
use std::io;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair,
};
use rstest::rstest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

struct Authority(CertifiedIssuer<'static, KeyPair>);

struct Issued {
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

    fn issue(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Issued {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Issued {
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
    TlsSettings::load(&tls, &|field, path| {
        files.get(path.to_str().unwrap()).cloned().ok_or_else(|| {
            FieldError::new(
                field.to_owned(),
                io::Error::from(io::ErrorKind::NotFound).to_string(),
            )
        })
    })
}

const ONE: &str = "\
certificates: [{certificateFile: /c, privateKeyFile: /k}]
trustAnchors: {system: false, file: /ca}";

fn with(authority: &Authority, own: &Issued) -> TlsSettings {
    settings(
        ONE,
        &[
            ("/c", &own.chain),
            ("/k", &own.key),
            ("/ca", &authority.0.pem()),
        ],
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
    let verdict =
        with(&authority, &own).judge(&chain(&peer.chain), &Domain::parse("vngtp.lab").unwrap());
    assert_eq!(verdict == Verdict::Valid, valid, "{name}: {verdict:?}");
}

#[test]
fn a_verdict_names_the_check_that_failed() {
    let authority = Authority::new();
    let own = authority.issue(&["coluc.com"], |_| {});
    let settings = with(&authority, &own);
    let domain = Domain::parse("vngtp.lab").unwrap();
    let judge = |issued: &Issued| match settings.judge(&chain(&issued.chain), &domain) {
        Verdict::Invalid(reason) => reason,
        other => format!("{other:?}"),
    };

    assert_eq!(settings.judge(&[], &domain), Verdict::Missing);
    let wrong_name = judge(&authority.issue(&["other.example"], |_| {}));
    assert!(
        wrong_name.contains("do not cover vngtp.lab; it names other.example"),
        "{wrong_name}"
    );
    let stranger = judge(&Authority::named("stranger").issue(&["vngtp.lab"], |_| {}));
    assert!(stranger.contains("no trusted authority"), "{stranger}");
    let namesake = judge(&Authority::new().issue(&["vngtp.lab"], |_| {}));
    assert!(
        namesake.contains("not signed by the authority"),
        "{namesake}"
    );
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
        params
            .distinguished_name
            .push(DnType::CommonName, "vngtp.lab");
    }));
    assert!(
        common_name_only.contains("it names no domain"),
        "{common_name_only}"
    );
    let garbage = settings.judge(&[CertificateDer::from(vec![0x30, 3, 1, 2, 3])], &domain);
    assert!(matches!(garbage, Verdict::Invalid(_)), "{garbage:?}");
    assert_eq!(judge(&authority.issue(&["vngtp.lab"], |_| {})), "Valid");
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

/// A handshake over memory; both sides' sight of the other's chain, and the server's leaf.
async fn handshake(
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    name: &str,
) -> io::Result<(
    Option<Vec<CertificateDer<'static>>>,
    Vec<CertificateDer<'static>>,
)> {
    let (near, far) = tokio::io::duplex(16 * 1024);
    let domain = Domain::parse(name).unwrap();
    let connect =
        tokio_rustls::TlsConnector::from(client).connect(server_name(&domain).unwrap(), near);
    let accept = tokio_rustls::TlsAcceptor::from(server).accept(far);
    let (client, server) = tokio::join!(connect, accept);
    let (mut client, mut server) = (client?, server?);
    client.write_all(b"x").await?;
    client.flush().await?;
    assert_eq!(server.read_u8().await?, b'x');
    let seen = server.get_ref().1.peer_certificates().map(<[_]>::to_vec);
    Ok((
        seen,
        client
            .get_ref()
            .1
            .peer_certificates()
            .unwrap_or_default()
            .to_vec(),
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
    let (server, client) = (
        settings.server.clone().unwrap(),
        settings.client.clone().unwrap(),
    );
    for (asked, shown) in [
        ("coluc.com", &first),
        ("conf.coluc.com", &second),
        ("elsewhere.example", &first),
    ] {
        let (of_client, of_server) = handshake(server.clone(), client.clone(), asked)
            .await
            .unwrap();
        assert_eq!(of_server, chain(&shown.chain), "{asked}");
        assert_eq!(
            of_client.unwrap(),
            chain(&first.chain),
            "the client's certificate is seen"
        );
    }
    assert_eq!(
        settings.leaf_sha256.unwrap(),
        sha256_hex(&chain(&first.chain)[0])
    );
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
async fn a_certificate_without_its_key_fails_the_handshake(
    #[case] version: &'static SupportedProtocolVersion,
) {
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
    let as_server = handshake(
        Arc::new(server),
        settings.client.clone().unwrap(),
        "vngtp.lab",
    )
    .await;
    assert!(as_server.unwrap_err().to_string().contains("BadSignature"));

    let client = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(SignatureOnly(
            provider.signature_verification_algorithms,
        )))
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
        &[
            ("/c", &own.chain),
            ("/k", &own.key),
            ("/ca", &authority.0.pem()),
        ],
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

fn client_config_of(
    settings: &TlsSettings,
    version: &'static SupportedProtocolVersion,
) -> Arc<ClientConfig> {
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
