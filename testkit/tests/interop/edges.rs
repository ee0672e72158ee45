//! The edges of the lab: their configuration, and what a running one tells.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use crate::burst;
use serde_json::{Value, json};
use testkit_acceptance::report::ensure;
use testkit_base::Error;
use testkit_lab::Lab;
use testkit_lab::network::DNS_INTERNET;
use testkit_partners::certificates::{Authority, Kind};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

/// Shared secret of the simulated routers.
pub const ROUTER_SECRET: &str = "router-secret";

/// What one edge is to be.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// Host, process, and first label of the component id.
    pub name: &'static str,
    /// Where it listens.
    pub address: Ipv4Addr,
    /// Hosted domains, A-labels.
    pub domains: &'static [&'static str],
    /// `tls.mode`.
    pub mode: &'static str,
    /// Its certificate; `SelfSigned`: as an edge with a CA of its own, which nobody trusts.
    pub certificate: Kind,
    /// `tls.requireClientCertificates`.
    pub requires_certificates: bool,
    /// The simulated router.
    pub router: Ipv4Addr,
    /// Which of three replicas, if it is one of them.
    pub replica: Option<usize>,
    /// Whether only the domains of a burst may federate with it; otherwise everybody may.
    pub lists: bool,
}

const fn ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 51, 100, last)
}

const fn lan(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, 200, last)
}

const PLAIN: Spec = Spec {
    name: "own",
    address: ip(40),
    domains: &["coluc.com", "conference.coluc.com", "xn--kln-sna.coluc.com"],
    mode: "Required",
    certificate: Kind::SelfSigned,
    requires_certificates: false,
    router: lan(10),
    replica: None,
    lists: false,
};

/// An edge that requires TLS.
const fn edge(name: &'static str, last: u8, domains: &'static [&'static str], certificate: Kind, router: u8) -> Spec {
    Spec {
        name,
        address: ip(last),
        domains,
        certificate,
        router: lan(router),
        ..PLAIN
    }
}

const fn replica(number: usize, address: Ipv4Addr, name: &'static str) -> Spec {
    Spec {
        name,
        address,
        domains: &["trio.coluc.com"],
        router: lan(17),
        replica: Some(number),
        ..PLAIN
    }
}

/// A domain for each round of the burst.
const ROUNDS: [&str; 10] = [
    "r0.coluc.com",
    "r1.coluc.com",
    "r2.coluc.com",
    "r3.coluc.com",
    "r4.coluc.com",
    "r5.coluc.com",
    "r6.coluc.com",
    "r7.coluc.com",
    "r8.coluc.com",
    "r9.coluc.com",
];

/// All edges.
pub const EDGES: [Spec; 12] = [
    PLAIN,
    edge("ca", 41, &["ca.coluc.com"], Kind::Valid, 11),
    edge("sa", 42, &["sa.coluc.com"], Kind::ServerAuthOnly, 12),
    Spec {
        requires_certificates: true,
        ..edge("reqcert", 43, &["reqcert.coluc.com"], Kind::Valid, 13)
    },
    Spec {
        mode: "Optional",
        ..edge("opt", 44, &["opt.coluc.com"], Kind::Valid, 14)
    },
    Spec {
        mode: "Optional",
        requires_certificates: true,
        ..edge("optcert", 45, &["optcert.coluc.com"], Kind::Valid, 15)
    },
    Spec {
        mode: "Disabled",
        ..edge("dis", 46, &["dis.coluc.com"], Kind::SelfSigned, 16)
    },
    Spec {
        lists: true,
        ..edge(burst::EDGE, 48, &ROUNDS, Kind::SelfSigned, 18)
    },
    replica(0, lan(61), "trio0"),
    replica(1, lan(62), "trio1"),
    replica(2, lan(63), "trio2"),
    // Another organisation: its own cluster behind it.
    edge("other", 47, &["other.lab"], Kind::Valid, 30),
];

/// Number of replicas behind one address.
pub const REPLICAS: usize = 3;
/// That address.
pub const REPLICAS_ADDRESS: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);

impl Spec {
    /// Its id in the simulated router's table.
    pub fn component(&self) -> String {
        format!("cm-2_s2scp-1.{}-coluc-com", self.name)
    }

    /// Where the internet finds it.
    pub fn public_address(&self) -> Ipv4Addr {
        if self.replica.is_some() {
            REPLICAS_ADDRESS
        } else {
            self.address
        }
    }
}

/// An edge in the lab.
#[derive(Clone, Debug)]
pub struct Edge {
    /// What it is.
    pub spec: Spec,
    dir: PathBuf,
    log: PathBuf,
}

/// A pair of domains on a stream, as the edge itself says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// `dialback` or `external`.
    pub mechanism: String,
    /// Whether the stream is encrypted.
    pub tls: bool,
}

/// What is common to all edges: certificates.
pub struct Certificates<'a> {
    /// The lab's authority, which edges and partners trust.
    pub authority: &'a Authority,
    /// Its file.
    pub file: &'a Path,
}

