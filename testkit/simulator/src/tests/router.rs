use super::*;
use data_encoding::HEXLOWER;
use rstest::rstest;
use sha1::{Digest, Sha1};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(super) const BOB: &str = "bob@vngtp.lab";
pub(super) const ALICE: &str = "alice@coluc.com";
const CAROL: &str = "carol@coluc.com";

/// A component written in bytes.
pub(super) struct Component {
    pub(super) stream: TcpStream,
    pub(super) seen: String,
}

impl Component {
    async fn open(imp: &SimulatedImp, node: usize, id: &str) -> Self {
        let stream = TcpStream::connect(imp.nodes()[node].xcp).await.unwrap();
        let mut component = Self {
            stream,
            seen: String::new(),
        };
        component
            .write(&format!(
                "<stream:stream xmlns='jabber:component:accept' xmlns:stream='http://etherx.jabber.org/streams' to='{id}'>"
            ))
            .await;
        component
    }

    async fn link(imp: &SimulatedImp, node: usize, id: &str) -> Self {
        let mut component = Self::open(imp, node, id).await;
        let answer = component.shake(imp, "router-secret").await;
        assert!(answer.contains("<handshake/>"), "{answer}");
        component.seen.clear();
        component
    }

    /// Waits for the header, sends the handshake; all that came until it was answered.
    pub(super) async fn shake(&mut self, _imp: &SimulatedImp, secret: &str) -> String {
        let header = self.read_until(" id='").await;
        let rest = header.split_once(" id='").unwrap().1.to_string();
        let rest = if rest.contains('\'') {
            rest
        } else {
            rest + &self.read_until("'").await
        };
        let id = rest.split('\'').next().unwrap();
        let digest = HEXLOWER.encode(&Sha1::digest(format!("{id}{secret}")));
        self.write(&format!("<handshake>{digest}</handshake>")).await;
        self.read_until_any(&["<handshake/>", "</stream:stream>"]).await
    }

