//! From Secrets to the condition, its events and the status.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rstest::rstest;
use serde_json::{Value, json};
use xmpp_federation_core::SecretBytes;
use xmpp_federation_core::chain::Nearness;

use crate::api::conditions::{Findings, Status, Type, Verdict, assemble};
use crate::api::reasons::Reason;
use crate::controller::build::material;
use crate::controller::dereference::{ExistingObjects, KubeView};
use crate::controller::events;
use crate::controller::references::{SecretContent, Secrets};
use crate::controller::status::testing::{self, World, details_of, verdict, world};
use xmpp_federation_imp::access::SecretVersion;

type Change = fn(&mut CertificateParams);

fn now() -> Timestamp {
    "2026-12-01T00:00:00Z".parse().unwrap()
}

fn after_days(days: i64) -> Timestamp {
    now() + SignedDuration::from_hours(24 * days)
}

fn unchanged(_: &mut CertificateParams) {}

fn until(params: &mut CertificateParams, days: i64) {
    let time = |at: Timestamp| time::OffsetDateTime::from_unix_timestamp(at.as_second()).unwrap();
    (params.not_before, params.not_after) = (time(after_days(-300)), time(after_days(days)));
}

/// What a Secret of type kubernetes.io/tls has, by key.
type Keys = BTreeMap<&'static str, String>;

/// A certificate for the hosted domains under an intermediate of `middle`, and the root.
fn issued(leaf: Change, middle: Change) -> (Keys, String) {
    let authority = |name: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        until(&mut params, 1000);
        params
    };
    let root = CertifiedIssuer::self_signed(authority("Root"), KeyPair::generate().unwrap()).unwrap();
    let mut params = authority("Middle");
    middle(&mut params);
    let middle = CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), &root).unwrap();
    let mut params = CertificateParams::new(vec!["coluc.com".to_owned(), "conf.coluc.com".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, "coluc.com");
    until(&mut params, 80);
    leaf(&mut params);
    let key = KeyPair::generate().unwrap();
    let leaf = params.signed_by(&key, &middle).unwrap();
    let keys = [
        ("tls.crt", leaf.pem() + &middle.pem()),
        ("tls.key", key.serialize_pem()),
    ];
    (keys.into(), root.pem())
}

fn content(name: &str, keys: &Keys) -> SecretContent {
    let data = keys
        .iter()
        .map(|(key, text)| ((*key).to_owned(), SecretBytes::new(text.clone().into_bytes())));
    SecretContent {
        version: SecretVersion {
            namespace: "federation".to_owned(),
            name: name.to_owned(),
            uid: "uid-2".to_owned(),
            resource_version: "1".to_owned(),
        },
        data: data.collect(),
    }
}

/// A world with these Secrets, whose spec trusts the authority in `roots`.
fn with(spec: Value, secrets: &[(&str, Keys)], at: Timestamp) -> World {
    let mut world = world("/tls", spec);
    let secrets = secrets
        .iter()
        .map(|(name, keys)| ((*name).to_owned(), Ok(content(name, keys))));
    let view = KubeView {
        secrets: Secrets(secrets.collect()),
        revocation_lists: None,
        existing: ExistingObjects::default(),
        pods: Vec::new(),
        refusals: Vec::new(),
    };
    world.material = material::run(&world.valid, &view, false, at);
    world
}

fn brought() -> Value {
    json!({"certificate": {"secretRef": {"name": "ours"}}, "trustAnchors": {"secretRef": {"name": "roots", "key": "ca.crt"}}})
}

fn with_brought(ours: Keys, root: String, at: Timestamp) -> World {
    with(brought(), &[("ours", ours), ("roots", [("ca.crt", root)].into())], at)
}

fn without(mut keys: Keys, key: &str) -> Keys {
    keys.remove(key);
    keys
}

fn put(mut keys: Keys, key: &'static str, text: &str) -> Keys {
    keys.insert(key, text.to_owned());
    keys
}

