//! Clusters that left the spec of a living resource: what is done about them beside late calls and dead stores.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::borrow::Cow;

use http::{Request, Response, StatusCode};
use kube::client::Body;
use rstest::rstest;
use serde_json::{Value, json};

use super::execute::{DroppedCleanups, PendingCleanup};
use super::testing::{dropped, failed};
use super::*;
use crate::api::{FINALIZER, request};
use crate::controller::context::Context;
use crate::controller::desired::Resource;
use crate::controller::events::Note;
use crate::controller::guard::ResourceGuard;
use crate::controller::observer::Observation;
use crate::controller::questions::ClusterAnswer;
use crate::controller::testing::{owner, settings, spec_with};
use crate::edges;
use crate::runtime::metrics::Metrics;
use xmpp_federation_imp::Manager;
use xmpp_federation_imp::desired::{Requests, SlotSource};
use xmpp_federation_imp::store::LedgerStore;
use xmpp_federation_imp::testing::TestStore;

const PUBLISHER: &str = "22222222-2222-4222-8222-222222222222";
const LEDGER: &str = "xmpp-federation-imp-22222222-2222-4222-8222-222222222222";
const ROW: &str = "33333333-3333-4333-8333-333333333333";

struct Bench {
    context: Context,
    store: Arc<TestStore>,
    object: XmppFederation,
    owner: Owner,
}

impl Bench {
    /// A resource whose spec does not name the second cluster any more, where it has a row.
    async fn start(change: &Value) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let store = Arc::new(TestStore::default());
        let owner = owner();
        let made = store.write(LEDGER, String::new(), None).await.unwrap();
        let ledger = json!({"uid": made.uid, "ledger": {
            "schema": 1, "publisher": PUBLISHER, "knownAs": ["cups2.example.net"],
            "owner": {"namespace": owner.namespace, "name": owner.name, "uid": owner.uid},
            "reach": dropped(change, 1).record.reach,
            "rows": {ROW: {"componentId": "cm-2_s2scp-1.eft-xwye-a-coluc-com", "state": "Present", "asksRestart": true}},
        }});
        let written = store.write(LEDGER, ledger.to_string(), Some(&made.version)).await;
        written.unwrap();
        let refuse = tower::service_fn(|_: Request<Body>| async {
            let response = Response::builder().status(StatusCode::NOT_FOUND);
            Ok::<_, std::convert::Infallible>(response.body(Body::empty()).unwrap())
        });
        let client = kube::Client::new(refuse, "federation");
        let guard = ResourceGuard::new(client.clone(), || true);
        let context = Context::new(
            client,
            Manager::new(Arc::clone(&store) as Arc<dyn LedgerStore>, Arc::new(guard)),
            edges::Client::new().unwrap(),
            Metrics::new(),
            settings(),
            "operator-1".to_owned(),
        );
        // Its publisher's name is that of the first cluster's ledger, which is its own too, so nothing is unclear.
        let first = store.write(
            "xmpp-federation-imp-11111111-1111-4111-8111-111111111111",
            String::new(),
            None,
        );
        let made = first.await.unwrap();
        let ledger = json!({"uid": made.uid, "ledger": {
            "schema": 1, "publisher": "11111111-1111-4111-8111-111111111111", "knownAs": ["cups.ciscotac.net"],
            "owner": {"namespace": owner.namespace, "name": owner.name, "uid": owner.uid}}});
        let name = "xmpp-federation-imp-11111111-1111-4111-8111-111111111111";
        store
            .write(name, ledger.to_string(), Some(&made.version))
            .await
            .unwrap();
        let mut object = XmppFederation::new("coluc", spec_with("", Value::Null));
        object.metadata.uid = Some(owner.uid.clone());
        object.metadata.namespace = Some(owner.namespace.clone());
        object.metadata.finalizers = Some(vec![FINALIZER.to_owned()]);
        Self {
            context,
            store,
            object,
            owner,
        }
    }

    fn abandon(&mut self) {
        let value = "yes".to_owned();
        self.object
            .annotations_mut()
            .insert(request::ABANDON_ROWS.to_owned(), value);
    }

    /// What is still to be done, and what is told, where a call of the resource is under way or a removal answers.
    async fn reconcile(&self, busy: bool, answer: Option<Removal>) -> (Vec<PendingCleanup>, Vec<Note>) {
        let env = &self.context.environment;
        let mut dropped = Dropped::of(env, &self.object);
        assert_eq!(dropped.clusters.len(), 1, "{dropped:?}");
        dropped.busy = busy;
        let resource = Resource {
            owner: &self.owner,
            component_ids: Cow::Borrowed(&[]),
            slots: SlotSource::Spec,
            active: true,
            live_owners: env.snapshots.live_owners(),
            generation: None,
            requests: Requests::default(),
        };
        let mut cleanups = DroppedCleanups::new(env, &self.context.caches.rows, &self.object, resource, &dropped);
        assert!(!busy || cleanups.requests(&Secrets::default()).is_empty());
        let seen = answer.into_iter().map(|removal| {
            let observation = Observation {
                answer: Arc::new(ClusterAnswer::Remove(Box::new(removal))),
                current: true,
                age: Duration::ZERO,
            };
            (format!("left {PUBLISHER}"), observation)
        });
        let (seen, mut notes) = (seen.collect(), Vec::new());
        let pending = cleanups.conclude(&self.object, &seen, true, &mut notes).await;
        (pending, notes)
    }

    /// Whether it has the cluster still.
    fn has_it(&self) -> bool {
        let text = self.store.get(LEDGER).unwrap().unwrap();
        let ledger: Value = serde_json::from_str(&text.data).unwrap();
        ledger.pointer("/ledger/owner/uid").is_some()
    }
}