    pub(super) async fn write(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    pub(super) async fn read_until(&mut self, what: &str) -> String {
        self.read_until_any(&[what]).await
    }

    /// Everything so far; panics when the connection ends before.
    pub(super) async fn read_until_any(&mut self, what: &[&str]) -> String {
        let mut buffer = [0; 4096];
        while !what.iter().any(|what| self.seen.contains(what)) {
            let read = tokio::time::timeout(Duration::from_secs(5), self.stream.read(&mut buffer));
            let count = read
                .await
                .unwrap_or_else(|_| panic!("no {what:?} in 5 s after {}", self.seen))
                .unwrap();
            assert!(count > 0, "closed before {what:?}: {}", self.seen);
            self.seen.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
        }
        self.seen.clone()
    }

    /// Everything until the other side ends.
    pub(super) async fn rest(mut self) -> String {
        let mut bytes = Vec::new();
        let _ = self.stream.read_to_end(&mut bytes).await;
        self.seen + std::str::from_utf8(&bytes).unwrap()
    }
}

/// A cluster whose routers have these ids loaded from the start.
async fn cluster(ids: &[&str]) -> SimulatedImp {
    cluster_with(ids, |_| {}).await
}

pub(super) async fn cluster_with(ids: &[&str], change: impl FnOnce(&mut ImpConfig)) -> SimulatedImp {
    let mut config = quick();
    config.rows.extend(ids.iter().map(|id| Row {
        pkid: uuid::Uuid::new_v4().to_string(),
        cp_id: (*id).into(),
    }));
    change(&mut config);
    SimulatedImp::start(config).await.unwrap()
}

pub(super) async fn inbox(imp: &SimulatedImp, jid: &str, after: u64) -> Vec<Received> {
    let items = imp.inbox(jid, after, Duration::from_secs(5)).await.unwrap();
    assert!(!items.is_empty(), "nothing for {jid} behind {after}");
    items
}

#[tokio::test]
async fn stanzas_go_both_ways_as_they_are() {
    let imp = cluster(&[ID]).await;
    let mut edge = Component::link(&imp, 0, ID).await;
    imp.send(ALICE, "<message to='bob@vngtp.lab' id='1' type='chat' xml:lang='de'><body>a &lt; ü &amp;\n</body><x xmlns='urn:x' a='&apos;'><y/></x></message>")
        .await
        .unwrap();
    let seen = edge.read_until("</message>").await;
    assert_eq!(
        seen,
        "<message from='alice@coluc.com/imp' id='1' to='bob@vngtp.lab' type='chat' xml:lang='de'><body>a &lt; ü &amp;&#10;</body><x xmlns='urn:x' a='&apos;'><y/></x></message>"
            .replace(" from='alice@coluc.com/imp' id='1' to='bob@vngtp.lab' type='chat' xml:lang='de'", &attributes(&seen))
    );
    for expected in [
        "from='alice@coluc.com/imp'",
        "to='bob@vngtp.lab'",
        "id='1'",
        "type='chat'",
        "xml:lang='de'",
    ] {
        assert!(seen.contains(expected), "{expected} in {seen}");
    }
    edge.write("<message from='bob@vngtp.lab/r' to='alice@coluc.com' id='2' type='chat'><body>back</body></message>")
        .await;
    let items = inbox(&imp, ALICE, 0).await;
    assert_eq!(items[0].seq, 1);
    assert!(items[0].stanza.contains("<body>back</body>"), "{}", items[0].stanza);
    assert!(!items[0].stanza.contains("xmlns="), "{}", items[0].stanza);
    // Subscription requests carry the bare address.
    imp.send(ALICE, "<presence to='bob@vngtp.lab' type='subscribe'/>")
        .await
        .unwrap();
    let seen = edge.read_until("subscribe").await;
    assert!(seen.contains("from='alice@coluc.com'"), "{seen}");
    let state = imp.state();
    let router = &state.nodes[0].router;
    assert_eq!((router.sent, router.delivered, router.bounced), (2, 1, 0));
    assert!(router.first_link_at_ms.is_some());
}

/// The attributes of the first tag, in the order in which they were written.
fn attributes(text: &str) -> String {
    let tag = text.split('>').next().unwrap();
    tag.strip_prefix("<message").unwrap().to_string()
}

#[rstest]
#[case::not_loaded("cm-9_s2scp-1.elsewhere", "router-secret", "host-unknown")]
#[case::wrong_secret(ID, "other", "not-authorized")]
#[tokio::test]
async fn who_is_not_known_is_refused(#[case] id: &str, #[case] secret: &str, #[case] condition: &str) {
    let imp = cluster(&[ID]).await;
    let mut component = Component::open(&imp, 0, id).await;
    let answer = component.shake(&imp, secret).await;
    let expected = format!("<stream:error><{condition} xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>");
    assert!(answer.contains(&expected), "{answer}");
    assert!(answer.ends_with("</stream:stream>"), "{answer}");
    let call = imp.calls(0).last().unwrap().clone();
    assert_eq!((&*call.service, call.detail.as_str()), ("xcp", id));
    assert!(call.outcome.starts_with(condition), "{}", call.outcome);
    assert!(imp.state().nodes[0].router.links.is_empty());
}

#[rstest]
#[case::second_link("", "conflict")]
#[case::no_handshake("<message/>", "not-authorized")]
#[case::malformed("<handshake></x>", "not-well-formed")]
#[case::entity("<handshake>&x;</handshake>", "restricted-xml")]
#[case::comment("<!-- x -->", "restricted-xml")]
#[tokio::test]
async fn openings_that_fail(#[case] text: &str, #[case] condition: &str) {
    let imp = cluster(&[ID]).await;
    let _first = Component::link(&imp, 0, ID).await;
    let mut component = Component::open(&imp, 0, ID).await;
    let answer = if text.is_empty() {
        component.shake(&imp, "router-secret").await
    } else {
        component.write(text).await;
        component.rest().await
    };
    assert!(answer.contains(&format!("<{condition} xmlns=")), "{answer}");
}

#[rstest]
#[case::own_domain("<message from='mallory@coluc.com' to='alice@coluc.com'/>", "invalid-from")]
#[case::alias("<message from='room@conf.coluc.com' to='alice@coluc.com'/>", "invalid-from")]
#[case::no_from("<message to='alice@coluc.com'/>", "improper-addressing")]
#[case::no_to("<message from='bob@vngtp.lab'/>", "improper-addressing")]
#[case::route("<route from='bob@vngtp.lab' to='alice@coluc.com'/>", "unsupported-stanza-type")]
#[case::server_namespace(
    "<message xmlns='jabber:server' from='bob@vngtp.lab' to='alice@coluc.com'/>",
    "unsupported-stanza-type"
)]
#[case::text("hello", "invalid-xml")]
#[case::depth(&"<a>".repeat(300), "policy-violation")]
#[tokio::test]
async fn what_a_component_must_not_send_ends_its_stream(#[case] text: &str, #[case] condition: &str) {
    let imp = cluster(&[ID]).await;
    let mut edge = Component::link(&imp, 0, ID).await;
    edge.write(text).await;
    // Text is complete only when markup follows.
    edge.write("<iq/>").await;
    let answer = edge.rest().await;
    assert!(answer.contains(&format!("<{condition} xmlns=")), "{answer}");
    assert!(imp.state().nodes[0].router.links.is_empty());
}

