//! What a provider's section needs as a whole.

use super::*;

#[test]
fn a_provider_is_complete_or_says_what_is_missing() {
    let table = [
        ("preset = 'google'", 1, "lacks client_id"),
        (
            "client_id = 'c'",
            1,
            "set preset, or issuer for discovery, or at least token_endpoint",
        ),
        (
            "client_id = 'c'\nauthorization_endpoint = 'https://a.example/'",
            1,
            "at least token_endpoint",
        ),
        (
            "client_id = 'c'\nissuer = 'https://a.example/?x=hunter2'",
            3,
            "issuer must not have a query",
        ),
        (
            "client_id = 'c'\ntoken_endpoint = 'https://a.example/'\nflow = 'device_code'",
            4,
            "flow needs device_authorization_endpoint",
        ),
        (
            "client_id = 'c'\ntoken_endpoint = 'https://a.example/'\nflow = 'browser_redirect'",
            4,
            "flow needs authorization_endpoint",
        ),
        (
            "client_id = 'c'\ntoken_endpoint = 'https://a.example/'\nflow = 'pkce_redirect'",
            4,
            "flow needs authorization_endpoint",
        ),
        (
            "client_id = 'c'\ntoken_endpoint = 'https://a.example/'\nauthorization_endpoint = 'https://a.example/'\n\
             flow = 'pkce_redirect'",
            5,
            "flow needs redirect_url",
        ),
        (
            "client_id = 'c'\npreset = 'google'\nclient_auth = 'basic'",
            4,
            "client_auth needs a client secret",
        ),
        (
            "client_id = 'c'\npreset = 'google'\nclient_auth = 'post'",
            4,
            "client_auth needs a client secret",
        ),
        (
            "client_id = 'c'\npreset = 'google'\nclient_auth = 'none'\nclient_secret_env = 'X'",
            4,
            "the client secret would never be used",
        ),
        (
            "client_id = 'c'\npreset = 'google'\nclient_secret_env = 'X'\nclient_secret_file = 'x'",
            4,
            "client_secret_env cannot be set beside client_secret_file",
        ),
        (
            "client_id = 'c'\npreset = 'google'\nclient_secret_env = 'X'\nclient_secret_command = 'x'",
            5,
            "client_secret_command cannot be set beside client_secret_env",
        ),
        (
            "client_secret = 'hunter2'",
            2,
            "a secret is never written into this file",
        ),
        (
            "client_id = 'c'\npreset = 'google'\nextra_fields = ['refresh_token']",
            4,
            "must not name \"refresh_token\"",
        ),
        (
            "client_id = 'c'\npreset = 'google'\nauthorization_params = { state = 'hunter2' }",
            4,
            "must not set \"state\"",
        ),
        (
            "client_id = 'c'\npreset = 'google'\ntoken_params.client_secret = 'hunter2'",
            4,
            "must not set \"client_secret\"",
        ),
    ];
    for (keys, line, message) in table {
        let error = error(&format!("[providers.n]\n{keys}"), line);
        assert!(
            error.contains(message) && error.contains("providers.n"),
            "{keys}\n{error}"
        );
    }
    for complete in [
        "client_id = 'c'\ntoken_endpoint = 'https://a.example/'",
        "client_id = 'c'\nissuer = 'https://a.example/'\nflow = 'device_code'",
        "client_id = 'c'\npreset = 'microsoft'\nissuer = 'https://login.example/t/v2.0'",
        "client_id = 'c'\npreset = 'google'\nclient_secret_env = 'X'\nclient_auth = 'post'",
        "client_id = 'c'\npreset = 'qwen'\nclient_auth = 'none'",
    ] {
        load(&format!("[providers.n]\n{complete}")).unwrap();
    }
}

#[test]
fn an_endpoint_that_is_asked_without_tls_is_known() {
    let keys = [
        "issuer",
        "token_endpoint",
        "revocation_endpoint",
        "device_authorization_endpoint",
        "authorization_endpoint",
    ];
    let found = |text: &str| {
        let config = load(&format!("[providers.p]\nclient_id = 'c'\n{text}")).unwrap();
        config.providers.values().next().unwrap().without_tls()
    };
    for key in keys {
        for (url, without) in [
            ("https://127.0.0.1/x", false),
            ("http://127.0.0.1/x", true),
            ("http://localhost:8080/x", true),
            ("http://[::1]/x", true),
        ] {
            let text = format!("preset = 'google'\n{key} = '{url}'");
            assert_eq!(found(&text), without.then_some(key), "{text}");
        }
    }
    assert_eq!(found("preset = 'google'"), None);
}
