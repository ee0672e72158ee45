//! What a person asks for by annotation; each value is served once.

use kube::ResourceExt;

use super::events::Note;
use crate::api::bounds;
use crate::api::reasons::Reason;
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
    unserved_by(object.status.as_ref(), object, annotation)
}

/// The same, given the status.
pub fn unserved_by<'a>(
    status: Option<&XmppFederationStatus>,
    object: &'a impl ResourceExt,
    annotation: &str,
) -> Option<&'a String> {
    let served = |value: &String| {
        let mut handled = status.into_iter().flat_map(|status| &status.handled_requests);
        handled.any(|handled| handled.annotation == annotation && handled.value == bounds::request_value(value))
    };
    object.annotations().get(annotation).filter(|value| !served(value))
}

/// Whether a person gives rows up. A value that gave up those of a cluster that left the spec is
/// served.
pub fn abandons(object: &XmppFederation) -> bool {
    unserved(object, request::ABANDON_ROWS).is_some()
}

/// Requests of which one reconcile took care.
#[derive(Debug, Clone, Copy)]
pub struct ServedRequests<'a> {
    /// A new dialback secret is asked for.
    pub rotate: Option<&'a String>,
    /// There was none, so that one was made.
    pub rotated: bool,
    /// Secrets without marks were to be taken over, and all are the resource's.
    pub adopted: Option<&'a String>,
    /// All was read anew.
    pub refreshed: bool,
    /// Rows of dropped clusters were given up.
    pub abandoned: bool,
    /// No other federation is to wait for this one's turn, and none does.
    pub continued: Option<&'a String>,
}

impl ServedRequests<'_> {
    /// Notes in the status which values were served; says why one was not.
    pub fn note(&self, object: &XmppFederation, status: &mut XmppFederationStatus) -> Option<Note> {
        let mut set = |annotation: &str, value: Option<&String>| {
            if let Some(value) = value {
                set_handled(status, annotation, value);
            }
        };
        let value = |annotation: &str| object.annotations().get(annotation);
        set(request::ROTATE_DIALBACK, self.rotate);
        set(request::ADOPT_SECRETS, self.adopted);
        set(request::REFRESH, value(request::REFRESH).filter(|_| self.refreshed));
        set(request::CONTINUE_UPGRADE, self.continued);
        set(
            request::ABANDON_ROWS,
            value(request::ABANDON_ROWS).filter(|_| self.abandoned),
        );
        self.rotate.filter(|_| !self.rotated).map(|value| Note {
            warning: true,
            reason: Reason::SpecInvalid.to_string(),
            message: format!(
                "{} = {value:?} was not served: rotation of the dialback secret is not available in this release; remove the annotation",
                request::ROTATE_DIALBACK
            ),
        })
    }
}

fn set_handled(status: &mut XmppFederationStatus, annotation: &str, value: &str) {
    status.handled_requests.retain(|h| h.annotation != annotation);
    status.handled_requests.push(HandledRequest {
        annotation: annotation.to_owned(),
        value: bounds::request_value(value),
    });
    status.handled_requests.sort_by(|a, b| a.annotation.cmp(&b.annotation));
}
