//! The finalizers: one is put on before the first write to IM and Presence, the other before the first Secret that no
//! garbage collector takes. Both are taken off at the end of a deletion.

use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

use super::environment::Environment;
use super::kube::{Error, call, resource_api};
use super::names::ObjectName;
use crate::api::{FINALIZER, KEYS_FINALIZER, XmppFederation};

/// How often a change is tried anew because somebody else, or we, wrote meanwhile.
const TRIES: usize = 4;

/// Whether rows may exist.
pub fn is_on(object: &impl ResourceExt) -> bool {
    object.finalizers().iter().any(|f| f == FINALIZER)
}

/// Whether Secrets may exist that no garbage collector takes.
pub fn has_keys(object: &impl ResourceExt) -> bool {
    object.finalizers().iter().any(|f| f == KEYS_FINALIZER)
}

/// Whether one of ours is on.
pub fn is_any_on(object: &impl ResourceExt) -> bool {
    is_on(object) || has_keys(object)
}

/// Adds a finalizer, right before the first write that it is for.
pub async fn add(env: &Environment, object: &XmppFederation, finalizer: &str) -> Result<(), Error> {
    let mut finalizers = object.finalizers().to_vec();
    finalizers.push(finalizer.to_owned());
    set(env, object, &finalizers).await
}

/// Takes both off. The object may have changed since it was read, not least by our own status: the
/// list is then read again, so that no finalizer of others is lost.
pub async fn release(env: &Environment, object: &impl ResourceExt) -> Result<(), Error> {
    let others = |finalizers: &[String]| -> Vec<String> {
        let others = finalizers.iter().filter(|f| *f != FINALIZER && *f != KEYS_FINALIZER);
        others.cloned().collect()
    };
    if !is_any_on(object) {
        return Ok(());
    }
    let mut result = set(env, object, &others(object.finalizers())).await;
    for _ in 1..TRIES {
        if !matches!(&result, Err(error) if error.code() == Some(409)) {
            break;
        }
        let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
        let api: Api<XmppFederation> = Api::namespaced(env.client.clone(), &namespace);
        let what = || format!("XmppFederation {name} cannot be read");
        let Some(now) = call(what, api.get_metadata_opt(&name)).await? else {
            return Ok(());
        };
        if now.uid() != object.uid() || !is_any_on(&now) {
            return Ok(());
        }
        result = set(env, &now, &others(now.finalizers())).await;
    }
    result
}

/// Replaces the list, on exactly the version that was read.
async fn set(env: &Environment, object: &impl ResourceExt, finalizers: &[String]) -> Result<(), Error> {
    let patch = json!({"metadata": {
        "resourceVersion": object.resource_version(),
        "finalizers": finalizers,
    }});
    let name = object.name_any();
    let what = || format!("the finalizers of {name} cannot be changed");
    let api = resource_api(&env.client, &object.namespace().unwrap_or_default());
    let params = PatchParams::default();
    let lists = env.snapshots.resources.lists();
    match call(what, api.patch(&name, &params, &Patch::Merge(&patch))).await {
        Ok(answer) => {
            env.snapshots.resource_answered(answer, lists);
            // With its last finalizer the object is gone, and the answer has the version that was there before.
            if finalizers.is_empty() && object.meta().deletion_timestamp.is_some() {
                let version = object.resource_version().unwrap_or_default();
                if let Some(name) = ObjectName::of(object) {
                    env.snapshots.resources.gone(&name, &version);
                }
            }
            Ok(())
        }
        Err(error) if error.code() == Some(404) => Ok(()),
        Err(error) => Err(error),
    }
}
