//! `docs/reference/edge-config.md` is generated from the configuration's types: names, kinds and
//! meanings from their source, defaults from the values themselves. This test fails when the file
//! is out of date; with `UPDATE_REFERENCE=1` it writes the file instead.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use xmpp_federation_core::edge_config::EdgeConfig;

const TYPES: &str = include_str!("../src/edge_config/types.rs");

/// The smallest useful configuration; it is the example in the reference, too.
const EXAMPLE: &str = "\
domains: [coluc.com]
dialback:
  sign: /etc/edge/dialback            # a random secret, the same at every replica
tls:
  certificates:
  - certificateFile: /etc/edge/tls.crt
    privateKeyFile: /etc/edge/tls.key
privacy:
  mode: AllowList
  domains: [vngtp.lab]
routers:
- name: main
  componentIds: [cm-2_s2scp-1.eft-xwye-a-coluc-com]
  secretFile: /etc/edge/router
  endpoints:
  - {name: ecup10.coluc.com, address: 'ecup10.coluc.com:7400'}
";

struct Field {
    name: String,
    kind: String,
    meaning: String,
    /// Whether leaving it out is an error.
    required: bool,
}

enum Shape {
    Fields(Vec<Field>),
    Values(Vec<(String, String)>),
}

struct Type {
    meaning: String,
    shape: Shape,
}

fn camel_case(name: &str) -> String {
    let mut words = name.split('_');
    let mut text = words.next().unwrap().to_owned();
    for word in words {
        text.push_str(&word[..1].to_uppercase());
        text.push_str(&word[1..]);
    }
    text
}

/// Reads the public structs and enums with their documentation.
fn read(source: &str) -> BTreeMap<String, Type> {
    let mut types = BTreeMap::new();
    let (mut doc, mut has_default) = (Vec::new(), false);
    let mut all_have_defaults = false;
    let mut open: Option<(String, Type)> = None;
    for line in source.lines() {
        let line = line.trim();
        if let Some(text) = line.strip_prefix("///") {
            doc.push(text.trim().to_owned());
            continue;
        }
        if line.starts_with("#[") {
            has_default |= line.starts_with("#[serde(") && line.contains("default");
            continue;
        }
        let optional = std::mem::take(&mut has_default);
        let meaning = std::mem::take(&mut doc).join(" ");
        if let Some(rest) = line.strip_prefix("pub struct ") {
            let name = rest.split([' ', '{']).next().unwrap().to_owned();
            open = Some((
                name,
                Type {
                    meaning,
                    shape: Shape::Fields(Vec::new()),
                },
            ));
            all_have_defaults = optional;
        } else if let Some(rest) = line.strip_prefix("pub enum ") {
            let name = rest.split([' ', '{']).next().unwrap().to_owned();
            open = Some((
                name,
                Type {
                    meaning,
                    shape: Shape::Values(Vec::new()),
                },
            ));
        } else if line == "}" {
            types.extend(open.take());
        } else if let Some((_, current)) = &mut open {
            let declaration = line.trim_end_matches(',');
            match &mut current.shape {
                Shape::Fields(fields) => {
                    let (name, kind) = declaration.strip_prefix("pub ").unwrap().split_once(": ").unwrap();
                    let required = !optional && !all_have_defaults && !kind.starts_with("Option<");
                    fields.push(Field {
                        name: camel_case(name),
                        kind: kind.to_owned(),
                        meaning,
                        required,
                    });
                }
                Shape::Values(values) => values.push((declaration.to_owned(), meaning)),
            }
        }
    }
    types
}

/// What the kind of a field is called, and the struct to describe in a section of its own.
fn kind(rust: &str, types: &BTreeMap<String, Type>) -> (String, Option<String>) {
    for (wrapper, format) in [("Vec<", "list of "), ("Option<", "")] {
        if let Some(inner) = rust.strip_prefix(wrapper).and_then(|rest| rest.strip_suffix('>')) {
            let (text, section) = kind(inner, types);
            return (format!("{format}{text}"), section);
        }
    }
    let text = match rust {
        "Domain" => "domain",
        "PathBuf" => "file",
        "SocketAddr" => "address and port",
        "IpAddr" => "IP address",
        "Cidr" => "network",
        "HostPort" => "host and port",
        "HumanDuration" => "duration",
        "ComponentId" => "component id",
        "String" => "text",
        "bool" => "boolean",
        "usize" | "u32" | "u64" => "number",
        other => match types.get(other) {
            Some(Type {
                shape: Shape::Values(values),
                ..
            }) => {
                let names: Vec<_> = values.iter().map(|(name, _)| format!("`{name}`")).collect();
                return (names.join(", "), None);
            }
            Some(_) => return ("object".to_owned(), Some(other.to_owned())),
            None => panic!("{other} has no name in the reference"),
        },
    };
    (text.to_owned(), None)
}

