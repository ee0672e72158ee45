//! The records of the lab's zones.

use std::collections::BTreeMap;
use std::str::FromStr;

use hickory_proto::rr::rdata::SOA;
use hickory_proto::rr::{LowerName, Name, RData, Record, RecordType};
use serde::{Deserialize, Serialize};

use testkit_base::Error;

/// Time to live of a record that names none, in seconds.
pub const DEFAULT_TTL: u32 = 5;

/// All values of one name and type, in the notation of a zone file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordSpec {
    /// Absolute domain name; a trailing dot is optional.
    pub name: String,
    /// `A`, `AAAA`, `SRV`, `CNAME`, …
    #[serde(rename = "type")]
    pub record_type: String,
    /// Seconds.
    #[serde(default = "default_ttl")]
    pub ttl: u32,
    /// One text per value, for example `10 0 5269 eft-xwye-a.coluc.com`.
    pub values: Vec<String>,
}

fn default_ttl() -> u32 {
    DEFAULT_TTL
}

type Sets = BTreeMap<(LowerName, RecordType), Vec<Record>>;

/// What a look-up in the zones finds.
#[derive(Debug)]
pub(super) enum Found {
    /// Records, aliases first.
    Answer(Vec<Record>),
    /// The name exists, the type does not: aliases followed, SOA.
    NoData(Vec<Record>, Record),
    /// The name does not exist: aliases followed, SOA.
    NoName(Vec<Record>, Record),
    /// Outside all zones; the SOA of the root.
    Outside(Vec<Record>, Record),
}

/// Zones with their records.
#[derive(Clone, Debug, Default)]
pub struct Zones {
    origins: Vec<LowerName>,
    sets: Sets,
}

impl Zones {
    /// The zones of the lab: coluc.com, vngtp.lab, ciscotac.net.
    pub fn lab() -> Result<Self, Error> {
        let mut records = Vec::new();
        let mut add = |name: &str, record_type: &str, value: &str| {
            records.push(RecordSpec {
                name: name.to_owned(),
                record_type: record_type.to_owned(),
                ttl: DEFAULT_TTL,
                values: vec![value.to_owned()],
            });
        };
        for zone in ["coluc.com", "vngtp.lab", "ciscotac.net"] {
            let server = format!("ns1.{zone}");
            add(zone, "SOA", &format!("{server}. hostmaster.{zone}. 1 3600 600 86400 5"));
            add(zone, "NS", &server);
            add(&server, "A", "198.51.100.53");
        }
        add("ecup10.coluc.com", "A", "10.244.200.10");
        add("ecup10s.coluc.com", "A", "10.244.200.11");
        add("eft-xwye-a.coluc.com", "A", "203.0.113.10");
        for domain in ["coluc.com", "conf.coluc.com"] {
            let service = format!("_xmpp-server._tcp.{domain}");
            add(&service, "SRV", "10 0 5269 eft-xwye-a.coluc.com");
        }
        add("_xmpp-server._tcp.vngtp.lab", "SRV", "0 0 5269 xmpp.vngtp.lab");
        add("xmpp.vngtp.lab", "A", "198.51.100.20");
        add("cups.ciscotac.net", "A", "10.244.200.10");
        Self::from_records(&records)
    }

    /// The same with IPv6: the subscriber has nothing else, the publisher has none.
    pub fn dual_lab() -> Result<Self, Error> {
        let mut zones = Self::lab()?;
        let mut set = |name: &str, record_type: &str, values: &[&str]| {
            zones.set(&RecordSpec {
                name: name.to_owned(),
                record_type: record_type.to_owned(),
                ttl: DEFAULT_TTL,
                values: values.iter().map(ToString::to_string).collect(),
            })
        };
        for zone in ["coluc.com", "vngtp.lab", "ciscotac.net"] {
            set(&format!("ns1.{zone}"), "AAAA", &["2001:db8:64::53"])?;
        }
        set("ecup10s.coluc.com", "A", &[])?;
        set("ecup10s.coluc.com", "AAAA", &["fd44:0:0:c8::11"])?;
        set("eft-xwye-a.coluc.com", "AAAA", &["2001:db8::cb00:710a"])?;
        set("xmpp.vngtp.lab", "AAAA", &["2001:db8:64::20"])?;
        Ok(zones)
    }

    /// Zones from a list of records; every SOA record makes a zone.
    pub fn from_records(records: &[RecordSpec]) -> Result<Self, Error> {
        let mut zones = Self::default();
        for record in records {
            if record.record_type.eq_ignore_ascii_case("SOA") {
                zones.origins.push(LowerName::from(absolute(&record.name)?));
            }
        }
        // Longest first: the most specific zone answers.
        zones
            .origins
            .sort_by_key(|origin| std::cmp::Reverse(origin.num_labels()));
        for record in records {
            zones.set(record)?;
        }
        Ok(zones)
    }

