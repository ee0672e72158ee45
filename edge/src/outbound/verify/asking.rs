//! One stream on which authoritative servers are asked.

use super::{Outcome, PER_STREAM, PendingQuestion, Question, Verifier};
use crate::dialback::elements::{Answer, Kind, verify_request};
use crate::jid::Side;
use crate::observe::failures::Attempt;
use crate::observe::log_rate::Party;
use crate::outbound::answers;
use crate::outbound::connect::OpenStream;
use crate::stream::established::{Driver, TaskFuture};
use crate::stream::{Failure, Wire};
use crate::words::{Role, Stage};
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::time::Instant;
use xmpp_federation_core::{Domain, StreamId};
use xmpp_federation_xml::Element;

/// A question that was sent.
pub(super) struct SentQuestion {
    pub(super) asked: PendingQuestion,
    pub(super) at: Instant,
}

pub(super) struct QuestionStream<'a> {
    pub(super) verifier: &'a Arc<Verifier>,
    pub(super) remote: &'a Domain,
    pub(super) opened: OpenStream,
    /// Not sent yet.
    pub(super) waiting: VecDeque<PendingQuestion>,
    pub(super) open: Vec<SentQuestion>,
    /// Expired or withdrawn questions, whose answers may still come and are dropped.
    pub(super) late: Vec<(Domain, StreamId)>,
    /// Questions that were answered.
    pub(super) answers: usize,
    pub(super) questions: &'a mut mpsc::UnboundedReceiver<PendingQuestion>,
    /// When the last question was open.
    pub(super) idle_since: Instant,
}

impl Driver for QuestionStream<'_> {
    type Taking = ();
    /// A question; `None`: the stream is closed by an administrator.
    type Event = Option<PendingQuestion>;

    fn wire(&mut self) -> &mut Wire {
        &mut self.opened.wire
    }

    async fn before_wait(&mut self) -> Result<Instant, Failure> {
        self.send_waiting();
        let until = self.open.iter().map(|sent| sent.asked.question.until);
        if let Some(first) = until.min() {
            self.idle_since = Instant::now();
            return Ok(first);
        }
        let end = self.idle_since + self.verifier.idle_time();
        if Instant::now() >= end {
            Err(Failure::Closed)
        } else {
            Ok(end)
        }
    }

    fn wait(&mut self) -> (impl TaskFuture<Result<bool, Failure>>, impl TaskFuture<Self::Event>) {
        let Self {
            opened,
            questions,
            open,
            ..
        } = self;
        let OpenStream { wire, guard, .. } = opened;
        let event = async {
            tokio::select! {
                Some(asked) = questions.recv(), if open.len() < PER_STREAM => Some(asked),
                () = guard.entry.close.cancelled() => None,
            }
        };
        (wire.turn(true), event)
    }

    fn received(&mut self) -> Result<(), Failure> {
        self.take_all(&mut ())
    }

    async fn happened(&mut self, event: Self::Event) -> Result<(), Failure> {
        self.waiting.push_back(event.ok_or(Failure::Closed)?);
        Ok(())
    }

    fn timed_out(&mut self) -> Result<(), Failure> {
        self.give_up_late();
        Ok(())
    }

    fn take_element(&mut self, (): &mut (), element: &Element) -> Result<(), Failure> {
        let Some(received) = answers::take(element, Kind::Verify, self.remote)? else {
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
        let SentQuestion { asked, at } = self.open.remove(place);
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
}

impl QuestionStream<'_> {
    pub(super) fn send_waiting(&mut self) {
        while self.open.len() < PER_STREAM
            && let Some(asked) = self.waiting.pop_front()
        {
            self.send(asked);
        }
    }

    /// After the end of the stream: questions that another one may answer. What was sent is asked
    /// again once if the peer had answered before; it may have closed a stream that was idle for it.
    pub(super) fn left(&mut self, failure: &Failure) -> Vec<PendingQuestion> {
        let orderly = matches!(failure, Failure::Closed | Failure::Ended | Failure::Io(_));
        let may_repeat = orderly && self.answers > 0;
        let mut left: Vec<PendingQuestion> = self.waiting.drain(..).collect();
        for SentQuestion { mut asked, .. } in std::mem::take(&mut self.open) {
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

    fn send(&mut self, asked: PendingQuestion) {
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
        self.open.push(SentQuestion {
            asked,
            at: Instant::now(),
        });
    }

    /// Questions whose time is over are answered, and their answers are dropped if they still come.
    fn give_up_late(&mut self) {
        let now = Instant::now();
        let late: Vec<_> = self
            .open
            .extract_if(.., |sent| now >= sent.asked.question.until)
            .collect();
        for SentQuestion { asked, .. } in late {
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
