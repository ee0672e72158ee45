//! The life of an edge and its orderly stop: every stanza is delivered or reported first.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use xmpp_federation_core::edge_config::FINISH_AT_MOST;

use super::Edge;
use crate::inbound;
use crate::outbound::acquaint;
use crate::router::Mode;
use crate::shared::Shared;
use crate::stream::CLOSE_TIME;
use crate::stream::listen::Listeners;
use crate::words::Service;

/// The last part of [`FINISH_AT_MOST`]: nothing is delivered any more, and links and streams that do not
/// close are left.
const FOR_CLOSING: Duration = Duration::from_secs(2);
/// What remains before that when waiting for remote servers ends and reporting begins.
const FOR_REPORTS: Duration = Duration::from_secs(10);
/// The least time for what inbound streams brought last, however long that took.
const FOR_THE_LAST: Duration = Duration::from_secs(4);
/// How long the last answers are waited for when there is no time left.
const LAST_WORD: Duration = Duration::from_millis(500);
/// How long the edge waits for the addresses of routers before it accepts connections.
const ROUTER_NAMES: Duration = Duration::from_secs(1);
/// How often it is looked whether anything is left to do.
const LOOK: Duration = Duration::from_millis(20);
/// The links are closed when nothing has been under way for this long.
const QUIET: Duration = Duration::from_millis(100);

/// Serves until `stop` completes, then drains.
pub(crate) async fn run(edge: Arc<Edge>, listeners: Listeners, stop: impl Future<Output = ()> + Send) {
    let live = edge.live();
    // Only a slow DNS takes as long, and it must not keep the edge from serving.
    let _ = timeout(ROUTER_NAMES, live.resolver.find_routers(&live.config)).await;
    drop(live);
    let (accepting, linking) = (CancellationToken::new(), CancellationToken::new());
    let mut acceptors = JoinSet::new();
    let Listeners { s2s, direct_tls } = listeners;
    let sockets = [(Some(s2s), Service::StartTls), (direct_tls, Service::DirectTls)];
    for (listener, service) in sockets {
        if let Some(listener) = listener {
            acceptors.spawn(inbound::run(edge.inbound.clone(), listener, service, accepting.clone()));
        }
    }
    let routers = tokio::spawn(edge.routers.clone().run(linking.clone()));
    let inbound = edge.inbound.clone();
    let turns = tokio::spawn(async move { inbound.give_turns().await });
    tokio::select! {
        () = stop => {}
        () = edge.shared.log_rate.run(&edge.metrics) => {}
        () = acquainting(edge.shared.clone()) => {}
        () = edge.verifier.follow() => {}
    }

    edge.shared.start_draining();
    let delay = edge.live().config.drain_delay.0;
    tracing::info!(seconds = delay.as_secs(), "stopping: no longer ready, still accepting");
    // Load balancers and partners go on calling until they have noticed.
    sleep(delay).await;
    let deadline = Instant::now() + FINISH_AT_MOST - FOR_CLOSING;

    accepting.cancel();
    acceptors.join_all().await;
    tracing::info!("stopping: closing inbound streams");
    let _ = timeout_at(deadline, edge.inbound.close()).await;
    turns.abort();

    let _ = timeout_at(deadline, settle(&edge, deadline)).await;
    close_streams(&edge, deadline).await;
    let _ = timeout_at(deadline + FOR_CLOSING / 2, edge.outbound.closed()).await;
    linking.cancel();
    let _ = timeout_at(deadline + FOR_CLOSING, routers).await;
    edge.shared.log_rate.end();
    tracing::info!(
        links = edge.clusters.is_settled(),
        streams = edge.outbound.is_settled(),
        "stopped"
    );
}

/// Goes on until it is dropped.
async fn acquainting(shared: Arc<Shared>) {
    acquaint::run(shared).await;
    std::future::pending::<()>().await;
}

/// Closes the links, so that routers use other edges, and finishes what they sent until then.
/// Errors to hosted senders may come up while the links are closed: they are opened again for them.
async fn settle(edge: &Arc<Edge>, deadline: Instant) {
    let waiting_ends = (deadline - FOR_REPORTS).max(Instant::now() + FOR_THE_LAST);
    let mut linked_by = waiting_ends;
    loop {
        until(linked_by, || edge.clusters.is_settled()).await;
        if !edge.clusters.is_settled() {
            edge.routers.give_up();
        }
        edge.routers.set_mode(Mode::Finish);
        tracing::info!("stopping: closing links to XCP routers");
        until(deadline, || edge.routers.all_down()).await;
        // What the routers did not take in time was reported only now.
        let reports_end = waiting_ends.max(Instant::now() + FOR_THE_LAST / 2);
        until(reports_end.min(deadline), || edge.outbound.is_settled()).await;
        if !edge.outbound.is_settled() {
            tracing::warn!("stopping: stanzas that still wait for remote servers are reported to their senders");
            edge.outbound.give_up();
            until(deadline, || edge.outbound.is_settled()).await;
        }
        sleep(QUIET).await;
        if (edge.clusters.is_settled() && edge.outbound.is_settled()) || Instant::now() >= deadline {
            return;
        }
        tracing::info!("stopping: opening links again for errors to hosted senders");
        edge.routers.set_mode(Mode::Run);
        linked_by = deadline - CLOSE_TIME;
    }
}

/// Closes the outbound streams. Only their peers' own ends say that everything was read: what they
/// do not confirm is reported, over links that are opened once more.
async fn close_streams(edge: &Arc<Edge>, deadline: Instant) {
    tracing::info!("stopping: closing outbound streams");
    edge.outbound.close();
    let ends_by = (deadline - CLOSE_TIME).max(Instant::now() + LAST_WORD);
    until(ends_by, || edge.outbound.all_ended()).await;
    // Nothing is sent any more: what routers still bring is reported.
    edge.outbound.give_up();
    edge.outbound.hang_up();
    until(Instant::now() + LAST_WORD, || {
        edge.outbound.all_ended() && edge.outbound.is_settled()
    })
    .await;
    while !edge.clusters.is_settled() && Instant::now() < deadline - LAST_WORD {
        tracing::info!("stopping: opening links again for errors to hosted senders");
        edge.routers.set_mode(Mode::Run);
        until(deadline - LAST_WORD, || edge.clusters.is_settled()).await;
        edge.routers.set_mode(Mode::Finish);
        until(deadline, || edge.routers.all_down()).await;
        sleep(QUIET).await;
    }
    let stanzas = edge.routers.abandon();
    if stanzas > 0 {
        tracing::warn!(
            stanzas,
            "stopping: no link to an XCP router came up; waiting stanzas are dropped"
        );
    }
}

async fn until(deadline: Instant, done: impl Fn() -> bool) {
    while !done() && Instant::now() < deadline {
        sleep(LOOK).await;
    }
}
