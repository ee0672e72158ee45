#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
use std::collections::VecDeque;

use super::super::class::{QUANTUM, SPARE};
use super::super::room::SMALLEST_SHARE;
use super::*;
use bytes::Bytes;
use xmpp_federation_core::Domain;

const HIGH_WATER: usize = Room::MOST.high_water();
const SHUT: usize = Room::MOST.shut();
use proptest::prelude::*;
use rstest::rstest;

fn batch(size: usize) -> Batch {
    Batch::one(Bytes::from(vec![b' '; size]))
}

fn numbered(size: usize, count: usize) -> Batch {
    Batch { count, ..batch(size) }
}

fn peer(name: &str) -> Source {
    Source::Peer(Arc::new(Domain::parse(name).unwrap()))
}

fn up(queue: &Queue) -> Arc<Notify> {
    let wake = Arc::new(Notify::new());
    queue.link_up(0, &wake);
    wake
}

fn take(queue: &Queue, wake: &Arc<Notify>, most: usize) -> Vec<Batch> {
    queue.take(wake, 0, most, Instant::now()).batches
}

fn is_over(pause: &Pause) -> bool {
    pause.0.has_changed().is_err() || !*pause.0.borrow()
}

#[tokio::test]
async fn the_link_of_lowest_rank_takes_and_the_next_one_when_it_is_down() {
    let queue = Queue::default();
    let (first, second) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    assert!(queue.push(&Source::Edge, batch(10)).is_ok());
    queue.link_up(1, &second);
    queue.link_up(0, &first);
    assert!(take(&queue, &second, 100).is_empty());
    assert_eq!(take(&queue, &first, 100).len(), 1);
    assert!(queue.push(&Source::Edge, batch(10)).is_ok());
    assert!(queue.link_down(&first).is_empty());
    assert_eq!(take(&queue, &second, 100).len(), 1);
    assert!(!queue.is_settled());
    queue.proven(2);
    assert!(queue.is_settled());
}

#[tokio::test]
async fn a_producer_pauses_at_the_high_water_mark_and_goes_on_below_the_low_one() {
    let queue = Queue::default();
    let wake = up(&queue);
    let bob = peer("vngtp.lab");
    for _ in 0..4 {
        assert!(queue.push(&bob, batch(HIGH_WATER / 4)).unwrap().is_none());
    }
    let mut pause = queue.push(&bob, batch(HIGH_WATER / 4)).unwrap().unwrap();
    take(&queue, &wake, HIGH_WATER / 4);
    assert!(!is_over(&pause), "one batch less is not enough");
    take(&queue, &wake, HIGH_WATER);
    pause.over().await;
    assert!(is_over(&pause));
}

#[tokio::test]
async fn who_has_more_than_its_share_pauses_and_the_others_go_on() {
    let queue = Queue::default();
    let _wake = up(&queue);
    let flooder = peer("flood.example");
    let pause = loop {
        if let Some(pause) = queue.push(&flooder, batch(64 * 1024)).unwrap() {
            break pause;
        }
    };
    for n in 0..20 {
        let quiet = peer(&format!("q{n}.example"));
        assert!(queue.push(&quiet, batch(300)).unwrap().is_none());
    }
    assert!(!is_over(&pause));
    assert!(queue.shut(&peer("any.example")).is_none());
}

#[tokio::test]
async fn one_stanza_of_a_quiet_peer_passes_a_flood_and_order_within_a_peer_is_kept() {
    let queue = Queue::default();
    let wake = up(&queue);
    let flooder = peer("flood.example");
    for n in 0..60 {
        let _ = queue.push(&flooder, numbered(64 * 1024, n)).unwrap();
    }
    // Taken already: nothing passes what has left.
    let mut floods: Vec<_> = take(&queue, &wake, 256 * 1024);
    for n in 0..20 {
        let quiet = peer(&format!("q{n}.example"));
        for k in [1000, 1001] {
            let _ = queue.push(&quiet, numbered(300, k)).unwrap();
        }
    }
    let next = take(&queue, &wake, 256 * 1024);
    let quiet = next.iter().filter(|batch| batch.count >= 1000);
    assert_eq!(quiet.count(), 40, "all of them in the first round");
    let orders: Vec<_> = next.iter().map(|b| b.count).filter(|c| *c >= 1000).collect();
    assert!(orders.chunks(2).all(|pair| pair == [1000, 1001]));
    floods.extend(next.into_iter().filter(|batch| batch.count < 1000));
    loop {
        let more = take(&queue, &wake, 256 * 1024);
        if more.is_empty() {
            break;
        }
        floods.extend(more);
    }
    let order: Vec<_> = floods.iter().map(|batch| batch.count).collect();
    assert_eq!(order, (0..60).collect::<Vec<_>>());
}

