//! Why a refresh gave no new token.

use std::time::Duration;

use crate::store::StoreError;

/// Who wants a refresh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asker {
    /// Somebody waits for the token: goes first, and stops waiting after 15 s of exchange.
    Caller,
    /// The scheduler: comes behind callers, and waits to the end.
    Renewal,
}

/// Why only a login helps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginCause {
    /// There is no refresh token.
    NoRefreshToken,
    /// The provider refused the refresh token.
    Refused,
    /// An answer of the provider was lost, and with it, it seems, the refresh token that it carried: the provider refuses
    /// the one before it, or may not be asked with it again.
    LostAnswer,
}

/// Why there is no new token. Everybody who waited for the same flight gets the same.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum RefreshError {
    /// There is no such entry, or it is gone meanwhile.
    #[error("there is no such entry")]
    NoEntry,
    /// Only a login helps.
    #[error("a login is needed")]
    NeedsLogin(LoginCause),
    /// No such provider is configured.
    #[error("no such provider is configured")]
    ProviderNotFound,
    /// The provider refused the client or the request; the refresh token is kept.
    #[error("the provider rejected the request")]
    Rejected {
        /// When it may be tried again.
        retry_after: Duration,
    },
    /// The provider could not be asked, or gave no usable answer.
    #[error("the provider is unavailable")]
    Unavailable {
        /// When it may be tried again.
        retry_after: Duration,
    },
    /// The exchange goes on, but this caller has waited for as long as callers do.
    #[error("the provider has not answered yet")]
    Released {
        /// When the exchange will be given up at the latest.
        retry_after: Duration,
    },
    /// The last flight is so short a time ago that no other one starts yet.
    #[error("refreshed a moment ago")]
    Cooldown {
        /// When the next one may start.
        retry_after: Duration,
        /// How the last one failed, if it did.
        failure: Option<Box<RefreshError>>,
    },
    /// The broker is stopping.
    #[error("the broker is stopping")]
    ShuttingDown,
    /// The store; also that the entry is busy elsewhere.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The flight's task died; its log says why.
    #[error("the refresh failed inside the broker")]
    Internal,
}

impl RefreshError {
    /// The same, with what is known now about when to try again.
    pub(in crate::broker) fn due_in(self, wait: Duration) -> Self {
        match self {
            Self::Rejected { .. } => Self::Rejected { retry_after: wait },
            Self::Unavailable { .. } => Self::Unavailable { retry_after: wait },
            other => other,
        }
    }
}
