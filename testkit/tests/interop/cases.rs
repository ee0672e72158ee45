//! The cases one after the other: messages, presence and IQ both ways, and how both sides say they are connected.

use testkit_acceptance::report::{Talk, ensure};
use testkit_acceptance::traffic;
use testkit_base::Error;
use testkit_partners::certificates::Kind;
use testkit_partners::server::{Kind as Server, Proof, Tls};

use crate::evidence::{Direction, agreed};
use crate::exchange::{Outcome, PATIENCE, message};
use crate::partners::{A_LABELS, INTERNATIONAL, domain_of};
use crate::table::Table;
use crate::world::{World, unicode};

const SERVERS: [Server; 2] = [Server::Prosody, Server::Ejabberd];
const CLEAR: &str = "clear dialback";
const DIALBACK: &str = "TLS dialback";
const EXTERNAL: &str = "TLS external";

/// A partner of that kind.
fn with(server: Server, tls: Tls, certificate: Kind) -> String {
    domain_of(server, tls, Proof::Any, Some(certificate))
}

/// A partner that believes certificates only.
fn strict(server: Server, certificate: Kind) -> String {
    domain_of(server, Tls::Required, Proof::Certificate, Some(certificate))
}

/// Plays them all.
pub async fn play(world: &World, table: &mut Table) {
    for server in SERVERS {
        let partner = domain_of(server, Tls::Off, Proof::Any, None);
        for edge in ["dis", "opt"] {
            let name = format!("1 dialback clear, edge {edge}");
            let local = format!("{edge}.coluc.com");
            full(world, table, &name, (edge, &local), &partner, [CLEAR, CLEAR]).await;
        }
        let partner = with(server, Tls::Required, Kind::SelfSigned);
        let ours = ("own", "coluc.com");
        full(
            world,
            table,
            "2 dialback over TLS",
            ours,
            &partner,
            [DIALBACK, DIALBACK],
        )
        .await;
        let ours = ("ca", "ca.coluc.com");
        let partner = strict(server, Kind::Valid);
        full(
            world,
            table,
            "3 EXTERNAL, no dialback",
            ours,
            &partner,
            [EXTERNAL, EXTERNAL],
        )
        .await;
        let partner = with(server, Tls::Required, Kind::Valid);
        full(
            world,
            table,
            "3 EXTERNAL, dialback possible",
            ours,
            &partner,
            [EXTERNAL, EXTERNAL],
        )
        .await;
    }
    server_auth_only(world, table).await;
    for (domain, _, _, certificate) in INTERNATIONAL {
        if certificate == Kind::Valid {
            let ours = ("ca", "ca.coluc.com");
            full(
                world,
                table,
                "5 U-label partner, EXTERNAL",
                ours,
                domain,
                [EXTERNAL, EXTERNAL],
            )
            .await;
            continue;
        }
        let ours = ("own", "coluc.com");
        full(
            world,
            table,
            "5 U-label partner, dialback",
            ours,
            domain,
            [DIALBACK, DIALBACK],
        )
        .await;
        let ours = ("own", "xn--kln-sna.coluc.com");
        full(
            world,
            table,
            "5 U-label on both sides",
            ours,
            domain,
            [DIALBACK, DIALBACK],
        )
        .await;
    }
    for (domain, international) in A_LABELS {
        host_by_its_a_label(world, table, domain, international).await;
    }
    for server in SERVERS {
        let partner = with(server, Tls::Required, Kind::SelfSigned);
        alias(world, table, &partner).await;
    }
    two_edges(world, table).await;
}

/// Messages, subscriptions and pings both ways; then how the edge's stream and the partner's are secured.
async fn full(
    world: &World,
    table: &mut Table,
    case: &str,
    (edge, local): (&str, &str),
    partner: &str,
    expected: [&str; 2],
) {
    table
        .case(case, partner, async |talk| {
            let (alice, bob) = (world.alice(&unicode(local)), world.bob(partner));
            traffic::messages(talk, &alice, &bob).await?;
            traffic::subscriptions(talk, &alice, &bob).await?;
            traffic::pings(talk, &alice, &bob).await?;
            secured(world, (edge, local), partner, expected).await
        })
        .await;
}

/// How both streams are, against how they should be.
async fn secured(
    world: &World,
    (edge, local): (&str, &str),
    partner: &str,
    expected: [&str; 2],
) -> Result<String, Error> {
    let edge = world.edge(edge);
    let mut seen = Vec::new();
    for direction in Direction::BOTH {
        let pair = agreed(world, &edge, local, world.partner(partner), direction).await?;
        seen.push(pair.to_string());
    }
    ensure(seen == expected, || {
        format!("out and in are {seen:?}, not {expected:?}")
    })?;
    Ok(format!("out {}, in {}", expected[0], expected[1]))
}

