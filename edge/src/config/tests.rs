#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use super::fixture::{certificate, good, yaml};
use super::*;
use rstest::rstest;

fn load(folder: &fixture::Folder) -> Result<Live, String> {
    Loader::new(folder.path().join("edge.yaml"), 0)
        .load()
        .map_err(|error| error.to_string())
}

#[test]
fn a_good_configuration_is_loaded_with_all_its_files() {
    let folder = good();
    let live = load(&folder).unwrap();
    assert_eq!(live.config_hash, sha256_hex(yaml(folder.path()).as_bytes()));
    assert_eq!(live.router_secrets[0].expose(), b"router-secret");
    let domain = Domain::parse("coluc.com").unwrap();
    assert!(live.tls.server.is_some() && live.tls.client_for(&domain).is_some());
    assert_eq!(live.warnings, Vec::<String>::new());
    assert_eq!(live.files.len(), 4);
}

#[test]
fn dialback_secrets_are_told_apart_without_being_given_away() {
    let folder = good();
    folder.write("dialback", "s3cr3tf0rd14lb4ck");
    folder.write(
        "edge.yaml",
        &yaml(folder.path()).replace(
            "  sign:",
            &format!("  accept: [{}/router]\n  sign:", folder.path().display()),
        ),
    );
    let fingerprints = load(&folder).unwrap().dialback_fingerprints();
    // printf s3cr3tf0rd14lb4ck | sha256sum | xxd -r -p | sha256sum
    let once = digest(&SHA256, b"s3cr3tf0rd14lb4ck");
    assert_eq!(fingerprints[0], sha256_hex(once.as_ref())[..16]);
    assert_eq!(fingerprints.len(), 2);
    assert_ne!(fingerprints[0], fingerprints[1]);
}

#[rstest]
#[case(
    "domains:\n- coluc.com",
    "domains: [localhost]",
    "line 1: domains: \"localhost\" has a single label"
)]
#[case("mode: AllowList", "mode: off", "line 10: privacy.mode: unknown variant `off`")]
#[case("/tls.crt", "/absent.crt", "line 7: tls.certificates[0].certificateFile: ")]
#[case("/tls.crt", "/absent.crt", "there is no such file")]
#[case("/tls.key", "/other.key", "line 8: tls.certificates[0].privateKeyFile: ")]
#[case("/tls.key", "/other.key", "is not the key of the certificate")]
#[case("/dialback", "/empty", "line 4: dialback.sign: ")]
#[case("/router", "/empty", "line 15: routers[0].secretFile: ")]
#[case(
    "endpoints: []",
    "endpoints: []\nlog: {level: loud}",
    "line 17: log.level: \"loud\" is not a log level"
)]
fn what_cannot_be_used_is_named_by_line_field_and_remedy(#[case] from: &str, #[case] to: &str, #[case] says: &str) {
    let folder = good();
    folder.write("other.key", &certificate(&["coluc.com"]).1);
    folder.write("empty", "\n");
    folder.write("edge.yaml", &yaml(folder.path()).replacen(from, to, 1));
    let error = load(&folder).unwrap_err();
    assert!(error.contains(says), "{error}\nshould contain\n{says}");
    assert!(error.contains("edge.yaml"), "{error}");
}

#[test]
fn a_replica_without_a_component_id_is_told_so() {
    let folder = good();
    let error = Loader::new(folder.path().join("edge.yaml"), 3)
        .load()
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("line 14: routers[0].componentIds: has 1 entries"),
        "{error}"
    );
}

#[test]
fn what_works_but_will_trouble_is_a_warning() {
    let folder = good();
    folder.write("dialback", "short");
    let (chain, key) = certificate(&["other.example"]);
    folder.write("tls.crt", &chain);
    folder.write("tls.key", &key);
    let warnings = load(&folder).unwrap().warnings.join("\n");
    assert!(warnings.contains("has 5 bytes"), "{warnings}");
    assert!(warnings.contains("no certificate names coluc.com"), "{warnings}");
    assert!(!warnings.contains("short;"), "{warnings}");
}

#[test]
fn a_snapshot_shows_no_secret_in_debug() {
    let live = load(&good()).unwrap();
    let shown = format!("{live:?}");
    assert!(!shown.contains("0123456789abcdef"), "{shown}");
    assert!(!shown.contains("router-secret"), "{shown}");
}

/// An authority that names a certificate that must not count, and what the files then say.
fn revocation_list(next_year: i32) -> String {
    let mut params = rcgen::CertificateParams::default();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "some authority");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let authority = rcgen::CertifiedIssuer::self_signed(params, key).unwrap();
    let list = rcgen::CertificateRevocationListParams {
        this_update: rcgen::date_time_ymd(2024, 1, 1),
        next_update: rcgen::date_time_ymd(next_year, 1, 1),
        crl_number: 1_u64.into(),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: rcgen::KeyIdMethod::Sha256,
    };
    list.signed_by(&authority).unwrap().pem().unwrap()
}

#[test]
fn a_revocation_list_is_watched_and_warned_of_when_it_is_past_its_time() {
    let folder = good();
    let here = folder.path().display().to_string();
    let lists = format!("tls:\n  revocationLists: [{here}/crl.pem]\n");
    folder.write("edge.yaml", &yaml(folder.path()).replace("tls:\n", &lists));
    folder.write("crl.pem", &revocation_list(2099));
    let live = load(&folder).unwrap();
    assert_eq!(live.warnings, Vec::<String>::new());
    assert!(live.files.iter().any(|(path, _)| path.ends_with("crl.pem")));

    folder.write("crl.pem", &revocation_list(2025));
    let warnings = load(&folder).unwrap().warnings.join("\n");
    assert!(
        warnings.contains("some authority") && warnings.contains("2025-01-01"),
        "{warnings}"
    );

    folder.write("crl.pem", "no list");
    let error = load(&folder).unwrap_err();
    assert!(
        error.contains("line 6: tls.revocationLists[0]: ") && error.contains("crl.pem holds no PEM"),
        "{error}"
    );
}

#[test]
fn a_client_certificate_that_does_not_name_our_domains_is_warned_of() {
    let folder = good();
    let here = folder.path().display().to_string();
    let (chain, key) = certificate(&["elsewhere.example"]);
    folder.write("client.crt", &chain);
    folder.write("client.key", &key);
    let special = format!(
        "tls:\n  clientCertificate: {{certificateFile: {here}/client.crt, privateKeyFile: {here}/client.key}}\n"
    );
    folder.write("edge.yaml", &yaml(folder.path()).replace("tls:\n", &special));
    let warnings = load(&folder).unwrap().warnings;
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(
        warnings[0].contains("client.crt does not name coluc.com"),
        "{warnings:?}"
    );
}
