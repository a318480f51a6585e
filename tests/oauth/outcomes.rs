//! Every row of the table of outcomes, as it comes over the wire.

use std::time::Duration;

use credbroker::oauth::{Outcome, OutcomeRules};
use tokio::{net::TcpListener, time::Instant};

use crate::{
    IMPATIENT, LIMITS, REFRESH_TOKEN, refreshed, seen,
    server::{Script, Server, answer},
    settings, word,
};

const TOKENS: &str =
    r#"{"access_token":"at-canary-fresh-01","refresh_token":"rt-canary-fresh-01","expires_in":"3600"}"#;
const JSON: &str = "content-type: application/json\r\n";
const GRANT: &str = r#"{"error":"invalid_grant"}"#;

/// The outcome of one presentation to a server with this script, which sees one connection and its end.
async fn outcome(script: Script) -> Outcome {
    let leaves_open = !matches!(script, Script::AnswerAndClose(_) | Script::CloseUnread | Script::Reset);
    let server = Server::start(vec![script]);
    let mut settings = settings(&server.url());
    settings.rules = OutcomeRules {
        refused_errors: vec!["bad_refresh_token".into()],
        refused_statuses: vec![410],
        ..OutcomeRules::default()
    };
    let outcome = refreshed(settings, LIMITS).await;
    server.assert_closed(usize::from(leaves_open)).await;
    assert_eq!(server.accepted(), 1);
    outcome
}

