//! Restart windows: a cron schedule of their starts, a duration, a time zone.
//!
//! The zone's wall clock decides when one starts, elapsed time how long it is:
//!
//! - a fixed time of day (`30 2 * * *`) that the change to daylight saving time skips comes at the
//!   first moment behind the gap; one that the change back repeats comes once, the first time
//! - a schedule with a wildcard in minute or hour (`*/30 * * * *`) follows the clock on the wall: no
//!   starts in the skipped hour, starts in both passes of the repeated one
//! - a window over a change is open for its duration, whatever the clock on the wall shows at its end
//! - windows that touch or overlap are one; longer than its period, it never closes

use std::time::Duration;

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{SignedDuration, Timestamp};

/// The shortest window: looks at all nodes, the command and its propagation have to fit in.
pub const SHORTEST: Duration = Duration::from_mins(1);
/// The longest window.
pub const LONGEST: Duration = Duration::from_hours(7 * 24);
/// How far ahead the end of overlapping windows is followed.
const HORIZON: SignedDuration = SignedDuration::from_hours(24);
/// A schedule that does not come in the fifty years from this one on never comes.
const FIRST_YEAR: i16 = 2000;

/// A restart window that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    cron: Cron,
    duration: Duration,
    zone: TimeZone,
}

/// Open or closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WindowState {
    /// Until then at least: a window that never closes is looked at a day ahead.
    Open {
        /// The first moment outside.
        until: Timestamp,
    },
    /// Until then.
    Closed {
        /// The first moment inside; [`Timestamp::MAX`] where there is none.
        opens: Timestamp,
    },
}

impl Window {
    /// Checks a schedule of five cron fields, a duration and the name of an IANA time zone (`None`:
    /// UTC); the errors begin with the name of the field.
    pub fn new(schedule: &str, duration: Duration, zone: Option<&str>) -> Result<Self, Vec<String>> {
        let cron = schedule_of(schedule);
        let zone = zone_of(zone.unwrap_or("UTC"));
        let length = length_of(duration);
        let window = match (cron, zone, length) {
            (Ok(cron), Ok(zone), Ok(())) => Self { cron, duration, zone },
            (cron, zone, length) => {
                let problems = [cron.err(), zone.err(), length.err()];
                return Err(problems.into_iter().flatten().collect());
            }
        };
        window.check_that_it_comes(schedule)?;
        Ok(window)
    }

    fn check_that_it_comes(&self, schedule: &str) -> Result<(), Vec<String>> {
        let from = jiff::civil::date(FIRST_YEAR, 1, 1).to_zoned(self.zone.clone());
        let comes = from.is_ok_and(|from| {
            let next = self.cron.find_next_occurrence(&from, true).ok();
            next.is_some_and(|next| next.year() < FIRST_YEAR + 50)
        });
        if comes {
            return Ok(());
        }
        Err(vec![format!(
            "schedule: {schedule:?} never comes, because no year has such a day; correct day of month and month"
        )])
    }

    /// Whether it is open at that time.
    pub fn state(&self, now: Timestamp) -> WindowState {
        // Cron counts seconds; what is behind the comma would only be in its way.
        let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
        match self.last_end(now).filter(|end| *end > now) {
            Some(end) => WindowState::Open {
                until: self.joined(now, end),
            },
            None => WindowState::Closed {
                opens: self.next_start(now).unwrap_or(Timestamp::MAX),
            },
        }
    }

    /// The end of the last window that started at that time or before.
    fn last_end(&self, at: Timestamp) -> Option<Timestamp> {
        let at = at.to_zoned(self.zone.clone());
        let start = self.cron.find_previous_occurrence(&at, true).ok()?;
        let duration = SignedDuration::try_from(self.duration).ok()?;
        start.timestamp().checked_add(duration).ok()
    }

    /// The end of all windows that follow one another without a gap.
    fn joined(&self, now: Timestamp, mut end: Timestamp) -> Timestamp {
        while end.duration_since(now) < HORIZON {
            match self.last_end(end).filter(|later| *later > end) {
                Some(later) => end = later,
                None => break,
            }
        }
        end
    }

    fn next_start(&self, now: Timestamp) -> Option<Timestamp> {
        let now = now.to_zoned(self.zone.clone());
        let start = self.cron.find_next_occurrence(&now, false).ok()?;
        Some(start.timestamp())
    }

