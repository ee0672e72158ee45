//! Whether a change to IM and Presence may still be made. What it was decided for was read before the clusters were asked, so
//! the resource is read once more, from the API server; and this operator has to lead still.

use futures::future::BoxFuture;
use kube::api::Api;
use kube::{Client, ResourceExt};
use xmpp_federation_core::Activation;

use super::kube::call;
use super::requests;
use crate::api::XmppFederation;
use crate::api::spec::{RestartMode, RestartSpec};
use xmpp_federation_imp::desired::Desired;
use xmpp_federation_imp::guard::Guard;

/// Asks the API server and the Lease.
pub struct ResourceGuard<L> {
    client: Client,
    /// Whether this operator leads at this moment.
    leads: L,
}

impl<L: Fn() -> bool + Send + Sync> ResourceGuard<L> {
    /// One that reads with this client.
    pub fn new(client: Client, leads: L) -> Self {
        Self { client, leads }
    }

    async fn ask(&self, desired: &Desired, restart: bool) -> Result<(), String> {
        let owner = &desired.owner;
        let api: Api<XmppFederation> = Api::namespaced(self.client.clone(), &owner.namespace);
        let what = || format!("XmppFederation {owner} cannot be read");
        let object = call(what, api.get_opt(&owner.name)).await;
        let object = object.map_err(|error| format!("Nothing is changed at IM&P now: {error}"))?;
        if let Some(why) = objection(object.as_ref(), desired, restart) {
            return Err(format!(
                "Nothing is changed at IM&P now, because {why}; the next reconcile decides anew"
            ));
        }
        if !(self.leads)() {
            return Err("Nothing is changed at IM&P now, because this operator does not lead any more".to_owned());
        }
        Ok(())
    }
}

impl<L: Fn() -> bool + Send + Sync> Guard for ResourceGuard<L> {
    fn ask<'a>(&'a self, desired: &'a Desired, restart: bool) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(self.ask(desired, restart))
    }
}

/// What in the resource, as it is now, stands against a change that was decided for this.
fn objection(object: Option<&XmppFederation>, desired: &Desired, restart: bool) -> Option<&'static str> {
    let is_it = |object: &&XmppFederation| object.uid().as_ref() == Some(&desired.owner.uid);
    let Some(object) = object.filter(is_it) else {
        return Some("the resource is gone");
    };
    let spec = &object.spec;
    let active = desired.activation == Activation::Active;
    let entry = spec.imp.iter().find(|entry| entry.name == desired.target.name);
    let deleted = object.metadata.deletion_timestamp.is_some();
    let adopt_rows = requests::to_clusters(object).adopt_rows;
    let against = [
        (deleted && active, "the resource is being deleted"),
        (!deleted && spec.paused, "spec.paused is set"),
        (
            active && spec.activation != Activation::Active,
            "spec.activation is Prepared",
        ),
        (active && entry.is_none(), "spec.imp does not name the cluster any more"),
        (entry.is_some_and(|entry| entry.maintenance), "imp[].maintenance is set"),
        (
            restart && entry.is_some_and(|entry| by_hand(entry.restart.as_ref())),
            "imp[].restart.mode is Manual",
        ),
        (
            active && desired.requests.adopt_rows != adopt_rows,
            "the annotation adopt-rows was changed",
        ),
        (object.metadata.generation != desired.generation, "the spec was changed"),
    ];
    against.into_iter().find_map(|(holds, why)| holds.then_some(why))
}

/// Whether the operator restarts nothing.
fn by_hand(restart: Option<&RestartSpec>) -> bool {
    restart.is_none_or(|restart| restart.mode == RestartMode::Manual)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use http::{Request, Response, StatusCode};
    use kube::client::Body;
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;
    use crate::controller::testing::spec;
    use xmpp_federation_imp::testing;

    fn resource() -> Value {
        json!({"kind": "XmppFederation", "apiVersion": "xmppfederation.io/v1alpha1", "spec": spec(),
            "metadata": {"name": "coluc", "namespace": "federation", "uid": "r-1", "generation": 3}})
    }

    /// Decided for the resource as it is, before it changes.
    fn decided(activation: Activation) -> Desired {
        Desired {
            generation: Some(3),
            activation,
            ..testing::desired()
        }
    }

    async fn asked(answer: Option<Value>, leads: bool, desired: &Desired, restart: bool) -> Result<(), String> {
        let service = tower::service_fn(move |_: Request<Body>| {
            let missing = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "not found", "reason": "NotFound", "code": 404});
            let code = if answer.is_some() {
                StatusCode::OK
            } else {
                StatusCode::NOT_FOUND
            };
            let body = answer.clone().unwrap_or(missing).to_string().into_bytes();
            async move { Ok::<_, kube::Error>(Response::builder().status(code).body(Body::from(body)).unwrap()) }
        });
        ResourceGuard::new(Client::new(service, "federation"), move || leads)
            .ask(desired, restart)
            .await
    }

    #[rstest]
    #[case::paused("/spec/paused", json!(true), "paused")]
    #[case::prepared("/spec/activation", json!("Prepared"), "Prepared")]
    #[case::in_maintenance("/spec/imp/0/maintenance", json!(true), "maintenance")]
    #[case::by_hand("/spec/imp/0/restart", json!({"mode": "Manual"}), "Manual")]
    #[case::another_cluster("/spec/imp/0/name", json!("other"), "does not name the cluster")]
    #[case::another_generation("/metadata/generation", json!(4), "the spec was changed")]
    #[case::adoption("/metadata/annotations", json!({"xmppfederation.io/adopt-rows": "1"}), "adopt-rows")]
    #[case::deleted("/metadata/deletionTimestamp", json!("2026-11-30T12:00:00Z"), "being deleted")]
    #[case::another_resource("/metadata/uid", json!("r-2"), "is gone")]
    #[tokio::test]
    async fn a_resource_that_changed_meanwhile_stops_a_restart(
        #[case] field: &str,
        #[case] value: Value,
        #[case] why: &str,
    ) {
        let mut resource = resource();
        let (parent, key) = field.rsplit_once('/').unwrap();
        let parent = resource.pointer_mut(parent).unwrap().as_object_mut().unwrap();
        parent.insert(key.to_owned(), value);
        let refused = asked(Some(resource), true, &decided(Activation::Active), true).await;
        assert!(
            refused.as_ref().is_err_and(|sentence| sentence.contains(why)),
            "{refused:?}"
        );
    }

    #[rstest]
    #[case::as_it_was(resource(), Activation::Active, true)]
    #[case::the_end({
        let mut resource = resource();
        resource["metadata"]["deletionTimestamp"] = json!("2026-11-30T12:00:00Z");
        resource["spec"]["paused"] = json!(true);
        resource
    }, Activation::Prepared, false)]
    #[tokio::test]
    async fn a_change_may_be_made_while_this_operator_leads(
        #[case] resource: Value,
        #[case] activation: Activation,
        #[case] restart: bool,
    ) {
        let desired = decided(activation);
        assert_eq!(asked(Some(resource.clone()), true, &desired, restart).await, Ok(()));
        let late = asked(Some(resource), false, &desired, restart).await;
        assert!(
            late.as_ref().is_err_and(|sentence| sentence.contains("does not lead")),
            "{late:?}"
        );
        assert!(asked(None, true, &desired, restart).await.is_err());
    }
}
