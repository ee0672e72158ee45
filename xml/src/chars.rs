//! Character classes of XML 1.0, runs of harmless bytes, UTF-8, references.

use std::borrow::Cow;

/// ASCII byte of a name except `:` (XML 1.0 `[4a]`).
const NAME: u8 = 1;
/// ASCII byte that may start a name.
const NAME_START: u8 = 2;
/// White space (XML 1.0 `[3]`).
const SPACE: u8 = 4;

const CLASSES: [u8; 256] = classes();

#[allow(clippy::indexing_slicing, reason = "evaluated at compile time")]
const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        let mut class = 0;
        if byte.is_ascii_alphabetic() || byte == b'_' {
            class |= NAME | NAME_START;
        }
        if byte.is_ascii_digit() || byte == b'-' || byte == b'.' {
            class |= NAME;
        }
        if matches!(byte, b' ' | b'\t' | b'\r' | b'\n') {
            class |= SPACE;
        }
        table[byte as usize] = class;
        byte += 1;
    }
    table
}

#[allow(clippy::indexing_slicing, reason = "a byte is always below 256")]
const fn class(byte: u8) -> u8 {
    CLASSES[byte as usize]
}

/// Is this white space in the sense of XML?
pub(super) const fn is_space(byte: u8) -> bool {
    class(byte) & SPACE != 0
}

/// Number of leading bytes that are white space.
pub(super) fn spaces(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|&&b| is_space(b)).count()
}

/// Eight times 0x01.
const ONES: u64 = 0x0101_0101_0101_0101;
/// Eight times 0x80.
const HIGH: u64 = 0x8080_8080_8080_8080;

/// Marks (0x80) the bytes of `word` that are `byte`; exact up to the first hit.
#[inline]
const fn equal(word: u64, byte: u8) -> u64 {
    let x = word ^ (ONES * byte as u64);
    x.wrapping_sub(ONES) & !x & HIGH
}

/// Marks the bytes below 0x20 or above 0x7F; exact up to the first hit.
#[inline]
const fn unusual(word: u64) -> u64 {
    (word.wrapping_sub(ONES * 0x20) | word) & HIGH
}

/// Marks the bytes that are not ASCII letters, exactly.
#[inline]
const fn not_letter(word: u64) -> u64 {
    let lower = (word | (ONES * 0x20)) & !HIGH;
    let from_a = lower + ONES * (0x80 - b'a' as u64);
    let above_z = lower + ONES * (0x7F - b'z' as u64);
    (!from_a | above_z | word) & HIGH
}

/// Length of the run before the first byte that `stops` marks. Eight bytes at a time.
#[inline]
fn run(bytes: &[u8], stops: impl Fn(u64) -> u64) -> usize {
    let (words, tail) = bytes.as_chunks::<8>();
    for (i, word) in words.iter().enumerate() {
        let marks = stops(u64::from_le_bytes(*word));
        if marks != 0 {
            return i * 8 + first_mark(marks);
        }
    }
    let mut word = [0; 8];
    for (to, from) in word.iter_mut().zip(tail) {
        *to = *from;
    }
    // Zero bytes are marked by all callers: the run ends with the input at the latest.
    words.len() * 8 + first_mark(stops(u64::from_le_bytes(word)))
}

#[inline]
const fn first_mark(marks: u64) -> usize {
    (marks.trailing_zeros() / 8) as usize
}

/// Number of leading bytes that are ASCII letters; the bulk of most names.
#[inline]
pub(super) fn letter_run(bytes: &[u8]) -> usize {
    run(bytes, not_letter)
}

/// Is this an ASCII character of a name other than `:`?
#[inline]
pub(super) const fn is_ascii_name_char(byte: u8) -> bool {
    class(byte) & NAME != 0
}

