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
//! - [`sheet`]: the verdicts, as a table and as JSON
//!
//! What is not looked at: TCP 7400 is connected to and closed again. A handshake there would prove
//! nothing before a row is registered and read, could break the link that has the id already, and
//! reads like an intrusion in the router's log.

pub mod account;
pub mod certificate;
pub mod explain;
pub mod legacy;
pub mod look;
pub mod nodes;
pub mod options;
pub mod password;
pub mod plan;
pub mod publisher;
pub mod sheet;

use self::plan::Plan;
use self::sheet::{Check, Row, Sheet};

/// Looks at everything, within the plan's time.
pub async fn run(plan: &Plan) -> Sheet {
    let mut sheet = Sheet::default();
    let over = tokio::time::timeout(plan.time_limit, look_at(plan, &mut sheet))
        .await
        .is_err();
    if over {
        sheet.add(
            Row::failed(
                Check::Time,
                &plan.publisher,
                format!(
                    "{} s were over before everything was looked at; what has no row was not looked at",
                    plan.time_limit.as_secs()
                ),
            )
            .remedy("Mend what did not answer in time, or give more time with --timeout"),
        );
    }
    sheet
}

async fn look_at(plan: &Plan, sheet: &mut Sheet) {
    let access = publisher::Access::of(plan);
    let trusted = publisher::reach(plan, sheet).await;
    let nodes = publisher::axl(plan, access.as_ref(), trusted, sheet).await;
    nodes::look(plan, access.as_ref(), &nodes, sheet).await;
}
