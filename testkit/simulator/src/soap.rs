//! SOAP 1.1 envelopes and faults, as much of them as AXL and Control Center use.

use testkit_base::xml::{Element, escape, parse_document};

/// Namespace of SOAP 1.1.
pub const ENVELOPE_NS: &str = "http://schemas.xmlsoap.org/soap/envelope/";

/// The one operation inside an envelope.
pub fn operation(body: &[u8]) -> Result<Element, String> {
    let envelope = parse_document(body).map_err(|error| format!("the request is not XML: {error}"))?;
    if (envelope.ns.as_str(), envelope.name.as_str()) != (ENVELOPE_NS, "Envelope") {
        return Err("the request is not a SOAP 1.1 envelope".into());
    }
    let mut bodies = envelope
        .elements()
        .filter(|element| element.ns == ENVELOPE_NS && element.name == "Body");
    let (Some(body), None) = (bodies.next(), bodies.next()) else {
        return Err("the envelope has not exactly one Body".into());
    };
    let mut operations = body.elements();
    match (operations.next(), operations.next()) {
        (Some(operation), None) => Ok(operation.clone()),
        _ => Err("the Body has not exactly one operation".into()),
    }
}

/// An envelope around an answer that is XML already.
pub fn envelope(content: &str) -> String {
    format!(
        "<?xml version='1.0' encoding='UTF-8'?><soapenv:Envelope xmlns:soapenv=\"{ENVELOPE_NS}\"><soapenv:Body>{content}</soapenv:Body></soapenv:Envelope>"
    )
}

/// A fault; `detail` is XML already.
pub fn fault(code: &str, text: &str, detail: &str) -> String {
    envelope(&format!(
        "<soapenv:Fault><faultcode>soapenv:{code}</faultcode><faultstring>{}</faultstring><detail>{detail}</detail></soapenv:Fault>",
        escape(text)
    ))
}
