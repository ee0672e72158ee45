//! The node list: nodes that come, go, and are missing once.

use xmpp_federation_imp::reasons::Reason;
use xmpp_federation_imp::report::Status;

use crate::support::{Bench, PUBLISHER, SUBSCRIBER, id, quick};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_missing_once_is_waited_for_and_one_that_stays_away_is_forgotten() {
    let mut bench = Bench::start(quick()).await;
    bench.until_ready(60).await;
    let role = "tkprocessnoderole";
    let hide = format!("UPDATE processnode SET {role} = 1 WHERE name = '{SUBSCRIBER}'");
    bench.sim.sql(&hide).unwrap();
    bench.desired.component_ids.push(id(1));
    bench.desired.requests.refresh = Some("look".into());
    let report = bench
        .until(15, "waiting for a second read", |r| {
            r.routers_in_sync.reason == Reason::NodeNotHealthy
                && r.routers_in_sync.message.contains("is missing in IM&P's node list")
        })
        .await;
    assert_eq!(report.nodes.len(), 2);
    assert_eq!(bench.restarts(), [1, 1]);
    let report = bench.until_ready(60).await;
    assert_eq!(report.nodes.len(), 1);
    assert_eq!(bench.restarts(), [2, 1], "the one that is left");
    let told = bench.events.iter().filter(|e| e.reason == Reason::NodeRemoved);
    assert_eq!(told.count(), 1);

    // It is added again, and has not read the new row.
    bench.sim.sql(&hide.replace("= 1", "= 2")).unwrap();
    bench.desired.requests.refresh = Some("look again".into());
    bench.until(15, "two nodes", |r| r.nodes.len() == 2).await;
    let report = bench.until_ready(60).await;
    assert!(report.nodes.iter().all(|node| node.in_sync));
    assert_eq!(bench.restarts(), [2, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_for_a_name_that_is_no_node_is_named() {
    let mut bench = Bench::start(quick()).await;
    let address = bench.desired.target.addresses[PUBLISHER].clone();
    bench
        .desired
        .target
        .addresses
        .insert("ecup11.coluc.com".into(), address);
    let report = bench
        .until(10, "authenticated", |r| r.axl_authenticated.status == Status::True)
        .await;
    let said = &report.axl_authenticated.message;
    assert!(
        said.contains("addresses to ecup11.coluc.com, which IM&P does not list") && said.contains(SUBSCRIBER),
        "{said}"
    );
}
