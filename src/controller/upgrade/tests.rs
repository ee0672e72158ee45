#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
use super::*;
use std::collections::{BTreeMap, BTreeSet};

use kube::api::DynamicObject;
use proptest::prelude::*;
use rstest::rstest;

use crate::controller::kube::Kind;
use crate::controller::names::ObjectName;
use crate::controller::objects::{Content, ExistingObject};
use crate::controller::status::testing::world;
use crate::controller::testing::owner;
use crate::controller::turns::Roster;

const PATIENCE: Duration = Duration::from_mins(10);

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn turn(until: i64) -> Turn {
    Turn {
        since: at(0),
        until: at(until),
        held: vec!["Ready".to_owned()],
    }
}

fn template(image: &str) -> Value {
    json!({"spec": {"containers": [{"image": image}], "terminationGracePeriodSeconds": 45}})
}

/// A StatefulSet as the API server has it; without a record it is of a release that wrote none.
fn rollout(live: &Value, record: Option<&TemplateRecord>, seen: bool) -> Rollout {
    let annotations = record.map(|record| json!({TEMPLATE: serde_json::to_string(record).unwrap()}));
    let set = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet",
        "metadata": {"name": "coluc-edge", "generation": 2, "annotations": annotations},
        "spec": {"replicas": 2, "template": live},
        "status": {"observedGeneration": if seen { 2 } else { 1 }, "updatedReplicas": 2, "availableReplicas": 2,
            "currentRevision": "a", "updateRevision": "a"},
    });
    let set: DynamicObject = serde_json::from_value(set).unwrap();
    match ExistingObject::new(Kind::StatefulSet, set, None).content {
        Content::StatefulSet(rollout) => *rollout,
        other => unreachable!("{other:?}"),
    }
}

fn record(release: &str, inputs: &str, image: &str, turn: Option<Turn>) -> TemplateRecord {
    TemplateRecord {
        release: release.to_owned(),
        inputs: inputs.to_owned(),
        turn,
        template: template(image),
    }
}

fn waits() -> Permission {
    Permission::Waits(Wait::Starting)
}

fn question(rollout: Option<&Rollout>, permission: Permission) -> Question<'_> {
    Question {
        rollout,
        accepted: true,
        permission,
        at_once: 1,
        patience: PATIENCE,
        over: None,
        goes_on: false,
        now: at(0),
    }
}

const OWN: &str = env!("CARGO_PKG_VERSION");

/// The wanted image is `new`, and the resource's part `in`. What was written last: release, the resource's part, and
/// image; whether the resource is as an earlier operator accepted it; who rolls without a permission.
#[rstest]
#[case::another_default_image(Some((OWN, "in", "old")), true, false)]
#[case::of_another_release(Some(("0.0.9", "in", "old")), true, false)]
#[case::also_if_the_resource_has_changed_elsewhere(Some(("0.0.9", "in", "old")), false, false)]
#[case::the_resource_has_changed(Some((OWN, "before", "old")), false, true)]
#[case::or_something_else_of_it(Some((OWN, "before", "old")), true, true)]
#[case::it_changed_while_the_operator_did(Some(("0.0.9", "before", "old")), false, true)]
#[case::a_release_that_sees_it_differently(Some(("0.0.9", "before", "old")), true, false)]
#[case::of_a_release_without_records(None, true, false)]
#[case::and_the_resource_has_changed_since(None, false, true)]
fn a_template_that_differs_by_the_release_alone_waits(
    #[case] before: Option<(&str, &str, &str)>,
    #[case] accepted: bool,
    #[case] at_once: bool,
) {
    let record = before.map(|(release, inputs, image)| record(release, inputs, image, None));
    let rollout = rollout(&template("old"), record.as_ref(), true);
    let mut asked = question(Some(&rollout), waits());
    asked.accepted = accepted;
    let (template_now, turn, progress) = decide(template("new"), "in", PATIENCE, &asked);
    assert_eq!(turn, None);
    if at_once {
        assert_eq!((template_now, progress), (template("new"), Progress::Current));
    } else {
        assert_eq!(
            (template_now, progress),
            (template("old"), Progress::Waits(Wait::Starting))
        );
    }
}

#[test]
fn a_permission_begins_a_turn_and_its_record_tells_until_when() {
    let record = record(OWN, "in", "old", None);
    let rollout = rollout(&template("old"), Some(&record), true);
    let permission = Permission::Granted {
        since: at(-5),
        held: vec!["Ready".to_owned()],
    };
    let (now, began, progress) = decide(template("new"), "in", PATIENCE, &question(Some(&rollout), permission));
    let expected = Turn {
        since: at(-5),
        until: at(595),
        held: vec!["Ready".to_owned()],
    };
    assert_eq!((now, began.clone()), (template("new"), Some(expected)));
    assert_eq!(progress, Progress::Rolls(began.unwrap()));
}

