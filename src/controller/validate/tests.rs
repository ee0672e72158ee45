#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
use super::claims::claim;
use super::*;
use crate::api::{XmppFederation, spec};
use crate::controller::testing::{entry, owner, settings, spec_with, validated, with_entries};
use rstest::rstest;
use serde_json::{Value, json};

fn sentences(path: &str, value: Value) -> String {
    match validated(&spec_with(path, value)) {
        Err(Refusal::Invalid(sentences)) => sentences.join("; "),
        other => panic!("{path} was accepted: {other:?}"),
    }
}

#[test]
fn the_guides_resource_gets_the_guides_component_ids() {
    let valid = validated(&spec_with("", Value::Null)).unwrap();
    let ids: Vec<&str> = valid.component_ids.iter().map(ComponentId::as_str).collect();
    assert_eq!(
        ids,
        [
            "cm-2_s2scp-1.eft-xwye-a-coluc-com",
            "cm-2_s2scp-1.eft-xwye-a-1-coluc-com"
        ]
    );
    let names: Vec<&str> = valid.certificate_names.iter().map(Domain::as_str).collect();
    assert_eq!(names, ["coluc.com", "conf.coluc.com", "eft-xwye-a.coluc.com"]);
    assert!(valid.active);
}

#[rstest]
#[case(include_str!("../../../deploy/samples/coluc.yaml"))]
#[case(include_str!("../../../deploy/samples/partners.yaml"))]
fn the_samples_have_no_contradiction(#[case] sample: &str) {
    let resource: XmppFederation = serde_yaml::from_str(sample).unwrap();
    let valid = validated(&resource.spec);
    assert!(valid.is_ok(), "{:?}", valid.err());
}

#[rstest]
#[case::a_new_resource(None, json!({}), 5, "spec.edge.slots: absent, which means 4, is less than replicas (5); each replica needs a component id registered ahead: lower replicas, or set slots to 5, which restarts Cisco XCP Router on every node")]
#[case::recorded(None, json!({"edge": {"replicas": 2, "readyReplicas": 2, "selector": "", "slots": 2}}), 3, "spec.edge.slots: 2, as recorded at the first registration, is less than replicas (3)")]
#[case::given(Some(2), json!({}), 3, "spec.edge.slots: 2 is less than replicas (3)")]
fn more_replicas_than_slots_are_refused(
    #[case] given: Option<i32>,
    #[case] status: Value,
    #[case] replicas: i32,
    #[case] says: &str,
) {
    let mut spec = spec_with("", Value::Null);
    (spec.edge.slots, spec.edge.replicas) = (given, replicas);
    let status = serde_json::from_value(status).unwrap();
    let validated = |spec: &XmppFederationSpec| {
        let slots = Slots::of(spec, Some(&status), None);
        run(owner(), spec, slots, &settings(), &[])
    };
    let refusal = validated(&spec).unwrap_err().to_string();
    assert!(refusal.starts_with(says), "{refusal}");
    spec.edge.replicas -= 1;
    let valid = validated(&spec).unwrap();
    assert_eq!(valid.component_ids.len(), usize::from(valid.replicas));
}

#[rstest]
#[case("SELECT paramvalue FROM processconfig WHERE paramname = 'x'", true)]
#[case("select into_value from t", true)]
#[case("SELECT a FROM b; DELETE FROM b", false)]
#[case("SELECT a FROM b INTO TEMP c", false)]
#[case("SELECT a FROM b\nWHERE c", false)]
#[case("DELETE FROM b", false)]
#[case("EXECUTE PROCEDURE select ()", false)]
#[case("selection", false)]
fn a_check_of_the_federation_only_reads(#[case] query: &str, #[case] taken: bool) {
    let check = json!({"query": query, "offValue": "0"});
    let valid = validated(&spec_with("/imp/0/federationCheck", check));
    assert_eq!(valid.is_ok(), taken, "{:?}", valid.err());
}

