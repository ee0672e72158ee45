//! The partners of the lab: three Prosodys, because Prosody decides for all its hosts at once whether TLS is required and
//! whether dialback counts, and one ejabberd. A user bob at each of their domains.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use testkit_base::Error;
use testkit_lab::Lab;
use testkit_lab::network::DNS_INTERNET;
use testkit_partners::certificates::{Authority, Kind};
use testkit_partners::server::{HostConfig, Kind as Server, Proof, ServerConfig, Tls};

/// Password of every bob.
pub const PASSWORD: &str = "secret";

/// A server process.
#[derive(Clone, Copy, Debug)]
pub struct Process {
    /// Its host and process.
    pub name: &'static str,
    /// Where it is.
    pub address: Ipv4Addr,
    /// What it is.
    pub server: Server,
}

/// A server process at that address of the partners' network.
pub const fn process(name: &'static str, last: u8, server: Server) -> Process {
    Process {
        name,
        address: Ipv4Addr::new(198, 51, 100, last),
        server,
    }
}

/// Prosody for hosts that do not insist on TLS.
const PROSODY_OPEN: Process = process("pro1", 21, Server::Prosody);
/// Prosody with TLS required.
const PROSODY_REQUIRED: Process = process("pro2", 22, Server::Prosody);
/// Prosody that believes certificates only.
const PROSODY_STRICT: Process = process("pro3", 23, Server::Prosody);
/// ejabberd decides per host.
const EJABBERD: Process = process("eja", 30, Server::Ejabberd);

/// All server processes.
pub const PROCESSES: [Process; 4] = [PROSODY_OPEN, PROSODY_REQUIRED, PROSODY_STRICT, EJABBERD];

/// A domain of a partner.
#[derive(Clone, Debug)]
pub struct Partner {
    /// As people write it.
    pub domain: String,
    /// As DNS and the edge's own records have it.
    pub ascii: String,
    /// Its server.
    pub process: Process,
    /// Its mode.
    pub tls: Tls,
    /// What it believes.
    pub proof: Proof,
    /// Its certificate.
    pub certificate: Option<Kind>,
}

impl Partner {
    /// Its user.
    pub fn user(&self) -> String {
        format!("bob@{}", self.domain)
    }
}

/// Label of a kind of certificate, none included.
pub fn label(certificate: Option<Kind>) -> &'static str {
    certificate.map_or("missing", Kind::label)
}

/// The second label of a partner's domain.
const fn tls_label(tls: Tls) -> &'static str {
    match tls {
        Tls::Required => "req",
        Tls::Optional => "opt",
        Tls::Off => "off",
    }
}

const fn server_label(server: Server) -> &'static str {
    match server {
        Server::Prosody => "pro",
        Server::Ejabberd => "eja",
    }
}

/// The domain of a kind of partner; without TLS no certificate is shown, so there is one of them.
pub fn domain_of(server: Server, tls: Tls, proof: Proof, certificate: Option<Kind>) -> String {
    let server = server_label(server);
    match (tls, proof) {
        (Tls::Off, _) => format!("off.{server}.lab"),
        (_, Proof::Certificate) => format!("{}.strict.{server}.lab", label(certificate)),
        _ => format!("{}.{}.{server}.lab", label(certificate), tls_label(tls)),
    }
}

/// International domains, with their A-labels and certificates.
pub const INTERNATIONAL: [(&str, &str, Server, Kind); 4] = [
    ("bücher.lab", "xn--bcher-kva.lab", Server::Prosody, Kind::Valid),
    ("grün.lab", "xn--grn-ioa.lab", Server::Prosody, Kind::SelfSigned),
    ("zürich.lab", "xn--zrich-kva.lab", Server::Ejabberd, Kind::Valid),
    ("öl.lab", "xn--l-0ga.lab", Server::Ejabberd, Kind::SelfSigned),
];

/// Hosts that an administrator wrote down with the A-label, each with its U-label; the second must be:
/// Prosody would prepare it as `strasse.lab`.
pub const A_LABELS: [(&str, &str); 2] = [
    ("xn--mnchen-3ya.lab", "münchen.lab"),
    ("xn--strae-oqa.lab", "straße.lab"),
];

