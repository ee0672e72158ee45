//! SASL EXTERNAL where the edge connects.

use std::net::SocketAddr;
use std::sync::Arc;

use rstest::rstest;
use xmpp_federation_core::Domain;
use xmpp_federation_core::edge_config::{Partner, TlsMode};

use crate::support::pki::{files, partners, pki};
use crate::support::{
    self, DIALBACK, Lab, Router, Speaker, VALID, answered, attribute, config, features, header, route_host, to_alice,
};

use super::world::{HEADER_END, Host, MESSAGE, OFFERS_EXTERNAL, World};

/// With base64 of `coluc.com` as authorization identity.
const AUTH: &str = "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>Y29sdWMuY29t</auth>";

/// A stream of the edge on which it asks for EXTERNAL, and how it asks.
async fn asked_for_external() -> (World, Host<'static>, Speaker, String) {
    let world = World::new(|_| {}).await;
    world.link.say(MESSAGE);
    let host = Host::new(TlsMode::Required, partners());
    let taken = host.take(&world.peer, OFFERS_EXTERNAL, &["</auth>"]).await;
    let (edge, auth, _) = taken.unwrap();
    (world, host, edge, auth)
}

#[tokio::test]
async fn the_edge_uses_external_where_it_is_offered_and_dialback_for_its_other_domains() {
    let (world, _, mut edge, auth) = asked_for_external().await;
    assert_eq!(auth, AUTH);
    edge.say("<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>").await;
    edge.hear(HEADER_END).await;
    edge.say(&header("vngtp.lab", "coluc.com", "third-id")).await;
    edge.say(&features(DIALBACK)).await;
    let message = edge.hear("</message>").await;
    assert!(!message.contains("db:result"), "{message}");
    assert_eq!(world.mechanisms("outbound"), ["external"]);

    world
        .link
        .say("<message from='room@conf.coluc.com' to='bob@vngtp.lab' id='m2'><body/></message>");
    let result = edge.hear("</db:result>").await;
    assert_eq!(attribute(&result, "db:result", "from"), "conf.coluc.com");
    let key = xmpp_federation_core::DialbackKey::generate(
        &xmpp_federation_core::SecretBytes::new(support::SECRET.into()),
        &"vngtp.lab".parse().unwrap(),
        &"conf.coluc.com".parse().unwrap(),
        &xmpp_federation_core::StreamId::from_peer("third-id").unwrap(),
    );
    assert!(result.contains(key.as_str()), "the key is of the latest id");
    edge.say(&answered("vngtp.lab", "conf.coluc.com", "valid")).await;
    edge.hear("id='m2'").await;
}

#[tokio::test]
async fn where_external_is_refused_dialback_goes_on_over_the_same_stream() {
    let (world, host, mut edge, _) = asked_for_external().await;
    edge.say("<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><not-authorized/><text xml:lang='en'>unacceptable</text></failure>").await;
    edge.hear("</db:result>").await;
    edge.say(VALID).await;
    edge.hear("</message>").await;
    assert_eq!(world.mechanisms("outbound"), ["dialback"]);
    edge.say("</stream:stream>").await;
    edge.hear_end().await;
    // And it is not tried again at once.
    world.link.say(&MESSAGE.replace("m1", "m2"));
    let ends = ["</db:result>", "</auth>"];
    let taken = host.take(&world.peer, OFFERS_EXTERNAL, &ends).await;
    assert!(taken.unwrap().1.ends_with("</db:result>"));
}

#[rstest]
#[case::with_an_error(
    "<stream:error><not-authorized xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>"
)]
#[case::without_a_word("")]
#[tokio::test]
async fn a_server_that_ends_the_stream_because_of_external_is_called_again_without(#[case] last: &str) {
    let (world, host, mut edge, _) = asked_for_external().await;
    edge.say(last).await;
    drop(edge);
    let ends = ["</db:result>", "</auth>"];
    let taken = host.take(&world.peer, OFFERS_EXTERNAL, &ends).await;
    let (mut edge, said, _) = taken.unwrap();
    assert!(said.ends_with("</db:result>"), "{said}");
    edge.say(VALID).await;
    edge.hear("</message>").await;
}

#[tokio::test]
async fn external_is_not_tried_with_a_certificate_that_does_not_name_the_sender() {
    let other = pki().issue(&["elsewhere.example"], |_| {});
    let world = World::with_files(
        |config| {
            config.tls.client_certificate = Some(files("/client"));
        },
        &[("/client", &(other.pem()))],
    )
    .await;
    world.link.say(MESSAGE);
    let host = Host::new(TlsMode::Required, partners());
    let ends = ["</db:result>", "</auth>"];
    let taken = host.take(&world.peer, OFFERS_EXTERNAL, &ends).await;
    assert!(taken.unwrap().1.ends_with("</db:result>"));
}

#[tokio::test]
async fn a_challenge_is_given_up_and_dialback_goes_on() {
    let (_world, _, mut edge, _) = asked_for_external().await;
    edge.say("<challenge xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>=</challenge>")
        .await;
    edge.hear("<abort xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>").await;
    edge.say("<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><aborted/></failure>")
        .await;
    edge.hear("</db:result>").await;
}

#[tokio::test]
async fn nothing_pipelined_behind_success_counts() {
    let (_world, _, mut edge, _) = asked_for_external().await;
    edge.say(&format!(
        "<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>{}{}",
        header("vngtp.lab", "coluc.com", "injected"),
        features(DIALBACK)
    ))
    .await;
    let end = edge.hear_end().await;
    assert!(end.contains("<policy-violation "), "{end}");
    assert!(!end.contains("<message"), "{end}");
}

/// Two edges, each with its own router: both roles of EXTERNAL in one go.
#[tokio::test]
async fn two_edges_that_require_certificates_federate_by_external() {
    let (router_a, router_b) = (Router::new().await, Router::new().await);
    let here = config(&[], &[&router_a]);
    let mut there = config(&[], &[&router_b]);
    there.domains = vec!["vngtp.lab".parse().unwrap()];
    there.privacy.domains = here.domains.iter().cloned().map(Into::into).collect();
    there.tls.require_client_certificates = true;
    there.tls.certificates = vec![files("/b")];
    let b = pki().issue(&["vngtp.lab"], |_| {});
    let b = b.pem();
    // Each needs the other's address: B is told A's afterwards, by a reload.
    let lab_b = Lab::start(pki().live_with(there.clone(), &[("/b", &b)]));
    let way = |domain: &str, address: SocketAddr| Partner {
        route: vec![route_host(address)],
        ..Partner::new(domain.parse::<Domain>().unwrap())
    };
    let mut here = here;
    here.tls.require_client_certificates = true;
    here.partners = vec![way("vngtp.lab", lab_b.s2s)];
    let lab_a = Lab::start(pki().live(here));
    there.partners = vec![way("coluc.com", lab_a.s2s)];
    lab_b
        .live
        .send(Arc::new(pki().live_with(there, &[("/b", &b)])))
        .unwrap();
    let (mut link_a, mut link_b) = (router_a.accept().await, router_b.accept().await);
    link_a.say(MESSAGE);
    assert!(link_b.hear().await.contains("id='m1'"));
    link_b.say(&to_alice("m2"));
    assert!(link_a.hear().await.contains("id='m2'"));
    for lab in [&lab_a, &lab_b] {
        let streams = lab.edge.registry.streams(None);
        assert_eq!(streams.len(), 2, "no stream for dialback: {streams:?}");
        for stream in streams {
            assert_eq!(stream.detail.pairs[0].mechanism, "external");
        }
    }
}
