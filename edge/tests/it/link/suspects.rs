//! A router that ends its link over a stanza: the first time everybody with something unproven is
//! a suspect, the second time the sender is known and nobody else loses anything.

use std::collections::HashMap;
use std::time::Duration;

use rstest::rstest;
use tokio::sync::mpsc;
use tokio::time::timeout;
use xmpp_federation_core::edge_config::LinkProfile;

use crate::support::{
    GATEWAY, Lab, PATIENCE, Peer, Router, Speaker, announced, attribute, config, end_of_first_element, live,
};

/// What a router hears; the number is its node's.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Event {
    Up(usize),
    Ping,
    Stanza(usize, String),
    /// It ended the link over this one.
    End(usize, String),
}

/// Routers that end their links over stanzas with `BAD` in them.
struct Picky {
    events: mpsc::UnboundedReceiver<Event>,
    all: Vec<Event>,
}

/// What only they do.
#[derive(Debug, Clone, Copy)]
struct Manner {
    condition: &'static str,
    profile: LinkProfile,
    /// How long a router thinks about each ping.
    pause: Duration,
}

const PROSODY: Manner = Manner {
    condition: "not-well-formed",
    profile: LinkProfile::Component,
    pause: Duration::ZERO,
};

async fn serve(mut speaker: Speaker, node: usize, manner: Manner, tell: &mpsc::UnboundedSender<Event>) -> Option<()> {
    let mut xml = String::new();
    loop {
        while let Some(end) = end_of_first_element(&xml) {
            let rest = xml.split_off(end);
            let element = std::mem::replace(&mut xml, rest);
            if element.contains("id='proof-") {
                tokio::time::sleep(manner.pause).await;
                tell.send(Event::Ping).ok()?;
                speaker.try_say(element.as_bytes()).await.ok()?;
            } else if element.contains("BAD") {
                tell.send(Event::End(node, element)).ok()?;
                let condition = manner.condition;
                speaker.try_say(format!(
                    "<stream:error><{condition} xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>"
                ).as_bytes()).await.ok()?;
                return Some(());
            } else {
                tell.send(Event::Stanza(node, element)).ok()?;
            }
        }
        xml += &speaker.hear_or_end(">").await.ok()?;
    }
}

impl Picky {
    fn start(routers: Vec<Router>, manner: Manner) -> Self {
        let (tell, events) = mpsc::unbounded_channel();
        for (node, router) in routers.into_iter().enumerate() {
            let tell = tell.clone();
            tokio::spawn(async move {
                loop {
                    let speaker = if manner.profile == LinkProfile::Xcp {
                        let mut speaker = router.accept_xcp_stream().await;
                        speaker.say(&announced(crate::support::COMPONENT, GATEWAY)).await;
                        speaker
                    } else {
                        router.accept_stream().await
                    };
                    let _ = tell.send(Event::Up(node));
                    serve(speaker, node, manner, &tell).await;
                }
            });
        }
        Self {
            events,
            all: Vec::new(),
        }
    }

    /// The next event; all are kept.
    async fn next(&mut self) -> Event {
        let event = timeout(PATIENCE, self.events.recv()).await;
        let event = event
            .unwrap_or_else(|_| panic!("no event behind {:?}", self.all))
            .unwrap();
        self.all.push(event.clone());
        event
    }

    /// The next stanza that is taken.
    async fn stanza(&mut self) -> String {
        loop {
            if let Event::Stanza(_, stanza) = self.next().await {
                return stanza;
            }
        }
    }

    /// Waits until a link is ended, and until one is up again.
    async fn end(&mut self) -> (usize, String) {
        loop {
            if let Event::End(node, stanza) = self.next().await {
                return (node, stanza);
            }
        }
    }

    /// Nothing else was in flight with what a router ended its link over.
    fn was_alone(&self) {
        let end = self
            .all
            .iter()
            .rposition(|event| matches!(event, Event::End(..)))
            .unwrap();
        let before = &self.all[..end];
        assert!(
            matches!(before.last(), Some(Event::Ping | Event::Up(_))),
            "{:?}",
            self.all
        );
    }
}

fn message(from: &str, id: &str) -> String {
    format!("<message from='{from}' to='alice@coluc.com' id='{id}'><body>{id}</body></message>")
}