#[rstest]
#[case("resources", json!({"limit": {"memory": "1Gi"}}), "spec.edge.pod.resources.limit: unknown field; did you mean limits")]
#[case("resources", json!({"memory": "1Gi"}), "spec.edge.pod.resources.memory: unknown field; remove it, or write one of claims, limits, requests")]
#[case("resources", json!({"claims": [{"nam": "x", "name": "x"}]}), "spec.edge.pod.resources.claims[0].nam: unknown field; did you mean name")]
#[case("tolerations", json!([{"operator": "Exists"}, {"operater": "Exists"}]), "spec.edge.pod.tolerations[1].operater: unknown field; did you mean operator")]
#[case("tolerations", json!([{"Key": "a"}]), "spec.edge.pod.tolerations[0].Key: unknown field; did you mean key")]
#[case("affinity", json!({"nodeAffinty": {}}), "spec.edge.pod.affinity.nodeAffinty: unknown field; did you mean nodeAffinity")]
#[case("affinity", json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpression": []}]}}}), "spec.edge.pod.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpression: unknown field; did you mean matchExpressions")]
#[case("topologySpreadConstraints", json!([{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway", "labelSelecter": {}}]), "spec.edge.pod.topologySpreadConstraints[0].labelSelecter: unknown field; did you mean labelSelector")]
#[case("securityContext", json!({"runAsUsr": 1}), "spec.edge.pod.securityContext.runAsUsr: unknown field; did you mean runAsUser")]
#[case("imagePullSecrets", json!([{"nane": "x"}]), "spec.edge.pod.imagePullSecrets[0].nane: unknown field; did you mean name")]
fn a_misspelt_field_of_the_pods_is_named_by_its_path(#[case] field: &str, #[case] value: Value, #[case] says: &str) {
    assert_eq!(sentences("/edge/pod", json!({field: value})), says);
}

#[rstest]
#[case("metricsFrom", json!([{"namespaceSelecter": {}}]), "metricsFrom[0].namespaceSelecter: unknown field; did you mean namespaceSelector")]
#[case("metricsFrom", json!([{"podSelector": {}}, {"podSelector": {"matchLabel": {"app": "prometheus"}}}]), "metricsFrom[1].podSelector.matchLabel: unknown field; did you mean matchLabels")]
#[case("metricsFrom", json!([{"ipBlock": {"cidr": "192.0.2.0/24", "excpt": []}}]), "metricsFrom[0].ipBlock.excpt: unknown field; did you mean except")]
#[case("extraIngress", json!([{"to": []}]), "extraIngress[0].to: unknown field; remove it, or write one of from, ports")]
#[case("extraIngress", json!([{"from": [{"ipBlok": {}}]}]), "extraIngress[0].from[0].ipBlok: unknown field; did you mean ipBlock")]
#[case("extraEgress", json!([{"ports": [{"port": 5269, "protcol": "TCP"}]}]), "extraEgress[0].ports[0].protcol: unknown field; did you mean protocol")]
fn a_misspelt_field_of_the_network_policy_is_named_by_its_path(
    #[case] field: &str,
    #[case] value: Value,
    #[case] says: &str,
) {
    let said = sentences("/edge/networkPolicy", json!({field: value}));
    assert_eq!(said, format!("spec.edge.networkPolicy.{says}"));
}

#[test]
fn what_kubernetes_has_of_network_policies_is_taken() {
    let selector = json!({"matchLabels": {"any-key": "y"}, "matchExpressions": [{"key": "a", "operator": "Exists"}]});
    let peers = json!([{"namespaceSelector": selector, "podSelector": {}}, {"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.1/32"]}}]);
    let ports = json!([{"port": "metrics", "protocol": "TCP"}, {"port": 9000, "endPort": 9100}]);
    let policy = json!({
        "metricsFrom": peers,
        "extraIngress": [{"from": peers, "ports": ports}, {}],
        "extraEgress": [{"to": peers, "ports": ports}],
    });
    let valid = validated(&spec_with("/edge/networkPolicy", policy));
    assert!(valid.is_ok(), "{:?}", valid.err());
}

