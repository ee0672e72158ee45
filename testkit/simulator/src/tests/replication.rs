use super::*;

fn insert(id: &str) -> String {
    format!("INSERT INTO xmpps2snodes (pkid, cp_id) VALUES (newid(), '{id}')")
}

#[tokio::test]
async fn rows_reach_the_subscriber_after_the_delay() {
    let imp = SimulatedImp::start(ImpConfig {
        replication_s: 0.5,
        ..quick()
    })
    .await
    .unwrap();
    let began = Instant::now();
    assert_eq!(axl(&imp, "executeSQLUpdate", &insert(ID)).await.0, 200);
    let state = imp.state();
    assert_eq!((state.nodes[0].rows.len(), state.nodes[1].rows.len()), (1, 0));
    let state = until(&imp, "replicated", |state| state.nodes[1].rows.len() == 1).await;
    assert!(began.elapsed() >= Duration::from_millis(500));
    assert_eq!(state.nodes[0].rows, state.nodes[1].rows);
}

#[tokio::test]
async fn many_writes_arrive_in_order() {
    let imp = SimulatedImp::start(quick()).await.unwrap();
    for number in 0..20 {
        imp.sql(&insert(&format!("cm-{number}"))).unwrap();
    }
    imp.sql("DELETE FROM xmpps2snodes").unwrap();
    imp.sql(&insert(ID)).unwrap();
    until(&imp, "the last state", |state| {
        state.nodes[1].rows.len() == 1 && state.nodes[1].rows == state.nodes[0].rows
    })
    .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(imp.state().nodes[1].rows.len(), 1);
}

#[tokio::test]
async fn a_router_loads_ids_only_when_it_starts_and_says_that_it_wants_to() {
    let imp = SimulatedImp::start(quick()).await.unwrap();
    imp.sql(&insert(ID)).unwrap();
    let state = until(&imp, "notices", |state| state.nodes.iter().all(|node| node.notice)).await;
    assert!(state.nodes.iter().all(|node| node.router.loaded_ids.is_empty()));
    imp.restart_router(SUBSCRIBER).unwrap();
    let state = until(&imp, "restarted", |state| {
        state.nodes[1].router.status == Status::Started && !state.nodes[1].router.loaded_ids.is_empty()
    })
    .await;
    assert!(!state.nodes[1].notice);
    assert_eq!(state.nodes[1].router.restarts[0].by, "hand");
    assert!(state.nodes[0].notice);
    assert!(state.nodes[0].router.loaded_ids.is_empty());
}

#[tokio::test]
async fn a_restart_before_propagation_reads_the_old_table() {
    let imp = SimulatedImp::start(ImpConfig {
        config_manager_s: 1.0,
        ..quick()
    })
    .await
    .unwrap();
    imp.sql(&insert(ID)).unwrap();
    imp.restart_router(PUBLISHER).unwrap();
    let state = until(&imp, "restarted", |state| {
        state.nodes[0]
            .router
            .restarts
            .first()
            .is_some_and(|done| done.started_at_ms.is_some())
    })
    .await;
    assert!(state.nodes[0].router.loaded_ids.is_empty());
    until(&imp, "the notice comes late", |state| state.nodes[0].notice).await;
}

#[tokio::test]
async fn sometimes_no_notice_appears() {
    let imp = SimulatedImp::start(ImpConfig {
        notice: false,
        ..quick()
    })
    .await
    .unwrap();
    imp.sql(&insert(ID)).unwrap();
    let state = until(&imp, "configured", |state| {
        !state.nodes[1].router.configured_ids.is_empty()
    })
    .await;
    assert!(!state.nodes[0].notice && !state.nodes[1].notice);
}
