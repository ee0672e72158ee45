//! The configuration in force: the file and everything it names, as one immutable snapshot.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, io};

use aws_lc_rs::digest::{Context, SHA256, digest};
use data_encoding::HEXLOWER;
use parking_lot::Mutex;
use xmpp_federation_core::edge_config::{
    ConfigError, ConfigRead, Dns as DnsConfig, EdgeConfig, Problem, ReadError, Reader,
};
use xmpp_federation_core::{Domain, SecretBytes};

use crate::budget::{Budget, MemoryLimit};
use crate::dialback::DialbackSecrets;
use crate::files::{FieldError, sha256_hex};
use crate::policy::Policy;
use crate::resolve::{Dns, Lookup, Resolver, RouterAddresses};
use crate::tls::{ShownCertificate, TlsSettings};

/// One loaded configuration. Tasks take the current one from a
/// `tokio::sync::watch::Receiver<Arc<Live>>` whenever they decide something, so a reload is seen
/// at the next decision.
#[derive(Debug)]
pub struct Live {
    /// The file as read.
    pub config: EdgeConfig,
    /// Paths of fields in it that only a later release knows.
    pub ignored: Vec<String>,
    /// SHA-256 of the file's bytes, lower-case hexadecimal.
    pub config_hash: String,
    /// The hosted domains, for look-up.
    pub hosted: HashSet<Domain>,
    /// Who may federate.
    pub policy: Arc<Policy>,
    /// What dialback keys are made and checked with.
    pub dialback: DialbackSecrets,
    /// Certificates and their checks.
    pub tls: TlsSettings,
    /// Where domains are reached.
    pub resolver: Arc<Resolver>,
    /// Shared secret of each entry in `config.routers`, in that order.
    pub router_secrets: Vec<SecretBytes>,
    /// How much memory everything may hold.
    pub budget: Budget,
    /// What deserves a warning although it works, as sentences.
    pub warnings: Vec<String>,
    /// The files named in the configuration and the hash of each one's contents.
    pub files: Vec<(PathBuf, String)>,
}

/// A configuration that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The file itself cannot be read.
    #[error("the configuration {path} cannot be read: {reason}")]
    Unreadable {
        /// The file.
        path: String,
        /// The system's words.
        reason: String,
    },
    /// Its contents, or files named in it, are wrong.
    #[error("{path}: {problems}")]
    Invalid {
        /// The file.
        path: String,
        /// SHA-256 of its bytes.
        config_hash: String,
        /// With line and field.
        problems: ConfigError,
    },
    /// A later release wrote it, and this one cannot do what it says.
    #[error("{path}: {problems}")]
    Later {
        /// The file.
        path: String,
        /// SHA-256 of its bytes.
        config_hash: String,
        /// With line and field.
        problems: ConfigError,
    },
}

impl LoadError {
    /// SHA-256 of the refused file's bytes, as far as they could be read.
    pub fn config_hash(&self) -> &str {
        match self {
            Self::Unreadable { .. } => "",
            Self::Invalid { config_hash, .. } | Self::Later { config_hash, .. } => config_hash,
        }
    }
}

/// Reads configurations; keeps what outlives a reload.
pub struct Loader {
    path: PathBuf,
    index: usize,
    strict: bool,
    memory: MemoryLimit,
    routers: Arc<RouterAddresses>,
    /// The DNS client and what it was made from: a reload keeps its cache.
    dns: Mutex<Option<(DnsConfig, Arc<dyn Lookup>)>>,
}

impl fmt::Debug for Loader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loader")
            .field("path", &self.path)
            .field("index", &self.index)
            .finish_non_exhaustive()
    }
}

/// A secret that is generated has 32 bytes or more; shorter ones are brought and can be guessed.
const SECRET_LENGTH: usize = 32;

impl Loader {
    /// A loader of this file for the replica with this index.
    pub fn new(path: impl Into<PathBuf>, index: usize) -> Self {
        Self {
            path: path.into(),
            index,
            strict: false,
            memory: MemoryLimit::of_this_process(),
            routers: Arc::default(),
            dns: Mutex::new(None),
        }
    }

