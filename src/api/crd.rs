//! The CustomResourceDefinition: what the derive gives, with the rules of [`super::later`], and
//! made acceptable where the derive and Kubernetes disagree.

use kube::CustomResourceExt;
use serde_json::{Map, Value, json};

use super::later::NOT_YET;
use super::spec::XmppFederation;

/// The definition as it is applied.
pub fn definition() -> Value {
    // Plain data with string keys always serialises.
    let mut crd = serde_json::to_value(XmppFederation::crd()).unwrap_or_default();
    let Some(root) = crd.pointer_mut("/spec/versions/0/schema/openAPIV3Schema") else {
        return crd;
    };
    clean(root);
    conditions(root);
    for row in NOT_YET {
        let mut at = root.pointer_mut("/properties/spec");
        for step in row.schema_path {
            at = at.and_then(|schema| match *step {
                "[]" => schema.pointer_mut("/items"),
                name => schema.pointer_mut("/properties").and_then(|p| p.get_mut(name)),
            });
        }
        if let Some(Value::Object(schema)) = at {
            let rule = json!({"rule": row.rule, "message": row.sentence()});
            if let Value::Array(rules) = schema.entry("x-kubernetes-validations").or_insert_with(|| json!([])) {
                rules.push(rule);
            }
        }
    }
    crd
}

/// The definition as YAML, byte for byte what `crds/xmppfederations.yaml` holds.
pub fn yaml() -> String {
    let text = serde_yaml::to_string(&definition()).unwrap_or_default();
    format!("# Written by `cargo run -p xtask -- generate`; edit src/api instead.\n{text}")
}

/// Strips `nullable` (a stored null would suppress the default), `null` from enums, and formats
/// that the apiserver does not know.
fn clean(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if map.get("nullable").is_some_and(Value::is_boolean) {
                map.remove("nullable");
            }
            if let Some(Value::Array(values)) = map.get_mut("enum") {
                values.retain(|v| !v.is_null());
            }
            let format = map.get("format").and_then(Value::as_str);
            if format.is_some_and(|format| format.starts_with("uint")) {
                map.remove("format");
            }
            map.values_mut().for_each(clean);
        }
        Value::Array(list) => list.iter_mut().for_each(clean),
        _ => {}
    }
}

/// k8s-openapi's Condition accepts any status and an empty reason; metav1's does not.
fn conditions(root: &mut Value) {
    let at = "/properties/status/properties/conditions/items/properties";
    if let Some(Value::Object(fields)) = root.pointer_mut(at) {
        let mut extend = |field: &str, more: Value| {
            if let (Some(Value::Object(schema)), Value::Object(more)) = (fields.get_mut(field), more) {
                schema.extend::<Map<String, Value>>(more);
            }
        };
        extend("status", json!({"enum": ["True", "False", "Unknown"]}));
        extend(
            "reason",
            json!({
                "minLength": 1, "maxLength": 1024, "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"
            }),
        );
        extend("message", json!({"maxLength": 32768}));
        extend("type", json!({"maxLength": 316}));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    #[test]
    fn the_schema_stays_small_enough_for_client_side_apply() {
        let bytes = serde_json::to_vec(&definition()).unwrap().len();
        assert!(bytes < 256 * 1024, "{bytes} bytes");
    }

    #[test]
    fn each_column_shows_a_field_and_the_wide_ones_are_for_those_who_ask() {
        let definition = definition();
        let version = definition.pointer("/spec/versions/0").unwrap();
        let (mut shown, mut wide) = (Vec::new(), Vec::new());
        for column in version["additionalPrinterColumns"].as_array().unwrap() {
            let to = if column.get("priority").is_some() {
                &mut wide
            } else {
                &mut shown
            };
            to.push(column["name"].as_str().unwrap());
            let path = column["jsonPath"].as_str().unwrap();
            let path = path.split('[').next().unwrap().replace('.', "/properties/");
            let schema = version["schema"]["openAPIV3Schema"].pointer(&path);
            assert!(schema.is_some() || path.starts_with("/properties/metadata"), "{path}");
        }
        assert_eq!(
            shown,
            ["Ready", "Reason", "Edge", "Links", "Partners", "Address", "Age"]
        );
        assert_eq!(wide, ["Upgrade", "Release", "Domains", "Certificate"]);
    }

    #[test]
    fn every_refused_value_has_its_rule_in_the_schema() {
        let text = definition().to_string();
        for row in NOT_YET {
            let message = serde_json::to_string(&row.sentence()).unwrap();
            assert!(text.contains(&message), "{}", row.field);
        }
    }

    #[test]
    fn nothing_in_the_schema_is_nullable() {
        assert!(!definition().to_string().contains("\"nullable\""));
    }
}
