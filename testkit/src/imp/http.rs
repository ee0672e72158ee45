//! HTTPS of the nodes: TLS, HTTP/1.1, and which path leads where.

use super::{
    auth::Login,
    axl,
    calls::Call,
    cluster::{Cluster, Node},
    control_center,
};
use axum::{body::Body, http};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{sync::Arc, time::Duration};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

const CONTROL_CENTER: &str = "/controlcenterservice2/services/ControlCenterServices";
const MAX_BODY: usize = 1 << 20;

/// One request, and what is known about it for the record.
pub struct Request {
    /// As `POST`.
    pub method: String,
    headers: http::HeaderMap,
    /// The whole body.
    pub body: Vec<u8>,
    /// For the record.
    pub service: &'static str,
    /// For the record.
    pub operation: String,
    /// For the record.
    pub detail: String,
    /// What the credentials are worth.
    pub login: Login,
}

/// What to do with a request.
pub struct Answer {
    status: u16,
    content_type: &'static str,
    body: String,
    outcome: &'static str,
}

impl Answer {
    /// A SOAP answer.
    pub fn xml(status: u16, body: String) -> Self {
        Self {
            status,
            content_type: "text/xml;charset=UTF-8",
            body,
            outcome: if status == 200 { "ok" } else { "refused" },
        }
    }

    /// A page of the web server.
    pub fn html(status: u16, text: &str) -> Self {
        Self {
            status,
            content_type: "text/html;charset=utf-8",
            body: format!(
                "<html><head><title>{text}</title></head><body><h1>HTTP Status {status}</h1><p>{text}</p></body></html>"
            ),
            outcome: if status == 200 { "ok" } else { "refused" },
        }
    }

    /// The connection is closed without an answer.
    pub fn lost() -> Self {
        Self {
            status: 0,
            content_type: "",
            body: String::new(),
            outcome: "reply lost",
        }
    }

    /// No answer ever comes.
    pub fn never() -> Self {
        Self {
            outcome: "time-out",
            ..Self::lost()
        }
    }
}

impl Request {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Whether the body is declared as XML in UTF-8.
    pub fn is_xml(&self) -> bool {
        let value = self
            .header("content-type")
            .unwrap_or_default()
            .to_lowercase();
        let mut parts = value.split(';').map(str::trim);
        parts.next() == Some("text/xml")
            && parts.all(|part| ["charset=utf-8", "charset=\"utf-8\""].contains(&part))
    }

    /// The 401 where the credentials are wrong; the login is judged (and counted) here, once.
    pub fn authenticate(
        &mut self,
        cluster: &Cluster,
        node: &Node,
        fault: &str,
        operations: &[&str],
    ) -> Option<Answer> {
        self.login = cluster.auth.login(self.header("authorization"));
        if cluster
            .faults
            .strike(fault, &node.name, operations)
            .is_some()
        {
            self.login.verdict = "bad";
        }
        (self.login.verdict != "ok").then(|| Answer::html(401, "Unauthorized"))
    }

    /// The 404 that a session cookie from before a restart of the web server gets.
    pub fn stale_session(&self, cluster: &Cluster) -> Option<Answer> {
        let cookies = self.header("cookie")?;
        let id = cookies
            .split(';')
            .find_map(|pair| pair.trim().strip_prefix("JSESSIONIDSSO="))?;
        (!cluster.auth.session_lives(id)).then(|| Answer::html(404, "Not Found"))
    }
}

/// Serves one node's HTTPS until the cluster ends.
pub async fn serve(
    cluster: Arc<Cluster>,
    node: Arc<Node>,
    listener: TcpListener,
    tls: TlsAcceptor,
) {
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
        let (cluster, node, tls) = (cluster.clone(), node.clone(), tls.clone());
        tokio::spawn(async move {
            let ended = cluster.ended.clone();
            tokio::select! {
                () = ended.cancelled() => {}
                () = connection(cluster, node, stream, tls) => {}
            }
        });
    }
}

async fn connection(cluster: Arc<Cluster>, node: Arc<Node>, stream: TcpStream, tls: TlsAcceptor) {
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
        login: Login {
            user: None,
            verdict: "none",
            credential: None,
            axl: false,
            control_center: false,
        },
    };
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
    cluster.calls.record(Call {
        seq: 0,
        at_ms: 0,
        node: node.name.clone(),
        service: request.service,
        operation: request.operation,
        detail: request.detail,
        status: answer.status,
        outcome: answer.outcome.into(),
        user: request.login.user,
        auth: request.login.verdict,
        credential: request.login.credential,
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
    response
        .body(Body::from(answer.body))
        .map_err(|_| "the answer cannot be built")
}