#[tokio::test]
async fn two_that_flood_get_equal_parts_whatever_the_size_of_their_batches() {
    let queue = Queue::default();
    let wake = up(&queue);
    let (coarse, fine) = (peer("coarse.example"), peer("fine.example"));
    for _ in 0..40 {
        let _ = queue.push(&coarse, numbered(50_000, 1)).unwrap();
    }
    for _ in 0..4000 {
        let _ = queue.push(&fine, numbered(500, 2)).unwrap();
    }
    let taken = take(&queue, &wake, 1_000_000);
    let bytes = |who: usize| -> usize {
        let theirs = taken.iter().filter(|batch| batch.count == who);
        theirs.map(|batch| batch.bytes.len()).sum()
    };
    let (coarse, fine) = (bytes(1), bytes(2));
    assert!(coarse.abs_diff(fine) <= 50_000 + 2 * QUANTUM, "{coarse} {fine}");
}

#[tokio::test]
async fn everybody_pauses_only_when_too_much_waits_in_all() {
    let queue = Queue::default();
    let wake = up(&queue);
    let mut n = 0;
    while queue.shut(&peer("any.example")).is_none() {
        n += 1;
        let source = peer(&format!("s{n}.example"));
        assert!(queue.push(&source, batch(50_000)).unwrap().is_none());
        assert!(n * 50_000 <= SHUT + 50_000, "no bound in all");
    }
    let mut pause = queue.shut(&peer("any.example")).unwrap();
    take(&queue, &wake, SHUT - HIGH_WATER - 100_000);
    assert!(!is_over(&pause));
    take(&queue, &wake, 200_000);
    pause.over().await;
    assert!(queue.shut(&peer("any.example")).is_none());
}

fn stranger(name: &str) -> Source {
    Source::Stranger(Arc::new(Domain::parse(name).unwrap()))
}

/// However many domains it has.
#[tokio::test]
async fn a_stranger_that_floods_neither_holds_up_a_partner_nor_stops_it() {
    let queue = Queue::default();
    let wake = up(&queue);
    let mut domains = 0;
    while queue.shut(&stranger("any.example")).is_none() {
        domains += 1;
        let flooder = stranger(&format!("d{domains}.example"));
        let _ = queue.push(&flooder, numbered(4_000, 1)).unwrap();
    }
    assert!(domains > 1_000);
    let partner = peer("partner.example");
    assert!(queue.shut(&partner).is_none());
    assert!(queue.push(&partner, numbered(300, 7)).unwrap().is_none());
    assert_eq!(take(&queue, &wake, 1)[0].count, 7, "the partner's is first");
    // Both get the same where both flood.
    for _ in 0..100 {
        let _ = queue.push(&partner, numbered(30_000, 7)).unwrap();
    }
    let taken = take(&queue, &wake, 1_000_000);
    let theirs = taken.iter().filter(|batch| batch.count == 7);
    let partners: usize = theirs.map(|batch| batch.bytes.len()).sum();
    assert!(partners.abs_diff(500_000) < 64_000, "{partners}");
}

#[test]
fn what_all_clusters_hold_together_is_what_the_memory_allows() {
    const MIB: usize = 1024 * 1024;
    for (all, clusters) in [
        (41 * MIB, 1),
        (41 * MIB, 3),
        (5 * MIB, 1),
        (128 * MIB, 2),
        (1024 * MIB, 8),
    ] {
        let room = Room::of(all, clusters);
        let each = 2 * room.shut() + 2 * room.window() + room.many_answers() + room.suspects();
        assert!(each * clusters <= all, "{all} {clusters} {room:?}");
        assert!(room.high_water() <= Room::MOST.high_water());
    }
    // However many there are, one read of a peer has room.
    assert_eq!(Room::of(MIB, 1000).high_water(), SMALLEST_SHARE);
}

#[tokio::test]
async fn less_memory_pauses_peers_earlier() {
    let queue = Queue::default();
    let _wake = up(&queue);
    queue.set_room(Room::of(16 * 100_000, 1));
    let (alice, bob) = (peer("alice.example"), peer("bob.example"));
    assert!(queue.push(&alice, batch(100_000)).unwrap().is_none());
    assert!(queue.push(&alice, batch(1)).unwrap().is_some());
    assert!(queue.push(&bob, batch(65_000)).unwrap().is_none());
    assert!(queue.shut(&peer("any.example")).is_none());
    let _ = queue.push(&alice, batch(240_000)).unwrap();
    assert!(queue.shut(&peer("any.example")).is_some());
}

