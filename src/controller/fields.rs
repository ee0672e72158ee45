//! Fields that the operator and others have set in an object of ours, by `metadata.managedFields` of the object.
//!
//! Labels and annotations belong to everybody, those of the pod template too: `kubectl rollout restart` and injectors
//! write there. What the API server or a mutating webhook adds has no manager, so it never shows here.

use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
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
const ROOTS: [&str; 3] = ["f:spec", "f:automountServiceAccountToken", "f:immutable"];

/// Fields that somebody else manages and the operator does not.
pub fn foreign(object: &DynamicObject) -> Vec<ForeignField> {
    let all = object.managed_fields().iter();
    let entries = all.filter(|entry| entry.subresource.as_deref() != Some("status"));
    let (ours, others): (Vec<_>, Vec<_>) = entries.partition(|entry| is_ours(entry));
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
    found
}

fn is_ours(entry: &ManagedFieldsEntry) -> bool {
    entry.manager.as_deref() == Some(OBJECTS_MANAGER) && entry.operation.as_deref() == Some("Apply")
}

/// The fields that the operator set by its last apply and that nobody has removed or changed since. Each is a hash of
/// its path, in which all items of a list are alike: their fields are counted, so that the keys of the list need not
/// be known.
pub struct OwnFields(Box<[u64]>);

/// Paths that have no manager.
const IDENTITY: [&[&str]; 5] = [
    &["apiVersion"],
    &["kind"],
    &["metadata", "name"],
    &["metadata", "namespace"],
    &["metadata", "uid"],
];
const ITEM: &str = "[]";

fn inside(path: u64, step: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (path, step).hash(&mut hasher);
    hasher.finish()
}

impl OwnFields {
    pub fn of(object: &DynamicObject) -> Self {
        let mut found = Vec::new();
        let ours = object.managed_fields().iter().find(|entry| is_ours(entry));
        if let Some(fields) = ours.and_then(|entry| entry.fields_v1.as_ref()) {
            leaves(&fields.0, 0, &mut found);
        }
        Self(found.into())
    }

    /// Whether all of `wanted` is among them.
    pub fn cover(&self, wanted: &Value) -> bool {
        let mut left = self.0.to_vec();
        left.extend(IDENTITY.map(|path| path.iter().fold(0, |path, step| inside(path, step))));
        take(wanted, 0, &mut left)
    }
}

fn leaves(fields: &Value, path: u64, found: &mut Vec<u64>) {
    let all = fields.as_object().into_iter().flatten();
    let mut below = all.filter(|(key, _)| *key != ".").peekable();
    if below.peek().is_none() {
        found.push(path);
    }
    for (key, field) in below {
        leaves(field, inside(path, key.strip_prefix("f:").unwrap_or(ITEM)), found);
    }
}

