//! One presentation is one request on one connection, which is closed when it is over.

use std::{
    io::{Read as _, Write as _},
    sync::mpsc,
    thread,
    time::Duration,
};

use credbroker::oauth::{ClientAuth, HttpLimits, Provider as _, RequestFormat};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpSocket, TcpStream},
    time::{Instant, timeout},
};

use crate::{
    IMPATIENT, LIMITS, REFRESH_TOKEN, built, refreshed,
    secrets::Fixed,
    seen,
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

/// Looked at in the very moment in which the outcome is there: the test has the server's side of the connection already.
#[tokio::test]
async fn the_connection_is_closed_when_the_outcome_is_there() {
    let table = [
        (
            "answered",
            "HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n{\"access_token\":\"a\"}",
        ),
        ("ambiguous", "HTTP/1.1 200 OK\r\ncontent-length: 9999999\r\n\r\n{}"),
        (
            "ambiguous",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nZ\r\n",
        ),
        (
            "ambiguous",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        ),
        // More than there may be, with more to come.
        (
            "ambiguous",
            "HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n0123456789abcdef",
        ),
        ("ambiguous", "HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n"),
        ("ambiguous", "no HTTP"),
    ];
    for (want, bytes) in [table; 4].concat() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/token", listener.local_addr().unwrap());
        let (hand_over, handed_over) = mpsc::channel();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut part = [0; 4096];
            assert!(stream.read(&mut part).unwrap() > 0);
            hand_over.send(stream.try_clone().unwrap()).unwrap();
            stream.write_all(bytes.as_bytes()).unwrap();
        });
        let limits = HttpLimits { body: 20, ..IMPATIENT };
        let outcome = refreshed(settings(&url), limits).await;
        let mut held = handed_over.try_recv().unwrap();
        assert!(is_closed(&mut held), "{bytes}");
        assert_eq!(word(&outcome), want, "{bytes}");
        server.join().unwrap();
    }
}

#[test]
fn the_product_has_these_limits() {
    assert_eq!(HttpLimits::default(), LIMITS);
}

#[tokio::test]
async fn who_cannot_be_reached_in_time_was_sent_nothing() {
    // A queue for one, which is full: the kernel drops what would come in.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let full = socket.listen(0).unwrap();
    let address = full.local_addr().unwrap();
    let mut queued = Vec::new();
    while let Ok(stream) = timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
        queued.push(stream.unwrap());
    }
    let began = Instant::now();
    let outcome = refreshed(settings(&format!("http://{address}/token")), IMPATIENT).await;
    assert_eq!(
        (word(&outcome), seen(&outcome).as_str()),
        ("not processed", "TCP: no answer within the time limit")
    );
    // The kernel itself would go on for two minutes.
    let took = began.elapsed();
    assert!(took >= IMPATIENT.connect && took < 10 * IMPATIENT.connect, "{took:?}");
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
    let mut stream = TcpStream::from_std(held).unwrap();
    stream.write_all(&answer("200 OK", "", TOKENS)).await.unwrap();
    // It takes the answer and closes, with nobody waiting.
    let ended = timeout(Duration::from_secs(10), stream.readable()).await;
    ended.unwrap().unwrap();
    assert!(is_closed(&mut stream.into_std().unwrap()));
}
