//! From SRV answers to targets in order: the `.` rule, priorities and weights (RFC 2782).

use rand::Rng;
use rand::seq::SliceRandom;
use xmpp_federation_core::Domain;

use super::dns::{LookupError, SrvRecord};
use super::{ResolveError, Service, Target};

/// What the SRV answers say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// Groups by priority; inside a group in the order drawn by weight.
    Targets(Vec<Vec<Target>>),
    /// Neither service has records: the domain's own addresses count.
    NoRecords,
}

/// The most records of one service that are looked at.
const MOST_RECORDS: usize = 64;

/// Decides by both services' answers, whose records are one list (XEP-0368 section 3).
/// `with_direct`: whether TLS is spoken with this domain at all; without it, `_xmpps-server` is
/// read only for what it says about the fallback.
pub fn choose(
    domain: &Domain,
    plain: Result<Vec<SrvRecord>, LookupError>,
    direct: Result<Vec<SrvRecord>, LookupError>,
    with_direct: bool,
    random: &mut impl Rng,
) -> Result<Choice, ResolveError> {
    let temporary = |error: LookupError| {
        ResolveError::Temporary(format!(
            "{error}; {domain} will be tried again, check its name servers if this lasts"
        ))
    };
    let plain = plain.map_err(temporary)?;
    let direct = match direct {
        // Direct TLS is one more way (XEP-0368 section 3): the domain can be reached without
        // knowing, by its records or by its own addresses.
        Err(_) if offered(&plain) || plain.is_empty() => Vec::new(),
        answer => answer.map_err(temporary)?,
    };
    if plain.is_empty() && direct.is_empty() {
        return Ok(Choice::NoRecords);
    }
    let by_direct = offered(&direct) && with_direct;
    if !offered(&plain) && !by_direct {
        return Err(nowhere(domain, &plain, &direct));
    }
    let of = |service, records: Vec<SrvRecord>| {
        let records = records.into_iter().take(MOST_RECORDS).filter(usable);
        records.map(move |record| (record, service))
    };
    let mut records: Vec<_> = of(Service::StartTls, plain).collect();
    if by_direct {
        records.extend(of(Service::DirectTls, direct));
    }
    if records.is_empty() {
        return Err(ResolveError::NotFound(format!(
            "the SRV records of {domain} (_xmpp-server._tcp, _xmpps-server._tcp) are not usable: each names port 0, an IP address or a single label instead of a host"
        )));
    }
    Ok(Choice::Targets(order(records, random)))
}

/// Why records that exist lead nowhere: each service is switched off, absent, or not for us.
fn nowhere(domain: &Domain, plain: &[SrvRecord], direct: &[SrvRecord]) -> ResolveError {
    if offered(direct) {
        let plain = if plain.is_empty() {
            "it has no _xmpp-server._tcp records"
        } else {
            "its _xmpp-server._tcp record has target \".\""
        };
        return ResolveError::NotFound(format!(
            "{domain} offers direct TLS only ({plain}), and tls.mode Disabled rules that out; allow TLS for it (tls.mode in partners, or for all)"
        ));
    }
    ResolveError::Disabled(match (plain.is_empty(), direct.is_empty()) {
        (false, false) => format!(
            "the SRV records of {domain} (_xmpp-server._tcp and _xmpps-server._tcp with target \".\") say that it does not federate"
        ),
        (true, _) => format!(
            "{domain} has no _xmpp-server._tcp records, and its _xmpps-server._tcp record (target \".\") says that it offers no direct TLS"
        ),
        (false, true) => {
            format!("the SRV record of {domain} (_xmpp-server._tcp with target \".\") says that it does not federate")
        }
    })
}

/// Whether there are records; a single one with target `.` says "not here" (RFC 2782, "Target").
pub(super) fn offered(records: &[SrvRecord]) -> bool {
    !records
        .iter()
        .all(|record| record.target == "." || record.target.is_empty())
}

/// A host name of two labels or more; numbers at the end would be read as an IPv4 address.
fn usable(record: &SrvRecord) -> bool {
    let host = record.target.trim_end_matches('.');
    let last = host.rsplit('.').next().unwrap_or_default();
    record.port != 0
        && host.contains('.')
        && !host.contains(':')
        && !last.is_empty()
        && !last.bytes().all(|b| b.is_ascii_digit())
}