#[rstest]
#[case::removed(json!({}), false)]
#[case::retained(json!({"onDelete": "Retain"}), false)]
#[case::given_up(json!({}), true)]
#[tokio::test]
async fn nothing_ends_while_a_call_of_the_resource_may_still_write(#[case] change: Value, #[case] abandoned: bool) {
    let mut bench = Bench::start(&change).await;
    if abandoned {
        bench.abandon();
    }
    let (pending, notes) = bench.reconcile(true, None).await;
    assert_eq!((pending.len(), notes.len()), (1, 0), "{pending:?} {notes:?}");
    assert!(bench.has_it());
}

#[tokio::test]
async fn the_annotation_counts_although_a_call_answers_late() {
    let mut bench = Bench::start(&json!({})).await;
    bench.abandon();
    let (pending, notes) = bench.reconcile(false, Some(failed())).await;
    assert_eq!(pending, []);
    assert!(
        notes
            .iter()
            .any(|note| note.reason == "RowsAbandoned" && note.message.contains(ROW)),
        "{notes:?}"
    );
    assert!(!bench.has_it());
}

#[tokio::test]
async fn rows_are_not_told_as_given_up_while_that_cannot_be_written_down() {
    let mut bench = Bench::start(&json!({})).await;
    bench.abandon();
    bench.store.set_dead(true);
    let (pending, notes) = bench.reconcile(false, None).await;
    assert_eq!((pending.len(), notes.len()), (1, 0), "{pending:?} {notes:?}");
    // What is pending keeps the value from being served.
    bench.store.set_dead(false);
    let (pending, notes) = bench.reconcile(false, None).await;
    assert_eq!((pending.len(), notes.len()), (0, 1), "{pending:?} {notes:?}");
}

#[tokio::test]
async fn no_statement_is_offered_for_rows_that_may_be_wanted() {
    let mut bench = Bench::start(&json!({})).await;
    let mut third = bench.object.spec.imp.first().unwrap().clone();
    (third.name, third.publisher) = ("third".to_owned(), "cups9.example.net".to_owned());
    bench.object.spec.imp.push(third);
    let (pending, _) = bench.reconcile(false, None).await;
    let pending = pending.first().unwrap();
    assert!(
        pending.message.contains("cups9.example.net") && pending.rows.is_empty(),
        "{pending:?}"
    );
}