fn id_of(stanza: &str) -> String {
    attribute(stanza, "message", "id")
}

/// An edge, a partner with good and bad users, and another partner.
struct World {
    lab: Lab,
    peer: Peer,
    stream: Speaker,
    other: Peer,
    other_stream: Speaker,
    picky: Picky,
}

impl World {
    async fn new(nodes: usize, manner: Manner) -> Self {
        let peer = Peer::new("vngtp.lab").await;
        let other = Peer::new("bystander.example").await;
        let mut routers = Vec::new();
        for _ in 0..nodes {
            routers.push(Router::new().await);
        }
        let all: Vec<&Router> = routers.iter().collect();
        let mut config = config(&[&peer, &other], &all);
        config.routers[0].profile = manner.profile;
        let lab = Lab::start(live(config));
        let mut picky = Picky::start(routers, manner);
        for _ in 0..nodes {
            while !matches!(picky.next().await, Event::Up(_)) {}
        }
        let stream = peer.open_authenticated(lab.s2s, "coluc.com").await;
        let other_stream = other.open_authenticated(lab.s2s, "coluc.com").await;
        Self {
            lab,
            peer,
            stream,
            other,
            other_stream,
            picky,
        }
    }

    /// A bad stanza of mallory's and a good one of bob's in one piece: the link ends. Gives the
    /// stream over which their senders are told.
    async fn first_end(&mut self) -> Speaker {
        let both = message("bob@vngtp.lab", "lost") + &message("mallory@vngtp.lab/a", "BAD1");
        self.stream.say(&both).await;
        self.picky.end().await;
        let mut back = self.peer.accept_authenticated("coluc.com").await;
        for id in ["lost", "BAD1"] {
            let error = back.hear("</message>").await;
            assert_eq!(id_of(&error), id);
            assert!(error.contains("<recipient-unavailable "), "{error}");
        }
        back
    }

    async fn is_silent(peer: &Peer) -> bool {
        let nobody = timeout(Duration::from_millis(100), peer.listener.accept());
        nobody.await.is_err()
    }
}

#[rstest]
#[case::not_well_formed("not-well-formed", LinkProfile::Component)]
#[case::bad_format("bad-format", LinkProfile::Component)]
#[case::invalid_xml("invalid-xml", LinkProfile::Component)]
#[case::policy_violation("policy-violation", LinkProfile::Component)]
#[case::invalid_from("invalid-from", LinkProfile::Component)]
#[case::not_well_formed_xcp("not-well-formed", LinkProfile::Xcp)]
#[case::invalid_from_xcp("invalid-from", LinkProfile::Xcp)]
#[tokio::test]
async fn the_second_end_over_a_stanza_names_its_sender_and_costs_nobody_else_anything(
    #[case] condition: &'static str,
    #[case] profile: LinkProfile,
) {
    let manner = Manner {
        condition,
        profile,
        ..PROSODY
    };
    let mut world = World::new(1, manner).await;
    let mut back = world.first_end().await;
    let counts = |lab: &Lab| (lab.edge.suspects().suspected, lab.edge.suspects().refused);
    assert_eq!(counts(&world.lab), (2, 0));
    // Everybody writes at once while no link is up.
    let from = |who: &str, id: &str| message(&format!("{who}@vngtp.lab"), id);
    let text = from("bob", "b1")
        + &from("dave", "d1")
        + &from("mallory", "fine")
        + &from("Mallory", "BAD2")
        + &from("mallory", "behind")
        + &from("bob", "b2");
    world.stream.say(&text).await;
    world.other_stream.say(&message("carol@bystander.example", "c1")).await;
    world.picky.end().await;
    world.picky.was_alone();
    let mut refused = Vec::new();
    for _ in 0..2 {
        let error = back.hear("</message>").await;
        assert!(error.contains("<not-acceptable "), "{error}");
        refused.push(id_of(&error));
    }
    refused.sort_unstable();
    assert_eq!(refused, ["BAD2", "behind"]);
    assert_eq!(counts(&world.lab), (1, 1));
    // From now on that sender is refused at once, in whichever spelling, and nobody else is.
    world.stream.say(&message("mallory@VNGTP.lab/elsewhere", "later")).await;
    let error = back.hear("</message>").await;
    assert_eq!(id_of(&error), "later");
    assert!(error.contains("<not-acceptable "), "{error}");
    world.stream.say(&from("bob", "b3")).await;
    let taken = |all: &[Event]| {
        let mut taken: Vec<_> = all
            .iter()
            .filter_map(|event| match event {
                Event::Stanza(_, stanza) => Some(id_of(stanza)),
                _ => None,
            })
            .collect();
        taken.sort_unstable();
        taken
    };
    let expected = ["b1", "b2", "b3", "c1", "d1", "fine", "lost"];
    while taken(&world.picky.all).len() < expected.len() {
        world.picky.next().await;
    }
    assert_eq!(taken(&world.picky.all), expected);
    assert!(back.is_silent(Duration::from_millis(50)).await);
    assert!(World::is_silent(&world.other).await, "a bystander is told");
    let failures = world.lab.edge.registry.failures(None);
    let told = failures.iter().flat_map(|domain| &domain.attempts);
    let told = told
        .filter(|noted| noted.attempt.reason.contains("mallory@vngtp.lab"))
        .count();
    assert_eq!(told, 1, "{failures:?}");
    world.lab.counts("stanzas_bounced_total{cause=\"breaks-links\"}", 3);
}

