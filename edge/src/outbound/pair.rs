//! The task of one pair of domains: it opens a stream while something waits and none carries the
//! pair, and uses it to its end. Each pair has its own back-off.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use xmpp_federation_core::Domain;

use super::connect::{FailureScope, OpenError, Opener, Purpose};
use super::route::{NEGATIVE, PAUSE, Route, Way};
use super::{Outbound, keep_alone, stream};
use crate::backoff::Backoff;
use crate::bounce::Cause;
use crate::observe::failures::Attempt;
use crate::observe::log_rate::Party;
use crate::words::Stage;

/// What became of an attempt.
enum AttemptEnd {
    /// The stream carried the pair, and ended.
    Used,
    /// Another task or stream serves the pair.
    Gone,
    /// The pair has no stream; `until`: there is none before.
    Failed(OpenError, Option<Instant>),
}

impl From<OpenError> for AttemptEnd {
    fn from(error: OpenError) -> Self {
        Self::Failed(error, None)
    }
}

/// Works while the pair has something to send or its stream is open.
/// `refused`: for this reason no stream carries it for a while.
pub(super) async fn run(route: Arc<Route>, outbound: Arc<Outbound>, local: Domain, refused: Option<OpenError>) {
    let mut pair = PairTask {
        route,
        outbound,
        local,
        backoff: Backoff::new(PAUSE.0, PAUSE.1),
        failed: refused.is_some(),
    };
    if let Some(error) = refused {
        pair.pause(&error, None).await;
    }
    while !pair.route.retire(&pair.outbound, &pair.local) {
        if pair.outbound.give_up.is_cancelled() {
            pair.report_older(Duration::ZERO, Cause::Stopping);
            continue;
        }
        let started = Instant::now();
        match pair.attempt().await {
            AttemptEnd::Gone => return,
            AttemptEnd::Used => pair.used(started).await,
            AttemptEnd::Failed(error, until) => {
                let (remote, local) = (&pair.route.remote, &pair.local);
                let registry = &pair.outbound.shared.registry;
                let party = Party::Called(remote, None);
                if pair.outbound.shared.may_log("no stream", party) {
                    tracing::warn!(%local, %remote, reason = error.message, "no stream to the remote domain");
                }
                registry.partner_failed(remote, error.local(local), error.message.clone());
                pair.pause(&error, until).await;
            }
        }
    }
}

struct PairTask {
    route: Arc<Route>,
    outbound: Arc<Outbound>,
    local: Domain,
    backoff: Backoff,
    /// The last attempt failed although the remote server was reached.
    failed: bool,
}

impl PairTask {
    fn report_older(&self, life: Duration, cause: Cause) {
        self.route.report_older(&self.outbound, life, &self.local, cause);
    }

    /// A peer that takes streams only to end them is not called again at once.
    async fn used(&mut self, started: Instant) {
        self.failed = false;
        let quick = started.elapsed() < PAUSE.0;
        if !quick {
            self.backoff.reset();
        } else if !self.route.is_empty(&self.local) {
            tokio::select! {
                () = sleep_until(started + PAUSE.0) => {}
                () = self.outbound.give_up.cancelled() => {}
            }
        }
    }

