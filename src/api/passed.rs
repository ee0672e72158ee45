//! Parts of the pods' specification and of their NetworkPolicy that are passed on to Kubernetes, with the fields in them
//! that it does not have.
//!
//! The definition takes these parts as they are, since their schemas would have 48 KB each. So neither the API server nor
//! the types of Kubernetes refuse a field that is misspelt; the types drop it.

use std::ops::Deref;

use schemars::{JsonSchema, SchemaGenerator};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

/// Such a part.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Passed<T> {
    value: T,
    /// Path within it, and what to do.
    unknown: Vec<(String, String)>,
}

impl<T> Passed<T> {
    /// As Kubernetes has it.
    pub fn into_inner(self) -> T {
        self.value
    }

    /// One sentence for each unknown field; `at` is the path of this part.
    pub fn unknown(&self, at: &str) -> impl Iterator<Item = String> {
        self.unknown
            .iter()
            .map(move |(path, remedy)| format!("{at}{path}: unknown field; {remedy}"))
    }
}

impl<T> From<T> for Passed<T> {
    fn from(value: T) -> Self {
        let unknown = Vec::new();
        Self { value, unknown }
    }
}

/// One sentence for each unknown field in a list of such parts; `at` is its path.
pub fn unknown_in<T>(list: &[Passed<T>], at: &str) -> Vec<String> {
    let items = list.iter().enumerate();
    items
        .flat_map(|(index, item)| item.unknown(&format!("{at}[{index}]")).collect::<Vec<_>>())
        .collect()
}

impl<T> Deref for Passed<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: Serialize> Serialize for Passed<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(serializer)
    }
}

impl<'de, T: DeserializeOwned + Serialize + JsonSchema> Deserialize<'de> for Passed<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let given = Value::deserialize(deserializer)?;
        let value: T = serde_path_to_error::deserialize(&given)
            .map_err(|error| D::Error::custom(format!("{}: {}", error.path(), error.inner())))?;
        let mut unknown = Vec::new();
        // Nothing is lost as a rule, and a resource is read far more often than its schema should be made.
        if serde_json::to_value(&value).ok().as_ref() != Some(&given) {
            let schema = SchemaGenerator::default().into_root_schema_for::<T>().to_value();
            compare(&schema, &schema, &given, "", &mut unknown);
        }
        Ok(Self { value, unknown })
    }
}

fn compare(root: &Value, schema: &Value, given: &Value, at: &str, unknown: &mut Vec<(String, String)>) {
    let reference = schema.get("$ref").and_then(Value::as_str);
    let schema = reference
        .and_then(|reference| root.pointer(reference.trim_start_matches('#')))
        .unwrap_or(schema);
    match given {
        Value::Object(fields) => {
            let properties = schema.get("properties").and_then(Value::as_object);
            let others = schema.get("additionalProperties");
            for (name, value) in fields {
                let path = format!("{at}.{name}");
                match (properties.and_then(|known| known.get(name)), others, properties) {
                    (Some(of), ..) | (None, Some(of), _) => compare(root, of, value, &path, unknown),
                    (None, None, Some(known)) => unknown.push((path, remedy(name, known))),
                    (None, None, None) => {}
                }
            }
        }
        Value::Array(items) => {
            let of = schema.get("items").unwrap_or(&Value::Null);
            for (index, item) in items.iter().enumerate() {
                compare(root, of, item, &format!("{at}[{index}]"), unknown);
            }
        }
        _ => {}
    }
}

fn remedy(name: &str, known: &Map<String, Value>) -> String {
    let distance = |of: &&String| strsim::osa_distance(&name.to_lowercase(), &of.to_lowercase());
    match known.keys().min_by_key(distance) {
        Some(nearest) if distance(&nearest) <= 1 + name.len() / 4 => format!("did you mean {nearest}"),
        _ => {
            let known: Vec<&str> = known.keys().map(String::as_str).collect();
            format!("remove it, or write one of {}", known.join(", "))
        }
    }
}