#[test]
fn what_kubernetes_has_of_the_pods_is_taken() {
    let labels = json!({"matchLabels": {"app.kubernetes.io/instance": "x", "any-key": "y"}});
    let term = json!({"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]});
    let pod = json!({
        "resources": {"limits": {"memory": "1Gi", "cpu": 1, "vendor.example/nic": "1"}, "requests": {"cpu": "0.5"}, "claims": null},
        "tolerations": [{"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}],
        "affinity": {
            "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}},
            "podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 1, "podAffinityTerm": {"topologyKey": "zone", "labelSelector": labels, "matchLabelKeys": ["x"]}}
            ]},
        },
        "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": labels, "minDomains": 2}],
        "imagePullSecrets": [{"name": "registry"}],
    });
    let valid = validated(&spec_with("/edge/pod", pod));
    assert!(valid.is_ok(), "{:?}", valid.err());
}

#[test]
fn a_value_of_another_type_in_the_pods_is_named_by_its_path() {
    let pod = json!({"tolerations": [{"tolerationSeconds": "soon"}]});
    let error = serde_json::from_value::<spec::PodSpec>(pod).unwrap_err().to_string();
    assert!(error.contains("tolerationSeconds: invalid type"), "{error}");
}

#[rstest]
#[case("/domains", json!(["bücher.example"]), "write \"xn--bcher-kva.example\"")]
#[case("/domains", json!(["192.0.2.1"]), "is an IP address")]
#[case("/privacy/domains", json!(["coluc.com"]), "hosted here; the list names remote domains only")]
#[case("/privacy/domains", json!(["*.com"]), "spec.privacy.domains[0]: \"*.com\" covers a whole top-level domain")]
#[case("/privacy/domains", json!(["*.bücher.example"]), "write \"*.xn--bcher-kva.example\"")]
#[case("/partners", json!([{"domain": "conf.coluc.com", "route": [{"host": "198.51.100.20"}]}]), "spec.partners[0].domain: conf.coluc.com is hosted here; partners are remote domains")]
#[case("/chatNodeAliases", json!(["coluc.com"]), "listed twice")]
#[case("/edge/slots", json!(1), "each replica needs a component id")]
#[case("/edge/publicAddresses", json!(["edge"]), "is not an IP address")]
#[case("/imp/0/domains", json!(["other.example"]), "add it there")]
#[case("/imp/0/nodes", json!([{"name": "ecup10.coluc.com", "address": "ecup10:7400"}]), "spec.imp[main].nodes[ecup10.coluc.com].address: \"ecup10:7400\" is not a host name such as imp1.example.com, or an IP address")]
#[case("/imp/0/nodes", json!([{"name": "ecup10.coluc.com", "address": "192.0.2.300"}]), "spec.imp[main].nodes[ecup10.coluc.com].address: \"192.0.2.300\" is not")]
#[case("/imp/0/tls", json!({"pinnedSha256": ["zz"]}), "64 hexadecimal digits")]
#[case("/imp/0/axl", json!({"version": "14"}), "spec.imp[main].axl.version: \"14\" is not an AXL version; write major and minor number")]
#[case("/imp/0/axl", json!({"port": 0}), "spec.imp[main].axl.port: 0 is not a TCP port; write 1 to 65535")]
#[case("/imp/0/router/port", json!(74000), "spec.imp[main].router.port: 74000 is not a TCP port")]
#[case("/partners", json!([{"domain": "a.example", "route": [{"host": "198.51.100.20", "port": -1}]}]), "spec.partners[0].route[0].port: -1 is not a TCP port")]
#[case("/partners", json!([{"domain": "a.example", "route": [{"host": "198.51.100.20:5269"}]}]), "spec.partners[0].route[0].host: \"198.51.100.20:5269\" is not a host")]
#[case("/imp/0/router", json!({"profile": "Xcp"}), "spec.imp[main].router.secretRef: is missing; name the Secret and the key")]
#[case("/imp/0/restart", json!(null), "spec.imp[main].restart: is missing; write restart.mode, Automatic, Window or Manual")]
#[case("/imp/0/restart", json!({"mode": "Window"}), "spec.imp[main].restart.mode: Window needs restart.window")]
#[case("/imp/0/restart", json!({"mode": "Window", "window": {"schedule": "0 2 30 2 *", "duration": "1h"}}), "spec.imp[main].restart.window.schedule: \"0 2 30 2 *\" never comes")]
#[case("/imp/0/restart", json!({"mode": "Window", "window": {"schedule": "0 2 * * *", "duration": "30s"}}), "spec.imp[main].restart.window.duration: 30 s is too short")]
#[case("/imp/0/restart", json!({"mode": "Window", "window": {"schedule": "0 2 * * *", "duration": "1h", "timeZone": "CEST"}}), "spec.imp[main].restart.window.timeZone: \"CEST\" is not")]
#[case("/edge/proxyProtocol", json!({"trustedSources": ["lb"]}), "trustedSources[0]: \"lb\" is not a network")]
#[case("/edge/proxyProtocol", json!({"trustedSources": ["0.0.0.0/0"]}), "proxyProtocol.trustedSources[0]: 0.0.0.0/0 is every address")]
#[case("/tls", json!({"mode": "Disabled", "requireClientCertificates": true}), "tls.requireClientCertificates: true cannot hold with tls.mode Disabled")]
#[case("/partners", json!([{"domain": "coluc.com"}]), "spec.partners[0].domain: coluc.com is hosted here")]
#[case("/partners", json!([{"domain": "a.example"}, {"domain": "a.example"}]), "spec.partners[1].domain: a.example has two entries")]
#[case("/partners", json!([{"domain": "xn--bcher-kva.example"}, {"domain": "bücher.example"}]), "spec.partners[1].domain: \"bücher.example\" is not in canonical form; write \"xn--bcher-kva.example\"")]
#[case("/partners", json!([{"domain": "a.example", "route": []}]), "spec.partners[0].route: is empty; give at least one host")]
#[case("/partners", json!([{"domain": "*.example"}]), "spec.partners[0].domain: \"*.example\" covers a whole top-level domain")]
#[case("/partners", json!([{"domain": "a.example", "tls": {"pinnedSha256": ["zz"]}}]), "spec.partners[0].tls.pinnedSha256: \"zz\" is not a SHA-256")]
#[case("/partners", json!([{"domain": "a.example", "tls": {"mode": "Disabled", "requireCertificate": true}}]), "spec.partners[0].tls.requireCertificate: true cannot hold with tls.mode Disabled, where nobody shows a certificate; set this partner's tls.mode to Required")]
fn a_wrong_value_is_named_with_its_field_and_remedy(#[case] path: &str, #[case] value: Value, #[case] says: &str) {
    let said = sentences(path, value);
    assert!(said.contains(says), "{said}");
}

