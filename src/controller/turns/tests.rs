#![allow(clippy::unwrap_used, reason = "tests")]
use super::*;
use crate::controller::testing::owner;
use rstest::rstest;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn name(name: &str) -> ObjectName {
    owner().sibling(name)
}

fn held() -> Vec<String> {
    vec!["Ready".to_owned()]
}

fn waiting(created: i64) -> Report {
    Report::Waiting {
        created: Some(at(created)),
        held: held(),
        settles: None,
    }
}

fn down(created: i64) -> Report {
    Report::Waiting {
        created: Some(at(created)),
        held: Vec::new(),
        settles: None,
    }
}

fn unsettled(created: i64, settles: i64) -> Report {
    Report::Waiting {
        created: Some(at(created)),
        held: held(),
        settles: Some(at(settles)),
    }
}

fn turn(until: i64) -> Turn {
    Turn {
        since: at(0),
        until: at(until),
        held: held(),
    }
}

fn roster(at_once: usize) -> Roster {
    Roster::new(at_once, Duration::from_mins(10))
}

fn names(woken: &BTreeSet<ObjectName>) -> Vec<&str> {
    woken.iter().map(|name| name.name.as_str()).collect()
}

/// Of a, b, …, those that may have their pods replaced.
fn granted(roster: &Roster, now: Timestamp) -> String {
    let may = |letter: &char| {
        let permission = permission(roster, &name(&letter.to_string()), now);
        matches!(permission, Permission::Granted { .. })
    };
    ('a'..='h').filter(may).collect()
}

/// Reports of a, b, … in that order, and who of them then has a turn, with one and with two at a time.
#[rstest]
#[case::the_oldest_first(&[("a", waiting(3)), ("b", waiting(1)), ("c", waiting(2))], "b", "bc")]
#[case::of_one_age_by_name(&[("b", waiting(1)), ("a", waiting(1))], "a", "ab")]
#[case::one_that_is_down_takes_nobodys_turn(&[("a", down(1)), ("b", waiting(2)), ("c", waiting(3))], "ab", "abc")]
#[case::those_that_are_down_have_turns_too(&[("a", down(1)), ("b", down(2)), ("c", down(3))], "a", "ab")]
#[case::one_that_changed_lately_is_passed_over(&[("a", unsettled(1, 60)), ("b", waiting(2))], "b", "b")]
#[case::a_turn_goes_on(&[("a", waiting(1)), ("b", Report::Rolling(turn(600)))], "b", "ab")]
#[case::whoever_does_not_work_again_halts(&[("a", waiting(1)), ("b", Report::Rolling(turn(0)))], "b", "b")]
#[case::also_those_that_are_down(&[("a", down(1)), ("b", Report::Rolling(turn(0)))], "b", "b")]
#[case::one_that_was_down_halts_nobody(&[("a", waiting(1)), ("b", Report::Rolling(Turn { held: Vec::new(), ..turn(0) }))], "ab", "ab")]
#[case::a_turn_that_is_over(&[("b", Report::Rolling(turn(0))), ("a", waiting(1)), ("b", Report::Current)], "a", "a")]
#[case::one_that_is_gone(&[("b", Report::Rolling(turn(0))), ("a", waiting(1)), ("b", Report::Gone)], "a", "a")]
#[case::one_that_is_paused_keeps_its_turn(&[("b", Report::Rolling(turn(600))), ("a", waiting(1)), ("b", Report::Idle)], "b", "ab")]
#[case::one_that_is_paused_does_not_wait(&[("a", waiting(1)), ("b", waiting(2)), ("a", Report::Idle)], "b", "b")]
#[case::one_that_is_paused_before_its_turn_began(&[("a", waiting(1)), ("a", Report::Idle), ("b", waiting(2))], "b", "b")]
#[case::one_that_its_spec_has_overtaken(&[("a", waiting(1)), ("b", waiting(2)), ("a", Report::Current)], "b", "b")]
fn turns_are_given_in_order(#[case] reports: &[(&str, Report)], #[case] one: &str, #[case] two: &str) {
    for (at_once, expected) in [(1, one), (2, two)] {
        let mut roster = roster(at_once);
        let known = reports.iter().map(|(of, _)| name(of));
        roster.begin(known, [], at(0));
        for (of, report) in reports {
            roster.report(&name(of), report.clone(), at(1));
        }
        assert_eq!(granted(&roster, at(1)), expected, "{at_once} at a time");
    }
}

/// With what it had when it reported.
fn permission(roster: &Roster, of: &ObjectName, now: Timestamp) -> Permission {
    match roster.permission(of, &[], now) {
        Permission::Waits(_) => roster.permission(of, &["Ready".to_owned()], now),
        granted @ Permission::Granted { .. } => granted,
    }
}

#[test]
fn one_that_works_by_the_time_of_its_turn_does_not_take_it_as_one_that_is_down() {
    let mut roster = roster(1);
    roster.begin(["a", "b"].map(name), [], at(0));
    roster.report(&name("a"), down(1), at(1));
    roster.report(&name("b"), waiting(2), at(1));
    assert_eq!(granted(&roster, at(1)), "ab");
    let ready = ["Ready".to_owned()];
    let waits = roster.permission(&name("a"), &ready, at(2));
    assert_eq!(waits, Permission::Waits(Wait::Starting));
    roster.report(&name("a"), waiting(1), at(2));
    assert!(matches!(
        roster.permission(&name("a"), &ready, at(2)),
        Permission::Waits(Wait::Turn { .. })
    ));
}

