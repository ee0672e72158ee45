//! What is measured, in which order, and the goals.
#![allow(clippy::cast_precision_loss, reason = "what is measured stays far below 2^52")]

use std::path::Path;
use std::time::Duration;

use super::chain::{Chain, Direction};
use super::conn::Tls;
use super::place::{PLACES, Place};
use super::pump::{Plan, Writes};
use super::report::{Figure, Row};
use super::server::{Candidate, Kind};
use testkit_base::Error;

/// How much of everything.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    set_ups: usize,
    idle_streams: usize,
    fan_out: usize,
    in_clear: bool,
    handshakes: Duration,
    rounds: usize,
    warm_up: Duration,
    window: Duration,
}

impl Sizes {
    /// For figures.
    pub fn full(rounds: usize, window: u64) -> Self {
        Self {
            set_ups: 21,
            idle_streams: 1000,
            fan_out: 300,
            in_clear: true,
            handshakes: Duration::from_secs(2),
            rounds,
            warm_up: Duration::from_millis(250),
            window: Duration::from_millis(window),
        }
    }

    /// To see that everything works.
    pub fn smoke() -> Self {
        Self {
            set_ups: 2,
            idle_streams: 10,
            fan_out: 10,
            in_clear: false,
            handshakes: Duration::from_millis(100),
            rounds: 1,
            warm_up: Duration::from_millis(20),
            window: Duration::from_millis(50),
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum What {
    Memory,
    Highest,
    IdleStreams,
    SetUp(Direction),
    Handshakes,
    FanOut,
    Flow {
        direction: Direction,
        lanes: usize,
        /// Messages under way per lane.
        window: usize,
        writes: Writes,
    },
}

/// A case, and name, unit and goal of each figure that it gives.
#[derive(Debug, Clone, Copy)]
struct Case {
    what: What,
    figures: &'static [(&'static str, &'static str, &'static str)],
}

use Direction::{Inbound, Outbound};

/// A flow with its figures: what arrived, what the server used for it, what the generator used.
macro_rules! flow {
    ($direction:expr, $lanes:literal, $window:literal, $writes:ident, $name:literal, $rate:literal, $cpu:literal) => {
        Case {
            what: What::Flow {
                direction: $direction,
                lanes: $lanes,
                window: $window,
                writes: Writes::$writes,
            },
            figures: &[
                ($name, "k msg/s", $rate),
                (concat!($name, ": CPU"), "µs/msg", $cpu),
                (concat!($name, ": generator's CPU"), "µs/msg", ""),
            ],
        }
    };
}

/// A case with one figure.
macro_rules! case {
    ($what:expr, $name:literal, $unit:literal, $goal:literal) => {
        Case {
            what: $what,
            figures: &[($name, $unit, $goal)],
        }
    };
}

const WITH_TLS: &[Case] = &[
    case!(What::Memory, "memory, idle", "MB", "< 15"),
    case!(What::IdleStreams, "memory per idle inbound stream", "kB", "≤ 12"),
    case!(What::SetUp(Inbound), "set-up, inbound", "ms", "< 10"),
    case!(What::SetUp(Outbound), "set-up, outbound", "ms", "< 10"),
    Case {
        what: What::Handshakes,
        figures: &[
            ("TLS handshakes", "1/s", ""),
            ("TLS handshakes per core", "1/s", "≥ 2500"),
        ],
    },
    case!(What::FanOut, "cold fan-out to 300 domains", "1/s", "≥ 150"),
    flow!(Inbound, 1, 200, Together, "in, 200 in flight", "", "≤ 1.0"),
    flow!(Inbound, 1, 2000, Together, "in, 2000 in flight", "≥ 500", "≤ 1.0"),
    flow!(
        Inbound,
        1,
        2000,
        RecordEach,
        "in, 2000 in flight, a record each",
        "",
        "≤ 1.0"
    ),
    flow!(Inbound, 1, 2000, Each, "in, 2000 in flight, a write each", "", "≤ 4.0"),
    flow!(Inbound, 50, 4, Together, "in, 50 streams, 200 in flight", "", "≤ 2.0"),
    flow!(
        Inbound,
        50,
        200,
        Together,
        "in, 50 streams × 200 in flight",
        "",
        "≤ 2.0"
    ),
    flow!(Outbound, 1, 200, Together, "out, 200 in flight", "", "≤ 1.0"),
    flow!(Outbound, 1, 2000, Together, "out, 2000 in flight", "≥ 500", "≤ 1.0"),
    flow!(
        Outbound,
        1,
        2000,
        Each,
        "out, 2000 in flight, a write each",
        "",
        "≤ 4.0"
    ),
    flow!(Outbound, 50, 4, Together, "out, 50 streams, 200 in flight", "", "≤ 2.0"),
    flow!(
        Outbound,
        50,
        200,
        Together,
        "out, 50 streams × 200 in flight",
        "",
        "≤ 2.0"
    ),
    case!(What::Highest, "memory, highest of all cases", "MB", ""),
];

const IN_CLEAR: &[Case] = &[
    case!(What::SetUp(Inbound), "set-up, inbound, clear", "ms", "< 5"),
    case!(What::SetUp(Outbound), "set-up, outbound, clear", "ms", "< 5"),
    case!(What::FanOut, "cold fan-out to 300 domains, clear", "1/s", "≥ 500"),
    flow!(
        Inbound,
        1,
        2000,
        Together,
        "in, 2000 in flight, clear",
        "≥ 500",
        "≤ 1.0"
    ),
    flow!(
        Outbound,
        1,
        2000,
        Together,
        "out, 2000 in flight, clear",
        "≥ 500",
        "≤ 1.0"
    ),
];

impl Case {
    fn wanted(&self, filters: &[String]) -> bool {
        let name = |filter: &String| self.figures.iter().any(|(name, ..)| name.contains(&**filter));
        filters.is_empty() || filters.iter().any(name)
    }

