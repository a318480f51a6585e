//! Logins through the adapter: every flow, every end, and what the broker is told.

use std::{sync::Arc, time::Duration};

use credbroker::{
    broker,
    client::{
        CredentialStore as _, Error, ExposeSecret as _, LoginAdapter, LoginFlow, LoginPrompt, LoginStep, LoginUi,
        ProxyTokenStore, SecretString, async_trait,
    },
    proto,
    reason::Reason,
    service::status::from_error,
};
use tokio::sync::Notify;
use tonic::Status;

use crate::{
    broker::github,
    scripted::{Script, Scripted, Standing},
};

const SESSION: &str = "00112233445566778899aabbccddeeff";

/// A user who does as the test says.
#[derive(Default)]
pub(crate) struct User {
    /// What they were shown.
    shown: Vec<LoginPrompt>,
    /// What they paste.
    code: Option<&'static str>,
    /// They give up when this is notified.
    gives_up: Option<Arc<Notify>>,
    /// Told when something is shown.
    sees: Arc<Notify>,
}

impl User {
    fn who_gives_up_at_once() -> Self {
        let gives_up = Arc::new(Notify::new());
        gives_up.notify_one();
        Self {
            gives_up: Some(gives_up),
            ..Self::default()
        }
    }
}

#[async_trait]
impl LoginUi for User {
    async fn show(&mut self, prompt: &LoginPrompt) {
        self.shown.push(prompt.clone());
        self.sees.notify_one();
    }

    async fn code(&mut self, _prompt: &LoginPrompt) -> Option<SecretString> {
        self.code.map(SecretString::from)
    }

    async fn given_up(&mut self, _prompt: &LoginPrompt) {
        match &self.gives_up {
            Some(gives_up) => gives_up.notified().await,
            None => std::future::pending().await,
        }
    }
}

fn begun(flow: proto::LoginFlow) -> proto::InitiateLoginResponse {
    let mut begun = proto::InitiateLoginResponse {
        session_id: SESSION.to_owned(),
        poll_interval: Some(prost_types::Duration {
            seconds: 0,
            nanos: 1_000_000,
        }),
        expire_time: Some(prost_types::Timestamp {
            seconds: 4_000_000_000,
            nanos: 0,
        }),
        ..proto::InitiateLoginResponse::default()
    };
    begun.set_flow(flow);
    if flow == proto::LoginFlow::DeviceCode {
        begun.verification_url = "https://p.example/device".to_owned();
        begun.verification_url_complete = "https://p.example/device?code=WDJB-MJHT".to_owned();
        begun.user_code = "WDJB-MJHT".to_owned();
    } else {
        begun.auth_url = "https://p.example/auth?state=state-canary".to_owned();
    }
    begun
}

pub(crate) fn device(standings: Vec<Standing>) -> Script {
    Script {
        login: Some(begun(proto::LoginFlow::DeviceCode)),
        standings,
        ..Script::default()
    }
}

fn paste(standings: Vec<Standing>) -> Script {
    Script {
        login: Some(begun(proto::LoginFlow::PkceRedirect)),
        ..device(standings)
    }
}

fn adapter(broker: &Scripted) -> LoginAdapter {
    LoginAdapter::from(&ProxyTokenStore::new(broker.socket(), None).unwrap())
}