impl Edge {
    /// The edge of that specification.
    pub fn of(lab: &Lab, spec: Spec) -> Self {
        Self {
            spec,
            dir: lab.dir().join("edges").join(spec.name),
            log: lab.log(spec.name),
        }
    }

    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.dir.join("edge.yaml")
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("control.sock")
    }

    /// Writes everything it reads; replicas get the certificate and the secret of the first one.
    pub fn prepare(&self, certificates: &Certificates<'_>) -> Result<(), Error> {
        std::fs::create_dir_all(&self.dir)?;
        let first = match self.spec.replica {
            Some(number) if number > 0 => Some(self.dir.with_file_name("trio0")),
            _ => None,
        };
        if let Some(first) = first {
            for file in ["tls.crt", "tls.key", "secret-0"] {
                std::fs::copy(first.join(file), self.dir.join(file))?;
            }
        } else {
            certificates
                .authority
                .issue(self.spec.certificate, self.spec.domains)?
                .write(&self.dir, "tls")?;
            std::fs::write(self.dir.join("secret-0"), random_secret())?;
        }
        std::fs::write(self.dir.join("router"), ROUTER_SECRET)?;
        std::fs::copy(certificates.file, self.dir.join("authorities.pem"))?;
        self.write_config("secret-0", &[])
    }

    /// Puts another secret beside those it has.
    pub fn add_secret(&self, name: &str, secret: &str) -> Result<(), Error> {
        Ok(std::fs::write(self.dir.join(name), secret)?)
    }

    /// Writes the configuration with these secrets (names of files), in one step.
    pub fn write_config(&self, sign: &str, accept: &[&str]) -> Result<(), Error> {
        let Spec {
            domains,
            mode,
            requires_certificates,
            router,
            lists,
            ..
        } = self.spec;
        let privacy = if lists {
            json!({"mode": "AllowList", "domains": burst::domains().collect::<Vec<_>>()})
        } else {
            json!({"mode": "AllowAll"})
        };
        let here = |file: &str| self.dir.join(file);
        let accept: Vec<PathBuf> = accept.iter().map(|file| here(file)).collect();
        // JSON is YAML.
        let config = json!({
            "domains": domains,
            "listen": {"control": self.socket()},
            "dialback": {"sign": here(sign), "accept": accept},
            "tls": {
                "mode": mode,
                "certificates": [{"certificateFile": here("tls.crt"), "privateKeyFile": here("tls.key")}],
                "trustAnchors": {"system": false, "file": here("authorities.pem")},
                "requireClientCertificates": requires_certificates,
            },
            "privacy": privacy,
            "dns": {"resolvers": [DNS_INTERNET]},
            "routers": [{
                "name": "main",
                "componentIds": [self.spec.component()],
                "secretFile": here("router"),
                "endpoints": [{"name": "imp", "address": format!("{router}:7400")}],
            }],
            "drainDelay": "0s",
        });
        let (new, file) = (here("edge.yaml.new"), self.config());
        std::fs::write(&new, serde_json::to_string_pretty(&config)?)?;
        Ok(std::fs::rename(new, file)?)
    }

    /// Starts it on its host.
    pub fn start(&self, lab: &Lab) -> Result<(), Error> {
        let program = testkit_lab::layout::binary("xmpp-federation-edge")?
            .display()
            .to_string();
        let config = self.config().display().to_string();
        lab.spawn_in(
            Some(self.spec.name),
            self.spec.name,
            &[&program, "--config", &config],
            &std::collections::BTreeMap::new(),
        )?;
        Ok(())
    }

    /// Asks through the control socket.
    async fn ask(&self, request: &Value) -> Result<Value, Error> {
        let path = self.socket();
        let mut stream = tokio::net::UnixStream::connect(&path)
            .await
            .map_err(|error| format!("{}: {error}", path.display()))?;
        stream.write_all(format!("{request}\n").as_bytes()).await?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).await?;
        let mut answer: Value = serde_json::from_str(&line)?;
        match answer.get_mut("result") {
            Some(result) => Ok(result.take()),
            None => Err(format!("{} answers {line}", self.spec.name).into()),
        }
    }

    /// The open streams.
    pub async fn connections(&self) -> Result<Vec<Value>, Error> {
        match self.ask(&json!({"command": "connections"})).await? {
            Value::Array(streams) => Ok(streams),
            other => Err(format!("connections are no list: {other}").into()),
        }
    }

    /// Closes one stream in an orderly way; gone already is fine.
    pub async fn close(&self, id: u64) {
        let _ = self.ask(&json!({"command": "close", "id": id})).await;
    }

    /// The hash of the configuration in force; an error while another one is refused.
    pub async fn config_hash(&self) -> Result<String, Error> {
        let status = self.ask(&json!({"command": "status"})).await?;
        ensure(status.get("rejected").is_none_or(Value::is_null), || {
            format!("{} refuses its configuration: {status}", self.spec.name)
        })?;
        let hash = status.get("configHash").and_then(Value::as_str);
        Ok(hash.ok_or_else(|| format!("no hash in {status}"))?.to_owned())
    }

    /// How a pair of domains (A-labels) is connected in a direction (`inbound`, `outbound`).
    pub async fn pair(&self, direction: &str, local: &str, remote: &str) -> Result<Option<Pair>, Error> {
        let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        for stream in self.connections().await? {
            if text(&stream, "direction") != direction {
                continue;
            }
            let pairs = stream.get("pairs").and_then(Value::as_array);
            let found = pairs
                .into_iter()
                .flatten()
                .find(|pair| text(pair, "local") == local && text(pair, "remote") == remote);
            if let Some(pair) = found {
                return Ok(Some(Pair {
                    mechanism: text(pair, "mechanism"),
                    tls: stream.get("tls").is_some_and(|tls| !tls.is_null()),
                }));
            }
        }
        Ok(None)
    }

    /// Its log, a JSON object per line.
    pub fn log(&self) -> Vec<Value> {
        self.log_lines("")
    }

    /// The lines of its log that contain these words.
    pub fn log_lines(&self, words: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        text.lines()
            .filter(|line| line.contains(words))
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }
}

/// A dialback secret as the operator generates them.
pub fn random_secret() -> String {
    format!("{:x}{:x}", rand::random::<u128>(), rand::random::<u128>())
}
