//! Schemas of the values that are written as text: their format names what they are.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::values::{Cidr, HostPort, HumanDuration};
use crate::{ComponentId, Domain, DomainPattern, Fingerprint, Release};

macro_rules! text_with_format {
    ($($type:ident: $format:literal),*) => {$(
        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({"type": "string", "format": $format})
            }
        }
    )*};
}

text_with_format!(
    Cidr: "network",
    ComponentId: "component-id",
    Domain: "domain",
    DomainPattern: "domain-or-wildcard",
    Fingerprint: "fingerprint",
    HostPort: "host-and-port",
    HumanDuration: "duration",
    Release: "version"
);
