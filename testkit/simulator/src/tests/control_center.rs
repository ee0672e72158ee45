use super::*;
use rstest::rstest;

fn restart(node: &str) -> String {
    format!(
        "<soap:ControlServiceRequest><soap:NodeName>{node}</soap:NodeName><soap:ControlType>Restart</soap:ControlType><soap:ServiceList><soap:item>Cisco XCP Router</soap:item></soap:ServiceList></soap:ControlServiceRequest>"
    )
}

const ROUTER_STATUS: &str = "<soap:ServiceStatus>Cisco XCP Router</soap:ServiceStatus>";

async fn ask(imp: &SimulatedImp, node: &str, operation: &str, content: &str) -> (u16, String) {
    control_center(imp, node, operation, content).await.unwrap()
}

#[tokio::test]
async fn a_restart_is_asynchronous_and_its_up_time_counts_from_the_start() {
    let imp = SimulatedImp::start(quick()).await.unwrap();
    let (status, body) = ask(&imp, PUBLISHER, "soapGetServiceStatus", ROUTER_STATUS).await;
    assert_eq!(status, 200);
    assert_eq!(tag(&body, "ServiceStatus"), "Started");
    assert!(tag(&body, "UpTime").parse::<u64>().unwrap() >= 86_400);
    let began = Instant::now();
    let (status, body) = ask(&imp, PUBLISHER, "soapDoControlServices", &restart(PUBLISHER)).await;
    assert_eq!(status, 200);
    assert_eq!(
        (tag(&body, "ReturnCode").as_str(), tag(&body, "ReasonCode").as_str()),
        ("0", "-1")
    );
    assert_eq!(tag(&body, "ServiceStatus"), "Stopping");
    // A second command while the first is under way.
    let (_, body) = ask(&imp, PUBLISHER, "soapDoControlServices", &restart(PUBLISHER)).await;
    assert_eq!(
        (tag(&body, "ReturnCode").as_str(), tag(&body, "ReasonCode").as_str()),
        ("1", "-1029")
    );
    let (_, body) = ask(&imp, PUBLISHER, "soapGetServiceStatus", ROUTER_STATUS).await;
    assert_eq!(tag(&body, "UpTime"), "-1");
    let state = until(&imp, "started again", |state| {
        state.nodes[0].router.status == Status::Started && state.nodes[0].router.restarts.len() == 1
    })
    .await;
    assert!(began.elapsed() >= Duration::from_millis(400));
    let done = &state.nodes[0].router.restarts[0];
    assert_eq!(done.by, "control-center");
    assert!(done.requested_at_ms <= done.stopped_at_ms.unwrap());
    assert!(done.stopped_at_ms <= done.starting_at_ms && done.starting_at_ms < done.started_at_ms);
    assert_eq!(state.nodes[0].router.started_at_ms, done.starting_at_ms);
    let (_, body) = ask(&imp, PUBLISHER, "soapGetServiceStatus", ROUTER_STATUS).await;
    assert!(tag(&body, "UpTime").parse::<u64>().unwrap() < 10);
    assert!(state.nodes[1].router.restarts.is_empty());
}

#[tokio::test]
async fn a_node_takes_commands_for_itself_alone() {
    let imp = SimulatedImp::start(quick()).await.unwrap();
    for name in [SUBSCRIBER, "cups.ciscotac.net", ""] {
        let (status, body) = ask(&imp, PUBLISHER, "soapDoControlServices", &restart(name)).await;
        assert_eq!(status, 500, "{body}");
    }
    assert!(imp.state().nodes.iter().all(|node| node.router.restarts.is_empty()));
}

#[rstest]
#[case("Cisco XCP Rooter", "-1010")]
#[case("Cisco Tomcat", "-1011")]
#[case("Cisco XCP XMPP Federation Connection Manager", "-1068")]
#[tokio::test]
async fn refusals_have_a_code(#[case] service: &str, #[case] code: &str) {
    let imp = SimulatedImp::start(quick()).await.unwrap();
    let request = restart(PUBLISHER).replace("Cisco XCP Router", service);
    let (status, body) = ask(&imp, PUBLISHER, "soapDoControlServices", &request).await;
    assert_eq!(
        (
            status,
            tag(&body, "ReturnCode").as_str(),
            tag(&body, "ReasonCode").as_str()
        ),
        (200, "1", code)
    );
}

#[rstest]
#[case(Federation::On, "Started", "-1")]
#[case(Federation::Off, "Stopped", "-1068")]
#[case(Federation::Unknown, "Stopped", "-1")]
#[tokio::test]
async fn own_federation_shows_in_its_service(#[case] federation: Federation, #[case] status: &str, #[case] code: &str) {
    let imp = SimulatedImp::start(ImpConfig { federation, ..quick() }).await.unwrap();
    let content = "<soap:ServiceStatus>Cisco XCP XMPP Federation Connection Manager</soap:ServiceStatus>";
    let (_, body) = ask(&imp, SUBSCRIBER, "soapGetServiceStatus", content).await;
    let item = body.split("<ns1:item>").nth(1).unwrap();
    assert!(item.contains(&format!("<ns1:ServiceStatus>{status}<")), "{item}");
    assert!(item.contains(&format!("<ns1:ReasonCode>{code}<")), "{item}");
}