#[tokio::test]
async fn a_ping_to_the_own_id_comes_back_in_order() {
    let imp = cluster(&[ID]).await;
    let mut edge = Component::link(&imp, 0, ID).await;
    for number in 0..50 {
        edge.write(&format!(
            "<message from='bob@vngtp.lab' to='alice@coluc.com'><body>{number}</body></message>\
             <iq type='get' id='p{number}' from='{ID}' to='{ID}'><ping xmlns='urn:xmpp:ping'/></iq>"
        ))
        .await;
    }
    let seen = edge.read_until("id='p49'").await;
    // What was before the ping is in the inbox by now.
    assert_eq!(imp.inbox(ALICE, 0, Duration::ZERO).await.unwrap().len(), 50);
    let order: Vec<_> = seen
        .match_indices("id='p")
        .map(|(at, _)| &seen[at + 5..at + 7])
        .collect();
    assert_eq!(order.len(), 50);
    assert_eq!((order[0], order[49]), ("0'", "49"));
    assert_eq!(imp.state().nodes[0].router.links[0].echoed, 50);
}

#[rstest]
#[case::unknown_user(
    "<iq type='get' id='1' from='bob@vngtp.lab/r' to='nobody@coluc.com'><ping xmlns='urn:xmpp:ping'/></iq>",
    "service-unavailable"
)]
#[case::message(
    "<message id='1' from='bob@vngtp.lab/r' to='nobody@coluc.com'><body>x</body></message>",
    "service-unavailable"
)]
#[case::no_relay(
    "<message id='1' from='bob@vngtp.lab/r' to='x@third.example'/>",
    "remote-server-not-found"
)]
#[case::unknown_request(
    "<iq type='get' id='1' from='bob@vngtp.lab/r' to='alice@coluc.com'><q xmlns='urn:q'/></iq>",
    "service-unavailable"
)]
#[case::ping(
    "<iq type='get' id='1' from='bob@vngtp.lab/r' to='alice@coluc.com/imp'><ping xmlns='urn:xmpp:ping'/></iq>",
    "type='result'"
)]
#[case::version(
    "<iq type='get' id='1' from='bob@vngtp.lab/r' to='alice@coluc.com/imp'><query xmlns='jabber:iq:version'/></iq>",
    "<name>Simulated IM&amp;P</name>"
)]
#[case::alias(
    "<iq type='get' id='1' from='bob@vngtp.lab/r' to='conf.coluc.com'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>",
    "category='conference'"
)]
#[case::server(
    "<iq type='get' id='1' from='bob@vngtp.lab/r' to='coluc.com'><ping xmlns='urn:xmpp:ping'/></iq>",
    "type='result'"
)]
#[tokio::test]
async fn requests_are_answered(#[case] stanza: &str, #[case] expected: &str) {
    let imp = cluster(&[ID]).await;
    let mut edge = Component::link(&imp, 0, ID).await;
    edge.write(stanza).await;
    let answer = edge.read_until("id='1'").await;
    let answer = if answer.contains(expected) {
        answer
    } else {
        edge.read_until(expected).await
    };
    assert!(answer.contains("to='bob@vngtp.lab/r'"), "{answer}");
}

#[tokio::test]
async fn errors_and_results_are_never_answered() {
    let imp = cluster(&[ID]).await;
    let mut edge = Component::link(&imp, 0, ID).await;
    edge.write(&format!(
        "<message type='error' from='bob@vngtp.lab' to='nobody@coluc.com'/>\
         <iq type='result' id='1' from='bob@vngtp.lab' to='nobody@coluc.com'/>\
         <presence from='bob@vngtp.lab' to='nobody@coluc.com'/>\
         <iq type='get' id='p' from='{ID}' to='{ID}'/>"
    ))
    .await;
    let seen = edge.read_until("id='p'").await;
    assert!(seen.starts_with("<iq"), "{seen}");
    assert_eq!(imp.state().nodes[0].router.refused, 3);
}

