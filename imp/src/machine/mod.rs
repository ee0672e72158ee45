//! One IM&P cluster as a machine without I/O: it decides, and a driver performs. There is no clock, lock, socket or await
//! in it, so that tests drive the same type through worlds of their own.
//!
//! [`Machine::poll`] names one [`Request`] or ends the turn; [`Machine::answered`] takes in what came of the request. A turn
//! reads as much as the plan asks for and changes one thing at most.
//!
//! | [`State`] | requests | answer | next state | file |
//! |---|---|---|---|---|
//! | `Over` | [`Request::Prepare`], if the target changed or a person asks | `Connected` | `Look` | here |
//! | `Look` | [`Request::LoadLedger`] | `Ledger` | `Learn`; `Plan` without a usable ledger | [`learn`] |
//! | `Learn` | [`Request::SaveLedger`], if something was learned | `Saved` | `Plan` | [`learn`] |
//! | `Plan` | [`Request::Read`] | `Read` | `Look` | here, [`reads`] |
//! | `Plan` | [`Request::Confirm`] | `Confirmed` | `Permitted`; `End` if it is refused | here |
//! | `Plan` | nothing, where there is nothing to do now | | the turn ends | here |
//! | `Permitted` | [`Request::SaveLedger`] with the intent | `Saved` | `Recorded`; `Look` if it is not saved, or was no more than that | [`change`] |
//! | `Recorded` | [`Request::Change`] | `Written`, `Commanded` | `Outcome` | [`change`] |
//! | `Outcome` | [`Request::SaveLedger`] with the outcome | `Saved` | `Look` | [`change`] |
//! | `End` | nothing | | the turn ends | here |
//!
//! Between request and answer the state is one that waits: `Preparing`, `Loading`, `Saving`, `Reading`, `Confirming` or
//! `Changing`.
//!
//! - [`intent`]: a change is requested only after the ledger that names it was saved
//! - [`change`]: permission, intent, call, outcome; [`reads`]: what answers to reads mean
//! - [`learn`]: the ledger, loaded and brought up to what was seen; [`removal`]: the rows of a resource that goes

mod change;
pub mod intent;
mod learn;
mod reads;
mod removal;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::access::AxlVersion;
use crate::axl::{HaState, Node, Row, Table};
use crate::clock::Stamp;
use crate::control_center::{CommandOutcome, Services};
use crate::desired::{Desired, FederationCheck};
use crate::error::CallError;
use crate::ledger::Ledger;
use crate::observation::{CheckAnswer, Observation, Read};
use crate::pkid::Pkid;
use crate::plan::{Action, NextStep, PlanInput, Wait, WaitReason};
use crate::records::ActionRecord;
use crate::report::{Event, Report};
use crate::store::StoreError;
use crate::timings::Timings;
use crate::verdicts::ReportInput;

use intent::Unsaved;
pub use intent::{Change, Recorded};
pub use removal::rows_left;

/// Most plans in one turn; the next turn goes on.
const MAX_PLANS: usize = 24;
/// A turn that comes to no end, or that cannot make a call, is followed by the next one after this.
const RETRY: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub enum Next {
    /// Do this, and tell the machine what came of it.
    Do(Request),
    /// The turn is over. A read or an action is for the next turn, which may begin at once.
    Wait(NextStep),
}

/// What a driver does.
#[derive(Debug)]
pub enum Request {
    /// Make ready for calls.
    Prepare {
        /// Make the client for the target; `true`: the cluster is another one.
        client: Option<bool>,
        /// A person asks for another try of accounts whose last answer is not known.
        retry_logins: bool,
    },
    /// The ledger of the publisher with this pkid, or of this resource and the publisher's name.
    LoadLedger(Option<String>),
    SaveLedger(Box<Ledger>),
    Read(Read),
    /// Ask whether this may still be done.
    Confirm(Action),
    /// Change something at IM&P.
    Change(Recorded),
}

/// What was read.
#[derive(Debug)]
pub enum Reply {
    Nodes(Vec<Node>),
    Table(Table),
    Rows(Vec<Row>),
    Federation(FederationCheck, CheckAnswer),
    Redundancy(Vec<HaState>),
    Services(Services),
}

/// What came of a request.
#[derive(Debug)]
pub enum Answer {
    /// Why no client can be made, as a sentence.
    Connected(Result<(), String>),
    /// The ledger where it is not the one that the machine has; and by other entry the pkid of the publisher that answered.
    Ledger(Result<Option<Box<Ledger>>, StoreError>, BTreeMap<String, String>),
    Saved(Result<(), StoreError>),
    Read(Result<Reply, CallError>),
    /// Why it must not be done, as a sentence.
    Confirmed(Result<(), String>),
    /// How many rows were changed.
    Written(Result<u64, CallError>),
    Commanded(CommandOutcome),
    /// There is nothing to tell.
    Nothing,
}

