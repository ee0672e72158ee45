//! The security matrix: the edge's mode × whether it requires certificates × the partner's mode × its certificate, both
//! directions, at both servers. One table says what is expected and why; the first rule that fits a cell counts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Instant;

use futures::StreamExt;
use serde_json::Value;
use testkit_acceptance::report::ensure;
use testkit_base::Error;
use testkit_partners::certificates::Kind;
use testkit_partners::server::{Kind as Server, Proof, Tls};

use crate::edges::Edge;
use crate::evidence::{Direction, agreed};
use crate::exchange::{Outcome, message};
use crate::partners::{domain_of, label};
use crate::table::Table;
use crate::world::{World, until};

/// Cells that are tried at the same time: each is another pair of domains.
const AT_ONCE: usize = 8;

/// The edge's mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Mode {
    Required,
    Optional,
    Disabled,
}

const MODES: [Mode; 3] = [Mode::Required, Mode::Optional, Mode::Disabled];
const PEER_MODES: [Tls; 3] = [Tls::Required, Tls::Optional, Tls::Off];
const CERTIFICATES: [Option<Kind>; 5] = [
    Some(Kind::Valid),
    Some(Kind::SelfSigned),
    Some(Kind::Expired),
    Some(Kind::WrongName),
    None,
];
const SERVERS: [Server; 2] = [Server::Prosody, Server::Ejabberd];

/// The edges of the matrix: mode, whether certificates are required, name. All show a good certificate.
const EDGES: [(Mode, bool, &str); 5] = [
    (Mode::Required, false, "ca"),
    (Mode::Required, true, "reqcert"),
    (Mode::Optional, false, "opt"),
    (Mode::Optional, true, "optcert"),
    (Mode::Disabled, false, "dis"),
];

/// What must happen to a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// It arrives over a clear stream, by dialback.
    Clear,
    /// It arrives over TLS, by dialback.
    Dialback,
    /// It arrives over TLS, by SASL EXTERNAL.
    External,
    /// It does not arrive.
    Refused,
}

impl Expected {
    const fn text(self) -> &'static str {
        match self {
            Self::Clear => "clear dialback",
            Self::Dialback => "TLS dialback",
            Self::External => "TLS external",
            Self::Refused => "refused",
        }
    }
}

/// A cell's place in the matrix.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Cell {
    mode: Mode,
    required: bool,
    peer: Tls,
    certificate: Option<Kind>,
    direction: Direction,
    server: Server,
}

/// Which cells a rule is for; what is absent does not matter.
#[derive(Clone, Copy, Debug)]
struct Rule {
    modes: &'static [Mode],
    required: Option<bool>,
    peers: &'static [Tls],
    certificates: Certificates,
    direction: Option<Direction>,
    expected: Expected,
    /// Where the edge refuses: the check that its log names.
    check: &'static str,
    why: &'static str,
}

/// Classes of certificates that are treated alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Certificates {
    Any,
    Good,
    Bad,
    Missing,
}

impl Certificates {
    fn hold(self, certificate: Option<Kind>) -> bool {
        match self {
            Self::Any => true,
            Self::Good => certificate == Some(Kind::Valid),
            Self::Missing => certificate.is_none(),
            Self::Bad => certificate.is_some_and(|kind| kind != Kind::Valid),
        }
    }
}

const TLS_MODES: &[Mode] = &[Mode::Required, Mode::Optional];
const TLS_PEERS: &[Tls] = &[Tls::Required, Tls::Optional];

