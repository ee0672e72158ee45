//! How a scenario speaks: a headline for each step, its evidence, and what it waits for.

use std::fmt::Display;
use std::time::{Duration, Instant};

use testkit_base::Error;

/// How often a condition that is waited for is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How often a long wait says that it goes on.
const SPEAK_EVERY: Duration = Duration::from_secs(5);

/// What became of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything was as it should be.
    Passed,
    /// Something was not, or a step it builds on failed.
    Failed,
}

/// The results so far.
#[derive(Debug, Default)]
pub struct Report {
    outcomes: Vec<(u8, Outcome)>,
    only: Vec<u8>,
}

impl Report {
    /// A report that plays only these steps; none: all.
    pub fn only(steps: &[u8]) -> Self {
        Self {
            only: steps.to_vec(),
            ..Self::default()
        }
    }

    /// The report of a scenario that could not begin: one failure.
    pub fn never_began() -> Self {
        Self {
            outcomes: vec![(0, Outcome::Failed)],
            ..Self::default()
        }
    }

    /// Plays one step: prints its headline, then what it says, then its result.
    pub async fn step(
        &mut self,
        number: u8,
        headline: &str,
        needs: &[u8],
        work: impl AsyncFnOnce(Talk) -> Result<(), Error>,
    ) {
        if !self.only.is_empty() && !self.only.contains(&number) {
            return;
        }
        println!("\n{number:>2}  {headline}");
        let began = Instant::now();
        let missing: Vec<String> = needs
            .iter()
            .filter(|need| self.outcomes.contains(&(**need, Outcome::Failed)))
            .map(ToString::to_string)
            .collect();
        let result = if missing.is_empty() {
            work(Talk { began }).await
        } else {
            Err(format!("not tried: it builds on step {}", missing.join(", ")).into())
        };
        let seconds = began.elapsed().as_secs_f64();
        let outcome = match result {
            Ok(()) => {
                println!("    passed in {seconds:.1} s");
                Outcome::Passed
            }
            Err(error) => {
                println!("    FAILED after {seconds:.1} s: {error}");
                Outcome::Failed
            }
        };
        self.outcomes.push((number, outcome));
    }

    /// Prints the last line; an error when any step failed.
    pub fn close(&self) -> Result<(), Error> {
        let passed = self.count(Outcome::Passed);
        let failed = self.count(Outcome::Failed);
        println!("\ndemo: {passed} passed, {failed} failed");
        if failed == 0 && passed > 0 {
            Ok(())
        } else {
            Err("not every step passed".into())
        }
    }

    /// Whether no step failed so far.
    pub fn all_passed(&self) -> bool {
        self.count(Outcome::Failed) == 0
    }

    fn count(&self, outcome: Outcome) -> usize {
        self.outcomes.iter().filter(|(_, seen)| *seen == outcome).count()
    }
}

/// A step's voice: every line tells when in the step it was spoken.
#[derive(Clone, Copy, Debug)]
pub struct Talk {
    began: Instant,
}

impl Talk {
    /// One piece of evidence; further lines of the text stand below it.
    pub fn say(self, text: impl Display) {
        let mut time = format!("{:6.1} s", self.began.elapsed().as_secs_f64());
        for line in text.to_string().lines() {
            println!("{time}  {line}");
            time = " ".repeat(8);
        }
    }

    /// One piece of evidence with a label, aligned with the others.
    pub fn fact(self, label: &str, value: impl Display) {
        self.say(format_args!("{label:<38} {value}"));
    }

    /// Looks at something again and again until it is there; `look` says what is still missing.
    pub async fn wait<T>(
        self,
        what: &str,
        limit: Duration,
        mut look: impl AsyncFnMut() -> Result<T, Error>,
    ) -> Result<T, Error> {
        let began = Instant::now();
        let mut spoke = began;
        loop {
            let missing = match look().await {
                Ok(found) => return Ok(found),
                Err(missing) => missing,
            };
            if began.elapsed() >= limit {
                return Err(format!("waited {} s for {what}: {missing}", limit.as_secs()).into());
            }
            if spoke.elapsed() >= SPEAK_EVERY {
                spoke = Instant::now();
                let so_far = began.elapsed().as_secs();
                let missing: String = missing.to_string().chars().take(160).collect();
                self.say(format_args!("… waiting for {what}, {so_far} s: {missing}"));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// An error unless `condition` holds.
pub fn ensure<S: Into<Error>>(condition: bool, otherwise: impl FnOnce() -> S) -> Result<(), Error> {
    if condition { Ok(()) } else { Err(otherwise().into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_failed_step_fails_what_builds_on_it_but_nothing_else() {
        let mut report = Report::default();
        let fails = async |_: Talk| -> Result<(), Error> { Err("no".into()) };
        let works = async |_: Talk| -> Result<(), Error> { Ok(()) };
        report.step(1, "fails", &[], fails).await;
        report.step(2, "builds on it", &[1], works).await;
        report.step(3, "stands alone", &[], works).await;
        assert_eq!(
            report.outcomes,
            [(1, Outcome::Failed), (2, Outcome::Failed), (3, Outcome::Passed)]
        );
        assert!(report.close().is_err());
    }

    #[tokio::test]
    async fn a_wait_that_runs_out_says_what_was_missing() {
        let talk = Talk { began: Instant::now() };
        let error = talk
            .wait("the moon", Duration::ZERO, async || -> Result<(), Error> {
                Err("clouds".into())
            })
            .await
            .err()
            .map(|error| error.to_string());
        assert_eq!(error.as_deref(), Some("waited 0 s for the moon: clouds"));
    }
}
