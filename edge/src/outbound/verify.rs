//! Asking authoritative servers (step 2 of dialback) for the receiving role.
//!
//! Each remote domain has one such stream at a time as a rule, which all its questions share; it is
//! used for nothing else. Questions are bounded in total and per network of those who ask, and wait
//! for their [`super::turns`].
//!
//! A domain that cannot be asked is not tried again for a while: each try costs DNS, TCP and TLS. What
//! failed before a connection stood is true for all our domains. What failed later says something
//! about one pair only: a partner may refuse streams in the name of one of our domains, and nobody
//! who names that one keeps the partner's keys for the others from being verified.

mod asking;
mod opening;

use asking::QuestionStream;
use opening::{NotOpened, PendingStream};
use parking_lot::Mutex;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use xmpp_federation_core::{Domain, StreamId};

use super::connect::OpenStream;
use super::turns::{NoTurn, Turns, VerificationTurn as Permit};
use crate::bounce::Cause;
use crate::jid::Labels;
use crate::observe::log_rate::Party;
use crate::observe::metrics::TurnCounts;
use crate::partners::Standing;
use crate::shared::Shared;
use crate::stream::established::drive;
use crate::words::Role;

/// Questions on one stream under way at once.
const PER_STREAM: usize = 64;
/// How long what could not be asked is not tried again.
const NEGATIVE: Duration = Duration::from_secs(10);
/// How long keys for other domains of ours wait for a stream that is opened in the name of one. After
/// that they get streams of their own.
const SHARED_OPENING: Duration = Duration::from_secs(2);
/// How long a stream without questions stays open.
const IDLE: Duration = Duration::from_secs(10);
/// Streams that may stay open like that; with more, each closes after its last answer.
const MAX_IDLE: usize = 256;

/// What an authoritative server says about a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The key is its own.
    Valid,
    /// It is not.
    Invalid,
    /// It could not be asked: the condition of the dialback error (XEP-0220 section 2.4).
    Failed(&'static str),
    /// Too many other keys are being verified.
    NoTurn(NoTurn),
}

/// A key to be verified. Dropping the receiver of `answer` withdraws the question.
#[derive(Debug)]
pub struct Question {
    /// The hosted domain that was shown the key.
    pub local: Domain,
    /// The domain in whose name it was shown.
    pub remote: Domain,
    /// The id of our header on the stream where it was shown.
    pub id: StreamId,
    /// The key.
    pub key: String,
    /// How the remote server writes its domain, where there are two ways.
    pub labels: Option<Labels>,
    /// Where it was shown from.
    pub asker: IpAddr,
    /// In whose name that address speaks.
    pub standing: Standing,
    /// The asking task waits until then; waiting for a turn and connecting count too.
    pub until: Instant,
}

struct PendingQuestion {
    question: Question,
    answer: oneshot::Sender<Outcome>,
    /// A stream ended before it was answered.
    again: bool,
    _permit: Permit,
}

impl PendingQuestion {
    fn answer(self, outcome: Outcome) {
        // The asking stream may be gone.
        let _ = self.answer.send(outcome);
    }
}

/// A stream: to a remote domain for all of ours, or for one of ours.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct VerificationTarget {
    remote: Domain,
    local: Option<Domain>,
}

/// All questions under way.
#[derive(Debug)]
pub(crate) struct Verifier {
    shared: Arc<Shared>,
    remembered: usize,
    targets: Mutex<HashMap<VerificationTarget, TargetState>>,
    turns: Arc<Turns>,
    /// Streams open or being opened.
    streams: AtomicUsize,
}

#[derive(Debug)]
enum TargetState {
    /// Their number is bounded by the turns.
    Open(mpsc::UnboundedSender<PendingQuestion>),
    NotReachable(Instant, &'static str),
}

impl Verifier {
    /// No question yet.
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let (total, remembered) = {
            let budget = &shared.live().budget;
            (budget.verifications, budget.remembered)
        };
        Self {
            shared,
            remembered,
            targets: Mutex::default(),
            turns: Arc::new(Turns::new(total)),
            streams: AtomicUsize::new(0),
        }
    }

