//! Why a call fails, as the core sees it. Each variant has one [`Reason`], and each message says what to do next.

mod failed_login;

use std::{borrow::Cow, error::Error as StdError, fmt, time::Duration};

pub use self::failed_login::LoginFailure;
use crate::{
    broker::{
        coordinator::{LoginCause, RefreshError},
        policy::Right,
    },
    credential::{DEFAULT_BUCKET, EntryKey, InvalidName, Name},
    reason::Reason,
    store::StoreError,
};

/// A call's failure. `Display` is what the caller reads: it is built from checked names and fixed words only, never
/// from a store's or a provider's text, which goes to the log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No such entry.
    #[error("there is no entry {key}: {}, or store one with `credbroker token import`", LogIn(.0), key = .0)]
    NoEntry(EntryKey),
    /// No such API key.
    #[error("there is no API key {0}: store one on the host with `credbroker key set {0}`")]
    NoKey(Name),
    /// A missing or malformed field.
    #[error("{field}: {problem}")]
    InvalidRequest {
        /// The field's name in the request message.
        field: &'static str,
        /// What is wrong with it and what would be right.
        problem: String,
    },
    /// Over a limit of size.
    #[error("{what} is larger than {limit} bytes: send less")]
    MessageTooLarge {
        /// What is too large.
        what: &'static str,
        /// The limit in bytes.
        limit: usize,
    },
    /// What would be answered is over a limit of size.
    #[error("the answer is larger than {limit} bytes: store something shorter on the host")]
    AnswerTooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// No such method on this socket, or a compression that is not spoken.
    #[error("{0}")]
    Unimplemented(String),
    /// Too many calls in too short a time.
    #[error("too many calls on {whose}: try again in {} ms, and less often", .retry_after.as_millis().max(1))]
    RateLimited {
        /// Whose rate it is.
        whose: &'static str,
        /// When the next call will pass.
        retry_after: Duration,
    },
    /// More streaming calls on one connection than there may be.
    #[error("this connection has {limit} streaming calls open, and may have no more: end one, or connect once more")]
    TooManyStreams {
        /// How many there may be.
        limit: usize,
    },
    /// More followed at once than a sandbox may.
    #[error("this sandbox follows {limit} entries and API keys, and may follow no more: end one of its streams")]
    TooManyWatches {
        /// How many there may be.
        limit: usize,
    },
    /// More secrets followed on one socket than there may be.
    #[error(
        "so many secrets are followed on this socket that a stream may follow no more than {limit}: ask for less, or later"
    )]
    TooManyNames {
        /// How many a stream may always follow.
        limit: usize,
    },
    /// The capability is missing or wrong. Which of the two is said, nothing else.
    #[error("the capability is {0}: send the metadata `authorization: Bearer $CREDBROKER_CAPABILITY` with every call")]
    Unauthenticated(&'static str),
    /// The entry is outside the policy. Whether it exists makes no difference, not even in time.
    #[error(
        "the policy of this sandbox does not allow to {} {key}: the host allows it with `--{} {key}` (in a policy file, `{}`)",
        .right.verb(), .right.flag(), .right.flag().replace('-', "_")
    )]
    Unauthorized {
        /// The right that was needed.
        right: Right,
        /// The entry.
        key: EntryKey,
    },
    /// The API key is outside the policy.
    #[error(
        "the policy of this sandbox does not allow the API key {0}: the host allows it with `--allow-key {0}` (in a policy file, `allow_key`)"
    )]
    UnauthorizedKey(Name),
    /// The peer's uid may not use this socket.
    #[error(
        "uid {uid} may not use this socket: the host allows it with `--allow-uid {uid}` of `serve`, or with a --user, --uidmap or --userns of `run --sandbox` that stands for it"
    )]
    PeerNotAllowed {
        /// The uid that the kernel reported when the connection was accepted.
        uid: u32,
    },
    /// The peer is no process of the sandbox that the socket is for.
    #[error(
        "this socket serves only processes of the sandbox that it was made for (`run --attest pidns`): connect from inside, with a process that was started there"
    )]
    PeerOutside,
    /// The system did not say who connected.
    #[error("the system did not tell who connected, so nobody is served: connect over a Unix socket of this host")]
    PeerUnknown,
    /// No common protocol version.
    #[error("this broker speaks protocol version {ours} only: restart the session with a client that does, too")]
    UnknownVersion {
        /// The version this broker speaks.
        ours: u32,
    },
    /// There is no refresh token to renew the access token with.
    #[error(
        "the access token of {key} cannot be renewed, because there is no refresh token: {}, or store a new token set with `credbroker token import`",
        LogIn(.0), key = .0
    )]
    NeedsLogin(EntryKey),
    /// The token has expired, there is a refresh token, but no provider to present it to.
    #[error("no provider \"{}\" is configured to log in to {key} or to renew its access token: add [providers.{}] to the host's config.toml, or store a new token with `credbroker token import`", .0.provider, .0.provider, key = .0)]
    ProviderNotFound(EntryKey),
    /// The provider refused the refresh token.
    #[error("the provider refused the refresh token of {key}: {}", LogIn(.0), key = .0)]
    RefreshRefused(EntryKey),
    /// The provider refused the refresh token, or may not be asked with it again, after an answer of it was lost.
    #[error(
        "an answer of the provider to a refresh of {key} was lost, and with it the refresh token that was valid: {}",
        LogIn(.0), key = .0
    )]
    AnswerLost(EntryKey),
    /// The provider refused the client or the request.
    #[error("the provider of {key} rejected the request for a new token: check client_id, client secret and scopes in [providers.{}] of the host's config.toml; the broker's log says what it answered", .key.provider)]
    ProviderRejected {
        /// The entry.
        key: EntryKey,
        /// When it may be tried again.
        retry_after: Duration,
    },
    /// The provider could not be asked, or gave no usable answer.
    #[error("the provider of {key} gave no new token: try again in {} s; the broker's log on the host says why", .retry_after.as_secs().max(1))]
    ProviderUnavailable {
        /// The entry.
        key: EntryKey,
        /// When it may be tried again.
        retry_after: Duration,
    },
    /// The entry was refreshed a moment ago.
    #[error("{key} was refreshed a moment ago: try again in {} ms", .retry_after.as_millis().max(1))]
    RefreshedRecently {
        /// The entry.
        key: EntryKey,
        /// When it may be refreshed again.
        retry_after: Duration,
    },
    /// A refresh failed a moment ago, and is not tried again so soon.
    #[error("{failure}")]
    FailedRecently {
        /// How it failed.
        failure: Box<Self>,
        /// When it may be tried again.
        retry_after: Duration,
    },
    /// More logins open at once than a sandbox may have.
    #[error("this sandbox has {limit} logins open, and may have no more: end or cancel one")]
    TooManySessions {
        /// How many there may be.
        limit: usize,
    },
    /// No such login of this sandbox.
    #[error("there is no such login of this sandbox: begin one with InitiateLogin")]
    SessionNotFound,
    /// The login was not completed in time.
    #[error("the login was not completed in time: begin it anew")]
    SessionExpired,
    /// The login has ended.
    #[error("the login has ended, and what came of it was told before or is not wanted: begin it anew if it is needed")]
    SessionAlreadyUsed,
    /// The provider's configuration lacks what this way to log in needs.
    #[error("[providers.{}] of the host's config.toml cannot log in this way: {lack}", .key.provider)]
    LoginUnconfigured {
        /// The entry.
        key: EntryKey,
        /// Which key, and what it should say.
        lack: String,
    },
    /// A login failed.
    #[error("the login to {key} failed: {why}")]
    LoginFailed {
        /// The entry.
        key: EntryKey,
        /// Why.
        why: LoginFailure,
    },
    /// The broker is stopping.
    #[error("the broker is stopping: restart the session")]
    ShuttingDown,
    /// The call's own or the server's deadline passed.
    #[error("the call did not end within its deadline of {seconds} s: try again, with more time")]
    DeadlineExceeded {
        /// The deadline that passed, in seconds.
        seconds: f64,
    },
    /// The request did not arrive in time.
    #[error("the request did not arrive whole within {seconds} s: send it in one go")]
    RequestTooSlow {
        /// How long it may take, in seconds.
        seconds: u64,
    },
    /// The store failed.
    #[error("{}", store_message(.0))]
    Store(#[from] StoreError),
    /// The record of the call cannot be kept, and the host wants nothing to happen without one.
    #[error(
        "the host's audit cannot be written, and nothing is handed out without it (`on_full` in [audit]): try again; the host makes room, or mends the permissions of the audit directory"
    )]
    AuditUnavailable,
    /// Anything else. The cause is for the log.
    #[error("the broker failed: its log on the host says why")]
    Internal(#[source] Box<dyn StdError + Send + Sync>),
}

