//! A partner's server that takes any number of the edge's connections at once and treats each as a
//! table says; what it hears comes out of a channel.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;

use super::pki::{Identity, server};
use super::{DIALBACK, PATIENCE, Peer, Speaker, attribute, header};

pub const REMOTE: &str = "vngtp.lab";
pub const EXTERNAL: &str =
    "<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>EXTERNAL</mechanism></mechanisms>";
pub const REFUSED: &str =
    "<stream:error><policy-violation xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>";

/// What it does at some point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It goes on, or answers `valid` or `<success/>`.
    Yes,
    /// It answers `invalid`, or `<failure/>` with this condition.
    No(&'static str),
    /// It answers `error` to a `db:result`.
    Error,
    /// It ends the stream with an error.
    End,
    /// It says nothing.
    Silence,
}

/// How it treats a stream. Hosted domains are named as in the header or the `db:result`.
#[derive(Clone, Copy)]
pub struct Rules {
    /// Features over TLS, and after `<success/>`.
    pub offers: (&'static str, &'static str),
    /// The header in clear, by its `from`.
    pub header: fn(&str) -> Reply,
    /// `<auth/>`, by `from` and the identity in base64.
    pub auth: fn(&str, &str) -> Reply,
    /// `db:result`: the header's `from` and the one in question.
    pub key: fn(&str, &str) -> Reply,
}

impl Rules {
    pub const DIALBACK: Self = Self {
        offers: (DIALBACK, DIALBACK),
        header: |_| Reply::Yes,
        auth: |_, _| Reply::No("not-authorized"),
        key: |_, _| Reply::Yes,
    };
}

/// What it heard, with the number of the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A header in clear, with its `from`.
    Header(usize, String),
    /// `<auth/>` with its text.
    Auth(usize, String),
    /// A `db:result`, with its `from`.
    Key(usize, String),
    /// A message, with its id.
    Message(usize, String),
    /// The end.
    End(usize),
}

pub struct Partner {
    pub events: mpsc::UnboundedReceiver<Event>,
    /// Everything that came out so far.
    pub seen: Vec<Event>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Partner {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Partner {
    /// Takes the connections of this peer.
    pub fn start(peer: Peer, identity: Identity, rules: Rules) -> Self {
        let (heard, events) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            let mut number = 0;
            loop {
                let (tcp, _) = peer.listener.accept().await.unwrap();
                let stream = Stream {
                    speaker: Speaker::new(tcp),
                    number,
                    identity: identity.clone(),
                    rules,
                    heard: heard.clone(),
                };
                tokio::spawn(stream.run());
                number += 1;
            }
        });
        Self {
            events,
            seen: Vec::new(),
            task,
        }
    }

    /// Waits for an event; those before it are kept in `seen`.
    pub async fn until(&mut self, what: &str, wanted: impl Fn(&Event) -> bool) -> Event {
        loop {
            let next = timeout(PATIENCE, self.events.recv()).await;
            let event = next.unwrap_or_else(|_| panic!("never: {what}; came {:?}", self.seen));
            let event = event.unwrap();
            self.seen.push(event.clone());
            if wanted(&event) {
                return event;
            }
        }
    }

    /// Waits for a message; gives its connection.
    pub async fn message(&mut self, id: &str) -> usize {
        let is = |event: &Event| matches!(event, Event::Message(_, seen) if seen == id);
        match self.until(id, is).await {
            Event::Message(connection, _) => connection,
            other => panic!("{other:?}"),
        }
    }

    /// What else comes within a while.
    pub async fn rest(&mut self, time: Duration) -> Vec<Event> {
        let mut rest = Vec::new();
        while let Ok(Some(event)) = timeout(time, self.events.recv()).await {
            rest.push(event);
        }
        rest
    }
}

struct Stream {
    speaker: Speaker,
    number: usize,
    identity: Identity,
    rules: Rules,
    heard: mpsc::UnboundedSender<Event>,
}

