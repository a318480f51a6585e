//! What a client makes of a watch, also of one that no broker would send.

use std::time::Duration;

use credbroker::{
    client::{CredentialStore as _, Error, ExposeSecret as _, ProxyTokenStore, TokenStream},
    reason::Reason,
};
use tokio_stream::StreamExt as _;

use crate::{
    broker::github,
    scripted::{Script, Scripted, Told, runtime},
};

const TIME: Duration = Duration::from_secs(20);

fn client(broker: &Scripted) -> ProxyTokenStore {
    ProxyTokenStore::new(broker.socket(), None).unwrap()
}

/// A broker that tells this.
fn telling(watch: impl Into<Vec<Told>>) -> Scripted {
    Scripted::start(Script {
        watch: watch.into(),
        ..Script::default()
    })
}

pub(crate) async fn watch(store: &ProxyTokenStore) -> TokenStream {
    store.watch_token(&github()).await.unwrap().unwrap()
}

pub(crate) async fn next(tokens: &mut TokenStream) -> Option<Result<String, Error>> {
    let next = tokio::time::timeout(TIME, tokens.next()).await.unwrap();
    next.map(|next| next.map(|token| token.access_token.expose_secret().to_owned()))
}

pub(crate) async fn token(tokens: &mut TokenStream) -> String {
    next(tokens).await.unwrap().unwrap()
}

/// Why it ended; after that there is nothing.
pub(crate) async fn end(tokens: &mut TokenStream) -> Error {
    let error = next(tokens).await.unwrap().unwrap_err();
    assert!(next(tokens).await.is_none() && next(tokens).await.is_none());
    error
}

fn needs_login() -> tonic::Status {
    credbroker::service::status::from_error(&credbroker::broker::Error::NeedsLogin(github()))
}

fn not_found() -> tonic::Status {
    credbroker::service::status::from_error(&credbroker::broker::Error::NoEntry(github()))
}

#[tokio::test]
async fn a_watch_has_each_token_and_in_the_end_the_reason() {
    let broker = telling([Told::token("one")]);
    let store = client(&broker);
    let mut tokens = watch(&store).await;
    assert_eq!(token(&mut tokens).await, "one");
    broker.tell(Told::token("two"));
    assert_eq!(token(&mut tokens).await, "two");
    // It is the stream that holds the connection, not the store.
    drop(store);
    broker.tell(Told::token("three"));
    assert_eq!(token(&mut tokens).await, "three");
    broker.tell(Told::Refused(needs_login));
    let ended = end(&mut tokens).await;
    assert_eq!(ended.reason(), Some(Reason::NeedsLogin), "{ended:?}");
    broker.watched_by(0).await;
}

#[tokio::test]
async fn no_such_entry_is_no_stream_and_a_refusal_is_one_at_once() {
    let broker = telling([Told::Refused(not_found)]);
    assert!(client(&broker).watch_token(&github()).await.unwrap().is_none());
    let broker = telling([Told::Refused(needs_login)]);
    let refused = client(&broker).watch_token(&github()).await.err().unwrap();
    assert_eq!(refused.reason(), Some(Reason::NeedsLogin), "{refused:?}");
}

#[tokio::test]
async fn an_answer_that_breaks_the_protocol_ends_the_stream_and_nothing_else() {
    for (script, before) in [
        (vec![Told::NoToken], false),
        (vec![Told::End], false),
        (vec![Told::token("one"), Told::NoToken, Told::token("two")], true),
        (vec![Told::token("one"), Told::End], true),
    ] {
        let broker = telling(script);
        let store = client(&broker);
        let error = if before {
            let mut tokens = watch(&store).await;
            assert_eq!(token(&mut tokens).await, "one");
            end(&mut tokens).await
        } else {
            store.watch_token(&github()).await.err().unwrap()
        };
        assert!(matches!(error, Error::Other { .. }), "{error:?}");
        broker.watched_by(0).await;
        assert!(store.get_token(&github(), Duration::ZERO).await.unwrap().is_some());
    }
}

#[tokio::test]
async fn octets_that_are_no_message_and_an_end_without_a_status_are_no_tokens() {
    // A message that ends in the middle of a field; one that is longer than what comes; nothing at all.
    for raw in [&b"\0\0\0\0\x02\x0a\x7f"[..], b"\0\0\0\0\x09\x0a", b""] {
        let broker = Scripted::start(Script {
            raw_watch: Some(raw),
            ..Script::default()
        });
        let store = client(&broker);
        let error = store.watch_token(&github()).await.err().unwrap();
        assert!(matches!(error, Error::Other { .. }), "{error:?}");
        assert!(store.get_token(&github(), Duration::ZERO).await.unwrap().is_some());
    }
}

#[tokio::test]
async fn the_first_token_has_the_time_of_a_request_and_the_others_any() {
    let limit = Duration::from_millis(300);
    let start = |watch: Vec<Told>| {
        let broker = telling(watch);
        let store = ProxyTokenStore::builder(broker.socket()).request_timeout(limit);
        (store.build().unwrap(), broker)
    };
    let (store, broker) = start(vec![Told::Silence(Duration::from_secs(3600)), Told::token("late")]);
    let late = store.watch_token(&github()).await.err().unwrap();
    assert!(matches!(late, Error::DeadlineExceeded(_)), "{late:?}");
    broker.watched_by(0).await;

    let (store, broker) = start(vec![
        Told::Silence(limit / 6),
        Told::token("one"),
        Told::Silence(limit * 3),
        Told::token("two"),
    ]);
    let mut tokens = watch(&store).await;
    assert_eq!(token(&mut tokens).await, "one");
    assert_eq!(token(&mut tokens).await, "two");
    // The broker was told of no time after which it should end the stream.
    assert!(!broker.seen.headers.lock().unwrap().contains_key("grpc-timeout"));
}

