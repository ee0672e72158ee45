//! A PROXY header and what follows it: how its bytes are split does not matter, what is behind it is
//! not looked at, and nothing long is waited for.

use xmpp_federation_edge::inbound::proxy::{Origin, parse};

/// The longest header (version 2) that is read.
const LONGEST: usize = 536;

/// One input.
pub fn run(data: &[u8]) {
    let whole = parse(data);
    let mut wanted_more = true;
    for end in 0..=data.len().min(LONGEST + 1) {
        match parse(&data[..end]) {
            Ok(None) => {
                assert!(wanted_more, "more is wanted after a verdict, at {end}");
                assert!(end < LONGEST, "more than {LONGEST} bytes are waited for");
            }
            verdict => {
                wanted_more = false;
                assert_eq!(verdict, whole, "the verdict changes at {end}");
                if let Ok(Some((origin, length))) = verdict {
                    assert!(length <= end, "{length} bytes of {end}");
                    assert_eq!(parse(&data[..length]), whole, "bytes behind the header count");
                    if let Origin::Client(client) = origin {
                        assert_eq!(client.ip(), client.ip().to_canonical());
                    }
                }
            }
        }
    }
}
