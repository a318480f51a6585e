//! What a command ends with when it fails: a sentence for people and an exit code for programs.

use rustix::process::Signal;

use crate::{
    broker,
    cli::args::HostOnly,
    client,
    config::ConfigError,
    daemon::StartError,
    reason::Reason,
    server::socket::{Failure as SocketFailure, SocketError},
    store::StoreError,
};

pub(super) const USAGE: u8 = 64;
const BAD_DATA: u8 = 65;
const NOT_FOUND: u8 = 66;
pub(super) const UNAVAILABLE: u8 = 69;
pub(super) const INTERNAL: u8 = 70;
pub(super) const TRY_AGAIN: u8 = 75;
const NOT_PERMITTED: u8 = 77;
pub(super) const CONFIGURATION: u8 = 78;

/// The reason of a login that the user gave up; no reason of the protocol.
const CANCELLED: &str = "CANCELLED";

/// The exit code of a command that failed for this reason, after BSD's sysexits.
#[must_use]
pub fn exit_code(reason: Reason) -> u8 {
    match reason {
        Reason::InvalidRequest | Reason::MessageTooLarge | Reason::StoreCorrupt => BAD_DATA,
        Reason::NotFound | Reason::SessionNotFound => NOT_FOUND,
        Reason::StoreUnavailable | Reason::Unimplemented | Reason::UnknownVersion => UNAVAILABLE,
        Reason::InternalError => INTERNAL,
        Reason::RateLimited
        | Reason::TooManyStreams
        | Reason::TooManySessions
        | Reason::ProviderUnavailable
        | Reason::LockTimeout
        | Reason::ShuttingDown
        | Reason::DeadlineExceeded
        | Reason::StoreLocked => TRY_AGAIN,
        Reason::Unauthenticated
        | Reason::Unauthorized
        | Reason::PeerNotAllowed
        | Reason::NeedsLogin
        | Reason::AccessDenied
        | Reason::ExchangeFailed
        | Reason::SessionExpired
        | Reason::SessionAlreadyUsed => NOT_PERMITTED,
        Reason::ProviderNotFound | Reason::ProviderRejected => CONFIGURATION,
    }
}

/// A command's failure.
#[derive(Debug)]
pub(super) struct Failure {
    code: u8,
    message: String,
    /// What programs are told, if there is a name for it.
    reason: Option<&'static str>,
}

impl Failure {
    fn new(code: u8, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            reason: None,
        }
    }

    fn of(reason: Reason, message: impl Into<String>) -> Self {
        Self::new(exit_code(reason), message).because(reason.as_str())
    }

    fn because(self, reason: &'static str) -> Self {
        Self {
            reason: Some(reason),
            ..self
        }
    }

    pub(super) fn exit_code(&self) -> u8 {
        self.code
    }

    pub(super) fn message(&self) -> &str {
        &self.message
    }

    /// The machine-readable name of what went wrong.
    pub(super) fn reason(&self) -> Option<&'static str> {
        self.reason
    }

    /// A login that was ended by a signal, with the code that shells give to that.
    pub(super) fn cancelled(signal: Signal) -> Self {
        let code = u8::try_from(signal.as_raw()).map_or(u8::MAX, |signal| 128 | signal);
        Self::new(code, client::Error::LoginCancelled.to_string()).because(CANCELLED)
    }

    /// The same failure under another code, for `run`, whose codes are those of a wrapper.
    pub(super) fn with_code(self, code: u8) -> Self {
        Self { code, ..self }
    }

    pub(super) fn usage(message: impl Into<String>) -> Self {
        Self::new(USAGE, message)
    }

    pub(super) fn bad_data(message: impl Into<String>) -> Self {
        Self::new(BAD_DATA, message)
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new(NOT_FOUND, message)
    }

    /// With another message if what was asked for is not there.
    pub(super) fn if_not_found(self, message: &str) -> Self {
        if self.code == NOT_FOUND {
            Self {
                message: message.to_owned(),
                ..self
            }
        } else {
            self
        }
    }

    pub(super) fn configuration(message: impl Into<String>) -> Self {
        Self::new(CONFIGURATION, message)
    }

    pub(super) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(UNAVAILABLE, message)
    }

    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self::new(INTERNAL, message)
    }

    /// What was to be kept would be gone with this command.
    pub(super) fn kept_nowhere() -> Self {
        Self::new(
            CONFIGURATION,
            "store.backend is \"memory\", which ends with this command, so nothing would be kept: set it to \"file\"",
        )
    }

    pub(super) fn host_only(what: HostOnly) -> Self {
        Self::new(
            NOT_PERMITTED,
            match what {
                HostOnly::Command(name) => {
                    format!("`{name}` is not available in sandbox mode. Run it on the host.")
                }
                HostOnly::ApiKeyManagement => {
                    "API key management is not available in sandbox mode. Manage keys on the host.".to_owned()
                }
            },
        )
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::new(CONFIGURATION, error.to_string())
    }
}

