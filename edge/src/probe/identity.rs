//! Whether the peer believes that we are who we say: by our certificate (SASL EXTERNAL) where it
//! asks for it, and by dialback, for which it must be able to reach our own servers.

use bytes::Bytes;
use tokio::time::timeout;

use super::names::ProbeTarget;
use super::reach::ReachedPeer;
use super::{Plan, Report};
use crate::dialback::elements::{Answer, DialbackElement, Kind, result_request};
use crate::jid::spelling;
use crate::outbound::external_auth;
use crate::stream::{Failure, Wire};
use xmpp_federation_xml::{Element, ns};

impl Plan {
    pub(super) async fn identify(&self, target: &ProbeTarget, reached: ReachedPeer, report: &mut Report) {
        let subject = target.subject();
        let offered = reached.mechanisms.iter().any(|name| name == "EXTERNAL");
        self.dialback(&subject, reached, report).await;
        if !offered {
            return;
        }
        if self.live.is_none() {
            let detail = "offered; needs --config, whose certificate is shown";
            report.skip("external", &subject, detail);
            return;
        }
        // A stream of its own: dialback has authenticated the first one.
        let mut unseen = Report::new(&self.domain, self.from.as_ref());
        match self.reach(target, &mut unseen).await {
            Some(reached) => self.external(&subject, reached, report).await,
            None => report.skip("external", &subject, "a second stream could not be opened"),
        }
    }

    async fn external(&self, subject: &str, mut reached: ReachedPeer, report: &mut Report) {
        let time = self.config.limits.dialback_timeout.0;
        let wire = &mut reached.wire;
        let asking = async {
            let from = self.from.as_ref().map(spelling);
            wire.send(external_auth(from.as_deref())).await?;
            let answer = wire.element().await?;
            let refused = answer.parse().unwrap_or_default();
            if refused.child(ns::SASL, "invalid-authzid").is_none() {
                return Ok(answer);
            }
            // As a stream for stanzas does it.
            wire.send(external_auth(None)).await?;
            wire.element().await
        };
        let remedy = "the peer does not accept our certificate; dialback is used then. Its names must cover our domain and the peer must trust its authority; some servers want one for client authentication";
        let refused = match timeout(time, asking).await {
            Ok(Ok(answer)) if answer.is(ns::SASL, "success") => None,
            Ok(Ok(answer)) => {
                let node = answer.parse().unwrap_or_default();
                let condition = node.children().find(|child| child.name != "text");
                let condition = condition.map_or("no reason", |child| child.name.as_str());
                Some(format!("the peer refuses our certificate: {condition}"))
            }
            Ok(Err(failure)) => Some(format!("the peer ends the stream: {failure}")),
            Err(_) => Some(format!("no answer within {} s", time.as_secs())),
        };
        match refused {
            None => report.good("external", subject, "the peer accepts our certificate"),
            Some(detail) => report.warn("external", subject, detail, Some(remedy)),
        }
        reached.leave().await;
    }

    async fn dialback(&self, subject: &str, mut reached: ReachedPeer, report: &mut Report) {
        let (Some(live), Some(from)) = (&self.live, &self.from) else {
            let detail = "needs --config: the key is made with its dialback secret";
            report.skip("dialback", subject, detail);
            return reached.leave().await;
        };
        let Some(id) = &reached.id else {
            let remedy = "the peer's server is broken or very old";
            let detail = "the peer's stream has no id to make a key with";
            report.bad("dialback", subject, detail, remedy);
            return reached.leave().await;
        };
        let time = self.config.limits.dialback_timeout.0;
        let key = live.dialback.key(&self.domain, from, id);
        let asking = async {
            let xml = result_request(&spelling(from), &spelling(&self.domain), &key);
            // Domains and digits are always writable.
            let xml = Bytes::from(xml.unwrap_or_default());
            reached.wire.transport.queue(xml);
            reached.wire.transport.flush().await?;
            self.answer(&mut reached.wire).await
        };
        let (detail, remedy) = match timeout(time, asking).await {
            Ok(Ok(Some(Answer::Valid))) => {
                let detail = format!("valid: the peer reached the servers of {from} and they confirmed our key");
                report.good("dialback", subject, detail);
                return reached.leave().await;
            }
            Ok(Ok(Some(Answer::Invalid))) => (
                format!("invalid: the peer asked the servers of {from}, and they do not know our key"),
                "another server answers there, or it has another secret: every edge of the domain must have the secret of this configuration (dialback.sign, or during a rotation dialback.accept)",
            ),
            Ok(Ok(Some(Answer::Error(condition)))) => {
                let condition = condition.as_deref().unwrap_or("no condition");
                let (says, remedy) = explain(condition);
                (format!("error {condition}: {says}"), remedy)
            }
            Ok(Ok(Some(Answer::Unknown) | None)) => (
                "an answer came that dialback does not know".to_owned(),
                "the peer's server is broken",
            ),
            Ok(Err(failure)) => {
                let remedy = match failure {
                    Failure::Peer { condition, .. } => explain(condition.as_str()).1,
                    _ => "its log says why; Prosody closes when the key is not valid",
                };
                let detail = format!("the peer ended the stream instead of answering: {failure}");
                (detail, remedy)
            }
            Err(_) => (
                format!("no answer within {} s", time.as_secs()),
                "the peer cannot resolve or reach our servers, and says nothing then: check our public SRV records, and that port 5269 is open from outside",
            ),
        };
        report.bad("dialback", subject, detail, remedy);
        reached.leave().await;
    }

    /// The answer to our `db:result`; other elements are passed over.
    async fn answer(&self, wire: &mut Wire) -> Result<Option<Answer>, Failure> {
        loop {
            let element: Element = wire.element().await?;
            if DialbackElement::kind_of(&element) == Some(Kind::Result) {
                let received = DialbackElement::parse(&element, Kind::Result);
                return Ok(received.ok().and_then(|received| received.answer));
            }
        }
    }
}

/// What a condition of a dialback error means, and what to do.
fn explain(condition: &str) -> (&'static str, &'static str) {
    match condition {
        "item-not-found" | "host-unknown" => (
            "the peer does not serve that domain",
            "its SRV records lead to a server that does not know it; tell its administrators",
        ),
        "remote-server-not-found" => (
            "the peer found no server for our domain, or could not ask it",
            "check our public records: _xmpp-server._tcp of our domain must lead to the edge, from outside too",
        ),
        "remote-connection-failed" | "remote-server-timeout" => (
            "the peer could not connect to our servers",
            "check that port 5269 of our public addresses is open from outside",
        ),
        "policy-violation" => (
            "the peer wants TLS, or a certificate, where there is none",
            "compare tls.mode with the peer's, and look at the certificate that we show",
        ),
        "not-allowed" | "forbidden" | "not-authorized" => (
            "the peer's lists do not admit us",
            "ask its administrators to admit our domain",
        ),
        "resource-constraint" => ("the peer has too much to do", "try again later"),
        "internal-server-error" => ("the peer failed", "its log says more"),
        _ => ("the peer's own reason", "its log says more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_condition_that_servers_answer_with_has_a_remedy() {
        for condition in [
            "item-not-found",
            "remote-server-not-found",
            "remote-connection-failed",
            "remote-server-timeout",
            "policy-violation",
            "not-allowed",
            "forbidden",
            "resource-constraint",
            "something-new",
        ] {
            let (says, remedy) = explain(condition);
            assert!(!says.is_empty() && !remedy.is_empty(), "{condition}");
        }
    }
}
