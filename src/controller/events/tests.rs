#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::sync::Arc;

use http::{Method, Request, Response, StatusCode};
use kube::client::Body;
use rstest::rstest;
use serde_json::Value;

use super::*;
use crate::api::status::XmppFederationStatus;
use crate::controller::testing::spec;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn condition(kind: &str, status: &str, reason: &str) -> Condition {
    Condition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: "why; do this".to_owned(),
        last_transition_time: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(0)),
        observed_generation: None,
    }
}

#[rstest]
#[case::a_wrong_password("AxlAuthenticated", "False", "Unauthorized", Some(true))]
#[case::a_missing_secret("CertificateReady", "False", "SecretMissing", Some(true))]
#[case::a_missing_record("RecordsVerified", "False", "RecordsWrong", Some(true))]
#[case::a_wrong_spec("Stalled", "True", "SpecInvalid", Some(true))]
#[case::something_in_order("AxlAuthenticated", "True", "Authenticated", Some(false))]
#[case::the_summary("Ready", "False", "Unauthorized", None)]
#[case::pods_that_start("EdgeAvailable", "False", "PodsNotReady", None)]
#[case::rows_that_are_written("ComponentsRegistered", "False", "Registering", None)]
#[case::nothing_known("RecordsVerified", "Unknown", "RecordsUnknown", None)]
fn the_first_look_at_a_failure_is_told(
    #[case] kind: &str,
    #[case] status: &str,
    #[case] reason: &str,
    #[case] warning: Option<bool>,
) {
    let after = [condition(kind, status, reason)];
    let notes = changes(&[], &after, at(1));
    assert_eq!(notes.first().map(|note| note.warning), warning, "{notes:?}");
    assert_eq!(changes(&after, &after, at(1)), []);
}

// Each look: second, status and reason of EdgeAvailable; what is told at it.
#[rstest]
#[case::pods_that_start(&[(0, "False", "NoPods", ""), (5, "False", "PodsNotReady", ""), (60, "True", "Available", "EdgeAvailable")])]
#[case::pods_that_never_start(
    &[(0, "False", "NoPods", ""), (5, "False", "PodsNotReady", ""), (200, "False", "PodsNotReady", "PodsNotReady"), (900, "False", "PodsNotReady", "")]
)]
#[case::another_cause_later(
    &[(0, "False", "PodsNotReady", ""), (130, "False", "PodsNotReady", "PodsNotReady"), (140, "False", "NoAddress", "NoAddress"), (900, "False", "NoAddress", "")]
)]
#[case::a_loss(&[(0, "True", "Available", "EdgeAvailable"), (5, "False", "PodsNotReady", "PodsNotReady"), (300, "False", "PodsNotReady", "PodsNotReady")])]
#[case::a_short_loss_of_sight(
    &[(0, "True", "Available", "EdgeAvailable"), (5, "Unknown", "NotLookedYet", ""), (20, "False", "LinksDown", ""), (60, "True", "Available", "EdgeAvailable")]
)]
#[case::not_looked_at_and_down_in_turns(
    &[(0, "True", "Available", "EdgeAvailable"), (5, "Unknown", "Unanswered", ""), (60, "False", "LinksDown", ""), (100, "Unknown", "Unanswered", ""),
        (150, "False", "LinksDown", "LinksDown"), (200, "Unknown", "Unanswered", ""), (250, "False", "LinksDown", ""),
        (300, "True", "Available", "EdgeAvailable"), (350, "Unknown", "Unanswered", ""), (400, "False", "LinksDown", "")]
)]
#[case::what_has_to_be(&[(0, "False", "Prepared", ""), (900, "False", "Prepared", "")])]
#[case::a_failure_is_told_at_once(&[(0, "Unknown", "NotLookedYet", ""), (1, "False", "ConfigRejected", "ConfigRejected"), (900, "False", "ConfigRejected", "")])]
#[tokio::test]
async fn what_is_on_its_way_is_told_when_it_does_not_arrive(#[case] looks: &[(i64, &str, &str, &str)]) {
    let (recorder, _, _) = recorder(false);
    let mut before: Vec<Condition> = Vec::new();
    for (second, status, reason, told) in looks {
        let mut now = condition("EdgeAvailable", status, reason);
        let old = before.first().filter(|old| old.status == *status);
        now.last_transition_time.0 = old.map_or(at(*second), |old| old.last_transition_time.0);
        let after = [now];
        let mut notes = changes(&before, &after, at(*second));
        let overdue = recorder.overdue("uid-1", &after, at(*second));
        notes.extend(overdue);
        notes.dedup();
        let reasons: Vec<&str> = notes.iter().map(|note| note.reason.as_str()).collect();
        assert_eq!(reasons.join(","), *told, "at {second}: {notes:?}");
        before = after.into();
    }
    // Another process has not seen it begin, and does not repeat it.
    let (another, ..) = self::recorder(false);
    assert_eq!(another.overdue("uid-1", &before, at(2000)), []);
}

#[test]
fn ready_is_told_when_it_changes_and_not_each_time_that_its_cause_does() {
    let ready = |status: &str, reason: &str| [condition("Ready", status, reason)];
    let (up, down) = (ready("True", "Ready"), ready("False", "LinksDown"));
    assert_eq!(changes(&up, &down, at(1)).len(), 1);
    assert_eq!(changes(&down, &ready("False", "Unauthorized"), at(1)), []);
    assert_eq!(changes(&down, &up, at(1)).len(), 1);
}

