//! What `docs/edge.md` shows works as it is shown.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use xmpp_federation_core::edge_config::FINISH_AT_MOST;

use crate::support::Folder;

const PAGE: &str = include_str!("../../../../docs/edge.md");
const UNIT: &str = include_str!("../../../../deploy/systemd/xmpp-federation-edge.service");

#[test]
fn the_worked_example_is_good_without_a_warning() {
    let example = PAGE.split("```yaml\n").nth(1).unwrap();
    let example = example.split("```").next().unwrap();
    let folder = Folder::new();
    let here = folder.path("").display().to_string();
    let here = here.trim_end_matches('/');
    let yaml = example
        .replace("/etc/xmpp-federation/edge", here)
        .replace("/run/xmpp-federation-edge", here);
    let names = vec!["coluc.com".to_owned(), "conf.coluc.com".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    for (name, text) in [
        ("edge.yaml", yaml.as_str()),
        ("tls.crt", &made.cert.pem()),
        ("tls.key", &made.signing_key.serialize_pem()),
        // As `openssl rand -hex 32` writes it.
        ("dialback", &format!("{}\n", "0123456789abcdef".repeat(4))),
        ("router", "router-secret\n"),
    ] {
        folder.write(name, text);
    }
    let checked = Command::new(env!("CARGO_BIN_EXE_xmpp-federation-edge"))
        .arg("--check")
        .arg("--config")
        .arg(folder.path("edge.yaml"))
        .output()
        .unwrap();
    assert_eq!(checked.status.code(), Some(0), "{checked:?}");
    assert_eq!(String::from_utf8_lossy(&checked.stderr), "", "{checked:?}");
}

#[test]
fn every_metric_of_the_page_exists() {
    use xmpp_federation_edge::observe::metrics::described::METRICS;
    for piece in PAGE.split("xmpp_edge_").skip(1) {
        let end = piece.find(|c: char| !c.is_ascii_lowercase() && c != '_');
        let name = piece.get(..end.unwrap()).unwrap();
        let name = name.strip_suffix("_total").unwrap_or(name);
        assert!(
            METRICS.iter().any(|metric| metric.name == name),
            "there is no metric xmpp_edge_{name}"
        );
    }
}

#[test]
fn every_topic_of_the_log_is_on_the_page() {
    for (topic, _) in xmpp_federation_edge::logging::TOPICS {
        assert!(PAGE.contains(&format!("`{topic}`")), "{topic}");
    }
}

#[test]
fn every_command_of_the_page_is_understood() {
    let tables = PAGE.lines().filter(|line| line.starts_with("| `ctl "));
    let mut count = 0;
    for line in tables {
        let command = line.split('`').nth(1).unwrap();
        let words = command.split([' ', '[']).take(2);
        let words: Vec<_> = words.collect();
        let helped = Command::new(env!("CARGO_BIN_EXE_xmpp-federation-edge"))
            .args(&words)
            .arg("--help")
            .output()
            .unwrap();
        assert!(helped.status.success(), "{words:?}: {helped:?}");
        count += 1;
    }
    assert_eq!(count, 7);
}

/// systemd's own check, where there is one.
#[test]
fn the_unit_is_understood_by_systemd() {
    let value = |name: &str| {
        let lines = UNIT.lines().filter_map(|line| line.split_once('='));
        let mut values = lines.filter(|(found, _)| *found == name).map(|(_, v)| v);
        values.next().unwrap_or_else(|| panic!("no {name}"))
    };
    assert_eq!(value("Type"), "exec");
    assert!(PAGE.contains(value("Environment").split('=').nth(1).unwrap()));
    let runtime = format!("/run/{}/control.sock", value("RuntimeDirectory"));
    assert!(PAGE.contains(&runtime), "{runtime}");
    // Where the unit hides the machine's memory, its own limit is what bounds follow from.
    assert_eq!(value("ProcSubset"), "pid");
    assert_eq!(value("MemoryMax"), "50%");
    let stop = Duration::from_secs(value("TimeoutStopSec").parse().unwrap());
    let drain_delay = Duration::from_secs(30);
    assert!(stop > drain_delay + FINISH_AT_MOST, "{stop:?}");
    if !Path::new("/usr/bin/systemd-analyze").exists() {
        println!("systemd-analyze is not installed; its check of the unit is left out");
        return;
    }
    let folder = Folder::new();
    // The account and the program are not installed where tests run.
    let unit = UNIT
        .replace("/usr/local/bin/xmpp-federation-edge", "/bin/true")
        .replace("=xmpp-federation-edge\nGroup", "=root\nGroup")
        .replace("Group=xmpp-federation-edge", "Group=root");
    let path = folder.write("xmpp-federation-edge.service", &unit);
    let verified = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .arg(&path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&verified.stderr).into_owned();
    let about_us: Vec<_> = said
        .lines()
        .filter(|line| line.contains("xmpp-federation-edge.service"))
        .collect();
    assert!(about_us.is_empty(), "{said}");
}
