//! AXL: SQL on the publisher's database over SOAP.

pub mod sql;

use std::fmt;

use strum::VariantArray as _;
use xmpp_federation_core::ComponentId;

use super::error::{CallError, CallErrorKind, Interface};
use super::http::{Call, Caller};
use super::pkid::Pkid;
use super::soap::{self, Element, Fault};
use crate::access::{AxlVersion, Credentials};

pub use sql::Table;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Key of its row in `processnode`.
    pub pkid: Pkid,
    pub name: String,
    pub publisher: bool,
}

/// A node's state in its redundancy group.
///
/// Cisco does not describe the column `tkhaserverstate`. Of its numbers a public script names three:
/// 2 idle, 3 normal, 4 backup. All but the last say nothing here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HaState {
    pub name: String,
    /// `tkhaserverstate`.
    pub number: i64,
}

impl HaState {
    /// It has taken over the users of its group's other node.
    pub fn runs_for_the_other(&self) -> bool {
        self.number == 4
    }
}

/// One row of the table of component ids, as it stands there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub pkid: String,
    pub cp_id: String,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Written by others: bounded and without control characters.
        let plain = |text: &str| -> String { text.chars().filter(|c| !c.is_control()).take(120).collect() };
        write!(f, "{} ({})", plain(&self.cp_id), plain(&self.pkid))
    }
}

/// How many rows or columns a query answered that is to answer one value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the query answered {0} {1} instead of one")]
pub struct NotOneValue(pub usize, pub &'static str);

/// Most nodes believed; the largest IM&P cluster has six.
const MAX_NODES: usize = 64;

pub struct Axl<'a> {
    pub caller: &'a Caller,
    /// `https://publisher:8443`.
    pub server: String,
    pub account: &'a Credentials,
    /// The version that was set; `None`: found by trying.
    pub fixed: Option<AxlVersion>,
    /// The version that was answered last.
    pub version: Option<AxlVersion>,
}

/// The envelope and the header `SOAPAction` of a request.
pub fn request(version: AxlVersion, operation: &str, sql: &str) -> (String, String) {
    let body = format!(
        "<ns:{operation} sequence=\"1\"><sql>{}</sql></ns:{operation}>",
        soap::escape(sql)
    );
    (
        soap::envelope("ns", &format!("http://www.cisco.com/AXL/API/{version}"), &body),
        format!("\"CUCM:DB ver={version} {operation}\""),
    )
}

