//! The values of the domain: names, secrets, token sets. No I/O, no clock, no wire types.

use std::{collections::BTreeMap, fmt, str::FromStr, time::Duration};

use jiff::Timestamp;
use secrecy::{ExposeSecret as _, SecretString};

use crate::clock::Now;

/// The longest name of a provider, bucket or API key, in bytes.
pub const MAX_NAME: usize = 64;
/// The longest access token or API key, in bytes.
pub const MAX_SECRET: usize = 16 * 1024;
/// The bucket that an empty name stands for.
pub const DEFAULT_BUCKET: &str = "default";
/// The longest lifetime that is believed; a longer one is cut to this.
pub const MAX_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// The name of a provider, bucket or API key: 1 to 64 of `[A-Za-z0-9._@-]`, not `.` or `..`.
///
/// Holding one is the proof that it was checked: stores make file names of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Box<str>);

impl Name {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that is no [`Name`]. It keeps only what may be logged of it: the length and the first 32 characters, escaped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidName {
    /// Length in bytes.
    pub length: usize,
    /// The first 32 characters, control characters escaped.
    pub excerpt: String,
}

impl fmt::Display for InvalidName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.length == 0 {
            return f.write_str("a name must not be empty");
        }
        write!(
            f,
            "\"{}\" ({} bytes) is no valid name: use 1 to {MAX_NAME} of A-Z a-z 0-9 . _ @ -, not \".\" or \"..\"",
            self.excerpt, self.length
        )
    }
}

impl std::error::Error for InvalidName {}

impl FromStr for Name {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let fits = (1..=MAX_NAME).contains(&text.len())
            && text != "."
            && text != ".."
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'@' | b'-'));
        if fits {
            Ok(Self(text.into()))
        } else {
            Err(InvalidName {
                length: text.len(),
                excerpt: text.chars().take(32).flat_map(char::escape_default).collect(),
            })
        }
    }
}

/// One account at one provider.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryKey {
    /// The OAuth authorization server.
    pub provider: Name,
    /// The account there.
    pub bucket: Name,
}

impl EntryKey {
    /// Checks both names. An empty bucket is [`DEFAULT_BUCKET`]: this is the one place where that is decided.
    ///
    /// # Errors
    /// The name that is not valid, with the name of its field.
    pub fn parse(provider: &str, bucket: &str) -> Result<Self, (&'static str, InvalidName)> {
        let bucket = if bucket.is_empty() { DEFAULT_BUCKET } else { bucket };
        Ok(Self {
            provider: provider.parse().map_err(|e| ("provider", e))?,
            bucket: bucket.parse().map_err(|e| ("bucket", e))?,
        })
    }
}

impl fmt::Display for EntryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.provider, self.bucket)
    }
}

/// Identifies one stored version of an entry: random, new with every new access token, meaningless otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Revision(Box<str>);

impl Revision {
    /// A new one: 128 random bits.
    #[must_use]
    pub fn random() -> Self {
        Self(data_encoding::HEXLOWER.encode(&rand::random::<[u8; 16]>()).into())
    }

    /// One that was stored before.
    #[must_use]
    pub fn from_stored(text: &str) -> Self {
        Self(text.into())
    }

    /// The revision as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// When an access token expires, by both clocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expiry {
    /// The moment by the wall clock.
    pub at: Timestamp,
    /// How long the token was good for when it was issued.
    pub lifetime: Duration,
    /// The reading of both clocks when the token was stored, so that the boot-time clock can tell expiry, too.
    pub stored: Now,
}

impl Expiry {
    /// The expiry of a token that is good for `lifetime` from `now` on. Lifetimes above [`MAX_LIFETIME`] are cut.
    #[must_use]
    pub fn from_lifetime(lifetime: Duration, now: &Now) -> Self {
        let lifetime = lifetime.min(MAX_LIFETIME);
        Self {
            at: now.wall.saturating_add(lifetime).unwrap_or(Timestamp::MAX),
            lifetime,
            stored: now.clone(),
        }
    }

    /// What remains: the lesser of what the two clocks say. Zero: expired.
    #[must_use]
    pub fn remaining(&self, now: &Now) -> Duration {
        let by_wall = until(now.wall, self.at);
        if self.stored.boot_id.is_empty() || self.stored.boot_id != now.boot_id {
            return by_wall;
        }
        let left_when_stored = until(self.stored.wall, self.at);
        let passed = now.boot.saturating_sub(self.stored.boot);
        by_wall.min(left_when_stored.saturating_sub(passed))
    }
}

/// The time from `from` to `to`, zero if `to` is not later.
fn until(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

/// Everything that is stored for an entry. Only the host ever holds one: it carries the refresh token.
#[derive(Clone)]
pub struct TokenSet {
    /// The access token.
    pub access_token: SecretString,
    /// The refresh token, if the provider gave one.
    pub refresh_token: Option<SecretString>,
    /// Unset: the access token does not expire.
    pub expiry: Option<Expiry>,
    /// The token type of RFC 6749 section 7.1.
    pub token_type: String,
    /// Space-separated scopes; empty if unknown.
    pub scope: String,
    /// The account's subject (`sub` of OpenID Connect, or what the provider's preset names).
    pub subject: Option<String>,
    /// Further string fields of the provider's answer that the configuration names.
    pub extra: BTreeMap<String, String>,
    /// Who wrote it, for `status`: `import`, or `sandbox NAME`.
    pub saved_by: String,
}

impl fmt::Debug for TokenSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenSet")
            .field("has_refresh_token", &self.refresh_token.is_some())
            .field("expiry", &self.expiry)
            .field("saved_by", &self.saved_by)
            .finish_non_exhaustive()
    }
}

impl TokenSet {
    /// What a sandbox may see of it: `extra` without any value that equals a stored secret.
    #[must_use]
    pub fn to_access_token(&self, revision: &Revision, now: &Now) -> AccessToken {
        let secret = |value: &str| {
            self.refresh_token
                .as_ref()
                .is_some_and(|refresh| refresh.expose_secret() == value)
        };
        AccessToken {
            access_token: self.access_token.clone(),
            expire_time: self.expiry.as_ref().map(|e| e.at),
            expires_in: self.expiry.as_ref().map(|e| e.remaining(now)),
            token_type: self.token_type.clone(),
            scope: self.scope.clone(),
            extra: self
                .extra
                .iter()
                .filter(|(_, value)| !secret(value))
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect(),
            revision: revision.as_str().to_owned(),
        }
    }
}

/// What a sandbox may see of an entry. It has no field that could carry a refresh token.
#[derive(Clone)]
pub struct AccessToken {
    /// The access token.
    pub access_token: SecretString,
    /// When it expires, by the host's wall clock; unset: never.
    pub expire_time: Option<Timestamp>,
    /// What remains of it now, by the stricter of the host's two clocks.
    pub expires_in: Option<Duration>,
    /// The token type of RFC 6749 section 7.1.
    pub token_type: String,
    /// Space-separated scopes; empty if unknown.
    pub scope: String,
    /// Further fields that the host's configuration names.
    pub extra: BTreeMap<String, String>,
    /// Opaque; changes with every new access token.
    pub revision: String,
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessToken")
            .field("expire_time", &self.expire_time)
            .field("revision", &self.revision)
            .finish_non_exhaustive()
    }
}
