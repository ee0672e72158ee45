//! Which of its rights the operator used in all that was played: what `deploy/rbac.yaml` grants is compared with the API server's
//! audit log. A right that nobody needs is one that a thief of the account has for nothing.

use std::collections::BTreeSet;
use std::fmt;

use serde::Deserialize;

use super::report::{Talk, ensure};
use super::resource::Sample;
use super::world::World;
use super::{Scenario, labelled};
use testkit_base::Error;
use testkit_lab::layout;

/// Rights that are granted and were not used: where (`*`: in every namespace), API group, resource, verb, and why the
/// operator has them all the same.
const UNUSED: &[(&str, &str, &str, &str, &str)] = &[
    (
        "*",
        "xmppfederation.io",
        "xmppfederations/finalizers",
        "update",
        "an admission plugin asks for it (OwnerReferencesPermissionEnforcement), by no request of its own",
    ),
    (
        "*",
        "networking.k8s.io",
        "networkpolicies",
        "delete",
        "spec.edge.networkPolicy.enabled is never set to false here",
    ),
    (
        "xmpp-federation-system",
        "",
        "configmaps",
        "get",
        "a ledger is read again after somebody else wrote it in between",
    ),
];

/// Plays the steps on a lab in which all others were played.
pub async fn play(scenario: &mut Scenario<'_>) {
    let labelled = "The operator requires a label on Secrets: named, and nothing that runs is disturbed";
    scenario.step(22, labelled, &[], labelled::required).await;
    let used = "The operator used each of its rights, except those that are listed with a reason";
    scenario.step(23, used, &[], used_all).await;
}

async fn used_all(talk: Talk, world: &World, _: &Sample) -> Result<(), Error> {
    let roles = std::fs::read_to_string(layout::repository().join("deploy/rbac.yaml"))?;
    let granted = granted(&roles)?;
    let mut asked = Asked::default();
    for event in requests(world)? {
        asked.take(&event, &granted);
    }
    talk.fact("granted", format_args!("{} rights", granted.len()));
    talk.fact("used", format_args!("{} rights", asked.used.len()));
    let wrong = differences(&granted, &asked, UNUSED);
    ensure(wrong.is_empty(), || wrong.join("; "))?;
    for (_, _, resource, verb, reason) in UNUSED {
        talk.fact(&format!("not used: {verb} {resource}"), reason);
    }
    Ok(())
}

/// The operator's requests so far, as the API server noted them.
pub fn requests(world: &World) -> Result<Vec<Event>, Error> {
    let log = std::fs::read(world.lab.layout().audit_log())?;
    // The last line may be half written.
    let end = log.iter().rposition(|byte| *byte == b'\n');
    let whole = end.and_then(|end| log.get(..end)).unwrap_or_default();
    let lines = whole.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| Ok(serde_json::from_slice(line)?)).collect()
}

/// One verb on one kind of object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Right {
    /// `*`: in every namespace.
    namespace: String,
    group: String,
    /// With its subresource behind a slash.
    resource: String,
    verb: String,
}

impl Right {
    fn new(namespace: &str, group: &str, resource: &str, verb: &str) -> Self {
        let [namespace, group, resource, verb] = [namespace, group, resource, verb].map(str::to_owned);
        Self {
            namespace,
            group,
            resource,
            verb,
        }
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let group = if self.group.is_empty() { "core" } else { &self.group };
        write!(f, "{} {} ({group}) in {}", self.verb, self.resource, self.namespace)
    }
}

/// A role of the file that is granted to the operator.
#[derive(Debug, Deserialize)]
struct Role {
    kind: String,
    metadata: Metadata,
    #[serde(default)]
    rules: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    name: String,
    namespace: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    api_groups: Vec<String>,
    resources: Vec<String>,
    verbs: Vec<String>,
}

/// What the roles grant to the operator; those for people are not bound to it.
fn granted(roles: &str) -> Result<BTreeSet<Right>, Error> {
    let mut granted = BTreeSet::new();
    for document in serde_yaml::Deserializer::from_str(roles) {
        let role = Role::deserialize(document)?;
        let for_people = role.metadata.name.ends_with("-viewer") || role.metadata.name.ends_with("-editor");
        if !matches!(role.kind.as_str(), "Role" | "ClusterRole") || for_people {
            continue;
        }
        let namespace = role.metadata.namespace.as_deref().unwrap_or("*");
        for rule in &role.rules {
            for group in &rule.api_groups {
                for resource in &rule.resources {
                    let rights = rule
                        .verbs
                        .iter()
                        .map(|verb| Right::new(namespace, group, resource, verb));
                    granted.extend(rights);
                }
            }
        }
    }
    Ok(granted)
}

/// A request of the operator, as the API server noted it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    verb: String,
    /// None: about no object, as the version of the server.
    object_ref: Option<ObjectRef>,
    #[serde(default)]
    response_status: ResponseStatus,
}

