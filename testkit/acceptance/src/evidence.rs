//! What logs must show.

use std::fmt::Write as _;

use super::report::{Talk, ensure};
use super::world::World;
use testkit_base::Error;
use testkit_lab::hosts;

/// The partner's log shows TLS and completed dialback in both directions.
pub fn partner_saw_tls_and_dialback(talk: Talk, world: &World) -> Result<(), Error> {
    let path = hosts::partner_server_log(&world.lab);
    let log = std::fs::read(&path).map_err(|error| format!("the partner's log {}: {error}", path.display()))?;
    let log = String::from_utf8_lossy(&log);
    for (what, words) in [
        ("partner's log: TLS", &["Stream encrypted (TLSv1."][..]),
        (
            "partner's log: inbound",
            &["Incoming s2s connection coluc.com->vngtp.lab complete"],
        ),
        (
            "partner's log: outbound",
            &["Outgoing s2s connection vngtp.lab->coluc.com complete"],
        ),
    ] {
        talk.fact(what, find_line(&log, words)?);
    }
    Ok(())
}

/// The first line that holds all the words.
pub fn find_line<'a>(log: &'a str, words: &[&str]) -> Result<&'a str, Error> {
    log.lines()
        .find(|line| words.iter().all(|word| line.contains(word)))
        .map(str::trim)
        .ok_or_else(|| format!("no line with {} in the log", words.join(" and ")).into())
}

/// The edge's log lines that show it as initiating, receiving and authoritative server.
pub fn dialback_roles(talk: Talk, logs: &[String]) -> Result<(), Error> {
    let log = logs.join("\n");
    for (label, words) in ROLES {
        let line = find_line(&log, words).map_err(|error| format!("the edge's log: {error}"))?;
        talk.fact(label, brief(line));
    }
    ensure(!log.contains("panicked"), || "the edge's log has a panic".to_owned())
}

/// Words of the edge's log lines for the roles of XEP-0220 and what belongs to them.
const ROLES: [(&str, &[&str]); 9] = [
    ("initiating: resolution", &["resolved the remote domain", "vngtp.lab"]),
    ("initiating: key", &["initiating", "db:result sent", "vngtp.lab"]),
    (
        "initiating: timer",
        &["initiating", "dialback timer started", "vngtp.lab"],
    ),
    (
        "initiating: state",
        &["initiating", "state of the pair changed", "CONNECTED", "vngtp.lab"],
    ),
    ("receiving: asks", &["receiving", "db:verify sent", "vngtp.lab"]),
    (
        "receiving: stream",
        &["receiving", "stream used for dialback only", "vngtp.lab"],
    ),
    ("receiving: answer", &["receiving", "db:verify answered", "vngtp.lab"]),
    (
        "receiving: state",
        &["receiving", "state of the pair changed", "CONNECTED", "vngtp.lab"],
    ),
    (
        "authoritative",
        &["authoritative", "db:verify received and answered", "vngtp.lab"],
    ),
];

/// A line of JSON as its message and fields; any other line as it is.
fn brief(line: &str) -> String {
    let Ok(serde_json::Value::Object(entry)) = serde_json::from_str(line) else {
        return line.to_owned();
    };
    let flat = entry.get("fields").and_then(|fields| fields.as_object());
    let fields = flat.unwrap_or(&entry);
    let mut text = String::new();
    let message = fields.get("message").and_then(|message| message.as_str());
    text.push_str(message.unwrap_or_default());
    for (name, value) in fields {
        if matches!(name.as_str(), "message" | "timestamp" | "level" | "target" | "role") {
            continue;
        }
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let _ = write!(text, " {name}={value}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_line_in_json_is_shown_as_its_message_and_fields() {
        let line = r#"{"timestamp":"t","level":"INFO","role":"initiating","ms":3,"message":"db:result sent"}"#;
        assert_eq!(brief(line), "db:result sent ms=3");
        assert_eq!(brief("plain"), "plain");
    }

    #[test]
    fn a_line_counts_only_with_all_words() {
        let log = "one db:verify sent to a\ntwo db:verify answered by b\n";
        assert_eq!(
            find_line(log, &["db:verify", "answered"]).ok(),
            Some("two db:verify answered by b")
        );
        assert!(find_line(log, &["sent", "by b"]).is_err());
    }
}
