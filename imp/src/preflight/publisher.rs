//! The publisher: reach, and everything over AXL, in the order in which one thing needs another.

use std::sync::Arc;

use xmpp_federation_core::ComponentId;

use super::account::Account;
use super::explain::{explain, within};
use super::plan::Plan;
use super::probe;
use super::report::{Check, CheckRow, PreflightReport};
use crate::access::{AxlVersion, Target};
use crate::accounts::Logins;
use crate::axl::{self, Axl, Table};
use crate::clock::SystemClock;
use crate::counter::Uncounted;
use crate::error::{CallError, CallErrorKind, Interface};
use crate::http::Caller;
use crate::pkid::Pkid;
use crate::store::MemoryStore;

/// Most rows and nodes that are listed in one finding.
const LISTED: usize = 12;

/// What is needed to ask: the client, and the accounts.
pub struct Access {
    /// The operator's own client.
    pub caller: Caller,
    pub target: Target,
    axl: Account,
    control_center: Option<Account>,
}

impl Access {
    /// `None` where nothing may be asked.
    pub fn of(plan: &Plan) -> Option<Self> {
        let target = plan.target()?;
        let logins = Logins::new(Arc::new(MemoryStore::default()), Arc::new(SystemClock));
        // The trust was judged with the command line; nothing else in it can be wrong.
        let caller = Caller::new(&target, plan.resolver.clone(), Arc::new(logins), Arc::new(Uncounted)).ok()?;
        Some(Self {
            caller,
            axl: Account::new(target.axl.clone()),
            control_center: target.control_center.clone().map(Account::new),
            target,
        })
    }

