//! Rules that span fields, and values whose implementation is still to come.

use std::collections::HashSet;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use super::partner::{PartnerTls, RouteHost};
use super::types::{EdgeConfig, TlsMode};
use super::values::is_host;

/// The deepest nesting that the edge can write, the stanza itself included.
const MOST_DEPTH: usize = 256;

/// One thing wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Path of the field, as `privacy.domains[2]`.
    pub field: String,
    /// What is wrong and what is allowed.
    pub message: String,
    /// Line in the file, from 1, where it is known.
    pub line: Option<usize>,
}

impl Problem {
    /// A problem with a field of a text, located there.
    pub fn at(text: &str, field: impl Into<String>, message: impl Into<String>) -> Self {
        let field = field.into();
        Self {
            line: line_of(text, &field),
            field,
            message: message.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

/// Everything wrong with a configuration; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError(pub Vec<Problem>);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

impl ConfigError {
    /// What the reader of YAML says.
    pub(super) fn of_reader(error: &serde_yaml::Error) -> Self {
        let message = error.to_string();
        // The reader's own text ends with the position, which the problem carries already.
        let message = message.split(" at line ").next().unwrap_or(&message);
        Self(vec![Problem {
            field: String::new(),
            message: message.to_owned(),
            line: error.location().map(|location| location.line()),
        }])
    }
}

impl EdgeConfig {
    /// Reads a YAML text of this release and validates it.
    pub(super) fn parse(text: &str) -> Result<Self, ConfigError> {
        let config: Self = serde_yaml::from_str(text).map_err(|error| ConfigError::of_reader(&error))?;
        config.validated(text)
    }

    /// The configuration, if all rules hold.
    pub(super) fn validated(self, text: &str) -> Result<Self, ConfigError> {
        let mut problems = self.problems();
        for problem in &mut problems {
            problem.line = line_of(text, &problem.field);
        }
        if problems.is_empty() {
            Ok(self)
        } else {
            Err(ConfigError(problems))
        }
    }

    /// The file's text; [`Self::from_yaml`] reads it back unchanged.
    pub fn to_yaml(&self) -> String {
        // Maps with string keys and plain values always serialise.
        serde_yaml::to_string(self).unwrap_or_default()
    }

    /// Checks the rules that no single field can express; empty if all hold.
    pub fn problems(&self) -> Vec<Problem> {
        let mut found = Problems(Vec::new());
        self.check_domains(&mut found);
        self.check_tls(&mut found);
        self.check_partners(&mut found);
        self.check_listeners(&mut found);
        self.check_routers(&mut found);
        self.check_limits(&mut found);
        found.0
    }

    fn check_domains(&self, found: &mut Problems) {
        if self.domains.is_empty() {
            found.add("domains", "is empty; list at least one hosted domain");
        }
        let mut hosted = HashSet::new();
        for (i, domain) in self.domains.iter().enumerate() {
            if !hosted.insert(domain) {
                found.add(
                    &format!("domains[{i}]"),
                    &format!("{domain} is listed twice; remove one"),
                );
            }
        }
        for (i, domain) in self.privacy.domains.iter().enumerate() {
            if domain.exact().is_some_and(|domain| hosted.contains(domain)) {
                found.add(
                    &format!("privacy.domains[{i}]"),
                    &format!("{domain} is hosted here; the list names remote domains only"),
                );
            }
        }
    }

    /// Whether TLS is used with any peer; only then certificates are needed and read.
    pub fn uses_tls(&self) -> bool {
        let off = TlsMode::Disabled;
        self.tls.mode != off
            || self.listen.direct_tls.is_some()
            || self
                .partners
                .iter()
                .any(|partner| partner.tls.mode.is_some_and(|mode| mode != off))
    }

    fn check_tls(&self, found: &mut Problems) {
        if self.uses_tls() && self.tls.certificates.is_empty() {
            found.add(
                "tls.certificates",
                "is empty; name a certificateFile and its privateKeyFile, or set tls.mode to Disabled",
            );
        }
        if self.tls.mode == TlsMode::Disabled && self.tls.require_client_certificates {
            found.add(
                "tls.requireClientCertificates",
                "true cannot hold with tls.mode Disabled, where nobody shows a certificate; use false, or mode Required or Optional",
            );
        }
    }

    fn check_partners(&self, found: &mut Problems) {
        let hosted: HashSet<_> = self.domains.iter().collect();
        let mut known = HashSet::new();
        for (i, partner) in self.partners.iter().enumerate() {
            let name = &partner.domain;
            let at = |field: &str| format!("partners[{i}].{field}");
            if name.exact().is_some_and(|domain| hosted.contains(domain)) {
                found.add(
                    &at("domain"),
                    &format!(
                        "{name} is hosted here; partners are remote domains, so remove it from domains or from partners"
                    ),
                );
            }
            if !known.insert(name) {
                found.add(
                    &at("domain"),
                    &format!("{name} has two entries; put everything into one"),
                );
            }
            for (n, RouteHost { host, port }) in partner.route.iter().enumerate() {
                if !is_host(host) {
                    let message = format!(
                        "{host:?} is not a host; write a name such as edge.example.com, or an IP address without brackets"
                    );
                    found.add(&at(&format!("route[{n}].host")), &message);
                }
                if *port == 0 {
                    found.add(
                        &at(&format!("route[{n}].port")),
                        "0 is not a TCP port; write 1 to 65535",
                    );
                }
            }
            let limits = &partner.limits;
            if limits.max_stanza_bytes.is_some_and(|most| most < 10_000) {
                found.add(
                    &at("limits.maxStanzaBytes"),
                    "is less than 10000, which every server must take (RFC 6120 section 13.12)",
                );
            }
            check_rates(
                found,
                &at("limits"),
                limits.messages_per_second,
                limits.bytes_per_second,
                ", or deny the domain in privacy",
            );
            self.check_partner_tls(found, &at("tls"), &partner.tls);
        }
    }

    fn check_partner_tls(&self, found: &mut Problems, at: &str, tls: &PartnerTls) {
        if tls.mode.unwrap_or(self.tls.mode) != TlsMode::Disabled {
            return;
        }
        let required = tls.require_certificate.unwrap_or(self.tls.require_client_certificates);
        if !tls.pinned_sha256.is_empty() {
            found.add(
                &format!("{at}.pinnedSha256"),
                "cannot hold without TLS, where nobody shows a certificate; set this partner's tls.mode to Required",
            );
        } else if required {
            let remedy = if tls.require_certificate.is_some() {
                "set this partner's tls.mode to Required, or requireCertificate to false"
            } else {
                "set requireCertificate to false here, against tls.requireClientCertificates"
            };
            found.add(
                &format!("{at}.requireCertificate"),
                &format!("true cannot hold with tls.mode Disabled, where nobody shows a certificate; {remedy}"),
            );
        }
    }

    fn check_listeners(&self, found: &mut Problems) {
        if let Some(direct) = self.listen.direct_tls {
            if self.tls.mode == TlsMode::Disabled {
                found.add(
                    "listen.directTls",
                    "needs TLS, which tls.mode Disabled rules out; remove it, or use Required or Optional",
                );
            }
            for (other, address) in [("s2s", self.listen.s2s), ("admin", self.listen.admin)] {
                if overlap(direct, address) {
                    found.add(
                        "listen.directTls",
                        &format!(
                            "{direct} is taken by listen.{other} already; give it a port of its own, 5270 as a rule"
                        ),
                    );
                }
            }
        }
        for (i, network) in self.proxy_protocol.trusted_sources.iter().enumerate() {
            if network.net().prefix_len() == 0 {
                found.add(
                    &format!("proxyProtocol.trustedSources[{i}]"),
                    &format!(
                        "{network} is every address, so every peer could claim to be another; list the networks of the load balancers only"
                    ),
                );
            }
        }
    }

    fn check_routers(&self, found: &mut Problems) {
        if self.routers.is_empty() {
            found.add(
                "routers",
                "is empty; describe at least one cluster, without endpoints if no link is wanted",
            );
        }
        let mut names = HashSet::new();
        for (i, router) in self.routers.iter().enumerate() {
            let at = |field: &str| format!("routers[{i}].{field}");
            if !names.insert(&router.name) {
                found.add(
                    &at("name"),
                    &format!("{:?} is used twice; names must differ", router.name),
                );
            }
            if router.component_ids.is_empty() {
                found.add(&at("componentIds"), "is empty; give one id per replica");
            }
            for (j, domain) in router.domains.iter().enumerate() {
                if !self.domains.contains(domain) {
                    found.add(
                        &at(&format!("domains[{j}]")),
                        &format!("{domain} is not in domains; add it there"),
                    );
                }
            }
        }
    }

    fn check_limits(&self, found: &mut Problems) {
        check_rates(
            found,
            "limits",
            self.limits.messages_per_second,
            self.limits.bytes_per_second,
            ", or remove it for no bound",
        );
        if self.limits.max_stanza_bytes < 10_000 {
            found.add(
                "limits.maxStanzaBytes",
                &format!(
                    "{} is too small; RFC 6120 demands that 10000 bytes pass",
                    self.limits.max_stanza_bytes
                ),
            );
        }
        if self.limits.max_depth > MOST_DEPTH {
            found.add(
                "limits.maxDepth",
                &format!(
                    "{} is too large; stanzas are read and written anew to a depth of {MOST_DEPTH} at most",
                    self.limits.max_depth
                ),
            );
        }
        for (field, time) in [
            ("negotiationTimeout", self.limits.negotiation_timeout),
            ("dialbackTimeout", self.limits.dialback_timeout),
            ("idleTimeout", self.limits.idle_timeout),
        ] {
            if time.0 < Duration::from_secs(1) {
                found.add(
                    &format!("limits.{field}"),
                    &format!("{time} is too short for anybody; give 1s or more"),
                );
            }
        }
        for (field, value) in [
            ("maxUnauthenticatedBytes", self.limits.max_unauthenticated_bytes),
            ("maxDepth", self.limits.max_depth),
            ("maxAttributes", self.limits.max_attributes),
            ("maxConnections", self.limits.max_connections.unwrap_or(1)),
            ("maxConnectionsPerAddress", self.limits.max_connections_per_address),
            ("maxConnectionsPer56", self.limits.max_connections_per56),
            ("maxConnectionsPer48", self.limits.max_connections_per48),
            (
                "newConnectionsPerSecond",
                usize::from(self.limits.new_connections_per_second != Some(0)),
            ),
            ("maxPairsPerStream", self.limits.max_pairs_per_stream),
            ("maxVerifications", self.limits.max_verifications.unwrap_or(1)),
            ("maxQueuedBytes", self.limits.max_queued_bytes),
        ] {
            if value == 0 {
                found.add(&format!("limits.{field}"), "0 lets nothing pass; give a number above 0");
            }
        }
    }
}

/// Rates at which nothing would come through.
fn check_rates(found: &mut Problems, at: &str, messages: Option<u32>, bytes: Option<u64>, or: &str) {
    if messages == Some(0) {
        found.add(
            &format!("{at}.messagesPerSecond"),
            &format!("is 0, so nothing would be taken; give 1 or more{or}"),
        );
    }
    if bytes.is_some_and(|rate| rate < 1000) {
        found.add(
            &format!("{at}.bytesPerSecond"),
            "is less than 1000, so that one stanza would take minutes; give 1000 or more",
        );
    }
}

/// Whether two sockets cannot listen at these addresses at once. Port 0 is a different one each time.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let wide = |address: SocketAddr| address.ip().is_unspecified();
    a.port() != 0 && a.port() == b.port() && (a.ip() == b.ip() || wide(a) || wide(b))
}

struct Problems(Vec<Problem>);

impl Problems {
    fn add(&mut self, field: &str, message: &str) {
        self.0.push(Problem {
            field: field.to_owned(),
            message: message.to_owned(),
            line: None,
        });
    }
}

/// The line of a field in block-style YAML: follows the keys of the path by their indentation.
/// Returns the line of the deepest key found, `None` if not even the first is.
fn line_of(text: &str, field: &str) -> Option<usize> {
    let mut found = None;
    let mut lines = text.lines().enumerate().peekable();
    for part in field.split('.') {
        let (key, index) = match part.split_once('[') {
            Some((key, index)) => (key, index.trim_end_matches(']').parse::<usize>().ok()),
            None => (part, None),
        };
        let matches = |line: &str| {
            let line = line.trim_start().trim_start_matches("- ").trim_start();
            line.strip_prefix(key).is_some_and(|rest| rest.starts_with(':'))
        };
        let mut here = None;
        for (number, line) in lines.by_ref() {
            if matches(line) {
                here = Some((number, line));
                break;
            }
        }
        let Some((number, line)) = here else {
            return found;
        };
        found = Some(number + 1);
        // A list on the key's own line has its entries there.
        let inline = line.split_once(':').map_or("", |(_, rest)| rest.trim());
        let Some(index) = index.filter(|_| inline.is_empty() || inline.starts_with('#')) else {
            continue;
        };
        let indent = line.len() - line.trim_start().len();
        let mut seen = 0;
        while let Some((number, line)) = lines.peek().copied() {
            let own = line.len() - line.trim_start().len();
            if line.trim_start().starts_with("- ") && own >= indent && own <= indent + 4 {
                if seen == index {
                    found = Some(number + 1);
                    break;
                }
                seen += 1;
            }
            lines.next();
        }
    }
    found
}

#[cfg(test)]
mod tests;
