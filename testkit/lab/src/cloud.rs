//! The lab's "cloud": gives Services of type `LoadBalancer` an address, as a cloud controller does.
//!
//! kube-proxy then makes the address work: hosts reach the node, which stands for the load balancer.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use testkit_base::Error;

/// The first address given out, 203.0.113.10; the last one is .254.
const FIRST: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
const LAST: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 254);

/// Namespace and name of a Service.
type Key = (String, String);

/// What a Service's `status.loadBalancer.ingress` is to become.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Change {
    Give(Ipv4Addr),
    Clear,
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn address(service: &Value) -> Option<Ipv4Addr> {
    text(service, "/status/loadBalancer/ingress/0/ip").parse().ok()
}

/// Ours is a Service of type `LoadBalancer` that names no class: a class means another controller.
fn is_ours(service: &Value) -> bool {
    text(service, "/spec/type") == "LoadBalancer" && service.pointer("/spec/loadBalancerClass").is_none()
}

/// The next change to make: the status of the Services is the only memory of which addresses are in use.
fn plan(services: &BTreeMap<Key, Value>) -> Option<(Key, Change)> {
    for (key, service) in services {
        let has = service.pointer("/status/loadBalancer/ingress/0").is_some();
        if has && text(service, "/spec/type") != "LoadBalancer" {
            return Some((key.clone(), Change::Clear));
        }
        if !has && is_ours(service) {
            let taken: Vec<Ipv4Addr> = services.values().filter_map(address).collect();
            let free = (FIRST.to_bits()..=LAST.to_bits())
                .map(Ipv4Addr::from_bits)
                .find(|ip| !taken.contains(ip));
            return free.map(|free| (key.clone(), Change::Give(free)));
        }
    }
    None
}

struct Api {
    client: reqwest::Client,
    server: String,
}

impl Api {
    fn new(kubeconfig: &Path) -> Result<Self, Error> {
        let config: Value = serde_json::from_slice(&fs::read(kubeconfig)?)?;
        let data = |pointer: &str| STANDARD.decode(text(&config, pointer));
        let mut identity = data("/users/0/user/client-certificate-data")?;
        identity.extend(data("/users/0/user/client-key-data")?);
        let ca = data("/clusters/0/cluster/certificate-authority-data")?;
        let client = reqwest::Client::builder()
            .tls_certs_only([reqwest::Certificate::from_pem(&ca)?])
            .identity(reqwest::Identity::from_pem(&identity)?)
            .connect_timeout(Duration::from_secs(5))
            .no_proxy()
            .build()?;
        Ok(Self {
            client,
            server: text(&config, "/clusters/0/cluster/server").to_owned(),
        })
    }

    async fn list(&self) -> Result<(BTreeMap<Key, Value>, String), Error> {
        let request = self
            .client
            .get(format!("{}/api/v1/services", self.server))
            .timeout(Duration::from_secs(30));
        let list: Value = request.send().await?.error_for_status()?.json().await?;
        let items = list
            .pointer("/items")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        let services = items.into_iter().map(|service| (key(&service), service)).collect();
        Ok((services, text(&list, "/metadata/resourceVersion").to_owned()))
    }

    async fn watch(&self, version: &str) -> Result<reqwest::Response, Error> {
        let url = format!(
            "{}/api/v1/services?watch=true&allowWatchBookmarks=true&timeoutSeconds=300&resourceVersion={version}",
            self.server
        );
        Ok(self.client.get(url).send().await?.error_for_status()?)
    }

    async fn change(&self, (namespace, name): &Key, change: &Change) -> Result<Value, Error> {
        let ingress = match change {
            Change::Give(ip) => json!([{"ip": ip.to_string()}]),
            Change::Clear => Value::Null,
        };
        let url = format!("{}/api/v1/namespaces/{namespace}/services/{name}/status", self.server);
        let request = self
            .client
            .patch(url)
            .header("content-type", "application/merge-patch+json")
            .timeout(Duration::from_secs(30))
            .body(json!({"status": {"loadBalancer": {"ingress": ingress}}}).to_string());
        Ok(request.send().await?.error_for_status()?.json().await?)
    }
}