    pub fn control_center(&self) -> &Account {
        self.control_center.as_ref().unwrap_or(&self.axl)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeName {
    pub name: String,
    /// Whether its host was looked at as the publisher already, and is trusted.
    pub looked_at: Option<bool>,
}

/// Name, port, certificate and clock; whether the certificate is accepted.
pub async fn reach(plan: &Plan, report: &mut PreflightReport) -> bool {
    let look = probe::host(plan, &plan.publisher).await;
    look.rows(plan, &plan.publisher, report)
}

/// Everything over AXL; returns the nodes to look at.
pub async fn axl(plan: &Plan, access: Option<&Access>, trusted: bool, report: &mut PreflightReport) -> Vec<NodeName> {
    let host = &plan.publisher;
    let Some(access) = access else {
        report.add(Check::AxlLogin.skipped(host, "no account is used"));
        return known(plan, trusted);
    };
    if !trusted {
        report.add(Check::AxlLogin.skipped(
            host,
            "no password is sent to a server that was not reached or not accepted",
        ));
        return known(plan, trusted);
    }
    let mut asked = AxlProbe {
        plan,
        access,
        version: None,
        server: access.target.server(host),
    };
    let Some(table) = asked.login(report).await else {
        return known(plan, trusted);
    };
    if !asked.rows(table, report).await {
        report.add(Check::Nodes.skipped(host, "nothing more is asked of a database that answers like this"));
        return Vec::new();
    }
    asked.nodes(trusted, report).await
}

/// The nodes that are known without IM&P's list.
fn known(plan: &Plan, trusted: bool) -> Vec<NodeName> {
    let publisher = NodeName {
        name: plan.publisher.clone(),
        looked_at: Some(trusted),
    };
    let others = plan
        .addresses
        .keys()
        .filter(|name| **name != plan.publisher)
        .map(|name| NodeName {
            name: name.clone(),
            looked_at: None,
        });
    std::iter::once(publisher).chain(others).collect()
}

struct AxlProbe<'a> {
    plan: &'a Plan,
    access: &'a Access,
    version: Option<AxlVersion>,
    server: String,
}

impl AxlProbe<'_> {
    fn client(&self) -> Axl<'_> {
        Axl {
            caller: &self.access.caller,
            server: self.server.clone(),
            account: &self.access.axl.credentials,
            fixed: self.plan.axl_version,
            version: self.version,
        }
    }

    /// Asks, within the time for one call, and notes what the answer says of the account.
    async fn ask<T>(&self, call: impl Future<Output = Result<T, CallError>>) -> Result<T, CallError> {
        let result = within(self.plan, Interface::Axl, &self.server, call).await;
        self.access.axl.note(&result);
        result
    }

    /// The first question: login, role, version, and the table's name, which the rest needs.
    async fn login(&mut self, report: &mut PreflightReport) -> Option<Table> {
        let (plan, host) = (self.plan, &self.plan.publisher);
        let mut client = self.client();
        let result = self.ask(client.table()).await;
        let version = client.version;
        self.version = version;
        let user = &self.access.axl.credentials.username;
        let failed = |check: Check, error: &CallError| {
            let (found, remedy) = explain(error, plan);
            check.failed(host, found).remedy(remedy)
        };
        let accepted = Check::AxlLogin.ok(host, format!("user {user} and its password are accepted"));
        match &result {
            Err(error) if matches!(error.kind, CallErrorKind::Forbidden) => {
                report.add(accepted);
                report.add(failed(Check::AxlRole, error));
            }
            Err(error) if matches!(error.kind, CallErrorKind::VersionUnsupported) => {
                report.add(Check::AxlLogin.unproven(
                    host,
                    "no version was answered, which may come before the password is looked at",
                ));
                report.add(failed(Check::AxlVersion, error));
            }
            Err(error) if version.is_none() => report.add(failed(Check::AxlLogin, error)),
            _ => {
                report.add(accepted);
                report.add(Check::AxlRole.ok(host, "the user may use AXL (Standard AXL API Access)"));
                report.add(self.version_row());
            }
        }
        match result {
            Ok(table) => {
                report.add(Check::Table.ok(host, format!("component ids stand in {table}")));
                Some(table)
            }
            Err(error) if version.is_some() => {
                report.add(failed(Check::Table, &error));
                None
            }
            Err(_) => {
                report.add(Check::Table.skipped(host, "without AXL nothing is known of table, rows and nodes"));
                None
            }
        }
    }

    fn version_row(&self) -> CheckRow {
        let host = &self.plan.publisher;
        let Some(version) = self.version else {
            return Check::AxlVersion.unproven(host, "no version was answered");
        };
        if self.plan.axl_version.is_some() {
            return Check::AxlVersion.ok(host, format!("{version}, as given"));
        }
        let refused: Vec<String> = AxlVersion::STEPS
            .into_iter()
            .take_while(|step| *step != version)
            .map(|step| step.to_string())
            .collect();
        let found = if refused.is_empty() {
            format!("{version}, the first one tried")
        } else {
            format!("{version}; {} answered HTTP 599", refused.join(", "))
        };
        Check::AxlVersion.ok(host, found)
    }

    /// Shows the rows of the table. Returns whether the operator could write there.
    async fn rows(&mut self, table: Table, report: &mut PreflightReport) -> bool {
        let host = &self.plan.publisher;
        let mut client = self.client();
        let rows = match self.ask(client.rows(table)).await {
            Ok(rows) => rows,
            Err(error) => {
                let (found, remedy) = explain(&error, self.plan);
                report.add(Check::Rows.failed(host, found).remedy(remedy));
                return true;
            }
        };
        report.add(rows_row(host, &rows, &self.plan.component_ids));
        if self.plan.prove_write {
            return self.prove_write(table, &rows, report).await;
        }
        report.add(
            Check::AxlWrite
                .unproven(host, "whether executeSQLUpdate is taken is known only by sending one")
                .remedy("--prove-write deletes a row that does not exist"),
        );
        true
    }

    /// Deletes by a random key that no row has and a component id that no edge has; whether to go on.
    async fn prove_write(&mut self, table: Table, rows: &[axl::Row], report: &mut PreflightReport) -> bool {
        let host = &self.plan.publisher;
        let pkid = Pkid::random();
        let Ok(nobody) = "preflight.no-such-component".parse::<ComponentId>() else {
            return false;
        };
        if rows
            .iter()
            .any(|row| row.pkid == pkid.to_string() || row.cp_id == nobody.as_str())
        {
            report.add(Check::AxlWrite.failed(
                host,
                format!("a row with the component id {nobody} stands in the table; nothing was sent"),
            ));
            return false;
        }
        let mut client = self.client();
        let result = self.ask(client.delete(table, pkid, &nobody, false)).await;
        let go_on = match &result {
            Ok(count) => *count == 0,
            Err(error) => !matches!(error.kind, CallErrorKind::Unexpected(_)),
        };
        let row = match result {
            Ok(0) => Check::AxlWrite.ok(host, format!("a DELETE of the pkid {pkid}, which no row has, was taken: 0 rows")),
            Ok(count) => Check::AxlWrite.failed(host, format!("a DELETE of the random pkid {pkid} was answered with {count} rows, where 0 are possible"))
                .remedy("Do not let the operator write here: compare the table with the rows above (run sql select * from the table) and report this"),
            Err(error) => {
                let (found, remedy) = explain(&error, self.plan);
                Check::AxlWrite.failed(host, format!("executeSQLUpdate was not taken: {found}"))
                    .remedy(remedy)
            }
        };
        report.add(row);
        go_on
    }

    async fn nodes(&mut self, trusted: bool, report: &mut PreflightReport) -> Vec<NodeName> {
        let host = &self.plan.publisher;
        let mut client = self.client();
        let nodes = match self.ask(client.nodes()).await {
            Ok(nodes) => nodes,
            Err(error) => {
                let (found, remedy) = explain(&error, self.plan);
                report.add(Check::Nodes.failed(host, found).remedy(remedy));
                return known(self.plan, trusted);
            }
        };
        let listed: Vec<String> = nodes
            .iter()
            .take(LISTED)
            .map(|node| {
                let role = if node.publisher { "publisher" } else { "subscriber" };
                format!("{} ({role})", node.name)
            })
            .collect();
        report.add(Check::Nodes.ok(host, format!("{}: {}", nodes.len(), listed.join(", "))));
        nodes
            .into_iter()
            .map(|node| NodeName {
                looked_at: (node.name == *host).then_some(trusted),
                name: node.name,
            })
            .collect()
    }
}

