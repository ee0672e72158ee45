//! The resource `XmppFederation`: spec, status, conditions and the catalogue of reasons.
//!
//! - [`spec`]: what a user writes; [`values`]: its small values
//! - [`slots`]: how many component ids are registered
//! - [`status`], [`conditions`], [`reasons`]: what the operator answers
//! - [`later`]: values that are in the schema already and are refused until they are built
//! - [`crd`]: the CustomResourceDefinition made of all this; written by `xtask generate`

pub mod bounds;
pub mod conditions;
pub mod crd;
pub mod later;
pub mod passed;
pub mod reasons;
pub mod slots;
pub mod spec;
pub mod status;
pub mod values;

pub use reasons::Reason;
pub use spec::{XmppFederation, XmppFederationSpec};
pub use status::XmppFederationStatus;

/// API group.
pub const GROUP: &str = "xmppfederation.io";
/// Field manager of all objects that a resource owns.
pub const OBJECTS_MANAGER: &str = "xmpp-federation-operator";
/// Field manager of the resource's status.
pub const STATUS_MANAGER: &str = "xmpp-federation-operator-status";
/// Finalizer: rows may exist in IM and Presence.
pub const FINALIZER: &str = "xmppfederation.io/registrations";
/// Finalizer: Secrets exist that no garbage collector takes.
pub const KEYS_FINALIZER: &str = "xmppfederation.io/keys";
/// Label on everything the operator makes, and the selector of all its watches.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "xmpp-federation-operator");
/// Label naming the resource an object belongs to.
pub const INSTANCE_LABEL: &str = "app.kubernetes.io/instance";
/// Label of a Secret that resources may use, where the operator requires it.
pub const USE_LABEL: (&str, &str) = ("xmppfederation.io/use", "allowed");
/// Annotation on Secrets that have no owner for Kubernetes: the resource that they belong to.
pub const RESOURCE: &str = "xmppfederation.io/resource";
/// Annotation on a pod: hash of the configuration it should have loaded.
pub const CONFIG_HASH: &str = "xmppfederation.io/config-hash";

/// Annotations with which a person asks for one action; each value is served once.
pub mod request {
    /// Read everything anew, also with a Secret that was refused.
    pub const REFRESH: &str = "xmppfederation.io/refresh";
    /// Restart the XCP routers although `minInterval` or the window forbid it, or after an
    /// ambiguous call.
    pub const RESTART_ROUTERS: &str = "xmppfederation.io/restart-routers";
    /// Make a new dialback secret.
    pub const ROTATE_DIALBACK: &str = "xmppfederation.io/rotate-dialback";
    /// Take over identical rows that somebody else wrote.
    pub const ADOPT_ROWS: &str = "xmppfederation.io/adopt-rows";
    /// Upgrade other federations although this one does not work again after its own upgrade.
    pub const CONTINUE_UPGRADE: &str = "xmppfederation.io/continue-upgrade";
    /// Take over Secrets with the names of the dialback secret and the authority that do not show whose they are.
    pub const ADOPT_SECRETS: &str = "xmppfederation.io/adopt-secrets";
    /// Let a deletion give up the rows it cannot remove.
    pub const ABANDON_ROWS: &str = "xmppfederation.io/abandon-rows";
}
