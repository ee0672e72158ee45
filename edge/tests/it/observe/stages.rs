//! Where a stream failed: a peer that hangs up, and a bound that is met, are told with the stage that the
//! stream had come to, in both roles and in a probe.

use std::sync::Arc;
use std::time::Duration;

use rstest::rstest;
use socket2::SockRef;
use xmpp_federation_core::Domain;
use xmpp_federation_edge::observe::failures::{Attempt, AttemptInfo};
use xmpp_federation_edge::probe::{Plan, Rating};
use xmpp_federation_edge::words::{Direction, Stage};

use crate::support::partner::EXTERNAL;
use crate::support::pki::{client, partners, pki, server};
use crate::support::{
    AUTH, DIALBACK, Lab, PATIENCE, PROCEED, Peer, Router, STARTTLS, Speaker, config, features, header, live, to_bob,
};

/// After which step the peer hangs up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    Connection,
    Header,
    OwnHeader,
    StartTls,
    /// In the middle of the first record.
    Proceed,
    Tls,
    TlsHeader,
    /// An edge that connects has sent `<auth/>`; one that was connected to has accepted it.
    Auth,
    /// The edge asked about a key, or was shown one.
    Key,
}

/// Takes a connection of the edge and hangs up after this step. `resets`: the other side sees no orderly
/// end.
async fn hang_up_on(peer: &Peer, after: After, resets: bool) {
    let (tcp, _) = peer.listener.accept().await.unwrap();
    if resets {
        SockRef::from(&tcp).set_linger(Some(Duration::ZERO)).unwrap();
    }
    let mut stream = Speaker::new(tcp);
    if after == After::Connection {
        return;
    }
    stream.hear("version='1.0'>").await;
    if after == After::Header {
        return;
    }
    stream.say(&header("vngtp.lab", "coluc.com", "clear-id")).await;
    if after == After::OwnHeader {
        return;
    }
    stream.say(&features(STARTTLS)).await;
    stream.hear(STARTTLS).await;
    if after == After::StartTls {
        return;
    }
    stream.say(PROCEED).await;
    if after == After::Proceed {
        stream.hear_some(5).await;
        return;
    }
    stream.tls_server(server(partners())).await.unwrap();
    stream.hear("version='1.0'>").await;
    if after == After::Tls {
        return;
    }
    stream.say(&header("vngtp.lab", "coluc.com", "tls-id")).await;
    if after == After::TlsHeader {
        return;
    }
    let external = if after == After::Auth { EXTERNAL } else { "" };
    stream
        .say(&format!("<stream:features>{external}{DIALBACK}</stream:features>"))
        .await;
    stream
        .hear(if after == After::Auth { "</auth>" } else { "</db:" })
        .await;
}

fn remote() -> Domain {
    "vngtp.lab".parse().unwrap()
}

/// The first attempt that is noted in this direction.
async fn attempt(lab: &Lab, direction: Direction) -> Attempt {
    counted(lab, direction).await.attempt
}

async fn counted(lab: &Lab, direction: Direction) -> AttemptInfo {
    let find = |lab: &Lab| {
        let all = lab.edge.failures(Some(&remote()));
        let mut all = all.into_iter().flat_map(|domain| domain.attempts);
        all.rfind(|noted| noted.attempt.direction == direction)
    };
    lab.until("the attempt is noted", |lab| find(lab).is_some()).await;
    find(lab).unwrap()
}

/// An edge that shows a certificate for its domains.
async fn with_certificate() -> (Lab, Peer, Router) {
    let (peer, router) = (Peer::new("vngtp.lab").await, Router::new().await);
    let lab = Lab::start(pki().live(config(&[&peer], &[&router])));
    (lab, peer, router)
}

#[rstest]
#[case(After::Connection, Stage::Features)]
#[case(After::Header, Stage::Features)]
#[case(After::OwnHeader, Stage::Features)]
#[case(After::StartTls, Stage::Tls)]
#[case(After::Proceed, Stage::Tls)]
#[case(After::Tls, Stage::Features)]
#[case(After::TlsHeader, Stage::Features)]
#[case(After::Auth, Stage::External)]
#[case(After::Key, Stage::Dialback)]
#[tokio::test]
async fn a_server_that_hangs_up_on_a_stream_for_stanzas(
    #[case] after: After,
    #[case] stage: Stage,
    #[values(false, true)] resets: bool,
) {
    let (lab, peer, router) = with_certificate().await;
    let link = router.accept().await;
    link.say(&to_bob("1"));
    hang_up_on(&peer, after, resets).await;
    let noted = attempt(&lab, Direction::Outbound).await;
    // A reset may come before the connection is known to stand.
    let early = after == After::Connection && resets && noted.stage == Stage::Connect;
    assert!(noted.stage == stage || early, "{noted:?}");
}

#[rstest]
#[case(After::Connection, Stage::Features)]
#[case(After::Header, Stage::Features)]
#[case(After::StartTls, Stage::Tls)]
#[case(After::Proceed, Stage::Tls)]
#[case(After::TlsHeader, Stage::Features)]
#[case(After::Key, Stage::Dialback)]
#[tokio::test]
async fn a_server_that_hangs_up_on_a_stream_for_verification(#[case] after: After, #[case] stage: Stage) {
    let (lab, peer, _router) = with_certificate().await;
    let (mut bob, _) = peer.open(lab.s2s, "coluc.com").await;
    bob.say("<db:result from='vngtp.lab' to='coluc.com'>key</db:result>")
        .await;
    hang_up_on(&peer, after, false).await;
    let noted = attempt(&lab, Direction::Outbound).await;
    assert_eq!(noted.stage, stage, "{noted:?}");
}

