//! What a user opens, and what counts as an answer to it.

use std::collections::BTreeMap;

use data_encoding::BASE64URL_NOPAD;
use proptest::prelude::*;
use sha2::{Digest as _, Sha256};

use super::*;

const STATE_OF_TEST: &str = "state-of-this-login-0001";
const REDIRECT: &str = "https://a.example/oauth/callback";

fn request() -> Authorization {
    Authorization {
        url: String::new(),
        redirect_uri: REDIRECT.to_owned(),
        state: STATE_OF_TEST.into(),
        verifier: "v".into(),
        state_required: false,
        issuer: None,
        issuer_required: false,
    }
}

fn said(answer: &Result<SecretString, LoginTrouble>) -> String {
    match answer {
        Ok(code) => format!("code {}", code.expose_secret()),
        Err(LoginTrouble::NotOurs(_)) => "not ours".to_owned(),
        Err(trouble) => trouble.to_string(),
    }
}

fn pasted(request: &Authorization, text: &str) -> String {
    said(&request.answer(&text.into()))
}

fn prepared(settings: &LoginSettings) -> (Authorization, BTreeMap<String, String>) {
    let endpoint = Endpoint::parse("https://a.example/authorize?tenant=t").unwrap();
    let made = prepare(&endpoint, "my client", REDIRECT.to_owned(), settings, Issuer::default()).unwrap();
    let url = Url::parse(&made.url).unwrap();
    assert_eq!((url.host_str(), url.path()), (Some("a.example"), "/authorize"));
    let pairs: Vec<(String, String)> = url.query_pairs().into_owned().collect();
    let unique: BTreeMap<_, _> = pairs.iter().cloned().collect();
    assert_eq!(pairs.len(), unique.len(), "a parameter is there twice: {pairs:?}");
    (made, unique)
}

#[test]
fn the_url_has_what_the_rfcs_want_and_no_verifier() {
    let settings = LoginSettings {
        scopes: vec!["a".into(), "b".into()],
        authorization_params: vec![
            ("code".into(), "true".into()),
            // As if somebody got past the configuration.
            ("state".into(), "chosen".into()),
            ("code_challenge_method".into(), "plain".into()),
            ("redirect_uri".into(), "https://evil.example/".into()),
            ("response_type".into(), "token".into()),
        ],
        ..LoginSettings::default()
    };
    let (made, query) = prepared(&settings);
    let state = made.state.expose_secret();
    let verifier = made.verifier.expose_secret();
    let challenge = BASE64URL_NOPAD.encode(&Sha256::digest(verifier.as_bytes()));
    let want = [
        ("tenant", "t"),
        ("response_type", "code"),
        ("client_id", "my client"),
        ("redirect_uri", REDIRECT),
        ("scope", "a b"),
        ("state", state),
        ("code_challenge", &challenge),
        ("code_challenge_method", "S256"),
        ("code", "true"),
    ];
    let want: BTreeMap<_, _> = want.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    assert_eq!(query, want);
    // 256 bits each, one not made of the other.
    for secret in [state, verifier] {
        assert_eq!(BASE64URL_NOPAD.decode(secret.as_bytes()).unwrap().len(), 32);
    }
    assert!(!made.url.contains(verifier));
    assert_ne!(state, challenge);
    let (again, _) = prepared(&settings);
    assert_ne!(again.state.expose_secret(), state);
    assert_ne!(again.verifier.expose_secret(), verifier);
    // Without scopes there is no empty one.
    assert!(!prepared(&LoginSettings::default()).1.contains_key("scope"));
}

#[test]
fn a_code_a_code_with_its_state_or_the_whole_url() {
    let table = [
        ("c0de", "code c0de"),
        ("4/0A-b_c~d.e", "code 4/0A-b_c~d.e"),
        ("c0de#state-of-this-login-0001", "code c0de"),
        ("c0de#state-of-this-login-0002", "not ours"),
        ("c0de#", "not ours"),
        ("#state-of-this-login-0001", "not ours"),
        ("c#0de#state-of-this-login-0001", "code c#0de"),
        ("", "not ours"),
        (" c0de", "not ours"),
        ("c0de\n", "not ours"),
        ("c0\u{7}de", "not ours"),
        ("c0\u{85}de", "not ours"),
        ("c0 de", "not ours"),
        (
            "https://a.example/oauth/callback?code=c0de&state=state-of-this-login-0001",
            "code c0de",
        ),
        (
            "HTTPS://A.example:443/oauth/callback?state=state-of-this-login-0001&code=c%2F0de&scope=x#_=_",
            "code c/0de",
        ),
        ("https://a.example/oauth/callback?code=c0de", "code c0de"),
        ("https://a.example/oauth/callback?code=c0de&state=", "not ours"),
        ("https://a.example/oauth/callback?code=c0de&state=other", "not ours"),
        (
            "https://a.example/oauth/callback?code=c0de&code=d&state=state-of-this-login-0001",
            "not ours",
        ),
        (
            "https://a.example/oauth/callback?code=c0de&state=state-of-this-login-0001&state=x",
            "not ours",
        ),
        (
            "https://a.example/oauth/callback?code=&state=state-of-this-login-0001",
            "not ours",
        ),
        (
            "https://a.example/oauth/callback?code=c%0Ade&state=state-of-this-login-0001",
            "not ours",
        ),
        (
            "https://a.example/oauth/callback?state=state-of-this-login-0001",
            "not ours",
        ),
        ("https://a.example/oauth/callback", "not ours"),
        ("https://a.example/oauth/callback/?code=c0de", "not ours"),
        ("https://a.example/oauth/Callback?code=c0de", "not ours"),
        ("https://a.example/oauth/x/../callback?code=c0de", "code c0de"),
        ("https://a.example/oauth/callback#code=c0de", "not ours"),
        ("http://a.example/oauth/callback?code=c0de", "not ours"),
        ("https://b.example/oauth/callback?code=c0de", "not ours"),
        ("https://a.example:444/oauth/callback?code=c0de", "not ours"),
        ("https://x@a.example/oauth/callback?code=c0de", "not ours"),
        ("https://", "not ours"),
        ("http:", "not ours"),
        (
            "https://a.example/oauth/callback?error=access_denied&state=state-of-this-login-0001",
            "the user said no",
        ),
        (
            "https://a.example/oauth/callback?error=access_denied&state=other",
            "not ours",
        ),
        (
            "https://a.example/oauth/callback?error=invalid_scope&error_description=SECRET&code=c",
            "the provider refused: the redirect brought error invalid_scope",
        ),
        (
            "https://a.example/oauth/callback?error=SECRET",
            "the provider refused: the redirect brought an error of the provider's own",
        ),
    ];
    for (text, want) in table {
        assert_eq!(pasted(&request(), text), want, "{text:?}");
    }
    let long = "c".repeat(LONGEST_ANSWER);
    assert_eq!(pasted(&request(), &long), format!("code {long}"));
    assert_eq!(pasted(&request(), &format!("{long}c")), "not ours");
}