    /// Whether it is measured in rounds; other cases repeat inside or change what they measure.
    fn rounds(&self, sizes: Sizes) -> usize {
        match self.what {
            What::Flow { .. } => sizes.rounds,
            _ => 1,
        }
    }

    /// Values for each of the figures.
    fn measure(&self, candidate: &Candidate, chain: &mut Chain, sizes: Sizes) -> Result<Vec<Vec<f64>>, Error> {
        let relay = candidate.kind == Kind::Relay;
        let one = |value: f64| vec![vec![value]];
        match self.what {
            What::Memory => Ok(one(megabytes(chain.server.usage().memory()?))),
            What::Highest => Ok(one(megabytes(chain.server.usage().highest_memory()?))),
            What::IdleStreams | What::SetUp(_) | What::Handshakes | What::FanOut if relay => {
                Err(NOT_FOR_A_RELAY.into())
            }
            What::Flow {
                direction: Outbound,
                lanes,
                ..
            } if relay && lanes > 1 => Err(NOT_FOR_A_RELAY.into()),
            What::IdleStreams => {
                // The first one brings code and tables into memory that later ones share.
                let first = chain.idle_streams(1, Duration::from_secs(5))?;
                let before = chain.server.usage().memory()?;
                let streams = chain.idle_streams(sizes.idle_streams, Duration::from_secs(10))?;
                // Buffers of negotiation are given back soon after.
                std::thread::sleep(Duration::from_millis(1500));
                let grown = chain.server.usage().memory()?.saturating_sub(before);
                let per_stream = count(grown) / (streams.len() as f64);
                drop((first, streams));
                chain.tend()?;
                Ok(one(per_stream))
            }
            What::SetUp(direction) => {
                let mut took = Vec::new();
                for _ in 0..sizes.set_ups {
                    took.push(
                        1000.0
                            * match direction {
                                Inbound => chain.set_up_inbound()?,
                                Outbound => chain.set_up_outbound()?,
                            },
                    );
                }
                chain.tend()?;
                Ok(vec![took])
            }
            What::Handshakes => {
                let before = chain.server.usage().processor_time()?;
                let (done, seconds) = chain.handshakes(sizes.handshakes)?;
                let used = chain.server.usage().processor_time()? - before;
                chain.tend()?;
                let done = done as f64;
                Ok(vec![vec![done / seconds], vec![done / used.max(0.01)]])
            }
            What::FanOut => {
                let (streams, seconds) = chain.fan_out(sizes.fan_out)?;
                chain.tend()?;
                Ok(one(streams.len() as f64 / seconds))
            }
            What::Flow {
                direction,
                lanes,
                window,
                writes,
            } => {
                let plan = Plan {
                    window,
                    writes,
                    warm_up: sizes.warm_up,
                    measured: sizes.window,
                };
                let flow = chain.flow(direction, lanes, plan)?;
                let messages = (flow.messages as f64).max(1.0);
                Ok(vec![
                    vec![messages / flow.seconds / 1000.0],
                    vec![1e6 * flow.server / messages],
                    vec![1e6 * flow.own / messages],
                ])
            }
        }
    }
}

/// No reason is given in the table: the relay has no such role.
const NOT_FOR_A_RELAY: &str = "";

fn count(kilobytes: u64) -> f64 {
    kilobytes as f64
}

pub(crate) fn megabytes(kilobytes: u64) -> f64 {
    count(kilobytes) / 1024.0
}

/// Measures everything; names of the columns, and the rows.
pub fn measure(
    candidates: &[Candidate],
    filters: &[String],
    sizes: Sizes,
    dir: &Path,
) -> Result<(Vec<String>, Vec<Row>), Error> {
    let mut rows = Vec::new();
    let mut places = 0..PLACES;
    for (cases, tls) in [(WITH_TLS, true), (IN_CLEAR, false)] {
        let cases: Vec<&Case> = cases.iter().filter(|case| case.wanted(filters)).collect();
        if cases.is_empty() || !(tls || sizes.in_clear) {
            continue;
        }
        let tls = tls.then(Tls::with_anybody);
        let mut start = |candidate: &Candidate| {
            let n = places.next().ok_or("too many servers failed")?;
            let dir = dir.join(format!("{}-{n}", candidate.name));
            Chain::start(candidate, Place::new(n), tls.as_ref(), &dir)
        };
        let mut chains: Vec<Result<Chain, String>> = candidates
            .iter()
            .map(|candidate| start(candidate).map_err(|error| error.to_string()))
            .collect();
        for case in cases {
            eprintln!("bench: {}", case.figures.first().map_or("", |(name, ..)| name));
            rows.extend(turns(case, candidates, &mut chains, sizes, &mut start));
        }
    }
    let columns = candidates.iter().map(|candidate| candidate.name.clone());
    Ok((columns.collect(), rows))
}

/// One case with each server in turn, round by round.
fn turns(
    case: &Case,
    candidates: &[Candidate],
    chains: &mut [Result<Chain, String>],
    sizes: Sizes,
    start: &mut dyn FnMut(&Candidate) -> Result<Chain, Error>,
) -> Vec<Row> {
    let mut rows: Vec<Row> = case
        .figures
        .iter()
        .map(|&(name, unit, goal)| Row {
            name: name.to_owned(),
            unit,
            goal: goal.into(),
            figures: vec![Figure::Values(Vec::new()); candidates.len()],
        })
        .collect();
    for _ in 0..case.rounds(sizes) {
        for (n, candidate) in candidates.iter().enumerate() {
            // A server that took long must not have kept others waiting for their pings' answers.
            for chain in chains.iter_mut().flatten() {
                // What is wrong with a link shows in its next case.
                let _ = chain.tend();
            }
            let Some(chain) = chains.get_mut(n) else {
                continue;
            };
            let measured = match chain {
                Ok(chain) => case.measure(candidate, chain, sizes).map_err(|error| error.to_string()),
                Err(reason) => Err(reason.clone()),
            };
            let failed = measured.as_ref().err().cloned();
            let values = measured.unwrap_or_default();
            for (i, row) in rows.iter_mut().enumerate() {
                let Some(figure) = row.figures.get_mut(n) else {
                    continue;
                };
                match (&failed, figure) {
                    (Some(reason), figure) => *figure = Figure::None(reason.clone()),
                    (None, Figure::Values(all)) => {
                        all.extend(values.get(i).into_iter().flatten());
                    }
                    (None, Figure::None(_)) => {}
                }
            }
            if chain.is_ok() && failed.is_some_and(|reason| reason != NOT_FOR_A_RELAY) {
                // Messages may still be under way in it.
                *chain = start(candidate).map_err(|error| error.to_string());
            }
        }
    }
    rows
}