#[tokio::test]
async fn conference_rooms_send_and_receive() {
    let imp = cluster(&[ID]).await;
    let mut edge = Component::link(&imp, 0, ID).await;
    edge.write("<message type='groupchat' from='bob@vngtp.lab/r' to='room@conf.coluc.com'><body>hi</body></message>")
        .await;
    let items = inbox(&imp, "conf.coluc.com", 0).await;
    assert!(
        items[0].stanza.contains("to='room@conf.coluc.com'"),
        "{}",
        items[0].stanza
    );
    imp.send(
        "conf.coluc.com",
        "<message type='groupchat' from='room@conf.coluc.com/alice' to='bob@vngtp.lab/r'><body>ho</body></message>",
    )
    .await
    .unwrap();
    let seen = edge.read_until("</message>").await;
    assert!(seen.contains("from='room@conf.coluc.com/alice'"), "{seen}");
    let foreign = imp
        .send("conf.coluc.com", "<message from='alice@coluc.com' to='bob@vngtp.lab'/>")
        .await;
    assert!(foreign.is_err());
}

#[tokio::test]
async fn without_a_link_stanzas_bounce() {
    let imp = cluster(&[ID]).await;
    imp.send(ALICE, "<message to='bob@vngtp.lab' id='7'><body>x</body></message>")
        .await
        .unwrap();
    let items = inbox(&imp, ALICE, 0).await;
    for expected in [
        "type='error'",
        "id='7'",
        "from='bob@vngtp.lab'",
        "<remote-server-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>",
    ] {
        assert!(items[0].stanza.contains(expected), "{expected} in {}", items[0].stanza);
    }
    assert_eq!(imp.state().nodes[0].router.bounced, 1);
    // Answers have no answer.
    imp.send(ALICE, "<message to='bob@vngtp.lab' type='error'/>")
        .await
        .unwrap();
    assert_eq!(imp.inbox(ALICE, 1, Duration::ZERO).await.unwrap().len(), 0);
}

#[tokio::test]
async fn either_node_carries_the_traffic_of_all_users() {
    let imp = cluster(&[ID]).await;
    let mut edge = Component::link(&imp, 0, ID).await;
    imp.send(
        CAROL,
        "<message to='bob@vngtp.lab'><body>over the other node</body></message>",
    )
    .await
    .unwrap();
    let seen = edge.read_until("</message>").await;
    assert!(seen.contains("from='carol@coluc.com/imp'"), "{seen}");
    edge.write("<message from='bob@vngtp.lab' to='carol@coluc.com'><body>y</body></message>")
        .await;
    inbox(&imp, CAROL, 0).await;
    // With a link at home, that one is taken.
    let mut home = Component::link(&imp, 1, ID).await;
    imp.send(CAROL, "<message to='bob@vngtp.lab'><body>z</body></message>")
        .await
        .unwrap();
    home.read_until("<body>z</body>").await;
}

#[rstest]
#[case(Spread::RoundRobin, 5, 5)]
#[case(Spread::Pair, 10, 0)]
#[tokio::test]
async fn traffic_is_spread_over_the_components(#[case] spread: Spread, #[case] more: u64, #[case] less: u64) {
    let imp = cluster_with(&[ID, "cm-2_s2scp-1.eft-xwye-a-coluc-com-1"], |config| {
        config.spread = spread;
    })
    .await;
    let _links = [
        Component::link(&imp, 0, ID).await,
        Component::link(&imp, 0, "cm-2_s2scp-1.eft-xwye-a-coluc-com-1").await,
    ];
    for _ in 0..10 {
        imp.send(ALICE, "<message to='bob@vngtp.lab'/>").await.unwrap();
    }
    let mut sent: Vec<u64> = imp.state().nodes[0].router.links.iter().map(|link| link.sent).collect();
    sent.sort_unstable();
    assert_eq!(sent, [less, more]);
}

#[tokio::test]
async fn a_goodbye_is_answered_after_what_was_waiting() {
    let imp = cluster(&[ID]).await;
    let mut edge = Component::link(&imp, 0, ID).await;
    for number in 0..200 {
        imp.send(
            ALICE,
            &format!("<message to='{BOB}' id='{number}'><body>x</body></message>"),
        )
        .await
        .unwrap();
    }
    edge.write("<message from='bob@vngtp.lab' to='alice@coluc.com'><body>last</body></message></stream:stream>")
        .await;
    let rest = edge.rest().await;
    assert_eq!(rest.matches("</message>").count(), 200);
    assert!(rest.ends_with("</stream:stream>"), "{rest}");
    assert!(inbox(&imp, ALICE, 0).await[0].stanza.contains("last"));
    assert_eq!(imp.state().nodes[0].router.bounced, 0);
}

