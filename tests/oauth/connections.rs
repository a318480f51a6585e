//! One presentation is one request on one connection, which is closed when it is over.

use std::time::Duration;

use credbroker::oauth::{ClientAuth, Provider as _, RequestFormat};
use tokio::{io::AsyncWriteExt as _, net::TcpListener, time::timeout};

use crate::{
    LIMITS, REFRESH_TOKEN, built, refreshed,
    secrets::Fixed,
    server::{Script, Server, answer, header, is_closed, request},
    settings, word,
};

const TOKENS: &str = r#"{"access_token":"a"}"#;

#[tokio::test]
async fn each_presentation_has_a_connection_of_its_own() {
    let server = Server::start(vec![Script::Answer(answer("200 OK", "", TOKENS))]);
    let provider = built(settings(&server.url()), LIMITS);
    for number in 1..=3 {
        let outcome = provider.refresh(&REFRESH_TOKEN.into()).await;
        assert_eq!(word(&outcome), "answered");
        // The server would have kept it open.
        server.assert_closed(1).await;
        assert_eq!((server.accepted(), server.requests().len()), (number, number));
    }
}

#[tokio::test]
async fn nothing_is_sent_a_second_time_by_itself() {
    let table = [
        Script::Reset,
        Script::AnswerAndClose(Vec::new()),
        Script::CloseUnread,
        Script::Answer(answer("503 Service Unavailable", "retry-after: 0\r\n", "")),
        Script::Answer(answer("408 Request Timeout", "connection: close\r\n", "")),
        Script::Answer(answer("401 Unauthorized", "www-authenticate: Basic\r\n", "")),
        Script::Answer(answer("421 Misdirected Request", "", "")),
    ];
    for script in table {
        let server = Server::start(vec![script.clone(), Script::Answer(answer("200 OK", "", TOKENS))]);
        let outcome = refreshed(settings(&server.url()), LIMITS).await;
        assert_ne!(word(&outcome), "answered");
        assert_eq!(server.accepted(), 1, "{script:?}");
    }
}

#[tokio::test]
async fn a_request_is_what_the_rfc_says() {
    let server = Server::start(vec![Script::Answer(answer("200 OK", "", TOKENS))]);
    let mut settings = settings(&format!("{}?tenant=t", server.url()));
    settings.token_params = vec![("audience".to_owned(), "a b".to_owned())];
    refreshed(settings, LIMITS).await;
    let request = &server.requests()[0];
    assert!(request.starts_with("POST /token?tenant=t HTTP/1.1\r\n"), "{request}");
    let host = server.address.to_string();
    for (name, value) in [
        ("host", Some(host.as_str())),
        ("accept", Some("application/json")),
        ("connection", Some("close")),
        ("content-type", Some("application/x-www-form-urlencoded")),
        ("user-agent", Some(concat!("credbroker/", env!("CARGO_PKG_VERSION")))),
        ("accept-encoding", None),
        ("authorization", None),
    ] {
        assert_eq!(header(request, name), value, "{name}");
    }
    let (_, body) = request.split_once("\r\n\r\n").unwrap();
    assert_eq!(
        body,
        format!("grant_type=refresh_token&refresh_token={REFRESH_TOKEN}&audience=a+b&client_id=client")
    );
}

#[tokio::test]
async fn a_client_shows_itself_as_configured() {
    // client:s%2F%3A+%C3%A4
    let basic = "Basic Y2xpZW50OnMlMkYlM0ErJUMzJUE0";
    let form = format!("grant_type=refresh_token&refresh_token={REFRESH_TOKEN}");
    let post = format!("{form}&client_id=client&client_secret=s%2F%3A+%C3%A4");
    let json = format!(
        r#"{{"client_id":"client","client_secret":"s/: ä","grant_type":"refresh_token","refresh_token":"{REFRESH_TOKEN}"}}"#
    );
    let table = [
        (None, RequestFormat::Form, Some(basic), &form),
        (Some(ClientAuth::Basic), RequestFormat::Form, Some(basic), &form),
        (Some(ClientAuth::Post), RequestFormat::Form, None, &post),
        (Some(ClientAuth::Post), RequestFormat::Json, None, &json),
    ];
    for (auth, format, authorization, body) in table {
        let server = Server::start(vec![Script::Answer(answer("200 OK", "", TOKENS))]);
        let mut settings = settings(&server.url());
        settings.client_secret = Fixed::good("s/: ä");
        settings.client_auth = auth;
        settings.format = format;
        refreshed(settings, LIMITS).await;
        let request = &server.requests()[0];
        assert_eq!(header(request, "authorization"), authorization, "{auth:?}");
        assert_eq!(request.split_once("\r\n\r\n").unwrap().1, body, "{auth:?}");
    }
}

#[tokio::test]
async fn who_stops_waiting_does_not_cut_a_presentation_off() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/token", listener.local_addr().unwrap());
    let provider = built(settings(&url), LIMITS);
    let waiting = tokio::spawn(async move { provider.refresh(&REFRESH_TOKEN.into()).await });
    let (mut stream, _) = listener.accept().await.unwrap();
    let request = request(&mut stream).await;
    assert!(request.contains(REFRESH_TOKEN));
    waiting.abort();
    assert!(waiting.await.unwrap_err().is_cancelled());
    // Turns in which a connection that was cut off would be closed.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let mut held = stream.into_std().unwrap();
    assert!(!is_closed(&mut held), "it was cut off");
    let mut stream = tokio::net::TcpStream::from_std(held).unwrap();
    stream.write_all(&answer("200 OK", "", TOKENS)).await.unwrap();
    // It takes the answer and closes, with nobody waiting.
    let ended = timeout(Duration::from_secs(10), stream.readable()).await;
    ended.unwrap().unwrap();
    assert!(is_closed(&mut stream.into_std().unwrap()));
}
