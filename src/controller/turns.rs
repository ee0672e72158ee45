//! Whose edge pods may be replaced because of the operator's release alone. A federation takes its turn when fewer than
//! the given number of others have theirs; its turn ends when it works again.
//!
//! - The oldest resource comes first. One whose conditions changed a moment ago is passed over until they settle.
//! - One of whose conditions none holds for [`SETTLED`] has nothing to lose and is waited for no longer than [`GIVEN_UP`].
//!   Such federations have turns of their own, as many at a time.
//! - A federation that does not work again in time halts all other turns.
//!
//! Turns that began are on the `StatefulSets`. All else is told anew by the reconciles of an operator that starts.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;

use super::names::ObjectName;
use super::record::Turn;

/// A condition that is not True for this long is not on its way to True.
pub const SETTLED: Duration = Duration::from_mins(5);
/// The turn of a federation that did not work before ends after this.
pub const GIVEN_UP: Duration = Duration::from_mins(2);
/// An operator that has just started knows the order by then.
const OPENS: Duration = Duration::from_mins(1);
/// Federations at the front of those that wait are told their place; the others only that they are behind these.
const FRONT: usize = 10;

/// Of one federation, what its reconcile found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// Its pods are of the template that is wanted, and it works again.
    Current,
    /// Its turn is under way.
    Rolling(Turn),
    Waiting {
        created: Option<Timestamp>,
        /// Conditions that are True and have to be so again.
        held: Vec<String>,
        /// Some have changed, and are judged from then on.
        settles: Option<Timestamp>,
    },
    /// It asks for nothing, as it is paused or its spec is refused. Its turn stays where it is under way.
    Idle,
    /// It is gone, or a person goes on without it.
    Gone,
}

/// May a federation have its pods replaced?
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Permission {
    /// It may, from then on; these conditions are to be True again.
    Granted {
        since: Timestamp,
        held: Vec<String>,
    },
    Waits(Wait),
}

/// What a federation waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wait {
    /// This process does not know all federations yet.
    Starting,
    /// Its conditions have changed a moment ago.
    Unsettled(Timestamp),
    Turn {
        /// Who has a turn.
        rolling: Vec<ObjectName>,
        /// Who comes first among those that wait; `None`: more than are counted.
        ahead: Option<usize>,
        /// All that wait.
        waiting: usize,
    },
    /// That federation does not work again; since when.
    Halted(ObjectName, Timestamp),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Lane {
    /// Some conditions are to be True again.
    Sound,
    /// None was.
    Down,
}

const LANES: [Lane; 2] = [Lane::Sound, Lane::Down];

/// Age, then name.
type Place = (Option<Timestamp>, ObjectName);

#[derive(Debug)]
struct Taken {
    /// As it is on the StatefulSet; before that, as it was granted.
    turn: Turn,
    written: bool,
}

impl Taken {
    fn lane(&self) -> Lane {
        if self.turn.held.is_empty() {
            Lane::Down
        } else {
            Lane::Sound
        }
    }
}

/// All federations that wait or have a turn.
#[derive(Debug)]
pub struct Roster {
    /// Turns at a time; 0: nobody waits.
    at_once: usize,
    /// A turn that was granted begins within this.
    patience: Duration,
    /// Conditions that hold, by place.
    waiting: BTreeMap<Lane, BTreeMap<Place, Vec<String>>>,
    places: HashMap<ObjectName, (Lane, Place)>,
    unsettled: BTreeMap<ObjectName, Timestamp>,
    turns: BTreeMap<ObjectName, Taken>,
    /// Resources that have not reported yet, and until when that counts.
    unknown: Option<(HashSet<ObjectName>, Timestamp)>,
    /// What those at the front were told last.
    told: (Option<ObjectName>, Vec<ObjectName>, Vec<ObjectName>),
}

/// Federations by state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    pub waiting: usize,
    pub rolling: usize,
    /// Those that did not work again in time.
    pub halted: usize,
}