#[rustfmt::skip]
const RULES: &[Rule] = &[
    Rule { modes: &[Mode::Disabled], required: None, peers: &[Tls::Required], certificates: Certificates::Any, direction: None,
        expected: Expected::Refused, check: "tls-disabled", why: "the partner insists on TLS and the edge has none" },
    Rule { modes: &[Mode::Disabled], required: None, peers: &[Tls::Optional, Tls::Off], certificates: Certificates::Any, direction: None,
        expected: Expected::Clear, check: "", why: "no TLS at the edge and the partner does without" },
    Rule { modes: &[Mode::Required], required: None, peers: &[Tls::Off], certificates: Certificates::Any, direction: None,
        expected: Expected::Refused, check: "tls-required", why: "no stanza without TLS" },
    Rule { modes: &[Mode::Optional], required: Some(true), peers: &[Tls::Off], certificates: Certificates::Any, direction: None,
        expected: Expected::Refused, check: "tls-required", why: "a required certificate cannot be shown without TLS" },
    Rule { modes: &[Mode::Optional], required: Some(false), peers: &[Tls::Off], certificates: Certificates::Any, direction: None,
        expected: Expected::Clear, check: "", why: "the partner offers no TLS" },
    Rule { modes: TLS_MODES, required: None, peers: TLS_PEERS, certificates: Certificates::Missing, direction: Some(Direction::Out),
        expected: Expected::Refused, check: "tls-handshake", why: "STARTTLS is offered and its handshake fails; never clear after that" },
    Rule { modes: TLS_MODES, required: Some(true), peers: TLS_PEERS, certificates: Certificates::Missing, direction: Some(Direction::In),
        expected: Expected::Refused, check: "certificate", why: "no certificate where one is required" },
    Rule { modes: TLS_MODES, required: Some(false), peers: TLS_PEERS, certificates: Certificates::Missing, direction: Some(Direction::In),
        expected: Expected::Refused, check: "dialback", why: "dialback cannot ask back: there the partner is server, and has no certificate" },
    Rule { modes: TLS_MODES, required: Some(true), peers: TLS_PEERS, certificates: Certificates::Bad, direction: None,
        expected: Expected::Refused, check: "certificate", why: "a required certificate must be valid and name the domain" },
    Rule { modes: TLS_MODES, required: None, peers: TLS_PEERS, certificates: Certificates::Good, direction: None,
        expected: Expected::External, check: "", why: "both certificates are good" },
    Rule { modes: TLS_MODES, required: Some(false), peers: TLS_PEERS, certificates: Certificates::Bad, direction: Some(Direction::In),
        expected: Expected::Dialback, check: "", why: "a bad certificate proves nothing, dialback does" },
    Rule { modes: TLS_MODES, required: Some(false), peers: TLS_PEERS, certificates: Certificates::Bad, direction: Some(Direction::Out),
        expected: Expected::External, check: "", why: "the partner believes our certificate; its own proves nothing, and need not" },
];

impl Rule {
    fn fits(&self, cell: Cell) -> bool {
        self.modes.contains(&cell.mode)
            && self.required.is_none_or(|required| required == cell.required)
            && self.peers.contains(&cell.peer)
            && self.certificates.hold(cell.certificate)
            && self.direction.is_none_or(|direction| direction == cell.direction)
    }
}

/// Why a cell is not tried.
fn skipped(cell: Cell) -> Option<&'static str> {
    if cell.mode == Mode::Disabled && cell.required {
        return Some(
            "Disabled with required certificates: no certificate is ever shown without TLS, nothing could federate",
        );
    }
    if cell.peer == Tls::Off && cell.certificate.is_some() {
        return Some("partner without TLS: it shows no certificate, the kinds do not differ; tried once, as missing");
    }
    if cell.server == Server::Ejabberd && cell.certificate.is_none() && cell.peer != Tls::Off {
        return Some(
            "ejabberd without a certificate for a host shows that of another host: it cannot show none; tried as wrongname",
        );
    }
    None
}

/// A cell that was tried.
#[derive(Debug)]
struct Tried {
    cell: Cell,
    seen: String,
    /// What the sender of a message that did not arrive was told.
    told: Option<String>,
    ok: bool,
}

