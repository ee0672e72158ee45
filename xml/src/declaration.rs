//! The XML declaration in front of a stream header (XML 1.0 `[23]`).

use super::chars::{is_space, spaces};
use super::error::StreamErrorCondition as Condition;

/// Longer than any declaration that makes sense.
pub(super) const MAX_BYTES: usize = 256;

type Refusal = (Condition, &'static str);

/// Checks `<?xml … ?>`: version 1.0, UTF-8, standalone.
pub(super) fn check(declaration: &[u8]) -> Result<(), Refusal> {
    const MALFORMED: Refusal = (Condition::NotWellFormed, "malformed XML declaration");
    const PI: Refusal = (Condition::RestrictedXml, "processing instruction");
    let body = declaration.strip_prefix(b"<?xml").ok_or(PI)?;
    if !body.first().is_some_and(|&b| is_space(b) || b == b'?') {
        return Err(PI);
    }
    let body = body.strip_suffix(b"?>").ok_or(MALFORMED)?;
    let mut rest = body;
    let version = pseudo_attribute(&mut rest, b"version")
        .map_err(|()| MALFORMED)?
        .ok_or(MALFORMED)?;
    if version != b"1.0" {
        return Err((Condition::RestrictedXml, "XML version other than 1.0"));
    }
    let encoding = pseudo_attribute(&mut rest, b"encoding").map_err(|()| MALFORMED)?;
    if encoding.is_some_and(|e| !e.eq_ignore_ascii_case(b"utf-8")) {
        return Err((Condition::UnsupportedEncoding, "encoding other than UTF-8"));
    }
    let standalone = pseudo_attribute(&mut rest, b"standalone").map_err(|()| MALFORMED)?;
    if standalone.is_some_and(|s| s != b"yes" || encoding.is_none()) {
        return Err((Condition::RestrictedXml, "document is not standalone"));
    }
    if spaces(rest) == rest.len() {
        Ok(())
    } else {
        Err(MALFORMED)
    }
}

/// Takes ` name = 'value'` off the front; `None` when another thing is there.
fn pseudo_attribute<'b>(rest: &mut &'b [u8], name: &[u8]) -> Result<Option<&'b [u8]>, ()> {
    let after = skip_spaces(rest);
    let Some(after) = after.strip_prefix(name) else {
        return Ok(None);
    };
    if spaces(rest) == 0 {
        return Err(());
    }
    let after = skip_spaces(after).strip_prefix(b"=").ok_or(())?;
    let (quote, after) = skip_spaces(after).split_first().ok_or(())?;
    if !matches!(quote, b'\'' | b'"') {
        return Err(());
    }
    let end = after.iter().position(|b| b == quote).ok_or(())?;
    let (value, after) = after.split_at_checked(end).ok_or(())?;
    *rest = after.get(1..).unwrap_or_default();
    Ok(Some(value))
}

fn skip_spaces(bytes: &[u8]) -> &[u8] {
    bytes.get(spaces(bytes)..).unwrap_or_default()
}
