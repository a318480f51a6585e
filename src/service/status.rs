//! From the domain's errors to `tonic::Status`: one exhaustive table, and the completion of what tonic answers by itself.

use std::collections::HashMap;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::{broker::Error, reason::Reason};

/// The `domain` of every `ErrorInfo`.
pub const DOMAIN: &str = "credbroker.dev";
/// The longest value in the metadata of an `ErrorInfo`, in bytes.
const MAX_METADATA: usize = 128;
/// The longest message, in bytes: details and message together stay below 4 KiB.
const MAX_MESSAGE: usize = 1024;

const ACCEPT_ENCODING: &str = "grpc-accept-encoding";

/// The gRPC code of a reason.
#[must_use]
pub fn code(reason: Reason) -> Code {
    match reason {
        Reason::NotFound | Reason::ProviderNotFound | Reason::SessionNotFound => Code::NotFound,
        Reason::InvalidRequest => Code::InvalidArgument,
        Reason::MessageTooLarge | Reason::RateLimited | Reason::TooManyStreams | Reason::TooManySessions => {
            Code::ResourceExhausted
        }
        Reason::Unimplemented => Code::Unimplemented,
        Reason::Unauthenticated => Code::Unauthenticated,
        Reason::Unauthorized | Reason::PeerNotAllowed => Code::PermissionDenied,
        Reason::UnknownVersion
        | Reason::NeedsLogin
        | Reason::ProviderRejected
        | Reason::SessionExpired
        | Reason::SessionAlreadyUsed
        | Reason::ExchangeFailed
        | Reason::AccessDenied
        | Reason::StoreLocked => Code::FailedPrecondition,
        Reason::ProviderUnavailable | Reason::LockTimeout | Reason::ShuttingDown | Reason::StoreUnavailable => {
            Code::Unavailable
        }
        Reason::DeadlineExceeded => Code::DeadlineExceeded,
        Reason::StoreCorrupt => Code::DataLoss,
        Reason::InternalError => Code::Internal,
    }
}

/// The status that a caller gets for an error. Causes go to the log here, and nowhere else.
#[must_use]
pub fn from_error(error: &Error) -> Status {
    match error {
        Error::Internal(cause) => tracing::error!(%cause, "a call failed"),
        Error::Store(cause) => tracing::warn!(%cause, "the store failed"),
        _ => {}
    }
    let mut details = info(error.reason(), error.metadata());
    if let Error::InvalidRequest { field, problem } = error {
        details.add_bad_request_violation(*field, bounded(problem, MAX_MESSAGE));
    }
    if let Some(delay) = error.retry_after() {
        details.set_retry_info(Some(delay));
    }
    status(error.reason(), &error.to_string(), details)
}

/// The status that stands for one that tonic, or a library behind it, made without details.
///
/// Every handler of this crate goes through [`from_error`], so a status without an `ErrorInfo` was made outside: by
/// tonic while it read the request, or by the health and reflection services. That is why `Internal` means a request
/// that could not be decoded.
#[must_use]
pub fn complete(incomplete: &Status, method: &str) -> Status {
    let error = match incomplete.code() {
        Code::OutOfRange | Code::ResourceExhausted => Error::MessageTooLarge {
            what: "the request message",
            limit: max_message_size(method),
        },
        Code::Unimplemented if incomplete.message().is_empty() => Error::Unimplemented(format!(
            "there is no method {} on this socket: reflection lists what there is (`grpcurl -plaintext -unix SOCKET list`)",
            escaped(method, MAX_METADATA)
        )),
        Code::Unimplemented => {
            Error::Unimplemented("the request is compressed in a way that is not spoken here: send it uncompressed".into())
        }
        Code::Internal | Code::InvalidArgument | Code::Unknown => Error::InvalidRequest {
            field: "message",
            problem: "the request is not one well-formed message of this method: generate the client from the broker's .proto files".into(),
        },
        Code::NotFound => {
            let details = info(Reason::NotFound, Vec::new());
            return status(
                Reason::NotFound,
                "there is no such service on this socket: reflection lists what there is (`grpcurl -plaintext -unix SOCKET list`)",
                details,
            );
        }
        other => Error::Internal(format!("tonic answered {other:?}: {}", incomplete.message()).into()),
    };
    let mut complete = from_error(&error);
    // What the client may use instead belongs to the answer (gRPC's compression rules).
    if let Some(accepted) = incomplete.metadata().get(ACCEPT_ENCODING) {
        complete.metadata_mut().insert(ACCEPT_ENCODING, accepted.clone());
    }
    complete
}

/// The longest message of `credbroker.v1`, request or unary answer, in bytes.
pub const MAX_MESSAGE_SIZE: usize = 64 * 1024;
/// The longest request of secret discovery, in bytes. An Envoy begins each stream with a list of all its extensions, which
/// alone is 60 KiB (1.40), and more with metadata; it is skipped, not kept.
pub const MAX_DISCOVERY_SIZE: usize = 128 * 1024;

fn max_message_size(method: &str) -> usize {
    if method.starts_with("/envoy.") {
        MAX_DISCOVERY_SIZE
    } else {
        MAX_MESSAGE_SIZE
    }
}