#[rstest]
#[case::goes_on("new", true, |_: &mut Question<'_>| (), Some(600))]
#[case::the_former_release_comes_back("old", true, |_: &mut Question<'_>| (), Some(610))]
#[case::its_own_spec_changes("old", false, |_: &mut Question<'_>| (), Some(610))]
#[case::a_person_goes_on("new", true, |asked: &mut Question<'_>| asked.goes_on = true, None)]
#[case::all_at_once("new", true, |asked: &mut Question<'_>| asked.at_once = 0, None)]
fn a_turn_under_way(
    #[case] wanted: &str,
    #[case] same_inputs: bool,
    #[case] change: fn(&mut Question<'_>),
    #[case] until: Option<i64>,
) {
    let record = record(OWN, if same_inputs { "in" } else { "before" }, "new", Some(turn(600)));
    let rollout = rollout(&template("new"), Some(&record), true);
    let mut asked = question(Some(&rollout), waits());
    asked.now = at(10);
    change(&mut asked);
    let (now, turn, _) = decide(template(wanted), "in", PATIENCE, &asked);
    assert_eq!(now, template(wanted));
    assert_eq!(turn.map(|turn| turn.until), until.map(at));
}

#[test]
fn a_new_federation_and_one_without_a_template_wait_for_nobody() {
    let (now, turn, progress) = decide(template("new"), "in", PATIENCE, &question(None, waits()));
    assert_eq!((now, turn, progress), (template("new"), None, Progress::Current));
}

/// While it waits everything of the StatefulSet but the template is as wanted.
#[test]
fn a_federation_that_waits_is_scaled_all_the_same() {
    let mut desired = world("", Value::Null).desired;
    let DesiredObject::Present(set) = &mut desired.stateful_set else {
        let set = json!({"metadata": {"name": "coluc-edge"}, "spec": {"replicas": 3, "minReadySeconds": 30,
            "template": template("new")}});
        desired.stateful_set = DesiredObject::Present(set);
        return waits_and_is_scaled(desired);
    };
    set["spec"]["replicas"] = json!(3);
    set["spec"]["template"] = template("new");
    waits_and_is_scaled(desired);
}

fn waits_and_is_scaled(mut desired: DesiredObjects) {
    let record = record(OWN, &desired.template_inputs, "old", None);
    let rollout = rollout(&template("old"), Some(&record), true);
    let progress = plan(&mut desired, &question(Some(&rollout), waits()));
    assert_eq!(progress, Progress::Waits(Wait::Starting));
    let DesiredObject::Present(set) = &desired.stateful_set else {
        unreachable!("present")
    };
    assert_eq!(set["spec"]["replicas"], json!(3));
    assert_eq!(set["spec"]["template"], template("old"));
    let annotation = set["metadata"]["annotations"][TEMPLATE].as_str().unwrap();
    assert_eq!(serde_json::from_str::<TemplateRecord>(annotation).unwrap(), record);
}

fn condition(kind: &str, status: &str, since: i64) -> Condition {
    serde_json::from_value(json!({"type": kind, "status": status, "reason": "A", "message": "",
        "lastTransitionTime": at(since).to_string()}))
    .unwrap()
}

/// Status of `Ready`, `EdgeAvailable` and `RouterLinksUp`, and for how long.
#[rstest]
#[case::all("True True True", 0, "Ready EdgeAvailable RouterLinksUp", None)]
#[case::pods_serve_and_a_record_is_wrong("False True True", 3600, "EdgeAvailable RouterLinksUp", None)]
#[case::it_has_just_become_so("False True True", 10, "EdgeAvailable RouterLinksUp", Some(290))]
#[case::it_is_not_known("True True Unknown", 10, "Ready EdgeAvailable", Some(290))]
#[case::nothing_works("False False False", 3600, "", None)]
fn what_has_to_be_true_again_is_what_was_before(
    #[case] states: &str,
    #[case] age: i64,
    #[case] expected: &str,
    #[case] settles_in: Option<i64>,
) {
    let states = states.split(' ').zip(SHOWN_BY);
    let mut conditions: Vec<Condition> = states
        .map(|(status, kind)| condition(kind.as_str(), status, -age))
        .collect();
    conditions.push(condition("RecordsVerified", "False", 0));
    let Report::Waiting { held, settles, .. } = report(&Progress::Waits(Wait::Starting), None, &conditions, at(0))
    else {
        unreachable!("it waits")
    };
    assert_eq!((held.join(" "), settles), (expected.to_owned(), settles_in.map(at)));
}

