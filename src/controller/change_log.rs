//! The change log: what an accepted generation changed, in the words of Expressway's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use super::cache::Cache;
use super::resource::{StoredObject, StoredResource};
use super::validate::ValidSpec;
use crate::api::{XmppFederation, XmppFederationSpec, bounds};

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
        changed = bounds::list(&changes, "; ", bounds::MESSAGE),
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
        (Value::Array(old), Value::Array(new)) if let (Some(old), Some(new)) = (by_domain(old), by_domain(new)) => {
            let domains: BTreeSet<&str> = old.keys().chain(new.keys()).copied().collect();
            for domain in domains {
                let of = |list: &BTreeMap<&str, &Value>| list.get(domain).map_or(Value::Null, |entry| (*entry).clone());
                differences(&format!("{path}[{domain}]"), &of(&old), &of(&new), found);
            }
        }
        (old, new) if old != new => found.push(format!("{path} - changed from: {old} to: {new}")),
        _ => {}
    }
}

/// The entries of a list that is a map by domain.
fn by_domain(list: &[Value]) -> Option<BTreeMap<&str, &Value>> {
    let entries = list.iter().map(|entry| Some((entry.get("domain")?.as_str()?, entry)));
    entries.collect()
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

    #[test]
    fn of_partners_those_that_changed_are_named() {
        let entry = |domain: &str, rate: u32| json!({"domain": domain, "limits": {"messagesPerSecond": rate}});
        let before = json!({"partners": [entry("a.example", 1), entry("b.example", 2), entry("c.example", 3)]});
        let after = json!({"partners": [entry("*.a.example", 9), entry("a.example", 1), entry("c.example", 4)]});
        let mut found = Vec::new();
        differences("spec", &before, &after, &mut found);
        assert_eq!(
            found,
            [
                "spec.partners[*.a.example] - changed from: null to: {\"domain\":\"*.a.example\",\"limits\":{\"messagesPerSecond\":9}}",
                "spec.partners[b.example] - changed from: {\"domain\":\"b.example\",\"limits\":{\"messagesPerSecond\":2}} to: null",
                "spec.partners[c.example].limits.messagesPerSecond - changed from: 3 to: 4",
            ]
        );
    }
}