#[rstest]
#[case("conflict")]
#[case("system-shutdown")]
#[case("internal-server-error")]
#[tokio::test]
async fn an_end_over_something_else_makes_nobody_a_suspect(#[case] condition: &'static str) {
    let mut world = World::new(1, Manner { condition, ..PROSODY }).await;
    let mut back = world.first_end().await;
    world.stream.say(&message("mallory@vngtp.lab", "BAD2")).await;
    world.picky.end().await;
    let error = back.hear("</message>").await;
    assert!(error.contains("<recipient-unavailable "), "{error}");
}

#[tokio::test]
async fn the_suspects_belong_to_the_cluster_not_to_the_link() {
    let mut world = World::new(2, PROSODY).await;
    let mut back = world.first_end().await;
    // The other node has taken over, and is down in its turn; then the first one is up again.
    let text = message("bob@vngtp.lab", "b1") + &message("mallory@vngtp.lab", "BAD2");
    world.stream.say(&text).await;
    let (node, _) = world.picky.end().await;
    world.picky.was_alone();
    let error = back.hear("</message>").await;
    assert_eq!(id_of(&error), "BAD2");
    assert!(error.contains("<not-acceptable "), "{error}");
    world.stream.say(&message("bob@vngtp.lab", "b2")).await;
    let mut taken: HashMap<String, usize> = HashMap::new();
    while taken.len() < 3 {
        for event in &world.picky.all {
            if let Event::Stanza(node, stanza) = event {
                taken.insert(id_of(stanza), *node);
            }
        }
        if taken.len() < 3 {
            world.picky.next().await;
        }
    }
    assert!(taken.contains_key("b1"), "{taken:?}");
    assert!(node < 2 && taken.contains_key("b2"), "{taken:?}");
    assert!(back.is_silent(Duration::from_millis(50)).await);
}

