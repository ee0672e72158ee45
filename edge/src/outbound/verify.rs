//! Asking authoritative servers (step 2 of dialback) for the receiving role.
//!
//! Each remote domain has at most one such stream at a time, which all its questions share; it is
//! used for nothing else. Questions are capped in total and per domain, and a domain that cannot
//! be asked is not tried again for a while: each try costs DNS, TCP and TLS.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout_at};
use xmpp_federation_core::{Domain, StreamId};

use super::connect::{OpenError, Opened, Opener, Purpose};
use crate::bounce::Cause;
use crate::dialback::elements::{Answer, Kind, Received, verify_request};
use crate::edge::Edge;
use crate::jid::{Labels, Side};
use crate::metrics::Role;
use crate::stream::Failure;
use crate::stream::transport::Turn;
use crate::xml::{Element, Frame, StreamErrorCondition, ns};

/// Questions to one domain under way at once.
const PER_DOMAIN: usize = 64;
/// How long a domain that could not be asked is not tried again.
const NEGATIVE: Duration = Duration::from_secs(10);
/// How long a stream without questions stays open.
const IDLE: Duration = Duration::from_secs(10);
/// Streams that may stay open like that; with more, each closes after its last answer.
const MAX_IDLE: usize = 256;
/// Domains remembered as not reachable.
const MAX_NEGATIVE: usize = 4096;

/// What an authoritative server says about a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The key is its own.
    Valid,
    /// It is not.
    Invalid,
    /// It could not be asked: the condition of the dialback error (XEP-0220 section 2.4).
    Failed(&'static str),
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
    /// Whoever asks waits no longer; connecting counts too.
    pub until: Instant,
}

struct Asked {
    question: Question,
    answer: oneshot::Sender<Outcome>,
    _permit: OwnedSemaphorePermit,
}

/// All questions under way.
#[derive(Debug)]
pub struct Verifier {
    targets: Mutex<HashMap<Domain, Target>>,
    permits: Arc<Semaphore>,
    /// Streams open or being opened.
    streams: AtomicUsize,
}

