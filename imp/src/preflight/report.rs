//! The verdicts: one row per check, as a table for people and as JSON.

use std::fmt::Write as _;

use serde::Serialize;

/// Width of the table.
const WIDTH: usize = 110;

/// What is checked, in the words of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Check {
    /// The name's addresses.
    Name,
    /// The TCP port of AXL and Control Center, and TLS there.
    #[serde(rename = "HTTPS")]
    Https,
    /// The certificate, and whether the chosen way accepts it.
    Certificate,
    /// The host's clock against ours.
    Clock,
    /// User name and password.
    #[serde(rename = "AXL login")]
    AxlLogin,
    /// The role for AXL.
    #[serde(rename = "AXL role")]
    AxlRole,
    /// The version that is answered.
    #[serde(rename = "AXL version")]
    AxlVersion,
    /// The table of component ids.
    Table,
    /// What stands in it.
    Rows,
    /// Whether writes are taken.
    #[serde(rename = "AXL write")]
    AxlWrite,
    /// The nodes of the cluster.
    Nodes,
    /// Login and role for Control Center.
    #[serde(rename = "Control Center")]
    ControlCenter,
    /// State of the XCP router.
    #[serde(rename = "XCP router")]
    Router,
    /// IM&P's own federation.
    #[serde(rename = "Own federation")]
    Federation,
    /// Whether the router may be restarted over the interface.
    Restart,
    /// The TCP port of the XCP router.
    #[serde(rename = "Router port")]
    RouterPort,
    /// The time for all of it.
    Time,
}

impl Check {
    /// Its word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Name => "Name",
            Self::Https => "HTTPS",
            Self::Certificate => "Certificate",
            Self::Clock => "Clock",
            Self::AxlLogin => "AXL login",
            Self::AxlRole => "AXL role",
            Self::AxlVersion => "AXL version",
            Self::Table => "Table",
            Self::Rows => "Rows",
            Self::AxlWrite => "AXL write",
            Self::Nodes => "Nodes",
            Self::ControlCenter => "Control Center",
            Self::Router => "XCP router",
            Self::Federation => "Own federation",
            Self::Restart => "Restart",
            Self::RouterPort => "Router port",
            Self::Time => "Time",
        }
    }
}

/// What came of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
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

impl CheckResult {
    const ALL: [Self; 5] = [Self::Ok, Self::Failed, Self::Warning, Self::Unproven, Self::Skipped];

    /// Its word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Warning => "warning",
            Self::Unproven => "unproven",
            Self::Skipped => "skipped",
        }
    }
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckRow {
    /// What.
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
    fn new(verdict: CheckResult, check: Check, subject: &str, found: impl Into<String>) -> Self {
        Self {
            check,
            subject: subject.to_owned(),
            verdict,
            found: found.into(),
            remedy: String::new(),
        }
    }

    /// As it has to be.
    pub fn ok(check: Check, subject: &str, found: impl Into<String>) -> Self {
        Self::new(CheckResult::Ok, check, subject, found)
    }

    /// The operator could not do its work.
    pub fn failed(check: Check, subject: &str, found: impl Into<String>) -> Self {
        Self::new(CheckResult::Failed, check, subject, found)
    }

    /// It works, and somebody should look at it.
    pub fn warning(check: Check, subject: &str, found: impl Into<String>) -> Self {
        Self::new(CheckResult::Warning, check, subject, found)
    }

    /// It cannot be told without doing it.
    pub fn unproven(check: Check, subject: &str, found: impl Into<String>) -> Self {
        Self::new(CheckResult::Unproven, check, subject, found)
    }

    /// Not looked at.
    pub fn skipped(check: Check, subject: &str, why: impl Into<String>) -> Self {
        Self::new(CheckResult::Skipped, check, subject, why)
    }

    /// With what to do.
    #[must_use]
    pub fn remedy(mut self, text: impl Into<String>) -> Self {
        self.remedy = text.into();
        self
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
        let counts: Vec<String> = CheckResult::ALL
            .into_iter()
            .map(|verdict| format!("{} {}", self.count(verdict), verdict.word()))
            .collect();
        counts.join(", ")
    }

    /// As a table.
    pub fn table(&self) -> String {
        let column = |heading: &str, length: fn(&CheckRow) -> usize| {
            let longest = self.rows.iter().map(length).max().unwrap_or(0);
            longest.max(heading.len())
        };
        let verdict = column("VERDICT", |row| row.verdict.word().len());
        let check = column("CHECK", |row| row.check.word().len());
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
                        row.verdict.word(),
                        row.check.word(),
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
        let counts: serde_json::Map<String, serde_json::Value> = CheckResult::ALL
            .into_iter()
            .map(|verdict| (verdict.word().to_owned(), self.count(verdict).into()))
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
        report.add(CheckRow::ok(Check::Name, "a.example", "192.0.2.1"));
        report.add(CheckRow::failed(Check::AxlLogin, "a.example", "word ".repeat(30)).remedy("do\x1b[31m this"));
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
        report.add(CheckRow::unproven(Check::AxlWrite, "a.example", "x"));
        report.add(CheckRow::ok(Check::Router, "a.example", "x"));
        let value: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        for (row, known) in value["rows"].as_array().unwrap().iter().zip(&report.rows) {
            assert_eq!(row["check"], known.check.word());
            assert_eq!(row["verdict"], known.verdict.word());
        }
        assert_eq!(value["result"], "ok");
    }
}
