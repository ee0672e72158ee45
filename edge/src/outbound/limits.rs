//! What a peer says about itself in its stream features (XEP-0478).

use std::time::Duration;

use xmpp_federation_xml::{Node, ns};

/// The peer's limits, as far as it tells them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PeerLimits {
    /// Largest stanza it takes, bytes. A larger one would end the stream, so it is not sent.
    pub max_bytes: Option<usize>,
    /// It closes a stream that was idle for this time.
    pub idle: Option<Duration>,
}

impl PeerLimits {
    /// Reads `<limits/>` of the features; what is missing or no positive number is not limited.
    pub fn read(features: &Node) -> Self {
        let limits = features.child(ns::STREAM_LIMITS, "limits");
        let number = |name: &str| {
            let text = limits?.child(ns::STREAM_LIMITS, name)?.text();
            text.trim().parse::<u64>().ok().filter(|n| *n > 0)
        };
        Self {
            max_bytes: number("max-bytes").and_then(|bytes| usize::try_from(bytes).ok()),
            idle: number("idle-seconds").map(Duration::from_secs),
        }
    }

    /// When to close an idle stream: at our own time, but before the peer does: what is sent into
    /// a stream that it is just closing would have to be reported as lost.
    pub fn idle_timeout(&self, own: Duration) -> Duration {
        self.idle.map_or(own, |theirs| own.min(theirs / 10 * 9))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::*;
    use rstest::rstest;
    use xmpp_federation_xml::{Frame, Framer, Limits};

    fn read(inside: &str) -> PeerLimits {
        let (server, streams) = (ns::SERVER, ns::STREAMS);
        let mut framer = Framer::new(Limits::negotiation());
        framer.feed(
            format!("<s:stream xmlns='{server}' xmlns:s='{streams}'><s:features>{inside}</s:features>").as_bytes(),
        );
        framer.next_frame().unwrap();
        match framer.next_frame().unwrap() {
            Some(Frame::Element(features)) => PeerLimits::read(&features.parse().unwrap()),
            other => panic!("{other:?}"),
        }
    }

    const OPEN: &str = "<limits xmlns='urn:xmpp:stream-limits:0'>";

    #[rstest]
    #[case::nothing("", None, None)]
    #[case::both(
        "<max-bytes>10000</max-bytes><idle-seconds>60</idle-seconds>",
        Some(10_000),
        Some(60)
    )]
    #[case::spaces("<max-bytes> 262144\n</max-bytes>", Some(262_144), None)]
    #[case::zero("<max-bytes>0</max-bytes><idle-seconds>0</idle-seconds>", None, None)]
    #[case::words("<max-bytes>lots</max-bytes><idle-seconds>-5</idle-seconds>", None, None)]
    #[case::huge("<max-bytes>99999999999999999999999</max-bytes>", None, None)]
    #[case::other_namespace("<max-bytes xmlns='urn:other'>5</max-bytes>", None, None)]
    fn the_numbers_of_the_features_are_read(
        #[case] inside: &str,
        #[case] max_bytes: Option<usize>,
        #[case] idle: Option<u64>,
    ) {
        let idle = idle.map(Duration::from_secs);
        assert_eq!(
            read(&format!("{OPEN}{inside}</limits>")),
            PeerLimits { max_bytes, idle }
        );
    }

    #[test]
    fn features_without_limits_limit_nothing() {
        assert_eq!(read(""), PeerLimits::default());
    }

    #[rstest]
    #[case(None, 600)]
    #[case(Some(60), 54)]
    #[case(Some(1000), 600)]
    #[case(Some(660), 594)]
    fn an_idle_stream_is_closed_before_the_peer_would(#[case] theirs: Option<u64>, #[case] expected: u64) {
        let limits = PeerLimits {
            idle: theirs.map(Duration::from_secs),
            ..PeerLimits::default()
        };
        assert_eq!(
            limits.idle_timeout(Duration::from_mins(10)),
            Duration::from_secs(expected)
        );
    }
}
