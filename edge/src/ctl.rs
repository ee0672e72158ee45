//! The answers of the control socket as `ctl` prints them: tables for people.

use std::fmt::Write as _;

use serde_json::Value;

use crate::observe::trace::printable;

/// Longest text in a cell, bytes.
const CELL: usize = 160;
/// Keys of one stream that have a line each.
const KEYS: usize = 4;

/// Columns as wide as their longest cell; the last one is not filled up.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (cell, width) in cells.zip(&widths) {
            let _ = write!(text, "{cell:<width$}  ");
        }
        out.push_str(text.trim_end());
        out.push('\n');
    };
    line(&mut head.iter().copied());
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
    out
}

/// `3 s`, `12 min`, `5 h`, `4 d`.
pub fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// `812 B`, `24 kB`, `3 MB`.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} B"),
        10_000..10_000_000 => format!("{} kB", bytes / 1000),
        _ => format!("{} MB", bytes / 1_000_000),
    }
}

fn text(value: &Value, name: &str) -> String {
    match value.get(name) {
        Some(Value::String(text)) => printable(text, CELL),
        Some(Value::Null) | None => "-".to_owned(),
        Some(other) => other.to_string(),
    }
}

fn number(value: &Value, name: &str) -> u64 {
    value.get(name).and_then(Value::as_u64).unwrap_or(0)
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// `3 (24 kB)`.
fn waiting(value: &Value) -> String {
    match number(value, "stanzasWaiting") {
        0 => "-".to_owned(),
        stanzas => format!("{stanzas} ({})", size(number(value, "bytesWaiting"))),
    }
}

/// A line for each of a stream's keys that have no answer yet, and one for those beyond
/// [`KEYS`].
fn keys(keys: &[Value]) -> Vec<String> {
    let line = |key: &Value| {
        let (local, remote) = (text(key, "local"), text(key, "remote"));
        let time = span(number(key, "seconds"));
        match text(key, "state").as_str() {
            "waiting" => format!("{local} - {remote} (key waits for its turn for {time}, others are verified first)"),
            _ => format!("{local} - {remote} (key is verified for {time}, {remote} is asked)"),
        }
    };
    let mut lines: Vec<_> = keys.iter().take(KEYS).map(line).collect();
    if keys.len() > KEYS {
        lines.push(format!("and {} more keys", keys.len() - KEYS));
    }
    lines
}

/// How many keys are verified and how many wait, on all of these streams; empty if there are none.
fn all_keys(streams: &[Value]) -> String {
    let keys: Vec<_> = streams.iter().flat_map(|stream| list(stream, "keys")).collect();
    let waiting: Vec<_> = keys
        .iter()
        .filter(|key| text(key, "state") == "waiting")
        .map(|key| number(key, "seconds"))
        .collect();
    if keys.is_empty() {
        return String::new();
    }
    let mut out = format!("; keys: {} being verified", keys.len() - waiting.len());
    if let Some(longest) = waiting.iter().max() {
        let _ = write!(
            out,
            ", {} waiting for their turn (limits.maxVerifications), the longest for {}",
            waiting.len(),
            span(*longest)
        );
    }
    out
}

/// The answer to `connections`.
pub fn connections(answer: &Value) -> String {
    let streams = answer.as_array().map_or(&[][..], Vec::as_slice);
    let mut rows = Vec::new();
    for stream in streams {
        let mut pairs: Vec<String> = list(stream, "pairs")
            .iter()
            .map(|pair| {
                let (local, remote) = (text(pair, "local"), text(pair, "remote"));
                format!("{local} - {remote} ({})", text(pair, "mechanism"))
            })
            .collect();
        pairs.extend(keys(list(stream, "keys")));
        if pairs.is_empty() {
            pairs.push(match stream.get("remote") {
                Some(_) => format!("none yet; {}", text(stream, "remote")),
                None => "none yet".to_owned(),
            });
        }
        // Before the handshake nobody knows.
        let negotiating = text(stream, "phase") == "negotiating";
        let no_tls = if negotiating { "-" } else { "none" };
        let tls = stream.get("tls").map_or_else(
            || no_tls.to_owned(),
            |tls| format!("{} {}", text(tls, "version"), text(tls, "cipher")),
        );
        let both = |received: &str, sent: &str, show: fn(u64) -> String| {
            let (received, sent) = (number(stream, received), number(stream, sent));
            format!("{} / {}", show(received), show(sent))
        };
        let mut pairs = pairs.into_iter();
        rows.push(vec![
            text(stream, "id"),
            text(stream, "direction"),
            text(stream, "peer"),
            text(stream, "phase"),
            text(stream, "purpose"),
            pairs.next().unwrap_or_default(),
            tls,
            text(stream, "certificate"),
            span(number(stream, "ageSeconds")),
            span(number(stream, "idleSeconds")),
            both("stanzasReceived", "stanzasSent", |n| n.to_string()),
            both("bytesReceived", "bytesSent", size),
            waiting(stream),
        ]);
        for pair in pairs {
            let mut row = vec![String::new(); 5];
            row.push(pair);
            rows.push(row);
        }
    }
    let head = [
        "ID",
        "DIRECTION",
        "PEER",
        "PHASE",
        "FOR",
        "PAIRS",
        "TLS",
        "CERTIFICATE",
        "AGE",
        "IDLE",
        "STANZAS IN / OUT",
        "BYTES IN / OUT",
        "WAITING",
    ];
    let mut out = table(&head, &rows);
    let inbound = streams
        .iter()
        .filter(|stream| text(stream, "direction") == "inbound")
        .count();
    let outbound = streams.len() - inbound;
    let keys = all_keys(streams);
    let _ = writeln!(out, "{inbound} inbound, {outbound} outbound{keys}");
    out
}

/// Since when a domain fails, and for which hosted domains if not for all.
fn since(domain: &Value) -> String {
    let pairs = list(domain, "failingPairs").iter();
    let pairs: Vec<_> = pairs
        .map(|pair| format!("for {} since {}", text(pair, "local"), text(pair, "since")))
        .collect();
    if pairs.is_empty() {
        return format!("since {}", text(domain, "failingSince"));
    }
    pairs.join(", ")
}

/// The answer to `failures`.
pub fn failures(answer: &Value) -> String {
    let mut out = String::new();
    let domains = answer.as_array().map_or(&[][..], Vec::as_slice);
    for domain in domains {
        let failing = domain.get("failing") == Some(&Value::Bool(true));
        let state = match (failing, domain.get("lastSuccess")) {
            (true, _) => format!("failing {}", since(domain)),
            (false, Some(_)) => format!("works again since {}", text(domain, "lastSuccess")),
            (false, None) => "outbound attempts do not fail".to_owned(),
        };
        let stranger = match domain.get("configured") {
            Some(Value::Bool(true)) => "",
            _ => ", not configured",
        };
        let waiting = match waiting(domain).as_str() {
            "-" => String::new(),
            stanzas => format!("; stanzas waiting: {stanzas}"),
        };
        let _ = writeln!(out, "{}{stranger}: {state}{waiting}", text(domain, "domain"));
        let rows: Vec<_> = list(domain, "attempts")
            .iter()
            .map(|attempt| {
                vec![
                    String::new(),
                    seconds_only(&text(attempt, "time")),
                    text(attempt, "count"),
                    text(attempt, "direction"),
                    text(attempt, "stage"),
                    text(attempt, "local"),
                    text(attempt, "address"),
                    attempt
                        .get("reason")
                        .and_then(Value::as_str)
                        .map(|reason| printable(reason, usize::MAX))
                        .unwrap_or_default(),
                ]
            })
            .collect();
        let head = ["", "LAST", "TIMES", "DIRECTION", "STAGE", "HOSTED", "ADDRESS", "WHY"];
        out.push_str(&table(&head, &rows));
    }
    if domains.is_empty() {
        out.push_str("no failed attempts\n");
    }
    out
}

/// `2026-11-25T19:34:50.123456Z` without its fraction.
fn seconds_only(time: &str) -> String {
    match time.split_once('.') {
        Some((seconds, _)) => format!("{seconds}Z"),
        None => time.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn connections_are_a_table_with_a_line_for_each_further_pair() {
        let answer = json!([{
            "id": 7, "direction": "inbound", "peer": "198.51.100.7:41234", "phase": "established",
            "purpose": "stanzas", "tls": {"version": "TLSv1_3", "cipher": "TLS13_AES_128_GCM_SHA256"},
            "certificate": "valid", "remote": "vngtp.lab", "since": "2026-11-25T19:34:50Z",
            "ageSeconds": 4000, "idleSeconds": 3, "stanzasReceived": 12, "stanzasSent": 0,
            "bytesReceived": 24_000, "bytesSent": 900, "stanzasWaiting": 3, "bytesWaiting": 729,
            "pairs": [
                {"local": "coluc.com", "remote": "vngtp.lab", "mechanism": "dialback"},
                {"local": "conf.coluc.com", "remote": "vngtp.lab", "mechanism": "external"},
            ],
        }]);
        let shown = connections(&answer);
        let lines: Vec<_> = shown.lines().collect();
        assert_eq!(lines.len(), 4, "{shown}");
        let expected = "7   inbound    198.51.100.7:41234  established  stanzas  coluc.com - vngtp.lab (dialback)       TLSv1_3 TLS13_AES_128_GCM_SHA256  valid        66 min  3 s   12 / 0            24 kB / 900 B   3 (729 B)";
        assert_eq!(lines.get(1), Some(&expected));
        let further = lines
            .get(2)
            .is_some_and(|line| line.trim_start() == "conf.coluc.com - vngtp.lab (external)");
        assert!(further, "{shown}");
        assert_eq!(lines.last(), Some(&"1 inbound, 0 outbound"));
    }

    #[test]
    fn keys_that_wait_are_told_with_the_time_that_they_wait() {
        let key = |n: u64, state: &str| json!({"local": "coluc.com", "remote": format!("d{n}.example"), "state": state, "seconds": 10 * n});
        let stream =
            |keys: &[Value]| json!({"direction": "inbound", "pairs": [], "remote": "d1.example", "keys": keys});
        let first: Vec<_> = (1..8).map(|n| key(n, "waiting")).collect();
        let shown = connections(&json!([stream(&first), stream(&[key(9, "asking")])]));
        for line in [
            "coluc.com - d2.example (key waits for its turn for 20 s, others are verified first)",
            "and 3 more keys",
            "coluc.com - d9.example (key is verified for 90 s, d9.example is asked)",
            "2 inbound, 0 outbound; keys: 1 being verified, 7 waiting for their turn (limits.maxVerifications), the longest for 70 s",
        ] {
            assert!(shown.contains(line), "{line} in\n{shown}");
        }
        assert!(!shown.contains("none yet"), "{shown}");
    }

    #[test]
    fn failures_say_when_where_and_why() {
        let answer = json!([{
            "domain": "vngtp.lab", "configured": true, "failing": true,
            "failingSince": "2026-11-25T19:00:00Z", "stanzasWaiting": 7, "bytesWaiting": 24_000,
            "attempts": [{
                "time": "2026-11-25T19:34:50.123456Z", "first": "2026-11-25T19:34:50.123456Z",
                "count": 3, "direction": "outbound", "stage": "connect",
                "address": "198.51.100.7:5269", "reason": "connection refused\u{1b}[2J",
            }],
        }, {
            "domain": "xmpp.example", "configured": true, "failing": true,
            "failingSince": "2026-11-25T19:00:00Z", "lastSuccess": "2026-11-25T19:10:00Z",
            "failingPairs": [
                {"local": "coluc.com", "since": "2026-11-25T19:00:00Z", "reason": "refused"},
                {"local": "conf.coluc.com", "since": "2026-11-25T19:05:00Z", "reason": "refused"},
            ],
            "attempts": [{
                "time": "2026-11-25T19:34:50Z", "first": "2026-11-25T19:34:50Z", "count": 1, "direction": "outbound",
                "stage": "dialback", "local": "coluc.com", "address": "198.51.100.8:5269", "reason": "refused",
            }],
        }]);
        let shown = failures(&answer);
        assert!(
            shown.starts_with("vngtp.lab: failing since 2026-11-25T19:00:00Z; stanzas waiting: 7 (24 kB)\n"),
            "{shown}"
        );
        assert!(
            shown.contains(
                "2026-11-25T19:34:50Z  3      outbound   connect  -       198.51.100.7:5269  connection refused\\u{1b}[2J"
            ),
            "{shown}"
        );
        for line in [
            "xmpp.example: failing for coluc.com since 2026-11-25T19:00:00Z, for conf.coluc.com since 2026-11-25T19:05:00Z\n",
            "outbound   dialback  coluc.com  198.51.100.8:5269  refused\n",
        ] {
            assert!(shown.contains(line), "{line} in\n{shown}");
        }
        assert_eq!(failures(&json!([])), "no failed attempts\n");
    }
}
