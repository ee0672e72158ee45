//! A stanza that is moved to another stream says the same there.
use xmpp_federation_xml::Reroot;
use xmpp_federation_xml::testing::{elements, grows, mapped, moved};

const HEADERS: [&str; 3] = [
    "<stream:stream xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams' \
     xmlns:s='jabber:server' xmlns:u='urn:u'>",
    "<stream:stream xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams' \
     xmlns:s='jabber:server' xmlns:u='urn:u&amp;' xml:lang='de'>",
    "<stream xmlns='http://etherx.jabber.org/streams' xmlns:s='jabber:server' xmlns:u='urn:u'>",
];

/// One input.
pub fn run(data: &[u8]) {
    let Some((&choice, data)) = data.split_first() else {
        return;
    };
    let way = Reroot::TO_LINK;
    for element in elements(HEADERS[usize::from(choice) % 3], data) {
        // What is not portable goes no further.
        if element.unportable().is_some() {
            continue;
        }
        match (mapped(&element, way), moved(&element, way)) {
            (Ok(expected), Ok((_, read))) => assert_eq!(read, expected),
            // What would grow beyond reason is refused, nothing else.
            (Err(error), _) | (_, Err(error)) => assert!(grows(&error), "both parsers agree: {error}"),
        }
    }
}
