//! A token answer: the JSON object of RFC 6749 section 5.1, read leniently where providers stray and strictly where a
//! mistake would lose or leak something.

use std::{collections::BTreeMap, fmt, time::Duration};

use jiff::Timestamp;
use secrecy::SecretString;
use serde_json::{Map, Value};

use crate::{
    clock::Now,
    credential::{Claim, Expiry, MAX_LIFETIME, TokenSet, claims::Claims, is_token_text, secret_json::SecretJson},
};

/// The longest scope, token type, subject or extra field, in bytes.
pub(super) const MAX_TEXT: usize = 4 * 1024;
/// The most bytes that all extra fields may have together. With an access token of 16 KiB an answer over the socket stays
/// below 64 KiB.
pub(super) const MAX_EXTRA: usize = 16 * 1024;

/// What a provider's configuration says about reading its answers.
#[derive(Debug, Clone)]
pub struct AnswerRules {
    /// The lifetime of an access token whose answer has a refresh token but no `expires_in`.
    pub default_lifetime: Duration,
    /// Further string fields to keep.
    pub extra_fields: Vec<String>,
    /// Those of them that may stand in the `id_token` instead. The first one of a field that is there counts.
    pub claims: &'static [Claim],
    /// Where in the answer the account is named, if it is neither `sub` nor the `id_token`'s. Empty: nowhere.
    pub subject: &'static [&'static str],
}

impl Default for AnswerRules {
    fn default() -> Self {
        Self {
            default_lifetime: Duration::from_secs(3600),
            extra_fields: Vec::new(),
            claims: &[],
            subject: &[],
        }
    }
}

/// What a token endpoint answered to a refresh. Whatever else is odd about it: a refresh token that came with it is the one
/// to keep, because the provider may have spent the old one.
pub struct TokenAnswer {
    /// The new access token. `None`: there is one, but it cannot be handed out: too long, not printable, or the refresh
    /// token itself.
    pub access_token: Option<SecretString>,
    /// The new refresh token, if the provider rotates.
    pub refresh_token: Option<SecretString>,
    /// `expires_in`, zero if it was not positive, at most [`MAX_LIFETIME`]. `None`: it is missing or makes no sense.
    pub lifetime: Option<Duration>,
    /// The token type, if there is one.
    pub token_type: Option<String>,
    /// The scope, if there is one.
    pub scope: Option<String>,
    /// The account's subject, if there is one.
    pub subject: Option<String>,
    /// The extra fields that the configuration names, as far as they are there and usable.
    pub extra: BTreeMap<String, String>,
}

impl fmt::Debug for TokenAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenAnswer")
            .field("has_access_token", &self.access_token.is_some())
            .field("has_refresh_token", &self.refresh_token.is_some())
            .field("lifetime", &self.lifetime)
            .finish_non_exhaustive()
    }
}

/// What is wrong with an answer. It names fields and never quotes their values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidAnswer(String);

/// There is no new token set in what the token endpoint answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is not a JSON object with an access token")]
pub struct NotAnAnswer;

