//! Where passwords come from: a file, the environment, or a prompt; never the command line, which
//! every user of the machine can read.

use std::fs::OpenOptions;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use xmpp_federation_core::SecretBytes;

/// No password is longer.
const LONGEST: u64 = 4096;

/// Reads a password: from the file (`-` is standard input), else from the environment variable,
/// else at a terminal.
pub fn read(file: Option<&Path>, option: &str, variable: &str, user: &str) -> Result<SecretBytes, String> {
    let (bytes, source) = match (file, std::env::var_os(variable)) {
        (Some(path), _) => {
            let name = path.display().to_string();
            let bytes = from_file(path)
                .map_err(|error| format!("{option}: {name} cannot be read ({error}); name a file with the password"))?;
            (bytes, format!("{option} {name}"))
        }
        (None, Some(value)) if !value.is_empty() => (value.into_encoded_bytes(), variable.to_owned()),
        _ => {
            let bytes = prompt(user).map_err(|error| {
                format!(
                    "there is no password for {user} and no terminal to ask at ({error}); give {option} FILE or set {variable}"
                )
            })?;
            (bytes, "the prompt".to_owned())
        }
    };
    let password = SecretBytes::from_file_contents(bytes);
    if password.is_empty() {
        return Err(format!("the password from {source} is empty"));
    }
    if std::str::from_utf8(password.expose()).is_err() {
        return Err(format!("the password from {source} is not UTF-8 text"));
    }
    Ok(password)
}

fn from_file(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if path == Path::new("-") {
        std::io::stdin().take(LONGEST).read_to_end(&mut bytes)?;
    } else {
        std::fs::File::open(path)?.take(LONGEST).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

/// Puts the terminal back as it was.
struct EchoOff<'a> {
    terminal: &'a std::fs::File,
    before: Termios,
}

impl Drop for EchoOff<'_> {
    fn drop(&mut self) {
        // There is nobody to tell.
        let _ = tcsetattr(self.terminal, OptionalActions::Flush, &self.before);
    }
}

/// Asks at the terminal, which does not show what is typed.
fn prompt(user: &str) -> std::io::Result<Vec<u8>> {
    let mut terminal = OpenOptions::new().read(true).write(true).open("/dev/tty")?;
    let reader = terminal.try_clone()?;
    let before = tcgetattr(&reader)?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    let quiet = EchoOff {
        terminal: &reader,
        before,
    };
    tcsetattr(&reader, OptionalActions::Flush, &silent)?;
    terminal.write_all(format!("Password of {user}: ").as_bytes())?;
    let mut line = Vec::new();
    BufReader::new(&reader).take(LONGEST).read_until(b'\n', &mut line)?;
    drop(quiet);
    terminal.write_all(b"\n")?;
    Ok(line)
}
