//! The XCP services beside the router. A restart of the router takes all of them down and up, and
//! a node is back only when those that are activated are.
//!
//! The names are those of Cisco's serviceability guides; a release that has no service of a name
//! says so (-1010), and one that is not activated does not count (-1068). IM&P's own federation is
//! not among them: it has to be off.

use super::{ServiceState, item, number, state, up_time};
use crate::soap::Element;

/// Their names.
pub const NAMES: [&str; 9] = [
    "Cisco XCP Authentication Service",
    "Cisco XCP Connection Manager",
    "Cisco XCP Directory Service",
    "Cisco XCP File Transfer Manager",
    "Cisco XCP Message Archiver",
    "Cisco XCP SIP Federation Connection Manager",
    "Cisco XCP Text Conference Manager",
    "Cisco XCP Web Connection Manager",
    "Cisco XCP Config Manager",
];

/// A service that is activated and does not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Down {
    /// Its name.
    pub name: &'static str,
    /// What it does instead.
    pub state: ServiceState,
}

/// Those that are activated and do not run, and the shortest up time of those that do, in seconds.
pub fn read(answer: &Element) -> (Vec<Down>, Option<u64>) {
    let mut down = Vec::new();
    let mut youngest: Option<u64> = None;
    for name in NAMES {
        let Some(item) = item(answer, name) else {
            continue;
        };
        if matches!(number(item, "ReasonCode"), Some(-1010 | -1068)) {
            continue;
        }
        match state(item) {
            ServiceState::Started => {
                // An up time of 0 is that of a start just now; others that tell nothing do not count.
                let just_now = (number(item, "UpTime") == Some(0)).then_some(0);
                let known = up_time(item).or(just_now);
                youngest = known.into_iter().chain(youngest).min();
            }
            // Nobody described what else there is: it proves nothing.
            ServiceState::Unknown => {}
            state => down.push(Down { name, state }),
        }
    }
    (down, youngest)
}
