//! What AXL and Control Center share: HTTPS with Basic authentication, the judging of
//! certificates, bounds on size and time, the rule of one 401, and one log line per call.
//! The use of the account is noted when the connection stands, right before the request.
//!
//! Connections are not kept: a request on a kept connection that the server just closed would
//! leave open whether it arrived. Nor are cookies: a stale session is answered 404. Where AXL
//! answers 404 all the same, it is asked once more at once; nothing was executed.

mod sending;

use std::error::Error as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme};
use tower::util::AndThenLayer;
use xmpp_federation_core::Fingerprint;
use xmpp_federation_core::peer_key::{self, Possession, Version};

use super::clock::Stamp;
use super::error::{CallError, CallErrorKind, Interface};
use super::resolve::{ClusterResolver, SystemResolver};
use super::soap::{self, Answer, Element};
use crate::access::{Credentials, ServerTrust, Target};
use crate::accounts::{LoginOutcome, Logins};
use crate::counter::Counter;
use crate::timings::CALL_TIMEOUT;
use sending::{Sending, Stage};

/// The largest answer that is read: twenty thousand rows, where a table of component ids has ten.
const MAX_ANSWER: usize = 4 * 1024 * 1024;
/// To connect, TLS included: three tries of a SYN, which is lost now and then.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Calls the nodes of one cluster.
#[derive(Clone)]
pub struct Caller {
    client: reqwest::Client,
    logins: Arc<Logins>,
    counter: Arc<dyn Counter>,
    timeout: Duration,
}

#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    pub interface: Interface,
    /// `https://host:port`.
    pub server: &'a str,
    /// Path, with leading slash.
    pub path: &'a str,
    /// Name of the operation, for the log.
    pub function: &'static str,
    /// The header `SOAPAction`, quotes included.
    pub soap_action: &'a str,
    pub body: &'a str,
    pub account: &'a Credentials,
    /// Where a late call does harm: not sent at this time or later.
    pub not_after: Option<Stamp>,
}

/// Why no call can be made: what `imp[].tls` refers to cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// TLS itself.
    #[error("TLS cannot be set up: {0}")]
    Tls(rustls::Error),
    /// The source of the authorities, by its name.
    #[error("{0} is not PEM: {1}")]
    NotPem(String, pem::Error),
    /// The same, with another kind of certificate.
    #[error("{0} holds a certificate that is no CA: {1}")]
    NoAuthority(String, rustls::Error),
    /// The same, empty.
    #[error("{0} holds no certificate; it needs the CA in PEM")]
    NoCertificate(String),
    /// The client for a publisher.
    #[error("the HTTPS client for {0} cannot be set up: {1}")]
    Client(String, reqwest::Error),
}