#[test]
fn a_state_may_be_required() {
    let request = Authorization {
        state_required: true,
        ..request()
    };
    for (text, want) in [
        ("c0de", "not ours"),
        ("c0de#state-of-this-login-0001", "code c0de"),
        ("https://a.example/oauth/callback?code=c0de", "not ours"),
        ("https://a.example/oauth/callback?error=access_denied", "not ours"),
        (
            "https://a.example/oauth/callback?code=c0de&state=state-of-this-login-0001",
            "code c0de",
        ),
    ] {
        assert_eq!(pasted(&request, text), want, "{text}");
    }
}

#[test]
fn an_issuer_that_is_known_is_the_one_that_answers() {
    let url = |rest: &str| format!("{REDIRECT}?code=c0de{rest}");
    let of = |issuer: Option<&str>, issuer_required| Authorization {
        issuer: issuer.map(str::to_owned),
        issuer_required,
        ..request()
    };
    let right = "&iss=https%3A%2F%2Fa.example%2Ft";
    let table = [
        (None, false, "&iss=https%3A%2F%2Fevil.example", "code c0de"),
        (Some("https://a.example/t"), false, "", "code c0de"),
        (Some("https://a.example/t"), false, right, "code c0de"),
        (
            Some("https://a.example/t"),
            false,
            "&iss=https%3A%2F%2Fa.example%2Ft%2F",
            "not ours",
        ),
        (Some("https://a.example/t"), false, "&iss=", "not ours"),
        (Some("https://a.example/t"), true, right, "code c0de"),
        (Some("https://a.example/t"), true, "", "not ours"),
    ];
    for (issuer, required, rest, want) in table {
        assert_eq!(
            pasted(&of(issuer, required), &url(rest)),
            want,
            "{issuer:?} {required} {rest}"
        );
    }
    // The mix-up attack brings an error of the other issuer, too.
    let error = format!("{REDIRECT}?error=access_denied&iss=https%3A%2F%2Fevil.example");
    assert_eq!(pasted(&of(Some("https://a.example/t"), false), &error), "not ours");
}

#[test]
fn an_exchange_is_what_the_rfcs_want_in_both_encodings() {
    let client = Client {
        id: "c",
        secret: None,
        auth: crate::oauth::ClientAuth::None,
    };
    let (code, verifier, state) = ("c/1".into(), "v".into(), "s".into());
    let grant = |state| Grant {
        code: &code,
        redirect_uri: REDIRECT,
        verifier: &verifier,
        state,
    };
    let body = |state, format| {
        let to = Endpoint::parse("https://a.example/token").unwrap();
        let (_, body) = exchange(to, &client, &grant(state), format, &[]).unwrap().body.unwrap();
        String::from_utf8(body.to_vec()).unwrap()
    };
    assert_eq!(
        body(None, RequestFormat::Form),
        "grant_type=authorization_code&code=c%2F1&redirect_uri=https%3A%2F%2Fa.example%2Foauth%2Fcallback\
         &code_verifier=v&client_id=c"
    );
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&body(Some(&state), RequestFormat::Json)).unwrap(),
        serde_json::json!({
            "grant_type": "authorization_code", "code": "c/1", "redirect_uri": REDIRECT, "code_verifier": "v",
            "state": "s", "client_id": "c",
        })
    );
}

proptest! {
    #[test]
    fn any_text_is_an_answer_or_none(
        text in prop_oneof![
            any::<String>(),
            "https?://[a-z.:@\\[\\]/%?#=&]{0,60}",
            "https://a\\.example/oauth/callback\\?((code|state|iss|error)=[a-z0-9%&#-]{0,30}&?){0,4}",
            "[a-z0-9#-]{0,60}",
        ],
        state_required in any::<bool>(),
    ) {
        let request = Authorization { state_required, ..request() };
        if let Ok(code) = request.answer(&text.as_str().into()) {
            let code = code.expose_secret();
            prop_assert!(!code.is_empty() && !code.chars().any(|c| c.is_control() || c.is_whitespace()));
            prop_assert!(!state_required || text.contains(STATE_OF_TEST));
        }
    }
}
