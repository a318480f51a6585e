//! When a connection is made, agreed on, closed and made again.

use std::{os::unix::net::UnixListener, time::Duration};

use credbroker::client::{ConnectError, CredentialStore as _, Error, ProxyTokenStore};
use tempfile::TempDir;

use crate::{
    broker::github,
    scripted::{Script, Scripted},
};

const CANNOT_CONNECT: &str = "Cannot connect to the credential broker. Ensure the sandbox was started correctly.";
const MISMATCH: &str = "Credential broker version mismatch. Restart the session.";

#[tokio::test]
async fn nothing_is_connected_before_the_first_call_and_then_once() {
    let mut broker = Scripted::start(Script {
        slow_handshake: Duration::from_millis(50),
        ..Script::default()
    });
    let store = ProxyTokenStore::new(broker.socket(), None).unwrap();
    assert!(store.acquire_refresh_lock(&github()).await.unwrap());
    assert_eq!(broker.seen.accepted(), 0);
    let calls = (0..8).map(|_| {
        let store = store.clone();
        tokio::spawn(async move { store.get_token(&github(), Duration::ZERO).await })
    });
    for call in calls.collect::<Vec<_>>() {
        assert!(call.await.unwrap().unwrap().is_some());
    }
    assert_eq!((broker.seen.accepted(), broker.seen.handshakes()), (1, 1));
    let info = store.server_info().await.unwrap();
    assert_eq!(
        (info.version.as_str(), info.features.as_slice()),
        ("scripted", &["one".to_owned()][..])
    );
    assert_eq!(broker.seen.handshakes(), 1);
    // The connection goes with the last handle.
    drop(store);
    broker.open(0).await;
}