impl Roster {
    pub fn new(at_once: usize, patience: Duration) -> Self {
        Self {
            at_once,
            patience,
            waiting: LANES.map(|lane| (lane, BTreeMap::new())).into(),
            places: HashMap::new(),
            unsettled: BTreeMap::new(),
            turns: BTreeMap::new(),
            unknown: None,
            told: (None, Vec::new(), Vec::new()),
        }
    }

    /// An operator begins: these resources exist, and those turns are under way.
    pub fn begin(
        &mut self,
        resources: impl IntoIterator<Item = ObjectName>,
        turns: impl IntoIterator<Item = (ObjectName, Turn)>,
        now: Timestamp,
    ) {
        let resources: HashSet<ObjectName> = resources.into_iter().collect();
        // A StatefulSet may have outlived its resource.
        let turns = turns.into_iter().filter(|(name, _)| resources.contains(name));
        self.turns
            .extend(turns.map(|(name, turn)| (name, Taken { turn, written: true })));
        self.unknown = Some((resources, now + OPENS));
    }

    /// Takes in a report; who has to be reconciled because of it.
    pub fn report(&mut self, name: &ObjectName, report: Report, now: Timestamp) -> BTreeSet<ObjectName> {
        let opens = self.known(name, now);
        match report {
            Report::Waiting { created, held, settles } => self.waits(name, (created, name.clone()), held, settles),
            Report::Rolling(turn) => {
                self.stop_waiting(name);
                self.turns.insert(name.clone(), Taken { turn, written: true });
            }
            Report::Current | Report::Gone => {
                self.stop_waiting(name);
                self.turns.remove(name);
            }
            Report::Idle => {
                self.stop_waiting(name);
                if self.turns.get(name).is_some_and(|taken| !taken.written) {
                    self.turns.remove(name);
                }
            }
        }
        let mut wake = self.grant(now);
        if opens {
            wake.extend(self.places.keys().chain(self.unsettled.keys()).cloned());
        }
        wake.extend(self.untold_front(now));
        wake.remove(name);
        if self.turns.get(name).is_some_and(|taken| !taken.written) {
            wake.insert(name.clone());
        }
        wake
    }

    /// Whether that one, of which these conditions hold, may have its pods replaced now.
    pub fn permission(&self, name: &ObjectName, held: &[String], now: Timestamp) -> Permission {
        // One that had nothing to lose when its turn was granted may work by now: then it waits with its like.
        let same = |taken: &&Taken| taken.written || taken.turn.held.is_empty() == held.is_empty();
        if let Some(taken) = self.turns.get(name).filter(same) {
            return Permission::Granted {
                since: taken.turn.since,
                held: taken.turn.held.clone(),
            };
        }
        Permission::Waits(self.wait(name, now))
    }

    fn wait(&self, name: &ObjectName, now: Timestamp) -> Wait {
        if let Some((by, since)) = self.halted(now) {
            return Wait::Halted(by.clone(), since);
        }
        if let Some(settles) = self.unsettled.get(name) {
            return Wait::Unsettled(*settles);
        }
        let Some((lane, place)) = self.places.get(name).filter(|_| self.is_open(now)) else {
            return Wait::Starting;
        };
        let places = self.waiting.get(lane).into_iter().flat_map(BTreeMap::keys);
        Wait::Turn {
            rolling: self.rolling(*lane).map(|(name, _)| name.clone()).collect(),
            ahead: places.take(FRONT + 1).position(|other| other == place),
            waiting: self.places.len() + self.unsettled.len(),
        }
    }

    /// When something changes for those that wait although nobody reports.
    pub fn due(&self, name: &ObjectName, now: Timestamp) -> Option<Timestamp> {
        let turns = self.turns.values().map(|taken| taken.turn.until);
        let opens = self.unknown.as_ref().map(|(_, opens)| *opens);
        let times = turns.chain(self.unsettled.get(name).copied()).chain(opens);
        times.filter(|time| *time > now).min()
    }

