//! Negotiation, dialback and stanzas in both roles: a peer that connects to the edge, and one that
//! the edge connects to, say what an input holds.
//!
//! The first byte: bit 0, a header comes first; bits 1 and 2, the security mode; bit 3, a message
//! of the router calls the second peer; bits 4 to 7, the size of the pieces.

use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

use super::conversation::{Everywhere, NEXT, Side, converse, listener, start};

/// A peer's header.
const HEADER: &[u8] = b"<stream:stream xmlns='jabber:server' xmlns:db='jabber:server:dialback' \
    xmlns:stream='http://etherx.jabber.org/streams' from='partner.example' to='coluc.com' \
    version='1.0'>\xfe";
/// What the router says: with this the edge calls partner.example.
const MESSAGE: &[u8] = b"<stream:stream xmlns='jabber:component:accept' \
    xmlns:stream='http://etherx.jabber.org/streams' id='router'>\xfe<handshake/>\
    <message from='alice@coluc.com' to='bob@partner.example' id='m1'/>";

/// One input.
pub fn run(data: &[u8]) {
    let Some((&choice, data)) = data.split_first() else {
        return;
    };
    let mut sides = data.splitn(2, |byte| *byte == NEXT);
    let first = sides.next().unwrap_or_default();
    let second = sides.next().unwrap_or_default();
    let header = if choice & 1 == 0 { HEADER } else { b"" };
    let mode = ["Disabled", "Optional", "Required", "Disabled"][usize::from(choice >> 1 & 3)];
    let calls = choice & 8 != 0;
    let step = match usize::from(choice >> 4) {
        0 => usize::MAX,
        n => n * n,
    };
    converse(async || {
        let ((peer, port), (router, node)) = (listener().await, listener().await);
        let endpoints = if calls {
            format!("endpoints: [{{name: node, address: '127.0.0.1:{node}'}}]")
        } else {
            "endpoints: []".to_owned()
        };
        let running = start(mode, &endpoints, Everywhere(Some(port)));
        let answered = Notify::new();
        let answering = async {
            loop {
                let (tcp, _) = peer.accept().await.unwrap();
                let mut side = Side::new(tcp);
                side.play(second, step).await;
                side.finish().await;
                answered.notify_one();
            }
        };
        let asking = async {
            let link = if calls {
                let (tcp, _) = router.accept().await.unwrap();
                let mut side = Side::new(tcp);
                side.play(MESSAGE, usize::MAX).await;
                let _ = timeout(Duration::from_millis(500), answered.notified()).await;
                Some(side)
            } else {
                None
            };
            let mut side = Side::connect(running.s2s).await;
            side.play(&[header, first].concat(), step).await;
            side.finish().await;
            if let Some(link) = link {
                link.finish().await;
            }
        };
        tokio::select! {
            () = answering => {}
            () = asking => {}
        }
    });
}
