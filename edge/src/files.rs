//! Files that the configuration names, and what is wrong with them.

use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;

/// Something wrong with a field or with the file it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// Path of the field, as `tls.certificates[0].privateKeyFile`.
    pub field: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl FieldError {
    pub(crate) fn new(field: String, message: impl Into<String>) -> Self {
        Self {
            field,
            message: message.into(),
        }
    }
}

/// Gives the contents of a file that a field names.
pub type ReadFile<'a> = dyn Fn(&str, &Path) -> Result<Vec<u8>, FieldError> + 'a;

/// SHA-256 in lower-case hexadecimal.
pub fn sha256_hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(digest(&SHA256, bytes).as_ref())
}
