//! Addresses (RFC 7622): which of them are refused, and how their domains are spelled on either
//! side of the edge.
//!
//! There are two readings of a local or resource part: PRECIS (RFC 7622 sections 3.3 and 3.4) and
//! the stringprep profiles of older servers (RFC 3920 appendices A and B). What one of them takes
//! passes as it is written; only what both refuse is refused, and nothing is ever rewritten.
//!
//! A domain has many spellings, and servers of the time of RFC 3920 take some of them for another
//! domain: RFC 3491 reads `straße` as `strasse`. So the edge writes one spelling of each.

mod cache;

use std::borrow::Cow;

use precis_profiles::precis_core::profile::PrecisFastInvocation;
use precis_profiles::{OpaqueString, UsernameCaseMapped};
use stringprep::tables::unassigned_code_point;
use unicode_properties::{GeneralCategory as Category, UnicodeGeneralCategory};
use xmpp_federation_core::Domain;

use crate::memory::Memory;
pub(crate) use cache::{DomainCache, LONGEST};
use xmpp_federation_xml::Element;

/// Bytes of a local, domain or resource part (RFC 7622 sections 3.2 to 3.4).
const PART: usize = 1023;

/// The domain part of an address, as written (RFC 7622 section 3.1).
pub fn domain_part(address: &str) -> &str {
    let bare = address.split_once('/').map_or(address, |(bare, _)| bare);
    bare.split_once('@').map_or(bare, |(_, domain)| domain)
}

/// What is beside the domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum JidPart {
    Local,
    Resource,
}

/// What is wrong with an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum JidFault {
    #[error("its domain part is empty")]
    NoDomain,
    #[error("its {} part is empty", .0.name())]
    Empty(JidPart),
    #[error("its {} part has more than {PART} bytes", .0.name())]
    Long(JidPart),
    #[error("its {} part holds characters that RFC 7622 and RFC 3920 refuse", .0.name())]
    Characters(JidPart),
}

impl JidPart {
    const fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Resource => "resource",
        }
    }

    /// ASCII characters that both readings take, or both refuse.
    #[inline]
    fn takes_ascii(self, byte: u8) -> bool {
        match self {
            Self::Local => LOCAL.get(usize::from(byte)).is_some_and(|taken| *taken),
            Self::Resource => matches!(byte, b' '..=b'~'),
        }
    }

    /// What is wrong with this part as far as its bytes tell; `Ok(false)`: the readings decide.
    #[inline]
    fn judge_ascii(self, text: &str) -> Result<bool, JidFault> {
        if text.is_empty() {
            return Err(JidFault::Empty(self));
        }
        if text.len() > PART {
            return Err(JidFault::Long(self));
        }
        if text.bytes().all(|byte| self.takes_ascii(byte)) {
            return Ok(true);
        }
        if text.is_ascii() {
            return Err(JidFault::Characters(self));
        }
        Ok(false)
    }

    /// Whether one of the two readings takes it.
    fn has_reading(self, text: &str) -> bool {
        let good = |prepared: &str| {
            (1..=PART).contains(&prepared.len()) && (self == Self::Resource || !prepared.contains(RESERVED))
        };
        let old = self.with_later_characters(text);
        let old = match self {
            Self::Local => stringprep::nodeprep(&old),
            Self::Resource => stringprep::resourceprep(&old),
        };
        if old.is_ok_and(|prepared| good(&prepared)) {
            return true;
        }
        let new = match self {
            Self::Local => UsernameCaseMapped::enforce(text),
            Self::Resource => OpaqueString::enforce(text),
        };
        new.is_ok_and(|prepared| good(&prepared))
    }

    /// Both tables end with an old version of Unicode. Letters, and in resources symbols, that are
    /// younger pass in practice; a digit stands for them here.
    fn with_later_characters(self, text: &str) -> Cow<'_, str> {
        let later = |c: char| unassigned_code_point(c) && self.takes_category(c.general_category());
        if text.contains(later) {
            Cow::Owned(text.chars().map(|c| if later(c) { '0' } else { c }).collect())
        } else {
            Cow::Borrowed(text)
        }
    }

    /// The categories of RFC 8264 section 9.1, for resources those of 9.15, 9.16 and 9.18 too.
    fn takes_category(self, category: Category) -> bool {
        match category {
            Category::LowercaseLetter
            | Category::UppercaseLetter
            | Category::OtherLetter
            | Category::ModifierLetter
            | Category::DecimalNumber
            | Category::NonspacingMark
            | Category::SpacingMark => true,
            Category::MathSymbol
            | Category::CurrencySymbol
            | Category::ModifierSymbol
            | Category::OtherSymbol
            | Category::ConnectorPunctuation
            | Category::DashPunctuation
            | Category::OpenPunctuation
            | Category::ClosePunctuation
            | Category::InitialPunctuation
            | Category::FinalPunctuation
            | Category::OtherPunctuation
            | Category::TitlecaseLetter
            | Category::LetterNumber
            | Category::OtherNumber
            | Category::EnclosingMark => self == Self::Resource,
            _ => false,
        }
    }
}

