//! Step five: what lies outside Kubernetes. At most one action towards IM and Presence, by the
//! plan of [`crate::imp`]; public records looked at when they are due. Nothing sleeps.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use xmpp_federation_core::edge_config::{EdgeConfig, PrivacyMode};
use xmpp_federation_core::edge_status::LinkState;
use xmpp_federation_core::{Domain, SecretBytes};

use super::build::Links;
use super::dereference::{EdgePod, Observed, Read, Secrets};
use super::validate::Validated;
use crate::api::spec;
use crate::imp::axl::AxlVersion;
use crate::imp::desired::{
    Activation, Credentials, Desired, ForeignComponents, Link, NodeAddress, Owner, Requests,
    RestartMode, RestartPolicy, ServerTrust, Target,
};
use crate::imp::report::NodeReport;
use crate::records::{RecordResolver, RecordState, RecordStatus, Wanted, verify};

/// Records that are as they should be are looked at this often …
const RECORDS_GOOD: Duration = Duration::from_secs(300);
/// … and others this often.
const RECORDS_BAD: Duration = Duration::from_secs(10);
/// A resolver that says nothing holds nothing up for longer.
const DNS_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the requests of a person stand: annotation values that are not served yet.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// `refresh`.
    pub refresh: Option<String>,
    /// `restart-routers`.
    pub restart_routers: Option<String>,
    /// `adopt-rows`.
    pub adopt_rows: Option<String>,
}

