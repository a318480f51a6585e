//! How long a call may take.

use std::time::Duration;

use http::{HeaderMap, HeaderName};

/// The longest that a unary call may take, whatever deadline the client asked for.
const MAX_DEADLINE: Duration = Duration::from_secs(60);

static GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// How long the call may take: the client's `grpc-timeout`, at most [`MAX_DEADLINE`]. Streams (health's Watch and
/// reflection) have no deadline of the server's.
pub(super) fn deadline(stream: bool, headers: &HeaderMap) -> Option<Duration> {
    let asked = headers
        .get(&GRPC_TIMEOUT)
        .and_then(|value| value.to_str().ok())
        .and_then(grpc_timeout);
    match asked {
        Some(asked) if stream => Some(asked),
        None if stream => None,
        _ => Some(asked.map_or(MAX_DEADLINE, |asked| asked.min(MAX_DEADLINE))),
    }
}

/// `grpc-timeout`: at most 8 digits and a unit (gRPC over HTTP/2). What does not parse counts as absent, as gRPC's own
/// servers have it.
fn grpc_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(value * 3600)),
        "M" => Some(Duration::from_secs(value * 60)),
        "S" => Some(Duration::from_secs(value)),
        "m" => Some(Duration::from_millis(value)),
        "u" => Some(Duration::from_micros(value)),
        "n" => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_timeout_table() {
        let table = [
            ("1S", Some(Duration::from_secs(1))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("250m", Some(Duration::from_millis(250))),
            ("7u", Some(Duration::from_micros(7))),
            ("0n", Some(Duration::ZERO)),
            ("100000000S", None),
            ("S", None),
            ("", None),
            ("-1S", None),
            ("1s", None),
            ("1é", None),
        ];
        for (text, want) in table {
            assert_eq!(grpc_timeout(text), want, "{text}");
        }
    }

    #[test]
    fn deadline_table() {
        let headers = |timeout: Option<&str>| {
            let mut headers = HeaderMap::new();
            if let Some(timeout) = timeout {
                headers.insert("grpc-timeout", timeout.parse().unwrap());
            }
            headers
        };
        let (call, watch) = (false, true);
        let secs = Duration::from_secs;
        for (stream, timeout, want) in [
            (call, None, Some(secs(60))),
            (call, Some("5S"), Some(secs(5))),
            (call, Some("5H"), Some(secs(60))),
            (call, Some("junk"), Some(secs(60))),
            (watch, None, None),
            (watch, Some("5H"), Some(secs(5 * 3600))),
        ] {
            assert_eq!(deadline(stream, &headers(timeout)), want, "{stream} {timeout:?}");
        }
    }
}
