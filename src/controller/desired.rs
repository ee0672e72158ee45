//! What a cluster of IM and Presence is asked for, in the words of [`xmpp_federation_imp`].

use std::borrow::Cow;
use std::collections::BTreeMap;

use xmpp_federation_core::edge_config::LinkProfile;
use xmpp_federation_core::edge_status::{LinkState, LinkStatus};
use xmpp_federation_core::{Activation, ComponentId, SecretBytes};

use super::dereference::EdgePod;
use super::names;
use super::references::{SecretContent, SecretError, Secrets};
use super::validate::ImpCluster;
use crate::api::spec::ImpSpec;
use xmpp_federation_imp::access::{Credentials, Host, NodeAddress, ServerTrust, Target};
use xmpp_federation_imp::desired::{
    Announcement, Desired, FederationCheck, Link, LinkAge, LiveOwners, Owner, Place, Requests, Sibling, SlotSource,
};

/// On whose behalf clusters are asked for something.
pub struct Resource<'a> {
    /// The resource.
    pub owner: &'a names::Owner,
    /// Component id of each slot.
    pub component_ids: Cow<'a, [ComponentId]>,
    /// Who says how many slots there are.
    pub slots: SlotSource,
    /// Whether rows are wanted.
    pub active: bool,
    /// UIDs of all resources.
    pub live_owners: LiveOwners,
    /// Its generation.
    pub generation: Option<i64>,
    /// What a person asks for.
    pub requests: Requests,
}

/// What the IM and Presence module is asked for.
pub fn desired(
    resource: &Resource<'_>,
    cluster: &ImpCluster,
    place: Place,
    secrets: &Secrets,
    pods: &[EdgePod],
) -> Result<Desired, SecretError> {
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
        generation: resource.generation,
        live_owners: resource.live_owners.clone(),
        target: Target {
            name: imp.name.clone(),
            publisher: cluster.publisher(),
            port: cluster.axl_port,
            axl_version: cluster.axl_version,
            addresses: cluster
                .addresses
                .iter()
                .map(|(name, host)| (name.clone(), NodeAddress::from(host.clone())))
                .collect::<BTreeMap<_, _>>(),
            axl,
            control_center,
            tls,
        },
        component_ids: resource.component_ids.to_vec(),
        slots: resource.slots,
        activation: if resource.active {
            Activation::Active
        } else {
            Activation::Prepared
        },
        restart: cluster.restart.clone(),
        foreign_components: imp.foreign_components,
        federation_check: imp.federation_check.as_ref().map(|check| FederationCheck {
            query: check.query.clone(),
            off_value: check.off_value.clone(),
        }),
        maintenance: imp.maintenance,
        hold_acts: false,
        poll_interval: imp.poll_interval.get(),
        requests: requests.clone(),
        announces: cluster.router.profile == LinkProfile::Xcp,
        place,
        links: links_seen(&imp.name, pods),
    })
}

/// An entry and where it leads, as [`desired`] has it.
pub fn sibling(entry: &ImpSpec) -> Sibling {
    let publisher = entry.publisher.to_ascii_lowercase();
    let mut nodes = entry.nodes.iter().rev();
    let node = nodes.find(|node| node.name.to_ascii_lowercase() == publisher);
    let host: Option<Host> = node.and_then(|node| node.address.parse().ok());
    Sibling {
        entry: entry.name.clone(),
        publisher,
        port: u16::try_from(entry.axl.port).unwrap_or_default(),
        address: host.map(NodeAddress::from),
    }
}

fn credentials(secrets: &Secrets, name: &str) -> Result<Credentials, SecretError> {
    let read: &SecretContent = secrets.get(name, "the account for IM and Presence")?;
    let username = read.key("username")?;
    let username = SecretBytes::from_file_contents(username.expose().to_vec());
    let username = String::from_utf8(username.expose().to_vec())
        .map_err(|_| SecretError::NotText(name.to_owned(), "username", "UTF-8"))?;
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
        .filter_map(|(asked, link)| {
            let component_id: ComponentId = link.component_id.parse().ok()?;
            Some(Link {
                node: link.node.clone(),
                up: link.state == LinkState::Up,
                bouncing: link
                    .returned
                    .as_ref()
                    .filter(|returned| returned.everything)
                    .map(|returned| returned.condition.clone()),
                opened: link.open_seconds.map(|seconds| LinkAge { asked, seconds }),
                announced: announced(link, &component_id),
                component_id,
            })
        })
        .collect()
}

/// What a link shows of the announcements of its node's router. Of the component that is linked
/// there only `announced` tells: what came over the link itself is another node's.
fn announced(link: &LinkStatus, component_id: &ComponentId) -> Vec<Announcement> {
    let own = link.announced.as_ref().map(|announced| Announcement {
        component_id: component_id.clone(),
        gateway: announced.gateway,
    });
    let sightings = link.sightings.iter();
    let others = sightings.filter(|sighting| sighting.component_id != link.component_id);
    let others = others.filter_map(|sighting| {
        Some(Announcement {
            component_id: sighting.component_id.parse().ok()?,
            gateway: sighting.announced.gateway,
        })
    });
    own.into_iter().chain(others).collect()
}
