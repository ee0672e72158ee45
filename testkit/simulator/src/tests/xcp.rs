//! Routers of profile `Xcp` against a component written in bytes.

use super::router::{ALICE, BOB, Component, cluster_with, inbox};
use super::*;
use rstest::rstest;
use tokio::net::TcpStream;

const ANNOUNCED: &str = "<route from='ID' to='presence@-internal' type='component-presence'><presence from='ID' to='presence@-internal'>\
    <x xmlns='http://www.jabber.com/schemas/component-presence.xsd' protocol-version='1.1'/></presence></route>";

async fn cluster(ids: &[&str]) -> SimulatedImp {
    cluster_with(ids, |config| config.router_profile = Profile::Xcp).await
}

async fn open(imp: &SimulatedImp, attributes: &str) -> Component {
    let mut component = Component {
        stream: TcpStream::connect(imp.nodes()[0].xcp).await.unwrap(),
        seen: String::new(),
    };
    component
        .write(&format!(
            "<stream:stream xmlns='jabber:component:accept' xmlns:stream='http://etherx.jabber.org/streams' {attributes}>"
        ))
        .await;
    component
}

/// A component that is accepted and has not announced itself.
async fn accepted(imp: &SimulatedImp, id: &str) -> Component {
    let mut component = open(imp, &format!("to='{id}' id='{id}' version='1.0'")).await;
    let answer = component.shake(imp, "router-secret").await;
    // The router goes on at once.
    let (_, behind) = answer.split_once("<handshake/>").unwrap();
    component.seen = behind.to_owned();
    component
}

/// A component that has announced itself; also what it heard meanwhile.
async fn announced(imp: &SimulatedImp, id: &str) -> (Component, String) {
    announced_as(imp, id, ANNOUNCED).await
}

async fn announced_as(imp: &SimulatedImp, id: &str, form: &str) -> (Component, String) {
    let mut component = accepted(imp, id).await;
    let before = component.read_until("</presence>").await;
    assert!(of(&before, "cm-1.jabber").is_some(), "{before}");
    component.seen.clear();
    component.write(&form.replace("ID", id)).await;
    // The last word about others: in order behind what it waits for.
    component
        .write(&format!(
            "<xdb from='{id}' id='end' ns='config-manager' to='config@-internal' type='get'><config id='none'/></xdb>"
        ))
        .await;
    let seen = component.read_until("</xdb>").await;
    component.seen.clear();
    (component, before + &seen)
}

/// The last announcement of a component in what was heard.
fn of<'a>(heard: &'a str, id: &str) -> Option<&'a str> {
    let from = format!(" from='{id}' ");
    let announcements = heard.split("<presence").filter(|part| part.contains("</presence>"));
    announcements.filter(|part| part.contains(&from)).last()
}

#[tokio::test]
async fn header_and_handshake_are_those_of_the_capture() {
    let imp = cluster(&[]).await;
    let mut component = open(&imp, &format!("to='{ID}' id='{ID}' version='1.0'")).await;
    let seen = component.read_until("<stream:features/>").await;
    let stream_id = seen.split(" id='").nth(1).unwrap().split('\'').next().unwrap();
    let seconds = u64::from_str_radix(stream_id, 16).unwrap();
    assert!(seconds.abs_diff(calls::now_ms() / 1000) < 60, "{stream_id}");
    assert_eq!(
        seen,
        format!(
            "<?xml version='1.0'?><stream:stream xmlns='jabber:component:accept' xmlns:stream='http://etherx.jabber.org/streams' \
             from='{ID}' id='{stream_id}' xmlns:jd='http://jabber.com/config/jabberd' jd:realm='jabber'><stream:features/>"
        )
    );
    let answer = component.shake(&imp, "router-secret").await;
    assert!(answer.contains("<handshake/>"), "{answer}");
    let link = imp.state().nodes[0].router.links[0].clone();
    assert!(!link.gateway && !link.announced, "{link:?}");
}

#[rstest]
#[case::in_an_envelope(ANNOUNCED)]
#[case::bare("<presence to='presence@-internal'/>")]
#[tokio::test]
async fn an_announcement_goes_to_all_others_with_what_the_router_has_loaded(#[case] form: &str) {
    const OTHER: &str = "cm-9_s2scp-1.elsewhere";
    let imp = cluster(&[ID]).await;
    let (mut known, seen) = announced(&imp, ID).await;
    assert_eq!(seen.matches("<presence").count(), 2, "{seen}");
    assert!(of(&seen, ID).is_none(), "announced to itself: {seen}");
    let manager = of(&seen, "cm-1.jabber").unwrap();
    for part in [
        " to='presence@-internal'",
        " sequence='2:",
        " config-ns='config-manager'",
        " comp-id='cm-1.jabber'",
    ] {
        assert!(manager.contains(part), "{part} in {manager}");
    }
    // Another one, which no table has: it is taken, and the others hear of it.
    let (_unknown, seen) = announced_as(&imp, OTHER, form).await;
    assert_eq!(seen.matches(&format!(" from='{ID}' ")).count(), 2, "{seen}");
    let first = of(&seen, ID).unwrap();
    assert!(first.contains("<default-gateway"), "{first}");
    assert!(first.contains(&format!("<host>{ID}</host>")), "{first}");
    assert!(of(&seen, OTHER).is_none(), "announced to itself: {seen}");
    let heard = known.read_until("</presence>").await;
    let other = of(&heard, OTHER).unwrap();
    assert!(!other.contains("default-gateway"), "{other}");
    assert!(!other.contains("comp-id"), "{other}");
}

