//! Prosody's configuration.
//!
//! Prosody decides once for the whole process whether a stream between servers must be encrypted and whether only a
//! certificate counts (`mod_s2s` reads both options globally); switching TLS off, and certificates, are each host's own.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

use super::config::{HostConfig, Proof, ServerConfig, Tls};
use testkit_base::Error;

/// Writes configuration and accounts; the command runs Prosody in the foreground.
pub(super) fn prepare(config: &ServerConfig) -> Result<Command, Error> {
    let file = config.dir.join("prosody.cfg.lua");
    std::fs::write(&file, configuration(config)?)?;
    for host in &config.hosts {
        for (user, password) in &host.users {
            register(&config.dir, &host.domain, user, password)?;
        }
    }
    // A socket left behind keeps a new process from listening.
    let _ = std::fs::remove_file(config.dir.join("prosody.sock"));
    let mut command = Command::new("lua5.4");
    command.args(["/usr/bin/prosody", "-F", "--config"]).arg(&file);
    Ok(command)
}

/// What all hosts must agree on.
fn common<T: Copy + PartialEq>(config: &ServerConfig, what: &str, of: impl Fn(&HostConfig) -> T) -> Result<T, Error> {
    let mut values = config.hosts.iter().map(of);
    let first = values.next().ok_or("a Prosody without virtual hosts is not started")?;
    if values.all(|value| value == first) {
        return Ok(first);
    }
    Err(format!("Prosody decides for all its hosts at once {what}: start a second process for the others").into())
}

