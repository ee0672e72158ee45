//! Resolving and connecting against an injected DNS and real sockets on loopback, and the real
//! DNS client against a small server.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::format_collect,
    clippy::format_push_string,
    reason = "tests"
)]

use std::collections::HashSet;
use std::sync::Mutex;

use rstest::rstest;
use tokio::net::TcpListener;

use super::*;

/// DNS by a table: `srv name. = prio weight port target`, `a name. = address`, `fail name.`.
#[derive(Default)]
struct DnsTable {
    srv: HashMap<String, Vec<SrvRecord>>,
    addresses: HashMap<String, Vec<IpAddr>>,
    broken: HashSet<String>,
    asked: Mutex<Vec<String>>,
}

impl DnsTable {
    fn read(text: &str) -> Arc<Self> {
        let mut table = Self::default();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let words: Vec<_> = line.split_whitespace().collect();
            let name = words[1].to_owned();
            match words[0] {
                "srv" => table.srv.entry(name).or_default().push(SrvRecord {
                    priority: words[3].parse().unwrap(),
                    weight: words[4].parse().unwrap(),
                    port: words[5].parse().unwrap(),
                    target: words[6].to_owned(),
                }),
                "a" => table.addresses.entry(name).or_default().push(words[3].parse().unwrap()),
                _ => {
                    table.broken.insert(name);
                }
            }
        }
        Arc::new(table)
    }

    fn answer<T: Clone>(&self, name: &str, from: &HashMap<String, Vec<T>>) -> Result<Vec<T>, LookupError> {
        assert!(name.ends_with('.'), "{name} is not absolute");
        self.asked.lock().unwrap().push(name.to_owned());
        if self.broken.contains(name) {
            return Err(LookupError(format!("SERVFAIL for {name}")));
        }
        Ok(from.get(name).cloned().unwrap_or_default())
    }
}

impl Lookup for DnsTable {
    fn srv<'a>(&'a self, name: &'a str) -> dns::LookupFuture<'a, SrvRecord> {
        Box::pin(async move { self.answer(name, &self.srv) })
    }
    fn addresses<'a>(&'a self, name: &'a str) -> dns::LookupFuture<'a, IpAddr> {
        Box::pin(async move { self.answer(name, &self.addresses) })
    }
}

/// The same, but each answer about a host's addresses takes 100 ms.
struct Slow(Arc<DnsTable>);

impl Lookup for Slow {
    fn srv<'a>(&'a self, name: &'a str) -> dns::LookupFuture<'a, SrvRecord> {
        self.0.srv(name)
    }
    fn addresses<'a>(&'a self, name: &'a str) -> dns::LookupFuture<'a, IpAddr> {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            self.0.addresses(name).await
        })
    }
}

/// Name servers that never say anything about `_xmpps-server`.
struct WithoutDirect(Arc<DnsTable>);

impl Lookup for WithoutDirect {
    fn srv<'a>(&'a self, name: &'a str) -> dns::LookupFuture<'a, SrvRecord> {
        if name.starts_with("_xmpps-server.") {
            return Box::pin(std::future::pending());
        }
        self.0.srv(name)
    }
    fn addresses<'a>(&'a self, name: &'a str) -> dns::LookupFuture<'a, IpAddr> {
        self.0.addresses(name)
    }
}

fn config(more: &str) -> EdgeConfig {
    EdgeConfig::from_yaml(&format!(
        "\
domains: [coluc.com]
dialback: {{sign: /d}}
tls: {{certificates: [{{certificateFile: /c, privateKeyFile: /k}}]}}
routers:
- name: main
  componentIds: [cm-2_s2scp-1.eft-xwye-a-coluc-com]
  secretFile: /r
  endpoints: [{{name: ecup10.coluc.com, address: '198.51.100.7:7400'}}]
{more}
"
    ))
    .unwrap()
}

const LOOPBACK: &str = "dns: {allowPrivateTargets: [127.0.0.0/8]}";

