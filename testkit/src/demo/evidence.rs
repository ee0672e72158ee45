//! What logs must show.

use super::report::{Talk, ensure};
use super::world::World;
use crate::Error;

/// The partner's log since `from` shows TLS and completed dialback in both directions.
pub fn partner_saw_tls_and_dialback(talk: Talk, world: &World, from: usize) -> Result<(), Error> {
    let (log, _) = world.partner_log(from)?;
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
    for (role, words) in ROLES {
        let line = find_line(&log, words).map_err(|error| {
            format!("the edge's log does not show it as {role} server: {error}")
        })?;
        talk.fact(&format!("{role} server"), line);
    }
    ensure(!log.contains("panicked"), || {
        "the edge's log has a panic".to_owned()
    })
}

/// Words of the edge's log line for each role of XEP-0220.
const ROLES: [(&str, &[&str]); 3] = [
    ("initiating", &["db:result", "sent", "vngtp.lab"]),
    ("receiving", &["db:verify", "sent", "vngtp.lab"]),
    ("authoritative", &["db:verify", "answered", "vngtp.lab"]),
];
