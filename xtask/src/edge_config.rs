//! The reference of the edge's configuration: names, kinds and meanings from the schema of its types, defaults from an
//! example that is read with all of them.

use std::fmt::Write as _;

use schemars::Schema;
use serde::de::{DeserializeOwned, Deserializer, Error as _, Visitor, value::Error as Stopped};
use serde_json::Value;
use xmpp_federation_core::edge_config::{
    CertificateFiles, Dialback, Dns, EdgeConfig, Endpoint, Limits, Listen, Log, Partner, PartnerLimits, PartnerTls,
    Privacy, ProxyProtocol, RouteHost, Router, Tls, TrustAnchors,
};

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

const INTRODUCTION: &str = "# Configuration of the edge

<!-- Generated from core/src/edge_config/types.rs; `cargo run -p xtask -- generate` writes it anew. -->

`xmpp-federation-edge --config edge.yaml [--index N] [--check]` reads one YAML file. The operator writes it for its pods; this
page is for administrators that run the edge by hand or read the operator's file. `--check` reads the file and all files that it
names. If something is wrong, it prints line and field, and exits with 2.

The edge watches the directories of the file and of all files that it names. It applies a change at once; streams that the new
configuration allows stay open. If the new file has a mistake, the configuration in force stays. The metric
`xmpp_edge_configuration_refused`, `rejected` at `/status` and the log say so. A change of `listen`, of the replica's own
component id or of the memory limit needs a restart of the edge.

Durations are numbers with `ms`, `s`, `m` or `h`, such as `15s` or `1h30m`. Domains are written in canonical form: lower case, A-labels, no dot at
the end. Unknown fields are errors, except in a file that says by `writtenBy` that a later release wrote it; see
[Different releases](../edge.md#different-releases). Leave `writtenBy` and `requires` out of a file that you write yourself.

```yaml
";

/// The page.
pub fn page() -> Result<String, String> {
    let config = EdgeConfig::from_yaml(EXAMPLE).map_err(|error| format!("the example is refused: {error}"))?;
    let defaults =
        serde_yaml::from_str(&config.to_yaml()).map_err(|error| format!("the example has no defaults: {error}"))?;
    let schema = schemars::schema_for!(EdgeConfig);
    let mut page = Page {
        definitions: member(&schema, "$defs")?,
        defaults,
        text: format!("{INTRODUCTION}{EXAMPLE}```\n"),
    };
    page.section("", "EdgeConfig", &schema)?;
    Ok(page.text)
}

