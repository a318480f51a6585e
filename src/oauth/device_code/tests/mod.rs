//! What providers answer to a device login, and what is sent.

use http::HeaderMap;

use super::*;

fn answer(status: u16, body: &str) -> Answer {
    Answer {
        status: StatusCode::from_u16(status).unwrap(),
        headers: HeaderMap::new(),
        body: Zeroizing::new(body.into()),
    }
}

fn endpoint() -> Endpoint {
    Endpoint::parse("https://a.example/api/accounts/deviceauth/usercode?k=v").unwrap()
}

fn begun_with(status: u16, body: &str) -> Result<DeviceAuthorization, LoginTrouble> {
    begun(&answer(status, body), DeviceDialect::Rfc8628, &endpoint(), None)
}

/// A good answer with one field written as given; without it if that is empty.
fn with(field: &str, value: &str) -> Result<DeviceAuthorization, LoginTrouble> {
    let mut fields = vec![
        ("device_code", "\"d\""),
        ("user_code", "\"ABCD-EFGH\""),
        ("verification_uri", "\"https://a.example/device\""),
    ];
    fields.retain(|(name, _)| *name != field);
    if !value.is_empty() {
        fields.push((field, value));
    }
    let fields: Vec<_> = fields
        .iter()
        .map(|(name, value)| format!("\"{name}\":{value}"))
        .collect();
    begun_with(200, &format!("{{{}}}", fields.join(",")))
}

#[test]
fn intervals_and_lifetimes_are_numbers_however_they_are_written() {
    let table = [
        ("", 5.0),
        ("5", 5.0),
        ("\"7\"", 7.0),
        ("\" 7.5 \"", 7.5),
        ("0.2", 1.0),
        ("0", 5.0),
        ("-3", 5.0),
        ("null", 5.0),
        ("\"soon\"", 5.0),
        ("true", 5.0),
        ("[5]", 5.0),
        ("\"NaN\"", 5.0),
        ("1e999", 60.0),
        ("99999999999999999999", 60.0),
        ("61", 60.0),
    ];
    for (value, want) in table {
        let begun = with("interval", value).unwrap();
        assert_eq!(begun.interval, Duration::from_secs_f64(want), "{value}");
    }
    let table = [
        ("", None),
        ("900", Some(900)),
        ("\"900\"", Some(900)),
        ("1e999", Some(86400)),
        ("0", None),
        ("\"\"", None),
        ("{}", None),
    ];
    for (value, want) in table {
        let begun = with("expires_in", value).unwrap();
        assert_eq!(begun.lifetime.map(|lifetime| lifetime.as_secs()), want, "{value}");
    }
}

