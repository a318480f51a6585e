//! What an answer to a refresh means: the one table that decides, by status and JSON.
//!
//! The text of an answer is never searched: a request id with the digits 401 ends no session.

use std::time::Duration;

use http::{HeaderMap, StatusCode, header::RETRY_AFTER};
use jiff::fmt::rfc2822::DateTimeParser;

use super::{Outcome, Seen, http::Answer};
use crate::{
    clock::Now,
    credential::{AnswerRules, LooseJson, TokenAnswer},
};

/// The longest `Retry-After` that is believed.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);
/// The longest error code that is shown.
const LONGEST_CODE: usize = 40;

/// What is particular to a provider's answers.
#[derive(Debug, Clone, Default)]
pub struct OutcomeRules {
    /// How a token answer is read.
    pub answer: AnswerRules,
    /// Error codes, beside `invalid_grant`, that mean the refresh token is dead.
    pub refused_errors: Vec<String>,
    /// HTTP statuses that mean the same.
    pub refused_statuses: Vec<u16>,
}

impl OutcomeRules {
    /// What became of the presentation that was answered so: status, fields of the header and the complete body. The first
    /// row that matches decides.
    #[must_use]
    pub fn judge(&self, status: StatusCode, headers: &HeaderMap, body: &[u8], now: &Now) -> Outcome {
        // RFC 6749 section 5.1 says 200. Under another 2xx it would be a new token set no less.
        if status.is_success()
            && let Ok(tokens) = TokenAnswer::parse(body, &self.answer)
        {
            return Outcome::Answered(Box::new(tokens));
        }
        let error = ErrorField::of(body);
        let seen = seen(status, &error);
        let refused = match &error {
            ErrorField::Code(code) => code == "invalid_grant" || self.refused_errors.contains(code),
            ErrorField::Nested(code) => self.refused_errors.contains(code),
            ErrorField::Absent | ErrorField::Odd => false,
        };
        if refused || self.refused_statuses.contains(&status.as_u16()) {
            return Outcome::Refused(seen);
        }
        match &error {
            ErrorField::Code(code) if code != "server_error" && code != "temporarily_unavailable" => {
                return Outcome::Rejected(seen);
            }
            // Not an error of RFC 6749 section 5.2, but with a 2xx nothing else tells that it is one.
            ErrorField::Nested(_) | ErrorField::Odd if status.is_success() => return Outcome::Rejected(seen),
            ErrorField::Code(_) | ErrorField::Nested(_) | ErrorField::Odd | ErrorField::Absent => {}
        }
        match status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => Outcome::NotProcessed {
                seen,
                retry_after: retry_after(headers, now),
            },
            StatusCode::REQUEST_TIMEOUT => Outcome::Ambiguous(seen),
            _ if status.is_redirection() || status.is_client_error() => Outcome::Rejected(seen),
            _ => Outcome::Ambiguous(seen),
        }
    }
}

/// What became of the presentation that this is the complete answer to.
pub(super) fn classify(answer: &Answer, rules: &OutcomeRules, now: &Now) -> Outcome {
    rules.judge(answer.status, &answer.headers, &answer.body, now)
}

/// The error code in an answer, in the field of RFC 6749 section 5.2 or where providers nest it. It is what the provider
/// wrote: compare it, and show [`described`].
pub(super) fn error_code(answer: &Answer) -> Option<String> {
    match ErrorField::of(&answer.body) {
        ErrorField::Code(code) | ErrorField::Nested(code) => Some(code),
        ErrorField::Absent | ErrorField::Odd => None,
    }
}

/// What was seen of an answer that is of no use.
pub(super) fn described(answer: &Answer) -> Seen {
    seen(answer.status, &ErrorField::of(&answer.body))
}

/// The field `error` of a JSON object.
enum ErrorField {
    Absent,
    /// As RFC 6749 section 5.2 has it.
    Code(String),
    /// An object of the provider's own, with a `code` in it.
    Nested(String),
    /// Something else.
    Odd,
}

impl ErrorField {
    fn of(body: &[u8]) -> Self {
        let document = LooseJson::new(body);
        let Some(fields) = document.as_object() else {
            return Self::Absent;
        };
        match (fields.raw("error"), fields.text("error"), fields.object("error")) {
            (None | Some("\"\""), ..) => Self::Absent,
            (_, Some(code), _) => Self::Code(code.as_str().to_owned()),
            (.., Some(error)) => error
                .text("code")
                .map_or(Self::Odd, |code| Self::Nested(code.as_str().to_owned())),
            (Some(_), None, None) => Self::Odd,
        }
    }
}

