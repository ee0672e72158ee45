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

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until};
use xmpp_federation_core::{Domain, StreamId};

use super::answers;
use super::connect::{OpenError, Opened, Opener, Purpose, Says};
use super::turns::{NoTurn, Turn as Permit, Turns};
use crate::bounce::Cause;
use crate::dialback::elements::{Answer, Kind, verify_request};
use crate::jid::{Labels, Side};
use crate::observe::failures::Attempt;
use crate::observe::log_rate::Party;
use crate::observe::metrics::TurnCounts;
use crate::partners::Standing;
use crate::shared::Shared;
use crate::stream::Failure;
use crate::words::Role;
use crate::words::Stage;
use xmpp_federation_xml::Element;

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

struct Asked {
    question: Question,
    answer: oneshot::Sender<Outcome>,
    /// A stream ended before it was answered.
    again: bool,
    _permit: Permit,
}

impl Asked {
    fn answer(self, outcome: Outcome) {
        // The asking stream may be gone.
        let _ = self.answer.send(outcome);
    }
}

/// A stream: to a remote domain for all of ours, or for one of ours.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Way {
    remote: Domain,
    local: Option<Domain>,
}

/// All questions under way.
#[derive(Debug)]
pub(crate) struct Verifier {
    shared: Arc<Shared>,
    remembered: usize,
    targets: Mutex<HashMap<Way, Target>>,
    turns: Arc<Turns>,
    /// Streams open or being opened.
    streams: AtomicUsize,
}

