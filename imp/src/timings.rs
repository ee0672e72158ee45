//! How long things are waited for, in one place. In production these are always the defaults; a
//! test against a quick simulator shortens them all in proportion, so that the same waits are
//! proven in less time.

use std::time::Duration;

/// For a whole call, the last byte of the answer included, however slowly they come: IM&P takes a
/// few seconds for a restart command on a busy node, and a reconcile must not hang on one cluster.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(20);

/// Waits and bounds of the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timings {
    /// From a restart command to the first look: polls must not be quicker than 5 s, and an up
    /// time of 0 says nothing, so a restart of 5 s is seen at the first look.
    pub first_look: Duration,
    /// Between looks at a router that is restarting.
    pub look_every: Duration,
    /// The same after the first minute, and at routers that a human restarts.
    pub look_slowly: Duration,
    /// Between looks at the first node's link.
    pub canary_every: Duration,
    /// A router's state counts for this long when another one is to be restarted.
    pub fresh: Duration,
    /// From the last start of a router or an XCP service of a node to the restart of another node's
    /// router. Control Center may show a service Started just before a restarted router takes it
    /// down, edges and clients come back one after the other, and what fails at once shows.
    pub settle: Duration,
    /// An XCP service that is stopped when its router has been up for this long will not start without help.
    pub services_deadline: Duration,
    /// A restart that is not over after this hangs.
    pub restart_deadline: Duration,
    /// How long an unanswered command is watched before a human is asked.
    pub ambiguous_deadline: Duration,
    /// A command whose answer did not come is taken to be on its way until this long after its
    /// intent was written.
    ///
    /// Its parts: a command is not sent later than [`Timings::send_within`] after its intent; the
    /// call ends after 20 s; a kernel goes on sending what a closed socket left for up to about
    /// two minutes; the rest is for the node, which may take a request from a queue late.
    pub latest_arrival: Duration,
    /// From a command's intent to its sending at most: an operator that was held up for longer
    /// (a paused machine, a node that swaps) does not send it any more.
    pub send_within: Duration,
    /// A row of ours that is missing is looked for once more after this.
    pub confirm_missing: Duration,
    /// The time in which IM&P counts Control Center calls.
    pub budget_window: Duration,
    /// After "busy", a restart is not tried again sooner than this.
    pub busy: Duration,
    /// For a whole call.
    pub call: Duration,
    /// What back-offs count in: the first ones are 5, 10 or 60 of it, the longest 300.
    pub back_off_unit: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            first_look: Duration::from_millis(6_500),
            look_every: Duration::from_secs(6),
            look_slowly: Duration::from_secs(15),
            canary_every: Duration::from_secs(3),
            fresh: Duration::from_secs(15),
            settle: Duration::from_secs(8),
            services_deadline: Duration::from_mins(5),
            restart_deadline: Duration::from_mins(15),
            ambiguous_deadline: Duration::from_mins(5),
            latest_arrival: Duration::from_mins(10),
            send_within: Duration::from_secs(10),
            confirm_missing: Duration::from_mins(1),
            budget_window: Duration::from_mins(1),
            busy: Duration::from_secs(30),
            call: crate::timings::CALL_TIMEOUT,
            back_off_unit: Duration::from_secs(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_sent_and_answered_long_before_it_can_have_arrived_at_the_latest() {
        let timings = Timings::default();
        let call = crate::timings::CALL_TIMEOUT;
        // What is left is the network's and the node's.
        assert!(timings.send_within + call + Duration::from_mins(5) <= timings.latest_arrival);
    }
}
