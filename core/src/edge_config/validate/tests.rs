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
    "domains:",
    "writtenBy: newest\ndomains:",
    "line 1",
    "is not a version such as 0.1.0"
)]
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
#[case(
    "messagesPerSecond: 0",
    "line 22: limits.messagesPerSecond: is 0, so nothing would be taken; give 1 or more, or remove it"
)]
#[case("bytesPerSecond: 999", "line 22: limits.bytesPerSecond: is less than 1000")]
#[case("messagesPerSecond: 1", "")]
#[case("bytesPerSecond: 1000", "")]
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
    let text = format!("{GOOD}partners:\n- domain: coluc.com\n  route: [{{host: 198.51.100.20}}]\n");
    let error = EdgeConfig::from_yaml(&text).unwrap_err().to_string();
    assert!(
        error.contains("line 22: partners[0].domain: coluc.com is hosted here"),
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
    "- domain: vngtp.lab\n  tls: {mode: Required}\n",
    Some("tls.certificates: is empty")
)]
#[case::nothing_needed_without_tls(
    "mode: Required\n  certificates:\n  - certificateFile: /tls/tls.crt\n    privateKeyFile: /tls/tls.key\n",
    "mode: Disabled\n",
    "",
    None
)]
#[case::peer("", "", "- domain: vngtp.lab\n  tls: {mode: Disabled}\n", None)]
#[case::hosted_peer(
    "",
    "",
    "- domain: coluc.com\n",
    Some("line 22: partners[0].domain: coluc.com is hosted here")
)]
#[case::peer_twice(
    "",
    "",
    "- domain: a.example\n- domain: a.example\n",
    Some("line 23: partners[1].domain: a.example has two entries")
)]
#[case::wildcard(
    "",
    "",
    "- domain: '*.a.example'\n- domain: a.example\n- domain: b.a.example\n",
    None
)]
#[case::wildcard_above_a_hosted_name("", "", "- domain: '*.coluc.com'\n", None)]
#[case::wildcard_twice(
    "",
    "",
    "- domain: '*.a.example'\n- domain: '*.a.example'\n",
    Some("line 23: partners[1].domain: *.a.example has two entries")
)]
#[case::wildcard_of_a_top_level_domain(
    "",
    "",
    "- domain: '*.example'\n",
    Some("line 22: partners[0]: \"*.example\" covers a whole top-level domain")
)]
#[case::wildcard_in_another_spelling(
    "",
    "",
    "- domain: '*.bücher.example'\n",
    Some("write \"*.xn--bcher-kva.example\"")
)]
#[case::listed_and_partner("", "", "- domain: vngtp.lab\n  tls: {mode: Optional}\n", None)]
#[case::route(
    "",
    "",
    "- domain: a.example\n  route:\n  - host: 2001:db8::1\n  - {host: edge_1.a.example, port: 5270}\n",
    None
)]
#[case::wildcard_with_route("", "", "- domain: '*.a.example'\n  route: [{host: 192.0.2.1}]\n", None)]
#[case::route_without_host(
    "",
    "",
    "- domain: a.example\n  route: []\n",
    Some("line 22: partners[0]: the route is empty; give at least one host, or remove it so that DNS is used")
)]
#[case::host_with_port(
    "",
    "",
    "- domain: a.example\n  route:\n  - host: 192.0.2.1:5269\n",
    Some("line 24: partners[0].route[0].host: \"192.0.2.1:5269\" is not a host; write a name")
)]
#[case::port(
    "",
    "",
    "- domain: a.example\n  route:\n  - host: 192.0.2.1\n    port: 0\n",
    Some("line 25: partners[0].route[0].port: 0 is not a TCP port")
)]
#[case::pin(
    "",
    "",
    "- domain: a.example\n  tls: {pinnedSha256: [AA:BB]}\n",
    Some("line 23: partners[0].tls.pinnedSha256: \"AA:BB\" is not a SHA-256 fingerprint")
)]
#[case::small_stanzas(
    "",
    "",
    "- domain: a.example\n  limits: {maxStanzaBytes: 9999}\n",
    Some("line 23: partners[0].limits.maxStanzaBytes: is less than 10000")
)]
#[case::no_messages(
    "",
    "",
    "- domain: a.example\n  limits: {messagesPerSecond: 0}\n",
    Some("line 23: partners[0].limits.messagesPerSecond: is 0")
)]
#[case::no_bytes(
    "",
    "",
    "- domain: a.example\n  limits: {bytesPerSecond: 999}\n",
    Some("line 23: partners[0].limits.bytesPerSecond: is less than 1000")
)]
#[case::rates(
    "",
    "",
    "- domain: a.example\n  limits: {maxStanzaBytes: 10000, messagesPerSecond: 1, bytesPerSecond: 1000}\n",
    None
)]
#[case::good_pin(
    "",
    "",
    "- domain: a.example\n  tls: {pinnedSha256: [0123456789ABCDEF0123456789abcdef0123456789abcdef0123456789abcdef]}\n",
    None
)]
#[case::pin_without_tls(
    "",
    "",
    "- domain: a.example\n  tls:\n    mode: Disabled\n    pinnedSha256: ['0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef']\n",
    Some("partners[0].tls.pinnedSha256: cannot hold without TLS")
)]
#[case::certificate_without_tls(
    "",
    "",
    "- domain: a.example\n  tls:\n    mode: Disabled\n    requireCertificate: true\n",
    Some("line 25: partners[0].tls.requireCertificate: true cannot hold")
)]
#[case::inherited_certificate_without_tls(
    "mode: Required",
    "mode: Required\n  requireClientCertificates: true",
    "- domain: a.example\n  tls: {mode: Disabled}\n",
    Some("set requireCertificate to false here")
)]
fn what_tls_and_partners_may_say(
    #[case] from: &str,
    #[case] to: &str,
    #[case] partners: &str,
    #[case] refused: Option<&str>,
) {
    let mut text = GOOD.replacen(from, to, 1);
    if !partners.is_empty() {
        text = text + "partners:\n" + partners;
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
