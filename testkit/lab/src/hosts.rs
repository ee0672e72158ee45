//! The standard hosts of a lab, and what runs on them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use serde_json::json;

use super::Lab;
use super::network::{self, DNS_INTERNET, DNS_INTERNET6, DNS_LAN, DNS_LAN6};
use testkit_base::Error;

/// The IM&P publisher, `ecup10.coluc.com` alias `cups.ciscotac.net`.
pub const PUBLISHER: Ipv4Addr = Ipv4Addr::new(10, 244, 200, 10);
/// The IM&P subscriber, `ecup10s.coluc.com`.
pub const SUBSCRIBER: Ipv4Addr = Ipv4Addr::new(10, 244, 200, 11);
/// The partner, `xmpp.vngtp.lab`.
pub const PARTNER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 20);

/// The subscriber in a lab of both families, where it has IPv6 alone and the publisher IPv4 alone.
pub const SUBSCRIBER6: Ipv6Addr = Ipv6Addr::new(0xfd44, 0, 0, 0xc8, 0, 0, 0, 0x11);
/// The partner's second address there.
pub const PARTNER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x64, 0, 0, 0, 0, 0x20);

/// IM&P's application user.
pub const AXL_USER: &str = "axluser";
/// Its password when the lab starts.
pub const AXL_PASSWORD: &str = "axlpassword";
/// Shared secret of the XCP routers.
pub const ROUTER_SECRET: &str = "router-secret";
/// Password of bob@vngtp.lab at his own server.
const PARTNER_PASSWORD: &str = "bobpassword";

/// CA certificate of the IM&P nodes.
pub fn imp_ca(lab: &Lab) -> PathBuf {
    lab.dir().join("hosts/imp-ca.pem")
}

/// Log of the partner's XMPP server.
pub fn partner_server_log(lab: &Lab) -> PathBuf {
    lab.log("prosody")
}

/// Adds the hosts and starts what runs on them; `dual`: in a lab of both families.
pub async fn start(lab: &Lab, dual: bool) -> Result<(), Error> {
    let both = |four: &[Ipv4Addr], six: &[Ipv6Addr]| -> Vec<IpAddr> {
        let six = six.iter().filter(|_| dual).map(|six| IpAddr::from(*six));
        four.iter().map(|four| IpAddr::from(*four)).chain(six).collect()
    };
    let dns = both(&[DNS_LAN, DNS_INTERNET], &[DNS_LAN6, DNS_INTERNET6]);
    let mut partner = both(&[PARTNER], &[PARTNER6]);
    // IPv6 first.
    partner.reverse();
    let subscriber: IpAddr = if dual { SUBSCRIBER6.into() } else { SUBSCRIBER.into() };
    lab.add_host("dns", &dns).await?;
    lab.add_host("ecup10", &[PUBLISHER]).await?;
    lab.add_host("ecup10s", &[subscriber]).await?;
    lab.add_host("vngtp", &partner).await?;
    start_dns(lab, &dns, dual)?;
    start_imp(lab, subscriber)?;
    start_partner(lab, &partner)?;
    lab.wait_for_port("dns", DNS_LAN, 8080).await?;
    for node in [PUBLISHER.into(), subscriber] {
        for port in [8080, 8443, 7400] {
            lab.wait_for_port("imp", node, port).await?;
        }
    }
    lab.wait_for_port("vngtp", PARTNER, 5269).await?;
    lab.wait_for_port("bob", PARTNER, 8080).await
}

fn start_dns(lab: &Lab, addresses: &[IpAddr], dual: bool) -> Result<(), Error> {
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let control = format!("{DNS_LAN}:8080");
    let mut arguments = vec!["dns", "--control", &control];
    arguments.extend(addresses.iter().flat_map(|address| ["--bind", address]));
    arguments.extend(dual.then_some("--dual"));
    lab.spawn_testkit(Some("dns"), "dns", &arguments)?;
    Ok(())
}

/// One process for the whole cluster: it opens its sockets in the nodes' namespaces.
fn start_imp(lab: &Lab, subscriber: IpAddr) -> Result<(), Error> {
    let node = |name: &str, aliases: &[&str], host: &str, address: IpAddr| {
        json!({
            "name": name, "aliases": aliases, "address": address,
            "netns": network::namespace_file(lab.layout(), Some(host)),
            "https-port": 8443, "xcp-port": 7400, "control-port": 8080,
        })
    };
    let publisher = node("ecup10.coluc.com", &["cups.ciscotac.net"], "ecup10", PUBLISHER.into());
    let subscriber = node("ecup10s.coluc.com", &[], "ecup10s", subscriber);
    // JSON is YAML.
    let config = json!({
        "nodes": [publisher, subscriber], "router-secret": ROUTER_SECRET, "restart-s": 5, "replication-s": 1,
        "accounts": [{"username": AXL_USER, "password": AXL_PASSWORD}],
    });
    let file = lab.dir().join("hosts/imp.yaml");
    std::fs::write(&file, config.to_string())?;
    let (file, ca) = (file.display().to_string(), imp_ca(lab).display().to_string());
    let arguments = ["imp", "--config", &file, "--ca-out", &ca];
    lab.spawn_testkit(None, "imp", &arguments)?;
    Ok(())
}

fn start_partner(lab: &Lab, addresses: &[IpAddr]) -> Result<(), Error> {
    let dir = lab.dir().join("hosts/vngtp/prosody").display().to_string();
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let dns = DNS_INTERNET.to_string();
    let user = format!("bob:{PARTNER_PASSWORD}");
    let log = partner_server_log(lab).display().to_string();
    #[rustfmt::skip]
    let mut server = vec![
        "partner-server", "--dir", &dir, "--dns", &dns, "--domain", "vngtp.lab", "--user", &user, "--log", &log,
    ];
    server.extend(addresses.iter().flat_map(|address| ["--address", address]));
    lab.spawn_testkit(Some("vngtp"), "vngtp", &server)?;
    let (server, control) = (format!("{PARTNER}:5222"), format!("{PARTNER}:8080"));
    #[rustfmt::skip]
    let client = [
        "partner", "--jid", "bob@vngtp.lab", "--password", PARTNER_PASSWORD, "--server", &server, "--control", &control,
    ];
    lab.spawn_testkit(Some("vngtp"), "bob", &client)?;
    Ok(())
}
