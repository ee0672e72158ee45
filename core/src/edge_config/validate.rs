//! Rules that span fields, and values whose implementation is still to come.

use std::collections::HashSet;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use super::types::{EdgeConfig, TlsMode};

/// Elements inside each other that the edge can write anew, the stanza itself included.
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

impl EdgeConfig {
    /// Reads a YAML text and validates it.
    pub fn from_yaml(text: &str) -> Result<Self, ConfigError> {
        let config: Self = serde_yaml::from_str(text).map_err(|error| {
            let line = error.location().map(|location| location.line());
            // The reader's own text ends with the position, which the problem carries already.
            let message = error.to_string();
            let message = message.split(" at line ").next().unwrap_or(&message);
            ConfigError(vec![Problem {
                field: String::new(),
                message: message.to_owned(),
                line,
            }])
        })?;
        let mut problems = config.problems();
        for problem in &mut problems {
            problem.line = line_of(text, &problem.field);
        }
        if problems.is_empty() {
            Ok(config)
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
        self.check_peers(&mut found);
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
        let mut routed = HashSet::new();
        for (i, route) in self.static_routes.iter().enumerate() {
            let field = format!("staticRoutes[{i}].domain");
            if hosted.contains(&route.domain) {
                found.add(
                    &field,
                    &format!(
                        "{} is hosted here and routed elsewhere; remove it from domains or from staticRoutes",
                        route.domain
                    ),
                );
            }
            if !routed.insert(&route.domain) {
                found.add(
                    &field,
                    &format!("{} has two entries; put all its addresses into one", route.domain),
                );
            }
            if route.addresses.is_empty() {
                found.add(
                    &format!("staticRoutes[{i}].addresses"),
                    "is empty; give at least one address, or remove the route so that DNS is used",
                );
            }
        }
        for (i, domain) in self.privacy.domains.iter().enumerate() {
            if hosted.contains(domain) {
                found.add(
                    &format!("privacy.domains[{i}]"),
                    &format!("{domain} is hosted here; the list names remote domains only"),
                );
            }
        }
    }

    /// Whether TLS is spoken with anybody: certificates are needed and read then.
    pub fn uses_tls(&self) -> bool {
        let off = TlsMode::Disabled;
        self.tls.mode != off
            || self.listen.direct_tls.is_some()
            || self
                .peers
                .iter()
                .any(|peer| peer.tls_mode.is_some_and(|mode| mode != off))
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

    fn check_peers(&self, found: &mut Problems) {
        let mut known = HashSet::new();
        for (i, peer) in self.peers.iter().enumerate() {
            let at = |field: &str| format!("peers[{i}].{field}");
            if self.domains.contains(&peer.domain) {
                found.add(
                    &at("domain"),
                    &format!("{} is hosted here; peers are remote domains", peer.domain),
                );
            }
            if !known.insert(&peer.domain) {
                found.add(
                    &at("domain"),
                    &format!("{} has two entries; put everything into one", peer.domain),
                );
            }
            if peer.max_stanza_bytes.is_some_and(|most| most < 10_000) {
                found.add(
                    &at("maxStanzaBytes"),
                    "is less than 10000, which every server must take (RFC 6120 section 13.12)",
                );
            }
            if peer.messages_per_second == Some(0) {
                found.add(
                    &at("messagesPerSecond"),
                    "is 0, so nothing would be taken; give 1 or more, or deny the domain in privacy",
                );
            }
            if peer.bytes_per_second.is_some_and(|rate| rate < 1000) {
                found.add(
                    &at("bytesPerSecond"),
                    "is less than 1000, so that one stanza would take minutes; give 1000 or more",
                );
            }
            if peer.tls_mode.unwrap_or(self.tls.mode) == TlsMode::Disabled {
                let required = peer.require_certificate.unwrap_or(self.tls.require_client_certificates);
                if !peer.pinned_sha256.is_empty() {
                    found.add(
                        &at("pinnedSha256"),
                        "cannot hold without TLS, where nobody shows a certificate; set this peer's tlsMode to Required",
                    );
                } else if required {
                    let remedy = if peer.require_certificate.is_some() {
                        "set this peer's tlsMode to Required, or requireCertificate to false"
                    } else {
                        "set requireCertificate to false here, against tls.requireClientCertificates"
                    };
                    found.add(
                        &at("requireCertificate"),
                        &format!("true cannot hold with tlsMode Disabled, where nobody shows a certificate; {remedy}"),
                    );
                }
            }
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
            if network.prefix() == 0 {
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
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use rstest::rstest;

    const GOOD: &str = "\
domains:
- coluc.com
dialback:
  sign: /secrets/dialback
tls:
  mode: Required
  certificates:
  - certificateFile: /tls/tls.crt
    privateKeyFile: /tls/tls.key
privacy:
  mode: AllowList
  domains:
  - vngtp.lab
routers:
- name: main
  componentIds: [cm-2_s2scp-1.eft-xwye-a-coluc-com]
  secretFile: /secrets/router
  endpoints:
  - name: ecup10.coluc.com
    address: 10.244.200.10:7400
";

    #[test]
    fn a_configuration_reads_back_as_it_was_written() {
        let config = EdgeConfig::from_yaml(GOOD).unwrap();
        assert_eq!(EdgeConfig::from_yaml(&config.to_yaml()).unwrap(), config);
        assert_eq!(config.listen.s2s.port(), 5269);
    }

    #[rstest]
    #[case("mode: Required", "mode: Off", "line 6", "Required")]
    #[case("  - vngtp.lab", "  - VNGTP.lab", "line 13", "vngtp.lab")]
    #[case("  - vngtp.lab", "  - coluc.com", "line 13", "hosted here")]
    #[case("- coluc.com", "- localhost", "line 2", "single label")]
    #[case("privacy:", "privacyy:", "line 10", "unknown field `privacyy`")]
    #[case(
        "address: 10.244.200.10:7400",
        "address: 10.244.200.10",
        "line 19",
        "host and a port"
    )]
    fn errors_name_line_value_and_what_is_allowed(
        #[case] from: &str,
        #[case] to: &str,
        #[case] line: &str,
        #[case] says: &str,
    ) {
        let error = EdgeConfig::from_yaml(&GOOD.replacen(from, to, 1))
            .unwrap_err()
            .to_string();
        assert!(error.contains(line), "{error}");
        assert!(error.contains(says), "{error}");
    }

    #[rstest]
    #[case("listen:\n  directTls: '[::]:5270'\n", "")]
    #[case("listen:\n  s2s: '192.0.2.1:5269'\n  directTls: '192.0.2.2:5269'\n", "")]
    #[case("listen: {s2s: '127.0.0.1:0', directTls: '127.0.0.1:0'}\n", "")]
    #[case(
        "listen:\n  directTls: '[::]:5269'\n",
        "line 22: listen.directTls: [::]:5269 is taken by listen.s2s already"
    )]
    #[case(
        "listen:\n  directTls: '192.0.2.1:8080'\n",
        "line 22: listen.directTls: 192.0.2.1:8080 is taken by listen.admin already"
    )]
    #[case("proxyProtocol:\n  trustedSources:\n  - 10.0.0.0/8\n  - 2001:db8::/32\n", "")]
    #[case(
        "proxyProtocol:\n  trustedSources:\n  - 10.0.0.0/8\n  - 0.0.0.0/0\n",
        "line 24: proxyProtocol.trustedSources[1]: 0.0.0.0/0 is every address"
    )]
    #[case(
        "proxyProtocol:\n  trustedSources: [balancer.example]\n",
        "\"balancer.example\" is not a network such as 192.0.2.0/24"
    )]
    fn listeners_and_trusted_sources_are_checked(#[case] more: &str, #[case] says: &str) {
        let result = EdgeConfig::from_yaml(&format!("{GOOD}{more}"));
        match result {
            Ok(_) => assert_eq!(says, "", "{more} was accepted"),
            Err(error) => {
                let error = error.to_string();
                assert!(!says.is_empty() && error.contains(says), "{error}");
            }
        }
    }

    #[rstest]
    #[case("negotiationTimeout: 0s", "line 22: limits.negotiationTimeout: 0ms is too short")]
    #[case("dialbackTimeout: 999ms", "line 22: limits.dialbackTimeout: 999ms is too short")]
    #[case("idleTimeout: 0h", "line 22: limits.idleTimeout: 0ms is too short")]
    #[case("idleTimeout: 1000ms", "")]
    #[case("maxDepth: 256", "")]
    #[case("maxDepth: 257", "line 22: limits.maxDepth: 257 is too large")]
    fn limits_that_let_nobody_in_are_refused(#[case] limit: &str, #[case] says: &str) {
        match EdgeConfig::from_yaml(&format!("{GOOD}limits:\n  {limit}\n")) {
            Ok(_) => assert_eq!(says, "", "{limit} was accepted"),
            Err(error) => {
                let error = error.to_string();
                assert!(!says.is_empty() && error.contains(says), "{error}");
            }
        }
    }

    #[test]
    fn direct_tls_without_tls_is_refused() {
        let text = format!("{GOOD}listen:\n  directTls: '[::]:5270'\n");
        let error = EdgeConfig::from_yaml(&text.replacen("Required", "Disabled", 1))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("line 22: listen.directTls: needs TLS, which tls.mode Disabled"),
            "{error}"
        );
    }

    #[test]
    fn a_domain_both_hosted_and_routed_is_refused() {
        let text = format!("{GOOD}staticRoutes:\n- domain: coluc.com\n  addresses: ['198.51.100.20:5269']\n");
        let error = EdgeConfig::from_yaml(&text).unwrap_err().to_string();
        assert!(
            error.contains("line 22: staticRoutes[0].domain: coluc.com is hosted here"),
            "{error}"
        );
    }

    const CERTIFICATES: &str = "  certificates:\n  - certificateFile: /tls/tls.crt\n    privateKeyFile: /tls/tls.key\n";

    #[rstest]
    #[case::optional("mode: Required", "mode: Optional", "", None)]
    #[case::optional_with_required_certificates(
        "mode: Required",
        "mode: Optional\n  requireClientCertificates: true",
        "",
        None
    )]
    #[case::disabled("mode: Required", "mode: Disabled", "", None)]
    #[case::required_certificates("mode: Required", "mode: Required\n  requireClientCertificates: true", "", None)]
    #[case::certificates_without_tls(
        "mode: Required",
        "mode: Disabled\n  requireClientCertificates: true",
        "",
        Some("line 7: tls.requireClientCertificates: true cannot hold with tls.mode Disabled")
    )]
    #[case::nothing_to_show(CERTIFICATES, "", "", Some("tls.certificates: is empty"))]
    #[case::nothing_to_show_to_a_peer(
        "mode: Required\n  certificates:\n  - certificateFile: /tls/tls.crt\n    privateKeyFile: /tls/tls.key\n",
        "mode: Disabled\n",
        "- domain: vngtp.lab\n  tlsMode: Required\n",
        Some("tls.certificates: is empty")
    )]
    #[case::nothing_needed_without_tls(
        "mode: Required\n  certificates:\n  - certificateFile: /tls/tls.crt\n    privateKeyFile: /tls/tls.key\n",
        "mode: Disabled\n",
        "",
        None
    )]
    #[case::peer("", "", "- domain: vngtp.lab\n  tlsMode: Disabled\n", None)]
    #[case::hosted_peer(
        "",
        "",
        "- domain: coluc.com\n",
        Some("line 22: peers[0].domain: coluc.com is hosted here")
    )]
    #[case::peer_twice(
        "",
        "",
        "- domain: a.example\n- domain: a.example\n",
        Some("line 23: peers[1].domain: a.example has two entries")
    )]
    #[case::pin(
        "",
        "",
        "- domain: a.example\n  pinnedSha256: [AA:BB]\n",
        Some("line 23: peers[0].pinnedSha256: \"AA:BB\" is not a SHA-256 fingerprint")
    )]
    #[case::small_stanzas(
        "",
        "",
        "- domain: a.example\n  maxStanzaBytes: 9999\n",
        Some("line 23: peers[0].maxStanzaBytes: is less than 10000")
    )]
    #[case::no_messages(
        "",
        "",
        "- domain: a.example\n  messagesPerSecond: 0\n",
        Some("line 23: peers[0].messagesPerSecond: is 0")
    )]
    #[case::no_bytes(
        "",
        "",
        "- domain: a.example\n  bytesPerSecond: 999\n",
        Some("line 23: peers[0].bytesPerSecond: is less than 1000")
    )]
    #[case::rates(
        "",
        "",
        "- domain: a.example\n  maxStanzaBytes: 10000\n  messagesPerSecond: 1\n  bytesPerSecond: 1000\n",
        None
    )]
    #[case::good_pin(
        "",
        "",
        "- domain: a.example\n  pinnedSha256: [0123456789ABCDEF0123456789abcdef0123456789abcdef0123456789abcdef]\n",
        None
    )]
    #[case::pin_without_tls(
        "",
        "",
        "- domain: a.example\n  tlsMode: Disabled\n  pinnedSha256: ['0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef']\n",
        Some("peers[0].pinnedSha256: cannot hold without TLS")
    )]
    #[case::certificate_without_tls(
        "",
        "",
        "- domain: a.example\n  tlsMode: Disabled\n  requireCertificate: true\n",
        Some("line 24: peers[0].requireCertificate: true cannot hold")
    )]
    #[case::inherited_certificate_without_tls(
        "mode: Required",
        "mode: Required\n  requireClientCertificates: true",
        "- domain: a.example\n  tlsMode: Disabled\n",
        Some("set requireCertificate to false here")
    )]
    fn what_tls_and_peers_may_say(
        #[case] from: &str,
        #[case] to: &str,
        #[case] peers: &str,
        #[case] refused: Option<&str>,
    ) {
        let mut text = GOOD.replacen(from, to, 1);
        if !peers.is_empty() {
            text = text + "peers:\n" + peers;
        }
        let read = EdgeConfig::from_yaml(&text).map_err(|error| error.to_string());
        match (read, refused) {
            (Ok(_), None) => {}
            (Err(error), Some(says)) => {
                assert!(error.contains(says), "{error}\nshould contain\n{says}");
            }
            (read, refused) => panic!("{read:?} and not {refused:?}"),
        }
    }
}