fn seen(status: StatusCode, error: &ErrorField) -> Seen {
    let status = status.as_u16();
    Seen(match error {
        ErrorField::Code(code) | ErrorField::Nested(code) if is_code(code) => format!("HTTP {status}, error {code}"),
        ErrorField::Code(_) | ErrorField::Nested(_) | ErrorField::Odd => {
            format!("HTTP {status} with an error of the provider's own")
        }
        ErrorField::Absent if (200..300).contains(&status) => format!("HTTP {status} without an access token"),
        ErrorField::Absent => format!("HTTP {status}"),
    })
}

/// Whether it looks like a code that somebody registered, and not like text that somebody wrote.
pub(super) fn is_code(code: &str) -> bool {
    (1..=LONGEST_CODE).contains(&code.len()) && code.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
}

/// `Retry-After` (RFC 9110 section 10.2.3): seconds, or a date.
fn retry_after(headers: &HeaderMap, now: &Now) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = if text.bytes().all(|b| b.is_ascii_digit()) {
        // What does not fit is longer than the longest.
        Duration::from_secs(text.parse().unwrap_or(u64::MAX))
    } else {
        let at = DateTimeParser::new().relaxed_weekday(true).parse_timestamp(text).ok()?;
        // A date that has passed means now.
        Duration::try_from(at.duration_since(now.wall)).unwrap_or_default()
    };
    (!text.is_empty()).then_some(wait.min(LONGEST_WAIT))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use zeroize::Zeroizing;

    use super::*;

    fn now() -> Now {
        Now {
            wall: "1994-11-06T08:49:00Z".parse().unwrap(),
            boot: Duration::ZERO,
            boot_id: "b".into(),
        }
    }

    fn classified(status: u16, retry_after: Option<&str>, body: &str) -> Outcome {
        let rules = OutcomeRules {
            refused_errors: vec!["bad_refresh_token".into()],
            refused_statuses: vec![410],
            ..OutcomeRules::default()
        };
        let mut headers = HeaderMap::new();
        if let Some(value) = retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from_str(value).unwrap());
        }
        let answer = Answer {
            status: StatusCode::from_u16(status).unwrap(),
            headers,
            body: Zeroizing::new(body.into()),
        };
        classify(&answer, &rules, &now())
    }

    fn word(outcome: &Outcome) -> &'static str {
        match outcome {
            Outcome::Answered(_) => "answered",
            Outcome::Refused(_) => "refused",
            Outcome::Rejected(_) => "rejected",
            Outcome::NotProcessed { .. } => "not processed",
            Outcome::Ambiguous(_) => "ambiguous",
        }
    }

    #[test]
    fn status_and_json_decide() {
        const TOKENS: &str = r#"{"access_token":"a","refresh_token":"r"}"#;
        const GRANT: &str = r#"{"error":"invalid_grant","error_description":"x"}"#;
        const CLIENT: &str = r#"{"error":"invalid_client"}"#;
        const SERVER: &str = r#"{"error":"server_error"}"#;
        const LATER: &str = r#"{"error":"temporarily_unavailable"}"#;
        const OWN: &str = r#"{"error":"bad_refresh_token"}"#;
        const ODD: &str = r#"{"error":"invalid_grant","error_description":"\ud800","n":1e999}"#;
        const NESTED: &str = r#"{"error":{"code":"bad_refresh_token"}}"#;
        const OBJECT: &str = r#"{"type":"error","error":{"type":"overloaded"}}"#;
        const HTML: &str = "<html>401 invalid_grant</html>";
        let table: &[(&str, &[u16], &[&str])] = &[
            (
                "answered",
                &[200, 201],
                &[TOKENS, r#"{"access_token":"a","error":"invalid_grant"}"#],
            ),
            (
                "refused",
                &[200, 400, 401, 403, 404, 429, 500, 503, 302],
                &[GRANT, ODD, OWN, NESTED],
            ),
            ("refused", &[410], &["", TOKENS, GRANT, CLIENT, HTML]),
            (
                "rejected",
                &[200, 302, 400, 401, 403, 404, 408, 429, 500, 502, 503, 504],
                &[CLIENT],
            ),
            (
                "rejected",
                &[400, 401, 403, 404, 405, 409, 413, 418, 422, 451, 499],
                &["", "{}", HTML, SERVER, LATER],
            ),
            (
                "rejected",
                &[400, 401, 404],
                &[TOKENS, OBJECT, r#"{"error":null}"#, r#"["invalid_grant"]"#, "{"],
            ),
            ("rejected", &[300, 301, 302, 303, 307, 308], &["", TOKENS, HTML, SERVER]),
            (
                "rejected",
                &[200, 201],
                &[OBJECT, r#"{"error":true}"#, r#"{"error":["x"]}"#],
            ),
            (
                "not processed",
                &[429, 503],
                &["", "{}", HTML, SERVER, LATER, OBJECT, TOKENS],
            ),
            (
                "ambiguous",
                &[408, 500, 502, 504, 501, 505, 507, 520, 529, 599],
                &["", HTML, SERVER, LATER, OBJECT, TOKENS],
            ),
            (
                "ambiguous",
                &[200, 201, 204, 206],
                &["", "{}", HTML, SERVER, LATER, "[]", "null", "\"invalid_grant\""],
            ),
            (
                "ambiguous",
                &[200],
                &[
                    r#"{"access_token":"a""#,
                    r#"{"access_token":""}"#,
                    r#"{"refresh_token":"r"}"#,
                    r#"{"error":""}"#,
                    r#"["invalid_grant"]"#,
                ],
            ),
            ("ambiguous", &[600, 999], &["", TOKENS]),
        ];
        for (want, statuses, bodies) in table {
            for status in *statuses {
                for body in *bodies {
                    let outcome = classified(*status, None, body);
                    assert_eq!(word(&outcome), *want, "{status} {body}: {outcome:?}");
                }
            }
        }
    }

    #[test]
    fn what_was_seen_has_the_status_and_a_code_and_no_word_of_the_provider() {
        let table = [
            (
                400,
                r#"{"error":"invalid_grant","error_description":"SECRET"}"#,
                "HTTP 400, error invalid_grant",
            ),
            (
                400,
                r#"{"error":"SECRET"}"#,
                "HTTP 400 with an error of the provider's own",
            ),
            (
                400,
                r#"{"error":"no token rt-1"}"#,
                "HTTP 400 with an error of the provider's own",
            ),
            (
                401,
                r#"{"error":{"code":"bad_refresh_token","message":"SECRET"}}"#,
                "HTTP 401, error bad_refresh_token",
            ),
            (
                401,
                r#"{"error":{"message":"SECRET"}}"#,
                "HTTP 401 with an error of the provider's own",
            ),
            (502, "SECRET", "HTTP 502"),
            (200, "SECRET", "HTTP 200 without an access token"),
        ];
        for (status, body, want) in table {
            let seen = match classified(status, None, body) {
                Outcome::Refused(seen) | Outcome::Rejected(seen) | Outcome::Ambiguous(seen) => seen,
                other => panic!("{status} {body}: {other:?}"),
            };
            assert_eq!(seen.to_string(), want);
        }
        let long = format!(r#"{{"error":"{}"}}"#, "x".repeat(LONGEST_CODE + 1));
        assert!(format!("{:?}", classified(400, None, &long)).contains("of the provider's own"));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let table = [
            (None, None),
            (Some("0"), Some(0)),
            (Some("30"), Some(30)),
            (Some(" 30 "), Some(30)),
            (Some("99999999999999999999999"), Some(24 * 3600)),
            (Some("100000"), Some(24 * 3600)),
            (Some("Sun, 06 Nov 1994 08:49:37 GMT"), Some(37)),
            (Some("Sun, 06 Nov 1994 08:48:37 GMT"), Some(0)),
            (Some("Sun, 06 Nov 2994 08:48:37 GMT"), Some(24 * 3600)),
            (Some(""), None),
            (Some("-1"), None),
            (Some("1.5"), None),
            (Some("soon"), None),
        ];
        for status in [429, 503] {
            for (value, want) in table {
                let Outcome::NotProcessed { retry_after, .. } = classified(status, value, "") else {
                    panic!("{status}");
                };
                assert_eq!(retry_after.map(|wait| wait.as_secs()), want, "{value:?}");
            }
        }
    }
}