/// What no local part may hold (RFC 7622 section 3.3.1), spaces and controls aside.
const RESERVED: [char; 8] = ['"', '&', '\'', '/', ':', '<', '>', '@'];

/// ASCII in local parts.
const LOCAL: [bool; 128] = {
    let mut taken = [false; 128];
    let mut byte = 0x21_u8;
    while byte < 0x7f {
        // `RESERVED`, which cannot be searched in a constant.
        let reserved = matches!(byte, b'"' | b'&' | b'\'' | b'/' | b':' | b'<' | b'>' | b'@');
        #[allow(clippy::indexing_slicing, reason = "evaluated when it is compiled")]
        {
            taken[byte as usize] = !reserved;
        }
        byte += 1;
    }
    taken
};

/// The domain, and the parts beside it.
fn parts(address: &str) -> (&str, impl Iterator<Item = (JidPart, &str)>) {
    let (bare, resource) = match address.split_once('/') {
        Some((bare, resource)) => (bare, Some(resource)),
        None => (address, None),
    };
    let (local, domain) = match bare.split_once('@') {
        Some((local, domain)) => (Some((JidPart::Local, local)), domain),
        None => (None, bare),
    };
    let resource = resource.map(|resource| (JidPart::Resource, resource));
    (domain, local.into_iter().chain(resource))
}

/// What is wrong with an address: of its domain only whether there is one. `known`: parts that were
/// judged before, since the readings cost more than the rest of a stanza.
#[inline]
pub(crate) fn judge(address: &str, known: &mut DomainCache) -> Result<(), JidFault> {
    let (domain, parts) = parts(address);
    if domain.is_empty() {
        return Err(JidFault::NoDomain);
    }
    for (part, text) in parts {
        if !part.judge_ascii(text)? && !known.passes(part, text, || part.has_reading(text)) {
            return Err(JidFault::Characters(part));
        }
    }
    Ok(())
}

/// Whether an address is good as far as that is known without a reading.
#[inline]
pub(crate) fn is_known_good(address: &str, known: &DomainCache) -> bool {
    let (domain, mut parts) = parts(address);
    !domain.is_empty()
        && parts.all(|(part, text)| {
            part.judge_ascii(text)
                .is_ok_and(|good| good || known.knows_good(part, text))
        })
}

/// Whether an address is good, found out without memory.
pub(crate) fn is_good(address: &str) -> bool {
    let (domain, mut parts) = parts(address);
    !domain.is_empty()
        && parts.all(|(part, text)| part.judge_ascii(text).is_ok_and(|good| good || part.has_reading(text)))
}

/// The addresses of the last stanza that was found good: most stanzas have those of the one before.
#[derive(Debug, Default)]
pub(crate) struct LastJudged {
    from: String,
    to: String,
}

impl LastJudged {
    /// Whether these are they.
    #[inline]
    pub(crate) fn are(&self, from: &str, to: &str) -> bool {
        // No good address is empty.
        !from.is_empty() && *self.from == *from && *self.to == *to
    }

    /// They were found good.
    pub(crate) fn note(&mut self, from: &str, to: &str) {
        for (kept, address) in [(&mut self.from, from), (&mut self.to, to)] {
            kept.clear();
            kept.push_str(address);
        }
    }

    /// None is known.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }
}

/// How a remote server writes its own domain. Servers of RFC 3920 know a domain that was configured
/// with A-labels by these only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Labels {
    /// `xn--bcher-kva.example`.
    Ascii,
    /// `bücher.example`.
    Unicode,
}

impl Labels {
    /// Those of this text; `None` if the domain is written with the same ones anyway.
    pub(crate) fn of(text: &str, domain: &Domain) -> Option<Self> {
        has_u_labels(domain).then_some(if text.is_ascii() { Self::Ascii } else { Self::Unicode })
    }

    pub(crate) const fn other(self) -> Self {
        match self {
            Self::Ascii => Self::Unicode,
            Self::Unicode => Self::Ascii,
        }
    }

