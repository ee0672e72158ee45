//! What comes before the stream header: nothing, white space, an XML declaration.

use super::chars::spaces;
use super::declaration;
use super::error::StreamErrorCondition as Condition;
use super::scanner::Scanner;
use super::state::{State, Step, from, malformed};

/// How far the scanner got before the header.
pub(super) enum Prolog {
    /// So many bytes mean nothing.
    Skip(usize),
    /// The buffer starts with the `<` of the header.
    Header,
    /// More bytes are needed.
    Starved,
}

impl Scanner {
    /// Reads on in the states before the header.
    pub(super) fn prolog(&mut self, buf: &[u8]) -> Step<Prolog> {
        if self.state == State::Declaration {
            return self.declaration(buf);
        }
        let skip = spaces(buf);
        if skip > 0 {
            return Ok(Prolog::Skip(skip));
        }
        let restricted = Err((Condition::RestrictedXml, "processing instruction"));
        match *buf {
            [] | [b'<' | 0xEF] | [0xEF, 0xBB] => Ok(Prolog::Starved),
            // Behind white space or another declaration it is a processing instruction.
            [b'<', b'?', ..] if self.base != 0 => restricted,
            [b'<', b'?', ..] => {
                self.state = State::Declaration;
                self.pos = 2;
                self.declaration(buf)
            }
            [b'<', b'/', ..] => malformed("end tag without start tag"),
            [b'<', 0, ..] | [0 | 0xFE | 0xFF, ..] => Err((Condition::UnsupportedEncoding, "not UTF-8")),
            [b'<', ..] => Ok(Prolog::Header),
            [0xEF, 0xBB, 0xBF, ..] => malformed("byte order mark before the stream header"),
            _ => malformed("not a stream header"),
        }
    }

    fn declaration(&mut self, buf: &[u8]) -> Step<Prolog> {
        let behind = from(buf, self.pos);
        let close = behind.iter().position(|&b| b == b'>');
        self.pos += close.unwrap_or(behind.len());
        if self.pos > declaration::MAX_BYTES {
            return Err((Condition::RestrictedXml, "XML declaration too long"));
        }
        if close.is_none() {
            return Ok(Prolog::Starved);
        }
        self.pos += 1;
        declaration::check(buf.get(..self.pos).unwrap_or_default())?;
        self.state = State::Start;
        Ok(Prolog::Skip(self.pos))
    }
}
