//! The simulated IM&P as a scenario sees it: its state and record of calls, its switches, and an AXL client of its own.

use std::fmt::Write as _;
use std::path::Path;

use super::report::ensure;
use testkit_base::Error;
use testkit_base::xml::{Element, parse_document};
use testkit_simulator::{Call, ClusterState, Row};

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
    pub async fn state(&self) -> Result<ClusterState, Error> {
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

    /// How often each router was restarted, by node.
    pub async fn restarts(&self) -> Result<Vec<(String, usize)>, Error> {
        let nodes = self.state().await?.nodes.into_iter();
        Ok(nodes.map(|node| (node.name, node.router.restarts.len())).collect())
    }

    /// An error with that sentence if a router was restarted since.
    pub async fn no_restart_since(&self, before: &[(String, usize)], sentence: &'static str) -> Result<(), Error> {
        let now = self.restarts().await?;
        ensure(now == before, || format!("{sentence}: {before:?} became {now:?}"))
    }

    /// The publisher's rows.
    pub async fn rows(&self) -> Result<Vec<Row>, Error> {
        Ok(self
            .state()
            .await?
            .nodes
            .into_iter()
            .next()
            .map(|node| node.rows)
            .unwrap_or_default())
    }

    /// How many links the routers have, all together.
    pub async fn links(&self) -> Result<usize, Error> {
        Ok(self
            .state()
            .await?
            .nodes
            .iter()
            .map(|node| node.router.links.len())
            .sum())
    }

    /// Changes the application user's password.
    pub async fn set_password(&self, password: &str) -> Result<(), Error> {
        Self::sent(
            self.http
                .put(format!("{}/password", self.base))
                .body(password.to_owned()),
        )
        .await
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
    let root = parse_document(soap.as_bytes()).map_err(|error| format!("AXL's answer is no XML: {error}: {soap}"))?;
    let mut rows = Vec::new();
    collect_rows(&root, &mut rows);
    Ok(rows)
}

fn collect_rows(element: &Element, rows: &mut Vec<Row>) {
    let column = |name: &str| element.child(name).map(Element::text).unwrap_or_default();
    if element.name == "row" {
        rows.push(Row {
            pkid: column("pkid"),
            cp_id: column("cp_id"),
        });
    }
    for child in element.elements() {
        collect_rows(child, rows);
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
