//! The store of ledgers and logins in an API server, whose objects people delete while the operator runs.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use http::StatusCode;
use kube::runtime::{WatchStreamExt as _, watcher};
use xmpp_federation_imp::Manager;
use xmpp_federation_imp::reasons::Reason;
use xmpp_federation_imp::report::Status;
use xmpp_federation_imp::testing::Unguarded;
use xmpp_federation_operator::controller::ledger_store::KubeStore;

use crate::apiserver::ApiServer;
use crate::support::{Bench, id, quick, quick_timings};

const LOGINS: &str = "/api/v1/namespaces/operator/configmaps/xmpp-federation-imp-logins";
const KEY: &str = "/api/v1/namespaces/operator/secrets/xmpp-federation-imp-accounts";

/// What the operator's watch does.
async fn follow(store: Arc<KubeStore>) {
    let (api, config) = store.watched();
    let mut events = Box::pin(watcher(api, config).default_backoff());
    while let Some(event) = events.next().await {
        store.take(event.unwrap());
    }
}

/// A cluster in order, and an operator whose store is that API server.
async fn in_order() -> (Bench, ApiServer) {
    let api = ApiServer::default();
    let mut bench = Bench::start(quick()).await;
    // Each use of an account looks for the key.
    let store = Arc::new(KubeStore::new(api.client(), "operator").reading_key_after(Duration::ZERO));
    tokio::spawn(follow(Arc::clone(&store)));
    while !store.is_listed() {
        tokio::task::yield_now().await;
    }
    bench.operator = Manager::new(store, Arc::new(Unguarded)).timed(quick_timings());
    bench.until_ready(40).await;
    (bench, api)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_is_made_again_and_calls_go_on() {
    let (mut bench, api) = in_order().await;
    let key = api.get(KEY).unwrap()["data"].clone();
    let paths = api.paths();
    assert_eq!(paths.len(), 3, "{paths:?}");
    for path in &paths {
        let before = bench.sim.calls(0).len();
        assert!(api.get(path).is_some(), "{path}");
        api.delete(path);
        // Something to do, which the ledger has to know.
        let slot = bench.desired.component_ids.len();
        bench.desired.component_ids.push(id(slot));
        bench
            .until(30, "made again", |report| {
                api.get(path).is_some()
                    && report.components_registered.status == Status::True
                    && report.registrations.len() == slot + 1
            })
            .await;
        assert!(bench.sim.calls(0).len() > before, "{path}");
    }
    assert_eq!(api.get(KEY).unwrap()["data"], key);
    bench.until_ready(40).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_the_api_server_is_a_sentence() {
    let (mut bench, api) = in_order().await;
    // The use that the calls so far were is over and written down.
    while api.get(LOGINS).unwrap().to_string().contains("trying") {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    api.refuse(
        "/configmaps/",
        StatusCode::FORBIDDEN,
        "Forbidden",
        "configmaps is forbidden: User \"x\" cannot update resource",
    );
    bench.desired.requests.refresh = Some("1".into());
    let report = bench
        .until(10, "not recorded", |report| {
            report.axl_authenticated.reason == Reason::LedgerUnavailable
        })
        .await;
    let said = &report.axl_authenticated.message;
    let sentence = "ConfigMap xmpp-federation-imp-logins cannot be written: the Kubernetes API answered 403: configmaps is forbidden: User \"x\" cannot update resource";
    assert!(said.ends_with(sentence), "{said}");
}
