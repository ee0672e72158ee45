//! The lab's "cloud": gives Services of type `LoadBalancer` an address, as a cloud controller does.
//!
//! kube-proxy then makes the address work: hosts reach the node, which stands for the load balancer. With nodes behind the
//! middle namespace, [`balancer`] leads an address to one of them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
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

/// The first address given out, 203.0.113.10; the last one is .254. In IPv6 the same one in `2001:db8::/96`.
const FIRST: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
const LAST: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 254);

/// What a Service shows.
fn shown(service: &Service) -> Vec<IpAddr> {
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress: &[LoadBalancerIngress] = balancer.and_then(|known| known.ingress.as_deref()).unwrap_or_default();
    let ips = ingress.iter().filter_map(|entry| entry.ip.as_ref());
    ips.filter_map(|ip| ip.parse().ok()).collect()
}

/// The address of a Service, in IPv4's words where it has IPv6 alone.
fn address(service: &Service) -> Option<Ipv4Addr> {
    shown(service).first().map(|ip| match ip {
        IpAddr::V4(ip) => *ip,
        IpAddr::V6(ip) => {
            let [.., a, b, c, d] = ip.octets();
            Ipv4Addr::new(a, b, c, d)
        }
    })
}

/// The address in each family that the Service has, in its order.
fn in_families(ip: Ipv4Addr, families: Option<&[String]>) -> Vec<IpAddr> {
    let six =
        || Ipv6Addr::from_bits(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0).to_bits() | u128::from(ip.to_bits()));
    let of = |family: &String| if family == "IPv6" { six().into() } else { ip.into() };
    families.map_or_else(|| vec![ip.into()], |families| families.iter().map(of).collect())
}

/// The next Service whose status has to change, and the addresses that it is to show: the status of the Services is
/// the only memory of which addresses are in use.
fn plan(services: &[Arc<Service>]) -> Option<(&Service, Vec<IpAddr>)> {
    services.iter().find_map(|service| {
        let spec = service.spec.as_ref()?;
        let balanced = spec.type_.as_deref() == Some("LoadBalancer");
        let has = shown(service);
        if !balanced {
            return (!has.is_empty()).then(|| (&**service, Vec::new()));
        }
        // A class means another controller.
        if spec.load_balancer_class.is_some() {
            return None;
        }
        let ip = address(service).or_else(|| {
            let taken: Vec<Ipv4Addr> = services.iter().filter_map(|service| address(service)).collect();
            let mut all = (FIRST.to_bits()..=LAST.to_bits()).map(Ipv4Addr::from_bits);
            all.find(|ip| !taken.contains(ip))
        })?;
        let wanted = in_families(ip, spec.ip_families.as_deref());
        (wanted != has).then(|| (&**service, wanted))
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
        let addressed = move || {
            let services = known.state().into_iter();
            services
                .filter_map(|service| Some((address(&service)?, service)))
                .collect()
        };
        tokio::spawn(async move { balancer::serve(&nodes, addressed).await });
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
    let Some((service, ips)) = plan(services) else {
        return;
    };
    let (namespace, name) = (service.namespace().unwrap_or_default(), service.name_any());
    let ingress: Vec<_> = ips.iter().map(|ip| json!({"ip": ip})).collect();
    let status = Patch::Merge(json!({"status": {"loadBalancer": {"ingress": ingress}}}));
    let api: Api<Service> = Api::namespaced(client.clone(), &namespace);
    match api.patch_status(&name, &PatchParams::default(), &status).await {
        Ok(_) => println!("{namespace}/{name}: {ips:?}"),
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

    /// The name of the Service that is changed next, and its addresses.
    fn planned(services: &[Arc<Service>]) -> Option<(String, String)> {
        let words = |ips: Vec<IpAddr>| ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        plan(services).map(|(service, ips)| (service.name_any(), words(ips)))
    }

    #[rstest::rstest]
    #[case::new(&["IPv6", "IPv4"], "", Some("2001:db8::cb00:710a 203.0.113.10"))]
    #[case::six_alone(&["IPv6"], "", Some("2001:db8::cb00:710a"))]
    #[case::a_second_family(&["IPv4", "IPv6"], "203.0.113.12", Some("203.0.113.12 2001:db8::cb00:710c"))]
    #[case::a_second_family_of_six(&["IPv6", "IPv4"], "2001:db8::cb00:710c", Some("2001:db8::cb00:710c 203.0.113.12"))]
    #[case::in_order(&["IPv4"], "203.0.113.12", None)]
    fn a_load_balancer_has_an_address_of_each_family_of_its_service(
        #[case] families: &[&str],
        #[case] ip: &str,
        #[case] expected: Option<&str>,
    ) {
        let service = service("a", &json!({"type": "LoadBalancer", "ipFamilies": families}), ip);
        assert_eq!(planned(&[service]).map(|(_, ips)| ips).as_deref(), expected);
    }

    #[test]
    fn a_new_load_balancer_gets_the_lowest_free_address() {
        let all = [
            balanced("a", "203.0.113.10"),
            balanced("b", "203.0.113.12"),
            balanced("c", ""),
        ];
        assert_eq!(planned(&all), Some(("c".to_owned(), "203.0.113.11".to_owned())));
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
        assert_eq!(planned(&[was]), Some(("a".to_owned(), String::new())));
    }

    #[test]
    fn no_address_is_given_twice_when_all_are_taken() {
        let all = (10..=254).map(|n| balanced(&format!("s{n}"), &format!("203.0.113.{n}")));
        let all: Vec<_> = all.chain([balanced("z", "")]).collect();
        assert_eq!(planned(&all), None);
    }
}
