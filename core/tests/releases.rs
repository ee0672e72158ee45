//! An operator and an edge of different releases, by the files and answers of each release in `fixtures`.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rstest::rstest;
use serde_yaml::Value;
use xmpp_federation_core::Release;
use xmpp_federation_core::edge_config::features::{self, Bearing, FIELDS};
use xmpp_federation_core::edge_config::{ConfigError, ConfigRead, Doors, EdgeConfig, Head, ReadError, Reader};
use xmpp_federation_core::edge_status::{
    EdgeStatus, LastUp, LinkState, LinkStatus, MemoryBounds, PartnerFailure, RefusalCounts, RejectedConfig,
    ReturnedStanzas, RouterAnnouncement, Sighting, StateWord, StreamCounts, SuspectCounts,
};

/// The release whose fields need no feature.
const BASE: &str = "0.1.0";

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn fixture(release: &str, file: &str) -> String {
    let path = fixtures().join(release).join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| {
        panic!(
            "{}: {error}; copy the folder of the release before, and add what is new",
            path.display()
        )
    })
}

/// The releases so far.
fn releases() -> Vec<String> {
    let folders = std::fs::read_dir(fixtures()).unwrap();
    let names = folders.map(|folder| folder.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.parse::<Release>().is_ok()).collect()
}

fn reader(release: &str) -> Reader {
    Reader {
        release: release.parse().unwrap(),
        ..Reader::own()
    }
}

/// The paths of all values in a file, with `[]` behind a list of objects.
fn paths(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    let list = value.as_sequence().filter(|list| list.iter().any(Value::is_mapping));
    if let Some(list) = list {
        for entry in list {
            paths(entry, &format!("{path}[]"), found);
        }
    } else if let Some(fields) = value.as_mapping() {
        for (name, value) in fields {
            let name = name.as_str().unwrap();
            let path = if path.is_empty() {
                name.to_owned()
            } else {
                format!("{path}.{name}")
            };
            paths(value, &path, found);
        }
    } else {
        found.insert(path.to_owned());
    }
}

fn paths_of(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    paths(&serde_yaml::from_str(text).unwrap(), "", &mut found);
    found
}

/// The paths of all values that a file may have, by the schema of its types.
#[cfg(feature = "schemars")]
fn schema_paths() -> BTreeSet<String> {
    use serde_json::Value;

    fn walk(schema: &Value, root: &Value, path: &str, found: &mut BTreeSet<String>) {
        let name = schema.get("$ref").and_then(Value::as_str);
        let target = name.map(|name| root.pointer(name.trim_start_matches('#')).unwrap());
        let schema = target.unwrap_or(schema);
        if let Some(either) = schema.get("anyOf") {
            walk(&either[0], root, path, found);
        } else if let Some(fields) = schema.get("properties").and_then(Value::as_object) {
            for (name, schema) in fields {
                let path = if path.is_empty() {
                    name.clone()
                } else {
                    format!("{path}.{name}")
                };
                walk(schema, root, &path, found);
            }
        } else if let Some(entries) = schema.get("items").filter(|entries| entries.get("$ref").is_some()) {
            walk(entries, root, &format!("{path}[]"), found);
        } else {
            found.insert(path.trim_end_matches("[]").to_owned());
        }
    }

    let schema = schemars::schema_for!(EdgeConfig);
    let mut found = BTreeSet::new();
    walk(schema.as_value(), schema.as_value(), "", &mut found);
    found
}

