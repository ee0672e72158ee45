//! SOAP 1.1 as AXL and Control Center speak it: envelopes written as text, answers read into a
//! small tree. Names are matched by their local part because prefixes vary; document type
//! declarations and entities are refused; depth and number of elements are bounded.

use quick_xml::Reader;
use quick_xml::escape::partial_escape;
use quick_xml::events::{BytesRef, Event};

/// Deepest nesting accepted; the interfaces' own answers need 8.
const MAX_DEPTH: usize = 32;
/// Most elements accepted in one answer.
const MAX_ELEMENTS: usize = 200_000;
/// Longest name of an element accepted, in bytes; the interfaces' own have 30.
const MAX_NAME: usize = 128;
/// Most characters of a text of theirs that are told: messages end up in conditions, events, the
/// log and the ledger, which all have bounds of their own.
const MAX_TOLD: usize = 300;

/// One element: local name, text (trimmed) and children; attributes are not kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Element {
    pub name: String,
    /// Its own text, CDATA included, without white space around it.
    pub text: String,
    pub children: Vec<Element>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fault {
    pub code: String,
    pub message: String,
    /// `axlcode` of an `axlError`, qualified or not.
    pub axl_code: Option<i64>,
    /// `axlmessage` of an `axlError`.
    pub axl_message: Option<String>,
}

impl Fault {
    /// Whether it is about the rate or the amount of requests: nothing was executed.
    pub fn asks_to_slow_down(&self) -> bool {
        [Some(&self.message), self.axl_message.as_ref()]
            .into_iter()
            .flatten()
            .any(|text| {
                text.contains("Exceeded allowed rate") || text.contains("Maximum AXL Memory Allocation Consumed")
            })
    }

    /// Whether it says that the request itself is at fault (SOAP 1.1 section 4.4.1), so that
    /// nothing was executed; any other fault may come from the middle of the work.
    pub fn refuses_request(&self) -> bool {
        let code = self.code.rsplit(':').next().unwrap_or_default();
        ["Client", "VersionMismatch", "MustUnderstand"]
            .iter()
            .any(|word| code == *word || code.starts_with(&format!("{word}.")))
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let message = self.axl_message.as_ref().unwrap_or(&self.message);
        match self.axl_code {
            Some(code) => write!(f, "{message} (axlcode {code})"),
            None if self.code.is_empty() => f.write_str(message),
            None => write!(f, "{message} ({})", self.code),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Response(Element),
    Fault(Fault),
}

/// Why an answer is not one; a sentence's end ("the answer …").
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SoapError {
    /// Not well-formed, or not XML at all.
    #[error("is not well-formed XML: {0}")]
    Malformed(String),
    /// A DTD or an entity.
    #[error("contains a document type declaration or an entity, which SOAP forbids")]
    Forbidden,
    /// Too deep or too many elements.
    #[error("is larger than anything this interface sends")]
    TooLarge,
    /// XML, but another document.
    #[error("is no SOAP envelope but <{0}>")]
    NotSoap(String),
}

/// An envelope around `body`, which is XML already; `prefix` is bound to `namespace`.
pub fn envelope(prefix: &str, namespace: &str, body: &str) -> String {
    format!(
        "<soapenv:Envelope xmlns:soapenv=\"http://schemas.xmlsoap.org/soap/envelope/\" xmlns:{prefix}=\"{namespace}\"><soapenv:Header/><soapenv:Body>{body}</soapenv:Body></soapenv:Envelope>"
    )
}

pub fn escape(text: &str) -> String {
    partial_escape(text).into_owned()
}

pub fn answer(body: &[u8]) -> Result<Answer, SoapError> {
    let root = parse(body)?;
    if root.name != "Envelope" {
        return Err(SoapError::NotSoap(root.name));
    }
    let content = root
        .child("Body")
        .and_then(|body| body.children.first())
        .ok_or_else(|| SoapError::NotSoap("Envelope without content".to_owned()))?;
    Ok(if content.name == "Fault" {
        Answer::Fault(fault(content))
    } else {
        Answer::Response(content.clone())
    })
}

fn fault(element: &Element) -> Fault {
    let axl = element.find("axlError");
    let text = |of: &Element, name: &str| of.find(name).map(|found| plain(&found.text));
    Fault {
        code: text(element, "faultcode").unwrap_or_default(),
        message: text(element, "faultstring").unwrap_or_default(),
        axl_code: axl
            .and_then(|axl| text(axl, "axlcode").or_else(|| text(axl, "code")))
            .and_then(|code| code.parse().ok()),
        axl_message: axl.and_then(|axl| text(axl, "axlmessage").or_else(|| text(axl, "message"))),
    }
}

/// A text of the other side as it may be told: on one line, and not longer than a message can be.
pub fn plain(text: &str) -> String {
    let mut told: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MAX_TOLD)
        .collect();
    if text.chars().nth(MAX_TOLD).is_some() {
        told.push('…');
    }
    told
}

impl Element {
    /// The first child of that local name.
    pub fn child(&self, name: &str) -> Option<&Element> {
        self.children.iter().find(|child| child.name == name)
    }

