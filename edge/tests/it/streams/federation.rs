//! The three dialback roles and delivery both ways, spoken in bytes over real sockets.

use std::time::Duration;

use xmpp_federation_core::Domain;

use crate::support::{Lab, Peer, Router, VALID, answered, attribute, config, live, to_bob};

#[tokio::test]
async fn a_message_from_the_peer_reaches_the_router_re_rooted() {
    let (lab, peer, _router, mut link) = Lab::with_link().await;
    let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    bob.say("<message from='bob@vngtp.lab/x' to='alice@coluc.com' id='1' type='chat'><body>hi</body></message>")
        .await;
    assert_eq!(
        link.hear().await,
        "<message from='bob@vngtp.lab/x' to='alice@coluc.com' id='1' type='chat'><body>hi</body></message>"
    );
    bob.say(
        "<s:message xmlns:s='jabber:server' from='bob@vngtp.lab' to='alice@coluc.com'><s:body>x</s:body></s:message>",
    )
    .await;
    let message = link.hear().await;
    assert!(!message.contains("jabber:server"), "{message}");
}

#[tokio::test]
async fn a_message_from_the_router_waits_for_dialback_and_reaches_the_peer() {
    let (_lab, peer, _router, link) = Lab::with_link().await;
    link.say("<message from='alice@coluc.com/pc' to='bob@vngtp.lab' id='2'><body>ho</body></message>");
    let mut stream = peer.accept("outbound-id").await;
    let result = stream.hear("</db:result>").await;
    assert_eq!(attribute(&result, "db:result", "from"), "coluc.com");
    assert_eq!(attribute(&result, "db:result", "to"), "vngtp.lab");
    assert!(
        stream.is_silent(Duration::from_millis(200)).await,
        "stanzas before the answer"
    );
    stream.say(VALID).await;
    let message = stream.hear("</message>").await;
    assert_eq!(
        message,
        "<message from='alice@coluc.com/pc' to='bob@vngtp.lab' id='2'><body>ho</body></message>"
    );
    // A second hosted domain shares the stream with a dialback of its own.
    link.say("<message from='room@conf.coluc.com' to='bob@vngtp.lab' id='3'/>");
    let result = stream.hear("</db:result>").await;
    assert_eq!(attribute(&result, "db:result", "from"), "conf.coluc.com");
    stream.say(&answered("vngtp.lab", "conf.coluc.com", "valid")).await;
    stream.hear("id='3'/>").await;
}

#[tokio::test]
async fn keys_equal_the_published_vectors_in_both_roles() {
    let (peer, router) = (Peer::new("xmpp.example.com").await, Router::new().await);
    let mut config = config(&[&peer], &[&router]);
    config.domains = vec![Domain::parse("example.org").unwrap()];
    let lab = Lab::start(live(config));
    let key = "37c69b1cf07a3f67c04a5ef5902fa5114f2c76fe4a2686482ba5b89323075643";

    let link = router.accept().await;
    link.say("<message from='a@example.org' to='b@xmpp.example.com'/>");
    let mut stream = peer.accept("D60000229F").await;
    let result = stream.hear("</db:result>").await;
    assert!(result.contains(&format!(">{key}<")), "{result}");

    let (mut asking, _) = peer.open(lab.s2s, "example.org").await;
    for (id, key, expected) in [
        ("D60000229F", key.to_owned(), "valid"),
        ("D60000229F", format!("\n  {key}  "), "valid"),
        ("another-id", key.to_owned(), "invalid"),
        ("D60000229F", key.to_uppercase(), "invalid"),
        ("D60000229F", String::new(), "invalid"),
    ] {
        asking
            .say(&format!(
                "<db:verify from='xmpp.example.com' to='example.org' id='{id}'>{key}</db:verify>"
            ))
            .await;
        let answer = asking.hear("/>").await;
        assert_eq!(attribute(&answer, "db:verify", "type"), expected, "{key}");
        assert_eq!(attribute(&answer, "db:verify", "id"), id);
        assert_eq!(attribute(&answer, "db:verify", "from"), "example.org");
        assert_eq!(attribute(&answer, "db:verify", "to"), "xmpp.example.com");
    }
}

#[tokio::test]
async fn both_roles_are_served_on_one_stream_and_spellings_are_echoed() {
    let (lab, peer, _router, mut link) = Lab::with_link().await;
    let (mut bob, id) = peer.open(lab.s2s, "coluc.com").await;
    bob.say("<db:verify from='VNGTP.lab' to='Coluc.COM' id='x'>nonsense</db:verify>")
        .await;
    let answer = bob.hear("/>").await;
    assert_eq!(attribute(&answer, "db:verify", "from"), "Coluc.COM");
    assert_eq!(attribute(&answer, "db:verify", "to"), "VNGTP.lab");
    assert_eq!(attribute(&answer, "db:verify", "type"), "invalid");
    peer.authenticate(&mut bob, &id, "coluc.com").await;
    bob.say("<presence from='bob@VNGTP.Lab' to='alice@COLUC.com.'/>").await;
    // Stanzas have one spelling towards the router, but for the case of ASCII.
    assert_eq!(
        link.hear().await,
        "<presence from='bob@VNGTP.Lab' to='alice@coluc.com'/>"
    );
}

#[tokio::test]
async fn a_thousand_messages_each_way_keep_their_order() {
    let (lab, peer, _router, mut link) = Lab::with_link().await;
    let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    let texts = |from: &str, to: &str| -> String {
        (0..1000)
            .map(|n| format!("<message from='{from}' to='{to}' id='{n}'><body>{n}</body></message>"))
            .collect()
    };
    let (inward, outward) = (
        texts("bob@vngtp.lab", "alice@coluc.com"),
        texts("alice@coluc.com", "bob@vngtp.lab"),
    );
    link.say(&outward);
    bob.say(&inward).await;
    let mut stream = peer.accept_authenticated("coluc.com").await;
    for n in 0..1000 {
        assert_eq!(attribute(&link.hear().await, "message", "id"), n.to_string());
        let message = stream.hear("</message>").await;
        assert_eq!(attribute(&message, "message", "id"), n.to_string());
    }
}

#[tokio::test]
async fn a_peer_that_splits_everything_into_single_bytes_is_understood() {
    let (lab, peer, _router, mut link) = Lab::with_link().await;
    let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    let text = "<message from='bob@vngtp.lab' to='alice@coluc.com'><body>\u{e9}&lt;\u{1f600}</body></message>";
    for byte in text.as_bytes() {
        bob.try_say(&[*byte]).await.unwrap();
    }
    assert_eq!(link.hear().await, text);
}

#[tokio::test]
async fn what_waits_for_a_peer_that_is_down_arrives_when_it_comes_back() {
    let (peer, router) = (Peer::new("vngtp.lab").await, Router::new().await);
    let config = config(&[&peer], &[&router]);
    let address = peer.listener.local_addr().unwrap();
    drop(peer);
    let lab = Lab::start(live(config));
    let link = router.accept().await;
    link.say(&to_bob("7"));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(lab.edge.registry.failing_partners().len(), 1);
    let peer = Peer {
        listener: tokio::net::TcpListener::bind(address).await.unwrap(),
        domain: "vngtp.lab",
    };
    let mut stream = peer.accept_authenticated("coluc.com").await;
    stream.hear("id='7'/>").await;
    assert_eq!(lab.edge.registry.failing_partners().len(), 0);
}