#[tokio::test]
async fn stanzas_travel_in_routes_and_every_second_iq_without() {
    let imp = cluster(&[ID]).await;
    let (mut edge, _) = announced(&imp, ID).await;
    imp.send(ALICE, "<message to='bob@vngtp.lab' id='1'><body>x</body></message>")
        .await
        .unwrap();
    let seen = edge.read_until("</route>").await;
    assert!(
        seen.starts_with("<route from='alice@coluc.com/imp' to='bob@vngtp.lab' type='session'><message "),
        "{seen}"
    );
    edge.seen.clear();
    for n in 0..2 {
        imp.send(
            ALICE,
            &format!("<iq to='bob@vngtp.lab' type='get' id='q{n}'><q xmlns='urn:q'/></iq>"),
        )
        .await
        .unwrap();
    }
    let seen = edge.read_until("</route><iq ").await;
    assert!(seen.starts_with("<route "), "{seen}");
    edge.write(&format!(
        "<route from='{BOB}' to='{ALICE}' type='session'><message from='{BOB}' to='{ALICE}'><body>1</body></message></route>\
         <route from='{ID}' to='{ALICE}' type='auth'><message from='{BOB}' to='{ALICE}'><body>2</body></message></route>\
         <iq from='{BOB}' to='{ALICE}' type='result' id='q1'/>"
    ))
    .await;
    let mut items = inbox(&imp, ALICE, 0).await;
    while items.len() < 3 {
        let seen = items.len() as u64;
        items.extend(inbox(&imp, ALICE, seen).await);
    }
    for (item, expected) in items.iter().zip(["<body>1</body>", "<body>2</body>", "id='q1'"]) {
        assert!(item.stanza.contains(expected), "{}", item.stanza);
    }
}

#[rstest]
#[case::not_loaded(&[], true)]
#[case::not_announced(&[ID], false)]
#[tokio::test]
async fn nothing_goes_to_or_comes_from_a_component_that_is_no_gateway(
    #[case] loaded: &[&str],
    #[case] announces: bool,
) {
    let imp = cluster(loaded).await;
    let mut edge = if announces {
        announced(&imp, ID).await.0
    } else {
        let mut edge = accepted(&imp, ID).await;
        edge.read_until("</presence>").await;
        edge.seen.clear();
        edge
    };
    imp.send(ALICE, "<message to='bob@vngtp.lab' id='7'/>").await.unwrap();
    let items = inbox(&imp, ALICE, 0).await;
    assert!(
        items[0].stanza.contains("<remote-server-not-found "),
        "{}",
        items[0].stanza
    );
    edge.write(&format!(
        "<route from='{BOB}' to='{ALICE}' type='session'><message from='{BOB}' to='{ALICE}' type='error'/></route>\
         <route from='{BOB}' to='{ALICE}' type='session'><message from='{BOB}' to='{ALICE}' id='1'/></route>\
         <route from='{ID}' to='{ID}' type='session'><iq from='{ID}' to='{ID}' type='get' id='p'/></route>"
    ))
    .await;
    edge.read_until("id='p'").await;
    let seen = edge.read_until("</iq></route>").await;
    let back = format!("<route from='{ALICE}' to='{BOB}' type='error'><message type='error' ");
    assert!(seen.starts_with(&back), "{seen}");
    assert_eq!(seen.matches("<service-unavailable ").count(), 2, "{seen}");
    let router = &imp.state().nodes[0].router;
    assert_eq!((router.delivered, router.refused, router.bounced), (0, 3, 1));
}

#[tokio::test]
async fn a_restart_reads_the_table_and_makes_the_component_a_gateway() {
    let imp = cluster(&[]).await;
    let (edge, _) = announced(&imp, ID).await;
    imp.sql(&format!(
        "INSERT INTO xmpps2snodes (pkid, cp_id) VALUES (newid(), '{ID}')"
    ))
    .unwrap();
    until(&imp, "configured", |state| {
        state.nodes[0].router.configured_ids.contains(ID)
    })
    .await;
    assert!(!imp.state().nodes[0].router.links[0].gateway);
    imp.restart_router(PUBLISHER).unwrap();
    assert_eq!(edge.rest().await, "");
    until(&imp, "started", |state| state.nodes[0].router.status == Status::Started).await;
    let (_edge, _) = announced(&imp, ID).await;
    let (_other, seen) = announced(&imp, "cm-9_s2scp-1.elsewhere").await;
    let own = of(&seen, ID).unwrap();
    assert!(own.contains("<default-gateway"), "{own}");
}

