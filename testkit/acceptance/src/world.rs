//! The lab as a scenario holds it: the peers' controls, and what Kubernetes says.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::imp::Imp;
use super::pod::Pod;
use super::users::User;
use testkit_base::Error;
use testkit_dns::{QueryRecord, RecordSpec};
use testkit_lab::{Lab, hosts};

/// Control of the publisher, and its users' HTTP face.
const PUBLISHER: &str = "http://10.244.200.10:8080";
/// Bob's HTTP face.
const PARTNER: &str = "http://198.51.100.20:8080";
/// Control of the DNS server.
const DNS: &str = "http://10.244.200.53:8080";

/// Everything a step can ask or do.
#[derive(Debug)]
pub struct World {
    /// Network, processes, kubectl.
    pub lab: Lab,
    /// The simulated cluster.
    pub imp: Imp,
    /// A user of IM&P.
    pub alice: User,
    /// The conference alias of IM&P.
    pub alias: User,
    /// The partner's user.
    pub bob: User,
    http: reqwest::Client,
}

impl World {
    /// Use it only inside the lab's network: see [`Lab::inside`].
    pub fn of(lab: Lab) -> Result<Self, Error> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(90))
            .build()?;
        Ok(Self {
            imp: Imp::new(&http, PUBLISHER),
            alice: User::new(&http, PUBLISHER, "alice@coluc.com"),
            alias: User::new(&http, PUBLISHER, "conf.coluc.com"),
            bob: User::new(&http, PARTNER, "bob@vngtp.lab"),
            lab,
            http,
        })
    }

    /// The records of a zone, as the lab's DNS serves them.
    pub async fn zone(&self, zone: &str) -> Result<Vec<RecordSpec>, Error> {
        let url = format!("{DNS}/zones/{zone}");
        Ok(self.http.get(url).send().await?.error_for_status()?.json().await?)
    }

    /// Sets the values of a record in the lab's DNS; none remove it.
    pub async fn set_record(&self, name: &str, record_type: &str, values: &[&str]) -> Result<(), Error> {
        let record = RecordSpec {
            name: name.to_owned(),
            record_type: record_type.to_owned(),
            ttl: 1,
            values: values.iter().map(ToString::to_string).collect(),
        };
        let request = self.http.put(format!("{DNS}/records")).json(&record);
        request.send().await?.error_for_status()?;
        Ok(())
    }

    /// The first query for a record that came from one of these pods.
    pub async fn query_from(&self, pods: &[Pod], name: &str, record_type: &str) -> Result<QueryRecord, Error> {
        let theirs = |query: &QueryRecord| {
            let source = query.source.parse::<SocketAddr>();
            source.is_ok_and(|source| pods.iter().any(|pod| pod.addresses.contains(&source.ip())))
        };
        let mut queries = self.dns_queries().await?.into_iter();
        let found = queries.find(|query| query.name == name && query.record_type == record_type && theirs(query));
        found.ok_or_else(|| format!("the operator did not ask for {record_type} of {name}").into())
    }

    /// The queries that the lab's DNS saw.
    async fn dns_queries(&self) -> Result<Vec<QueryRecord>, Error> {
        let url = format!("{DNS}/queries");
        Ok(self.http.get(url).send().await?.error_for_status()?.json().await?)
    }

    /// What an edge pod tells at its admin port.
    pub async fn edge_status(&self, pod: &Pod) -> Result<EdgeStatus, Error> {
        serde_json::from_str(&self.admin(pod, "status").await?)
            .map_err(|error| format!("/status of {}: {error}", pod.name).into())
    }

    /// The metrics of an edge pod, as text.
    pub async fn edge_metrics(&self, pod: &Pod) -> Result<String, Error> {
        self.admin(pod, "metrics").await
    }

    async fn admin(&self, pod: &Pod, page: &str) -> Result<String, Error> {
        let url = format!("http://{}/{page}", SocketAddr::new(pod.address()?, 8080));
        self.page(&url).await
    }

    /// What stands at a URL.
    pub async fn page(&self, url: &str) -> Result<String, Error> {
        Ok(self.http.get(url).send().await?.error_for_status()?.text().await?)
    }

    /// CA certificate of the IM&P nodes.
    pub fn imp_ca(&self) -> PathBuf {
        hosts::imp_ca(&self.lab)
    }
}

/// `/status` of an edge.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EdgeStatus {
    /// SHA-256 of the certificate in force.
    pub certificate_sha256: Option<String>,
    /// The newest configuration, where it is refused.
    pub rejected: Option<Rejected>,
    /// To the XCP routers.
    #[serde(default)]
    pub links: Vec<Link>,
}

#[derive(Debug, Deserialize)]
pub struct Link {
    pub address: String,
    pub state: String,
}

#[derive(Debug, Deserialize)]
pub struct Rejected {
    pub reason: String,
}
