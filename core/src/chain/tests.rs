#![allow(clippy::unwrap_used, clippy::too_many_lines, reason = "tests")]

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rstest::rstest;

use super::*;
use FaultKind::{Chain, Ended, Key, Names, NotYetValid, Unfit};

type Authority = CertifiedIssuer<'static, KeyPair>;
type Change = fn(&mut CertificateParams);

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn now() -> Timestamp {
    at("2026-12-01T00:00:00Z")
}

/// From the first of a month to that of another, both counted from the present one.
fn months(params: &mut CertificateParams, from: i32, to: i32) {
    let month = |of: i32| {
        let since = 2026 * 12 + 11 + of;
        date_time_ymd(since / 12, u8::try_from(since % 12 + 1).unwrap(), 1)
    };
    (params.not_before, params.not_after) = (month(from), month(to));
}

fn authority(name: &str, by: Option<&Authority>, key: KeyPair, change: Change) -> Authority {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    months(&mut params, -12, 60);
    change(&mut params);
    match by {
        None => CertifiedIssuer::self_signed(params, key).unwrap(),
        Some(by) => CertifiedIssuer::signed_by(params, key, by).unwrap(),
    }
}

fn keypair() -> KeyPair {
    KeyPair::generate().unwrap()
}

fn copy(key: &KeyPair) -> KeyPair {
    KeyPair::from_pem(&key.serialize_pem()).unwrap()
}

fn secret(text: &str) -> SecretBytes {
    SecretBytes::new(text.as_bytes().to_vec())
}

/// A certificate for coluc.com and conf.coluc.com, made by some authority.
fn leaf(name: &str, by: &Authority, key: &KeyPair, change: Change) -> String {
    let mut params = CertificateParams::new(vec!["coluc.com".to_owned(), "conf.coluc.com".to_owned()]).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    months(&mut params, -1, 2);
    change(&mut params);
    params.signed_by(key, by).unwrap().pem()
}

fn unchanged(_: &mut CertificateParams) {}

/// Root → intermediate → leaf, and everything that can stand in their place.
struct Pki {
    root: Authority,
    middle: Authority,
    key: KeyPair,
}

impl Pki {
    fn new() -> Self {
        let root = authority("Root", None, keypair(), unchanged);
        let middle = authority("Middle", Some(&root), keypair(), unchanged);
        let key = keypair();
        Self { root, middle, key }
    }

    fn leaf(&self, change: Change) -> String {
        leaf("leaf", &self.middle, &self.key, change)
    }

    /// The chain with another intermediate.
    fn with_middle(&self, key: KeyPair, change: Change) -> String {
        let middle = authority("Middle", Some(&self.root), key, change);
        leaf("leaf", &middle, &self.key, unchanged) + &middle.pem()
    }
}

fn domains() -> Vec<Domain> {
    ["coluc.com", "conf.coluc.com"]
        .map(|name| Domain::parse(name).unwrap())
        .to_vec()
}

fn examined(pem: &str, key: &str, anchors: &str, shown: Shown, now: Timestamp) -> Result<Examination, UnreadableChain> {
    let terms = Terms {
        now,
        shown,
        key: &secret(key),
        key_name: "tls.key",
        names: &domains(),
        anchors: &Anchors::from_pem(anchors.as_bytes()),
    };
    examine(&certificates(pem.as_bytes())?, &terms)
}

/// Faults as `Kind: sentence`, then notes.
fn said(found: &Examination) -> String {
    let faults = found
        .faults
        .iter()
        .map(|fault| format!("{:?}: {}", fault.kind, fault.sentence));
    faults.chain(found.notes.iter().cloned()).collect::<Vec<_>>().join("\n")
}

fn kinds(found: &Examination) -> Vec<FaultKind> {
    found.faults.iter().map(|fault| fault.kind).collect()
}

/// A chain by its name, what is wrong, and words that have to be said.
type Row = (&'static str, String, &'static [FaultKind], &'static [&'static str]);

