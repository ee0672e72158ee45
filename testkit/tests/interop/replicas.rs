//! Three replicas of one edge behind one address: any of them answers for the others' streams, also while the secret is
//! exchanged under traffic.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;
use serde_json::Value;
use sha2::{Digest, Sha256};
use testkit_acceptance::report::{Talk, ensure};
use testkit_acceptance::traffic::Run;
use testkit_base::Error;
use testkit_partners::certificates::Kind;
use testkit_partners::server::{Kind as Server, Proof, Tls};

use crate::edges::{Edge, REPLICAS, random_secret};
use crate::exchange::{Outcome, message};
use crate::partners::domain_of;
use crate::table::Table;
use crate::world::{World, until};

const DOMAIN: &str = "trio.coluc.com";
/// Messages in one round: each replica gets its share from the router.
const ROUND: usize = 6;
/// Time between two messages of the traffic during the rotation.
const PACE: Duration = Duration::from_millis(50);

fn replicas(world: &World) -> Vec<Edge> {
    (0..REPLICAS)
        .map(|number| world.edge(&format!("trio{number}")))
        .collect()
}

fn partner(server: Server) -> String {
    domain_of(server, Tls::Required, Proof::Any, Some(Kind::SelfSigned))
}

/// Plays both.
pub async fn play(world: &World, table: &mut Table) {
    for server in [Server::Prosody, Server::Ejabberd] {
        let partner = partner(server);
        table
            .case("8 three replicas", &partner, async |talk| {
                elsewhere(talk, world, &partner).await
            })
            .await;
    }
    table
        .case("9 rotation of the secret", "both servers", async |talk| {
            rotation(talk, world).await
        })
        .await;
    table
        .case(
            "9 control: a secret of one replica only",
            &partner(Server::Ejabberd),
            async |_| control(world).await,
        )
        .await;
}

/// What a wrong rotation would look like: the first replica signs with a secret that the others do not have.
async fn control(world: &World) -> Result<String, Error> {
    let replicas = replicas(world);
    let first = world.edge("trio0");
    first.add_secret("secret-2", &random_secret())?;
    first.write_config("secret-2", &["secret-1"])?;
    loaded(&first).await?;
    // ejabberd asks over a connection of its own each time. If only the first replica opens streams, the load balancer
    // leads these questions to each replica in turn.
    let partner = partner(Server::Ejabberd);
    let (alice, bob) = (world.alice(DOMAIN), world.bob(&partner));
    let refused = "role=authoritative,outcome=invalid";
    let mut tries = 0;
    loop {
        close_outbound(std::slice::from_ref(&first), &partner).await?;
        for _ in 0..REPLICAS {
            // Whether it arrives depends on which replica is asked.
            tokio::time::timeout(Duration::from_secs(2), message(&alice, &bob))
                .await
                .ok();
        }
        tries += 1;
        if let Some(count) = outcomes(world, &replicas).await?.get(refused) {
            return Ok(format!("{count} keys refused after {tries} rounds, as it must be"));
        }
        ensure(tries < 10, || {
            "nobody refused a key under a secret that is unknown there".to_owned()
        })?;
    }
}

/// Waits until a replica's configuration is in force; the time it took.
async fn loaded(edge: &Edge) -> Result<Duration, Error> {
    let hash = hash_of(edge)?;
    let began = Instant::now();
    until("the new configuration", async || {
        let loaded = edge.config_hash().await?;
        ensure(loaded == hash, || format!("{} has {loaded}", edge.spec.name))
    })
    .await?;
    Ok(began.elapsed())
}