impl Event {
    /// Whether the API server refused it.
    pub fn is_forbidden(&self) -> bool {
        self.response_status.code == 403
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ObjectRef {
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    api_group: String,
    resource: String,
    subresource: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct ResponseStatus {
    #[serde(default)]
    code: u16,
}

/// What the operator asked for.
#[derive(Debug, Default)]
struct Asked {
    /// With a right for it.
    used: BTreeSet<Right>,
    /// Without one.
    without_right: BTreeSet<Right>,
}

impl Asked {
    fn take(&mut self, event: &Event, granted: &BTreeSet<Right>) {
        let Some(object) = &event.object_ref else { return };
        let resource = match &object.subresource {
            Some(subresource) => format!("{}/{subresource}", object.resource),
            None => object.resource.clone(),
        };
        // An apply that makes an object needs both.
        let makes = event.verb == "patch" && event.response_status.code == 201;
        for verb in std::iter::once(event.verb.as_str()).chain(makes.then_some("create")) {
            let there = |namespace: &str| Right::new(namespace, &object.api_group, &resource, verb);
            let rights = [there(&object.namespace), there("*")];
            match rights.iter().find(|right| granted.contains(right)) {
                Some(right) => self.used.insert(right.clone()),
                None => self.without_right.insert(there(&object.namespace)),
            };
        }
    }
}

/// What is not as the list says, one sentence each.
fn differences(granted: &BTreeSet<Right>, asked: &Asked, unused: &[(&str, &str, &str, &str, &str)]) -> Vec<String> {
    let listed = unused.iter();
    let listed: BTreeSet<Right> = listed
        .map(|(namespace, group, resource, verb, _)| Right::new(namespace, group, resource, verb))
        .collect();
    let nobody_needs = granted.difference(&asked.used).filter(|right| !listed.contains(right));
    let nobody_needs = nobody_needs
        .map(|right| format!("{right}: granted and not used; take it out of the roles, or list it with a reason"));
    let used = listed.intersection(&asked.used);
    let used = used.map(|right| format!("{right}: listed as not used, and used; take it out of the list"));
    let unknown = listed.difference(granted);
    let unknown = unknown.map(|right| format!("{right}: listed and not granted; take it out of the list"));
    let refused = asked.without_right.iter();
    let refused = refused.map(|right| format!("{right}: asked for without a right; grant it, or do not ask"));
    nobody_needs.chain(used).chain(unknown).chain(refused).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use serde_json::{Value, json};

    const ROLES: &str = "
kind: ClusterRole
metadata: {name: operator}
rules:
- {apiGroups: [''], resources: [secrets, configmaps], verbs: [list, patch]}
- {apiGroups: [''], resources: [secrets], verbs: [create]}
---
kind: ClusterRoleBinding
metadata: {name: operator}
---
kind: Role
metadata: {name: operator, namespace: home}
rules:
- {apiGroups: [''], resources: [configmaps], verbs: [list]}
---
kind: ClusterRole
metadata: {name: operator-editor}
rules:
- {apiGroups: [xmppfederation.io], resources: [xmppfederations], verbs: [delete]}
";

    fn event(verb: &str, namespace: Option<&str>, resource: &str, code: u16) -> Value {
        let mut object = json!({"resource": resource, "apiVersion": "v1"});
        if let Some(namespace) = namespace {
            object["namespace"] = json!(namespace);
        }
        json!({"verb": verb, "objectRef": object, "responseStatus": {"code": code}})
    }

    /// What is said after these requests, with that list.
    fn said(events: &[Value], unused: &[(&str, &str, &str, &str, &str)]) -> Vec<String> {
        let granted = granted(ROLES).unwrap();
        let mut asked = Asked::default();
        for event in events {
            asked.take(&serde_json::from_value(event.clone()).unwrap(), &granted);
        }
        differences(&granted, &asked, unused)
    }

    fn all() -> Vec<Value> {
        vec![
            event("list", None, "secrets", 200),
            event("list", None, "configmaps", 200),
            event("list", Some("home"), "configmaps", 200),
            event("patch", Some("federation"), "configmaps", 200),
            event("patch", Some("federation"), "secrets", 201),
            json!({"verb": "get", "requestURI": "/version", "responseStatus": {"code": 200}}),
        ]
    }

    #[test]
    fn rights_that_are_all_used_leave_nothing_to_say() {
        assert_eq!(said(&all(), &[]), Vec::<String>::new());
    }

    #[test]
    fn a_right_that_is_not_used_needs_a_reason_and_has_it_only_then() {
        let of_home = ("home", "", "configmaps", "list", "why");
        let mut events = all();
        events.remove(2);
        let nobody = "list configmaps (core) in home: granted and not used";
        assert!(said(&events, &[])[0].starts_with(nobody));
        assert_eq!(said(&events, &[of_home]), Vec::<String>::new());
        assert!(said(&all(), &[of_home])[0].contains("listed as not used, and used"));
        let foreign = ("*", "", "pods", "get", "why");
        assert!(said(&all(), &[foreign])[0].contains("listed and not granted"));
    }

    #[test]
    fn an_apply_that_makes_nothing_uses_no_right_to_create() {
        let mut events = all();
        events[4] = event("patch", Some("federation"), "secrets", 200);
        assert!(said(&events, &[])[0].starts_with("create secrets (core) in *: granted and not used"));
    }

    #[test]
    fn what_is_asked_for_without_a_right_is_named() {
        let mut events = all();
        events.push(event("delete", Some("federation"), "secrets", 403));
        assert!(said(&events, &[])[0].starts_with("delete secrets (core) in federation: asked for without a right"));
    }
}
