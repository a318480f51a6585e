//! Reading what a token endpoint answered to a refresh, so that nothing odd about it loses the new refresh token.

use std::{collections::BTreeMap, time::Duration};

use secrecy::SecretString;
use serde_json::{Map, Value};

use super::{
    SecretJson,
    answer::{AnswerRules, MAX_EXTRA, MAX_TEXT, NotAnAnswer, TokenAnswer, seconds, subject_of_id_token},
    is_token_text,
};

impl TokenAnswer {
    /// Reads the answer of RFC 6749 section 5.1, leniently: a JSON object with an access token is a new token set, and
    /// the provider may have spent the old refresh token for it. So a field that is odd counts as absent, and so does
    /// one that is `null` or empty.
    ///
    /// The subject is `sub`, else the `sub` claim of the `id_token`, which came straight from the provider over TLS and
    /// is not verified beyond that (OpenID Connect Core section 3.1.3.7).
    ///
    /// # Errors
    /// Not a JSON object, or no `access_token`.
    pub fn parse(json: &[u8], rules: &AnswerRules) -> Result<Self, NotAnAnswer> {
        let answer = SecretJson::parse(json).map_err(|_not_json| NotAnAnswer)?;
        let fields = answer.as_object().ok_or(NotAnAnswer)?;
        let access_token = text(fields, "access_token").ok_or(NotAnAnswer)?;
        let refresh_token = text(fields, "refresh_token").filter(|token| is_token_text(token));
        // Handing out the one would hand out the other, so what came as both is kept as the refresh token only.
        let sendable = is_token_text(access_token) && refresh_token != Some(access_token);
        let subject = short(fields, "sub").map(str::to_owned).or_else(|| {
            text(fields, "id_token")
                .and_then(subject_of_id_token)
                .filter(|subject| (1..=MAX_TEXT).contains(&subject.len()))
        });
        Ok(Self {
            access_token: sendable.then(|| SecretString::from(access_token)),
            refresh_token: refresh_token.map(SecretString::from),
            lifetime: lifetime(fields),
            token_type: short(fields, "token_type").map(str::to_owned),
            scope: short(fields, "scope").map(str::to_owned),
            subject,
            extra: extra(fields, rules, access_token),
        })
    }
}

/// A field that is a string and not empty.
fn text<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    fields.get(name)?.as_str().filter(|text| !text.is_empty())
}

fn short<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    text(fields, name).filter(|text| text.len() <= MAX_TEXT)
}

fn lifetime(fields: &Map<String, Value>) -> Option<Duration> {
    seconds(fields.get("expires_in")?)
}

/// The fields that the configuration names, as far as they fit and are no copy of a token of this answer, whether that
/// one is taken over or not.
fn extra(fields: &Map<String, Value>, rules: &AnswerRules, access_token: &str) -> BTreeMap<String, String> {
    let refresh_token = text(fields, "refresh_token");
    let mut room = MAX_EXTRA;
    let mut extra = BTreeMap::new();
    for name in &rules.extra_fields {
        let Some(value) = text(fields, name) else { continue };
        let size = name.len() + value.len();
        if value != access_token && Some(value) != refresh_token && size <= room && !extra.contains_key(name) {
            room -= size;
            extra.insert(name.clone(), value.to_owned());
        }
    }
    extra
}

#[cfg(test)]
mod tests {
    use data_encoding::BASE64URL_NOPAD;
    use secrecy::ExposeSecret as _;

    use super::{super::MAX_LIFETIME, *};

    fn rules() -> AnswerRules {
        AnswerRules {
            extra_fields: ["account", "copy", "n", "none"].map(str::to_owned).into(),
            ..AnswerRules::default()
        }
    }

    fn parse(json: &str) -> TokenAnswer {
        TokenAnswer::parse(json.as_bytes(), &rules()).unwrap()
    }

    fn shown(token: Option<&SecretString>) -> Option<&str> {
        token.map(|token| token.expose_secret())
    }

