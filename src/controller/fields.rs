//! Fields that others have set in an object of ours, by `metadata.managedFields` of the object.
//!
//! Labels and annotations belong to everybody, those of the pod template too: `kubectl rollout restart` and injectors
//! write there. What the API server or a mutating webhook adds has no manager, so it never shows here.

use std::fmt;

use kube::ResourceExt;
use kube::api::DynamicObject;
use serde_json::{Map, Value};

use crate::api::OBJECTS_MANAGER;

/// One field, with the name of who manages it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignField {
    manager: String,
    path: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Key(String),
    /// The item of a list that has these keys.
    Item(Map<String, Value>),
    /// That value in a list.
    Value(Value),
    Index(usize),
}

/// What decides how an object works. Platforms write the other fields of a `ServiceAccount`.
const ROOTS: [&str; 2] = ["f:spec", "f:automountServiceAccountToken"];

/// Fields that are kept of one object.
const KEPT: usize = 20;

/// Fields that somebody else manages and the operator does not.
pub fn foreign(object: &DynamicObject) -> Vec<ForeignField> {
    let all = object.managed_fields().iter();
    let entries = all.filter(|entry| entry.subresource.as_deref() != Some("status"));
    let (ours, others): (Vec<_>, Vec<_>) = entries.partition(|entry| {
        entry.manager.as_deref() == Some(OBJECTS_MANAGER) && entry.operation.as_deref() == Some("Apply")
    });
    let ours = ours.first().and_then(|entry| Some(&entry.fields_v1.as_ref()?.0));
    let mut found = Vec::new();
    for entry in others {
        let Some(fields) = &entry.fields_v1 else { continue };
        for root in ROOTS {
            if let (Some(field), Some(step)) = (fields.0.get(root), Step::parse(root)) {
                let manager = entry.manager.as_deref().unwrap_or("somebody");
                let field = (field, ours.and_then(|ours| ours.get(root)));
                collect(field, manager, &mut vec![step], &mut found);
            }
        }
    }
    found.truncate(KEPT);
    found
}

/// Goes down where both have fields; what only the other one has is found.
fn collect(
    (theirs, ours): (&Value, Option<&Value>),
    manager: &str,
    path: &mut Vec<Step>,
    found: &mut Vec<ForeignField>,
) {
    let Some(ours) = ours else {
        let (manager, path) = (manager.to_owned(), path.clone());
        found.push(ForeignField { manager, path });
        return;
    };
    // The operator has the whole, so it decides about all of it.
    if ours.as_object().is_none_or(Map::is_empty) {
        return;
    }
    for (key, field) in theirs.as_object().into_iter().flatten() {
        let Some(step) = Step::parse(key) else { continue };
        path.push(step);
        if !is_of_the_template(path) {
            collect((field, ours.get(key)), manager, path, found);
        }
        path.pop();
    }
}

/// Labels and annotations of pods.
fn is_of_the_template(path: &[Step]) -> bool {
    let is = |at: usize, name: &str| matches!(path.get(at), Some(Step::Key(key)) if key == name);
    path.len() == 3 && is(1, "template") && is(2, "metadata")
}

impl Step {
    /// A step of a field set; `None`: the item itself.
    fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':')?;
        match kind {
            "f" => Some(Self::Key(rest.to_owned())),
            "k" => serde_json::from_str(rest).ok().map(Self::Item),
            "v" => serde_json::from_str(rest).ok().map(Self::Value),
            "i" => rest.parse().ok().map(Self::Index),
            _ => None,
        }
    }

    fn of<'a>(&self, value: &'a Value) -> Option<&'a Value> {
        match self {
            Self::Key(key) => value.get(key),
            Self::Item(keys) => {
                let has = |item: &&Value| keys.iter().all(|(key, value)| item.get(key) == Some(value));
                value.as_array()?.iter().find(has)
            }
            Self::Value(wanted) => value.as_array()?.iter().find(|item| *item == wanted),
            Self::Index(index) => value.get(index),
        }
    }
}

impl ForeignField {
    /// Whether the operator wants a value there.
    pub fn is_in(&self, wanted: &Value) -> bool {
        let found = self.path.iter().try_fold(wanted, |value, step| step.of(value));
        found.is_some()
    }
}