/// Number of leading bytes of character data that need no look: no `<`, `&`, `>`,
/// control character, tab, line end or non-ASCII.
#[inline]
pub(super) fn text_run(bytes: &[u8]) -> usize {
    let (chunks, _) = bytes.as_chunks::<16>();
    let mut len = 0;
    for chunk in chunks {
        // Only arithmetic and no early exit: the compiler uses vector instructions.
        let stops = |b: u8| {
            u8::from(!(0x20..0x80).contains(&b)) | u8::from(b == b'<') | u8::from(b == b'&') | u8::from(b == b'>')
        };
        if chunk.iter().fold(0, |stop, &b| stop | stops(b)) != 0 {
            break;
        }
        len += 16;
    }
    let rest = bytes.get(len..).unwrap_or_default();
    len + run(rest, |word| {
        unusual(word) | equal(word, b'<') | equal(word, b'&') | equal(word, b'>')
    })
}

/// Number of leading bytes of an attribute value that need no look: no quote,
/// `<`, `&`, control character, tab, line end or non-ASCII.
#[inline]
pub(super) fn value_run(bytes: &[u8], quote: u8) -> usize {
    run(bytes, |word| {
        unusual(word) | equal(word, b'<') | equal(word, b'&') | equal(word, quote)
    })
}

/// What stands at the start of some bytes, read as UTF-8.
pub(super) enum Utf8 {
    /// A character and its length in bytes.
    Char(char, usize),
    /// The start of a character whose rest has not arrived.
    Partial,
    /// No UTF-8: overlong form, surrogate, above U+10FFFF, stray or missing continuation.
    Bad,
}

/// Reads one character.
pub(super) fn decode(bytes: &[u8]) -> Utf8 {
    let (value, len) = match *bytes {
        [a @ 0x00..=0x7F, ..] => (u32::from(a), 1),
        [a @ 0xC2..=0xDF, b @ 0x80..=0xBF, ..] => (bits(a, 0x1F) << 6 | bits(b, 0x3F), 2),
        [a @ 0xE0, b @ 0xA0..=0xBF, c @ 0x80..=0xBF, ..]
        | [a @ (0xE1..=0xEC | 0xEE | 0xEF), b @ 0x80..=0xBF, c @ 0x80..=0xBF, ..]
        | [a @ 0xED, b @ 0x80..=0x9F, c @ 0x80..=0xBF, ..] => {
            (bits(a, 0x0F) << 12 | bits(b, 0x3F) << 6 | bits(c, 0x3F), 3)
        }
        [a @ 0xF0, b @ 0x90..=0xBF, c @ 0x80..=0xBF, d @ 0x80..=0xBF, ..]
        | [a @ 0xF1..=0xF3, b @ 0x80..=0xBF, c @ 0x80..=0xBF, d @ 0x80..=0xBF, ..]
        | [a @ 0xF4, b @ 0x80..=0x8F, c @ 0x80..=0xBF, d @ 0x80..=0xBF, ..] => (
            bits(a, 0x07) << 18 | bits(b, 0x3F) << 12 | bits(c, 0x3F) << 6 | bits(d, 0x3F),
            4,
        ),
        _ => {
            let start = bytes.get(..4).unwrap_or(bytes);
            return match std::str::from_utf8(start) {
                Err(error) if error.valid_up_to() > 0 || error.error_len().is_some() => Utf8::Bad,
                _ => Utf8::Partial,
            };
        }
    };
    char::from_u32(value).map_or(Utf8::Bad, |c| Utf8::Char(c, len))
}

const fn bits(byte: u8, mask: u8) -> u32 {
    (byte & mask) as u32
}

/// May this character stand in an XML 1.0 document (`[2] Char`)?
pub(super) const fn is_xml_char(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{FFFD}' | '\u{10000}'..)
}

/// May this character start a name (`[4]` of the fifth edition, without `:`)?
pub(super) const fn is_name_start(c: char) -> bool {
    matches!(c,
        'A'..='Z' | '_' | 'a'..='z' | '\u{C0}'..='\u{D6}' | '\u{D8}'..='\u{F6}'
        | '\u{F8}'..='\u{2FF}' | '\u{370}'..='\u{37D}' | '\u{37F}'..='\u{1FFF}'
        | '\u{200C}'..='\u{200D}' | '\u{2070}'..='\u{218F}' | '\u{2C00}'..='\u{2FEF}'
        | '\u{3001}'..='\u{D7FF}' | '\u{F900}'..='\u{FDCF}' | '\u{FDF0}'..='\u{FFFD}'
        | '\u{10000}'..='\u{EFFFF}')
}