impl Stream {
    async fn run(mut self) {
        self.talk().await;
        let _ = self.heard.send(Event::End(self.number));
    }

    fn tell(&self, event: impl Fn(usize) -> Event) {
        let _ = self.heard.send(event(self.number));
    }

    async fn say(&mut self, text: &str) -> Option<()> {
        self.speaker.try_say(text.as_bytes()).await.ok()
    }

    async fn talk(&mut self) -> Option<()> {
        let first = self.speaker.hear_any(&["version='1.0'>"]).await?;
        let from = attribute(&first, "stream:stream", "from");
        self.tell(|number| Event::Header(number, from.clone()));
        self.say(&header(REMOTE, &from, "clear-id")).await?;
        match (self.rules.header)(&from) {
            Reply::Yes => {}
            Reply::Silence => return self.sleep().await,
            _ => return self.end().await,
        }
        let starttls = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls>";
        self.say(&format!("<stream:features>{starttls}</stream:features>"))
            .await?;
        self.speaker.hear_any(&["xmpp-tls'/>"]).await?;
        self.say("<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>").await?;
        let config = server(&self.identity);
        self.speaker.tls_server(config).await.ok()?;
        self.speaker.hear_any(&["version='1.0'>"]).await?;
        let (before, after) = self.rules.offers;
        self.features(&from, "tls", before).await?;
        loop {
            let ends = ["</auth>", "</db:result>", "/>", "version='1.0'>", "</stream:stream>"];
            let text = self.speaker.hear_any(&ends).await?;
            if text.ends_with("</stream:stream>") {
                self.say("</stream:stream>").await?;
                return None;
            } else if text.ends_with("version='1.0'>") {
                self.features(&from, "sasl", after).await?;
            } else if let Some(identity) = text.strip_suffix("</auth>") {
                let identity = identity.rsplit('>').next().unwrap_or_default().to_owned();
                self.tell(|number| Event::Auth(number, identity.clone()));
                let sasl = "xmlns='urn:ietf:params:xml:ns:xmpp-sasl'";
                match (self.rules.auth)(&from, &identity) {
                    Reply::Yes => self.say(&format!("<success {sasl}/>")).await?,
                    Reply::No(condition) => {
                        self.say(&format!("<failure {sasl}><{condition}/></failure>")).await?;
                    }
                    Reply::Silence => {}
                    Reply::End | Reply::Error => return self.end().await,
                }
            } else if text.ends_with("</db:result>") {
                let local = attribute(&text, "db:result", "from");
                self.tell(|number| Event::Key(number, local.clone()));
                let answer = |kind: &str, inside: &str| {
                    format!("<db:result from='{REMOTE}' to='{local}' type='{kind}'>{inside}</db:result>")
                };
                match (self.rules.key)(&from, &local) {
                    Reply::Yes => self.say(&answer("valid", "")).await?,
                    Reply::No(_) => self.say(&answer("invalid", "")).await?,
                    Reply::Error => {
                        let error =
                            "<error type='auth'><not-allowed xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>";
                        self.say(&answer("error", error)).await?;
                    }
                    Reply::Silence => {}
                    Reply::End => return self.end().await,
                }
            } else {
                let id = attribute(&text, "message", "id");
                self.tell(|number| Event::Message(number, id.clone()));
            }
        }
    }

    async fn features(&mut self, from: &str, id: &str, inside: &str) -> Option<()> {
        let header = header(REMOTE, from, &format!("{id}-{}", self.number));
        self.say(&format!("{header}<stream:features>{inside}</stream:features>"))
            .await
    }

    async fn end(&mut self) -> Option<()> {
        self.say(REFUSED).await?;
        self.speaker.finish_writing().await;
        self.speaker.hear_any(&["</stream:stream>"]).await?;
        None
    }

    async fn sleep(&mut self) -> Option<()> {
        self.speaker.hear_any(&["</stream:stream>"]).await?;
        None
    }
}
