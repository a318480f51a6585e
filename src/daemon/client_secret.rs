//! Client secrets, from where the configuration says. Asked for at each need, so that a new one needs no restart.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use rustix::fs::{FileType, Mode, OFlags};
use secrecy::SecretString;
use zeroize::Zeroizing;

use crate::{
    config::{ClientSecret, Environment},
    oauth::{NoSecret, SecretSource},
    store::file::{SecretCommand, command},
};

/// How long a command may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// The most that is read from a file.
const MAX_SECRET_FILE: usize = 64 * 1024;

/// Where one client secret is.
pub(super) enum ConfiguredSecret {
    File(PathBuf),
    /// Read at the start of the process, like everything of the environment.
    Variable(String, Option<SecretString>),
    Command(SecretCommand),
}

impl ConfiguredSecret {
    pub(super) fn new(source: &ClientSecret, environment: &Environment) -> Self {
        match source {
            ClientSecret::File(path) => Self::File(path.clone()),
            ClientSecret::Variable(name) => Self::Variable(name.clone(), environment.secret(name)),
            ClientSecret::Command(command) => {
                let command = SecretCommand::with(command.as_str(), environment.all());
                Self::Command(command.without(environment.left_out()))
            }
        }
    }
}

#[async_trait]
impl SecretSource for ConfiguredSecret {
    async fn secret(&self) -> Result<SecretString, NoSecret> {
        match self {
            Self::File(path) => {
                let path = path.clone();
                blocking(move || from_file(&path)).await
            }
            Self::Variable(name, value) => value.clone().ok_or_else(|| NoSecret {
                problem: format!("client_secret_env: {name} is not set, or is not text"),
                mend: format!("set {name} in the environment of this program"),
            }),
            Self::Command(line) => {
                let line = line.clone();
                blocking(move || from_command(&line)).await
            }
        }
    }
}

async fn blocking<F>(read: F) -> Result<SecretString, NoSecret>
where
    F: FnOnce() -> Result<SecretString, NoSecret> + Send + 'static,
{
    let ended = |_ended| NoSecret {
        problem: "the process was ending".to_owned(),
        mend: "try again".to_owned(),
    };
    tokio::task::spawn_blocking(read).await.map_err(ended)?
}

fn from_file(path: &Path) -> Result<SecretString, NoSecret> {
    let fault = |problem: &str| NoSecret {
        problem: format!("client_secret_file {}: {problem}", path.display()),
        mend: "name a file that this user can read and that holds the client secret alone".to_owned(),
    };
    // Non-blocking, so that a pipe without a writer is refused instead of waited for.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let unreadable = |error: io::Error| fault(&error.kind().to_string());
    let opened = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| unreadable(error.into()))?;
    let stat = rustix::fs::fstat(&opened).map_err(|error| unreadable(error.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(fault("it is not a regular file"));
    }
    // In one allocation: growing would leave parts of the secret behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_SECRET_FILE + 1));
    let limit = u64::try_from(MAX_SECRET_FILE + 1).unwrap_or(u64::MAX);
    File::from(opened)
        .take(limit)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() > MAX_SECRET_FILE {
        return Err(fault("it is too large for a client secret"));
    }
    secret_of(&bytes).ok_or_else(|| fault("it is empty, or not text"))
}

fn from_command(line: &SecretCommand) -> Result<SecretString, NoSecret> {
    let fault = |problem: &str| {
        line.warn_of_left_out("client_secret_command");
        NoSecret {
            problem: format!("client_secret_command: the command {problem}"),
            mend: "make the command print the client secret alone; `sh -c` runs it, without input".to_owned(),
        }
    };
    let output = command::output(line, PATIENCE).map_err(|problem| fault(&problem))?;
    secret_of(&output).ok_or_else(|| fault("printed nothing, or no text"))
}

