//! Reading what a token endpoint answered to a refresh, so that nothing odd about it loses the new refresh token.

use std::{collections::BTreeMap, time::Duration};

use secrecy::SecretString;
use zeroize::Zeroizing;

use super::{
    LooseJson, LooseObject,
    answer::{AnswerRules, MAX_EXTRA, MAX_TEXT, NotAnAnswer, TokenAnswer, bounded},
    claims::Claims,
    is_token_text,
};

impl TokenAnswer {
    /// Reads the answer of RFC 6749 section 5.1, leniently: a JSON object with an access token is a new token set, and
    /// the provider may have spent the old refresh token for it. So a field that is odd counts as absent, and so does
    /// one that is `null` or empty.
    ///
    /// The subject is `sub`, else the `sub` claim of the `id_token`, which came straight from the provider over TLS and
    /// is not verified beyond that (OpenID Connect Core section 3.1.3.7), else what the rules name.
    ///
    /// # Errors
    /// Not a JSON object, or no `access_token`.
    pub fn parse(json: &[u8], rules: &AnswerRules) -> Result<Self, NotAnAnswer> {
        let answer = LooseJson::new(json);
        let fields = answer.as_object().ok_or(NotAnAnswer)?;
        let access_token = fields.text("access_token").ok_or(NotAnAnswer)?;
        let refresh_token = fields.text("refresh_token");
        let claims = fields.text("id_token").and_then(|token| Claims::of(&token));
        let extra = extra(
            &fields,
            claims.as_ref(),
            rules,
            &access_token,
            refresh_token.as_ref().map(|token| token.as_str()),
        );
        let refresh_token = refresh_token.filter(|token| is_token_text(token));
        // Handing out the one would hand out the other, so what came as both is kept as the refresh token only.
        let sendable = is_token_text(&access_token) && refresh_token.as_ref() != Some(&access_token);
        let subject = short(&fields, "sub").or_else(|| {
            let claimed = claims.as_ref().and_then(Claims::subject);
            let subject = claimed.or_else(|| named_by(&fields, rules.subject))?;
            Some(subject).filter(|subject| (1..=MAX_TEXT).contains(&subject.len()))
        });
        Ok(Self {
            access_token: sendable.then(|| SecretString::from(access_token.as_str())),
            refresh_token: refresh_token.map(|token| SecretString::from(token.as_str())),
            lifetime: lifetime(&fields),
            token_type: short(&fields, "token_type"),
            scope: short(&fields, "scope"),
            subject,
            extra,
        })
    }
}

/// A field of bounded length that is no secret.
fn short(fields: &LooseObject<'_>, name: &str) -> Option<String> {
    let text = fields.text(name)?;
    (text.len() <= MAX_TEXT).then(|| text.as_str().to_owned())
}

/// Seconds as a number, a float or a numeric string, however large.
fn lifetime(fields: &LooseObject<'_>) -> Option<Duration> {
    let seconds: f64 = match fields.text("expires_in") {
        Some(text) => text.trim().parse().ok()?,
        // JSON's numbers are among those that this takes; its other values are not.
        None => fields.raw("expires_in")?.parse().ok()?,
    };
    (!seconds.is_nan()).then(|| bounded(seconds))
}

/// The account where this provider names it.
fn named_by(fields: &LooseObject<'_>, path: &[&str]) -> Option<String> {
    match path {
        [] => None,
        [name] => fields.text(name).map(|text| text.as_str().to_owned()),
        [name, rest @ ..] => named_by(&fields.object(name)?, rest),
    }
}

/// The fields that the configuration names, as far as they fit and are no copy of a token of this answer, whether that
/// one is taken over or not.
fn extra(
    fields: &LooseObject<'_>,
    claims: Option<&Claims>,
    rules: &AnswerRules,
    access_token: &str,
    refresh_token: Option<&str>,
) -> BTreeMap<String, String> {
    let mut room = MAX_EXTRA;
    let mut extra = BTreeMap::new();
    for name in &rules.extra_fields {
        let claimed = || claims?.field(name, rules).map(Zeroizing::new);
        let Some(value) = fields.text(name).or_else(claimed) else {
            continue;
        };
        let size = name.len() + value.len();
        let copy = value.as_str() == access_token || Some(value.as_str()) == refresh_token;
        if !copy && size <= room && !extra.contains_key(name) {
            room -= size;
            extra.insert(name.clone(), value.as_str().to_owned());
        }
    }
    extra
}

#[cfg(test)]
mod tests {
    use data_encoding::BASE64URL_NOPAD;
    use proptest::prelude::*;
    use secrecy::ExposeSecret as _;