fn take(wanted: &Value, path: u64, left: &mut Vec<u64>) -> bool {
    // A value, or all that is inside where the list or map is set as a whole.
    if let Some(at) = left.iter().position(|leaf| *leaf == path) {
        left.swap_remove(at);
        return true;
    }
    match wanted {
        Value::Object(fields) if !fields.is_empty() => {
            fields.iter().all(|(key, value)| take(value, inside(path, key), left))
        }
        // An empty list of items with keys has no manager.
        Value::Array(items) => items.iter().all(|item| take(item, inside(path, ITEM), left)),
        _ => false,
    }
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

    /// Whether it is the field at that path, which leads through no list.
    pub fn is_at(&self, path: &[&str]) -> bool {
        let steps = self.path.iter().map(|step| match step {
            Step::Key(key) => Some(key.as_str()),
            _ => None,
        });
        steps.eq(path.iter().map(|key| Some(*key)))
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
    #[case::a_lock(json!({"f:immutable": {}}), &["immutable"])]
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

    // Path of the field that is gone; empty: nothing is.
    #[rstest]
    #[case::nothing("", true)]
    #[case::a_value("/f:spec/f:replicas", false)]
    #[case::what_is_false("/f:automountServiceAccountToken", false)]
    #[case::what_is_empty("/f:spec/f:template/f:emptyDir", false)]
    #[case::an_empty_list_as_a_whole("/f:spec/f:externalIPs", true)]
    #[case::a_list_as_a_whole("/f:spec/f:egress", false)]
    #[case::an_item("/f:spec/f:ports/k:{\"port\":5269,\"protocol\":\"TCP\"}", false)]
    #[case::a_field_of_one_item("/f:spec/f:ports/k:{\"port\":7400,\"protocol\":\"TCP\"}/f:name", false)]
    #[case::a_value_in_a_set("/f:spec/f:finalizers/v:\"a\"", false)]
    #[case::a_label("/f:metadata/f:labels/f:a", false)]
    #[case::all_labels("/f:metadata/f:labels", false)]
    #[case::an_owner("/f:metadata/f:ownerReferences", false)]
    fn what_was_applied_and_is_gone_is_missed(#[case] gone: &str, #[case] expected: bool) {
        let wanted = json!({"apiVersion": "v1", "kind": "Service", "automountServiceAccountToken": false,
            "metadata": {"name": "coluc-edge", "namespace": "federation", "uid": "s", "labels": {"a": "b", "c": "d"},
                "ownerReferences": [{"kind": "XmppFederation", "uid": "u"}]},
            "spec": {"replicas": 1, "egress": [{"to": [1]}, {}], "externalIPs": [], "finalizers": ["a", "b"],
                "template": {"emptyDir": {}},
                "ports": [{"name": "xmpp-server", "port": 5269}, {"name": "admin", "port": 7400}]}});
        let port = || json!({".": {}, "f:name": {}, "f:port": {}});
        let mut fields = json!({"f:automountServiceAccountToken": {},
            "f:metadata": {"f:labels": {"f:a": {}, "f:c": {}}, "f:ownerReferences": {"k:{\"uid\":\"u\"}": {}}},
            "f:spec": {"f:replicas": {}, "f:egress": {}, "f:externalIPs": {},
                "f:finalizers": {"v:\"a\"": {}, "v:\"b\"": {}}, "f:template": {"f:emptyDir": {}, "f:other": {}},
                "f:ports": {"k:{\"port\":5269,\"protocol\":\"TCP\"}": port(),
                    "k:{\"port\":7400,\"protocol\":\"TCP\"}": port()}}});
        if let Some((parent, key)) = gone.rsplit_once('/') {
            let parent = fields.pointer_mut(parent).unwrap().as_object_mut().unwrap();
            assert!(parent.remove(key).is_some());
        }
        let object = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "coluc-edge", "managedFields": [
            {"manager": "kubectl", "operation": "Update", "fieldsV1": {}},
            {"manager": OBJECTS_MANAGER, "operation": "Apply", "fieldsV1": fields}]}});
        let own = OwnFields::of(&serde_json::from_value(object).unwrap());
        assert_eq!(own.cover(&wanted), expected);
    }

    #[rstest]
    #[case::itself(&["f:spec", "f:replicas"], true)]
    #[case::above(&["f:spec"], false)]
    #[case::below(&["f:spec", "f:replicas", "f:x"], false)]
    #[case::one_that_begins_alike(&["f:spec", "f:replicasMax"], false)]
    #[case::an_item(&["f:spec", "k:{\"name\":\"replicas\"}"], false)]
    fn a_field_is_known_by_its_path(#[case] path: &[&str], #[case] expected: bool) {
        assert_eq!(field(path).is_at(&["spec", "replicas"]), expected);
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
        assert_eq!(field(path).is_in(&wanted), expected);
    }

    fn field(path: &[&str]) -> ForeignField {
        ForeignField {
            manager: "kubectl".to_owned(),
            path: path.iter().filter_map(|step| Step::parse(step)).collect(),
        }
    }
}
