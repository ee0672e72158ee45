//! What a resource's YAML says about a cluster; Secrets are not in it.

use std::io::Read as _;
use std::path::Path;

use serde::Deserialize as _;
use xmpp_federation_core::Domain;

use crate::api::XmppFederation;
use crate::api::slots::Slots;
use xmpp_federation_imp::access::Host;
use xmpp_federation_imp::preflight::options::{Addresses, ClusterEntry};

/// No resource is larger.
const LARGEST: u64 = 1 << 20;

/// Reads the file (`-` is standard input) and takes one entry of `spec.imp`.
pub fn read(path: &Path, entry: Option<&str>) -> Result<ClusterEntry, String> {
    let name = path.display();
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().take(LARGEST).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(LARGEST).read_to_string(&mut text))
    };
    read.map_err(|error| format!("--from: {name} cannot be read: {error}"))?;
    take(&text, entry).map_err(|what| format!("--from {name}: {what}"))
}

fn take(text: &str, entry: Option<&str>) -> Result<ClusterEntry, String> {
    let resource = the_resource(text)?;
    let spec = &resource.spec;
    let names = || {
        let names: Vec<&str> = spec.imp.iter().map(|imp| imp.name.as_str()).collect();
        names.join(", ")
    };
    let imp = match entry {
        Some(name) => spec
            .imp
            .iter()
            .find(|imp| imp.name == name)
            .ok_or_else(|| format!("spec.imp has no entry {name}; there are {}", names()))?,
        None => match spec.imp.as_slice() {
            [imp] => imp,
            [] => return Err("spec.imp is empty; describe a cluster there".to_owned()),
            _ => {
                return Err(format!("choose one entry of spec.imp with --imp: {}", names()));
            }
        },
    };
    let port = |number: i32, field: &str| {
        u16::try_from(number)
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(|| format!("{field}: {number} is no TCP port"))
    };
    let mut addresses = Addresses::new();
    for node in &imp.nodes {
        let host = node.address.parse::<Host>().map_err(|error| {
            format!(
                "nodes of {}: {error}; correct it, or give one with --node {}=ADDRESS",
                imp.name, node.name
            )
        })?;
        addresses.insert(node.name.to_ascii_lowercase(), host.into());
    }
    let hostname = Domain::parse(&spec.edge.hostname.0).map_err(|error| format!("spec.edge.hostname: {error}"))?;
    Ok(ClusterEntry {
        publisher: Some(imp.publisher.clone()),
        addresses,
        axl_port: Some(port(imp.axl.port, "axl.port")?),
        axl_version: imp.axl.version.clone(),
        router_port: Some(port(imp.router.port(), "router.port")?),
        pins: imp.tls.pinned_sha256.clone().unwrap_or_default(),
        insecure: imp.tls.insecure_skip_verify == Some(true),
        ca_secret: imp
            .tls
            .ca_secret_ref
            .as_ref()
            .map(|ca| format!("Secret {}, key {}", ca.name, ca.key)),
        component_ids: Slots::of(spec, resource.status.as_ref(), None).component_ids(&hostname),
    })
}

/// The one XmppFederation among the documents of a file.
fn the_resource(text: &str) -> Result<XmppFederation, String> {
    let mut found = None;
    for document in serde_yaml::Deserializer::from_str(text) {
        let value = serde_yaml::Value::deserialize(document).map_err(|error| format!("not YAML: {error}"))?;
        if value.get("kind").and_then(serde_yaml::Value::as_str) != Some("XmppFederation") {
            continue;
        }
        let resource = serde_path_to_error::deserialize(value)
            .map_err(|error| format!("the XmppFederation is not readable: {error}"))?;
        if found.replace(resource).is_some() {
            return Err("it holds more than one XmppFederation; keep one".to_owned());
        }
    }
    found.ok_or_else(|| "it holds no XmppFederation".to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use rstest::rstest;
    use xmpp_federation_core::ComponentId;

    const SAMPLE: &str = include_str!("../../deploy/samples/coluc.yaml");

    #[test]
    fn the_sample_gives_publisher_ports_and_component_ids() {
        let taken = take(SAMPLE, None).unwrap();
        assert_eq!(taken.publisher.as_deref(), Some("cups.ciscotac.net"));
        assert_eq!((taken.axl_port, taken.router_port), (Some(8443), Some(7400)));
        let ids: Vec<&str> = taken.component_ids.iter().map(ComponentId::as_str).collect();
        assert_eq!(
            ids,
            [
                "cm-2_s2scp-1.eft-xwye-a-coluc-com",
                "cm-2_s2scp-1.eft-xwye-a-1-coluc-com"
            ]
        );
        assert_eq!(taken.ca_secret.as_deref(), Some("Secret cups-ca, key ca.crt"));
    }

    /// The sample with that address of a node.
    fn with_node(address: &str) -> String {
        let nodes = format!("publisher: cups.ciscotac.net\n      nodes: [{{name: ECUP10, address: '{address}'}}]");
        SAMPLE.replace("publisher: cups.ciscotac.net", &nodes)
    }

    #[rstest]
    #[case("192.0.2.10")]
    #[case("2001:db8::10")]
    #[case("ecup10.inside.example")]
    fn the_host_of_a_node_is_taken(#[case] host: &str) {
        let taken = take(&with_node(host), None).unwrap();
        assert_eq!(taken.addresses.get("ecup10").unwrap().host.to_string(), host);
    }

    #[test]
    fn other_documents_of_the_file_are_passed_over() {
        let text = format!("kind: Secret\n---\n{SAMPLE}");
        assert!(take(&text, Some("main")).unwrap().publisher.is_some());
    }

    #[rstest]
    #[case::nothing("", None, "no XmppFederation")]
    #[case::no_yaml("a: [", None, "not YAML")]
    #[case::a_wrong_field("kind: XmppFederation\nspec: {imp: 3}", None, "spec")]
    #[case::a_node_with_a_port("NODE", None, "\"imp1.example:8443\" is not a host name")]
    #[case::another_entry(SAMPLE, Some("other"), "there are main")]
    fn what_cannot_be_taken_is_named(#[case] text: &str, #[case] entry: Option<&str>, #[case] expected: &str) {
        let text = text.replace("NODE", &with_node("imp1.example:8443"));
        let error = take(&text, entry).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}
