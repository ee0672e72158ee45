//! What went wrong with remote domains: the last attempts of each, by stage, for `ctl failures`.
//!
//! Domains that an administrator wrote down have a place of their own. All others share
//! [`MAX_STRANGERS`] places, and those that only came in, or were only claimed by somebody, give
//! way first: a stranger fills no memory and pushes nobody out. A stranger takes at most about 30 kB
//! ([`KEPT`] attempts each way and as many pairs, with reasons of [`MAX_REASON`] bytes), all strangers 8 MB.
//!
//! What failed before a connection stood concerns the remote domain. What failed later concerns the pair:
//! a partner may refuse one hosted domain and take the others.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;

use jiff::Timestamp;
use serde::Serialize;
use xmpp_federation_core::Domain;
use xmpp_federation_core::edge_status::PartnerFailure;

use crate::observe::registry::WaitingStanzas;
use crate::words::{Direction, Stage};

/// Attempts remembered of one domain and direction.
pub const KEPT: usize = 20;
/// Domains remembered that nobody configured.
pub const MAX_STRANGERS: usize = 256;
/// Longest reason that is kept, bytes.
pub const MAX_REASON: usize = 400;

/// An attempt that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Attempt {
    /// Who began.
    pub direction: Direction,
    /// Where it failed.
    pub stage: Stage,
    /// The hosted domain that it was about; absent: whichever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local: Option<Domain>,
    /// The peer's address, where there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<SocketAddr>,
    /// Why, as a sentence.
    pub reason: String,
}

impl Attempt {
    /// We tried to reach the domain.
    pub fn outbound(stage: Stage, address: Option<SocketAddr>, reason: impl Into<String>) -> Self {
        Self {
            direction: Direction::Outbound,
            stage,
            local: None,
            address,
            reason: reason.into(),
        }
    }

    /// Somebody came in the name of the domain, and was refused or left. Proves nothing about the domain.
    pub fn inbound(stage: Stage, address: SocketAddr, reason: impl Into<String>) -> Self {
        Self {
            direction: Direction::Inbound,
            stage,
            local: None,
            address: Some(address),
            reason: reason.into(),
        }
    }

    /// It was about this hosted domain.
    #[must_use]
    pub fn of(mut self, local: &Domain) -> Self {
        self.local = Some(local.clone());
        self
    }
}

/// What is remembered of one domain.
#[derive(Debug, Default)]
struct History {
    /// It cannot be reached at all.
    failing: Option<FailingSince>,
    /// Hosted domains for which the last attempt failed although the remote server was reached.
    pairs: BTreeMap<Domain, FailingSince>,
    worked: Option<Timestamp>,
    outbound: VecDeque<AttemptInfo>,
    inbound: VecDeque<AttemptInfo>,
    /// Stanzas of ours have waited for it.
    wanted: bool,
    /// Grows with every use, over all domains.
    used: u64,
}

/// All histories.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    partners: HashMap<Domain, History>,
    strangers: HashMap<Domain, History>,
    uses: u64,
}

/// What `ctl failures` shows of one domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DomainFailures {
    /// The remote domain.
    pub domain: Domain,
    /// Whether an administrator wrote it down.
    pub configured: bool,
    /// Whether our last attempt to reach it failed, for a hosted domain at least.
    pub failing: bool,
    /// Time of the first failure since it last worked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<Timestamp>,
    /// The hosted domains for which it fails; empty: all, if it does.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failing_pairs: Vec<PairFailure>,
    /// Time when an attempt of ours last succeeded, if one failed before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_success: Option<Timestamp>,
    /// What waits for the domain.
    #[serde(flatten)]
    pub waiting: WaitingStanzas,
    /// Newest first; at most [`KEPT`] of each direction.
    pub attempts: Vec<AttemptInfo>,
}

/// A hosted domain for which attempts fail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PairFailure {
    /// The hosted domain.
    pub local: Domain,
    /// Since when, and why.
    #[serde(flatten)]
    pub failing: FailingSince,
}

