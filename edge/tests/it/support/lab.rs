//! A running edge.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use xmpp_federation_core::edge_config::{EdgeConfig, LinkProfile, Partner as Terms, RouteHost};
use xmpp_federation_core::edge_status::{LinkState, LinkStatus};
use xmpp_federation_core::{Domain, SecretBytes};
use xmpp_federation_edge::budget::{Budget, MemoryLimit};
use xmpp_federation_edge::config::Live;
use xmpp_federation_edge::dialback::DialbackSecrets;
use xmpp_federation_edge::observe::metrics::Metrics;
use xmpp_federation_edge::observe::registry::Registry;
use xmpp_federation_edge::policy::Policy;
use xmpp_federation_edge::resolve::Resolver;
use xmpp_federation_edge::router::Timing;
use xmpp_federation_edge::runtime::Edge;
use xmpp_federation_edge::stream::listen::{self, Listeners};
use xmpp_federation_edge::tls::TlsSettings;

use super::{COMPONENT, PATIENCE, Peer, Router, RouterLink, client_tls, server_tls};

pub const SECRET: &str = "s3cr3tf0rd14lb4ck";

/// A running edge.
pub struct Lab {
    pub edge: Arc<Edge>,
    pub s2s: SocketAddr,
    pub direct_tls: SocketAddr,
    pub live: watch::Sender<Arc<Live>>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

/// What [`Lab::start`] begins with.
pub fn config(peers: &[&Peer], routers: &[&Router]) -> EdgeConfig {
    let ways: String = peers
        .iter()
        .map(|peer| {
            let address = peer.listener.local_addr().unwrap();
            let domain = Domain::parse(peer.domain).unwrap();
            let (host, port) = (address.ip(), address.port());
            format!("- domain: {domain}\n  route: [{{host: '{host}', port: {port}}}]\n")
        })
        .collect();
    let endpoints: String = routers
        .iter()
        .enumerate()
        .map(|(n, router)| {
            let address = router.listener.local_addr().unwrap();
            format!("  - name: node{n}\n    address: '{address}'\n")
        })
        .collect();
    let (ways, endpoints) = (
        if ways.is_empty() {
            "[]\n".into()
        } else {
            format!("\n{ways}")
        },
        if endpoints.is_empty() {
            "[]\n".into()
        } else {
            format!("\n{endpoints}")
        },
    );
    EdgeConfig::from_yaml(&format!(
        "domains: [coluc.com, conf.coluc.com]\n\
         dialback: {{sign: /nowhere}}\n\
         tls:\n  certificates: [{{certificateFile: /nowhere, privateKeyFile: /nowhere}}]\n\
         partners: {ways}\
         routers:\n- name: main\n  componentIds: [{COMPONENT}]\n  secretFile: /nowhere\n  endpoints: {endpoints}\
         drainDelay: 0s\n"
    ))
    .unwrap()
}

/// The same with links of this profile.
pub fn config_of(profile: LinkProfile, peers: &[&Peer], routers: &[&Router]) -> EdgeConfig {
    let mut config = config(peers, routers);
    config.routers[0].profile = profile;
    config
}

/// The terms of a remote domain.
pub fn terms(domain: &str, terms: &str) -> Terms {
    serde_yaml::from_str(&format!("{{domain: {domain}, {terms}}}")).unwrap()
}

/// Pins a certificate of `vngtp.lab`.
pub fn pin(sha256: &str) -> Terms {
    terms("vngtp.lab", &format!("tls: {{pinnedSha256: ['{sha256}']}}"))
}

/// Gives a remote domain these terms in place of its own; it keeps its route.
pub fn give_terms(config: &mut EdgeConfig, terms: Terms) {
    match config.partners.iter_mut().find(|known| known.domain == terms.domain) {
        Some(known) => {
            let route = std::mem::take(&mut known.route);
            *known = Terms { route, ..terms };
        }
        None => config.partners.push(terms),
    }
}

/// A host of a route.
pub fn route_host(address: SocketAddr) -> RouteHost {
    let (host, port) = (address.ip().to_string(), address.port());
    RouteHost { host, port }
}

pub fn live(config: EdgeConfig) -> Live {
    Live {
        budget: Budget::new(MemoryLimit::of_this_process(), &config.limits),
        config_hash: String::new(),
        ignored: Vec::new(),
        hosted: config.domains.iter().cloned().collect::<HashSet<_>>(),
        policy: Arc::new(Policy::new(&config)),
        dialback: DialbackSecrets::new(SecretBytes::new(SECRET.into()), vec![]),
        tls: TlsSettings::new(Some(server_tls()), Some(client_tls())),
        resolver: Arc::new(Resolver::new(&config)),
        router_secrets: vec![SecretBytes::new(b"router-secret".to_vec())],
        warnings: Vec::new(),
        files: Vec::new(),
        config,
    }
}

impl Lab {
    pub fn start(live: Live) -> Self {
        Self::start_with(live, Timing::default())
    }

