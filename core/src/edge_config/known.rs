//! Reads the known fields of a file and names the others.

use std::cell::RefCell;

use serde::Deserialize;
use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{Deserializer, IntoDeserializer, Visitor};
use serde_yaml::Value;

use super::types::EdgeConfig;
use super::validate::{ConfigError, Problem};

/// A configuration as it was understood.
#[derive(Debug, Clone, PartialEq)]
pub struct ConfigRead {
    /// What is known of it.
    pub config: EdgeConfig,
    /// Paths of the later release's fields that are ignored.
    pub ignored: Vec<String>,
}

/// Reads and validates the fields that are known.
pub(super) fn read(text: &str) -> Result<ConfigRead, ConfigError> {
    let value = serde_yaml::from_str(text).map_err(|error| ConfigError::of_reader(&error))?;
    let notes = RefCell::default();
    let read = EdgeConfig::deserialize(Known {
        value,
        path: String::new(),
        notes: &notes,
    });
    let Notes { ignored, failed } = notes.into_inner();
    let problem = |error: serde_yaml::Error| Problem::at(text, failed.unwrap_or_default(), error.to_string());
    let config = read.map_err(|error| ConfigError(vec![problem(error)]))?;
    let config = config.validated(text)?;
    Ok(ConfigRead { config, ignored })
}

/// What happened to the fields.
#[derive(Debug, Default)]
struct Notes {
    ignored: Vec<String>,
    /// The first that cannot be read.
    failed: Option<String>,
}

/// A value that hides from a struct the fields that the struct does not ask for.
struct Known<'a> {
    value: Value,
    path: String,
    notes: &'a RefCell<Notes>,
}

impl<'a> Known<'a> {
    fn inner(&self, value: Value, path: String) -> Known<'a> {
        let notes = self.notes;
        Known { value, path, notes }
    }

    fn noted<T>(&self, result: Result<T, serde_yaml::Error>) -> Result<T, serde_yaml::Error> {
        if result.is_err() {
            let mut notes = self.notes.borrow_mut();
            notes.failed.get_or_insert_with(|| self.path.clone());
        }
        result
    }
}

impl IntoDeserializer<'_, serde_yaml::Error> for Known<'_> {
    type Deserializer = Self;
    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Known<'_> {
    type Error = serde_yaml::Error;

    fn deserialize_any<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Self::Error> {
        let value = std::mem::take(&mut self.value);
        self.noted(value.deserialize_any(visitor))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        mut self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        let value = std::mem::take(&mut self.value);
        self.noted(value.deserialize_enum(name, variants, visitor))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        if self.value.is_null() {
            visitor.visit_none()
        } else {
            visitor.visit_some(self)
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Self::Error> {
        let entries = match std::mem::take(&mut self.value) {
            Value::Sequence(entries) => entries,
            other => return self.noted(other.deserialize_seq(visitor)),
        };
        let entries = entries.into_iter().enumerate();
        let entries = entries.map(|(i, entry)| self.inner(entry, format!("{}[{i}]", self.path)));
        self.noted(visitor.visit_seq(SeqDeserializer::new(entries)))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        mut self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        let entries = match std::mem::take(&mut self.value) {
            Value::Mapping(entries) => entries,
            other => return self.noted(other.deserialize_struct(name, fields, visitor)),
        };
        let mut known = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            let key = key.as_str().map_or_else(|| format!("{key:?}"), str::to_owned);
            let path = match self.path.as_str() {
                "" => key.clone(),
                parent => format!("{parent}.{key}"),
            };
            if fields.contains(&key.as_str()) {
                known.push((key, self.inner(value, path)));
            } else {
                self.notes.borrow_mut().ignored.push(path);
            }
        }
        self.noted(visitor.visit_map(MapDeserializer::new(known.into_iter())))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct newtype_struct
        tuple tuple_struct map identifier ignored_any
    }
}