    /// The text of the first child of that local name.
    pub fn child_text(&self, name: &str) -> Option<&str> {
        self.child(name).map(|child| child.text.as_str())
    }

    /// The first descendant of that local name, depth first.
    pub fn find(&self, name: &str) -> Option<&Element> {
        self.children.iter().find_map(|child| {
            if child.name == name {
                Some(child)
            } else {
                child.find(name)
            }
        })
    }
}

fn parse(body: &[u8]) -> Result<Element, SoapError> {
    let malformed = |error: &dyn std::fmt::Display| SoapError::Malformed(plain(&error.to_string()));
    let text = std::str::from_utf8(body).map_err(|error| malformed(&error))?;
    let mut reader = Reader::from_str(text.trim_start_matches('\u{feff}'));
    reader.config_mut().expand_empty_elements = true;
    let mut open: Vec<Element> = Vec::new();
    let mut root = None;
    let mut count = 0;
    loop {
        let event = reader.read_event().map_err(|error| malformed(&error))?;
        match event {
            Event::Start(start) => {
                count += 1;
                let name = start.local_name().into_inner();
                if open.len() >= MAX_DEPTH || count > MAX_ELEMENTS || name.len() > MAX_NAME {
                    return Err(SoapError::TooLarge);
                }
                if root.is_some() {
                    return Err(SoapError::Malformed("a second root element".to_owned()));
                }
                open.push(Element {
                    name: name.to_owned(),
                    ..Element::default()
                });
            }
            Event::End(_) => {
                let Some(mut done) = open.pop() else {
                    return Err(SoapError::Malformed("an end tag too many".to_owned()));
                };
                done.text.truncate(done.text.trim_end().len());
                let leading = done.text.len() - done.text.trim_start().len();
                done.text.drain(..leading);
                match open.last_mut() {
                    Some(parent) => parent.children.push(done),
                    None => root = Some(done),
                }
            }
            Event::Text(content) => push(&mut open, &content)?,
            Event::CData(content) => push(&mut open, &content)?,
            Event::GeneralRef(reference) => {
                let character = resolve(&reference)?;
                push(&mut open, character.encode_utf8(&mut [0; 4]))?;
            }
            Event::DocType(_) => return Err(SoapError::Forbidden),
            Event::Eof => break,
            Event::Empty(_) | Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
        }
    }
    match root {
        Some(root) if open.is_empty() => Ok(root),
        _ => Err(SoapError::Malformed("it ends early".to_owned())),
    }
}

fn push(open: &mut [Element], text: &str) -> Result<(), SoapError> {
    match open.last_mut() {
        Some(element) => element.text.push_str(text),
        None if text.trim().is_empty() => {}
        None => return Err(SoapError::Malformed("text outside the root".to_owned())),
    }
    Ok(())
}

/// The five predefined entities and character references; nothing else exists without a DTD.
fn resolve(reference: &BytesRef<'_>) -> Result<char, SoapError> {
    if let Some(character) = reference
        .resolve_char_ref()
        .map_err(|error| SoapError::Malformed(plain(&error.to_string())))?
    {
        return Ok(character);
    }
    match &**reference {
        "amp" => Ok('&'),
        "lt" => Ok('<'),
        "gt" => Ok('>'),
        "quot" => Ok('"'),
        "apos" => Ok('\''),
        _ => Err(SoapError::Forbidden),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::*;
    use rstest::rstest;

    fn response(text: &str) -> Element {
        match answer(text.as_bytes()).unwrap() {
            Answer::Response(element) => element,
            Answer::Fault(fault) => panic!("{fault}"),
        }
    }

    #[rstest]
    #[case::soapenv("soapenv", "<sql>a &lt; b &#x26; c</sql>")]
    #[case::other_prefix("S", "<n:sql xmlns:n='u'>a &lt; b &amp; c</n:sql>")]
    #[case::cdata("SOAP-ENV", "<sql>\n<![CDATA[a < b & c]]>\n</sql>")]
    fn prefixes_and_escapes_vary_the_content_does_not(#[case] prefix: &str, #[case] inner: &str) {
        let text = format!(
            "<?xml version='1.0'?><{prefix}:Envelope xmlns:{prefix}='http://schemas.xmlsoap.org/soap/envelope/'><{prefix}:Body><q>{inner}</q></{prefix}:Body></{prefix}:Envelope>"
        );
        assert_eq!(response(&text).child_text("sql"), Some("a < b & c"));
    }

    #[rstest]
    #[case::unqualified("<axlError><axlcode>-201</axlcode><axlmessage>no table</axlmessage></axlError>")]
    #[case::qualified(
        "<a:axlError xmlns:a='u'><a:axlcode>-201</a:axlcode><a:axlmessage>no table</a:axlmessage></a:axlError>"
    )]
    fn a_fault_tells_code_and_message_in_both_forms(#[case] detail: &str) {
        let text = format!(
            "<e:Envelope xmlns:e='x'><e:Body><e:Fault><faultcode>e:Server</faultcode><faultstring>bad</faultstring><detail>{detail}</detail></e:Fault></e:Body></e:Envelope>"
        );
        let Answer::Fault(fault) = answer(text.as_bytes()).unwrap() else {
            panic!("no fault");
        };
        assert_eq!(fault.to_string(), "no table (axlcode -201)");
        assert_eq!(fault.message, "bad");
    }

