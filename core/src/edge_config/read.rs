//! Reading a file that another release wrote.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;

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

/// What every release reads of a file, whatever else is in it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Head {
    /// Who wrote it.
    pub written_by: Option<Release>,
    /// The features that its reader must know.
    pub requires: Vec<String>,
    /// The doors of an edge.
    pub listen: Doors,
}

/// Where an edge can be asked about itself.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
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
    /// Reads only that.
    pub fn of(text: &str) -> Result<Self, ConfigError> {
        serde_yaml::from_str(text).map_err(|error| ConfigError::of_reader(&error))
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
        if unknown.is_empty() {
            return Ok(());
        }
        let (unknown, own) = (unknown.join(", "), &reader.release);
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
        let Some(writer) = head.written_by.as_ref().filter(|_| head.is_later_than(reader)) else {
            return Err(ReadError::Invalid(invalid));
        };
        known::read(text).map_err(|ConfigError(mut problems)| {
            let message = format!(
                "{writer} is later than this edge {}, so what is wrong here may be right there; {REMEDY}",
                reader.release
            );
            problems.push(Problem::at(text, "writtenBy", message));
            ReadError::Later(ConfigError(problems))
        })
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
