#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
use super::*;
use crate::clusters::batch::BatchBuilder;
use crate::clusters::queue::Queue;
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::Notify;
use xmpp_federation_core::Domain;

fn source(domain: &str) -> Source {
    Source::Peer(Arc::new(Domain::parse(domain).unwrap()))
}

fn stanza(from: &str, id: &str) -> String {
    format!("<message from='{from}' to='alice@coluc.com' id='{id}'/>")
}

/// One turn's stanzas.
fn batch(stanzas: &[String]) -> Batch {
    let mut builder = BatchBuilder::default();
    for stanza in stanzas {
        builder.out.extend_from_slice(stanza.as_bytes());
        builder.count += 1;
        builder.requests += 1;
    }
    builder.finish().unwrap()
}

fn of(from: &str, id: &str) -> Batch {
    batch(&[stanza(from, id)])
}

struct TestCluster {
    queue: Queue,
    wake: Arc<Notify>,
    now: Instant,
    bobs: Source,
}

impl TestCluster {
    fn new() -> Self {
        let queue = Queue::default();
        let wake = Arc::new(Notify::new());
        queue.link_up(0, &wake);
        Self {
            queue,
            wake,
            now: Instant::now(),
            bobs: source("vngtp.lab"),
        }
    }

    fn push(&self, batch: Batch) {
        assert!(self.queue.push(&self.bobs, batch).unwrap().is_none());
    }

    fn accuse(&self, senders: &[&str]) {
        let window: Vec<_> = senders.iter().map(|from| of(from, "w")).collect();
        self.queue.accuse(window.iter(), self.now);
    }

    /// What a link with nothing in flight gets: whether it is alone, and the ids of the stanzas.
    fn take(&self) -> (bool, Vec<String>) {
        let taken = self.queue.take(&self.wake, 0, 1 << 20, self.now);
        let got = taken.batches.iter().flat_map(|batch| {
            let got = ids(&batch.bytes);
            assert_eq!(got.len(), batch.count);
            got
        });
        let got = got.collect();
        self.queue.proven(taken.batches.len());
        (taken.alone, got)
    }

    /// Everything, in the order in which it is sent.
    fn take_all(&self) -> Vec<(bool, Vec<String>)> {
        let mut all = Vec::new();
        loop {
            let taken = self.take();
            if taken.1.is_empty() {
                return all;
            }
            all.push(taken);
        }
    }

    fn refused(&self) -> Vec<(String, &'static str)> {
        let refused = self.queue.refused();
        refused
            .iter()
            .map(|(batch, cause)| (ids(&batch.bytes).concat(), cause.as_str()))
            .collect()
    }
}

fn ids(bytes: &[u8]) -> Vec<String> {
    xmpp_federation_xml::split(bytes, ns::COMPONENT)
        .iter()
        .map(|stanza| stanza.id().unwrap().into_owned())
        .collect()
}

fn names(ids: &[&str]) -> Vec<String> {
    ids.iter().map(|id| (*id).to_owned()).collect()
}

#[tokio::test]
async fn what_waits_behind_others_already_goes_alone_too_in_every_spelling_and_in_order() {
    let cluster = TestCluster::new();
    cluster.push(batch(&[
        stanza("bob@vngtp.lab/1", "b1"),
        stanza("mal@vngtp.lab/1", "m1"),
        stanza("bob@vngtp.lab/2", "b2"),
        stanza("MAL@VNGTP.lab./2", "m2"),
    ]));
    cluster.push(of("mal@vngtp.lab", "m3"));
    cluster.accuse(&["Mal@vngtp.lab/other"]);
    cluster.push(batch(&[
        stanza("mal@vngtp.lab/&lt;", "m4"),
        stanza("\u{ff2d}\u{ad}a&#x4c;@VNGTP.lab", "m5"),
        stanza("bob@vngtp.lab", "b3"),
        stanza("mallory@vngtp.lab", "x1"),
    ]));
    assert_eq!(cluster.queue.suspects(), (1, 0));
    assert_eq!(cluster.queue.depth().0, 9);
    let all = cluster.take_all();
    let alone: Vec<_> = all.iter().filter(|(alone, _)| *alone).collect();
    let alone: Vec<_> = alone.iter().map(|(_, ids)| ids.join(" ")).collect();
    assert_eq!(alone, ["m1", "m2", "m3", "m4", "m5"]);
    let others = all.iter().filter(|(alone, _)| !alone);
    let others: Vec<_> = others.flat_map(|(_, ids)| ids.clone()).collect();
    assert_eq!(others, ["b1", "b2", "b3", "x1"]);
    assert!(cluster.queue.is_settled());
    assert_eq!(cluster.queue.depth(), (0, 0));
}