#[tokio::test]
async fn a_stream_that_is_dropped_ends_at_the_broker() {
    let mut broker = telling([]);
    let store = client(&broker);
    let (one, two) = (watch(&store).await, watch(&store).await);
    broker.watched_by(2).await;
    drop(one);
    broker.watched_by(1).await;
    broker.open(1).await;
    drop(two);
    broker.watched_by(0).await;
    // A connection without a watch goes, although the store is still there.
    broker.open(0).await;
    let _again = watch(&store).await;
    assert_eq!(broker.seen.accepted(), 2);
}

#[tokio::test]
async fn one_that_is_given_up_while_it_begins_leaves_nothing() {
    let mut broker = telling([Told::Silence(Duration::from_secs(3600))]);
    let store = client(&broker);
    let begin = tokio::spawn({
        let store = store.clone();
        async move { store.watch_token(&github()).await.is_ok() }
    });
    broker.watched_by(1).await;
    begin.abort();
    broker.watched_by(0).await;
    broker.open(0).await;
}

#[tokio::test]
async fn watches_have_connections_of_their_own_64_on_each() {
    let mut broker = telling([]);
    let store = client(&broker);
    assert!(store.get_token(&github(), Duration::ZERO).await.unwrap().is_some());
    assert_eq!(broker.seen.accepted(), 1);
    let begin = |number: usize| {
        let store = store.clone();
        async move {
            let all: Vec<_> = (0..number)
                .map(|_| {
                    let store = store.clone();
                    tokio::spawn(async move { watch(&store).await })
                })
                .collect();
            let mut streams = Vec::new();
            for one in all {
                streams.push(one.await.unwrap());
            }
            streams
        }
    };
    let mut streams = begin(64).await;
    assert_eq!((broker.seen.accepted(), broker.seen.handshakes()), (2, 2));
    streams.extend(begin(1).await);
    assert_eq!((broker.seen.accepted(), broker.seen.handshakes()), (3, 3));
    // All of them, and the calls, go on at the same time.
    broker.tell(Told::token("two"));
    for tokens in &mut streams {
        while token(tokens).await != "two" {}
    }
    assert!(store.get_token(&github(), Duration::ZERO).await.unwrap().is_some());
    drop(streams);
    broker.watched_by(0).await;
    broker.open(1).await;
    assert_eq!(broker.seen.accepted(), 3);
}

#[tokio::test]
async fn a_connection_that_breaks_takes_all_that_would_begin() {
    for lost in [0, 1] {
        let broker = telling([]);
        let store = client(&broker);
        assert!(store.get_token(&github(), Duration::ZERO).await.unwrap().is_some());
        let mut tokens = watch(&store).await;
        assert_eq!(token(&mut tokens).await, "scripted");
        broker.hang_up(lost);
        if lost == 1 {
            let error = end(&mut tokens).await;
            assert!(matches!(error, Error::ConnectionLost), "{error:?}");
        } else {
            // The client sees it as soon as it looks.
            while store.get_token(&github(), Duration::ZERO).await.is_ok() {}
            // What is under way on the other connection is still that broker's.
            broker.tell(Told::token("two"));
            assert_eq!(token(&mut tokens).await, "two");
        }
        for _ in 0..2 {
            let error = store.watch_token(&github()).await.err().unwrap();
            assert!(matches!(error, Error::ConnectionLost), "{error:?}");
            let error = store.get_token(&github(), Duration::ZERO).await.unwrap_err();
            assert!(matches!(error, Error::ConnectionLost), "{error:?}");
        }
        assert_eq!(broker.seen.accepted(), 2);
    }
}

#[tokio::test]
async fn a_broker_of_another_version_is_watched_by_nobody() {
    let broker = Scripted::start(Script {
        version: Some(2),
        ..Script::default()
    });
    let store = client(&broker);
    for _ in 0..2 {
        let error = store.watch_token(&github()).await.err().unwrap();
        assert!(matches!(error, Error::UnknownVersion(_)), "{error:?}");
        let error = store.get_token(&github(), Duration::ZERO).await.unwrap_err();
        assert!(matches!(error, Error::UnknownVersion(_)), "{error:?}");
    }
    assert_eq!((broker.seen.accepted(), broker.seen.calls()), (1, 0));
}

#[test]
fn a_stream_is_read_on_any_runtime_and_lost_with_the_one_it_was_begun_on() {
    let broker_side = tokio::runtime::Runtime::new().unwrap();
    let broker = broker_side.block_on(async { telling([]) });
    let store = client(&broker);
    let first = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let mut tokens = first.block_on(watch(&store));
    assert_eq!(runtime().block_on(token(&mut tokens)), "scripted");
    broker.tell(Told::token("two"));
    assert_eq!(runtime().block_on(token(&mut tokens)), "two");
    drop(first);
    let lost = runtime().block_on(end(&mut tokens));
    assert!(matches!(lost, Error::ConnectionLost), "{lost:?}");
    let lost = runtime().block_on(store.watch_token(&github())).err().unwrap();
    assert!(matches!(lost, Error::ConnectionLost), "{lost:?}");
}
