//! The simulated users and conference aliases: an inbox each, and what a client answers by itself.

use super::cluster::Node;
use super::config::ImpConfig;
use super::refused::Refused;
use super::router::{COMPONENT_NS, domain_of, error_answer};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use testkit_base::inbox::{Inbox, Received};
use testkit_base::xml::{Element, parse_stanza};

/// All users by bare JID, conference aliases by their domain.
#[derive(Debug)]
pub struct Users(BTreeMap<String, User>);

/// One user, or one conference alias with all its rooms.
#[derive(Debug)]
struct User {
    jid: String,
    alias: bool,
    home: Arc<Node>,
    inbox: Inbox,
}

/// What became of a stanza for a local address.
#[derive(Debug)]
pub enum Delivery {
    /// It is in an inbox.
    Taken,
    /// The client or server answered by itself.
    Answered(Element),
    /// Nobody there; the answer where one is due.
    Refused(Option<Element>),
}

const PING: &str = "urn:xmpp:ping";
const VERSION: &str = "jabber:iq:version";
const DISCO_INFO: &str = "http://jabber.org/protocol/disco#info";

impl Users {
    /// The users and aliases of the configuration at their home nodes.
    pub fn new(config: &ImpConfig, nodes: &[Arc<Node>]) -> Result<Self, testkit_base::Error> {
        let publisher = nodes.first().ok_or("a cluster needs at least one node")?;
        let mut users = BTreeMap::new();
        let mut add = |jid: String, alias, home: &Arc<Node>| {
            let user = User {
                jid: jid.clone(),
                alias,
                home: home.clone(),
                inbox: Inbox::default(),
            };
            users.insert(jid, user);
        };
        for user in &config.users {
            let home = match &user.node {
                None => publisher,
                // A configuration with other node names still has its users, all at the publisher.
                Some(name) => nodes.iter().find(|node| &node.name == name).unwrap_or(publisher),
            };
            add(user.jid.to_lowercase(), false, home);
        }
        for alias in &config.conference_aliases {
            add(alias.to_lowercase(), true, publisher);
        }
        Ok(Self(users))
    }

    /// A stanza as a test writes it, with the sender filled in; and the sender's home.
    pub fn outgoing(&self, jid: &str, text: &[u8]) -> Result<(Element, Arc<Node>), Refused> {
        let user = self
            .find(jid)
            .ok_or_else(|| Refused::Unknown(format!("there is no user `{jid}`")))?;
        let mut stanza = parse_stanza(text, COMPONENT_NS).map_err(Refused::Invalid)?;
        if stanza.ns != COMPONENT_NS || !["message", "presence", "iq"].contains(&stanza.name.as_str()) {
            return Err(Refused::Invalid(format!("<{}/> is not a stanza", stanza.name)));
        }
        // RFC 6121: subscription stanzas carry the bare JID, all others the full one.
        let subscription = stanza.name == "presence"
            && ["subscribe", "subscribed", "unsubscribe", "unsubscribed"]
                .contains(&stanza.attribute("type").unwrap_or_default());
        let from = if subscription || user.alias {
            user.jid.clone()
        } else {
            user.full_jid()
        };
        match stanza.attribute("from") {
            Some(given) if self.find(given).is_some_and(|found| found.jid == user.jid) => {}
            Some(given) => {
                let text = format!("`{given}` is not an address of {}", user.jid);
                return Err(Refused::Invalid(text));
            }
            None => stanza.set("from", &from),
        }
        Ok((stanza, user.home.clone()))
    }

    /// To a local address.
    pub fn deliver(&self, domains: &[String], stanza: &Element) -> Delivery {
        let to = stanza.attribute("to").unwrap_or_default();
        let kind = stanza.attribute("type").unwrap_or_default();
        let request = stanza.name == "iq" && (kind == "get" || kind == "set");
        let user = self
            .find(to)
            .filter(|user| user.home.router.is_started() || kind == "error");
        if request {
            // The bare domain is the server itself.
            let server = user.is_none() && !to.contains(['@', '/']) && domains.contains(&to.to_lowercase());
            if user.is_some() || server {
                return answer_request(stanza, user).map_or_else(
                    || Delivery::Refused(error_answer(stanza, "service-unavailable")),
                    Delivery::Answered,
                );
            }
        }
        match user {
            Some(user) => {
                user.inbox.push(stanza.to_xml(COMPONENT_NS));
                Delivery::Taken
            }
            None if stanza.name == "presence" => Delivery::Refused((kind == "subscribe").then(|| {
                Element::new(COMPONENT_NS, "presence")
                    .with("from", to)
                    .with("to", stanza.attribute("from").unwrap_or_default())
                    .with("type", "unsubscribed")
            })),
            None => Delivery::Refused(error_answer(stanza, "service-unavailable")),
        }
    }

    /// What is behind `after`, without the stream's namespace; waits up to `wait` for the first such stanza.
    pub async fn inbox(&self, jid: &str, after: u64, wait: Duration) -> Option<Vec<Received>> {
        Some(self.find(jid)?.inbox.after(after, wait).await)
    }

    /// The JIDs of all users and aliases.
    pub fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    fn find(&self, jid: &str) -> Option<&User> {
        let bare = jid.split_once('/').map_or(jid, |(bare, _)| bare).to_lowercase();
        self.0
            .get(&bare)
            .or_else(|| self.0.get(&domain_of(&bare)).filter(|user| user.alias))
    }
}

impl User {
    fn full_jid(&self) -> String {
        format!("{}/imp", self.jid)
    }
}

/// The result for what every client and server answers by itself; `None` for the rest.
fn answer_request(stanza: &Element, user: Option<&User>) -> Option<Element> {
    let query = stanza.elements().next()?;
    if stanza.attribute("type") != Some("get") {
        return None;
    }
    let mut answer = Element::new(COMPONENT_NS, "iq").with("type", "result");
    for (ours, theirs) in [("from", "to"), ("to", "from"), ("id", "id")] {
        answer.set(ours, stanza.attribute(theirs)?);
    }
    let payload = match query.ns.as_str() {
        PING => None,
        VERSION => Some(
            Element::new(VERSION, "query")
                .with_child(Element::new(VERSION, "name").with_text("Simulated IM&P"))
                .with_child(Element::new(VERSION, "version").with_text(env!("CARGO_PKG_VERSION"))),
        ),
        DISCO_INFO => {
            let (category, kind) = match user {
                None => ("server", "im"),
                Some(user) if user.alias => ("conference", "text"),
                Some(_) if stanza.attribute("to").is_some_and(|to| to.contains('/')) => ("client", "pc"),
                Some(_) => ("account", "registered"),
            };
            let mut info = Element::new(DISCO_INFO, "query").with_child(
                Element::new(DISCO_INFO, "identity")
                    .with("category", category)
                    .with("type", kind),
            );
            for feature in [DISCO_INFO, PING, VERSION] {
                info = info.with_child(Element::new(DISCO_INFO, "feature").with("var", feature));
            }
            Some(info)
        }
        _ => return None,
    };
    Some(match payload {
        Some(payload) => answer.with_child(payload),
        None => answer,
    })
}
