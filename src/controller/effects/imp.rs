//! Translates between the resource and the IM and Presence module: what it is asked for, and where
//! the edges find the routers it tells of.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use xmpp_federation_core::edge_config::{EdgeConfig, LinkProfile};
use xmpp_federation_core::edge_status::{LinkState, LinkStatus};
use xmpp_federation_core::{Activation, ComponentId, SecretBytes};

use super::DNS_TIMEOUT;
use crate::api::spec;
use crate::controller::build::{Links, Nodes};
use crate::controller::dereference::{EdgePod, Observed, Read, Secrets};
use crate::controller::names;
use crate::controller::validate::Imp;
use xmpp_federation_imp::access::{Credentials, NodeAddress, ServerTrust, Target};
use xmpp_federation_imp::desired::{Announced, Opened};
use xmpp_federation_imp::desired::{
    Desired, FederationCheck, Link, Owner, Place, Requests, RestartMode, RestartPolicy,
};
use xmpp_federation_imp::report::NodeReport;

/// On whose behalf clusters are asked for something.
pub struct Resource<'a> {
    /// The resource.
    pub owner: &'a names::Owner,
    /// Component id of each slot.
    pub component_ids: Cow<'a, [ComponentId]>,
    /// Whether rows are wanted.
    pub active: bool,
    /// UIDs of all resources.
    pub live_owners: BTreeSet<String>,
    /// What a person asks for.
    pub requests: Requests,
}

/// What the IM and Presence module is asked for, or which Secret is missing.
pub fn desired(
    resource: &Resource<'_>,
    cluster: &Imp,
    place: Place,
    secrets: &Secrets,
    pods: &[EdgePod],
) -> Result<Desired, String> {
    let imp = &cluster.spec;
    let Resource { owner, requests, .. } = resource;
    let axl = credentials(secrets, &imp.credentials_secret_ref.name)?;
    let control_center = imp
        .control_center_credentials_secret_ref
        .as_ref()
        .map(|reference| credentials(secrets, &reference.name))
        .transpose()?;
    let tls = match (&imp.tls.ca_secret_ref, cluster.pins.is_empty()) {
        (Some(ca), _) => ServerTrust::Ca {
            pem: secrets
                .key(&ca.name, &ca.key, "the authorities of spec.imp[].tls")?
                .expose()
                .to_vec(),
            source: format!("Secret {}, key {}", ca.name, ca.key),
        },
        (None, false) => ServerTrust::Pinned(cluster.pins.clone()),
        (None, true) => ServerTrust::Insecure,
    };
    Ok(Desired {
        owner: Owner {
            namespace: owner.namespace.clone(),
            name: owner.name.clone(),
            uid: owner.uid.clone(),
        },
        live_owners: resource.live_owners.clone(),
        target: Target {
            name: imp.name.clone(),
            publisher: cluster.publisher(),
            port: cluster.axl_port,
            axl_version: cluster.axl_version,
            addresses: cluster
                .addresses
                .iter()
                .map(|(name, address)| (name.clone(), NodeAddress::from(*address)))
                .collect::<BTreeMap<_, _>>(),
            axl,
            control_center,
            tls,
        },
        component_ids: resource.component_ids.to_vec(),
        activation: if resource.active {
            Activation::Active
        } else {
            Activation::Prepared
        },
        restart: RestartPolicy {
            mode: match imp.restart.mode {
                spec::RestartMode::Automatic => RestartMode::Automatic,
                spec::RestartMode::Manual => RestartMode::Manual,
                // Without a window it is refused before; were it not, nothing would be restarted
                // unasked.
                spec::RestartMode::Window => cluster
                    .window
                    .clone()
                    .map_or(RestartMode::Manual, |window| RestartMode::Window(Box::new(window))),
            },
            propagation_delay: imp.restart.propagation_delay.get(),
            min_interval: imp.restart.min_interval.get(),
        },
        foreign_components: imp.foreign_components,
        federation_check: imp.federation_check.as_ref().map(|check| FederationCheck {
            query: check.query.clone(),
            off_value: check.off_value.clone(),
        }),
        maintenance: imp.maintenance,
        hold_acts: false,
        poll_interval: imp.poll_interval.get(),
        requests: requests.clone(),
        announces: imp.router.profile == LinkProfile::Xcp,
        place,
        links: links_seen(&imp.name, pods),
    })
}

