//! What a StatefulSet tells of its pod template: the template itself, what of the resource is in it, and whose turn it is.

use jiff::Timestamp;
use miniz_oxide::deflate::compress_to_vec;
use miniz_oxide::inflate::decompress_to_vec;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Annotation with a [`TemplateRecord`]. It is of the StatefulSet, so it replaces no pod.
pub const TEMPLATE: &str = "xmppfederation.io/template";

/// The template that the operator wrote last, and why it is as it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TemplateRecord {
    /// Release of the operator that computed `inputs`.
    pub release: String,
    /// SHA-256 of what of the resource is in the template.
    pub inputs: String,
    /// Present until the federation works again after an upgrade of its pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn: Option<Turn>,
    /// As it was sent.
    pub template: Value,
}

/// The pods of a federation are replaced because of the operator's release alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    pub since: Timestamp,
    /// If the federation does not work again by then, no other one is upgraded.
    pub until: Timestamp,
    /// Conditions that were True before.
    pub held: Vec<String>,
}

/// The pod template that a StatefulSet has, as the snapshots keep it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TemplateInForce {
    /// Release and inputs; `None`: a release without records wrote the template.
    pub made_of: Option<(String, String)>,
    pub turn: Option<Turn>,
    /// JSON, deflated: it is read only while a federation waits.
    text: Box<[u8]>,
}

impl TemplateInForce {
    /// From the annotation of a StatefulSet; without a record that can be read, from the template itself.
    pub fn new(annotation: Option<&str>, live: Option<&Value>) -> Self {
        let record: Option<TemplateRecord> = annotation.and_then(|text| serde_json::from_str(text).ok());
        let deflated = |template: &Value| compress_to_vec(template.to_string().as_bytes(), 1).into_boxed_slice();
        match record {
            Some(record) => Self {
                text: deflated(&record.template),
                made_of: Some((record.release, record.inputs)),
                turn: record.turn,
            },
            None => Self {
                text: live.map(|live| deflated(&without_nulls(live))).unwrap_or_default(),
                ..Self::default()
            },
        }
    }

    /// The template; `None`: the StatefulSet has none.
    pub fn template(&self) -> Option<Value> {
        serde_json::from_slice(&decompress_to_vec(&self.text).ok()?).ok()
    }
}

/// A null that is applied is managed by nobody.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields.iter().filter(|(_, value)| !value.is_null());
            fields.map(|(key, value)| (key.clone(), without_nulls(value))).collect()
        }
        Value::Array(items) => items.iter().map(without_nulls).collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    #[rstest]
    #[case::a_record(Some(json!({"release": "1", "inputs": "in", "template": {"a": 1}})), Some(("1", "in")), json!({"a": 1}))]
    #[case::of_a_later_release(
        Some(json!({"release": "9", "inputs": "in", "template": {"a": 1}, "more": true})), Some(("9", "in")), json!({"a": 1}))]
    #[case::of_another_shape(Some(json!({"template": "a"})), None, json!({"live": [{"b": 1}]}))]
    #[case::none(None, None, json!({"live": [{"b": 1}]}))]
    fn a_template_is_known_by_its_record_or_by_itself(
        #[case] annotation: Option<Value>,
        #[case] made_of: Option<(&str, &str)>,
        #[case] template: Value,
    ) {
        let annotation = annotation.map(|record| record.to_string());
        let live = json!({"metadata": {"creationTimestamp": null}, "live": [{"b": 1, "c": null}]});
        let found = TemplateInForce::new(annotation.as_deref(), Some(&live));
        let told = found
            .made_of
            .as_ref()
            .map(|(release, inputs)| (release.as_str(), inputs.as_str()));
        assert_eq!(told, made_of);
        let mut read = found.template().unwrap();
        if made_of.is_none() {
            assert_eq!(read.as_object_mut().unwrap().remove("metadata"), Some(json!({})));
        }
        assert_eq!(read, template);
    }
}