#[tokio::test]
async fn the_config_manager_answers_and_counts() {
    let imp = cluster(&[ID]).await;
    let mut edge = accepted(&imp, ID).await;
    for (asked, kind) in [(ID, "result"), ("elsewhere", "error")] {
        edge.write(&format!(
            "<xdb from='{ID}' id='2' ns='config-manager' to='config@-internal' type='get'><config id='{asked}'/></xdb>"
        ))
        .await;
        let seen = edge.read_until("</xdb>").await;
        assert!(
            seen.contains(&format!(
                "<xdb from='config@-internal' to='{ID}' id='2' ns='config-manager' type='{kind}'><config id='{asked}'"
            )),
            "{seen}"
        );
        assert_eq!(seen.contains("router-secret"), kind == "result");
        edge.seen.clear();
    }
    assert_eq!(imp.state().nodes[0].router.config_requests, 2);
    let call = imp.calls(0).last().unwrap().clone();
    assert_eq!((&*call.service, call.operation.as_str()), ("xcp", "xdb get config"));
}

#[rstest]
#[case::no_version("to='ID' id='ID'", "unsupported-version")]
#[case::another_version("to='ID' id='ID' version='2.0'", "unsupported-version")]
#[case::no_id("to='ID' version='1.0'", "improper-addressing")]
#[case::another_id("to='ID' id='other' version='1.0'", "improper-addressing")]
#[tokio::test]
async fn a_header_that_is_not_of_this_profile_is_refused(#[case] attributes: &str, #[case] condition: &str) {
    let imp = cluster(&[ID]).await;
    let component = open(&imp, &attributes.replace("ID", ID)).await;
    let answer = component.rest().await;
    assert!(answer.contains(&format!("<{condition} xmlns=")), "{answer}");
}

#[rstest]
#[case::a_message_without_route("<message from='bob@vngtp.lab' to='alice@coluc.com'/>", "unsupported-stanza-type")]
#[case::presence_without_route("<presence from='bob@vngtp.lab' to='alice@coluc.com'/>", "unsupported-stanza-type")]
#[case::another_namespace("<route xmlns='urn:r'/>", "unsupported-stanza-type")]
#[case::empty("<route from='bob@vngtp.lab' to='alice@coluc.com' type='session'/>", "bad-format")]
#[case::two(
    "<route from='bob@vngtp.lab' to='alice@coluc.com' type='session'><message from='bob@vngtp.lab' to='alice@coluc.com'/><message from='bob@vngtp.lab' to='alice@coluc.com'/></route>",
    "bad-format"
)]
#[case::text(
    "<route from='bob@vngtp.lab' to='alice@coluc.com' type='session'>x<message from='bob@vngtp.lab' to='alice@coluc.com'/></route>",
    "bad-format"
)]
#[case::nested(
    "<route from='bob@vngtp.lab' to='alice@coluc.com' type='session'><route from='bob@vngtp.lab' to='alice@coluc.com'/></route>",
    "unsupported-stanza-type"
)]
#[case::no_type(
    "<route from='bob@vngtp.lab' to='alice@coluc.com'><message from='bob@vngtp.lab' to='alice@coluc.com'/></route>",
    "bad-format"
)]
#[case::another_type(
    "<route from='bob@vngtp.lab' to='alice@coluc.com' type='error'><message from='bob@vngtp.lab' to='alice@coluc.com'/></route>",
    "bad-format"
)]
#[case::to_somebody_else(
    "<route from='bob@vngtp.lab' to='carol@coluc.com' type='session'><message from='bob@vngtp.lab' to='alice@coluc.com'/></route>",
    "bad-format"
)]
#[case::from_somebody_else(
    "<route from='eve@evil.example' to='alice@coluc.com' type='session'><message from='bob@vngtp.lab' to='alice@coluc.com'/></route>",
    "bad-format"
)]
#[case::own_domain(
    "<route from='carol@coluc.com' to='alice@coluc.com' type='session'><message from='carol@coluc.com' to='alice@coluc.com'/></route>",
    "invalid-from"
)]
#[case::announcing_others("<presence from='cm-1.jabber' to='presence@-internal'/>", "bad-format")]
#[case::another_protocol(
    "<presence to='presence@-internal'><x xmlns='http://www.jabber.com/schemas/component-presence.xsd' protocol-version='2'/></presence>",
    "bad-format"
)]
#[case::an_xdb_that_asks_nothing("<xdb from='x' to='config@-internal' ns='config-manager' type='set'/>", "bad-format")]
#[tokio::test]
async fn what_a_router_could_not_understand_ends_the_stream(#[case] text: &str, #[case] condition: &str) {
    let imp = cluster(&[ID]).await;
    let (mut edge, _) = announced(&imp, ID).await;
    edge.write(text).await;
    let answer = edge.rest().await;
    assert!(answer.contains(&format!("<{condition} xmlns=")), "{answer}");
    assert!(imp.state().nodes[0].router.links.is_empty());
}

#[tokio::test]
async fn a_wrong_secret_is_refused() {
    let imp = cluster(&[ID]).await;
    let mut component = open(&imp, &format!("to='{ID}' id='{ID}' version='1.0'")).await;
    let answer = component.shake(&imp, "other").await;
    assert!(answer.contains("<not-authorized "), "{answer}");
}
