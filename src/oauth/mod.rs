//! OAuth authorization servers: what is asked of one, and the one HTTP client that asks.
//!
//! HTTP stops here. The core sees a [`Provider`], whose methods do one exchange each and say what became of it.
//! [`HttpProvider`] is the one that asks a server.

mod authorization_code;
mod device_code;
pub mod discovery;
mod endpoint;
mod http;
pub mod login;
pub mod loopback;
mod outcome;
pub mod presets;
mod provider;
mod revocation;
mod token_endpoint;

use std::{fmt, time::Duration};

use async_trait::async_trait;
use secrecy::SecretString;

pub use self::{
    endpoint::Endpoint,
    http::{Http, HttpLimits, Layer, Proxies, Unreachable},
    login::{LoginProvider, LoginSettings},
    outcome::OutcomeRules,
    provider::{Endpoints, HttpProvider, Look, NoSecret, ProviderSettings, SecretSource, Trouble},
};
use crate::credential::TokenAnswer;

/// One configured authorization server.
#[async_trait]
pub trait Provider: Send + Sync + 'static {
    /// Presents the refresh token once (RFC 6749 section 6), over a connection of its own, and returns when that
    /// connection is closed: at most 60 s after its first byte, and less than 90 s after the call. It repeats nothing and follows nothing: what comes next
    /// is the caller's decision.
    async fn refresh(&self, refresh_token: &SecretString) -> Outcome;

    /// Revokes a token (RFC 7009).
    async fn revoke(&self, token: &SecretString, kind: TokenKind) -> Revoked;

    /// How long an access token with a refresh token is good for if the provider does not say.
    fn default_lifetime(&self) -> Duration;

    /// Whether a refresh token may be presented again after an answer was lost.
    fn may_repeat_ambiguous(&self) -> bool;
}

/// What became of one presentation of a refresh token. Texts are for the host's log and say what was seen: a status, a
/// registered error code, the kind of failure; never what the provider wrote, and no secret.
#[derive(Debug)]
pub enum Outcome {
    /// A new token set.
    Answered(Box<TokenAnswer>),
    /// The refresh token is dead: revoked, expired, spent.
    Refused(Seen),
    /// The provider did not like the client or the request; the refresh token may be good.
    Rejected(Seen),
    /// The provider did not process it: nothing was written, or it said so.
    NotProcessed {
        /// What was seen.
        seen: Seen,
        /// When the provider wants to be asked again (`Retry-After`).
        retry_after: Option<Duration>,
    },
    /// It was sent, and nobody knows whether it was processed.
    Ambiguous(Seen),
}

/// What was seen, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen(pub String);

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which token is to be revoked (RFC 7009 section 2.1, `token_type_hint`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// An access token.
    Access,
    /// A refresh token.
    Refresh,
}

/// What became of a revocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Revoked {
    /// The provider has no revocation endpoint.
    NotSupported,
    /// Done.
    Done,
    /// It was tried and failed; what was seen.
    Failed(Seen),
}

/// How the client shows who it is (RFC 6749 section 2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    /// HTTP basic authentication.
    Basic,
    /// Id and secret in the body.
    Post,
    /// The id in the body, no secret.
    None,
}

/// How a request to the token endpoint is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RequestFormat {
    /// `application/x-www-form-urlencoded`, as RFC 6749 has it.
    #[default]
    Form,
    /// JSON.
    Json,
}

/// A way to log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// The user types a code on another device (RFC 8628).
    DeviceCode,
    /// The user pastes a code.
    PkceRedirect,
    /// The browser is redirected to the host's loopback address (RFC 8252).
    BrowserRedirect,
}

impl Flow {
    /// Its name in the configuration and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DeviceCode => "device_code",
            Self::PkceRedirect => "pkce_redirect",
            Self::BrowserRedirect => "browser_redirect",
        }
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
