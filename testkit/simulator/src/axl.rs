//! AXL at `/axl/`: SQL over SOAP, on every node; only the publisher takes writes.

use super::cluster::{Cluster, Node};
use super::database::Rows;
use super::distort::distort;
use super::faults::{FaultForm, FaultOptions};
use super::message::{Answer, Request};
use super::soap;
use super::sql::{self, SqlError, Verb};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;
use testkit_base::xml::{Element, escape};

/// Answers one request to `/axl/`.
pub fn answer(cluster: &Arc<Cluster>, node: &Node, request: &mut Request) -> Answer {
    request.service = "axl";
    let header = action(request);
    if let Some((_, operation)) = &header {
        request.operation.clone_from(operation);
    }
    let renamed = cluster.faults.is_on("axl-other-table", &node.name);
    // What the request is about, before anything is decided: faults may be limited to it.
    let parsed = if renamed {
        soap::operation(other_table(&String::from_utf8_lossy(&request.body)).as_bytes())
    } else {
        soap::operation(&request.body)
    };
    if let Ok(operation) = &parsed {
        request.operation.clone_from(&operation.name);
        request.detail = operation.child("sql").map(Element::text).unwrap_or_default();
    }
    if renamed {
        request.detail = other_table(&request.detail);
    }
    let mut words = request.detail.split_whitespace();
    let verb = words.next().unwrap_or_default().to_string();
    let table = words
        .skip_while(|word| !["from", "into"].contains(&word.to_lowercase().as_str()))
        .nth(1)
        .unwrap_or_default();
    let about = format!("{verb} {table}");
    let operation = request.operation.clone();
    let operations = [operation.as_str(), verb.as_str(), about.as_str()];
    let strike = |name: &str| cluster.faults.strike(name, &node.name, &operations);

    // It is in force already; here it is counted.
    strike("axl-other-table");
    if let Some(refusal) = request.refused(cluster, node, "axl", &operations) {
        return refusal;
    }
    let version = match &header {
        Some((version, _)) if cluster.settings().axl_versions.contains(version) && strike("axl-599").is_none() => {
            version.clone()
        }
        _ => return Answer::html(599, "The specified AXL version is not supported"),
    };
    let operation = match parsed {
        Ok(operation) => operation,
        Err(text) => return Answer::xml(500, soap::fault("Client", &text, "")),
    };
    if let Some(options) = strike("axl-fault") {
        return fault_in_form(options, &request.operation, &version);
    }
    if let Some(options) = strike("axl-late") {
        let (cluster, name) = (cluster.clone(), node.name.clone());
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(options.seconds.unwrap_or(1))).await;
            if let Some(node) = cluster.node(&name) {
                execute(&cluster, node, &operation, header.as_ref(), &version);
            }
        });
        return Answer::never();
    }
    let mut answer = execute(cluster, node, &operation, header.as_ref(), &version);
    if renamed {
        answer.body = other_table(&answer.body);
    }
    if strike("axl-reply-lost").is_some() {
        return Answer::lost();
    }
    distort(answer, "axl", strike)
}

/// The fault that is asked for, by default the one of a server that is short of memory.
fn fault_in_form(options: FaultOptions, operation: &str, version: &str) -> Answer {
    let message = options.message.unwrap_or_else(|| {
        "Maximum AXL Memory Allocation Consumed. Please retry when requests in progress have completed".into()
    });
    let code = options.code.unwrap_or(-1);
    match options.form {
        FaultForm::Unqualified => fault(code, &message, operation),
        FaultForm::Qualified => Answer::xml(
            500,
            soap::fault(
                "Server",
                "An error occurred.",
                &format!(
                    "<axl:axlError xmlns:axl=\"http://www.cisco.com/AXL/API/{version}\"><axl:axlcode>{code}</axl:axlcode><axl:axlmessage>{}</axl:axlmessage></axl:axlError>",
                    escape(&message)
                ),
            ),
        ),
        FaultForm::Bare => Answer::xml(500, soap::fault("Server", &message, "")),
    }
}

/// The text with the two names of the component table exchanged.
fn other_table(text: &str) -> String {
    text.replace("xmpps2snodes", "\0")
        .replace("xmpp2snodes", "xmpps2snodes")
        .replace('\0', "xmpp2snodes")
}

