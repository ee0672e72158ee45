//! What kind of cluster this is.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIGroupList;
use tracing::{info, warn};

use super::api_error::{ApiError, bounded};

/// The API of OpenShift's security context constraints: where it is served, each namespace has users and groups of its
/// own, and pods with others are refused.
const CONSTRAINTS: &str = "security.openshift.io";

/// Whether the platform assigns users and groups to pods. Every account may ask that; where a cluster takes even this
/// right away, it is told in the log and counts as no.
pub async fn assigns_users(client: &kube::Client) -> Result<bool, ApiError> {
    match bounded(client.list_api_groups()).await {
        Ok(groups) => {
            let assigns = serves(&groups, CONSTRAINTS);
            if assigns {
                info!(
                    group = CONSTRAINTS,
                    "users and groups of the edges' pods are left to the platform"
                );
            }
            Ok(assigns)
        }
        Err(ApiError::Failed(kube::Error::Api(status))) if status.is_forbidden() => {
            warn!(
                error = status.message,
                "the API groups of this cluster cannot be listed; where it assigns users to pods, set spec.edge.pod.securityContext: {{}}"
            );
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

fn serves(groups: &APIGroupList, name: &str) -> bool {
    groups.groups.iter().any(|group| group.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIGroup;

    #[test]
    fn open_shift_is_known_by_its_constraints() {
        let list = |names: &[&str]| APIGroupList {
            groups: names
                .iter()
                .map(|name| APIGroup {
                    name: (*name).to_owned(),
                    ..APIGroup::default()
                })
                .collect(),
        };
        assert!(serves(&list(&["apps", "security.openshift.io"]), CONSTRAINTS));
        assert!(!serves(&list(&["apps", "security.example"]), CONSTRAINTS));
    }
}
