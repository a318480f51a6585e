//! Revocation (RFC 7009), over the wire.

use credbroker::oauth::{Provider as _, Revoked, Seen, TokenKind};

use crate::{
    LIMITS, built, endpoint,
    secrets::Fixed,
    server::{Script, Server, answer, header},
    settings,
};

#[tokio::test]
async fn a_provider_without_an_endpoint_does_not_revoke() {
    let server = Server::start(vec![Script::Reset]);
    let revoked = built(settings(&server.url()), LIMITS)
        .revoke(&"t".into(), TokenKind::Refresh)
        .await;
    assert_eq!((revoked, server.accepted()), (Revoked::NotSupported, 0));
}

#[tokio::test]
async fn a_revocation_is_done_when_the_provider_says_so_and_else_failed() {
    let table = [
        (Script::Answer(answer("200 OK", "", "")), Revoked::Done),
        (
            Script::Answer(answer("400 Bad Request", "", r#"{"error":"unsupported_token_type"}"#)),
            failed("HTTP 400"),
        ),
        (
            Script::Answer(answer("503 Service Unavailable", "", "")),
            failed("HTTP 503"),
        ),
        (
            Script::Answer(answer("302 Found", "location: http://127.0.0.1:1/\r\n", "")),
            failed("HTTP 302"),
        ),
        (
            Script::AnswerAndClose(Vec::new()),
            failed("the connection was closed before the answer was complete"),
        ),
    ];
    for (script, want) in table {
        let server = Server::start(vec![script]);
        let mut settings = settings("http://127.0.0.1:1/unused");
        settings.endpoints.revocation = Some(endpoint(&format!("http://{}/revoke", server.address)));
        settings.client_secret = Fixed::good("s");
        let revoked = built(settings, LIMITS).revoke(&"t+1".into(), TokenKind::Refresh).await;
        assert_eq!(revoked, want);
        let requests = server.requests();
        assert_eq!(requests.len(), 1);
        assert!(requests[0].starts_with("POST /revoke HTTP/1.1\r\n"));
        assert!(requests[0].ends_with("\r\n\r\ntoken=t%2B1&token_type_hint=refresh_token"));
        // client:s
        assert_eq!(header(&requests[0], "authorization"), Some("Basic Y2xpZW50OnM="));
    }
}

fn failed(seen: &str) -> Revoked {
    Revoked::Failed(Seen(seen.to_owned()))
}

#[tokio::test]
async fn the_endpoint_may_come_from_the_issuers_document() {
    let server = Server::start(vec![Script::Answer(answer("200 OK", "", ""))]);
    let good = format!("http://{}/revoke", server.address);
    let table = [
        (Some(good.as_str()), Revoked::Done),
        (None, Revoked::NotSupported),
        (
            Some("http://a.example/revoke"),
            failed("nothing was sent: the discovery document has a revocation_endpoint without https"),
        ),
    ];
    for (endpoint_there, want) in table {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let issuer = format!("http://{}", listener.local_addr().unwrap());
        let body = serde_json::json!({
            "issuer": issuer, "token_endpoint": "http://127.0.0.1:1/", "revocation_endpoint": endpoint_there,
        });
        let _documents = Server::on(listener, vec![Script::Answer(answer("200 OK", "", &body.to_string()))]);
        let mut settings = settings("http://127.0.0.1:1/unused");
        settings.endpoints.issuer = Some(endpoint(&issuer));
        let revoked = built(settings, LIMITS).revoke(&"t".into(), TokenKind::Access).await;
        assert_eq!(revoked, want);
    }
    assert_eq!(server.accepted(), 1);
}