#[tokio::test]
async fn an_answer_that_is_complete_is_judged_by_status_and_json() {
    let table = [
        ("answered", "200 OK", TOKENS),
        ("answered", "200 OK", r#"{"access_token":"a","error":"x"}"#),
        ("refused", "400 Bad Request", GRANT),
        ("refused", "401 Unauthorized", GRANT),
        ("refused", "404 Not Found", GRANT),
        ("refused", "200 OK", GRANT),
        ("refused", "500 Internal Server Error", GRANT),
        ("refused", "200 OK", r#"{"error":"bad_refresh_token"}"#),
        ("refused", "410 Gone", ""),
        ("rejected", "200 OK", r#"{"error":"incorrect_client_credentials"}"#),
        ("rejected", "400 Bad Request", r#"{"error":"invalid_client"}"#),
        ("rejected", "400 Bad Request", r#"{"error":"server_error"}"#),
        ("rejected", "400 Bad Request", "<html>invalid_grant</html>"),
        ("rejected", "401 Unauthorized", ""),
        ("rejected", "403 Forbidden", "request 401 invalid_grant"),
        ("rejected", "404 Not Found", "{}"),
        ("not processed", "429 Too Many Requests", ""),
        ("not processed", "503 Service Unavailable", "<html></html>"),
        ("ambiguous", "408 Request Timeout", ""),
        ("ambiguous", "500 Internal Server Error", "invalid_grant"),
        ("ambiguous", "500 Internal Server Error", r#"{"error":"server_error"}"#),
        ("ambiguous", "502 Bad Gateway", "<html></html>"),
        ("ambiguous", "504 Gateway Timeout", ""),
        ("ambiguous", "529 Overloaded", ""),
        ("ambiguous", "200 OK", "<html>access_token</html>"),
        ("ambiguous", "200 OK", r#"{"access_token":"a""#),
        ("ambiguous", "200 OK", "{}"),
    ];
    for (want, status, body) in table {
        let outcome = outcome(Script::Answer(answer(status, JSON, body))).await;
        assert_eq!(word(&outcome), want, "{status} {body}: {outcome:?}");
    }
}

#[tokio::test]
async fn a_new_token_set_is_read_as_leniently_as_it_is_written() {
    let body = r#"{"access_token":"a","refresh_token":"r","expires_in":"60","scope":null,"token_type":["bearer"]}"#;
    let Outcome::Answered(tokens) = outcome(Script::Answer(answer("200 OK", "", body))).await else {
        panic!("no answer");
    };
    assert_eq!(tokens.lifetime, Some(Duration::from_secs(60)));
    assert!(tokens.refresh_token.is_some() && tokens.token_type.is_none());
}

#[tokio::test]
async fn an_answer_that_is_not_complete_is_ambiguous() {
    let whole = String::from_utf8(answer("200 OK", JSON, TOKENS)).unwrap();
    let (head, _) = whole.split_once("\r\n\r\n").unwrap();
    let table = [
        ("nothing", Script::AnswerAndClose(Vec::new())),
        ("half a head", Script::AnswerAndClose(head.as_bytes()[..20].to_vec())),
        (
            "a head alone",
            Script::AnswerAndClose(format!("{head}\r\n\r\n").into_bytes()),
        ),
        (
            "half a body",
            Script::AnswerAndClose(whole.as_bytes()[..whole.len() - 2].to_vec()),
        ),
        // Also where the half that is there would be a refusal.
        (
            "a refusal cut short",
            Script::AnswerAndClose(
                format!("HTTP/1.1 400 Bad Request\r\ncontent-length: 99\r\n\r\n{GRANT}").into_bytes(),
            ),
        ),
        (
            "chunks without an end",
            Script::AnswerAndClose(
                format!(
                    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{TOKENS}\r\n",
                    TOKENS.len()
                )
                .into_bytes(),
            ),
        ),
        (
            "something else",
            Script::AnswerAndClose(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()),
        ),
        (
            "a head without an end",
            Script::AnswerAndClose([b"HTTP/1.1 200 OK\r\nx: ".to_vec(), vec![b'x'; 1024 * 1024]].concat()),
        ),
        ("a reset", Script::Reset),
    ];
    for (name, script) in table {
        let outcome = outcome(script).await;
        assert_eq!(word(&outcome), "ambiguous", "{name}: {outcome:?}");
    }
}

#[tokio::test]
async fn silence_is_ambiguous_after_the_limit() {
    for so_far in [
        "",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{",
    ] {
        let server = Server::start(vec![Script::Answer(so_far.into())]);
        let began = Instant::now();
        let outcome = refreshed(settings(&server.url()), IMPATIENT).await;
        let took = began.elapsed();
        assert_eq!(word(&outcome), "ambiguous", "{so_far}: {outcome:?}");
        assert!(seen(&outcome).contains("time limit"), "{outcome:?}");
        // What connecting may take is a limit of its own.
        assert!(took >= IMPATIENT.answer && took < IMPATIENT.connect, "{took:?}");
        server.assert_closed(1).await;
    }
}

#[tokio::test]
async fn a_slow_answer_is_waited_for_and_an_endless_one_is_not() {
    let body: Vec<Vec<u8>> = answer("200 OK", JSON, TOKENS).chunks(8).map(<[u8]>::to_vec).collect();
    let outcome = outcome(Script::Trickle(body, Duration::from_millis(5))).await;
    assert_eq!(word(&outcome), "answered", "{outcome:?}");

    let mut endless = vec![b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec()];
    endless.extend(vec![b"1\r\n \r\n".to_vec(); 1000]);
    let server = Server::start(vec![Script::Trickle(endless, Duration::from_millis(20))]);
    let outcome = refreshed(settings(&server.url()), IMPATIENT).await;
    assert_eq!(word(&outcome), "ambiguous", "{outcome:?}");
    server.assert_closed(1).await;
}

#[tokio::test]
async fn a_body_has_an_end() {
    let spaces = |count: usize| format!("{TOKENS}{}", " ".repeat(count - TOKENS.len()));
    let chunked = |body: &str| {
        let body = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
        format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{body}").into_bytes()
    };
    for (want, size) in [("answered", 1024 * 1024), ("ambiguous", 1024 * 1024 + 1)] {
        for bytes in [answer("200 OK", JSON, &spaces(size)), chunked(&spaces(size))] {
            let outcome = outcome(Script::Answer(bytes)).await;
            assert_eq!(word(&outcome), want, "{size}: {}", seen(&outcome));
        }
    }
}

#[tokio::test]
async fn what_was_not_sent_was_not_processed() {
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("http://{}/token", listener.local_addr().unwrap())
    };
    let plain = Server::start(vec![Script::AnswerAndClose(answer("200 OK", "", TOKENS))]);
    let tls_to_plain = format!("https://{}/token", plain.address);
    // No DNS answers for this top-level domain (RFC 6761 section 6.4), if there is one that answers at all.
    for (want, url) in [
        ("TCP: connection refused", closed.as_str()),
        ("name look-up: ", "https://a.invalid/token"),
    ] {
        let outcome = refreshed(settings(url), IMPATIENT).await;
        assert_eq!(word(&outcome), "not processed");
        assert!(seen(&outcome).starts_with(want), "{outcome:?}");
    }
    // Where the system has no certificate authorities, it ends even before.
    let outcome = refreshed(settings(&tls_to_plain), IMPATIENT).await;
    assert_eq!(word(&outcome), "not processed", "{outcome:?}");
    assert!(plain.requests().iter().all(|request| !request.contains(REFRESH_TOKEN)));
}

#[tokio::test]
async fn what_had_a_connection_may_have_been_sent() {
    for _ in 0..20 {
        let outcome = outcome(Script::CloseUnread).await;
        assert_eq!(word(&outcome), "ambiguous", "{outcome:?}");
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    for status in [
        "301 Moved",
        "302 Found",
        "303 See Other",
        "307 Temporary Redirect",
        "308 Permanent Redirect",
    ] {
        let other = Server::start(vec![Script::Answer(answer("200 OK", "", TOKENS))]);
        let location = format!("location: {}\r\n", other.url());
        let outcome = outcome(Script::Answer(answer(status, &location, TOKENS))).await;
        assert_eq!(word(&outcome), "rejected", "{status}: {outcome:?}");
        assert_eq!(other.accepted(), 0, "{status}");
    }
}

#[tokio::test]
async fn retry_after_is_handed_on() {
    let date = "retry-after: Fri, 31 Dec 1999 23:59:59 GMT\r\n";
    for (headers, want) in [("", None), ("retry-after: 7\r\n", Some(7)), (date, Some(0))] {
        for status in ["429 Too Many Requests", "503 Service Unavailable"] {
            let Outcome::NotProcessed { retry_after, .. } = outcome(Script::Answer(answer(status, headers, ""))).await
            else {
                panic!("{status}");
            };
            assert_eq!(retry_after.map(|wait| wait.as_secs()), want, "{status} {headers}");
        }
    }
}
