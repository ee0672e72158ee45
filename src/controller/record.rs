//! What a StatefulSet tells of its pod template: the template itself, what of the resource is in it, and whose turn it is.

use std::sync::Arc;

use jiff::Timestamp;
use miniz_oxide::deflate::compress_to_vec;
use miniz_oxide::inflate::decompress_to_vec;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

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
#[derive(Debug, Clone, Default)]
pub struct TemplateInForce {
    /// Release and inputs; `None`: a release without records wrote the template.
    pub made_of: Option<(String, String)>,
    pub turn: Option<Turn>,
    /// SHA-256 of its JSON.
    digest: Option<[u8; 32]>,
    /// JSON, deflated, until it was found to be the wanted one: it is read only while a federation waits.
    text: Arc<Mutex<Option<Box<[u8]>>>>,
}

impl PartialEq for TemplateInForce {
    fn eq(&self, other: &Self) -> bool {
        (&self.made_of, &self.turn, &self.digest) == (&other.made_of, &other.turn, &other.digest)
    }
}

impl Eq for TemplateInForce {}

fn digest(template: &str) -> [u8; 32] {
    Sha256::digest(template.as_bytes()).into()
}

impl TemplateInForce {
    /// From the annotation of a StatefulSet; without a record that can be read, from the template itself.
    pub fn new(annotation: Option<&str>, live: Option<&Value>) -> Self {
        let record: Option<TemplateRecord> = annotation.and_then(|text| serde_json::from_str(text).ok());
        let (template, made_of, turn) = match record {
            Some(record) => (
                Some(record.template),
                Some((record.release, record.inputs)),
                record.turn,
            ),
            None => (live.map(without_nulls), None, None),
        };
        let text = template.map(|template| template.to_string());
        let deflated = |text: &String| compress_to_vec(text.as_bytes(), 1).into_boxed_slice();
        Self {
            made_of,
            turn,
            digest: text.as_deref().map(digest),
            text: Arc::new(Mutex::new(text.as_ref().map(deflated))),
        }
    }

    /// Whether a record says that it is this one. Its text is not needed any more then: what one process wants changes
    /// with the resource alone, and such a change never waits.
    pub fn is(&self, wanted: &Value) -> bool {
        let is = self.made_of.is_some() && self.digest == Some(digest(&wanted.to_string()));
        if is {
            *self.text.lock() = None;
        }
        is
    }

    /// The template; `None`: the StatefulSet has none, or it was found to be the wanted one.
    pub fn template(&self) -> Option<Value> {
        let text = self.text.lock();
        serde_json::from_slice(&decompress_to_vec(text.as_deref()?).ok()?).ok()
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
