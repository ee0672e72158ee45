//! Conditions: which exist, and how Ready follows from the others.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

use super::bounds;
use super::reasons::Reason;
pub use xmpp_federation_imp::report::Status;

/// What a condition says.
pub type Verdict = xmpp_federation_imp::report::Verdict<Reason>;

/// A condition's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, strum::IntoStaticStr)]
pub enum Type {
    /// Summary: federation works as the spec wants.
    Ready,
    /// Work is under way; present only while True.
    Reconciling,
    /// Nothing moves until a person acts; present only while True.
    Stalled,
    /// Nothing is done because spec.paused is true; present only while True.
    Paused,
    /// Pods run, are ready and have the newest configuration.
    EdgeAvailable,
    /// The dialback secret exists.
    DialbackSecretReady,
    /// The certificate is valid and has all names.
    CertificateReady,
    /// Public records lead to the edge.
    RecordsVerified,
    /// IM and Presence accepts our account.
    AxlAuthenticated,
    /// All component ids stand in the table.
    ComponentsRegistered,
    /// All routers provably read the table since.
    RoutersInSync,
    /// IM and Presence's own federation is off.
    ImpFederationOff,
    /// Every pod is linked to every router.
    RouterLinksUp,
    /// The partners configured by name can be reached.
    PartnersReachable,
}

impl Type {
    /// The ones that Ready follows from, in the order in which the first failing one is named:
    /// causes before effects.
    pub const DEPENDENT: [Self; 9] = [
        Self::DialbackSecretReady,
        Self::CertificateReady,
        Self::AxlAuthenticated,
        Self::ImpFederationOff,
        Self::ComponentsRegistered,
        Self::RoutersInSync,
        Self::EdgeAvailable,
        Self::RouterLinksUp,
        Self::RecordsVerified,
    ];

