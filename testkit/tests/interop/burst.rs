//! Three hundred domains of one ejabberd that write to us at once, as after a restart: each has its own connection and
//! its own key.

use std::path::Path;
use std::time::{Duration, Instant};

use testkit_acceptance::report::ensure;
use testkit_base::Error;
use testkit_lab::Lab;
use testkit_lab::network::DNS_INTERNET;
use testkit_partners::certificates::{Authority, Kind};
use testkit_partners::server::{HostConfig, Kind as Server, Proof, ServerConfig, Tls};

use crate::partners::{Process, process};
use crate::table::Table;
use crate::world::World;

/// The server with all these domains.
pub const MANY: Process = process("many", 31, Server::Ejabberd);
/// The edge that has them on its allow list; it hosts a domain for each round.
pub const EDGE: &str = "listed";

const DOMAINS: usize = 300;
/// How long a message may wait for its stream.
const TIME: Duration = Duration::from_secs(30);

/// The domains of the server.
pub fn domains() -> impl Iterator<Item = String> {
    (0..DOMAINS).map(|number| format!("d{number}.many.lab"))
}

/// Starts the server, which waits for the first round.
pub fn start(lab: &Lab, authority: &Authority, ca: &Path) -> Result<(), Error> {
    let dir = lab.dir().join("partners").join(MANY.name);
    let files = authority
        .issue(Kind::SelfSigned, &["*.many.lab"])?
        .write(&dir, "many")?;
    let host = |domain| HostConfig {
        domain,
        tls: Tls::Required,
        proof: Proof::Any,
        certificate: None,
        users: Vec::new(),
    };
    let mut hosts: Vec<HostConfig> = domains().map(host).collect();
    if let Some(first) = hosts.first_mut() {
        // All show it. It proves nothing, so each key counts.
        first.certificate = Some(files);
    }
    let mut command = testkit_partners::server::prepare(&ServerConfig {
        kind: MANY.server,
        dir,
        addresses: vec![MANY.address.into()],
        dns: DNS_INTERNET.into(),
        log: Some(MANY.log(lab)),
        ca: Some(ca.to_owned()),
        hosts,
    })?;
    command.arg("-eval").arg(rounds(lab));
    MANY.run(lab, &command)
}

fn signal(lab: &Lab, round: usize) -> std::path::PathBuf {
    lab.dir().join(format!("many-{round}"))
}

/// Erlang that waits for a file before each round, and then has every domain write a message.
fn rounds(lab: &Lab) -> String {
    let file = lab.dir().join("many-");
    let last = DOMAINS - 1;
    format!(
        r#"spawn(fun() -> Round = fun F(I) ->
            Number = integer_to_list(I),
            case file:read_file("{}" ++ Number) of
                {{ok, _}} ->
                    To = iolist_to_binary(["alice@r", Number, ".coluc.com"]),
                    [spawn(fun() ->
                        From = iolist_to_binary(["bob@d", integer_to_list(N), ".many.lab"]),
                        Body = {{xmlel, <<"body">>, [], [{{xmlcdata, <<"at once">>}}]}},
                        Message = {{xmlel, <<"message">>, [{{<<"from">>, From}}, {{<<"to">>, To}}], [Body]}},
                        ejabberd_router:route(xmpp:decode(Message, <<"jabber:client">>, [ignore_els]))
                    end) || N <- lists:seq(0, {last})],
                    F(I + 1);
                _ -> timer:sleep(50), F(I)
            end
        end, Round(0) end)."#,
        file.display()
    )
    .replace('\n', " ")
}

/// Rounds: a few in the suite, ten by hand.
fn count() -> usize {
    let rounds = std::env::var("INTEROP_BURSTS").ok();
    rounds.and_then(|rounds| rounds.parse().ok()).unwrap_or(2)
}

/// Plays it.
pub async fn play(world: &World, table: &mut Table) {
    for round in 0..count() {
        let with = format!("{DOMAINS} domains, round {}", round + 1);
        table
            .case("10 a burst of keys", &with, async |_| one(world, round).await)
            .await;
    }
}

async fn one(world: &World, round: usize) -> Result<String, Error> {
    let edge = world.edge(EDGE);
    let number = async |name: &str| {
        let text = world.metrics(&edge).await?;
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let value = line.and_then(|value| value.trim().parse::<f64>().ok());
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a counter")]
        Ok::<_, Error>(value.unwrap_or_default() as usize)
    };
    let valid = "xmpp_edge_dialback_seconds_count{role=\"receiving\",outcome=\"valid\"}";
    let arrived = "xmpp_edge_stanzas_total{direction=\"inbound\"}";
    let before = (number(valid).await?, number(arrived).await?);
    let began = Instant::now();
    std::fs::write(signal(&world.lab, round), "")?;
    loop {
        let now = (number(valid).await?, number(arrived).await?);
        let (keys, messages) = (now.0 - before.0, now.1 - before.1);
        let seconds = began.elapsed().as_secs_f64();
        if keys >= DOMAINS && messages >= DOMAINS {
            return Ok(format!("{keys} valid, {messages} messages in {seconds:.1} s"));
        }
        ensure(began.elapsed() < TIME, || {
            format!("after {seconds:.0} s: {keys} valid, {messages} messages of {DOMAINS}")
        })?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