/// Reads a token answer that somebody hands in, strictly: a mistake is told, not stored.
///
/// `expires_in` counts from `now` and may be a number, a float or a numeric string; `expires_at` may be Unix seconds or
/// RFC 3339. If both are there the earlier one counts: a saved answer's `expires_in` is older than the file says. The
/// subject is `sub`, else the `sub` claim of the `id_token` (which is not verified: the host's user vouches for it).
///
/// # Errors
/// Not a JSON object, no access token, or a field of the wrong type.
pub fn parse_answer(json: &[u8], rules: &AnswerRules, saved_by: &str, now: &Now) -> Result<TokenSet, InvalidAnswer> {
    let answer = SecretJson::parse(json)
        .map_err(|e| InvalidAnswer(format!("not JSON (line {}, column {})", e.line(), e.column())))?;
    let Some(fields) = answer.as_object() else {
        return Err(InvalidAnswer("not a JSON object".into()));
    };
    let access_token = token_field(fields, "access_token")?.ok_or_else(|| {
        InvalidAnswer("\"access_token\" is missing; expected an answer as in RFC 6749 section 5.1".into())
    })?;
    let refresh_token = token_field(fields, "refresh_token")?;
    // Handing out the one would hand out the other.
    if refresh_token == Some(access_token) {
        return Err(InvalidAnswer(
            "\"access_token\" and \"refresh_token\" are the same; leave out the refresh token".into(),
        ));
    }
    let expiry = expiry(fields, refresh_token.is_some(), rules, now)?;
    let claims = text_field(fields, "id_token")?.and_then(Claims::of);
    let subject = match short_field(fields, "sub")? {
        Some(subject) => Some(subject.to_owned()),
        None => claims
            .as_ref()
            .and_then(Claims::subject)
            .or_else(|| named_by(fields, rules.subject))
            .filter(|subject| subject.len() <= MAX_TEXT),
    };
    Ok(TokenSet {
        access_token: SecretString::from(access_token),
        refresh_token: refresh_token.map(SecretString::from),
        expiry,
        token_type: short_field(fields, "token_type")?.unwrap_or("Bearer").to_owned(),
        scope: short_field(fields, "scope")?.unwrap_or_default().to_owned(),
        subject,
        extra: extra(fields, claims.as_ref(), rules, refresh_token)?,
        saved_by: saved_by.to_owned(),
    })
}

/// A field that is a string and not empty; `null` counts as absent.
fn text_field<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, InvalidAnswer> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
        Some(_) => Err(InvalidAnswer(format!("\"{name}\" is not a string"))),
    }
}

/// A text field of bounded length.
fn short_field<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, InvalidAnswer> {
    let text = text_field(fields, name)?;
    if text.is_some_and(|text| text.len() > MAX_TEXT) {
        return Err(InvalidAnswer(format!("\"{name}\" is longer than {MAX_TEXT} bytes")));
    }
    Ok(text)
}

/// The account where this provider names it.
fn named_by(fields: &Map<String, Value>, path: &[&str]) -> Option<String> {
    let (first, rest) = path.split_first()?;
    let named = rest
        .iter()
        .try_fold(fields.get(*first)?, |value, name| value.get(name))?;
    named.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

/// The fields that the configuration names: strings only, and never a copy of a stored secret.
fn extra(
    fields: &Map<String, Value>,
    claims: Option<&Claims>,
    rules: &AnswerRules,
    refresh_token: Option<&str>,
) -> Result<BTreeMap<String, String>, InvalidAnswer> {
    let extra: BTreeMap<String, String> = rules
        .extra_fields
        .iter()
        .filter_map(|name| {
            let field = fields.get(name).and_then(Value::as_str).map(str::to_owned);
            Some((name.clone(), field.or_else(|| claims?.field(name, rules))?))
        })
        .filter(|(_, value)| Some(value.as_str()) != refresh_token)
        .collect();
    let size: usize = extra.iter().map(|(name, value)| name.len() + value.len()).sum();
    if size > MAX_EXTRA {
        return Err(InvalidAnswer(format!(
            "the fields that the configuration names in extra_fields come to more than {MAX_EXTRA} bytes"
        )));
    }
    Ok(extra)
}

fn token_field<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, InvalidAnswer> {
    let token = text_field(fields, name)?;
    if token.is_some_and(|token| !is_token_text(token)) {
        return Err(InvalidAnswer(format!(
            "\"{name}\" is not a token: expected 1 to 16384 printable ASCII characters"
        )));
    }
    Ok(token)
}

fn expiry(
    fields: &Map<String, Value>,
    has_refresh_token: bool,
    rules: &AnswerRules,
    now: &Now,
) -> Result<Option<Expiry>, InvalidAnswer> {
    let given_in = match fields.get("expires_in") {
        None | Some(Value::Null) => None,
        Some(value) => {
            Some(seconds(value).ok_or_else(|| InvalidAnswer("\"expires_in\" is not a number of seconds".into()))?)
        }
    };
    let given_at = match fields.get("expires_at") {
        None | Some(Value::Null) => None,
        Some(value) => Some(
            moment(value)
                .ok_or_else(|| InvalidAnswer("\"expires_at\" is neither Unix seconds nor an RFC 3339 time".into()))?,
        ),
    };
    let left_at = given_at.map(|at| Duration::try_from(at.duration_since(now.wall)).unwrap_or_default());
    Ok(match (given_in, left_at) {
        (Some(lifetime), None) => Some(Expiry::from_lifetime(lifetime, now)),
        (lifetime, Some(left)) => {
            let left = left.min(lifetime.unwrap_or(MAX_LIFETIME));
            Some(Expiry::from_lifetime(left, now))
        }
        (None, None) if has_refresh_token => Some(Expiry::from_lifetime(rules.default_lifetime, now)),
        (None, None) => None,
    })
}

/// Seconds as a number, a float or a numeric string. Zero, negative and not-a-number are zero: already expired.
fn seconds(value: &Value) -> Option<Duration> {
    number(value).map(bounded)
}

/// A lifetime that somebody wrote, from nothing to [`MAX_LIFETIME`].
pub(super) fn bounded(seconds: f64) -> Duration {
    // Bounded before the conversion, which refuses infinity and what does not fit.
    Duration::from_secs_f64(seconds.clamp(0.0, MAX_LIFETIME.as_secs_f64()))
}

fn moment(value: &Value) -> Option<Timestamp> {
    if let Some(text) = value.as_str()
        && let Ok(at) = text.trim().parse::<Timestamp>()
    {
        return Some(at);
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a float beyond i64 saturates, and is refused or far away"
    )]
    let seconds = number(value)?.floor() as i64;
    Timestamp::from_second(seconds).ok()
}

