//! The renewal of a certificate while the spec is refused: peers do not wait until a person has corrected it.
//!
//! Nothing is guessed. The leaf of the own authority is issued anew for the names that it has, when it is due, and every
//! other object stays as it is. A paused resource renews nothing, since a pause promises that nothing is written.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use xmpp_federation_core::Domain;

use super::apply::{self, SentObjects};
use super::build::secrets;
use super::cache::Cache;
use super::dereference::ExistingObjects;
use super::environment::Environment;
use super::names::Owner;
use super::objects::ExistingObject;
use super::outcome::Next;
use crate::tls::{self, KeyMaterial, Outcome};

/// A certificate that is not due is looked at again after this.
const LOOK_AGAIN: Duration = Duration::from_hours(1);

/// Renews the own leaf if it is due; when to look again, if there is one. A write that fails is tried again then.
pub async fn run(
    env: &Environment,
    sent: &Cache<SentObjects>,
    owner: &Owner,
    live: &ExistingObjects,
    now: Timestamp,
) -> Option<Duration> {
    let leaf = own(owner, live.certificate.as_ref())?;
    if let Some(secret) = renewed(owner, live, now)
        && let Err(error) = apply::secret(env, sent, owner, &secret, leaf).await
    {
        let (namespace, name) = (&owner.namespace, &owner.name);
        tracing::warn!(namespace, name, %error, "the certificate of a resource whose spec is refused is not renewed");
    }
    Some(LOOK_AGAIN)
}

/// The wait until the next reconcile, where a certificate has to be looked at.
pub fn with(next: Next, look: Option<Duration>) -> Next {
    match (next, look) {
        (Next::OnChange, Some(look)) => Next::After(look),
        (next, _) => next,
    }
}

fn own<'a>(owner: &Owner, object: Option<&'a Arc<ExistingObject>>) -> Option<&'a Arc<ExistingObject>> {
    object.filter(|object| object.is_kept_by(owner))
}

/// The Secret with a new leaf for the names of the one that is there, if that is due.
fn renewed(owner: &Owner, live: &ExistingObjects, now: Timestamp) -> Option<Secret> {
    let (leaf, authority) = (own(owner, live.certificate.as_ref())?, live.authority.as_ref()?);
    let ((certificate, key), (ca_certificate, ca_key)) = (leaf.key_pair()?, authority.key_pair()?);
    let existing = KeyMaterial {
        ca_certificate,
        ca_key,
        certificate,
        key,
    };
    let names = tls::inspect(&existing.certificate).ok()?.names.list();
    let names: Vec<Domain> = names.iter().filter_map(|name| Domain::parse(name).ok()).collect();
    match tls::ensure(Some(&existing), &names, now) {
        Ok(Outcome::Issue(material, _)) => Some(secrets::leaf(owner, &material)),
        Ok(Outcome::Keep) | Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use jiff::SignedDuration;
    use rstest::rstest;
    use serde_json::json;

    use super::*;
    use crate::controller::kube::Kind;
    use crate::controller::testing::owner;

    fn start() -> Timestamp {
        "2026-12-01T00:00:00Z".parse().unwrap()
    }

    fn after_days(days: i64) -> Timestamp {
        start() + SignedDuration::from_hours(24 * days)
    }

    fn stored(secret: &Secret, uid: &str) -> Arc<ExistingObject> {
        let mut object = serde_json::to_value(secret).unwrap();
        let metadata = object.get_mut("metadata").unwrap().as_object_mut().unwrap();
        metadata.insert("uid".to_owned(), json!("s-1"));
        let by = json!([{"apiVersion": "xmppfederation.io/v1alpha1", "kind": "XmppFederation", "name": "coluc", "uid": uid}]);
        metadata.insert("ownerReferences".to_owned(), by);
        let mut object: kube::api::DynamicObject = serde_json::from_value(object).unwrap();
        object.types = Some(kube::api::TypeMeta {
            api_version: "v1".to_owned(),
            kind: "Secret".to_owned(),
        });
        Arc::new(ExistingObject::new(Kind::Secret, object, None))
    }

    /// Leaf and authority as a reconcile stored them at the start, and their PEM texts.
    fn live(leaf_of: &str) -> (ExistingObjects, KeyMaterial) {
        let names = ["coluc.com", "eft-xwye-a.coluc.com"].map(|name| Domain::parse(name).unwrap());
        let Ok(Outcome::Issue(material, _)) = tls::ensure(None, &names, start()) else {
            panic!("nothing was issued");
        };
        let mut authority = (*material).clone();
        (authority.certificate, authority.key) = (material.ca_certificate.clone(), material.ca_key.clone());
        let live = ExistingObjects {
            certificate: Some(stored(&secrets::leaf(&owner(), &material), leaf_of)),
            authority: Some(stored(&secrets::leaf(&owner(), &authority), "uid-1")),
            ..ExistingObjects::default()
        };
        (live, *material)
    }

    #[rstest]
    #[case::not_due(30, "uid-1", true, false)]
    #[case::due(61, "uid-1", true, true)]
    #[case::over(100, "uid-1", true, true)]
    #[case::of_another_resource(61, "uid-2", true, false)]
    #[case::without_its_authority(61, "uid-1", false, false)]
    fn a_leaf_that_is_due_is_issued_anew_for_the_names_that_it_has(
        #[case] days: i64,
        #[case] leaf_of: &str,
        #[case] has_authority: bool,
        #[case] renews: bool,
    ) {
        let (mut live, before) = live(leaf_of);
        live.authority = live.authority.filter(|_| has_authority);
        let renewed = renewed(&owner(), &live, after_days(days));
        assert_eq!(renewed.is_some(), renews);
        let Some(mut data) = renewed.and_then(|secret| secret.data) else {
            return;
        };
        let text = |bytes: k8s_openapi::ByteString| String::from_utf8(bytes.0).unwrap();
        assert_eq!(text(data.remove("ca.crt").unwrap()), before.ca_certificate);
        let after = tls::inspect(&text(data.remove("tls.crt").unwrap())).unwrap();
        assert_eq!(after.names, tls::inspect(&before.certificate).unwrap().names);
        assert_eq!(after.not_after, after_days(days + 90));
    }

    #[test]
    fn a_resource_with_a_certificate_of_its_own_comes_again_by_itself() {
        assert!(matches!(
            with(Next::OnChange, Some(LOOK_AGAIN)),
            Next::After(LOOK_AGAIN)
        ));
        assert!(matches!(with(Next::OnChange, None), Next::OnChange));
        assert!(matches!(with(Next::Retry, Some(LOOK_AGAIN)), Next::Retry));
    }
}
