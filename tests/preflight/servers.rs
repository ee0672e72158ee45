//! Servers that no cluster should be: with another clock, with old TLS, with a database that
//! deletes rows which do not exist.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio_rustls::TlsAcceptor;
use xmpp_federation_imp::preflight::report::{Check, CheckResult};

use crate::support::{Folder, address, expect, look, row, rows};

const HOST: &str = "odd.example";

/// An HTTPS server with a self-signed certificate that answers each request by its body.
struct Odd {
    address: IpAddr,
    folder: Folder,
    /// The bodies of the requests.
    heard: Arc<Mutex<Vec<String>>>,
}

impl Odd {
    async fn start(names: &[&str], date: &'static str, answer: fn(&str) -> String) -> Self {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.unwrap())
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let address = address();
        let listener = TcpListener::bind((address, 8443)).await.unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&heard);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, heard) = (acceptor.clone(), Arc::clone(&all));
                tokio::spawn(async move {
                    let Ok(mut tls) = acceptor.accept(stream).await else {
                        return;
                    };
                    let body = request(&mut tls).await;
                    let text = answer(&body);
                    heard.lock().await.push(body);
                    let response = format!(
                        "HTTP/1.1 200 OK\r\nDate: {date}\r\nContent-Type: text/xml\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
                        text.len()
                    );
                    let _ = tls.write_all(response.as_bytes()).await;
                    let _ = tls.shutdown().await;
                });
            }
        });
        Self {
            address,
            folder: Folder::new(),
            heard,
        }
    }

    fn arguments(&self, more: &[&str]) -> Vec<String> {
        let password = self.folder.file("password", "secret-word");
        let mut all = arguments(self.address);
        all.extend(["--user".into(), "u".into()]);
        all.extend(["--password-file".into(), password]);
        all.push("--insecure-skip-verify".into());
        all.extend(more.iter().map(ToString::to_string));
        all
    }
}

fn arguments(address: IpAddr) -> Vec<String> {
    vec![
        "--publisher".into(),
        HOST.into(),
        "--node".into(),
        format!("{HOST}={address}"),
    ]
}

/// Reads one request; its body.
async fn request(tls: &mut tokio_rustls::server::TlsStream<TcpStream>) -> String {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    loop {
        let count = tls.read(&mut buffer).await.unwrap_or(0);
        text.push_str(&String::from_utf8_lossy(&buffer[..count]));
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            if count == 0 {
                return text;
            }
            continue;
        };
        let length = head
            .lines()
            .find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok())
            .unwrap_or(0);
        if body.len() >= length || count == 0 {
            return body.to_owned();
        }
    }
}

fn response(operation: &str, content: &str) -> String {
    format!(
        "<e:Envelope xmlns:e='http://schemas.xmlsoap.org/soap/envelope/'><e:Body><n:{operation}Response xmlns:n='n'><return>{content}</return></n:{operation}Response></e:Body></e:Envelope>"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_deletes_what_is_not_there_is_asked_nothing_more() {
    let odd = Odd::start(&[HOST], "", |body| {
        if body.contains("systables") {
            response("executeSQLQuery", "<row><tabname>xmpps2snodes</tabname></row>")
        } else if body.contains("DELETE") {
            response("executeSQLUpdate", "<rowsUpdated>1</rowsUpdated>")
        } else {
            response("executeSQLQuery", "")
        }
    })
    .await;
    let report = look(&odd.arguments(&["--prove-write"])).await;
    expect(
        &report,
        Check::AxlWrite,
        HOST,
        CheckResult::Failed,
        &["answered with 1 rows", "Do not let the operator write here"],
    );
    expect(&report, Check::Nodes, HOST, CheckResult::Skipped, &[]);
    assert!(rows(&report, Check::ControlCenter, HOST).is_empty());
    let heard = odd.heard.lock().await;
    assert!(heard.last().unwrap().contains("DELETE"), "{heard:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_clock_is_a_warning_and_a_page_is_no_answer() {
    let odd = Odd::start(&["other.example"], "Sun, 06 Nov 1994 08:49:37 GMT", |_| {
        "<html><body>Welcome</body></html>".into()
    })
    .await;
    let report = look(&odd.arguments(&[])).await;
    expect(&report, Check::Clock, HOST, CheckResult::Warning, &["behind", "NTP"]);
    expect(
        &report,
        Check::AxlLogin,
        HOST,
        CheckResult::Failed,
        &["no SOAP envelope"],
    );
    let certificate = row(&report, Check::Certificate, HOST);
    assert!(
        certificate
            .found
            .contains("only its fingerprint would be accepted, no authority: it does not carry the name odd.example"),
        "{certificate:#?}"
    );
    assert!(!report.json().contains("secret-word"));
}

/// Answers an alert to today's hello and a `ServerHello` of that version to one of old.
async fn old_server(minor: u8) -> IpAddr {
    let address = address();
    let listener = TcpListener::bind((address, 8443)).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut hello = [0; 11];
            if stream.read_exact(&mut hello).await.is_err() {
                continue;
            }
            let old = hello[10] < 3;
            let answer: Vec<u8> = if old {
                let mut hello = vec![22, 3, minor, 0, 42, 2, 0, 0, 38, 3, minor];
                hello.extend([7; 32]);
                hello.extend([0, 0, 0x2f, 0]);
                hello
            } else {
                vec![21, 3, 1, 0, 2, 2, 40]
            };
            let _ = stream.write_all(&answer).await;
            let _ = stream.read(&mut [0; 1024]).await;
        }
    });
    address
}

#[rstest::rstest]
#[case(1, "TLS 1.0 at most")]
#[case(2, "TLS 1.1 at most")]
#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_old_tls_is_named(#[case] minor: u8, #[case] words: &str) {
    let mut all = arguments(old_server(minor).await);
    all.push("--certificates-only".into());
    let report = look(&all).await;
    expect(&report, Check::Https, HOST, CheckResult::Failed, &[words, "11.5"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_tls_is_named() {
    let address = address();
    let listener = TcpListener::bind((address, 8443)).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            let _ = stream.read(&mut [0; 1024]).await;
        }
    });
    let mut all = arguments(address);
    all.push("--certificates-only".into());
    let report = look(&all).await;
    expect(
        &report,
        Check::Https,
        HOST,
        CheckResult::Failed,
        &["the TLS handshake fails"],
    );
}
