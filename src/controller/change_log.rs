//! The change log: what an accepted generation changed, in the words of Expressway's.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;

use super::cache::Cache;
use super::resource::{StoredObject, StoredResource};
use super::validate::ValidSpec;
use crate::api::{XmppFederation, XmppFederationSpec};

/// Generation and resource that were accepted last.
#[derive(Debug, Default)]
pub struct AcceptedSpec(Option<(Option<i64>, Arc<StoredResource>)>);

/// Logs an accepted generation with the fields that changed.
pub fn accepted(cache: &Cache<AcceptedSpec>, stored: &Arc<StoredResource>, object: &XmppFederation, valid: &ValidSpec) {
    let generation = object.metadata.generation;
    let kept = (generation, Arc::clone(stored));
    let last = cache.with(&valid.owner.uid, |AcceptedSpec(last)| last.replace(kept));
    let mut changes = Vec::new();
    match last {
        Some((before, _)) if before == generation => return,
        Some((_, before)) => {
            let before = match before.object() {
                Some(StoredObject::Readable(before)) => json(&before.spec),
                _ => Value::Null,
            };
            differences("spec", &before, &json(&object.spec), &mut changes);
        }
        None => changes.push("first look by this operator".to_owned()),
    }
    tracing::info!(
        namespace = valid.owner.namespace,
        name = valid.owner.name,
        generation = generation.unwrap_or_default(),
        changed = changes.join("; "),
        "generation accepted"
    );
}

fn json(spec: &XmppFederationSpec) -> Value {
    serde_json::to_value(spec).unwrap_or_default()
}

/// Fields that differ, in the words of Expressway's change log.
fn differences(path: &str, before: &Value, after: &Value, found: &mut Vec<String>) {
    match (before, after) {
        (Value::Object(old), Value::Object(new)) => {
            let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            for key in keys {
                let null = Value::Null;
                let (old, new) = (old.get(key).unwrap_or(&null), new.get(key).unwrap_or(&null));
                differences(&format!("{path}.{key}"), old, new, found);
            }
        }
        (old, new) if old != new => found.push(format!("{path} - changed from: {old} to: {new}")),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    #[test]
    fn changed_fields_are_named_with_both_values() {
        let before = json!({"edge": {"replicas": 2, "slots": 4}, "domains": ["a.example"]});
        let after = json!({"edge": {"replicas": 3, "slots": 4}, "domains": ["a.example"], "paused": true});
        let mut found = Vec::new();
        differences("spec", &before, &after, &mut found);
        assert_eq!(
            found,
            [
                "spec.edge.replicas - changed from: 2 to: 3",
                "spec.paused - changed from: null to: true",
            ]
        );
    }
}
