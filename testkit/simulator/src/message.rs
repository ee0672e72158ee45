//! Requests to the HTTPS servers of the nodes, and how they are answered.

use super::auth::Login;
use super::cluster::{Cluster, Node};
use axum::http;

/// One request, and what is known about it for the record.
pub struct Request {
    /// As `POST`.
    pub method: String,
    /// As they came.
    pub headers: http::HeaderMap,
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
    /// HTTP status; 0: none.
    pub status: u16,
    /// Of the body.
    pub content_type: &'static str,
    /// The whole body.
    pub body: String,
    /// For the record.
    pub outcome: &'static str,
    /// How it goes out.
    pub delivery: Delivery,
    /// Seconds of a header `Retry-After`.
    pub retry_after: Option<u64>,
}

/// How the bytes of an answer go out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// At once.
    Whole,
    /// One by one, five a second.
    Drip,
    /// The first half of them; then the connection breaks.
    Reset,
    /// Behind them come so many others that 100 MB are full.
    Huge,
}

impl Answer {
    /// A SOAP answer.
    pub fn xml(status: u16, body: String) -> Self {
        Self {
            status,
            content_type: "text/xml;charset=UTF-8",
            body,
            outcome: if status == 200 { "ok" } else { "refused" },
            delivery: Delivery::Whole,
            retry_after: None,
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
            delivery: Delivery::Whole,
            retry_after: None,
        }
    }

    /// The connection is closed without an answer.
    pub fn lost() -> Self {
        Self {
            status: 0,
            content_type: "",
            body: String::new(),
            outcome: "reply lost",
            delivery: Delivery::Whole,
            retry_after: None,
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
    fn is_xml(&self) -> bool {
        let value = self.header("content-type").unwrap_or_default().to_lowercase();
        let mut parts = value.split(';').map(str::trim);
        parts.next() == Some("text/xml") && parts.all(|part| ["charset=utf-8", "charset=\"utf-8\""].contains(&part))
    }

    /// What is refused before the operation is looked at, the same at AXL (`axl`) and Control Center (`cc`): by the faults
    /// of that interface that strike here, for the account, for the form. The login is judged (and counted) here, once.
    pub fn refused(&mut self, cluster: &Cluster, node: &Node, interface: &str, operations: &[&str]) -> Option<Answer> {
        let axl = interface == "axl";
        let strike = |name: &str| {
            cluster
                .faults
                .strike(&format!("{interface}-{name}"), &node.name, operations)
        };
        if strike("timeout").is_some() {
            return Some(Answer::never());
        }
        self.login = cluster.auth.login(self.header("authorization"));
        if strike("401").is_some() {
            self.login.verdict = "bad";
        }
        if self.login.verdict != "ok" {
            return Some(Answer::html(401, "Unauthorized"));
        }
        let role = if axl { self.login.axl } else { self.login.control_center };
        if !role || strike("403").is_some() {
            return Some(Answer::html(403, "Access to the requested resource has been denied"));
        }
        if self.session().is_some_and(|id| !cluster.auth.session_lives(id)) {
            return Some(Answer::html(404, "Not Found"));
        }
        match self.method.as_str() {
            "POST" if self.is_xml() => {}
            "POST" => return Some(Answer::html(415, "Content-Type must be text/xml;charset=UTF-8")),
            "GET" if axl => {
                let text = "The AXL Web Service is working and accepting requests. Use HTTP POST to send a request.";
                return Some(Answer::html(200, text));
            }
            _ => return Some(Answer::html(405, "Method not allowed")),
        }
        if strike("404").is_some() {
            return Some(Answer::html(404, "Not Found"));
        }
        if strike("500").is_some() {
            return Some(Answer::html(500, "Internal Server Error"));
        }
        strike("503").map(|options| Answer {
            retry_after: options.seconds,
            ..Answer::html(503, "Service Unavailable")
        })
    }

    /// The session cookie, which is none any more once the web server was restarted.
    fn session(&self) -> Option<&str> {
        let mut cookies = self.header("cookie")?.split(';');
        cookies.find_map(|pair| pair.trim().strip_prefix("JSESSIONIDSSO="))
    }
}
