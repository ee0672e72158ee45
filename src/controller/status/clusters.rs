//! One verdict over all clusters of IM and Presence. With a single one it is that one's; of several
//! each sentence names its entry, and what fails comes before what is not known.

use crate::api::conditions::{Status, Verdict};
use crate::api::reasons::Reason;

/// A verdict and the name of its entry.
pub(super) type Named = (String, Verdict);

/// False where one is, then Unknown where one is, else True with what each says.
pub(super) fn over_all(mut verdicts: Vec<Named>) -> Verdict {
    if verdicts.len() == 1
        && let Some((_, verdict)) = verdicts.pop()
    {
        return verdict;
    }
    let state = [Status::False, Status::Unknown]
        .into_iter()
        .find(|state| verdicts.iter().any(|(_, verdict)| verdict.status == *state))
        .unwrap_or(Status::True);
    let told: Vec<&Named> = verdicts.iter().filter(|(_, verdict)| verdict.status == state).collect();
    Verdict {
        status: state,
        reason: told.first().map_or(Reason::AsWanted, |(_, verdict)| verdict.reason),
        message: sentences(told.iter().map(|(name, v)| (name.as_str(), v.message.as_str()))),
    }
}

/// Sentences, each behind the name of its entry.
pub(super) fn sentences<'a>(named: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    named
        .map(|(name, sentence)| format!("{name}: {sentence}"))
        .collect::<Vec<_>>()
        .join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn verdict(letter: char) -> Verdict {
        match letter {
            'y' => Verdict::yes(Reason::AsWanted, "good"),
            'n' => Verdict::no(Reason::LinksDown, "bad"),
            _ => Verdict::unknown(Reason::NotLookedYet, "not known"),
        }
    }

    #[rstest]
    #[case("y", Status::True, "AsWanted", "good")]
    #[case("n", Status::False, "LinksDown", "bad")]
    #[case("yy", Status::True, "AsWanted", "a: good; b: good")]
    #[case("yn", Status::False, "LinksDown", "b: bad")]
    #[case("?n", Status::False, "LinksDown", "b: bad")]
    #[case("y?", Status::Unknown, "NotLookedYet", "b: not known")]
    #[case("nyn", Status::False, "LinksDown", "a: bad; c: bad")]
    fn one_that_fails_speaks_for_all(
        #[case] states: &str,
        #[case] state: Status,
        #[case] reason: &str,
        #[case] message: &str,
    ) {
        let named = states
            .chars()
            .zip('a'..)
            .map(|(letter, name)| (name.to_string(), verdict(letter)))
            .collect();
        let found = over_all(named);
        assert_eq!(
            (found.status, found.reason.as_str(), found.message.as_str()),
            (state, reason, message)
        );
    }
}
