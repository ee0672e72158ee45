#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use rstest::rstest;

use super::{LabDns, RecordSpec, Zones};

async fn lab() -> LabDns {
    LabDns::start(&["127.0.0.1:0".parse().unwrap()], Zones::lab().unwrap())
        .await
        .unwrap()
}

fn resolver(server: SocketAddr) -> TokioResolver {
    let mut connection = ConnectionConfig::udp();
    connection.port = server.port();
    let server = NameServerConfig::new(server.ip(), true, vec![connection]);
    let mut options = ResolverOpts::default();
    options.timeout = Duration::from_millis(300);
    options.attempts = 1;
    options.cache_size = 0;
    TokioResolver::builder_with_config(
        ResolverConfig::from_parts(None, vec![], vec![server]),
        TokioRuntimeProvider::default(),
    )
    .with_options(options)
    .build()
    .unwrap()
}

async fn values(resolver: &TokioResolver, name: &str, kind: RecordType) -> Vec<String> {
    let answer = resolver.lookup(name, kind).await.unwrap();
    answer.answers().iter().map(|record| record.data.to_string()).collect()
}

/// Response code and the owner of the SOA that came with a negative answer.
async fn refusal(resolver: &TokioResolver, name: &str, kind: RecordType) -> (ResponseCode, Option<String>) {
    match resolver.lookup(name, kind).await {
        Err(NetError::Dns(DnsError::NoRecordsFound(no))) => {
            (no.response_code, no.soa.as_ref().map(|soa| soa.name.to_string()))
        }
        Err(NetError::Dns(DnsError::ResponseCode(code))) => (code, None),
        other => panic!("{name} {kind}: {other:?}"),
    }
}

#[rstest]
#[case("_xmpp-server._tcp.coluc.com.", RecordType::SRV, "10 0 5269 eft-xwye-a.coluc.com.")]
#[case(
    "_xmpp-server._tcp.conf.coluc.com.",
    RecordType::SRV,
    "10 0 5269 eft-xwye-a.coluc.com."
)]
#[case("_xmpp-server._tcp.vngtp.lab.", RecordType::SRV, "0 0 5269 xmpp.vngtp.lab.")]
#[case("CUPS.ciscotac.net.", RecordType::A, "10.244.200.10")]
#[case("ecup10s.coluc.com.", RecordType::A, "10.244.200.11")]
#[case("vngtp.lab.", RecordType::NS, "ns1.vngtp.lab.")]
#[tokio::test]
async fn the_lab_answers_its_records(#[case] name: &str, #[case] kind: RecordType, #[case] value: &str) {
    let dns = lab().await;
    assert_eq!(values(&resolver(dns.addresses()[0]), name, kind).await, [value]);
}

#[rstest]
#[case("nobody.coluc.com.", RecordType::A, ResponseCode::NXDomain, "coluc.com.")]
#[case("ecup10.coluc.com.", RecordType::AAAA, ResponseCode::NoError, "coluc.com.")]
#[case("_tcp.vngtp.lab.", RecordType::A, ResponseCode::NoError, "vngtp.lab.")]
#[case("example.org.", RecordType::A, ResponseCode::NXDomain, ".")]
#[tokio::test]
async fn what_is_missing_is_said_with_the_zones_soa(
    #[case] name: &str,
    #[case] kind: RecordType,
    #[case] code: ResponseCode,
    #[case] soa: &str,
) {
    let dns = lab().await;
    let resolver = resolver(dns.addresses()[0]);
    assert_eq!(refusal(&resolver, name, kind).await, (code, Some(soa.to_owned())));
}

#[tokio::test]
async fn a_changed_record_and_an_alias_are_answered_at_once() {
    let dns = lab().await;
    let resolver = resolver(dns.addresses()[0]);
    let handle = dns.handle();
    let record = |name: &str, kind: &str, value: &str| RecordSpec {
        name: name.into(),
        record_type: kind.into(),
        ttl: 1,
        values: vec![value.into()],
    };
    handle
        .set(&record("eft-xwye-a.coluc.com", "A", "203.0.113.11"))
        .unwrap();
    handle.set(&record("www.coluc.com", "CNAME", "xmpp.vngtp.lab")).unwrap();
    assert_eq!(
        values(&resolver, "eft-xwye-a.coluc.com.", RecordType::A).await,
        ["203.0.113.11"]
    );
    assert_eq!(
        values(&resolver, "www.coluc.com.", RecordType::A).await,
        ["xmpp.vngtp.lab.", "198.51.100.20"]
    );
    let mut none = record("www.coluc.com", "cname", "");
    none.values.clear();
    handle.set(&none).unwrap();
    assert_eq!(
        refusal(&resolver, "www.coluc.com.", RecordType::A).await.0,
        ResponseCode::NXDomain
    );
    let outside = handle.set(&record("example.org", "A", "192.0.2.1"));
    assert!(outside.unwrap_err().to_string().contains("none of the zones"));
}

#[tokio::test]
async fn queries_are_remembered_with_their_answers() {
    let dns = lab().await;
    let resolver = resolver(dns.addresses()[0]);
    values(&resolver, "ecup10.coluc.com.", RecordType::A).await;
    refusal(&resolver, "nobody.coluc.com.", RecordType::A).await;
    let queries = dns.handle().queries(0).into_iter();
    let seen: Vec<_> = queries.map(|query| (query.name, query.answer)).collect();
    let expected = [("ecup10.coluc.com.", "NoError"), ("nobody.coluc.com.", "NXDomain")];
    assert_eq!(
        seen,
        expected.map(|(name, answer)| (name.to_owned(), answer.to_owned()))
    );
}

#[tokio::test]
async fn the_control_changes_a_record_over_http() {
    let dns = lab().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let serving = tokio::spawn(axum::serve(listener, super::control::router(dns.handle())).into_future());
    let client = reqwest::Client::new();
    let put = client
        .put(format!("{base}/records"))
        .json(&serde_json::json!({"name": "new.coluc.com", "type": "A", "ttl": 1, "values": ["192.0.2.7"]}))
        .send()
        .await
        .unwrap();
    assert!(put.status().is_success());
    assert_eq!(
        values(&resolver(dns.addresses()[0]), "new.coluc.com.", RecordType::A).await,
        ["192.0.2.7"]
    );
    let zone: Vec<RecordSpec> = client
        .get(format!("{base}/zones/coluc.com"))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert!(zone.iter().any(|record| record.name == "new.coluc.com."));
    let unknown = client.get(format!("{base}/zones/example.org")).send().await.unwrap();
    assert_eq!(unknown.status(), 404);
    serving.abort();
}
