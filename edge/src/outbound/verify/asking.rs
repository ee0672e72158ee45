//! One stream on which authoritative servers are asked.

use super::{Outcome, PER_STREAM, PendingQuestion, Question, Verifier};
use crate::dialback::elements::{Answer, Kind, verify_request};
use crate::jid::Side;
use crate::observe::failures::Attempt;
use crate::observe::log_rate::Party;
use crate::outbound::answers;
use crate::outbound::connect::OpenStream;
use crate::stream::Failure;
use crate::words::{Role, Stage};
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
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
}

impl QuestionStream<'_> {
    pub(super) async fn run(&mut self, questions: &mut mpsc::UnboundedReceiver<PendingQuestion>) -> Failure {
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
            let OpenStream { wire, guard, .. } = &mut self.opened;
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
    pub(super) fn not_answered(&self, local: &Domain, failure: &Failure, reason: String) {
        let stage = failure.stage(Stage::Dialback);
        let attempt = Attempt::outbound(stage, Some(self.opened.address), reason);
        self.verifier.shared.attempt_failed(self.remote, attempt.of(local));
    }

    pub(super) fn send(&mut self, asked: PendingQuestion) {
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

    pub(super) fn take_frames(&mut self) -> Result<(), Failure> {
        while let Some(element) = self.opened.wire.take_element()? {
            self.take_element(&element)?;
        }
        Ok(())
    }

    pub(super) fn take_element(&mut self, element: &Element) -> Result<(), Failure> {
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

    pub(super) fn timed_out(&mut self) {
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