#[rstest]
#[case::whole(|keys| keys, Status::True, Reason::AsWanted, &["Secret ours, issued by CN=", "valid until 2027-02-19T00:00:00Z"])]
#[case::leaf_alone(leaf_alone, Status::False, Reason::CertificateChain, &["Secret ours: certificate", "Middle", "no certificate of it is there"])]
#[case::key_of_another(|keys| put(keys, "tls.key", &KeyPair::generate().unwrap().serialize_pem()), Status::False, Reason::CertificateKey, &["Secret ours: tls.key is not the key of the certificate"])]
#[case::without_its_key(|keys| without(keys, "tls.key"), Status::False, Reason::SecretMissing, &["Secret ours has no key \"tls.key\"; add it (it has: tls.crt)"])]
#[case::of_another_type(|keys: Keys| [("cert.pem", keys["tls.crt"].clone())].into(), Status::False, Reason::SecretMissing, &["has no key", "it has: cert.pem"])]
#[case::empty(|_| Keys::new(), Status::False, Reason::SecretMissing, &["Secret ours has no key"])]
#[case::empty_key(|keys| put(keys, "tls.crt", ""), Status::False, Reason::SecretMissing, &["key \"tls.crt\" of Secret ours is empty; fill it"])]
#[case::no_certificate(|keys| put(keys, "tls.crt", "hello"), Status::False, Reason::SecretInvalid, &["Secret ours: tls.crt holds no PEM certificate; write"])]
fn a_brought_certificate_is_judged_with_its_chain_and_key(
    #[case] change: fn(Keys) -> Keys,
    #[case] status: Status,
    #[case] reason: Reason,
    #[case] words: &[&str],
) {
    let (ours, root) = issued(unchanged, unchanged);
    let verdict = verdict(&with_brought(change(ours), root, now()), Type::CertificateReady);
    assert_eq!(
        (verdict.status, verdict.reason),
        (status, reason),
        "{}",
        verdict.message
    );
    for word in words {
        assert!(verdict.message.contains(word), "{word:?} in {}", verdict.message);
    }
}

fn leaf_alone(keys: Keys) -> Keys {
    const END: &str = "-----END CERTIFICATE-----";
    let leaf = keys["tls.crt"].split_once(END).unwrap().0.to_owned() + END;
    put(keys, "tls.crt", &leaf)
}

#[rstest]
#[case::whole(|keys| keys, Status::True, Reason::AsWanted, "; Secret client (spec.tls.clientCertificate), issued by")]
#[case::leaf_alone(
    leaf_alone,
    Status::False,
    Reason::CertificateChain,
    "Secret client (spec.tls.clientCertificate): certificate"
)]
#[case::without_its_key(|keys| without(keys, "tls.key"), Status::False, Reason::SecretMissing, "Secret client has no key")]
#[case::garbage(|keys| put(keys, "tls.crt", "x"), Status::False, Reason::SecretInvalid, "Secret client (spec.tls.clientCertificate): tls.crt holds no PEM")]
fn the_certificate_for_connecting_passes_the_same_check(
    #[case] change: fn(Keys) -> Keys,
    #[case] status: Status,
    #[case] reason: Reason,
    #[case] words: &str,
) {
    let (client, root) = issued(unchanged, unchanged);
    let spec = json!({
        "clientCertificate": {"secretRef": {"name": "client"}},
        "trustAnchors": {"secretRef": {"name": "roots", "key": "ca.crt"}},
    });
    let secrets = [("client", change(client)), ("roots", [("ca.crt", root)].into())];
    let verdict = verdict(&with(spec, &secrets, now()), Type::CertificateReady);
    assert_eq!(
        (verdict.status, verdict.reason),
        (status, reason),
        "{}",
        verdict.message
    );
    assert!(verdict.message.contains(words), "{}", verdict.message);
}

#[test]
fn the_own_authority_passes_it_without_a_note() {
    let verdict = verdict(&with(json!({}), &[], now()), Type::CertificateReady);
    assert_eq!(verdict.status, Status::True, "{}", verdict.message);
    let words =
        "Secret coluc-tls, issued by CN=XMPP federation authority of coluc.com, valid until 2027-03-01T00:00:00Z";
    assert_eq!(verdict.message, words);
}

#[test]
fn status_and_condition_name_the_certificate_that_ends_first() {
    let (ours, root) = issued(unchanged, |params| until(params, 40));
    let world = with_brought(ours, root, now());
    let status = details_of(&world).certificate.unwrap();
    assert_eq!(
        (status.source.as_str(), status.secret_name.as_str()),
        ("Secret", "ours")
    );
    assert_eq!(status.not_after, after_days(40).to_string());
    assert!(
        verdict(&world, Type::CertificateReady)
            .message
            .contains(&status.not_after)
    );
}