fn quick() -> AttemptBounds {
    AttemptBounds {
        attempts: 8,
        total: Duration::from_secs(5),
        each: Duration::from_secs(5),
        stagger: Duration::from_millis(20),
    }
}

fn resolver(more: &str, table: &Arc<DnsTable>) -> Resolver {
    Resolver::with_lookup(&config(more), table.clone(), Arc::default()).with_bounds(quick())
}

fn vngtp() -> Domain {
    Domain::parse("vngtp.lab").unwrap()
}

const SRV: &str = "srv _xmpp-server._tcp.vngtp.lab. =";

#[rstest]
#[case("a vngtp.lab. = 198.51.100.20", "address 198.51.100.20:5269")]
#[case("", "not-found")]
#[case("fail vngtp.lab.", "temporary")]
#[case("fail _xmpp-server._tcp.vngtp.lab.\na vngtp.lab. = 198.51.100.20", "temporary")]
#[case(
    "fail _xmpps-server._tcp.vngtp.lab.\na vngtp.lab. = 198.51.100.20",
    "address 198.51.100.20:5269"
)]
#[case(
    "{SRV} 0 0 0 .\nfail _xmpps-server._tcp.vngtp.lab.\na vngtp.lab. = 198.51.100.20",
    "temporary"
)]
#[case("{SRV} 0 0 0 .\na vngtp.lab. = 198.51.100.20", "disabled")]
#[case(
    "{SRV} 0 0 5269 x.vngtp.lab.\na x.vngtp.lab. = 198.51.100.20",
    "srv 198.51.100.20:5269"
)]
// An answer without addresses does not open the way to the domain's own.
#[case("{SRV} 0 0 5269 x.vngtp.lab.\na vngtp.lab. = 198.51.100.20", "not-found")]
#[case("{SRV} 0 0 5269 x.vngtp.lab.\nfail x.vngtp.lab.", "temporary")]
// Addresses that DNS must not lead to.
#[case("{SRV} 0 0 5269 x.vngtp.lab.\na x.vngtp.lab. = 127.0.0.1", "refused")]
#[case("{SRV} 0 0 7400 x.vngtp.lab.\na x.vngtp.lab. = 198.51.100.7", "refused")]
#[case("a vngtp.lab. = 169.254.169.254", "refused")]
#[case("a vngtp.lab. = ::1\na vngtp.lab. = 198.51.100.20", "address 198.51.100.20:5269")]
// A network without IPv4: the resolver puts the address of an IPv4 host into an IPv6 one.
#[case(
    "{SRV} 0 0 5269 x.vngtp.lab.\na x.vngtp.lab. = 64:ff9b::198.51.100.20",
    "srv [64:ff9b::c633:6414]:5269"
)]
#[case("{SRV} 0 0 80 x.vngtp.lab.\na x.vngtp.lab. = 64:ff9b::10.0.0.5", "refused")]
#[case(
    "a vngtp.lab. = 2001:db8:64::10.0.0.5\na ipv4only.arpa. = 2001:db8:64::192.0.0.170",
    "refused"
)]
#[case(
    "a vngtp.lab. = 2001:db8:64::198.51.100.20\na ipv4only.arpa. = 2001:db8:64::192.0.0.170",
    "address [2001:db8:64::c633:6414]:5269"
)]
#[case(
    "a vngtp.lab. = 2001:db8:64::10.0.0.5\nfail ipv4only.arpa.",
    "address [2001:db8:64::a00:5]:5269"
)]
// The next priority is used when the first has nothing usable.
#[case(
    "{SRV} 1 0 5269 x.vngtp.lab.\n{SRV} 2 0 5270 y.vngtp.lab.\na x.vngtp.lab. = 10.0.0.1\na y.vngtp.lab. = 198.51.100.21",
    "srv 198.51.100.21:5270"
)]
// Both services in the order of their priorities.
#[case(
    "{SRV} 2 0 5269 x.vngtp.lab.\nsrv _xmpps-server._tcp.vngtp.lab. = 1 0 5270 x.vngtp.lab.\na x.vngtp.lab. = 198.51.100.20",
    "srv 198.51.100.20:5270"
)]
#[case(
    "{SRV} 0 0 0 .\nsrv _xmpps-server._tcp.vngtp.lab. = 1 0 5270 x.vngtp.lab.\na x.vngtp.lab. = 198.51.100.20",
    "srv 198.51.100.20:5270"
)]
// Families take turns.
#[case(
    "a vngtp.lab. = 198.51.100.20\na vngtp.lab. = 198.51.100.21\na vngtp.lab. = 2001:db8::1\na vngtp.lab. = 2001:db8::2",
    "address [2001:db8::1]:5269 198.51.100.20:5269 [2001:db8::2]:5269 198.51.100.21:5269"
)]
#[tokio::test]
async fn dns_answers_decide_where_a_domain_is_reached(#[case] table: &str, #[case] expected: &str) {
    let table = DnsTable::read(&table.replace("{SRV}", SRV));
    let found = match resolver("", &table).resolve(&vngtp()).await {
        Ok(resolution) => {
            let addresses: Vec<_> = resolution.addresses().map(|a| a.to_string()).collect();
            format!("{} {}", resolution.method.as_str(), addresses.join(" "))
        }
        Err(error) => {
            assert!(error.to_string().contains("vngtp.lab"), "{error}");
            error.as_str().to_owned()
        }
    };
    assert_eq!(found, expected);
}