/// Messages both ways until a key of one replica's stream was confirmed by another replica.
async fn elsewhere(talk: Talk, world: &World, partner: &str) -> Result<String, Error> {
    let replicas = replicas(world);
    let (alice, bob) = (world.alice(DOMAIN), world.bob(partner));
    let began: Vec<usize> = replicas.iter().map(|edge| edge.log().len()).collect();
    let mut rounds = 0;
    loop {
        rounds += 1;
        for _ in 0..ROUND {
            for (from, to) in [(&alice, &bob), (&bob, &alice)] {
                let outcome = message(from, to).await?;
                ensure(outcome == Outcome::Delivered, || {
                    format!("{} → {}: {outcome}", from.jid(), to.jid())
                })?;
            }
        }
        let keys = Keys::read(&replicas, &began, partner);
        ensure(keys.refused == 0, || format!("{} keys were refused", keys.refused))?;
        talk.fact("keys sent and confirmed", format_args!("{keys:?}"));
        // Which replica is asked is the load balancer's turn; once all three have a stream, some question went elsewhere.
        if keys.sent_by.values().filter(|count| **count > 0).count() == REPLICAS && keys.elsewhere > 0 {
            return Ok(format!(
                "{} keys, {} confirmed by another replica than the one that sent them, none refused; {} messages each way",
                keys.confirmed,
                keys.elsewhere,
                rounds * ROUND
            ));
        }
        ensure(rounds < 5, || format!("no replica answered for another one: {keys:?}"))?;
        close_outbound(&replicas, partner).await?;
    }
}

/// The dialback keys of the replicas' own streams to a partner, found in their logs by the stream's id.
#[derive(Debug, Default)]
struct Keys {
    sent_by: BTreeMap<usize, usize>,
    confirmed: usize,
    elsewhere: usize,
    refused: usize,
}

impl Keys {
    /// Reads what was logged after so many lines of each.
    fn read(replicas: &[Edge], after: &[usize], partner: &str) -> Self {
        let mut keys = Self::default();
        let mut sent: HashMap<String, usize> = HashMap::new();
        let mut answers = Vec::new();
        for (number, edge) in replicas.iter().enumerate() {
            let skip = after.get(number).copied().unwrap_or(0);
            for line in edge.log().into_iter().skip(skip) {
                let field = |name: &str| {
                    let found = line.get(name).or_else(|| line.pointer(&format!("/fields/{name}")));
                    found.and_then(Value::as_str).unwrap_or_default().to_owned()
                };
                if field("remote") != partner || field("local") != DOMAIN {
                    continue;
                }
                match field("message").as_str() {
                    "db:result sent" => {
                        sent.insert(field("stream_id"), number);
                        *keys.sent_by.entry(number).or_default() += 1;
                    }
                    "db:verify received and answered" => {
                        answers.push((field("stream_id"), number, field("answer")));
                    }
                    _ => {}
                }
            }
        }
        for (id, number, answer) in answers {
            if answer != "Valid" {
                keys.refused += 1;
            } else if let Some(sender) = sent.get(&id) {
                keys.confirmed += 1;
                keys.elsewhere += usize::from(*sender != number);
            }
        }
        keys
    }
}

/// Closes the replicas' own streams to a partner, so that the next stanza needs a new key.
async fn close_outbound(replicas: &[Edge], partner: &str) -> Result<(), Error> {
    for edge in replicas {
        for stream in edge.connections().await? {
            let ours = stream.get("direction").and_then(Value::as_str) == Some("outbound");
            let pairs = stream.get("pairs").and_then(Value::as_array);
            let meant = pairs
                .into_iter()
                .flatten()
                .any(|pair| pair.get("remote").and_then(Value::as_str) == Some(partner));
            if let (true, true, Some(id)) = (ours, meant, stream.get("id").and_then(Value::as_u64)) {
                edge.close(id).await;
            }
        }
    }
    Ok(())
}

/// Dialback outcomes of all replicas so far, by role and outcome.
async fn outcomes(world: &World, replicas: &[Edge]) -> Result<BTreeMap<String, u64>, Error> {
    let mut sums = BTreeMap::new();
    for edge in replicas {
        for line in world.metrics(edge).await?.lines() {
            let Some(rest) = line.strip_prefix("xmpp_edge_dialback_seconds_count{") else {
                continue;
            };
            if let Some((labels, value)) = rest.rsplit_once("} ") {
                *sums.entry(labels.replace('"', "")).or_default() += value.parse::<u64>().unwrap_or(0);
            }
        }
    }
    Ok(sums)
}

fn pause() -> Duration {
    let seconds = std::env::var("INTEROP_ROTATION_PAUSE").ok();
    Duration::from_secs(seconds.and_then(|text| text.parse().ok()).unwrap_or(2))
}

