//! The messages: 243 bytes each, built before anything is measured. The last four characters of the body
//! name the lane, so that what arrives can be counted without being parsed.

/// Bytes of one message, as in published comparisons of XMPP servers.
pub const SIZE: usize = 243;
/// Digits in front of `</body>` that name the lane.
pub const LANE_DIGITS: usize = 4;

/// A message from one address to another, padded to [`SIZE`] bytes.
pub fn message(from: &str, to: &str, lane: usize) -> String {
    let head = format!("<message from='bob@{from}/7fQ2' to='alice@{to}/desk' id='a1b2c3d4' type='chat'><body>");
    let tail = format!("{lane:04}</body><active xmlns='http://jabber.org/protocol/chatstates'/></message>");
    let room = SIZE.saturating_sub(head.len() + tail.len());
    let text = "Lunch at twelve? The place on the corner has soup today. ";
    let text: String = text.chars().cycle().take(room).collect();
    format!("{head}{text}{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_243_bytes_and_ends_its_body_with_the_lane() {
        let xml = message("l0007.peer-0.lab", "bench.a-0.lab", 7);
        assert_eq!(xml.len(), SIZE);
        assert!(xml.contains("0007</body>"));
    }
}
