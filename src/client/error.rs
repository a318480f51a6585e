//! Why a call did not succeed: the inverse of the service's table of reasons.

use std::{collections::BTreeMap, error::Error as StdError, fmt, time::Duration};

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::connect::ConnectError;
use crate::reason::Reason;

/// The domain that the reasons of this protocol belong to.
const DOMAIN: &str = "credbroker.dev";

/// Writes [`Error`] with one variant for each reason of the protocol. A new reason is one line in the list below; the
/// compiler says so until it is there.
macro_rules! errors {
    ($($(#[$doc:meta])* $reason:ident,)*) => {
        /// Why a call did not succeed. Every reason of the protocol has a variant of its own: match on it, or on
        /// [`Error::reason`], never on the message.
        #[derive(Debug)]
        #[non_exhaustive]
        pub enum Error {
            /// Nobody listens at the socket, it is not there, or somebody listens who must not.
            CannotConnect(ConnectError),
            /// The connection broke. It is never made anew: the broker of this session is gone.
            ConnectionLost,
            /// The capability in the environment cannot be sent.
            InvalidCapability,
            /// API keys are set and deleted on the host only.
            ApiKeyManagement,
            /// The user gave the login up.
            LoginCancelled,
            /// The broker in this process could not be put together: the configuration, or the store's place.
            Host(Box<dyn StdError + Send + Sync>),
            $($(#[$doc])* $reason(Refusal),)*
            /// The broker refused for a reason that this client does not know, or what answered is no broker.
            Other {
                /// The gRPC code.
                code: Code,
                /// The reason's name; empty if there was none.
                reason: String,
                /// The rest of the answer.
                refusal: Refusal,
            },
        }

        impl Error {
            /// The failure that stands for a reason.
            pub(super) fn refused(reason: Reason, refusal: Refusal) -> Self {
                match reason {
                    $(Reason::$reason => Self::$reason(refusal),)*
                }
            }

            /// The same once more, for another one who waits.
            pub(super) fn again(&self) -> Self {
                match self {
                    $(Self::$reason(refusal) => Self::$reason(refusal.clone()),)*
                    Self::CannotConnect(cause) => Self::CannotConnect(cause.again()),
                    Self::ConnectionLost => Self::ConnectionLost,
                    Self::InvalidCapability => Self::InvalidCapability,
                    Self::ApiKeyManagement => Self::ApiKeyManagement,
                    Self::LoginCancelled => Self::LoginCancelled,
                    Self::Host(cause) => Self::Host(cause.to_string().into()),
                    Self::Other { code, reason, refusal } => Self::Other {
                        code: *code,
                        reason: reason.clone(),
                        refusal: refusal.clone(),
                    },
                }
            }

            /// The machine-readable reason, if there is one that this client knows.
            #[must_use]
            pub fn reason(&self) -> Option<Reason> {
                match self {
                    $(Self::$reason(_) => Some(Reason::$reason),)*
                    _ => None,
                }
            }

            /// What the broker said with its refusal. `None`: the failure is not an answer.
            #[must_use]
            pub fn refusal(&self) -> Option<&Refusal> {
                match self {
                    $(Self::$reason(refusal))|* | Self::Other { refusal, .. } => Some(refusal),
                    _ => None,
                }
            }
        }
    };
}

errors! {
    /// No such entry or API key. Where absence is an answer, such as in `get_token`, it is no error.
    NotFound,
    /// A missing or malformed field; `field` in [`Refusal::metadata`] names it.
    InvalidRequest,
    /// The message or header block is over the limit.
    MessageTooLarge,
    /// The broker does not have the method: it is older than this client.
    Unimplemented,
    /// More requests than the socket's rate allows; [`Refusal::retry_after`] says how long to wait.
    RateLimited,
    /// More streaming calls at once than a connection may have.
    TooManyStreams,
    /// More logins open at once than a sandbox may have.
    TooManySessions,
    /// The capability is missing or wrong.
    Unauthenticated,
    /// Outside the sandbox's policy.
    Unauthorized,
    /// This process's user may not use the socket.
    PeerNotAllowed,
    /// No common protocol version.
    UnknownVersion,
    /// The refresh token is absent, revoked or refused.
    NeedsLogin,
    /// A refresh needs a provider that the host has not configured.
    ProviderNotFound,
    /// The provider refused the host's client or request; the refresh token is kept.
    ProviderRejected,
    /// The provider failed, or has not answered yet; [`Refusal::retry_after`] says how long to wait.
    ProviderUnavailable,
    /// The entry is busy in another process of the host.
    LockTimeout,
    /// The broker is stopping, or this process's client was shut down.
    ShuttingDown,
    /// The call was not answered in time. The connection is still good.
    DeadlineExceeded,
    /// The broker knows no such login session of this sandbox.
    SessionNotFound,
    /// The login was not completed in time.
    SessionExpired,
    /// The login has ended already.
    SessionAlreadyUsed,
    /// The code was refused, or the account is not the one whose entry this is.
    ExchangeFailed,
    /// The user said no.
    AccessDenied,
    /// The host's store is locked.
    StoreLocked,
    /// The stored record is undecryptable or malformed.
    StoreCorrupt,
    /// The host's store failed with an I/O error.
    StoreUnavailable,
    /// The broker failed otherwise; the cause is in its log.
    InternalError,
}

/// What came with a refusal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    /// What to do, for people.
    pub message: String,
    /// The names that the failure is about, such as `provider` and `bucket`.
    pub metadata: BTreeMap<String, String>,
    /// How long to wait before the call can succeed, if the broker knows.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// A refusal with this message and nothing else.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            ..Self::default()
        }
    }
}

impl Error {
    /// An answer that breaks the protocol.
    pub(super) fn malformed() -> Self {
        Self::Other {
            code: Code::Internal,
            reason: String::new(),
            refusal: Refusal::new("an answer breaks the protocol"),
        }
    }

    /// No answer came in time.
    pub(super) fn not_answered_within(limit: Duration) -> Self {
        Self::DeadlineExceeded(Refusal::new(format!(
            "the broker did not answer within {} s: try again",
            limit.as_secs_f64()
        )))
    }

    /// A value that cannot be sent, refused with the broker's own words for it.
    pub(super) fn invalid(field: &str, problem: impl fmt::Display) -> Self {
        Self::InvalidRequest(Refusal {
            message: format!("{field}: {problem}"),
            metadata: BTreeMap::from([("field".to_owned(), field.to_owned())]),
            retry_after: None,
        })
    }

    /// How long to wait before the call can succeed, if the broker knows.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.refusal()?.retry_after
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CannotConnect(_) => {
                f.write_str("Cannot connect to the credential broker. Ensure the sandbox was started correctly.")
            }
            Self::ConnectionLost => f.write_str("Credential broker connection lost. Restart the session."),
            Self::UnknownVersion(_) => f.write_str("Credential broker version mismatch. Restart the session."),
            Self::ApiKeyManagement => {
                f.write_str("API key management is not available in sandbox mode. Manage keys on the host.")
            }
            Self::InvalidCapability => {
                f.write_str("CREDBROKER_CAPABILITY holds characters that no capability has: pass it on as it was set")
            }
            Self::LoginCancelled => f.write_str("the login was cancelled; begin it anew if it is needed"),
            Self::Host(cause) => write!(f, "cannot use this host's credentials: {cause}"),
            Self::Other { code, reason, refusal } if reason.is_empty() => write!(
                f,
                "{} ({code:?}): this is no answer of a credbroker; check what listens at CREDBROKER_SOCKET",
                refusal.message
            ),
            Self::Other { reason, refusal, .. } => write!(f, "{} ({reason})", refusal.message),
            told => f.write_str(told.refusal().map_or("", |refusal| &refusal.message)),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::CannotConnect(cause) => Some(cause),
            Self::Host(cause) => Some(&**cause),
            _ => None,
        }
    }
}