#[tokio::test]
async fn nothing_else_is_in_flight_and_others_have_their_turn_afterwards() {
    let mut cluster = TestCluster::new();
    cluster.accuse(&["mal@vngtp.lab"]);
    for n in 0..3 {
        cluster.push(of("mal@vngtp.lab", &format!("m{n}")));
    }
    let take = |cluster: &TestCluster, own| {
        let taken = cluster.queue.take(&cluster.wake, own, 1 << 20, cluster.now);
        (taken.alone, taken.batches.len())
    };
    assert_eq!(take(&cluster, 1), (false, 0), "something is in flight");
    assert_eq!(take(&cluster, 0), (true, 1));
    cluster.push(of("bob@vngtp.lab", "b1"));
    // It took 10 ms: others have 30.
    cluster.now += Duration::from_millis(10);
    assert_eq!(take(&cluster, 0), (false, 1));
    cluster.push(of("bob@vngtp.lab", "b2"));
    cluster.now += Duration::from_millis(29);
    assert_eq!(take(&cluster, 1), (false, 1));
    cluster.push(of("bob@vngtp.lab", "b3"));
    cluster.now += Duration::from_millis(1);
    assert_eq!(take(&cluster, 2), (false, 0), "the link is emptied first");
    assert_eq!(take(&cluster, 0), (true, 1));
    // Where nobody else has anything waiting, the next one follows at once.
    assert_eq!(take(&cluster, 0), (false, 1));
    assert_eq!(take(&cluster, 0), (true, 1));
}

#[tokio::test]
async fn suspects_take_turns() {
    let cluster = TestCluster::new();
    cluster.accuse(&["a@vngtp.lab", "b@vngtp.lab"]);
    for id in ["a1", "a2", "a3"] {
        cluster.push(of("a@vngtp.lab", id));
    }
    cluster.push(of("b@vngtp.lab", "b1"));
    let order: Vec<_> = cluster.take_all().into_iter().map(|(_, ids)| ids.concat()).collect();
    assert_eq!(order, ["a1", "b1", "a2", "a3"]);
}

#[tokio::test]
async fn who_is_refused_gets_everything_back_and_is_a_suspect_afterwards_and_then_free() {
    let mut cluster = TestCluster::new();
    cluster.accuse(&["mal@vngtp.lab", "bob@vngtp.lab"]);
    for id in ["m1", "m2"] {
        cluster.push(of("mal@vngtp.lab", id));
    }
    assert_eq!(cluster.take().1, names(&["m1"]));
    let alone = of("mal@vngtp.lab/r", "m1");
    let (sender, waiting) = cluster.queue.convict(&alone, cluster.now).unwrap();
    assert_eq!(&*sender, "mal@vngtp.lab");
    assert_eq!(ids(&waiting[0].bytes), ["m2"]);
    assert_eq!(cluster.queue.suspects(), (1, 1));
    cluster.push(batch(&[
        stanza("mal@vngtp.lab/r", "m3"),
        stanza("carl@vngtp.lab/r", "c1"),
    ]));
    assert_eq!(cluster.refused(), [("m3".to_owned(), "breaks-links")]);
    assert_eq!(cluster.take_all(), [(false, names(&["c1"]))]);
    let hold = Duration::from_secs(30);
    let end = cluster.now + PERIOD;
    cluster.now = end.checked_sub(Duration::from_secs(1)).unwrap();
    assert!(cluster.queue.expire(cluster.now, hold).is_empty());
    assert_eq!(cluster.queue.suspects(), (1, 1));
    cluster.now = end;
    assert!(cluster.queue.expire(cluster.now, hold).is_empty());
    assert_eq!(cluster.queue.suspects(), (1, 0), "bob is free");
    cluster.push(of("mal@vngtp.lab", "m4"));
    assert_eq!(cluster.take(), (true, names(&["m4"])));
    cluster.now += PERIOD;
    assert!(cluster.queue.expire(cluster.now, hold).is_empty());
    assert_eq!(cluster.queue.suspects(), (0, 0));
    cluster.push(of("mal@vngtp.lab", "m5"));
    assert_eq!(cluster.take(), (false, names(&["m5"])));
}