#[tokio::test]
async fn a_caller_that_gives_up_in_the_handshake_leaves_it_to_the_next() {
    let broker = Scripted::start(Script {
        slow_handshake: Duration::from_millis(400),
        ..Script::default()
    });
    let store = ProxyTokenStore::new(broker.socket(), None).unwrap();
    let asking = store.server_info();
    assert!(tokio::time::timeout(Duration::from_millis(100), asking).await.is_err());
    assert!(store.get_token(&github(), Duration::ZERO).await.unwrap().is_some());
    assert_eq!((broker.seen.accepted(), broker.seen.handshakes()), (1, 2));
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_the_next_call_makes_a_new_one() {
    let mut broker = Scripted::start(Script::default());
    let store = ProxyTokenStore::builder(broker.socket())
        .idle_timeout(Duration::from_millis(100))
        .build()
        .unwrap();
    for round in 1..=3 {
        assert!(store.get_token(&github(), Duration::ZERO).await.unwrap().is_some());
        assert_eq!((broker.seen.accepted(), broker.seen.handshakes()), (round, round));
        broker.open(0).await;
    }
}

#[tokio::test]
async fn a_connection_with_a_call_under_way_is_not_idle() {
    let mut broker = Scripted::start(Script {
        slow: Duration::from_millis(500),
        ..Script::default()
    });
    let store = ProxyTokenStore::builder(broker.socket())
        .idle_timeout(Duration::from_millis(50))
        .build()
        .unwrap();
    let under_way = tokio::spawn({
        let store = store.clone();
        async move { store.get_token(&github(), Duration::ZERO).await }
    });
    broker.open(1).await;
    // Long after it would have been closed, another call finds it open.
    tokio::time::sleep(Duration::from_millis(250)).await;
    store.remove_token(&github()).await.unwrap();
    assert_eq!(broker.seen.accepted(), 1);
    assert!(under_way.await.unwrap().unwrap().is_some());
    assert_eq!(broker.seen.accepted(), 1);
    broker.open(0).await;
}

#[tokio::test]
async fn no_common_version_is_for_good() {
    for version in [0, 2] {
        let broker = Scripted::start(Script {
            version: Some(version),
            ..Script::default()
        });
        let store = ProxyTokenStore::new(broker.socket(), None).unwrap();
        for _ in 0..2 {
            let mismatch = store.get_token(&github(), Duration::ZERO).await.unwrap_err();
            assert!(matches!(mismatch, Error::UnknownVersion(_)), "{mismatch:?}");
            assert_eq!(mismatch.to_string(), MISMATCH);
        }
        // It was asked once, and nothing else.
        let seen = &broker.seen;
        assert_eq!((seen.accepted(), seen.handshakes(), seen.calls()), (1, 1, 0));
    }
}

#[tokio::test]
async fn who_cannot_connect_says_why_and_looks_again_with_the_next_call() {
    let dir = TempDir::with_prefix("cb").unwrap();
    let path = dir.path().join("sock");
    let store = ProxyTokenStore::new(&path, None).unwrap();
    let why = || async {
        let error = store.get_token(&github(), Duration::ZERO).await.unwrap_err();
        assert_eq!(error.to_string(), CANNOT_CONNECT);
        match error {
            Error::CannotConnect(cause) => cause,
            other => panic!("{other:?}"),
        }
    };
    assert!(matches!(why().await, ConnectError::Unreachable { .. }));
    std::fs::write(&path, "").unwrap();
    assert!(matches!(why().await, ConnectError::NotASocket { .. }));
    std::fs::remove_file(&path).unwrap();
    // A socket's file that nobody listens on.
    drop(UnixListener::bind(&path).unwrap());
    assert!(matches!(why().await, ConnectError::Unreachable { .. }));
    std::fs::remove_file(&path).unwrap();
    // One who listens and hangs up at once: a broker on its way down, or one with too many connections.
    let listener = UnixListener::bind(&path).unwrap();
    let hang_up = std::thread::spawn(move || drop(listener.accept()));
    assert!(matches!(why().await, ConnectError::Refused));
    hang_up.join().unwrap();
    std::fs::remove_file(&path).unwrap();

    let broker = Scripted::start(Script::default());
    std::os::unix::fs::symlink(broker.socket(), &path).unwrap();
    assert!(store.get_token(&github(), Duration::ZERO).await.unwrap().is_some());
}

#[tokio::test]
async fn one_who_accepts_and_says_nothing_costs_a_request_its_time_and_no_more() {
    let dir = TempDir::with_prefix("cb").unwrap();
    let path = dir.path().join("sock");
    let _listener = UnixListener::bind(&path).unwrap();
    let store = ProxyTokenStore::builder(&path)
        .request_timeout(Duration::from_millis(200))
        .build()
        .unwrap();
    let late = store.get_token(&github(), Duration::ZERO).await.unwrap_err();
    assert!(matches!(late, Error::DeadlineExceeded(_)), "{late:?}");
    assert!(late.to_string().contains("0.2 s"), "{late}");
}

/// More came than the broker has let in: that is no sandbox that was started wrong, but one to wait for.
#[tokio::test]
async fn a_full_queue_is_waited_for() {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, listen, socket};
    let dir = TempDir::with_prefix("cb").unwrap();
    let path = dir.path().join("sock");
    let listener = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    listen(&listener, 1).unwrap();
    let mut queue = Vec::new();
    let full = loop {
        match tokio::net::UnixStream::connect(&path).await {
            Ok(stream) => queue.push(stream),
            Err(error) => break error,
        }
    };
    assert_eq!(full.kind(), std::io::ErrorKind::WouldBlock);
    let store = ProxyTokenStore::builder(&path)
        .request_timeout(Duration::from_millis(300))
        .build()
        .unwrap();
    let late = store.get_token(&github(), Duration::ZERO).await.unwrap_err();
    assert!(matches!(late, Error::DeadlineExceeded(_)), "{late:?}");

    // It gets its turn: with all that were before it taken out, it is the one who is hung up on.
    let store = ProxyTokenStore::new(&path, None).unwrap();
    let waits = tokio::spawn(async move { store.get_token(&github(), Duration::ZERO).await });
    let listener = UnixListener::from(listener);
    let before = queue.len();
    tokio::task::spawn_blocking(move || (0..=before).for_each(|_| drop(listener.accept().unwrap())))
        .await
        .unwrap();
    let turned = waits.await.unwrap().unwrap_err();
    assert!(
        matches!(turned, Error::CannotConnect(ConnectError::Refused)),
        "{turned:?}"
    );
}

/// What holds where nothing else is asked for.
#[tokio::test(start_paused = true)]
async fn a_request_has_30_s_and_an_idle_connection_5_minutes() {
    let mut broker = Scripted::start(Script {
        slow: Duration::from_secs(3600),
        ..Script::default()
    });
    let store = ProxyTokenStore::new(broker.socket(), None).unwrap();
    store.server_info().await.unwrap();
    let start = tokio::time::Instant::now();
    let late = store.get_token(&github(), Duration::ZERO).await.unwrap_err();
    assert!(matches!(late, Error::DeadlineExceeded(_)), "{late:?}");
    assert_eq!(start.elapsed().as_secs(), 30);

    let idle = tokio::time::Instant::now();
    store.remove_token(&github()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(299)).await;
    store.remove_token(&github()).await.unwrap();
    assert_eq!(broker.seen.accepted(), 1);
    let closed = broker.closed().await;
    assert_eq!((closed - idle).as_secs(), 299 + 300);
    store.remove_token(&github()).await.unwrap();
    assert_eq!(broker.seen.accepted(), 2);
}