/// What is held, what is True, whether the controller has seen the template, and whether the turn is over at that second.
#[rstest]
#[case::works_again("Ready EdgeAvailable", "Ready EdgeAvailable", true, 60, true)]
#[case::not_all("Ready EdgeAvailable", "EdgeAvailable", true, 60, false)]
#[case::the_pods_are_the_old_ones("Ready", "Ready", false, 60, false)]
#[case::too_late_and_not_again("Ready", "", true, 6000, false)]
#[case::too_late_and_again("Ready", "Ready", true, 6000, true)]
#[case::nothing_was("", "", true, 60, true)]
#[case::nothing_was_and_pods_come("", "", false, 60, false)]
#[case::nothing_was_and_none_comes("", "", false, 600, true)]
fn a_turn_is_over_when_what_was_true_is_true_again(
    #[case] held: &str,
    #[case] holds: &str,
    #[case] seen: bool,
    #[case] second: i64,
    #[case] expected: bool,
) {
    let held = held.split_whitespace().map(str::to_owned).collect();
    let turn = Turn { held, ..turn(600) };
    let of = |turn: Turn| rollout(&template("new"), Some(&record(OWN, "in", "new", Some(turn))), seen);
    let conditions: Vec<Condition> = holds
        .split_whitespace()
        .map(|kind| condition(kind, "True", 0))
        .collect();
    assert_eq!(is_over(&turn, &of(turn.clone()), &conditions, at(second)), expected);
    // What was read is older than its beginning.
    let other = Turn {
        since: at(-1),
        ..turn.clone()
    };
    assert!(!is_over(&turn, &of(other), &conditions, at(second)));
}

/// A federation of the property below, as the API server has it.
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Debug, Clone)]
struct Federation {
    record: TemplateRecord,
    /// Its pods are ready, unless they are of the broken image.
    sound: bool,
    /// Its pods are of the template.
    rolled: bool,
    /// It was Ready when its turn began, and has not been since.
    at_risk: bool,
    /// The image that its spec names.
    own_image: Option<&'static str>,
    paused: bool,
    not_ready_since: i64,
}

#[derive(Debug, Clone)]
enum Step {
    /// A reconcile of one.
    Reconcile(usize),
    /// Its controller replaces the pods.
    Roll(usize),
    /// Something breaks it, or mends it.
    Sound(usize, bool),
    Spec(usize),
    Pause(usize, bool),
    GoOn(usize),
    Restart,
    /// An operator with another image.
    Release(&'static str),
    Pass(i64),
}

const COUNT: usize = 5;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let one = 0..COUNT;
    let step = prop_oneof![
        12 => one.clone().prop_map(Step::Reconcile),
        8 => one.clone().prop_map(Step::Roll),
        2 => (one.clone(), any::<bool>()).prop_map(|(of, sound)| Step::Sound(of, sound)),
        1 => one.clone().prop_map(Step::Spec),
        1 => (one.clone(), any::<bool>()).prop_map(|(of, paused)| Step::Pause(of, paused)),
        1 => one.prop_map(Step::GoOn),
        1 => Just(Step::Restart),
        1 => prop_oneof![Just("b"), Just("c"), Just("broken")].prop_map(Step::Release),
        4 => (1..400_i64).prop_map(Step::Pass),
    ];
    proptest::collection::vec(step, 1..120)
}

struct World {
    federations: Vec<Federation>,
    roster: Roster,
    image: &'static str,
    at_once: usize,
    now: i64,
    /// Turns that are over.
    over: BTreeMap<usize, Turn>,
    due: BTreeSet<usize>,
}

fn named(of: usize) -> ObjectName {
    owner().sibling(&of.to_string())
}

impl World {
    fn new(at_once: usize) -> Self {
        let federation = Federation {
            record: record(OWN, "", "a", None),
            sound: true,
            rolled: true,
            at_risk: false,
            own_image: None,
            paused: false,
            not_ready_since: -10_000,
        };
        let mut world = Self {
            federations: vec![federation; COUNT],
            roster: Roster::new(at_once, PATIENCE),
            image: "a",
            at_once,
            now: 0,
            over: BTreeMap::new(),
            due: BTreeSet::new(),
        };
        world.restart();
        world
    }

    /// Only what is written is left.
    fn restart(&mut self) {
        self.roster = Roster::new(self.at_once, PATIENCE);
        let federations = self.federations.iter().enumerate();
        let turns = federations.filter_map(|(of, federation)| Some((named(of), federation.record.turn.clone()?)));
        self.roster.begin((0..COUNT).map(named), turns, at(self.now));
        self.over.clear();
        self.due = (0..COUNT).collect();
    }

    fn is_ready(&self, of: usize) -> bool {
        let federation = &self.federations[of];
        federation.sound && federation.rolled && federation.record.template != template("broken")
    }

    fn changed(&mut self, of: usize, ready_before: bool) {
        if ready_before && !self.is_ready(of) {
            self.federations[of].not_ready_since = self.now;
        }
        if self.is_ready(of) {
            self.federations[of].at_risk = false;
        }
        self.due.insert(of);
    }