#[test]
fn a_profile_of_a_later_release_is_refused_in_one_sentence_and_needs_neither_secret_nor_restarts() {
    let mut spec = crate::controller::testing::spec();
    let entry = spec.pointer_mut("/imp/0").unwrap().as_object_mut().unwrap();
    entry.remove("restart");
    entry.insert("router".to_owned(), json!({"profile": "S2s"}));
    let refused = validated(&serde_json::from_value(spec).unwrap()).unwrap_err();
    let Refusal::Invalid(sentences) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(
        sentences,
        [
            "spec.imp[].router.profile S2s is not available in this release; use Component and switch IM and Presence's own XMPP federation off"
        ]
    );
}

#[rstest]
#[case::stored_by_an_earlier_release(json!({"port": 7400, "profile": "Component", "secretRef": {"name": "r", "key": "k"}}), 7400)]
#[case::the_usual_port(json!({"secretRef": {"name": "r", "key": "k"}}), 7400)]
#[case::another_one(json!({"port": 7401, "secretRef": {"name": "r", "key": "k"}}), 7401)]
fn links_go_to_the_port_that_is_given_or_7400(#[case] router: Value, #[case] port: u16) {
    let valid = validated(&spec_with("/imp/0/router", router)).unwrap();
    assert_eq!(valid.imp[0].router.port, port);
}

