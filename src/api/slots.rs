//! How many component ids are registered: as the spec says, else as was recorded, else four. Each further one needs a
//! restart of all XCP routers, so the number rises only when the spec asks for it.

use xmpp_federation_core::{ComponentId, Domain, Realm};
use xmpp_federation_imp::desired::SlotSource;

use super::spec::XmppFederationSpec;
use super::status::XmppFederationStatus;

/// Of a new resource whose spec gives no number; the rules of the schema have it too.
const DEFAULT: u16 = 4;

/// The number of slots, and who says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slots {
    /// At least one.
    pub count: u16,
    /// Who says it.
    pub source: SlotSource,
}

impl Slots {
    /// By the spec, the status and the ledgers of the resource's clusters. Where records differ, the lower one holds: a
    /// record may be older than what it tells of.
    pub fn of(spec: &XmppFederationSpec, status: Option<&XmppFederationStatus>, ledger: Option<u16>) -> Self {
        let positive = |number: i32| u16::try_from(number.max(1)).ok();
        if let Some(count) = spec.edge.slots.and_then(positive) {
            let source = SlotSource::Spec;
            return Self { count, source };
        }
        let status = status.and_then(recorded).and_then(positive);
        match status.into_iter().chain(ledger).min() {
            Some(count) => Self {
                count,
                source: SlotSource::Record,
            },
            None => Self {
                count: DEFAULT,
                source: SlotSource::Default,
            },
        }
    }

    /// The component id of each slot, given the host name of the edge.
    pub fn component_ids(self, hostname: &Domain) -> Vec<ComponentId> {
        (0..self.count)
            .map(|slot| ComponentId::of_realm(&Realm::of_replica(hostname, slot)))
            .collect()
    }
}

impl std::fmt::Display for Slots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let count = self.count;
        match self.source {
            SlotSource::Spec => write!(f, "{count}"),
            SlotSource::Record => write!(f, "{count}, as recorded at the first registration,"),
            SlotSource::Default => write!(f, "absent, which means {count},"),
        }
    }
}

/// What a status tells. One without the field has a row for each slot.
fn recorded(status: &XmppFederationStatus) -> Option<i32> {
    let recorded = status.edge.as_ref().and_then(|edge| edge.slots);
    recorded.or_else(|| {
        let clusters = status.imp.iter().filter(|imp| imp.leaving.is_none());
        let rows = clusters.map(|imp| imp.registrations.len()).max();
        rows.filter(|rows| *rows > 0).and_then(|rows| i32::try_from(rows).ok())
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use rstest::rstest;
    use serde_json::{Value, json};

    fn rows(count: usize) -> Value {
        let row = |slot: usize| json!({"componentId": format!("cm-2_s2scp-1.e-{slot}-example"), "pkid": "055c13d9"});
        json!({"imp": [{"name": "main", "registrations": (0..count).map(row).collect::<Vec<_>>()}]})
    }

    fn edge(slots: u16) -> Value {
        json!({"edge": {"replicas": 2, "readyReplicas": 2, "selector": "a=b", "slots": slots}})
    }

    use SlotSource::{Default as Nobody, Record, Spec};

    #[rstest]
    #[case::a_new_resource(None, 2, json!({}), None, 4, Nobody)]
    #[case::a_new_resource_with_one_pod(None, 1, json!({}), None, 4, Nobody)]
    #[case::the_spec_says_it(Some(2), 2, json!({}), None, 2, Spec)]
    #[case::the_spec_asks_for_more(Some(6), 2, edge(4), Some(4), 6, Spec)]
    #[case::the_spec_asks_for_fewer(Some(2), 2, edge(4), Some(4), 2, Spec)]
    #[case::the_spec_is_silent_again(None, 2, edge(6), Some(6), 6, Record)]
    #[case::the_status_is_lost(None, 2, json!({}), Some(2), 2, Record)]
    #[case::the_ledger_is_lost(None, 2, edge(2), None, 2, Record)]
    #[case::both_are_lost(None, 2, json!({}), None, 4, Nobody)]
    #[case::more_pods_ask_for_nothing(None, 8, edge(2), Some(2), 2, Record)]
    #[case::a_status_that_has_rows_alone(None, 2, rows(2), None, 2, Record)]
    #[case::a_status_that_has_rows_alone_and_the_ledger_knows_better(None, 2, rows(1), Some(1), 1, Record)]
    #[case::an_older_ledger_was_restored(None, 2, edge(2), Some(6), 2, Record)]
    #[case::an_older_status_was_restored(None, 2, edge(6), Some(2), 2, Record)]
    fn slots_rise_only_where_the_spec_says_so(
        #[case] given: Option<i32>,
        #[case] replicas: i32,
        #[case] status: Value,
        #[case] ledger: Option<u16>,
        #[case] count: u16,
        #[case] source: SlotSource,
    ) {
        let edge = json!({"hostname": "edge.example.com", "replicas": replicas});
        let spec = json!({"domains": [], "privacy": {}, "imp": [], "edge": edge});
        let mut spec: XmppFederationSpec = serde_json::from_value(spec).unwrap();
        spec.edge.slots = given;
        let status = serde_json::from_value(status).unwrap();
        assert_eq!(Slots::of(&spec, Some(&status), ledger), Slots { count, source });
    }
}