impl Error {
    /// The malformed name of a field.
    #[must_use]
    pub fn invalid_name(field: &'static str, name: &InvalidName) -> Self {
        Self::InvalidRequest {
            field,
            problem: name.to_string(),
        }
    }

    /// What a caller is told of a refresh that failed. In the cooldown after a failure that is the failure again, with what
    /// is left of the wait.
    pub(super) fn of_refresh(key: &EntryKey, error: RefreshError) -> Self {
        let key = key.clone();
        match error {
            RefreshError::NoEntry => Self::NoEntry(key),
            RefreshError::NeedsLogin(LoginCause::NoRefreshToken) => Self::NeedsLogin(key),
            RefreshError::NeedsLogin(LoginCause::Refused) => Self::RefreshRefused(key),
            RefreshError::NeedsLogin(LoginCause::LostAnswer) => Self::AnswerLost(key),
            RefreshError::ProviderNotFound => Self::ProviderNotFound(key),
            RefreshError::Rejected { retry_after } => Self::ProviderRejected { key, retry_after },
            RefreshError::Unavailable { retry_after } | RefreshError::Released { retry_after } => {
                Self::ProviderUnavailable { key, retry_after }
            }
            RefreshError::Cooldown {
                retry_after,
                failure: None,
            } => Self::RefreshedRecently { key, retry_after },
            RefreshError::Cooldown {
                retry_after,
                failure: Some(failure),
            } => match Self::of_refresh(&key, failure.due_in(retry_after)) {
                failure if failure.retry_after().is_some() => failure,
                failure => Self::FailedRecently {
                    failure: Box::new(failure),
                    retry_after,
                },
            },
            RefreshError::ShuttingDown => Self::ShuttingDown,
            RefreshError::Store(error) => Self::Store(error),
            RefreshError::Internal => Self::Internal("the task of a refresh died".into()),
        }
    }