#[tokio::test]
async fn a_suspect_stays_one_while_something_waits_so_that_its_order_is_kept() {
    let mut cluster = TestCluster::new();
    cluster.accuse(&["mal@vngtp.lab"]);
    cluster.push(of("mal@vngtp.lab", "m1"));
    cluster.now += PERIOD;
    let forever = Duration::from_hours(24);
    assert!(cluster.queue.expire(cluster.now, forever).is_empty());
    cluster.push(of("mal@vngtp.lab", "m2"));
    assert_eq!(cluster.take().1, names(&["m1"]));
    assert_eq!(cluster.take().1, names(&["m2"]));
    assert!(cluster.queue.expire(cluster.now, forever).is_empty());
    assert_eq!(cluster.queue.suspects(), (0, 0));
}

#[tokio::test]
async fn what_waited_too_long_is_given_back_and_so_is_everything_at_the_end() {
    let cluster = TestCluster::new();
    cluster.accuse(&["mal@vngtp.lab"]);
    for id in ["m1", "m2"] {
        cluster.push(of("mal@vngtp.lab", id));
    }
    assert!(!cluster.queue.is_empty() && !cluster.queue.is_settled());
    let hold = Duration::from_secs(30);
    let late = Instant::now() + hold;
    assert_eq!(cluster.queue.expire(late, hold).len(), 2);
    assert!(cluster.queue.is_settled());
    cluster.push(of("mal@vngtp.lab", "m3"));
    assert_eq!(cluster.queue.clear().len(), 1);
    assert!(cluster.queue.is_settled());
    assert!(cluster.take_all().is_empty());
}

#[tokio::test]
async fn there_are_so_many_suspects_and_the_oldest_give_way_and_lose_nothing() {
    let mut cluster = TestCluster::new();
    cluster.accuse(&["first@vngtp.lab", "bad@vngtp.lab"]);
    let bad = of("bad@vngtp.lab", "x");
    assert!(cluster.queue.convict(&bad, cluster.now).is_some());
    cluster.push(of("first@vngtp.lab", "f1"));
    cluster.now += Duration::from_secs(1);
    let all: Vec<_> = (0..MOST - 1).map(|n| of(&format!("u{n}@vngtp.lab"), "w")).collect();
    let named = cluster.queue.accuse(all.iter(), cluster.now);
    assert_eq!(named.len(), MOST - 1);
    assert_eq!(cluster.queue.suspects(), (MOST - 1, 1));
    assert_eq!(cluster.take_all(), [(false, names(&["f1"]))]);
    // Even refused ones, when there is nobody else.
    cluster.now += Duration::from_secs(1);
    let all: Vec<_> = (0..MOST).map(|n| of(&format!("v{n}@vngtp.lab"), "w")).collect();
    cluster.queue.accuse(all.iter(), cluster.now);
    assert_eq!(cluster.queue.suspects(), (MOST, 0));
}

#[tokio::test]
async fn where_more_had_something_unproven_few_stanzas_are_in_flight_so_that_the_next_end_names_them() {
    let mut cluster = TestCluster::new();
    let users: Vec<_> = (0..3 * MOST).map(|n| stanza(&format!("u{n}@vngtp.lab"), "w")).collect();
    let window = [batch(&users[..MOST]), batch(&users[MOST..])];
    let named = cluster.queue.accuse(window.iter(), cluster.now);
    // The router reads in order: the first ones are the likeliest.
    let first: Vec<Box<str>> = (0..MOST).map(|n| format!("u{n}@vngtp.lab").into()).collect();
    assert_eq!(named, first);
    let strangers: Vec<_> = (0..600).map(|n| stanza("x@vngtp.lab", &format!("x{n}"))).collect();
    cluster.push(batch(&strangers));
    let mut came = Vec::new();
    for count in [FEW, FEW, 600 - 2 * FEW] {
        let taken = cluster.queue.take(&cluster.wake, 1, 1 << 20, cluster.now);
        assert!(taken.batches.is_empty());
        let (alone, ids) = cluster.take();
        assert_eq!((alone, ids.len()), (false, count));
        came.extend(ids);
    }
    let expected: Vec<_> = (0..600).map(|n| format!("x{n}")).collect();
    assert_eq!(came, expected);
    assert!(cluster.queue.is_settled());
    assert_eq!(cluster.queue.depth(), (0, 0));
    cluster.now += PERIOD;
    cluster.push(batch(&strangers));
    assert_eq!(cluster.take().1.len(), 600);
}

