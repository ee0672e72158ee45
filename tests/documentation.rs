//! What `docs/imp.md` shows and names exists.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeSet;

use clap::CommandFactory as _;
use serde_json::Value;
use xmpp_federation_imp::counter::Counter as _;
use xmpp_federation_imp::preflight::options::Options;
use xmpp_federation_imp::reasons::Reason as ImpReason;
use xmpp_federation_imp::records::{ActionKind, Outcome};
use xmpp_federation_operator::api::{Reason, XmppFederation, crd, later};
use xmpp_federation_operator::runtime::metrics::Metrics;

const PAGE: &str = include_str!("../docs/imp.md");

/// The cells of the rows of the table under that heading.
fn table(heading: &str) -> Vec<Vec<&'static str>> {
    let section = PAGE.split(&format!("\n## {heading}\n")).nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows: Vec<Vec<&str>> = section
        .lines()
        .filter(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    assert!(rows.len() > 3, "{heading}");
    rows[2..].to_vec()
}

/// What stands between backticks.
fn words(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

#[test]
fn the_resources_shown_are_accepted() {
    let blocks: Vec<&str> = PAGE
        .split("```yaml\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .collect();
    assert!(!blocks.is_empty());
    blocks.into_iter().for_each(assert_accepted);
}

#[test]
fn the_samples_are_accepted() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/samples");
    let samples = std::fs::read_dir(folder).unwrap();
    let mut count = 0;
    for sample in samples {
        assert_accepted(&std::fs::read_to_string(sample.unwrap().path()).unwrap());
        count += 1;
    }
    assert_eq!(count, 2);
}

fn assert_accepted(block: &str) {
    let schema = crd::definition();
    let value: serde_yaml::Value = serde_yaml::from_str(block).unwrap();
    let resource: XmppFederation =
        serde_path_to_error::deserialize(value.clone()).unwrap_or_else(|error| panic!("{error}:\n{block}"));
    assert_eq!(later::refused(&resource.spec), [""; 0], "{block}");
    assert_eq!(resource.spec.edge.unknown_fields(), [""; 0], "{block}");
    // A field that the schema does not have would be dropped without a word.
    let value: Value = serde_json::to_value(&value).unwrap();
    let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec";
    assert_known(schema.pointer(spec).unwrap(), &value["spec"], "spec");
}

fn assert_known(schema: &Value, value: &Value, path: &str) {
    match value {
        // What is passed on to Kubernetes; the resource itself tells what is unknown there.
        Value::Object(_) if schema["x-kubernetes-preserve-unknown-fields"] == true => {}
        Value::Object(fields) => {
            for (name, value) in fields {
                let known = &schema["properties"][name];
                assert!(!known.is_null(), "there is no field {path}.{name}");
                assert_known(known, value, &format!("{path}.{name}"));
            }
        }
        Value::Array(items) => {
            for item in items {
                assert_known(&schema["items"], item, &format!("{path}[]"));
            }
        }
        _ => {}
    }
}

#[test]
fn every_field_of_the_spec_is_in_the_table_of_what_it_restarts() {
    let told: BTreeSet<&str> = table("What each field restarts")
        .iter()
        .flat_map(|row| words(row[0]))
        .collect();
    let schema = crd::definition();
    let spec = schema
        .pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties")
        .unwrap();
    let mut missing = Vec::new();
    for (name, field) in spec.as_object().unwrap() {
        let (prefix, inner) = if field["items"]["properties"]["publisher"].is_null() {
            (name.clone(), &field["properties"])
        } else {
            (format!("{name}[]"), &field["items"]["properties"])
        };
        let names: Vec<String> = match inner.as_object() {
            Some(inner) => inner.keys().map(|key| format!("{prefix}.{key}")).collect(),
            None => vec![prefix],
        };
        missing.extend(names.into_iter().filter(|name| !told.contains(name.as_str())));
    }
    assert!(missing.is_empty(), "not in docs/imp.md: {missing:?}");
}

#[test]
fn every_reason_of_the_table_of_faults_is_in_the_catalogue() {
    let imp = ImpReason::ALL.iter().map(ToString::to_string);
    let known: BTreeSet<String> = Reason::ALL.iter().map(ToString::to_string).chain(imp).collect();
    let mut count = 0;
    for row in table("Faults and remedies") {
        for word in words(row[1]) {
            count += 1;
            assert!(known.contains(word), "there is no reason {word}");
        }
        assert!(!row[2].is_empty() && !row[3].is_empty(), "{row:?}");
    }
    assert!(count > 20);
}

#[test]
fn the_commands_options_and_metrics_exist() {
    let command = Options::command();
    let options: BTreeSet<String> = command
        .get_arguments()
        .filter_map(|argument| argument.get_long().map(|long| format!("--{long}")))
        .collect();
    let metrics = Metrics::new();
    // A metric shows when it has counted.
    metrics.acted(ActionKind::InsertRow, Outcome::Done);
    metrics.restarted("node", "rows");
    let metrics = metrics.encode().unwrap();
    for line in PAGE
        .lines()
        .filter(|line| line.contains("preflight") || line.contains("`--"))
    {
        for word in line.split([' ', '`', ';', ',', ')', '(']) {
            if word.starts_with("--") && word.len() > 2 {
                assert!(options.contains(word), "there is no option {word}: {line}");
            }
        }
    }
    for piece in PAGE.split("`xmpp_federation_").skip(1) {
        let name = piece.split('`').next().unwrap().trim_end_matches("_total");
        let help = format!("# HELP xmpp_federation_{name} ");
        assert!(metrics.contains(&help), "there is no metric {name}");
    }
}

#[test]
fn the_annotations_are_those_of_the_resource() {
    use xmpp_federation_operator::api::request;
    for row in table("Annotations") {
        let word = words(row[0])[0];
        let known = [
            request::REFRESH,
            request::RESTART_ROUTERS,
            request::ADOPT_ROWS,
            request::CONTINUE_UPGRADE,
            request::ABANDON_ROWS,
        ];
        assert!(known.contains(&word), "{word}");
    }
}
