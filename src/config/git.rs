//! `[git.HOST]`: which credential git gets for which host.

use std::{fmt, net::Ipv6Addr, str::FromStr};

use super::{
    Endpoint,
    error::{ConfigError, escaped},
    section::Section,
};
use crate::credential::{EntryKey, Name};

/// The longest host name (RFC 1035).
const MAX_HOST: usize = 253;

/// The host of a URL as git sends it: a name in ASCII or an address, and the port if the URL has one. In small letters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GitHost {
    /// An IPv6 address has its brackets.
    name: Box<str>,
    port: Option<u16>,
}

/// A text that is no [`GitHost`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no host: {mend}", mend = self.mend())]
pub struct InvalidHost(String);

impl InvalidHost {
    /// What to write instead.
    #[expect(clippy::unused_self, reason = "it is what to do about this error")]
    pub(super) fn mend(&self) -> &'static str {
        "write it as the URL has it, without anything else of the URL: github.com, or localhost:8080"
    }
}

impl GitHost {
    /// Whether both are the same host for a URL of this scheme: the scheme's own port may be left out of either.
    #[must_use]
    pub fn is(&self, other: &Self, scheme: &str) -> bool {
        let standard = match scheme {
            "https" => Some(443),
            "http" => Some(80),
            _ => None,
        };
        self.name == other.name && self.port.or(standard) == other.port.or(standard)
    }

    /// Whether a token may go there: encrypted, or to this machine.
    #[must_use]
    pub fn may_get_a_token_over(&self, scheme: &str) -> bool {
        Endpoint::parse(&format!("{scheme}://{self}/")).is_some()
    }
}

impl fmt::Display for GitHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl FromStr for GitHost {
    type Err = InvalidHost;

    fn from_str(text: &str) -> Result<Self, InvalidHost> {
        host(text).ok_or_else(|| InvalidHost(escaped(text)))
    }
}

fn host(text: &str) -> Option<GitHost> {
    let (name, rest) = match text.strip_prefix('[') {
        Some(inner) => {
            let (address, rest) = inner.split_once(']')?;
            let address: Ipv6Addr = address.parse().ok()?;
            (format!("[{address}]"), rest)
        }
        None => {
            let (name, rest) = text.split_at(text.find(':').unwrap_or(text.len()));
            let fits = (1..=MAX_HOST).contains(&name.len())
                && name
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
            (fits.then(|| name.to_ascii_lowercase())?, rest)
        }
    };
    let port = match rest.strip_prefix(':') {
        None if rest.is_empty() => None,
        None => return None,
        // Digits alone: numbers may have a sign for Rust.
        Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => Some(port.parse().ok().filter(|port| *port != 0)?),
        Some(_) => return None,
    };
    Some(GitHost {
        name: name.into(),
        port,
    })
}

/// What git gets as the password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GitSecret {
    /// The access token of this entry.
    Entry(EntryKey),
    /// This API key.
    ApiKey(Name),
}

/// What git gets for one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitConfig {
    /// The password.
    pub secret: GitSecret,
    /// The account that it belongs to, and the user name that git gets; git is answered for no other. `None`: whichever
    /// user name git asks for.
    pub username: Option<String>,
}

impl GitConfig {
    pub(super) fn from_section(section: &Section<'_>) -> Result<Self, ConfigError> {
        section.at_most_one(&["entry", "api_key"])?;
        let entry = section.entry("entry")?.map(GitSecret::Entry);
        let secret = match entry {
            Some(entry) => Some(entry),
            None => section.name_of("api_key")?.map(GitSecret::ApiKey),
        };
        Ok(Self {
            secret: secret.ok_or_else(|| {
                section.incomplete(
                    "does not say what git gets",
                    "set entry to a PROVIDER or PROVIDER/BUCKET, or api_key to the name of an API key",
                )
            })?,
            username: section.text("username")?,
        })
    }
}
