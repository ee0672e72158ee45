//! The verdicts: one row per check, as a table for people and as JSON.

use std::fmt::Write as _;

use serde::Serialize;
use strum::VariantArray as _;

/// Width of the table.
const WIDTH: usize = 110;

/// What is checked, in the words of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, strum::IntoStaticStr)]
#[serde(into = "&'static str")]
pub enum Check {
    /// The name's addresses.
    Name,
    /// The TCP port of AXL and Control Center, and TLS there.
    #[strum(serialize = "HTTPS")]
    Https,
    /// The certificate, and whether the chosen way accepts it.
    Certificate,
    /// The host's clock against ours.
    Clock,
    /// User name and password.
    #[strum(serialize = "AXL login")]
    AxlLogin,
    /// The role for AXL.
    #[strum(serialize = "AXL role")]
    AxlRole,
    /// The version that is answered.
    #[strum(serialize = "AXL version")]
    AxlVersion,
    /// The table of component ids.
    Table,
    /// The rows of the table.
    Rows,
    /// Whether writes are taken.
    #[strum(serialize = "AXL write")]
    AxlWrite,
    /// The nodes of the cluster.
    Nodes,
    /// Login and role for Control Center.
    #[strum(serialize = "Control Center")]
    ControlCenter,
    /// State of the XCP router.
    #[strum(serialize = "XCP router")]
    Router,
    /// IM&P's own federation.
    #[strum(serialize = "Own federation")]
    Federation,
    /// Whether the router may be restarted over the interface.
    Restart,
    /// The TCP port of the XCP router.
    #[strum(serialize = "Router port")]
    RouterPort,
    /// The time for all of it.
    Time,
}

/// What came of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, strum::IntoStaticStr, strum::VariantArray)]
#[serde(into = "&'static str")]
#[strum(serialize_all = "lowercase")]
pub enum CheckResult {
    /// As it has to be.
    Ok,
    /// The operator could not do its work.
    Failed,
    /// It works, and somebody should look at it.
    Warning,
    /// It cannot be told without doing it.
    Unproven,
    /// Not looked at, because something before it failed.
    Skipped,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckRow {
    /// What was checked.
    pub check: Check,
    /// Where: a host.
    pub subject: String,
    /// What came of it.
    pub verdict: CheckResult,
    /// What was found.
    pub found: String,
    /// What to do; empty where nothing is to be done.
    pub remedy: String,
}

impl CheckRow {
    /// With what to do.
    #[must_use]
    pub fn remedy(mut self, text: impl Into<String>) -> Self {
        self.remedy = text.into();
        self
    }
}

impl Check {
    fn row(self, verdict: CheckResult, subject: &str, found: impl Into<String>) -> CheckRow {
        CheckRow {
            check: self,
            subject: subject.to_owned(),
            verdict,
            found: found.into(),
            remedy: String::new(),
        }
    }

    /// As it has to be.
    pub fn ok(self, subject: &str, found: impl Into<String>) -> CheckRow {
        self.row(CheckResult::Ok, subject, found)
    }

    /// The operator could not do its work.
    pub fn failed(self, subject: &str, found: impl Into<String>) -> CheckRow {
        self.row(CheckResult::Failed, subject, found)
    }

    /// It works, and somebody should look at it.
    pub fn warning(self, subject: &str, found: impl Into<String>) -> CheckRow {
        self.row(CheckResult::Warning, subject, found)
    }

    /// It cannot be told without doing it.
    pub fn unproven(self, subject: &str, found: impl Into<String>) -> CheckRow {
        self.row(CheckResult::Unproven, subject, found)
    }

    /// Not looked at.
    pub fn skipped(self, subject: &str, why: impl Into<String>) -> CheckRow {
        self.row(CheckResult::Skipped, subject, why)
    }
}

/// All rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PreflightReport {
    /// In the order in which they were looked at.
    pub rows: Vec<CheckRow>,
}

impl PreflightReport {
    /// Adds a row.
    pub fn add(&mut self, row: CheckRow) {
        self.rows.push(row);
    }

    /// Whether something failed.
    pub fn failed(&self) -> bool {
        self.rows.iter().any(|row| row.verdict == CheckResult::Failed)
    }

