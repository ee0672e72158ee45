//! Our own certificate authority: made once per resource, its leaf renewed in time.
//!
//! Server dialback decides who a peer is, so a certificate of our own is enough to federate with
//! everybody who does not insist on public ones.

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    OtherNameValue, SanType,
};
use xmpp_federation_core::{Domain, SecretBytes};

use super::inspect::{fits, inspect, signed_by};

/// The authority lives ten years; it is never replaced unasked.
const AUTHORITY_LIFETIME: SignedDuration = SignedDuration::from_hours(10 * 365 * 24);
/// A leaf lives 90 days …
const LEAF_LIFETIME: SignedDuration = SignedDuration::from_hours(90 * 24);
/// … and is renewed when 30 are left.
const RENEW_BEFORE: SignedDuration = SignedDuration::from_hours(30 * 24);
/// Peers' clocks may be behind ours.
const BACKDATE: SignedDuration = SignedDuration::from_hours(1);

/// id-on-xmppAddr (RFC 6120 section 13.7.1.4).
const XMPP_ADDR: &[u64] = &[1, 3, 6, 1, 5, 5, 7, 8, 5];

/// An authority and the leaf it signed; certificates and keys as PEM.
#[derive(Debug, Clone)]
pub struct KeyMaterial {
    /// The authority's certificate.
    pub ca_certificate: String,
    /// The authority's key.
    pub ca_key: SecretBytes,
    /// The leaf's certificate, followed by the authority's.
    pub certificate: String,
    /// The leaf's key.
    pub key: SecretBytes,
}

/// What is to be done about the certificate.
#[derive(Debug)]
pub enum Outcome {
    /// It is valid, covers the names and is not due.
    Keep,
    /// Store this; the reason says why, for the event. Boxed: it is large and rare.
    Issue(Box<KeyMaterial>, String),
}

/// A certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The stored authority cannot be used; it is not replaced by itself, because peers may have
    /// pinned it.
    #[error(
        "the stored authority cannot be used: {0}; restore the Secret from a backup, or delete it to have a new authority made"
    )]
    Authority(String),
    /// Signing failed.
    #[error("a certificate could not be made: {0}")]
    Generate(#[from] rcgen::Error),
}

/// Decides whether authority and leaf are good for the wanted names at `now`, and makes what is
/// missing. `wanted` starts with the name that the subject shows; its order does not matter
/// otherwise. An existing authority is kept in every case.
pub fn ensure(existing: Option<&KeyMaterial>, wanted: &[Domain], now: Timestamp) -> Result<Outcome, TlsError> {
    let Some(existing) = existing else {
        let authority = Authority::generate(wanted, now)?;
        let material = authority.issue(wanted, now)?;
        return Ok(Outcome::Issue(Box::new(material), "no certificate existed".to_owned()));
    };
    let Some(reason) = reason_to_renew(existing, wanted, now) else {
        return Ok(Outcome::Keep);
    };
    let authority = Authority::load(existing, now)?;
    Ok(Outcome::Issue(Box::new(authority.issue(wanted, now)?), reason))
}

fn reason_to_renew(existing: &KeyMaterial, wanted: &[Domain], now: Timestamp) -> Option<String> {
    let (pem, authority) = (&existing.certificate, &existing.ca_certificate);
    if pem.is_empty() {
        return Some("no certificate existed".to_owned());
    }
    let info = match inspect(pem) {
        Ok(info) => info,
        Err(unreadable) => return Some(unreadable.to_string()),
    };
    let missing = info.missing(wanted);
    if !missing.is_empty() {
        let names: Vec<_> = missing.iter().map(ToString::to_string).collect();
        return Some(format!("it did not cover {}", names.join(", ")));
    }
    if !fits(pem, &existing.key) {
        return Some("its key was another one's".to_owned());
    }
    // Without the authority nobody can tell.
    if !authority.is_empty() && !signed_by(pem, authority) {
        return Some("the stored authority had not signed it".to_owned());
    }
    if info.not_before > now {
        return Some(format!("it was not valid before {}", info.not_before));
    }
    let last = end_of(authority).unwrap_or(Timestamp::MAX);
    if info.not_after > last {
        return Some(format!(
            "it was valid for longer than its authority, which ends on {last}"
        ));
    }
    // No other one would be valid for longer than the authority.
    let due = info.not_after.duration_since(now) < RENEW_BEFORE && info.not_after < last;
    due.then(|| format!("it expires on {}", info.not_after))
}