/// Certificates as public CAs issue them today: good for servers only.
async fn server_auth_only(world: &World, table: &mut Table) {
    let sa = ("sa", "sa.coluc.com");
    let ca = ("ca", "ca.coluc.com");
    let strict_prosody = strict(Server::Prosody, Kind::Valid);
    full(
        world,
        table,
        "4 ours serverAuth only, no dialback",
        sa,
        &strict_prosody,
        [EXTERNAL, EXTERNAL],
    )
    .await;
    for server in SERVERS {
        // What the partner's own verifier makes of it shows in our stream only: the partner's certificate is good for both.
        let ours = match server {
            Server::Prosody => EXTERNAL,
            Server::Ejabberd => DIALBACK,
        };
        let partner = with(server, Tls::Required, Kind::Valid);
        full(world, table, "4 ours serverAuth only", sa, &partner, [ours, EXTERNAL]).await;
        let partner = with(server, Tls::Required, Kind::ServerAuthOnly);
        full(
            world,
            table,
            "4 theirs serverAuth only",
            ca,
            &partner,
            [EXTERNAL, EXTERNAL],
        )
        .await;
        let partner = strict(server, Kind::ServerAuthOnly);
        full(
            world,
            table,
            "4 theirs serverAuth only, no dialback",
            ca,
            &partner,
            [EXTERNAL, EXTERNAL],
        )
        .await;
    }
    let partner = strict(Server::Ejabberd, Kind::Valid);
    table
        .case("4 ours serverAuth only, no dialback", &partner, async |_: Talk| {
            let (alice, bob) = (world.alice("sa.coluc.com"), world.bob(&partner));
            let there = message(&alice, &bob).await?;
            ensure(matches!(there, Outcome::Bounced(_)), || {
                format!("expected to be refused by its verifier: {there}")
            })?;
            Ok(format!(
                "out refused by ejabberd's verifier as expected, alice is told: {there}"
            ))
        })
        .await;
}

/// A host that has the A-label for itself: heard, and then reached by both spellings.
async fn host_by_its_a_label(world: &World, table: &mut Table, domain: &str, international: &str) {
    table
        .case("5 host by its A-label", domain, async |_: Talk| {
            let (alice, bob) = (world.alice("coluc.com"), world.bob(domain));
            let there = message(&bob, &alice).await?;
            ensure(there == Outcome::Delivered, || format!("to us: {there}"))?;
            let mut seen = Vec::new();
            for written in [domain, international] {
                let id = format!("to-{}", written.len());
                let from = bob.position().await?;
                let text = format!("<message to='bob@{written}' id='{id}' type='chat'><body>{id}</body></message>");
                alice.send(&text).await?;
                bob.expect(from, "the message", PATIENCE, |stanza| {
                    stanza.id == id && stanza.kind != "error"
                })
                .await?;
                seen.push(written);
            }
            let secured = secured(world, ("own", "coluc.com"), domain, [DIALBACK, DIALBACK]);
            Ok(format!("reached as {}; {}", seen.join(" and "), secured.await?))
        })
        .await;
}

async fn alias(world: &World, table: &mut Table, partner: &str) {
    table
        .case("6 chat alias", partner, async |talk| {
            let (alias, bob) = (world.alice("conference.coluc.com"), world.bob(partner));
            traffic::conference(talk, &alias, &bob).await?;
            secured(world, ("own", "conference.coluc.com"), partner, [DIALBACK, DIALBACK]).await
        })
        .await;
}

/// Two organisations with an edge each, by dialback and by certificates.
async fn two_edges(world: &World, table: &mut Table) {
    for (name, local, expected) in [
        ("own", "coluc.com", [DIALBACK, EXTERNAL]),
        ("ca", "ca.coluc.com", [EXTERNAL, EXTERNAL]),
    ] {
        let with = format!("edge {name}, edge other");
        table
            .case("7 two edges", &with, async |talk| {
                let (alice, zoe) = (world.alice(local), world.alice("other.lab"));
                traffic::messages(talk, &alice, &zoe).await?;
                traffic::messages(talk, &zoe, &alice).await?;
                traffic::unharmed(talk, &alice, &zoe, 50).await?;
                let (here, there) = (world.edge(name), world.edge("other"));
                let mut seen = Vec::new();
                for (way, back) in [("outbound", "inbound"), ("inbound", "outbound")] {
                    let mine = here.pair(way, local, "other.lab").await?;
                    let theirs = there.pair(back, "other.lab", local).await?;
                    ensure(mine == theirs, || format!("{name} says {mine:?}, other {theirs:?}"))?;
                    seen.push(mine.map(|pair| pair.to_string()).unwrap_or_default());
                }
                ensure(seen == expected, || {
                    format!("out and in are {seen:?}, not {expected:?}")
                })?;
                Ok(format!("out {}, in {}", expected[0], expected[1]))
            })
            .await;
    }
}