    /// Has the stanzas carried by whatever stream there is for them, and returns at its end.
    /// Stanzas that grow too old meanwhile are reported.
    async fn attempt(&mut self) -> AttemptEnd {
        let (outbound, route, local) = (&self.outbound, &self.route, &self.local);
        let live = outbound.shared.live();
        if let Err(denied) = live.policy.check(&route.remote) {
            let attempt = Attempt::outbound(Stage::Policy, None, denied.to_string());
            outbound.shared.attempt_failed(&route.remote, attempt);
            let error = OpenError {
                cause: Cause::Denied,
                temporary: false,
                message: format!("{} may not federate: {denied}", route.remote),
                says: FailureScope::OfAll,
            };
            return error.into();
        }
        if !live.hosted.contains(local) {
            // A reload took the domain away: no key of it would be valid.
            self.report_older(Duration::ZERO, Cause::ForeignSender);
            return AttemptEnd::Used;
        }
        let hold = live.config.limits.dialback_timeout.0;
        drop(live);
        let turn = async { Ok(route.turn(outbound, local, self.failed).await) };
        let mut opening = match self.ageing(hold, turn).await {
            Ok(Way::Guest) => return AttemptEnd::Gone,
            Ok(Way::Unreachable(until, error)) => return AttemptEnd::Failed(error, Some(until)),
            Ok(Way::Open(opening)) => opening,
            Err(error) => return error.into(),
        };
        // In boxes that go before the stream's long life begins.
        let resolving = Box::pin(Opener::resolve(&outbound.shared, &route.remote));
        let mut opener = match self.ageing(hold, resolving).await {
            Ok(opener) => opener.of(route.clone()),
            Err(error) => return self.not_connected(error),
        };
        loop {
            if route.is_empty(local) {
                return AttemptEnd::Used;
            }
            let negotiating = Box::pin(opener.open(local, Purpose::Stanzas));
            let ready = match self.ageing(hold, negotiating).await {
                Ok(ready) => ready,
                Err(error) if opener.connected() => {
                    self.failed = true;
                    if error.cause != Cause::Stopping {
                        keep_alone(&outbound.shared, &route.remote, Some(local), "refused");
                    }
                    return error.into();
                }
                Err(error) => return self.not_connected(error),
            };
            match stream::run(outbound, route, local, ready, &mut opening).await {
                stream::End::Used => return AttemptEnd::Used,
                stream::End::HandedOver => {
                    route.leave_table(outbound);
                    return AttemptEnd::Gone;
                }
                // Nothing was authenticated on it: the next address may do better.
                stream::End::Useless(reason) => {
                    self.failed = true;
                    if outbound
                        .shared
                        .may_log("useless stream", Party::Called(&route.remote, None))
                    {
                        tracing::info!(%local, remote = %route.remote, reason, "no pair was authenticated on the stream");
                    }
                    opener.note(Cause::Unreachable, reason);
                }
                stream::End::Refused(cause) => {
                    self.failed = true;
                    keep_alone(&outbound.shared, &route.remote, Some(local), "refused");
                    let error = OpenError {
                        cause,
                        temporary: true,
                        message: format!("{} did not accept our dialback key for {local}", route.remote),
                        says: FailureScope::OfPair,
                    };
                    return error.into();
                }
            }
        }
    }

    fn not_connected(&self, error: OpenError) -> AttemptEnd {
        if error.cause == Cause::Stopping {
            return error.into();
        }
        let until = self.route.not_connected(&error);
        AttemptEnd::Failed(error, Some(until))
    }

    /// Waits for something while reporting stanzas that grow too old.
    async fn ageing<T>(
        &self,
        life: Duration,
        what: impl Future<Output = Result<T, OpenError>>,
    ) -> Result<T, OpenError> {
        tokio::pin!(what);
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                done = &mut what => return done,
                _ = tick.tick() => self.report_older(life, Cause::Unreachable),
                () = self.outbound.give_up.cancelled() => return Err(OpenError {
                    cause: Cause::Stopping,
                    temporary: true,
                    message: "this gateway is stopping".to_owned(),
                    says: FailureScope::OfPair,
                }),
            }
        }
    }

    /// Holds (or, if the failure is final, answers) what waits until the next attempt is due.
    async fn pause(&mut self, error: &OpenError, until: Option<Instant>) {
        let (route, outbound) = (&self.route, &self.outbound);
        let life = outbound.shared.live().config.limits.dialback_timeout.0;
        let hold = if error.temporary { life } else { Duration::ZERO };
        let until = until.unwrap_or_else(|| {
            let wait = if error.temporary { self.backoff.wait() } else { NEGATIVE };
            Instant::now() + wait
        });
        let wake = route.wake(&self.local);
        // What voided it before the failure says nothing about the next attempt.
        route.retries(&self.local);
        loop {
            route.report_older(outbound, hold, &self.local, error.cause);
            let now = Instant::now();
            if now >= until {
                return;
            }
            tokio::select! {
                () = sleep_until(until.min(now + Duration::from_secs(1))) => {}
                () = wake.notified() => {}
                () = outbound.give_up.cancelled() => return,
                () = outbound.close.cancelled() => return,
            }
            if route.retries(&self.local) {
                self.backoff.reset();
                return;
            }
        }
    }
}