#[tokio::test]
async fn while_a_suspect_sends_a_lot_others_have_most_of_the_link() {
    const FLOOD: usize = 400;
    const OTHERS: usize = 40;
    let manner = Manner {
        pause: Duration::from_millis(2),
        ..PROSODY
    };
    let mut world = World::new(1, manner).await;
    let _back = world.first_end().await;
    while !matches!(world.picky.next().await, Event::Up(_)) {}
    let flood: String = (0..FLOOD)
        .map(|n| message("bob@vngtp.lab/r", &format!("f{n}")))
        .collect();
    world.stream.say(&flood).await;
    // Somebody at the same partner, on the same stream, behind the flood, and somebody elsewhere.
    let mut waits = 0;
    for n in 0..OTHERS {
        let dave = message("dave@vngtp.lab", &format!("d{n}"));
        world.stream.say(&dave).await;
        let carol = message("carol@bystander.example", &format!("c{n}"));
        world.other_stream.say(&carol).await;
        let mut missing = 2;
        while missing > 0 {
            match id_of(&world.picky.stanza().await).as_bytes()[0] {
                b'f' => waits += 1,
                _ => missing -= 1,
            }
        }
    }
    assert!(
        waits <= OTHERS * 6,
        "{waits} stanzas of a suspect before {OTHERS} pairs of others"
    );
    // None is lost, and they are in order, each with its own ping.
    while world.picky.all.iter().filter(|e| is_of_flood(e)).count() < FLOOD {
        world.picky.next().await;
    }
    let ids: Vec<_> = world
        .picky
        .all
        .iter()
        .filter(|event| is_of_flood(event))
        .map(|event| match event {
            Event::Stanza(_, stanza) => id_of(stanza),
            other => panic!("{other:?}"),
        })
        .collect();
    let expected: Vec<_> = (0..FLOOD).map(|n| format!("f{n}")).collect();
    assert_eq!(ids, expected);
    for (n, event) in world.picky.all.iter().enumerate() {
        if is_of_flood(event) {
            let before = world.picky.all.get(n - 1);
            assert!(matches!(before, Some(Event::Ping | Event::Up(_))));
            if let Some(after) = world.picky.all.get(n + 1) {
                assert_eq!(after, &Event::Ping);
            }
        }
    }
}

fn is_of_flood(event: &Event) -> bool {
    matches!(event, Event::Stanza(_, stanza) if stanza.contains("id='f"))
}

#[tokio::test]
async fn an_answer_of_the_edge_is_the_matter_of_the_user_it_is_for() {
    let (peer, router) = (Peer::new("vngtp.lab").await, Router::new().await);
    let lab = Lab::start(live(config(&[&peer], &[&router])));
    let end =
        "<stream:error><invalid-from xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>";
    let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    // Twice the edge answers alice, and the router does not take the answer; the second one is alone.
    for id in ["1", "2"] {
        let mut link = router.accept_stream().await;
        link.say(&format!(
            "<message from='Alice@coluc.com/{id}' to='bob@localhost' id='{id}'/>"
        ))
        .await;
        link.hear("</message>").await;
        link.say(end).await;
    }
    let mut link = router.accept().await;
    link.say("<message from='alice@coluc.com/3' to='bob@localhost' id='3'/>");
    link.say("<message from='anna@coluc.com' to='bob@localhost' id='4'/>");
    assert_eq!(id_of(&link.hear().await), "4");
    bob.say(&message("bob@vngtp.lab", "fine")).await;
    assert_eq!(id_of(&link.hear().await), "fine");
}

#[tokio::test]
async fn what_waits_of_suspects_is_delivered_before_an_orderly_stop() {
    let manner = Manner {
        pause: Duration::from_millis(2),
        ..PROSODY
    };
    let mut world = World::new(1, manner).await;
    let _back = world.first_end().await;
    while !matches!(world.picky.next().await, Event::Up(_)) {}
    let flood: String = (0..50).map(|n| message("bob@vngtp.lab/r", &format!("f{n}"))).collect();
    world.stream.say(&flood).await;
    world.picky.stanza().await;
    world.lab.begin_stop();
    while world.picky.all.iter().filter(|e| is_of_flood(e)).count() < 50 {
        world.picky.next().await;
    }
}

#[tokio::test]
async fn what_a_router_said_is_read_although_writing_to_it_failed_first() {
    // More than the router reads: it goes with bytes of ours unread, and its end is a reset.
    let mut world = World::new(1, PROSODY).await;
    let body = "x".repeat(200_000);
    let large = (0..20)
        .map(|n| format!("<message from='bob@vngtp.lab' to='alice@coluc.com' id='l{n}'><body>{body}</body></message>"));
    let first = message("mallory@vngtp.lab", "BAD1");
    let text: String = std::iter::once(first).chain(large).collect();
    let (stream, picky) = (&mut world.stream, &mut world.picky);
    tokio::join!(stream.say(&text), picky.end());
    let mut back = world.peer.accept_authenticated("coluc.com").await;
    let error = back.hear("</message>").await;
    assert_eq!(id_of(&error), "BAD1");
    assert!(error.contains("<recipient-unavailable "), "{error}");
    world.stream.say(&message("mallory@vngtp.lab", "BAD2")).await;
    world.picky.end().await;
    world.picky.was_alone();
}