#[test]
fn each_chain_gets_what_peers_would_say_and_a_remedy() {
    let pki = Pki::new();
    let Pki { root, middle, key } = &pki;
    let good = pki.leaf(unchanged);
    let (root_pem, middle_pem) = (root.pem(), middle.pem());
    let foreign = authority("Foreign", None, keypair(), unchanged);
    let other_middle = authority("Other Middle", Some(&foreign), keypair(), unchanged);
    let rekeyed = authority("Middle", Some(root), keypair(), unchanged);
    let no_authority = leaf("second", middle, &keypair(), unchanged);
    let by_foreign = |by: &Authority| leaf("leaf", by, key, unchanged);
    // The root as an authority of former times has certified it.
    let former = authority("Former Root", None, keypair(), unchanged);
    let cross = authority("Root", Some(&former), copy(root.key()), |params| {
        months(params, -60, -1);
    });
    let changed = |change: Change| pki.leaf(change) + &middle.pem();

    let rows: Vec<Row> = vec![
        ("whole", good.clone() + &middle_pem, &[], &[]),
        ("by the root itself, alone", by_foreign(root), &[], &[]),
        (
            "with the root",
            good.clone() + &middle_pem + &root_pem,
            &[],
            &["\"CN=Root\" is sent along", "not needed"],
        ),
        (
            "own root, unknown to others",
            by_foreign(&foreign) + &foreign.pem(),
            &[],
            &[],
        ),
        (
            "leaf alone",
            good.clone(),
            &[Chain],
            &[
                "\"CN=leaf\" was issued by \"CN=Middle\"",
                "no certificate of it is there",
                "write the certificate of \"CN=Middle\" behind",
                "trustAnchors",
            ],
        ),
        (
            "unknown authority, alone",
            by_foreign(&foreign),
            &[Chain],
            &["issued by \"CN=Foreign\""],
        ),
        (
            "intermediate of an unknown root",
            by_foreign(&other_middle) + &other_middle.pem(),
            &[Chain],
            &["\"CN=Other Middle\" was issued by \"CN=Foreign\""],
        ),
        (
            "foreign intermediate",
            good.clone() + &other_middle.pem(),
            &[Chain],
            &["\"CN=Other Middle\" is there and has not issued it"],
        ),
        (
            "intermediate of the same name and another key",
            good.clone() + &rekeyed.pem(),
            &[Chain],
            &["has another key than the one that issued \"CN=leaf\""],
        ),
        (
            "another leaf in place of the intermediate",
            good.clone() + &no_authority,
            &[Chain],
            &["\"CN=second\" is there and has not issued it"],
        ),
        (
            "leaf, root, intermediate",
            good.clone() + &root_pem + &middle_pem,
            &[Chain],
            &[
                "not in the order",
                "in this order: \"CN=leaf\", \"CN=Middle\", \"CN=Root\"",
            ],
        ),
        (
            "something between",
            good.clone() + &other_middle.pem() + &middle_pem,
            &[Chain],
            &[
                "in this order: \"CN=leaf\", \"CN=Middle\"",
                "\"CN=Other Middle\" is not needed",
            ],
        ),
        (
            "two leaves, both whole",
            good.clone() + &middle_pem + &no_authority,
            &[],
            &["\"CN=second\" is not needed in this chain; remove it"],
        ),
        (
            "intermediate first",
            middle_pem.clone() + &good,
            &[Key, Unfit, Names],
            &[
                "tls.key is not the key of the certificate \"CN=Middle\", which stands first",
                "\"CN=Middle\" is that of an authority (CA:TRUE)",
            ],
        ),
        (
            "root that a former one certified, which has ended",
            good.clone() + &middle_pem + &cross.pem(),
            &[],
            &["\"CN=Root\" ended on 2026-11-01T00:00:00Z and is not needed"],
        ),
        (
            "expired leaf",
            changed(|params| months(params, -4, -1)),
            &[Ended],
            &["\"CN=leaf\" expired on 2026-11-01T00:00:00Z; renew it"],
        ),
        (
            "expired intermediate",
            pki.with_middle(keypair(), |params| months(params, -24, -1)),
            &[Ended],
            &[
                "\"CN=Middle\" expired on 2026-11-01T00:00:00Z",
                "the chain that your authority issues now",
            ],
        ),
        (
            "leaf of tomorrow",
            changed(|params| months(params, 1, 3)),
            &[NotYetValid],
            &["\"CN=leaf\" is not valid before 2027-01-01T00:00:00Z"],
        ),
        (
            "intermediate of tomorrow",
            pki.with_middle(keypair(), |params| months(params, 1, 24)),
            &[NotYetValid],
            &["\"CN=Middle\" is not valid before"],
        ),
        (
            "without a name",
            changed(|params| {
                params.subject_alt_names.pop();
            }),
            &[Names],
            &["\"CN=leaf\" does not cover conf.coluc.com", "subject alternative names"],
        ),
        (
            "common name only",
            changed(|params| {
                params.subject_alt_names.clear();
                params.distinguished_name.push(DnType::CommonName, "coluc.com");
            }),
            &[Names],
            &["\"CN=coluc.com\" does not cover coluc.com, conf.coluc.com"],
        ),
        (
            "without a subject",
            changed(|params| {
                params.distinguished_name = rcgen::DistinguishedName::new();
                months(params, -4, -1);
            }),
            &[Ended],
            &["certificate \"coluc.com\" expired"],
        ),
        (
            "no usage named",
            changed(|params| params.extended_key_usages.clear()),
            &[],
            &[],
        ),
        (
            "for clients only",
            changed(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]),
            &[Unfit],
            &["lacks serverAuth"],
        ),
        (
            "for mail",
            changed(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::EmailProtection]),
            &[Unfit],
            &["lacks serverAuth"],
        ),
        (
            "key may not sign",
            changed(|params| params.key_usages = vec![KeyUsagePurpose::KeyEncipherment]),
            &[Unfit],
            &["lacks digitalSignature"],
        ),
        (
            "of an authority",
            changed(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
            &[Unfit],
            &["(CA:TRUE), which some peers refuse"],
        ),
        (
            "intermediate that is no authority",
            pki.with_middle(keypair(), |params| params.is_ca = IsCa::ExplicitNoCa),
            &[Unfit],
            &["\"CN=Middle\" is not that of an authority"],
        ),
        (
            "intermediate that may not issue",
            pki.with_middle(keypair(), |params| params.key_usages = vec![KeyUsagePurpose::CrlSign]),
            &[Unfit],
            &["\"CN=Middle\" is not that of an authority (CA:TRUE with keyCertSign)"],
        ),
        (
            "intermediate for another domain",
            pki.with_middle(keypair(), |params| {
                params.name_constraints = Some(rcgen::NameConstraints {
                    permitted_subtrees: vec![rcgen::GeneralSubtree::DnsName("other.example".to_owned())],
                    excluded_subtrees: Vec::new(),
                });
            }),
            &[Chain],
            &["does not hold: NameConstraintViolation"],
        ),
        (
            "text around the blocks",
            format!("subject=coluc\n{good}\n# the intermediate:\n{middle_pem}garbage\n"),
            &[],
            &[],
        ),
        (
            "lines of Windows",
            (good.clone() + &middle_pem).replace('\n', "\r\n"),
            &[],
            &[],
        ),
    ];
    for (name, pem, faults, words) in rows {
        let found = examined(&pem, &key.serialize_pem(), &root_pem, Shown::ToClients, now()).unwrap();
        assert_eq!(kinds(&found), faults, "{name}: {}", said(&found));
        for word in words {
            assert!(said(&found).contains(word), "{name}: {word:?} in\n{}", said(&found));
        }
        assert!(!words.is_empty() || said(&found).is_empty(), "{name}: {}", said(&found));
    }
}

