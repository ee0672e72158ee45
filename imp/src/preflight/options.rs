//! The command line.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Parser, ValueEnum};
use xmpp_federation_core::ComponentId;
use xmpp_federation_core::fingerprint::{Fingerprint, FingerprintError};

use super::plan::{Accounts, Plan, UserPassword};
use super::{password, report::PreflightReport};
use crate::access::{Host, NodeAddress, ServerTrust};
use crate::http;
use crate::resolve::SystemResolver;

/// Environment variable with the password.
const PASSWORD: &str = "IMP_PASSWORD";
/// The same of the account for Control Center.
const CONTROL_CENTER_PASSWORD: &str = "IMP_CONTROL_CENTER_PASSWORD";

/// Looks at an IM and Presence cluster as the operator would, before anything is installed:
/// names, ports, certificates, accounts, roles, the table of component ids, services. It writes
/// nothing and restarts nothing. Exit code 0: nothing failed; 1: something did; 2: wrong use.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Options {
    /// Take publisher, nodes, ports and fingerprints from the YAML of an XmppFederation ("-": standard input).
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
    /// Which entry of its spec.imp, where there are several.
    #[arg(long, value_name = "NAME", requires = "from")]
    pub imp: Option<String>,
    /// Host name or address of the IM and Presence publisher.
    #[arg(long, value_name = "HOST")]
    pub publisher: Option<String>,
    /// Application user for AXL, and for Control Center where no other is given.
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// File with its password ("-": standard input); else the environment's `IMP_PASSWORD`, else a prompt.
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// Another application user for Control Center.
    #[arg(long, value_name = "NAME")]
    pub control_center_user: Option<String>,
    /// File with its password; else the environment's `IMP_CONTROL_CENTER_PASSWORD`, else a prompt.
    #[arg(long, value_name = "FILE", requires = "control_center_user")]
    pub control_center_password_file: Option<PathBuf>,
    /// Authorities (PEM) that issued the tomcat certificates.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["pin", "insecure_skip_verify"])]
    pub ca: Option<PathBuf>,
    /// SHA-256 fingerprint of a tomcat certificate; once per certificate.
    #[arg(long, value_name = "SHA256", conflicts_with = "insecure_skip_verify")]
    pub pin: Vec<String>,
    /// Accept any certificate.
    #[arg(long)]
    pub insecure_skip_verify: bool,
    /// Names, ports and certificates only; no account is used.
    #[arg(long, conflicts_with_all = ["user", "password_file", "control_center_user", "prove_write"])]
    pub certificates_only: bool,
    /// TCP port of AXL and Control Center [default: 8443].
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub axl_port: Option<u16>,
    /// AXL version, as 14.0, instead of trying them.
    #[arg(long, value_name = "VERSION")]
    pub axl_version: Option<String>,
    /// TCP port of the XCP routers [default: 7400].
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub router_port: Option<u16>,
    /// Address of a host whose name does not resolve, or another name of it; once per host.
    #[arg(long, value_name = "NAME=ADDRESS")]
    pub node: Vec<String>,
    /// Delete a row that does not exist, to see whether writes are taken.
    #[arg(long)]
    pub prove_write: bool,
    /// Seconds for everything.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub timeout: u64,
    /// Seconds for one call.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=20))]
    pub call_timeout: u64,
    /// How the verdicts are printed.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// Also log each call to standard error: directives as "info".
    #[arg(long, value_name = "DIRECTIVES")]
    pub log: Option<String>,
}

/// How the verdicts are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// What a resource's YAML says about a cluster; Secrets are not in it.
#[derive(Debug, Default)]
pub struct ClusterEntry {
    /// The publisher.
    pub publisher: Option<String>,
    /// Addresses of nodes.
    pub addresses: Addresses,
    /// Port of AXL.
    pub axl_port: Option<u16>,
    /// Version of AXL.
    pub axl_version: Option<String>,
    /// Port of the routers.
    pub router_port: Option<u16>,
    /// Fingerprints as they are written.
    pub pins: Vec<String>,
    /// Whether no certificate is checked.
    pub insecure: bool,
    /// The Secret with the authorities, for a message.
    pub ca_secret: Option<String>,
    /// The ids that the resource will register.
    pub component_ids: Vec<ComponentId>,
}

