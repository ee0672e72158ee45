//! Elements that are already here as a whole: one after the other, or inside another element.
//!
//! The framer has checked every byte once. Where elements travel inside an envelope, or have to
//! be put into one, they are walked over once more to know where each begins and ends and what
//! routing needs of it; the bytes are shared, not copied.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::{Buf, Bytes};

use super::chars::{attribute_value, is_space};
use super::element::{Element, HAS_LANG, OWN_DEFAULT};
use super::error::{StreamErrorCondition, XmlError};
use super::header::StreamContext;
use super::limits::Limits;
use super::scanner::Scanner;
use super::state::{Cut, State};

/// Cuts complete elements out of bytes; kept, since it has memory of its own to use again.
#[derive(Debug)]
pub struct Fragments {
    scanner: Scanner,
}

impl Default for Fragments {
    fn default() -> Self {
        Self {
            // Whatever limit applies was applied when the bytes came in.
            scanner: Scanner::new(Limits {
                max_stanza_bytes: usize::MAX >> 2,
                max_depth: usize::MAX >> 2,
                max_attributes: usize::MAX >> 2,
                max_namespaces: usize::MAX >> 2,
                max_name_bytes: usize::MAX >> 2,
            }),
        }
    }
}

impl Fragments {
    /// Gives every element of `bytes`, whose surroundings are `context`. Fails, behind the elements
    /// before it, at anything that is neither a complete element nor white space.
    pub fn cut(
        &mut self,
        mut bytes: Bytes,
        context: &Arc<StreamContext>,
        mut each: impl FnMut(Element),
    ) -> Result<(), XmlError> {
        self.scanner.restart_between(context.clone());
        loop {
            match self.scanner.run(&bytes)? {
                Some(Cut::Element(end)) => each(Element {
                    bytes: bytes.split_to(end),
                    head: std::mem::take(&mut self.scanner.head),
                    context: context.clone(),
                }),
                Some(Cut::Skip(n)) => bytes.advance(n),
                None if bytes.is_empty() => return Ok(()),
                Some(Cut::Header(..) | Cut::End(_)) | None => {
                    return Err(refused("not one complete element after the other"));
                }
            }
        }
    }

    /// Gives every child element of `outer`. Fails, behind the elements before it, at character
    /// data between them.
    pub fn children(&mut self, outer: &Element, each: impl FnMut(Element)) -> Result<(), XmlError> {
        let bytes = outer.bytes();
        let Some(start) = content(bytes) else {
            return Ok(());
        };
        let context = outer.inside(bytes.get(..start).unwrap_or_default())?;
        // The last `</` is that of the element's own end tag.
        let end = memchr::memmem::rfind(bytes, b"</").unwrap_or(start);
        self.cut(bytes.slice(start..end.max(start)), &context, each)
    }
}

const fn refused(reason: &'static str) -> XmlError {
    XmlError {
        condition: StreamErrorCondition::BadFormat,
        reason,
        offset: 0,
    }
}

/// Where the content of an element begins; `None` if it has none: `<a/>`.
fn content(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let found = memchr::memchr3(b'>', b'\'', b'"', bytes.get(at..)?)? + at;
        match bytes.get(found)? {
            b'>' if bytes.get(found.checked_sub(1)?) == Some(&b'/') => return None,
            b'>' => return Some(found + 1),
            quote => at = memchr::memchr(*quote, bytes.get(found + 1..)?)? + found + 2,
        }
    }
}

/// The attributes of a start tag that was checked before: names and raw values.
fn attributes(tag: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = tag;
    std::iter::from_fn(move || {
        let quote = memchr::memchr2(b'\'', b'"', rest)?;
        let (name, value) = rest.split_at_checked(quote)?;
        let (mark, value) = value.split_first()?;
        let end = memchr::memchr(*mark, value)?;
        rest = value.get(end + 1..)?;
        // ` name = `, and the element's own name before the first one.
        let name = name.trim_ascii_end().strip_suffix(b"=")?.trim_ascii_end();
        let start = name.iter().rposition(|b| is_space(*b)).map_or(0, |at| at + 1);
        Some((name.get(start..)?, value.get(..end)?))
    })
}

