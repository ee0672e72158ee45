//! A stanza that is moved to another stream says the same there.
use xmpp_federation_xml::{
    Attribute, Content, Frame, Framer, Limits, Node, Reroot, StreamErrorCondition, XmlError, ns,
};

const HEADERS: [&str; 3] = [
    "<stream:stream xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams' \
     xmlns:s='jabber:server' xmlns:u='urn:u'>",
    "<stream:stream xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams' \
     xmlns:s='jabber:server' xmlns:u='urn:u&amp;' xml:lang='de'>",
    "<stream xmlns='http://etherx.jabber.org/streams' xmlns:s='jabber:server' xmlns:u='urn:u'>",
];
const LINK: &str = "<stream:stream xmlns='jabber:component:accept' \
     xmlns:stream='http://etherx.jabber.org/streams'>";

fn map(node: &mut Node, way: Reroot) {
    if node.ns == way.from {
        way.to.clone_into(&mut node.ns);
    }
    node.attrs.sort();
    for piece in &mut node.content {
        if let Content::Node(child) = piece {
            map(child, way);
        }
    }
}

/// Calls `each` for each element behind the header.
fn elements(header: &str, xml: &[u8], mut each: impl FnMut(&xmpp_federation_xml::Element)) {
    let mut framer = Framer::new(Limits::stanzas(1 << 20));
    framer.feed(header.as_bytes());
    framer.feed(xml);
    while let Ok(Some(frame)) = framer.next_frame() {
        if let Frame::Element(element) = frame {
            each(&element);
        }
    }
}

/// One input.
pub fn run(data: &[u8]) {
    let Some((&choice, data)) = data.split_first() else {
        return;
    };
    let way = Reroot::TO_LINK;
    elements(HEADERS[usize::from(choice) % 3], data, |element| {
        // It goes no further.
        if element.unportable().is_some() {
            return;
        }
        // What would grow beyond reason is refused, nothing else.
        let grows = |error: &XmlError| error.condition == StreamErrorCondition::PolicyViolation;
        let mut expected = match element.parse() {
            Err(error) if grows(&error) => return,
            read => read.expect("both parsers agree"),
        };
        if let Some(lang) = element.context().lang()
            && expected.attr_ns(ns::XML, "lang").is_none()
        {
            expected.attrs.push(Attribute {
                ns: ns::XML.into(),
                name: "lang".into(),
                value: lang.into(),
            });
        }
        map(&mut expected, way);
        let moved = match element.reroot(way) {
            Err(error) if grows(&error) => return,
            moved => moved.expect("both parsers agree"),
        };
        let mut count = 0;
        elements(LINK, &moved, |read| {
            let mut read = read.parse().expect("both parsers agree");
            map(&mut read, way);
            assert_eq!(read, expected);
            count += 1;
        });
        assert_eq!(count, 1);
    });
}