    use super::{
        super::{Claim, MAX_LIFETIME},
        *,
    };

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
            ("1e999", Some(MAX_LIFETIME.as_secs())),
            ("-1e999", Some(0)),
            ("99999999999999999999999999", Some(MAX_LIFETIME.as_secs())),
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
    fn what_is_no_clean_json_elsewhere_loses_nothing() {
        let deep = format!("{}{}", "[".repeat(1000), "]".repeat(1000));
        for odd in ["1e999", r#""\ud800""#, r#"{"a":{"b":[1,2]}}"#, &deep, r#""a\u0000b""#] {
            for field in ["other", "scope", "account", "expires_in"] {
                let answer = parse(&format!(
                    r#"{{"access_token":"a","refresh_token":"r","{field}":{odd}}}"#
                ));
                assert!(
                    answer.access_token.is_some() && answer.refresh_token.is_some(),
                    "{field}: {odd:.20}"
                );
            }
        }
        // A name in another encoding, and a byte order mark.
        let latin = b"\xef\xbb\xbf{\"access_token\":\"a\",\"refresh_token\":\"r\",\"name\":\"J\xf6rg\"}";
        let answer = TokenAnswer::parse(latin, &rules()).unwrap();
        assert_eq!(shown(answer.refresh_token.as_ref()), Some("r"));
        // Twice the same name: the last counts, as with most readers.
        let answer = parse(r#"{"access_token":"a","access_token":"b","refresh_token":"r"}"#);
        assert_eq!(shown(answer.access_token.as_ref()), Some("b"));
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

    #[test]
    fn a_provider_may_name_fields_and_the_account_elsewhere() {
        let rules = AnswerRules {
            extra_fields: vec!["account_id".into()],
            claims: &[
                Claim {
                    field: "account_id",
                    path: &["https://a.example/auth", "account"],
                },
                Claim {
                    field: "account_id",
                    path: &["account_id"],
                },
            ],
            subject: &["account", "uuid"],
            ..AnswerRules::default()
        };
        let found = |fields: &str, claims: &str| {
            let id_token = format!("h.{}.s", BASE64URL_NOPAD.encode(claims.as_bytes()));
            let json = format!(r#"{{"access_token":"a",{fields}"id_token":"{id_token}"}}"#);
            let answer = TokenAnswer::parse(json.as_bytes(), &rules).unwrap();
            let imported = crate::credential::parse_answer(json.as_bytes(), &rules, "import", &now()).unwrap();
            assert_eq!((&imported.subject, &imported.extra), (&answer.subject, &answer.extra));
            (answer.extra.get("account_id").cloned(), answer.subject)
        };
        let both = r#"{"https://a.example/auth":{"account":"1"},"account_id":"2"}"#;
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(found("", both), (some("1"), None));
        assert_eq!(found("", r#"{"account_id":"2","sub":"s"}"#), (some("2"), some("s")));
        assert_eq!(found(r#""account_id":"3","#, both), (some("3"), None));
        assert_eq!(found(r#""account":{"uuid":"u"},"#, "{}"), (None, some("u")));
        assert_eq!(found(r#""account":{"uuid":7},"#, r#"{"account_id":7}"#), (None, None));
        assert_eq!(
            found(r#""account":"u","#, r#"{"https://a.example/auth":"1"}"#),
            (None, None)
        );
        assert_eq!(found(r#""account":{"uuid":"u"},"#, r#"{"sub":"s"}"#), (None, some("s")));
    }

    fn now() -> crate::clock::Now {
        crate::clock::Now {
            wall: jiff::Timestamp::UNIX_EPOCH,
            boot: Duration::ZERO,
            boot_id: "b".into(),
        }
    }

    fn any_json() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("null".to_owned()),
            Just("true".to_owned()),
            "-?[1-9][0-9]{0,30}([.][0-9]{1,5})?([eE][+-]?[0-9]{1,4})?",
            "[ -!#-\\[\\]-~]{0,30}".prop_map(|text| format!("\"{text}\"")),
            "[0-9a-f]{4}".prop_map(|unit| format!("\"\\u{unit}\"")),
        ];
        leaf.prop_recursive(4, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(","))),
                inner.prop_map(|value| format!("{{\"k\":{value}}}")),
            ]
        })
    }

    proptest! {
        #[test]
        fn nothing_in_another_field_loses_a_token(
            field in prop_oneof![
                Just("expires_in"), Just("scope"), Just("token_type"), Just("sub"), Just("id_token"), Just("account"),
                Just("error"), Just("other"),
            ],
            value in any_json(),
        ) {
            let answer = parse(&format!(r#"{{"access_token":"a","{field}":{value},"refresh_token":"r"}}"#));
            prop_assert_eq!(shown(answer.access_token.as_ref()), Some("a"));
            prop_assert_eq!(shown(answer.refresh_token.as_ref()), Some("r"));
            prop_assert!(answer.lifetime.is_none_or(|lifetime| lifetime <= MAX_LIFETIME));
        }

        #[test]
        fn no_octets_are_too_odd_to_be_read(octets in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = TokenAnswer::parse(&octets, &rules());
        }
    }
}
