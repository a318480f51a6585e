//! The words of `git-credential`.

use clap::{ArgGroup, Args};

use crate::{
    broker::policy::EntryPattern,
    config::{GitConfig, GitHost, GitSecret},
    credential::{EntryKey, Name},
};

/// Arguments of `git-credential`.
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("secret").args(["entry", "api_key"]),
    after_help = "\
Git runs this where its configuration says `credential.helper = !credbroker git-credential`. For which hosts it answers, \
and with what, [git.HOST] of config.toml says; or, where that cannot be read, --host with --entry or --api-key. Git is \
told nothing about other hosts and user names, and nothing that would travel unencrypted (but to this machine). If it \
has no answer for a host of its own it says why and ends git's search, so that nobody is asked for a password instead.

get prints username, password and password_expiry_utc. erase asks the provider for a new token if the refused one is \
still the current one. store and any other word do nothing.

Example: git config --global credential.helper '!credbroker git-credential'"
)]
pub struct GitCredentialArgs {
    /// Answer for this host alone, instead of those of the configuration
    #[arg(long, value_name = "HOST[:PORT]", requires = "secret")]
    pub host: Option<GitHost>,
    /// Answer with the access token of this entry
    #[arg(long, value_name = "ENTRY", requires = "host", value_parser = entry)]
    pub entry: Option<EntryKey>,
    /// Answer with this API key
    #[arg(long, value_name = "KEY", requires = "host")]
    pub api_key: Option<Name>,
    /// The account's user name, the only one that is answered for
    #[arg(long, value_name = "NAME", requires = "host", value_parser = username)]
    pub username: Option<String>,
    /// What git asks for: get, store or erase
    #[arg(value_name = "get|store|erase")]
    pub operation: String,
}

impl GitCredentialArgs {
    /// What the options say, if they say it all; clap sees to it that they say all or nothing.
    pub(in crate::cli) fn host(&self) -> Option<(GitHost, GitConfig)> {
        let secret = match (&self.entry, &self.api_key) {
            (Some(entry), _) => GitSecret::Entry(entry.clone()),
            (None, Some(name)) => GitSecret::ApiKey(name.clone()),
            (None, None) => return None,
        };
        let username = self.username.clone();
        Some((self.host.clone()?, GitConfig { secret, username }))
    }
}

fn entry(text: &str) -> Result<EntryKey, String> {
    match text.parse() {
        Ok(EntryPattern::Entry(entry)) => Ok(entry),
        Ok(EntryPattern::Provider(_) | EntryPattern::Everything) => {
            Err("git needs one entry: write P for the default bucket, P/B for another".to_owned())
        }
        Err(error) => Err(error.to_string()),
    }
}

fn username(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains(char::is_control) {
        return Err("a user name is not empty and has no control characters".to_owned());
    }
    Ok(text.to_owned())
}