    /// With other times on the links than a router deserves.
    pub fn start_with(live: Live, timing: Timing) -> Self {
        super::log::subscribe();
        let listener = listen::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let s2s = listener.local_addr().unwrap();
        let direct = listen::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let direct_tls = direct.local_addr().unwrap();
        let listeners = Listeners {
            s2s: listener,
            direct_tls: Some(direct),
        };
        let (live, rx) = watch::channel(Arc::new(live));
        let edge = Edge::with_timing(
            rx,
            0,
            Arc::new(Metrics::default()),
            Arc::new(Registry::default()),
            timing,
        );
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(edge.clone().run(listeners, async move {
            let _ = stopped.await;
        }));
        Self {
            edge,
            s2s,
            direct_tls,
            live,
            stop: Some(stop),
            task,
        }
    }

    /// An edge with one peer, one router and this configuration; the first link is up, and no other is taken.
    pub async fn configured(change: impl FnOnce(&mut EdgeConfig)) -> (Self, Peer, RouterLink) {
        let (peer, router) = (Peer::new("vngtp.lab").await, Router::new().await);
        let mut config = config(&[&peer], &[&router]);
        change(&mut config);
        let lab = Self::start(live(config));
        let link = router.accept().await;
        (lab, peer, link)
    }

    /// The same with a router of this profile.
    pub async fn linked(profile: LinkProfile) -> (Self, Peer, RouterLink) {
        let (peer, router) = (Peer::new("vngtp.lab").await, Router::new().await);
        let lab = Self::start(live(config_of(profile, &[&peer], &[&router])));
        let link = match profile {
            LinkProfile::Component => router.accept().await,
            LinkProfile::Xcp => router.accept_xcp().await,
        };
        (lab, peer, link)
    }

    /// An edge with one peer and one router, the link up.
    pub async fn with_link() -> (Self, Peer, Router, RouterLink) {
        let (peer, router) = (Peer::new("vngtp.lab").await, Router::new().await);
        let lab = Self::start(live(config(&[&peer], &[&router])));
        let link = router.accept().await;
        (lab, peer, router, link)
    }

    /// An edge with one peer and two routers, both links up.
    pub async fn with_links(timing: Timing) -> (Self, Peer, [Router; 2], [RouterLink; 2]) {
        let peer = Peer::new("vngtp.lab").await;
        let routers = [Router::new().await, Router::new().await];
        let lab = Self::start_with(live(config(&[&peer], &routers.each_ref())), timing);
        let links = [routers[0].accept().await, routers[1].accept().await];
        (lab, peer, routers, links)
    }

    /// What is counted, as Prometheus reads it.
    pub fn metric(&self, line: &str) -> u64 {
        let text = self.edge.metrics.render(&self.edge.registry);
        let value = text.lines().find_map(|found| found.strip_prefix(line));
        value.map_or(0, |value| value.trim().parse().unwrap())
    }

    /// The same is this number.
    #[track_caller]
    pub fn counts(&self, line: &str, number: impl TryInto<u64, Error: std::fmt::Debug>) {
        let line = format!("xmpp_edge_{}", line.trim_start_matches("xmpp_edge_"));
        assert_eq!(self.metric(&line), number.try_into().unwrap(), "{line}");
    }

    /// Waits until something is so.
    pub async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !holds(self) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(timeout(2 * PATIENCE, waiting).await.is_ok(), "never: {what}");
    }

    /// Waits until so many inbound streams are open.
    pub async fn inbound(&self, count: usize) {
        let open = |lab: &Self| lab.edge.registry.counts().inbound == count;
        self.until(&format!("{count} inbound streams"), open).await;
    }

    /// Waits until so many outbound streams are open.
    pub async fn outbound(&self, count: usize) {
        let open = |lab: &Self| lab.edge.registry.counts().outbound == count;
        self.until(&format!("{count} outbound streams"), open).await;
    }

    /// Waits until the first link has come to this state.
    pub async fn link(&self, state: LinkState) -> LinkStatus {
        let first = |lab: &Self| lab.edge.registry.links().into_iter().next();
        let there = |lab: &Self| first(lab).is_some_and(|link| link.state == state);
        self.until(&format!("{state:?}"), there).await;
        first(self).unwrap()
    }

    /// SIGTERM.
    pub fn begin_stop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
    }

    pub async fn stopped(self) {
        timeout(Duration::from_secs(40), self.task)
            .await
            .expect("the edge did not stop")
            .unwrap();
    }
}
