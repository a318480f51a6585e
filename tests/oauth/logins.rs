//! What a login sends, how often, and what keeps it from sending anything.

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use credbroker::oauth::{
    Flow, HttpProvider, LoginProvider as _, LoginSettings, ProviderSettings,
    login::{DevicePoll, LoginTrouble},
};
use tokio::time::{Instant, sleep};

use crate::{
    LIMITS, built, endpoint,
    loopback::free_ports,
    secrets::Fixed,
    server::{Script, Server, answer},
    settings,
};

const TOKENS: &str = r#"{"access_token":"a"}"#;
const BEGUN: &str = r#"{"device_code":"d","user_code":"u","verification_uri":"https://a.example/"}"#;

/// With every endpoint on this server.
fn login_settings(url: &str) -> ProviderSettings {
    let mut settings = settings(url);
    settings.endpoints.authorization = Some(endpoint("https://a.example/authorize"));
    settings.endpoints.device_authorization = Some(endpoint(url));
    settings.login.redirect_url = Some(endpoint("https://a.example/code"));
    settings
}

fn provider(url: &str) -> Arc<HttpProvider> {
    Arc::new(built(login_settings(url), LIMITS))
}

/// A server that is not there before that much time has passed, and its URL.
fn late(wait: Duration, body: &'static str) -> (tokio::task::JoinHandle<Server>, String) {
    let [port] = free_ports();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let server = tokio::spawn(async move {
        sleep(wait).await;
        let scripts = vec![Script::AnswerAndClose(answer("200 OK", "", body))];
        Server::on(TcpListener::bind(address).unwrap(), scripts)
    });
    (server, format!("http://{address}/token"))
}

#[tokio::test]
async fn what_was_not_written_is_tried_again_after_one_and_after_three_seconds() {
    let exchange = async |url: &str| {
        let provider = provider(url);
        let authorization = provider.authorize().await.unwrap();
        provider.exchange(&authorization, &"c".into()).await.map(drop)
    };
    let begin = async |url: &str| provider(url).authorize_device().await.map(drop);
    let (one, one_url) = late(Duration::from_millis(500), TOKENS);
    let (two, two_url) = late(Duration::from_millis(2500), BEGUN);
    let (_never, never_url) = late(Duration::from_secs(60), TOKENS);
    let timed = async |url: &str, device: bool| {
        let began = Instant::now();
        let came = if device { begin(url).await } else { exchange(url).await };
        (came, began.elapsed().as_millis())
    };
    let (first, second, third) = tokio::join!(timed(&one_url, false), timed(&two_url, true), timed(&never_url, false));
    assert!(first.0.is_ok() && (1000..2000).contains(&first.1), "{first:?}");
    assert!(second.0.is_ok() && (4000..5000).contains(&second.1), "{second:?}");
    // At most twice.
    assert!(matches!(third.0, Err(LoginTrouble::Unavailable(_))), "{third:?}");
    assert!((4000..5000).contains(&third.1), "{third:?}");
    assert_eq!((one.await.unwrap().accepted(), two.await.unwrap().accepted()), (1, 1));
}

#[tokio::test]
async fn what_was_written_is_never_sent_again() {
    for script in [
        Script::Reset,
        Script::AnswerAndClose(Vec::new()),
        Script::AnswerAndClose(answer("500 x", "", "")),
    ] {
        let server = Server::start(vec![script]);
        let provider = provider(&server.url());
        let authorization = provider.authorize().await.unwrap();
        let exchanged = provider.exchange(&authorization, &"c".into()).await;
        assert!(matches!(exchanged, Err(LoginTrouble::Unavailable(_))), "{exchanged:?}");
        let begun = provider.authorize_device().await;
        assert!(matches!(begun, Err(LoginTrouble::Unavailable(_))), "{begun:?}");
        sleep(Duration::from_millis(1200)).await;
        assert_eq!(server.accepted(), 2);
    }
}

#[tokio::test]
async fn a_poll_that_the_network_lost_is_the_callers_to_repeat() {
    let server = Server::start(vec![Script::AnswerAndClose(answer("200 OK", "", BEGUN)), Script::Reset]);
    let mut settings = login_settings(&server.url());
    let device = built(settings, LIMITS).authorize_device().await.unwrap();
    let lost = provider(&server.url()).poll_device(&device).await;
    assert!(matches!(lost, DevicePoll::NotProcessed { .. }), "{lost:?}");
    assert_eq!(server.accepted(), 2);
    settings = login_settings("http://127.0.0.1:1/token");
    let began = Instant::now();
    let unsent = built(settings, LIMITS).poll_device(&device).await;
    assert!(matches!(unsent, DevicePoll::NotProcessed { .. }), "{unsent:?}");
    assert!(began.elapsed() < Duration::from_millis(900));
}

#[tokio::test]
async fn without_its_client_secret_no_code_is_sent() {
    let server = Server::start(vec![Script::AnswerAndClose(answer("200 OK", "", TOKENS))]);
    let mut settings = login_settings(&server.url());
    settings.client_secret = Some(Fixed::bad("client_secret_file /x: entity not found"));
    let provider = built(settings, LIMITS);
    let authorization = provider.authorize().await.unwrap();
    let exchanged = provider.exchange(&authorization, &"c".into()).await.unwrap_err();
    assert!(matches!(exchanged, LoginTrouble::Rejected(_)), "{exchanged}");
    assert!(exchanged.to_string().contains("client_secret_file /x"), "{exchanged}");
    assert!(matches!(
        provider.authorize_device().await,
        Err(LoginTrouble::Rejected(_))
    ));
    assert_eq!(server.accepted(), 0);
}

#[tokio::test]
async fn a_login_that_lacks_something_says_what_and_asks_nobody() {
    let bare = built(settings("http://127.0.0.1:1/token"), LIMITS);
    let said = |trouble: Option<LoginTrouble>| match trouble {
        Some(LoginTrouble::Unconfigured(lack)) => lack,
        other => panic!("{other:?}"),
    };
    for (found, want) in [
        (said(bare.flows().await.err()), "authorization_endpoint"),
        (said(bare.authorize().await.err()), "authorization_endpoint"),
        (said(bare.authorize_loopback().await.err()), "authorization_endpoint"),
        (
            said(bare.authorize_device().await.err()),
            "device_authorization_endpoint",
        ),
    ] {
        assert!(found.contains(&format!("needs {want}: set it")), "{found}");
    }
    let mut settings = login_settings("http://127.0.0.1:1/token");
    settings.login = LoginSettings {
        flow: Some(Flow::PkceRedirect),
        ..LoginSettings::default()
    };
    let provider = built(settings, LIMITS);
    assert!(said(provider.flows().await.err()).contains("needs redirect_url: set it"));
    assert!(said(provider.authorize().await.err()).contains("needs redirect_url: set it"));
}