/// The state of one cluster, as this process knows it.
#[derive(Clone, Default)]
pub struct Machine {
    /// What the client was made for.
    target: Option<String>,
    /// Why there is none.
    setup_error: Option<String>,
    pub seen: Observation,
    ledger: Option<Ledger>,
    /// Why the ledger could not be read or written.
    ledger_error: Option<StoreError>,
    /// By other entry: the pkid of the publisher that answered.
    publishers: BTreeMap<String, String>,
    state: State,
    /// Plans in this turn.
    plans: usize,
    /// Something was changed in this turn.
    acted: bool,
    events: Vec<Event>,
    /// What was done and is not announced yet.
    actions: Vec<ActionRecord>,
    /// Restarts that were not sent because nobody said that their intents were saved; one of those may stand in the
    /// ledger until the next save.
    unsent: BTreeSet<String>,
    /// Ids of rows that were deleted, until the removal is reported.
    deleted: Vec<String>,
    #[cfg(test)]
    pub mutant: Option<crate::histories::mutants::Mutant>,
}

/// Where a turn stands: what is done next, or which answer is expected.
#[derive(Clone, Default)]
enum State {
    /// Between turns.
    #[default]
    Over,
    Preparing,
    /// The ledger is looked at next, then a plan is made.
    Look,
    Loading,
    /// What was seen is learned next.
    Learn,
    Saving(Ledger, Then),
    Plan,
    /// Asked for then.
    Reading(Read, Stamp),
    Confirming(Action),
    /// It may be done.
    Permitted(Action),
    /// The intent is saved; the call is next.
    Recorded(Recorded),
    Changing(Recorded),
    /// The outcome is saved next.
    Outcome(Ledger),
    /// The turn ends with this.
    End(NextStep),
}

/// What comes after a saved ledger.
#[derive(Clone)]
enum Then {
    /// The plan; these are the events that were learned.
    Plan(Vec<Event>),
    /// The call.
    Change(Unsaved),
    /// The next look at everything; what was done by saving.
    Look(Option<ActionRecord>),
    /// The end of a removal.
    End,
}

impl Machine {
    /// A machine that knows nothing yet.
    pub fn new(timings: Timings) -> Self {
        let seen = Observation {
            timings,
            ..Observation::default()
        };
        Self {
            seen,
            ..Self::default()
        }
    }

    /// What comes next; `fresh` is a pkid that no row has.
    pub fn poll(&mut self, now: Stamp, fresh: Pkid, desired: &Desired) -> Next {
        loop {
            let next = match std::mem::take(&mut self.state) {
                State::Over => self.begin(desired),
                State::Look => self.look(now),
                State::Learn => self.learn(now, desired),
                State::Plan => Some(self.plan(now, fresh, desired)),
                State::Permitted(action) => self.intend(now, fresh, desired, action),
                State::Recorded(recorded) => Some(self.call(now, recorded)),
                State::Outcome(ledger) => Some(self.save(ledger, Then::Look(None))),
                State::End(step) => Some(Next::Wait(step)),
                _ => {
                    // An answer never came. What was seen may be older than what was done.
                    self.seen.outdate();
                    None
                }
            };
            if let Some(next) = next {
                return next;
            }
        }
    }

    /// Takes in the answer to the request that was polled last.
    pub fn answered(&mut self, now: Stamp, answer: Answer) {
        self.state = match (std::mem::take(&mut self.state), answer) {
            (State::Preparing, Answer::Connected(result)) => {
                self.setup_error = result.err();
                State::Look
            }
            (State::Loading, Answer::Ledger(newer, publishers)) => self.loaded(newer, publishers),
            (State::Saving(ledger, then), Answer::Saved(result)) => self.saved(ledger, then, result),
            (State::Reading(read, asked), Answer::Read(answer)) => {
                self.read(now, asked, &read, answer);
                State::Look
            }
            (State::Confirming(action), Answer::Confirmed(Ok(()))) => State::Permitted(action),
            (State::Confirming(_), Answer::Confirmed(Err(why))) => State::End(retry(WaitReason::Withheld(why), now)),
            (State::Changing(recorded), Answer::Written(result)) => self.written(now, &recorded, result),
            (State::Changing(recorded), Answer::Commanded(outcome)) => self.commanded(now, &recorded, outcome),
            _ => State::Look,
        };
    }

    fn ask(&mut self, state: State, request: Request) -> Next {
        self.state = state;
        Next::Do(request)
    }

    fn save(&mut self, ledger: Ledger, then: Then) -> Next {
        self.ask(
            State::Saving(ledger.clone(), then),
            Request::SaveLedger(Box::new(ledger)),
        )
    }