#[tokio::test]
async fn a_broken_link_returns_what_it_did_not_write() {
    let imp = cluster(&[ID]).await;
    let edge = Component::link(&imp, 0, ID).await;
    // The component reads nothing: socket buffers fill, the rest waits in the queue.
    let body = "x".repeat(100_000);
    for number in 0..200 {
        imp.send(
            ALICE,
            &format!("<message to='{BOB}' id='{number}'><body>{body}</body></message>"),
        )
        .await
        .unwrap();
    }
    drop(edge);
    let state = until(&imp, "bounced", |state| state.nodes[0].router.bounced >= 100).await;
    let errors = imp.inbox(ALICE, 0, Duration::ZERO).await.unwrap().len() as u64;
    assert!(errors >= state.nodes[0].router.bounced);
}

#[tokio::test]
async fn a_restart_drops_links_closes_the_port_and_loads_the_new_ids() {
    let imp = cluster(&[]).await;
    imp.sql(&format!(
        "INSERT INTO xmpps2snodes (pkid, cp_id) VALUES (newid(), '{ID}')"
    ))
    .unwrap();
    until(&imp, "notice", |state| state.nodes[0].notice).await;
    let mut early = Component::open(&imp, 0, ID).await;
    assert!(early.read_until("</stream:stream>").await.contains("host-unknown"));
    imp.restart_router(PUBLISHER).unwrap();
    assert!(TcpStream::connect(imp.nodes()[0].xcp).await.is_err());
    assert!(
        imp.send(ALICE, "<message to='bob@vngtp.lab'/>")
            .await
            .unwrap_err()
            .to_string()
            .contains("no session")
    );
    until(&imp, "started", |state| state.nodes[0].router.status == Status::Started).await;
    let edge = Component::link(&imp, 0, ID).await;
    // And down again: the connection ends without a word.
    imp.restart_router(PUBLISHER).unwrap();
    assert_eq!(edge.rest().await, "");
    let state = until(&imp, "started", |state| state.nodes[0].router.status == Status::Started).await;
    assert_eq!(state.nodes[0].router.restarts.len(), 2);
    assert!(state.nodes[0].router.links.is_empty());
}

#[tokio::test]
async fn a_router_that_is_down_comes_back_when_the_fault_goes() {
    let imp = cluster(&[ID]).await;
    let edge = Component::link(&imp, 1, ID).await;
    imp.set_fault("router-down", FaultOptions::default().at(SUBSCRIBER))
        .unwrap();
    edge.rest().await;
    assert!(TcpStream::connect(imp.nodes()[1].xcp).await.is_err());
    let state = imp.state();
    assert_eq!(
        (state.nodes[0].router.status, state.nodes[1].router.status),
        (Status::Started, Status::Stopped)
    );
    imp.clear_fault("router-down");
    until(&imp, "up", |state| state.nodes[1].router.status == Status::Started).await;
    Component::link(&imp, 1, ID).await;
}

#[tokio::test]
async fn a_thousand_messages_each_way_arrive_once_and_in_order() {
    let imp = cluster(&[ID]).await;
    let mut edge = Component::link(&imp, 0, ID).await;
    let out = async {
        for number in 0..1000 {
            imp.send(ALICE, &format!("<message to='{BOB}'><body>{number}.</body></message>"))
                .await
                .unwrap();
        }
    };
    let (mut read, mut write) = edge.stream.split();
    let back = async {
        for number in 0..1000 {
            let text = format!("<message from='{BOB}' to='{ALICE}'><body>{number}.</body></message>");
            write.write_all(text.as_bytes()).await.unwrap();
        }
    };
    let take = async {
        let mut text = Vec::new();
        let mut buffer = vec![0; 65536];
        while !text.ends_with(b"<body>999.</body></message>") {
            let count = read.read(&mut buffer).await.unwrap();
            text.extend_from_slice(&buffer[..count]);
        }
        String::from_utf8(text).unwrap()
    };
    let ((), (), text) = tokio::join!(out, back, take);
    let numbers = |text: &str| -> Vec<usize> {
        text.match_indices("<body>")
            .map(|(at, _)| text[at + 6..].split('.').next().unwrap().parse().unwrap())
            .collect()
    };
    assert_eq!(numbers(&text), (0..1000).collect::<Vec<_>>());
    let received = until(&imp, "received", |state| state.nodes[0].router.delivered == 1000);
    received.await;
    let items = imp.inbox(ALICE, 0, Duration::ZERO).await.unwrap();
    let all: String = items.into_iter().map(|item| item.stanza).collect();
    assert_eq!(numbers(&all), (0..1000).collect::<Vec<_>>());
}

