//! A link of either profile: the router says what an input holds while stanzas are on their way to
//! it.
//!
//! The first byte: bit 0, the profile; bits 1 and 2, what went right before; bit 3, the router ends
//! the connection at once; bits 4 to 7, the size of the pieces.

use super::conversation::{Everywhere, Side, converse, listener, start};

const HEADER: &[u8] = b"<stream:stream xmlns='jabber:component:accept' \
    xmlns:stream='http://etherx.jabber.org/streams' from='cm-2_s2s' id='router'>\xfe";
const HANDSHAKE: &[u8] = b"<handshake/>\xfe";
const ANNOUNCED: &[u8] = b"<route from='cm-2_s2s' to='cm-2_s2s' type='component-presence'>\
    <presence from='cm-2_s2s' to='cm-2_s2s'>\
    <x xmlns='http://www.jabber.com/schemas/component-presence.xsd' protocol-version='1.1'>\
    <local-hosts><host>cm-2_s2s</host></local-hosts><default-gateway/></x></presence></route>\
    <route from='alice@coluc.com' to='bob@nowhere.example' type='session'>\
    <message from='alice@coluc.com' to='bob@nowhere.example' id='m1'/></route>\xfe";
/// What comes back as an error is something for the router to prove.
const MESSAGE: &[u8] = b"<message from='alice@coluc.com' to='bob@nowhere.example' id='m1'/>\xfe";

/// One input.
pub fn run(data: &[u8]) {
    let Some((&choice, script)) = data.split_first() else {
        return;
    };
    let (profile, last) = if choice & 1 == 0 {
        ("Component", MESSAGE)
    } else {
        ("Xcp", ANNOUNCED)
    };
    let done = [HEADER, HANDSHAKE, last];
    let done = done[..usize::from(choice >> 1 & 3)].concat();
    let step = match usize::from(choice >> 4) {
        0 => usize::MAX,
        n => n * n,
    };
    converse(async || {
        let (router, node) = listener().await;
        let endpoint = format!("profile: {profile}, endpoints: [{{name: node, address: '127.0.0.1:{node}'}}]");
        let _running = start("Disabled", &endpoint, Everywhere(None));
        let (tcp, _) = router.accept().await.unwrap();
        let mut side = Side::new(tcp);
        side.play(&done, usize::MAX).await;
        side.play(script, step).await;
        if choice & 8 == 0 {
            side.finish().await;
        }
    });
}
