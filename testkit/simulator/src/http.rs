//! HTTPS of the nodes: TLS, HTTP/1.1, and which path leads where.

use super::auth::Login;
use super::calls::Call;
use super::cluster::{Cluster, Node};
use super::message::{Answer, Delivery, Request};
use super::tls::{self, Identity};
use super::{axl, control_center};
use axum::body::{Body, Bytes};
use axum::http;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

const CONTROL_CENTER: &str = "/controlcenterservice2/services/ControlCenterServices";
const MAX_BODY: usize = 1 << 20;
/// Length of a huge answer.
const HUGE: usize = 100_000_000;

/// Serves one node's HTTPS until the cluster ends.
pub async fn serve(cluster: Arc<Cluster>, node: Arc<Node>, listener: TcpListener, identity: Identity) {
    let identity = Arc::new(identity);
    loop {
        let stream = tokio::select! {
            () = cluster.ended.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "accepting HTTPS");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        let (cluster, node, identity) = (cluster.clone(), node.clone(), identity.clone());
        tokio::spawn(async move {
            let ended = cluster.ended.clone();
            tokio::select! {
                () = ended.cancelled() => {}
                () = connection(cluster, node, stream, &identity) => {}
            }
        });
    }
}

async fn connection(cluster: Arc<Cluster>, node: Arc<Node>, stream: TcpStream, identity: &Identity) {
    let strikes = |name: &str| cluster.faults.strike(name, &node.name, &["connect"]).is_some();
    if strikes("tcp-closed") {
        return;
    }
    if strikes("tls-old") {
        tls::answer_as_tls_1_0(stream).await;
        return;
    }
    let tls = if strikes("tls-expired") {
        &identity.expired
    } else if strikes("tls-other-name") {
        &identity.other_name
    } else if strikes("tls-self-signed") {
        &identity.self_signed
    } else {
        &identity.acceptor
    };
    let stream = match tokio::time::timeout(Duration::from_secs(10), tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::info!(node = node.name, %error, "TLS handshake");
            return;
        }
        Err(_) => return,
    };
    let service = hyper::service::service_fn(|request| handle(&cluster, &node, request));
    let outcome = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = outcome {
        tracing::debug!(node = node.name, %error, "HTTPS connection");
    }
}

/// An error closes the connection without an answer.
async fn handle(
    cluster: &Arc<Cluster>,
    node: &Arc<Node>,
    request: http::Request<hyper::body::Incoming>,
) -> Result<http::Response<Body>, &'static str> {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(Body::new(body), MAX_BODY)
        .await
        .map_err(|_| "the body cannot be read")?;
    let mut request = Request {
        method: head.method.to_string(),
        headers: head.headers,
        body: body.to_vec(),
        service: "http",
        operation: format!("{} {}", head.method, head.uri.path()),
        detail: String::new(),
        login: Login::default(),
    };
    cluster
        .calls
        .keep_request(&node.name, &head.method, &head.uri, &request.headers, &body);
    let (now, most) = &cluster.in_flight;
    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
    let think = cluster.settings().think;
    if !think.is_zero() {
        tokio::time::sleep(think).await;
    }
    now.fetch_sub(1, Ordering::SeqCst);
    let answer = match head.uri.path() {
        "/axl/" => axl::answer(cluster, node, &mut request),
        CONTROL_CENTER => control_center::answer(cluster, node, &mut request),
        // Tomcat sends the browser on; a POST does not survive that.
        "/axl" => Answer::html(302, "Found"),
        _ => Answer::html(404, "Not Found"),
    };
    let cookie = (answer.status == 200 && request.header("cookie").is_none()).then(|| {
        format!(
            "JSESSIONIDSSO={}; Path=/; Secure; HttpOnly",
            cluster.auth.open_session()
        )
    });
    let Request {
        service,
        operation,
        detail,
        login,
        ..
    } = request;
    cluster.calls.record(Call {
        status: answer.status,
        user: login.user,
        credential: login.credential,
        ..Call::new(&node.name, service, &operation, &detail, answer.outcome, login.verdict)
    });
    match answer.outcome {
        "time-out" => {
            tokio::time::sleep(Duration::from_mins(10)).await;
            return Err("time-out on purpose");
        }
        "reply lost" => return Err("reply lost on purpose"),
        _ => {}
    }
    let mut response = http::Response::builder()
        .status(answer.status)
        .header("content-type", answer.content_type);
    match answer.status {
        302 => response = response.header("location", "/axl/"),
        401 => response = response.header("www-authenticate", "Basic realm=\"Cisco AXL API\""),
        _ => {}
    }
    if let Some(cookie) = cookie {
        response = response.header("set-cookie", cookie);
    }
    if let Some(seconds) = answer.retry_after {
        response = response.header("retry-after", seconds);
    }
    response
        .body(deliver(cluster.clone(), answer.body, answer.delivery))
        .map_err(|_| "the answer cannot be built")
}

fn deliver(cluster: Arc<Cluster>, body: String, delivery: Delivery) -> Body {
    let bytes = Bytes::from(body);
    match delivery {
        Delivery::Whole => Body::from(bytes),
        Delivery::Drip => Body::from_stream(futures::stream::unfold(0, move |at| {
            let next = bytes.get(at..=at).map(Bytes::copy_from_slice);
            async move {
                tokio::time::sleep(Duration::from_millis(200)).await;
                next.map(|next| (Ok::<_, std::io::Error>(next), at + 1))
            }
        })),
        Delivery::Reset => {
            let half = bytes.slice(..bytes.len() / 2);
            Body::from_stream(futures::stream::iter([
                Ok(half),
                Err(std::io::Error::other("broken on purpose")),
            ]))
        }
        Delivery::Huge => {
            let chunk = Bytes::from("<row><pkid>0</pkid></row>\n".repeat(2_500));
            Body::from_stream(futures::stream::unfold(0, move |sent| {
                let next = if sent == 0 {
                    // Cut before its end, so that the rest belongs to it.
                    bytes.slice(..bytes.len() * 2 / 3)
                } else {
                    chunk.clone()
                };
                cluster.huge_bytes.fetch_add(next.len(), Ordering::Relaxed);
                std::future::ready((sent < HUGE).then(|| (Ok::<_, std::io::Error>(next.clone()), sent + next.len())))
            }))
        }
    }
}
