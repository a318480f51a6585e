//! A connection that is lost stays lost.

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

use credbroker::{
    broker::policy::Policy,
    client::{CredentialStore as _, Error, ProxyTokenStore},
};

use crate::{
    broker::{HOUR, Host, github},
    scripted::{Script, Scripted, runtime},
};

const LOST: &str = "Credential broker connection lost. Restart the session.";

async fn assert_lost(store: &ProxyTokenStore) {
    for _ in 0..3 {
        let lost = store.get_token(&github(), Duration::ZERO).await.unwrap_err();
        assert!(matches!(lost, Error::ConnectionLost), "{lost:?}");
        assert_eq!(lost.to_string(), LOST);
        let lost = store.server_info().await.unwrap_err();
        assert!(matches!(lost, Error::ConnectionLost), "{lost:?}");
    }
}

/// The real program on the host's store.
pub(crate) fn serve(host: &Host) -> Child {
    Command::new(env!("CARGO_BIN_EXE_credbroker"))
        .arg("serve")
        .arg("--socket")
        .arg(host.socket())
        .env_clear()
        .envs(host.variables())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// A client of the broker that is being started. It also shows that one who came too early is not lost.
pub(crate) async fn connected(host: &Host) -> ProxyTokenStore {
    let store = host.client();
    let give_up = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        match store.get_token(&github(), Duration::ZERO).await {
            Ok(token) => {
                assert!(token.is_some());
                return store;
            }
            Err(Error::CannotConnect(_)) if tokio::time::Instant::now() < give_up => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(other) => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_broker_that_is_killed_and_started_again_at_the_same_path_is_not_the_same() {
    let host = Host::new();
    host.import(&github(), HOUR).await;
    let mut broker = serve(&host);
    let (asked, idle) = (connected(&host).await, connected(&host).await);
    broker.kill().unwrap();
    broker.wait().unwrap();
    assert_lost(&asked).await;

    let mut broker = serve(&host);
    let fresh = connected(&host).await;
    assert_lost(&asked).await;
    // Also for the one that slept through it all.
    assert_lost(&idle).await;
    assert!(fresh.get_token(&github(), Duration::ZERO).await.unwrap().is_some());
    broker.kill().unwrap();
    broker.wait().unwrap();
}

#[tokio::test]
async fn a_broker_that_stops_in_order_is_lost_as_well() {
    let host = Host::new();
    host.import(&github(), HOUR).await;
    let broker = host.start(Policy::host());
    let store = connected(&host).await;
    broker.stop().await;
    let broker = host.start(Policy::host());
    assert_lost(&store).await;
    broker.stop().await;
}

#[tokio::test]
async fn calls_under_way_are_told_and_none_is_repeated() {
    let broker = Scripted::start(Script {
        slow: Duration::from_secs(3600),
        ..Script::default()
    });
    let store = ProxyTokenStore::new(broker.socket(), None).unwrap();
    let under_way = tokio::spawn({
        let store = store.clone();
        async move { store.get_token(&github(), Duration::ZERO).await }
    });
    while broker.seen.calls() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    broker.cut();
    let lost = under_way.await.unwrap().unwrap_err();
    assert!(matches!(lost, Error::ConnectionLost), "{lost:?}");
    assert_lost(&store).await;
    assert_eq!((broker.seen.accepted(), broker.seen.calls()), (1, 1));
}

#[test]
fn a_connection_is_lost_with_the_runtime_that_it_was_made_on() {
    let broker_side = tokio::runtime::Runtime::new().unwrap();
    let broker = broker_side.block_on(async { Scripted::start(Script::default()) });
    let store = ProxyTokenStore::new(broker.socket(), None).unwrap();
    let first = runtime();
    let token = first.block_on(store.get_token(&github(), Duration::ZERO));
    assert!(token.unwrap().is_some());
    drop(first);
    // Also for what needs no answer of the broker any more.
    let lost = runtime().block_on(store.server_info()).unwrap_err();
    assert!(matches!(lost, Error::ConnectionLost), "{lost:?}");
    runtime().block_on(assert_lost(&store));
    assert_eq!(broker.seen.accepted(), 1);
}