    pub fn count(&self, now: Timestamp) -> Count {
        Count {
            waiting: self.places.len() + self.unsettled.len(),
            rolling: self.turns.len(),
            halted: self.overdue(now).count(),
        }
    }

    /// Whether all federations are known from now on.
    fn known(&mut self, name: &ObjectName, now: Timestamp) -> bool {
        let Some((unknown, opens)) = &mut self.unknown else {
            return false;
        };
        unknown.remove(name);
        let open = unknown.is_empty() || *opens <= now;
        if open {
            self.unknown = None;
        }
        open
    }

    fn is_open(&self, now: Timestamp) -> bool {
        self.unknown.as_ref().is_none_or(|(_, opens)| *opens <= now)
    }

    fn waits(&mut self, name: &ObjectName, place: Place, held: Vec<String>, settles: Option<Timestamp>) {
        if let Some(taken) = self.turns.get(name) {
            // Granted meanwhile. What it is to have again may be something else now, and then it waits anew.
            if !taken.written && settles.is_none() && taken.turn.held == held {
                return;
            }
            self.turns.remove(name);
        }
        if let Some(settles) = settles {
            self.stop_waiting(name);
            self.unsettled.insert(name.clone(), settles);
            return;
        }
        let lane = if held.is_empty() { Lane::Down } else { Lane::Sound };
        if self.places.get(name) != Some(&(lane, place.clone())) {
            self.stop_waiting(name);
            self.places.insert(name.clone(), (lane, place.clone()));
        }
        self.waiting.entry(lane).or_default().insert(place, held);
    }

    fn stop_waiting(&mut self, name: &ObjectName) {
        self.unsettled.remove(name);
        if let Some((lane, place)) = self.places.remove(name) {
            self.waiting.entry(lane).or_default().remove(&place);
        }
    }

    /// Gives turns to the first that wait, as many as are free.
    fn grant(&mut self, now: Timestamp) -> BTreeSet<ObjectName> {
        let mut granted = BTreeSet::new();
        if self.halted(now).is_some() || !self.is_open(now) {
            return granted;
        }
        for lane in LANES {
            let mut free = self.at_once.saturating_sub(self.rolling(lane).count());
            while free > 0 {
                let Some(((_, name), held)) = self.waiting.entry(lane).or_default().pop_first() else {
                    break;
                };
                self.places.remove(&name);
                let until = now + self.patience;
                let turn = Turn {
                    since: now,
                    until,
                    held,
                };
                self.turns.insert(name.clone(), Taken { turn, written: false });
                granted.insert(name);
                free -= 1;
            }
        }
        granted
    }

    fn rolling(&self, lane: Lane) -> impl Iterator<Item = (&ObjectName, &Taken)> {
        self.turns.iter().filter(move |(_, taken)| taken.lane() == lane)
    }

    fn overdue(&self, now: Timestamp) -> impl Iterator<Item = (&ObjectName, &Taken)> {
        self.rolling(Lane::Sound)
            .filter(move |(_, taken)| taken.turn.until <= now)
    }

    /// The federation that halts the others, and since when.
    fn halted(&self, now: Timestamp) -> Option<(&ObjectName, Timestamp)> {
        self.overdue(now)
            .map(|(name, taken)| (name, taken.turn.until))
            .min_by_key(|(_, until)| *until)
    }

    /// Those at the front, where they were told something else.
    fn untold_front(&mut self, now: Timestamp) -> Vec<ObjectName> {
        if !self.is_open(now) {
            return Vec::new();
        }
        let fronts = self.waiting.values().flat_map(|lane| lane.keys().take(FRONT));
        let front: Vec<ObjectName> = fronts.map(|(_, name)| name.clone()).collect();
        let halted = self.halted(now).map(|(name, _)| name.clone());
        let tell = (halted, self.turns.keys().cloned().collect(), front.clone());
        if tell == self.told {
            return Vec::new();
        }
        self.told = tell;
        front
    }
}

#[cfg(test)]
mod tests;
