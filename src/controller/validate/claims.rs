//! Names that two resources cannot have.

use xmpp_federation_core::{ComponentId, Domain};

use super::{Refusal, component_ids};
use crate::api::slots::Slots;
use crate::api::{XmppFederationSpec, XmppFederationStatus};

/// Names that another resource holds already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Namespace and name of the other, as `namespace/name`.
    pub resource: String,
    /// Its domains and aliases as written.
    pub domains: Vec<String>,
    pub component_ids: Vec<String>,
}

pub(super) fn used_twice<'a>(
    hosted: &[Domain],
    ids: &[ComponentId],
    claims: impl IntoIterator<Item = &'a Claim>,
) -> Result<(), Refusal> {
    for claim in claims {
        if let Some(domain) = hosted.iter().find(|d| claim.domains.iter().any(|c| c == d.as_str())) {
            return Err(Refusal::UsedTwice(format!(
                "{domain} is served by XmppFederation {} already; remove it from one of the two",
                claim.resource
            )));
        }
        if let Some(id) = ids.iter().find(|i| claim.component_ids.iter().any(|c| c == i.as_str())) {
            return Err(Refusal::UsedTwice(format!(
                "the component id {id} follows from the host names of this resource and of XmppFederation {}; use another edge.hostname in one of the two",
                claim.resource
            )));
        }
    }
    Ok(())
}

/// What a resource claims; values that are no domains claim nothing.
pub fn claim(resource: String, spec: &XmppFederationSpec, status: Option<&XmppFederationStatus>) -> Claim {
    let domains = spec
        .domains
        .iter()
        .chain(&spec.chat_node_aliases)
        .map(|d| d.0.clone())
        .collect();
    let ids = component_ids(spec, Slots::of(spec, status, None)).into_iter();
    let component_ids = ids.map(|id| id.as_str().to_owned()).collect();
    Claim {
        resource,
        domains,
        component_ids,
    }
}