#[rstest]
#[case::for_both(&[ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth], &[])]
#[case::for_servers_as_public_authorities_issue(&[ExtendedKeyUsagePurpose::ServerAuth], &[])]
#[case::for_clients(&[ExtendedKeyUsagePurpose::ClientAuth], &[])]
#[case::for_mail(&[ExtendedKeyUsagePurpose::EmailProtection], &[Unfit])]
fn a_certificate_for_connecting_may_be_of_either_use(
    #[case] usages: &[ExtendedKeyUsagePurpose],
    #[case] faults: &[FaultKind],
) {
    let (root, key) = (authority("Root", None, keypair(), unchanged), keypair());
    let mut params = CertificateParams::new(domains().iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
    params.extended_key_usages = usages.to_vec();
    let pem = params.signed_by(&key, &root).unwrap().pem();
    let found = examined(&pem, &key.serialize_pem(), &root.pem(), Shown::ToServers, now()).unwrap();
    assert_eq!(kinds(&found), faults, "{}", said(&found));
}

#[test]
fn a_certificate_that_is_its_own_issuer_is_whole_and_noted() {
    let key = keypair();
    let mut params = CertificateParams::new(vec!["coluc.com".to_owned(), "conf.coluc.com".to_owned()]).unwrap();
    let found = |params: &CertificateParams| {
        let pem = params.self_signed(&key).unwrap().pem();
        examined(&pem, &key.serialize_pem(), "", Shown::ToClients, now()).unwrap()
    };
    let plain = found(&params);
    assert_eq!(kinds(&plain), []);
    assert!(
        said(&plain).contains("by its fingerprint or by dialback only"),
        "{}",
        said(&plain)
    );
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    assert_eq!(kinds(&found(&params)), [Unfit]);
}

#[rstest]
#[case::whole(include_str!("fixtures/ec.crt"), include_str!("fixtures/ec-pkcs8.key"), &[], "")]
#[case::sec1_with_parameters(include_str!("fixtures/ec.crt"), include_str!("fixtures/ec-sec1.key"), &[], "")]
#[case::rsa_pkcs1(include_str!("fixtures/rsa.crt"), include_str!("fixtures/rsa-pkcs1.key"), &[], "")]
#[case::rsa_pkcs8(include_str!("fixtures/rsa.crt"), include_str!("fixtures/rsa-pkcs8.key"), &[], "")]
#[case::of_another(include_str!("fixtures/rsa.crt"), include_str!("fixtures/ec-pkcs8.key"), &[Key], "tls.key is not the key of the certificate \"CN=coluc.com\"")]
#[case::encrypted(include_str!("fixtures/ec.crt"), include_str!("fixtures/ec-encrypted.key"), &[Key], "tls.key is encrypted; write the key without a password")]
#[case::encrypted_in_the_old_way(include_str!("fixtures/rsa.crt"), include_str!("fixtures/rsa-encrypted.key"), &[Key], "is encrypted")]
#[case::none(include_str!("fixtures/ec.crt"), "", &[Key], "tls.key holds no PEM private key")]
#[case::a_certificate(include_str!("fixtures/ec.crt"), include_str!("fixtures/ec.crt"), &[Key], "tls.key holds no PEM private key")]
#[case::short(include_str!("fixtures/rsa1024.crt"), include_str!("fixtures/rsa1024.key"), &[Unfit], "has an RSA key of 1024 bits, fewer than 2048")]
#[case::sha1(include_str!("fixtures/sha1.crt"), include_str!("fixtures/sha1.key"), &[Unfit], "is signed with SHA-1")]
#[case::of_version_1(include_str!("fixtures/v1.crt"), include_str!("fixtures/sha1.key"), &[Unfit, Names], "X.509 v3")]
fn keys_of_each_form_and_strength(
    #[case] pem: &str,
    #[case] key: &str,
    #[case] faults: &[FaultKind],
    #[case] words: &str,
) {
    let names = [Domain::parse("coluc.com").unwrap()];
    let terms = Terms {
        now: at("2027-01-01T00:00:00Z"),
        shown: Shown::ToClients,
        key: &secret(key),
        key_name: "tls.key",
        names: &names,
        anchors: &Anchors::from_pem(include_bytes!("fixtures/root.crt")),
    };
    let found = examine(&certificates(pem.as_bytes()).unwrap(), &terms).unwrap();
    assert_eq!(kinds(&found), faults, "{}", said(&found));
    assert!(said(&found).contains(words), "{}", said(&found));
    let secret = key.lines().find(|line| line.len() == 64).unwrap_or("no line of a key");
    assert!(pem == key || !said(&found).contains(secret));
}

#[rstest]
#[case::nothing("", "holds no PEM certificate")]
#[case::text("coluc.com\n", "holds no PEM certificate")]
#[case::der("0\u{3}\u{2}\u{1}\u{1}", "holds no PEM certificate")]
#[case::key_only(include_str!("fixtures/ec-pkcs8.key"), "holds no PEM certificate")]
#[case::cut_off("-----BEGIN CERTIFICATE-----\nMIIB\n", "is not PEM")]
#[case::garbage_in_the_block("-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n", "is not PEM")]
#[case::no_certificate(
    "-----BEGIN CERTIFICATE-----\nMAMCAQE=\n-----END CERTIFICATE-----\n",
    "begins with a certificate that is not readable"
)]
fn what_holds_no_chain_is_an_error_with_a_remedy(#[case] pem: &str, #[case] words: &str) {
    let error = examined(pem, "", "", Shown::ToClients, now()).unwrap_err().to_string();
    assert!(error.contains(words) && error.contains("; "), "{error}");
}

