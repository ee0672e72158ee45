//! A network of the benchmark's own: a namespace whose loopback interface has the addresses of everybody.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::process::Command;

use testkit_base::Error;

/// Set in the process that runs in the namespace.
const INSIDE: &str = "TESTKIT_BENCH_INSIDE";

/// Starts this command anew in its own network and mount namespace, unless it is there already.
pub fn enter() -> Result<(), Error> {
    if std::env::var_os(INSIDE).is_some() {
        return Ok(());
    }
    let error = Command::new("unshare")
        .args(["--net", "--mount", "--propagation", "slave", "sh", "-ec"])
        .arg("ip link set lo up; ip address add 198.51.100.1/24 dev lo; exec \"$0\" \"$@\"")
        .arg(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .exec();
    Err(format!("cannot enter a network namespace (this needs root): {error}").into())
}

/// Chains that one run can start: two for each server, and one more after each failure.
pub const PLACES: u8 = 40;

/// The resolver that everybody asks.
pub const DNS: IpAddr = address(53);

const fn address(host: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, host))
}

/// Where one server under test and its peer live.
#[derive(Debug, Clone)]
pub struct Place {
    /// The server's address.
    pub server: IpAddr,
    /// The peer's address.
    pub peer: IpAddr,
    /// The address of the router that an edge connects to.
    pub router: SocketAddr,
    /// The hosted domain.
    pub hosted: String,
    /// The zone of the peer's domains.
    pub zone: String,
}

impl Place {
    /// The n-th place, counted from 0 to [`PLACES`].
    pub fn new(n: u8) -> Self {
        Self {
            server: address(100 + n),
            peer: address(150 + n),
            router: SocketAddr::new(address(200 + n), 7400),
            hosted: format!("bench.a{n}.lab"),
            zone: format!("peer{n}.lab"),
        }
    }
}
