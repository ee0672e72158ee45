//! Elements of the negotiation as a peer may send them: read or refused, never a panic, and what
//! is answered echoes what was asked.
use xmpp_federation_core::Domain;
use xmpp_federation_edge::dialback::elements::{DialbackElement, Reply, reply};
use xmpp_federation_edge::stream::major_version;
use xmpp_federation_xml::{Element, Frame, Framer, HeaderToSend, Limits, ns};

const HEADER: &str = "<stream:stream xmlns='jabber:server' \
    xmlns:stream='http://etherx.jabber.org/streams' xmlns:db='jabber:server:dialback' version='1.0'>";

fn elements(input: &[u8]) -> Vec<Element> {
    let mut framer = Framer::new(Limits::negotiation());
    framer.feed(input);
    let mut elements = Vec::new();
    while let Ok(Some(frame)) = framer.next_frame() {
        match frame {
            Frame::Header(header) => {
                let _ = major_version(&header);
                // Our own header echoes the domains of the peer's, whatever they are.
                let answer = HeaderToSend {
                    content_ns: ns::SERVER,
                    from: header.to.as_deref(),
                    to: header.from.as_deref(),
                    id: Some("id"),
                    version: true,
                    dialback: true,
                };
                let mut again = Framer::new(Limits::stanzas(1 << 20));
                again.feed(answer.write().expect("what was read can be written").as_bytes());
                let Ok(Some(Frame::Header(read))) = again.next_frame() else {
                    panic!("our header is not read back");
                };
                assert_eq!((&read.from, &read.to), (&header.to, &header.from));
            }
            Frame::Element(element) => elements.push(element),
            Frame::End => break,
        }
    }
    elements
}

/// One input.
pub fn run(data: &[u8]) {
    let Some((&choice, data)) = data.split_first() else {
        return;
    };
    let header = if choice & 1 == 0 { HEADER } else { "" };
    for element in elements(&[header.as_bytes(), data].concat()) {
        let Ok(node) = element.parse() else { continue };
        let _ = node.stream_error();
        let Some(kind) = DialbackElement::kind_of(&element) else {
            continue;
        };
        let Ok(received) = DialbackElement::parse(&element, kind) else {
            continue;
        };
        for domain in [&received.from_domain, &received.to_domain] {
            assert_eq!(Domain::parse(domain.as_str()).as_ref(), Ok(domain));
            assert_eq!(Domain::parse(&domain.to_unicode()).as_ref(), Ok(domain));
        }
        for answer in [Reply::Valid, Reply::Invalid, Reply::Error("item-not-found")] {
            let xml = reply(&received, answer).expect("what was read can be written");
            let [answered] = &elements(&[HEADER.as_bytes(), xml.as_bytes()].concat())[..] else {
                panic!("not one element: {xml}");
            };
            assert_eq!(answered.from(), element.to());
            assert_eq!(answered.to(), element.from());
            assert_eq!(DialbackElement::parse(answered, kind).expect("ours").id, received.id);
        }
    }
}