/// A node's control port; each answers for the whole cluster.
struct Control {
    http: reqwest::Client,
    base: String,
}

impl Control {
    fn new(imp: &SimulatedImp) -> Self {
        Self {
            http: reqwest::Client::new(),
            base: format!("http://{}", imp.nodes()[1].control),
        }
    }

    async fn ask(&self, method: reqwest::Method, path: &str, body: &str) -> (u16, String) {
        let request = self.http.request(method, format!("{}{path}", self.base));
        let answer = request.body(body.to_string()).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    async fn post(&self, path: &str, body: &str) -> u16 {
        self.ask(reqwest::Method::POST, path, body).await.0
    }

    async fn get(&self, path: &str) -> serde_json::Value {
        let (_, text) = self.ask(reqwest::Method::GET, path, "").await;
        serde_json::from_str(&text).unwrap()
    }
}

#[tokio::test]
async fn users_are_driven_over_http() {
    let imp = cluster(&[ID]).await;
    let mut edge = Component::link(&imp, 0, ID).await;
    let control = Control::new(&imp);
    let stanza = "<message to='bob@vngtp.lab' id='1' type='chat'><body>hi</body></message>";
    assert_eq!(control.post("/users/alice@coluc.com/stanza", stanza).await, 200);
    edge.read_until("<body>hi</body>").await;
    assert_eq!(
        control
            .post("/users/nobody@coluc.com/stanza", "<message to='x'/>")
            .await,
        404
    );
    assert_eq!(control.post("/users/alice@coluc.com/stanza", "<message").await, 400);
    edge.write("<message from='bob@vngtp.lab' to='alice@coluc.com'><body>yo</body></message>")
        .await;
    let items = control.get("/users/alice@coluc.com/inbox?after=0&wait=5000").await;
    assert_eq!(items[0]["seq"], 1);
    let items = control.get("/users/alice@coluc.com/inbox?after=1").await;
    assert_eq!(items, serde_json::json!([]));
}

#[tokio::test]
async fn the_cluster_is_seen_and_changed_over_http() {
    let imp = cluster(&[ID]).await;
    let _edge = Component::link(&imp, 0, ID).await;
    let control = Control::new(&imp);
    let state = control.get("/state").await;
    assert_eq!(state["table"], "xmpps2snodes");
    assert_eq!(state["federation"], "off");
    let node = &state["nodes"][0];
    assert_eq!(node["name"], PUBLISHER);
    assert_eq!(node["rows"][0]["cp_id"], ID);
    assert_eq!(node["router"]["status"], "Started");
    assert_eq!(node["router"]["links"][0]["id"], ID);
    assert!(imp.set_fault("axl-402", FaultOptions::default()).is_err());
    assert_eq!(control.ask(reqwest::Method::PUT, "/password", "new").await.0, 200);
    let post = async |password| {
        axl_post(
            &imp,
            PUBLISHER,
            password,
            "14.0",
            "executeSQLQuery",
            "select * from xmpps2snodes",
        )
        .await
    };
    assert_eq!(post("new").await.unwrap().0, 200);
    assert_eq!(post("axlpassword").await.unwrap().0, 401);
    let sql = "select * from xmpps2snodes";
    let (status, body) = control.ask(reqwest::Method::POST, "/sql", sql).await;
    assert_eq!(status, 200);
    assert!(body.contains(ID), "{body}");
    assert_eq!(control.post("/nodes/cups.ciscotac.net/restart-router", "").await, 200);
    assert_eq!(control.post("/nodes/ecup99.coluc.com/restart-router", "").await, 404);
    let calls = control.get("/calls?after=1").await;
    assert_eq!(calls[0]["seq"], 2);
    let restarts = calls.as_array().unwrap().iter();
    assert!(
        restarts
            .clone()
            .any(|call| call["operation"] == "utils service restart")
    );
}