    /// Takes an unknown field for an error, whoever wrote the file.
    #[must_use]
    pub fn strict(mut self) -> Self {
        self.strict = true;
        self
    }

    /// The configuration file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The replica's index.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Reads the file and all files named in it.
    pub fn load(&self) -> Result<Live, LoadError> {
        let path = self.path.display().to_string();
        let bytes = std::fs::read(&self.path).map_err(|error| LoadError::Unreadable {
            path: path.clone(),
            reason: plainly(&error),
        })?;
        let config_hash = sha256_hex(&bytes);
        let invalid = |problems| LoadError::Invalid {
            path: path.clone(),
            config_hash: config_hash.clone(),
            problems,
        };
        let refused = |error| match error {
            ReadError::Invalid(problems) => invalid(problems),
            ReadError::Later(problems) => LoadError::Later {
                path: path.clone(),
                config_hash: config_hash.clone(),
                problems,
            },
        };
        let Ok(text) = std::str::from_utf8(&bytes) else {
            let problem = Problem::at("", "", "is not UTF-8 text");
            return Err(invalid(ConfigError(vec![problem])));
        };
        let reader = Reader::own();
        let ConfigRead { config, ignored } = EdgeConfig::read(text, &reader).map_err(refused)?;
        if self.strict && !ignored.is_empty() {
            EdgeConfig::from_yaml(text).map_err(&invalid)?;
        }
        let writer = config.written_by.clone();
        let mut live = self.build(config, config_hash.clone()).map_err(|error| {
            let problem = Problem::at(text, error.field, error.message);
            // Such as a file that the pod of an earlier release does not mount.
            refused(reader.judge(text, writer.as_ref(), ConfigError(vec![problem])))
        })?;
        if let (Some(writer), false) = (&live.config.written_by, ignored.is_empty()) {
            live.warnings.push(format!(
                "operator {writer} wrote the configuration, and this edge {} ignores fields of it that it does not know: {}; update the edge's image (spec.edge.image) to use them",
                reader.release,
                ignored.join(", ")
            ));
        }
        live.ignored = ignored;
        Ok(live)
    }

    /// Reads the files that a configuration names, relative to the working directory.
    pub fn build(&self, config: EdgeConfig, config_hash: String) -> Result<Live, FieldError> {
        for (i, router) in config.routers.iter().enumerate() {
            if self.index >= router.component_ids.len() {
                return Err(FieldError::new(
                    format!("routers[{i}].componentIds"),
                    format!(
                        "has {} entries, none for the replica with index {} (counted from 0); add one or lower --index",
                        router.component_ids.len(),
                        self.index
                    ),
                ));
            }
        }
        crate::logging::parse_level(&config.log.level)
            .map_err(|error| FieldError::new("log.level".to_owned(), error.to_string()))?;
        let files = Mutex::new(Vec::new());
        let read = |field: &str, path: &Path| {
            let bytes = std::fs::read(path).map_err(|error| {
                FieldError::new(
                    field.to_owned(),
                    format!("{} cannot be read: {}", path.display(), plainly(&error)),
                )
            })?;
            let mut files = files.lock();
            files.push((path.to_owned(), sha256_hex(&bytes)));
            Ok(bytes)
        };
        let mut warnings = Vec::new();
        let tls = TlsSettings::load(&config.tls, config.uses_tls(), &read)?;
        warnings.extend(tls.warnings.iter().cloned());
        certificate_warnings(&config, &tls, &mut warnings);
        if config.limits.max_queued_stanzas.is_some() {
            let ignored = "limits.maxQueuedStanzas is ignored, since bytes are the bound; remove it, and set limits.maxQueuedBytes if the default does not suit";
            warnings.push(ignored.to_owned());
        }

        let secret = |field: &str, path: &Path| {
            let secret = SecretBytes::from_file_contents(read(field, path)?);
            if secret.is_empty() {
                let message = format!("{} is empty; it must hold the secret", path.display());
                return Err(FieldError::new(field.to_owned(), message));
            }
            Ok(secret)
        };
        let sign = secret("dialback.sign", &config.dialback.sign)?;
        let mut accept = Vec::with_capacity(config.dialback.accept.len());
        for (i, path) in config.dialback.accept.iter().enumerate() {
            accept.push(secret(&format!("dialback.accept[{i}]"), path)?);
        }
        if sign.len() < SECRET_LENGTH {
            warnings.push(format!(
                "the dialback secret in {} has {} bytes; use {SECRET_LENGTH} random ones or more, a short one can be guessed from keys seen",
                config.dialback.sign.display(),
                sign.len()
            ));
        }
        let mut router_secrets = Vec::with_capacity(config.routers.len());
        for (i, router) in config.routers.iter().enumerate() {
            router_secrets.push(secret(&format!("routers[{i}].secretFile"), &router.secret_file)?);
        }
        let budget = Budget::new(self.memory.clone(), &config.limits);
        let lookup = self.lookup(&config.dns, budget.dns);
        let policy = Arc::new(Policy::new(&config));
        let resolver = Resolver::with_policy(&config, policy.clone(), lookup, self.routers.clone());
        warnings.extend(budget.warning());
        Ok(Live {
            budget,
            hosted: config.domains.iter().cloned().collect(),
            policy,
            dialback: DialbackSecrets::new(sign, accept),
            tls,
            resolver: Arc::new(resolver),
            router_secrets,
            warnings,
            files: files.into_inner(),
            config,
            ignored: Vec::new(),
            config_hash,
        })
    }

