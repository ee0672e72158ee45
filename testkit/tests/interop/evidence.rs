//! How a pair of domains was connected, as the edge says and as the partner's own log says; both must agree.

use testkit_acceptance::report::ensure;
use testkit_base::Error;
use testkit_partners::server::Kind as Server;

use crate::edges::{Edge, Pair};
use crate::partners::Partner;
use crate::world::{World, unicode, until};

/// Who opened the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The edge.
    Out,
    /// The partner.
    In,
}

impl Direction {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Out, Self::In];

    /// The edge's word for it.
    pub const fn of_the_edge(self) -> &'static str {
        match self {
            Self::Out => "outbound",
            Self::In => "inbound",
        }
    }
}

impl std::fmt::Display for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let tls = if self.tls { "TLS" } else { "clear" };
        write!(f, "{tls} {}", self.mechanism)
    }
}

/// What both sides say about the stream between one of our domains (A-label) and a partner's.
pub async fn agreed(
    world: &World,
    edge: &Edge,
    local: &str,
    partner: &Partner,
    direction: Direction,
) -> Result<Pair, Error> {
    let way = direction.of_the_edge();
    let ours = edge.pair(way, local, &partner.ascii).await?.ok_or_else(|| {
        format!(
            "{} has no {way} stream for {local} and {}",
            edge.spec.name, partner.ascii
        )
    })?;
    let file = world.server_log(partner.process);
    // Logs are written a little later than things happen.
    let theirs = until("the partner's log", async || {
        let log = String::from_utf8_lossy(&std::fs::read(&file)?).into_owned();
        let found = match partner.process.server {
            Server::Prosody => prosody(&log, &unicode(local), &partner.domain, direction),
            Server::Ejabberd => ejabberd(&log, &unicode(local), &partner.domain, direction),
        };
        found.ok_or_else(|| {
            format!(
                "{} says nothing about {way} {local}, {}",
                file.display(),
                partner.domain
            )
            .into()
        })
    })
    .await?;
    ensure(ours == theirs, || {
        format!("{way}: the edge says {ours}, the partner {theirs}")
    })?;
    Ok(ours)
}

/// Prosody says at the end of a set-up that a pair is authenticated or its own stream is complete; the session's lines
/// before that tell how.
fn prosody(log: &str, ours: &str, partner: &str, direction: Direction) -> Option<Pair> {
    let (complete, dialback) = match direction {
        // A further pair on a stream that is complete already is authenticated only.
        Direction::Out => (
            format!("->{partner} is now authenticated for {ours}"),
            format!("asking {ours} if key"),
        ),
        Direction::In => (
            format!("Outgoing s2s connection {partner}->{ours} complete"),
            "sent dialback key".to_owned(),
        ),
    };
    let lines: Vec<&str> = log.lines().collect();
    let end = lines.iter().rposition(|line| line.contains(&complete))?;
    let session = lines.get(end)?.split_whitespace().nth(1)?;
    let mut found = Pair {
        mechanism: "external".to_owned(),
        tls: false,
    };
    let before = lines.iter().take(end).rev();
    for line in before.filter(|line| line.split_whitespace().nth(1) == Some(session)) {
        // Names of sessions are used again.
        if line.contains("disconnected") {
            break;
        }
        found.tls |= line.contains("Stream encrypted");
        if line.contains(&dialback) {
            "dialback".clone_into(&mut found.mechanism);
        }
    }
    Some(found)
}

/// ejabberd says all in one line.
fn ejabberd(log: &str, ours: &str, partner: &str, direction: Direction) -> Option<Pair> {
    let (word, pair) = match direction {
        Direction::Out => ("inbound", format!("authentication {ours} -> {partner} ")),
        Direction::In => ("outbound", format!("authentication {partner} -> {ours} ")),
    };
    let words = format!("Accepted {word} s2s ");
    let line = log
        .lines()
        .rfind(|line| line.contains(&words) && line.contains(&pair))?;
    let mechanism = line.split(&words).nth(1)?.split_whitespace().next()?;
    Some(Pair {
        mechanism: mechanism.to_lowercase(),
        tls: line.contains("(tls|"),
    })
}