#[rstest]
#[case::no_node_port_inside(json!({"type": "ClusterIP", "nodePort": 31269}), &["nodePort: a Service of type ClusterIP has no node port; remove it, or choose type NodePort or LoadBalancer"])]
#[case::nor_of_direct_tls(json!({"type": "ClusterIP", "nodePort": 31269, "directTlsNodePort": 31270}), &["nodePort: a Service", "directTlsNodePort: a Service"])]
#[case::no_health_check_without_balancer(json!({"type": "NodePort", "healthCheckNodePort": 31271}), &["healthCheckNodePort: a Service of type NodePort has no load balancer; remove it, or choose type LoadBalancer"])]
#[case::no_health_check_of_all(json!({"externalTrafficPolicy": "Cluster", "healthCheckNodePort": 31271}), &["healthCheckNodePort: load balancers use it only with externalTrafficPolicy Local; remove it, or choose Local"])]
#[case::no_address_of_a_balancer(json!({"type": "NodePort", "loadBalancerIP": "203.0.113.7"}), &["loadBalancerIP: a Service of type NodePort"])]
#[case::no_class(json!({"type": "ClusterIP", "loadBalancerClass": "example.com/lb"}), &["loadBalancerClass: a Service of type ClusterIP has no load balancer"])]
#[case::no_ranges(json!({"type": "NodePort", "loadBalancerSourceRanges": ["198.51.100.0/24"]}), &["loadBalancerSourceRanges: a Service of type NodePort"])]
#[case::no_node_ports_of_a_balancer(json!({"type": "NodePort", "allocateLoadBalancerNodePorts": true}), &["allocateLoadBalancerNodePorts: a Service of type NodePort"])]
#[case::no_port_of_direct_tls_without_it(json!({"directTlsNodePort": 31270}), &["directTlsNodePort: has no effect while spec.edge.directTls is not enabled; enable that, or remove the port"])]
#[case::all_of_a_balancer(json!({"nodePort": 31269, "healthCheckNodePort": 31271, "loadBalancerIP": "203.0.113.7", "loadBalancerClass": "example.com/lb", "loadBalancerSourceRanges": ["198.51.100.0/24"], "allocateLoadBalancerNodePorts": false}), &[])]
#[case::of_all_nodes(json!({"type": "NodePort", "nodePort": 31269, "externalTrafficPolicy": "Cluster"}), &[])]
#[case::inside(json!({"type": "ClusterIP", "externalTrafficPolicy": "Cluster", "loadBalancerSourceRanges": [], "sessionAffinity": "ClientIP"}), &[])]
fn a_field_that_the_type_of_the_service_leaves_without_effect_is_refused(#[case] value: Value, #[case] says: &[&str]) {
    let said = match validated(&spec_with("/edge/service", value)) {
        Ok(_) => Vec::new(),
        Err(Refusal::Invalid(sentences)) => sentences,
        Err(other) => panic!("{other}"),
    };
    assert_eq!(said.len(), says.len(), "{said:?}");
    for (said, says) in said.iter().zip(says) {
        assert!(said.starts_with(&format!("spec.edge.service.{says}")), "{said}");
    }
}

#[test]
fn a_node_port_of_direct_tls_is_taken_where_that_is_served() {
    for type_ in ["NodePort", "LoadBalancer"] {
        let mut spec = spec_with("/edge/service", json!({"type": type_, "directTlsNodePort": 31270}));
        spec.edge.direct_tls = Some(serde_json::from_value(json!({"enabled": true})).unwrap());
        assert!(validated(&spec).is_ok(), "{type_}");
    }
}

