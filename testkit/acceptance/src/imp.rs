//! The simulated IM&P as a scenario sees it: its state and record of calls, its switches, and an AXL client of its own.

use std::fmt::Write as _;
use std::path::Path;

use data_encoding::HEXLOWER;
use minidom::{Element, NSChoice};
use serde::Deserialize;
use serde_json::json;

use testkit_base::Error;

/// `GET /state`.
#[derive(Clone, Debug, Deserialize)]
pub struct State {
    /// `on`, `off` or `unknown`.
    pub federation: String,
    /// Publisher first.
    pub nodes: Vec<Node>,
}

/// One node in `/state`.
#[derive(Clone, Debug, Deserialize)]
pub struct Node {
    /// Host name.
    pub name: String,
    /// The table as this node has it.
    pub rows: Vec<Row>,
    /// "requires a restart" is shown.
    #[serde(default)]
    pub notice: bool,
    /// Its XCP router.
    pub router: Router,
}

/// One row of the table.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Row {
    /// UUID.
    pub pkid: String,
    /// Component id.
    pub cp_id: String,
}

/// An XCP router in `/state`.
#[derive(Clone, Debug, Deserialize)]
pub struct Router {
    /// `Started`, `Stopped`, …
    #[serde(alias = "state")]
    pub status: String,
    /// Ids that it read when it started.
    #[serde(default)]
    pub loaded_ids: Vec<String>,
    /// Linked components.
    #[serde(default)]
    pub links: Vec<Link>,
    /// Since the simulation began.
    #[serde(default)]
    pub restarts: Vec<Restart>,
    /// Stanzas answered with an error because no component was linked.
    #[serde(default)]
    pub bounced: u64,
    /// First link since its start, Unix milliseconds.
    pub first_link_at_ms: Option<u64>,
}

/// One linked component.
#[derive(Clone, Debug, Deserialize)]
pub struct Link {
    /// Component id.
    pub id: String,
    /// Stanzas to it.
    #[serde(default)]
    pub sent: u64,
    /// Stanzas from it.
    #[serde(default)]
    pub received: u64,
}

/// One restart.
#[derive(Clone, Debug, Deserialize)]
pub struct Restart {
    /// Unix milliseconds.
    pub requested_at_ms: u64,
    /// Unix milliseconds; absent while it is under way.
    pub started_at_ms: Option<u64>,
    /// `control-center` or `hand`.
    pub by: String,
    /// What the new process read.
    #[serde(default)]
    pub loaded_ids: Vec<String>,
}

/// One entry of `GET /calls`.
#[derive(Clone, Debug, Deserialize)]
pub struct Call {
    /// From 1.
    pub seq: u64,
    /// Unix milliseconds.
    pub at_ms: u64,
    /// Node called.
    pub node: String,
    /// `axl`, `control-center`, `xcp`, `cli`.
    pub service: String,
    /// As `executeSQLQuery`.
    pub operation: String,
    /// As the SQL text.
    #[serde(default)]
    pub detail: String,
    /// HTTP status.
    #[serde(default)]
    pub status: u16,
    /// `ok`, `bad`, `none`.
    pub auth: String,
    /// Fingerprint of user and password.
    pub credential: Option<String>,
}

/// Control of the simulated cluster.
#[derive(Clone, Debug)]
pub struct Imp {
    http: reqwest::Client,
    base: String,
}

impl Imp {
    /// The cluster whose control port is at `base`.
    pub fn new(http: &reqwest::Client, base: &str) -> Self {
        Self {
            http: http.clone(),
            base: base.to_owned(),
        }
    }

    async fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        let url = format!("{}{path}", self.base);
        let answer = self.http.get(&url).send().await?.error_for_status()?;
        answer.json().await.map_err(|error| format!("{url}: {error}").into())
    }

    async fn sent(request: reqwest::RequestBuilder) -> Result<(), Error> {
        let answer = request.send().await?;
        let (status, url) = (answer.status(), answer.url().clone());
        if status.is_success() {
            return Ok(());
        }
        let why = answer.text().await.unwrap_or_default();
        Err(format!("{url}: {status} {why}").into())
    }

    /// Tables and routers of all nodes.
    pub async fn state(&self) -> Result<State, Error> {
        self.get("/state").await
    }

    /// The record of calls after a sequence number.
    pub async fn calls(&self, after: u64) -> Result<Vec<Call>, Error> {
        self.get(&format!("/calls?after={after}")).await
    }

    /// The newest call's sequence number.
    pub async fn last_call(&self) -> Result<u64, Error> {
        Ok(self.calls(0).await?.last().map_or(0, |call| call.seq))
    }

    /// Changes the application user's password.
    pub async fn set_password(&self, password: &str) -> Result<(), Error> {
        let body = json!({ "password": password });
        Self::sent(self.http.put(format!("{}/config", self.base)).json(&body)).await
    }

    /// Runs SQL as the command line's `run sql` would.
    pub async fn sql(&self, sql: &str) -> Result<(), Error> {
        Self::sent(self.http.post(format!("{}/sql", self.base)).body(sql.to_owned())).await
    }

    /// Restarts a node's router by hand; returns at once.
    pub async fn restart_router(&self, node: &str) -> Result<(), Error> {
        let url = format!("{}/nodes/{node}/restart-router", self.base);
        Self::sent(self.http.post(url)).await
    }
}

