//! libexpat as a judge: does it take these bytes? Many XMPP servers read their streams with it.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::fmt;
use std::ptr::NonNull;

/// What libexpat works with; only ever behind a pointer.
#[repr(C)]
struct Opaque(c_void);

unsafe extern "C" {
    fn XML_ParserCreateNS(encoding: *const c_char, separator: c_char) -> *mut Opaque;
    fn XML_ParserCreate(encoding: *const c_char) -> *mut Opaque;
    fn XML_Parse(parser: *mut Opaque, text: *const c_char, len: c_int, last: c_int) -> c_int;
    fn XML_GetErrorCode(parser: *mut Opaque) -> c_int;
    fn XML_GetCurrentByteIndex(parser: *mut Opaque) -> std::ffi::c_long;
    fn XML_ErrorString(code: c_int) -> *const c_char;
    fn XML_ParserFree(parser: *mut Opaque);
}

/// `XML_STATUS_OK`.
const OK: c_int = 1;

/// Why libexpat refuses something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Its own words.
    pub reason: String,
    /// Where, in bytes from the beginning.
    pub at: i64,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}", self.reason, self.at)
    }
}

/// One stream or document, in UTF-8.
#[derive(Debug)]
pub struct Parser(NonNull<Opaque>);

impl Parser {
    /// `separator`: what stands between a namespace and a local name in the names that the program
    /// gets, as it is chosen by each program; `None`: namespaces are not looked at.
    ///
    /// # Panics
    /// Without memory.
    #[allow(clippy::expect_used, reason = "for tests")]
    pub fn new(separator: Option<u8>) -> Self {
        let utf8 = c"UTF-8".as_ptr();
        // SAFETY: the encoding is a string that ends with NUL and lives as long as the process;
        // both functions copy it.
        let parser = unsafe {
            match separator {
                Some(separator) => XML_ParserCreateNS(utf8, separator.cast_signed()),
                None => XML_ParserCreate(utf8),
            }
        };
        Self(NonNull::new(parser).expect("libexpat has no memory"))
    }

    /// Reads on. `last`: nothing follows. After a refusal every call refuses.
    pub fn parse(&mut self, text: &[u8], last: bool) -> Result<(), Refused> {
        // Within `c_int` also on the largest input.
        let mut pieces = text.chunks(1 << 20).peekable();
        if pieces.peek().is_none() {
            return self.piece(&[], last);
        }
        while let Some(piece) = pieces.next() {
            self.piece(piece, last && pieces.peek().is_none())?;
        }
        Ok(())
    }

    fn piece(&mut self, text: &[u8], last: bool) -> Result<(), Refused> {
        let len = c_int::try_from(text.len()).unwrap_or(c_int::MAX);
        // SAFETY: the parser lives until it is dropped, and is not shared; `text` has `len` bytes,
        // which are copied as far as they are needed later. No handlers are set, so nothing is
        // called back.
        unsafe {
            let status = XML_Parse(self.0.as_ptr(), text.as_ptr().cast(), len, c_int::from(last));
            if status == OK {
                return Ok(());
            }
            let words = XML_ErrorString(XML_GetErrorCode(self.0.as_ptr()));
            Err(Refused {
                reason: if words.is_null() {
                    String::new()
                } else {
                    CStr::from_ptr(words).to_string_lossy().into_owned()
                },
                at: XML_GetCurrentByteIndex(self.0.as_ptr()),
            })
        }
    }
}

impl Drop for Parser {
    fn drop(&mut self) {
        // SAFETY: made by one of the two constructors, and freed only here.
        unsafe { XML_ParserFree(self.0.as_ptr()) }
    }
}

/// Whether libexpat takes this as a whole document.
pub fn document(text: &[u8], separator: Option<u8>) -> Result<(), Refused> {
    Parser::new(separator).parse(text, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libexpat_judges() {
        let judge = |text: &str| document(text.as_bytes(), Some(b'\n'));
        assert_eq!(judge("<a xmlns='u:a'><b c='1'/></a>"), Ok(()));
        for refused in ["<a>", "<a></b>", "<p:a/>", "<a b='1' b='2'/>", "<\u{132}/>"] {
            assert!(judge(refused).is_err(), "{refused}");
        }
        let text = "<a xmlns='u:&#10;'/>";
        assert!(document(text.as_bytes(), Some(b'\n')).is_err());
        assert_eq!(document(text.as_bytes(), Some(b'!')), Ok(()));
        assert_eq!(document(b"<p:a/>", None), Ok(()));
        let mut stream = Parser::new(Some(1));
        assert_eq!(stream.parse(b"<a><b/>", false), Ok(()));
        assert!(stream.parse(b"</a><c/>", true).is_err());
    }
}
