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
/// How the edge's stream and the partner's are secured.
type Secured = [&'static str; 2];
const CLEAR: Secured = ["clear dialback"; 2];
const DIALBACK: Secured = ["TLS dialback"; 2];
const EXTERNAL: Secured = ["TLS external"; 2];
/// An edge and a domain of it.
type Ours = (&'static str, &'static str);
const OWN: Ours = ("own", "coluc.com");
const CA: Ours = ("ca", "ca.coluc.com");
const SA: Ours = ("sa", "sa.coluc.com");

/// A partner of that kind.
fn with(server: Server, tls: Tls, certificate: Kind) -> String {
    domain_of(server, tls, Proof::Any, Some(certificate))
}

/// A partner that believes certificates only.
fn strict(server: Server, certificate: Kind) -> String {
    domain_of(server, Tls::Required, Proof::Certificate, Some(certificate))
}

/// Messages both ways with these, one after the other: case, ours, partner, how both streams are to be secured.
fn exchanges() -> Vec<(&'static str, Ours, String, Secured)> {
    let mut all = Vec::new();
    for server in SERVERS {
        let off = || domain_of(server, Tls::Off, Proof::Any, None);
        let required = |certificate| with(server, Tls::Required, certificate);
        all.extend([
            ("1 dialback clear, edge dis", ("dis", "dis.coluc.com"), off(), CLEAR),
            ("1 dialback clear, edge opt", ("opt", "opt.coluc.com"), off(), CLEAR),
            ("2 dialback over TLS", OWN, required(Kind::SelfSigned), DIALBACK),
            ("3 EXTERNAL, no dialback", CA, strict(server, Kind::Valid), EXTERNAL),
            ("3 EXTERNAL, dialback possible", CA, required(Kind::Valid), EXTERNAL),
        ]);
    }
    // Certificates as public CAs issue them today: good for servers only.
    let strict_prosody = strict(Server::Prosody, Kind::Valid);
    all.push(("4 ours serverAuth only, no dialback", SA, strict_prosody, EXTERNAL));
    for server in SERVERS {
        // What the partner's own verifier makes of it shows in our stream only: the partner's certificate is good for both.
        let ours = match server {
            Server::Prosody => EXTERNAL,
            Server::Ejabberd => ["TLS dialback", "TLS external"],
        };
        let required = |certificate| with(server, Tls::Required, certificate);
        let without = strict(server, Kind::ServerAuthOnly);
        all.extend([
            ("4 ours serverAuth only", SA, required(Kind::Valid), ours),
            ("4 theirs serverAuth only", CA, required(Kind::ServerAuthOnly), EXTERNAL),
            ("4 theirs serverAuth only, no dialback", CA, without, EXTERNAL),
        ]);
    }
    for (domain, _, _, certificate) in INTERNATIONAL {
        let domain = domain.to_owned();
        if certificate == Kind::Valid {
            all.push(("5 U-label partner, EXTERNAL", CA, domain, EXTERNAL));
        } else {
            all.push(("5 U-label partner, dialback", OWN, domain.clone(), DIALBACK));
            let international = ("own", "xn--kln-sna.coluc.com");
            all.push(("5 U-label on both sides", international, domain, DIALBACK));
        }
    }
    all
}

/// Plays them all.
pub async fn play(world: &World, table: &mut Table) {
    for (case, ours, partner, expected) in exchanges() {
        full(world, table, case, ours, &partner, expected).await;
    }
    refused_by_its_verifier(world, table).await;
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

/// A strict ejabberd does not take a certificate that is good for servers only.
async fn refused_by_its_verifier(world: &World, table: &mut Table) {
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
            let secured = secured(world, OWN, domain, DIALBACK);
            Ok(format!("reached as {}; {}", seen.join(" and "), secured.await?))
        })
        .await;
}

async fn alias(world: &World, table: &mut Table, partner: &str) {
    table
        .case("6 chat alias", partner, async |talk| {
            let (alias, bob) = (world.alice("conference.coluc.com"), world.bob(partner));
            traffic::conference(talk, &alias, &bob).await?;
            secured(world, ("own", "conference.coluc.com"), partner, DIALBACK).await
        })
        .await;
}

/// Two organisations with an edge each, by dialback and by certificates.
async fn two_edges(world: &World, table: &mut Table) {
    for (name, local, expected) in [
        ("own", "coluc.com", ["TLS dialback", "TLS external"]),
        ("ca", "ca.coluc.com", EXTERNAL),
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
