//! How a reconcile ends.

use std::time::Duration;

use super::kube::Error as KubeError;
use crate::runtime::api_error::ApiError;

/// When a resource is reconciled again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// After this time, or when something changes.
    After(Duration),
    OnChange,
    /// Ever later, for as long as this lasts.
    Retry,
    /// Never: the resource is gone.
    Gone,
}

/// A reconcile that did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Kube(#[from] KubeError),
    /// The API server gave an object without name, namespace or UID.
    #[error("the object has no name, namespace or UID")]
    Nameless,
}

impl Error {
    /// Somebody wrote between what was read and the write: the watch tells what.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Kube(error) if error.code() == Some(409))
    }

    /// Bounded word for metrics and back-off.
    pub const fn category(&self) -> &'static str {
        match self {
            Self::Kube(error) => match *error.source {
                ApiError::Failed(_) => "api",
                ApiError::Timeout => "timeout",
            },
            Self::Nameless => "nameless",
        }
    }
}