#[tokio::test]
async fn sources_that_are_idle_cost_nothing() {
    let queue = Queue::default();
    let wake = up(&queue);
    for n in 0..1000 {
        let _ = queue.push(&peer(&format!("s{n}.example")), batch(10));
    }
    assert_eq!(take(&queue, &wake, HIGH_WATER).len(), 1000);
    let inner = queue.inner.lock();
    let class = &inner.classes.partners;
    assert_eq!((class.sources.len(), class.turns.len()), (0, 0));
    assert!(class.sources.capacity() <= SPARE && class.turns.capacity() <= SPARE);
    assert_eq!(inner.bytes(), 0);
}

#[tokio::test]
async fn only_what_waited_its_time_expires() {
    let hold = Duration::from_secs(30);
    let queue = Queue::default();
    let source = peer("vngtp.lab");
    let _ = queue.push(&source, batch(1));
    let now = Instant::now();
    let mut second = batch(2);
    second.at = now + hold / 2;
    let _ = queue.push(&source, second);
    let mut other = batch(3);
    other.at = now + hold / 2;
    let _ = queue.push(&Source::Edge, other);
    assert!(queue.expire(now + hold / 2, hold).is_empty());
    let expired = queue.expire(now + hold, hold);
    assert_eq!(expired.iter().map(|b| b.bytes.len()).collect::<Vec<_>>(), [1]);
    assert!(!queue.is_empty());
    assert_eq!(queue.clear().len(), 2);
    assert!(queue.is_empty());
}

#[tokio::test]
async fn stanzas_wait_longer_for_a_router_that_is_slow_and_not_for_one_that_does_nothing() {
    let hold = Duration::from_secs(30);
    let queue = Queue::default();
    let wake = up(&queue);
    let _ = queue.push(&peer("vngtp.lab"), batch(1));
    let late = Instant::now() + 2 * hold;
    queue.processed(0, late - hold / 2);
    assert!(queue.expire(late, hold).is_empty(), "it works");
    assert_eq!(queue.expire(late + hold, hold).len(), 1, "it does not");
    let _ = queue.push(&peer("vngtp.lab"), batch(1));
    queue.processed(0, late);
    queue.link_down(&wake);
    assert_eq!(queue.expire(late, hold).len(), 1, "no link is up");
}

#[tokio::test]
async fn a_paused_producer_goes_on_when_what_it_had_waiting_expired() {
    let queue = Queue::default();
    let bob = peer("vngtp.lab");
    let mut pause = queue.push(&bob, batch(HIGH_WATER + 1)).unwrap().unwrap();
    assert_eq!(queue.clear().len(), 1);
    pause.over().await;
}

#[tokio::test]
async fn the_preferred_link_waits_for_the_proof_of_what_the_other_one_wrote() {
    let queue = Queue::new(Duration::from_secs(2));
    let (first, second) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let bob = peer("vngtp.lab");
    queue.link_up(1, &second);
    let _ = queue.push(&bob, batch(1));
    assert_eq!(take(&queue, &second, 100).len(), 1);
    let _ = queue.push(&bob, batch(2));
    queue.link_up(0, &first);
    assert!(take(&queue, &second, 100).is_empty(), "no longer its turn");
    let now = Instant::now();
    let early = queue.take(&first, 0, 100, now);
    assert!(early.batches.is_empty() && early.again.is_some());
    first.notified().await;
    queue.proven(1);
    first.notified().await;
    assert_eq!(queue.take(&first, 0, 100, now).batches.len(), 1);

    // A link that never proves anything holds the next one up for a limited time.
    let _ = queue.push(&bob, batch(3));
    queue.link_down(&first);
    let late = Instant::now() + Duration::from_secs(3);
    assert_eq!(queue.take(&second, 0, 100, late).batches.len(), 1);
}

#[test]
fn a_link_without_a_way_to_us_takes_only_while_no_other_one_is_up() {
    let queue = Queue::default();
    let (first, second) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let blind = LinkPlace {
        not_gateway: true,
        rank: 0,
    };
    assert!(!queue.is_well());
    queue.link_up(0, &first);
    queue.link_up(1, &second);
    queue.link_moved(blind, &first);
    let bob = peer("vngtp.lab");
    let _ = queue.push(&bob, batch(1));
    assert!(take(&queue, &first, 100).is_empty() && queue.is_well());
    assert_eq!(take(&queue, &second, 100).len(), 1);
    queue.link_down(&second);
    let _ = queue.push(&bob, batch(2));
    assert_eq!(take(&queue, &first, 100).len(), 1);
    assert!(queue.is_up() && !queue.is_well());
    // One that is down has no place.
    queue.link_moved(0.into(), &second);
    assert!(!queue.is_well());
    queue.link_moved(0.into(), &first);
    assert!(queue.is_well());
}

