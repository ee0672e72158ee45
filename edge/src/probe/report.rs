//! What a probe found, as a table or as JSON.

use std::fmt;

use serde::Serialize;
use xmpp_federation_core::Domain;

use crate::ctl::table;
use crate::observe::trace::printable;

/// Longest detail that is shown, bytes.
const DETAIL: usize = 600;

/// What a finding means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, strum::IntoStaticStr)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum Rating {
    /// As it should be.
    Good,
    /// It works, and deserves a look.
    Warning,
    /// It does not work.
    Bad,
    /// Not looked at.
    Skipped,
}

impl Rating {
    /// The word of the table.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// `configuration`, `policy`, `dns`, `address`, `connect`, `tls`, `certificate`, `features`,
    /// `external`, `dialback`.
    pub check: &'static str,
    /// The name or address it is about.
    pub subject: String,
    /// What it means.
    pub verdict: Rating,
    /// What was found.
    pub detail: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The remote domain.
    pub domain: Domain,
    /// For whom we spoke.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Domain>,
    /// Whether nothing is bad.
    pub good: bool,
    /// In the order in which they were made.
    pub findings: Vec<Finding>,
}

impl Report {
    pub(super) fn new(domain: &Domain, from: Option<&Domain>) -> Self {
        Self {
            domain: domain.clone(),
            from: from.cloned(),
            good: true,
            findings: Vec::new(),
        }
    }

    fn add(
        &mut self,
        check: &'static str,
        subject: &str,
        verdict: Rating,
        detail: impl Into<String>,
        remedy: Option<&str>,
    ) {
        self.good &= verdict != Rating::Bad;
        self.findings.push(Finding {
            check,
            subject: printable(subject, DETAIL),
            verdict,
            detail: printable(&detail.into(), DETAIL),
            remedy: remedy.map(str::to_owned),
        });
    }

    pub(super) fn good(&mut self, check: &'static str, subject: &str, detail: impl Into<String>) {
        self.add(check, subject, Rating::Good, detail, None);
    }

    pub(super) fn warn(&mut self, check: &'static str, subject: &str, detail: impl Into<String>, remedy: Option<&str>) {
        self.add(check, subject, Rating::Warning, detail, remedy);
    }

    pub(super) fn bad(&mut self, check: &'static str, subject: &str, detail: impl Into<String>, remedy: &str) {
        self.add(check, subject, Rating::Bad, detail, Some(remedy));
    }

    pub(super) fn skip(&mut self, check: &'static str, subject: &str, detail: impl Into<String>) {
        self.add(check, subject, Rating::Skipped, detail, None);
    }

    /// `unreached`: no address took a stream.
    pub(super) fn finish(&mut self, unreached: bool) {
        if unreached {
            let domain = self.domain.to_string();
            self.skip("dialback", &domain, "no address took a stream");
            self.good = false;
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.from {
            Some(from) => writeln!(f, "{} as seen from {from}", self.domain)?,
            None => writeln!(f, "{} as seen without a sending domain", self.domain)?,
        }
        let mut rows = Vec::new();
        for finding in &self.findings {
            rows.push(vec![
                finding.check.to_owned(),
                finding.subject.clone(),
                finding.verdict.as_str().to_owned(),
                finding.detail.clone(),
            ]);
            if let Some(remedy) = &finding.remedy {
                let mut row = vec![String::new(); 3];
                row.push(format!("-> {remedy}"));
                rows.push(row);
            }
        }
        f.write_str(&table(&["CHECK", "SUBJECT", "VERDICT", "DETAIL"], &rows))?;
        let count = |verdict| {
            let with = self.findings.iter().filter(|f| f.verdict == verdict);
            with.count()
        };
        let (bad, warnings) = (count(Rating::Bad), count(Rating::Warning));
        match (self.good, warnings) {
            (true, 0) => writeln!(f, "all good"),
            (true, _) => writeln!(f, "works; {warnings} to look at"),
            (false, _) => writeln!(f, "{bad} bad, {warnings} to look at"),
        }
    }
}
