//! The pre-flight check: what an IM&P cluster looks like to the operator, asked by an administrator
//! before anything is installed. It reads and looks; it writes nothing and restarts nothing. The
//! calls are made by the operator's own client, so what works here works there.
//!
//! - [`options`]: the command line;
//!   [`password`]: from a file, the environment or a prompt
//! - [`plan`]: what is to be looked at, without contradictions
//! - [`look`]: names, ports and certificates, with nothing secret sent; [`legacy`]: servers that
//!   know old TLS only; [`certificate`]: what a certificate says and what would accept it
//! - [`publisher`], [`nodes`]: the checks, in the order of their needs
//! - [`account`]: the rule of one 401 for a process without Kubernetes
//! - [`explain`]: what a failed call means here, with its remedy
//! - [`report`]: the verdicts, as a table and as JSON
//!
//! What is not looked at: TCP 7400 is connected to and closed again. A handshake there would prove
//! nothing before a row is registered and read, could break the link that has the id already, and
//! reads like an intrusion in the router's log.

mod account;
mod certificate;
mod explain;
mod legacy;
mod nodes;
pub mod options;
mod password;
mod plan;
mod probe;
mod publisher;
pub mod report;

use self::plan::Plan;
use self::report::{Check, PreflightReport};

/// Looks at everything, within the plan's time.
pub async fn run(plan: &Plan) -> PreflightReport {
    let mut report = PreflightReport::default();
    let over = tokio::time::timeout(plan.time_limit, look_at(plan, &mut report))
        .await
        .is_err();
    if over {
        report.add(
            Check::Time
                .failed(
                    &plan.publisher,
                    format!(
                        "{} s were over before everything was looked at; what has no row was not looked at",
                        plan.time_limit.as_secs()
                    ),
                )
                .remedy("Mend what did not answer in time, or give more time with --timeout"),
        );
    }
    report
}

async fn look_at(plan: &Plan, report: &mut PreflightReport) {
    let access = publisher::Access::of(plan);
    let trusted = publisher::reach(plan, report).await;
    let nodes = publisher::axl(plan, access.as_ref(), trusted, report).await;
    nodes::look(plan, access.as_ref(), &nodes, report).await;
}
