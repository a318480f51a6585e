//! Watches of real brokers, in this process and in others.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    path::PathBuf,
    sync::Arc,
    thread,
    time::Duration,
};

use credbroker::{
    broker::policy::Policy,
    client::{self, CredentialStore as _, Error, ProxyTokenStore, TokenHandle, TokenStream, entry},
    proto::Counters,
    reason::Reason,
};

use crate::{
    broker::{HOUR, Host, github},
    handle::{handle, text},
    loss::{connected, serve},
    rows::saved,
    watch::{end, token, watch},
};

fn control_socket(host: &Host) -> PathBuf {
    let brokers = std::fs::read_dir(host.path().join("run/credbroker")).unwrap();
    let sockets = brokers.map(|broker| broker.unwrap().path().join("control.sock"));
    sockets.into_iter().find(|socket| socket.exists()).unwrap()
}

/// Returns when the broker counts this.
async fn counts(host: &Host, what: &str, wanted: impl Fn(&Counters) -> bool) {
    let give_up = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        let status = client::broker_status(control_socket(host)).await.unwrap();
        let counters = status.counters.unwrap();
        if wanted(&counters) {
            return;
        }
        assert!(tokio::time::Instant::now() < give_up, "{what}: {counters:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn watched_by(host: &Host, number: u64) {
    counts(host, "watches", |counters| counters.open_watches == number).await;
}

/// A provider that gives a new token for any refresh token: `renewed-1`, `renewed-2`, and so on.
fn provider() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for (number, connection) in (1..).zip(listener.incoming()) {
            let mut connection = connection.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"refresh_token=r") && !request.ends_with(b"client_id=c") {
                let mut octets = [0; 1024];
                let read = connection.read(&mut octets).unwrap();
                assert!(read > 0, "{:?}", String::from_utf8_lossy(&request));
                request.extend(octets.iter().take(read));
            }
            let json = format!(r#"{{"access_token":"renewed-{number}","token_type":"Bearer","expires_in":3600}}"#);
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close";
            write!(connection, "{head}\r\ncontent-length: {}\r\n\r\n{json}", json.len()).unwrap();
        }
    });
    format!("[providers.github]\ntoken_endpoint = \"http://{address}/token\"\nclient_id = \"c\"\n")
}

async fn begin(store: &ProxyTokenStore, number: usize) -> Vec<TokenStream> {
    let all: Vec<_> = (0..number)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { watch(&store).await })
        })
        .collect();
    let mut streams = Vec::new();
    for one in all {
        let mut tokens = one.await.unwrap();
        assert_eq!(token(&mut tokens).await, "github/default-token");
        streams.push(tokens);
    }
    streams
}

#[tokio::test]
async fn a_watch_has_what_is_saved_and_what_is_refreshed() {
    let host = Host::new();
    host.configure(&provider());
    host.import_renewable(&github(), HOUR).await;
    let broker = host.start(Policy::host());
    let store = host.client();
    let (mut tokens, handle) = (watch(&store).await, handle(&store));
    assert_eq!(token(&mut tokens).await, "github/default-token");
    let first = handle.token().await.unwrap();

    store.save_token(&github(), saved("saved")).await.unwrap();
    assert_eq!(token(&mut tokens).await, "saved");
    let second = handle.changed(&first.revision).await.unwrap();
    assert_eq!(text(&second), "saved");

    // Refused where it was used; the other one has it as well.
    let third = handle.refresh(&second.revision).await.unwrap();
    assert_eq!(text(&third), "renewed-1");
    assert_eq!(token(&mut tokens).await, "renewed-1");
    assert_eq!(text(&handle.token().await.unwrap()), "renewed-1");
    let fourth = handle.refresh(&second.revision).await.unwrap();
    assert_eq!(fourth.revision, third.revision);
    broker.stop().await;
}

#[tokio::test]
async fn an_expired_token_is_refreshed_before_anything_is_told() {
    let host = Host::new();
    host.configure(&provider());
    host.import_renewable(&github(), Duration::ZERO).await;
    let broker = host.start(Policy::host());
    let mut tokens = watch(&host.client()).await;
    assert_eq!(token(&mut tokens).await, "renewed-1");
    broker.stop().await;
}

#[tokio::test]
async fn sixty_five_watches_are_two_connections_also_as_the_broker_counts() {
    let host = Host::new();
    host.import(&github(), HOUR).await;
    let broker = host.start(Policy::host());
    let store = host.client();
    let mut streams = begin(&store, 64).await;
    counts(&host, "64", |c| (c.open_watches, c.open_connections) == (64, 1)).await;
    streams.extend(begin(&store, 1).await);
    counts(&host, "65", |c| (c.open_watches, c.open_connections) == (65, 2)).await;
    // Calls go on beside them, on a connection of their own.
    store.save_token(&github(), saved("new")).await.unwrap();
    counts(&host, "calls", |c| (c.open_watches, c.open_connections) == (65, 3)).await;
    for tokens in &mut streams {
        assert_eq!(token(tokens).await, "new");
    }
    // Dropped, they end at the broker; a connection goes with its last.
    let last = streams.pop();
    streams.truncate(10);
    counts(&host, "11", |c| (c.open_watches, c.open_connections) == (11, 3)).await;
    drop(last);
    counts(&host, "10", |c| (c.open_watches, c.open_connections) == (10, 2)).await;
    drop(streams);
    counts(&host, "none", |c| (c.open_watches, c.open_connections) == (0, 1)).await;
    broker.stop().await;
}