/// Since when attempts fail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FailingSince {
    /// Time of the first failure since it last worked.
    pub since: Timestamp,
    /// Why, as a sentence.
    pub reason: String,
}

/// One attempt, or several equal ones in a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AttemptInfo {
    /// Time of the last one.
    pub time: Timestamp,
    /// Time of the first one.
    pub first: Timestamp,
    /// How many.
    pub count: u32,
    /// The last one.
    #[serde(flatten)]
    pub attempt: Attempt,
}

impl Failures {
    /// Records an attempt; `configured`: whether an administrator wrote the domain down.
    pub(crate) fn record(&mut self, remote: &Domain, configured: bool, mut attempt: Attempt) {
        let history = self.place(remote, configured);
        let now = Timestamp::now();
        attempt.reason = cut(attempt.reason);
        let list = match attempt.direction {
            Direction::Inbound => &mut history.inbound,
            Direction::Outbound => &mut history.outbound,
        };
        let what = |one: &Attempt| (one.stage, one.address.map(|address| address.ip()));
        if let Some(newest) = list.back_mut()
            && what(&newest.attempt) == what(&attempt)
            && newest.attempt.local == attempt.local
            && newest.attempt.reason == attempt.reason
        {
            newest.time = now;
            newest.attempt = attempt;
            newest.count = newest.count.saturating_add(1);
            return;
        }
        if list.len() >= KEPT {
            list.pop_front();
        }
        list.push_back(AttemptInfo {
            time: now,
            first: now,
            count: 1,
            attempt,
        });
    }

    /// All ways to a domain failed; `local`: for this hosted domain, although its server was reached.
    /// `wanted`: stanzas of ours waited for it.
    pub(crate) fn failed(
        &mut self,
        remote: &Domain,
        local: Option<&Domain>,
        configured: bool,
        wanted: bool,
        reason: String,
    ) {
        let history = self.place(remote, configured);
        history.wanted |= wanted;
        let reason = cut(reason);
        let Some(local) = local else {
            let since = history.failing.as_ref().map(|failing| failing.since);
            let since = since.unwrap_or_else(Timestamp::now);
            history.failing = Some(FailingSince { since, reason });
            return;
        };
        // The domain was reached; it has failed for this pair all the same.
        let before = history.failing.take();
        let known = history.pairs.get(local).or(before.as_ref());
        let since = known.map_or_else(Timestamp::now, |failing| failing.since);
        if !configured && history.pairs.len() >= KEPT && !history.pairs.contains_key(local) {
            let oldest = history.pairs.iter().min_by_key(|(_, failing)| failing.since);
            if let Some(oldest) = oldest.map(|(local, _)| local.clone()) {
                history.pairs.remove(&oldest);
            }
        }
        history.pairs.insert(local.clone(), FailingSince { since, reason });
    }

    /// The domain's history, where it belongs by the configuration in force.
    fn place(&mut self, remote: &Domain, configured: bool) -> &mut History {
        self.uses += 1;
        let used = self.uses;
        let history = self.find(remote, configured);
        history.used = used;
        history
    }

    fn find(&mut self, remote: &Domain, configured: bool) -> &mut History {
        if configured {
            let known = self.strangers.remove(remote);
            let partners = &mut self.partners;
            return partners
                .entry(remote.clone())
                .or_insert_with(|| known.unwrap_or_default());
        }
        let known = self.partners.remove(remote);
        if !self.strangers.contains_key(remote) && self.strangers.len() >= MAX_STRANGERS {
            let oldest = self
                .strangers
                .iter()
                .min_by_key(|(_, history)| (history.wanted, history.used));
            if let Some(oldest) = oldest.map(|(domain, _)| domain.clone()) {
                self.strangers.remove(&oldest);
            }
        }
        self.strangers
            .entry(remote.clone())
            .or_insert_with(|| known.unwrap_or_default())
    }

