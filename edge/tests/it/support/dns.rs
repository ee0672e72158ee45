//! A DNS that says what a test wants.

use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use xmpp_federation_edge::config::Live;
use xmpp_federation_edge::resolve::{Lookup, LookupError, Resolver, SrvRecord};

/// All domains have the same records; without any, nothing exists.
#[derive(Default)]
pub struct Dns {
    plain: Mutex<Vec<SrvRecord>>,
    direct: Vec<SrvRecord>,
    hosts: HashMap<String, Vec<Vec<IpAddr>>>,
    others: Vec<IpAddr>,
    asked: Mutex<Vec<String>>,
    broken: bool,
    delay: Duration,
}

fn record(priority: u16, port: u16, target: &str) -> SrvRecord {
    SrvRecord {
        priority,
        weight: 0,
        port,
        target: target.to_owned(),
    }
}

fn parsed(addresses: &[&str]) -> Vec<IpAddr> {
    addresses.iter().map(|text| text.parse().unwrap()).collect()
}

impl Dns {
    /// One more record of `_xmpp-server`.
    pub fn plain(self, priority: u16, port: u16, target: &str) -> Self {
        self.add_plain(priority, port, target);
        self
    }

    pub fn add_plain(&self, priority: u16, port: u16, target: &str) {
        self.plain.lock().unwrap().push(record(priority, port, target));
    }

    /// One more record of `_xmpps-server`.
    pub fn direct(mut self, priority: u16, port: u16, target: &str) -> Self {
        self.direct.push(record(priority, port, target));
        self
    }

    /// The answer to the next question for a host's addresses; the last one stays.
    pub fn host(mut self, name: &str, addresses: &[&str]) -> Self {
        self.hosts.entry(name.to_owned()).or_default().push(parsed(addresses));
        self
    }

    /// The addresses of every other host below `partner.example`.
    pub fn others(mut self, addresses: &[&str]) -> Self {
        self.others = parsed(addresses);
        self
    }

    /// Every question fails.
    pub fn broken(self) -> Self {
        Self { broken: true, ..self }
    }

    /// Every answer takes this long.
    pub fn slow(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }

    /// Has an edge look up everything here.
    pub fn resolves(self: &Arc<Self>, live: Live) -> Live {
        let resolver = Resolver::with_lookup(&live.config, self.clone(), Arc::default());
        Live {
            resolver: Arc::new(resolver),
            ..live
        }
    }

    /// The names that were asked about, once for each question.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    /// How often this name was asked about.
    pub fn count(&self, name: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|asked| *asked == name).count()
    }

    async fn answer<T>(&self, name: &str, answer: Vec<T>) -> Result<Vec<T>, LookupError> {
        tokio::time::sleep(self.delay).await;
        if self.broken {
            return Err(LookupError(format!("the DNS look-up of {name} failed: SERVFAIL")));
        }
        Ok(answer)
    }
}

type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<Vec<T>, LookupError>> + Send + 'a>>;

impl Lookup for Dns {
    fn srv<'a>(&'a self, name: &'a str) -> Answer<'a, SrvRecord> {
        self.asked.lock().unwrap().push(name.to_owned());
        let records = match name.split('.').next() {
            Some("_xmpp-server") => self.plain.lock().unwrap().clone(),
            Some("_xmpps-server") => self.direct.clone(),
            _ => Vec::new(),
        };
        Box::pin(self.answer(name, records))
    }

    fn addresses<'a>(&'a self, name: &'a str) -> Answer<'a, IpAddr> {
        let before = self.count(name);
        self.asked.lock().unwrap().push(name.to_owned());
        let found = match self.hosts.get(name) {
            Some(answers) => answers[before.min(answers.len() - 1)].clone(),
            None if name.ends_with("partner.example.") => self.others.clone(),
            None => Vec::new(),
        };
        Box::pin(self.answer(name, found))
    }
}