    /// Sets the values of one name and type; none remove it.
    pub fn set(&mut self, spec: &RecordSpec) -> Result<(), Error> {
        let name = absolute(&spec.name)?;
        let key = (LowerName::new(&name), record_type(&spec.record_type)?);
        if self.zone_of(&key.0).is_none() {
            return Err(format!(
                "{} is in none of the zones served here: {}",
                spec.name,
                self.origins
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(", ")
            )
            .into());
        }
        let mut set = Vec::new();
        for value in &spec.values {
            let data = RData::try_from_str(key.1, &absolute_targets(key.1, value))
                .map_err(|error| format!("{value} is no value of a {} record: {error}", key.1))?;
            set.push(Record::from_rdata(name.clone(), spec.ttl, data));
        }
        if set.is_empty() {
            self.sets.remove(&key);
        } else {
            self.sets.insert(key, set);
        }
        Ok(())
    }

    /// All records of one zone; none when it is not served here.
    pub fn list(&self, origin: &str) -> Result<Option<Vec<RecordSpec>>, Error> {
        let origin = LowerName::from(absolute(origin)?);
        if !self.origins.contains(&origin) {
            return Ok(None);
        }
        let records = self
            .sets
            .iter()
            .filter(|((name, _), _)| self.zone_of(name) == Some(&origin))
            .map(|((name, kind), set)| RecordSpec {
                name: name.to_string(),
                record_type: kind.to_string(),
                ttl: set.first().map_or(DEFAULT_TTL, |record| record.ttl),
                values: set.iter().map(|record| record.data.to_string()).collect(),
            })
            .collect();
        Ok(Some(records))
    }

    pub(super) fn look_up(&self, asked: &LowerName, kind: RecordType) -> Found {
        let mut name = asked.clone();
        let mut answer = Vec::new();
        // A chain of aliases longer than this is a loop.
        for _ in 0..8 {
            let Some(origin) = self.zone_of(&name) else {
                return Found::Outside(answer, root_soa());
            };
            if let Some(set) = self.sets.get(&(name.clone(), kind)) {
                answer.extend(set.iter().cloned());
                return Found::Answer(answer);
            }
            if let Some(alias) = self
                .sets
                .get(&(name.clone(), RecordType::CNAME))
                .and_then(|set| set.first())
                && let RData::CNAME(target) = &alias.data
            {
                answer.push(alias.clone());
                name = LowerName::new(&target.0);
                continue;
            }
            let soa = self.soa(origin);
            // A name with records below it exists, even when it has none itself (RFC 8020).
            // In canonical order (RFC 4034, 6.1) what lies below a name follows it directly.
            let exists = self
                .sets
                .range((name.clone(), RecordType::from(0))..)
                .next()
                .is_some_and(|((known, _), _)| name.zone_of(known));
            return if exists {
                Found::NoData(answer, soa)
            } else {
                Found::NoName(answer, soa)
            };
        }
        Found::Answer(answer)
    }

    fn zone_of(&self, name: &LowerName) -> Option<&LowerName> {
        self.origins.iter().find(|origin| origin.zone_of(name))
    }

    fn soa(&self, origin: &LowerName) -> Record {
        self.sets
            .get(&(origin.clone(), RecordType::SOA))
            .and_then(|set| set.first())
            .cloned()
            .unwrap_or_else(root_soa)
    }
}

fn root_soa() -> Record {
    let soa = SOA::new(Name::root(), Name::root(), 1, 3600, 600, 86400, DEFAULT_TTL);
    Record::from_rdata(Name::root(), DEFAULT_TTL, RData::SOA(soa))
}

fn absolute(name: &str) -> Result<Name, Error> {
    let mut parsed = Name::from_str(name).map_err(|error| format!("{name} is no domain name: {error}"))?;
    parsed.set_fqdn(true);
    Ok(parsed)
}

fn record_type(text: &str) -> Result<RecordType, Error> {
    RecordType::from_str(&text.to_ascii_uppercase()).map_err(|_| format!("{text} is no DNS record type").into())
}

/// Names inside values are absolute here; zone-file notation would want a trailing dot.
fn absolute_targets(kind: RecordType, value: &str) -> String {
    let ends_in_name = matches!(
        kind,
        RecordType::SRV | RecordType::CNAME | RecordType::NS | RecordType::MX | RecordType::PTR
    );
    if ends_in_name && !value.ends_with('.') {
        format!("{value}.")
    } else {
        value.to_owned()
    }
}
