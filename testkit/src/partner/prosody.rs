//! Prosody's configuration: TLS required between servers, dialback decides who they are.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use super::server::{ServerArgs, certificate};
use crate::Error;

/// Writes configuration, accounts and certificate; the command runs Prosody in the foreground.
pub(super) fn prepare(args: &ServerArgs) -> Result<Command, Error> {
    let (certificate, key) = certificate(&args.dir, &args.domain)?;
    let file = args.dir.join("prosody.cfg.lua");
    std::fs::write(&file, configuration(args, &certificate, &key))?;
    for (user, password) in &args.users {
        register(&args.dir, &args.domain, user, password)?;
    }
    // A socket left behind keeps a new process from listening.
    let _ = std::fs::remove_file(args.dir.join("prosody.sock"));
    let mut command = Command::new("lua5.4");
    command
        .args(["/usr/bin/prosody", "-F", "--config"])
        .arg(&file);
    Ok(command)
}

fn configuration(args: &ServerArgs, certificate: &Path, key: &Path) -> String {
    let ServerArgs {
        dir,
        address,
        dns,
        domain,
        ca,
        log,
        ..
    } = args;
    let text = |value: &dyn std::fmt::Display| lua_string(&value.to_string());
    let path = |path: &Path| lua_string(&path.display().to_string());
    let ca = ca.as_deref().unwrap_or(certificate);
    let mut lua = String::new();
    let mut line = |line: std::fmt::Arguments<'_>| {
        // Writing into a String does not fail.
        let _ = writeln!(lua, "{line}");
    };
    line(format_args!(
        "run_as_root = true -- the lab's hosts are namespaces, not machines"
    ));
    line(format_args!("pidfile = {}", path(&dir.join("prosody.pid"))));
    line(format_args!("data_path = {}", path(&dir.join("data"))));
    line(format_args!(
        "admin_socket = {}",
        path(&dir.join("prosody.sock"))
    ));
    line(format_args!(
        "log = {{ {{ levels = {{ min = \"debug\" }}, to = \"file\", filename = {}, timestamps = \"%Y-%m-%dT%H:%M:%S\" }} }}",
        path(&log.clone().unwrap_or_else(|| dir.join("server.log")))
    ));
    line(format_args!("interfaces = {{ {} }}", text(address)));
    line(format_args!("local_interfaces = {{ {} }}", text(address)));
    line(format_args!("use_ipv6 = false"));
    line(format_args!(
        "unbound = {{ resolvconf = false; hoststxt = false; forward = {}; options = {{ [\"do-not-query-localhost:\"] = \"no\"; [\"outgoing-interface:\"] = {}; [\"cache-max-ttl:\"] = \"5\"; [\"cache-max-negative-ttl:\"] = \"5\"; [\"infra-host-ttl:\"] = \"5\" }} }}",
        text(dns),
        text(address)
    ));
    line(format_args!(
        "modules_enabled = {{ \"roster\", \"dialback\", \"saslauth\", \"tls\", \"disco\", \"ping\", \"version\", \"admin_shell\", \"admin_socket\" }}"
    ));
    // Without the offline store, who is not there is an error to the sender: nothing waits unseen.
    line(format_args!(
        "modules_disabled = {{ \"offline\", \"s2s_bidi\" }}"
    ));
    line(format_args!("s2s_require_encryption = true"));
    line(format_args!("s2s_secure_auth = false"));
    line(format_args!(
        "c2s_require_encryption = false -- the client stands beside its server"
    ));
    line(format_args!("authentication = \"internal_plain\""));
    line(format_args!("storage = \"internal\""));
    line(format_args!(
        "ssl = {{ key = {}; certificate = {}; cafile = {}; capath = \"/nonexistent\" }}",
        path(key),
        path(certificate),
        path(ca)
    ));
    line(format_args!("VirtualHost {}", text(domain)));
    lua
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
