//! Reading a file that another release wrote.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde_yaml::Value;

use super::features::{self, FIELDS};
use super::known::{self, ConfigRead};
use super::types::{EdgeConfig, Listen};
use super::validate::{ConfigError, Problem};
use crate::Release;

/// Who reads.
#[derive(Debug, Clone)]
pub struct Reader {
    /// Its release.
    pub release: Release,
    /// The features that it knows.
    pub features: Vec<&'static str>,
}

impl Reader {
    /// This program.
    pub fn own() -> Self {
        Self {
            release: Release::own(),
            features: features::names(FIELDS),
        }
    }

    /// What is wrong with a file: a later release's may be right for its own edge.
    pub fn judge(&self, text: &str, writer: Option<&Release>, ConfigError(mut problems): ConfigError) -> ReadError {
        let Some(writer) = writer.filter(|writer| writer.is_later_than(&self.release)) else {
            return ReadError::Invalid(ConfigError(problems));
        };
        let message = format!(
            "{writer} is later than this edge {}, so what is wrong here may be right there; {REMEDY}",
            self.release
        );
        problems.push(Problem::at(text, "writtenBy", message));
        ReadError::Later(ConfigError(problems))
    }
}

/// A configuration that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// It is wrong.
    #[error(transparent)]
    Invalid(ConfigError),
    /// It needs a later release than the reader's.
    #[error(transparent)]
    Later(ConfigError),
}

/// What every release reads of a file, whatever else is in it: each field by itself.
#[derive(Debug, Clone, Default)]
pub struct Head {
    /// Who wrote it.
    pub written_by: Option<Release>,
    /// The features that its reader must know.
    pub requires: Vec<String>,
    /// Which of these two cannot be read, and why.
    unread: Vec<(&'static str, String)>,
    /// The doors of an edge.
    pub listen: Doors,
}

/// Where an edge can be asked about itself.
#[derive(Debug, Clone)]
pub struct Doors {
    /// Health, metrics and status over HTTP.
    pub admin: SocketAddr,
    /// Unix socket for `ctl`.
    pub control: Option<PathBuf>,
}

impl Default for Doors {
    fn default() -> Self {
        let Listen { admin, control, .. } = Listen::default();
        Self { admin, control }
    }
}

/// What to do about an edge that is older than its file.
const REMEDY: &str = "set the edge's image (spec.edge.image) to that version or a later one, or wait until the roll-out replaces this pod";

impl Head {
    /// Reads only that; a door that cannot be read is where it is by default.
    pub fn of(text: &str) -> Result<Self, ConfigError> {
        let file: Value = serde_yaml::from_str(text).map_err(|error| ConfigError::of_reader(&error))?;
        let (written_by, requires) = (field(&file, "writtenBy"), field(&file, "requires"));
        let unread = [
            ("writtenBy", written_by.as_ref().err()),
            ("requires", requires.as_ref().err()),
        ];
        let unread = unread
            .into_iter()
            .filter_map(|(name, error)| Some((name, error?.to_string())));
        let listen = file.get("listen").unwrap_or(&Value::Null);
        let mut doors = Doors::default();
        if let Ok(Some(admin)) = field(listen, "admin") {
            doors.admin = admin;
        }
        doors.control = field(listen, "control").unwrap_or_default();
        Ok(Self {
            unread: unread.collect(),
            written_by: written_by.unwrap_or_default(),
            requires: requires.unwrap_or_default().unwrap_or_default(),
            listen: doors,
        })
    }

    /// Whether a later release than the reader's wrote the file.
    fn is_later_than(&self, reader: &Reader) -> bool {
        let writer = self.written_by.as_ref();
        writer.is_some_and(|writer| writer.is_later_than(&reader.release))
    }

    /// Whether the reader knows all that it must.
    fn demand(&self, text: &str, reader: &Reader) -> Result<(), ConfigError> {
        let known = |name: &String| reader.features.contains(&name.as_str());
        let unknown: Vec<&str> = self
            .requires
            .iter()
            .filter(|name| !known(name))
            .map(String::as_str)
            .collect();
        let own = &reader.release;
        if let Some((field, reason)) = self.unread.first() {
            let message = format!(
                "this edge {own} cannot read it ({reason}), so a later release may have written the file; {REMEDY}, or correct it if a person wrote it"
            );
            return Err(ConfigError(vec![Problem::at(text, *field, message)]));
        }
        if unknown.is_empty() {
            return Ok(());
        }
        let unknown = unknown.join(", ");
        let message = match &self.written_by {
            Some(writer) => format!(
                "the operator {writer} wrote the file with {unknown}, a restriction that this edge {own} does not know and would not enforce; {REMEDY}"
            ),
            None => format!(
                "this edge {own} does not know {unknown} and would not enforce it; correct the name, or run a release that knows it"
            ),
        };
        Err(ConfigError(vec![Problem::at(text, "requires", message)]))
    }
}

/// One field of a file, if it is there.
fn field<T: DeserializeOwned>(of: &Value, name: &str) -> Result<Option<T>, serde_yaml::Error> {
    of.get(name)
        .map_or(Ok(None), |value| serde_yaml::from_value(value.clone()))
}

impl EdgeConfig {
    /// Reads a YAML text and validates it; a field that is not known is an error, whoever wrote it.
    pub fn from_yaml(text: &str) -> Result<Self, ConfigError> {
        // A head that cannot be read is told with the rest.
        let head = Head::of(text).unwrap_or_default();
        head.demand(text, &Reader::own())?;
        Self::parse(text)
    }

    /// Reads a YAML text that may be a later release's, and validates what is known of it.
    pub fn read(text: &str, reader: &Reader) -> Result<ConfigRead, ReadError> {
        let head = Head::of(text).unwrap_or_default();
        head.demand(text, reader).map_err(ReadError::Later)?;
        let invalid = match Self::parse(text) {
            Ok(config) => {
                return Ok(ConfigRead {
                    config,
                    ignored: Vec::new(),
                });
            }
            Err(invalid) => invalid,
        };
        if !head.is_later_than(reader) {
            return Err(ReadError::Invalid(invalid));
        }
        known::read(text).map_err(|invalid| reader.judge(text, head.written_by.as_ref(), invalid))
    }

    /// The same as the operator of this release writes it: with its version and what a reader must know.
    #[must_use]
    pub fn signed(mut self) -> Self {
        self.written_by = Some(Release::own());
        let file = serde_yaml::to_value(&self).unwrap_or_default();
        self.requires = features::used(FIELDS, &file).into_iter().map(str::to_owned).collect();
        self
    }
}