#[tokio::test]
async fn a_suspect_that_floods_gets_back_what_is_too_much_and_stops_nobody() {
    let cluster = TestCluster::new();
    cluster.accuse(&["mal@vngtp.lab"]);
    let body = "x".repeat(60_000);
    let mut count = 0;
    while cluster.queue.refused().is_empty() {
        let big = format!("<message from='mal@vngtp.lab' to='a@coluc.com' id='f'>{body}</message>");
        // Not paused either: that would stop everybody on the same stream.
        cluster.push(batch(&[big]));
        count += 1;
        assert!(count < 1000, "without bound");
    }
    assert!(cluster.queue.shut(&source("any.example")).is_none());
    assert!(cluster.queue.depth().1 <= Room::default().suspects());
    cluster.push(of("bob@vngtp.lab", "b1"));
    assert_eq!(cluster.take().1.len(), 1);
}

#[tokio::test]
async fn another_cluster_that_takes_over_takes_over_whom_to_mind_as_well() {
    let down = Queue::default();
    let cluster = TestCluster::new();
    let window = [of("mal@vngtp.lab", "w"), of("bad@vngtp.lab", "w")];
    down.accuse(window.iter(), cluster.now);
    assert!(down.convict(&window[1], cluster.now).is_some());
    cluster.push(of("mal@vngtp.lab", "m1"));
    for (from, id) in [("mal@vngtp.lab", "m2"), ("bob@vngtp.lab", "b1")] {
        assert!(down.push(&cluster.bobs, of(from, id)).is_ok());
    }
    assert!(down.move_to(&cluster.queue).is_empty());
    assert!(down.is_empty());
    cluster.push(of("bad@vngtp.lab", "x1"));
    assert_eq!(cluster.refused(), [("x1".to_owned(), "breaks-links")]);
    let mut all = cluster.take_all();
    all.sort();
    assert_eq!(
        all,
        [(false, names(&["b1"])), (true, names(&["m1"])), (true, names(&["m2"])),]
    );
}

#[tokio::test]
async fn an_answer_of_the_edge_is_whose_stanza_it_answers() {
    let cluster = TestCluster::new();
    let answer = |to: &str, id: &str| {
        let xml = format!("<message from='bob@vngtp.lab' to='{to}' type='error' id='{id}'/>");
        Batch::one(Bytes::from(xml))
    };
    cluster
        .queue
        .accuse([answer("alice@coluc.com/1", "w")].iter(), cluster.now);
    let push = |batch| assert!(cluster.queue.push(&Source::Edge, batch).is_ok());
    push(answer("Alice@coluc.com/2", "a1"));
    push(answer("anna@coluc.com", "a2"));
    cluster.push(of("bob@vngtp.lab", "b1"));
    let mut all = cluster.take_all();
    all.sort();
    let mut others = all[0].1.clone();
    others.sort();
    assert_eq!((all[0].0, others), (false, names(&["a2", "b1"])));
    assert_eq!(all[1], (true, names(&["a1"])));
}

#[tokio::test]
async fn the_turn_goes_on_with_the_next_link_and_the_same_suspects() {
    let cluster = TestCluster::new();
    let second = Arc::new(Notify::new());
    cluster.queue.link_up(1, &second);
    cluster.accuse(&["mal@vngtp.lab"]);
    for id in ["m1", "m2"] {
        cluster.push(of("mal@vngtp.lab", id));
    }
    assert_eq!(cluster.take().1, names(&["m1"]));
    cluster.queue.link_down(&cluster.wake);
    let taken = cluster.queue.take(&second, 0, 1 << 20, cluster.now);
    assert!(taken.alone);
    assert_eq!(ids(&taken.batches[0].bytes), ["m2"]);
}