#[tokio::test]
async fn what_waits_for_a_cluster_that_is_gone_is_delivered_or_given_back() {
    let queue = Queue::default();
    let bob = peer("vngtp.lab");
    let wake = up(&queue);
    for n in 1..=3 {
        let _ = queue.push(&bob, batch(n));
    }
    assert!(queue.close().is_empty(), "its link delivers the rest");
    assert!(queue.push(&bob, batch(4)).is_err());
    assert_eq!(take(&queue, &wake, 1).len(), 1);
    assert_eq!(queue.link_down(&wake).len(), 2);
    assert!(queue.is_empty());

    let unlinked = Queue::default();
    let _ = unlinked.push(&bob, batch(1));
    assert_eq!(unlinked.close().len(), 1);
}

#[tokio::test]
async fn answers_to_the_router_are_counted_and_never_pause_anybody() {
    let queue = Queue::default();
    let _ = queue.push(&peer("vngtp.lab"), batch(500));
    for n in 1..=20 {
        let pushed = queue.push(&Source::Edge, batch(HIGH_WATER / 10));
        assert!(pushed.unwrap().is_none());
        assert_eq!(queue.answers(), n * (HIGH_WATER / 10));
    }
}

#[tokio::test]
async fn what_waits_moves_to_another_cluster_in_order_and_frees_its_producers() {
    let (down, other) = (Queue::default(), Queue::default());
    let wake = up(&other);
    let bob = peer("vngtp.lab");
    let mut pause = None;
    for n in 0..5 {
        pause = down.push(&bob, numbered(HIGH_WATER / 4, n)).unwrap();
    }
    assert!(down.move_to(&other).is_empty());
    pause.unwrap().over().await;
    assert!(down.is_empty());
    let order: Vec<_> = take(&other, &wake, 2 * HIGH_WATER)
        .iter()
        .map(|batch| batch.count)
        .collect();
    assert_eq!(order, [0, 1, 2, 3, 4]);
}

#[rstest]
#[case::the_others_are_as_large(4000, 4 * 1024 * 1024)]
#[case::the_others_need_some_rounds(4000, 300_000)]
#[case::the_others_send_at_once(4000, 300)]
fn a_large_batch_among_thousands_of_sources_costs_few_looks(#[case] sources: usize, #[case] size: usize) {
    let queue = Queue::default();
    let wake = up(&queue);
    let large = batch(4 * 1024 * 1024);
    let _ = queue.push(&peer("large.example"), large.clone());
    let mut other = large;
    other.bytes.truncate(size);
    for n in 0..sources {
        let _ = queue.push(&peer(&format!("s{n}.example")), other.clone());
    }
    let mut bytes = 0;
    for _ in 0..20 {
        queue.inner.lock().classes.partners.looks = 0;
        let taken = take(&queue, &wake, 256 * 1024);
        bytes += taken.iter().map(|batch| batch.bytes.len()).sum::<usize>();
        let looks = queue.inner.lock().classes.partners.looks;
        let most = taken.len() + 3 * (sources + 1);
        assert!(looks <= most, "{looks} looks for {} batches", taken.len());
    }
    assert!(bytes > 1_000_000);
}

/// A source by the book: its number, its deficit, and what waits by number and size.
type SourceTurn = (usize, usize, VecDeque<(usize, usize)>);

/// The order by the rules of deficit round robin, one quantum after the other.
fn order_by_the_book(pushed: &[(usize, usize)]) -> Vec<usize> {
    let mut turns: VecDeque<SourceTurn> = VecDeque::new();
    for (n, (source, size)) in pushed.iter().enumerate() {
        match turns.iter_mut().find(|(known, ..)| known == source) {
            Some((.., waiting)) => waiting.push_back((n, *size)),
            None => turns.push_back((*source, QUANTUM, VecDeque::from([(n, *size)]))),
        }
    }
    let mut order = Vec::new();
    while let Some((source, deficit, mut waiting)) = turns.pop_front() {
        let (n, size) = waiting[0];
        if size > deficit && !turns.is_empty() {
            turns.push_back((source, deficit + QUANTUM, waiting));
            continue;
        }
        waiting.pop_front();
        order.push(n);
        if !waiting.is_empty() {
            turns.push_front((source, deficit.saturating_sub(size), waiting));
        }
    }
    order
}

proptest! {
    #[test]
    fn rounds_that_pass_at_once_change_no_order(
        pushed in prop::collection::vec((0_usize..6, prop_oneof![1_usize..2000, 1_usize..400_000]), 1..60),
    ) {
        let queue = Queue::default();
        let wake = up(&queue);
        let bytes = Bytes::from(vec![b' '; 400_000]);
        for (n, (source, size)) in pushed.iter().enumerate() {
            let mut batch = Batch::one(bytes.slice(..*size));
            batch.count = n;
            let _ = queue.push(&peer(&format!("s{source}.example")), batch);
        }
        let taken = take(&queue, &wake, usize::MAX);
        let order: Vec<_> = taken.iter().map(|batch| batch.count).collect();
        prop_assert_eq!(order, order_by_the_book(&pushed));
    }
}