    /// The word in the status.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// What one reconcile found.
#[derive(Debug, Clone, Default)]
pub struct Findings {
    /// Verdicts; a type without one keeps what it had.
    pub verdicts: Vec<(Type, Verdict)>,
    /// Set while a person has to act.
    pub stalled: Option<(Reason, String)>,
    /// Set while work is under way.
    pub reconciling: Option<(Reason, String)>,
    /// Whether row and link conditions count (spec.activation Active).
    pub active: bool,
}

impl Findings {
    /// Adds a verdict.
    pub fn add(&mut self, kind: Type, verdict: Verdict) {
        self.verdicts.push((kind, verdict));
    }
}

/// Marks in the message of an Unknown condition that it was True before.
const LAST_TRUE: &str = " (it was True until ";
/// What is kept free in a message for that, and for the name of the condition that Ready repeats.
const ROOM: usize = 256;

/// The condition of that type.
pub fn find<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// The conditions to write, given those that are there.
pub fn assemble(
    previous: &[Condition],
    generation: Option<i64>,
    now: Timestamp,
    findings: &Findings,
) -> Vec<Condition> {
    let before = |kind: Type| find(previous, kind.as_str());
    let mut conditions = Vec::new();
    let mut put = |kind: Type, verdict: &Verdict| {
        let old = before(kind);
        let since = match old {
            Some(old) if old.status == verdict.status.as_str() => old.last_transition_time.clone(),
            _ => Time(seconds(now)),
        };
        conditions.push(Condition {
            type_: kind.as_str().to_owned(),
            status: verdict.status.as_str().to_owned(),
            reason: verdict.reason.to_string(),
            message: bounds::message(&verdict.message, bounds::MESSAGE),
            observed_generation: generation,
            last_transition_time: since,
        });
    };

    let mut dependents: Vec<(Type, Verdict, bool)> = Vec::new();
    for kind in Type::DEPENDENT.into_iter().chain([Type::PartnersReachable]) {
        let found = findings.verdicts.iter().rev().find(|(k, _)| *k == kind);
        let mut verdict = match (found, before(kind)) {
            (Some((_, verdict)), _) => verdict.clone(),
            (None, Some(_)) => continue,
            (None, None) => Verdict::unknown(Reason::NotLookedYet, "not looked at yet"),
        };
        verdict.message = bounds::message(&verdict.message, bounds::MESSAGE - ROOM);
        let was_true = mark_last_true(&mut verdict, before(kind), now);
        put(kind, &verdict);
        dependents.push((kind, verdict, was_true));
    }

    let ready = ready(before(Type::Ready), findings, &dependents);
    put(Type::Ready, &ready);
    if let Some((reason, message)) = &findings.stalled {
        put(
            Type::Stalled,
            &Verdict {
                status: Status::True,
                reason: *reason,
                message: message.clone(),
            },
        );
    } else if let Some((reason, message)) = &findings.reconciling {
        put(
            Type::Reconciling,
            &Verdict {
                status: Status::True,
                reason: *reason,
                message: message.clone(),
            },
        );
    } else if ready.status != Status::True {
        put(
            Type::Reconciling,
            &Verdict {
                status: Status::True,
                reason: Reason::InProgress,
                message: ready.message.clone(),
            },
        );
    }

    // Those without a verdict keep what they had.
    for old in previous {
        let transient = ["Reconciling", "Stalled", "Paused", "Ready"].contains(&old.type_.as_str());
        if !transient && !conditions.iter().any(|c| c.type_ == old.type_) {
            conditions.push(old.clone());
        }
    }
    conditions.sort_by_key(|c| order(&c.type_));
    conditions
}

fn ready(before: Option<&Condition>, findings: &Findings, found: &[(Type, Verdict, bool)]) -> Verdict {
    // Where nothing was looked at (an invalid spec, a deletion) that is the reason; otherwise the
    // failing condition speaks.
    if let (true, Some((reason, message))) = (
        findings.verdicts.is_empty(),
        findings.stalled.as_ref().or(findings.reconciling.as_ref()),
    ) {
        return Verdict::no(*reason, message.clone());
    }
    let counts = |kind: Type| {
        kind != Type::PartnersReachable
            && (findings.active
                || !matches!(
                    kind,
                    Type::ComponentsRegistered | Type::RoutersInSync | Type::RouterLinksUp
                ))
    };
    let name = |kind: &Type, verdict: &Verdict| format!("{}: {}", kind.as_str(), verdict.message);
    for state in [Status::False, Status::Unknown] {
        for (kind, verdict, was_true) in found.iter().filter(|(kind, ..)| counts(*kind)) {
            if verdict.status != state {
                continue;
            }
            if state == Status::Unknown {
                if *kind == Type::ImpFederationOff {
                    continue;
                }
                let still = before.is_some_and(|ready| ready.status == "True");
                if *was_true && still {
                    return Verdict {
                        status: Status::True,
                        reason: verdict.reason,
                        message: name(kind, verdict),
                    };
                }
            }
            return Verdict::no(verdict.reason, name(kind, verdict));
        }
    }
    if let Some((reason, message)) = &findings.stalled {
        return Verdict::no(*reason, message.clone());
    }
    // Nothing fails, and nothing federates: that is as the spec wants it.
    let nobody = found
        .iter()
        .find(|(_, verdict, _)| verdict.reason == Reason::NobodyAdmitted)
        .map(|(kind, verdict, _)| name(kind, verdict));
    if !findings.active {
        let prepared = "prepared: everything but rows in IM and Presence and links to its routers";
        let nobody = nobody.map(|nobody| format!("; {nobody}")).unwrap_or_default();
        return Verdict::yes(Reason::Prepared, format!("{prepared}{nobody}"));
    }
    match nobody {
        Some(nobody) => Verdict::yes(Reason::NobodyAdmitted, nobody),
        None => Verdict::yes(Reason::AsWanted, "federation works"),
    }
}

/// Notes in an Unknown verdict since when it is not True any more; whether it ever was.
fn mark_last_true(verdict: &mut Verdict, before: Option<&Condition>, now: Timestamp) -> bool {
    let Some(old) = before.filter(|_| verdict.status == Status::Unknown) else {
        return false;
    };
    let mark = match old.message.split_once(LAST_TRUE) {
        _ if old.status == "True" => format!("{})", seconds(now)),
        Some((_, mark)) if old.status == "Unknown" => mark.to_owned(),
        _ => return false,
    };
    verdict.message.push_str(LAST_TRUE);
    verdict.message.push_str(&mark);
    true
}

/// Conditions of a paused resource: what was, plus Paused. `ends`: until when its own certificate is valid.
pub fn paused(previous: &[Condition], ends: Option<&str>, generation: Option<i64>, now: Timestamp) -> Vec<Condition> {
    let mut conditions: Vec<Condition> = previous
        .iter()
        .filter(|c| c.type_ != "Paused" && c.type_ != "Reconciling")
        .cloned()
        .collect();
    if !conditions.iter().any(|c| c.type_ == "Ready") {
        conditions.push(Condition {
            type_: "Ready".to_owned(),
            status: "False".to_owned(),
            reason: Reason::Paused.as_str().to_owned(),
            message: "paused before the first work; set spec.paused to false".to_owned(),
            observed_generation: generation,
            last_transition_time: Time(seconds(now)),
        });
    }
    let since = previous
        .iter()
        .find(|c| c.type_ == "Paused")
        .map_or_else(|| Time(seconds(now)), |c| c.last_transition_time.clone());
    let unrenewed = ends.map(|ends| format!(", and the certificate, valid until {ends}, is not renewed"));
    let unrenewed = unrenewed.unwrap_or_default();
    conditions.push(Condition {
        type_: "Paused".to_owned(),
        status: "True".to_owned(),
        reason: Reason::Paused.as_str().to_owned(),
        message: format!(
            "spec.paused is true: nothing is written, to Kubernetes or to IM and Presence{unrenewed}; set it to false to go on"
        ),
        observed_generation: generation,
        last_transition_time: since,
    });
    conditions.sort_by_key(|c| order(&c.type_));
    conditions
}

/// Types that tell of a resource as a whole.
pub const SUMMARY: [&str; 4] = ["Ready", "Reconciling", "Stalled", "Paused"];

fn order(kind: &str) -> usize {
    const ORDER: [&str; 14] = [
        "Ready",
        "Reconciling",
        "Stalled",
        "Paused",
        "EdgeAvailable",
        "DialbackSecretReady",
        "CertificateReady",
        "RecordsVerified",
        "AxlAuthenticated",
        "ComponentsRegistered",
        "RoutersInSync",
        "ImpFederationOff",
        "RouterLinksUp",
        "PartnersReachable",
    ];
    ORDER.iter().position(|name| *name == kind).unwrap_or(ORDER.len())
}

/// metav1.Time has whole seconds; anything finer would differ after a round trip.
fn seconds(now: Timestamp) -> Timestamp {
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::*;
    use rstest::rstest;
    use xmpp_federation_imp::reasons::Reason as ImpReason;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn all_true() -> Findings {
        let verdicts = Type::DEPENDENT
            .into_iter()
            .chain([Type::PartnersReachable])
            .map(|kind| (kind, Verdict::yes(Reason::AsWanted, "good")))
            .collect();
        Findings {
            verdicts,
            active: true,
            ..Findings::default()
        }
    }

    fn status<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
        conditions.iter().find(|c| c.type_ == kind)
    }