    fn tell(&mut self, of: usize, report: Report) {
        let woken = self.roster.report(&named(of), report, at(self.now));
        self.due
            .extend(woken.iter().map(|name| name.name.parse::<usize>().unwrap()));
    }

    fn reconcile(&mut self, of: usize, goes_on: bool) {
        self.due.remove(&of);
        let (now, federation) = (at(self.now), self.federations[of].clone());
        if federation.paused {
            self.tell(of, if goes_on { Report::Gone } else { Report::Idle });
            return;
        }
        let found = rollout(&federation.record.template, Some(&federation.record), federation.rolled);
        let holds = |of: &Self, at: usize| {
            let status = if of.is_ready(at) { "True" } else { "False" };
            let since = of.federations[at].not_ready_since;
            SHOWN_BY.map(|kind| condition(kind.as_str(), status, since))
        };
        let permission = self.roster.permission(&named(of), &held(&holds(self, of)), now);
        let asked = Question {
            over: self.over.get(&of).cloned(),
            goes_on,
            now,
            ..question(Some(&found), permission)
        };
        let (inputs, wanted) = (federation.own_image.unwrap_or_default(), federation.own_image);
        let wanted = template(wanted.unwrap_or(self.image));
        let (template, turn, progress) = decide(wanted, inputs, PATIENCE, &asked);
        let (ready, was) = (self.is_ready(of), self.federations[of].record.template.clone());
        let by_spec = federation.record.inputs != inputs;
        let written = &mut self.federations[of];
        written.record = TemplateRecord {
            release: OWN.to_owned(),
            inputs: inputs.to_owned(),
            turn,
            template,
        };
        if written.record.template != was {
            written.rolled = false;
            // One that its own spec changes, or whose turn it is already, is not one more.
            written.at_risk |= ready && !by_spec;
        }
        self.changed(of, ready);
        self.due.remove(&of);
        let conditions = holds(self, of);
        self.tell(
            of,
            report(&progress, Some(at(i64::try_from(of).unwrap())), &conditions, now),
        );
        if let Some(turn) = over(&progress, Some(&found), &conditions, now) {
            self.over.insert(of, turn);
            self.due.insert(of);
        }
        if progress != Progress::Current && self.roster.due(&named(of), now).is_some() {
            self.due.insert(of);
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Reconcile(of) => self.reconcile(of, false),
            Step::GoOn(of) => self.reconcile(of, true),
            Step::Roll(of) => {
                let ready = self.is_ready(of);
                self.federations[of].rolled = true;
                self.changed(of, ready);
            }
            Step::Sound(of, sound) => {
                let ready = self.is_ready(of);
                self.federations[of].sound = sound;
                self.changed(of, ready);
            }
            Step::Spec(of) => {
                self.federations[of].own_image = Some("own");
                self.due.insert(of);
            }
            Step::Pause(of, paused) => {
                self.federations[of].paused = paused;
                self.due.insert(of);
            }
            Step::Restart => self.restart(),
            Step::Release(image) => {
                self.image = image;
                self.restart();
            }
            Step::Pass(seconds) => self.now += seconds,
        }
    }

    fn at_risk(&self) -> usize {
        let federations = self.federations.iter();
        federations.filter(|federation| federation.at_risk).count()
    }
}

proptest! {
    #[test]
    fn never_more_at_a_time_than_allowed_and_in_the_end_all_are_upgraded(
        steps in steps(), at_once in 1..3_usize,
    ) {
        let mut world = World::new(at_once);
        let mut given_up = 0;
        for step in &steps {
            // Whoever goes on by hand takes the risk.
            if let Step::GoOn(of) = step && world.federations[*of].at_risk {
                given_up += 1;
            }
            world.step(step);
            prop_assert!(world.at_risk() <= at_once + given_up, "{} at risk after {step:?}", world.at_risk());
        }
        // All is mended: what is due is done, pods come, and time passes.
        for of in 0..COUNT {
            world.step(&Step::Pause(of, false));
            world.step(&Step::Sound(of, true));
        }
        world.step(&Step::Release("final"));
        for _ in 0..40 * COUNT {
            for of in world.due.clone() {
                world.step(&Step::Reconcile(of));
            }
            let replaced: Vec<usize> = (0..COUNT).filter(|of| !world.federations[*of].rolled).collect();
            for of in replaced {
                world.step(&Step::Roll(of));
            }
            world.now += 10;
        }
        for of in 0..COUNT {
            let federation = &world.federations[of];
            let wanted = federation.own_image.unwrap_or("final");
            prop_assert_eq!(&federation.record.template, &template(wanted), "{}", of);
            prop_assert_eq!(&federation.record.turn, &None, "{}", of);
        }
    }
}