impl Caller {
    /// A caller for this target.
    pub fn new(
        target: &Target,
        resolver: SystemResolver,
        logins: Arc<Logins>,
        counter: Arc<dyn Counter>,
    ) -> Result<Self, SetupError> {
        let hosts = target.addresses.iter();
        let hosts = hosts.map(|(name, given)| (name.clone(), given.host.clone())).collect();
        let builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls_config(&target.tls)?)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .http1_only()
            .pool_max_idle_per_host(0)
            .connect_timeout(CONNECT_TIMEOUT)
            .connector_layer(AndThenLayer::new(sending::about_to_send));
        let client = builder
            .dns_resolver(Arc::new(ClusterResolver { resolver, hosts }))
            .build()
            .map_err(|error| SetupError::Client(target.publisher.clone(), error))?;
        Ok(Self {
            client,
            logins,
            counter,
            timeout: CALL_TIMEOUT,
        })
    }

    /// The same with another bound on a whole call.
    #[must_use]
    pub fn within(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Calls, and returns the operation's response element.
    pub async fn call(&self, call: Call<'_>) -> Result<Element, CallError> {
        let started = Instant::now();
        let failed = |kind| CallError {
            interface: call.interface,
            server: call.server.to_owned(),
            secret: call.account.secret.to_string(),
            kind,
        };
        if let Err(kind) = self.logins.check(call.account).await {
            self.counter.called(call.function, kind.word());
            log(&call, 0, &failed(kind.clone()).to_string(), started);
            return Err(failed(kind));
        }
        let sending = Arc::new(Sending::new(&self.logins, call.account, call.not_after));
        let mut answer = self.exchange(&call, &sending).await;
        if call.interface == Interface::Axl && matches!(answer, Ok((404, _))) {
            self.counter.called(call.function, CallErrorKind::Http(404).word());
            log(&call, 404, "asked once more at once", started);
            answer = self.exchange(&call, &sending).await;
        }
        let outcome = match &answer {
            Ok((401, _)) => LoginOutcome::Rejected,
            Ok(_) => LoginOutcome::Accepted,
            Err(_) => LoginOutcome::Untold,
        };
        let retry_at = sending.finish(outcome).await;
        let status = answer.as_ref().map_or(0, |(status, _)| *status);
        let result = match answer {
            Ok((401, _)) => Err(CallErrorKind::Unauthorized { retry_at }),
            Ok((status, Body { bytes, retry_after })) => read(status, &bytes, retry_after),
            Err(kind) => Err(kind),
        }
        .map_err(failed);
        let outcome = result.as_ref().err().map_or("ok", |error| error.kind.word());
        self.counter.called(call.function, outcome);
        let reason = result
            .as_ref()
            .err()
            .map_or_else(|| "None".to_owned(), ToString::to_string);
        log(&call, status, &reason, started);
        result
    }

    /// Connects, notes the use of the account where that is not done yet, and sends.
    async fn exchange(&self, call: &Call<'_>, sending: &Arc<Sending>) -> Result<(u16, Body), CallErrorKind> {
        loop {
            let answer = sending.scope(self.send(call)).await;
            match sending.stage() {
                // The next connection finds the use noted.
                Stage::Unnoted => sending.begin().await?,
                Stage::Refused(kind) => return Err(kind),
                Stage::Connecting | Stage::Sent => return answer,
            }
        }
    }

    async fn send(&self, call: &Call<'_>) -> Result<(u16, Body), CallErrorKind> {
        let password = String::from_utf8_lossy(call.account.password.expose());
        let response = self
            .client
            .post(format!("{}{}", call.server, call.path))
            .basic_auth(&call.account.username, Some(password))
            .header(CONTENT_TYPE, "text/xml;charset=UTF-8")
            .header(ACCEPT, "text/xml")
            .header("SOAPAction", call.soap_action)
            .body(call.body.to_owned())
            .timeout(self.timeout)
            .send()
            .await;
        let mut response = response.map_err(|error| transport(&error))?;
        let status = response.status().as_u16();
        let retry_after = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .map(Duration::from_secs);
        let mut bytes = Vec::new();
        // Of a 401 or 599 only the status counts; its body may be anything.
        if !matches!(status, 200 | 500) {
            return Ok((status, Body { bytes, retry_after }));
        }
        while let Some(chunk) = response.chunk().await.map_err(|error| transport(&error))? {
            if bytes.len() + chunk.len() > MAX_ANSWER {
                return Err(CallErrorKind::TooLarge);
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok((status, Body { bytes, retry_after }))
    }
}

struct Body {
    bytes: Vec<u8>,
    retry_after: Option<Duration>,
}

fn read(status: u16, bytes: &[u8], retry_after: Option<Duration>) -> Result<Element, CallErrorKind> {
    match status {
        403 => Err(CallErrorKind::Forbidden),
        503 => Err(CallErrorKind::Throttled(retry_after)),
        599 => Err(CallErrorKind::VersionUnsupported),
        200 | 500 => match soap::answer(bytes) {
            Ok(Answer::Response(element)) => Ok(element),
            Ok(Answer::Fault(fault)) => Err(if fault.asks_to_slow_down() {
                CallErrorKind::Throttled(None)
            } else {
                CallErrorKind::Fault(fault)
            }),
            Err(_) if status == 500 => Err(CallErrorKind::Http(500)),
            Err(error) => Err(CallErrorKind::Malformed(error)),
        },
        other => Err(CallErrorKind::Http(other)),
    }
}

/// The line that Expressway's administrators know: URL, Function, Status, Reason.
fn log(call: &Call<'_>, status: u16, reason: &str, started: Instant) {
    let url = format!("{}{}", call.server, call.path);
    let duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let function = call.function;
    match call.interface {
        Interface::Axl => tracing::info!(
            target: "network.axl",
            module = "network.axl", url, function, status, reason, duration_ms,
            "AXL call"
        ),
        Interface::ControlCenter => tracing::info!(
            target: "network.control_center",
            module = "network.control_center", url, function, status, reason, duration_ms,
            "Control Center call"
        ),
    }
}

/// What a failed exchange means.
fn transport(error: &reqwest::Error) -> CallErrorKind {
    let mut innermost = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let inner = tls_error(cause);
        match inner {
            Some(rustls::Error::InvalidCertificate(why)) => {
                return CallErrorKind::Certificate(certificate_words(why));
            }
            // Before the connection stood; afterwards a broken record is a broken connection.
            Some(why) if error.is_connect() => return CallErrorKind::Tls(why.to_string()),
            _ => {}
        }
        innermost = cause.to_string();
        source = cause.source();
    }
    if error.is_connect() {
        CallErrorKind::Connect(if error.is_timeout() {
            "it timed out".to_owned()
        } else {
            innermost
        })
    } else if error.is_timeout() {
        CallErrorKind::Timeout
    } else {
        CallErrorKind::Interrupted(innermost)
    }
}

/// The TLS error in an error, which may be wrapped into several I/O errors.
fn tls_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    let mut error = error;
    while let Some(inner) = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
        error = inner;
    }
    error.downcast_ref()
}