/// The value that a field has when it is left out, from the example read with all its defaults.
fn default_of(defaults: &serde_yaml::Value, path: &str) -> String {
    let mut value = defaults;
    for name in path.split('.') {
        match value.get(name) {
            Some(inner) => value = inner,
            None => return "–".to_owned(),
        }
    }
    format!("`{}`", serde_yaml::to_string(value).unwrap().trim())
}

fn section(out: &mut String, path: &str, name: &str, types: &BTreeMap<String, Type>, defaults: &serde_yaml::Value) {
    let described = types.get(name).unwrap();
    let Shape::Fields(fields) = &described.shape else {
        panic!("{name} has no fields");
    };
    let title = if path.is_empty() {
        "The file".to_owned()
    } else {
        format!("`{path}`")
    };
    writeln!(out, "\n## {title}\n\n{}\n", described.meaning).unwrap();
    out.push_str("| field | value | default | meaning |\n|---|---|---|---|\n");
    let mut sections = Vec::new();
    for field in fields {
        let (text, inner) = kind(&field.kind, types);
        let full = if path.is_empty() {
            field.name.clone()
        } else {
            format!("{path}.{}", field.name)
        };
        let default = match (&inner, field.kind.as_str()) {
            _ if field.required => "required".to_owned(),
            (Some(_), kind) if !kind.starts_with("Vec<") => "–".to_owned(),
            (_, kind) if kind.starts_with("Vec<") => "empty".to_owned(),
            _ if field.meaning.contains("Default: derived") => "derived".to_owned(),
            (_, kind) if kind.starts_with("Option<") => "none".to_owned(),
            _ => default_of(defaults, &full),
        };
        writeln!(
            out,
            "| `{}` | {text} | {default} | {} |",
            field.name,
            field.meaning.replace('|', "\\|")
        )
        .unwrap();
        if let Some(inner) = inner {
            let list = if field.kind.starts_with("Vec<") { "[]" } else { "" };
            sections.push((format!("{full}{list}"), inner));
        }
    }
    for field in fields {
        if let Some(Type {
            shape: Shape::Values(values),
            meaning,
        }) = types.get(field.kind.as_str())
        {
            writeln!(out, "\n`{}`: {meaning}\n", field.name).unwrap();
            for (value, meaning) in values {
                writeln!(out, "- `{value}`: {meaning}").unwrap();
            }
        }
    }
    for (path, name) in sections {
        section(out, &path, &name, types, defaults);
    }
}

fn reference() -> String {
    let types = read(TYPES);
    let config = EdgeConfig::from_yaml(EXAMPLE).unwrap();
    let defaults: serde_yaml::Value = serde_yaml::from_str(&config.to_yaml()).unwrap();
    let mut out = String::from(
        "# Configuration of the edge

<!-- Generated from core/src/edge_config/types.rs; `UPDATE_REFERENCE=1 cargo test -p xmpp-federation-core --test edge_config_reference` writes it anew. -->

`xmpp-federation-edge --config edge.yaml [--index N] [--check]` reads one YAML file. The operator writes it for its pods; this
page is for administrators that run the edge by hand or read the operator's file. `--check` reads the file and all files that it
names. If something is wrong, it prints line and field, and exits with 2.

The edge watches the directories of the file and of all files that it names. It applies a change at once; streams that the new
configuration allows stay open. If the new file has a mistake, the configuration in force stays. The metric
`xmpp_edge_configuration_refused`, `rejected` at `/status` and the log say so. A change of `listen`, of the replica's own
component id or of the memory limit needs a restart of the edge. A value that only a later release supports is an error.

Durations are whole numbers with `ms`, `s`, `m` or `h`. Domains are written in canonical form: lower case, A-labels, no dot at
the end. Unknown fields are errors.

```yaml
",
    );
    out.push_str(EXAMPLE);
    out.push_str("```\n");
    section(&mut out, "", "EdgeConfig", &types, &defaults);
    out
}

#[test]
fn the_reference_is_what_the_types_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/edge-config.md");
    let expected = reference();
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        std::fs::write(&path, &expected).unwrap();
        return;
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "docs/reference/edge-config.md is out of date; run UPDATE_REFERENCE=1 cargo test -p xmpp-federation-core --test edge_config_reference"
    );
}