/// Requests for events: method, last part of the path, body.
type Requests = Arc<Mutex<Vec<(Method, String, Value)>>>;

fn recorder(gone: bool) -> (Recorder, Requests, XmppFederation) {
    let requests = Requests::default();
    let seen = Arc::clone(&requests);
    let service = tower::service_fn(move |request: Request<Body>| {
        let seen = Arc::clone(&seen);
        async move {
            let (parts, body) = request.into_parts();
            let body: Value = serde_json::from_slice(&body.collect_bytes().await?).unwrap();
            let last = parts.uri.path().rsplit('/').next().unwrap().to_owned();
            let code = if gone && parts.method == Method::PATCH {
                StatusCode::NOT_FOUND
            } else {
                StatusCode::OK
            };
            let mut answer = body.clone();
            answer["metadata"] = serde_json::json!({"name": last});
            seen.lock().push((parts.method, last, body));
            let response = Response::builder()
                .status(code)
                .body(Body::from(answer.to_string().into_bytes()));
            Ok::<_, kube::Error>(response.unwrap())
        }
    });
    let client = Client::new(service, "federation");
    let object = serde_json::json!({"kind": "XmppFederation", "apiVersion": "xmppfederation.io/v1alpha1", "spec": spec(),
        "metadata": {"name": "coluc", "namespace": "federation", "uid": "uid-1"}});
    let mut object: XmppFederation = serde_json::from_value(object).unwrap();
    object.status = Some(XmppFederationStatus::default());
    (Recorder::new(client, "operator-1".to_owned()), requests, object)
}

fn note(message: &str) -> Note {
    Note {
        warning: true,
        reason: Reason::PartnersFailing.to_string(),
        message: message.to_owned(),
    }
}

#[tokio::test]
async fn a_partner_that_flaps_is_a_series_with_few_writes() {
    let (recorder, requests, object) = recorder(false);
    // An hour, once in 10 s: down, then up.
    for second in (0..3600).step_by(10) {
        let down = second % 20 == 0;
        let note = note(if down { "it is down" } else { "it is up" });
        recorder.publish_at(&object, &[note], at(second)).await;
    }
    let requests = requests.lock();
    let created: Vec<&Value> = requests.iter().filter(|r| r.0 == Method::POST).map(|r| &r.2).collect();
    assert_eq!(created.len(), 2, "{created:?}");
    assert_eq!(created[0]["action"], "Observe");
    assert_eq!(created[0]["series"], Value::Null);
    let counted: Vec<&Value> = requests.iter().filter(|r| r.0 == Method::PATCH).map(|r| &r.2).collect();
    assert_eq!(counted[0]["series"]["count"], 2);
    // Two series, each written once in five minutes after its second occurrence.
    assert!((20..=26).contains(&counted.len()), "{}", counted.len());
    assert!(counted.last().unwrap()["series"]["count"].as_i64().unwrap() > 160);
}

#[tokio::test]
async fn the_end_of_a_series_is_written_without_another_occurrence() {
    let (recorder, requests, object) = recorder(false);
    for second in [0, 1, 2, 3] {
        recorder.publish_at(&object, &[note("it is down")], at(second)).await;
    }
    recorder.publish_at(&object, &[], at(200)).await;
    assert_eq!(requests.lock().len(), 2);
    recorder.publish_at(&object, &[], at(400)).await;
    recorder.publish_at(&object, &[], at(900)).await;
    let requests = requests.lock();
    assert_eq!(requests.len(), 3);
    assert_eq!(requests[2].2["series"]["count"], 4);
    assert_eq!(
        requests[2].2["series"]["lastObservedTime"],
        "2027-01-15T08:00:03.000000Z"
    );
}

#[tokio::test]
async fn an_event_that_is_not_there_any_more_is_made_anew() {
    let (recorder, requests, object) = recorder(true);
    for second in [0, 1, 2] {
        recorder.publish_at(&object, &[note("it is down")], at(second)).await;
    }
    let methods: Vec<Method> = requests.lock().iter().map(|request| request.0.clone()).collect();
    assert_eq!(methods, [Method::POST, Method::PATCH, Method::POST]);
}

#[tokio::test]
async fn what_is_remembered_is_bounded_and_forgotten() {
    let (recorder, requests, object) = recorder(false);
    let inserted = |slot: i32| Note {
        warning: false,
        reason: ImpReason::RowInserted.to_string(),
        message: format!("row {slot}"),
    };
    // Deeds are told one by one, findings that differ in their text are not.
    for slot in 0..200 {
        let notes = [inserted(slot), note(&format!("refused {slot} times"))];
        recorder.publish_at(&object, &notes, at(i64::from(slot))).await;
    }
    let posts = |action: &str| {
        let requests = requests.lock();
        let events = requests
            .iter()
            .filter(|r| r.0 == Method::POST && r.2["action"] == action);
        events.count()
    };
    assert_eq!(posts("InsertRow"), 200);
    assert!(posts("Observe") < 60, "{}", posts("Observe"));
    assert_eq!(recorder.told.lock()["uid-1"].0.len(), REMEMBERED);
    recorder.forget("uid-1");
    assert!(recorder.told.lock().is_empty());
}