/// The text without one final line end.
fn secret_of(bytes: &[u8]) -> Option<SecretString> {
    let text = std::str::from_utf8(bytes).ok()?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    (!text.is_empty()).then(|| SecretString::from(text))
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::Mutex};

    use secrecy::ExposeSecret as _;

    use crate::config::ShellCommand;

    use super::*;

    #[test]
    fn a_file_gives_its_text_without_one_final_line_end_and_what_it_says_now() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        for (content, want) in [
            ("s", "s"),
            ("s\n", "s"),
            ("s\r\n", "s"),
            ("s\n\n", "s\n"),
            (" s ", " s "),
        ] {
            fs::write(&path, content).unwrap();
            assert_eq!(from_file(&path).unwrap().expose_secret(), want, "{content:?}");
        }
        for (content, want) in [(&b""[..], "empty"), (b"\n", "empty"), (b"SECRET\xff", "not text")] {
            fs::write(&path, content).unwrap();
            let said = from_file(&path).unwrap_err().to_string();
            assert!(
                said.contains(want) && said.contains("client_secret_file") && !said.contains("SECRET"),
                "{said}"
            );
        }
        fs::write(&path, "s".repeat(MAX_SECRET_FILE + 1)).unwrap();
        assert!(from_file(&path).unwrap_err().problem.contains("too large"));
        fs::remove_file(&path).unwrap();
        assert!(from_file(&path).unwrap_err().problem.contains("entity not found"));
        assert!(
            from_file(directory.path())
                .unwrap_err()
                .problem
                .contains("not a regular file")
        );
    }

    #[test]
    fn a_pipe_that_nobody_writes_to_holds_up_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        assert!(from_file(&path).unwrap_err().problem.contains("not a regular file"));
    }

    #[test]
    fn a_command_gives_what_it_prints_and_its_failure_gives_nothing_away() {
        assert_eq!(from_command(&"echo s".into()).unwrap().expose_secret(), "s");
        for line in ["exit 3", "echo SECRET; exit 1", "true"] {
            let said = from_command(&line.into()).unwrap_err().to_string();
            assert!(
                said.contains("client_secret_command") && !said.contains("SECRET"),
                "{said}"
            );
        }
    }

    #[test]
    fn a_command_that_fails_for_want_of_a_variable_is_explained_to_the_host() {
        for (line, warns) in [("exit 3", true), ("true", true), ("echo s", false)] {
            for left_out in [vec!["VAULT_CONFIG".into()], Vec::new()] {
                let said = tempfile::NamedTempFile::new().unwrap();
                let subscriber = tracing_subscriber::fmt().with_writer(Mutex::new(said.reopen().unwrap()));
                let environment = Environment::default().leaving_out(left_out.clone());
                let source = ClientSecret::Command(ShellCommand::new(line));
                let ConfiguredSecret::Command(command) = ConfiguredSecret::new(&source, &environment) else {
                    panic!("it is a command");
                };
                let answer = tracing::subscriber::with_default(subscriber.finish(), || from_command(&command));
                let said = fs::read_to_string(said.path()).unwrap();
                let named = said.contains("client_secret_command was run without") && said.contains("VAULT_CONFIG");
                assert_eq!(named, warns && !left_out.is_empty(), "{line}: {said}");
                // That goes further than to the host's user.
                let told = answer.err().map(|error| error.to_string()).unwrap_or_default();
                assert!(!told.contains("VAULT"), "{told}");
            }
        }
    }

    #[tokio::test]
    async fn a_variable_gives_its_value_and_one_that_is_not_there_is_named() {
        let environment: Environment = [("THERE", "s"), ("EMPTY", "")].into_iter().collect();
        let secret = |name: &str| ConfiguredSecret::new(&ClientSecret::Variable(name.to_owned()), &environment);
        assert_eq!(secret("THERE").secret().await.unwrap().expose_secret(), "s");
        for name in ["EMPTY", "ABSENT"] {
            let error = secret(name).secret().await.unwrap_err();
            assert!(error.problem.contains(name) && error.mend.contains(name), "{error:?}");
        }
    }
}
