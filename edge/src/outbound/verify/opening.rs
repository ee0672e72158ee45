//! A stream for questions that is being opened, and who waits for it.

use super::{Outcome, PendingQuestion, SHARED_OPENING, Verifier};
use crate::bounce::Cause;
use crate::outbound::connect::{FailureScope, OpenError, OpenStream, Opener, Purpose};
use crate::partners::Standing;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::Poll;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use xmpp_federation_core::Domain;

pub(super) enum NotOpened {
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
pub(super) struct PendingStream<'a> {
    pub(super) verifier: &'a Arc<Verifier>,
    pub(super) remote: Domain,
    /// The domain of ours in whose name it is opened.
    pub(super) local: Domain,
    /// Questions of that domain.
    pub(super) asked: Vec<PendingQuestion>,
    /// Questions of other domains of ours.
    pub(super) others: Vec<PendingQuestion>,
    /// Whether those of other domains still wait for this stream.
    pub(super) shared: bool,
}

impl<'a> PendingStream<'a> {
    pub(super) fn new(verifier: &'a Arc<Verifier>, first: PendingQuestion) -> Self {
        Self {
            verifier,
            remote: first.question.remote.clone(),
            local: first.question.local.clone(),
            asked: vec![first],
            others: Vec::new(),
            shared: true,
        }
    }

    pub(super) async fn run(
        &mut self,
        questions: &mut mpsc::UnboundedReceiver<PendingQuestion>,
    ) -> Result<OpenStream, NotOpened> {
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

    pub(super) fn take(&mut self, asked: PendingQuestion) {
        if asked.question.local == self.local {
            self.asked.push(asked);
        } else if self.shared {
            self.others.push(asked);
        } else {
            self.verifier.hand_over(asked, true);
        }
    }

    /// Says nothing about anybody if those who asked are gone.
    pub(super) fn failed(&mut self, error: OpenError) -> NotOpened {
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

    pub(super) fn too_late(&self) -> OpenError {
        OpenError {
            cause: Cause::Unreachable,
            temporary: true,
            message: format!("{} could not be reached in time", self.remote),
            says: FailureScope::OfPair,
        }
    }
}

/// Drops the questions of those who are gone, and waits until nobody is left.
pub(super) async fn all_gone(asked: &mut Vec<PendingQuestion>) {
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