#[tokio::test]
async fn a_service_that_the_release_does_not_have_may_look_like_one_that_is_stopped() {
    let name = "Cisco XCP File Transfer Manager";
    let imp = SimulatedImp::start(ImpConfig {
        absent_as_stopped: vec![name.into()],
        ..quick()
    })
    .await
    .unwrap();
    let content = format!("<soap:ServiceStatus>{name}</soap:ServiceStatus>");
    let (_, body) = ask(&imp, SUBSCRIBER, "soapGetServiceStatus", &content).await;
    let item = body.split("<ns1:item>").nth(1).unwrap();
    for told in [
        "<ns1:ServiceStatus>Stopped<",
        "<ns1:ReasonCode>-1<",
        "<ns1:StartTime><",
        "<ns1:UpTime>-1<",
    ] {
        assert!(item.contains(told), "{item}");
    }
    let (_, list) = ask(&imp, SUBSCRIBER, "soapGetStaticServiceList", "").await;
    assert!(!list.contains(name) && list.contains("Cisco XCP Router"), "{list}");
}

#[tokio::test]
async fn children_must_be_qualified_and_the_action_must_fit() {
    let imp = SimulatedImp::start(quick()).await.unwrap();
    let (status, _) = ask(
        &imp,
        PUBLISHER,
        "soapGetServiceStatus",
        "<ServiceStatus>Cisco XCP Router</ServiceStatus>",
    )
    .await;
    assert_eq!(status, 500);
    let (status, _) = ask(&imp, PUBLISHER, "soapDoServiceDeployment", "").await;
    assert_eq!(status, 500);
}

#[tokio::test]
async fn too_many_requests_are_a_fault() {
    let imp = SimulatedImp::start(ImpConfig {
        control_center_per_minute: 2,
        ..quick()
    })
    .await
    .unwrap();
    for _ in 0..2 {
        assert_eq!(ask(&imp, PUBLISHER, "soapGetServiceStatus", ROUTER_STATUS).await.0, 200);
    }
    let (status, body) = ask(&imp, PUBLISHER, "soapGetServiceStatus", ROUTER_STATUS).await;
    assert_eq!(status, 500);
    assert!(tag(&body, "faultstring").starts_with("Exceeded allowed rate"), "{body}");
    assert_eq!(
        ask(&imp, SUBSCRIBER, "soapGetServiceStatus", ROUTER_STATUS).await.0,
        200
    );
}

#[tokio::test]
async fn a_refused_restart_changes_nothing() {
    let imp = SimulatedImp::start(quick()).await.unwrap();
    imp.set_fault("restart-refused", FaultOptions::default()).unwrap();
    let (status, body) = ask(&imp, PUBLISHER, "soapDoControlServices", &restart(PUBLISHER)).await;
    assert_eq!(
        (
            status,
            tag(&body, "ReturnCode").as_str(),
            tag(&body, "ReasonCode").as_str()
        ),
        (200, "1", "-1045")
    );
    let router = &imp.state().nodes[0].router;
    assert_eq!((router.status, router.restarts.len()), (Status::Started, 0));
}

#[tokio::test]
async fn a_hanging_restart_goes_on_when_the_fault_goes() {
    let imp = SimulatedImp::start(quick()).await.unwrap();
    let only = FaultOptions::default().once().at(SUBSCRIBER);
    imp.set_fault("restart-hangs", only).unwrap();
    assert_eq!(
        ask(&imp, SUBSCRIBER, "soapDoControlServices", &restart(SUBSCRIBER))
            .await
            .0,
        200
    );
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert_eq!(imp.state().nodes[1].router.status, Status::Stopping);
    imp.clear_fault("restart-hangs");
    until(&imp, "started", |state| state.nodes[1].router.status == Status::Started).await;
}

#[tokio::test]
async fn a_lost_reply_leaves_a_restart_behind() {
    let imp = SimulatedImp::start(quick()).await.unwrap();
    let once = FaultOptions::default().once().of("Restart");
    imp.set_fault("cc-reply-lost", once).unwrap();
    assert!(
        control_center(&imp, PUBLISHER, "soapDoControlServices", &restart(PUBLISHER))
            .await
            .is_err()
    );
    assert_eq!(imp.state().nodes[0].router.restarts.len(), 1);
    let call = imp.calls(0).last().unwrap().clone();
    assert_eq!(
        (call.status, call.outcome.as_str(), &*call.auth),
        (0, "reply lost", "ok")
    );
}

#[rstest]
#[case("cc-401", 401)]
#[case("cc-403", 403)]
#[case("cc-fault", 500)]
#[case("cc-rate", 500)]
#[tokio::test]
async fn faults_of_control_center(#[case] fault: &str, #[case] status: u16) {
    let imp = SimulatedImp::start(quick()).await.unwrap();
    imp.set_fault(fault, FaultOptions::default().once()).unwrap();
    assert_eq!(
        ask(&imp, PUBLISHER, "soapGetServiceStatus", ROUTER_STATUS).await.0,
        status
    );
    assert_eq!(ask(&imp, PUBLISHER, "soapGetServiceStatus", ROUTER_STATUS).await.0, 200);
}

#[tokio::test]
async fn stop_and_start_leave_the_other_services_down() {
    let imp = SimulatedImp::start(quick()).await.unwrap();
    let stop = restart(PUBLISHER).replace("Restart", "Stop");
    let start = restart(PUBLISHER).replace("Restart", "Start");
    ask(&imp, PUBLISHER, "soapDoControlServices", &stop).await;
    until(&imp, "stopped", |state| state.nodes[0].router.status == Status::Stopped).await;
    ask(&imp, PUBLISHER, "soapDoControlServices", &start).await;
    until(&imp, "started", |state| state.nodes[0].router.status == Status::Started).await;
    let content = "<soap:ServiceStatus>Cisco XCP Connection Manager</soap:ServiceStatus>";
    let (_, body) = ask(&imp, PUBLISHER, "soapGetServiceStatus", content).await;
    assert_eq!(tag(&body, "ServiceStatus"), "Stopped");
}