/// All stages of a rotation, one replica after the other, while messages flow and streams are opened anew all the time.
async fn rotation(talk: Talk, world: &World) -> Result<String, Error> {
    let replicas = replicas(world);
    let pause = pause();
    let before = outcomes(world, &replicas).await?;
    let stop = AtomicBool::new(false);
    // Accepted everywhere, signed with everywhere, the old one dropped everywhere, and the traffic before and after.
    let planned = pause * u32::try_from(REPLICAS * 3 + 2).unwrap_or(u32::MAX);
    let count = usize::try_from(planned.as_millis() / PACE.as_millis()).unwrap_or(usize::MAX);
    let mut traffic = Vec::new();
    for server in [Server::Prosody, Server::Ejabberd] {
        let (alice, bob) = (world.alice(DOMAIN), world.bob(&partner(server)));
        let there = Run::prepare(&alice, &bob, count).await?;
        let back = Run::prepare(&bob, &alice, count).await?;
        traffic.push((there, alice.clone(), bob.clone()));
        traffic.push((back, bob, alice));
    }
    let flow = async {
        let runs = traffic.iter().map(|(run, from, to)| run.send(from, to, 0, PACE));
        let sent = futures::future::try_join_all(runs).await;
        stop.store(true, Ordering::Relaxed);
        sent.map(|_| ())
    };
    let renew = async {
        while !stop.load(Ordering::Relaxed) {
            for server in [Server::Prosody, Server::Ejabberd] {
                close_outbound(&replicas, &partner(server)).await?;
            }
            tokio::time::sleep(Duration::from_millis(400)).await;
        }
        Ok(())
    };
    let stages = async {
        tokio::time::sleep(pause).await;
        let secret = random_secret();
        for (stage, sign, accept) in [
            ("the new secret is accepted", "secret-0", &["secret-1"][..]),
            ("the new secret signs", "secret-1", &["secret-0"][..]),
            ("the old secret is dropped", "secret-1", &[][..]),
        ] {
            for edge in &replicas {
                edge.add_secret("secret-1", &secret)?;
                edge.write_config(sign, accept)?;
                let took = loaded(edge).await?;
                talk.fact(
                    &format!("{}: {stage}", edge.spec.name),
                    format_args!("loaded after {} ms", took.as_millis()),
                );
                tokio::time::sleep(pause).await;
            }
        }
        Ok::<_, Error>(())
    };
    tokio::try_join!(flow, renew, stages)?;
    let mut lost = 0;
    let (mut sent, mut delivered, mut reported) = (0, 0, 0);
    for (run, from, to) in &traffic {
        let account = run.settle(from, to, Duration::from_secs(20)).await?;
        talk.fact(&format!("{} → {}", from.jid(), to.jid()), account);
        lost += account.lost + account.duplicates;
        (sent, delivered, reported) = (
            sent + account.sent,
            delivered + account.delivered,
            reported + account.reported,
        );
    }
    let after = outcomes(world, &replicas).await?;
    let mut failed = Vec::new();
    let mut valid = BTreeMap::new();
    for (labels, count) in &after {
        let new = count - before.get(labels).copied().unwrap_or(0);
        talk.fact(labels, new);
        match labels
            .strip_suffix(",outcome:valid")
            .or(labels.strip_suffix(",outcome=valid"))
        {
            Some(role) => {
                valid.insert(role.to_owned(), new);
            }
            None if new > 0 => failed.push(format!("{labels}: {new}")),
            None => {}
        }
    }
    ensure(failed.is_empty(), || {
        format!("failed verifications: {}", failed.join(", "))
    })?;
    let asked: u64 = valid.get("role=authoritative").copied().unwrap_or(0);
    let least = u64::try_from(REPLICAS * 9).unwrap_or(u64::MAX);
    ensure(asked >= least, || format!("only {asked} keys were verified: {valid:?}"))?;
    ensure(lost == 0, || format!("{lost} messages were lost or doubled"))?;
    Ok(format!(
        "9 reloads {} s apart: {asked} keys confirmed, none refused; {sent} messages, {delivered} delivered, {reported} reported",
        pause.as_secs()
    ))
}

/// As the edge makes it.
fn hash_of(edge: &Edge) -> Result<String, Error> {
    let digest = Sha256::digest(std::fs::read(edge.config())?);
    Ok(HEXLOWER.encode(&digest))
}