    /// Takes over `limits.maxVerifications` of each reload; goes on until it is dropped.
    pub async fn follow(&self) {
        let mut changes = self.shared.changes();
        loop {
            self.turns.resize(self.shared.live().budget.verifications);
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// How many keys are being verified, and how many wait.
    pub fn counts(&self) -> TurnCounts {
        self.turns.counts()
    }

    /// Asks when it is the question's turn, which calls `asking`; the lists are applied before, by the
    /// caller.
    pub async fn ask(self: &Arc<Self>, question: Question, asking: impl FnOnce()) -> Outcome {
        let turn = self.turns.turn(question.asker, question.standing, question.until);
        let permit = match turn.await {
            Ok(permit) => permit,
            Err(reason) => return Outcome::NoTurn(reason),
        };
        asking();
        let (answer, answered) = oneshot::channel();
        let asked = PendingQuestion {
            question,
            answer,
            again: false,
            _permit: permit,
        };
        self.hand_over(asked, false);
        answered.await.unwrap_or(Outcome::Failed("remote-server-timeout"))
    }

    /// To the stream that takes this question, which is opened if need be; `apart`: one for this pair
    /// alone.
    fn hand_over(self: &Arc<Self>, mut asked: PendingQuestion, apart: bool) {
        let Question { local, remote, .. } = &asked.question;
        let way = |local: Option<&Domain>| VerificationTarget {
            remote: remote.clone(),
            local: local.cloned(),
        };
        let (own, shared) = (way(Some(local)), way(None));
        let mut targets = self.targets.lock();
        let now = Instant::now();
        for way in [&shared, &own] {
            if let Some(TargetState::NotReachable(until, condition)) = targets.get(way)
                && now < *until
            {
                let condition = *condition;
                drop(targets);
                return asked.answer(Outcome::Failed(condition));
            }
        }
        for way in [&own, &shared] {
            if apart && *way == shared {
                continue;
            }
            if let Some(TargetState::Open(sender)) = targets.get(way) {
                match sender.send(asked) {
                    Ok(()) => return,
                    // That task is just ending.
                    Err(mpsc::error::SendError(back)) => asked = back,
                }
            }
        }
        let way = if apart { own } else { shared };
        let (sender, receiver) = mpsc::unbounded_channel();
        // The receiver is here.
        let _ = sender.send(asked);
        targets.insert(way.clone(), TargetState::Open(sender));
        drop(targets);
        self.streams.fetch_add(1, Ordering::Relaxed);
        let verifier = self.clone();
        tokio::spawn(async move {
            run(&verifier, &way, receiver).await;
            verifier.streams.fetch_sub(1, Ordering::Relaxed);
        });
    }

    fn idle_time(&self) -> Duration {
        if self.streams.load(Ordering::Relaxed) > MAX_IDLE {
            Duration::ZERO
        } else {
            IDLE
        }
    }

    /// A stream that was to go this way says of that one that it does not lead anywhere.
    fn not_reachable(&self, of: &VerificationTarget, way: VerificationTarget, condition: &'static str) {
        let mut targets = self.targets.lock();
        if *of != way && matches!(targets.get(&way), Some(TargetState::Open(_))) {
            // Another stream is there, or comes to its own result.
            return;
        }
        let now = Instant::now();
        if targets.len() >= self.remembered {
            targets.retain(|_, target| !matches!(target, TargetState::NotReachable(until, _) if now >= *until));
        }
        targets.remove(&way);
        if targets.len() < 2 * self.remembered {
            targets.insert(way, TargetState::NotReachable(now + NEGATIVE, condition));
        }
    }

    /// Forgets which domains could not be asked.
    pub fn retry(&self, remote: Option<&Domain>) {
        self.targets.lock().retain(|way, target| {
            matches!(target, TargetState::Open(_)) || remote.is_some_and(|remote| *remote != way.remote)
        });
    }

    /// This stream ends and takes no questions any more: the next one opens another.
    fn forget(&self, way: &VerificationTarget) {
        let mut targets = self.targets.lock();
        if let Some(TargetState::Open(sender)) = targets.get(way)
            && sender.is_closed()
        {
            targets.remove(way);
        }
    }
}

/// The task of one stream: opens it for the first question, closes it after the last.
async fn run(
    verifier: &Arc<Verifier>,
    way: &VerificationTarget,
    mut questions: mpsc::UnboundedReceiver<PendingQuestion>,
) {
    let Some(first) = questions.recv().await else {
        return;
    };
    let mut opening = PendingStream::new(verifier, first);
    let opened = opening.run(&mut questions).await;
    let PendingStream {
        local, asked, others, ..
    } = opening;
    let mut ended = None;
    let left = match opened {
        Ok(opened) => {
            verifier.shared.registry.partner_reached(&way.remote, &local);
            opened.guard.update(|detail| detail.verifies = true);
            let party = Party::Called(&way.remote, Some(opened.address.ip()));
            if verifier.shared.may_log("stream for db:verify", party) {
                tracing::info!(
                    role = Role::Receiving.as_str(), remote = %way.remote, address = %opened.address,
                    "stream used for dialback only"
                );
            }
            let mut asking = QuestionStream {
                verifier,
                remote: &way.remote,
                opened,
                waiting: asked.into_iter().chain(others).collect(),
                open: Vec::new(),
                late: Vec::new(),
                answers: 0,
                questions: &mut questions,
                idle_since: Instant::now(),
            };
            asking.send_waiting();
            let failure = drive(&mut asking).await;
            let left = asking.left(&failure);
            ended = Some((asking.opened, failure));
            left
        }
        Err(NotOpened::Abandoned) => others,
        Err(NotOpened::Failed { error, asker, standing }) => {
            let condition = match error.cause {
                Cause::NotFound => "remote-server-not-found",
                Cause::Insecure => "policy-violation",
                _ => "remote-connection-failed",
            };
            let party = Party::Caller(asker, Some(&way.remote));
            if verifier.shared.may_log("authoritative server not asked", party) {
                tracing::warn!(
                    role = Role::Receiving.as_str(), %local, remote = %way.remote, reason = error.message,
                    "the authoritative server cannot be asked"
                );
            }
            // Somebody who only claims to be the partner proves nothing about its other pairs.
            let pair = error.local(&local);
            let failed = VerificationTarget {
                remote: way.remote.clone(),
                local: pair.cloned(),
            };
            if pair.is_none() || standing == Standing::Partner {
                verifier
                    .shared
                    .registry
                    .partner_not_asked(&way.remote, pair, error.message);
            }
            verifier.not_reachable(way, failed, condition);
            for one in asked {
                one.answer(Outcome::Failed(condition));
            }
            others
        }
    };
    // No question may be lost between the last look and the end.
    questions.close();
    verifier.forget(way);
    let late = std::iter::from_fn(|| questions.try_recv().ok());
    for asked in left.into_iter().chain(late) {
        verifier.hand_over(asked, way.local.is_some());
    }
    if let Some((OpenStream { wire, guard, .. }, failure)) = ended {
        wire.hang_up(&failure, String::new).await;
        drop(guard);
    }
}