#[test]
fn only_a_url_that_may_be_opened_is_shown() {
    let table = [
        ("https://a.example/device", Some("https://a.example/device")),
        ("https://a.example/#/device", Some("https://a.example/#/device")),
        ("http://localhost:3000/device", Some("http://localhost:3000/device")),
        ("http://127.0.0.1/device", Some("http://127.0.0.1/device")),
        ("http://[::1]/device", Some("http://[::1]/device")),
        ("https://b\u{fc}cher.example/", Some("https://xn--bcher-kva.example/")),
        ("http://a.example/device", None),
        ("http://localhost.evil.example/", None),
        ("https://a.example@evil.example/", None),
        ("javascript:alert(1)", None),
        ("file:///etc/passwd", None),
        ("https://", None),
        ("a.example/device", None),
        ("", None),
        ("https://a.example/\\u001b[2J", None),
        ("https://a.example/\\n", None),
    ];
    for (text, want) in table {
        for name in ["verification_uri", "verification_url"] {
            let json = format!(r#"{{"device_code":"d","user_code":"u","{name}":"{text}"}}"#);
            let shown = begun_with(200, &json).map(|begun| begun.verification_url).ok();
            assert_eq!(shown.as_deref(), want, "{text}");
        }
        for name in ["verification_uri_complete", "verification_url_complete"] {
            let begun = with(name, &format!("\"{text}\"")).unwrap();
            assert_eq!(begun.verification_url_complete.as_deref(), want, "{text}");
        }
    }
    let long = format!("\"https://a.example/{}\"", "x".repeat(LONGEST_URL));
    assert!(with("verification_uri", &long).is_err());
}

#[test]
fn a_user_code_can_be_read_and_typed() {
    let table = [
        ("\" WDJB-MJHT \"", Some("WDJB-MJHT")),
        ("\"12 34\"", Some("12 34")),
        ("\"\\u00c4BC\"", Some("\u{c4}BC")),
        ("\"a\\u001b[2Jb\"", Some("a\\u{1b}[2Jb")),
        ("\"a\\u202eb\"", Some("a\\u{202e}b")),
        ("\" \"", None),
        ("\"\"", None),
        ("7", None),
        ("", None),
    ];
    for (value, want) in table {
        let shown = with("user_code", value).map(|begun| begun.user_code).ok();
        assert_eq!(shown.as_deref(), want, "{value}");
    }
    assert!(with("user_code", &format!("\"{}\"", "x".repeat(LONGEST_USER_CODE + 1))).is_err());
}

#[test]
fn what_is_no_device_login_says_why() {
    let good = r#"{"device_code":"d","user_code":"u","verification_uri":"https://a.example/"}"#;
    let table = [
        (200, "{}", "of use: HTTP 200 without a verification URL"),
        (200, "<html>SECRET</html>", "of use: HTTP 200 without"),
        (
            200,
            r#"{"user_code":"u","verification_uri":"https://a.example/"}"#,
            "without a device code",
        ),
        (
            200,
            r#"{"device_code":"d","verification_uri":"https://a.example/"}"#,
            "without a user code",
        ),
        (
            200,
            r#"{"error":"device_flow_disabled"}"#,
            "rejected the client or the request: HTTP 200, error device_flow",
        ),
        (
            400,
            r#"{"error":"invalid_scope"}"#,
            "rejected the client or the request: HTTP 400, error invalid_scope",
        ),
        (401, r#"{"error":"invalid_client"}"#, "rejected the client"),
        (404, "", "rejected the client or the request: HTTP 404"),
        (302, good, "rejected the client or the request: HTTP 302"),
        (429, "", "of use: HTTP 429"),
        (503, good, "of use: HTTP 503"),
    ];
    for (status, body, want) in table {
        let trouble = begun_with(status, body).unwrap_err().to_string();
        assert!(
            trouble.contains(want) && !trouble.contains("SECRET"),
            "{status} {body}: {trouble}"
        );
    }
    assert!(begun_with(200, good).is_ok());
}

fn word(poll: &DevicePoll) -> &'static str {
    match poll {
        DevicePoll::Answered(_) => "answered",
        DevicePoll::Pending => "pending",
        DevicePoll::SlowDown => "slow down",
        DevicePoll::NotProcessed { .. } => "not processed",
        DevicePoll::Ended(LoginTrouble::Denied) => "denied",
        DevicePoll::Ended(LoginTrouble::Expired) => "expired",
        DevicePoll::Ended(LoginTrouble::Refused(_)) => "refused",
        DevicePoll::Ended(LoginTrouble::Rejected(_)) => "rejected",
        DevicePoll::Ended(LoginTrouble::Unavailable(_)) => "unavailable",
        DevicePoll::Ended(_) => "other",
    }
}

fn now() -> Now {
    Now {
        wall: jiff::Timestamp::UNIX_EPOCH,
        boot: Duration::ZERO,
        boot_id: "b".into(),
    }
}

#[test]
fn the_error_decides_before_the_status() {
    let settings = LoginSettings {
        denied_errors: vec!["authorization_declined".into()],
        refused_errors: vec!["bad_verification_code".into()],
        ..LoginSettings::default()
    };
    let judged = |status, body: &str| {
        let poll = judge(&answer(status, body), &settings, &OutcomeRules::default(), &now());
        assert!(!format!("{poll:?}").contains("SECRET"), "{poll:?}");
        word(&poll)
    };
    let error = |code: &str| format!(r#"{{"error":"{code}","error_description":"SECRET"}}"#);
    for status in [200, 400, 401, 403, 404, 428, 429, 500, 503] {
        for (code, want) in [
            ("authorization_pending", "pending"),
            ("slow_down", "slow down"),
            ("access_denied", "denied"),
            ("authorization_declined", "denied"),
            ("expired_token", "expired"),
            ("invalid_grant", "refused"),
            ("bad_verification_code", "refused"),
            ("invalid_client", "rejected"),
            ("unauthorized_client", "rejected"),
            ("SECRET", "rejected"),
        ] {
            assert_eq!(judged(status, &error(code)), want, "{status} {code}");
        }
    }
    let table: [(&[u16], &str, &str); 5] = [
        (&[200, 201], r#"{"access_token":"a","token_type":"bearer"}"#, "answered"),
        (&[408, 429, 500, 502, 503, 504], "", "not processed"),
        (&[200], "<html></html>", "unavailable"),
        (&[200], "{}", "unavailable"),
        (&[400, 403, 404, 302], "", "rejected"),
    ];
    for (statuses, body, want) in table {
        for status in statuses {
            assert_eq!(judged(*status, body), want, "{status} {body}");
        }
    }
}

#[test]
fn openai_says_pending_by_its_status() {
    let settings = LoginSettings::default();
    let judged =
        |status, body: &str| match judge_codex(&answer(status, body), &settings, &OutcomeRules::default(), &now()) {
            CodexPoll::Code(code, verifier) => format!("{} {}", code.expose_secret(), verifier.expose_secret()),
            CodexPoll::Other(poll) => word(&poll).to_owned(),
        };
    let table = [
        (
            200,
            r#"{"authorization_code":"c","code_verifier":"v","code_challenge":"x"}"#,
            "c v",
        ),
        (200, r#"{"authorization_code":"c"}"#, "unavailable"),
        // Tokens come from the token endpoint.
        (200, r#"{"access_token":"a"}"#, "unavailable"),
        (403, "", "pending"),
        (404, "<html></html>", "pending"),
        (
            403,
            r#"{"error":{"code":"deviceauth_authorization_unknown","message":"x"}}"#,
            "pending",
        ),
        (403, r#"{"authorization_code":"c","code_verifier":"v"}"#, "pending"),
        (403, r#"{"error":"access_denied"}"#, "denied"),
        (403, r#"{"error":{"code":"access_denied"}}"#, "denied"),
        (404, r#"{"error":"expired_token"}"#, "expired"),
        (400, "", "rejected"),
        (429, "", "not processed"),
        (503, "", "not processed"),
        (500, "", "not processed"),
    ];
    for (status, body, want) in table {
        assert_eq!(judged(status, body), want, "{status} {body}");
    }
    let begun = begun(
        &answer(200, r#"{"device_auth_id":"d","usercode":"U-1","interval":"3"}"#),
        DeviceDialect::Codex,
        &endpoint(),
        None,
    );
    let begun = begun.unwrap();
    assert_eq!(begun.verification_url, "https://a.example/codex/device");
    assert_eq!((&*begun.user_code, begun.interval.as_secs()), ("U-1", 3));
    assert_eq!(begun.lifetime, Some(CODEX_LIFETIME));
    let poll = codex_poll(&endpoint(), &begun).unwrap();
    assert_eq!(poll.to.as_str(), "https://a.example/api/accounts/deviceauth/token");
    assert_eq!(&**poll.body.unwrap().1, br#"{"device_auth_id":"d","user_code":"U-1"}"#);
    let pages = codex_pages(&endpoint()).unwrap();
    assert_eq!(pages.redirect_uri, "https://a.example/deviceauth/callback");
}
