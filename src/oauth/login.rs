//! Logins: what is asked of an authorization server until there is a token set.
//!
//! A [`LoginProvider`] prepares what the user is shown, listens for the browser where a flow needs that, and exchanges what
//! came of it. It keeps nothing between two calls: verifier, `state` and device code are in what it returns, and whoever
//! drives the login keeps that.

mod settings;

use std::{fmt, time::Duration};

use async_trait::async_trait;
use secrecy::{ExposeSecret as _, SecretString};
use subtle::ConstantTimeEq as _;

pub use self::settings::{DeviceDialect, Known, LoginSettings, RedirectHost};
use super::{Flow, Seen};
use crate::credential::TokenAnswer;

/// One configured authorization server, as logins see it.
#[async_trait]
pub trait LoginProvider: Send + Sync + 'static {
    /// The ways to log in, the usual one first. Only what this provider can really do, with everything that it needs
    /// configured.
    ///
    /// # Errors
    /// The issuer's document, which names the endpoints, cannot be had; or the configured flow, or every one, lacks
    /// something, and the text says what to configure.
    async fn flows(&self) -> Result<Vec<Flow>, LoginTrouble>;

    /// What a user opens who will paste the code ([`Flow::PkceRedirect`]).
    ///
    /// # Errors
    /// The endpoints cannot be had.
    async fn authorize(&self) -> Result<Authorization, LoginTrouble>;

    /// What a user opens whose browser will be redirected to this host ([`Flow::BrowserRedirect`]), and the ear for that.
    ///
    /// # Errors
    /// The endpoints cannot be had, or no port can be listened on: [`LoginTrouble::CannotListen`].
    async fn authorize_loopback(&self) -> Result<(Authorization, Box<dyn Listening>), LoginTrouble>;

    /// Exchanges the code for a token set (RFC 6749 section 4.1.3), once: nothing is repeated after anything was written.
    ///
    /// # Errors
    /// Why there is none.
    async fn exchange(
        &self,
        authorization: &Authorization,
        code: &SecretString,
    ) -> Result<Box<TokenAnswer>, LoginTrouble>;

    /// Begins a device login (RFC 8628 section 3.1).
    ///
    /// # Errors
    /// The provider refused or could not be asked.
    async fn authorize_device(&self) -> Result<DeviceAuthorization, LoginTrouble>;

    /// Asks once how the device login stands (RFC 8628 section 3.4). The pace is the caller's.
    async fn poll_device(&self, device: &DeviceAuthorization) -> DevicePoll;
}

/// An authorization request that a user's browser is to make (RFC 6749 section 4.1.1, RFC 7636), and what its answer is
/// judged by.
pub struct Authorization {
    /// What the user opens. The only place outside this process where `state` and the PKCE challenge appear.
    pub url: String,
    /// Where the provider sends the user's browser then.
    pub redirect_uri: String,
    /// Comes back with the answer. It has nothing to do with the verifier.
    pub state: SecretString,
    /// Proves at the exchange that the one who asked is the one who exchanges.
    pub verifier: SecretString,
    /// Whether an answer without `state` is refused. With a redirect to this host it always is.
    pub state_required: bool,
    /// What `iss` has to be if the answer has one (RFC 9207 section 2.4). `None`: the issuer is not known, and `iss` is not
    /// looked at.
    pub issuer: Option<String>,
    /// Whether an answer in a redirect URL without `iss` is refused: the issuer's document promises one (RFC 9207 section
    /// 2.4).
    pub issuer_required: bool,
}

impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorization")
            .field("redirect_uri", &self.redirect_uri)
            .finish_non_exhaustive()
    }
}

impl Authorization {
    /// Whether it is the `state` of this request, compared in constant time.
    #[must_use]
    pub fn is_state(&self, state: &str) -> bool {
        self.state.expose_secret().as_bytes().ct_eq(state.as_bytes()).into()
    }
}

/// The ear for one redirect. Dropping it closes every socket of it.
#[async_trait]
pub trait Listening: Send {
    /// The code that the browser brings, by the first request for the exact path with the right `state`; or what the
    /// provider said instead. Any other request is answered and changes nothing.
    ///
    /// # Errors
    /// The provider's answer was an error: [`LoginTrouble::Denied`] if the user said no.
    async fn code(self: Box<Self>, authorization: &Authorization) -> Result<SecretString, LoginTrouble>;
}

/// What a device login is made of (RFC 8628 section 3.2).
pub struct DeviceAuthorization {
    /// What the user opens, https or http to loopback.
    pub verification_url: String,
    /// The same with the code in it.
    pub verification_url_complete: Option<String>,
    /// What the user types there, printable.
    pub user_code: String,
    /// The pace that the provider wants to be asked at.
    pub interval: Duration,
    /// How long the codes are good for. `None`: it does not say.
    pub lifetime: Option<Duration>,
    /// What is asked with.
    pub device_code: SecretString,
    /// The PKCE verifier, where the provider's dialect has one.
    pub verifier: Option<SecretString>,
}

impl fmt::Debug for DeviceAuthorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceAuthorization")
            .field("interval", &self.interval)
            .field("lifetime", &self.lifetime)
            .finish_non_exhaustive()
    }
}

/// What came of asking once how a device login stands.
#[derive(Debug)]
pub enum DevicePoll {
    /// The user agreed.
    Answered(Box<TokenAnswer>),
    /// The user has not answered yet.
    Pending,
    /// The same, and the pace is too fast: 5 s more from now on (RFC 8628 section 3.5).
    SlowDown,
    /// The network lost it, or the provider did not process it: it can be asked again, later than usual.
    NotProcessed {
        /// What was seen.
        seen: Seen,
        /// When the provider wants to be asked again (`Retry-After`).
        retry_after: Option<Duration>,
    },
    /// It is over.
    Ended(LoginTrouble),
}

/// Why there is no token set. Texts are for the host's log, as those of [`Outcome`](super::Outcome) are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoginTrouble {
    /// The user said no (`access_denied`).
    Denied,
    /// The codes are too old (`expired_token`).
    Expired,
    /// What the user or the browser brought is no answer to this request: no code, another `state` or `iss`.
    NotOurs(&'static str),
    /// The provider refused the code (`invalid_grant`), or said that the authorization failed.
    Refused(Seen),
    /// The provider did not like the client or the request.
    Rejected(Seen),
    /// The configuration lacks something for this way to log in, so nothing was asked. The text is our own, for whoever
    /// configures it.
    Unconfigured(String),
    /// The provider could not be asked, or gave no usable answer.
    Unavailable(Seen),
    /// No port of this host can be listened on; which ones were tried.
    CannotListen(String),
}

impl fmt::Display for LoginTrouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied => f.write_str("the user said no"),
            Self::Expired => f.write_str("the codes are too old"),
            Self::NotOurs(what) => write!(f, "the answer does not belong to this login: {what}"),
            Self::Refused(seen) => write!(f, "the provider refused: {seen}"),
            Self::Rejected(seen) => write!(f, "the provider rejected the client or the request: {seen}"),
            Self::Unconfigured(lack) => f.write_str(lack),
            Self::Unavailable(seen) => write!(f, "the provider gave no answer that is of use: {seen}"),
            Self::CannotListen(tried) => write!(f, "no port of this host can be listened on: {tried}"),
        }
    }
}
