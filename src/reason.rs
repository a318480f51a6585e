//! The machine-readable reasons of failures: one closed list that the service, the client and the command line share.

use std::fmt;

/// Why a call failed. The wire carries [`Reason::as_str`] in `google.rpc.ErrorInfo.reason`.
///
/// Clients map errors by this, never by the status code alone. The list grows; an unknown name parses to `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// No such entry or API key.
    NotFound,
    /// A missing or malformed field.
    InvalidRequest,
    /// The message or header block is over the limit.
    MessageTooLarge,
    /// Unknown method or unsupported compression.
    Unimplemented,
    /// Too many calls in too short a time.
    RateLimited,
    /// More streaming calls on one connection than there may be.
    TooManyStreams,
    /// More logins open at once than a sandbox may have.
    TooManySessions,
    /// The capability is missing or wrong.
    Unauthenticated,
    /// Outside the sandbox's policy.
    Unauthorized,
    /// The peer's uid may not use this socket.
    PeerNotAllowed,
    /// No common protocol version.
    UnknownVersion,
    /// The refresh token is absent, revoked or refused.
    NeedsLogin,
    /// A refresh needs a provider that is not configured.
    ProviderNotFound,
    /// The provider refused the client or the request; the refresh token is kept.
    ProviderRejected,
    /// The provider failed after the retries.
    ProviderUnavailable,
    /// The entry is busy in another process.
    LockTimeout,
    /// The broker is stopping.
    ShuttingDown,
    /// The call's own or the server's deadline.
    DeadlineExceeded,
    /// No such login session, or another sandbox's.
    SessionNotFound,
    /// The login was not completed in time.
    SessionExpired,
    /// The login has ended: it was completed, it failed, or it was cancelled.
    SessionAlreadyUsed,
    /// The code was refused, or the account is another one.
    ExchangeFailed,
    /// The user said no.
    AccessDenied,
    /// The store is locked: its identity cannot be had.
    StoreLocked,
    /// The stored record is undecryptable or malformed.
    StoreCorrupt,
    /// The store failed with an I/O error.
    StoreUnavailable,
    /// Anything else; the cause is in the broker's log.
    InternalError,
}

impl Reason {
    /// Every reason, for tables and tests.
    pub const ALL: [Self; 27] = [
        Self::NotFound,
        Self::InvalidRequest,
        Self::MessageTooLarge,
        Self::Unimplemented,
        Self::RateLimited,
        Self::TooManyStreams,
        Self::TooManySessions,
        Self::Unauthenticated,
        Self::Unauthorized,
        Self::PeerNotAllowed,
        Self::UnknownVersion,
        Self::NeedsLogin,
        Self::ProviderNotFound,
        Self::ProviderRejected,
        Self::ProviderUnavailable,
        Self::LockTimeout,
        Self::ShuttingDown,
        Self::DeadlineExceeded,
        Self::SessionNotFound,
        Self::SessionExpired,
        Self::SessionAlreadyUsed,
        Self::ExchangeFailed,
        Self::AccessDenied,
        Self::StoreLocked,
        Self::StoreCorrupt,
        Self::StoreUnavailable,
        Self::InternalError,
    ];

    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "NOT_FOUND",
            Self::InvalidRequest => "INVALID_REQUEST",
            Self::MessageTooLarge => "MESSAGE_TOO_LARGE",
            Self::Unimplemented => "UNIMPLEMENTED",
            Self::RateLimited => "RATE_LIMITED",
            Self::TooManyStreams => "TOO_MANY_STREAMS",
            Self::TooManySessions => "TOO_MANY_SESSIONS",
            Self::Unauthenticated => "UNAUTHENTICATED",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::PeerNotAllowed => "PEER_NOT_ALLOWED",
            Self::UnknownVersion => "UNKNOWN_VERSION",
            Self::NeedsLogin => "NEEDS_LOGIN",
            Self::ProviderNotFound => "PROVIDER_NOT_FOUND",
            Self::ProviderRejected => "PROVIDER_REJECTED",
            Self::ProviderUnavailable => "PROVIDER_UNAVAILABLE",
            Self::LockTimeout => "LOCK_TIMEOUT",
            Self::ShuttingDown => "SHUTTING_DOWN",
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::SessionNotFound => "SESSION_NOT_FOUND",
            Self::SessionExpired => "SESSION_EXPIRED",
            Self::SessionAlreadyUsed => "SESSION_ALREADY_USED",
            Self::ExchangeFailed => "EXCHANGE_FAILED",
            Self::AccessDenied => "ACCESS_DENIED",
            Self::StoreLocked => "STORE_LOCKED",
            Self::StoreCorrupt => "STORE_CORRUPT",
            Self::StoreUnavailable => "STORE_UNAVAILABLE",
            Self::InternalError => "INTERNAL_ERROR",
        }
    }

    /// The reason of that name on the wire.
    #[must_use]
    pub fn from_wire(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == name)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