/// On the host, the store's own account is what helps: it names paths and causes.
impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let message = error.to_string();
        Self::of(broker::Error::Store(error).reason(), message)
    }
}

impl From<broker::Error> for Failure {
    fn from(error: broker::Error) -> Self {
        match error {
            broker::Error::Store(error) => error.into(),
            error => Self::of(error.reason(), error.to_string()),
        }
    }
}

impl From<client::Error> for Failure {
    fn from(error: client::Error) -> Self {
        let message = error.to_string();
        if let Some(reason) = error.reason() {
            return Self::of(reason, message);
        }
        let code = match &error {
            client::Error::CannotConnect(_) | client::Error::ConnectionLost => UNAVAILABLE,
            client::Error::InvalidCapability | client::Error::ApiKeyManagement => NOT_PERMITTED,
            client::Error::LoginCancelled => return Self::new(NOT_PERMITTED, message).because(CANCELLED),
            _ => INTERNAL,
        };
        Self::new(code, message)
    }
}

fn exit_code_of_a_socket(failure: SocketFailure) -> u8 {
    match failure {
        SocketFailure::Usage => USAGE,
        SocketFailure::Config => CONFIGURATION,
        SocketFailure::InUse => UNAVAILABLE,
        SocketFailure::System => INTERNAL,
        SocketFailure::Busy => TRY_AGAIN,
    }
}

impl From<SocketError> for Failure {
    fn from(error: SocketError) -> Self {
        Self::new(exit_code_of_a_socket(error.failure()), error.to_string())
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Socket(error) => error.into(),
            StartError::Metrics(error) => Self::new(exit_code_of_a_socket(error.failure()), error.to_string()),
            StartError::Config(error) => error.into(),
            StartError::Store(error) => error.into(),
            StartError::System { .. } => Self::internal(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_exit_code() {
        // The numbers are a promise to scripts, so they stand here a second time.
        let table = [
            (65, "INVALID_REQUEST MESSAGE_TOO_LARGE STORE_CORRUPT"),
            (66, "NOT_FOUND SESSION_NOT_FOUND"),
            (69, "STORE_UNAVAILABLE UNIMPLEMENTED UNKNOWN_VERSION"),
            (70, "INTERNAL_ERROR"),
            (
                75,
                "RATE_LIMITED TOO_MANY_STREAMS TOO_MANY_SESSIONS PROVIDER_UNAVAILABLE LOCK_TIMEOUT SHUTTING_DOWN DEADLINE_EXCEEDED STORE_LOCKED",
            ),
            (
                77,
                "UNAUTHENTICATED UNAUTHORIZED PEER_NOT_ALLOWED NEEDS_LOGIN ACCESS_DENIED EXCHANGE_FAILED SESSION_EXPIRED SESSION_ALREADY_USED",
            ),
            (78, "PROVIDER_NOT_FOUND PROVIDER_REJECTED"),
        ];
        let mut seen = 0;
        for (code, reasons) in table {
            for reason in reasons.split(' ') {
                assert_eq!(exit_code(Reason::from_wire(reason).unwrap()), code, "{reason}");
                seen += 1;
            }
        }
        assert_eq!(seen, Reason::ALL.len());
    }
}