fn key(service: &Value) -> Key {
    (
        text(service, "/metadata/namespace").to_owned(),
        text(service, "/metadata/name").to_owned(),
    )
}

/// Serves until it is ended. Must run in the lab's network namespace.
pub async fn serve(kubeconfig: &Path) -> Result<(), Error> {
    let api = Api::new(kubeconfig)?;
    loop {
        if let Err(error) = follow(&api).await {
            eprintln!("the cloud lost the apiserver and starts again: {error}");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

/// One list and the watch after it; returns when the watch ends.
async fn follow(api: &Api) -> Result<(), Error> {
    let (mut services, version) = api.list().await?;
    settle(api, &mut services).await?;
    let mut watch = api.watch(&version).await?;
    let mut pending = Vec::new();
    while let Some(chunk) = watch.chunk().await? {
        pending.extend_from_slice(&chunk);
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            let event: Value = serde_json::from_slice(&line)?;
            let service = event.pointer("/object").cloned().unwrap_or_default();
            match text(&event, "/type") {
                "ADDED" | "MODIFIED" => {
                    services.insert(key(&service), service);
                }
                "DELETED" => {
                    if let Some(ip) = address(&service) {
                        println!("{ip} is free again");
                    }
                    services.remove(&key(&service));
                }
                "ERROR" => return Err(format!("the watch ended with {service}").into()),
                _ => {}
            }
        }
        settle(api, &mut services).await?;
    }
    Ok(())
}

async fn settle(api: &Api, services: &mut BTreeMap<Key, Value>) -> Result<(), Error> {
    while let Some((key, change)) = plan(services) {
        match api.change(&key, &change).await {
            Ok(service) => {
                println!("{}/{}: {change:?}", key.0, key.1);
                services.insert(key, service);
            }
            Err(error) => {
                // Most often deleted meanwhile; the watch says more.
                println!("{}/{}: {error}", key.0, key.1);
                services.remove(&key);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn services(list: &[(&str, Value)]) -> BTreeMap<Key, Value> {
        list.iter()
            .map(|(name, value)| (("ns".to_owned(), (*name).to_owned()), value.clone()))
            .collect()
    }

    fn with_address(ip: &str) -> Value {
        json!({"spec": {"type": "LoadBalancer"}, "status": {"loadBalancer": {"ingress": [{"ip": ip}]}}})
    }

    #[test]
    fn a_new_load_balancer_gets_the_lowest_free_address() {
        let new = json!({"spec": {"type": "LoadBalancer"}, "status": {"loadBalancer": {}}});
        let all = services(&[
            ("a", with_address("203.0.113.10")),
            ("b", with_address("203.0.113.12")),
            ("c", new),
        ]);
        let expected = Change::Give("203.0.113.11".parse().unwrap());
        assert_eq!(plan(&all), Some((("ns".to_owned(), "c".to_owned()), expected)));
    }

    #[test]
    fn a_service_of_another_class_or_type_is_left_alone() {
        let all = services(&[
            (
                "a",
                json!({"spec": {"type": "LoadBalancer", "loadBalancerClass": "other.example/lb"}}),
            ),
            (
                "b",
                json!({"spec": {"type": "ClusterIP"}, "status": {"loadBalancer": {}}}),
            ),
            ("c", with_address("203.0.113.10")),
        ]);
        assert_eq!(plan(&all), None);
    }

    #[test]
    fn a_service_that_is_no_longer_a_load_balancer_loses_its_address() {
        let mut was = with_address("203.0.113.10");
        was["spec"]["type"] = "ClusterIP".into();
        assert_eq!(plan(&services(&[("a", was)])).unwrap().1, Change::Clear);
    }

    #[test]
    fn no_address_is_given_twice_when_all_are_taken() {
        let mut all: Vec<(String, Value)> = (10..=254)
            .map(|n| (format!("s{n}"), with_address(&format!("203.0.113.{n}"))))
            .collect();
        all.push(("z".to_owned(), json!({"spec": {"type": "LoadBalancer"}})));
        let all: BTreeMap<Key, Value> = all
            .into_iter()
            .map(|(name, value)| (("ns".to_owned(), name), value))
            .collect();
        assert_eq!(plan(&all), None);
    }
}