    /// Domains that are not configured any more lose their own place, and pairs of domains that are not
    /// hosted any more do not fail.
    pub(crate) fn retain(&mut self, configured: impl Fn(&Domain) -> bool, hosted: impl Fn(&Domain) -> bool) {
        self.partners.retain(|domain, _| configured(domain));
        for history in self.partners.values_mut().chain(self.strangers.values_mut()) {
            history.pairs.retain(|local, _| hosted(local));
        }
    }

    fn get_mut(&mut self, remote: &Domain) -> Option<&mut History> {
        match self.partners.get_mut(remote) {
            Some(history) => Some(history),
            None => self.strangers.get_mut(remote),
        }
    }

    /// An attempt of ours succeeded to its end, for this pair. Says nothing about others, except that the
    /// domain can be reached.
    pub(crate) fn works(&mut self, remote: &Domain, local: &Domain) {
        if let Some(history) = self.get_mut(remote) {
            history.failing = None;
            history.pairs.remove(local);
            history.worked = Some(Timestamp::now());
        }
    }

    /// A stream of this pair could be opened: whatever failed before that works again.
    pub(crate) fn reached(&mut self, remote: &Domain, local: &Domain) {
        let Some(history) = self.get_mut(remote) else {
            return;
        };
        let mut outbound = history.outbound.iter().rev();
        let last = outbound.find(|last| last.attempt.local.as_ref() == Some(local));
        let opens = last.is_some_and(|last| last.attempt.stage <= Stage::Features);
        let pair = opens.then(|| history.pairs.remove(local)).flatten();
        if history.failing.take().or(pair).is_some() {
            history.worked = Some(Timestamp::now());
        }
    }

    /// For how many configured domains our last attempt failed, be it for one hosted domain only. Others
    /// do not count: anybody can name domains that cannot be reached.
    pub(crate) fn failing_count(&self) -> usize {
        let partners = self.partners.values();
        partners.filter(|history| history.fails()).count()
    }

    /// All domains and pairs for which our last attempt failed, sorted.
    pub(crate) fn failing(&self) -> Vec<PartnerFailure> {
        let all = self.partners.iter().chain(&self.strangers);
        let told = |domain: &Domain, local: Option<&Domain>, failing: &FailingSince| PartnerFailure {
            domain: domain.to_string(),
            local: local.map(Domain::to_string),
            reason: failing.reason.clone(),
            since: failing.since.to_string(),
        };
        let mut failing: Vec<_> = all
            .flat_map(|(domain, history)| {
                let whole = history.failing.iter().map(|failing| told(domain, None, failing));
                let pairs = history.failing_pairs();
                whole.chain(pairs.map(|(local, failing)| told(domain, Some(local), failing)))
            })
            .collect();
        failing.sort_by(|a, b| (&a.domain, &a.local).cmp(&(&b.domain, &b.local)));
        failing
    }

    /// Histories of all domains, or of one; configured ones first.
    pub(crate) fn list(&self, only: Option<&Domain>) -> Vec<DomainFailures> {
        let partners = self.partners.iter().map(|(d, h)| (d, h, true));
        let strangers = self.strangers.iter().map(|(d, h)| (d, h, false));
        let mut list: Vec<_> = partners
            .chain(strangers)
            .filter(|(domain, ..)| only.is_none_or(|only| only == *domain))
            .map(|(domain, history, configured)| history.show(domain, configured))
            .collect();
        list.sort_by(|a, b| (!a.configured, &a.domain).cmp(&(!b.configured, &b.domain)));
        list
    }
}

impl History {
    fn fails(&self) -> bool {
        self.failing.is_some() || !self.pairs.is_empty()
    }

    /// The pairs that fail; none while the domain cannot be reached at all, since nobody knows then.
    fn failing_pairs(&self) -> impl Iterator<Item = (&Domain, &FailingSince)> {
        self.pairs.iter().filter(|_| self.failing.is_none())
    }

