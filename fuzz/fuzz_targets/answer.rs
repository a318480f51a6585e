//! Any text as the answer to an authorization request, as somebody pastes it or as the query of a redirect: nothing
//! panics, what is taken for a code is one word, and with a `state` that is required none is taken without it.

#![no_main]

use credbroker::oauth::login::Authorization;
use libfuzzer_sys::fuzz_target;
use secrecy::{ExposeSecret, SecretString};

const STATE: &str = "s7Qe";
const REDIRECT: &str = "https://a.example/cb";

fn taken(request: &Authorization, text: &str) -> bool {
    let Ok(code) = request.answer(&SecretString::from(text)) else {
        return false;
    };
    let code = code.expose_secret();
    assert!(!code.is_empty() && code.len() <= 4096);
    assert!(!code.chars().any(|c| c.is_control() || c.is_whitespace()));
    true
}

// The first octet says what is required.
fuzz_target!(|data: &[u8]| {
    let [how, rest @ ..] = data else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    let request = Authorization {
        url: String::new(),
        redirect_uri: REDIRECT.to_owned(),
        state: STATE.into(),
        verifier: "v".into(),
        state_required: how & 1 != 0,
        issuer: (how & 2 != 0).then(|| "https://a.example".to_owned()),
        issuer_required: how & 4 != 0,
    };
    taken(&request, text);
    let in_url = taken(&request, &format!("{REDIRECT}?{text}"));
    // Percent signs may hide it.
    if in_url && request.state_required && !text.contains('%') {
        assert!(text.contains(STATE));
    }
});