enum Target {
    Asking(mpsc::Sender<Asked>),
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
    /// At most `total` questions at once.
    pub fn new(total: usize) -> Self {
        Self {
            targets: Mutex::default(),
            permits: Arc::new(Semaphore::new(total.min(Semaphore::MAX_PERMITS))),
            streams: AtomicUsize::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Domain, Target>> {
        self.targets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks; the lists are applied before, by the caller.
    pub async fn ask(&self, edge: &Arc<Edge>, question: Question) -> Outcome {
        let Ok(permit) = self.permits.clone().try_acquire_owned() else {
            return Outcome::Failed("resource-constraint");
        };
        let (answer, answered) = oneshot::channel();
        let remote = question.remote.clone();
        let asked = Asked {
            question,
            answer,
            _permit: permit,
        };
        if let Err(outcome) = self.hand_over(edge, &remote, asked) {
            return outcome;
        }
        answered
            .await
            .unwrap_or(Outcome::Failed("remote-server-timeout"))
    }

    fn hand_over(&self, edge: &Arc<Edge>, remote: &Domain, asked: Asked) -> Result<(), Outcome> {
        let mut targets = self.lock();
        let asked = match targets.get(remote) {
            Some(Target::Asking(sender)) => match sender.try_send(asked) {
                Ok(()) => return Ok(()),
                Err(mpsc::error::TrySendError::Full(_)) => {
                    return Err(Outcome::Failed("resource-constraint"));
                }
                // That task is just ending.
                Err(mpsc::error::TrySendError::Closed(asked)) => asked,
            },
            Some(Target::NotReachable(until, condition)) if Instant::now() < *until => {
                return Err(Outcome::Failed(condition));
            }
            Some(Target::NotReachable(..)) | None => asked,
        };
        let (sender, receiver) = mpsc::channel(PER_DOMAIN);
        // The channel is new and empty.
        let _ = sender.try_send(asked);
        targets.insert(remote.clone(), Target::Asking(sender));
        self.streams.fetch_add(1, Ordering::Relaxed);
        let (edge, remote) = (edge.clone(), remote.clone());
        tokio::spawn(async move {
            run(&edge, &remote, receiver).await;
            edge.verifier.streams.fetch_sub(1, Ordering::Relaxed);
        });
        Ok(())
    }

    fn idle_time(&self) -> Duration {
        if self.streams.load(Ordering::Relaxed) > MAX_IDLE {
            Duration::ZERO
        } else {
            IDLE
        }
    }

    fn not_reachable(&self, remote: &Domain, condition: &'static str) {
        let mut targets = self.lock();
        let now = Instant::now();
        if targets.len() >= MAX_NEGATIVE {
            targets.retain(
                |_, target| !matches!(target, Target::NotReachable(until, _) if now >= *until),
            );
        }
        if targets.len() >= 2 * MAX_NEGATIVE {
            targets.remove(remote);
        } else {
            targets.insert(
                remote.clone(),
                Target::NotReachable(now + NEGATIVE, condition),
            );
        }
    }

    /// Forgets which domains could not be asked.
    pub fn retry(&self, remote: Option<&Domain>) {
        self.lock().retain(|domain, target| {
            matches!(target, Target::Asking(_)) || remote.is_some_and(|remote| remote != domain)
        });
    }
}

/// The task of one remote domain: opens a stream for the first question, closes it after the last.
async fn run(edge: &Arc<Edge>, remote: &Domain, mut questions: mpsc::Receiver<Asked>) {
    let Some(first) = questions.recv().await else {
        return;
    };
    match open(edge, &first.question).await {
        Ok(opened) => {
            edge.registry.partner_reached(remote);
            opened.guard.update(|detail| detail.verifies = true);
            if edge.may_log("stream for db:verify", opened.address.ip()) {
                tracing::info!(
                    role = Role::Receiving.as_str(), %remote, address = %opened.address,
                    "stream used for dialback only"
                );
            }
            let mut asking = Asking {
                edge,
                remote,
                opened,
                open: Vec::new(),
                late: Vec::new(),
            };
            let failure = asking.run(first, &mut questions).await;
            let Asking { opened, open, .. } = asking;
            // No question may be lost between the last look and the end.
            questions.close();
            while let Ok(asked) = questions.try_recv() {
                let _ = asked.answer.send(Outcome::Failed("remote-server-timeout"));
            }
            for question in open {
                let _ = question
                    .asked
                    .answer
                    .send(Outcome::Failed("remote-server-timeout"));
            }
            let Opened { wire, guard, .. } = opened;
            edge.verifier.forget(remote);
            wire.hang_up(&failure, String::new).await;
            drop(guard);
        }
        Err(error) => {
            tracing::warn!(role = Role::Receiving.as_str(), %remote, reason = error.message, "the authoritative server cannot be asked");
            edge.registry.partner_not_asked(remote, error.message);
            let condition = match error.cause {
                Cause::NotFound => "remote-server-not-found",
                Cause::Insecure => "policy-violation",
                _ => "remote-connection-failed",
            };
            edge.verifier.not_reachable(remote, condition);
            let _ = first.answer.send(Outcome::Failed(condition));
            questions.close();
            while let Ok(asked) = questions.try_recv() {
                let _ = asked.answer.send(Outcome::Failed(condition));
            }
        }
    }
}

impl Verifier {
    /// The stream of this domain ends: the next question opens another.
    fn forget(&self, remote: &Domain) {
        let mut targets = self.lock();
        if let Some(Target::Asking(sender)) = targets.get(remote)
            && sender.is_closed()
        {
            targets.remove(remote);
        }
    }
}

async fn open(edge: &Arc<Edge>, question: &Question) -> Result<Opened, OpenError> {
    let opening = async {
        let mut opener = Opener::resolve(edge, &question.remote).await?;
        let purpose = Purpose::Verification(question.labels);
        opener.open(&question.local, purpose).await
    };
    timeout_at(question.until, opening)
        .await
        .unwrap_or_else(|_| {
            Err(OpenError {
                cause: Cause::Unreachable,
                temporary: true,
                message: format!("{} could not be reached in time", question.remote),
            })
        })
}

/// A question that was sent.
struct Sent {
    asked: Asked,
    at: Instant,
}

struct Asking<'a> {
    edge: &'a Arc<Edge>,
    remote: &'a Domain,
    opened: Opened,
    open: Vec<Sent>,
    /// Expired or withdrawn questions, whose answers may still come and are dropped.
    late: Vec<(Domain, StreamId)>,
}

impl Asking<'_> {
    async fn run(&mut self, first: Asked, questions: &mut mpsc::Receiver<Asked>) -> Failure {
        self.send(first);
        if let Err(failure) = self.take_frames() {
            return failure;
        }
        let mut idle_since = Instant::now();
        loop {
            let deadline = match self.open.first() {
                Some(oldest) => oldest.asked.question.until,
                None => idle_since + self.edge.verifier.idle_time(),
            };
            let Opened { wire, guard, .. } = &mut self.opened;
            let step = tokio::select! {
                turn = wire.transport.turn(true, wire.framer.buffer()) => match turn {
                    Ok(Turn::Read) => self.take_frames(),
                    Ok(Turn::Flushed) => Ok(()),
                    Ok(Turn::End) => Err(Failure::Ended),
                    Err(error) => Err(error.into()),
                },
                Some(asked) = questions.recv(), if self.open.len() < PER_DOMAIN => {
                    self.send(asked);
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
            let idle = self.edge.verifier.idle_time();
            match step {
                Ok(()) if self.open.is_empty() && Instant::now() >= idle_since + idle => {
                    return Failure::Closed;
                }
                Ok(()) => {}
                Err(failure) => return failure,
            }
        }
    }

    fn send(&mut self, asked: Asked) {
        if asked.answer.is_closed() {
            // Whoever asked is gone or waits no longer.
            return;
        }
        let Question {
            local,
            remote,
            id,
            key,
            ..
        } = &asked.question;
        let from = Side::Peer(&self.edge.memory).spelling(local);
        let xml = verify_request(&from, &self.opened.written, id, key);
        let Ok(xml) = xml else {
            let _ = asked.answer.send(Outcome::Invalid);
            return;
        };
        let address = self.opened.address;
        if self.edge.may_log("db:verify sent", address.ip()) {
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
        loop {
            match self.opened.wire.take_frame()? {
                None => return Ok(()),
                Some(Frame::End) => return Err(Failure::Closed),
                Some(Frame::Header(_)) => {}
                Some(Frame::Element(element)) => self.take_element(&element)?,
            }
        }
    }

    fn take_element(&mut self, element: &Element) -> Result<(), Failure> {
        if element.is(ns::STREAMS, "error") {
            return Err(self.opened.wire.peer_error(element));
        }
        if element.is(ns::STREAMS, "features") {
            return Ok(());
        }
        if Received::kind_of(element) != Some(Kind::Verify) {
            return Err(Failure::fault(
                StreamErrorCondition::UnsupportedStanzaType,
                "only answers to db:verify are expected on this stream",
            ));
        }
        let received = Received::parse(element, Kind::Verify).map_err(|error| {
            Failure::fault(StreamErrorCondition::ImproperAddressing, error.to_string())
        })?;
        let unasked = || {
            Failure::fault(
                StreamErrorCondition::PolicyViolation,
                "an answer to a db:verify that was not sent on this stream",
            )
        };
        let (Some(answer), Some(id)) = (received.answer, received.id) else {
            return Err(unasked());
        };
        if received.from_domain != *self.remote {
            return Err(unasked());
        }
        let local = received.to_domain;
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
                None => Err(unasked()),
            };
        };
        let Sent { asked, at } = self.open.remove(place);
        let outcome = match answer {
            Answer::Valid => Outcome::Valid,
            Answer::Invalid => Outcome::Invalid,
            Answer::Error(_) | Answer::Unknown => Outcome::Failed("remote-server-not-found"),
        };
        let address = self.opened.address.ip();
        if self.edge.may_log("db:verify answered", address) {
            tracing::info!(
                role = Role::Receiving.as_str(), %local, remote = %self.remote, stream_id = %id,
                answer = ?outcome, ms = u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX),
                "db:verify answered"
            );
        }
        // The stream that asked may be gone.
        let _ = asked.answer.send(outcome);
        Ok(())
    }

    fn timed_out(&mut self) {
        let now = Instant::now();
        while let Some(oldest) = self.open.first()
            && now >= oldest.asked.question.until
        {
            let Sent { asked, .. } = self.open.remove(0);
            let Question { local, id, .. } = asked.question;
            let _ = asked.answer.send(Outcome::Failed("remote-server-timeout"));
            if self.late.len() >= PER_DOMAIN {
                self.late.remove(0);
            }
            self.late.push((local, id));
        }
    }
}
