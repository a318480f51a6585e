//! A token at hand: what a handle gives, when it asks, and what it leaves behind.

use std::{sync::Arc, time::Duration};

use credbroker::{
    broker,
    client::{AccessToken, CredentialStore as _, Error, ExposeSecret as _, ProxyTokenStore, TokenHandle},
    reason::Reason,
    service::status,
};
use tonic::Status;

use crate::{
    broker::github,
    scripted::{Script, Scripted, Told, runtime},
};

const HOUR: Option<Duration> = Some(Duration::from_secs(3600));

fn telling(watch: impl Into<Vec<Told>>) -> Scripted {
    Scripted::start(Script {
        watch: watch.into(),
        ..Script::default()
    })
}

fn client(broker: &Scripted) -> ProxyTokenStore {
    ProxyTokenStore::new(broker.socket(), None).unwrap()
}

pub(crate) fn handle(store: &ProxyTokenStore) -> TokenHandle {
    TokenHandle::new(Arc::new(store.clone()), github())
}

pub(crate) fn text(token: &AccessToken) -> &str {
    token.access_token.expose_secret()
}

async fn token(handle: &TokenHandle) -> String {
    let token = tokio::time::timeout(Duration::from_secs(20), handle.token()).await;
    text(&token.unwrap().unwrap()).to_owned()
}

fn not_found() -> Status {
    status::from_error(&broker::Error::NoEntry(github()))
}

fn needs_login() -> Status {
    status::from_error(&broker::Error::NeedsLogin(github()))
}

fn stopping() -> Status {
    status::from_error(&broker::Error::ShuttingDown)
}

#[tokio::test]
async fn the_broker_is_asked_once_however_often_the_token_is_needed() {
    let broker = telling([Told::token("one")]);
    let handle = handle(&client(&broker));
    assert!(handle.current().is_none());
    assert_eq!((broker.seen.accepted(), broker.seen.calls()), (0, 0));
    let at_once: Vec<_> = (0..100)
        .map(|_| {
            let handle = handle.clone();
            tokio::spawn(async move { token(&handle).await })
        })
        .collect();
    for one in at_once {
        assert_eq!(one.await.unwrap(), "one");
    }
    for _ in 0..1000 {
        assert_eq!(token(&handle).await, "one");
    }
    assert_eq!(text(&handle.current().unwrap()), "one");
    assert_eq!((broker.seen.accepted(), broker.seen.calls()), (1, 1));
    assert_eq!(
        format!("{handle:?}"),
        r#"TokenHandle { entry: EntryKey { provider: Name("github"), bucket: Name("default") }, .. }"#
    );
}

/// With a valid token nothing is waited for, not even for one turn of the runtime.
#[tokio::test]
async fn a_valid_token_is_there_at_once() {
    let broker = telling([Told::token("one")]);
    let handle = handle(&client(&broker));
    token(&handle).await;
    broker.cut();
    for _ in 0..10 {
        let mut asking = std::pin::pin!(handle.token());
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(asking.as_mut().poll(&mut cx).is_ready());
    }
}

#[tokio::test]
async fn a_new_token_takes_the_place_of_the_old_one() {
    let broker = telling([Told::token("one")]);
    let handle = handle(&client(&broker));
    let one = handle.token().await.unwrap();
    let changing = tokio::spawn({
        let handle = handle.clone();
        async move { handle.changed(&one.revision).await.unwrap() }
    });
    broker.tell(Told::token("two"));
    assert_eq!(text(&changing.await.unwrap()), "two");
    assert_eq!(token(&handle).await, "two");
    // Whoever comes with an old revision is told at once.
    assert_eq!(text(&handle.changed("one").await.unwrap()), "two");
    assert_eq!(broker.seen.calls(), 1);
}

#[tokio::test]
async fn a_token_that_has_expired_is_asked_for_and_the_next_one_is_taken() {
    let broker = telling([Told::Token("stale".to_owned(), Some(Duration::ZERO))]);
    let handle = handle(&client(&broker));
    // The stream has nothing better than that, which no broker would say.
    let refused = handle.token().await.unwrap_err();
    assert!(matches!(refused, Error::Other { .. }), "{refused:?}");
    assert!(handle.current().is_none());
    // With a stream that is open, it is GetToken that is asked.
    assert_eq!(token(&handle).await, "scripted");
    assert_eq!(broker.seen.calls(), 2);
    broker.tell(Told::Token("two".to_owned(), HOUR));
    assert_eq!(text(&handle.changed("").await.unwrap()), "two");
}

#[tokio::test]
async fn a_first_token_that_takes_long_is_waited_for_by_all() {
    let broker = telling([Told::Silence(Duration::from_millis(300)), Told::token("one")]);
    let handle = handle(&client(&broker));
    let (one, two) = tokio::join!(token(&handle), token(&handle));
    assert_eq!((one.as_str(), two.as_str()), ("one", "one"));
    assert_eq!(broker.seen.calls(), 1);
}