pub(super) fn certificate_words(error: &CertificateError) -> String {
    match error {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "it was not issued by one of the given CAs".to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it has expired".to_owned(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "it is not valid yet".to_owned(),
        CertificateError::NotValidForName => "it is for another name".to_owned(),
        CertificateError::NotValidForNameContext { presented, .. } if presented.is_empty() => {
            "it names no host as subjectAltName, and a common name alone counts for nothing".to_owned()
        }
        CertificateError::NotValidForNameContext { presented, .. } => {
            soap::plain(&format!("it is for another name ({})", presented.join(", ")))
        }
        CertificateError::ApplicationVerificationFailure => {
            "its SHA-256 fingerprint is none of the pinned ones".to_owned()
        }
        CertificateError::Other(OtherError(other)) if other.is::<Refused>() => other.to_string(),
        CertificateError::BadEncoding => only_pins("it is not encoded as X.509 has it"),
        CertificateError::Other(OtherError(other)) => match other.downcast_ref() {
            Some(webpki::Error::CaUsedAsEndEntity) => {
                only_pins("it is its own authority (CA:true), as tomcat certificates that IM&P made itself are")
            }
            Some(webpki::Error::UnsupportedCertVersion) => only_pins("it is no X.509 v3 certificate"),
            Some(webpki::Error::UnsupportedCriticalExtension) => {
                only_pins("it has a critical extension that is not known here")
            }
            _ => soap::plain(&error.to_string()),
        },
        other => soap::plain(&other.to_string()),
    }
}

/// For certificates that are never followed to a CA.
fn only_pins(what: &str) -> String {
    format!("{what}, and can only be pinned")
}

fn tls_config(trust: &ServerTrust) -> Result<rustls::ClientConfig, SetupError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(SetupError::Tls)?;
    let mut config = builder
        .dangerous()
        .with_custom_certificate_verifier(verifier(trust)?)
        .with_no_client_auth();
    // A call every few minutes resumes no session, and room for them would be taken ahead.
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Judges certificates in that way.
pub(super) fn verifier(trust: &ServerTrust) -> Result<Arc<dyn ServerCertVerifier>, SetupError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let leaf = |accepted| Arc::new(Leaf { accepted, algorithms });
    Ok(match trust {
        ServerTrust::Ca { pem, source } => {
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let certificate = certificate.map_err(|error| SetupError::NotPem(source.clone(), error))?;
                roots
                    .add(certificate)
                    .map_err(|error| SetupError::NoAuthority(source.clone(), error))?;
            }
            let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|_| SetupError::NoCertificate(source.clone()))?;
            leaf(Accepted::Issued(chain))
        }
        ServerTrust::Pinned(fingerprints) => leaf(Accepted::Pinned(fingerprints.clone())),
        ServerTrust::Insecure => leaf(Accepted::Any),
    })
}

/// Which certificates are accepted; but for any, the peer has to own its key.
#[derive(Debug)]
enum Accepted {
    /// From one of these CAs.
    Issued(Arc<WebPkiServerVerifier>),
    /// With one of these fingerprints.
    Pinned(Vec<Fingerprint>),
    /// Any certificate.
    Any,
}

#[derive(Debug)]
struct Leaf {
    accepted: Accepted,
    algorithms: WebPkiSupportedAlgorithms,
}

/// A reason in our words.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refused(String);

fn refused(why: String) -> rustls::Error {
    CertificateError::Other(OtherError(Arc::new(Refused(why)))).into()
}

fn unverifiable(key: &str) -> rustls::Error {
    refused(format!(
        "it has {key}, with which no signature can be verified here; it needs an RSA key of 2048 to 8192 bits, or one on the curve P-256, P-384 or P-521"
    ))
}

/// Why a certificate can only be pinned, if no CA could make it acceptable.
pub(super) fn only_pinned(leaf: &CertificateDer<'_>) -> Option<String> {
    if let Err(rustls::Error::InvalidCertificate(why)) = ParsedCertificate::try_from(leaf) {
        return Some(certificate_words(&why));
    }
    weak(leaf)
}

fn weak(leaf: &[u8]) -> Option<String> {
    let least = peer_key::STRONG_RSA_BITS;
    let bits = peer_key::weak_rsa_bits(leaf)?;
    Some(format!(
        "its RSA key has {bits} bits, fewer than {least}, and can only be pinned"
    ))
}

impl Leaf {
    fn check_signature(
        &self,
        version: Version,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let possession = peer_key::verify(version, message, certificate, signature, &self.algorithms)?;
        match (possession, &self.accepted) {
            (Possession::Proven, _) | (_, Accepted::Any) => Ok(HandshakeSignatureValid::assertion()),
            (Possession::Unknown(key), _) => Err(unverifiable(&key)),
        }
    }
}

impl ServerCertVerifier for Leaf {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let key = match self.accepted {
            Accepted::Any => None,
            _ => peer_key::unsupported(end_entity, &self.algorithms),
        };
        if let Some(key) = key {
            return Err(unverifiable(&key));
        }
        match &self.accepted {
            Accepted::Issued(chain) => {
                let verified = chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
                weak(end_entity).map_or(Ok(verified), |why| Err(refused(why)))
            }
            Accepted::Pinned(pinned) if !pinned.contains(&Fingerprint::of(end_entity)) => {
                Err(CertificateError::ApplicationVerificationFailure.into())
            }
            Accepted::Pinned(_) | Accepted::Any => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.check_signature(Version::Tls12, message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.check_signature(Version::Tls13, message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