/// Plays all cells and adds the table.
pub async fn play(world: &World, table: &mut Table) -> Result<(), Error> {
    let began = Instant::now();
    let mut skips: BTreeMap<&str, usize> = BTreeMap::new();
    let mut meetings = Vec::new();
    for server in SERVERS {
        for (mode, required) in MODES.into_iter().flat_map(|mode| [(mode, false), (mode, true)]) {
            for (peer, certificate) in PEER_MODES
                .into_iter()
                .flat_map(|peer| CERTIFICATES.map(|kind| (peer, kind)))
            {
                let cell = |direction| Cell {
                    mode,
                    required,
                    peer,
                    certificate,
                    direction,
                    server,
                };
                match skipped(cell(Direction::Out)) {
                    Some(why) => *skips.entry(why).or_default() += Direction::BOTH.len(),
                    None => meetings.push(Direction::BOTH.map(cell)),
                }
            }
        }
    }
    // Both directions of a pair one after the other: the second finds what the first left.
    let tried: Vec<Tried> = futures::stream::iter(meetings)
        .map(|cells| async move {
            let mut tried = Vec::new();
            for cell in cells {
                tried.push(try_cell(world, cell).await);
            }
            tried
        })
        .buffer_unordered(AT_ONCE)
        .collect::<Vec<_>>()
        .await
        .into_iter()
        .flatten()
        .collect();
    let failures = tried.iter().filter(|tried| !tried.ok).count();
    let mut text = format!(
        "Security matrix: {} cells in {:.1} s, {failures} not as expected\n{}",
        tried.len(),
        began.elapsed().as_secs_f64(),
        rendered(&tried)
    );
    let _ = writeln!(
        text,
        "Expected, and why (\"partner\": ejabberd ends its own stream before the edge can refuse it):"
    );
    for rule in RULES {
        let expected = match rule.check {
            "" => rule.expected.text().to_owned(),
            check => format!("{}: {check}", rule.expected.text()),
        };
        let _ = writeln!(text, "  {expected:<22} {}", rule.why);
    }
    let mut told: BTreeMap<&str, usize> = BTreeMap::new();
    for one in tried.iter().filter_map(|tried| tried.told.as_deref()) {
        *told.entry(one).or_default() += 1;
    }
    let _ = writeln!(text, "Of what did not arrive:");
    for (what, count) in told {
        let _ = writeln!(text, "  {count:>3}  {what}");
    }
    let _ = writeln!(text, "Skipped cells:");
    for (why, count) in skips {
        let _ = writeln!(text, "  {count:>3}  {why}");
    }
    table.block(text, failures);
    Ok(())
}

async fn try_cell(world: &World, cell: Cell) -> Tried {
    let rule = RULES.iter().find(|rule| rule.fits(cell));
    let seen = match see(world, &cell).await {
        Ok(seen) => seen,
        Err(error) => Seen::Trouble(error.to_string()),
    };
    let mut told = None;
    let (ok, mut text) = match (seen, rule) {
        (Seen::Trouble(error), _) => (false, format!("TROUBLE: {error}")),
        (Seen::Arrived(how), rule) => (rule.is_some_and(|rule| how == rule.expected.text()), how),
        (Seen::Not(outcome, checks), rule) => {
            let sender = match cell.direction {
                Direction::Out => "alice",
                Direction::In => "bob",
            };
            told = Some(format!("{sender} is told {outcome}"));
            let expected = rule.is_some_and(|rule| {
                let check = if by_partner(cell) { PARTNER } else { rule.check };
                rule.expected == Expected::Refused && checks.contains(check)
            });
            let by = checks.into_iter().collect::<Vec<_>>().join("+");
            (expected && outcome != Outcome::Silence, format!("refused: {by}"))
        }
    };
    if !ok {
        let expected = rule.map_or("no rule", |rule| rule.expected.text());
        let check = rule.map_or("", |rule| rule.check);
        let told = told.as_deref().unwrap_or("arrived");
        let _ = write!(text, " [expected {expected} {check}, {told}]");
    }
    Tried {
        cell,
        seen: text,
        told,
        ok,
    }
}

/// Instead of a check of the edge: the partner ended its own stream.
const PARTNER: &str = "partner";

/// Whether the partner does not get as far as being refused: ejabberd ends its own stream where the edge offers no TLS and
/// it requires it, and where the edge requires TLS and its own is off. Prosody asks for TLS, or goes on without.
fn by_partner(cell: Cell) -> bool {
    let at_odds = match cell.peer {
        Tls::Required => cell.mode == Mode::Disabled,
        Tls::Off => cell.mode == Mode::Required || cell.required,
        Tls::Optional => false,
    };
    at_odds && cell.server == Server::Ejabberd && cell.direction == Direction::In
}

enum Seen {
    Arrived(String),
    /// With the checks that the edge says were failed.
    Not(Outcome, BTreeSet<String>),
    Trouble(String),
}

