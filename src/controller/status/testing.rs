//! A world in which all is well, for tests that spoil one thing.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rstest::rstest;
use serde_json::Value;
use xmpp_federation_core::edge_status::{EdgeStatus as Told, LinkState, LinkStatus, StreamCounts, SuspectCounts};
use xmpp_federation_core::{Release, SecretBytes};

use super::details::details;
use super::dialback::mark;
use super::{Inputs, findings};
use crate::api::conditions::{Status, Type, Verdict};
use crate::api::reasons::Reason;
use crate::api::status::XmppFederationStatus;
use crate::controller::apply::AppliedObjects;
use crate::controller::build::material::{Dialback, Material, MaterialError, RouterSecret};
use crate::controller::build::{DesiredObjects, RouterAddresses, Topology, all};
use crate::controller::dereference::{EdgePod, ExistingObjects, KubeView};
use crate::controller::effects::{ClusterResult, Effects, Records};
use crate::controller::objects::ExistingObject;
use crate::controller::pods::PodState;
use crate::controller::references::Secrets;
use crate::controller::refusals::PodRefusal;
use crate::controller::testing::{spec_with, validated};
use crate::controller::upgrade::Progress;
use crate::controller::validate::ValidSpec;
use crate::records::Reach;
use xmpp_federation_imp::clock::{Clock as _, SystemClock};
use xmpp_federation_imp::control_center::RouterState;
use xmpp_federation_imp::reasons::Reason as ImpReason;
use xmpp_federation_imp::report::{self as imp, Report};

/// A world in which one pod runs; each test spoils one thing.
pub struct World {
    pub valid: ValidSpec,
    pub material: Material,
    pub pods: Vec<EdgePod>,
    pub reach: Reach,
    pub desired: DesiredObjects,
    pub stateful_set: Option<Arc<ExistingObject>>,
    pub refusals: Vec<Arc<PodRefusal>>,
    pub imp: Result<Report, String>,
    pub records: Records,
    pub progress: Progress,
}

pub fn link(state: LinkState) -> LinkStatus {
    LinkStatus {
        router: "main".to_owned(),
        node: "ecup10.coluc.com".to_owned(),
        address: "10.244.200.10:7400".to_owned(),
        component_id: "cm-2_s2scp-1.eft-xwye-a-coluc-com".parse().unwrap(),
        state: state.into(),
        since: "2023-11-14T22:13:20Z".to_owned(),
        reason: None,
        last_up: None,
        returned: None,
        open_seconds: None,
        announced: None,
        sightings: Vec::new(),
    }
}

pub fn world(path: &str, value: Value) -> World {
    let mut spec = spec_with(path, value);
    spec.edge.replicas = spec.edge.replicas.min(1);
    let valid = validated(&spec).unwrap();
    let secret = SecretBytes::new(vec![b'a'; 64]);
    let material = Material {
        dialback: Ok(Dialback {
            secret: secret.clone(),
            fresh: false,
        }),
        certificate: Err(MaterialError::NoCertificate),
        chains: Vec::new(),
        routers: valid
            .imp
            .iter()
            .map(|imp| RouterSecret {
                entry: imp.spec.name.clone(),
                bytes: Some(SecretBytes::new(b"secret".to_vec())),
                missing: None,
            })
            .collect(),
        others: Ok(()),
        brought: Vec::new(),
    };
    let desired = all(
        &valid,
        &material,
        &Topology {
            routers: RouterAddresses::new(),
            pods: 1,
            unsure: false,
        },
    )
    .unwrap();
    let told = Told {
        version: Some(Release::own().to_string()),
        written_by: Some(Release::own().to_string()),
        ignored_fields: Vec::new(),
        config_hash: desired.config_hash.clone(),
        rejected: None,
        certificate_sha256: None,
        dialback_secrets: vec![mark(secret.expose())],
        draining: false,
        links: vec![link(LinkState::Up)],
        failing_partners: Vec::new(),
        streams: StreamCounts::default(),
        suspects: SuspectCounts::default(),
        refused: xmpp_federation_core::edge_status::RefusalCounts::default(),
        memory: None,
    };
    let state = PodState {
        name: "coluc-edge-0".to_owned(),
        uid: "pod-1".to_owned(),
        instance: "coluc".to_owned(),
        controller: "coluc-edge".to_owned(),
        index: 0,
        ip: None,
        ready: true,
        stopping: false,
        ends: None,
        finalizers: Vec::new(),
        node: Some("node1".to_owned()),
        notified: None,
        trouble: None,
    };
    let pod = EdgePod {
        pod: Arc::new(state),
        asked: SystemClock.now(),
        status: Ok(told),
    };
    World {
        valid,
        material,
        pods: vec![pod],
        reach: Reach {
            given: vec!["203.0.113.10".parse().unwrap()],
            ..Reach::default()
        },
        desired,
        stateful_set: None,
        refusals: Vec::new(),
        imp: Err("Secret cups-axl does not exist".to_owned()),
        records: Records {
            own_seen: true,
            partners_seen: true,
            ..Records::default()
        },
        progress: Progress::Current,
    }
}

