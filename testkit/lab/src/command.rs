//! Runs programs to their end; a failure is a sentence with what the program said.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use testkit_base::Error;

/// A program that does not end within this time is ended: nothing in a lab takes longer.
const LIMIT: Duration = Duration::from_mins(2);

/// What a program left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Exit status 0.
    pub success: bool,
    /// Standard output, as UTF-8 with replacements.
    pub stdout: String,
    /// Standard error, as UTF-8 with replacements.
    pub stderr: String,
}

/// Runs `command` (program and arguments) with `input` and returns what it printed, whatever its exit status.
pub async fn output<S: AsRef<OsStr>>(command: &[S], input: Option<&[u8]>) -> Result<Output, Error> {
    let Some((program, arguments)) = command.split_first() else {
        return Err("an empty command cannot be run".into());
    };
    let named = Path::new(program.as_ref()).display().to_string();
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("cannot start {named}: {error}"))?;
    let stdin = child.stdin.take();
    let feed = async {
        if let (Some(mut stdin), Some(input)) = (stdin, input) {
            // A program may end without reading all: its exit status tells.
            let _ = stdin.write_all(input).await;
        }
    };
    let both = async { tokio::join!(feed, child.wait_with_output()).1 };
    let output = tokio::time::timeout(LIMIT, both)
        .await
        .map_err(|_| format!("{} did not end within {} s", shown(command), LIMIT.as_secs()))?
        .map_err(|error| format!("{named}: {error}"))?;
    Ok(Output {
        success: output.status.success(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Runs a command and returns its standard output; a failure carries its standard error.
pub async fn run<S: AsRef<OsStr>>(command: &[S]) -> Result<String, Error> {
    checked(command, output(command, None).await?)
}

/// As [`run`], with standard input.
pub async fn run_with_input<S: AsRef<OsStr>>(command: &[S], input: &[u8]) -> Result<String, Error> {
    checked(command, output(command, Some(input)).await?)
}

fn checked<S: AsRef<OsStr>>(command: &[S], output: Output) -> Result<String, Error> {
    if output.success {
        return Ok(output.stdout);
    }
    let said = if output.stderr.trim().is_empty() {
        &output.stdout
    } else {
        &output.stderr
    };
    Err(format!("{}: {}", shown(command), said.trim()).into())
}

fn shown<S: AsRef<OsStr>>(command: &[S]) -> String {
    let words: Vec<_> = command.iter().map(|word| word.as_ref().to_string_lossy()).collect();
    words.join(" ")
}

/// The command as it has to be run to change mounts of the machine: threads inside a lab have a mount namespace of their
/// own, in which such a change would be lost; the process's first thread never goes there.
pub fn on_machine(command: &[&str]) -> Vec<String> {
    let mut words = vec![
        "nsenter".to_owned(),
        format!("--mount=/proc/{}/ns/mnt", std::process::id()),
        "--".to_owned(),
    ];
    words.extend(command.iter().map(|word| (*word).to_owned()));
    words
}

/// Splits a line at spaces: for commands whose words have none.
pub fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[tokio::test]
    async fn a_failing_program_is_named_with_what_it_said() {
        let error = run(&["sh", "-c", "echo the reason >&2; exit 3"])
            .await
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("sh -c") && error.ends_with("the reason"), "{error}");
    }

    #[tokio::test]
    async fn input_reaches_the_program() {
        assert_eq!(run_with_input(&["cat"], b"hello").await.unwrap(), "hello");
    }
}