/// The checks that a pair's streams in one direction failed, by the edge's log.
fn failed_checks(edge: &Edge, local: &str, partner: &str, direction: Direction) -> BTreeSet<String> {
    let is = |line: &Value, field: &str, value: &str| line.get(field).and_then(Value::as_str) == Some(value);
    edge.log_lines("peer refused")
        .iter()
        .filter(|line| {
            is(line, "remote", partner) && is(line, "local", local) && is(line, "direction", direction.of_the_edge())
        })
        .filter_map(|line| line.get("check")?.as_str().map(str::to_owned))
        .collect()
}

async fn see(world: &World, cell: &Cell) -> Result<Seen, Error> {
    let edge = EDGES
        .into_iter()
        .find(|(mode, required, _)| (*mode, *required) == (cell.mode, cell.required));
    let (_, _, name) = edge.ok_or("no such edge")?;
    let edge = world.edge(name);
    let local = format!("{name}.coluc.com");
    let partner = domain_of(cell.server, cell.peer, Proof::Any, cell.certificate);
    let (alice, bob) = (world.alice(&local), world.bob(&partner));
    let outcome = match cell.direction {
        Direction::Out => message(&alice, &bob).await?,
        Direction::In => message(&bob, &alice).await?,
    };
    if outcome != Outcome::Delivered {
        let failed = || failed_checks(&edge, &local, &partner, cell.direction);
        if by_partner(*cell) {
            let mut checks = failed();
            let file = world.server_log(world.partner(&partner).process);
            let words = format!("s2s connection {partner} -> {local}: Stream closed by local host");
            // It writes its log a little later.
            until("the partner's reason", async || {
                let log = std::fs::read(&file)?;
                ensure(String::from_utf8_lossy(&log).contains(&words), || {
                    format!("no {words:?} in {}", file.display())
                })
            })
            .await?;
            checks.insert(PARTNER.to_owned());
            return Ok(Seen::Not(outcome, checks));
        }
        // So does the edge.
        let checks = until("the edge's reason", async || {
            let checks = failed();
            ensure(!checks.is_empty(), || {
                format!("{name} names no check that {partner} failed")
            })?;
            Ok(checks)
        })
        .await?;
        return Ok(Seen::Not(outcome, checks));
    }
    let pair = agreed(world, &edge, &local, world.partner(&partner), cell.direction).await?;
    Ok(Seen::Arrived(pair.to_string()))
}

/// Places of mode, whether certificates are required, the partner's mode, its certificate.
type Line = (usize, bool, usize, usize);
/// Whether it is ejabberd, and whether the partner opens the stream.
type Column = (bool, bool);

/// A line for each combination, a column for each server and direction.
fn rendered(tried: &[Tried]) -> String {
    let mut lines: BTreeMap<Line, BTreeMap<Column, &Tried>> = BTreeMap::new();
    for one in tried {
        let Cell {
            mode,
            required,
            peer,
            certificate,
            direction,
            server,
        } = one.cell;
        let at = (
            MODES.iter().position(|other| *other == mode).unwrap_or(0),
            required,
            PEER_MODES.iter().position(|other| *other == peer).unwrap_or(0),
            CERTIFICATES.iter().position(|other| *other == certificate).unwrap_or(0),
        );
        let column = (server == Server::Ejabberd, direction == Direction::In);
        lines.entry(at).or_default().insert(column, one);
    }
    let mut text = format!(
        "  {:<9} {:<9} {:<9} {:<11} {:<22} {:<22} {:<22} {}\n",
        "edge",
        "requires",
        "partner",
        "its cert",
        "Prosody, edge opens",
        "Prosody opens",
        "ejabberd, edge opens",
        "ejabberd opens"
    );
    for line in lines.values() {
        let Some(Tried { cell, .. }) = line.values().next() else {
            continue;
        };
        let column = |column: Column| line.get(&column).map_or("-", |tried| tried.seen.as_str());
        let certificate = if cell.peer == Tls::Off {
            "(none)"
        } else {
            label(cell.certificate)
        };
        let _ = writeln!(
            text,
            "  {:<9} {:<9} {:<9} {certificate:<11} {:<22} {:<22} {:<22} {}",
            format!("{:?}", cell.mode),
            if cell.required { "cert" } else { "-" },
            format!("{:?}", cell.peer),
            column((false, false)),
            column((false, true)),
            column((true, false)),
            column((true, true)),
        );
    }
    text
}
