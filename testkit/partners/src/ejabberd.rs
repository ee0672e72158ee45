//! ejabberd's configuration: JSON, which is YAML too. Every option that matters here is each host's own.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use serde_json::{Map, Value, json};

use super::config::{HostConfig, Proof, ServerConfig, Tls};
use testkit_base::Error;

/// Writes configuration and certificates; the command runs ejabberd in the foreground and makes the accounts.
pub(super) fn prepare(config: &ServerConfig) -> Result<Command, Error> {
    let dir = &config.dir;
    let file = dir.join("ejabberd.yml");
    std::fs::write(
        &file,
        serde_json::to_string_pretty(&configuration(config, &certificates(config)?))?,
    )?;
    // Erlang has a resolver of its own and looks for servers in the machine's file unless it is told.
    let resolver = dir.join("resolv.conf");
    std::fs::write(&resolver, format!("nameserver {}\n", config.dns))?;
    let inetrc = dir.join("inetrc");
    std::fs::write(
        &inetrc,
        format!("{{resolv_conf,\"{}\"}}.\n{{lookup,[file,dns]}}.\n", resolver.display()),
    )?;
    let mut command = Command::new("erl");
    command
        .env("ERL_LIBS", "/usr/lib/x86_64-linux-gnu")
        .env("EJABBERD_CONFIG_PATH", &file)
        .env("EJABBERD_LOG_PATH", config.log_file())
        .env("ERL_INETRC", &inetrc)
        .env("ERL_CRASH_DUMP_BYTES", "0")
        .env("HOME", dir)
        .args(["-noinput", "+K", "true", "+P", "250000", "-mnesia", "dir"])
        .arg(format!("\"{}\"", dir.join("mnesia").display()))
        .args(["-s", "ejabberd", "-eval"])
        .arg(registration(&config.hosts));
    Ok(command)
}

/// One file per host with certificate and key.
fn certificates(config: &ServerConfig) -> Result<Vec<String>, Error> {
    let dir = config.dir.join("certificates");
    std::fs::create_dir_all(&dir)?;
    let mut files = Vec::new();
    for (number, host) in config.hosts.iter().enumerate() {
        if let Some((certificate, key)) = &host.certificate {
            let read = |path: &Path| {
                std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
            };
            let file = dir.join(format!("{number}.pem"));
            std::fs::write(&file, format!("{}{}", read(certificate)?, read(key)?))?;
            files.push(file.display().to_string());
        }
    }
    Ok(files)
}

fn configuration(config: &ServerConfig, certificates: &[String]) -> Value {
    let addresses = config.addresses.iter();
    let listen = addresses.flat_map(|ip| {
        [
            // A backlog of 5, the default, loses connections when several servers come at once.
            json!({"port": 5269, "ip": ip, "backlog": 1024, "module": "ejabberd_s2s_in", "max_stanza_size": 524_288}),
            json!({"port": 5222, "ip": ip, "module": "ejabberd_c2s"}),
        ]
    });
    let per_host: Map<String, Value> = config
        .hosts
        .iter()
        .map(|host| (host.domain.clone(), of_host(host)))
        .collect();
    let domains: Vec<&str> = config.hosts.iter().map(|host| host.domain.as_str()).collect();
    let mut root = json!({
        "loglevel": "info",
        "hosts": domains,
        "host_config": per_host,
        "auth_method": "internal",
        "listen": listen.collect::<Vec<_>>(),
        "modules": modules(Proof::Any),
    });
    if let Some(root) = root.as_object_mut() {
        let own = |six: bool| config.addresses.iter().find(|ip| ip.is_ipv6() == six);
        let families = [("ipv6", own(true)), ("ipv4", own(false))];
        let families = families
            .iter()
            .filter_map(|(family, address)| Some((family, (*address)?)));
        for (family, address) in families.clone() {
            root.insert(format!("outgoing_s2s_{family}_address"), json!(address));
        }
        let families: Vec<_> = families.map(|(family, _)| family).collect();
        root.insert("outgoing_s2s_families".to_owned(), json!(families));
        if !certificates.is_empty() {
            root.insert("certfiles".to_owned(), json!(certificates));
        }
        if let Some(ca) = &config.ca {
            root.insert("ca_file".to_owned(), json!(ca));
        }
    }
    root
}

fn of_host(host: &HostConfig) -> Value {
    let starttls = match host.tls {
        Tls::Required => json!("required"),
        Tls::Optional => json!("optional"),
        Tls::Off => json!(false),
    };
    json!({ "s2s_use_starttls": starttls, "modules": modules(host.proof) })
}

fn modules(proof: Proof) -> Value {
    let mut modules = json!({ "mod_disco": {}, "mod_ping": {}, "mod_roster": {}, "mod_version": {} });
    if proof == Proof::Any
        && let Some(modules) = modules.as_object_mut()
    {
        modules.insert("mod_s2s_dialback".to_owned(), json!({}));
    }
    modules
}

/// Erlang that makes the accounts once ejabberd is up.
fn registration(hosts: &[HostConfig]) -> String {
    let mut erlang = String::new();
    for host in hosts {
        for (user, password) in &host.users {
            // Writing into a String does not fail.
            let _ = write!(
                erlang,
                "ejabberd_auth:try_register({}, {}, {}), ",
                binary(user),
                binary(&host.domain),
                binary(password)
            );
        }
    }
    // For whoever must not log in too early.
    erlang + "io:format(\"accounts are made~n\")."
}

/// Byte by byte: how Erlang reads a command line depends on the locale.
fn binary(text: &str) -> String {
    let bytes: Vec<String> = text.bytes().map(|byte| byte.to_string()).collect();
    format!("<<{}>>", bytes.join(","))
}