impl Axl<'_> {
    /// The IM&P nodes, publisher first, then by name. An empty list is an error.
    pub async fn nodes(&mut self) -> Result<Vec<Node>, CallError> {
        let answer = match self.execute("executeSQLQuery", sql::NODES).await {
            // Only without the column: with it, all rows would be those of call managers too.
            Err(CallError {
                kind: CallErrorKind::Fault(fault),
                ..
            }) if lacks_column(&fault) => self.execute("executeSQLQuery", sql::NODES_WITHOUT_ROLE).await?,
            other => other?,
        };
        read_nodes(&answer).map_err(|what| self.unexpected(what))
    }

    pub async fn table(&mut self) -> Result<Table, CallError> {
        let answer = self.execute("executeSQLQuery", sql::TABLES).await?;
        let names: Vec<&str> = rows_of(&answer).filter_map(|row| row.child_text("tabname")).collect();
        Table::VARIANTS
            .iter()
            .find(|table| names.iter().any(|name| name.trim() == table.name()))
            .copied()
            .ok_or_else(|| {
                self.unexpected(
                    "its database has neither a table xmpps2snodes nor xmpp2snodes; check that imp[].publisher is the publisher of an IM and Presence cluster, not of Unified CM".to_owned(),
                )
            })
    }

    pub async fn rows(&mut self, table: Table) -> Result<Vec<Row>, CallError> {
        let answer = self.execute("executeSQLQuery", &sql::rows(table)).await?;
        read_rows(&answer).map_err(|what| self.unexpected(what))
    }

    /// The value of a query that is to answer one row with one column.
    pub async fn one_value(&mut self, query: &str) -> Result<Result<String, NotOneValue>, CallError> {
        let answer = self.execute("executeSQLQuery", query).await?;
        let rows: Vec<&Element> = rows_of(&answer).collect();
        Ok(match rows.as_slice() {
            [row] => match row.children.as_slice() {
                [column] => Ok(column.text.clone()),
                columns => Err(NotOneValue(columns.len(), "columns")),
            },
            rows => Err(NotOneValue(rows.len(), "rows")),
        })
    }

    /// States in the redundancy groups; a fault where a release has no such table or column.
    pub async fn redundancy(&mut self) -> Result<Vec<HaState>, CallError> {
        let answer = self.execute("executeSQLQuery", sql::REDUNDANCY).await?;
        let state = |row: &Element| {
            Some(HaState {
                name: row.child_text("name")?.to_ascii_lowercase(),
                number: row.child_text("tkhaserverstate")?.trim().parse().ok()?,
            })
        };
        Ok(rows_of(&answer).filter_map(state).collect())
    }

    /// Inserts one row; any other number of rows is an error. Returns the number.
    pub async fn insert(&mut self, table: Table, pkid: Pkid, id: &ComponentId) -> Result<u64, CallError> {
        match self.update(&sql::insert(table, pkid, id)).await? {
            1 => Ok(1),
            rows => Err(self.unexpected(format!(
                "the INSERT of {id} ({pkid}) was answered with rowsUpdated {rows} instead of 1"
            ))),
        }
    }

    /// Deletes one row; returns the number of rows deleted, 0 or 1. `shown` tells whether the row
    /// was there, so that 0 is an error.
    pub async fn delete(&mut self, table: Table, pkid: Pkid, id: &ComponentId, shown: bool) -> Result<u64, CallError> {
        match self.update(&sql::delete(table, pkid, id)).await? {
            1 => Ok(1),
            0 if !shown => Ok(0),
            rows => Err(self.unexpected(format!(
                "the DELETE of {id} ({pkid}) was answered with rowsUpdated {rows} instead of 1"
            ))),
        }
    }

    async fn update(&mut self, sql: &str) -> Result<u64, CallError> {
        let answer = self.execute("executeSQLUpdate", sql).await?;
        answer
            .find("rowsUpdated")
            .and_then(|count| count.text.parse().ok())
            .ok_or_else(|| self.unexpected("executeSQLUpdate was answered without rowsUpdated".to_owned()))
    }

    /// Executes with the known version, or finds one by stepping on 599.
    async fn execute(&mut self, operation: &'static str, sql: &str) -> Result<Element, CallError> {
        let known = self.fixed.or(self.version);
        let steps: Vec<AxlVersion> = match self.fixed {
            Some(_) => Vec::new(),
            None => AxlVersion::STEPS
                .into_iter()
                .filter(|step| Some(*step) != known)
                .collect(),
        };
        let mut last = None;
        for version in known.into_iter().chain(steps) {
            let (body, soap_action) = request(version, operation, sql);
            let result = self
                .caller
                .call(Call {
                    interface: Interface::Axl,
                    server: &self.server,
                    path: "/axl/",
                    function: operation,
                    soap_action: &soap_action,
                    body: &body,
                    account: self.account,
                    not_after: None,
                })
                .await;
            match result {
                Err(error) if error.kind == CallErrorKind::VersionUnsupported => last = Some(error),
                result => {
                    // Any other answer of the interface means that it takes this version.
                    if !matches!(&result, Err(error) if !matches!(error.kind, CallErrorKind::Fault(_))) {
                        self.version = Some(version);
                    }
                    let element = result?;
                    let expected = format!("{operation}Response");
                    if element.name != expected {
                        return Err(self.unexpected(format!(
                            "{operation} was answered with <{}> instead of <{expected}>",
                            element.name
                        )));
                    }
                    return Ok(element);
                }
            }
        }
        Err(last.unwrap_or_else(|| self.unexpected("there is no AXL version to try".to_owned())))
    }

    fn unexpected(&self, what: String) -> CallError {
        CallError {
            interface: Interface::Axl,
            server: self.server.clone(),
            secret: self.account.secret.to_string(),
            kind: CallErrorKind::Unexpected(what),
        }
    }
}

/// Whether a fault says that a column is missing: Informix' error -217, which names it.
fn lacks_column(fault: &Fault) -> bool {
    let named = |text: &str| text.to_ascii_lowercase().contains("tkprocessnoderole");
    fault.axl_code == Some(-217) || named(&fault.message) || fault.axl_message.as_deref().is_some_and(named)
}

