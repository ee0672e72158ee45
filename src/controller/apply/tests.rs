#![allow(clippy::unwrap_used, reason = "tests")]
use super::*;
use crate::controller::pods::PodState;
use crate::controller::status::testing::world;

/// One pod and the time; the annotation is written as it is asked for.
struct Bench {
    told: NotifiedPods,
    pod: EdgePod,
    now: Instant,
    writes: Vec<u64>,
    /// The annotation does not come to the pod.
    refused: bool,
}

impl Bench {
    fn new() -> Self {
        Self {
            told: NotifiedPods::default(),
            pod: world("", Value::Null).pods.remove(0),
            now: Instant::now(),
            writes: Vec::new(),
            refused: false,
        }
    }

    /// A reconcile in each 100 ms of that time; when the pod was written, in ms from its start.
    fn run(&mut self, hash: &str, config_hash: &str, time: Duration) -> Vec<u64> {
        let start = self.now;
        self.writes.clear();
        while self.now < start + time {
            if let Some((value, turn)) = self.told.next(&self.pod, hash, config_hash, self.now) {
                let mut pod = PodState::clone(&self.pod.pod);
                if !self.refused {
                    pod.notified = Some(value);
                }
                self.pod.pod = Arc::new(pod);
                self.told.0.insert(self.pod.uid.clone(), turn);
                let at = self.now.duration_since(start).as_millis();
                self.writes.push(u64::try_from(at).unwrap());
            }
            self.now += Duration::from_millis(100);
        }
        std::mem::take(&mut self.writes)
    }
}

#[test]
fn a_pod_that_cannot_load_a_configuration_is_told_ever_later_and_of_another_one_at_once() {
    let mut bench = Bench::new();
    let hour = Duration::from_hours(1);
    let writes = bench.run("mounted", "wanted", hour);
    assert_eq!(writes.get(..6).unwrap(), [0, 500, 1500, 3500, 7500, 15_500]);
    let pauses: Vec<u64> = writes
        .windows(2)
        .map(|pair| pair.last().unwrap() - pair.first().unwrap())
        .collect();
    assert!(pauses.iter().all(|pause| *pause <= 300_000), "{pauses:?}");
    assert!((18..=24).contains(&writes.len()), "{}", writes.len());
    // Something else that it mounts: at once, and from the shortest pause again.
    assert_eq!(bench.run("other", "wanted", Duration::from_secs(1)), [0, 500]);
}

#[test]
fn a_pod_that_cannot_be_told_is_tried_ever_later_and_told_of_another_configuration_at_once() {
    let mut bench = Bench::new();
    bench.refused = true;
    let writes = bench.run("mounted", "wanted", Duration::from_hours(1));
    assert_eq!(writes.get(..6).unwrap(), [0, 500, 1500, 3500, 7500, 15_500]);
    assert!((18..=24).contains(&writes.len()), "{}", writes.len());
    assert_eq!(bench.run("other", "wanted", Duration::from_secs(1)), [0, 500]);
    // It can be told again, and loads what it is told of.
    bench.refused = false;
    let loaded = bench.pod.status.as_ref().unwrap().config_hash.clone();
    assert_eq!(bench.run("other", &loaded, Duration::from_hours(1)), [500]);
    assert!(bench.told.0.is_empty());
}

#[test]
fn a_pod_that_loaded_its_configuration_or_refuses_it_is_not_told_again() {
    let mut bench = Bench::new();
    let loaded = bench.pod.status.as_ref().unwrap().config_hash.clone();
    assert_eq!(bench.run("mounted", &loaded, Duration::from_hours(1)), [0]);
    assert!(bench.told.0.is_empty());
    let status = bench.pod.status.as_mut().unwrap();
    status.rejected = Some(xmpp_federation_core::edge_status::RejectedConfig {
        config_hash: "wanted".to_owned(),
        reason: "line 3".to_owned(),
    });
    assert_eq!(bench.run("mounted", "wanted", Duration::from_hours(1)), [0_u64; 0]);
}
