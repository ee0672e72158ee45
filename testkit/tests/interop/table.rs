//! Results, row by row, and what is printed of them.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Instant;

use testkit_acceptance::report::{Report, Talk};
use testkit_base::Error;

/// Everything that was seen.
#[derive(Debug, Default)]
pub struct Table {
    report: Report,
    rows: Vec<Row>,
    blocks: Vec<String>,
    failures: usize,
}

#[derive(Debug)]
struct Row {
    case: String,
    with: String,
    ok: bool,
    seconds: f64,
    seen: String,
}

impl Table {
    /// Plays a case: what it returns is the evidence, in a line.
    pub async fn case(&mut self, case: &str, with: &str, work: impl AsyncFnOnce(Talk) -> Result<String, Error>) {
        let began = Instant::now();
        let mut outcome = None;
        let headline = format!("{case}, {with}");
        let number = u8::try_from(self.rows.len() + 1).unwrap_or(u8::MAX);
        self.report
            .step(number, &headline, &[], async |talk| {
                let result = work(talk).await;
                let (ok, seen) = match &result {
                    Ok(seen) => (true, seen.clone()),
                    Err(error) => (false, error.to_string()),
                };
                outcome = Some((ok, seen));
                result.map(|_| ())
            })
            .await;
        let (ok, seen) = outcome.unwrap_or((false, "not played".to_owned()));
        self.failures += usize::from(!ok);
        self.rows.push(Row {
            case: case.to_owned(),
            with: with.to_owned(),
            ok,
            seconds: began.elapsed().as_secs_f64(),
            seen,
        });
    }

    /// Adds a text of its own below the rows, with the number of things in it that went wrong.
    pub fn block(&mut self, text: String, failures: usize) {
        self.failures += failures;
        self.blocks.push(text);
    }

    /// Whether nothing went wrong, and something was played.
    pub fn all_as_expected(&self) -> bool {
        self.failures == 0 && !(self.rows.is_empty() && self.blocks.is_empty())
    }

    /// Prints it, also where the output of tests is captured, and writes it to `target/interop.txt`.
    pub fn print(&self) {
        let mut text = String::from("\nInterop\n");
        for row in &self.rows {
            let verdict = if row.ok { "ok  " } else { "FAIL" };
            let _ = writeln!(
                text,
                "{verdict} {:<42} {:<24} {:5.1} s  {}",
                row.case, row.with, row.seconds, row.seen
            );
        }
        for block in &self.blocks {
            let _ = writeln!(text, "\n{block}");
        }
        let _ = std::io::stdout().write_all(text.as_bytes());
        let _ = std::fs::write(testkit_lab::layout::repository().join("target/interop.txt"), text);
    }
}
