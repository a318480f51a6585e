//! Proxies: for what is outside, with the request inside TLS; never for loopback.

use std::sync::Arc;

use credbroker::{
    clock::SystemClock,
    oauth::{Http, HttpProvider, Outcome, Provider as _, Proxies},
};

use crate::{
    IMPATIENT, REFRESH_TOKEN, seen,
    server::{Script, Server, answer, header},
    settings, word,
};

async fn through(proxy: &str, except: Option<&str>, url: &str) -> Outcome {
    let proxies = Proxies {
        https: Some(proxy.to_owned()),
        except: except.map(str::to_owned),
    };
    let http = Arc::new(Http::new(IMPATIENT, &proxies));
    HttpProvider::new(settings(url), http, Arc::new(SystemClock::new()))
        .refresh(&REFRESH_TOKEN.into())
        .await
}

#[tokio::test]
async fn a_proxy_is_asked_for_a_tunnel_and_sees_no_token() {
    let table = [
        (
            "proxy: tunnel error: proxy authorization required",
            "407 Proxy Authentication Required",
        ),
        ("proxy: tunnel error: unsuccessful", "502 Bad Gateway"),
    ];
    for (want, status) in table {
        let proxy = Server::start(vec![Script::AnswerAndClose(answer(
            status,
            "",
            "rt-canary-from-the-proxy",
        ))]);
        let url = format!("http://user:pass%3A@{}", proxy.address);
        let outcome = through(&url, None, "https://provider.example/token").await;
        assert_eq!((word(&outcome), seen(&outcome).as_str()), ("not processed", want));
        let requests = proxy.requests();
        assert!(
            requests[0].starts_with("CONNECT provider.example:443 HTTP/1.1\r\n"),
            "{requests:?}"
        );
        // user:pass:
        assert_eq!(
            header(&requests[0], "proxy-authorization"),
            Some("Basic dXNlcjpwYXNzOg==")
        );
        assert!(!requests[0].contains(REFRESH_TOKEN));
        assert_eq!(proxy.accepted(), 1);
    }
}

#[tokio::test]
async fn a_proxy_that_cannot_be_used_is_not_left_out() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("http://{}", silent.local_addr().unwrap());
    for (want, proxy) in [
        ("proxy: only http:// proxies are supported", "socks5://127.0.0.1:1"),
        ("proxy: the proxy's URL cannot be used", "http://user:secret@"),
        (
            "proxy: tunnel error: failed to create underlying connection: connection refused",
            "http://127.0.0.1:1",
        ),
        (
            "proxy: tunnel error: failed to create underlying connection: p.invalid was not found",
            "http://p.invalid",
        ),
        ("proxy: no answer within the time limit", silent.as_str()),
    ] {
        let outcome = through(proxy, None, "https://127.1.1.1.example/token").await;
        assert_eq!((word(&outcome), seen(&outcome).as_str()), ("not processed", want));
    }
}

#[tokio::test]
async fn loopback_and_exceptions_are_asked_directly() {
    let proxy = Server::start(vec![Script::Reset]);
    let proxy_url = format!("http://{}", proxy.address);
    let server = Server::start(vec![Script::Answer(answer("200 OK", "", r#"{"access_token":"a"}"#))]);
    for host in ["127.0.0.1", "localhost"] {
        let url = format!("http://{host}:{}/token", server.address.port());
        assert_eq!(word(&through(&proxy_url, None, &url).await), "answered", "{host}");
        // Also with TLS, which this server does not speak.
        let url = url.replace("http:", "https:");
        assert_eq!(word(&through(&proxy_url, None, &url).await), "not processed", "{host}");
    }
    let outcome = through(&proxy_url, Some(".invalid"), "https://a.invalid/token").await;
    assert!(seen(&outcome).starts_with("name look-up"), "{outcome:?}");
    assert_eq!(proxy.accepted(), 0);
}