    fn count(&self, verdict: CheckResult) -> usize {
        let same = |row: &&CheckRow| row.verdict == verdict;
        self.rows.iter().filter(same).count()
    }

    /// How many of each, as a line.
    fn summary(&self) -> String {
        let counts: Vec<String> = CheckResult::VARIANTS
            .iter()
            .map(|verdict| format!("{} {}", self.count(*verdict), <&str>::from(verdict)))
            .collect();
        counts.join(", ")
    }

    /// As a table.
    pub fn table(&self) -> String {
        let column = |heading: &str, length: fn(&CheckRow) -> usize| {
            let longest = self.rows.iter().map(length).max().unwrap_or(0);
            longest.max(heading.len())
        };
        let verdict = column("VERDICT", |row| <&str>::from(row.verdict).len());
        let check = column("CHECK", |row| <&str>::from(row.check).len());
        let host = column("WHERE", |row| row.subject.chars().count());
        let indent = verdict + check + host + 6;
        let mut text = format!("{:verdict$}  {:check$}  {:host$}  FOUND\n", "VERDICT", "CHECK", "WHERE");
        for row in &self.rows {
            let mut lines = wrapped(&row.found, indent, "");
            if !row.remedy.is_empty() {
                lines.extend(wrapped(&row.remedy, indent, "-> "));
            }
            for (number, line) in lines.iter().enumerate() {
                // Writing to a String cannot fail.
                let _ = if number == 0 {
                    writeln!(
                        text,
                        "{:verdict$}  {:check$}  {:host$}  {line}",
                        <&str>::from(row.verdict),
                        <&str>::from(row.check),
                        row.subject
                    )
                } else {
                    writeln!(text, "{:indent$}{line}", "")
                };
            }
        }
        let _ = writeln!(text, "\n{}", self.summary());
        text
    }

    /// As JSON.
    pub fn json(&self) -> String {
        let counts: serde_json::Map<String, serde_json::Value> = CheckResult::VARIANTS
            .iter()
            .map(|verdict| (<&str>::from(verdict).to_owned(), self.count(*verdict).into()))
            .collect();
        let value = serde_json::json!({
            "version": env!("CARGO_PKG_VERSION"),
            "result": if self.failed() { "failed" } else { "ok" },
            "counts": counts,
            "rows": self.rows,
        });
        format!("{value:#}\n")
    }
}

/// Words in lines; what comes from elsewhere cannot move the cursor.
fn wrapped(text: &str, indent: usize, mark: &str) -> Vec<String> {
    let width = WIDTH.saturating_sub(indent).max(40);
    let mut lines = Vec::new();
    let mut line = mark.to_owned();
    let plain: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    for word in plain.split_whitespace() {
        let begun = line.chars().count() > mark.len();
        if begun && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(std::mem::replace(&mut line, " ".repeat(mark.len())));
        } else if begun {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn long_findings_and_remedies_are_wrapped_below_their_column() {
        let mut report = PreflightReport::default();
        report.add(Check::Name.ok("a.example", "192.0.2.1"));
        report.add(
            Check::AxlLogin
                .failed("a.example", "word ".repeat(30))
                .remedy("do\x1b[31m this"),
        );
        let text = report.table();
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH));
        assert!(!text.contains('\x1b'), "{text:?}");
        let remedy = text.lines().find(|line| line.contains("->")).unwrap();
        let column = text.lines().next().unwrap().find("FOUND").unwrap();
        assert_eq!(remedy.find("->"), Some(column), "{text}");
        assert!(text.ends_with("\n1 ok, 1 failed, 0 warning, 0 unproven, 0 skipped\n"));
    }

    #[test]
    fn words_of_json_and_of_the_table_are_the_same() {
        let mut report = PreflightReport::default();
        report.add(Check::AxlWrite.unproven("a.example", "x"));
        report.add(Check::Router.ok("a.example", "x"));
        let value: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        for (row, known) in value["rows"].as_array().unwrap().iter().zip(&report.rows) {
            assert_eq!(row["check"], <&str>::from(known.check));
            assert_eq!(row["verdict"], <&str>::from(known.verdict));
        }
        assert_eq!(value["result"], "ok");
    }
}