#[rstest]
#[case::of_the_operator(json!({}), &["mirror"])]
#[case::of_the_resource(json!({"imagePullSecrets": [{"name": "own"}]}), &["own"])]
fn pods_pull_by_the_operators_secrets_unless_the_resource_names_some(#[case] pod: Value, #[case] expected: &[&str]) {
    let spec = spec_with("/edge/pod", pod);
    let settings = Settings {
        edge_pull_secrets: vec!["mirror".to_owned()],
        ..settings()
    };
    let slots = Slots::of(&spec, None, None);
    let valid = run(owner(), &spec, slots, &settings, &[]).unwrap();
    let names: Vec<&str> = valid
        .pod
        .image_pull_secrets
        .iter()
        .map(|secret| secret.name.as_str())
        .collect();
    assert_eq!(names, expected);
}

/// By the number that the spec gives, else by the recorded one.
#[rstest]
#[case::given(Some(6), 2, 6, false)]
#[case::above_the_given(Some(6), 2, 7, true)]
#[case::recorded(None, 6, 6, false)]
#[case::above_the_record(None, 2, 3, true)]
fn an_autoscaler_stays_within_the_slots(
    #[case] given: Option<i32>,
    #[case] recorded: u16,
    #[case] most: i32,
    #[case] refused: bool,
) {
    let mut spec = spec_with("/edge/autoscaling", json!({"maxReplicas": most}));
    spec.edge.slots = given;
    let slots = Slots::of(&spec, None, Some(recorded));
    let Err(Refusal::Invalid(said)) = run(owner(), &spec, slots, &settings(), &[]) else {
        panic!("autoscaling is of a later release");
    };
    let field = format!(
        "spec.edge.autoscaling.maxReplicas: {most} is above slots ({}",
        slots.count
    );
    assert_eq!(said.iter().any(|said| said.starts_with(&field)), refused, "{said:?}");
}

#[rstest]
#[case("/edge/autoscaling", json!({"maxReplicas": 4}))]
#[case("/dialback", json!({"rotateEvery": "2160h"}))]
#[case("/dialback", json!({"secretRef": {"name": "a", "key": "b"}}))]
#[case("/tls", json!({"certificate": {"issuerRef": {"name": "a"}}}))]
#[case("/tls", json!({"clientCertificate": {"issuerRef": {"name": "a"}}}))]
#[case("/dns", json!({"publish": "ExternalDns"}))]
fn a_value_that_comes_later_is_refused_also_when_it_is_stored_already(#[case] path: &str, #[case] value: Value) {
    let said = sentences(path, value);
    assert!(said.contains("is not available in this release; "), "{said}");
}

#[rstest]
#[case::peers(&[], &["other.example.net"], &[])]
#[case::split(&["coluc.com"], &["other.example.net"], &["conf.coluc.com"])]
#[case::three(&["coluc.com"], &["b.example.net", "c.example.net"], &["coluc.com", "conf.coluc.com"])]
fn several_clusters_are_taken(#[case] own: &[&str], #[case] publishers: &[&str], #[case] domains: &[&str]) {
    let others: Vec<Value> = publishers
        .iter()
        .zip('b'..)
        .map(|(publisher, name)| entry(&name.to_string(), publisher, domains))
        .collect();
    let valid = validated(&with_entries(own, &others)).unwrap();
    assert_eq!(valid.imp.len(), publishers.len() + 1);
    let hosted = valid.hosted.iter();
    assert!(hosted.clone().all(|d| valid.imp.iter().any(|imp| imp.serves(d))));
}