/// What is wrong with a table of fields.
fn problems(table: &[(&str, Bearing)], fields: &BTreeSet<String>, base: &BTreeSet<String>) -> Vec<String> {
    let listed = |path: &str| table.iter().filter(|(listed, _)| *listed == path).count();
    let missing = fields.iter().filter(|path| listed(path) != 1);
    let missing = missing.map(|path| format!("{path}: list it once, with its feature if it restricts something"));
    let unknown = table.iter().filter(|(path, _)| !fields.contains(*path));
    let unknown = unknown.map(|(path, _)| format!("{path}: there is no such field"));
    let wrong = table.iter().filter_map(|(path, bearing)| match bearing {
        Bearing::Base if !base.contains(*path) => Some(format!("{path}: edges of {BASE} ignore it, name a feature")),
        Bearing::Feature("") | Bearing::Free("") => Some(format!("{path}: an empty word")),
        Bearing::Feature(_) if base.contains(*path) => Some(format!("{path}: edges of {BASE} know it")),
        _ => None,
    });
    missing.chain(unknown).chain(wrong).collect()
}

#[cfg(feature = "schemars")]
#[test]
fn each_field_that_restricts_has_a_feature_or_is_of_the_first_release() {
    let (mut fields, base) = (schema_paths(), paths_of(&fixture(BASE, "edge.yaml")));
    assert_eq!(problems(FIELDS, &fields, &base), [""; 0]);

    // A new field fails until it is listed, and the first release cannot be claimed to know it.
    fields.insert("partners[].quarantine".to_owned());
    assert_eq!(problems(FIELDS, &fields, &base).len(), 1);
    let with = |bearing| [FIELDS, &[("partners[].quarantine", bearing)]].concat();
    assert_eq!(problems(&with(Bearing::Base), &fields, &base).len(), 1);
    assert_eq!(problems(&with(Bearing::Feature("")), &fields, &base).len(), 1);
    assert_eq!(problems(&with(Bearing::Free("")), &fields, &base).len(), 1);
    assert_eq!(
        problems(&with(Bearing::Feature("partner-quarantine")), &fields, &base),
        [""; 0]
    );
}

#[cfg(feature = "schemars")]
#[test]
fn the_file_of_this_release_has_every_field() {
    let own = Release::own().to_string();
    assert_eq!(paths_of(&fixture(&own, "edge.yaml")), schema_paths());
}

#[test]
fn a_feature_is_required_where_its_field_is_written_and_nowhere_else() {
    let table = &[
        ("domains", Bearing::Base),
        ("partners[].quarantine", Bearing::Feature("partner-quarantine")),
        ("tls.posture.level", Bearing::Feature("posture")),
        ("tls.posture.since", Bearing::Feature("posture")),
        ("greeting", Bearing::Free("it is a text")),
    ];
    let used = |text: &str| features::used(table, &serde_yaml::from_str(text).unwrap());
    assert_eq!(features::names(table), ["partner-quarantine", "posture"]);
    assert_eq!(
        used("{domains: [a.example], greeting: hello, partners: [{domain: b.example}]}"),
        [""; 0]
    );
    assert_eq!(
        used("partners: [{domain: b.example}, {domain: c.example, quarantine: true}]"),
        ["partner-quarantine"]
    );
    assert_eq!(used("tls: {posture: {level: 3, since: 2026}}"), ["posture"]);

    // What restricts nothing is not written.
    let written = EdgeConfig::from_yaml(&fixture(BASE, "edge.yaml")).unwrap().signed();
    assert_eq!(written.written_by, Some(Release::own()));
    assert_eq!(written.requires, [""; 0], "the first release knows all of it");
}

#[test]
fn the_files_of_all_releases_are_read() {
    for release in releases() {
        let read = EdgeConfig::from_yaml(&fixture(&release, "edge.yaml"));
        assert!(read.is_ok(), "{release}: {}", read.unwrap_err());
    }
}

#[test]
fn an_older_edge_reads_the_file_of_this_release() {
    let own = fixture(&Release::own().to_string(), "edge.yaml");
    let config = EdgeConfig::from_yaml(&own).unwrap();
    let written = config.signed().to_yaml();
    let expected = EdgeConfig::from_yaml(&written).unwrap();
    let read = EdgeConfig::read(&format!("{written}greeting: hello\n"), &reader("0.0.9")).unwrap();
    assert_eq!(read.config, expected);
    assert_eq!(read.ignored, ["greeting"]);
}

