//! The certificates of one Kubernetes: a CA made for the lab, and what each component shows to the others.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde_json::json;

use super::cluster::{ONE, TWO};
use super::network::{LAN_GATEWAY, LAN_GATEWAY6};
use testkit_base::Error;

/// The first address of the Service range: the apiserver, as pods know it.
const SERVICE_ADDRESS: &str = "10.96.0.1";
/// The same where IPv6 comes first.
const SERVICE_ADDRESS6: &str = "fd96::1";

/// A CA and the folder its files are written to.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

fn subject(common_name: &str, organization: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if let Some(organization) = organization {
        name.push(DnType::OrganizationName, organization);
    }
    name.push(DnType::CommonName, common_name);
    name
}

/// Writes a file that only root reads.
fn secret(path: &Path, text: &str) -> Result<(), Error> {
    fs::write(path, text)?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o600))?)
}

impl Authority {
    /// Makes a CA and writes `ca.crt`, `ca.key`, and the key pair that signs service account tokens (`sa.key`, `sa.pub`).
    pub fn create(dir: &Path) -> Result<Self, Error> {
        fs::create_dir_all(dir)?;
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = subject("lab-kubernetes-ca", None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::CrlSign,
        ];
        let certificate = params.self_signed(&key)?.pem();
        fs::write(dir.join("ca.crt"), &certificate)?;
        secret(&dir.join("ca.key"), &key.serialize_pem())?;
        let tokens = KeyPair::generate()?;
        secret(&dir.join("sa.key"), &tokens.serialize_pem())?;
        fs::write(dir.join("sa.pub"), tokens.public_key_pem())?;
        Ok(Self {
            issuer: Issuer::new(params, key),
            certificate,
        })
    }

    fn issue(
        &self,
        subject: DistinguishedName,
        names: &[&str],
        usage: ExtendedKeyUsagePurpose,
    ) -> Result<(String, String), Error> {
        let key = KeyPair::generate()?;
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = subject;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        Ok((params.signed_by(&key, &self.issuer)?.pem(), key.serialize_pem()))
    }

    /// Writes `FILE.crt` and `FILE.key` for a TLS server on any node.
    pub fn server(&self, dir: &Path, file: &str) -> Result<(), Error> {
        let nodes = ONE.iter().chain(TWO);
        let nodes: Vec<String> = nodes.map(|node| node.address.to_string()).collect();
        let mut names: Vec<&str> = nodes.iter().map(String::as_str).collect();
        let six = LAN_GATEWAY6.to_string();
        names.extend([
            &six,
            SERVICE_ADDRESS6,
            SERVICE_ADDRESS,
            "127.0.0.1",
            "localhost",
            "node1",
            "node2",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
        ]);
        let (certificate, key) = self.issue(subject(file, None), &names, ExtendedKeyUsagePurpose::ServerAuth)?;
        fs::write(dir.join(format!("{file}.crt")), certificate)?;
        secret(&dir.join(format!("{file}.key")), &key)
    }

    /// Writes `FILE.crt` and `FILE.key` for a client with a Kubernetes user and group.
    pub fn client(&self, dir: &Path, file: &str, user: &str, group: Option<&str>) -> Result<(), Error> {
        let (certificate, key) = self.issue(subject(user, group), &[], ExtendedKeyUsagePurpose::ClientAuth)?;
        fs::write(dir.join(format!("{file}.crt")), certificate)?;
        secret(&dir.join(format!("{file}.key")), &key)
    }

    /// Writes `FILE.kubeconfig` for a Kubernetes user and group.
    pub fn kubeconfig(&self, dir: &Path, file: &str, user: &str, group: Option<&str>) -> Result<(), Error> {
        let (certificate, key) = self.issue(subject(user, group), &[], ExtendedKeyUsagePurpose::ClientAuth)?;
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "lab",
            "clusters": [{"name": "lab", "cluster": {
                "server": format!("https://{LAN_GATEWAY}:6443"),
                "certificate-authority-data": STANDARD.encode(&self.certificate)}}],
            "users": [{"name": file, "user": {
                "client-certificate-data": STANDARD.encode(certificate),
                "client-key-data": STANDARD.encode(key)}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": file}}],
        });
        secret(
            &dir.join(format!("{file}.kubeconfig")),
            &serde_json::to_string_pretty(&config)?,
        )
    }
}