#[rstest]
#[case::records("{SRV} 0 0 5269 vngtp.lab.", "srv", GRACE)]
#[case::no_records("", "address", Duration::from_secs(3) / 3)]
#[tokio::test]
async fn an_unanswered_question_about_direct_tls_delays_little_and_decides_nothing(
    #[case] table: &str,
    #[case] method: &str,
    #[case] wait: Duration,
) {
    let table = DnsTable::read(&format!("{table}\na vngtp.lab. = 198.51.100.20").replace("{SRV}", SRV));
    let lookup = Arc::new(WithoutDirect(table));
    let total = Duration::from_secs(3);
    let resolver =
        Resolver::with_lookup(&config(""), lookup, Arc::default()).with_bounds(AttemptBounds { total, ..quick() });
    let found = resolver.resolve(&vngtp()).await.unwrap();
    assert_eq!(found.method.as_str(), method);
    assert!(
        found.took >= wait && found.took < wait + Duration::from_secs(1),
        "{:?}",
        found.took
    );
}

#[tokio::test]
async fn a_domain_that_rules_starttls_out_is_not_guessed_at() {
    let table = DnsTable::read(&format!("{SRV} 0 0 0 .\na vngtp.lab. = 198.51.100.20"));
    let resolver =
        Resolver::with_lookup(&config(""), Arc::new(WithoutDirect(table)), Arc::default()).with_bounds(AttemptBounds {
            total: Duration::from_millis(300),
            ..quick()
        });
    let error = resolver.resolve(&vngtp()).await.unwrap_err();
    assert_eq!(error.as_str(), "temporary", "{error}");
    assert!(error.to_string().contains("_xmpps-server._tcp.vngtp.lab."), "{error}");
}

fn routed(addresses: &[SocketAddr]) -> String {
    let hosts = addresses
        .iter()
        .map(|to| format!("{{host: '{}', port: {}}}", to.ip(), to.port()));
    let hosts = hosts.collect::<Vec<_>>().join(", ");
    format!("partners: [{{domain: vngtp.lab, route: [{hosts}]}}]")
}