#[test]
fn fields_of_a_later_release_are_ignored_and_named() {
    let text = fixture("later", "edge.yaml");
    let ConfigRead { config, ignored } = EdgeConfig::read(&text, &Reader::own()).unwrap();
    assert_eq!(
        ignored,
        [
            "greeting",
            "listen.websocket",
            "tls.certificates[0].comment",
            "tls.clientCertificate.comment",
            "partners[1].contact",
            "routers[0].endpoints[0].weight",
        ]
    );
    assert_eq!(config.written_by.unwrap().to_string(), "99.0.0");
    assert_eq!(config.partners.len(), 2);
    assert_eq!(config.routers[0].endpoints[0].address.to_string(), "10.244.200.10:7400");
    // A check stays strict.
    let strict = EdgeConfig::from_yaml(&text).unwrap_err().to_string();
    assert!(strict.contains("line 3: unknown field `greeting`"), "{strict}");
}

#[rstest]
#[case::by_hand("")]
#[case::same(&format!("writtenBy: {}\n", Release::own()))]
#[case::older("writtenBy: 0.0.9\n")]
fn in_any_other_file_an_unknown_field_is_an_error(#[case] writer: &str) {
    let text = fixture("later", "edge.yaml").replace("writtenBy: 99.0.0\n", writer);
    match EdgeConfig::read(&text, &Reader::own()) {
        Err(ReadError::Invalid(error)) => {
            assert!(error.to_string().contains("unknown field `greeting`"), "{error}");
        }
        other => panic!("{other:?}"),
    }
}

