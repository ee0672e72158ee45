//! Small values of the spec with their schemas.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use xmpp_federation_core::edge_config::HumanDuration;

/// A domain as written; [`crate::controller::validate`] turns it into a canonical one.
///
/// The schema refuses what is plain ASCII and not canonical; a U-label passes the schema, as no
/// rule there could name its A-label, and is refused by the operator with that A-label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DomainName(pub String);

/// Canonical ASCII: two labels or more, lower case, no IP address, no trailing dot.
const DOMAIN_RULE: &str = r"!self.matches(r'^[\x00-\x7f]*$') || (self.matches(r'^([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\.)+[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$') && !self.matches(r'(^|\.)[0-9]+$'))";
/// The same, also behind `*.`.
const PATTERN_RULE: &str = r"!self.matches(r'^[\x00-\x7f]*$') || (self.matches(r'^(\*\.)?([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\.)+[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$') && !self.matches(r'(^|\.)[0-9]+$'))";
const PATTERN_MESSAGE: &str = "write a domain name in lower-case A-labels with at least two labels and no trailing dot, such as example.com, or *.example.com for all domains below it; IP addresses are no domains";
const DOMAIN_MESSAGE: &str = "write a domain name in lower-case A-labels with at least two labels and no trailing dot, such as example.com or xn--bcher-kva.example; IP addresses are no domains";

impl JsonSchema for DomainName {
    fn schema_name() -> Cow<'static, str> {
        "DomainName".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        name_schema(DOMAIN_RULE, DOMAIN_MESSAGE)
    }
}

fn name_schema(rule: &str, message: &str) -> Schema {
    json_schema!({
        "type": "string",
        "minLength": 1,
        "maxLength": 253,
        "x-kubernetes-validations": [{"rule": rule, "message": message}],
    })
}

/// A remote domain as written, or all domains below one: `*.partner.example`. The same holds as for [`DomainName`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RemoteName(pub String);

impl JsonSchema for RemoteName {
    fn schema_name() -> Cow<'static, str> {
        "RemoteName".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        name_schema(PATTERN_RULE, PATTERN_MESSAGE)
    }
}

/// A duration such as `30s`, `24h`, `1h30m` or `1.5h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Duration(pub HumanDuration);

impl Duration {
    /// Whole seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Self(HumanDuration(std::time::Duration::from_secs(seconds)))
    }

    /// As the standard library's type.
    pub fn get(self) -> std::time::Duration {
        self.0.0
    }
}

impl JsonSchema for Duration {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "maxLength": 32, "pattern": "^([0-9]{1,9}([.][0-9]{1,9})?(ms|s|m|h))+$"})
    }
}

/// A network in CIDR notation, host bits zero.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Network(pub String);

impl JsonSchema for Network {
    fn schema_name() -> Cow<'static, str> {
        "Network".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": 49,
            "x-kubernetes-validations": [{
                "rule": "isCIDR(self) && cidr(self) == cidr(self).masked()",
                "message": "write a network in CIDR notation whose host bits are zero, such as 192.0.2.0/24 or 2001:db8::/32",
            }],
        })
    }
}

/// An IP address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Address(pub String);

impl JsonSchema for Address {
    fn schema_name() -> Cow<'static, str> {
        "Address".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": 45,
            "x-kubernetes-validations": [{
                "rule": "isIP(self)",
                "message": "write an IP address such as 192.0.2.10 or 2001:db8::10",
            }],
        })
    }
}

/// Schema of an object that the apiserver takes as it is (the pod's own validation follows when
/// the StatefulSet is applied); whole pod types would cost 48 KB of schema each.
pub fn any_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

/// The same for a list of such objects.
pub fn any_objects(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 32,
        "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
    })
}
