//! DNS and partner without the product: two real servers federate by the lab's DNS, over TLS and dialback.
//!
//! Needs root and Prosody, so it runs in `make test` (with `--ignored`), not in a plain `cargo test`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::net::Ipv4Addr;

use testkit_acceptance::report::Report;
use testkit_acceptance::traffic;
use testkit_acceptance::users::User;
use testkit_base::Error;
use testkit_dns::RecordSpec;
use testkit_lab::{Lab, Options};

const DNS: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 53);
const SERVERS: [(&str, &str, &str, Ipv4Addr); 2] = [
    ("vngtp", "vngtp.lab", "bob", Ipv4Addr::new(198, 51, 100, 20)),
    ("coluc", "coluc.com", "alice", Ipv4Addr::new(198, 51, 100, 30)),
];

async fn start(lab: &Lab) -> Result<(), Error> {
    lab.add_host("dns", &[DNS]).await?;
    let (address, control) = (DNS.to_string(), format!("{DNS}:8080"));
    lab.spawn_testkit(Some("dns"), "dns", &["dns", "--bind", &address, "--control", &control])?;
    lab.wait_for_port("dns", DNS, 8080).await?;
    for (host, domain, user, address) in SERVERS {
        lab.add_host(host, &[address]).await?;
        let dir = lab.dir().join(host).display().to_string();
        let ip = address.to_string();
        let account = format!("{user}:secret");
        #[rustfmt::skip]
        lab.spawn_testkit(Some(host), host, &[
            "partner-server", "--dir", &dir, "--address", &ip, "--dns", &DNS.to_string(), "--domain", domain,
            "--user", &account,
        ])?;
        let (jid, clients, control) = (
            format!("{user}@{domain}"),
            format!("{address}:5222"),
            format!("{address}:8080"),
        );
        #[rustfmt::skip]
        lab.spawn_testkit(Some(host), user, &[
            "partner", "--jid", &jid, "--password", "secret", "--server", &clients, "--control", &control,
        ])?;
        lab.wait_for_port(host, address, 5269).await?;
        lab.wait_for_port(user, address, 8080).await?;
    }
    Ok(())
}

async fn exchange() -> Result<(), Error> {
    let http = reqwest::Client::builder().no_proxy().build()?;
    // Until now eft-xwye-a.coluc.com leads to where no server is.
    let moved = RecordSpec {
        name: "eft-xwye-a.coluc.com".into(),
        record_type: "A".into(),
        ttl: 1,
        values: vec!["198.51.100.30".into()],
    };
    let url = format!("http://{DNS}:8080/records");
    http.put(url).json(&moved).send().await?.error_for_status()?;
    let user = |(_, domain, user, address): (&str, &str, &str, Ipv4Addr)| {
        User::new(&http, &format!("http://{address}:8080"), &format!("{user}@{domain}"))
    };
    let [bob, alice] = SERVERS.map(user);
    let mut report = Report::default();
    report
        .step(1, "Two Prosody servers", &[], async |talk| {
            for user in [&alice, &bob] {
                talk.wait("the session", std::time::Duration::from_secs(20), async || {
                    user.full_jid().await
                })
                .await?;
            }
            traffic::messages(talk, &alice, &bob).await?;
            traffic::subscriptions(talk, &alice, &bob).await?;
            traffic::unharmed(talk, &alice, &bob, 50).await
        })
        .await;
    report.close()
}

#[test]
#[ignore = "needs root and Prosody: make test"]
fn two_real_servers_federate_by_the_labs_dns() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let options = Options {
            kubernetes: false,
            hosts: false,
            ..Options::named(&testkit_lab::layout::name_here("peer"))
        };
        let lab = Lab::up(&options).await.unwrap();
        let mut outcome = start(&lab).await;
        if outcome.is_ok() {
            outcome = lab.inside(exchange).await;
        }
        let log = std::fs::read_to_string(lab.dir().join("vngtp/server.log")).unwrap_or_default();
        let kept = outcome.is_err().then(|| lab.failure_logs());
        lab.down(kept.as_deref()).await.unwrap();
        outcome.unwrap();
        for words in [
            "Stream encrypted (TLSv1.3",
            "Incoming s2s connection coluc.com->vngtp.lab complete",
            "Outgoing s2s connection vngtp.lab->coluc.com complete",
        ] {
            assert!(log.contains(words), "the log has no {words:?}");
        }
    });
}
