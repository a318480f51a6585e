//! Why a login failed, in words that a sandbox may read.

use std::time::Duration;

use super::Error;
use crate::{credential::EntryKey, oauth::login::LoginTrouble, reason::Reason};

/// Why a login failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LoginFailure {
    /// The user said no.
    #[error("the user said no: begin it anew if that was a mistake")]
    Denied,
    /// The provider's codes are too old.
    #[error("the code that the user was shown is too old: begin it anew")]
    Expired,
    /// What was brought is no answer to this login.
    #[error("what was pasted is not the code, or the redirect URL, of this login: begin it anew")]
    NotOurs,
    /// The provider refused the code.
    #[error("the provider refused the code: begin it anew, and use the code at once")]
    Refused,
    /// A sandbox may renew a login, but not change the account.
    #[error(
        "a sandbox cannot change the account of an entry, and it is another one, or not known to be the same: log in on the host with `credbroker login`"
    )]
    OtherAccount,
    /// The entry was removed, or the login was cancelled.
    #[error("it was cancelled, or the entry was removed meanwhile: begin it anew")]
    Withdrawn,
    /// The token that came cannot be handed out.
    #[error("the provider gave a token that cannot be handed out: the broker's log on the host says why")]
    NoToken,
    /// The provider refused the client or the request.
    #[error(
        "the provider rejected the request: check client_id, client secret, scopes and redirect settings in the host's config.toml; the broker's log says what it answered"
    )]
    Rejected,
    /// The provider could not be asked, or gave no usable answer.
    #[error(
        "the provider could not be asked, or gave no usable answer: begin it anew later; the broker's log on the host says why"
    )]
    Unavailable,
    /// The provider has not answered yet.
    #[error("the provider has not answered yet: ask for the token in a minute, because the exchange goes on")]
    GoesOn,
    /// No port of the host can be listened on.
    #[error(
        "the host cannot listen for the browser: choose another flow, or free the port; the broker's log on the host says which"
    )]
    CannotListen,
}

impl LoginFailure {
    /// When a login that the provider could not be asked about is worth another try.
    const LATER: Duration = Duration::from_secs(5);
    /// An exchange is given this long.
    const GOES_ON: Duration = Duration::from_secs(60);

    /// The failure of the login to this entry.
    pub(in crate::broker) fn of(self, key: &EntryKey) -> Error {
        Error::LoginFailed {
            key: key.clone(),
            why: self,
        }
    }

    pub(super) fn reason(self) -> Reason {
        match self {
            Self::Denied => Reason::AccessDenied,
            Self::Expired => Reason::SessionExpired,
            Self::NotOurs | Self::Refused | Self::OtherAccount | Self::Withdrawn | Self::NoToken => {
                Reason::ExchangeFailed
            }
            Self::Rejected => Reason::ProviderRejected,
            Self::Unavailable | Self::GoesOn => Reason::ProviderUnavailable,
            Self::CannotListen => Reason::InternalError,
        }
    }

    pub(super) fn retry_after(self) -> Option<Duration> {
        match self {
            Self::Unavailable => Some(Self::LATER),
            Self::GoesOn => Some(Self::GOES_ON),
            _ => None,
        }
    }
}

impl From<LoginTrouble> for LoginFailure {
    fn from(trouble: LoginTrouble) -> Self {
        match trouble {
            LoginTrouble::Denied => Self::Denied,
            LoginTrouble::Expired => Self::Expired,
            LoginTrouble::NotOurs(_) => Self::NotOurs,
            LoginTrouble::Refused(_) => Self::Refused,
            LoginTrouble::Rejected(_) | LoginTrouble::Unconfigured(_) => Self::Rejected,
            LoginTrouble::Unavailable(_) => Self::Unavailable,
            LoginTrouble::CannotListen(_) => Self::CannotListen,
        }
    }
}