    pub(crate) fn write(self, domain: &Domain) -> Cow<'_, str> {
        match self {
            Self::Ascii => Cow::Borrowed(domain.as_str()),
            Self::Unicode => Cow::Owned(domain.to_unicode()),
        }
    }
}

fn has_u_labels(domain: &Domain) -> bool {
    let mut labels = domain.as_str().split('.');
    labels.any(|label| label.starts_with("xn--"))
}

/// Whether nameprep (RFC 3491) leaves a domain as it is. Servers apply it to all labels at once, so
/// that labels of both directions of writing are refused. It knows the characters of an old version
/// of Unicode; servers let younger ones pass.
fn nameprep_keeps(domain: &str) -> bool {
    let known = |c: char| if unassigned_code_point(c) { '0' } else { c };
    let domain: String = domain.chars().map(known).collect();
    stringprep::nameprep(&domain).is_ok_and(|read| *read == domain)
}

/// The spelling of a domain where we speak first: U-labels, or A-labels where nameprep would make
/// another domain of it, or none.
pub(crate) fn spelling(domain: &Domain) -> Cow<'_, str> {
    if !has_u_labels(domain) {
        return Cow::Borrowed(domain.as_str());
    }
    let written = domain.to_unicode();
    if nameprep_keeps(&written) {
        Cow::Owned(written)
    } else {
        Cow::Borrowed(domain.as_str())
    }
}

/// On which side of the edge something is written.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Side<'a> {
    /// To an XCP router.
    Link,
    /// To a remote server.
    Peer(&'a Memory<Labels>),
}

impl Side<'_> {
    /// The spelling of a domain. To a server the one that it uses itself, if that is known: our
    /// streams' headers have it.
    pub(crate) fn spelling(self, domain: &Domain) -> Cow<'_, str> {
        let own = match self {
            Self::Peer(labels) if has_u_labels(domain) => labels.get(domain),
            Self::Peer(_) | Self::Link => None,
        };
        own.map_or_else(|| spelling(domain), |labels| labels.write(domain))
    }

    /// What to write for a domain instead of this text; `None` if the text may stay. The case of
    /// ASCII is the same to everybody.
    pub(crate) fn instead(self, text: &str, domain: &Domain) -> Option<Box<str>> {
        let spelling = self.spelling(domain);
        let same = if text.is_ascii() {
            text.eq_ignore_ascii_case(&spelling)
        } else {
            *text == *spelling
        };
        (!same).then(|| spelling.into())
    }

    /// The element with its addresses as they are written on this side. For what is rare: what is
    /// frequent knows [`Self::instead`] beforehand.
    pub(crate) fn respell<'a>(self, element: &'a Element, domains: &mut DomainCache) -> Cow<'a, Element> {
        let mut instead = |address: Option<Cow<'_, str>>| {
            let address = address?;
            let domain = domains.domain_of(&address)?;
            self.instead(domain_part(&address), &domain)
        };
        let (from, to) = (instead(element.from()), instead(element.to()));
        if from.is_none() && to.is_none() {
            return Cow::Borrowed(element);
        }
        Cow::Owned(readdressed(element, from.as_deref(), to.as_deref()))
    }
}

/// The element with other domains in its addresses.
pub(crate) fn readdressed(element: &Element, from: Option<&str>, to: Option<&str>) -> Element {
    let other = |address: Option<Cow<'_, str>>, domain: Option<&str>| Some(with_domain(&address?, domain?));
    element.with_addresses(
        other(element.from(), from).as_deref(),
        other(element.to(), to).as_deref(),
    )
}

/// The address with another domain.
fn with_domain(address: &str, domain: &str) -> String {
    let old = domain_part(address);
    let bare = address.split_once('/').map_or(address, |(bare, _)| bare);
    let start = bare.len() - old.len();
    let (before, rest) = address.split_at(start);
    let behind = rest.get(old.len()..).unwrap_or_default();
    format!("{before}{domain}{behind}")
}

