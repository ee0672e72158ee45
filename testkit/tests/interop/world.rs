//! Hosts, processes and users of the lab.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testkit_acceptance::report::ensure;
use testkit_acceptance::users::User;
use testkit_base::Error;
use testkit_dns::RecordSpec;
use testkit_lab::Lab;
use testkit_lab::network::{DNS_INTERNET, DNS_LAN};
use testkit_partners::certificates::Authority;
use testkit_partners::session;
use testkit_simulator::ClusterState;

use crate::burst;
use crate::edges::{self, Certificates, EDGES, Edge, REPLICAS_ADDRESS, Spec};
use crate::partners::{self, PASSWORD, PROCESSES, Partner, Process};

/// The simulated clusters: host, name in its zone, hosted organisation.
const CLUSTERS: [Cluster; 2] = [
    Cluster {
        host: "imp",
        zone: "coluc.com",
    },
    Cluster {
        host: "imp-other",
        zone: "other.lab",
    },
];

/// Where the HTTP face of the partners' users is, inside the lab.
const USERS: &str = "127.0.0.1:8090";

#[derive(Clone, Copy)]
struct Cluster {
    host: &'static str,
    zone: &'static str,
}

impl Cluster {
    fn edges(self) -> impl Iterator<Item = Spec> {
        EDGES
            .into_iter()
            .filter(move |edge| edge.domains.iter().all(|domain| domain.ends_with(self.zone)))
    }

    /// One node for each edge, replicas share one: a user's home is where the edge of its domain is linked.
    fn nodes(self) -> Vec<Ipv4Addr> {
        let mut nodes: Vec<Ipv4Addr> = self.edges().map(|edge| edge.router).collect();
        nodes.dedup();
        nodes
    }

    fn control(self) -> String {
        let first = self.nodes().first().copied();
        format!("http://{}:8080", first.unwrap_or(Ipv4Addr::LOCALHOST))
    }
}

/// The domain as people write it; the lab has one international domain of ours.
pub fn unicode(domain: &str) -> String {
    match domain {
        "xn--kln-sna.coluc.com" => "köln.coluc.com".to_owned(),
        other => other.to_owned(),
    }
}

/// Starts everything; the threads that do it are outside the lab.
pub async fn start(lab: &Lab) -> Result<(), Error> {
    let began = Instant::now();
    let partners = partners::partners();
    start_dns(lab, &partners).await?;
    let ca = lab.dir().join("ca.pem");
    let authority = Authority::new("lab-s2s-ca")?;
    std::fs::write(&ca, authority.pem())?;
    for cluster in CLUSTERS {
        start_imp(lab, cluster).await?;
    }
    for process in PROCESSES {
        lab.add_host(process.name, &[process.address]).await?;
        process.start(lab, &partners, &authority, &ca)?;
    }
    lab.add_host(burst::MANY.name, &[burst::MANY.address]).await?;
    burst::start(lab, &authority, &ca)?;
    let certificates = Certificates {
        authority: &authority,
        file: &ca,
    };
    for spec in EDGES {
        lab.add_host(spec.name, &[spec.address]).await?;
        Edge::of(lab, spec).prepare(&certificates)?;
    }
    share_among_replicas(lab).await?;
    for cluster in CLUSTERS {
        for node in cluster.nodes() {
            lab.wait_for_port(cluster.host, node, 7400).await?;
        }
    }
    for spec in EDGES {
        Edge::of(lab, spec).start(lab)?;
    }
    for spec in EDGES {
        lab.wait_for_port(spec.name, spec.address, 5269).await?;
    }
    for process in PROCESSES {
        lab.wait_for_port(process.name, process.address, 5222).await?;
        lab.wait_for_port(process.name, process.address, 5269).await?;
    }
    lab.wait_for_port(burst::MANY.name, burst::MANY.address, 5269).await?;
    println!(
        "{} edges, {} domains at {} servers: up in {:.1} s",
        EDGES.len(),
        partners.len(),
        PROCESSES.len(),
        began.elapsed().as_secs_f64()
    );
    Ok(())
}