    /// That time as the clocks in the window's zone show it.
    pub fn local(&self, at: Timestamp) -> String {
        let shown = at.to_zoned(self.zone.clone()).strftime("%Y-%m-%d %H:%M %Z").to_string();
        match self.zone.iana_name() {
            Some(name) if !shown.ends_with(name) => format!("{shown} ({name})"),
            _ => shown,
        }
    }
}

fn schedule_of(text: &str) -> Result<Cron, String> {
    const EXAMPLE: &str =
        "write minute, hour, day of month, month and day of week, as in \"0 2 * * 6\" for Saturdays at 2:00";
    let fields = text.split_whitespace().count();
    if fields != 5 {
        return Err(format!(
            "schedule: {text:?} has {fields} fields where cron has five; {EXAMPLE}"
        ));
    }
    CronParser::builder()
        .seconds(Seconds::Disallowed)
        .year(Year::Disallowed)
        .build()
        .parse(text)
        .map_err(|error| {
            let error = error.to_string();
            let error = error.trim_end_matches('.');
            format!("schedule: {text:?} is not a cron expression ({error}); {EXAMPLE}")
        })
}

/// What the system knows, which is maintained, then what was built in, which is always there.
fn zone_of(name: &str) -> Result<TimeZone, String> {
    TimeZone::get(name)
        .or_else(|_| TimeZoneDatabase::bundled().get(name))
        .map_err(|_| {
            format!(
                "timeZone: {name:?} is not the name of an IANA time zone; write one such as Europe/Berlin, or remove it for UTC"
            )
        })
}