    /// Uses this in place of the DNS servers of the configuration.
    #[must_use]
    pub fn with_lookup(self, lookup: Arc<dyn Lookup>) -> Self {
        let any = DnsConfig::default();
        *self.dns.lock() = Some((any, lookup));
        self
    }

    fn lookup(&self, config: &DnsConfig, cached: usize) -> Arc<dyn Lookup> {
        let mut kept = self.dns.lock();
        match &*kept {
            Some((known, lookup)) if known.resolvers == config.resolvers => lookup.clone(),
            _ => {
                let lookup: Arc<dyn Lookup> = Arc::new(Dns::of(config, cached));
                *kept = Some((config.clone(), lookup.clone()));
                lookup
            }
        }
    }
}

impl Live {
    /// One hash over the file and all files named in it: the same hash, nothing to reload.
    pub(crate) fn contents_hash(&self) -> String {
        let mut context = Context::new(&SHA256);
        context.update(self.config_hash.as_bytes());
        for (path, hash) in &self.files {
            context.update(path.as_os_str().as_encoded_bytes());
            context.update(hash.as_bytes());
        }
        HEXLOWER.encode(context.finish().as_ref())
    }

    /// What tells dialback secrets apart without giving them away: the first 16 hexadecimal digits
    /// of SHA-256(SHA-256(secret)), the one that signs first.
    pub fn dialback_fingerprints(&self) -> Vec<String> {
        let fingerprint = |secret: &SecretBytes| {
            let twice = digest(&SHA256, digest(&SHA256, secret.expose()).as_ref());
            HEXLOWER.encode(twice.as_ref().get(..8).unwrap_or_default())
        };
        self.dialback.all().map(fingerprint).collect()
    }
}

fn certificate_warnings(config: &EdgeConfig, tls: &TlsSettings, warnings: &mut Vec<String>) {
    let special = config.tls.client_certificate.iter();
    let special = special.zip(&tls.client_certificate);
    if tls.certificates.is_empty() {
        return;
    }
    for domain in &config.domains {
        let covers = |shown: &ShownCertificate| shown.names.cover(domain);
        if !tls.certificates.iter().any(covers) {
            warnings.push(format!(
                "no certificate names {domain}; peers that check certificates will refuse it, add the name to one"
            ));
        }
        for (files, shown) in special.clone() {
            if !covers(shown) {
                warnings.push(format!(
                    "the client certificate in {} does not name {domain}; peers that check certificates will refuse its streams, add the name or remove tls.clientCertificate",
                    files.certificate_file.display()
                ));
            }
        }
    }
}

/// The system's words without its error number.
fn plainly(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".to_owned(),
        io::ErrorKind::PermissionDenied => {
            "permission denied; the edge runs as its own user, make the file readable for it".to_owned()
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;