async fn start_dns(lab: &Lab, partners: &[Partner]) -> Result<(), Error> {
    lab.add_host("dns", &[DNS_LAN, DNS_INTERNET]).await?;
    let file = lab.dir().join("records.yaml");
    std::fs::write(&file, serde_json::to_string_pretty(&records(partners))?)?;
    let (lan, internet) = (DNS_LAN.to_string(), DNS_INTERNET.to_string());
    let (control, file) = (format!("{DNS_LAN}:8080"), file.display().to_string());
    #[rustfmt::skip]
    lab.spawn_testkit(Some("dns"), "dns", &[
        "dns", "--bind", &lan, "--bind", &internet, "--control", &control, "--records", &file,
    ])?;
    lab.wait_for_port("dns", DNS_LAN, 8080).await
}

/// Everybody has an SRV record that leads to a host of another name.
fn records(partners: &[Partner]) -> Vec<RecordSpec> {
    let mut records = Vec::new();
    let mut add = |name: &str, kind: &str, value: &str| {
        records.push(RecordSpec {
            name: name.to_owned(),
            record_type: kind.to_owned(),
            ttl: 5,
            values: vec![value.to_owned()],
        });
    };
    let mut zones = vec!["coluc.com", "other.lab", "pro.lab", "eja.lab", "many.lab", "hosts.lab"];
    zones.extend(partners::INTERNATIONAL.map(|(_, ascii, ..)| ascii));
    zones.extend(partners::A_LABELS.map(|(ascii, _)| ascii));
    for zone in zones {
        let soa = format!("ns1.{zone}. hostmaster.{zone}. 1 3600 600 86400 5");
        add(zone, "SOA", &soa);
        add(zone, "NS", &format!("ns1.{zone}"));
        add(&format!("ns1.{zone}"), "A", "198.51.100.53");
    }
    let mut served = |domain: &str, host: &str| {
        let service = format!("_xmpp-server._tcp.{domain}");
        add(&service, "SRV", &format!("0 0 5269 {host}.hosts.lab"));
    };
    for partner in partners {
        served(&partner.ascii, partner.process.name);
    }
    for edge in EDGES.iter().filter(|edge| edge.replica.unwrap_or(0) == 0) {
        for domain in edge.domains {
            served(domain, edge.name);
        }
    }
    for domain in burst::domains() {
        served(&domain, burst::MANY.name);
    }
    for process in PROCESSES.into_iter().chain([burst::MANY]) {
        let name = format!("{}.hosts.lab", process.name);
        add(&name, "A", &process.address.to_string());
    }
    for edge in EDGES {
        let name = format!("{}.hosts.lab", edge.name);
        add(&name, "A", &edge.public_address().to_string());
    }
    records
}

async fn start_imp(lab: &Lab, cluster: Cluster) -> Result<(), Error> {
    let nodes = cluster.nodes();
    lab.add_host(cluster.host, &nodes).await?;
    let name = |node: Ipv4Addr| format!("node{}.{}", node.octets()[3], cluster.zone);
    let namespace = lab.namespace_file(Some(cluster.host));
    let nodes: Vec<Value> = nodes
        .into_iter()
        .map(|node| {
            json!({
                "name": name(node), "address": node, "netns": namespace,
                "https-port": 8443, "xcp-port": 7400, "control-port": 8080,
            })
        })
        .collect();
    let is_alias = |domain: &str| domain.starts_with("conference.");
    let (mut domains, mut aliases, mut users, mut rows) = (vec![], vec![], vec![], vec![]);
    for edge in cluster.edges() {
        for domain in edge.domains.iter().map(|domain| unicode(domain)) {
            if is_alias(&domain) {
                aliases.push(domain);
            } else {
                users.push(json!({"jid": format!("alice@{domain}"), "node": name(edge.router)}));
                domains.push(domain);
            }
        }
        rows.push(json!({"pkid": uuid::Uuid::new_v4().to_string(), "cp_id": edge.component()}));
    }
    let config = json!({
        "nodes": nodes, "domains": domains, "conference-aliases": aliases, "users": users, "rows": rows,
        "router-secret": edges::ROUTER_SECRET,
    });
    let file = lab.dir().join(format!("{}.yaml", cluster.host));
    std::fs::write(&file, serde_json::to_string_pretty(&config)?)?;
    let file = file.display().to_string();
    lab.spawn_testkit(None, cluster.host, &["imp", "--config", &file])?;
    Ok(())
}

