//! What many resources cost: 200 on 20 clusters, of which each belongs to one and is wanted by
//! nine others. Time is the operator's own, moved by hand; calls are counted at the clusters.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use testkit_simulator::{Account, ImpConfig, NodeConfig, SimulatedImp, Status as Router};
use xmpp_federation_core::{Activation, ComponentId, SecretBytes};
use xmpp_federation_imp::Manager;
use xmpp_federation_imp::access::NodeAddress;
use xmpp_federation_imp::clock::Clock;
use xmpp_federation_imp::desired::{Desired, Link, Owner};
use xmpp_federation_imp::reasons::Reason;
use xmpp_federation_imp::report::{Progress, Status};
use xmpp_federation_imp::store::LedgerStore;
use xmpp_federation_imp::testing::{TestStore, Unguarded};
use xmpp_federation_imp::timings::Timings;

use crate::cost::MovedClock;
use crate::support::{desired, quick, quick_timings};

const CLUSTERS: usize = 20;
const PER_CLUSTER: usize = 10;
const NODES: usize = 2;

/// Cluster number so and so.
async fn cluster(number: usize) -> SimulatedImp {
    let node = |kind: &str| NodeConfig {
        name: format!("{kind}{number}.example.net"),
        ..NodeConfig::default()
    };
    SimulatedImp::start(ImpConfig {
        nodes: vec![node("pub"), node("sub")],
        users: Vec::new(),
        accounts: vec![Account {
            username: format!("axl{number}"),
            password: "axlpassword".into(),
            axl: true,
            control_center: true,
        }],
        ..quick()
    })
    .await
    .unwrap()
}

/// What a resource wants of a cluster: the first one has it, of the others every third is Prepared.
fn wanted(sim: &SimulatedImp, number: usize, place: usize) -> Desired {
    let mut wanted = desired(sim);
    wanted.owner = Owner {
        namespace: "federation".into(),
        name: format!("r-{number}-{place}"),
        uid: format!("uid-{number}-{place}"),
    };
    wanted.target.publisher.clone_from(&sim.nodes()[0].name);
    wanted.target.addresses = sim
        .nodes()
        .iter()
        .map(|node| {
            let address = NodeAddress {
                host: node.https.ip().into(),
                port: Some(node.https.port()),
            };
            (node.name.clone(), address)
        })
        .collect();
    let account = &mut wanted.target.axl;
    account.username = format!("axl{number}");
    account.password = SecretBytes::new(b"axlpassword".to_vec());
    account.secret.name = format!("axl{number}");
    account.secret.uid = format!("secret-{number}");
    if place > 0 && place.is_multiple_of(3) {
        wanted.activation = Activation::Prepared;
    }
    let live = (0..PER_CLUSTER).map(|place| format!("uid-{number}-{place}"));
    wanted.live_owners = live.into();
    wanted
}

/// Links of edges that run: up where a started router knows the id.
fn links_of(sim: &SimulatedImp, ids: &[ComponentId]) -> Vec<Link> {
    let nodes = sim.state().nodes.into_iter();
    nodes
        .flat_map(|node| {
            let (router, name) = (node.router, node.name);
            let started = router.status == Router::Started;
            ids.iter().map(move |id| Link {
                up: started && router.loaded_ids.contains(id.as_str()),
                bouncing: None,
                opened: None,
                announced: Vec::new(),
                node: name.clone(),
                component_id: id.clone(),
            })
        })
        .collect()
}

/// Bytes that this process has in memory.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().nth(1));
    kilobytes.unwrap().parse::<u64>().unwrap() * 1024
}

/// The most calls within so many ticks.
fn window(counts: &[usize], ticks: usize) -> usize {
    let sums = counts.windows(ticks).map(|within| within.iter().sum());
    sums.max().unwrap_or_default()
}

/// Time that this thread computed.
fn computed() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    let nanoseconds = text.split_whitespace().next().unwrap();
    Duration::from_nanos(nanoseconds.parse().unwrap())
}

