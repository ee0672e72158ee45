#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
use super::*;
use proptest::prelude::*;
use rstest::rstest;
use xmpp_federation_xml::{ns, split};

/// What happens to a link, one after the other.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// So many are sent and all come back, each from another user, before the proof.
    Bounced(u64, &'static str),
    /// The same, all from one user.
    FromOne(u64, &'static str),
    /// So many are sent, and nothing comes back.
    Taken(usize),
    /// The errors of the last come only after the proof.
    Late(u64, &'static str),
    Heard(RouterEvidence),
    /// So many milliseconds pass.
    Wait(u64),
}

use Step::{Bounced, FromOne, Late, Taken, Wait};

const AWAY: &str = "service-unavailable";
const NO_WAY: &str = "remote-server-not-found";

fn play(steps: &[Step]) -> Option<edge_status::ReturnedStanzas> {
    let mut returned = ReturnCounts::default();
    let mut now = Instant::now();
    for step in steps {
        match *step {
            Bounced(n, condition) => {
                for k in 0..n {
                    let left = usize::try_from(n).unwrap();
                    returned.came_back(now, condition, &format!("u{k}@coluc.com/phone"), left);
                }
                returned.processed(now, usize::try_from(n).unwrap());
            }
            FromOne(n, condition) => {
                for k in 0..n {
                    let left = usize::try_from(n).unwrap();
                    returned.came_back(now, condition, &format!("alice@coluc.com/{k}"), left);
                }
                returned.processed(now, usize::try_from(n).unwrap());
            }
            Late(n, condition) => {
                returned.processed(now, usize::try_from(n).unwrap());
                now += Duration::from_millis(500);
                for k in 0..n {
                    returned.came_back(now, condition, &format!("u{k}@coluc.com"), 0);
                }
            }
            Taken(n) => returned.processed(now, n),
            Step::Heard(heard) => returned.heard(heard),
            Wait(ms) => now += Duration::from_millis(ms),
        }
    }
    returned.told(now)
}

#[rstest]
// Servers that fail show with a few stanzas, whoever they are for.
#[case::no_way(&[FromOne(3, NO_WAY), Wait(9000)], true)]
#[case::over_time(&[FromOne(1, NO_WAY), Wait(60_000), FromOne(1, NO_WAY), Wait(60_000), FromOne(1, NO_WAY)], true)]
#[case::after_hours_of_delivery(&[Taken(1000), Wait(10_000), FromOne(3, NO_WAY), Wait(9000)], true)]
#[case::errors_behind_the_proof(&[Late(2, NO_WAY), Wait(1000), Late(2, NO_WAY), Wait(9000)], true)]
#[case::users_go_on_writing(&[FromOne(3, NO_WAY), Step::Heard(RouterEvidence::Sent), Wait(9000)], true)]
// Errors that users cause need many of them.
#[case::all_users_away(&[Bounced(9, AWAY), Wait(11_000)], true)]
#[case::presence_comes_back_too(&[Bounced(9, AWAY), Step::Heard(RouterEvidence::Nothing), Wait(11_000)], true)]
// Not everything.
#[case::one_user_is_away(&[FromOne(500, AWAY), Wait(11_000)], false)]
#[case::two_are_unknown(&[Bounced(2, "item-not-found"), Wait(20_000), Bounced(2, "item-not-found")], false)]
#[case::some_are_away_and_others_write(&[Bounced(9, AWAY), Step::Heard(RouterEvidence::Sent), Wait(11_000)], false)]
#[case::too_few(&[FromOne(2, NO_WAY), Wait(9000)], false)]
#[case::too_soon(&[FromOne(300, NO_WAY), Wait(1000)], false)]
#[case::one_was_taken(&[FromOne(300, NO_WAY), Taken(1), Wait(9000)], false)]
#[case::one_was_taken_before(&[Wait(100), Taken(1), FromOne(300, NO_WAY), Wait(9000)], false)]
#[case::a_request_was_answered(&[FromOne(300, NO_WAY), Step::Heard(RouterEvidence::Answered), Wait(9000)], false)]
#[case::different_errors(&[FromOne(2, NO_WAY), FromOne(2, "internal-server-error"), Wait(9000)], false)]
#[case::half_of_it(&[FromOne(3, NO_WAY), Taken(3), Wait(2900), FromOne(3, NO_WAY), Taken(3), Wait(2900), FromOne(3, NO_WAY), Taken(3)], false)]
#[case::long_ago(&[FromOne(9, NO_WAY), Wait(660_000)], false)]
#[case::nothing_came_back(&[Taken(100), Wait(9000)], false)]
#[case::silence(&[Wait(9000)], false)]
fn everything_is_told_from_single_users(#[case] steps: &[Step], #[case] everything: bool) {
    let told = play(steps);
    assert_eq!(told.as_ref().is_some_and(|t| t.everything), everything, "{told:?}");
}

#[test]
fn numbers_and_condition_are_told_and_nobody_s_name() {
    let told = play(&[Bounced(9, AWAY), Taken(1)]).unwrap();
    assert_eq!((told.sent, told.returned), (10, 9));
    assert_eq!(told.condition, AWAY);
    assert!(!serde_json::to_string(&told).unwrap().contains("coluc"));
}

#[test]
fn that_everything_comes_back_is_news_once() {
    let (mut returned, start) = (ReturnCounts::default(), Instant::now());
    let news: Vec<bool> = (0..30)
        .map(|n| {
            let now = start + Duration::from_secs(n);
            let news = returned.came_back(now, NO_WAY, "alice@coluc.com", 1);
            returned.processed(now, 1);
            news
        })
        .collect();
    assert_eq!(news.iter().filter(|news| **news).count(), 1, "{news:?}");
}

proptest! {
    /// However stanzas and errors are mixed: as long as one is taken every few seconds, nobody says
    /// that everything comes back.
    #[test]
    fn a_router_that_takes_something_is_never_called_one_that_takes_nothing(
        turns in prop::collection::vec((0_usize..200, 0_u64..2500), 1..60)
    ) {
        let (mut returned, mut now) = (ReturnCounts::default(), Instant::now());
        for (bounced, wait) in turns {
            for _ in 0..bounced {
                returned.came_back(now, NO_WAY, "alice@coluc.com", bounced + 1);
            }
            returned.processed(now, bounced + 1);
            prop_assert!(returned.told(now).is_none_or(|told| !told.everything));
            now += Duration::from_millis(wait);
        }
    }
}

#[rstest]
#[case("<item-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>", "item-not-found")]
#[case(
    "<service-unavailable xmlns=\"urn:ietf:params:xml:ns:xmpp-stanzas\"/><text xmlns='urn:ietf:params:xml:ns:xmpp-stanzas' xml:lang='en'>gone away</text>",
    "service-unavailable"
)]
#[case(
    "<redirect xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'>xmpp:a@b.example</redirect>",
    "redirect"
)]
#[case("<e:gone xmlns:e='urn:ietf:params:xml:ns:xmpp-stanzas'/>", "gone")]
#[case("<too-hot xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>", "undefined-condition")]
#[case("<too-hot xmlns='urn:example'/>", "undefined-condition")]
#[case("", "undefined-condition")]
fn the_condition_is_one_of_the_defined_ones(#[case] error: &str, #[case] expected: &str) {
    let text = format!(
        "<message from='alice@coluc.com' to='bob@vngtp.lab' type='error'><body>x</body><error type='cancel'>{error}</error></message>"
    );
    let elements = split(text.as_bytes(), ns::COMPONENT);
    assert_eq!(elements.len(), 1, "{text}");
    assert_eq!(condition(&elements[0]), expected);
}
