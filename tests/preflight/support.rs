//! A simulated cluster at the standard ports of its own loopback addresses, and the command line.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use clap::Parser as _;
use testkit_simulator::{Call, ImpConfig, SimulatedImp};
use xmpp_federation_imp::preflight::options::Options;
use xmpp_federation_imp::preflight::report::{Check, CheckResult, CheckRow, PreflightReport};
use xmpp_federation_imp::preflight::run;
use xmpp_federation_operator::runtime::preflight_file;

pub const PUBLISHER: &str = "ecup10.coluc.com";
pub const SUBSCRIBER: &str = "ecup10s.coluc.com";
pub const PASSWORD: &str = "axlpassword";

/// An address of 127/8 that nobody else in this run has, so that standard ports are free.
pub fn address() -> IpAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let process = std::process::id();
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let byte = |value: u32| u8::try_from(value & 0xff).unwrap();
    // 127.0 and 127.255 are left to others.
    let second = 1 + byte(process >> 8) % 254;
    IpAddr::V4(Ipv4Addr::new(127, second, byte(process), 1 + byte(number)))
}

/// A folder that goes with the test.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new() -> Self {
        let path = std::env::temp_dir().join(format!("preflight-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// One cluster, and an administrator who looks at it.
pub struct Bench {
    pub sim: SimulatedImp,
    pub folder: Folder,
    /// Name and address of each node, publisher first.
    pub nodes: Vec<(String, IpAddr)>,
    /// The command line without the way to judge certificates.
    pub arguments: Vec<String>,
    ca: String,
}

impl Bench {
    pub async fn start(mut config: ImpConfig) -> Self {
        for node in &mut config.nodes {
            node.address = address();
            (node.https_port, node.xcp_port) = (8443, 7400);
        }
        let nodes: Vec<_> = config
            .nodes
            .iter()
            .map(|node| (node.name.clone(), node.address))
            .collect();
        let sim = SimulatedImp::start(config).await.unwrap();
        let folder = Folder::new();
        let ca = folder.file("ca.pem", sim.ca_pem());
        let password = folder.file("password", &format!("{PASSWORD}\n"));
        let mut arguments: Vec<String> = ["--publisher", PUBLISHER, "--user", "axluser"].map(String::from).into();
        arguments.extend(["--password-file".into(), password]);
        for (name, address) in &nodes {
            arguments.extend(["--node".into(), format!("{name}={address}")]);
        }
        Self {
            sim,
            folder,
            nodes,
            arguments,
            ca,
        }
    }

    /// The command line with the right authority.
    pub fn with_ca(&self) -> Vec<String> {
        let mut all = self.arguments.clone();
        all.extend(["--ca".into(), self.ca.clone()]);
        all
    }

    /// Looks, with more arguments.
    pub async fn look(&self, more: &[&str]) -> PreflightReport {
        let mut all = self.with_ca();
        all.extend(more.iter().map(ToString::to_string));
        look(&all).await
    }

    /// What the cluster was asked, logins or not.
    pub fn calls(&self) -> Vec<Call> {
        self.sim.calls(0)
    }

    /// The calls with an account.
    pub fn logins(&self) -> Vec<Call> {
        let mut calls = self.calls();
        calls.retain(|call| call.auth != "none");
        calls
    }

    /// That nothing was written and nothing was restarted.
    pub fn assert_untouched(&self) {
        let acts: Vec<_> = self
            .calls()
            .into_iter()
            .filter(|call| ["executeSQLUpdate", "soapDoControlServices"].contains(&call.operation.as_str()))
            .collect();
        assert!(acts.is_empty(), "{acts:#?}");
    }
}

/// Looks as the command line says.
pub async fn look(arguments: &[String]) -> PreflightReport {
    let all = std::iter::once("preflight".to_owned()).chain(arguments.iter().cloned());
    let plan = Options::try_parse_from(all)
        .unwrap()
        .plan(preflight_file::read)
        .unwrap();
    run(&plan).await
}

/// The rows of a check at a host.
pub fn rows<'a>(report: &'a PreflightReport, check: Check, host: &str) -> Vec<&'a CheckRow> {
    let same = |row: &&CheckRow| row.check == check && row.subject == host;
    report.rows.iter().filter(same).collect()
}

/// The one row of a check at a host.
#[track_caller]
pub fn row<'a>(report: &'a PreflightReport, check: Check, host: &str) -> &'a CheckRow {
    let rows = rows(report, check, host);
    assert_eq!(rows.len(), 1, "{check:?} at {host}:\n{}", report.table());
    rows[0]
}

/// That a check came out so, with these words in what was found or in the remedy.
#[track_caller]
pub fn expect(report: &PreflightReport, check: Check, host: &str, verdict: CheckResult, words: &[&str]) {
    let row = row(report, check, host);
    assert_eq!(row.verdict, verdict, "{row:#?}");
    let text = format!("{} {}", row.found, row.remedy);
    for word in words {
        assert!(text.contains(word), "{word:?} is not in {row:#?}");
    }
}

/// That these failed, and nothing else did.
#[track_caller]
pub fn expect_failures(report: &PreflightReport, expected: &[(Check, &str)]) {
    let failed: Vec<_> = report
        .rows
        .iter()
        .filter(|row| row.verdict == CheckResult::Failed)
        .map(|row| (row.check, row.subject.as_str()))
        .collect();
    assert_eq!(failed, expected, "{}", report.table());
    assert_eq!(report.failed(), !expected.is_empty());
}
