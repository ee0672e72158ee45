//! The simulator against the published facts: the client side here is written by hand, so that both ends are checked.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod axl;
mod control_center;
mod replication;
mod router;
mod xcp;

use super::*;
use std::time::{Duration, Instant};
use testkit_base::xml;

/// A cluster whose delays are short.
fn quick() -> ImpConfig {
    ImpConfig {
        restart_s: 0.4,
        replication_s: 0.1,
        config_manager_s: 0.05,
        ..ImpConfig::default()
    }
}

const PUBLISHER: &str = "ecup10.coluc.com";
const SUBSCRIBER: &str = "ecup10s.coluc.com";
const ID: &str = "cm-2_s2scp-1.eft-xwye-a-coluc-com";

/// An HTTPS client that trusts the cluster's CA and finds its nodes by name.
fn client(imp: &SimulatedImp) -> reqwest::Client {
    let ca = reqwest::Certificate::from_pem(imp.ca_pem().as_bytes()).unwrap();
    let mut builder = reqwest::Client::builder()
        .tls_certs_only([ca])
        .redirect(reqwest::redirect::Policy::none())
        .http1_only();
    for node in imp.nodes() {
        builder = builder.resolve(&node.name, node.https);
    }
    builder
        .resolve("cups.ciscotac.net", imp.nodes()[0].https)
        .build()
        .unwrap()
}

fn url(imp: &SimulatedImp, name: &str, path: &str) -> String {
    let port = imp
        .nodes()
        .iter()
        .find(|node| node.name == name)
        .map_or(imp.nodes()[0].https.port(), |node| node.https.port());
    format!("https://{name}:{port}{path}")
}

/// Status and body of an answer.
type Answer = Result<(u16, String), reqwest::Error>;

async fn axl_post(imp: &SimulatedImp, node: &str, password: &str, version: &str, operation: &str, sql: &str) -> Answer {
    let body = format!(
        r#"<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" xmlns:ns="http://www.cisco.com/AXL/API/{version}"><soapenv:Header/><soapenv:Body><ns:{operation} sequence="1"><sql>{}</sql></ns:{operation}></soapenv:Body></soapenv:Envelope>"#,
        xml::escape(sql)
    );
    let answer = client(imp)
        .post(url(imp, node, "/axl/"))
        .header("content-type", "text/xml;charset=UTF-8")
        .header("soapaction", format!("\"CUCM:DB ver={version} {operation}\""))
        .basic_auth("axluser", Some(password))
        .body(body)
        .timeout(Duration::from_secs(5))
        .send()
        .await?;
    Ok((answer.status().as_u16(), answer.text().await?))
}

async fn axl(imp: &SimulatedImp, operation: &str, sql: &str) -> (u16, String) {
    axl_post(imp, PUBLISHER, "axlpassword", "14.0", operation, sql)
        .await
        .unwrap()
}

async fn control_center(imp: &SimulatedImp, node: &str, operation: &str, content: &str) -> Answer {
    let body = format!(
        r#"<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" xmlns:soap="http://schemas.cisco.com/ast/soap"><soapenv:Header/><soapenv:Body><soap:{operation}>{content}</soap:{operation}></soapenv:Body></soapenv:Envelope>"#
    );
    let path = "/controlcenterservice2/services/ControlCenterServices";
    let answer = client(imp)
        .post(url(imp, node, path))
        .header("content-type", "text/xml;charset=UTF-8")
        .header("soapaction", format!("\"{operation}\""))
        .basic_auth("axluser", Some("axlpassword"))
        .body(body)
        .timeout(Duration::from_secs(5))
        .send()
        .await?;
    Ok((answer.status().as_u16(), answer.text().await?))
}

/// Waits until the state says so; events have no other way out of the simulator.
async fn until(imp: &SimulatedImp, what: &str, holds: impl Fn(&ClusterState) -> bool) -> ClusterState {
    let began = Instant::now();
    loop {
        let state = imp.state();
        if holds(&state) {
            return state;
        }
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "not within 10 s: {what}: {state:?}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn tag(text: &str, name: &str) -> String {
    let element = xml::parse_document(text.as_bytes()).unwrap();
    find(&element, name).unwrap_or_else(|| panic!("no {name} in {text}"))
}

fn find(element: &xml::Element, name: &str) -> Option<String> {
    if element.name == name {
        return Some(element.text());
    }
    element.elements().find_map(|child| find(child, name))
}