    /// The machine-readable reason.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::NoEntry(_) | Self::NoKey(_) => Reason::NotFound,
            Self::InvalidRequest { .. } => Reason::InvalidRequest,
            Self::MessageTooLarge { .. } | Self::AnswerTooLarge { .. } => Reason::MessageTooLarge,
            Self::Unimplemented(_) => Reason::Unimplemented,
            Self::RateLimited { .. } | Self::RefreshedRecently { .. } => Reason::RateLimited,
            Self::TooManyStreams { .. } | Self::TooManyWatches { .. } | Self::TooManyNames { .. } => {
                Reason::TooManyStreams
            }
            Self::Unauthenticated(_) => Reason::Unauthenticated,
            Self::Unauthorized { .. } | Self::UnauthorizedKey(_) => Reason::Unauthorized,
            Self::PeerNotAllowed { .. } | Self::PeerOutside | Self::PeerUnknown => Reason::PeerNotAllowed,
            Self::UnknownVersion { .. } => Reason::UnknownVersion,
            Self::NeedsLogin(_) | Self::RefreshRefused(_) | Self::AnswerLost(_) => Reason::NeedsLogin,
            Self::ProviderRejected { .. } => Reason::ProviderRejected,
            Self::ProviderUnavailable { .. } => Reason::ProviderUnavailable,
            Self::ProviderNotFound(_) => Reason::ProviderNotFound,
            Self::FailedRecently { failure, .. } => failure.reason(),
            Self::TooManySessions { .. } => Reason::TooManySessions,
            Self::SessionNotFound => Reason::SessionNotFound,
            Self::SessionExpired => Reason::SessionExpired,
            Self::SessionAlreadyUsed => Reason::SessionAlreadyUsed,
            Self::LoginUnconfigured { .. } => Reason::ProviderNotFound,
            Self::LoginFailed { why, .. } => why.reason(),
            Self::ShuttingDown => Reason::ShuttingDown,
            Self::DeadlineExceeded { .. } | Self::RequestTooSlow { .. } => Reason::DeadlineExceeded,
            Self::Store(StoreError::Locked { .. }) => Reason::StoreLocked,
            Self::Store(StoreError::Corrupt { .. }) => Reason::StoreCorrupt,
            Self::Store(StoreError::NewerFormat { .. } | StoreError::Unavailable { .. }) => Reason::StoreUnavailable,
            Self::Store(StoreError::Busy { .. }) => Reason::LockTimeout,
            Self::AuditUnavailable => Reason::StoreUnavailable,
            Self::Internal(_) => Reason::InternalError,
        }
    }

    /// When the same call may succeed, where that is known.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after, .. }
            | Self::ProviderRejected { retry_after, .. }
            | Self::ProviderUnavailable { retry_after, .. }
            | Self::RefreshedRecently { retry_after, .. }
            | Self::FailedRecently { retry_after, .. } => Some(*retry_after),
            Self::LoginFailed { why, .. } => why.retry_after(),
            _ => None,
        }
    }

    /// The checked names that the failure is about, for the metadata of `ErrorInfo`.
    #[must_use]
    pub fn metadata(&self) -> Vec<(&'static str, String)> {
        let entry = |key: &EntryKey| {
            vec![
                ("provider", key.provider.to_string()),
                ("bucket", key.bucket.to_string()),
            ]
        };
        match self {
            Self::NoEntry(key)
            | Self::Unauthorized { key, .. }
            | Self::NeedsLogin(key)
            | Self::RefreshRefused(key)
            | Self::AnswerLost(key)
            | Self::ProviderNotFound(key)
            | Self::ProviderRejected { key, .. }
            | Self::ProviderUnavailable { key, .. }
            | Self::RefreshedRecently { key, .. }
            | Self::LoginUnconfigured { key, .. }
            | Self::LoginFailed { key, .. } => entry(key),
            Self::NoKey(name) | Self::UnauthorizedKey(name) => vec![("name", name.to_string())],
            Self::InvalidRequest { field, .. } => vec![("field", (*field).to_owned())],
            Self::MessageTooLarge { limit, .. } | Self::AnswerTooLarge { limit } => vec![("limit", limit.to_string())],
            Self::TooManyStreams { limit }
            | Self::TooManyWatches { limit }
            | Self::TooManyNames { limit }
            | Self::TooManySessions { limit } => {
                vec![("limit", limit.to_string())]
            }
            Self::PeerNotAllowed { uid } => vec![("uid", uid.to_string())],
            Self::UnknownVersion { ours } => vec![("version", ours.to_string())],
            Self::FailedRecently { failure, .. } => failure.metadata(),
            Self::Unimplemented(_)
            | Self::Unauthenticated(_)
            | Self::PeerOutside
            | Self::PeerUnknown
            | Self::SessionNotFound
            | Self::SessionExpired
            | Self::SessionAlreadyUsed
            | Self::ShuttingDown
            | Self::DeadlineExceeded { .. }
            | Self::RequestTooSlow { .. }
            | Self::RateLimited { .. }
            | Self::Store(_)
            | Self::AuditUnavailable
            | Self::Internal(_) => Vec::new(),
        }
    }
}