const UNREADABLE: &str = "-----BEGIN CERTIFICATE-----\nMAMCAQE=\n-----END CERTIFICATE-----\n";

#[test]
fn a_certificate_behind_the_first_that_is_not_readable_is_a_fault_and_no_end() {
    let pki = Pki::new();
    let pem = pki.leaf(unchanged) + UNREADABLE + &pki.middle.pem();
    let key = pki.key.serialize_pem();
    let found = examined(&pem, &key, &pki.root.pem(), Shown::ToClients, now()).unwrap();
    assert_eq!(kinds(&found).first(), Some(&Chain), "{}", said(&found));
    assert!(
        said(&found).contains("certificate number 2 is not readable"),
        "{}",
        said(&found)
    );
}

/// Each may have to be verified with each.
#[test]
fn more_certificates_than_any_chain_has_are_not_judged() {
    let pki = Pki::new();
    let key = pki.key.serialize_pem();
    let pem = |more: usize| pki.leaf(unchanged) + &pki.middle.pem().repeat(more);
    let found = |more| examined(&pem(more), &key, &pki.root.pem(), Shown::ToClients, now());
    assert!(found(LONGEST - 1).is_ok());
    let error = found(LONGEST).unwrap_err().to_string();
    assert!(
        error.starts_with("holds 17 certificates, and a chain has 16 at most"),
        "{error}"
    );
}