impl Element {
    /// What is in force for the children of an element with this start tag.
    fn inside(&self, tag: &[u8]) -> Result<Arc<StreamContext>, XmlError> {
        let declares = memchr::memmem::find(tag, b"xmlns").is_some();
        if !declares && self.head.flags & (OWN_DEFAULT | HAS_LANG) == 0 {
            return Ok(self.context.clone());
        }
        let mut default = Cow::Borrowed(self.context.default_ns());
        let mut lang = self.context.lang().map(Cow::Borrowed);
        let mut prefixes: Vec<(Cow<'_, str>, Cow<'_, str>)> = self
            .context
            .prefixes()
            .map(|(prefix, name)| (Cow::Borrowed(prefix), Cow::Borrowed(name)))
            .collect();
        for (name, value) in attributes(tag) {
            let value = attribute_value(value);
            match name {
                b"xmlns" => default = value,
                b"xml:lang" => lang = Some(value),
                _ => {
                    let Some(prefix) = name.strip_prefix(b"xmlns:") else {
                        continue;
                    };
                    let prefix = String::from_utf8_lossy(prefix);
                    prefixes.retain(|(known, _)| *known != prefix);
                    // Says what is so anyway.
                    if prefix != "xml" {
                        prefixes.push((prefix, value));
                    }
                }
            }
        }
        if prefixes.len() > Limits::HEADER_PREFIXES {
            return Err(XmlError {
                condition: StreamErrorCondition::PolicyViolation,
                reason: "too many namespaces",
                offset: 0,
            });
        }
        let prefixes: Vec<(&str, &str)> = prefixes.iter().map(|(p, n)| (&**p, &**n)).collect();
        Ok(Arc::new(StreamContext::new(&default, &prefixes, lang.as_deref())))
    }
}

