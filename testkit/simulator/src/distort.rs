//! What faults do to an answer that is ready: its text, and how it goes out.

use super::faults::FaultOptions;
use super::message::{Answer, Delivery};
use super::soap::ENVELOPE_NS;
use testkit_base::xml::escape;

/// The elements whose text comes in CDATA sections under `…-prefixes`.
const TEXTS: [&str; 8] = [
    "pkid",
    "cp_id",
    "name",
    "tabname",
    "rowsUpdated",
    "tknodeusage",
    "ns1:ServiceName",
    "ns1:ServiceStatus",
];

/// The answer as the faults of that interface (`axl` or `cc`) that strike here leave it.
pub fn distort(mut answer: Answer, interface: &str, strike: impl Fn(&str) -> Option<FaultOptions>) -> Answer {
    let strike = |name: &str| strike(&format!("{interface}-{name}"));
    let body = &mut answer.body;
    if strike("empty-return").is_some() {
        replace_between(body, "<return>", "</return>", "");
    }
    if strike("rows-missing").is_some()
        && let Some(at) = body.rfind("<row>")
        && let Some(length) = body.get(at..).and_then(|rest| rest.find("</row>"))
    {
        body.replace_range(at..at + length + "</row>".len(), "");
    }
    if strike("columns").is_some() {
        *body = body.replace("<row>", "<row><sortorder>7</sortorder><description/><pkid_of/>");
    }
    if let Some(options) = strike("names")
        && let Some(at) = body.rfind("<name>")
    {
        let mut last = body.split_off(at);
        let name = escape(&options.message.unwrap_or_default());
        replace_between(&mut last, "<name>", "</name>", &name);
        body.push_str(&last);
    }
    if let Some(options) = strike("rows-updated") {
        let code = options.code.unwrap_or(0).to_string();
        replace_between(body, "<rowsUpdated>", "</rowsUpdated>", &code);
    }
    if let Some(options) = strike("up-time") {
        let value = escape(&options.message.unwrap_or_default());
        let mut out = String::new();
        for (index, part) in body.split("<ns1:UpTime>").enumerate() {
            match part.split_once("</ns1:UpTime>") {
                Some((_, rest)) if index > 0 => {
                    out.push_str("<ns1:UpTime>");
                    out.push_str(&value);
                    out.push_str("</ns1:UpTime>");
                    out.push_str(rest);
                }
                _ => out.push_str(part),
            }
        }
        *body = out;
    }
    if strike("namespaces").is_some() {
        *body = body
            .replace(ENVELOPE_NS, "urn:example:another-envelope")
            .replace("http://www.cisco.com/AXL/API/", "urn:example:another-axl:")
            .replace("http://schemas.cisco.com/ast/soap", "urn:example:another");
    }
    if strike("prefixes").is_some() {
        for name in TEXTS {
            *body = body
                .replace(&format!("<{name}>"), &format!("<{name}><![CDATA["))
                .replace(&format!("</{name}>"), &format!("]]></{name}>"));
        }
        *body = body
            .replace("soapenv:", "SOAP-ENV:")
            .replace("xmlns:soapenv=", "xmlns:SOAP-ENV=")
            .replace("ns1:", "x.y:")
            .replace("xmlns:ns1=", "xmlns:x.y=");
    }
    if strike("dtd").is_some() {
        *body = body
            .replacen(
                "<soapenv:Envelope",
                "<!DOCTYPE e [<!ENTITY a \"aaaaaaaa\"><!ENTITY b \"&a;&a;&a;&a;\">]><soapenv:Envelope",
                1,
            )
            .replacen("</soapenv:Body>", "<x>&b;</x></soapenv:Body>", 1);
    }
    if strike("truncated").is_some() {
        let half = body.len() / 2;
        *body = body.chars().take(half).collect();
    }
    if strike("html").is_some() {
        return Answer {
            outcome: answer.outcome,
            ..Answer::html(200, "Welcome to the proxy<br>Please log in")
        };
    }
    for (name, delivery) in [
        ("reset", Delivery::Reset),
        ("drip", Delivery::Drip),
        ("huge", Delivery::Huge),
    ] {
        if strike(name).is_some() {
            answer.delivery = delivery;
        }
    }
    answer
}

/// Replaces what stands between the first `open` and the first `close` behind it.
fn replace_between(text: &mut String, open: &str, close: &str, by: &str) {
    if let Some((before, rest)) = text.split_once(open)
        && let Some((_, behind)) = rest.split_once(close)
    {
        *text = format!("{before}{open}{by}{close}{behind}");
    }
}