/// The mend of an entry that needs a login: on the host, or in a sandbox that may.
struct LogIn<'a>(&'a EntryKey);

impl fmt::Display for LogIn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "log in on the host with {} (in a sandbox only with --allow-login)",
            LoginCommand(self.0)
        )
    }
}

/// How to log in to an entry.
pub(super) struct LoginCommand<'a>(pub(super) &'a EntryKey);

impl fmt::Display for LoginCommand<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let EntryKey { provider, bucket } = self.0;
        if bucket.as_str() == DEFAULT_BUCKET {
            write!(f, "`credbroker login {provider}`")
        } else {
            write!(f, "`credbroker login {provider} --bucket {bucket}`")
        }
    }
}

/// What a caller may read of a store's failure: which kind it was and whom to turn to. Paths and causes stay in the log.
fn store_message(error: &StoreError) -> Cow<'static, str> {
    let fixed = match error {
        StoreError::Busy {
            holder: Some(holder), ..
        } => return format!("the entry is busy in another process on the host ({holder}): try again").into(),
        StoreError::Locked { .. } => "the host's store is locked: the broker's log on the host says why",
        StoreError::Corrupt { .. } => {
            "the stored record is corrupt and was left as it is: store it anew on the host with `credbroker login`, `credbroker token import` or `credbroker key set`"
        }
        StoreError::NewerFormat { .. } => {
            "the stored record was written by a newer credbroker: upgrade credbroker on the host"
        }
        StoreError::Busy { .. } => "the entry is busy in another process on the host: try again",
        StoreError::Unavailable { .. } => "the host's store cannot be used now: the broker's log on the host says why",
    };
    fixed.into()
}