/// Waits until the broker has seen the call.
async fn seen(broker: &Scripted, call: &str) {
    let look = async {
        while !broker.seen.logins().iter().any(|seen| seen.starts_with(call)) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let found = tokio::time::timeout(Duration::from_secs(20), look).await;
    assert!(found.is_ok(), "{call} is not in {:?}", broker.seen.logins());
}

fn cancelled() -> String {
    format!("cancel {SESSION}")
}

#[tokio::test]
async fn a_device_login_is_shown_and_asked_about_until_it_is_complete() {
    let broker = Scripted::start(device(vec![
        Standing::Pending,
        Standing::Pending,
        Standing::Complete(true),
    ]));
    let store = ProxyTokenStore::new(broker.socket(), None).unwrap();
    assert!(store.get_token(&github(), Duration::ZERO).await.unwrap().is_some());
    let mut user = User::default();
    // The future can be moved to any thread.
    let token = tokio::spawn(async move {
        let token = LoginAdapter::from(&store).login(&github(), None, &mut user).await;
        (token, user)
    });
    let (token, user) = token.await.unwrap();
    assert_eq!(token.unwrap().unwrap().access_token.expose_secret(), "scripted");
    let [prompt] = &user.shown[..] else {
        panic!("{:?}", user.shown);
    };
    assert_eq!((prompt.flow(), prompt.asked), (LoginFlow::DeviceCode, None));
    assert_eq!(prompt.user_code(), Some("WDJB-MJHT"));
    assert_eq!(prompt.url(), "https://p.example/device?code=WDJB-MJHT");
    assert_eq!(prompt.expire_time.unwrap().as_second(), 4_000_000_000);
    let poll = format!("poll {SESSION}");
    assert_eq!(broker.seen.logins(), ["initiate github/default 0", &poll, &poll, &poll]);
    // With the store's other calls, over one connection.
    assert_eq!((broker.seen.accepted(), broker.seen.handshakes()), (1, 1));
}

#[tokio::test]
async fn the_flow_that_was_begun_may_be_another_than_was_asked_for() {
    let broker = Scripted::start(device(vec![Standing::Complete(false)]));
    let mut user = User::default();
    let asked = Some(LoginFlow::BrowserRedirect);
    let token = adapter(&broker).login(&github(), asked, &mut user).await.unwrap();
    assert!(token.is_none(), "the policy does not let it be read");
    assert_eq!(user.shown[0].asked, asked);
    assert_eq!(user.shown[0].flow(), LoginFlow::DeviceCode);
    assert_eq!(broker.seen.logins()[0], "initiate github/default 3");
}

#[tokio::test]
async fn a_pasted_code_is_exchanged_once() {
    let broker = Scripted::start(paste(vec![Standing::Complete(true)]));
    let mut user = User {
        code: Some("code#state"),
        ..User::default()
    };
    let token = adapter(&broker)
        .login(&github(), Some(LoginFlow::PkceRedirect), &mut user)
        .await
        .unwrap();
    assert!(token.is_some());
    assert!(matches!(&user.shown[0].step, LoginStep::Paste { auth_url } if auth_url.ends_with("state-canary")));
    let exchange = format!("exchange {SESSION} code#state");
    assert_eq!(broker.seen.logins(), ["initiate github/default 1", &exchange]);
}

#[tokio::test]
async fn every_reason_of_a_login_that_failed_is_its_error() {
    for reason in [
        Reason::AccessDenied,
        Reason::SessionExpired,
        Reason::ExchangeFailed,
        Reason::ProviderUnavailable,
        Reason::ProviderRejected,
        Reason::LockTimeout,
        Reason::StoreLocked,
        Reason::StoreCorrupt,
        Reason::StoreUnavailable,
    ] {
        let broker = Scripted::start(device(vec![Standing::Failed(reason.as_str())]));
        let error = adapter(&broker).login(&github(), None, &mut User::default()).await;
        let error = error.unwrap_err();
        assert_eq!(error.reason(), Some(reason));
        assert_eq!(error.to_string(), "begin it anew");
        assert_eq!(
            broker.seen.logins().len(),
            2,
            "it has ended: there is nothing to cancel"
        );
    }
    let broker = Scripted::start(device(vec![Standing::Failed("A_NEWER_ONE")]));
    let error = adapter(&broker).login(&github(), None, &mut User::default()).await;
    assert!(matches!(error, Err(Error::Other { reason, .. }) if reason == "A_NEWER_ONE"));
}

#[tokio::test]
async fn a_login_that_cannot_be_begun_or_exchanged_says_why() {
    let broker = Scripted::start(Script::default());
    let error = adapter(&broker).login(&github(), None, &mut User::default()).await;
    assert!(matches!(error, Err(Error::ProviderNotFound(_))), "{error:?}");

    let refuse = || from_error(&broker::Error::SessionExpired);
    let broker = Scripted::start(paste(vec![Standing::Refused(refuse)]));
    let mut user = User {
        code: Some("code"),
        ..User::default()
    };
    let error = adapter(&broker).login(&github(), None, &mut user).await;
    assert!(matches!(error, Err(Error::SessionExpired(_))), "{error:?}");
    assert_eq!(
        broker.seen.logins().len(),
        2,
        "the code is used up: {:?}",
        broker.seen.logins()
    );
}

#[tokio::test]
async fn what_may_not_be_opened_is_not_shown() {
    for url in [
        "javascript:alert(1)",
        "file:///etc/passwd",
        "http://p.example/auth",
        "",
        "https://p.example/\u{1b}[2J",
    ] {
        let mut script = paste(Vec::new());
        script.login.as_mut().unwrap().auth_url = url.to_owned();
        let broker = Scripted::start(script);
        let mut user = User::default();
        let error = adapter(&broker).login(&github(), None, &mut user).await;
        assert!(matches!(error, Err(Error::Other { .. })), "{error:?}");
        assert!(user.shown.is_empty());
    }
}

#[tokio::test]
async fn a_rate_that_is_reached_is_waited_for_and_nothing_else_is_asked_twice() {
    fn limited() -> Status {
        from_error(&broker::Error::RateLimited {
            whose: "this connection",
            retry_after: Duration::from_millis(20),
        })
    }
    let broker = Scripted::start(device(vec![Standing::Refused(limited), Standing::Complete(true)]));
    let token = adapter(&broker).login(&github(), None, &mut User::default()).await;
    assert!(token.unwrap().is_some());

    fn late() -> Status {
        from_error(&broker::Error::DeadlineExceeded { seconds: 1.0 })
    }
    let broker = Scripted::start(device(vec![Standing::Refused(late), Standing::Complete(true)]));
    let error = adapter(&broker).login(&github(), None, &mut User::default()).await;
    assert!(matches!(error, Err(Error::DeadlineExceeded(_))), "{error:?}");
    seen(&broker, "cancel").await;
    assert_eq!(broker.seen.logins().len(), 3, "{:?}", broker.seen.logins());
}

#[tokio::test]
async fn a_user_who_gives_up_cancels_the_login() {
    let broker = Scripted::start(device(vec![Standing::Pending]));
    let error = adapter(&broker)
        .login(&github(), None, &mut User::who_gives_up_at_once())
        .await
        .unwrap_err();
    assert!(
        matches!(error, Error::LoginCancelled) && error.reason().is_none(),
        "{error:?}"
    );
    assert_eq!(broker.seen.logins().last(), Some(&cancelled()));

    // No code, no exchange.
    let broker = Scripted::start(paste(Vec::new()));
    let error = adapter(&broker).login(&github(), None, &mut User::default()).await;
    assert!(matches!(error, Err(Error::LoginCancelled)), "{error:?}");
    assert_eq!(broker.seen.logins(), ["initiate github/default 0", &cancelled()]);

    // While the code is exchanged.
    let broker = Scripted::start(Script {
        slow_exchange: Duration::from_secs(3600),
        ..paste(Vec::new())
    });
    let mut user = User::who_gives_up_at_once();
    user.code = Some("code");
    let error = adapter(&broker).login(&github(), None, &mut user).await;
    assert!(matches!(error, Err(Error::LoginCancelled)), "{error:?}");
}

#[tokio::test]
async fn a_user_who_gives_up_too_late_is_logged_in_and_told_so() {
    let broker = Scripted::start(Script {
        too_late: true,
        ..device(vec![Standing::Pending, Standing::Complete(true)])
    });
    let token = adapter(&broker)
        .login(&github(), None, &mut User::who_gives_up_at_once())
        .await;
    assert!(token.unwrap().is_some());
    let cancels = broker.seen.logins().iter().filter(|call| **call == cancelled()).count();
    assert_eq!(cancels, 1);
}

#[tokio::test]
async fn a_login_that_nobody_waits_for_any_more_is_cancelled() {
    // While the user is waited for.
    let broker = Scripted::start(device(vec![Standing::Pending]));
    let adapter_ = adapter(&broker);
    let login = tokio::spawn({
        let adapter = adapter_.clone();
        async move { adapter.login(&github(), None, &mut User::default()).await.map(drop) }
    });
    seen(&broker, "poll").await;
    login.abort();
    seen(&broker, &cancelled()).await;

    // While it is being begun: the answer comes when nobody is there.
    let broker = Scripted::start(Script {
        slow_login: Duration::from_millis(200),
        ..device(Vec::new())
    });
    let adapter_ = adapter(&broker);
    let login = tokio::spawn({
        let adapter = adapter_.clone();
        async move { adapter.login(&github(), None, &mut User::default()).await.map(drop) }
    });
    seen(&broker, "initiate").await;
    login.abort();
    seen(&broker, &cancelled()).await;
}

#[tokio::test]
async fn a_lost_connection_ends_the_login() {
    let broker = Scripted::start(device(vec![Standing::Pending]));
    let adapter = adapter(&broker);
    let login = tokio::spawn(async move { adapter.login(&github(), None, &mut User::default()).await });
    seen(&broker, "poll").await;
    broker.cut();
    let error = login.await.unwrap();
    assert!(matches!(error, Err(Error::ConnectionLost)), "{error:?}");
    assert_eq!(broker.seen.accepted(), 1);
}

#[tokio::test]
async fn what_is_public_shows_neither_urls_nor_codes() {
    for script in [
        device(vec![Standing::Complete(true)]),
        paste(vec![Standing::Complete(true)]),
    ] {
        let broker = Scripted::start(script);
        let mut user = User {
            code: Some("code-canary"),
            ..User::default()
        };
        let adapter = adapter(&broker);
        adapter.login(&github(), None, &mut user).await.unwrap();
        let shown = format!("{:?} {:?} {adapter:?}", user.shown, user.shown[0].step);
        for secret in ["canary", "WDJB", "https", SESSION] {
            assert!(!shown.contains(secret), "{shown}");
        }
        assert!(shown.contains("github"), "{shown}");
    }
    let _: fn() -> Result<LoginAdapter, Error> = LoginAdapter::from_env;
}