#[rstest]
#[case::same_publisher(&[], &entry("b", "CUPS.ciscotac.net", &[]), "spec.imp[b].publisher: cups.ciscotac.net is the publisher of spec.imp[main] too")]
#[case::same_name(&[], &entry("main", "b.example.net", &[]), "spec.imp[main]: the name is used by two entries")]
#[case::unserved(&["coluc.com"], &entry("b", "b.example.net", &["coluc.com"]), "spec.imp: no entry serves conf.coluc.com")]
#[case::foreign_domain(&[], &entry("b", "b.example.net", &["other.example"]), "spec.imp[b].domains: other.example is not in spec.domains")]
fn what_two_clusters_may_not_share_is_named(#[case] own: &[&str], #[case] other: &Value, #[case] says: &str) {
    let Err(Refusal::Invalid(sentences)) = validated(&with_entries(own, std::slice::from_ref(other))) else {
        panic!("accepted")
    };
    assert!(sentences.iter().any(|s| s.contains(says)), "{sentences:?}");
}

#[test]
fn an_entry_that_left_the_spec_is_judged_without_its_domains() {
    let left: spec::ImpSpec = serde_json::from_value(entry("b", "B.example.net", &["gone.example"])).unwrap();
    let found = dropped_entry(&left).unwrap();
    assert_eq!(found.publisher(), "b.example.net");
    assert!(found.domains.is_empty());
}

#[rstest]
#[case("192.0.2.10", "192.0.2.10")]
#[case("2001:db8::10", "2001:db8::10")]
#[case("Ecup10.Inside.example", "ecup10.inside.example")]
#[case("ecup10", "ecup10")]
fn a_node_has_a_host_by_address_or_name(#[case] address: &str, #[case] expected: &str) {
    let node = json!([{"name": "ECUP10.coluc.com", "address": address}]);
    let valid = validated(&spec_with("/imp/0/nodes", node)).unwrap();
    let (name, host) = valid.imp.first().unwrap().addresses.first().unwrap();
    assert_eq!(
        (name.as_str(), host.to_string().as_str()),
        ("ecup10.coluc.com", expected)
    );
}

#[test]
fn all_problems_are_told_at_once() {
    let mut spec = spec_with("/domains", json!(["COLUC.com"]));
    spec.edge.slots = Some(1);
    let Err(Refusal::Invalid(sentences)) = validated(&spec) else {
        panic!("accepted")
    };
    assert_eq!(sentences.len(), 2, "{sentences:?}");
}

#[rstest]
// The same domain; a realm that two host names share; nothing in common.
#[case("coluc.com", "other.example.net", Some("coluc.com is served by XmppFederation b/b"))]
#[case("other.example", "eft-xwye.a.coluc.com", Some("follows from the host names"))]
#[case("other.example", "other.example.net", None)]
fn names_of_another_resource_are_refused_naming_it(
    #[case] domain: &str,
    #[case] hostname: &str,
    #[case] says: Option<&str>,
) {
    let mut other = spec_with("/domains", json!([domain]));
    other.chat_node_aliases.clear();
    other.edge.hostname = DomainName(hostname.to_owned());
    let claims = [claim("b/b".to_owned(), &other, None)];
    let spec = spec_with("", Value::Null);
    let result = run(owner(), &spec, Slots::of(&spec, None, None), &settings(), &claims);
    match (result, says) {
        (Err(Refusal::UsedTwice(said)), Some(says)) => {
            assert!(said.contains(says) && said.contains("b/b"), "{said}");
        }
        (Ok(_), None) => {}
        (other, _) => panic!("{other:?}"),
    }
}

#[test]
fn two_thousand_bad_entries_make_a_message_that_a_condition_can_hold() {
    let domains: Vec<String> = (0..2000).map(|at| format!("bücher{at}.example")).collect();
    let spec = spec_with("/privacy/domains", json!(domains));
    let Err(refusal) = validated(&spec) else {
        panic!("it was taken");
    };
    let Refusal::Invalid(sentences) = &refusal else {
        panic!("{refusal}");
    };
    assert_eq!(sentences.len(), 2000);
    let text = refusal.to_string();
    assert!(text.len() <= bounds::MESSAGE, "{}", text.len());
    let told = sentences
        .iter()
        .filter(|sentence| text.contains(sentence.as_str()))
        .count();
    assert!(
        told > 50 && text.ends_with(&format!("; … and {} more", 2000 - told)),
        "{told}"
    );
}