/// Connects to the edge and hangs up after this step.
async fn hang_up(lab: &Lab, peer: &Peer, after: After, resets: bool) {
    let tcp = tokio::net::TcpStream::connect(lab.s2s).await.unwrap();
    if resets {
        SockRef::from(&tcp).set_linger(Some(Duration::ZERO)).unwrap();
    }
    let mut stream = Speaker::new(tcp);
    let open = header("vngtp.lab", "coluc.com", "");
    stream.open(&open).await;
    if after == After::OwnHeader {
        return;
    }
    stream.starttls().await;
    if after == After::StartTls {
        return;
    }
    if after == After::Proceed {
        let _ = stream.try_say(&[22, 3, 1, 2]).await;
        return;
    }
    stream.tls_client(client(Some(partners())), "coluc.com").await.unwrap();
    stream.open(&open).await;
    match after {
        After::Auth => {
            stream.say(AUTH).await;
            stream.hear("<success").await;
        }
        After::Key => {
            stream
                .say("<db:result from='vngtp.lab' to='coluc.com'>key</db:result>")
                .await;
            let _asked = peer.accept_question().await;
        }
        _ => {}
    }
}

#[rstest]
#[case(After::OwnHeader, Stage::Features)]
#[case(After::StartTls, Stage::Tls)]
#[case(After::Proceed, Stage::Tls)]
#[case(After::TlsHeader, Stage::Features)]
#[case(After::Auth, Stage::External)]
#[case(After::Key, Stage::Dialback)]
#[tokio::test]
async fn a_peer_that_connects_and_hangs_up(
    #[case] after: After,
    #[case] stage: Stage,
    #[values(false, true)] resets: bool,
) {
    let (lab, peer, _router) = with_certificate().await;
    hang_up(&lab, &peer, after, resets).await;
    let noted = counted(&lab, Direction::Inbound).await;
    assert_eq!((noted.attempt.stage, noted.count), (stage, 1), "{noted:?}");
}

#[rstest]
#[case(After::Connection, "features")]
#[case(After::Header, "features")]
#[case(After::OwnHeader, "features")]
#[case(After::StartTls, "tls")]
#[case(After::Proceed, "tls")]
#[case(After::TlsHeader, "features")]
#[case(After::Key, "dialback")]
#[tokio::test]
async fn a_server_that_hangs_up_on_a_probe(#[case] after: After, #[case] stage: &str) {
    let peer = Peer::new("vngtp.lab").await;
    let live = Arc::new(pki().live(config(&[&peer], &[])));
    let plan = Plan::with_live(remote(), None, live, None).unwrap();
    let (report, ()) = tokio::join!(plan.run(), hang_up_on(&peer, after, false));
    let bad = report.findings.iter().find(|found| found.verdict == Rating::Bad);
    assert_eq!(bad.unwrap().check, stage, "{report}");
    assert!(!report.good, "{report}");
}

/// A server that says nothing more after this step, until the probe gives up.
#[tokio::test]
async fn a_probe_that_waits_in_vain_in_the_handshake_says_so() {
    let peer = Peer::new("vngtp.lab").await;
    let mut config = config(&[&peer], &[]);
    config.limits.negotiation_timeout = "1s".parse().unwrap();
    let plan = Plan::with_live(remote(), None, Arc::new(live(config)), None).unwrap();
    let script = async {
        let mut stream = peer.accept_starttls().await;
        stream.say(PROCEED).await;
        tokio::time::timeout(PATIENCE, stream.hear_end()).await.unwrap();
    };
    let (report, ()) = tokio::join!(plan.run(), script);
    let bad = report.findings.iter().find(|found| found.verdict == Rating::Bad);
    assert_eq!(bad.unwrap().check, "tls", "{report}");
}

/// What a peer does until it meets a bound.
#[derive(Debug, Clone, Copy)]
enum Bound {
    /// Unfinished data fills what it may before a proof.
    Elements,
    /// One key more than a stream may have pairs.
    Keys,
}

#[rstest]
#[case::before_a_proof(Bound::Elements, Stage::Features)]
#[case::at_dialback(Bound::Keys, Stage::Dialback)]
#[tokio::test]
async fn a_bound_is_told_with_the_stage_at_which_it_was_met(#[case] bound: Bound, #[case] stage: Stage) {
    let (lab, peer, _link) = Lab::configured(|config| config.limits.max_pairs_per_stream = 1).await;
    let mut bob = match bound {
        Bound::Keys => peer.open_authenticated(lab.s2s, "coluc.com").await,
        Bound::Elements => peer.open(lab.s2s, "coluc.com").await.0,
    };
    match bound {
        Bound::Keys => {
            bob.say("<db:result from='vngtp.lab' to='conf.coluc.com'>key</db:result>")
                .await;
        }
        Bound::Elements => bob.say(&format!("<message>{}", "x".repeat(20_000))).await,
    }
    let noted = attempt(&lab, Direction::Inbound).await;
    assert_eq!(noted.stage, stage, "{noted:?}");
}
