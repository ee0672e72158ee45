//! From SRV answers to targets in order: the `.` rule, priorities and weights (RFC 2782).

use rand::Rng;
use xmpp_federation_core::Domain;

use super::dns::{LookupError, SrvRecord};
use super::{ResolveError, Target};

/// What the SRV answers say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// Groups by priority; inside a group in the order drawn by weight.
    Targets(Vec<Vec<Target>>),
    /// Neither service has records: the domain's own addresses count.
    NoRecords,
}

/// The most records of one domain that are looked at.
const MOST_RECORDS: usize = 64;

/// Decides by both services' answers. `_xmpps-server` (direct TLS, XEP-0368) is read for what it
/// says about the fallback; its targets are not used.
pub fn choose(
    domain: &Domain,
    plain: Result<Vec<SrvRecord>, LookupError>,
    direct: Result<Vec<SrvRecord>, LookupError>,
    random: &mut impl Rng,
) -> Result<Choice, ResolveError> {
    let temporary = |error: LookupError| {
        ResolveError::Temporary(format!(
            "{error}; {domain} will be tried again, check its name servers if this lasts"
        ))
    };
    let mut plain = plain.map_err(temporary)?;
    if plain.is_empty() {
        // Whether the fallback is allowed depends on the second answer: without one, wait.
        let direct = direct.map_err(temporary)?;
        if direct.is_empty() {
            return Ok(Choice::NoRecords);
        }
        return Err(if offered(&direct) {
            ResolveError::NotFound(format!(
                "{domain} offers direct TLS only, which this release does not use; it needs _xmpp-server._tcp.{domain} records for STARTTLS"
            ))
        } else {
            ResolveError::Disabled(format!(
                "{domain} has no _xmpp-server._tcp records and says by _xmpps-server._tcp with target \".\" that it offers no direct TLS either"
            ))
        });
    }
    if !offered(&plain) {
        let more = match direct {
            Ok(direct) if !direct.is_empty() && offered(&direct) => "; it offers direct TLS only",
            _ => "",
        };
        return Err(ResolveError::Disabled(format!(
            "{domain} says by _xmpp-server._tcp.{domain} with target \".\" that it does not federate{more}"
        )));
    }
    plain.truncate(MOST_RECORDS);
    let records: Vec<_> = plain.into_iter().filter(usable).collect();
    if records.is_empty() {
        return Err(ResolveError::NotFound(format!(
            "_xmpp-server._tcp.{domain} has no usable record: each names port 0, an IP address or a single label instead of a host"
        )));
    }
    Ok(Choice::Targets(order(records, random)))
}

/// A single record with target `.` says "not here" (RFC 2782, "Target").
fn offered(records: &[SrvRecord]) -> bool {
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
fn order(mut records: Vec<SrvRecord>, random: &mut impl Rng) -> Vec<Vec<Target>> {
    // Records of weight 0 come first in the running sum, so they have a small chance.
    records.sort_by_key(|record| (record.priority, record.weight));
    let mut groups = Vec::new();
    for group in records.chunk_by(|a, b| a.priority == b.priority) {
        let mut left = group.to_vec();
        let mut targets: Vec<Target> = Vec::with_capacity(left.len());
        while !left.is_empty() {
            let total: u32 = left.iter().map(|record| u32::from(record.weight)).sum();
            let drawn = random.random_range(0..=total);
            let mut sum = 0;
            let position = left
                .iter()
                .position(|record| {
                    sum += u32::from(record.weight);
                    sum >= drawn
                })
                .unwrap_or_default();
            let record = left.remove(position);
            let target = Target {
                host: record.target.trim_end_matches('.').to_ascii_lowercase(),
                port: record.port,
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
        let domain = Domain::parse("vngtp.lab").unwrap();
        let mut random = StdRng::seed_from_u64(1);
        match choose(&domain, answer(plain), answer(direct), &mut random) {
            Ok(Choice::NoRecords) => "fallback".to_owned(),
            Ok(Choice::Targets(groups)) => groups
                .iter()
                .map(|g| {
                    g.iter()
                        .map(ToString::to_string)
                        .collect::<Vec<_>>()
                        .join(" ")
                })
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
    #[case(&["0 0 0 ."], &["0 0 5270 xmpp.vngtp.lab."], "disabled")]
    #[case(&["0 0 5269 xmpp.vngtp.lab."], &["0 0 0 ."], "xmpp.vngtp.lab:5269")]
    #[case(&[], &["0 0 0 ."], "disabled")]
    // Any answer forbids the fallback, also one that is of no use.
    #[case(&[], &["0 0 5270 xmpp.vngtp.lab."], "not-found")]
    #[case(&["0 0 0 xmpp.vngtp.lab."], &[], "not-found")]
    #[case(&["0 0 5269 localhost."], &[], "not-found")]
    #[case(&["0 0 5269 192.0.2.1."], &[], "not-found")]
    // Broken answers are temporary where they would decide, else ignored.
    #[case(&["!"], &[], "temporary")]
    #[case(&["!"], &["0 0 5270 xmpp.vngtp.lab."], "temporary")]
    #[case(&[], &["!"], "temporary")]
    #[case(&["0 0 5269 xmpp.vngtp.lab."], &["!"], "xmpp.vngtp.lab:5269")]
    // Priorities in order, doubles once.
    #[case(&["20 0 5269 b.example.", "10 0 5269 a.example."], &[], "a.example:5269 | b.example:5269")]
    #[case(&["10 1 5269 a.example.", "10 2 5269 a.example."], &[], "a.example:5269")]
    fn srv_answers_decide_where_to_go(
        #[case] plain: &[&str],
        #[case] direct: &[&str],
        #[case] expected: &str,
    ) {
        assert_eq!(decide(plain, direct), expected);
    }

    #[test]
    fn weights_share_the_first_place_in_proportion() {
        let records = answer(&["0 75 1 a.example", "0 25 1 b.example", "0 0 1 c.example"]).unwrap();
        let mut random = StdRng::seed_from_u64(7);
        let mut first = std::collections::HashMap::<String, u32>::new();
        for _ in 0..4000 {
            let groups = order(records.clone(), &mut random);
            assert_eq!(groups[0].len(), 3);
            *first.entry(groups[0][0].host.clone()).or_default() += 1;
        }
        assert!((2850..3150).contains(&first["a.example"]), "{first:?}");
        assert!((850..1150).contains(&first["b.example"]), "{first:?}");
        assert!(first["c.example"] < 100, "{first:?}");
    }

    #[test]
    fn a_flood_of_records_is_cut() {
        let texts: Vec<String> = (0..500)
            .map(|n| format!("0 0 5269 h{n}.example."))
            .collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        assert_eq!(decide(&texts, &[]).split(' ').count(), MOST_RECORDS);
    }
}
