//! Certificates of partners and edges in the lab: what a good one looks like, and each way of being bad.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};

use testkit_base::Error;

/// Kinds of certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// From the lab's CA, for servers and clients.
    Valid,
    /// From the lab's CA, for servers only: what public CAs issue today.
    ServerAuthOnly,
    /// Signed by itself.
    SelfSigned,
    /// From the lab's CA, long over.
    Expired,
    /// From the lab's CA, for a domain that is somebody else's.
    WrongName,
}

impl Kind {
    /// Short name, fit for a label of a domain.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::ServerAuthOnly => "serverauth",
            Self::SelfSigned => "selfsigned",
            Self::Expired => "expired",
            Self::WrongName => "wrongname",
        }
    }
}

/// Years, from the first of January to that of another one. ejabberd 23.01 cannot read the dates behind 2049, which
/// certificates write in another form.
const BEGIN: i32 = 2020;
const PAST: i32 = 2021;
const END: i32 = 2049;

fn lasts(params: &mut CertificateParams, from: i32, to: i32) {
    params.not_before = date_time_ymd(from, 1, 1);
    params.not_after = date_time_ymd(to, 1, 1);
}

/// A certificate authority of the lab.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate and its key.
#[derive(Debug)]
pub struct Identity {
    /// PEM.
    pub certificate: String,
    /// PEM.
    pub key: String,
}

impl Authority {
    /// A new authority.
    pub fn new(common_name: &str) -> Result<Self, Error> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        lasts(&mut params, BEGIN, END);
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key)?.pem();
        Ok(Self {
            issuer: Issuer::new(params, key),
            pem,
        })
    }

    /// Its own certificate, PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate of that kind for somebody with these domains (A-labels).
    pub fn issue(&self, kind: Kind, domains: &[&str]) -> Result<Identity, Error> {
        let key = KeyPair::generate()?;
        let names = match kind {
            Kind::WrongName => vec!["elsewhere.example".to_owned()],
            _ => domains.iter().map(|name| (*name).to_owned()).collect(),
        };
        let first = names.first().cloned().unwrap_or_default();
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, first);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        if kind != Kind::ServerAuthOnly {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        }
        lasts(&mut params, BEGIN, if kind == Kind::Expired { PAST } else { END });
        let certificate = if kind == Kind::SelfSigned {
            params.self_signed(&key)?
        } else {
            params.use_authority_key_identifier_extension = true;
            params.signed_by(&key, &self.issuer)?
        };
        Ok(Identity {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }
}

impl Identity {
    /// Writes `NAME.crt` and `NAME.key`.
    pub fn write(&self, dir: &Path, name: &str) -> Result<(PathBuf, PathBuf), Error> {
        std::fs::create_dir_all(dir)?;
        let (certificate, key) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
        std::fs::write(&certificate, &self.certificate)?;
        std::fs::write(&key, &self.key)?;
        Ok((certificate, key))
    }
}