/// New connections to the one address go to the replicas in turn, as with a Service of Kubernetes; sources stay visible.
async fn share_among_replicas(lab: &Lab) -> Result<(), Error> {
    let places: Vec<String> = EDGES
        .iter()
        .filter_map(|edge| Some(format!("{} : {}", edge.replica?, edge.address)))
        .collect();
    let map = places.join(", ");
    let rules = format!(
        "table ip share {{ chain incoming {{ type nat hook prerouting priority dstnat; \
         ip daddr {REPLICAS_ADDRESS} tcp dport 5269 dnat to numgen inc mod {} map {{ {map} }}; }}; }}",
        edges::REPLICAS
    );
    let output = lab.exec_in(None, &["nft", &rules]).await?;
    ensure(output.success, || format!("nft: {}", output.stderr))
}

/// The lab as the cases hold it.
pub struct World {
    /// Namespaces, processes, logs.
    pub lab: Lab,
    http: reqwest::Client,
    partners: Vec<Partner>,
}

impl World {
    /// Logs all users in and waits until every edge is linked; the calling thread is inside the lab.
    pub async fn enter(lab: Lab) -> Result<Self, Error> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(90))
            .build()?;
        let world = Self {
            lab,
            http,
            partners: partners::partners(),
        };
        // ejabberd's port for clients is open before its accounts are there.
        let log = world.lab.log("eja");
        until("ejabberd's accounts", async || {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            ensure(text.contains("accounts are made"), || text)
        })
        .await?;
        let mut users = Vec::new();
        for partner in &world.partners {
            let server = (partner.process.address, 5222).into();
            users.push(session::User::connect(&partner.user(), PASSWORD, server)?);
        }
        let listener = tokio::net::TcpListener::bind(USERS).await?;
        let routes = testkit_partners::control::router(users);
        tokio::spawn(async move { axum::serve(listener, routes).await });
        for partner in &world.partners {
            let bob = world.bob(&partner.domain);
            until("the session", async || bob.full_jid().await).await?;
        }
        for cluster in CLUSTERS {
            until("the links", async || world.linked(cluster).await).await?;
        }
        Ok(world)
    }

    async fn linked(&self, cluster: Cluster) -> Result<(), Error> {
        let url = format!("{}/state", cluster.control());
        let state: ClusterState = self.http.get(url).send().await?.json().await?;
        let links: usize = state.nodes.iter().map(|node| node.router.links.len()).sum();
        ensure(links == cluster.edges().count(), || {
            format!("{links} links to {}", cluster.host)
        })
    }

    /// The edge of that name.
    pub fn edge(&self, name: &str) -> Edge {
        let spec = EDGES.into_iter().find(|edge| edge.name == name);
        Edge::of(&self.lab, spec.unwrap_or_else(|| panic!("there is no edge {name}")))
    }

    /// The partner of that domain.
    pub fn partner(&self, domain: &str) -> &Partner {
        let found = self.partners.iter().find(|partner| partner.domain == domain);
        found.unwrap_or_else(|| panic!("there is no partner {domain}"))
    }

    /// A user of ours: alice at a domain, or a chat alias.
    pub fn alice(&self, domain: &str) -> User {
        let cluster = CLUSTERS.into_iter().find(|cluster| domain.ends_with(cluster.zone));
        let cluster = cluster.unwrap_or_else(|| panic!("nobody serves {domain}"));
        let jid = if domain.starts_with("conference.") {
            domain.to_owned()
        } else {
            format!("alice@{domain}")
        };
        User::new(&self.http, &cluster.control(), &jid)
    }

    /// A partner's user.
    pub fn bob(&self, domain: &str) -> User {
        let user = self.partner(domain).user();
        User::new(&self.http, &format!("http://{USERS}"), &user)
    }

    /// The metrics of an edge.
    pub async fn metrics(&self, edge: &Edge) -> Result<String, Error> {
        let url = format!("http://{}:8080/metrics", edge.spec.address);
        Ok(self.http.get(url).send().await?.text().await?)
    }

    /// The log file of a partner's server.
    pub fn server_log(&self, process: Process) -> PathBuf {
        process.log(&self.lab)
    }
}

/// Looks again and again until it is there, half a minute at most.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Result<T, Error>) -> Result<T, Error> {
    let began = Instant::now();
    loop {
        match look().await {
            Ok(found) => return Ok(found),
            Err(missing) if began.elapsed() > Duration::from_secs(30) => {
                return Err(format!("waited 30 s for {what}: {missing}").into());
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