pub fn verdict(world: &World, kind: Type) -> Verdict {
    let findings = with_inputs(world, findings);
    findings.verdicts.into_iter().rev().find(|(k, _)| *k == kind).unwrap().1
}

/// Everything in the status but the conditions.
pub fn details_of(world: &World) -> XmppFederationStatus {
    details_after(world, &XmppFederationStatus::default())
}

/// The time in a world.
pub fn now() -> Timestamp {
    Timestamp::from_second(1_700_000_000).unwrap()
}

/// The same where a status is there.
pub fn details_after(world: &World, before: &XmppFederationStatus) -> XmppFederationStatus {
    with_inputs(world, |inputs| details(inputs, before))
}

pub fn with_inputs<T>(world: &World, look: impl FnOnce(&Inputs<'_>) -> T) -> T {
    let view = KubeView {
        secrets: Secrets::default(),
        revocation_lists: None,
        existing: ExistingObjects {
            stateful_set: world.stateful_set.clone(),
            ..ExistingObjects::default()
        },
        pods: world.pods.clone(),
        refusals: world.refusals.clone(),
    };
    let results: Vec<ClusterResult> = world
        .valid
        .imp
        .iter()
        .map(|imp| ClusterResult {
            entry: imp.spec.name.clone(),
            report: world
                .imp
                .clone()
                .map(Arc::new)
                .map_err(|missing| Verdict::no(Reason::SecretMissing, missing)),
            due: Some(Duration::from_mins(5)),
            failing: false,
        })
        .collect();
    let effects = Effects {
        clusters: results,
        pending: Vec::new(),
        hidden: None,
        records: world.records.clone(),
        routers: RouterAddresses::new(),
        reach: world.reach.clone(),
        notes: Vec::new(),
    };
    let inputs = Inputs {
        valid: &world.valid,
        view: &view,
        material: &world.material,
        desired: &world.desired,
        applied: &AppliedObjects::default(),
        pods_allowed: world.valid.replicas,
        effects: &effects,
        progress: &world.progress,
        now: now(),
    };
    look(&inputs)
}

pub fn status(world: &mut World) -> &mut Told {
    world.pods.first_mut().unwrap().status.as_mut().unwrap()
}

/// What IM and Presence is found to be: one node, whose router runs.
pub fn report(registered: bool, in_sync: bool, routers: imp::Verdict) -> Report {
    let id = link(LinkState::Up).component_id.parse().unwrap();
    Report {
        barred: false,
        axl_authenticated: imp::Verdict::yes(ImpReason::Authenticated, "accepted"),
        components_registered: imp::Verdict::yes(ImpReason::Registered, "all there"),
        routers_in_sync: routers,
        imp_federation_off: imp::Verdict::yes(ImpReason::NotActivated, "off"),
        progress: imp::Progress::Done,
        axl_version: Some("14.0".to_owned()),
        table: Some("xmpps2snodes".to_owned()),
        nodes: vec![imp::NodeReport {
            name: "ecup10.coluc.com".to_owned(),
            address: None,
            publisher: true,
            router: Some(RouterState::Started),
            up_time: Some(1000),
            in_sync,
            pending_restart: None,
        }],
        recorded_nodes: Vec::new(),
        registrations: Vec::new(),
        slots: vec![imp::SlotReport {
            component_id: id,
            registered,
            sync: imp::SlotSync::Unknown,
        }],
        recorded_slots: Some(2),
        handled_restart_token: None,
        recent_actions: Vec::new(),
        events: Vec::new(),
        requeue_after: Duration::from_mins(5),
        wants_to_act: false,
    }
}

#[rstest]
#[case(Type::EdgeAvailable)]
#[case(Type::DialbackSecretReady)]
#[case(Type::RouterLinksUp)]
#[case(Type::PartnersReachable)]
fn in_a_sound_world_all_is_well(#[case] kind: Type) {
    let verdict = verdict(&world("", Value::Null), kind);
    assert_eq!(verdict.status, Status::True, "{}", verdict.message);
}