/// The inverse of what the broker's service does to its errors.
impl From<Status> for Error {
    fn from(status: Status) -> Self {
        let mut refusal = Refusal::new(status.message());
        let Some(info) = status.get_details_error_info().filter(|info| info.domain == DOMAIN) else {
            // A broker gives a reason with every refusal. So this is the transport that broke, which has a cause, or
            // something else sits at the socket.
            if StdError::source(&status).is_some() {
                return Self::ConnectionLost;
            }
            return Self::Other {
                code: status.code(),
                reason: String::new(),
                refusal,
            };
        };
        refusal.metadata = info.metadata.into_iter().collect();
        refusal.retry_after = status.get_details_retry_info().and_then(|info| info.retry_delay);
        match Reason::from_wire(&info.reason) {
            Some(reason) => Self::refused(reason, refusal),
            None => Self::Other {
                code: status.code(),
                reason: info.reason,
                refusal,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;
    use crate::{broker, credential::EntryKey, service::status};

    fn details(reason: &str) -> ErrorDetails {
        ErrorDetails::with_error_info(reason, DOMAIN, [("provider".to_owned(), "github".to_owned())])
    }

    #[test]
    fn every_reason_goes_round() {
        for reason in Reason::ALL {
            let mut details = details(reason.as_str());
            details.set_retry_info(Some(Duration::from_millis(1500)));
            let sent = Status::with_error_details(status::code(reason), "do this", details);
            let received = Error::from(sent);
            assert_eq!(received.reason(), Some(reason));
            assert_eq!(received.retry_after(), Some(Duration::from_millis(1500)));
            let refusal = received.refusal().unwrap();
            assert_eq!(refusal.message, "do this");
            assert_eq!(refusal.metadata["provider"], "github");
            if reason != Reason::UnknownVersion {
                assert_eq!(received.to_string(), "do this");
            }
            assert_eq!(Error::refused(reason, Refusal::default()).reason(), Some(reason));
        }
    }

    #[test]
    fn the_services_own_answers_are_understood() {
        let key = EntryKey::parse("p", "b").unwrap();
        for error in [
            broker::Error::NoEntry(key.clone()),
            broker::Error::Unauthorized {
                right: broker::policy::Right::Read,
                key: key.clone(),
            },
            broker::Error::NeedsLogin(key),
            broker::Error::ShuttingDown,
            broker::Error::Internal("cause".into()),
        ] {
            let received = Error::from(status::from_error(&error));
            assert_eq!(received.reason(), Some(error.reason()));
            assert_eq!(received.to_string(), error.to_string());
        }
    }

    #[test]
    fn the_sentences_of_a_session() {
        let unreachable = Error::CannotConnect(ConnectError::NotASocket { path: "/x".into() });
        let table = [
            (
                unreachable,
                "Cannot connect to the credential broker. Ensure the sandbox was started correctly.",
            ),
            (
                Error::ConnectionLost,
                "Credential broker connection lost. Restart the session.",
            ),
            (
                Error::UnknownVersion(Refusal::new("other words")),
                "Credential broker version mismatch. Restart the session.",
            ),
            (
                Error::ApiKeyManagement,
                "API key management is not available in sandbox mode. Manage keys on the host.",
            ),
        ];
        for (error, sentence) in table {
            assert_eq!(error.to_string(), sentence);
        }
    }

    #[test]
    fn an_unknown_reason_keeps_code_reason_and_message() {
        let sent = Status::with_error_details(Code::Aborted, "try tea", details("FROM_THE_FUTURE"));
        match Error::from(sent) {
            Error::Other { code, reason, refusal } => {
                assert_eq!((code, reason.as_str()), (Code::Aborted, "FROM_THE_FUTURE"));
                assert_eq!(refusal.message, "try tea");
                assert_eq!(refusal.metadata["provider"], "github");
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_reason_of_another_domain_is_none_of_ours() {
        let details = ErrorDetails::with_error_info("NOT_FOUND", "example.com", [("a".to_owned(), "b".to_owned())]);
        let error = Error::from(Status::with_error_details(Code::NotFound, "no", details));
        assert_eq!(error.reason(), None);
        assert!(error.to_string().contains("NotFound"), "{error}");
    }

    #[test]
    fn only_a_broken_transport_is_a_lost_connection() {
        let broken = Status::from_error(Box::new(std::io::Error::other("reset")));
        assert!(matches!(Error::from(broken), Error::ConnectionLost));
        let plain = Error::from(Status::unavailable("a proxy says no"));
        assert!(
            matches!(
                plain,
                Error::Other {
                    code: Code::Unavailable,
                    ..
                }
            ),
            "{plain:?}"
        );
    }
}