fn number(value: &Value) -> Option<f64> {
    let number = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.trim().parse().ok()?,
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return None,
    };
    (!number.is_nan()).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use data_encoding::BASE64URL_NOPAD;
    use secrecy::ExposeSecret as _;

    const NOW: i64 = 1_800_000_000;

    fn now() -> Now {
        Now {
            wall: Timestamp::from_second(NOW).unwrap(),
            boot: Duration::from_secs(5),
            boot_id: "boot".into(),
        }
    }

    fn parse(json: &str) -> Result<TokenSet, InvalidAnswer> {
        let rules = AnswerRules {
            default_lifetime: Duration::from_secs(3600),
            extra_fields: vec!["account_id".into(), "copy".into(), "n".into()],
            ..AnswerRules::default()
        };
        parse_answer(json.as_bytes(), &rules, "import", &now())
    }

    fn remaining(json: &str) -> Option<u64> {
        parse(json).unwrap().expiry.map(|e| e.remaining(&now()).as_secs())
    }

    #[test]
    fn a_whole_answer() {
        let tokens = parse(
            r#"{"access_token":"a","token_type":"bearer","expires_in":60,"refresh_token":"r","scope":"x y",
                "sub":"alice","account_id":"42","copy":"r","n":7,"other":"dropped"}"#,
        )
        .unwrap();
        assert_eq!(tokens.access_token.expose_secret(), "a");
        assert_eq!(tokens.refresh_token.unwrap().expose_secret(), "r");
        assert_eq!((&*tokens.token_type, &*tokens.scope), ("bearer", "x y"));
        assert_eq!(tokens.subject.as_deref(), Some("alice"));
        // Named fields only, strings only, and never a copy of a stored secret.
        assert_eq!(tokens.extra, [("account_id".to_owned(), "42".to_owned())].into());
    }

    #[test]
    fn expiry_table() {
        let table = [
            (r#"{"access_token":"a","expires_in":60}"#, Some(60)),
            (r#"{"access_token":"a","expires_in":60.9}"#, Some(60)),
            (r#"{"access_token":"a","expires_in":"60"}"#, Some(60)),
            (r#"{"access_token":"a","expires_in":" 60.0 "}"#, Some(60)),
            (r#"{"access_token":"a","expires_in":0}"#, Some(0)),
            (r#"{"access_token":"a","expires_in":-5}"#, Some(0)),
            (
                r#"{"access_token":"a","expires_in":1e300}"#,
                Some(MAX_LIFETIME.as_secs()),
            ),
            (r#"{"access_token":"a"}"#, None),
            (r#"{"access_token":"a","refresh_token":"r"}"#, Some(3600)),
            (
                r#"{"access_token":"a","refresh_token":"r","expires_in":null}"#,
                Some(3600),
            ),
            (r#"{"access_token":"a","refresh_token":""}"#, None),
            (r#"{"access_token":"a","expires_at":1800000090}"#, Some(90)),
            (r#"{"access_token":"a","expires_at":"1800000090"}"#, Some(90)),
            (r#"{"access_token":"a","expires_at":"2027-01-15T08:01:30Z"}"#, Some(90)),
            (r#"{"access_token":"a","expires_at":1}"#, Some(0)),
            // A saved answer: the file is older than its expires_in says.
            (
                r#"{"access_token":"a","expires_in":3600,"expires_at":1800000090}"#,
                Some(90),
            ),
            (
                r#"{"access_token":"a","expires_in":60,"expires_at":1800000090}"#,
                Some(60),
            ),
        ];
        for (json, want) in table {
            assert_eq!(remaining(json), want, "{json}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_and_never_quoted() {
        let table = [
            ("SECRET", "not JSON (line 1, column 1)"),
            (r#"["SECRET"]"#, "not a JSON object"),
            (r#"{"refresh_token":"SECRET"}"#, "\"access_token\" is missing"),
            (
                r#"{"access_token":null,"refresh_token":"SECRET"}"#,
                "\"access_token\" is missing",
            ),
            (r#"{"access_token":["SECRET"]}"#, "\"access_token\" is not a string"),
            (r#"{"access_token":"SECRET\n"}"#, "\"access_token\" is not a token"),
            (
                r#"{"access_token":"a","refresh_token":"SECRET\u0000"}"#,
                "\"refresh_token\" is not a token",
            ),
            (
                r#"{"access_token":"a","expires_in":"SECRET"}"#,
                "\"expires_in\" is not a number",
            ),
            (
                r#"{"access_token":"a","expires_in":"NaN"}"#,
                "\"expires_in\" is not a number",
            ),
            (
                r#"{"access_token":"a","expires_at":"SECRET"}"#,
                "\"expires_at\" is neither",
            ),
            (
                r#"{"access_token":"a","scope":["SECRET"]}"#,
                "\"scope\" is not a string",
            ),
        ];
        for (json, want) in table {
            let error = parse(json).unwrap_err().to_string();
            assert!(error.starts_with(want), "{json}: {error}");
            assert!(!error.contains("SECRET"), "{error}");
        }
        let long = "x".repeat(MAX_TEXT + 1);
        for field in ["scope", "token_type", "sub"] {
            let error = parse(&format!(r#"{{"access_token":"a","{field}":"{long}"}}"#)).unwrap_err();
            assert_eq!(error.to_string(), format!("\"{field}\" is longer than 4096 bytes"));
        }
        let longer = "x".repeat(MAX_EXTRA);
        assert!(parse(&format!(r#"{{"access_token":"a","account_id":"{longer}"}}"#)).is_err());
        assert!(parse(&format!(r#"{{"access_token":"{}"}}"#, "x".repeat(16 * 1024))).is_ok());
        assert!(parse(&format!(r#"{{"access_token":"{}"}}"#, "x".repeat(16 * 1024 + 1))).is_err());
    }

    #[test]
    fn the_subject_comes_from_the_id_token_if_the_answer_has_none() {
        let claims = BASE64URL_NOPAD.encode(br#"{"sub":"bob"}"#);
        let json = format!(r#"{{"access_token":"a","id_token":"h.{claims}.s"}}"#);
        assert_eq!(parse(&json).unwrap().subject.as_deref(), Some("bob"));
        for junk in ["h", "h..s", "h.!!.s", "h.e30.s"] {
            let json = format!(r#"{{"access_token":"a","id_token":"{junk}"}}"#);
            assert_eq!(parse(&json).unwrap().subject, None);
        }
    }
}