/// The fingerprint that `/calls` shows for a user and a password.
pub fn credential(user: &str, password: &str) -> String {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(format!("{user}:{password}"));
    HEXLOWER.encode(&digest).chars().take(12).collect()
}

/// Reads the table over AXL, as an administrator's own tool would.
pub async fn rows_over_axl(ca: &Path, user: &str, password: &str) -> Result<Vec<Row>, Error> {
    let pem = std::fs::read(ca).map_err(|error| format!("{}: {error}", ca.display()))?;
    let http = reqwest::Client::builder()
        .tls_certs_only(reqwest::Certificate::from_pem_bundle(&pem)?)
        .timeout(std::time::Duration::from_secs(10))
        .build()?;
    let answer = http
        .post("https://cups.ciscotac.net:8443/axl/")
        .basic_auth(user, Some(password))
        .header("Content-Type", "text/xml;charset=UTF-8")
        .header("SOAPAction", "\"CUCM:DB ver=14.0 executeSQLQuery\"")
        .body(
            "<soapenv:Envelope xmlns:soapenv='http://schemas.xmlsoap.org/soap/envelope/' \
             xmlns:ns='http://www.cisco.com/AXL/API/14.0'><soapenv:Body><ns:executeSQLQuery>\
             <sql>select pkid, cp_id from xmpps2snodes</sql></ns:executeSQLQuery></soapenv:Body></soapenv:Envelope>",
        )
        .send()
        .await?;
    let status = answer.status();
    let text = answer.text().await?;
    if !status.is_success() {
        return Err(format!("AXL answered {status}: {text}").into());
    }
    rows_of(&text)
}

fn rows_of(soap: &str) -> Result<Vec<Row>, Error> {
    let root = Element::from_reader_with_prefixes(soap.as_bytes(), String::new())
        .map_err(|error| format!("AXL's answer is no XML: {error}: {soap}"))?;
    let mut rows = Vec::new();
    collect_rows(&root, &mut rows);
    Ok(rows)
}

fn collect_rows(element: &Element, rows: &mut Vec<Row>) {
    if element.name() == "row" {
        let column = |name: &str| {
            element
                .get_child(name, NSChoice::Any)
                .map(Element::text)
                .unwrap_or_default()
        };
        rows.push(Row {
            pkid: column("pkid"),
            cp_id: column("cp_id"),
        });
    } else {
        for child in element.children() {
            collect_rows(child, rows);
        }
    }
}

/// Rows as IM&P's command line prints them.
pub fn as_cli(rows: &[Row]) -> String {
    let width = rows.iter().map(|row| row.cp_id.len()).max().unwrap_or(5);
    let mut text = format!(
        "admin:run sql select * from xmpps2snodes\n{:<36} cp_id\n{} {}",
        "pkid",
        "=".repeat(36),
        "=".repeat(width)
    );
    for row in rows {
        let _ = write!(text, "\n{:<36} {}", row.pkid, row.cp_id);
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::expect_used, reason = "tests")]
    use super::*;

    #[test]
    fn rows_are_found_in_an_axl_answer_whatever_its_prefixes() {
        let soap = "<?xml version='1.0' encoding='UTF-8'?><e:Envelope xmlns:e='http://schemas.xmlsoap.org/soap/envelope/'>\
            <e:Body><x:executeSQLQueryResponse xmlns:x='http://www.cisco.com/AXL/API/14.0'><return><row><pkid>a</pkid>\
            <cp_id>cm-2_s2scp-1.b</cp_id></row></return></x:executeSQLQueryResponse></e:Body></e:Envelope>";
        let rows = rows_of(soap).expect("rows");
        assert_eq!(
            rows,
            [Row {
                pkid: "a".into(),
                cp_id: "cm-2_s2scp-1.b".into()
            }]
        );
        assert!(as_cli(&rows).ends_with("cm-2_s2scp-1.b"));
    }
}