fn credentials(secrets: &Secrets, name: &str) -> Result<Credentials, String> {
    let read: &Read = secrets.get(name, "the account for IM and Presence")?;
    let username = read.key("username")?;
    let username = SecretBytes::from_file_contents(username.expose().to_vec());
    let username = String::from_utf8(username.expose().to_vec())
        .map_err(|_| format!("key \"username\" of Secret {name} is not UTF-8 text; correct it"))?;
    let password = SecretBytes::from_file_contents(read.key("password")?.expose().to_vec());
    Ok(Credentials {
        secret: read.version.clone(),
        username,
        password,
    })
}

/// The links to one cluster, as pods that go on tell of them.
fn links_seen(entry: &str, pods: &[EdgePod]) -> Vec<Link> {
    pods.iter()
        .filter(|pod| !pod.stopping)
        .filter_map(|pod| Some((pod.asked, pod.status.as_ref().ok()?)))
        .flat_map(|(asked, status)| status.links.iter().map(move |link| (asked, link)))
        .filter(|(_, link)| link.router == entry)
        .map(|(asked, link)| Link {
            node: link.node.clone(),
            component_id: link.component_id.clone(),
            up: link.state == LinkState::Up,
            bouncing: link
                .returned
                .as_ref()
                .filter(|returned| returned.everything)
                .map(|returned| returned.condition.clone()),
            opened: link.open_seconds.map(|seconds| Opened { asked, seconds }),
            announced: announced(link),
        })
        .collect()
}

/// What a link shows of the announcements of its node's router. Of the component that is linked
/// there only `announced` tells: what came over the link itself is another node's.
fn announced(link: &LinkStatus) -> Vec<Announced> {
    let own = link.announced.as_ref().map(|announced| Announced {
        component_id: link.component_id.clone(),
        gateway: announced.gateway,
    });
    let sightings = link.sightings.iter();
    let others = sightings.filter(|sighting| sighting.component_id != link.component_id);
    let others = others.map(|sighting| Announced {
        component_id: sighting.component_id.clone(),
        gateway: sighting.announced.gateway,
    });
    own.into_iter().chain(others).collect()
}

/// Addresses of the routers: overrides first, then what the names resolve to, then what was known.
pub async fn router_addresses(imp: &Imp, nodes: &[NodeReport], known: Option<&Nodes>) -> Nodes {
    let resolved = nodes.iter().map(|node| async move {
        let lower = node.name.to_ascii_lowercase();
        let given = imp.addresses.iter().find(|(name, _)| *name == lower);
        let before = known
            .into_iter()
            .flatten()
            .find(|(name, _)| *name == node.name)
            .map(|(_, a)| a.clone());
        let address = match given {
            Some((_, address)) => Some(address.to_string()),
            None => resolve(&node.name, before.as_deref()).await.or(before),
        };
        // A name that does not resolve here is left to the edge's own resolving.
        (node.name.clone(), address.unwrap_or_else(|| node.name.clone()))
    });
    futures::future::join_all(resolved).await
}

/// One address of a host: the one known, while it is among them, else the first in order.
async fn resolve(host: &str, known: Option<&str>) -> Option<String> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Some(address.to_string());
    }
    let found = tokio::time::timeout(DNS_TIMEOUT, tokio::net::lookup_host((host, 0)))
        .await
        .ok()?
        .ok()?;
    let mut addresses: Vec<IpAddr> = found.map(|a| a.ip().to_canonical()).collect();
    addresses.sort_unstable();
    let still = |known: &&str| addresses.iter().any(|a| a.to_string() == **known);
    if let Some(known) = known.filter(still) {
        return Some(known.to_owned());
    }
    addresses.first().map(ToString::to_string)
}

/// Addresses in a configuration that was written earlier, for an operator that has just started.
pub fn addresses_written(observed: &Observed) -> Links {
    let text = observed
        .live
        .config
        .as_ref()
        .and_then(|c| c.data.pointer("/data/edge.yaml"))
        .and_then(|v| v.as_str());
    let Some(Ok(config)) = text.map(EdgeConfig::from_yaml) else {
        return Links::new();
    };
    config
        .routers
        .into_iter()
        .map(|router| {
            let endpoints = router.endpoints.into_iter();
            let nodes = endpoints.map(|endpoint| (endpoint.name, endpoint.address.host));
            (router.name, nodes.collect())
        })
        .collect()
}