    #[test]
    fn ready_is_true_when_all_are_and_nothing_is_in_progress() {
        let conditions = assemble(&[], Some(1), at(0), &all_true());
        assert_eq!(status(&conditions, "Ready").unwrap().status, "True");
        assert!(status(&conditions, "Reconciling").is_none());
        assert!(status(&conditions, "Stalled").is_none());
    }

    #[rstest]
    #[case(Type::EdgeAvailable, "False")]
    #[case(Type::AxlAuthenticated, "False")]
    #[case(Type::RoutersInSync, "False")]
    #[case(Type::RecordsVerified, "False")]
    #[case(Type::PartnersReachable, "True")]
    fn ready_follows_all_but_the_partners(#[case] kind: Type, #[case] ready: &str) {
        let mut findings = all_true();
        findings.add(kind, Verdict::no(Reason::InternalError, "broken; mend it"));
        let conditions = assemble(&[], Some(1), at(0), &findings);
        let summary = status(&conditions, "Ready").unwrap();
        assert_eq!(summary.status, ready);
        if ready == "False" {
            assert!(summary.message.contains("broken; mend it"), "{}", summary.message);
            assert!(summary.message.starts_with(kind.as_str()));
        }
    }

    #[rstest]
    #[case(Type::ComponentsRegistered, true)]
    #[case(Type::RoutersInSync, true)]
    #[case(Type::RouterLinksUp, true)]
    #[case(Type::AxlAuthenticated, false)]
    fn prepared_ignores_rows_and_links(#[case] kind: Type, #[case] ignored: bool) {
        let mut findings = all_true();
        findings.active = false;
        findings.add(kind, Verdict::no(Reason::Prepared, "no"));
        let conditions = assemble(&[], Some(1), at(0), &findings);
        assert_eq!(status(&conditions, "Ready").unwrap().status == "True", ignored);
    }