/// All partners.
pub fn partners() -> Vec<Partner> {
    let mut all = Vec::new();
    let mut add = |server, tls, proof, certificate| {
        let domain = domain_of(server, tls, proof, certificate);
        all.push(Partner {
            ascii: domain.clone(),
            domain,
            process: process_of(server, tls, proof),
            tls,
            proof,
            certificate,
        });
    };
    for server in [Server::Prosody, Server::Ejabberd] {
        add(server, Tls::Off, Proof::Any, None);
        for tls in [Tls::Optional, Tls::Required] {
            for kind in [Kind::Valid, Kind::SelfSigned, Kind::Expired, Kind::WrongName] {
                add(server, tls, Proof::Any, Some(kind));
            }
        }
        add(server, Tls::Required, Proof::Any, Some(Kind::ServerAuthOnly));
        for kind in [Kind::Valid, Kind::ServerAuthOnly] {
            add(server, Tls::Required, Proof::Certificate, Some(kind));
        }
    }
    // A host of ejabberd without a certificate shows that of another one; Prosody's shows none.
    for tls in [Tls::Optional, Tls::Required] {
        add(Server::Prosody, tls, Proof::Any, None);
    }
    for (domain, ascii, server, certificate) in INTERNATIONAL {
        all.push(Partner {
            domain: domain.to_owned(),
            ascii: ascii.to_owned(),
            process: process_of(server, Tls::Required, Proof::Any),
            tls: Tls::Required,
            proof: Proof::Any,
            certificate: Some(certificate),
        });
    }
    for (ascii, _) in A_LABELS {
        all.push(Partner {
            domain: ascii.to_owned(),
            ascii: ascii.to_owned(),
            process: process_of(Server::Prosody, Tls::Required, Proof::Any),
            tls: Tls::Required,
            proof: Proof::Any,
            certificate: Some(Kind::SelfSigned),
        });
    }
    all
}

const fn process_of(server: Server, tls: Tls, proof: Proof) -> Process {
    match (server, tls, proof) {
        (Server::Ejabberd, ..) => EJABBERD,
        (Server::Prosody, _, Proof::Certificate) => PROSODY_STRICT,
        (Server::Prosody, Tls::Required, _) => PROSODY_REQUIRED,
        (Server::Prosody, ..) => PROSODY_OPEN,
    }
}

impl Process {
    /// Its own log.
    pub fn log(self, lab: &Lab) -> PathBuf {
        lab.layout().logs_dir().join(format!("{}-server.log", self.name))
    }

    /// Writes its configuration and starts it on its host.
    pub fn start(self, lab: &Lab, partners: &[Partner], authority: &Authority, ca: &Path) -> Result<(), Error> {
        let dir = lab.dir().join("partners").join(self.name);
        let mut hosts = Vec::new();
        for partner in partners.iter().filter(|partner| partner.process.name == self.name) {
            let certificate = partner
                .certificate
                .map(|kind| authority.issue(kind, &[&partner.ascii])?.write(&dir, &partner.ascii))
                .transpose()?;
            hosts.push(HostConfig {
                domain: partner.domain.clone(),
                tls: partner.tls,
                proof: partner.proof,
                certificate,
                users: vec![("bob".to_owned(), PASSWORD.to_owned())],
            });
        }
        let command = testkit_partners::server::prepare(&ServerConfig {
            kind: self.server,
            dir,
            addresses: vec![self.address.into()],
            dns: DNS_INTERNET.into(),
            log: Some(self.log(lab)),
            ca: Some(ca.to_owned()),
            hosts,
        })?;
        self.run(lab, &command)
    }

    /// Runs a command on its host.
    pub fn run(self, lab: &Lab, command: &std::process::Command) -> Result<(), Error> {
        let text = |word: &std::ffi::OsStr| word.to_string_lossy().into_owned();
        let words: Vec<String> = std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(text)
            .collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let environment = command
            .get_envs()
            .filter_map(|(name, value)| Some((text(name), text(value?))))
            .collect();
        lab.spawn_in(Some(self.name), self.name, &words, &environment)?;
        Ok(())
    }
}