fn later(text: &str, reader: &Reader) -> ConfigError {
    match EdgeConfig::read(text, reader) {
        Err(ReadError::Later(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[rstest]
#[case::later("writtenBy: 99.0.0\n", "the operator 99.0.0 wrote the file with partner-quarantine")]
#[case::same("writtenBy: 0.1.0\n", "the operator 0.1.0 wrote the file with partner-quarantine")]
#[case::by_hand("", "does not know partner-quarantine and would not enforce it; correct the name")]
fn a_file_with_an_unknown_restriction_is_refused_with_both_versions(#[case] writer: &str, #[case] says: &str) {
    let text = fixture("later", "edge-restricted.yaml").replace("writtenBy: 99.0.0\n", writer);
    let own = Reader::own();
    let error = later(&text, &own).to_string();
    assert!(error.contains("requires: "), "{error}");
    assert!(error.contains(says), "{error}");
    assert!(error.contains(&format!("this edge {}", own.release)), "{error}");
    assert_eq!(
        EdgeConfig::from_yaml(&text).unwrap_err().to_string(),
        error,
        "a check says the same"
    );
    if writer.contains("99.0.0") {
        assert!(error.contains("line 3: requires"), "{error}");
        assert!(
            error.contains("set the edge's image (spec.edge.image) to that version"),
            "{error}"
        );
        assert!(error.contains("wait until the roll-out replaces this pod"), "{error}");
    }
}

#[rstest]
#[case::restrictions_as_maps("requires: [{name: posture}]\nwrittenBy: 99.0.0\n", "requires")]
#[case::one_restriction("requires: posture\n", "requires")]
#[case::another_spelling_of_a_version("writtenBy: v0.2.0\n", "writtenBy")]
#[case::another_shape_of_a_version("writtenBy: {operator: 0.2.0}\n", "writtenBy")]
#[case::restrictions_by_name("requires: {posture: 2}\nwrittenBy: 99.0.0\n", "requires")]
fn a_file_whose_writer_or_restrictions_cannot_be_read_waits_for_a_later_edge(#[case] head: &str, #[case] field: &str) {
    let text = fixture(BASE, "edge.yaml");
    let start = text.find("\ndomains:").unwrap();
    let error = later(&format!("{head}{}", &text[start..]), &Reader::own()).to_string();
    let says = format!("{field}: this edge {} cannot read it", Release::own());
    assert!(error.contains(&says), "{error}");
    assert!(error.contains("set the edge's image (spec.edge.image)"), "{error}");
}

#[test]
fn a_part_of_another_shape_hides_no_other_part() {
    let text = fixture("later", "edge.yaml").replace(
        "  websocket:",
        "  admin: {port: 8080}\n  control: /run/control.sock\n  websocket:",
    );
    let error = later(&text, &Reader::own()).to_string();
    assert!(error.contains("99.0.0 is later than this edge"), "{error}");
    let head = Head::of(&text).unwrap();
    assert_eq!(head.written_by.unwrap().to_string(), "99.0.0");
    assert_eq!(head.listen.admin, Doors::default().admin);
    assert_eq!(head.listen.control, Some(PathBuf::from("/run/control.sock")));
}

#[test]
fn an_edge_that_knows_the_restriction_reads_the_file() {
    let text = fixture("later", "edge-restricted.yaml");
    let knows = Reader {
        features: vec!["partner-quarantine"],
        ..Reader::own()
    };
    assert_eq!(
        EdgeConfig::read(&text, &knows).unwrap().ignored,
        ["partners[0].quarantine"]
    );
}

#[rstest]
#[case::word(
    "{mode: Required}",
    "{mode: Posture}",
    "line 20: partners[0].tls.mode: unknown variant `Posture`"
)]
#[case::spelling(
    "domain: vngtp.lab",
    "domain: '~.vngtp.lab'",
    "line 19: partners[0]: \"~.vngtp.lab\" is not a domain name"
)]
#[case::rule(
    "domain: vngtp.lab",
    "domain: coluc.com",
    "line 19: partners[0].domain: coluc.com is hosted here"
)]
#[case::shape(
    "domains: [coluc.com]",
    "domains: {coluc.com: {}}",
    "line 4: domains: invalid type: map"
)]
#[case::missing(
    "  secretFile: /etc/xmpp-federation/edge/router-main\n",
    "",
    "line 24: routers[0]: missing field `secretFile`"
)]
fn a_value_that_an_older_edge_does_not_understand_waits_for_a_later_one(
    #[case] from: &str,
    #[case] to: &str,
    #[case] says: &str,
) {
    let text = fixture("later", "edge.yaml").replacen(from, to, 1);
    let error = later(&text, &Reader::own()).to_string();
    assert!(error.contains(says), "{error}");
    assert!(
        error.contains("line 2: writtenBy: 99.0.0 is later than this edge"),
        "{error}"
    );
}