impl Scanner {
    /// Waits for an element whose surroundings are `context`; keeps limits and memory.
    fn restart_between(&mut self, context: Arc<StreamContext>) {
        self.open.clear();
        self.bindings.clear();
        self.attrs.clear();
        self.state = State::Between;
        self.pos = 0;
        self.base = 0;
        self.context = Some(context);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::*;
    use crate::{Frame, Framer, Reroot, ns, parse};
    use rstest::rstest;

    const HEADER: &str = "<stream:stream xmlns='jabber:component:accept' xmlns:h='urn:h' \
        xmlns:stream='http://etherx.jabber.org/streams' xml:lang='en'>";

    fn element(header: &str, xml: &str) -> Element {
        let mut framer = Framer::new(Limits::stanzas(1 << 20));
        framer.feed(header.as_bytes());
        framer.feed(xml.as_bytes());
        framer.next_frame().unwrap();
        match framer.next_frame() {
            Ok(Some(Frame::Element(element))) => element,
            other => panic!("{xml}: {other:?}"),
        }
    }

    fn children(outer: &Element) -> Result<Vec<Element>, XmlError> {
        let mut found = Vec::new();
        Fragments::default().children(outer, |element| found.push(element))?;
        Ok(found)
    }

    #[rstest]
    #[case::empty("<route/>", &[])]
    #[case::empty_with_end_tag("<route from='a>b'></route >", &[])]
    #[case::white_space("<route>\n\t </route>", &[])]
    #[case::one("<route from='/>' to=\"'>\"><message to='x'/></route>", &["<message to='x'/>"])]
    #[case::spaces("<route  from = '=' >\n<message a='>'>x</message>\n</route\n>", &["<message a='>'>x</message>"])]
    #[case::two("<route><iq/><iq></iq></route>", &["<iq/>", "<iq></iq>"])]
    #[case::the_same_inside("<route><route><iq/></route></route>", &["<route><iq/></route>"])]
    #[case::cdata_inside("<route><m><![CDATA[</route>]]></m></route>", &["<m><![CDATA[</route>]]></m>"])]
    fn children_are_slices_of_their_parent(#[case] xml: &str, #[case] expected: &[&str]) {
        let outer = element(HEADER, xml);
        let found = children(&outer).unwrap();
        let bytes: Vec<_> = found.iter().map(|e| e.bytes().as_ref()).collect();
        let expected: Vec<_> = expected.iter().map(|e| e.as_bytes()).collect();
        assert_eq!(bytes, expected);
        let all = outer.bytes().as_ptr_range();
        assert!(bytes.iter().all(|child| all.contains(&child.as_ptr())));
    }

    #[rstest]
    #[case::text("<route>text</route>")]
    #[case::text_behind("<route><iq/>text</route>")]
    #[case::reference("<route>&lt;</route>")]
    #[case::cdata("<route><![CDATA[x]]></route>")]
    #[case::other_characters("<route>ü</route>")]
    fn text_between_children_is_refused(#[case] xml: &str) {
        assert!(children(&element(HEADER, xml)).is_err());
    }

    fn content_moved(node: &mut crate::Node) {
        if node.ns == ns::COMPONENT {
            node.ns = ns::SERVER.to_owned();
        }
        for content in &mut node.content {
            if let crate::Content::Node(child) = content {
                content_moved(child);
            }
        }
    }

    #[rstest]
    #[case::nothing(
        "<route><message a='1' from='f' to='t' id='i' type='y'><b h:a='2' xml:lang='fr'/></message></route>"
    )]
    #[case::default_declared(
        "<route xmlns='jabber:component:accept'><message from='f' to='t' id='i' type='y'/></route>"
    )]
    #[case::other_default(
        "<c:route xmlns:c='jabber:component:accept' xmlns='urn:d'><c:message from='f' to='t' id='i' type='y'><d/></c:message></c:route>"
    )]
    #[case::prefix(
        "<route xmlns:p='urn:p'><message p:a='1' from='f' to='t' id='i' type='y'><p:b h:c='3'/></message></route>"
    )]
    #[case::prefix_bound_anew(
        "<route xmlns:h='urn:p&amp;&#x20;'><message h:a='1' from='f' to='t' id='i' type='y'/></route>"
    )]
    #[case::lang("<route xml:lang='de'><message from='f' to='t' id='i' type='y'><b/></message></route>")]
    #[case::undeclared(
        "<c:route xmlns:c='jabber:component:accept' xmlns=''><c:message from='f' to='t' id='i' type='y'><d/></c:message></c:route>"
    )]
    #[case::xml_declared(
        "<route xmlns:xml='http://www.w3.org/XML/1998/namespace'><message xml:lang='e' from='f' to='t' id='i' type='y'/></route>"
    )]
    fn a_child_means_the_same_inside_its_parent_and_moved_elsewhere(#[case] xml: &str) {
        let outer = element(HEADER, xml);
        let child = children(&outer).unwrap().remove(0);
        assert!(child.is(ns::COMPONENT, "message"), "{child:?}");
        for (found, value) in [child.from(), child.to(), child.id(), child.type_()]
            .iter()
            .zip(["f", "t", "i", "y"])
        {
            assert_eq!(found.as_deref(), Some(value));
        }
        let inside = outer.parse().unwrap();
        let mut expected = inside.children().next().unwrap().clone();
        assert_eq!(child.parse().unwrap(), expected);
        // Moved to a stream that declares nothing, the language goes along.
        let moved = child.reroot(Reroot::TO_SERVER).unwrap();
        let nowhere = StreamContext::new(ns::SERVER, &[], None);
        let mut moved = parse(&moved, &nowhere).unwrap();
        let lang = |node: &crate::Node| node.attr_ns(ns::XML, "lang").map(str::to_owned);
        let around = lang(&inside).or_else(|| Some("en".to_owned()));
        assert_eq!(lang(&moved), lang(&expected).or(around));
        content_moved(&mut expected);
        for node in [&mut moved, &mut expected] {
            node.attrs.retain(|a| a.name != "lang");
            node.attrs.sort();
        }
        assert_eq!(moved, expected);
    }

    #[test]
    fn elements_one_after_the_other_are_cut_at_their_ends() {
        let context = Arc::new(StreamContext::new(ns::COMPONENT, &[], None));
        let mut fragments = Fragments::default();
        // Nothing of one use is left for the next one.
        for _ in 0..2 {
            let mut names = Vec::new();
            let bytes = Bytes::from_static(b"<a><b/></a>\n<c xmlns='u' to='x'/>");
            let mut each = |e: Element| names.push((e.name().to_owned(), e.ns().to_owned()));
            assert!(fragments.cut(bytes, &context, &mut each).is_ok());
            let cut = Bytes::from_static(b"<d/><e xmlns:p='u'><f");
            assert!(fragments.cut(cut, &context, &mut each).is_err());
            let expected = [("a", ns::COMPONENT), ("c", "u"), ("d", ns::COMPONENT)];
            let expected = expected.map(|(a, b)| (a.to_owned(), b.to_owned()));
            assert_eq!(names, expected);
        }
    }

    #[test]
    fn more_prefixes_than_can_be_told_apart_are_refused() {
        let many: Vec<_> = (0..65).map(|n| format!(" xmlns:p{n}='u{n}'")).collect();
        let many = many.concat();
        let mut framer = Framer::new(Limits {
            max_attributes: 100,
            max_namespaces: 100,
            ..Limits::stanzas(1 << 20)
        });
        framer.feed(format!("{HEADER}<route{many}><message/></route>").as_bytes());
        framer.next_frame().unwrap();
        let Ok(Some(Frame::Element(outer))) = framer.next_frame() else {
            panic!("no element")
        };
        assert!(children(&outer).is_err());
    }
}
