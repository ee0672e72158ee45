//! Names of elements and attributes, looked at byte by byte.

use super::chars::{Utf8, decode, is_ascii_name_char, is_ascii_name_start, is_name_char, letter_run, starts_name};
use super::element::Span;
use super::portable::{is_old_name_char, is_old_name_start};
use super::scanner::Scanner;
use super::state::{Step, bad_utf8, from, malformed, over_limit};

impl Scanner {
    /// Walks to the end of a name; false when it may go on in bytes to come.
    #[inline]
    pub(super) fn name(&mut self, buf: &[u8], pos: &mut usize) -> Step<bool> {
        loop {
            *pos += letter_run(from(buf, *pos));
            if *pos - self.mark > self.limits.max_name_bytes {
                return over_limit("name too long");
            }
            match buf.get(*pos) {
                None => return Ok(false),
                Some(&b) if is_ascii_name_char(b) => *pos += 1,
                Some(b':') => {
                    if self.colon != 0 {
                        return malformed("two colons in a name");
                    }
                    self.colon = *pos;
                    *pos += 1;
                }
                Some(0..0x80) => return Ok(true),
                Some(_) => match decode(from(buf, *pos)) {
                    Utf8::Char(c, n) if is_name_char(c) => {
                        let starts = *pos == self.mark || *pos == self.colon + 1;
                        self.unportable |= if starts {
                            !is_old_name_start(c)
                        } else {
                            !is_old_name_char(c)
                        };
                        *pos += n;
                    }
                    Utf8::Char(..) => return malformed("character not allowed in a name"),
                    Utf8::Partial => return Ok(false),
                    Utf8::Bad => return bad_utf8(),
                },
            }
        }
    }

    /// The name of an element or attribute ends at `end`.
    #[inline]
    pub(super) fn note_name(&mut self, end: usize) {
        if std::mem::take(&mut self.unportable) {
            self.note_unportable(Span::new(self.mark, end));
        }
    }

    /// Is the name just walked over a qualified name (Namespaces in XML `[7]`)?
    #[inline]
    pub(super) fn name_is_proper(&self, buf: &[u8], end: usize) -> bool {
        if self.colon == 0 && buf.get(self.mark).is_some_and(|&b| is_ascii_name_start(b)) {
            return true;
        }
        let part = |a: usize, b: usize| starts_name(buf.get(a..b).unwrap_or_default());
        if self.colon == 0 {
            part(self.mark, end)
        } else {
            part(self.mark, self.colon) && part(self.colon + 1, end)
        }
    }
}
