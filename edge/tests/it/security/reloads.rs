//! What becomes of streams when certificates, their requirement or revocation lists change.

use rcgen::CertificateParams;
use xmpp_federation_core::edge_config::TlsMode;

use crate::support::pki::{files, partners, pki, server};
use crate::support::{PROCEED, VALID};

use super::world::{Host, Inbound, MESSAGE, World, identity, required};

#[tokio::test]
async fn a_revoked_certificate_ends_the_streams_that_it_authenticated_and_no_others() {
    let revoked = pki().issue(&["vngtp.lab"], |params: &mut CertificateParams| {
        params.serial_number = Some(4711_u64.into());
    });
    let mut world = World::with_files(
        |config| config.tls.revocation_lists = vec!["/crl".into()],
        &[("/crl", &pki().revoked(&[1, 2]))],
    )
    .await;
    let edge = world.lab.s2s;
    let mut external = Inbound::external(edge, &revoked).await;
    let mut dialback = Inbound::secured(edge, Some(&revoked)).await;
    let id = dialback.id.clone();
    world.peer.authenticate(&mut dialback.speaker, &id, "coluc.com").await;
    external.passes(&mut world.link, "1").await;
    dialback.passes(&mut world.link, "2").await;
    world.reload(
        |config| config.tls.revocation_lists = vec!["/crl".into()],
        &[("/crl", &pki().revoked(&[1, 4711]))],
    );
    assert_eq!(external.ends_with().await, "policy-violation");
    world.refused_by(external.address, "certificate", "was revoked").await;
    dialback.passes(&mut world.link, "3").await;
    let again = Inbound::secured(edge, Some(&revoked)).await;
    assert!(!again.offers_external(), "{}", again.features);
}

#[tokio::test]
async fn certificates_that_become_required_end_streams_without_one_in_both_directions() {
    let mut world = World::new(|_| {}).await;
    let shown = identity("self-signed").unwrap();
    let mut bob = Inbound::secured(world.lab.s2s, Some(&shown)).await;
    let id = bob.id.clone();
    world.peer.authenticate(&mut bob.speaker, &id, "coluc.com").await;
    bob.passes(&mut world.link, "1").await;
    world.link.say(MESSAGE);
    let host = Host::new(TlsMode::Required, &shown);
    let taken = host.take(&world.peer, "", &["</db:result>"]).await;
    let (mut edge, _, _) = taken.unwrap();
    edge.say(VALID).await;
    edge.hear("</message>").await;
    let mut good = Inbound::external(world.lab.s2s, partners()).await;
    world.reload(required, &[]);
    assert_eq!(bob.ends_with().await, "policy-violation");
    world
        .refused_by(bob.address, "certificate", "no trusted authority")
        .await;
    assert!(edge.hear("</stream:stream>").await.contains("<policy-violation "));
    // What was written a moment ago may be lost with that stream.
    assert!(world.link.hear().await.contains("type='error'"));
    good.passes(&mut world.link, "2").await;
}

#[tokio::test]
async fn a_new_certificate_is_shown_on_new_streams_and_live_ones_go_on() {
    let mut world = World::new(|_| {}).await;
    let mut before = Inbound::external(world.lab.s2s, partners()).await;
    let renewed = pki().issue(&["coluc.com", "conf.coluc.com"], |_| {});
    world.reload(
        |config| {
            config.tls.certificates = vec![files("/new")];
        },
        &[("/new", &(renewed.pem()))],
    );
    before.passes(&mut world.link, "1").await;
    world.link.say(MESSAGE);
    let mut edge = world.peer.accept_starttls().await;
    edge.say(PROCEED).await;
    let (_, shown) = edge.tls_server(server(partners())).await.unwrap();
    assert_eq!(shown, renewed.chain);
    let status = world.lab.edge.live();
    assert_eq!(status.tls.leaf_sha256, Some(renewed.sha256()));
}