fn length_of(duration: Duration) -> Result<(), String> {
    let seconds = duration.as_secs();
    if duration < SHORTEST {
        Err(format!(
            "duration: {seconds} s is too short for one restart with the looks around it; write 1m or more"
        ))
    } else if duration > LONGEST {
        Err(format!(
            "duration: {seconds} s is longer than a week; write 168h or less, or choose mode Automatic"
        ))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn open(until: &str) -> WindowState {
        WindowState::Open { until: at(until) }
    }

    fn closed(opens: &str) -> WindowState {
        WindowState::Closed { opens: at(opens) }
    }

    // Berlin changes on 2026-03-29 at 01:00Z (2:00 -> 3:00) and on 2026-10-25 at 01:00Z (3:00 -> 2:00).
    #[rstest]
    #[case::before("0 2 * * *", 60, None, "2026-05-01T01:59:59.999Z", closed("2026-05-01T02:00:00Z"))]
    #[case::at_its_start("0 2 * * *", 60, None, "2026-05-01T02:00:00Z", open("2026-05-01T03:00:00Z"))]
    #[case::just_before_its_end("0 2 * * *", 60, None, "2026-05-01T02:59:59.999Z", open("2026-05-01T03:00:00Z"))]
    #[case::at_its_end("0 2 * * *", 60, None, "2026-05-01T03:00:00Z", closed("2026-05-02T02:00:00Z"))]
    #[case::over_midnight("30 23 * * *", 60, None, "2026-05-02T00:10:00Z", open("2026-05-02T00:30:00Z"))]
    #[case::in_its_zone(
        "0 2 * * *",
        60,
        Some("Europe/Berlin"),
        "2026-05-01T00:30:00Z",
        open("2026-05-01T01:00:00Z")
    )]
    #[case::on_saturdays(
        "0 2 * * 6",
        60,
        Some("Europe/Berlin"),
        "2026-05-01T00:30:00Z",
        closed("2026-05-02T00:00:00Z")
    )]
    #[case::by_names("0 2 * MAY SAT", 60, None, "2026-04-30T00:00:00Z", closed("2026-05-02T02:00:00Z"))]
    #[case::on_a_leap_day("0 2 29 2 *", 60, None, "2026-05-01T00:00:00Z", closed("2028-02-29T02:00:00Z"))]
    #[case::a_skipped_start_waits_for_the_gap(
        "30 2 * * *",
        60,
        Some("Europe/Berlin"),
        "2026-03-29T00:59:00Z",
        closed("2026-03-29T01:00:00Z")
    )]
    #[case::a_skipped_start_is_open_behind_the_gap(
        "30 2 * * *",
        60,
        Some("Europe/Berlin"),
        "2026-03-29T01:30:00Z",
        open("2026-03-29T02:00:00Z")
    )]
    #[case::and_comes_once(
        "30 2 * * *",
        60,
        Some("Europe/Berlin"),
        "2026-03-29T02:00:00Z",
        closed("2026-03-30T00:30:00Z")
    )]
    #[case::a_repeated_start_comes_the_first_time(
        "30 2 * * *",
        20,
        Some("Europe/Berlin"),
        "2026-10-25T00:40:00Z",
        open("2026-10-25T00:50:00Z")
    )]
    #[case::and_not_the_second_time(
        "30 2 * * *",
        20,
        Some("Europe/Berlin"),
        "2026-10-25T01:40:00Z",
        closed("2026-10-26T01:30:00Z")
    )]
    #[case::between_the_two_passes(
        "30 2 * * *",
        20,
        Some("Europe/Berlin"),
        "2026-10-25T00:55:00Z",
        closed("2026-10-26T01:30:00Z")
    )]
    #[case::wildcards_come_in_both_passes(
        "30 * * * *",
        20,
        Some("Europe/Berlin"),
        "2026-10-25T01:40:00Z",
        open("2026-10-25T01:50:00Z")
    )]
    #[case::wildcards_skip_the_gap(
        "*/30 2 * * *",
        20,
        Some("Europe/Berlin"),
        "2026-03-29T01:10:00Z",
        closed("2026-03-30T00:00:00Z")
    )]
    #[case::elapsed_time_over_the_spring_change(
        "0 1 * * *",
        180,
        Some("Europe/Berlin"),
        "2026-03-29T02:59:00Z",
        open("2026-03-29T03:00:00Z")
    )]
    #[case::elapsed_time_over_the_autumn_change(
        "0 1 * * *",
        180,
        Some("Europe/Berlin"),
        "2026-10-25T01:59:00Z",
        open("2026-10-25T02:00:00Z")
    )]
    #[case::windows_that_touch_are_one("0 2,3 * * *", 60, None, "2026-05-01T02:30:00Z", open("2026-05-01T04:00:00Z"))]
    #[case::windows_that_overlap_are_one(
        "0,30 2 * * *",
        60,
        None,
        "2026-05-01T02:10:00Z",
        open("2026-05-01T03:30:00Z")
    )]
    #[case::a_zone_half_an_hour_off(
        "0 2 * * *",
        60,
        Some("Asia/Kolkata"),
        "2026-05-01T00:00:00Z",
        closed("2026-05-01T20:30:00Z")
    )]
    #[case::a_change_of_half_an_hour(
        "15 2 * * *",
        60,
        Some("Australia/Lord_Howe"),
        "2026-10-03T15:29:00Z",
        closed("2026-10-03T15:30:00Z")
    )]
    fn state(
        #[case] schedule: &str,
        #[case] minutes: u64,
        #[case] zone: Option<&str>,
        #[case] now: &str,
        #[case] expected: WindowState,
    ) {
        let window = Window::new(schedule, Duration::from_mins(minutes), zone).unwrap();
        assert_eq!(window.state(at(now)), expected);
    }

    #[rstest]
    #[case("0 2 * * *", 24)]
    #[case("0 2 * * *", 25)]
    #[case("* * * * *", 1)]
    fn longer_than_its_period_it_never_closes(#[case] schedule: &str, #[case] hours: u64) {
        let window = Window::new(schedule, Duration::from_hours(hours), Some("Europe/Berlin")).unwrap();
        for minute in 0..4_000 {
            let now = at("2026-10-24T00:00:00Z") + SignedDuration::from_mins(minute);
            match window.state(now) {
                // On the day of 25 hours, 24 are not enough.
                WindowState::Closed { .. } if hours == 24 => {
                    assert_eq!(now.to_string().get(..13), Some("2026-10-26T00"));
                }
                WindowState::Open { until } => assert!(hours == 24 || until >= now + HORIZON),
                WindowState::Closed { .. } => panic!("closed at {now}"),
            }
        }
    }

    #[rstest]
    #[case::four_fields("0 2 * *", 3600, None, &["schedule: \"0 2 * *\" has 4 fields"])]
    #[case::seconds("0 0 2 * * *", 3600, None, &["has 6 fields where cron has five"])]
    #[case::a_nickname("@daily", 3600, None, &["has 1 fields"])]
    #[case::a_wrong_hour("0 25 * * *", 3600, None, &["schedule: \"0 25 * * *\" is not a cron expression"])]
    #[case::words("a b c d e", 3600, None, &["is not a cron expression"])]
    #[case::no_such_day("0 2 30 2 *", 3600, None, &["schedule: \"0 2 30 2 *\" never comes"])]
    #[case::no_such_days("0 2 31 2,4,6,9,11 *", 3600, Some("Europe/Berlin"), &["never comes"])]
    #[case::an_unknown_zone("0 2 * * *", 3600, Some("Europe/Bonn"), &["timeZone: \"Europe/Bonn\" is not", "Europe/Berlin"])]
    #[case::an_empty_zone("0 2 * * *", 3600, Some(""), &["timeZone: \"\" is not"])]
    #[case::a_path_for_a_zone("0 2 * * *", 3600, Some("../../etc/passwd"), &["timeZone: "])]
    #[case::too_short("0 2 * * *", 59, None, &["duration: 59 s is too short", "1m or more"])]
    #[case::too_long("0 2 * * *", 604_801, None, &["duration: 604801 s is longer than a week"])]
    #[case::all_at_once("x", 0, Some("y"), &["schedule: ", "timeZone: ", "duration: "])]
    fn what_is_wrong_is_named_with_field_value_and_remedy(
        #[case] schedule: &str,
        #[case] seconds: u64,
        #[case] zone: Option<&str>,
        #[case] says: &[&str],
    ) {
        let problems = Window::new(schedule, Duration::from_secs(seconds), zone).unwrap_err();
        let said = problems.join("\n");
        assert!(says.iter().all(|part| said.contains(part)), "{said}");
    }

    #[rstest]
    #[case(None, "2026-05-01 02:00 UTC")]
    #[case(Some("Europe/Berlin"), "2026-05-01 04:00 CEST (Europe/Berlin)")]
    fn times_are_told_as_the_zone_shows_them(#[case] zone: Option<&str>, #[case] shown: &str) {
        let window = Window::new("0 2 * * *", Duration::from_hours(1), zone).unwrap();
        assert_eq!(window.local(at("2026-05-01T02:00:00Z")), shown);
    }

    #[rstest]
    #[case("Europe/Berlin")]
    #[case("America/Sao_Paulo")]
    fn zones_are_built_in(#[case] name: &str) {
        assert!(TimeZoneDatabase::bundled().get(name).is_ok());
    }

    proptest! {
        /// Backwards and forwards the same starts are found, also around changes of the clock.
        #[test]
        fn a_state_does_not_depend_on_the_direction_of_the_search(
            minute in prop_oneof![0_u32..60, Just(0), Just(30)],
            hour in prop_oneof![Just("2".to_owned()), Just("1".to_owned()), Just("*".to_owned()), (0_u32..24).prop_map(|h| h.to_string())],
            minutes in 5_u64..600,
            zone in prop_oneof![Just("Europe/Berlin"), Just("America/New_York"), Just("Australia/Lord_Howe"), Just("America/Santiago")],
            day in prop_oneof![Just("2026-03-29"), Just("2026-10-25"), Just("2026-03-08"), Just("2026-11-01"), Just("2026-04-05"), Just("2026-10-04"), Just("2026-09-06")],
            offset in -2_000_i64..2_000,
        ) {
            let window = Window::new(&format!("{minute} {hour} * * *"), Duration::from_mins(minutes), Some(zone)).unwrap();
            let now = at(&format!("{day}T00:00:00Z")) + SignedDuration::from_mins(offset);
            let mut from = now - SignedDuration::from_mins(i64::try_from(minutes).unwrap());
            let mut open = false;
            while let Some(start) = window.next_start(from).filter(|start| *start <= now) {
                open = true;
                from = start;
            }
            prop_assert_eq!(matches!(window.state(now), WindowState::Open { .. }), open, "{}", now);
            match window.state(now) {
                WindowState::Open { until } => {
                    let again = matches!(window.state(until), WindowState::Open { .. });
                    prop_assert!(until > now);
                    prop_assert!(!again || until >= now + HORIZON);
                }
                WindowState::Closed { opens } => {
                    let opened = matches!(window.state(opens), WindowState::Open { .. });
                    prop_assert!(opens > now && opened);
                }
            }
        }
    }
}