impl fmt::Display for ForeignField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.path.iter().enumerate() {
            match step {
                Step::Key(key) if index == 0 => write!(f, "{key}")?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Item(keys) => {
                    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                    let values: Vec<String> = keys.values().map(text).collect();
                    write!(f, "[{}]", values.join(","))?;
                }
                Step::Value(value) => write!(f, "[{value}]")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        write!(f, " by {}", self.manager)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    fn ours() -> Value {
        json!({"f:metadata": {"f:labels": {"f:a": {}}}, "f:spec": {"f:policyTypes": {}, "f:template": {
            "f:metadata": {"f:labels": {"f:a": {}}},
            "f:spec": {"f:hostNetwork": {}, "f:containers": {"k:{\"name\":\"edge\"}": {".": {}, "f:name": {}, "f:image": {}}}}}}})
    }

    #[rstest]
    #[case::labels_of_others(json!({"f:metadata": {"f:annotations": {"f:x": {}}}}), &[])]
    #[case::a_restart(json!({"f:spec": {"f:template": {"f:metadata": {"f:annotations": {
        "f:kubectl.kubernetes.io/restartedAt": {}}}}}}), &[])]
    #[case::what_we_set_too(json!({"f:spec": {"f:template": {"f:spec": {"f:hostNetwork": {}}}}}), &[])]
    #[case::the_inside_of_what_we_set_as_a_whole(json!({"f:spec": {"f:policyTypes": {"v:\"Egress\"": {}}}}), &[])]
    #[case::a_field(json!({"f:spec": {"f:template": {"f:spec": {"f:hostAliases": {
        ".": {}, "k:{\"ip\":\"192.0.2.1\"}": {".": {}, "f:ip": {}}}}}}}), &["spec.template.spec.hostAliases"])]
    #[case::a_container(json!({"f:spec": {"f:template": {"f:spec": {"f:containers": {"k:{\"name\":\"log\"}": {
        ".": {}, "f:image": {}, "f:name": {}}}}}}}), &["spec.template.spec.containers[log]"])]
    #[case::a_field_of_our_container(json!({"f:spec": {"f:template": {"f:spec": {"f:containers": {"k:{\"name\":\"edge\"}": {
        "f:env": {".": {}, "k:{\"name\":\"X\"}": {".": {}, "f:name": {}}}}}}}}}), &["spec.template.spec.containers[edge].env"])]
    #[case::a_port(json!({"f:spec": {"f:ports": {"k:{\"port\":22,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}}}}}),
        &["spec.ports"])]
    #[case::tokens(json!({"f:automountServiceAccountToken": {}, "f:imagePullSecrets": {}}), &["automountServiceAccountToken"])]
    fn fields_of_others_are_found_by_the_highest_one(#[case] theirs: Value, #[case] expected: &[&str]) {
        let entry = |manager: &str, operation: &str, fields: &Value| {
            json!({"manager": manager, "operation": operation, "apiVersion": "v1", "fieldsType": "FieldsV1",
                "fieldsV1": fields})
        };
        let mut status = entry("kube-controller-manager", "Update", &json!({"f:spec": {"f:x": {}}}));
        *status.get_mut("manager").unwrap() = json!("controller");
        status
            .as_object_mut()
            .unwrap()
            .insert("subresource".into(), json!("status"));
        let object = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "coluc-edge",
            "managedFields": [entry(OBJECTS_MANAGER, "Apply", &ours()), entry("kubectl", "Update", &theirs), status]}});
        let found = foreign(&serde_json::from_value(object).unwrap());
        let texts: Vec<String> = found.iter().map(ToString::to_string).collect();
        let expected: Vec<String> = expected.iter().map(|path| format!("{path} by kubectl")).collect();
        assert_eq!(texts, expected);
    }

    #[rstest]
    #[case(&["f:spec", "f:podSelector"], true)]
    #[case(&["f:spec", "f:ports", "k:{\"port\":5269,\"protocol\":\"TCP\"}"], true)]
    #[case(&["f:spec", "f:ports", "k:{\"port\":22,\"protocol\":\"TCP\"}"], false)]
    #[case(&["f:spec", "f:policyTypes", "v:\"Egress\""], true)]
    #[case(&["f:spec", "f:ports", "i:0", "f:port"], true)]
    #[case(&["f:spec", "f:externalName"], false)]
    fn a_field_that_is_wanted_too_is_told_apart_from_an_addition(#[case] path: &[&str], #[case] expected: bool) {
        let wanted = json!({"spec": {"podSelector": {"matchLabels": {"a": "b"}}, "policyTypes": ["Ingress", "Egress"],
            "ports": [{"port": 5269, "protocol": "TCP"}]}});
        let field = ForeignField {
            manager: "kubectl".to_owned(),
            path: path.iter().filter_map(|step| Step::parse(step)).collect(),
        };
        assert_eq!(field.is_in(&wanted), expected);
    }
}