fn info(reason: Reason, metadata: Vec<(&'static str, String)>) -> ErrorDetails {
    let metadata: HashMap<String, String> = metadata
        .into_iter()
        .map(|(key, value)| (key.to_owned(), escaped(&value, MAX_METADATA)))
        .collect();
    ErrorDetails::with_error_info(reason.as_str(), DOMAIN, metadata)
}

fn status(reason: Reason, message: &str, details: ErrorDetails) -> Status {
    Status::with_error_details(code(reason), bounded(message, MAX_MESSAGE), details)
}

/// Control and non-ASCII characters escaped, then cut to so many bytes.
fn escaped(text: &str, max: usize) -> String {
    bounded(&text.escape_default().to_string(), max)
}

fn bounded(text: &str, max: usize) -> String {
    let mut end = max.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::broker::policy::Right;
    use crate::credential::{EntryKey, Name};

    fn longest_key() -> EntryKey {
        EntryKey::parse(&"p".repeat(64), &"b".repeat(64)).unwrap()
    }

    #[test]
    fn every_status_has_one_error_info_with_our_domain_and_stays_below_4_kib() {
        let name: Name = "n".repeat(64).parse().unwrap();
        let errors = [
            Error::NoEntry(longest_key()),
            Error::NoKey(name.clone()),
            Error::InvalidRequest {
                field: "f",
                problem: "x".repeat(9000),
            },
            Error::MessageTooLarge { what: "it", limit: 1 },
            Error::AnswerTooLarge { limit: 1 },
            Error::Unimplemented("x".repeat(9000)),
            Error::Unauthenticated("missing"),
            Error::Unauthorized {
                right: Right::Read,
                key: longest_key(),
            },
            Error::UnauthorizedKey(name),
            Error::PeerNotAllowed { uid: 7 },
            Error::PeerOutside,
            Error::PeerUnknown,
            Error::UnknownVersion { ours: 1 },
            Error::NeedsLogin(longest_key()),
            Error::ProviderNotFound(longest_key()),
            Error::RefreshRefused(longest_key()),
            Error::AnswerLost(longest_key()),
            Error::ProviderRejected {
                key: longest_key(),
                retry_after: Duration::from_secs(30),
            },
            Error::ProviderUnavailable {
                key: longest_key(),
                retry_after: Duration::from_secs(30),
            },
            Error::RefreshedRecently {
                key: longest_key(),
                retry_after: Duration::from_secs(30),
            },
            Error::FailedRecently {
                failure: Box::new(Error::Internal("SECRET CAUSE".into())),
                retry_after: Duration::from_secs(30),
            },
            Error::ShuttingDown,
            Error::DeadlineExceeded { seconds: 1.0 },
            Error::RequestTooSlow { seconds: 5 },
            Error::RateLimited {
                whose: "this connection",
                retry_after: Duration::from_millis(17),
            },
            Error::TooManyStreams { limit: 64 },
            Error::TooManyNames { limit: 4 },
            Error::Internal("SECRET CAUSE".into()),
        ];
        for error in errors {
            let status = from_error(&error);
            let details = status.get_error_details();
            let info = details.error_info().unwrap();
            assert_eq!(
                (info.domain.as_str(), info.reason.as_str()),
                (DOMAIN, error.reason().as_str())
            );
            assert_eq!(status.code(), code(error.reason()));
            assert!(info.metadata.values().all(|v| v.len() <= 128));
            assert!(status.details().len() + status.message().len() <= 4096, "{error:?}");
            assert!(!status.message().is_empty() && !format!("{status:?}").contains("SECRET"));
        }
    }

    #[test]
    fn a_known_delay_is_told() {
        let delay = |error: &Error| {
            from_error(error)
                .get_details_retry_info()
                .and_then(|info| info.retry_delay)
        };
        let limited = Error::RateLimited {
            whose: "this connection",
            retry_after: Duration::from_millis(17),
        };
        assert_eq!(delay(&limited), Some(Duration::from_millis(17)));
        assert_eq!(delay(&Error::TooManyStreams { limit: 64 }), None);
    }

    #[test]
    fn bad_input_names_the_field() {
        let status = from_error(&Error::InvalidRequest {
            field: "bucket",
            problem: "no".into(),
        });
        let details = status.get_error_details();
        assert_eq!(details.bad_request().unwrap().field_violations[0].field, "bucket");
    }

    #[test]
    fn what_tonic_answers_by_itself_gets_a_reason() {
        let table = [
            (Status::out_of_range("x"), Reason::MessageTooLarge),
            (Status::unimplemented(""), Reason::Unimplemented),
            (
                Status::unimplemented("Content is compressed with `br`"),
                Reason::Unimplemented,
            ),
            (Status::internal("failed to decode"), Reason::InvalidRequest),
            (Status::not_found("service not registered"), Reason::NotFound),
            (Status::data_loss("?"), Reason::InternalError),
        ];
        for (incomplete, want) in table {
            let completed = complete(&incomplete, "/a/b");
            let details = completed.get_error_details();
            assert_eq!(details.error_info().unwrap().reason, want.as_str());
            assert_eq!(completed.code(), code(want));
        }
    }

    #[test]
    fn a_method_name_from_the_wire_is_escaped_and_cut() {
        let message = complete(&Status::unimplemented(""), &format!("/\u{1b}[31m{}", "x".repeat(500)))
            .message()
            .to_owned();
        assert!(!message.contains('\u{1b}') && message.len() < 400, "{message}");
    }
}