#[tokio::test]
async fn where_several_of_a_domain_are_refused_everybody_of_it_is_a_suspect() {
    let cluster = TestCluster::new();
    for n in 0..OF_ONE_DOMAIN {
        cluster.push(of("other@vngtp.lab", "o"));
        assert_eq!(cluster.take(), (false, names(&["o"])));
        let alone = of(&format!("m{n}@vngtp.lab"), "x");
        assert!(cluster.queue.convict(&alone, cluster.now).is_some());
    }
    cluster.push(batch(&[
        stanza("other@vngtp.lab", "o1"),
        stanza("new@vngtp.lab", "n1"),
        stanza("bob@sub.vngtp.lab", "s1"),
        stanza("new@vngtp.lab", "n2"),
        stanza("other@vngtp.lab", "o2"),
    ]));
    assert_eq!(cluster.take(), (true, names(&["o1"])));
    assert_eq!(cluster.take(), (false, names(&["s1"])));
    assert_eq!(cluster.take(), (true, names(&["n1"])));
    // That one ended the link: what waits of it comes back, the others' stanzas go on.
    let alone = of("new@vngtp.lab", "n1");
    let (sender, waiting) = cluster.queue.convict(&alone, cluster.now).unwrap();
    assert_eq!((&*sender, waiting.len()), ("new@vngtp.lab", 1));
    assert_eq!(ids(&waiting[0].bytes), ["n2"]);
    assert_eq!(cluster.take_all(), [(true, names(&["o2"]))]);
    cluster.push(of("new@vngtp.lab", "n3"));
    assert_eq!(cluster.refused(), [("n3".to_owned(), "breaks-links")]);
    assert!(cluster.queue.is_settled());
}

#[tokio::test]
async fn a_domain_that_uses_another_name_at_each_end_is_a_suspect_and_refused_if_that_goes_on() {
    let mut cluster = TestCluster::new();
    for n in 0..OF_ONE_DOMAIN {
        cluster.push(of("x@evil.lan", "x"));
        assert_eq!(cluster.take(), (false, names(&["x"])));
        let (bad, good) = (format!("x{n}@evil.lan"), format!("b@d{n}.lan"));
        cluster.accuse(&[&bad, &good]);
    }
    // New names of that domain only go alone.
    cluster.push(batch(&[
        stanza("new@evil.lan", "n1"),
        stanza("other@d0.lan", "o1"),
        stanza("other@sub.evil.lan", "o2"),
    ]));
    let mut taken = cluster.take_all();
    taken.sort();
    assert_eq!(taken, [(false, names(&["o1", "o2"])), (true, names(&["n1"]))]);
    for n in 0..MOST_OF_ONE_DOMAIN {
        let name = format!("y{n}@evil.lan");
        cluster.push(of(&name, "y"));
        assert_eq!(cluster.take(), (true, names(&["y"])), "{n}");
        let alone = of(&name, "y");
        assert!(cluster.queue.convict(&alone, cluster.now).is_some());
    }
    cluster.push(of("newest@evil.lan", "z"));
    assert_eq!(cluster.refused(), [("z".to_owned(), "breaks-links")]);
    // Refused, then a suspect, then free.
    cluster.now += PERIOD;
    cluster.queue.expire(cluster.now, Duration::MAX);
    cluster.push(of("newest@evil.lan", "z"));
    assert_eq!(cluster.take(), (true, names(&["z"])));
}

#[tokio::test]
async fn a_domain_that_was_not_in_flight_at_one_of_the_last_ends_is_no_suspect() {
    let cluster = TestCluster::new();
    for senders in [
        ["a@busy.lan", "x0@evil.lan"],
        ["b@busy.lan", "x1@evil.lan"],
        ["c@other.lan", "x2@evil.lan"],
    ] {
        cluster.accuse(&senders);
    }
    cluster.push(of("new@busy.lan", "n"));
    assert_eq!(cluster.take(), (false, names(&["n"])));
}