    /// A turn begins: takes over what changed in the target, and what a person asks for.
    fn begin(&mut self, desired: &Desired) -> Option<Next> {
        (self.plans, self.acted) = (0, false);
        let target = desired.target.key();
        // What a process finds at its start was asked of another one.
        let asked_now = self.target.is_some();
        let client = (self.target.as_ref() != Some(&target)).then(|| {
            let host = |key: &String| key.split('\n').next().map(ToOwned::to_owned);
            let anew = self.target.as_ref().and_then(host) != host(&target);
            if anew {
                // The calls are the publisher's, over all resources.
                let calls = std::mem::take(&mut self.seen.control_center_calls);
                *self = Self {
                    #[cfg(test)]
                    mutant: self.mutant,
                    ..Self::new(self.seen.timings)
                };
                self.seen.control_center_calls = calls;
            } else {
                // Whether it is accepted shows at once, not at the next poll.
                self.seen.look_again();
            }
            self.seen.forgive();
            self.target = Some(target);
            anew
        });
        let check = self.seen.federation_check.as_ref();
        if check.map(|check| &check.check) != desired.federation_check.as_ref() {
            self.seen.federation_check = None;
        }
        let refresh = &desired.requests.refresh;
        let refreshed = self.seen.refreshed != *refresh && refresh.is_some();
        self.seen.refreshed.clone_from(refresh);
        if refreshed {
            self.seen.refresh();
        }
        self.state = State::Look;
        let retry_logins = refreshed && asked_now;
        let due = client.is_some() || retry_logins;
        due.then(|| self.ask(State::Preparing, Request::Prepare { client, retry_logins }))
    }

    /// What is desired, with the slots that the ledger allows.
    fn allowed<'a>(&self, desired: &'a Desired) -> Cow<'a, Desired> {
        let own = self.ledger.as_ref().filter(|ledger| ledger.is_of(&desired.owner.uid));
        desired.within(own.and_then(|ledger| ledger.slots))
    }

    fn plan(&mut self, now: Stamp, fresh: Pkid, desired: &Desired) -> Next {
        let desired = &*self.allowed(desired);
        let input = PlanInput {
            desired,
            seen: &self.seen,
            ledger: self.ledger.as_ref().filter(|_| self.ledger_error.is_none()),
            now,
            fresh,
        };
        #[cfg(not(test))]
        let step = input.plan();
        #[cfg(test)]
        let step = self.mutant.map_or_else(|| input.plan(), |mutant| mutant.plan(input));
        match step {
            // What a person does to it is seen at once.
            NextStep::Wait(Wait {
                why: WaitReason::Ledger,
                ..
            }) if matches!(self.ledger_error, Some(StoreError::Unreadable(_))) => {
                let until = now.plus(desired.poll_interval);
                Next::Wait(NextStep::Wait(Wait {
                    why: WaitReason::Ledger,
                    until,
                }))
            }
            NextStep::Read(_) | NextStep::Act(_) if self.setup_error.is_some() => {
                Next::Wait(retry(WaitReason::Axl, now))
            }
            NextStep::Read(read) if !self.acted => {
                if matches!(read, Read::Services(_)) {
                    self.seen.called_control_center(now);
                }
                self.ask(State::Reading(read.clone(), now), Request::Read(read))
            }
            NextStep::Act(action) if !self.acted && !desired.hold_acts => {
                self.acted = true;
                self.ask(State::Confirming(action.clone()), Request::Confirm(action))
            }
            step => Next::Wait(step),
        }
    }

    /// The report of a turn that ended with this step.
    pub fn report(
        &mut self,
        now: Stamp,
        desired: &Desired,
        step: &NextStep,
        axl_version: Option<AxlVersion>,
    ) -> Report {
        let requeue_after = match step {
            NextStep::Wait(wait) => Duration::from_millis(wait.until.mono_ms.saturating_sub(now.mono_ms)),
            NextStep::Read(_) | NextStep::Act(_) => Duration::ZERO,
        };
        let events = std::mem::take(&mut self.events);
        let desired = &*self.allowed(desired);
        ReportInput {
            desired,
            seen: &self.seen,
            ledger: self.ledger.as_ref(),
            step,
            setup_error: self.setup_error.as_deref(),
            ledger_error: self.ledger_error.as_ref(),
            axl_version,
        }
        .report(events, requeue_after)
    }

    #[cfg(test)]
    pub(crate) fn ledger(&self) -> Option<&Ledger> {
        self.ledger.as_ref()
    }

    /// What was done since this was asked last, to be announced.
    pub fn take_actions(&mut self) -> Vec<ActionRecord> {
        std::mem::take(&mut self.actions)
    }
}

fn retry(why: WaitReason, now: Stamp) -> NextStep {
    let until = now.plus(RETRY);
    NextStep::Wait(Wait { why, until })
}