/// A name for an address in the log: what it holds must not look like something else.
pub(crate) fn shown(address: &str) -> String {
    const MOST: usize = 100;
    let start: String = address.chars().take(MOST).collect();
    if start.len() < address.len() {
        format!("{start:?} and {} bytes more", address.len() - start.len())
    } else {
        format!("{start:?}")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::time::Duration;

    use super::*;
    use rstest::rstest;

    fn fault(address: &str) -> Option<JidFault> {
        let found = judge(address, &mut DomainCache::default()).err();
        assert_eq!(is_good(address), found.is_none(), "{address:?}");
        found
    }

    #[rstest]
    #[case::domain("a.example")]
    #[case::usual("alice@a.example/phone")]
    #[case::all_of_ascii("!#$%()*+,-.09;=?AZ[\\]^_`az{|}~@a.example/ !\"#&'/:<>@~")]
    #[case::letters("b\u{fc}cher@a.example/caf\u{e9}")]
    #[case::sharp_s("stra\u{df}e@a.example")]
    #[case::only_older_servers_take_compatible_forms("\u{2167}@a.example")]
    #[case::old_hyphen("soft\u{ad}hyphen@a.example")]
    #[case::capitals_and_decomposed("Bu\u{308}cher@a.example")]
    #[case::written_from_the_right("\u{5d0}\u{5d1}@a.example/\u{645}\u{62b}\u{627}\u{644}")]
    #[case::both_directions_in_a_resource("x@a.example/\u{5d0}b")]
    #[case::emoji("x@a.example/\u{2764}\u{fe0f} \u{1f680}")]
    #[case::emoji_that_are_younger_than_the_tables("x@a.example/\u{1f980}\u{1fae0}")]
    #[case::emoji_of_several("x@a.example/\u{1f469}\u{200d}\u{1f4bb}")]
    #[case::letters_that_are_younger_than_the_tables("\u{10d00}\u{1e900}@a.example")]
    #[case::wide_space("x@a.example/a\u{3000}b")]
    fn what_one_reading_takes_passes(#[case] address: &str) {
        assert_eq!(fault(address), None);
    }

    #[rstest]
    #[case::nothing("", JidFault::NoDomain)]
    #[case::no_domain("x@", JidFault::NoDomain)]
    #[case::only_a_resource("/x", JidFault::NoDomain)]
    #[case::empty_local("@a.example", JidFault::Empty(JidPart::Local))]
    #[case::empty_resource("a.example/", JidFault::Empty(JidPart::Resource))]
    #[case::empty_resource_of_a_user("x@a.example/", JidFault::Empty(JidPart::Resource))]
    #[case::space("a b@a.example", JidFault::Characters(JidPart::Local))]
    #[case::quote("a\"b@a.example", JidFault::Characters(JidPart::Local))]
    #[case::apostrophe("a'b@a.example", JidFault::Characters(JidPart::Local))]
    #[case::ampersand("a&b@a.example", JidFault::Characters(JidPart::Local))]
    #[case::colon("a:b@a.example", JidFault::Characters(JidPart::Local))]
    #[case::less("a<b@a.example", JidFault::Characters(JidPart::Local))]
    #[case::greater("a>b@a.example", JidFault::Characters(JidPart::Local))]
    #[case::delete("a\u{7f}@a.example", JidFault::Characters(JidPart::Local))]
    #[case::wide_at("a\u{ff20}b@a.example", JidFault::Characters(JidPart::Local))]
    #[case::small_colon("a\u{fe55}b@a.example", JidFault::Characters(JidPart::Local))]
    #[case::nothing_is_left("\u{ad}@a.example", JidFault::Characters(JidPart::Local))]
    #[case::no_break_space("a\u{a0}b@a.example", JidFault::Characters(JidPart::Local))]
    #[case::private_use("\u{e000}@a.example", JidFault::Characters(JidPart::Local))]
    #[case::emoji("\u{1f980}@a.example", JidFault::Characters(JidPart::Local))]
    #[case::both_directions("\u{5d0}b@a.example", JidFault::Characters(JidPart::Local))]
    #[case::not_assigned("x\u{378}@a.example", JidFault::Characters(JidPart::Local))]
    #[case::tab("x@a.example/a\tb", JidFault::Characters(JidPart::Resource))]
    #[case::line("x@a.example/a\nb", JidFault::Characters(JidPart::Resource))]
    #[case::override_of_direction("x@a.example/\u{202e}b", JidFault::Characters(JidPart::Resource))]
    #[case::isolate("x@a.example/\u{2066}b", JidFault::Characters(JidPart::Resource))]
    #[case::line_separator("x@a.example/a\u{2028}b", JidFault::Characters(JidPart::Resource))]
    #[case::tag("x@a.example/\u{e0041}", JidFault::Characters(JidPart::Resource))]
    #[case::nothing_but_a_joiner("x@a.example/\u{200d}", JidFault::Characters(JidPart::Resource))]
    fn what_both_readings_refuse_is_refused(#[case] address: &str, #[case] expected: JidFault) {
        assert_eq!(fault(address), Some(expected));
    }

    #[test]
    fn a_part_has_at_most_1023_bytes_however_it_is_read() {
        let long = |n: usize, of: &str| (of.repeat(n), format!("x@a.example/{}", of.repeat(n)));
        let (local, resource) = long(1023, "x");
        assert_eq!(fault(&format!("{local}@a.example")), None);
        assert_eq!(fault(&resource), None);
        let (local, resource) = long(1024, "x");
        let fault_of_local = fault(&format!("{local}@a.example"));
        assert_eq!(fault_of_local, Some(JidFault::Long(JidPart::Local)));
        assert_eq!(fault(&resource), Some(JidFault::Long(JidPart::Resource)));
        let (_, resource) = long(512, "\u{fc}");
        assert_eq!(fault(&resource), Some(JidFault::Long(JidPart::Resource)));
    }

    #[test]
    fn parts_that_were_judged_are_remembered_up_to_a_bound() {
        let mut known = DomainCache::default();
        for n in 0..10_000 {
            let resource = format!("x@a.example/\u{fc}{n}{}", "y".repeat(n % 1000));
            assert_eq!(judge(&resource, &mut known), Ok(()));
            assert_eq!(judge(&resource, &mut known), Ok(()));
        }
    }

    fn domain(text: &str) -> Domain {
        Domain::parse(text).unwrap()
    }

    #[rstest]
    #[case::ascii("coluc.com", "coluc.com")]
    #[case::umlaut("xn--bcher-kva.example", "b\u{fc}cher.example")]
    #[case::sharp_s("stra\u{df}e.lan", "xn--strae-oqa.lan")]
    #[case::sharp_s_in_one_label("b\u{fc}cher.stra\u{df}e.lan", "xn--bcher-kva.xn--strae-oqa.lan")]
    #[case::final_sigma("\u{3b2}\u{3cc}\u{3bb}\u{3bf}\u{3c2}.example", "xn--nxasmm1c.example")]
    #[case::joiner(
        "\u{646}\u{627}\u{645}\u{647}\u{200c}\u{627}\u{6cc}.example",
        "xn--mgba3gch31f060k.example"
    )]
    #[case::from_the_right("\u{5d0}\u{5d1}.\u{5d0}\u{5d1}", "\u{5d0}\u{5d1}.\u{5d0}\u{5d1}")]
    #[case::from_both_sides("\u{5d0}\u{5d1}.example", "xn--4dbc.example")]
    #[case::younger_than_the_tables("xn--gq9h.example", "\u{1f927}.example")]
    fn a_domain_has_one_spelling_unless_its_server_has_another(#[case] text: &str, #[case] spelling: &str) {
        let (domain, memory) = (domain(text), Memory::new(Duration::from_mins(1), 16));
        for side in [Side::Link, Side::Peer(&memory)] {
            assert_eq!(side.spelling(&domain), spelling);
        }
        for labels in [Labels::Ascii, Labels::Unicode] {
            let written = labels.write(&domain);
            assert_eq!(Domain::parse(&written).as_ref(), Ok(&domain));
            let noted = Labels::of(&written, &domain);
            assert_eq!(noted, (text != "coluc.com").then_some(labels));
            if let Some(labels) = noted {
                memory.note(&domain, false, labels);
            }
            assert_eq!(Side::Peer(&memory).spelling(&domain), written);
            assert_eq!(Side::Link.spelling(&domain), spelling);
        }
    }

    #[rstest]
    #[case("a.lan", None)]
    #[case("A.Lan", None)]
    #[case("a.lan.", Some("a.lan"))]
    #[case("a\u{3002}lan", Some("a.lan"))]
    #[case("\u{ad}a.lan", Some("a.lan"))]
    #[case("b\u{fc}cher.example", None)]
    #[case("B\u{dc}CHER.example", Some("b\u{fc}cher.example"))]
    #[case("bu\u{308}cher.example", Some("b\u{fc}cher.example"))]
    #[case("xn--bcher-kva.example", Some("b\u{fc}cher.example"))]
    #[case("stra\u{df}e.lan", Some("xn--strae-oqa.lan"))]
    #[case("XN--STRAE-OQA.lan", None)]
    fn only_another_spelling_is_replaced(#[case] text: &str, #[case] instead: Option<&str>) {
        let found = Side::Link.instead(text, &domain(text));
        assert_eq!(found.as_deref(), instead);
    }

    #[rstest]
    #[case("a@old/x@y/z", "a@new/x@y/z")]
    #[case("old", "new")]
    #[case("old/old", "new/old")]
    #[case("old@old", "old@new")]
    fn only_the_domain_is_replaced(#[case] address: &str, #[case] expected: &str) {
        assert_eq!(with_domain(address, "new"), expected);
    }
}