#[test]
fn an_operator_that_starts_knows_the_turns_and_waits_for_the_order() {
    let (mut roster, all) = (roster(2), ["a", "b", "c"]);
    let orphan = ("orphan", turn(-600));
    let turns = [("c", turn(600)), orphan].map(|(of, turn)| (name(of), turn));
    roster.begin(all.map(name), turns, at(0));
    assert_eq!(granted(&roster, at(0)), "c");
    assert_eq!(names(&roster.report(&name("b"), waiting(2), at(1))), [""; 0]);
    assert_eq!(
        permission(&roster, &name("b"), at(1)),
        Permission::Waits(Wait::Starting)
    );
    roster.report(&name("c"), Report::Rolling(turn(600)), at(1));
    // The last one is known: all that wait are told.
    assert_eq!(names(&roster.report(&name("a"), waiting(1), at(2))), ["a", "b"]);
    assert_eq!(granted(&roster, at(2)), "ac");
}

#[test]
fn an_operator_does_not_wait_for_ever_to_know_the_order() {
    let mut roster = roster(1);
    roster.begin(["a", "b"].map(name), [], at(0));
    roster.report(&name("b"), waiting(2), at(1));
    assert_eq!(granted(&roster, at(59)), "");
    assert_eq!(roster.due(&name("b"), at(1)), Some(at(60)));
    assert_eq!(names(&roster.report(&name("b"), waiting(2), at(60))), ["b"]);
    assert_eq!(granted(&roster, at(60)), "b");
}

#[test]
fn the_next_one_is_woken_when_the_one_before_works_again() {
    let mut roster = roster(1);
    assert_eq!(names(&roster.report(&name("a"), waiting(1), at(0))), ["a"]);
    assert_eq!(names(&roster.report(&name("b"), waiting(2), at(0))), [""; 0]);
    roster.report(&name("a"), Report::Rolling(turn(600)), at(0));
    assert_eq!(granted(&roster, at(0)), "a");
    // The same again wakes nobody.
    assert_eq!(
        names(&roster.report(&name("a"), Report::Rolling(turn(600)), at(0))),
        [""; 0]
    );
    assert_eq!(names(&roster.report(&name("a"), Report::Current, at(1))), ["b"]);
    assert_eq!(granted(&roster, at(1)), "b");
}

#[test]
fn a_grant_for_what_is_not_so_any_more_is_taken_back() {
    let mut roster = roster(1);
    roster.report(&name("a"), down(1), at(0));
    roster.report(&name("b"), waiting(2), at(0));
    assert_eq!(granted(&roster, at(0)), "ab");
    // It works now, and two that work would have their turns.
    roster.report(&name("a"), waiting(1), at(0));
    assert_eq!(granted(&roster, at(0)), "b");
}

#[test]
fn those_that_wait_are_told_whose_turn_it_is_and_how_many_remain() {
    let mut roster = roster(1);
    roster.report(&name("a"), Report::Rolling(turn(600)), at(0));
    for number in 0..20_u32 {
        roster.report(&name(&format!("r{number:02}")), waiting(number.into()), at(0));
    }
    let told = |roster: &Roster, of: &str, now| match permission(roster, &name(of), at(now)) {
        Permission::Waits(wait) => wait,
        Permission::Granted { .. } => unreachable!("it waits"),
    };
    let turn = |ahead| Wait::Turn {
        rolling: vec![name("a")],
        ahead,
        waiting: 20,
    };
    assert_eq!(told(&roster, "r00", 0), turn(Some(0)));
    assert_eq!(told(&roster, "r10", 0), turn(Some(10)));
    assert_eq!(told(&roster, "r11", 0), turn(None));
    assert_eq!(told(&roster, "r11", 600), Wait::Halted(name("a"), at(600)));
    assert_eq!(roster.due(&name("r11"), at(0)), Some(at(600)));
    // Whoever notices it first tells those at the front, and nobody else.
    let woken = roster.report(&name("r19"), waiting(19), at(600));
    assert_eq!(woken.len(), FRONT);
    assert!(woken.contains(&name("r00")) && !woken.contains(&name("r11")));
    let count = Count {
        waiting: 20,
        rolling: 1,
        halted: 1,
    };
    assert_eq!(roster.count(at(600)), count);
}

/// A thousand federations: a turn wakes those at the front and nobody else.
#[test]
fn an_upgrade_of_many_wakes_few_at_a_time() {
    const MANY: u32 = 1000;
    let mut roster = roster(1);
    let all: Vec<ObjectName> = (0..MANY).map(|number| name(&format!("r{number:04}"))).collect();
    roster.begin(all.iter().cloned(), [], at(0));
    for (number, of) in all.iter().enumerate().rev() {
        roster.report(of, waiting(i64::try_from(number).unwrap()), at(0));
    }
    let mut woken = 0;
    for of in &all {
        assert!(matches!(permission(&roster, of, at(1)), Permission::Granted { .. }));
        woken += roster.report(of, Report::Rolling(turn(600)), at(1)).len();
        woken += roster.report(of, Report::Current, at(1)).len();
    }
    assert!(woken <= all.len() * 2 * (FRONT + 1), "{woken}");
    assert_eq!(roster.count(at(1)), Count::default());
}
