//! Every key, every way to get it wrong, and what the messages say. The helpers are here.

mod arbitrary;
mod config_file;
mod git;
mod keys;
mod policy_file;
mod providers;
mod variables;

use super::*;

const PATH: &str = "/etc/cb/config.toml";
/// What no message and no `Debug` may show.
const SECRET: &str = "hunter2";

fn env(variables: &[(&str, &str)]) -> Environment {
    [("HOME", "/home/u")].iter().chain(variables).copied().collect()
}

fn load_bytes(bytes: &[u8], env: &Environment) -> Result<Config, ConfigError> {
    let source = Source::from_bytes(Path::new(PATH), bytes.to_vec())?;
    Config::from_source(Some(&source), Path::new("/etc/cb"), env)
}

fn load(text: &str) -> Result<Config, ConfigError> {
    load_bytes(text.as_bytes(), &env(&[]))
}

/// The error of a file, checked for what every message of a file has.
fn error(text: &str, line: usize) -> String {
    let error = load(text).unwrap_err().to_string();
    assert!(error.starts_with(&format!("{PATH}:{line}: ")), "{text}\n{error}");
    assert!(error.contains("; "), "no mend: {error}");
    assert!(!error.contains(char::is_control), "more than one line: {error:?}");
    assert!(!error.contains(SECRET), "quotes a value: {error}");
    error
}

fn load_policy(text: &str) -> Result<PolicyFile, ConfigError> {
    let path = Path::new("/etc/cb/policy.toml");
    PolicyFile::from_source(&Source::from_bytes(path, text.into())?, path)
}

fn policy_error(text: &str, line: usize) -> String {
    let error = load_policy(text).unwrap_err().to_string();
    assert!(
        error.starts_with(&format!("/etc/cb/policy.toml:{line}: ")),
        "{text}\n{error}"
    );
    assert!(
        !error.contains(char::is_control) && !error.contains(SECRET),
        "{error:?}"
    );
    error
}