/// Stops a deserializer with the names of the fields that it asks for.
struct FieldNames<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for FieldNames<'_> {
    type Error = Stopped;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Stopped> {
        *self.0 = fields;
        Err(Stopped::custom("stopped"))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Stopped> {
        Err(Stopped::custom("not a struct"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

fn fields_of<T: DeserializeOwned>() -> &'static [&'static str] {
    let mut names: &[&str] = &[];
    let _ = T::deserialize(FieldNames(&mut names));
    names
}

/// The fields of a struct as they are declared; the schema has them by the alphabet.
fn fields(name: &str) -> Result<&'static [&'static str], String> {
    Ok(match name {
        "CertificateFiles" => fields_of::<CertificateFiles>(),
        "Dialback" => fields_of::<Dialback>(),
        "Dns" => fields_of::<Dns>(),
        "EdgeConfig" => fields_of::<EdgeConfig>(),
        "Endpoint" => fields_of::<Endpoint>(),
        "Limits" => fields_of::<Limits>(),
        "Listen" => fields_of::<Listen>(),
        "Log" => fields_of::<Log>(),
        "Partner" => fields_of::<Partner>(),
        "PartnerLimits" => fields_of::<PartnerLimits>(),
        "PartnerTls" => fields_of::<PartnerTls>(),
        "Privacy" => fields_of::<Privacy>(),
        "ProxyProtocol" => fields_of::<ProxyProtocol>(),
        "RouteHost" => fields_of::<RouteHost>(),
        "Router" => fields_of::<Router>(),
        "Tls" => fields_of::<Tls>(),
        "TrustAnchors" => fields_of::<TrustAnchors>(),
        other => return Err(format!("add {other} to the structs of xtask/src/edge_config.rs")),
    })
}

/// A member of a schema.
fn member(schema: &Schema, name: &str) -> Result<Schema, String> {
    schema
        .get(name)
        .and_then(|value| Schema::try_from(value.clone()).ok())
        .ok_or_else(|| format!("a schema has no {name}: {schema:?}"))
}

/// The documentation in one line.
fn meaning(schema: &Schema) -> String {
    let text = schema.get("description").and_then(Value::as_str).unwrap_or_default();
    text.replace('\n', " ")
}

/// What a field holds.
enum Kind {
    /// A name for a plain value.
    Plain(String),
    /// A struct with a section of its own.
    Section(String, Schema),
    /// One of some words, each with its meaning; and the meaning of all.
    Words(String, Vec<(String, String)>),
}

impl Kind {
    fn text(&self) -> String {
        match self {
            Self::Plain(text) => text.clone(),
            Self::Section(..) => "object".to_owned(),
            Self::Words(_, words) => {
                let words: Vec<_> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
                words.join(", ")
            }
        }
    }
}

struct Page {
    definitions: Schema,
    defaults: serde_yaml::Value,
    text: String,
}

impl Page {
    fn kind(&self, schema: &Schema) -> Result<Kind, String> {
        if let Some(format) = schema.get("format").and_then(Value::as_str) {
            return Ok(Kind::Plain(match format {
                "ip" => "IP address".to_owned(),
                "uint" | "uint32" | "uint64" => "number".to_owned(),
                format => format.replace('-', " "),
            }));
        }
        if let Some(name) = schema.get("$ref").and_then(Value::as_str) {
            let name = name.trim_start_matches("#/$defs/");
            let target = member(&self.definitions, name)?;
            let Some(words) = target.get("oneOf").and_then(Value::as_array) else {
                return Ok(Kind::Section(name.to_owned(), target));
            };
            let words = words.iter().filter_map(|word| {
                let schema = Schema::try_from(word.clone()).ok()?;
                Some((word.get("const")?.as_str()?.to_owned(), meaning(&schema)))
            });
            return Ok(Kind::Words(meaning(&target), words.collect()));
        }
        let types = schema.get("type");
        for (name, text) in [("string", "text"), ("boolean", "boolean")] {
            let named = |value: &Value| value.as_str() == Some(name);
            if types.is_some_and(|types| named(types) || types.as_array().is_some_and(|types| types.iter().any(named)))
            {
                return Ok(Kind::Plain(text.to_owned()));
            }
        }
        Err(format!("no name for {schema:?}"))
    }

    /// The value that a field has when it is left out.
    fn default_of(&self, path: &str) -> String {
        let mut value = &self.defaults;
        for name in path.split('.') {
            match value.get(name) {
                Some(inner) => value = inner,
                None => return "–".to_owned(),
            }
        }
        format!("`{}`", serde_yaml::to_string(value).unwrap_or_default().trim())
    }

    /// Writes a line; writing to a String cannot fail.
    fn line(&mut self, line: std::fmt::Arguments) {
        let _ = writeln!(self.text, "{line}");
    }

    fn section(&mut self, path: &str, name: &str, schema: &Schema) -> Result<(), String> {
        let title = if path.is_empty() {
            "The file".to_owned()
        } else {
            format!("`{path}`")
        };
        self.line(format_args!("\n## {title}\n\n{}\n", meaning(schema)));
        self.line(format_args!("| field | value | default | meaning |\n|---|---|---|---|"));
        let properties = member(schema, "properties")?;
        let required = schema
            .get("required")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        let (mut words, mut sections) = (Vec::new(), Vec::new());
        for name in fields(name)? {
            let field = member(&properties, name)?;
            let full = if path.is_empty() {
                (*name).to_owned()
            } else {
                format!("{path}.{name}")
            };
            let shape = Shape::of(&field)?;
            let kind = self.kind(&shape.inner)?;
            let meaning = meaning(&field);
            let default = match &kind {
                _ if required.iter().any(|required| required == name) => "required".to_owned(),
                _ if shape.list => "empty".to_owned(),
                Kind::Section(..) => "–".to_owned(),
                _ if meaning.contains("Default: derived") => "derived".to_owned(),
                _ if shape.optional => "none".to_owned(),
                _ => self.default_of(&full),
            };
            let list = if shape.list { "list of " } else { "" };
            let text = kind.text();
            self.line(format_args!(
                "| `{name}` | {list}{text} | {default} | {} |",
                meaning.replace('|', "\\|")
            ));
            match kind {
                Kind::Section(name, schema) => {
                    let list = if shape.list { "[]" } else { "" };
                    sections.push((format!("{full}{list}"), name, schema));
                }
                Kind::Words(meaning, each) if !shape.optional => words.push((name, meaning, each)),
                _ => {}
            }
        }
        for (name, meaning, each) in words {
            self.line(format_args!("\n`{name}`: {meaning}\n"));
            for (word, meaning) in each {
                self.line(format_args!("- `{word}`: {meaning}"));
            }
        }
        for (path, name, schema) in sections {
            self.section(&path, &name, &schema)?;
        }
        Ok(())
    }
}

/// What stands around the kind of a field.
struct Shape {
    inner: Schema,
    list: bool,
    optional: bool,
}

impl Shape {
    fn of(field: &Schema) -> Result<Self, String> {
        let null = |types: &Value| {
            types
                .as_array()
                .is_some_and(|types| types.iter().any(|name| name == "null"))
        };
        let either = field
            .get("anyOf")
            .and_then(Value::as_array)
            .and_then(|either| either.first());
        let list = field.get("items");
        let mut inner = match either.or(list) {
            Some(inner) => Schema::try_from(inner.clone()).map_err(|error| error.to_string())?,
            None => field.clone(),
        };
        // The format that an attribute gives a list or an option is that of its values.
        if let Some(format) = field.get("format") {
            inner.insert("format".to_owned(), format.clone());
        }
        Ok(Self {
            inner,
            list: list.is_some(),
            optional: either.is_some() || field.get("type").is_some_and(null),
        })
    }
}