/// The rows of an answer; `<return/>` has none.
fn rows_of(answer: &Element) -> impl Iterator<Item = &Element> {
    answer
        .child("return")
        .into_iter()
        .flat_map(|content| content.children.iter().filter(|child| child.name == "row"))
}

fn read_rows(answer: &Element) -> Result<Vec<Row>, String> {
    if answer.child("return").is_none() {
        return Err("a query was answered without <return>".to_owned());
    }
    rows_of(answer)
        .map(|row| match (row.child_text("pkid"), row.child_text("cp_id")) {
            (Some(pkid), Some(cp_id)) => Ok(Row {
                pkid: pkid.to_ascii_lowercase(),
                cp_id: cp_id.to_owned(),
            }),
            _ => Err("a row was answered without pkid and cp_id".to_owned()),
        })
        .collect()
}

fn read_nodes(answer: &Element) -> Result<Vec<Node>, String> {
    let mut nodes = Vec::new();
    for row in rows_of(answer) {
        let name = row.child_text("name").unwrap_or_default();
        if name.is_empty() || name.eq_ignore_ascii_case("EnterpriseWideData") {
            continue;
        }
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':');
        if name.len() > 255 || !name.bytes().all(plain) {
            return Err(format!(
                "processnode holds the name {:?}, which is neither a host name nor an address",
                name.chars().take(120).collect::<String>()
            ));
        }
        let pkid = row.child_text("pkid").unwrap_or_default();
        nodes.push(Node {
            pkid: pkid.parse().map_err(|error| format!("node {name}: {error}"))?,
            name: name.to_ascii_lowercase(),
            publisher: row.child_text("tknodeusage") == Some("0"),
        });
    }
    if nodes.len() > MAX_NODES {
        return Err(format!(
            "processnode lists {} IM and Presence nodes; more than {MAX_NODES} are not believed",
            nodes.len()
        ));
    }
    nodes.sort_by(|a, b| (!a.publisher, &a.name).cmp(&(!b.publisher, &b.name)));
    let twice = nodes
        .iter()
        .enumerate()
        .find(|(at, node)| nodes.iter().skip(at + 1).any(|other| other.name == node.name));
    if let Some((_, node)) = twice {
        return Err(format!("processnode lists {} twice", node.name));
    }
    match nodes.iter().filter(|node| node.publisher).count() {
        1 => Ok(nodes),
        0 if nodes.is_empty() => Err("processnode lists no IM and Presence node".to_owned()),
        count => Err(format!(
            "processnode lists {count} publishers (tknodeusage 0) instead of one"
        )),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::*;
    use rstest::rstest;

    #[test]
    fn a_query_is_the_facts_sample_byte_for_byte() {
        let (body, action) = request(
            "14.0".parse().unwrap(),
            "executeSQLQuery",
            &sql::rows(Table::Xmpps2snodes),
        );
        assert_eq!(body, include_str!("../testdata/axl_query.xml").trim_end());
        assert_eq!(action, "\"CUCM:DB ver=14.0 executeSQLQuery\"");
    }

    #[test]
    fn sql_is_escaped_as_xml() {
        let (body, _) = request(
            "9.1".parse().unwrap(),
            "executeSQLQuery",
            "SELECT a FROM b WHERE c <> '&'",
        );
        assert!(
            body.contains("<sql>SELECT a FROM b WHERE c &lt;&gt; '&amp;'</sql>"),
            "{body}"
        );
    }

    #[test]
    fn statements_hold_ids_as_literals() {
        let pkid: Pkid = "055c13d9-943d-459d-a3c6-af1d1176936d".parse().unwrap();
        let id: ComponentId = "cm-2_s2scp-1.eft-xwye-a-coluc-com".parse().unwrap();
        assert_eq!(
            sql::insert(Table::Xmpps2snodes, pkid, &id),
            "INSERT INTO xmpps2snodes (pkid, cp_id) VALUES ('055c13d9-943d-459d-a3c6-af1d1176936d', 'cm-2_s2scp-1.eft-xwye-a-coluc-com')"
        );
        assert_eq!(
            sql::delete(Table::Xmpp2snodes, pkid, &id),
            "DELETE FROM xmpp2snodes WHERE pkid = '055c13d9-943d-459d-a3c6-af1d1176936d' AND cp_id = 'cm-2_s2scp-1.eft-xwye-a-coluc-com'"
        );
    }

    fn answer(content: &str) -> Element {
        let text = format!(
            "<e:Envelope xmlns:e='x'><e:Body><n:executeSQLQueryResponse xmlns:n='y'>{content}</n:executeSQLQueryResponse></e:Body></e:Envelope>"
        );
        match soap::answer(text.as_bytes()).unwrap() {
            soap::Answer::Response(element) => element,
            soap::Answer::Fault(fault) => panic!("{fault}"),
        }
    }

    #[rstest]
    #[case::empty("<return/>", &[])]
    #[case::open_and_closed("<return></return>", &[])]
    #[case::unknown_columns_are_tolerated(
        "<return><row><x>1</x><pkid>A</pkid><cp_id>b</cp_id></row><row><pkid>c</pkid><cp_id><![CDATA[d]]></cp_id></row></return>",
        &[("a", "b"), ("c", "d")]
    )]
    fn rows_are_read(#[case] content: &str, #[case] expected: &[(&str, &str)]) {
        let rows = read_rows(&answer(content)).unwrap();
        let pairs: Vec<_> = rows.iter().map(|row| (row.pkid.as_str(), row.cp_id.as_str())).collect();
        assert_eq!(pairs, expected);
    }

    #[rstest]
    #[case::no_return("")]
    #[case::no_pkid("<return><row><cp_id>b</cp_id></row></return>")]
    fn other_answers_are_no_rows(#[case] content: &str) {
        assert!(read_rows(&answer(content)).is_err());
    }

    fn node(name: &str, usage: &str) -> String {
        format!(
            "<row><pkid>00000000-0000-0000-0000-00000000000{usage}</pkid><name>{name}</name><nodeid>1</nodeid><tknodeusage>{usage}</tknodeusage></row>"
        )
    }

    #[test]
    fn the_publisher_comes_first_and_the_placeholder_is_no_node() {
        let content = format!(
            "<return>{}{}{}</return>",
            node("ecup10s.coluc.com", "1"),
            node("EnterpriseWideData", "0"),
            node("ECUP10.coluc.com", "0")
        );
        let nodes = read_nodes(&answer(&content)).unwrap();
        let names: Vec<_> = nodes.iter().map(|node| node.name.as_str()).collect();
        assert_eq!(names, ["ecup10.coluc.com", "ecup10s.coluc.com"]);
        assert!(nodes.first().unwrap().publisher);
    }

    #[rstest]
    #[case::informix(Some(-217), "Column not found", true)]
    #[case::in_words(Some(-1), "Column (tkprocessnoderole) not found in any table", true)]
    #[case::busy(Some(-1), "The database is busy", false)]
    #[case::no_table(Some(-206), "The specified table is not in the database", false)]
    fn only_a_missing_column_lets_nodes_be_read_without_their_role(
        #[case] code: Option<i64>,
        #[case] message: &str,
        #[case] expected: bool,
    ) {
        let fault = Fault {
            axl_code: code,
            axl_message: Some(message.to_owned()),
            ..Fault::default()
        };
        assert_eq!(lacks_column(&fault), expected);
    }

    #[rstest]
    #[case::empty(String::new())]
    #[case::two_publishers(format!("{}{}", node("a", "0"), node("b", "0")))]
    #[case::no_publisher(node("a", "1"))]
    #[case::an_absurd_name(node("a' or 'b", "0"))]
    #[case::control_characters(node("a\u{7}b", "0"))]
    #[case::a_long_name(node(&"a".repeat(10_000), "0"))]
    #[case::twice(format!("{}{}{}", node("a", "0"), node("b", "1"), node("B", "1")))]
    #[case::too_many((0..100).map(|n| node(&format!("n{n}"), if n == 0 { "0" } else { "1" })).collect::<String>())]
    fn a_node_list_that_cannot_be_used_is_an_error(#[case] rows: String) {
        assert!(read_nodes(&answer(&format!("<return>{rows}</return>"))).is_err());
    }
}
