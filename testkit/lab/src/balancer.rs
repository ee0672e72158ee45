//! Which node a load balancer's address leads to, as a load balancer with one active node decides (`MetalLB` in layer 2
//! and many appliances): the node stays while it is healthy. With `externalTrafficPolicy: Local` a node is healthy while its
//! kube-proxy says at the Service's health check port that a ready pod is on it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::command;
use testkit_base::Error;

/// How often nodes are asked, and how long an answer may take.
const EVERY: Duration = Duration::from_secs(1);

/// Serves until it is ended: one route for each of these addresses.
pub async fn serve(nodes: &[Ipv4Addr], services: impl Fn() -> Vec<(Ipv4Addr, Arc<Service>)>) {
    let mut routes: BTreeMap<Ipv4Addr, Ipv4Addr> = BTreeMap::new();
    let mut turns = tokio::time::interval(EVERY);
    loop {
        turns.tick().await;
        for (address, service) in services() {
            let healthy = healthy(&service, nodes).await;
            let Some(node) = choice(routes.get(&address), &healthy) else {
                continue;
            };
            let words = format!("ip route replace {address}/32 via {node}");
            match command::run(&command::words(&words)).await {
                Ok(_) => {
                    println!("{address} leads to {node}");
                    routes.insert(address, node);
                }
                Err(error) => eprintln!("{error}"),
            }
        }
    }
}

/// The node to change to; `None`: the one in use is healthy, or none is.
fn choice(used: Option<&Ipv4Addr>, healthy: &[Ipv4Addr]) -> Option<Ipv4Addr> {
    match used {
        Some(used) if healthy.contains(used) => None,
        _ => healthy.first().copied(),
    }
}

/// The nodes that take traffic for a Service.
async fn healthy(service: &Service, nodes: &[Ipv4Addr]) -> Vec<Ipv4Addr> {
    let port = service.spec.as_ref().and_then(|spec| spec.health_check_node_port);
    let Some(port) = port.and_then(|port| u16::try_from(port).ok()) else {
        return nodes.to_vec();
    };
    let mut healthy = Vec::new();
    for node in nodes {
        let asked = tokio::time::timeout(EVERY, has_pods(*node, port)).await;
        if matches!(asked, Ok(Ok(true))) {
            healthy.push(*node);
        }
    }
    healthy
}

/// Whether kube-proxy of a node has ready pods behind the Service of a health check port.
async fn has_pods(node: Ipv4Addr, port: u16) -> Result<bool, Error> {
    let mut stream = TcpStream::connect((node, port)).await?;
    let request = format!("GET /healthz HTTP/1.1\r\nHost: {node}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await?;
    Ok(answer.ends_with(b" 200"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_healthy_node_stays_and_a_sick_one_is_left() {
        let [a, b] = [Ipv4Addr::new(10, 244, 0, 2), Ipv4Addr::new(10, 244, 0, 3)];
        assert_eq!(choice(None, &[a, b]), Some(a));
        assert_eq!(choice(Some(&b), &[a, b]), None);
        assert_eq!(choice(Some(&a), &[b]), Some(b));
        assert_eq!(choice(Some(&a), &[]), None);
    }
}
