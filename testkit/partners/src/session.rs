//! A user's session at a real server, through a real client library.
//!
//! The session answers ping, version and disco#info itself, and what the server pushes about the roster;
//! everything else goes into the inbox.

use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use minidom::Element;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio_xmpp::Stanza;
use tokio_xmpp::connect::{DnsConfig, TcpServerConnector};
use tokio_xmpp::stanzastream::{Event, StanzaStage, StanzaState, StanzaStream, StanzaToken, StreamEvent};
use tokio_xmpp::xmlstream::Timeouts;
use xmpp_parsers::disco::{DiscoInfoResult, Identity};
use xmpp_parsers::iq::Iq;
use xmpp_parsers::jid::{BareJid, Jid};
use xmpp_parsers::message::Message;
use xmpp_parsers::ns;
use xmpp_parsers::presence::{Presence, Type as PresenceType};
use xmpp_parsers::roster::Roster;
use xmpp_parsers::version::VersionResult;

use testkit_base::Error;
use testkit_base::inbox::Inbox;

/// How long a stanza may wait to be written to the server.
const SEND_DEADLINE: Duration = Duration::from_secs(10);

/// A user with a session that is kept up.
#[derive(Clone, Debug)]
pub struct User {
    jid: BareJid,
    inbox: Arc<Inbox>,
    online: Arc<Mutex<Option<Jid>>>,
    outgoing: mpsc::Sender<(Stanza, oneshot::Sender<StanzaToken>)>,
}

impl User {
    /// Starts the session in the background; it connects, and reconnects, by itself.
    pub fn connect(jid: &str, password: &str, server: SocketAddr) -> Result<Self, Error> {
        let jid = BareJid::from_str(jid).map_err(|error| format!("{jid} is no bare JID: {error}"))?;
        let connector = TcpServerConnector(DnsConfig::addr(&server.to_string()));
        let stream = StanzaStream::new_c2s(
            connector,
            Jid::from(jid.clone()),
            password.to_owned(),
            Timeouts::default(),
            1024,
        );
        let (outgoing, commands) = mpsc::channel(1024);
        let user = Self {
            jid,
            inbox: Arc::default(),
            online: Arc::default(),
            outgoing,
        };
        tokio::spawn(drive(
            stream,
            commands,
            user.jid.clone(),
            Arc::clone(&user.inbox),
            Arc::clone(&user.online),
        ));
        Ok(user)
    }

    /// The user's bare JID.
    pub fn jid(&self) -> &BareJid {
        &self.jid
    }

    /// What the user received.
    pub fn inbox(&self) -> &Inbox {
        &self.inbox
    }

    /// The full JID of the session, when there is one.
    pub fn online(&self) -> Option<String> {
        let online = self.online.lock();
        online.as_ref().map(ToString::to_string)
    }

    /// Sends one stanza given as XML; returns once it was written to the server.
    pub async fn send(&self, xml: &str) -> Result<(), Error> {
        let stanza = parse_stanza(xml)?;
        let unsent = || format!("{} has no session at its server", self.jid);
        let (reply, token) = oneshot::channel();
        let written = async {
            self.outgoing.send((stanza, reply)).await.map_err(|_| unsent())?;
            let mut token = token.await.map_err(|_| unsent())?;
            match token.wait_for(StanzaStage::Sent).await {
                Some(StanzaState::Sent { .. } | StanzaState::Acked { .. }) => Ok(()),
                Some(StanzaState::Failed { error }) => {
                    Err(format!("the stanza was not sent: {}", error.into_io_error()))
                }
                _ => Err(unsent()),
            }
        };
        tokio::time::timeout(SEND_DEADLINE, written)
            .await
            .map_err(|_| {
                format!(
                    "{} could not send within {} s: is the server reachable?",
                    self.jid,
                    SEND_DEADLINE.as_secs()
                )
            })?
            .map_err(Into::into)
    }
}

/// A stanza from XML without a namespace declaration.
fn parse_stanza(xml: &str) -> Result<Stanza, Error> {
    let refused = |why: String| -> Error { format!("this is no stanza: {why}: {xml}").into() };
    let element = Element::from_reader_with_prefixes(xml.as_bytes(), ns::JABBER_CLIENT.to_owned())
        .map_err(|error| refused(error.to_string()))?;
    match element.name() {
        "message" => Message::try_from(element)
            .map(Stanza::Message)
            .map_err(|error| refused(error.to_string())),
        "presence" => Presence::try_from(element)
            .map(Stanza::Presence)
            .map_err(|error| refused(error.to_string())),
        "iq" => Iq::try_from(element)
            .map(Stanza::Iq)
            .map_err(|error| refused(error.to_string())),
        other => Err(refused(format!("element {other}"))),
    }
}

fn to_xml(stanza: Stanza) -> String {
    let element = match stanza {
        Stanza::Message(message) => Element::from(message),
        Stanza::Presence(presence) => Element::from(presence),
        Stanza::Iq(iq) => Element::from(iq),
    };
    String::from(&element)
}

