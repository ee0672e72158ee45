//! Secrets of which one is made and never another: the dialback secret and the authority. They have no owner for
//! Kubernetes, so that they outlive the resource's object: `onDelete: Retain` keeps them, and a resource that is restored
//! has another UID. The finalizer removes them otherwise.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use serde_json::json;

use super::{ApplyError, ObjectWrite, Target};
use crate::api::{OBJECTS_MANAGER, RESOURCE};
use crate::controller::kube::{Kind, call};
use crate::controller::objects::{ExistingObject, Standing};

impl Target<'_> {
    /// Makes it where there is none and one is wanted; takes one that is there for what it is.
    pub(super) async fn keep(
        &self,
        name: &str,
        wanted: Option<&Secret>,
        found: Option<&Arc<ExistingObject>>,
    ) -> Result<Option<ObjectWrite>, ApplyError> {
        match (found, wanted) {
            (Some(found), _) => self.take_over(name, found, true).await,
            (None, Some(wanted)) => self.create_once(name, wanted).await,
            // Deleted, or without its label.
            (None, None) => match self.unlabelled(Kind::Secret, name).await? {
                Some(found) => self.take_over(name, &found, false).await,
                None => Ok(None),
            },
        }
    }

    /// By POST: a race ends in 409, not in an overwritten secret.
    async fn create_once(&self, name: &str, desired: &Secret) -> Result<Option<ObjectWrite>, ApplyError> {
        let kind = Kind::Secret;
        let what = || format!("{} {name} cannot be created", kind.as_str());
        let object: DynamicObject = serde_json::from_value(serde_json::to_value(desired)?)?;
        let params = PostParams {
            field_manager: Some(OBJECTS_MANAGER.to_owned()),
            ..PostParams::default()
        };
        let lists = self.env.snapshots.lists(kind);
        match call(what, self.api(kind).create(&params, &object)).await {
            Ok(answer) => {
                self.env.snapshots.answered(kind, answer, lists, |_| ());
                Ok(Some(ObjectWrite::new(kind, name, false)))
            }
            Err(error) if error.code() == Some(409) => {
                if let Some(found) = self.unlabelled(kind, name).await? {
                    self.take_over(name, &found, false).await?;
                }
                Err(error.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Takes from a Secret that is the resource's the owners for which a garbage collector would take it, and gives it
    /// the marks that show whose it is. Nothing is written where that is so. Its content is never changed.
    ///
    /// `watched`: the watch shows it, so that the answer may stand for the watch's event.
    async fn take_over(
        &self,
        name: &str,
        found: &Arc<ExistingObject>,
        watched: bool,
    ) -> Result<Option<ObjectWrite>, ApplyError> {
        let kind = Kind::Secret;
        let named = || (kind.as_str(), name.to_owned());
        let former = || {
            let (kind, name) = named();
            ApplyError::Predecessor { kind, name }
        };
        match found.standing(self.owner) {
            Standing::Foreign(owner) => {
                let (kind, name) = named();
                return Err(ApplyError::Foreign { kind, name, owner });
            }
            _ if found.deleting => return Err(former()),
            Standing::Own => {}
            // Restored with the owner that it had: without that it is the resource's.
            Standing::Former if found.is_marked(self.owner) || self.adopt => {}
            Standing::Former => return Err(former()),
            Standing::Unmarked if self.adopt => {}
            Standing::Unmarked => return Err(ApplyError::Unmarked(name.to_owned())),
        }
        let ours = found.owners.iter().filter(|of| of.is_resource(&self.owner.name));
        let owners: Vec<_> = ours.map(|of| json!({"$patch": "delete", "uid": of.uid})).collect();
        if owners.is_empty() && found.labelled && found.instance.as_deref() == Some(&self.owner.name) {
            return Ok(None);
        }
        let mut metadata = json!({"uid": found.uid, "labels": self.owner.labels(),
            "annotations": {RESOURCE: self.owner.name}});
        if !owners.is_empty() {
            super::merge(&mut metadata, json!({"ownerReferences": owners}));
        }
        let body = json!({"metadata": metadata});
        let params = PatchParams {
            field_manager: Some(OBJECTS_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let what = || format!("{} {name} cannot be taken over", kind.as_str());
        let lists = self.env.snapshots.lists(kind);
        let answer = call(what, self.api(kind).patch(name, &params, &Patch::Strategic(&body))).await?;
        // One that the watch did not show has not been read yet: its event wakes the resource.
        if watched {
            self.env.snapshots.answered(kind, answer, lists, |_| ());
        }
        Ok(Some(ObjectWrite::new(kind, name, false)))
    }
}
