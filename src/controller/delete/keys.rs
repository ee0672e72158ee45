//! Dialback secret and authority at the end of a deletion: no garbage collector takes them.

use std::sync::Arc;

use crate::api::XmppFederation;
use crate::api::reasons::Reason;
use crate::api::spec::OnDelete;
use crate::controller::environment::Environment;
use crate::controller::events::Note;
use crate::controller::finalizer;
use crate::controller::kube::{self, Error, Kind, call};
use crate::controller::names::Owner;
use crate::controller::objects::{ExistingObject, Standing};

/// Whether they stay, as rows do in a cluster of which the spec says so: the next resource of this name has them.
fn stay(object: &XmppFederation) -> bool {
    let mut clusters = object.spec.imp.iter();
    clusters.any(|cluster| cluster.on_delete == OnDelete::Retain)
}

/// Deletes them, or tells that they stay.
///
/// # Errors
/// One cannot be read or deleted; it is tried again until the deletion gives up.
pub async fn leave(env: &Environment, object: &XmppFederation, owner: &Owner) -> Result<Option<Note>, Error> {
    if !finalizer::has_keys(object) {
        return Ok(None);
    }
    let mut kept = Vec::new();
    for name in [owner.dialback(), owner.authority()] {
        let Some(found) = ours(env, owner, &name).await? else {
            continue;
        };
        if stay(object) {
            kept.push(format!("Secret {name}"));
        } else {
            delete(env, owner, &name, &found).await?;
        }
    }
    if kept.is_empty() {
        return Ok(None);
    }
    let kept = kept.join(" and ");
    tracing::info!(namespace = owner.namespace, name = owner.name, kept, "secrets stay");
    Ok(Some(Note {
        warning: false,
        reason: Reason::SecretsRetained.to_string(),
        message: format!(
            "{kept} stay, because onDelete is Retain: a resource of this name has them again. Delete them if there will be none"
        ),
    }))
}

/// The time is over: names what cannot be deleted.
pub fn give_up(owner: &Owner, why: &Error) -> Note {
    let message = format!(
        "Gave up deleting Secret {} and Secret {}: {why}. Delete those that are left",
        owner.dialback(),
        owner.authority()
    );
    tracing::warn!(namespace = owner.namespace, name = owner.name, %why, "secrets may be left");
    Note {
        warning: true,
        reason: Reason::SecretsRetained.to_string(),
        message,
    }
}

/// Such a Secret, where it is the resource's.
async fn ours(env: &Environment, owner: &Owner, name: &str) -> Result<Option<Arc<ExistingObject>>, Error> {
    let api = Kind::Secret.api(&env.client, &owner.namespace);
    let what = || format!("Secret {name} cannot be read");
    let found = call(what, api.get_opt(name)).await?;
    let found = found.map(|object| Arc::new(ExistingObject::new(Kind::Secret, object, None)));
    Ok(found.filter(|found| match found.standing(owner) {
        Standing::Own => true,
        Standing::Former => found.is_marked(owner),
        Standing::Unmarked | Standing::Foreign(_) => false,
    }))
}

async fn delete(env: &Environment, owner: &Owner, name: &str, found: &ExistingObject) -> Result<(), Error> {
    let api = Kind::Secret.api(&env.client, &owner.namespace);
    let what = || format!("Secret {name} cannot be deleted");
    match kube::delete(what, &api, name, &found.uid).await {
        // Gone, as where its namespace goes, or made anew by somebody else.
        Err(error) if matches!(error.code(), Some(404 | 409)) => Ok(()),
        result => result,
    }
}
