//! From an issuer to its endpoints, over the wire.

use credbroker::oauth::{ClientAuth, Endpoints, Provider as _};
use serde_json::json;

use crate::{
    LIMITS, REFRESH_TOKEN, built, endpoint,
    secrets::Fixed,
    seen,
    server::{Script, Server, answer, header},
    settings, word,
};

const TOKENS: &str = r#"{"access_token":"a"}"#;

/// A provider that knows nothing but its issuer.
fn issuer_only(issuer: &str) -> credbroker::oauth::ProviderSettings {
    let mut settings = settings("http://127.0.0.1:1/unused");
    settings.endpoints = Endpoints {
        issuer: Some(endpoint(issuer)),
        ..Endpoints::default()
    };
    settings
}

fn document(issuer: &str, token_endpoint: &str) -> Script {
    let body = json!({"issuer": issuer, "token_endpoint": token_endpoint}).to_string();
    Script::Answer(answer("200 OK", "", &body))
}

fn missing() -> Script {
    Script::Answer(answer("404 Not Found", "", "<html></html>"))
}

/// What the first line of each request asked for.
fn asked(server: &Server) -> Vec<String> {
    let first = |request: String| request.split(" HTTP/").next().unwrap().to_owned();
    server.requests().into_iter().map(first).collect()
}

const OAUTH: &str = "GET /.well-known/oauth-authorization-server/t";
const OPENID: &str = "GET /t/.well-known/openid-configuration";

/// A server for the documents and one for tokens, so that the first can be scripted before its address is known.
fn issuer_with(scripts: impl Fn(&str, &str) -> Vec<Script>) -> (Server, Server, String) {
    let tokens = Server::start(vec![Script::Answer(answer("200 OK", "", TOKENS))]);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let issuer = format!("http://{}/t", listener.local_addr().unwrap());
    let documents = Server::on(listener, scripts(&issuer, &tokens.url()));
    (documents, tokens, issuer)
}

#[tokio::test]
async fn the_first_document_that_is_the_issuers_own_is_taken() {
    type Scripts = fn(&str, &str) -> Vec<Script>;
    let table: [(Scripts, &[&str]); 4] = [
        (|issuer, token| vec![document(issuer, token)], &[OAUTH]),
        (
            |issuer, token| vec![missing(), document(issuer, token)],
            &[OAUTH, OPENID],
        ),
        (
            |issuer, token| vec![document("https://other.example", token), document(issuer, token)],
            &[OAUTH, OPENID],
        ),
        (
            |issuer, token| {
                vec![
                    Script::Answer(answer("200 OK", "", "<html></html>")),
                    document(issuer, token),
                ]
            },
            &[OAUTH, OPENID],
        ),
    ];
    for (scripts, want) in table {
        let (documents, tokens, issuer) = issuer_with(scripts);
        let provider = built(issuer_only(&issuer), LIMITS);
        for _ in 0..2 {
            assert_eq!(word(&provider.refresh(&REFRESH_TOKEN.into()).await), "answered");
        }
        // Once for the life of the process.
        assert_eq!(asked(&documents), want);
        assert_eq!(tokens.accepted(), 2);
        assert!(
            documents
                .requests()
                .iter()
                .all(|request| !request.contains(REFRESH_TOKEN))
        );
    }
}

#[tokio::test]
async fn without_a_document_nothing_is_sent_and_the_next_need_asks_again() {
    type Scripts = fn(&str, &str) -> Vec<Script>;
    let redirect = |_: &str, token: &str| {
        let location = format!("location: {token}\r\n");
        vec![Script::Answer(answer("302 Found", &location, ""))]
    };
    let table: [(&str, Scripts); 7] = [
        ("HTTP 404", |_, _| vec![missing()]),
        ("not a JSON object", |_, _| {
            vec![Script::Answer(answer("200 OK", "", "[]"))]
        }),
        ("another issuer", |_, token| {
            vec![document("https://other.example", token)]
        }),
        ("another issuer", |issuer, token| {
            let other = || document(&format!("{issuer}/"), token);
            vec![other(), missing(), other(), missing()]
        }),
        ("token_endpoint", |issuer, _| {
            vec![document(issuer, "http://a.example/token")]
        }),
        ("before the answer was complete", |_, _| vec![Script::Reset]),
        ("HTTP 302", redirect),
    ];
    for (want, scripts) in table {
        let (documents, tokens, issuer) = issuer_with(scripts);
        let provider = built(issuer_only(&issuer), LIMITS);
        for _ in 0..2 {
            let outcome = provider.refresh(&REFRESH_TOKEN.into()).await;
            assert_eq!(word(&outcome), "not processed", "{outcome:?}");
            assert!(seen(&outcome).contains(want), "{want}: {outcome:?}");
        }
        assert_eq!(asked(&documents), [OAUTH, OPENID, OAUTH, OPENID]);
        assert_eq!(tokens.accepted(), 0);
    }
}

#[tokio::test]
async fn an_issuer_that_comes_back_is_asked_then() {
    let (documents, tokens, issuer) = issuer_with(|issuer, token| vec![missing(), missing(), document(issuer, token)]);
    let provider = built(issuer_only(&issuer), LIMITS);
    assert_eq!(word(&provider.refresh(&REFRESH_TOKEN.into()).await), "not processed");
    assert_eq!(word(&provider.refresh(&REFRESH_TOKEN.into()).await), "answered");
    assert_eq!((documents.accepted(), tokens.accepted()), (3, 1));
}

#[tokio::test]
async fn the_document_may_exclude_basic_and_the_configuration_wins() {
    let (_documents, tokens, issuer) = issuer_with(|issuer, token| {
        let body = json!({
            "issuer": issuer, "token_endpoint": token,
            "token_endpoint_auth_methods_supported": ["client_secret_post"],
        });
        vec![Script::Answer(answer("200 OK", "", &body.to_string()))]
    });
    for (configured, basic) in [(None, false), (Some(ClientAuth::Basic), true)] {
        let mut settings = issuer_only(&issuer);
        settings.client_secret = Fixed::good("s");
        settings.client_auth = configured;
        built(settings, LIMITS).refresh(&REFRESH_TOKEN.into()).await;
        let request = tokens.requests().pop().unwrap();
        assert_eq!(header(&request, "authorization").is_some(), basic);
        assert_eq!(request.contains("client_secret=s"), !basic);
    }
}