/// Each cluster's first resource registers, and its routers are restarted, in real time.
async fn register(sims: &[SimulatedImp], store: Arc<dyn LedgerStore>) {
    let imp = Manager::new(store, Arc::new(Unguarded)).timed(quick_timings());
    join_all(sims.iter().enumerate().map(|(number, sim)| {
        let imp = &imp;
        async move {
            let mut wanted = wanted(sim, number, 0);
            let started = Instant::now();
            loop {
                wanted.links = links_of(sim, &wanted.component_ids);
                let report = imp.reconcile(&wanted).await;
                if report.progress == Progress::Done && report.routers_in_sync.status == Status::True {
                    break;
                }
                assert!(started.elapsed() < Duration::from_mins(2), "{report:#?}");
                tokio::time::sleep(report.requeue_after.min(Duration::from_millis(300))).await;
            }
        }
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_resources_ask_twenty_clusters_as_often_as_twenty_would() {
    let sims = join_all((0..CLUSTERS).map(cluster)).await;
    let store = Arc::new(TestStore::default());
    let ledgers = || Arc::clone(&store) as Arc<dyn LedgerStore>;

    register(&sims, ledgers()).await;

    // Another process, with the waits of production and all two hundred.
    let clock = Arc::new(MovedClock::default());
    let before = resident();
    let imp =
        Manager::with(ledgers(), Arc::new(Unguarded), Arc::clone(&clock) as Arc<dyn Clock>).timed(Timings::default());
    let mut resources: Vec<(usize, Desired)> = (0..PER_CLUSTER)
        .flat_map(|place| (0..CLUSTERS).map(move |number| (place, number)))
        .map(|(place, number)| (number, wanted(&sims[number], number, place)))
        .collect();
    let seen: Vec<usize> = sims.iter().map(|sim| sim.calls(0).len()).collect();
    for (number, wanted) in &mut resources {
        wanted.links = links_of(&sims[*number], &wanted.component_ids);
        let report = imp.reconcile(wanted).await;
        let has_it = wanted.owner.name.ends_with("-0");
        let claimed = report.components_registered.reason == Reason::ClaimedByAnother;
        assert_eq!(claimed, !has_it, "{}: {report:#?}", wanted.owner);
        assert_eq!(report.axl_authenticated.status, Status::True, "{report:#?}");
    }
    let start: Vec<usize> = sims
        .iter()
        .zip(&seen)
        .map(|(sim, seen)| sim.calls(0).len() - seen)
        .collect();
    let memory = resident().saturating_sub(before);
    // The version, node list, table, rows and services of the one that has it; each other one
    // proves its account with the version and the node list.
    let most_at_start = 16 + 4 * PER_CLUSTER;
    assert!(start.iter().all(|calls| *calls <= most_at_start), "{start:?}");

    // An hour; each resource is reconciled every 15 s, as the controller does.
    let tick = Duration::from_secs(15);
    let mut most = BTreeMap::from([("control-center", 0), ("axl", 0)]);
    let mut in_five = vec![BTreeMap::<&str, Vec<usize>>::new(); CLUSTERS];
    let mut seen: Vec<u64> = sims.iter().map(|sim| sim.calls(0).len() as u64).collect();
    let writes = store.ledger_writes();
    let began = Instant::now();
    let cpu = computed();
    let ticks = 240;
    let mut reconciles = 0_u32;
    for _ in 0..ticks {
        clock.advance(tick);
        for sim in &sims {
            sim.age(tick);
        }
        for (_, wanted) in &resources {
            imp.reconcile(wanted).await;
            reconciles += 1;
        }
        for (number, sim) in sims.iter().enumerate() {
            let calls = sim.calls(seen[number]);
            seen[number] += calls.len() as u64;
            for service in ["control-center", "axl"] {
                let count = calls.iter().filter(|call| call.service == service).count();
                in_five[number].entry(service).or_default().push(count);
            }
            assert!(
                calls.iter().all(|call| call.operation != "executeSQLUpdate"),
                "{calls:#?}"
            );
        }
    }
    let took = began.elapsed();
    for counts in &in_five {
        // A reconcile every 15 s: what is due each 5 min may fall one tick early or late.
        let (looks, reads) = (&counts["control-center"], &counts["axl"]);
        assert!(window(looks, 4) <= 12, "{looks:?}");
        assert!(window(looks, 19) <= NODES, "{looks:?}");
        assert!(window(reads, 19) <= 1, "{reads:?}");
        let minute = most.get_mut("control-center").unwrap();
        *minute = (*minute).max(window(looks, 4));
        let minute = most.get_mut("axl").unwrap();
        *minute = (*minute).max(window(reads, 4));
    }
    let calls: usize = in_five.iter().flat_map(BTreeMap::values).flatten().sum();
    println!(
        "200 resources, 20 clusters of 2 nodes, one hour: {calls} calls, at most {most:?} in a minute per cluster; \
         first look of all: {} calls; {reconciles} reconciles in {took:?} ({:?} of this thread, {:?} each); \
         {} ledger writes; {} KiB more in memory, simulators and connections included",
        start.iter().sum::<usize>(),
        computed().saturating_sub(cpu),
        took / reconciles,
        store.ledger_writes() - writes,
        memory / 1024,
    );
    assert_eq!(store.ledger_writes(), writes, "a cluster in order is not written of");
    for sim in &sims {
        for node in sim.state().nodes {
            assert_eq!(node.router.restarts.len(), 1);
        }
    }
}