#[tokio::test]
async fn a_host_that_grants_fewer_has_more_connections() {
    let host = Host::new();
    host.configure("[limits]\nstreams = 10\n");
    host.import(&github(), HOUR).await;
    let broker = host.start(Policy::host());
    let streams = begin(&host.client(), 65).await;
    counts(&host, "65", |c| (c.open_watches, c.open_connections) == (65, 7)).await;
    drop(streams);
    counts(&host, "none", |c| (c.open_watches, c.open_connections) == (0, 0)).await;
    broker.stop().await;
}

#[tokio::test]
async fn a_logout_and_a_broker_that_stops_end_a_watch_with_the_reason() {
    let host = Host::new();
    host.import(&github(), HOUR).await;
    let broker = host.start(Policy::host());
    let store = host.client();
    let absent = entry("github", "nobody").unwrap();
    assert!(store.watch_token(&absent).await.unwrap().is_none());

    let mut tokens = watch(&store).await;
    assert_eq!(token(&mut tokens).await, "github/default-token");
    let handle = handle(&store);
    handle.token().await.unwrap();
    store.remove_token(&github()).await.unwrap();
    let gone = end(&mut tokens).await;
    assert_eq!(gone.reason(), Some(Reason::NotFound), "{gone:?}");
    while handle.current().is_some() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let gone = handle.token().await.unwrap_err();
    assert_eq!(gone.reason(), Some(Reason::NotFound), "{gone:?}");
    watched_by(&host, 0).await;

    // Somebody logs in.
    host.import(&github(), HOUR).await;
    assert_eq!(text(&handle.token().await.unwrap()), "github/default-token");
    let mut tokens = watch(&store).await;
    assert_eq!(token(&mut tokens).await, "github/default-token");
    broker.stop().await;
    let stopped = end(&mut tokens).await;
    assert_eq!(stopped.reason(), Some(Reason::ShuttingDown), "{stopped:?}");
    assert_eq!(text(&handle.token().await.unwrap()), "github/default-token");
}

#[tokio::test]
async fn what_may_not_be_read_is_not_watched() {
    let host = Host::new();
    host.import(&github(), HOUR).await;
    let broker = host.start(Policy::default());
    let store = host.client();
    let refused = store.watch_token(&github()).await.err().unwrap();
    assert!(matches!(refused, Error::Unauthorized(_)), "{refused:?}");
    let refused = handle(&store).token().await.unwrap_err();
    assert!(matches!(refused, Error::Unauthorized(_)), "{refused:?}");
    counts(&host, "none", |c| (c.open_watches, c.open_connections) == (0, 0)).await;
    broker.stop().await;
}

#[tokio::test]
async fn a_broker_that_is_killed_is_lost_for_all_that_is_watched() {
    let host = Host::new();
    host.import(&github(), HOUR).await;
    let mut broker = serve(&host);
    let store = connected(&host).await;
    let (mut tokens, handle) = (watch(&store).await, handle(&store));
    assert_eq!(token(&mut tokens).await, "github/default-token");
    let one = handle.token().await.unwrap();
    broker.kill().unwrap();
    broker.wait().unwrap();
    let lost = end(&mut tokens).await;
    assert!(matches!(lost, Error::ConnectionLost), "{lost:?}");
    let lost = handle.changed(&one.revision).await.unwrap_err();
    assert!(matches!(lost, Error::ConnectionLost), "{lost:?}");

    // Another one at the same path is not the same, and is not asked.
    let mut broker = serve(&host);
    connected(&host).await;
    let lost = store.watch_token(&github()).await.err().unwrap();
    assert!(matches!(lost, Error::ConnectionLost), "{lost:?}");
    // What was read before is still good.
    assert_eq!(handle.token().await.unwrap().revision, one.revision);
    broker.kill().unwrap();
    broker.wait().unwrap();
}

/// For a process of its own, which is in a sandbox or on the host: no runtime is there but the store's own.
pub(crate) async fn every_way(store: client::ProcessStore) {
    let absent = entry("github", "nobody").unwrap();
    assert!(store.watch_token(&absent).await.unwrap().is_none());
    let mut tokens = store.watch_token(&github()).await.unwrap().unwrap();
    let handle = TokenHandle::new(Arc::new(store.clone()), github());
    assert!(handle.current().is_none());
    let old = handle.token().await.unwrap();
    assert_eq!(text(&old), "github/default-token");
    assert_eq!(pure_next(&mut tokens).await.unwrap(), "github/default-token");

    store.save_token(&github(), saved("two")).await.unwrap();
    assert_eq!(pure_next(&mut tokens).await.unwrap(), "two");
    assert_eq!(text(&handle.changed(&old.revision).await.unwrap()), "two");

    let other = TokenHandle::new(Arc::new(store.clone()), absent.clone());
    let none = other.token().await.unwrap_err();
    assert_eq!(none.reason(), Some(Reason::NotFound), "{none:?}");

    let waits = thread::spawn({
        let (handle, revision) = (handle.clone(), handle.token().await.unwrap().revision);
        move || crate::process::block_on(async move { handle.changed(&revision).await.unwrap_err() })
    });
    client::shutdown().await;
    let stopped = pure_next(&mut tokens).await.unwrap_err();
    assert_eq!(stopped.reason(), Some(Reason::ShuttingDown), "{stopped:?}");
    let stopped = waits.join().unwrap();
    assert_eq!(stopped.reason(), Some(Reason::ShuttingDown), "{stopped:?}");
    // It has not expired because the store is gone; but nobody knows of another one.
    assert_eq!(text(&handle.token().await.unwrap()), "two");
    let none = other.token().await.unwrap_err();
    assert_eq!(none.reason(), Some(Reason::ShuttingDown), "{none:?}");
}

/// Without a timer, which would need a runtime.
async fn pure_next(tokens: &mut TokenStream) -> Result<String, Error> {
    use tokio_stream::StreamExt as _;
    let next = tokens.next().await.unwrap();
    next.map(|token| text(&token).to_owned())
}
