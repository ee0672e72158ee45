//! The envelope of profile Xcp: `<route from='A' to='B' type='session'>stanza</route>`.
//!
//! Stanzas wait, and are reported, without envelopes, so that a cluster of either profile can take
//! what was meant for another; an envelope is put around each when it is written.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use xmpp_federation_xml::{Element, Fragments, StreamContext, XmlError, ns};

/// Type of the envelope around what is exchanged between users.
const SESSION: &str = "session";

/// What an envelope holds.
#[derive(Debug)]
pub(super) enum Inside {
    /// One element.
    One(Element),
    /// No element.
    Nothing,
    /// Several elements, or text between them: nobody can tell what is meant.
    Odd(Vec<Element>),
}

/// Puts stanzas into envelopes and takes them out.
#[derive(Debug)]
pub(super) struct Envelopes {
    fragments: Fragments,
    /// Around stanzas that wait for a link: its content namespace, nothing else.
    around: Arc<StreamContext>,
    out: BytesMut,
}

impl Default for Envelopes {
    fn default() -> Self {
        Self {
            fragments: Fragments::default(),
            around: Arc::new(StreamContext::new(ns::COMPONENT, &[], None)),
            out: BytesMut::new(),
        }
    }
}

impl Envelopes {
    /// Takes out what is in an envelope; the bytes are shared.
    pub(super) fn open(&mut self, envelope: &Element) -> Inside {
        let mut first = None;
        let mut more = Vec::new();
        let only_elements = self
            .fragments
            .children(envelope, |child| match &first {
                None => first = Some(child),
                Some(_) => more.push(child),
            })
            .is_ok();
        match first {
            Some(first) if only_elements && more.is_empty() => Inside::One(first),
            None if only_elements => Inside::Nothing,
            first => {
                more.splice(0..0, first);
                Inside::Odd(more)
            }
        }
    }

    /// Puts each of the stanzas, one after the other, into an envelope with its own addresses. What
    /// names no sender is sent by the component `own`.
    pub(super) fn wrap(&mut self, stanzas: &Bytes, own: &str) -> Result<Bytes, XmlError> {
        let Self { fragments, around, out } = self;
        let own = format!("'{own}'");
        // Most envelopes are shorter than their stanzas.
        out.reserve(stanzas.len() * 2);
        fragments.cut(stanzas.clone(), around, |stanza| {
            let from = stanza.from_quoted().unwrap_or(own.as_bytes());
            begin(out, from, stanza.to_quoted());
            out.extend_from_slice(stanza.bytes());
            out.extend_from_slice(END.as_bytes());
        })?;
        Ok(out.split().freeze())
    }
}

const END: &str = "</route>";

/// A stanza of the edge's own in its envelope, between addresses that need no escaping.
pub(super) fn around(from: &str, to: &str, stanza: &str) -> Bytes {
    let quoted = |address: &str| format!("'{address}'").into_bytes();
    let mut xml = BytesMut::new();
    begin(&mut xml, &quoted(from), Some(&quoted(to)));
    xml.extend_from_slice(stanza.as_bytes());
    xml.extend_from_slice(END.as_bytes());
    xml.freeze()
}

/// The envelope's tag. Addresses in their quotes, as they are written in the stanza: escaped anew
/// they could be six times as long.
fn begin(out: &mut BytesMut, from: &[u8], to: Option<&[u8]>) {
    out.extend_from_slice(b"<route from=");
    out.extend_from_slice(from);
    if let Some(to) = to {
        out.extend_from_slice(b" to=");
        out.extend_from_slice(to);
    }
    out.extend_from_slice(b" type='");
    out.extend_from_slice(SESSION.as_bytes());
    out.extend_from_slice(b"'>");
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::*;
    use xmpp_federation_xml::split;

    #[test]
    fn each_stanza_gets_an_envelope_with_its_addresses_and_comes_out_unchanged() {
        let stanzas = [
            "<message from='bob@x.example/&lt;&apos;' to=\"a'b@y.example\" id='1'><body>x</body></message>",
            "<iq to='c@y.example' type='error'/>",
            "<presence from='bob@x.example' to='c@y.example' xml:lang='de' xmlns:p='urn:p' p:a='1'/>",
        ];
        let mut envelopes = Envelopes::default();
        let text = Bytes::from(stanzas.concat());
        for _ in 0..2 {
            let wrapped = envelopes.wrap(&text, "cm-1.own").unwrap();
            let routes = split(&wrapped, ns::COMPONENT);
            assert_eq!(routes.len(), 3);
            for (route, stanza) in routes.iter().zip(stanzas) {
                assert!(route.is(ns::COMPONENT, "route"));
                let Inside::One(inside) = envelopes.open(route) else {
                    panic!("{route:?}")
                };
                assert_eq!(inside.bytes(), stanza.as_bytes());
                assert_eq!(inside.to(), route.to());
                assert_eq!(route.type_().as_deref(), Some("session"));
                let own = inside.from().unwrap_or("cm-1.own".into());
                assert_eq!(route.from(), Some(own));
            }
        }
    }
}