#[tokio::test]
async fn a_static_route_never_asks_dns_for_the_domain_even_when_it_fails() {
    // A port that nobody listens on.
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let table = DnsTable::read("a vngtp.lab. = 198.51.100.20");
    let route = routed(&[closed]);
    let resolution = resolver(&route, &table).resolve(&vngtp()).await.unwrap();
    assert_eq!(resolution.method, Method::StaticRoute);
    let mut attempts = Attempts::new(resolution);
    let error = attempts.next().await.unwrap().unwrap_err().to_string();
    assert!(error.contains(&format!("no connection to {closed}")), "{error}");
    assert!(error.contains("refused"), "{error}");
    assert!(attempts.next().await.is_none());
    assert!(table.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_static_route_may_name_a_private_host() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let table = DnsTable::read("a inside.example. = 127.0.0.1");
    let route = format!("partners: [{{domain: vngtp.lab, route: [{{host: inside.example, port: {port}}}]}}]");
    let resolution = resolver(&route, &table).resolve(&vngtp()).await.unwrap();
    assert!(Attempts::new(resolution).next().await.unwrap().is_ok());
    assert_eq!(*table.asked.lock().unwrap(), ["inside.example."]);
}

/// A listener whose queue is full, so that the kernel does not answer further connections.
struct Mute {
    address: SocketAddr,
    _sockets: Vec<socket2::Socket>,
}

fn mute(ip: &str) -> Mute {
    let new = || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let listener = new();
    listener
        .bind(&format!("{ip}:0").parse::<SocketAddr>().unwrap().into())
        .unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let mut sockets = vec![listener];
    for _ in 0..4 {
        let socket = new();
        socket.set_nonblocking(true).unwrap();
        let _ = socket.connect(&address.into());
        sockets.push(socket);
    }
    Mute {
        address,
        _sockets: sockets,
    }
}

#[tokio::test]
async fn a_mute_address_is_overtaken_and_tried_again_after_the_winner_failed() {
    let mute = mute("127.0.0.1");
    let good = TcpListener::bind(("127.0.0.2", mute.address.port())).await.unwrap();
    let table = DnsTable::read(&format!(
        "{SRV} 0 0 {} x.vngtp.lab.\na x.vngtp.lab. = 127.0.0.1\na x.vngtp.lab. = 127.0.0.2",
        mute.address.port()
    ));
    let resolution = resolver(LOOPBACK, &table).resolve(&vngtp()).await.unwrap();
    let mut attempts = Attempts::new(resolution);
    let Connection { address, .. } = attempts.next().await.unwrap().unwrap();
    assert_eq!(address, good.local_addr().unwrap());
    // Now only the mute one is left: it is given its time, which is over soon enough.
    attempts.deadline = tokio::time::Instant::now() + Duration::from_millis(100);
    let error = attempts.next().await.unwrap().unwrap_err().to_string();
    assert!(error.contains("3 attempts"), "{error}");
    assert!(attempts.next().await.is_none());
}

#[tokio::test]
async fn the_next_address_starts_after_a_quarter_of_a_second_and_not_sooner() {
    let mute = mute("127.0.0.1");
    let port = mute.address.port();
    let good = TcpListener::bind(("127.0.0.2", port)).await.unwrap();
    let table = DnsTable::read(&format!(
        "{SRV} 0 0 {port} x.vngtp.lab.\na x.vngtp.lab. = 127.0.0.1\na x.vngtp.lab. = 127.0.0.2"
    ));
    let resolver = resolver(LOOPBACK, &table).with_bounds(AttemptBounds::default());
    let mut attempts = Attempts::new(resolver.resolve(&vngtp()).await.unwrap());
    let began = std::time::Instant::now();
    let Connection { address, .. } = attempts.next().await.unwrap().unwrap();
    let took = began.elapsed();
    assert_eq!(address, good.local_addr().unwrap());
    assert!(took >= Duration::from_millis(250), "{took:?}");
    assert!(took < Duration::from_secs(2), "{took:?}");
    // The one that was overtaken is still to come, with what is left of 8 attempts and 30 s.
    assert_eq!(attempts.started, 2);
    let left = attempts.deadline() - tokio::time::Instant::now();
    assert!(left > Duration::from_secs(25) && left <= Duration::from_secs(30));
}

#[tokio::test]
async fn a_refused_connection_starts_the_next_one_at_once() {
    let good = TcpListener::bind("127.0.0.9:0").await.unwrap();
    let port = good.local_addr().unwrap().port();
    let addresses: String = (3..=9).map(|n| format!("\na x.vngtp.lab. = 127.0.0.{n}")).collect();
    let table = DnsTable::read(&format!("{SRV} 0 0 {port} x.vngtp.lab.{addresses}"));
    let slow = AttemptBounds {
        stagger: Duration::from_mins(1),
        ..quick()
    };
    let resolution = resolver(LOOPBACK, &table)
        .with_bounds(slow)
        .resolve(&vngtp())
        .await
        .unwrap();
    let Connection { address, .. } = Attempts::new(resolution).next().await.unwrap().unwrap();
    assert_eq!(address, good.local_addr().unwrap());
}

#[tokio::test]
async fn a_hundred_records_with_twenty_addresses_each_cost_eight_attempts() {
    let closed = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let mut text = String::new();
    for n in 0..100 {
        text += &format!("{SRV} {} 0 {closed} h{n}.vngtp.lab.\n", n / 4);
        for m in 1..=20 {
            text += &format!("a h{n}.vngtp.lab. = 127.0.{n}.{m}\n");
        }
    }
    let table = DnsTable::read(&text);
    let resolution = resolver(LOOPBACK, &table).resolve(&vngtp()).await.unwrap();
    let mut attempts = Attempts::new(resolution);
    while let Some(result) = attempts.next().await {
        result.unwrap_err();
    }
    assert_eq!(attempts.started, 8);
    let asked = table.asked.lock().unwrap().len();
    assert!(asked <= 2 + 8, "{asked} look-ups");
}

#[tokio::test]
async fn each_priority_is_tried_after_the_one_before_failed() {
    let good = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let port = good.local_addr().unwrap().port();
    let table = DnsTable::read(&format!(
        "{SRV} 1 0 {closed} x.vngtp.lab.\n{SRV} 2 0 {port} x.vngtp.lab.\na x.vngtp.lab. = 127.0.0.1"
    ));
    let resolution = resolver(LOOPBACK, &table).resolve(&vngtp()).await.unwrap();
    assert_eq!(resolution.targets(), format!("x.vngtp.lab:{closed} x.vngtp.lab:{port}"));
    let mut attempts = Attempts::new(resolution);
    attempts.next().await.unwrap().unwrap_err();
    let Connection { tcp, address, .. } = attempts.next().await.unwrap().unwrap();
    assert_eq!(address.port(), port);
    assert!(tcp.nodelay().unwrap());
    let keepalive = socket2::SockRef::from(&tcp).tcp_keepalive_time().unwrap();
    assert!(keepalive <= Duration::from_mins(1));
}

#[tokio::test]
async fn a_target_with_many_addresses_leaves_attempts_to_the_others() {
    let mut text = format!("{SRV} 0 1 5269 x.vngtp.lab.\n{SRV} 0 1 5269 y.vngtp.lab.\n");
    for n in 1..=16 {
        text += &format!("a x.vngtp.lab. = 198.51.100.{n}\n");
    }
    text += "a y.vngtp.lab. = 203.0.113.1\na y.vngtp.lab. = 2001:db8::1";
    let resolver = resolver("", &DnsTable::read(&text));
    let mut first = HashSet::new();
    for _ in 0..40 {
        let resolution = resolver.resolve(&vngtp()).await.unwrap();
        let addresses: Vec<_> = resolution.addresses().map(|a| a.ip().to_string()).collect();
        assert!(addresses[..4].contains(&"203.0.113.1".to_owned()), "{addresses:?}");
        // Which target comes first is the weights' business, not the address family's.
        first.insert(addresses[0].clone());
    }
    let expected = ["198.51.100.1", "2001:db8::1"].map(str::to_owned);
    assert_eq!(first, HashSet::from(expected));
}

#[rstest]
#[case("", "srv 198.51.100.20:5270")]
#[case("partners: [{domain: vngtp.lab, tls: {mode: Disabled}}]", "srv 198.51.100.20:5269")]
#[tokio::test]
async fn direct_tls_is_no_way_to_a_domain_with_which_tls_is_disabled(#[case] partners: &str, #[case] expected: &str) {
    let table = DnsTable::read(
        "srv _xmpp-server._tcp.vngtp.lab. = 2 0 5269 x.vngtp.lab.\n\
         srv _xmpps-server._tcp.vngtp.lab. = 1 0 5270 x.vngtp.lab.\n\
         a x.vngtp.lab. = 198.51.100.20",
    );
    let config = config(partners);
    let resolver = Resolver::with_lookup(&config, table, Arc::default());
    let resolution = resolver.resolve(&vngtp()).await.unwrap();
    let addresses: Vec<_> = resolution.addresses().map(|a| a.to_string()).collect();
    assert_eq!(format!("srv {}", addresses.join(" ")), expected);
}

#[tokio::test]
async fn equal_addresses_of_a_static_route_share_the_streams() {
    let table = DnsTable::read("");
    let route =
        "partners: [{domain: vngtp.lab, route: [{host: 198.51.100.1}, {host: 198.51.100.2}, {host: '2001:db8::1'}]}]";
    let resolver = resolver(route, &table);
    let mut first = HashMap::<SocketAddr, u32>::new();
    for _ in 0..600 {
        let resolution = resolver.resolve(&vngtp()).await.unwrap();
        assert_eq!(resolution.addresses().count(), 3);
        *first.entry(resolution.addresses().next().unwrap()).or_default() += 1;
    }
    assert_eq!(first.len(), 3);
    assert!(first.values().all(|count| count.abs_diff(200) < 80), "{first:?}");
}

#[tokio::test]
async fn the_last_address_may_take_all_the_time_and_the_others_a_share() {
    let (one, two) = (
        TcpListener::bind("127.0.0.1:0").await.unwrap(),
        TcpListener::bind("127.0.0.1:0").await.unwrap(),
    );
    let route = routed(&[one.local_addr().unwrap(), two.local_addr().unwrap()]);
    let bounds = AttemptBounds {
        total: Duration::from_secs(30),
        each: Duration::from_secs(10),
        ..quick()
    };
    let resolver = resolver(&route, &DnsTable::read("")).with_bounds(bounds);
    let mut attempts = Attempts::new(resolver.resolve(&vngtp()).await.unwrap());
    attempts.next().await.unwrap().unwrap();
    assert_eq!(attempts.share(), Duration::from_secs(10));
    attempts.next().await.unwrap().unwrap();
    assert!(attempts.share() > Duration::from_secs(20));
}

#[rstest]
#[case::by_its_link(true)]
#[case::before_any_link(false)]
#[tokio::test]
async fn a_routers_address_found_by_its_name_is_closed_to_partners_dns(#[case] by_link: bool) {
    let table = DnsTable::read("a ecup10.coluc.com. = 203.0.113.77\na vngtp.lab. = 203.0.113.77");
    let mut config = config("");
    let router: HostPort = "ecup10.coluc.com:7400".parse().unwrap();
    config.routers[0].endpoints[0].address = router.clone();
    let known: Arc<RouterAddresses> = Arc::default();
    let with = |config: &EdgeConfig| Resolver::with_lookup(config, table.clone(), known.clone()).with_bounds(quick());
    let resolver = with(&config);
    assert!(resolver.resolve(&vngtp()).await.is_ok());
    if by_link {
        let addresses = resolver.router(&router).await.unwrap();
        assert_eq!(addresses, ["203.0.113.77:7400".parse().unwrap()]);
    } else {
        resolver.find_routers(&config).await;
    }
    let error = resolver.resolve(&vngtp()).await.unwrap_err();
    assert_eq!(error.as_str(), "refused", "{error}");
    // A reload that keeps the router keeps that, and one that takes it away forgets it.
    assert!(with(&config).resolve(&vngtp()).await.is_err());
    config.routers[0].endpoints.clear();
    assert!(with(&config).resolve(&vngtp()).await.is_ok());
}

mod real_dns {
    use std::net::Ipv4Addr;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use hickory_resolver::proto::op::{Message, MessageType, ResponseCode};
    use hickory_resolver::proto::rr::rdata::{A, CNAME, SRV, TXT};
    use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UdpSocket;

    use super::*;

    /// What the server says to a question; `None` is silence.
    fn reply(query: &[u8], over_tcp: bool) -> Option<Vec<u8>> {
        let request = Message::from_vec(query).unwrap();
        let question = request.queries[0].clone();
        let name = question.name().to_ascii().to_ascii_lowercase();
        let mut response = Message::response(request.id, request.op_code);
        response.metadata.message_type = MessageType::Response;
        response.metadata.recursion_available = true;
        response.add_query(question.clone());
        let mut add = |owner: &str, data: RData| {
            response.add_answer(Record::from_rdata(Name::from_ascii(owner).unwrap(), 60, data));
        };
        let srv = |target: &str| RData::SRV(SRV::new(1, 2, 5269, Name::from_ascii(target).unwrap()));
        let address = RData::A(A(Ipv4Addr::new(198, 51, 100, 20)));
        match (name.as_str(), question.query_type()) {
            ("good.example.", RecordType::SRV) => add("good.example.", srv("x.good.example.")),
            ("dot.example.", RecordType::SRV) => add("dot.example.", srv(".")),
            ("good.example.", RecordType::A) => add("good.example.", address),
            ("alias.example.", RecordType::A) => {
                let target = Name::from_ascii("good.example.").unwrap();
                add("alias.example.", RData::CNAME(CNAME(target)));
                add("good.example.", address);
            }
            ("long.example.", RecordType::SRV) if over_tcp => {
                add("long.example.", srv("x.long.example."));
            }
            ("long.example.", RecordType::SRV) => response.metadata.truncation = true,
            (large, RecordType::SRV) if large.ends_with("large.example.") => {
                if over_tcp {
                    for n in 0..900 {
                        add(large, srv(&format!("{n}.of.{large}")));
                    }
                } else {
                    response.metadata.truncation = true;
                }
            }
            ("nodata.example." | "good.example." | "alias.example.", _) => {}
            ("text.example.", _) => {
                add("text.example.", RData::TXT(TXT::new(vec!["not asked for".to_owned()])));
            }
            ("servfail.example.", _) => response.metadata.response_code = ResponseCode::ServFail,
            ("refused.example.", _) => response.metadata.response_code = ResponseCode::Refused,
            ("mute.example.", _) => return None,
            _ => response.metadata.response_code = ResponseCode::NXDomain,
        }
        Some(response.to_vec().unwrap())
    }

    async fn server() -> Dns {
        counting_server(64 * 1024).await.0
    }

    /// DNS that remembers so many bytes, and how many questions came over UDP.
    async fn counting_server(cached: usize) -> (Dns, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = asked.clone();
        // A port that is free for UDP may be taken for TCP.
        let (udp, tcp, address) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let address = udp.local_addr().unwrap();
            if let Ok(tcp) = TcpListener::bind(address).await {
                break (udp, tcp, address);
            }
        };
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok((length, peer)) = udp.recv_from(&mut buffer).await {
                counted.fetch_add(1, Ordering::Relaxed);
                if let Some(answer) = reply(&buffer[..length], false) {
                    udp.send_to(&answer, peer).await.unwrap();
                }
            }
        });
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = tcp.accept().await {
                let length = usize::from(stream.read_u16().await.unwrap());
                let mut query = vec![0; length];
                stream.read_exact(&mut query).await.unwrap();
                if let Some(answer) = reply(&query, true) {
                    stream.write_u16(u16::try_from(answer.len()).unwrap()).await.unwrap();
                    stream.write_all(&answer).await.unwrap();
                }
            }
        });
        (Dns::caching(&[address], cached), asked)
    }

    #[tokio::test]
    async fn answers_and_the_absence_of_records_are_remembered_for_their_time() {
        let (dns, asked) = counting_server(64 * 1024).await;
        for _ in 0..3 {
            assert_eq!(dns.srv("good.example.").await.unwrap().len(), 1);
            assert_eq!(dns.srv("Good.Example.").await.unwrap().len(), 1);
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        // Without a SOA record nobody says for how long there is none (RFC 2308 section 5).
        for _ in 0..2 {
            assert!(dns.srv("absent.example.").await.unwrap().is_empty());
        }
        assert_eq!(asked.load(Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn large_answers_of_many_names_take_no_more_memory_than_the_bound() {
        let (dns, asked) = counting_server(64 * 1024).await;
        for n in 0..40 {
            let records = dns.srv(&format!("d{n}.large.example.")).await.unwrap();
            assert_eq!(records.len(), 64);
        }
        let cached = dns.cached();
        assert!(cached > 0 && cached <= 64 * 1024, "{cached} bytes");
        assert_eq!(asked.load(Ordering::Relaxed), 40);
    }

    #[rstest]
    #[case("good.example.", "x.good.example.:5269")]
    #[case("dot.example.", ".:5269")]
    #[case("long.example.", "x.long.example.:5269")]
    #[case("nodata.example.", "")]
    #[case("absent.example.", "")]
    #[case("text.example.", "")]
    #[case("servfail.example.", "failed")]
    #[case("refused.example.", "failed")]
    #[tokio::test]
    async fn srv_answers_are_records_absence_or_failure(#[case] name: &str, #[case] expected: &str) {
        let found = match server().await.srv(name).await {
            Ok(records) => records
                .iter()
                .map(|r| format!("{}:{}", r.target, r.port))
                .collect::<Vec<_>>()
                .join(" "),
            Err(error) => {
                assert!(error.to_string().contains(name), "{error}");
                "failed".to_owned()
            }
        };
        assert_eq!(found, expected);
    }

    #[rstest]
    #[case("good.example.", "198.51.100.20")]
    #[case("alias.example.", "198.51.100.20")]
    #[case("nodata.example.", "")]
    #[case("absent.example.", "")]
    #[case("servfail.example.", "failed")]
    #[tokio::test]
    async fn address_answers_are_addresses_absence_or_failure(#[case] name: &str, #[case] expected: &str) {
        let found = match server().await.addresses(name).await {
            Ok(addresses) => addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
            Err(_) => "failed".to_owned(),
        };
        assert_eq!(found, expected);
    }

    #[tokio::test]
    async fn silence_is_a_failure_and_not_absence() {
        let error = server().await.srv("mute.example.").await.unwrap_err().to_string();
        assert!(error.contains("SRV mute.example."), "{error}");
    }

    #[tokio::test]
    async fn nobody_listening_is_a_failure_and_not_absence() {
        let closed = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        assert!(Dns::new(&[closed]).srv("good.example.").await.is_err());
    }
}

#[tokio::test]
async fn many_priorities_of_slow_names_take_no_longer_than_the_time_of_all_attempts() {
    let records: String = (0..64).map(|n| format!("{SRV} {n} 0 5269 h{n}.vngtp.lab.\n")).collect();
    let table = DnsTable::read(&records);
    let total = Duration::from_millis(350);
    let resolver = Resolver::with_lookup(&config(""), Arc::new(Slow(table.clone())), Arc::default())
        .with_bounds(AttemptBounds { total, ..quick() });
    let error = resolver.resolve(&vngtp()).await.unwrap_err();
    assert_eq!(error.as_str(), "temporary", "{error}");
    // Two questions about the services, then a host every 100 ms.
    let asked = table.asked.lock().unwrap().len();
    assert!(asked <= 2 + 3, "{asked} questions");
}