    #[test]
    fn a_whole_answer() {
        let answer = parse(
            r#"{"access_token":"a","token_type":"bearer","expires_in":60,"refresh_token":"r","scope":"x y",
                "sub":"alice","account":"42","copy":"r","n":7,"none":"","other":"dropped"}"#,
        );
        assert_eq!(shown(answer.access_token.as_ref()), Some("a"));
        assert_eq!(shown(answer.refresh_token.as_ref()), Some("r"));
        assert_eq!(answer.lifetime, Some(Duration::from_secs(60)));
        assert_eq!(answer.token_type.as_deref(), Some("bearer"));
        assert_eq!(answer.scope.as_deref(), Some("x y"));
        assert_eq!(answer.subject.as_deref(), Some("alice"));
        assert_eq!(answer.extra, [("account".to_owned(), "42".to_owned())].into());
    }

    #[test]
    fn only_an_object_with_an_access_token_is_a_new_token_set() {
        for json in [
            "",
            "SECRET",
            "<html>access_token</html>",
            r#"{"access_token":"a""#,
            r#"["access_token"]"#,
            r#""access_token""#,
            "null",
            "{}",
            r#"{"access_token":null}"#,
            r#"{"access_token":""}"#,
            r#"{"access_token":7}"#,
            r#"{"access_token":["a"]}"#,
            r#"{"refresh_token":"r"}"#,
        ] {
            assert!(TokenAnswer::parse(json.as_bytes(), &rules()).is_err(), "{json}");
        }
    }

    #[test]
    fn no_lifetime_is_too_odd() {
        let table = [
            ("60", Some(60)),
            ("60.9", Some(60)),
            ("\"60\"", Some(60)),
            ("\" 60.5 \"", Some(60)),
            ("0", Some(0)),
            ("-1", Some(0)),
            ("\"-1\"", Some(0)),
            ("1e300", Some(MAX_LIFETIME.as_secs())),
            ("\"1e999\"", Some(MAX_LIFETIME.as_secs())),
            ("315360001", Some(MAX_LIFETIME.as_secs())),
            ("null", None),
            ("\"\"", None),
            ("\"soon\"", None),
            ("\"NaN\"", None),
            ("true", None),
            ("[60]", None),
            ("{}", None),
        ];
        for (value, want) in table {
            let answer = parse(&format!(
                r#"{{"access_token":"a","refresh_token":"r","expires_in":{value}}}"#
            ));
            assert_eq!(answer.lifetime.map(|lifetime| lifetime.as_secs()), want, "{value}");
            assert!(answer.refresh_token.is_some(), "{value}");
        }
        assert_eq!(parse(r#"{"access_token":"a"}"#).lifetime, None);
    }

    #[test]
    fn a_field_that_is_odd_is_absent_and_loses_nothing() {
        let long = format!("\"{}\"", "x".repeat(MAX_TEXT + 1));
        for odd in ["null", "\"\"", "7", "[\"x\"]", "{}", "true", &long] {
            for field in ["token_type", "scope", "sub", "id_token"] {
                let answer = parse(&format!(
                    r#"{{"access_token":"a","refresh_token":"r","{field}":{odd}}}"#
                ));
                assert_eq!(
                    (answer.token_type, answer.scope, answer.subject),
                    (None, None, None),
                    "{field}: {odd}"
                );
                assert_eq!(shown(answer.refresh_token.as_ref()), Some("r"), "{field}: {odd}");
            }
        }
    }

    #[test]
    fn a_new_refresh_token_is_kept_whatever_the_access_token_is_like() {
        let long = "x".repeat(16 * 1024 + 1);
        for unusable in ["r", "a\\n", "\\u00e4", &long] {
            let answer = parse(&format!(r#"{{"access_token":"{unusable}","refresh_token":"r"}}"#));
            assert!(answer.access_token.is_none(), "{unusable:.20}");
            assert_eq!(shown(answer.refresh_token.as_ref()), Some("r"));
        }
        for unusable in ["null", "\"\"", "7", "\"r\\n\"", "\"\\u00e4\"", &format!("\"{long}\"")] {
            let answer = parse(&format!(r#"{{"access_token":"a","refresh_token":{unusable}}}"#));
            assert!(answer.refresh_token.is_none(), "{unusable:.20}");
            assert_eq!(shown(answer.access_token.as_ref()), Some("a"));
        }
    }

    #[test]
    fn no_extra_field_is_a_copy_of_a_token_and_all_of_them_are_bounded() {
        for copied in ["a", "r"] {
            let answer = parse(&format!(
                r#"{{"access_token":"a","refresh_token":"r","copy":"{copied}"}}"#
            ));
            assert!(answer.extra.is_empty(), "{copied}");
        }
        // Also of one that is not taken over.
        assert!(
            parse(r#"{"access_token":"a","refresh_token":"r\n","copy":"r\n"}"#)
                .extra
                .is_empty()
        );
        let long = "x".repeat(MAX_EXTRA);
        let answer = parse(&format!(
            r#"{{"access_token":"a","refresh_token":"r","account":"{long}","copy":"fits"}}"#
        ));
        assert_eq!(answer.extra, [("copy".to_owned(), "fits".to_owned())].into());
        assert!(answer.refresh_token.is_some());
    }

    #[test]
    fn the_subject_comes_from_the_id_token_if_the_answer_has_none() {
        let id_token = |claims: &str| format!("h.{}.s", BASE64URL_NOPAD.encode(claims.as_bytes()));
        let subject = |sub: &str, id_token: &str| {
            parse(&format!(
                r#"{{"access_token":"a","sub":{sub},"id_token":"{id_token}"}}"#
            ))
            .subject
        };
        assert_eq!(subject("null", &id_token(r#"{"sub":"bob"}"#)).as_deref(), Some("bob"));
        assert_eq!(
            subject("\"alice\"", &id_token(r#"{"sub":"bob"}"#)).as_deref(),
            Some("alice")
        );
        for junk in [
            "h",
            "h..s",
            "h.!!.s",
            &id_token("{}"),
            &id_token(r#"{"sub":7}"#),
            &id_token(r#"{"sub":""}"#),
        ] {
            assert_eq!(subject("null", junk), None, "{junk}");
        }
    }
}