    /// With everything in order Ready is True, and its reason says what is wanted.
    #[rstest]
    #[case::active(true, false, None, "True", "AsWanted", "federation works")]
    #[case::active_and_nobody_is_admitted(
        true,
        true,
        None,
        "True",
        "NobodyAdmitted",
        "PartnersReachable: the list is empty"
    )]
    #[case::prepared(
        false,
        false,
        None,
        "True",
        "Prepared",
        "prepared: everything but rows in IM and Presence and links to its routers"
    )]
    #[case::prepared_and_nobody_is_admitted(
        false,
        true,
        None,
        "True",
        "Prepared",
        "links to its routers; PartnersReachable: the list is empty"
    )]
    #[case::nobody_is_admitted_and_something_fails(
        true,
        true,
        Some(Type::RecordsVerified),
        "False",
        "RecordsWrong",
        "RecordsVerified: bad"
    )]
    #[case::prepared_and_something_fails(
        false,
        true,
        Some(Type::RecordsVerified),
        "False",
        "RecordsWrong",
        "RecordsVerified: bad"
    )]
    fn what_ready_says_where_nothing_federates(
        #[case] active: bool,
        #[case] nobody: bool,
        #[case] failing: Option<Type>,
        #[case] ready: &str,
        #[case] reason: &str,
        #[case] says: &str,
    ) {
        let mut findings = all_true();
        findings.active = active;
        if nobody {
            let verdict = Verdict::no(Reason::NobodyAdmitted, "the list is empty");
            findings.add(Type::PartnersReachable, verdict);
        }
        if !active {
            findings.add(Type::RouterLinksUp, Verdict::unknown(Reason::Prepared, "no link"));
        }
        if let Some(failing) = failing {
            findings.add(failing, Verdict::no(Reason::RecordsWrong, "bad"));
        }
        let conditions = assemble(&[], Some(1), at(0), &findings);
        let summary = status(&conditions, "Ready").unwrap();
        assert_eq!((summary.status.as_str(), summary.reason.as_str()), (ready, reason));
        assert!(summary.message.ends_with(says), "{}", summary.message);
        assert_eq!(status(&conditions, "Reconciling").is_none(), ready == "True");
        assert_eq!(assemble(&conditions, Some(1), at(500), &findings), conditions);
    }

    #[test]
    fn unknown_before_the_first_true_is_not_ready_and_later_leaves_ready_as_it_was() {
        let mut lost = all_true();
        lost.add(
            Type::AxlAuthenticated,
            Verdict::unknown(ImpReason::Unreachable, "no answer"),
        );
        let first = assemble(&[], Some(1), at(0), &lost);
        assert_eq!(status(&first, "Ready").unwrap().status, "False");

        let good = assemble(&first, Some(1), at(10), &all_true());
        let later = assemble(&good, Some(1), at(20), &lost);
        let ready = status(&later, "Ready").unwrap();
        assert_eq!(ready.status, "True");
        assert!(ready.message.contains("it was True until"), "{}", ready.message);
        // And it stays so, word for word.
        assert_eq!(assemble(&later, Some(1), at(30), &lost), later);
    }

    #[test]
    fn an_unproven_federation_service_does_not_hold_ready_back() {
        let mut findings = all_true();
        findings.add(
            Type::ImpFederationOff,
            Verdict::unknown(ImpReason::NotProven, "stopped"),
        );
        let conditions = assemble(&[], Some(1), at(0), &findings);
        assert_eq!(status(&conditions, "Ready").unwrap().status, "True");
    }

    #[test]
    fn the_same_findings_give_the_same_conditions_at_any_time() {
        let first = assemble(&[], Some(1), at(0), &all_true());
        assert_eq!(assemble(&first, Some(1), at(500), &all_true()), first);
    }

    #[rstest]
    #[case::a_certificate_of_ours(
        Some("2027-02-28T00:00:00Z"),
        "and the certificate, valid until 2027-02-28T00:00:00Z, is not renewed; set"
    )]
    #[case::a_brought_one(None, "to IM and Presence; set it to false to go on")]
    fn a_pause_keeps_what_was_known_and_says_what_it_stops(#[case] ends: Option<&str>, #[case] says: &str) {
        let good = assemble(&[], Some(1), at(0), &all_true());
        let conditions = paused(&good, ends, Some(2), at(10));
        let ready = status(&conditions, "Ready").unwrap();
        assert_eq!((ready.status.as_str(), ready.observed_generation), ("True", Some(1)));
        let message = &status(&conditions, "Paused").unwrap().message;
        assert!(message.contains(says), "{message}");
        assert_eq!(paused(&conditions, ends, Some(2), at(20)), conditions);
    }

    #[test]
    fn an_invalid_spec_is_stalled_and_keeps_what_was_known() {
        let good = assemble(&[], Some(1), at(0), &all_true());
        let findings = Findings {
            stalled: Some((Reason::SpecInvalid, "bad value; write a good one".to_owned())),
            active: true,
            ..Findings::default()
        };
        let conditions = assemble(&good, Some(2), at(10), &findings);
        assert_eq!(status(&conditions, "Ready").unwrap().status, "False");
        assert_eq!(status(&conditions, "Stalled").unwrap().reason, "SpecInvalid");
        assert_eq!(
            status(&conditions, "EdgeAvailable").unwrap().observed_generation,
            Some(1)
        );
    }

    #[test]
    fn a_message_that_is_too_long_is_cut_and_moves_no_more() {
        let problems: Vec<String> = (0..2000)
            .map(|at| format!("spec.privacy.domains[{at}]: \"bücher{at}.example\" is not canonical; write an A-label"))
            .collect();
        let mut findings = all_true();
        findings.stalled = Some((Reason::SpecInvalid, problems.join("; ")));
        findings.add(
            Type::AxlAuthenticated,
            Verdict::unknown(Reason::InternalError, problems.join("; ")),
        );
        let good = assemble(&[], Some(1), at(0), &all_true());
        let first = assemble(&good, Some(1), at(10), &findings);
        for condition in &first {
            assert!(condition.message.len() <= bounds::MESSAGE, "{}", condition.type_);
        }
        let axl = status(&first, "AxlAuthenticated").unwrap();
        assert!(axl.message.contains(" more (it was True until "), "{}", axl.message);
        assert!(status(&first, "Stalled").unwrap().message.ends_with(" more"));
        assert_eq!(assemble(&first, Some(1), at(20), &findings), first);
    }

    #[test]
    fn stalled_and_reconciling_exclude_each_other() {
        let mut findings = all_true();
        findings.add(Type::RoutersInSync, Verdict::no(ImpReason::RestartByHand, "restart"));
        findings.stalled = Some((ImpReason::RestartByHand.into(), "restart".to_owned()));
        findings.reconciling = Some((Reason::InProgress, "more".to_owned()));
        let conditions = assemble(&[], Some(1), at(0), &findings);
        assert!(status(&conditions, "Stalled").is_some());
        assert!(status(&conditions, "Reconciling").is_none());
    }
}