#[test]
fn of_two_certificates_of_one_issuer_the_one_that_leads_on_counts() {
    let (pki, unknown) = (Pki::new(), authority("Old", None, keypair(), unchanged));
    let old = authority("Middle", Some(&unknown), copy(pki.middle.key()), unchanged);
    let pem = pki.leaf(unchanged) + &old.pem() + &pki.middle.pem();
    let key = pki.key.serialize_pem();
    let found = examined(&pem, &key, &pki.root.pem(), Shown::ToClients, now()).unwrap();
    assert!(
        !said(&found).contains("\"CN=Middle\" was issued by"),
        "{}",
        said(&found)
    );
}

#[test]
fn the_chain_ends_with_the_certificate_that_ends_first() {
    let pki = Pki::new();
    let pem = pki.with_middle(keypair(), |params| months(params, -24, 1));
    let found = examined(&pem, &pki.key.serialize_pem(), &pki.root.pem(), Shown::ToClients, now()).unwrap();
    assert_eq!(found.not_after, at("2027-01-01T00:00:00Z"));
    assert_eq!(found.ends_first, "\"CN=Middle\"");
    assert_eq!(found.not_before, at("2026-11-01T00:00:00Z"));
    assert_eq!(found.issuer, "CN=Middle");
}

#[rstest]
#[case::of_three_months(3, "2027-01-10T23:59:59Z", Nearness::Far)]
#[case::at_21_days(3, "2027-01-11T00:00:00Z", Nearness::Soon)]
#[case::before_7_days(3, "2027-01-24T23:59:59Z", Nearness::Soon)]
#[case::at_7_days(3, "2027-01-25T00:00:00Z", Nearness::VerySoon)]
#[case::of_a_month_is_renewed_later(1, "2027-01-24T00:00:00Z", Nearness::Far)]
#[case::of_a_month_a_quarter_is_left(1, "2027-01-25T00:00:00Z", Nearness::Soon)]
#[case::of_a_month_a_twelfth_is_left(1, "2027-01-30T00:00:00Z", Nearness::VerySoon)]
fn the_end_is_near_by_days_and_by_parts_of_a_life(#[case] life: u8, #[case] now: &str, #[case] nearness: Nearness) {
    let (root, key) = (authority("Root", None, keypair(), unchanged), keypair());
    let pem = match life {
        1 => leaf("leaf", &root, &key, |params| months(params, 1, 2)),
        _ => leaf("leaf", &root, &key, |params| months(params, -1, 2)),
    };
    let found = examined(&pem, &key.serialize_pem(), &root.pem(), Shown::ToClients, at(now)).unwrap();
    assert_eq!(found.nearness, nearness, "until {}", found.not_after);
}