fn rows_row(host: &str, rows: &[axl::Row], ours: &[ComponentId]) -> CheckRow {
    if rows.is_empty() {
        return Check::Rows.ok(host, "none: no federation edge is registered");
    }
    let is_ours = |row: &axl::Row| ours.iter().any(|id| id.as_str() == row.cp_id);
    let listed: Vec<String> = rows
        .iter()
        .take(LISTED)
        .map(|row| match realm(&row.cp_id) {
            _ if is_ours(row) => format!("{row}, which this resource wants"),
            Some(realm) => {
                format!("{row}, as an Expressway-E of the name {realm} registers itself")
            }
            None => row.to_string(),
        })
        .collect();
    let more = rows.len().saturating_sub(LISTED);
    let more = if more == 0 {
        String::new()
    } else {
        format!(" and {more} more")
    };
    let row = Check::Rows.warning(host, format!("{} stand there: {}{more}", rows.len(), listed.join("; ")));
    if rows.iter().all(is_ours) {
        row.remedy("If this operator wrote them, all is well; if its record was lost, take them over with the annotation xmppfederation.io/adopt-rows")
    } else {
        row.remedy("The operator does not register beside rows of others: turn the other system off at the cut-over (Expressway: XMPP federation Off), or set imp[].foreignComponents to Tolerate")
    }
}

/// The realm in a component id as federation edges register them.
fn realm(cp_id: &str) -> Option<&str> {
    let (component, realm) = cp_id.split_once('.')?;
    let (manager, processor) = component.split_once('_')?;
    let number = |text: &str, before: &str| {
        text.strip_prefix(before)
            .is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
    };
    (number(manager, "cm-") && number(processor, "s2scp-") && !realm.is_empty()).then_some(realm)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("cm-2_s2scp-1.eft-xwye-a-coluc-com", Some("eft-xwye-a-coluc-com"))]
    #[case("cm-12_s2scp-3.a", Some("a"))]
    #[case("cm-2_s2scp-1.", None)]
    #[case("cm-2_s2scp-1", None)]
    #[case("cm-x_s2scp-1.a", None)]
    #[case("component.example", None)]
    fn the_realm_of_an_expressways_row(#[case] cp_id: &str, #[case] expected: Option<&str>) {
        assert_eq!(realm(cp_id), expected);
    }
}
