//! Where routers are, as far as nothing answers.

#![allow(clippy::unwrap_used, reason = "tests")]

use http::{Request, Response, StatusCode};
use kube::client::Body;
use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::controller::context::Context;
use crate::controller::guard::ResourceGuard;
use crate::controller::testing::{settings, spec_with, validated};
use crate::edges;
use crate::runtime::metrics::Metrics;
use xmpp_federation_imp::Manager;
use xmpp_federation_imp::store::{LedgerStore, MemoryStore};

/// A process that has just started; the ledger of the cluster has two nodes.
async fn context() -> Context {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let refuse = tower::service_fn(|_: Request<Body>| async {
        let response = Response::builder().status(StatusCode::NOT_FOUND);
        Ok::<_, std::convert::Infallible>(response.body(Body::empty()).unwrap())
    });
    let client = kube::Client::new(refuse, "federation");
    let store = Arc::new(MemoryStore::default());
    let name = "xmpp-federation-imp-11111111-1111-4111-8111-111111111111";
    let made = store.write(name, String::new(), None).await.unwrap();
    let ledger = json!({"uid": made.uid, "ledger": {
        "schema": 1, "publisher": "11111111-1111-4111-8111-111111111111", "knownAs": ["cups.ciscotac.net"],
        "owner": {"namespace": "federation", "name": "coluc", "uid": "uid-1"},
        "nodes": {"ecup10.coluc.com": {}, "ecup10s.coluc.com": {}}}});
    let written = store.write(name, ledger.to_string(), Some(&made.version)).await;
    written.unwrap();
    let guard = ResourceGuard::new(client.clone(), || true);
    Context::new(
        client,
        Manager::new(store as Arc<dyn LedgerStore>, Arc::new(guard)),
        edges::Client::new().unwrap(),
        Metrics::new(),
        settings(),
        "operator-1".to_owned(),
    )
}

#[rstest]
#[case::nothing(json!([]), None, "ecup10.coluc.com")]
#[case::nothing_but_it_is_in_use(json!([]), Some("192.0.2.1"), "192.0.2.1")]
#[case::an_address(json!([{"name": "ECUP10.coluc.com", "address": "192.0.2.10"}]), Some("192.0.2.1"), "192.0.2.10")]
#[case::a_name(json!([{"name": "ECUP10.coluc.com", "address": "Ecup10.Inside.example"}]), None, "ecup10.inside.example")]
#[case::a_name_while_another_address_is_in_use(json!([{"name": "ecup10.coluc.com", "address": "ecup10.inside.example"}]), Some("192.0.2.1"), "192.0.2.1")]
#[tokio::test]
async fn what_is_given_for_a_node_is_used_until_dns_has_answered(
    #[case] given: Value,
    #[case] used: Option<&str>,
    #[case] expected: &str,
) {
    let context = context().await;
    let valid = validated(&spec_with("/imp/0/nodes", given)).unwrap();
    let node = "ecup10.coluc.com".to_owned();
    let known: NodeAddresses = used.iter().map(|used| (node.clone(), (*used).to_owned())).collect();
    let cluster = valid.imp.first().unwrap();
    let nodes = std::slice::from_ref(&node);
    let found = router_addresses(&context.environment, &valid.owner, cluster, nodes, Some(&known));
    assert_eq!(found, [(node, expected.to_owned())]);
}

#[rstest]
#[case::the_secret_is_missing(Reason::SecretMissing, &[], &["ecup10.coluc.com", "ecup10s.coluc.com"])]
#[case::and_links_stand(Reason::SecretMissing, &["cups"], &["cups"])]
#[case::it_is_about_to_be_asked(Reason::NotLookedYet, &[], &[])]
#[tokio::test]
async fn the_ledger_tells_the_nodes_of_a_cluster_that_cannot_be_asked(
    #[case] why: Reason,
    #[case] known: &[&str],
    #[case] expected: &[&str],
) {
    let context = context().await;
    let valid = validated(&spec_with("", Value::Null)).unwrap();
    let result = ClusterResult {
        entry: "main".to_owned(),
        report: Err(Verdict::unknown(why, "not asked")),
        due: None,
        failing: true,
    };
    let known = known.iter().map(|node| ((*node).to_owned(), "10.0.0.1".to_owned()));
    let known = RouterAddresses::from([("main".to_owned(), known.collect())]);
    let found = addresses_of_routers(&context.environment, &valid, &[result], &known);
    let nodes: Vec<&str> = found.values().flatten().map(|(node, _)| node.as_str()).collect();
    assert_eq!(nodes, expected);
}
