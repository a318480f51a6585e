//! What can go wrong on the way to a broker and back: the inverse of the service's table of errors.

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::reason::Reason;

/// The domain that the reasons of this protocol belong to.
const DOMAIN: &str = "credbroker.dev";

/// Why a call did not succeed. Map by [`Error::reason`], never by the gRPC code or the message.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nobody listens at the socket, or the socket is not there.
    #[error("Cannot connect to the credential broker. Ensure the sandbox was started correctly.")]
    CannotConnect(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The connection broke. It is not made anew: the broker of this session is gone.
    #[error("Credential broker connection lost. Restart the session.")]
    ConnectionLost,
    /// No common protocol version.
    #[error("Credential broker version mismatch. Restart the session.")]
    VersionMismatch,
    /// The capability in the environment cannot be sent.
    #[error("CREDBROKER_CAPABILITY holds characters that no capability has: pass it on as it was set")]
    InvalidCapability,
    /// The broker refused, for a reason that this client knows.
    #[error("{message}")]
    Refused {
        /// The reason.
        reason: Reason,
        /// What to do, in the broker's words.
        message: String,
    },
    /// The broker refused, for a reason that this client does not know.
    #[error("{}", unknown(*code, reason, message))]
    Other {
        /// The gRPC code.
        code: Code,
        /// The reason's name, empty if there was none.
        reason: String,
        /// The message.
        message: String,
    },
}

impl Error {
    pub(super) fn cannot_connect(cause: tonic::transport::Error) -> Self {
        Self::CannotConnect(cause.into())
    }

    /// An answer that breaks the protocol.
    pub(super) fn malformed() -> Self {
        Self::Other {
            code: Code::Internal,
            reason: String::new(),
            message: "an answer breaks the protocol".into(),
        }
    }

    /// The machine-readable reason, if the broker gave one that this client knows.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Refused { reason, .. } => Some(*reason),
            Self::VersionMismatch => Some(Reason::UnknownVersion),
            Self::CannotConnect(_) | Self::ConnectionLost | Self::InvalidCapability | Self::Other { .. } => None,
        }
    }

    /// Whether the broker answered that there is no such entry or API key.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.reason() == Some(Reason::NotFound)
    }
}

fn unknown(code: Code, reason: &str, message: &str) -> String {
    if reason.is_empty() {
        format!("{message} ({code:?}): this is no answer of a credbroker; check what listens at CREDBROKER_SOCKET")
    } else {
        format!("{message} ({reason})")
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        let info = status.get_details_error_info().filter(|info| info.domain == DOMAIN);
        let Some(info) = info else {
            // Without our reason the broker did not answer: the transport gave up, or something else sits at the socket.
            return if std::error::Error::source(&status).is_some() || status.code() == Code::Unavailable {
                Self::ConnectionLost
            } else {
                Self::Other {
                    code: status.code(),
                    reason: String::new(),
                    message: status.message().to_owned(),
                }
            };
        };
        match Reason::from_wire(&info.reason) {
            Some(Reason::UnknownVersion) => Self::VersionMismatch,
            Some(reason) => Self::Refused {
                reason,
                message: status.message().to_owned(),
            },
            None => Self::Other {
                code: status.code(),
                reason: info.reason,
                message: status.message().to_owned(),
            },
        }
    }
}
