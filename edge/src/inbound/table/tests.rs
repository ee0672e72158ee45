#![allow(clippy::unwrap_used, reason = "tests")]
use super::*;
use rstest::rstest;

const PATIENCE: Duration = Duration::from_secs(30);

fn bounds(total: usize, networks: [usize; 3], partner: bool) -> ConnectionBounds {
    let limits = Limits {
        max_connections_per_address: networks[0],
        max_connections_per56: networks[1],
        max_connections_per48: networks[2],
        new_connections_per_second: Some(50),
        ..Limits::default()
    };
    ConnectionBounds::new(&limits, total, partner)
}

fn at(text: &str) -> Networks {
    Networks::of(text.parse().unwrap())
}

fn is_served(place: &Place) -> bool {
    !place.give_way.is_cancelled()
}

#[rstest]
#[case::one_address(["192.0.2.1", "192.0.2.1", "192.0.2.1"], Some(Bound::PerAddress))]
#[case::addresses(["192.0.2.1", "192.0.2.2", "192.0.2.3"], None)]
#[case::one_64(["2001:db8::1", "2001:db8::2", "2001:db8::3"], Some(Bound::PerAddress))]
#[case::one_56(["2001:db8::1", "2001:db8:0:1::1", "2001:db8:0:ff::1"], Some(Bound::Per56))]
#[case::one_48(["2001:db8::1", "2001:db8:0:100::1", "2001:db8:0:200::1"], Some(Bound::Per48))]
#[case::sites(["2001:db8::1", "2001:db8:1::1", "2001:db8:2::1"], None)]
fn each_network_has_its_bound(#[case] addresses: [&str; 3], #[case] met: Option<Bound>) {
    let table = Arc::new(Table::default());
    let bounds = bounds(100, [2, 2, 2], false);
    let admit = |address| table.admit(at(address), &bounds).unwrap();
    let [first, second, third] = addresses.map(admit);
    assert_eq!(third.gave_way.first().copied(), met);
    assert_eq!(is_served(&first.place), met.is_none());
    assert!(is_served(&second.place) && is_served(&third.place));
}

#[test]
fn a_proven_connection_never_gives_way() {
    let table = Arc::new(Table::default());
    let bounds = bounds(100, [2, 2, 2], false);
    let admit = || table.admit(at("192.0.2.1"), &bounds);
    let (first, second) = (admit().unwrap().place, admit().unwrap().place);
    first.proven(false);
    let third = admit().unwrap();
    assert_eq!(third.gave_way, [Bound::PerAddress]);
    assert!(is_served(&first) && !is_served(&second));
    third.place.proven(false);
    assert_eq!(admit().unwrap_err(), Bound::PerAddress);
    drop(first);
    assert!(admit().unwrap().gave_way.is_empty());
}

#[test]
fn strangers_leave_room_for_partners_and_give_way_to_them_first() {
    let table = Arc::new(Table::default());
    let (stranger, partner) = (bounds(16, [99; 3], false), bounds(16, [99; 3], true));
    let strangers = (0..14).map(|n| {
        let address = Networks::of(IpAddr::from([192, 0, 2, n]));
        let admitted = table.admit(address, &stranger).unwrap();
        assert!(admitted.gave_way.is_empty());
        admitted.place
    });
    let strangers: Vec<_> = strangers.collect();
    // Their part is full.
    let another = table.admit(at("198.51.100.1"), &stranger).unwrap();
    assert_eq!(another.gave_way, [Bound::Total]);
    assert!(!is_served(&strangers[0]));
    let own = || table.admit(at("203.0.113.1"), &partner).unwrap();
    let partners = [own(), own()];
    assert!(partners.iter().all(|one| one.gave_way.is_empty()));
    // All is full: a stranger's connection gives way, although a partner's is older than the next.
    let third = own();
    assert_eq!(third.gave_way, [Bound::Total]);
    assert!(!is_served(&strangers[1]) && is_served(&partners[0].place));
    // Where all strangers are proven, another one is refused and partners take turns.
    for place in strangers.iter().chain([&another.place]) {
        place.proven(false);
    }
    assert_eq!(table.admit(at("198.51.100.2"), &stranger).unwrap_err(), Bound::Total);
    assert_eq!(own().gave_way, [Bound::Total]);
    assert!(!is_served(&partners[0].place));
}