#[tokio::test]
async fn after_a_logout_there_is_no_token_and_each_call_looks_again() {
    let broker = telling([Told::token("one")]);
    let handle = handle(&client(&broker));
    let one = handle.token().await.unwrap();
    for refusal in [not_found, needs_login] {
        broker.watched_by(1).await;
        broker.tell(Told::Refused(refusal));
        let ended = handle.changed(&one.revision).await.unwrap_err();
        assert_eq!(ended.reason(), Error::from(refusal()).reason(), "{ended:?}");
        assert!(handle.current().is_none());
        // Somebody may have logged in since.
        assert_eq!(token(&handle).await, "one");
    }
    for refusal in [not_found as fn() -> Status, needs_login] {
        let broker = telling([Told::Refused(refusal)]);
        let handle = self::handle(&client(&broker));
        for calls in 1..4 {
            let none = handle.token().await.unwrap_err();
            assert_eq!(none.reason(), Error::from(refusal()).reason(), "{none:?}");
            assert!(none.to_string().contains("github"), "{none}");
            assert_eq!(broker.seen.calls(), calls);
        }
    }
}

#[tokio::test]
async fn a_stream_that_ends_for_another_reason_leaves_the_token_and_is_begun_anew() {
    let broker = telling([Told::token("one")]);
    let handle = handle(&client(&broker));
    token(&handle).await;
    broker.tell(Told::Refused(stopping));
    let ended = handle.changed("one").await.unwrap_err();
    assert_eq!(ended.reason(), Some(Reason::ShuttingDown));
    broker.watched_by(0).await;
    // It is given out meanwhile, and nobody waits for the new stream.
    while broker.seen.calls() == 1 {
        assert_eq!(token(&handle).await, "one");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    broker.watched_by(1).await;
    broker.tell(Told::token("two"));
    assert_eq!(text(&handle.changed("one").await.unwrap()), "two");
}

#[tokio::test]
async fn a_lost_connection_is_for_good_once_the_token_has_expired() {
    let second = Some(Duration::from_secs(1));
    let broker = telling([Told::Token("one".to_owned(), second)]);
    let store = client(&broker);
    let handle = handle(&store);
    token(&handle).await;
    broker.cut();
    let lost = handle.changed("one").await.unwrap_err();
    assert!(matches!(lost, Error::ConnectionLost), "{lost:?}");
    assert_eq!(token(&handle).await, "one");
    while handle.current().is_some() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for _ in 0..2 {
        let lost = handle.token().await.unwrap_err();
        assert!(matches!(lost, Error::ConnectionLost), "{lost:?}");
        let lost = handle.changed("one").await.unwrap_err();
        assert!(matches!(lost, Error::ConnectionLost), "{lost:?}");
    }
    assert_eq!(broker.seen.accepted(), 1);
}

#[tokio::test]
async fn a_refused_token_is_renewed_unless_there_is_another_by_now() {
    let broker = telling([Told::token("one")]);
    let handle = handle(&client(&broker));
    token(&handle).await;
    // The fake's new token is called as the one that was refused.
    let new = handle.refresh("one").await.unwrap();
    assert_eq!(text(&new), "one");
    broker.tell(Told::token("two"));
    assert_eq!(text(&handle.changed("one").await.unwrap()), "two");
    assert_eq!(text(&handle.refresh("one").await.unwrap()), "two");
}

#[tokio::test]
async fn the_watch_ends_with_the_last_handle() {
    let mut broker = telling([Told::token("one")]);
    let store = client(&broker);
    let handle = handle(&store);
    let other = handle.clone();
    token(&handle).await;
    drop(handle);
    broker.tell(Told::token("two"));
    assert_eq!(text(&other.changed("one").await.unwrap()), "two");
    broker.watched_by(1).await;
    drop(other);
    broker.watched_by(0).await;
    broker.open(0).await;

    // Also one whose first token is still awaited.
    let broker = telling([Told::Silence(Duration::from_secs(3600))]);
    let handle = self::handle(&client(&broker));
    let asking = tokio::spawn({
        let handle = handle.clone();
        async move { handle.token().await.is_ok() }
    });
    broker.watched_by(1).await;
    asking.abort();
    assert!(asking.await.unwrap_err().is_cancelled());
    broker.watched_by(1).await;
    drop(handle);
    broker.watched_by(0).await;
}

#[tokio::test]
async fn a_thousand_handles_on_one_store() {
    let mut broker = telling([Told::token("one")]);
    let store = client(&broker);
    let handles: Vec<_> = (0..1000).map(|_| handle(&store)).collect();
    for handle in &handles {
        assert_eq!(token(handle).await, "one");
    }
    assert_eq!(broker.seen.accepted(), 1000_usize.div_ceil(64));
    broker.tell(Told::token("two"));
    for handle in &handles {
        assert_eq!(text(&handle.changed("one").await.unwrap()), "two");
    }
    assert!(store.get_token(&github(), Duration::ZERO).await.unwrap().is_some());
    drop(handles);
    broker.open(1).await;
}

#[test]
fn a_handle_is_lost_with_the_runtime_of_its_connection() {
    let broker_side = tokio::runtime::Runtime::new().unwrap();
    let broker = broker_side.block_on(async { telling([Told::token("one")]) });
    for _ in 0..20 {
        let handle = handle(&client(&broker));
        let first = runtime();
        assert_eq!(first.block_on(token(&handle)), "one");
        drop(first);
        // What it has is good, also where there is no runtime to follow the entry on.
        assert_eq!(text(&handle.current().unwrap()), "one");
        let later = runtime();
        assert_eq!(later.block_on(token(&handle)), "one");
        let lost = later.block_on(handle.changed("one")).unwrap_err();
        assert!(matches!(lost, Error::ConnectionLost), "{lost:?}");
    }
}
