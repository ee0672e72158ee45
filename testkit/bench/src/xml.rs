//! Just enough XML for negotiating with servers that write it well: cuts a stream into pieces and finds
//! attributes. Nothing here is used while messages flow.

use testkit_base::Error;

/// One piece of a stream, as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// The stream header's tag.
    Header(String),
    /// A whole top-level element.
    Element(String),
    /// The end of the stream.
    End,
}

/// The first piece and how many bytes it takes; `None` until more bytes are there.
pub fn piece(bytes: &[u8]) -> Result<Option<(Piece, usize)>, Error> {
    let mut at = 0;
    let (mut start, mut depth) = (0, 0_usize);
    loop {
        let Some(open) = memchr::memchr(b'<', bytes.get(at..).unwrap_or_default()) else {
            return Ok(None);
        };
        let open = at + open;
        let Some(end) = tag_end(bytes, open) else {
            return Ok(None);
        };
        let tag = bytes.get(open..end).unwrap_or_default();
        at = end;
        if tag.starts_with(b"<?") {
            continue;
        }
        if depth == 0 {
            start = open;
            if tag.starts_with(b"</") {
                return Ok(Some((Piece::End, end)));
            }
            if tag.starts_with(b"<stream:stream") {
                return Ok(Some((Piece::Header(text(tag)?), end)));
            }
        }
        if tag.starts_with(b"</") {
            depth = depth.saturating_sub(1);
        } else if !tag.ends_with(b"/>") {
            depth += 1;
        }
        if depth == 0 {
            let whole = bytes.get(start..end).unwrap_or_default();
            return Ok(Some((Piece::Element(text(whole)?), end)));
        }
    }
}

fn text(bytes: &[u8]) -> Result<String, Error> {
    Ok(std::str::from_utf8(bytes)?.to_owned())
}

/// The place behind the tag that opens at `open`.
fn tag_end(bytes: &[u8], open: usize) -> Option<usize> {
    let mut quote = None;
    for (i, &byte) in bytes.iter().enumerate().skip(open) {
        match (quote, byte) {
            (None, b'>') => return Some(i + 1),
            (None, b'\'' | b'"') => quote = Some(byte),
            (Some(q), b) if q == b => quote = None,
            _ => {}
        }
    }
    None
}

/// The value of an attribute of the piece's first tag, as written.
pub fn attribute<'a>(piece: &'a str, name: &str) -> Option<&'a str> {
    let tag = piece.get(..tag_end(piece.as_bytes(), 0)?)?;
    let mut rest = tag;
    loop {
        let found = rest.find(name)?;
        let before = rest.get(..found)?.chars().next_back();
        rest = rest.get(found + name.len()..)?;
        if before.is_some_and(char::is_whitespace)
            && let Some(value) = rest.strip_prefix('=')
        {
            let quote = value.chars().next()?;
            return value.get(1..)?.split(quote).next();
        }
    }
}

/// What stands between the first tag and the last one.
pub fn content(piece: &str) -> &str {
    let inside = || {
        let start = tag_end(piece.as_bytes(), 0)?;
        piece.get(start..piece.rfind("</")?)
    };
    inside().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_stream_is_cut_into_header_elements_and_end() {
        let stream =
            "<?xml version='1.0'?><stream:stream id='a>b' to=\"x\"> <iq id='1'><q a='/>'/></iq><db:x/></stream:stream>";
        let mut rest = stream.as_bytes();
        let mut seen = Vec::new();
        while let Some((piece, taken)) = piece(rest).unwrap() {
            seen.push(piece);
            rest = rest.get(taken..).unwrap();
        }
        let header = "<stream:stream id='a>b' to=\"x\">";
        assert_eq!(
            seen,
            [
                Piece::Header(header.into()),
                Piece::Element("<iq id='1'><q a='/>'/></iq>".into()),
                Piece::Element("<db:x/>".into()),
                Piece::End
            ]
        );
        assert_eq!(attribute(header, "id"), Some("a>b"));
        assert_eq!(attribute(header, "to"), Some("x"));
        assert_eq!(attribute(header, "from"), None);
        assert_eq!(content("<a b='c'>key</a>"), "key");
    }

    #[test]
    fn an_incomplete_piece_waits_for_more() {
        for text in ["", " ", "<", "<iq id='", "<iq><q>", "<iq><q/></iq"] {
            assert!(piece(text.as_bytes()).unwrap().is_none(), "{text}");
        }
    }
}
