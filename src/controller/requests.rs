//! What a person asks for by annotation; each value is served once.

use kube::ResourceExt;

use crate::api::status::{HandledRequest, XmppFederationStatus};
use crate::api::{XmppFederation, request};
use xmpp_federation_imp::desired::Requests;

/// What the clusters are asked for. Their records say which values were served.
pub fn to_clusters(object: &XmppFederation) -> Requests {
    let value = |name: &str| object.annotations().get(name).cloned();
    Requests {
        refresh: value(request::REFRESH),
        restart_routers: value(request::RESTART_ROUTERS),
        adopt_rows: value(request::ADOPT_ROWS),
    }
}

/// The value of an annotation that was not served yet.
pub fn unserved<'a>(object: &'a XmppFederation, annotation: &str) -> Option<&'a String> {
    let served = |value: &String| {
        let mut handled = object.status.iter().flat_map(|status| &status.handled_requests);
        handled.any(|handled| handled.annotation == annotation && handled.value == *value)
    };
    object.annotations().get(annotation).filter(|value| !served(value))
}

/// Whether a person gives rows up. A value that gave up those of a cluster that left the spec is
/// served.
pub fn abandons(object: &XmppFederation) -> bool {
    unserved(object, request::ABANDON_ROWS).is_some()
}

/// Notes that a value was served.
pub fn set_handled(status: &mut XmppFederationStatus, annotation: &str, value: &str) {
    status.handled_requests.retain(|h| h.annotation != annotation);
    status.handled_requests.push(HandledRequest {
        annotation: annotation.to_owned(),
        value: value.to_owned(),
    });
    status.handled_requests.sort_by(|a, b| a.annotation.cmp(&b.annotation));
}
