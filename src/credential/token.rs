//! Token sets, which stay on the host, and access tokens, which a sandbox may see.

use std::{collections::BTreeMap, fmt, time::Duration};

use jiff::Timestamp;
use secrecy::{ExposeSecret as _, SecretString};

use crate::{clock::Now, credential::Expiry};

/// The longest access token or API key, in bytes.
pub const MAX_SECRET: usize = 16 * 1024;

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

/// Whether a text can be an access or refresh token: 1 to [`MAX_SECRET`] printable ASCII characters
/// (RFC 6749 appendices A.12 and A.17). Anything else could break out of the header that carries it.
#[must_use]
pub fn is_token_text(text: &str) -> bool {
    (1..=MAX_SECRET).contains(&text.len()) && text.bytes().all(|b| (0x20..=0x7e).contains(&b))
}