impl Options {
    /// The plan, with passwords read. The error is a sentence about the use of the command.
    ///
    /// `read` takes one entry, by its name, of a resource's YAML.
    pub fn plan(&self, read: impl FnOnce(&Path, Option<&str>) -> Result<ClusterEntry, String>) -> Result<Plan, String> {
        let taken = match &self.from {
            Some(path) => read(path, self.imp.as_deref())?,
            None => ClusterEntry::default(),
        };
        let publisher = self
            .publisher
            .clone()
            .or_else(|| taken.publisher.clone())
            .ok_or("give --publisher HOST, or --from FILE with a resource that names it")?
            .to_ascii_lowercase();
        plain_host(&publisher)?;
        let mut addresses = taken.addresses.clone();
        for text in &self.node {
            let (name, address) = node(text)?;
            addresses.insert(name, address);
        }
        let version = self.axl_version.as_ref().or(taken.axl_version.as_ref());
        let axl_version = version
            .map(|text| text.parse().map_err(|error| format!("AXL version: {error}")))
            .transpose()?;
        let trust = self.trust(&taken)?;
        if trust.is_none() && !self.certificates_only {
            return Err(no_trust(&taken));
        }
        Ok(Plan {
            publisher,
            port: self.axl_port.or(taken.axl_port).unwrap_or(8443),
            router_port: self.router_port.or(taken.router_port).unwrap_or(7400),
            axl_version,
            addresses,
            trust,
            logins: self.logins()?,
            component_ids: taken.component_ids,
            prove_write: self.prove_write,
            time_limit: Duration::from_secs(self.timeout),
            call_limit: Duration::from_secs(self.call_timeout),
            resolver: SystemResolver::default(),
        })
    }

    /// The verdicts as asked for.
    pub fn print(&self, report: &PreflightReport) -> String {
        match self.output {
            Output::Table => report.table(),
            Output::Json => report.json(),
        }
    }

    fn trust(&self, taken: &ClusterEntry) -> Result<Option<ServerTrust>, String> {
        let trust = if let Some(path) = &self.ca {
            ServerTrust::Ca {
                pem: read_file("--ca", path)?,
                source: format!("--ca {}", path.display()),
            }
        } else if !self.pin.is_empty() {
            ServerTrust::Pinned(pins("--pin", &self.pin)?)
        } else if self.insecure_skip_verify {
            ServerTrust::Insecure
        } else if !taken.pins.is_empty() {
            ServerTrust::Pinned(pins("tls.pinnedSha256", &taken.pins)?)
        } else if taken.insecure {
            ServerTrust::Insecure
        } else {
            return Ok(None);
        };
        http::verifier(&trust).map_err(|error| error.to_string())?;
        Ok(Some(trust))
    }

    fn logins(&self) -> Result<Option<Accounts>, String> {
        if self.certificates_only {
            return Ok(None);
        }
        let user = self
            .user
            .as_deref()
            .filter(|user| !user.is_empty())
            .ok_or("give --user NAME, the application user for AXL; or --certificates-only to look without one")?;
        let axl = UserPassword {
            username: user.to_owned(),
            password: password::read(self.password_file.as_deref(), "--password-file", PASSWORD, user)?,
        };
        let control_center = match &self.control_center_user {
            None => None,
            Some(user) => Some(UserPassword {
                username: user.clone(),
                password: password::read(
                    self.control_center_password_file.as_deref(),
                    "--control-center-password-file",
                    CONTROL_CENTER_PASSWORD,
                    user,
                )?,
            }),
        };
        let same_user = |other: &UserPassword| other.username.eq_ignore_ascii_case(&axl.username);
        let same_password = |other: &UserPassword| other.password.expose() == axl.password.expose();
        match control_center {
            Some(other) if same_user(&other) && !same_password(&other) => Err(format!(
                "{} is given twice with different passwords; one of them is wrong, and each wrong one counts towards a lock",
                axl.username
            )),
            // One account, so that its first 401 is its last.
            Some(other) if same_user(&other) => Ok(Some(Accounts {
                axl,
                control_center: None,
            })),
            control_center => Ok(Some(Accounts { axl, control_center })),
        }
    }
}