#[test]
fn a_stranger_that_proves_to_be_a_partner_leaves_the_strangers_part() {
    let table = Arc::new(Table::default());
    let stranger = bounds(8, [99; 3], false);
    let admit = || table.admit(at("192.0.2.1"), &stranger);
    let all: Vec<_> = (0..7).map(|_| admit().unwrap().place).collect();
    for place in &all {
        place.proven(false);
    }
    assert_eq!(admit().unwrap_err(), Bound::Total);
    all[0].proven(true);
    assert!(admit().is_ok());
}

#[test]
fn a_relayed_connection_counts_for_its_network_once_that_is_known() {
    let table = Arc::new(Table::default());
    let bounds = bounds(100, [1; 3], false);
    let unknown = || table.admit(Networks::default(), &bounds).unwrap().place;
    let (first, second) = (unknown(), unknown());
    assert!(first.belongs_to(at("192.0.2.1"), &bounds).unwrap().is_empty());
    assert_eq!(
        second.belongs_to(at("192.0.2.1"), &bounds).unwrap(),
        [Bound::PerAddress]
    );
    assert!(!is_served(&first) && is_served(&second));
    second.proven(false);
    let third = unknown();
    assert_eq!(
        third.belongs_to(at("192.0.2.1"), &bounds).unwrap_err(),
        Bound::PerAddress
    );
}

#[tokio::test]
async fn new_connections_of_a_network_wait_for_their_turn_and_others_do_not() {
    let table = Arc::new(Table::default());
    let bounds = bounds(10_000, [9999; 3], false);
    let now = Instant::now();
    let turn = |address: &str, now| table.turn(at(address), &bounds, PATIENCE, now);
    for _ in 0..50 {
        assert!(turn("192.0.2.1", now).unwrap().is_none());
    }
    let first = turn("192.0.2.1", now).unwrap().unwrap();
    let second = turn("192.0.2.1", now).unwrap().unwrap();
    assert_eq!(first.due - now, Duration::from_millis(20));
    assert_eq!(second.due - now, Duration::from_millis(40));
    assert!(turn("192.0.2.2", now).unwrap().is_none());
    // A second later the rate has room again.
    let later = now + Duration::from_secs(1);
    assert!(turn("192.0.2.1", later).unwrap().is_none());
    let partner = ConnectionBounds {
        partner: true,
        ..bounds
    };
    assert!(table.turn(at("192.0.2.1"), &partner, PATIENCE, now).unwrap().is_none());
}

#[tokio::test]
async fn who_would_wait_too_long_or_takes_more_than_half_of_the_room_is_refused() {
    let table = Arc::new(Table::default());
    let bounds = bounds(100, [9999; 3], false);
    let now = Instant::now();
    let turn = |address: &str, longest| table.turn(at(address), &bounds, longest, now);
    for _ in 0..50 {
        assert!(turn("192.0.2.1", PATIENCE).unwrap().is_none());
    }
    assert_eq!(turn("192.0.2.1", Duration::from_millis(10)).unwrap_err(), Bound::Rate);
    let waiting: Vec<_> = std::iter::from_fn(|| turn("192.0.2.1", PATIENCE).ok().flatten()).collect();
    assert_eq!(waiting.len(), 50, "half of the room");
    // Many networks together have their rate too.
    for n in 0..150_u8 {
        let own = Networks::of(IpAddr::from([198, 51, 100, n]));
        let _ = table.turn(own, &bounds, PATIENCE, now).unwrap();
    }
    assert!(turn("203.0.113.1", PATIENCE).unwrap().is_some(), "waits, too");
}

#[tokio::test]
async fn nothing_stays_behind() {
    let table = Arc::new(Table::default());
    let bounds = bounds(10, [2; 3], false);
    for n in 0..5000_u16 {
        let network = Networks::of(IpAddr::from([0x2001, 0xdb8, n, 0, 0, 0, 0, 1]));
        // At a time of its own, by which the rate of the one before is forgotten.
        let now = Instant::now() + Duration::from_secs(2) * u32::from(n);
        let _ = table.turn(network, &bounds, PATIENCE, now);
        let _ = table.admit(network, &bounds);
    }
    let inner = table.0.lock();
    assert_eq!((inner.open.len(), inner.unproven.len(), inner.strangers), (0, 0, 0));
    assert!(inner.networks.len() < 2048, "{}", inner.networks.len());
}
