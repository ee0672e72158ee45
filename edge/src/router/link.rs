//! One link to one XCP router: dialling, the handshake (XEP-0114) and with profile Xcp the
//! announcement, dialling again.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::HEXLOWER;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use xmpp_federation_core::edge_config::{Endpoint, LinkProfile};
use xmpp_federation_core::edge_status::LinkState;
use xmpp_federation_core::{ComponentId, SecretBytes};

use super::{Mode, Routers, announcement, aside};
use crate::backoff::Backoff;
use crate::clusters::Cluster;
use crate::observe::links::LinkEntry;
use crate::stream::transport::Transport;
use crate::stream::{Failure, Wire, link_limits};
use crate::words::Direction;
use xmpp_federation_xml::{Frame, HeaderToSend, StreamErrorCondition, ns};

/// Time for one attempt: name look-up, TCP, handshake.
const ATTEMPT: Duration = Duration::from_secs(10);
/// First and longest pause between attempts. Routers are few and near, and a federation whose
/// router is back must not wait for us.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(3));
/// Longest pause while nothing listens there.
const PAUSE_UNREACHABLE: Duration = Duration::from_secs(1);
/// A link that lasted this long did not fail because of its handshake.
const LASTING: Duration = Duration::from_secs(10);

/// One link and what it works with.
#[derive(Debug)]
pub struct Link {
    pub(super) routers: Arc<Routers>,
    pub(super) cluster: Arc<Cluster>,
    pub(super) endpoint: Endpoint,
    pub(super) id: ComponentId,
    pub(super) profile: LinkProfile,
    pub(super) entry: Arc<LinkEntry>,
}

/// Why a link is not up.
#[derive(Debug)]
pub(super) struct LinkFailure {
    state: LinkState,
    reason: String,
}

impl Link {
    /// A link that is not dialled yet.
    pub(super) fn new(
        routers: Arc<Routers>,
        cluster: Arc<Cluster>,
        endpoint: Endpoint,
        (id, profile): (ComponentId, LinkProfile),
        entry: Arc<LinkEntry>,
    ) -> Self {
        Self {
            routers,
            cluster,
            endpoint,
            id,
            profile,
            entry,
        }
    }