fn execute(
    cluster: &Arc<Cluster>,
    node: &Node,
    operation: &Element,
    header: Option<&(String, String)>,
    version: &str,
) -> Answer {
    let name = operation.name.as_str();
    if operation.ns != format!("http://www.cisco.com/AXL/API/{version}") {
        return Answer::xml(
            500,
            soap::fault(
                "Client",
                &format!("The namespace of {name} is not that of version {version}"),
                "",
            ),
        );
    }
    if header.is_none_or(|(_, action)| action != name) {
        return Answer::xml(
            500,
            soap::fault("Client", &format!("SOAPAction is not about {name}"), ""),
        );
    }
    let query = match name {
        "executeSQLQuery" => true,
        "executeSQLUpdate" => false,
        _ => return fault(-1, &format!("Unknown operation {name}"), name),
    };
    let mut children = operation.elements();
    let text = match (children.next(), children.next()) {
        (Some(sql), None) if sql.ns.is_empty() && sql.name == "sql" => sql.text(),
        _ => {
            return Answer::xml(
                500,
                soap::fault("Client", &format!("{name} takes exactly one unqualified sql"), ""),
            );
        }
    };
    let statement = match sql::parse(&text) {
        Ok(statement) => statement,
        Err(error) => return sql_fault(&error, name),
    };
    let result = match (query, statement.verb) {
        (true, Verb::Select) => node.database.select(&statement).map(|rows| return_rows(&rows)),
        (false, Verb::Insert | Verb::Delete) if !node.publisher => Err(SqlError {
            code: -797,
            message: "The database of a subscriber is read-only.".into(),
        }),
        (false, Verb::Insert | Verb::Delete) => cluster
            .write(|database| database.update(&statement))
            .map(|rows| format!("<return><rowsUpdated>{rows}</rowsUpdated></return>")),
        (true, _) => Err(SqlError {
            code: -201,
            message: "executeSQLQuery takes queries only.".into(),
        }),
        (false, Verb::Select) => Err(SqlError {
            code: -201,
            message: "executeSQLUpdate takes INSERT and DELETE only.".into(),
        }),
    };
    match result {
        Ok(content) => {
            let sequence = operation
                .attribute("sequence")
                .map(|number| format!(" sequence=\"{}\"", escape(number)))
                .unwrap_or_default();
            Answer::xml(
                200,
                soap::envelope(&format!(
                    "<ns:{name}Response xmlns:ns=\"http://www.cisco.com/AXL/API/{version}\"{sequence}>{content}</ns:{name}Response>"
                )),
            )
        }
        Err(error) => sql_fault(&error, name),
    }
}

fn return_rows(rows: &Rows) -> String {
    if rows.is_empty() {
        return "<return/>".into();
    }
    let mut out = String::from("<return>");
    for row in rows {
        out.push_str("<row>");
        for (column, value) in row {
            match value.as_deref() {
                None | Some("") => {
                    let _ = write!(out, "<{column}/>");
                }
                Some(value) => {
                    let _ = write!(out, "<{column}>{}</{column}>", escape(value));
                }
            }
        }
        out.push_str("</row>");
    }
    out.push_str("</return>");
    out
}

fn sql_fault(error: &SqlError, operation: &str) -> Answer {
    fault(error.code, &error.message, operation)
}

fn fault(code: i64, message: &str, operation: &str) -> Answer {
    let detail = format!(
        "<axlError><axlcode>{code}</axlcode><axlmessage>{}</axlmessage><request>{}</request></axlError>",
        escape(message),
        escape(operation)
    );
    Answer::xml(500, soap::fault("Server", message, &detail))
}

/// Version and operation of a `SOAPAction` `"CUCM:DB ver=14.0 executeSQLQuery"`, quotes included.
fn action(request: &Request) -> Option<(String, String)> {
    let value = request.header("soapaction")?;
    let inner = value.strip_prefix('"')?.strip_suffix('"')?;
    let (version, operation) = inner.strip_prefix("CUCM:DB ver=")?.split_once(' ')?;
    Some((version.into(), operation.into()))
}