async fn drive(
    mut stream: StanzaStream,
    mut commands: mpsc::Receiver<(Stanza, oneshot::Sender<StanzaToken>)>,
    jid: BareJid,
    inbox: Arc<Inbox>,
    online: Arc<Mutex<Option<Jid>>>,
) {
    let set_online = |value: Option<Jid>| {
        *online.lock() = value;
    };
    loop {
        tokio::select! {
            event = stream.next() => match event {
                None => {
                    tracing::error!(%jid, "the session ended for good");
                    set_online(None);
                    return;
                }
                Some(Event::Stream(StreamEvent::Reset { bound_jid, .. })) => {
                    tracing::info!(jid = %bound_jid, "online");
                    // Subscriptions reach sessions that asked for the roster and are present.
                    let roster = Iq::from_get(ROSTER_ID, Roster { ver: None, items: vec![] });
                    stream.send(Box::new(roster.into())).await;
                    stream.send(Box::new(Presence::new(PresenceType::None).into())).await;
                    set_online(Some(bound_jid));
                }
                Some(Event::Stream(StreamEvent::Suspended)) => {
                    tracing::warn!(%jid, "connection to the server lost");
                    set_online(None);
                }
                Some(Event::Stream(StreamEvent::Resumed)) => {}
                Some(Event::Stanza(stanza)) => match own_business(&stanza, &jid) {
                    Business::Answer(answer) => {
                        stream.send(Box::new(Stanza::Iq(*answer))).await;
                    }
                    Business::Nothing => {}
                    Business::Inbox => inbox.push(to_xml(stanza)),
                },
            },
            command = commands.recv() => {
                let Some((stanza, reply)) = command else { return };
                // Whoever gave up waiting does not need the token.
                let _ = reply.send(stream.send(Box::new(stanza)).await);
            }
        }
    }
}

const ROSTER_ID: &str = "session-roster";

enum Business {
    Answer(Box<Iq>),
    Nothing,
    Inbox,
}

/// What the session deals with itself.
fn own_business(stanza: &Stanza, own: &BareJid) -> Business {
    match stanza {
        Stanza::Iq(Iq::Get { from, id, payload, .. }) => {
            let result: Element = if payload.is("ping", ns::PING) {
                return Business::Answer(result(from.clone(), id, None));
            } else if payload.is("query", ns::VERSION) {
                VersionResult {
                    name: "lab client".into(),
                    version: env!("CARGO_PKG_VERSION").into(),
                    os: None,
                }
                .into()
            } else if payload.is("query", ns::DISCO_INFO) {
                DiscoInfoResult {
                    node: None,
                    identities: vec![Identity::new("client", "pc", "en", "lab client")],
                    features: [ns::DISCO_INFO, ns::PING, ns::VERSION]
                        .map(str::to_owned)
                        .into_iter()
                        .collect(),
                    extensions: vec![],
                }
                .into()
            } else {
                return Business::Inbox;
            };
            Business::Answer(self::result(from.clone(), id, Some(result)))
        }
        Stanza::Iq(Iq::Set { from, id, payload, .. }) if payload.is("query", ns::ROSTER) => {
            Business::Answer(result(from.clone(), id, None))
        }
        Stanza::Iq(Iq::Result { id, .. }) if id == ROSTER_ID => Business::Nothing,
        // The server reflects the user's own presence.
        Stanza::Presence(Presence {
            from: Some(from),
            type_: PresenceType::None,
            ..
        }) if from.to_bare() == *own => Business::Nothing,
        _ => Business::Inbox,
    }
}

fn result(to: Option<Jid>, id: &str, payload: Option<Element>) -> Box<Iq> {
    Box::new(Iq::Result {
        from: None,
        to,
        id: id.to_owned(),
        payload,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::expect_used, clippy::panic, reason = "tests")]
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("<message to='bob@vngtp.lab' id='1' type='chat'><body>hi &amp; ho</body></message>")]
    #[case("<presence to='alice@coluc.com' type='subscribed'><priority>0</priority></presence>")]
    #[case("<iq to='alice@coluc.com/x' id='p1' type='get'><ping xmlns='urn:xmpp:ping'/></iq>")]
    fn a_raw_stanza_keeps_what_it_says(#[case] xml: &str) {
        let again = to_xml(parse_stanza(xml).expect("a stanza"));
        let expected = Element::from_reader_with_prefixes(xml.as_bytes(), ns::JABBER_CLIENT.to_owned()).expect("XML");
        assert_eq!(again.parse::<Element>().expect("XML"), expected);
    }

    #[rstest]
    #[case("<body>hi</body>", "element body")]
    #[case("<message", "this is no stanza")]
    fn what_is_no_stanza_is_refused(#[case] xml: &str, #[case] why: &str) {
        let error = parse_stanza(xml).expect_err("no stanza").to_string();
        assert!(error.contains(why), "{error}");
    }

    #[test]
    fn a_ping_is_answered_and_a_message_is_kept() {
        let own: BareJid = "bob@vngtp.lab".parse().expect("JID");
        let ping = parse_stanza("<iq from='alice@coluc.com/x' id='p1' type='get'><ping xmlns='urn:xmpp:ping'/></iq>")
            .expect("a stanza");
        let Business::Answer(answer) = own_business(&ping, &own) else {
            panic!("a ping is the session's own business");
        };
        assert_eq!(
            String::from(&Element::from(*answer)).parse::<Element>().expect("XML"),
            "<iq xmlns='jabber:client' to='alice@coluc.com/x' id='p1' type='result'/>"
                .parse::<Element>()
                .expect("XML")
        );
        let message = parse_stanza("<message from='a@b'/>").expect("a stanza");
        assert!(matches!(own_business(&message, &own), Business::Inbox));
    }
}