    fn show(&self, domain: &Domain, configured: bool) -> DomainFailures {
        let mut attempts: Vec<_> = self.outbound.iter().chain(&self.inbound).cloned().collect();
        attempts.sort_by_key(|recorded| std::cmp::Reverse(recorded.time));
        let since = self.failing_pairs().map(|(_, failing)| failing.since).min();
        DomainFailures {
            domain: domain.clone(),
            configured,
            failing: self.fails(),
            failing_since: self.failing.as_ref().map(|failing| failing.since).or(since),
            failing_pairs: self
                .failing_pairs()
                .map(|(local, failing)| PairFailure {
                    local: local.clone(),
                    failing: failing.clone(),
                })
                .collect(),
            last_success: self.worked,
            waiting: WaitingStanzas::default(),
            attempts,
        }
    }
}

fn cut(mut reason: String) -> String {
    reason.truncate(reason.floor_char_boundary(MAX_REASON));
    reason.shrink_to_fit();
    reason
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    fn domain(text: &str) -> Domain {
        Domain::parse(text).unwrap()
    }

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([198, 51, 100, 7], port))
    }

    fn refused(reason: &str) -> Attempt {
        Attempt::inbound(Stage::Policy, address(40_000), reason)
    }

    #[test]
    fn strangers_share_bounded_places_and_push_nobody_out_whom_we_wrote_to() {
        let mut failures = Failures::default();
        failures.record(&domain("partner.example"), true, refused("x"));
        failures.failed(&domain("wanted.example"), None, false, true, "no answer".into());
        for n in 0..10 * MAX_STRANGERS {
            let name = domain(&format!("s{n}.example"));
            failures.record(&name, false, refused("not on the allow list"));
            let claimed = Attempt::outbound(Stage::Resolve, None, "no such name");
            failures.record(&name, false, claimed);
            failures.failed(&name, None, false, false, "no such name".into());
        }
        assert_eq!(failures.strangers.len(), MAX_STRANGERS);
        assert_eq!(failures.list(Some(&domain("partner.example"))).len(), 1);
        assert_eq!(failures.list(Some(&domain("wanted.example"))).len(), 1);
        assert!(failures.list(Some(&domain("s0.example"))).is_empty());
        let newest = format!("s{}.example", 10 * MAX_STRANGERS - 1);
        assert_eq!(failures.list(Some(&domain(&newest))).len(), 1);
    }

    #[test]
    fn a_domain_keeps_its_last_attempts_each_way_and_reasons_are_cut() {
        let mut failures = Failures::default();
        let partner = domain("partner.example");
        for n in 0..100 {
            let long = format!("{n} {}", "é".repeat(MAX_REASON));
            failures.record(&partner, true, refused(&long));
        }
        let ours = Attempt::outbound(Stage::Tls, Some(address(5269)), "expired");
        failures.record(&partner, true, ours);
        let shown = &failures.list(None)[0];
        assert_eq!(shown.attempts.len(), KEPT + 1);
        assert_eq!(shown.attempts[0].attempt.reason, "expired");
        assert!(shown.attempts[1].attempt.reason.starts_with("99 "));
        assert!(shown.attempts.iter().all(|a| a.attempt.reason.len() <= MAX_REASON));
    }

    #[test]
    fn equal_attempts_in_a_row_are_one_entry_with_a_count() {
        let mut failures = Failures::default();
        let partner = domain("partner.example");
        for port in 1..=3 {
            let attempt = Attempt::inbound(Stage::Dialback, address(port), "invalid key");
            failures.record(&partner, true, attempt);
        }
        let shown = &failures.list(None)[0];
        assert_eq!(shown.attempts.len(), 1);
        assert_eq!(shown.attempts[0].count, 3);
        assert_eq!(shown.attempts[0].attempt.address, Some(address(3)));
    }

    #[test]
    fn a_success_ends_failing_and_leaves_the_history() {
        let mut failures = Failures::default();
        let partner = domain("partner.example");
        failures.record(&partner, true, refused("no"));
        assert!(
            failures.failing().is_empty(),
            "who comes in a name says nothing about it"
        );
        let local = domain("coluc.com");
        let refused_key = Attempt::outbound(Stage::Dialback, None, "invalid").of(&local);
        failures.record(&partner, true, refused_key);
        assert!(failures.failing().is_empty(), "another address may do");
        failures.failed(&partner, Some(&local), true, true, "invalid".into());
        failures.reached(&partner, &local);
        assert_eq!(failures.failing()[0].reason, "invalid");
        failures.works(&partner, &local);
        assert_eq!(failures.failing_count(), 0);
        let no_answer = Attempt::outbound(Stage::Connect, None, "no answer");
        failures.record(&partner, true, no_answer);
        failures.failed(&partner, None, true, false, "no answer".into());
        assert_eq!(failures.failing_count(), 1);
        failures.reached(&partner, &local);
        assert_eq!(failures.failing_count(), 0);
        let shown = &failures.list(None)[0];
        assert!(!shown.failing && shown.last_success.is_some());
        assert_eq!(shown.attempts.len(), 3);
    }

    #[test]
    fn what_one_hosted_domain_meets_says_nothing_about_another() {
        let mut failures = Failures::default();
        let (partner, good, bad) = (domain("partner.example"), domain("coluc.com"), domain("conf.coluc.com"));
        let told = |failures: &Failures| {
            let failing = failures.failing().into_iter();
            failing.map(|one| (one.local, one.reason)).collect::<Vec<_>>()
        };
        let refused = (Some(bad.to_string()), "refused".to_owned());
        failures.failed(&partner, Some(&bad), true, true, "refused".into());
        failures.works(&partner, &good);
        assert_eq!(told(&failures), std::slice::from_ref(&refused));
        assert_eq!(failures.failing_count(), 1);
        let shown = &failures.list(None)[0];
        assert!(shown.failing && shown.last_success.is_some());
        assert_eq!(shown.failing_pairs[0].local, bad);
        assert_eq!(
            shown.failing_since.as_ref(),
            Some(&shown.failing_pairs[0].failing.since)
        );
        // What concerns all is told once.
        failures.failed(&partner, None, true, true, "no answer".into());
        assert_eq!(told(&failures), [(None, "no answer".to_owned())]);
        assert_eq!(failures.failing_count(), 1);
        assert!(failures.list(None)[0].failing_pairs.is_empty());
        // A stream for verification in the name of one reaches the domain, and proves nothing about the other.
        failures.reached(&partner, &good);
        assert_eq!(told(&failures), [refused]);
        failures.works(&partner, &bad);
        assert_eq!(failures.failing_count(), 0);
        // A domain that is not hosted any more does not fail.
        failures.failed(&partner, Some(&bad), true, true, "refused".into());
        failures.retain(|_| true, |local| *local == good);
        assert_eq!(failures.failing_count(), 0);
    }

    #[test]
    fn a_stranger_has_as_many_failing_pairs_as_attempts() {
        let mut failures = Failures::default();
        for n in 0..3 * KEPT {
            let local = domain(&format!("d{n}.example"));
            failures.failed(&domain("stranger.example"), Some(&local), false, true, "refused".into());
            failures.failed(&domain("partner.example"), Some(&local), true, true, "refused".into());
        }
        let pairs = |remote: &str| failures.list(Some(&domain(remote)))[0].failing_pairs.len();
        assert_eq!(pairs("stranger.example"), KEPT);
        assert_eq!(pairs("partner.example"), 3 * KEPT);
    }

    #[test]
    fn a_domain_changes_its_place_with_the_configuration() {
        let mut failures = Failures::default();
        let partner = domain("partner.example");
        failures.record(&partner, false, refused("not on the allow list"));
        failures.record(&partner, true, refused("another"));
        assert_eq!(failures.list(None)[0].attempts.len(), 2);
        assert!(failures.list(None)[0].configured);
        failures.retain(|_| false, |_| true);
        assert!(failures.list(None).is_empty());
    }
}