fn no_trust(taken: &ClusterEntry) -> String {
    let mut text = "choose one way to judge certificates: --ca FILE, --pin SHA256 or --insecure-skip-verify; --certificates-only shows what there is to pin".to_owned();
    if let Some(secret) = &taken.ca_secret {
        text.push_str("; the resource refers to ");
        text.push_str(secret);
        text.push_str(", whose content goes into the file for --ca");
    }
    text
}

fn read_file(option: &str, path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("{option}: {} cannot be read: {error}", path.display()))
}

fn plain_host(host: &str) -> Result<(), String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':');
    if (1..=253).contains(&host.len()) && host.bytes().all(plain) {
        Ok(())
    } else {
        Err(format!(
            "{host:?} is neither a host name nor an address; write it as cups.example.com"
        ))
    }
}

fn node(text: &str) -> Result<(String, NodeAddress), String> {
    let wrong = || format!("--node {text}: write NAME=ADDRESS, as ecup10.example.com=192.0.2.10");
    let (name, address) = text.split_once('=').ok_or_else(wrong)?;
    let host: Host = address.parse().map_err(|_| wrong())?;
    plain_host(name)?;
    Ok((name.to_ascii_lowercase(), host.into()))
}

fn pins(option: &str, texts: &[String]) -> Result<Vec<Fingerprint>, String> {
    let pin = |text: &String| {
        text.parse()
            .map_err(|error: FingerprintError| format!("{option} {error}"))
    };
    texts.iter().map(pin).collect()
}

/// Addresses by name, as both sources give them.
pub type Addresses = BTreeMap<String, NodeAddress>;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use rstest::rstest;

    const SOME: [&str; 4] = ["preflight", "--publisher", "cups.example", "--user"];

    #[rstest]
    #[case::no_publisher(&["--user", "u", "--insecure-skip-verify"], "give --publisher")]
    #[case::no_user(&["--publisher", "p", "--insecure-skip-verify"], "give --user")]
    #[case::no_trust(&["--publisher", "p", "--user", "u"], "choose one way")]
    #[case::a_pin_too_short(&["--publisher", "p", "--user", "u", "--pin", "ab"], "64 hexadecimal digits")]
    #[case::a_host_that_is_a_url(&["--publisher", "https://p/", "--user", "u"], "neither a host name")]
    #[case::a_node_without_address(&["--publisher", "p", "--user", "u", "--node", "n"], "NAME=ADDRESS")]
    #[case::a_node_with_a_port(&["--publisher", "p", "--user", "u", "--node", "n=imp1.example:8443"], "--node n=imp1.example:8443: write NAME=ADDRESS")]
    #[case::a_version(&["--publisher", "p", "--user", "u", "--axl-version", "x"], "AXL version")]
    fn wrong_use_is_named(#[case] arguments: &[&str], #[case] expected: &str) {
        let all = ["preflight"].iter().chain(arguments);
        let options = Options::try_parse_from(all).unwrap();
        let error = options.plan(|_, _| Ok(ClusterEntry::default())).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn there_is_one_way_to_judge_certificates() {
        let ways: [&[&str]; 3] = [
            &["--pin", "x", "--ca", "f"],
            &["--pin", "x", "--insecure-skip-verify"],
            &["--ca", "f", "--insecure-skip-verify"],
        ];
        for way in ways {
            let all = SOME.iter().chain(&["u"]).chain(way);
            assert!(Options::try_parse_from(all).is_err(), "{way:?}");
        }
    }

    #[test]
    fn no_password_is_taken_from_the_command_line() {
        let all = SOME.iter().chain(&["u", "--password", "x"]);
        assert!(Options::try_parse_from(all).is_err());
    }
}
