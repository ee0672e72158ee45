//! What was found, as a table with the goals.

use std::time::Duration;

use super::Sizes;
use super::audit::Requests;
use super::cert_manager::Issued;
use super::measure::{Creation, Many, Namespaces, One, count};
use super::stage::Arrived;
use crate::cases::megabytes;
use crate::report::{Figure, Row};

/// What the parts found; `None`: the part was not run, or failed.
#[derive(Debug, Default)]
pub struct Found {
    pub(super) one: Option<One>,
    pub(super) many: Option<Many>,
    pub(super) dead: Option<Creation>,
    pub(super) namespaces: Option<Namespaces>,
    pub(super) cert_manager: Option<Issued>,
}

/// The rows, with a figure each for the operator, for the same writes sent raw, and for cert-manager.
pub fn rows(found: &Found, sizes: &Sizes) -> Vec<Row> {
    let mut table = Table {
        found,
        sizes,
        n: count(sizes.resources),
        rows: Vec::new(),
    };
    table.creation();
    table.idle();
    table.memory();
    table.namespaces();
    // Of parts that were not run.
    let shown = |row: &Row| row.figures.iter().any(|figure| *figure != NONE);
    table.rows.into_iter().filter(shown).collect()
}

const NONE: Figure = Figure::None(String::new());

struct Table<'a> {
    found: &'a Found,
    sizes: &'a Sizes,
    /// Number of resources.
    n: f64,
    rows: Vec<Row>,
}

impl Table<'_> {
    fn row(&mut self, name: &str, unit: &'static str, goal: Option<f64>, figures: [Figure; 3]) {
        let missed = match &figures[0] {
            Figure::None(reason) => !reason.is_empty(),
            figure @ Figure::Values(_) => figure.median() > goal,
        };
        let shown = |goal: f64| {
            format!(
                "≤ {}{}",
                (goal * 10.0).round() / 10.0,
                if missed { ", missed" } else { "" }
            )
        };
        self.rows.push(Row {
            name: name.to_owned(),
            unit,
            goal: goal.map_or_else(String::new, shown).into(),
            figures: figures.into(),
        });
    }

    /// A row of the operator alone.
    fn own(&mut self, name: &str, unit: &'static str, goal: Option<f64>, figure: Figure) {
        self.row(name, unit, goal, [figure, NONE, NONE]);
    }

    fn many(&self, of: impl Fn(&Many) -> f64) -> Figure {
        value(self.found.many.as_ref().map(of))
    }

    fn issued(&self, of: impl Fn(&Issued) -> f64) -> Figure {
        value(self.found.cert_manager.as_ref().map(of))
    }

    /// When the last object came, or how many came at all.
    fn arrived(&self, name: &str, arrived: Option<Arrived>) -> Figure {
        match arrived {
            Some(Arrived { count, last }) if count >= self.sizes.resources => value(Some(last.as_secs_f64())),
            Some(Arrived { count, .. }) => {
                Figure::None(format!("{name}: {count} came within {} s", self.sizes.limit.as_secs()))
            }
            None => NONE,
        }
    }

    fn creation(&mut self) {
        let n = self.n;
        let (one, issued) = (self.found.one, self.found.cert_manager);
        let creation = self.found.many.map(|many| many.creation);
        let raw = one.map(|one| n * one.writes / one.rate);
        let limit = Some(raw.map_or(20.0, |raw| 20_f64.max(2.5 * raw)));
        let name = format!("ceiling with {} parallel requests", one.map_or(0, |one| one.parallel));
        self.row(&name, "writes/s", None, [NONE, value(one.map(|one| one.rate)), NONE]);
        let name = format!("{n} at once: last certificate");
        let ours = self.arrived(&name, creation.map(|it| it.certificates));
        let theirs = self.arrived(&name, issued.map(|it| it.certificates));
        self.row(&name, "s", limit, [ours, value(raw), theirs]);
        let name = format!("{n} at once: last StatefulSet");
        let ours = self.arrived(&name, creation.map(|it| it.stateful_sets));
        self.own(&name, "s", None, ours);
        let writes = [
            self.many(|it| it.creation.requests.writes / n),
            value(one.map(|one| one.writes)),
            self.issued(|it| it.requests.writes / n),
        ];
        self.row("writes for each", "requests", None, writes);
        let reads = self.many(|it| it.creation.requests.reads / n);
        let theirs = self.issued(|it| it.requests.reads / n);
        self.row("reads for each", "requests", None, [reads, NONE, theirs]);
        let name = format!("{n} at once, resolver dead: last certificate");
        let dead = self.arrived(&name, self.found.dead.map(|it| it.certificates));
        self.own(&name, "s", limit, dead);
    }

    fn idle(&mut self) {
        let (n, idle) = (self.n, self.sizes.idle.as_secs_f64());
        let five_minutes = |requests: f64| requests / n * 300.0 / idle;
        let figures = [
            self.many(|it| five_minutes(it.idle.all())),
            NONE,
            self.issued(|it| five_minutes(it.idle.all())),
        ];
        self.row("then, for each in 5 min", "requests", Some(1.0), figures);
        let counted = self.many(|it| five_minutes(it.counted - it.idle.lease));
        self.own("the same by the operator's counter", "requests", Some(1.0), counted);
        let cores = [
            self.many(|it| it.processor / idle),
            NONE,
            self.issued(|it| it.processor / idle),
        ];
        self.row("processors meanwhile", "cores", None, cores);
        let pull = |of: fn(Requests) -> f64| value(self.found.one.map(|it| of(it.pull)));
        let (reads, writes) = (pull(|it| it.reads), pull(|it| it.writes * 60.0));
        self.own("a pod in ErrImagePull: reads", "per s", Some(0.0), reads);
        self.own("a pod in ErrImagePull: writes", "per min", Some(1.0), writes);
    }

    fn memory(&mut self) {
        let name = format!("{} resources: most memory", self.found.many.map_or(0, |it| it.standing));
        let figures = [
            self.many(|it| megabytes(it.memory.0)),
            NONE,
            self.issued(|it| megabytes(it.memory.0)),
        ];
        self.row(&name, "MB", Some(80.0), figures);
        let name = format!("after {} s more", self.sizes.rest.as_secs());
        let figures = [
            self.many(|it| megabytes(it.memory.1)),
            NONE,
            self.issued(|it| megabytes(it.memory.1)),
        ];
        self.row(&name, "MB", Some(60.0), figures);
        let (writes, reads) = (
            self.many(|it| it.restart.requests.writes),
            self.many(|it| it.restart.requests.reads),
        );
        self.own("restart: writes", "requests", Some(0.0), writes);
        self.own("restart: reads", "requests", None, reads);
        let time = self.found.many.and_then(|it| it.restart.time);
        self.own("restart: until all are reconciled", "s", None, seconds(time));
        let memory = self.many(|it| megabytes(it.restart.memory));
        self.own("restart: most memory", "MB", Some(80.0), memory);
    }

    fn namespaces(&mut self) {
        let found = self.found.namespaces;
        let name = format!("of {} Services in 3 namespaces lost", found.map_or(0, |it| it.deleted));
        self.own(
            &name,
            "Services",
            Some(0.0),
            value(found.map(|it| count(it.deleted - it.back))),
        );
        self.own(
            "the slowest that came back",
            "s",
            Some(1.0),
            seconds(found.map(|it| it.slowest)),
        );
    }
}

fn value(value: Option<f64>) -> Figure {
    value.map_or(NONE, |value| Figure::Values(vec![value]))
}

fn seconds(time: Option<Duration>) -> Figure {
    value(time.map(|time| time.as_secs_f64()))
}