/// May this character stand in a name (`[4a]`, without `:`)?
pub(super) const fn is_name_char(c: char) -> bool {
    is_name_start(c)
        || matches!(c,
            '-' | '.' | '0'..='9' | '\u{B7}' | '\u{300}'..='\u{36F}' | '\u{203F}'..='\u{2040}')
}

/// Is this an ASCII character that may start a name?
#[inline]
pub(super) const fn is_ascii_name_start(byte: u8) -> bool {
    class(byte) & NAME_START != 0
}

/// Does this name part start with a character that may start a name?
pub(super) fn starts_name(part: &[u8]) -> bool {
    match part.first() {
        Some(&b) if b < 0x80 => is_ascii_name_start(b),
        Some(_) => matches!(decode(part), Utf8::Char(c, _) if is_name_start(c)),
        None => false,
    }
}

/// What a reference (without `&` and `;`) stands for.
pub(super) enum Reference {
    /// This character.
    Char(char),
    /// An entity that would need a DTD.
    UnknownEntity,
    /// No reference in the sense of XML, or to a character that XML forbids.
    Malformed,
}

/// Most digits of a character reference.
///
/// More (leading zeros) is well-formed XML that nobody writes; a bound keeps the
/// look-ahead small, and it is the one of rxml.
const MAX_DIGITS: usize = 8;

/// Longest reference between `&` and `;`.
pub(super) const MAX_REFERENCE: usize = "#x".len() + MAX_DIGITS;

/// Reads a reference: the five predefined entities, decimal and hexadecimal.
pub(super) fn reference(body: &[u8]) -> Reference {
    let (digits, radix) = match body {
        b"lt" => return Reference::Char('<'),
        b"gt" => return Reference::Char('>'),
        b"amp" => return Reference::Char('&'),
        b"apos" => return Reference::Char('\''),
        b"quot" => return Reference::Char('"'),
        [b'#', b'x', digits @ ..] => (digits, 16),
        [b'#', digits @ ..] => (digits, 10),
        name if starts_name(name) => return Reference::UnknownEntity,
        _ => return Reference::Malformed,
    };
    let mut value: u32 = 0;
    for &b in digits {
        let Some(digit) = char::from(b).to_digit(radix) else {
            return Reference::Malformed;
        };
        value = value.saturating_mul(radix).saturating_add(digit);
    }
    match char::from_u32(value) {
        Some(c) if (1..=MAX_DIGITS).contains(&digits.len()) && is_xml_char(c) => Reference::Char(c),
        _ => Reference::Malformed,
    }
}

/// Value of an attribute from its checked bytes: references replaced, tabs and
/// line ends normalised (XML 1.0 §3.3.3).
pub(super) fn attribute_value(raw: &[u8]) -> Cow<'_, str> {
    let text = std::str::from_utf8(raw).unwrap_or_default();
    if !raw.iter().any(|b| matches!(b, b'&' | b'\t' | b'\n' | b'\r')) {
        return Cow::Borrowed(text);
    }
    let mut value = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['&', '\t', '\n', '\r']) {
        let (plain, tail) = rest.split_at_checked(at).unwrap_or((rest, ""));
        value.push_str(plain);
        rest = if let Some(after) = tail.strip_prefix('&') {
            let (body, after) = after.split_once(';').unwrap_or((after, ""));
            if let Reference::Char(c) = reference(body.as_bytes()) {
                value.push(c);
            }
            after
        } else {
            value.push(' ');
            let mut chars = tail.chars();
            // CR LF is one line end.
            if chars.next() == Some('\r') && chars.as_str().starts_with('\n') {
                chars.next();
            }
            chars.as_str()
        };
    }
    value.push_str(rest);
    Cow::Owned(value)
}
