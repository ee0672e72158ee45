//! The simulated and real users, as scenarios see them: sending a stanza, waiting for one.

use std::time::{Duration, Instant};

use serde::Deserialize;

use testkit_base::Error;
use testkit_base::inbox::Received;
use testkit_base::xml::{Element, parse_stanza};

const CLIENT: &str = "jabber:client";

/// A user behind an HTTP face.
#[derive(Clone, Debug)]
pub struct User {
    http: reqwest::Client,
    base: String,
    jid: String,
}

/// A received stanza, taken apart as far as scenarios need it.
#[derive(Clone, Debug)]
pub struct Stanza {
    /// `message`, `presence`, `iq`.
    pub name: String,
    /// Attribute, empty when absent.
    pub from: String,
    /// Attribute, empty when absent.
    pub id: String,
    /// Attribute, empty when absent.
    pub kind: String,
    /// Text of the `body`, empty when absent.
    pub body: String,
    /// Position in the inbox.
    pub seq: u64,
    element: Element,
}

impl Stanza {
    /// Reads an inbox entry.
    pub fn read(received: &Received) -> Result<Self, Error> {
        let element = parse_stanza(received.stanza.as_bytes(), CLIENT)
            .map_err(|error| format!("an inbox holds no XML: {error}: {}", received.stanza))?;
        let attribute = |name: &str| element.attribute(name).unwrap_or_default().to_owned();
        Ok(Self {
            name: element.name.clone(),
            from: attribute("from"),
            id: attribute("id"),
            kind: attribute("type"),
            body: element.child("body").map(Element::text).unwrap_or_default(),
            seq: received.seq,
            element,
        })
    }

    /// The whole stanza.
    pub fn xml(&self) -> String {
        self.element.to_xml(CLIENT)
    }

    /// Condition of the stanza error it carries, if it is an error.
    pub fn error_condition(&self) -> Option<String> {
        if self.kind != "error" {
            return None;
        }
        let mut conditions = self.element.child("error")?.elements();
        Some(conditions.find(|child| child.name != "text")?.name.clone())
    }
}

#[derive(Deserialize)]
struct Online {
    online: Option<String>,
}

impl User {
    /// A user whose HTTP face is at `base`, for example `http://10.244.200.10:8080`.
    pub fn new(http: &reqwest::Client, base: &str, jid: &str) -> Self {
        Self {
            http: http.clone(),
            base: base.to_owned(),
            jid: jid.to_owned(),
        }
    }

    /// The bare JID.
    pub fn jid(&self) -> &str {
        &self.jid
    }

    /// Sends one stanza.
    pub async fn send(&self, xml: &str) -> Result<(), Error> {
        let url = format!("{}/users/{}/stanza", self.base, self.jid);
        let answer = self.http.post(&url).body(xml.to_owned()).send().await?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let why = answer.text().await.unwrap_or_default();
        Err(format!("{} could not send: {status} {why}", self.jid).into())
    }

    /// The full JID of the session; an error while there is none.
    pub async fn full_jid(&self) -> Result<String, Error> {
        let url = format!("{}/users/{}", self.base, self.jid);
        let online: Online = self.http.get(&url).send().await?.json().await?;
        online
            .online
            .ok_or_else(|| format!("{} has no session", self.jid).into())
    }

    /// Everything received after `seq`; waits up to `wait` for the first of it.
    pub async fn inbox(&self, seq: u64, wait: Duration) -> Result<Vec<Stanza>, Error> {
        let url = format!(
            "{}/users/{}/inbox?after={seq}&wait={}",
            self.base,
            self.jid,
            wait.as_millis()
        );
        let answer = self.http.get(&url).send().await?;
        let status = answer.status();
        if !status.is_success() {
            let why = answer.text().await.unwrap_or_default();
            return Err(format!("the inbox of {}: {status} {why}", self.jid).into());
        }
        let received: Vec<Received> = answer.json().await?;
        received.iter().map(Stanza::read).collect()
    }

    /// The position of the newest stanza: what comes later is after it.
    pub async fn position(&self) -> Result<u64, Error> {
        let all = self.inbox(0, Duration::ZERO).await?;
        Ok(all.last().map_or(0, |stanza| stanza.seq))
    }

    /// Waits for a stanza after `seq` that fits.
    pub async fn expect(
        &self,
        seq: u64,
        what: &str,
        limit: Duration,
        fits: impl Fn(&Stanza) -> bool,
    ) -> Result<Stanza, Error> {
        let deadline = Instant::now() + limit;
        let mut after = seq;
        let mut others = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            for stanza in self.inbox(after, left).await? {
                after = stanza.seq;
                if fits(&stanza) {
                    return Ok(stanza);
                }
                others.push(stanza.xml());
            }
            if Instant::now() >= deadline {
                let came = if others.is_empty() {
                    "nothing came".to_owned()
                } else {
                    format!("what came instead: {}", others.join(" "))
                };
                return Err(format!(
                    "{} did not receive {what} within {} s; {came}",
                    self.jid,
                    limit.as_secs()
                )
                .into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::expect_used, reason = "tests")]
    use super::*;

    #[test]
    fn an_error_stanza_tells_its_condition() {
        let received = Received {
            seq: 4,
            at_ms: 0,
            stanza: "<message xmlns='jabber:client' from='a@b' to='c@d' id='7' type='error'><body>x</body>\
                     <error type='cancel'><remote-server-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>\
                     <text xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'>y</text></error></message>"
                .into(),
        };
        let stanza = Stanza::read(&received).expect("a stanza");
        assert_eq!(stanza.error_condition().as_deref(), Some("remote-server-not-found"));
        assert_eq!((stanza.id.as_str(), stanza.body.as_str(), stanza.seq), ("7", "x", 4));
    }
}