fn configuration(config: &ServerConfig) -> Result<String, Error> {
    let required = common(config, "whether TLS is required", |host| host.tls == Tls::Required)?;
    let proof = common(config, "whether dialback counts", |host| host.proof)?;
    let ServerConfig {
        dir, addresses, dns, ..
    } = config;
    let text = |value: &dyn std::fmt::Display| lua_string(&value.to_string());
    // What is connected to; Prosody of Debian 12 takes IPv4 whenever it has it.
    let first = addresses.first().map(IpAddr::is_ipv6);
    // libunbound asks from the address of the resolver's family.
    let source = addresses.iter().find(|address| address.is_ipv4() == dns.is_ipv4());
    let each: Vec<String> = addresses.iter().map(|address| text(address)).collect();
    let path = |path: &Path| lua_string(&path.display().to_string());
    let dialback = match proof {
        Proof::Any => "\"dialback\", ",
        Proof::Certificate => "",
    };
    let mut lua = format!(
        "run_as_root = true -- the lab's hosts are namespaces, not machines
pidfile = {pidfile}
data_path = {data}
admin_socket = {socket}
log = {{ {{ levels = {{ min = \"debug\" }}, to = \"file\", filename = {log}, timestamps = \"%Y-%m-%dT%H:%M:%S\" }} }}
interfaces = {{ {ip} }}
local_interfaces = {{ {ip} }}
use_ipv6 = {six}
use_ipv4 = {four}
unbound = {{ resolvconf = false; hoststxt = false; forward = {dns}; options = {{ [\"do-not-query-localhost:\"] = \"no\"; {sources}[\"cache-max-ttl:\"] = \"5\"; [\"cache-max-negative-ttl:\"] = \"5\"; [\"infra-host-ttl:\"] = \"5\" }} }}
modules_enabled = {{ \"roster\", {dialback}\"saslauth\", \"tls\", \"disco\", \"ping\", \"version\", \"admin_shell\", \"admin_socket\" }}
-- Without the offline store, who is not there is an error to the sender: nothing waits unseen.
modules_disabled = {{ \"offline\", \"s2s_bidi\" }}
s2s_require_encryption = {required}
s2s_secure_auth = {secure}
c2s_require_encryption = false -- the client stands beside its server
authentication = \"internal_plain\"
storage = \"internal\"
certificates = {certificates} -- none are found by name: each host says its own
",
        pidfile = path(&dir.join("prosody.pid")),
        data = path(&dir.join("data")),
        socket = path(&dir.join("prosody.sock")),
        log = path(&config.log_file()),
        ip = each.join(", "),
        six = first == Some(true),
        four = first != Some(true),
        dns = text(dns),
        sources = source.map(|ip| format!("[\"outgoing-interface:\"] = {}; ", text(ip))).unwrap_or_default(),
        secure = proof == Proof::Certificate,
        certificates = path(&dir.join("no-certificates")),
    );
    std::fs::create_dir_all(dir.join("no-certificates"))?;
    let mut line = |line: std::fmt::Arguments<'_>| {
        // Writing into a String does not fail.
        let _ = writeln!(lua, "{line}");
    };
    let authorities = match &config.ca {
        Some(ca) => format!("cafile = {}; ", path(ca)),
        None => String::new(),
    };
    let authorities = format!("{authorities}capath = \"/nonexistent\"");
    line(format_args!("ssl = {{ {authorities} }}"));
    for host in &config.hosts {
        line(format_args!("VirtualHost {}", text(&host.domain)));
        if let Some((certificate, key)) = &host.certificate {
            line(format_args!(
                "  ssl = {{ key = {}; certificate = {}; {authorities} }}",
                path(key),
                path(certificate)
            ));
        }
        if host.tls == Tls::Off {
            line(format_args!("  s2s_allow_encryption = false"));
        }
    }
    Ok(lua)
}

/// Puts an account where Prosody's internal storage looks for it.
fn register(dir: &Path, domain: &str, user: &str, password: &str) -> Result<(), Error> {
    let accounts = dir.join("data").join(encoded(domain)).join("accounts");
    std::fs::create_dir_all(&accounts)?;
    std::fs::write(
        accounts.join(format!("{}.dat", encoded(user))),
        format!("return {{ [\"password\"] = {}; }};\n", lua_string(password)),
    )?;
    Ok(())
}

/// The storage's file names: everything but letters and digits as %xx.
fn encoded(name: &str) -> String {
    name.bytes().fold(String::new(), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02x}");
        }
        encoded
    })
}

fn lua_string(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::config::Kind;

    fn config(hosts: &[(&str, Tls, Proof)]) -> ServerConfig {
        let dir = std::env::temp_dir().join(format!("prosody-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir_all(&dir).unwrap();
        ServerConfig {
            kind: Kind::Prosody,
            dir,
            addresses: vec![[198, 51, 100, 20].into()],
            dns: [198, 51, 100, 53].into(),
            log: None,
            ca: None,
            hosts: hosts
                .iter()
                .map(|(domain, tls, proof)| HostConfig {
                    domain: (*domain).to_owned(),
                    tls: *tls,
                    proof: *proof,
                    certificate: None,
                    users: Vec::new(),
                })
                .collect(),
        }
    }

    #[test]
    fn hosts_that_prosody_cannot_treat_differently_are_refused_together() {
        let mixed = config(&[
            ("a.lab", Tls::Required, Proof::Any),
            ("b.lab", Tls::Optional, Proof::Any),
        ]);
        let error = configuration(&mixed).unwrap_err().to_string();
        assert!(error.contains("whether TLS is required"), "{error}");
        std::fs::remove_dir_all(&mixed.dir).unwrap();
    }

    #[rstest::rstest]
    #[case::four("198.51.100.20", "use_ipv6 = false\nuse_ipv4 = true", "{ \"198.51.100.20\" }")]
    #[case::both(
        "2001:db8::20 198.51.100.20",
        "use_ipv6 = true\nuse_ipv4 = false",
        "{ \"2001:db8::20\", \"198.51.100.20\" }"
    )]
    fn the_first_address_decides_the_family_of_outgoing_streams(
        #[case] addresses: &str,
        #[case] families: &str,
        #[case] listens: &str,
    ) {
        let mut dual = config(&[("a.lab", Tls::Required, Proof::Any)]);
        dual.addresses = addresses.split(' ').map(|text| text.parse().unwrap()).collect();
        let lua = configuration(&dual).unwrap();
        assert!(
            lua.contains(families) && lua.contains(&format!("interfaces = {listens}")),
            "{lua}"
        );
        assert!(lua.contains("[\"outgoing-interface:\"] = \"198.51.100.20\""), "{lua}");
        std::fs::remove_dir_all(&dual.dir).unwrap();
    }

    #[test]
    fn only_a_certificate_counting_means_no_dialback() {
        let strict = config(&[("a.lab", Tls::Required, Proof::Certificate)]);
        let lua = configuration(&strict).unwrap();
        assert!(
            lua.contains("s2s_secure_auth = true") && !lua.contains("\"dialback\""),
            "{lua}"
        );
        std::fs::remove_dir_all(&strict.dir).unwrap();
    }
}
