//! The static list of a node's services, which says of each whether it is deployable: only such a
//! service is started, stopped or restarted over this interface. Asked by the pre-flight check
//! alone; whether a version keeps to its own list is seen only by trying.

use super::{ControlCenter, NAMESPACE, ROUTER};
use crate::error::CallError;
use crate::soap::{self, Element};

/// What the list says of the XCP router.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listing {
    /// It may be restarted.
    Deployable,
    /// It may not.
    NotDeployable,
    /// It is there, and nothing is said about that.
    Unsaid,
    /// It is not there.
    Absent,
}

fn request() -> String {
    soap::envelope(
        "soap",
        NAMESPACE,
        "<soap:soapGetStaticServiceList><soap:ServiceInformationResponse></soap:ServiceInformationResponse></soap:soapGetStaticServiceList>",
    )
}

impl ControlCenter<'_> {
    /// What the node's list of services says of its XCP router; changes nothing.
    pub async fn listing(&self) -> Result<Listing, CallError> {
        let answer = self.call("soapGetStaticServiceList", &request(), None).await?;
        Ok(read(&answer))
    }
}

fn read(answer: &Element) -> Listing {
    let Some(entry) = entry(answer) else {
        return Listing::Absent;
    };
    match entry.child_text("Deployable") {
        Some("true" | "1") => Listing::Deployable,
        Some("false" | "0") => Listing::NotDeployable,
        _ => Listing::Unsaid,
    }
}

/// The router's entry, however deep it stands: releases wrap the list differently.
fn entry(element: &Element) -> Option<&Element> {
    if element.child_text("ServiceName") == Some(ROUTER) {
        return Some(element);
    }
    element.children.iter().find_map(entry)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::may("<Deployable>true</Deployable>", Listing::Deployable)]
    #[case::may_as_a_number("<Deployable>1</Deployable>", Listing::Deployable)]
    #[case::may_not("<Deployable>false</Deployable>", Listing::NotDeployable)]
    #[case::nothing_said("", Listing::Unsaid)]
    fn the_list_is_read(#[case] said: &str, #[case] expected: Listing) {
        let item = |name: &str| format!("<item><ServiceName>{name}</ServiceName>{said}</item>");
        for name in [ROUTER, "Cisco Tomcat"] {
            let text = format!(
                "<e:Envelope xmlns:e='x'><e:Body><r><ret><Services>{}{}</Services></ret></r></e:Body></e:Envelope>",
                item("Cisco DB"),
                item(name)
            );
            let soap::Answer::Response(element) = soap::answer(text.as_bytes()).unwrap() else {
                panic!("a fault");
            };
            let expected = if name == ROUTER { expected } else { Listing::Absent };
            assert_eq!(read(&element), expected);
        }
    }
}
