//! Words of the resource that both the operator and what it does to IM and Presence use.

use serde::{Deserialize, Serialize};

/// How far a resource goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub enum Activation {
    /// Everything: rows are registered and routers restarted.
    #[default]
    Active,
    /// Everything except rows and router links; rows of ours are removed.
    Prepared,
}

/// What rows of other federation edges mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub enum ForeignComponents {
    /// Nothing is registered beside them.
    #[default]
    Refuse,
    /// They are left alone.
    Tolerate,
}
