//! The standard hosts of a lab, and what runs on them.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde_json::json;

use super::Lab;
use super::network::{self, DNS_INTERNET, DNS_LAN};
use testkit_base::Error;

/// The IM&P publisher, `ecup10.coluc.com` alias `cups.ciscotac.net`.
pub const PUBLISHER: Ipv4Addr = Ipv4Addr::new(10, 244, 200, 10);
/// The IM&P subscriber, `ecup10s.coluc.com`.
pub const SUBSCRIBER: Ipv4Addr = Ipv4Addr::new(10, 244, 200, 11);
/// The partner, `xmpp.vngtp.lab`.
pub const PARTNER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 20);

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

/// Adds the hosts and starts what runs on them.
pub async fn start(lab: &Lab) -> Result<(), Error> {
    lab.add_host("dns", &[DNS_LAN, DNS_INTERNET]).await?;
    lab.add_host("ecup10", &[PUBLISHER]).await?;
    lab.add_host("ecup10s", &[SUBSCRIBER]).await?;
    lab.add_host("vngtp", &[PARTNER]).await?;
    start_dns(lab)?;
    start_imp(lab)?;
    start_partner(lab)?;
    lab.wait_for_port("dns", DNS_LAN, 8080).await?;
    for node in [PUBLISHER, SUBSCRIBER] {
        for port in [8080, 8443, 7400] {
            lab.wait_for_port("imp", node, port).await?;
        }
    }
    lab.wait_for_port("vngtp", PARTNER, 5269).await?;
    lab.wait_for_port("bob", PARTNER, 8080).await
}

fn start_dns(lab: &Lab) -> Result<(), Error> {
    let (lan, internet) = (DNS_LAN.to_string(), DNS_INTERNET.to_string());
    let control = format!("{DNS_LAN}:8080");
    let arguments = ["dns", "--bind", &lan, "--bind", &internet, "--control", &control];
    lab.spawn_testkit(Some("dns"), "dns", &arguments)?;
    Ok(())
}

/// One process for the whole cluster: it opens its sockets in the nodes' namespaces.
fn start_imp(lab: &Lab) -> Result<(), Error> {
    let node = |name: &str, aliases: &[&str], host: &str, address: Ipv4Addr| {
        json!({
            "name": name, "aliases": aliases, "address": address,
            "netns": network::namespace_file(lab.layout(), Some(host)),
            "https-port": 8443, "xcp-port": 7400, "control-port": 8080,
        })
    };
    let publisher = node("ecup10.coluc.com", &["cups.ciscotac.net"], "ecup10", PUBLISHER);
    let subscriber = node("ecup10s.coluc.com", &[], "ecup10s", SUBSCRIBER);
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

fn start_partner(lab: &Lab) -> Result<(), Error> {
    let dir = lab.dir().join("hosts/vngtp/prosody").display().to_string();
    let (address, dns) = (PARTNER.to_string(), DNS_INTERNET.to_string());
    let user = format!("bob:{PARTNER_PASSWORD}");
    let log = partner_server_log(lab).display().to_string();
    #[rustfmt::skip]
    let server = [
        "partner-server", "--dir", &dir, "--address", &address, "--dns", &dns, "--domain", "vngtp.lab", "--user", &user,
        "--log", &log,
    ];
    lab.spawn_testkit(Some("vngtp"), "vngtp", &server)?;
    let (server, control) = (format!("{PARTNER}:5222"), format!("{PARTNER}:8080"));
    #[rustfmt::skip]
    let client = [
        "partner", "--jid", "bob@vngtp.lab", "--password", PARTNER_PASSWORD, "--server", &server, "--control", &control,
    ];
    lab.spawn_testkit(Some("vngtp"), "bob", &client)?;
    Ok(())
}