/// When the first certificate of a PEM text ends.
pub fn end_of(pem: &str) -> Option<Timestamp> {
    inspect(pem).ok().map(|info| info.not_after)
}

struct Authority {
    certificate: String,
    key_pem: SecretBytes,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn generate(wanted: &[Domain], now: Timestamp) -> Result<Self, TlsError> {
        let mut params = CertificateParams::default();
        let of = wanted.first().map_or("federation", |domain| domain.as_str());
        params
            .distinguished_name
            .push(DnType::CommonName, format!("XMPP federation authority of {of}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        set_validity(&mut params, now, AUTHORITY_LIFETIME);
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?.pem();
        let key_pem = SecretBytes::new(key.serialize_pem().into_bytes());
        Ok(Self {
            certificate,
            key_pem,
            issuer: Issuer::new(params, key),
        })
    }

    fn load(existing: &KeyMaterial, now: Timestamp) -> Result<Self, TlsError> {
        let info = inspect(&existing.ca_certificate).map_err(|error| TlsError::Authority(error.to_string()))?;
        if info.not_after <= now {
            return Err(TlsError::Authority(format!("it expired on {}", info.not_after)));
        }
        let text = std::str::from_utf8(existing.ca_key.expose())
            .map_err(|_| TlsError::Authority("its key is not PEM text".to_owned()))?;
        let key =
            KeyPair::from_pem(text).map_err(|error| TlsError::Authority(format!("its key is unreadable: {error}")))?;
        if !fits(&existing.ca_certificate, &existing.ca_key) {
            return Err(TlsError::Authority("its key is not that of its certificate".to_owned()));
        }
        let issuer = Issuer::from_ca_cert_pem(&existing.ca_certificate, key)
            .map_err(|error| TlsError::Authority(error.to_string()))?;
        Ok(Self {
            certificate: existing.ca_certificate.clone(),
            key_pem: existing.ca_key.clone(),
            issuer,
        })
    }

    fn issue(&self, wanted: &[Domain], now: Timestamp) -> Result<KeyMaterial, TlsError> {
        let mut params = CertificateParams::default();
        if let Some(first) = wanted.first() {
            params.distinguished_name.push(DnType::CommonName, first.as_str());
        }
        for domain in wanted {
            params
                .subject_alt_names
                .push(SanType::DnsName(domain.as_str().try_into()?));
            params.subject_alt_names.push(SanType::OtherName((
                XMPP_ADDR.to_vec(),
                OtherNameValue::Utf8String(domain.to_unicode()),
            )));
        }
        // Shown in both directions, so both usages.
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let last = end_of(&self.certificate).unwrap_or(Timestamp::MAX);
        set_validity(&mut params, now, LEAF_LIFETIME.min(last.duration_since(now)));
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(KeyMaterial {
            ca_certificate: self.certificate.clone(),
            ca_key: self.key_pem.clone(),
            certificate: format!("{certificate}{}", self.certificate),
            key: SecretBytes::new(key.serialize_pem().into_bytes()),
        })
    }
}

fn set_validity(params: &mut CertificateParams, now: Timestamp, lifetime: SignedDuration) {
    let at = |timestamp: Timestamp| {
        time::OffsetDateTime::from_unix_timestamp(timestamp.as_second()).unwrap_or(time::OffsetDateTime::UNIX_EPOCH)
    };
    params.not_before = at(now.saturating_sub(BACKDATE).unwrap_or(now));
    params.not_after = at(now.saturating_add(lifetime).unwrap_or(Timestamp::MAX));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::*;
    use rstest::rstest;

    fn domains(names: &[&str]) -> Vec<Domain> {
        names.iter().map(|name| Domain::parse(name).unwrap()).collect()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn issued(outcome: Outcome) -> (KeyMaterial, String) {
        match outcome {
            Outcome::Issue(material, reason) => (*material, reason),
            Outcome::Keep => panic!("nothing was issued"),
        }
    }

    #[test]
    fn a_first_certificate_covers_all_names_and_is_then_kept() {
        let wanted = domains(&["coluc.com", "conf.coluc.com", "eft-xwye-a.coluc.com"]);
        let now = at("2026-11-22T00:00:00Z");
        let (material, _) = issued(ensure(None, &wanted, now).unwrap());
        let info = inspect(&material.certificate).unwrap();
        assert!(info.missing(&wanted).is_empty());
        assert_eq!(info.missing(&domains(&["vngtp.lab"])).len(), 1);
        assert!(info.issuer.contains("XMPP federation authority of coluc.com"));
        assert!(matches!(ensure(Some(&material), &wanted, now).unwrap(), Outcome::Keep));
    }

    #[test]
    fn a_new_name_or_a_near_end_renews_the_leaf_under_the_same_authority() {
        let now = at("2026-11-22T00:00:00Z");
        let wanted = domains(&["coluc.com"]);
        let (first, _) = issued(ensure(None, &wanted, now).unwrap());
        let more = domains(&["coluc.com", "conf.coluc.com"]);
        let (second, reason) = issued(ensure(Some(&first), &more, now).unwrap());
        assert_eq!(second.ca_certificate, first.ca_certificate);
        assert!(reason.contains("conf.coluc.com"), "{reason}");
        let late = at("2027-01-25T00:00:00Z");
        let (third, reason) = issued(ensure(Some(&second), &more, late).unwrap());
        assert_eq!(third.ca_certificate, first.ca_certificate);
        assert!(reason.contains("expires"), "{reason}");
    }

    const OTHER_KEY: &str = "its key was another one's";
    const NOT_SIGNED: &str = "the stored authority had not signed it";

    /// What a person, or a restore, makes of certificate, key and authority; without a reason the leaf stays.
    #[rstest]
    #[case::nothing("own", "own", "own", None)]
    #[case::the_key_of_another("own", "other", "own", Some(OTHER_KEY))]
    #[case::a_damaged_key("own", "text", "own", Some(OTHER_KEY))]
    #[case::the_certificate_of_another("other", "own", "own", Some(OTHER_KEY))]
    #[case::the_pair_of_another("other", "other", "own", Some(NOT_SIGNED))]
    #[case::the_authority_of_another("own", "own", "other", Some(NOT_SIGNED))]
    #[case::no_certificate("none", "own", "own", Some("no certificate existed"))]
    #[case::a_text("text", "own", "own", Some("no readable PEM certificate"))]
    fn a_leaf_that_does_not_fit_is_made_anew_under_the_stored_authority(
        #[case] certificate: &str,
        #[case] key: &str,
        #[case] authority: &str,
        #[case] expected: Option<&str>,
    ) {
        let (now, wanted) = (at("2026-11-22T00:00:00Z"), domains(&["coluc.com"]));
        // Even the names are the same.
        let make = || issued(ensure(None, &wanted, now).unwrap()).0;
        let (own, other) = (make(), make());
        let empty = KeyMaterial {
            ca_certificate: String::new(),
            ca_key: SecretBytes::new(Vec::new()),
            certificate: String::new(),
            key: SecretBytes::new(Vec::new()),
        };
        let text = KeyMaterial {
            certificate: "text".to_owned(),
            key: SecretBytes::new(b"no key".to_vec()),
            ..empty.clone()
        };
        let of = |whose: &str| match whose {
            "own" => &own,
            "other" => &other,
            "text" => &text,
            _ => &empty,
        };
        let stored = KeyMaterial {
            ca_certificate: of(authority).ca_certificate.clone(),
            ca_key: of(authority).ca_key.clone(),
            certificate: of(certificate).certificate.clone(),
            key: of(key).key.clone(),
        };
        let outcome = ensure(Some(&stored), &wanted, now).unwrap();
        let Some(expected) = expected else {
            assert!(matches!(outcome, Outcome::Keep));
            return;
        };
        let (next, reason) = issued(outcome);
        assert!(reason.contains(expected), "{reason}");
        assert_eq!(next.ca_certificate, stored.ca_certificate);
        assert_eq!(next.ca_key.expose(), stored.ca_key.expose());
        assert!(fits(&next.certificate, &next.key) && signed_by(&next.certificate, &stored.ca_certificate));
        assert!(matches!(ensure(Some(&next), &wanted, now).unwrap(), Outcome::Keep));
    }

    #[test]
    fn a_leaf_from_the_future_is_made_anew() {
        let wanted = domains(&["coluc.com"]);
        let (material, _) = issued(ensure(None, &wanted, at("2026-11-22T00:00:00Z")).unwrap());
        let (_, reason) = issued(ensure(Some(&material), &wanted, at("2026-11-21T00:00:00Z")).unwrap());
        assert!(reason.contains("not valid before"), "{reason}");
    }

    #[test]
    fn without_its_authority_a_leaf_is_kept_while_its_key_is_its_own() {
        let (now, wanted) = (at("2026-11-22T00:00:00Z"), domains(&["coluc.com"]));
        let (mut material, _) = issued(ensure(None, &wanted, now).unwrap());
        (material.ca_certificate, material.ca_key) = (String::new(), SecretBytes::new(Vec::new()));
        assert!(matches!(ensure(Some(&material), &wanted, now).unwrap(), Outcome::Keep));
        material.key = SecretBytes::new(b"another".to_vec());
        assert!(ensure(Some(&material), &wanted, now).is_err());
    }

    #[test]
    fn an_authority_with_the_key_of_another_issues_nothing() {
        let (now, wanted) = (at("2026-11-22T00:00:00Z"), domains(&["coluc.com"]));
        let make = || issued(ensure(None, &wanted, now).unwrap()).0;
        let (mut own, other) = (make(), make());
        own.ca_key = other.ca_key;
        assert!(matches!(ensure(Some(&own), &wanted, now).unwrap(), Outcome::Keep));
        let error = ensure(Some(&own), &domains(&["vngtp.lab"]), now).unwrap_err();
        assert!(
            error.to_string().contains("its key is not that of its certificate"),
            "{error}"
        );
    }

    #[test]
    fn no_leaf_outlives_its_authority_and_the_last_one_is_kept() {
        let (start, wanted) = (at("2026-11-22T00:00:00Z"), domains(&["coluc.com"]));
        let (first, _) = issued(ensure(None, &wanted, start).unwrap());
        let last = end_of(&first.ca_certificate).unwrap();
        assert_eq!(last, at("2036-11-19T00:00:00Z"));
        let days = |days: i64| SignedDuration::from_hours(24 * days);
        // Of a release that did not know this.
        let authority = Authority::load(&first, start).unwrap();
        let mut longer = CertificateParams::new(vec!["coluc.com".to_owned()]).unwrap();
        set_validity(&mut longer, last - days(80), LEAF_LIFETIME);
        let key = KeyPair::generate().unwrap();
        let longer = longer.signed_by(&key, &authority.issuer).unwrap().pem();
        let longer = KeyMaterial {
            certificate: longer,
            key: SecretBytes::new(key.serialize_pem().into_bytes()),
            ..first.clone()
        };
        let (_, reason) = issued(ensure(Some(&longer), &wanted, last - days(40)).unwrap());
        assert!(reason.contains("longer than its authority"), "{reason}");

        let (leaf, _) = issued(ensure(Some(&first), &wanted, last - days(40)).unwrap());
        assert_eq!(end_of(&leaf.certificate), Some(last));
        for before in [39, 20, 1] {
            let outcome = ensure(Some(&leaf), &wanted, last - days(before)).unwrap();
            assert!(matches!(outcome, Outcome::Keep), "{before} days before");
        }
        // Other names are still issued for.
        let more = domains(&["coluc.com", "conf.coluc.com"]);
        let (other, _) = issued(ensure(Some(&leaf), &more, last - days(20)).unwrap());
        assert_eq!(end_of(&other.certificate), Some(last));
    }

    #[test]
    fn a_damaged_authority_is_named_and_never_replaced() {
        let now = at("2026-11-22T00:00:00Z");
        let (mut material, _) = issued(ensure(None, &domains(&["coluc.com"]), now).unwrap());
        material.ca_key = SecretBytes::new(b"not a key".to_vec());
        let error = ensure(Some(&material), &domains(&["vngtp.lab"]), now).unwrap_err();
        assert!(error.to_string().contains("restore the Secret"), "{error}");
    }
}