/// Sorts by priority and draws the order inside a priority by weight (RFC 2782, "Weight").
fn order(mut records: Vec<(SrvRecord, Service)>, random: &mut impl Rng) -> Vec<Vec<Target>> {
    // Records of weight 0 come first in the running sum, so they have a small chance. Equal ones
    // have the same, whatever order they came in.
    records.shuffle(random);
    records.sort_by_key(|(record, _)| (record.priority, record.weight));
    let mut groups = Vec::new();
    for group in records.chunk_by(|(a, _), (b, _)| a.priority == b.priority) {
        let mut left = group.to_vec();
        let mut targets: Vec<Target> = Vec::with_capacity(left.len());
        while !left.is_empty() {
            let total: u32 = left.iter().map(|(record, _)| u32::from(record.weight)).sum();
            let drawn = random.random_range(0..=total);
            let mut sum = 0;
            let position = left
                .iter()
                .position(|(record, _)| {
                    sum += u32::from(record.weight);
                    sum >= drawn
                })
                .unwrap_or_default();
            let (record, service) = left.remove(position);
            let target = Target {
                host: record.target.trim_end_matches('.').to_ascii_lowercase(),
                port: record.port,
                service,
            };
            if !targets.contains(&target) {
                targets.push(target);
            }
        }
        groups.push(targets);
    }
    groups
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;
    use rstest::rstest;

    /// `10 5 5269 a.example` as in a zone file; `!` stands for SERVFAIL.
    fn answer(texts: &[&str]) -> Result<Vec<SrvRecord>, LookupError> {
        let record = |text: &&str| {
            if *text == "!" {
                return Err(LookupError("SERVFAIL".to_owned()));
            }
            let parts: Vec<_> = text.split(' ').collect();
            Ok(SrvRecord {
                priority: parts[0].parse().unwrap(),
                weight: parts[1].parse().unwrap(),
                port: parts[2].parse().unwrap(),
                target: parts[3].to_owned(),
            })
        };
        texts.iter().map(record).collect()
    }

    fn decide(plain: &[&str], direct: &[&str]) -> String {
        decide_with(plain, direct, true)
    }

    fn decide_with(plain: &[&str], direct: &[&str], with_direct: bool) -> String {
        let domain = Domain::parse("vngtp.lab").unwrap();
        let mut random = StdRng::seed_from_u64(1);
        let (plain, direct) = (answer(plain), answer(direct));
        match choose(&domain, plain, direct, with_direct, &mut random) {
            Ok(Choice::NoRecords) => "fallback".to_owned(),
            Ok(Choice::Targets(groups)) => groups
                .iter()
                .map(|g| g.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
                .collect::<Vec<_>>()
                .join(" | "),
            Err(error) => error.as_str().to_owned(),
        }
    }

    #[rstest]
    // Absence in both services is the only way to the domain's own addresses.
    #[case(&[], &[], "fallback")]
    #[case(&["0 0 5269 xmpp.vngtp.lab."], &[], "xmpp.vngtp.lab:5269")]
    #[case(&["0 0 5269 XMPP.vngtp.LAB."], &[], "xmpp.vngtp.lab:5269")]
    // `.` disables its own service only.
    #[case(&["0 0 0 ."], &[], "disabled")]
    #[case(&["0 0 0 ."], &["0 0 0 ."], "disabled")]
    #[case(&["0 0 0 ."], &["0 0 5270 xmpp.vngtp.lab."], "xmpp.vngtp.lab:5270 (direct TLS)")]
    #[case(&["0 0 5269 xmpp.vngtp.lab."], &["0 0 0 ."], "xmpp.vngtp.lab:5269")]
    #[case(&[], &["0 0 0 ."], "disabled")]
    // Any answer forbids the fallback, also one that is of no use.
    #[case(&[], &["0 0 5270 xmpp.vngtp.lab."], "xmpp.vngtp.lab:5270 (direct TLS)")]
    #[case(&[], &["0 0 0 xmpp.vngtp.lab."], "not-found")]
    #[case(&["0 0 0 ."], &["0 0 5270 localhost."], "not-found")]
    #[case(&["0 0 0 xmpp.vngtp.lab."], &[], "not-found")]
    #[case(&["0 0 5269 localhost."], &[], "not-found")]
    #[case(&["0 0 5269 192.0.2.1."], &[], "not-found")]
    // Broken answers are temporary where they would decide, else ignored.
    #[case(&["!"], &[], "temporary")]
    #[case(&["!"], &["0 0 5270 xmpp.vngtp.lab."], "temporary")]
    #[case(&[], &["!"], "fallback")]
    #[case(&["0 0 0 ."], &["!"], "temporary")]
    #[case(&["0 0 5269 xmpp.vngtp.lab."], &["!"], "xmpp.vngtp.lab:5269")]
    // Priorities in order, doubles once.
    #[case(&["20 0 5269 b.example.", "10 0 5269 a.example."], &[], "a.example:5269 | b.example:5269")]
    #[case(&["10 1 5269 a.example.", "10 2 5269 a.example."], &[], "a.example:5269")]
    // The priorities of both services are one order; the same host and port may speak both.
    #[case(
        &["20 0 5269 a.example.", "40 0 5269 b.example."],
        &["10 0 5270 a.example.", "30 0 5270 b.example."],
        "a.example:5270 (direct TLS) | a.example:5269 | b.example:5270 (direct TLS) | b.example:5269"
    )]
    #[case(
        &["20 0 5269 a.example."],
        &["10 0 5269 a.example."],
        "a.example:5269 (direct TLS) | a.example:5269"
    )]
    fn srv_answers_decide_where_to_go(#[case] plain: &[&str], #[case] direct: &[&str], #[case] expected: &str) {
        assert_eq!(decide(plain, direct), expected);
    }

    #[rstest]
    #[case(&["0 0 5269 xmpp.vngtp.lab."], &["0 0 5270 xmpp.vngtp.lab."], "xmpp.vngtp.lab:5269")]
    #[case(&[], &["0 0 5270 xmpp.vngtp.lab."], "not-found")]
    #[case(&["0 0 0 ."], &["0 0 5270 xmpp.vngtp.lab."], "not-found")]
    #[case(&["0 0 0 ."], &["0 0 0 ."], "disabled")]
    #[case(&[], &[], "fallback")]
    fn without_tls_direct_tls_is_no_way(#[case] plain: &[&str], #[case] direct: &[&str], #[case] expected: &str) {
        assert_eq!(decide_with(plain, direct, false), expected);
    }

    /// How often each of these is first among 4000 draws.
    fn first_places(plain: &[&str], direct: &[&str]) -> std::collections::HashMap<String, u32> {
        let of = |texts: &[&str], service| {
            let records = answer(texts).unwrap().into_iter();
            records.map(move |record| (record, service)).collect::<Vec<_>>()
        };
        let records = [of(plain, Service::StartTls), of(direct, Service::DirectTls)].concat();
        let mut random = StdRng::seed_from_u64(7);
        let mut first = std::collections::HashMap::<String, u32>::new();
        for _ in 0..4000 {
            let groups = order(records.clone(), &mut random);
            assert_eq!(groups[0].len(), records.len());
            *first.entry(groups[0][0].host.clone()).or_default() += 1;
        }
        first
    }

    #[test]
    fn weights_hold_across_both_services() {
        let first = first_places(
            &["0 60 5269 a.example", "0 10 5269 b.example"],
            &["0 20 5270 c.example", "0 10 5270 d.example"],
        );
        for (host, share) in [("a", 2400), ("b", 400), ("c", 800), ("d", 400)] {
            let count = first[&format!("{host}.example")];
            assert!(count.abs_diff(share) < 150, "{first:?}");
        }
    }

    #[test]
    fn equal_weights_share_alike_also_when_all_are_zero() {
        for weight in ["0", "5"] {
            let texts: Vec<_> = ["a", "b", "c", "d"]
                .iter()
                .map(|host| format!("0 {weight} 5269 {host}.example"))
                .collect();
            let texts: Vec<_> = texts.iter().map(String::as_str).collect();
            let first = first_places(&texts, &[]);
            for count in first.values() {
                assert!(count.abs_diff(1000) < 150, "{first:?}");
            }
            assert_eq!(first.len(), 4);
        }
    }

    #[test]
    fn weights_share_the_first_place_in_proportion() {
        let first = first_places(&["0 75 1 a.example", "0 25 1 b.example", "0 0 1 c.example"], &[]);
        assert!((2850..3150).contains(&first["a.example"]), "{first:?}");
        assert!((850..1150).contains(&first["b.example"]), "{first:?}");
        assert!(first["c.example"] < 100, "{first:?}");
    }

    #[test]
    fn a_flood_of_records_is_cut() {
        let texts: Vec<String> = (0..500).map(|n| format!("0 0 5269 h{n}.example.")).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        assert_eq!(decide(&texts, &[]).split(' ').count(), MOST_RECORDS);
    }
}