    /// Keeps the link up until `stop`, and down while the mode is [`Mode::Finish`].
    pub async fn run(self, mut mode: watch::Receiver<Mode>, mut redial: watch::Receiver<u64>, stop: CancellationToken) {
        let mut backoff = Backoff::new(PAUSE.0, PAUSE.1);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                run = mode.wait_for(|mode| *mode == Mode::Run) => {
                    if run.is_err() {
                        break;
                    }
                }
            }
            let established = tokio::select! {
                () = stop.cancelled() => break,
                established = self.establish() => established,
            };
            match established {
                Ok(wire) => {
                    self.opened();
                    let since = tokio::time::Instant::now();
                    let end = self.serve(wire, &mut mode, &stop).await;
                    self.entry.closed();
                    if since.elapsed() >= LASTING {
                        backoff.reset();
                    }
                    match end {
                        Ok(()) => {
                            self.entry.set(LinkState::Connecting, None);
                            tracing::info!(
                                router = self.cluster.name,
                                node = self.endpoint.name,
                                "link to the XCP router was closed"
                            );
                            continue;
                        }
                        Err(failure) => self.failed(&self.down(&failure)),
                    }
                }
                Err(down) => self.failed(&down),
            }
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(self.pause(&mut backoff)) => {}
                // A closed channel means that the process ends.
                changed = redial.changed() => if changed.is_err() { break },
            }
        }
        self.routers.shared.registry.remove_link(&self.entry);
    }

    /// The router accepted the handshake, and with profile Xcp has our announcement: the link
    /// carries stanzas.
    fn opened(&self) {
        self.entry.opened();
        self.entry.set(LinkState::Up, None);
        tracing::info!(
            router = self.cluster.name,
            node = self.endpoint.name,
            address = %self.endpoint.address,
            component_id = %self.id,
            "link to the XCP router is up"
        );
    }

    /// Another link of ours saw how the router announces us, or that it does not any more.
    pub(super) fn announced(&self, without_gateway: bool) {
        match (without_gateway, self.entry.status().state.known()) {
            (true, Some(LinkState::Up)) => self.failed(&LinkFailure {
                state: LinkState::NotGateway,
                reason: format!(
                    "the XCP router of {} accepts the component {} and announces it without <default-gateway/>: its row is missing or the router has not been restarted since",
                    self.endpoint.name, self.id
                ),
            }),
            (false, Some(LinkState::NotGateway)) => {
                self.entry.set(LinkState::Up, None);
                tracing::info!(
                    router = self.cluster.name,
                    node = self.endpoint.name,
                    component_id = %self.id,
                    "the XCP router no longer announces the component without <default-gateway/>; the link counts as up again"
                );
            }
            _ => {}
        }
    }

    /// A router that does not listen is probably just starting, and asking costs it nothing.
    fn pause(&self, backoff: &mut Backoff) -> Duration {
        let wait = backoff.wait();
        if self.entry.status().state == LinkState::Unreachable {
            wait.min(PAUSE_UNREACHABLE)
        } else {
            wait
        }
    }

    fn failed(&self, down: &LinkFailure) {
        let known = self.entry.status();
        let news = known.state != down.state || known.reason.as_deref() != Some(&down.reason);
        self.entry.set(down.state, Some(down.reason.clone()));
        self.routers.shared.metrics.link_failed(down.state.into());
        // Attempts go on every few seconds; only news is worth a line.
        if news && down.state == LinkState::NotGateway {
            tracing::warn!(
                router = self.cluster.name,
                node = self.endpoint.name,
                reason = down.reason,
                "the XCP router announces the component without <default-gateway/> and will send nothing over the link"
            );
        } else if news {
            tracing::warn!(
                router = self.cluster.name,
                node = self.endpoint.name,
                state = ?down.state,
                reason = down.reason,
                "link to the XCP router is down"
            );
        }
    }

    /// Dials and authenticates.
    async fn establish(&self) -> Result<Wire, LinkFailure> {
        let deadline = tokio::time::Instant::now() + ATTEMPT;
        let Ok(connected) = timeout_at(deadline, self.connect()).await else {
            let meaning = meaning(io::ErrorKind::TimedOut);
            return Err(self.unreachable(&format!("no answer{meaning}")));
        };
        let tcp = connected?;
        let mut wire = Wire::new(
            Transport::new(tcp),
            link_limits(&self.routers.shared.live().config.limits),
            Direction::Outbound,
            self.routers.shared.metrics.clone(),
        );
        let shaken = timeout_at(deadline, self.handshake(&mut wire)).await;
        match shaken.unwrap_or(Err(Failure::Timeout("the handshake"))) {
            Ok(()) => Ok(wire),
            Err(failure) => {
                let down = self.down(&failure);
                let _ = timeout(Duration::from_secs(1), wire.hang_up(&failure, String::new)).await;
                Err(down)
            }
        }
    }

    async fn connect(&self) -> Result<TcpStream, LinkFailure> {
        let address = &self.endpoint.address;
        let live = self.routers.shared.live();
        let found = live.resolver.router(address).await;
        let found = found.map_err(|error| self.unreachable(&error.to_string()))?;
        let mut last = "the name has no address".to_owned();
        for address in found {
            match crate::resolve::connect::open(address).await {
                Ok(tcp) => return Ok(tcp),
                Err(error) => last = format!("{error}{}", meaning(error.kind())),
            }
        }
        Err(self.unreachable(&last))
    }

    fn unreachable(&self, why: &str) -> LinkFailure {
        LinkFailure {
            state: LinkState::Unreachable,
            reason: format!(
                "the XCP router of {} at {} cannot be reached: {why}; check that it runs and that port {} is open from here",
                self.endpoint.name, self.endpoint.address, self.endpoint.address.port
            ),
        }
    }

    async fn handshake(&self, wire: &mut Wire) -> Result<(), Failure> {
        let xcp = self.profile == LinkProfile::Xcp;
        let header = HeaderToSend {
            content_ns: ns::COMPONENT,
            to: Some(self.id.as_str()),
            id: xcp.then_some(self.id.as_str()),
            version: xcp,
            ..HeaderToSend::default()
        };
        // A component id has only characters that XML can express.
        wire.send(header.write().unwrap_or_default()).await?;
        let header = wire.header().await?;
        if header.default_ns() != ns::COMPONENT {
            return Err(Failure::invalid_namespace(
                "the router's stream is not one for components",
            ));
        }
        let id = header.id.as_deref().unwrap_or_default();
        if id.is_empty() {
            return Err(Failure::undefined_condition("the router's stream has no id"));
        }
        let key = handshake_key(id, &self.secret());
        wire.send(format!("<handshake>{key}</handshake>")).await?;
        loop {
            let Frame::Element(element) = wire.next_frame().await? else {
                continue;
            };
            if element.is(ns::COMPONENT, "handshake") {
                if xcp {
                    wire.send(announcement::announce(self.id.as_str())).await?;
                }
                return Ok(());
            }
            if xcp && element.ns() == ns::COMPONENT {
                // Others may be announced at any time, and nobody else can speak yet.
                self.routers
                    .shared
                    .metrics
                    .router_element_dropped(aside::before_the_handshake(&element));
            } else if !element.is(ns::STREAMS, "features") {
                return Err(Failure::unsupported_stanza_type(
                    "something other than the answer to the handshake came",
                ));
            }
        }
    }

    fn secret(&self) -> SecretBytes {
        let live = self.routers.shared.live();
        let place = live
            .config
            .routers
            .iter()
            .position(|router| router.name == self.cluster.name);
        place
            .and_then(|place| live.router_secrets.get(place).cloned())
            .unwrap_or_else(|| SecretBytes::new(Vec::new()))
    }

    /// What a failure on an open connection says about the link.
    fn down(&self, failure: &Failure) -> LinkFailure {
        let node = &self.endpoint.name;
        let (state, reason) = match failure {
            Failure::Peer {
                condition: StreamErrorCondition::HostUnknown,
                ..
            } => (
                LinkState::UnknownComponent,
                format!(
                    "the XCP router of {node} knows no component {}: its row is missing or the router has not been restarted since",
                    self.id
                ),
            ),
            Failure::Peer {
                condition: StreamErrorCondition::NotAuthorized,
                ..
            } => (
                LinkState::WrongSecret,
                format!("the XCP router of {node} refuses the shared secret; correct the router secret"),
            ),
            Failure::Peer {
                condition: StreamErrorCondition::Conflict,
                ..
            } => (
                LinkState::Failed,
                format!(
                    "link to the XCP router of {node}: {failure}; another process is linked with the component id {}: an earlier process whose end the router has not noticed yet, or another edge; give each edge a component id of its own",
                    self.id
                ),
            ),
            other => (LinkState::Failed, format!("link to the XCP router of {node}: {other}")),
        };
        LinkFailure { state, reason }
    }
}

/// What a failed attempt tells about the way there.
const fn meaning(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::ConnectionRefused => {
            " (the host answers, but nothing listens on that port, or a firewall rejects it)"
        }
        io::ErrorKind::TimedOut => " (the host is down, or a firewall on the way drops what is sent to that port)",
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => " (there is no route to it)",
        _ => "",
    }
}

/// The value of `<handshake/>`: lower-case hexadecimal SHA-1 of stream id and secret (XEP-0114
/// section 3).
fn handshake_key(id: &str, secret: &SecretBytes) -> String {
    use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};
    let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    context.update(id.as_bytes());
    context.update(secret.expose());
    HEXLOWER.encode(context.finish().as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_handshake_equals_the_published_vector() {
        let secret = SecretBytes::new(b"secret".to_vec());
        assert_eq!(
            handshake_key("3BF96D32", &secret),
            "b09ea9b3b7f586be8a08d0a3dd7466f110aeb136"
        );
    }
}