/// Every field of a status.
fn status() -> EdgeStatus {
    let announced = RouterAnnouncement {
        gateway: true,
        local_hosts: 2,
        at: "2026-11-30T16:00:00Z".to_owned(),
    };
    let counts = |word: &str, count| [(word.to_owned(), count)].into_iter().collect();
    EdgeStatus {
        version: Some(Release::own().to_string()),
        written_by: Some(Release::own().to_string()),
        ignored_fields: vec!["partners[0].contact".to_owned()],
        config_hash: "ab".repeat(32),
        rejected: Some(RejectedConfig {
            config_hash: "cd".repeat(32),
            reason: "line 3: tls.mode: …".to_owned(),
        }),
        certificate_sha256: Some("ef".repeat(32)),
        dialback_secrets: vec!["0123456789abcdef".to_owned()],
        draining: false,
        links: vec![LinkStatus {
            router: "main".to_owned(),
            node: "ecup10.coluc.com".to_owned(),
            address: "10.244.200.10:7400".to_owned(),
            component_id: "cm-2_s2scp-1.eft-xwye-a-coluc-com".parse().unwrap(),
            state: LinkState::NotGateway.into(),
            since: "2026-11-30T16:00:00Z".to_owned(),
            reason: Some("the XCP router …".to_owned()),
            last_up: Some(LastUp {
                from: "2026-11-30T15:00:00Z".to_owned(),
                until: "2026-11-30T16:00:00Z".to_owned(),
            }),
            returned: Some(ReturnedStanzas {
                since: "2026-11-30T16:00:00Z".to_owned(),
                sent: 9,
                returned: 9,
                condition: "remote-server-not-found".to_owned(),
                everything: true,
            }),
            open_seconds: Some(77),
            announced: Some(announced.clone()),
            sightings: vec![Sighting {
                component_id: "cm-2_s2scp-1.eft-xwye-a-1-coluc-com".parse().unwrap(),
                announced,
            }],
        }],
        failing_partners: vec![PartnerFailure {
            domain: "vngtp.lab".parse().unwrap(),
            local: Some("coluc.com".parse().unwrap()),
            reason: "no answer".to_owned(),
            since: "2026-11-30T16:00:00Z".to_owned(),
        }],
        streams: StreamCounts {
            inbound: 1,
            outbound: 2,
        },
        suspects: SuspectCounts {
            suspected: 3,
            refused: 4,
        },
        refused: RefusalCounts {
            connections: counts("total", 5),
            unproven_connections: counts("time", 6),
            peers: counts("policy", 7),
            log_lines: counts("rate", 8),
        },
        memory: Some(MemoryBounds {
            limit_bytes: 536_870_912,
            limit_from: "/sys/fs/cgroup/memory.max".to_owned(),
            sum_bytes: 300_000_000,
            parts: counts("connections", 52_428_800),
            connections: 2184,
            routes: 1024,
            verifications: 262,
        }),
    }
}

#[test]
fn the_status_of_every_release_is_read() {
    for release in releases() {
        let read = serde_json::from_str::<EdgeStatus>(&fixture(&release, "status.json"));
        assert!(read.is_ok(), "{release}: {}", read.unwrap_err());
    }
    let own: EdgeStatus = serde_json::from_str(&fixture(&Release::own().to_string(), "status.json")).unwrap();
    assert_eq!(own, status(), "the fixture of this release has every field");
}

#[test]
fn an_older_operator_finds_in_the_status_of_this_release_all_that_it_knows() {
    let own = paths_of(&serde_json::to_string(&status()).unwrap());
    for release in releases() {
        let gone: Vec<_> = paths_of(&fixture(&release, "status.json"))
            .difference(&own)
            .cloned()
            .collect();
        assert_eq!(gone, [""; 0], "{release}");
    }
}

#[test]
fn the_status_of_a_later_edge_is_read_and_its_words_are_kept() {
    let status: EdgeStatus = serde_json::from_str(&fixture("later", "status.json")).unwrap();
    assert_eq!(status.version.as_deref(), Some("99.0.0"));
    let words: Vec<_> = status.links.iter().map(|link| link.state.to_string()).collect();
    assert_eq!(words, ["Up", "Hibernating"]);
    assert_eq!(status.links[0].state, LinkState::Up);
    assert_eq!(status.links[1].state, StateWord::Later("Hibernating".to_owned()));
    assert_eq!(status.links[1].reason.as_deref(), Some("the node sleeps"));
    assert_eq!(status.refused.peers["posture"], 3);
}

#[test]
fn names_that_only_a_later_edge_spells_so_are_kept_as_they_are() {
    let text = fixture("later", "status.json").replace("vngtp.lab", "*.vngtp.lab");
    let text = text.replacen("cm-2_s2scp-1.eft", "CM-2/S2S:eft", 1);
    let status: EdgeStatus = serde_json::from_str(&text).unwrap();
    assert_eq!(status.failing_partners[0].domain, "*.vngtp.lab");
    let ids: Vec<_> = status.links.iter().map(|link| link.component_id.as_str()).collect();
    assert_eq!(
        ids,
        ["CM-2/S2S:eft-xwye-a-coluc-com", "cm-2_s2scp-1.eft-xwye-a-coluc-com"]
    );
}
