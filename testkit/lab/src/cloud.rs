//! The lab's "cloud": gives Services of type `LoadBalancer` an address, as a cloud controller does.
//!
//! kube-proxy then makes the address work: hosts reach the node, which stands for the load balancer. With nodes behind the
//! middle namespace, [`balancer`] leads an address to one of them.

use std::net::Ipv4Addr;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{LoadBalancerIngress, Service};
use kube::api::{Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt, reflector, watcher};
use kube::{Api, Client, Config, ResourceExt};
use serde_json::json;

use super::balancer;
use testkit_base::Error;

/// The first address given out, 203.0.113.10; the last one is .254.
const FIRST: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
const LAST: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 254);

fn ingress(service: &Service) -> Option<&LoadBalancerIngress> {
    service
        .status
        .as_ref()?
        .load_balancer
        .as_ref()?
        .ingress
        .as_ref()?
        .first()
}

/// The address that a Service shows.
pub fn address(service: &Service) -> Option<Ipv4Addr> {
    ingress(service)?.ip.as_ref()?.parse().ok()
}

/// The next Service whose status has to change, and the address that it gets or loses: the status of the Services is
/// the only memory of which addresses are in use.
fn plan(services: &[Arc<Service>]) -> Option<(&Service, Option<Ipv4Addr>)> {
    services.iter().find_map(|service| {
        let spec = service.spec.as_ref()?;
        let balanced = spec.type_.as_deref() == Some("LoadBalancer");
        match ingress(service) {
            Some(_) if !balanced => Some((&**service, None)),
            // A class means another controller.
            None if balanced && spec.load_balancer_class.is_none() => {
                let taken: Vec<Ipv4Addr> = services.iter().filter_map(|service| address(service)).collect();
                let mut all = (FIRST.to_bits()..=LAST.to_bits()).map(Ipv4Addr::from_bits);
                all.find(|ip| !taken.contains(ip)).map(|free| (&**service, Some(free)))
            }
            _ => None,
        }
    })
}

/// Serves until it is ended. Must run in the lab's network namespace. `nodes`: those behind it.
pub async fn serve(kubeconfig: &Path, nodes: Vec<Ipv4Addr>) -> Result<(), Error> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    config.proxy_url = None;
    let client = Client::try_from(config)?;
    let (known, writer) = reflector::store();
    let changes = watcher(Api::<Service>::all(client.clone()), watcher::Config::default());
    let mut changes = pin!(changes.default_backoff().reflect(writer));
    if !nodes.is_empty() {
        let known = known.clone();
        tokio::spawn(async move { balancer::serve(&nodes, || known.state()).await });
    }
    while let Some(change) = changes.next().await {
        match change {
            // Not before all of them are known.
            Ok(Event::Init | Event::InitApply(_)) => {}
            Ok(Event::InitDone | Event::Apply(_)) => settle(&client, &known.state()).await,
            Ok(Event::Delete(service)) => {
                if let Some(ip) = address(&service) {
                    println!("{ip} is free again");
                }
                settle(&client, &known.state()).await;
            }
            Err(error) => eprintln!("the cloud lost the apiserver: {error}"),
        }
    }
    Ok(())
}

/// Makes the next change; the event that follows from it leads to the one after that.
async fn settle(client: &Client, services: &[Arc<Service>]) {
    let Some((service, ip)) = plan(services) else {
        return;
    };
    let (namespace, name) = (service.namespace().unwrap_or_default(), service.name_any());
    let ingress = ip.map(|ip| json!([{"ip": ip}]));
    let status = Patch::Merge(json!({"status": {"loadBalancer": {"ingress": ingress}}}));
    let api: Api<Service> = Api::namespaced(client.clone(), &namespace);
    match api.patch_status(&name, &PatchParams::default(), &status).await {
        Ok(_) => println!("{namespace}/{name}: {ip:?}"),
        // Most often deleted meanwhile; the watch says more.
        Err(error) => println!("{namespace}/{name}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::Value;

    fn service(name: &str, spec: &Value, ip: &str) -> Arc<Service> {
        let ingress = (!ip.is_empty()).then(|| json!([{"ip": ip}]));
        let status = json!({"loadBalancer": {"ingress": ingress}});
        Arc::new(serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec, "status": status})).unwrap())
    }

    fn balanced(name: &str, ip: &str) -> Arc<Service> {
        service(name, &json!({"type": "LoadBalancer"}), ip)
    }

    /// The name of the Service that is changed next, and its address.
    fn planned(services: &[Arc<Service>]) -> Option<(String, Option<String>)> {
        plan(services).map(|(service, ip)| (service.name_any(), ip.map(|ip| ip.to_string())))
    }

    #[test]
    fn a_new_load_balancer_gets_the_lowest_free_address() {
        let all = [
            balanced("a", "203.0.113.10"),
            balanced("b", "203.0.113.12"),
            balanced("c", ""),
        ];
        assert_eq!(planned(&all), Some(("c".to_owned(), Some("203.0.113.11".to_owned()))));
    }

    #[test]
    fn a_service_of_another_class_or_type_is_left_alone() {
        let other = json!({"type": "LoadBalancer", "loadBalancerClass": "other.example/lb"});
        let all = [
            service("a", &other, ""),
            service("b", &json!({"type": "ClusterIP"}), ""),
            balanced("c", "203.0.113.10"),
        ];
        assert_eq!(planned(&all), None);
    }

    #[test]
    fn a_service_that_is_no_longer_a_load_balancer_loses_its_address() {
        let was = service("a", &json!({"type": "ClusterIP"}), "203.0.113.10");
        assert_eq!(planned(&[was]), Some(("a".to_owned(), None)));
    }

    #[test]
    fn no_address_is_given_twice_when_all_are_taken() {
        let all = (10..=254).map(|n| balanced(&format!("s{n}"), &format!("203.0.113.{n}")));
        let all: Vec<_> = all.chain([balanced("z", "")]).collect();
        assert_eq!(planned(&all), None);
    }
}
