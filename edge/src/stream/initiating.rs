//! The steps by which the initiating side negotiates a stream (RFC 6120 sections 4.3 and 5.4), as far as they depend
//! on nothing but the peer. What they mean for a domain is decided by whoever takes them: the edge, or the probe.

use std::sync::Arc;

use rustls::ClientConfig;
use xmpp_federation_core::Domain;
use xmpp_federation_xml::{HeaderToSend, Node, StreamHeader, ns};

use super::tls::TlsSession;
use super::{Failure, Wire, major_version};
use crate::refusal::{Check, Refusal};
use crate::tls::server_name;

/// Our header; the domains as they are spelled towards the peer.
pub(crate) fn header(from: Option<&str>, to: &str) -> String {
    let header = HeaderToSend {
        content_ns: ns::SERVER,
        from,
        to: Some(to),
        version: true,
        dialback: true,
        ..HeaderToSend::default()
    };
    // Domains have only characters that XML can express.
    header.write().unwrap_or_default()
}

impl Wire {
    /// Sends our header and waits for the peer's.
    pub(crate) async fn exchange_headers(&mut self, ours: String) -> Result<Box<StreamHeader>, Failure> {
        self.send(ours).await?;
        let header = self.header().await?;
        if header.default_ns() != ns::SERVER {
            return Err(Failure::invalid_namespace("the peer's stream is not a server's"));
        }
        Ok(header)
    }

    /// The peer's features, which must come next.
    pub(crate) async fn features(&mut self) -> Result<Node, Failure> {
        let features = self.element().await?;
        if !features.is(ns::STREAMS, "features") {
            return Err(Failure::bad_format("stream features were expected"));
        }
        Ok(features.parse()?)
    }

    /// Header and features of the stream that begins after `what`.
    pub(crate) async fn restarted(
        &mut self,
        ours: String,
        what: &'static str,
    ) -> Result<(Box<StreamHeader>, Node), Failure> {
        let header = self.exchange_headers(ours).await?;
        if major_version(&header)?.is_none() {
            return Err(Failure::unsupported_version(format!(
                "the version vanished after {what}"
            )));
        }
        let features = self.features().await?;
        Ok((header, features))
    }

    /// STARTTLS up to the peer's `<proceed/>`.
    pub(crate) async fn ask_for_tls(&mut self) -> Result<(), Failure> {
        self.send(format!("<starttls xmlns='{}'/>", ns::TLS)).await?;
        let answer = self.element().await?;
        if !answer.is(ns::TLS, "proceed") {
            let reason = "the peer offered STARTTLS and then refused it";
            return Err(Refusal::new(Check::TlsHandshake, reason).into());
        }
        if self.restart() > 0 {
            let reason = "the peer sent more behind <proceed/> in clear";
            return Err(Refusal::new(Check::TlsHandshake, reason).into());
        }
        Ok(())
    }

    /// The handshake; content that came right behind it is in the framer afterwards.
    pub(crate) async fn handshake(&mut self, config: Arc<ClientConfig>, remote: &Domain) -> Result<(), Failure> {
        let name = server_name(remote).map_err(|_| Failure::improper_addressing("no TLS name for this domain"))?;
        let session = TlsSession::client(config, name).map_err(std::io::Error::other)?;
        let started = self.transport.start_tls(session, self.framer.buffer()).await;
        started.map_err(|error| {
            let reason = format!("TLS handshake: {error}");
            Failure::Io(std::io::Error::new(error.kind(), reason))
        })
    }
}