/// The reasons of what is told at each look, days from now. Each look knows only what the one before has stored, as a
/// process that has just started does.
fn told(world: impl Fn(Timestamp) -> World, days: &[i64]) -> Vec<String> {
    let mut stored = Vec::new();
    days.iter()
        .map(|day| {
            let at = after_days(*day);
            let mut findings = Findings::default();
            findings.add(Type::CertificateReady, verdict(&world(at), Type::CertificateReady));
            let conditions = assemble(&stored, Some(1), at, &findings);
            let notes = events::changes(&stored, &conditions, at);
            stored = conditions;
            let notes = notes.iter().filter(|note| note.message.starts_with("CertificateReady"));
            let told = notes.map(|note| format!("{}{}", if note.warning { "!" } else { "" }, note.reason));
            told.collect::<Vec<_>>().join(",")
        })
        .collect()
}

#[test]
fn an_end_that_comes_near_is_told_at_21_and_7_days_and_once_each() {
    let (ours, root) = issued(unchanged, |params| until(params, 60));
    let world = |at| with_brought(ours.clone(), root.clone(), at);
    let days = [0, 38, 39, 39, 50, 52, 53, 54, 60, 61];
    let wanted = [
        "CertificateReady",
        "",
        "!CertificateExpiring",
        "",
        "",
        "",
        "!CertificateExpiringSoon",
        "",
        "!CertificateExpired",
        "",
    ];
    assert_eq!(told(world, &days), wanted);
    let near = verdict(&world(after_days(40)), Type::CertificateReady);
    assert_eq!(near.status, Status::True);
    let words = [
        &after_days(60).to_string(),
        "Middle",
        "ends then",
        "write the renewed chain into Secret ours before",
    ];
    assert!(
        words.iter().all(|word| near.message.contains(*word)),
        "{}",
        near.message
    );
}

#[test]
fn a_renewed_certificate_ends_the_warning_and_another_one_that_ends_soon_begins_it_anew() {
    let (first, root) = issued(|params| until(params, 10), unchanged);
    let (second, other_root) = issued(|params| until(params, 50), unchanged);
    let (third, third_root) = issued(|params| until(params, 15), unchanged);
    let roots = root + &other_root + &third_root;
    let world = |at| {
        let ours = if at < after_days(5) {
            &first
        } else if at < after_days(6) {
            &second
        } else {
            &third
        };
        with_brought(ours.clone(), roots.clone(), at)
    };
    let wanted = ["!CertificateExpiring", "", "!CertificateExpiring", ""];
    let seen = told(world, &[0, 5, 6, 7]);
    assert_eq!(seen, wanted);
}

#[test]
fn an_own_authority_that_ends_is_told_with_its_secrets() {
    let text = |found: &Verdict| found.message.clone();
    let mut world = with(json!({}), &[], now());
    let chain = world.material.chains.first_mut().unwrap();
    chain.found.as_mut().unwrap().nearness = Nearness::Soon;
    let near = verdict(&world, Type::CertificateReady);
    assert_eq!((near.status, near.reason), (Status::True, Reason::CertificateExpiring));
    assert!(
        text(&near).contains("delete Secrets coluc-ca and coluc-tls before"),
        "{}",
        text(&near)
    );
}

/// 180 days before it ends, since partners may have pinned it.
#[rstest]
#[case::far(181, Reason::AsWanted)]
#[case::near(180, Reason::CertificateExpiring)]
#[case::very_near(30, Reason::CertificateExpiring)]
fn the_end_of_the_own_authority_is_told_long_before(#[case] days: i64, #[case] reason: Reason) {
    let mut world = with(json!({}), &[], now());
    let ends = testing::now() + SignedDuration::from_hours(24 * days);
    let chain = world.material.chains.first_mut().unwrap();
    chain.authority.as_mut().unwrap().ends = Some(ends);
    let found = verdict(&world, Type::CertificateReady);
    assert_eq!((found.status, found.reason), (Status::True, reason));
    let told = format!(
        "its authority ends on {ends}, and no certificate outlives that; delete Secrets coluc-ca and coluc-tls before"
    );
    assert_eq!(
        found.message.contains(&told),
        reason != Reason::AsWanted,
        "{}",
        found.message
    );
}