enum Target {
    /// Their number is bounded by the turns.
    Asking(mpsc::UnboundedSender<Asked>),
    NotReachable(Instant, &'static str),
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Asking(_) => "Asking",
            Self::NotReachable(..) => "NotReachable",
        })
    }
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

    fn lock(&self) -> MutexGuard<'_, HashMap<Way, Target>> {
        self.targets.lock().unwrap_or_else(PoisonError::into_inner)
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
        let asked = Asked {
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
    fn hand_over(self: &Arc<Self>, mut asked: Asked, apart: bool) {
        let Question { local, remote, .. } = &asked.question;
        let way = |local: Option<&Domain>| Way {
            remote: remote.clone(),
            local: local.cloned(),
        };
        let (own, shared) = (way(Some(local)), way(None));
        let mut targets = self.lock();
        let now = Instant::now();
        for way in [&shared, &own] {
            if let Some(Target::NotReachable(until, condition)) = targets.get(way)
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
            if let Some(Target::Asking(sender)) = targets.get(way) {
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
        targets.insert(way.clone(), Target::Asking(sender));
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
    fn not_reachable(&self, of: &Way, way: Way, condition: &'static str) {
        let mut targets = self.lock();
        if *of != way && matches!(targets.get(&way), Some(Target::Asking(_))) {
            // Another stream is there, or comes to its own result.
            return;
        }
        let now = Instant::now();
        if targets.len() >= self.remembered {
            targets.retain(|_, target| !matches!(target, Target::NotReachable(until, _) if now >= *until));
        }
        targets.remove(&way);
        if targets.len() < 2 * self.remembered {
            targets.insert(way, Target::NotReachable(now + NEGATIVE, condition));
        }
    }

    /// Forgets which domains could not be asked.
    pub fn retry(&self, remote: Option<&Domain>) {
        self.lock().retain(|way, target| {
            matches!(target, Target::Asking(_)) || remote.is_some_and(|remote| *remote != way.remote)
        });
    }

    /// This stream ends and takes no questions any more: the next one opens another.
    fn forget(&self, way: &Way) {
        let mut targets = self.lock();
        if let Some(Target::Asking(sender)) = targets.get(way)
            && sender.is_closed()
        {
            targets.remove(way);
        }
    }
}

/// The task of one stream: opens it for the first question, closes it after the last.
async fn run(verifier: &Arc<Verifier>, way: &Way, mut questions: mpsc::UnboundedReceiver<Asked>) {
    let Some(first) = questions.recv().await else {
        return;
    };
    let mut opening = Opening::new(verifier, first);
    let opened = opening.run(&mut questions).await;
    let Opening {
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
            let mut asking = Asking {
                verifier,
                remote: &way.remote,
                opened,
                waiting: asked.into_iter().chain(others).collect(),
                open: Vec::new(),
                late: Vec::new(),
                answers: 0,
            };
            let failure = asking.run(&mut questions).await;
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
            let failed = Way {
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
    if let Some((Opened { wire, guard, .. }, failure)) = ended {
        wire.hang_up(&failure, String::new).await;
        drop(guard);
    }
}

enum NotOpened {
    /// Nobody waits for it any more.
    Abandoned,
    /// And for whom it was.
    Failed {
        error: OpenError,
        asker: IpAddr,
        standing: Standing,
    },
}

/// A stream that is being opened, and the questions that wait for it.
struct Opening<'a> {
    verifier: &'a Arc<Verifier>,
    remote: Domain,
    /// The domain of ours in whose name it is opened.
    local: Domain,
    /// Questions of that domain.
    asked: Vec<Asked>,
    /// Questions of other domains of ours.
    others: Vec<Asked>,
    /// Whether those of other domains still wait for this stream.
    shared: bool,
}

impl<'a> Opening<'a> {
    fn new(verifier: &'a Arc<Verifier>, first: Asked) -> Self {
        Self {
            verifier,
            remote: first.question.remote.clone(),
            local: first.question.local.clone(),
            asked: vec![first],
            others: Vec::new(),
            shared: true,
        }
    }

    async fn run(&mut self, questions: &mut mpsc::UnboundedReceiver<Asked>) -> Result<Opened, NotOpened> {
        let first = self.asked.first().map(|asked| &asked.question);
        let source = first.map(|question| question.asker);
        let purpose = Purpose::Verification(first.and_then(|question| question.labels));
        let (verifier, local, remote) = (self.verifier, self.local.clone(), self.remote.clone());
        let opening = async move {
            let mut opener = Opener::resolve_for(&verifier.shared, &remote, source).await?;
            opener.open(&local, purpose).await
        };
        let patience = sleep(SHARED_OPENING);
        tokio::pin!(opening, patience);
        loop {
            let until = self.asked.iter().map(|asked| asked.question.until).min();
            let until = until.unwrap_or_else(Instant::now);
            tokio::select! {
                opened = &mut opening => {
                    return opened.map_err(|error| self.failed(error));
                }
                Some(asked) = questions.recv() => self.take(asked),
                () = &mut patience, if self.shared => {
                    self.shared = false;
                    for asked in std::mem::take(&mut self.others) {
                        self.take(asked);
                    }
                }
                () = all_gone(&mut self.asked) => return Err(NotOpened::Abandoned),
                () = sleep_until(until) => {
                    let now = Instant::now();
                    if self.asked.iter().all(|asked| now >= asked.question.until) {
                        return Err(self.failed(self.too_late()));
                    }
                    let late = self.asked.extract_if(.., |asked| now >= asked.question.until);
                    for asked in late {
                        asked.answer(Outcome::Failed("remote-connection-failed"));
                    }
                }
            }
        }
    }

    fn take(&mut self, asked: Asked) {
        if asked.question.local == self.local {
            self.asked.push(asked);
        } else if self.shared {
            self.others.push(asked);
        } else {
            self.verifier.hand_over(asked, true);
        }
    }

    /// Says nothing about anybody if those who asked are gone.
    fn failed(&mut self, error: OpenError) -> NotOpened {
        self.asked.retain(|asked| !asked.answer.is_closed());
        match self.asked.first() {
            None => NotOpened::Abandoned,
            Some(asked) => NotOpened::Failed {
                asker: asked.question.asker,
                standing: asked.question.standing,
                error,
            },
        }
    }

    fn too_late(&self) -> OpenError {
        OpenError {
            cause: Cause::Unreachable,
            temporary: true,
            message: format!("{} could not be reached in time", self.remote),
            says: Says::OfPair,
        }
    }
}

/// Drops the questions of those who are gone, and waits until nobody is left.
async fn all_gone(asked: &mut Vec<Asked>) {
    std::future::poll_fn(|cx| {
        asked.retain_mut(|asked| asked.answer.poll_closed(cx).is_pending());
        if asked.is_empty() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}

/// A question that was sent.
struct Sent {
    asked: Asked,
    at: Instant,
}

struct Asking<'a> {
    verifier: &'a Arc<Verifier>,
    remote: &'a Domain,
    opened: Opened,
    /// Not sent yet.
    waiting: VecDeque<Asked>,
    open: Vec<Sent>,
    /// Expired or withdrawn questions, whose answers may still come and are dropped.
    late: Vec<(Domain, StreamId)>,
    /// Questions that were answered.
    answers: usize,
}

impl Asking<'_> {
    async fn run(&mut self, questions: &mut mpsc::UnboundedReceiver<Asked>) -> Failure {
        self.send_waiting();
        if let Err(failure) = self.take_frames() {
            return failure;
        }
        let mut idle_since = Instant::now();
        loop {
            self.send_waiting();
            let until = self.open.iter().map(|sent| sent.asked.question.until);
            let deadline = match until.min() {
                Some(first) => first,
                None => idle_since + self.verifier.idle_time(),
            };
            let Opened { wire, guard, .. } = &mut self.opened;
            let step = tokio::select! {
                read = wire.turn(true) => match read {
                    Ok(true) => self.take_frames(),
                    Ok(false) => Ok(()),
                    Err(failure) => Err(failure),
                },
                Some(asked) = questions.recv(), if self.open.len() < PER_STREAM => {
                    self.waiting.push_back(asked);
                    Ok(())
                }
                () = guard.entry.close.cancelled() => Err(Failure::Closed),
                () = sleep_until(deadline) => {
                    self.timed_out();
                    Ok(())
                }
            };
            if !self.open.is_empty() {
                idle_since = Instant::now();
            }
            let idle = self.verifier.idle_time();
            match step {
                Ok(()) if self.open.is_empty() && Instant::now() >= idle_since + idle => {
                    return Failure::Closed;
                }
                Ok(()) => {}
                Err(failure) => return failure,
            }
        }
    }

    fn send_waiting(&mut self) {
        while self.open.len() < PER_STREAM
            && let Some(asked) = self.waiting.pop_front()
        {
            self.send(asked);
        }
    }

    /// After the end of the stream: questions that another one may answer. What was sent is asked
    /// again once if the peer had answered before; it may have closed a stream that was idle for it.
    fn left(&mut self, failure: &Failure) -> Vec<Asked> {
        let orderly = matches!(failure, Failure::Closed | Failure::Ended | Failure::Io(_));
        let may_repeat = orderly && self.answers > 0;
        let mut left: Vec<Asked> = self.waiting.drain(..).collect();
        for Sent { mut asked, .. } in std::mem::take(&mut self.open) {
            if may_repeat && !asked.again {
                asked.again = true;
                left.push(asked);
            } else {
                let local = &asked.question.local;
                self.not_answered(
                    local,
                    failure,
                    format!("the stream ended instead of an answer to our db:verify for {local}: {failure}"),
                );
                asked.answer(Outcome::Failed("remote-server-timeout"));
            }
        }
        left
    }

    /// The authoritative server left a question unanswered.
    fn not_answered(&self, local: &Domain, failure: &Failure, reason: String) {
        let stage = failure.stage(Stage::Dialback);
        let attempt = Attempt::outbound(stage, Some(self.opened.address), reason);
        self.verifier.shared.attempt_failed(self.remote, attempt.of(local));
    }

    fn send(&mut self, asked: Asked) {
        if asked.answer.is_closed() {
            // The asking stream is gone or waits no longer.
            return;
        }
        let Question {
            local, remote, id, key, ..
        } = &asked.question;
        let from = Side::Peer(&self.verifier.shared.memory.labels).spelling(local);
        let xml = verify_request(&from, &self.opened.written, id, key);
        let Ok(xml) = xml else {
            asked.answer(Outcome::Invalid);
            return;
        };
        let address = self.opened.address;
        let party = Party::Called(remote, Some(address.ip()));
        if self.verifier.shared.may_log("db:verify sent", party) {
            tracing::info!(
                role = Role::Receiving.as_str(), %local, %remote, stream_id = %id, %address,
                "db:verify sent"
            );
        }
        self.opened.wire.transport.queue(Bytes::from(xml));
        self.open.push(Sent {
            asked,
            at: Instant::now(),
        });
    }

    fn take_frames(&mut self) -> Result<(), Failure> {
        while let Some(element) = self.opened.wire.take_element()? {
            self.take_element(&element)?;
        }
        Ok(())
    }

    fn take_element(&mut self, element: &Element) -> Result<(), Failure> {
        let Some(received) = answers::take(&self.opened.wire, element, Kind::Verify, self.remote)? else {
            return Ok(());
        };
        let (local, answer) = (received.local, received.answer);
        let id = received.id.ok_or_else(|| answers::unasked(Kind::Verify))?;
        let place = self
            .open
            .iter()
            .position(|sent| sent.asked.question.local == local && sent.asked.question.id == id);
        let Some(place) = place else {
            return match self.late.iter().position(|(l, i)| *l == local && *i == id) {
                Some(place) => {
                    self.late.remove(place);
                    Ok(())
                }
                None => Err(answers::unasked(Kind::Verify)),
            };
        };
        let Sent { asked, at } = self.open.remove(place);
        let outcome = match answer {
            Answer::Valid => Outcome::Valid,
            Answer::Invalid => Outcome::Invalid,
            Answer::Error(_) | Answer::Unknown => Outcome::Failed("remote-server-not-found"),
        };
        self.answers += 1;
        let party = Party::Called(self.remote, Some(self.opened.address.ip()));
        if self.verifier.shared.may_log("db:verify answered", party) {
            tracing::info!(
                role = Role::Receiving.as_str(), %local, remote = %self.remote, stream_id = %id,
                answer = ?outcome, ms = u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX),
                "db:verify answered"
            );
        }
        asked.answer(outcome);
        Ok(())
    }

    fn timed_out(&mut self) {
        let now = Instant::now();
        let late: Vec<_> = self
            .open
            .extract_if(.., |sent| now >= sent.asked.question.until)
            .collect();
        for Sent { asked, .. } in late {
            let Question { local, id, .. } = &asked.question;
            if self.late.len() >= PER_STREAM {
                self.late.remove(0);
            }
            self.late.push((local.clone(), id.clone()));
            let late = Failure::Timeout("the answer to our db:verify");
            self.not_answered(local, &late, format!("{late} for {local}"));
            asked.answer(Outcome::Failed("remote-server-timeout"));
        }
    }
}