/// What the IM and Presence module is asked for, or which Secret is missing.
pub fn desired(
    valid: &Validated,
    secrets: &Secrets,
    pods: &[EdgePod],
    asked: &Asked,
    live_owners: BTreeSet<String>,
) -> Result<Desired, String> {
    let imp = &valid.imp.spec;
    let axl = credentials(secrets, &imp.credentials_secret_ref.name)?;
    let control_center = imp
        .control_center_credentials_secret_ref
        .as_ref()
        .map(|reference| credentials(secrets, &reference.name))
        .transpose()?;
    let tls = match (&imp.tls.ca_secret_ref, valid.imp.pins.is_empty()) {
        (Some(ca), _) => ServerTrust::Ca {
            pem: secrets
                .key(&ca.name, &ca.key, "the authorities of spec.imp[].tls")?
                .expose()
                .to_vec(),
            source: format!("Secret {}, key {}", ca.name, ca.key),
        },
        (None, false) => ServerTrust::Pinned(valid.imp.pins.clone()),
        (None, true) => ServerTrust::Insecure,
    };
    let axl_version = match &imp.axl.version {
        None => None,
        Some(text) => Some(
            text.parse::<AxlVersion>()
                .map_err(|error| format!("spec.imp[{}].axl.version: {error}", imp.name))?,
        ),
    };
    Ok(Desired {
        owner: Owner {
            namespace: valid.owner.namespace.clone(),
            name: valid.owner.name.clone(),
            uid: valid.owner.uid.clone(),
        },
        live_owners,
        target: Target {
            name: imp.name.clone(),
            publisher: imp.publisher.to_ascii_lowercase(),
            port: u16::try_from(imp.axl.port).unwrap_or(8443),
            axl_version,
            addresses: valid
                .imp
                .addresses
                .iter()
                .map(|(name, address)| (name.clone(), NodeAddress::from(*address)))
                .collect::<BTreeMap<_, _>>(),
            axl,
            control_center,
            tls,
        },
        component_ids: valid.component_ids.clone(),
        activation: if valid.active {
            Activation::Active
        } else {
            Activation::Prepared
        },
        restart: RestartPolicy {
            mode: match imp.restart.mode {
                spec::RestartMode::Automatic => RestartMode::Automatic,
                // Window is refused before; were it not, nothing would be restarted unasked.
                spec::RestartMode::Manual | spec::RestartMode::Window => RestartMode::Manual,
            },
            propagation_delay: imp.restart.propagation_delay.get(),
            min_interval: imp.restart.min_interval.get(),
        },
        foreign_components: match imp.foreign_components {
            spec::ForeignComponents::Refuse => ForeignComponents::Refuse,
            spec::ForeignComponents::Tolerate => ForeignComponents::Tolerate,
        },
        maintenance: imp.maintenance,
        poll_interval: imp.poll_interval.get(),
        requests: Requests {
            refresh: asked.refresh.clone(),
            restart_routers: asked.restart_routers.clone(),
            adopt_rows: asked.adopt_rows.clone(),
        },
        links: links_seen(valid, pods),
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

fn links_seen(valid: &Validated, pods: &[EdgePod]) -> Vec<Link> {
    pods.iter()
        .filter(|pod| !pod.stopping)
        .filter_map(|pod| pod.status.as_ref().ok())
        .flat_map(|status| &status.links)
        .filter(|link| link.router == valid.imp.spec.name)
        .map(|link| Link {
            node: link.node.clone(),
            component_id: link.component_id.clone(),
            up: link.state == LinkState::Up,
        })
        .collect()
}

/// Addresses of the routers: overrides first, then what the names resolve to, then what was known.
pub async fn router_addresses(valid: &Validated, nodes: &[NodeReport], known: &Links) -> Links {
    let resolved = nodes.iter().map(|node| async move {
        let lower = node.name.to_ascii_lowercase();
        let given = valid.imp.addresses.iter().find(|(name, _)| *name == lower);
        let before = known
            .iter()
            .find(|(name, _)| *name == node.name)
            .map(|(_, a)| a.clone());
        let address = match given {
            Some((_, address)) => Some(address.to_string()),
            None => resolve(&node.name, before.as_deref()).await.or(before),
        };
        // A name that does not resolve here is left to the edge's own resolving.
        (
            node.name.clone(),
            address.unwrap_or_else(|| node.name.clone()),
        )
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
    if let Some(known) = known {
        if addresses.iter().any(|a| a.to_string() == known) {
            return Some(known.to_owned());
        }
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
        .iter()
        .flat_map(|router| &router.endpoints)
        .map(|endpoint| (endpoint.name.clone(), endpoint.address.host.clone()))
        .collect()
}

/// Public records as they were looked at last.
#[derive(Debug, Clone)]
pub struct Records {
    /// When.
    pub at: Instant,
    /// For what.
    wanted: Wanted,
    /// With which resolvers.
    resolvers: Vec<IpAddr>,
    /// Which request for a refresh this served.
    refresh: Option<String>,
    /// What was found.
    pub found: Vec<RecordStatus>,
}

impl Records {
    /// Whether all of ours are as they should be.
    pub fn good(&self) -> bool {
        !self.found.iter().any(|r| {
            matches!(
                r.state,
                RecordState::Wrong | RecordState::Absent | RecordState::Unknown
            )
        })
    }

    /// Time to the next look.
    pub fn due_in(&self) -> Duration {
        let period = if self.good() {
            RECORDS_GOOD
        } else {
            RECORDS_BAD
        };
        period.saturating_sub(self.at.elapsed())
    }
}

/// Looks public records up, unless they were looked up lately for the same question.
pub async fn records(
    valid: &Validated,
    addresses: Vec<IpAddr>,
    refresh: Option<&String>,
    last: Option<Records>,
) -> Result<Records, String> {
    let partners = if valid.privacy.mode == PrivacyMode::AllowList {
        let routed = |d: &Domain| valid.static_routes.iter().any(|r| r.domain == *d);
        valid
            .privacy
            .domains
            .iter()
            .filter(|d| !routed(d))
            .cloned()
            .collect()
    } else {
        Vec::new()
    };
    let wanted = Wanted {
        domains: valid.hosted.clone(),
        hostname: valid.hostname.clone(),
        addresses,
        partners,
    };
    if let Some(last) = last {
        if last.wanted == wanted
            && last.resolvers == valid.resolvers
            && last.refresh.as_ref() == refresh
            && !last.due_in().is_zero()
        {
            return Ok(last);
        }
    }
    let resolver = RecordResolver::new(&valid.resolvers).map_err(|error| error.to_string())?;
    let found = tokio::time::timeout(DNS_TIMEOUT, verify(&resolver, &wanted)).await.map_err(|_| {
        format!(
            "the resolvers did not answer within {} s; check spec.dns.resolvers and the way to them",
            DNS_TIMEOUT.as_secs()
        )
    })?;
    Ok(Records {
        at: Instant::now(),
        wanted,
        resolvers: valid.resolvers.clone(),
        refresh: refresh.cloned(),
        found,
    })
}
