//! The standard hosts of a lab.

use std::net::Ipv4Addr;

use super::{
    Lab,
    network::{DNS_INTERNET, DNS_LAN},
};
use crate::Error;

/// The IM&P publisher, `ecup10.coluc.com` alias `cups.ciscotac.net`.
pub const PUBLISHER: Ipv4Addr = Ipv4Addr::new(10, 244, 200, 10);
/// The IM&P subscriber, `ecup10s.coluc.com`.
pub const SUBSCRIBER: Ipv4Addr = Ipv4Addr::new(10, 244, 200, 11);
/// The partner, `xmpp.vngtp.lab`.
pub const PARTNER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 20);

/// Adds the hosts and starts what runs on them.
pub async fn start(lab: &Lab) -> Result<(), Error> {
    lab.add_host("dns", &[DNS_LAN, DNS_INTERNET]).await?;
    lab.add_host("ecup10", &[PUBLISHER]).await?;
    lab.add_host("ecup10s", &[SUBSCRIBER]).await?;
    lab.add_host("vngtp", &[PARTNER]).await?;
    Ok(())
}