    #[rstest]
    #[case::html("<html><body>Error</body></html>")]
    #[case::unclosed_html("<html><body><br>Error</body></html>")]
    #[case::truncated("<e:Envelope xmlns:e='x'><e:Body><r>")]
    #[case::nothing("")]
    #[case::not_xml("Service Unavailable")]
    #[case::dtd("<!DOCTYPE e [<!ENTITY a 'b'>]><e:Envelope xmlns:e='x'><e:Body><r>&a;</r></e:Body></e:Envelope>")]
    #[case::entity("<e:Envelope xmlns:e='x'><e:Body><r>&a;</r></e:Body></e:Envelope>")]
    #[case::empty_body("<e:Envelope xmlns:e='x'><e:Body/></e:Envelope>")]
    #[case::two_roots("<e:Envelope xmlns:e='x'><e:Body><r/></e:Body></e:Envelope><x/>")]
    fn what_is_no_answer_is_refused(#[case] text: &str) {
        assert!(answer(text.as_bytes()).is_err());
    }

    #[test]
    fn what_a_fault_tells_is_one_bounded_line() {
        let long = "x\ny".repeat(100_000);
        let text = format!(
            "<e:Envelope xmlns:e='x'><e:Body><e:Fault><faultcode>{long}</faultcode><faultstring>{long}</faultstring><detail><axlError><axlcode>1</axlcode><axlmessage>{long}</axlmessage></axlError></detail></e:Fault></e:Body></e:Envelope>"
        );
        let Answer::Fault(fault) = answer(text.as_bytes()).unwrap() else {
            panic!("no fault");
        };
        for told in [&fault.code, &fault.message, fault.axl_message.as_ref().unwrap()] {
            assert!(told.chars().count() <= MAX_TOLD + 1 && !told.contains('\n'));
        }
    }

    #[rstest]
    #[case::faultstring("Maximum AXL Memory Allocation Consumed. Please retry", "An error", true)]
    #[case::axl_message("An error", "Maximum AXL Memory Allocation Consumed.", true)]
    #[case::rate("Exceeded allowed rate for Control Center. Current allowed rate …", "", true)]
    #[case::another("The specified table (x) is not in the database.", "", false)]
    fn a_request_to_slow_down_is_found_wherever_it_stands(
        #[case] message: &str,
        #[case] axl: &str,
        #[case] expected: bool,
    ) {
        let fault = Fault {
            message: message.to_owned(),
            axl_message: Some(axl.to_owned()),
            ..Fault::default()
        };
        assert_eq!(fault.asks_to_slow_down(), expected);
    }

    #[test]
    fn absurd_names_are_refused_and_not_repeated() {
        let text = format!("<{0}></{0}>", "a".repeat(10_000));
        assert_eq!(answer(text.as_bytes()), Err(SoapError::TooLarge));
        let text = format!("<a><{}</a>", "b".repeat(10_000));
        assert!(answer(text.as_bytes()).unwrap_err().to_string().len() < 2_000);
    }

    #[test]
    fn absurd_depth_is_refused() {
        let text = "<a>".repeat(1000);
        assert_eq!(answer(text.as_bytes()), Err(SoapError::TooLarge));
    }
}
