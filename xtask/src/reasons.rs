//! The reference of the conditions' and events' reasons: one table per catalogue, in its order.

use std::fmt::Write as _;

use xmpp_federation_imp::reasons::Reason as ImpReason;
use xmpp_federation_operator::api::Reason;

/// The page.
pub fn page() -> String {
    let mut text = "# Reasons of conditions and events\n\n\
        <!-- Generated from src/api/reasons.rs and imp/src/reasons.rs; `cargo run -p xtask -- generate` writes it anew. -->\n\n\
        The message of a condition or event has the values and what to do; this page explains the words.\n"
        .to_owned();
    let mut table = |title: &str, rows: &[(&str, &str, &str)]| {
        let head = "| reason | meaning | what to do |\n|---|---|---|";
        // Writing to a String cannot fail.
        let _ = writeln!(text, "\n## {title}\n\n{head}");
        for (word, meaning, remedy) in rows {
            let remedy = if remedy.is_empty() { "–" } else { remedy };
            let _ = writeln!(text, "| `{word}` | {meaning} | {remedy} |");
        }
    };
    let rows: Vec<_> = Reason::ALL
        .iter()
        .map(|reason| (reason.as_str(), reason.meaning(), reason.remedy()))
        .collect();
    table("The resource, its pods and its records", &rows);
    let rows: Vec<_> = ImpReason::ALL
        .iter()
        .map(|reason| (reason.as_str(), reason.meaning(), reason.remedy()))
        .collect();
    table("IM and Presence", &rows);
    text
}
