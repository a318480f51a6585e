//! What a stop means to those who are connected.

use std::time::Duration;

use credbroker::{
    client::{CredentialStore as _, Error, ProxyTokenStore},
    credential::EntryKey,
};
use tokio::time::Instant;
use tokio_stream::StreamExt as _;
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest,
};
use tonic_types::StatusExt as _;

use crate::{
    broker::{Broker, PROVIDER},
    rates::channel,
    wire::*,
};

#[tokio::test]
async fn streams_end_with_a_reason_and_nobody_is_waited_for() {
    let mut broker = Broker::start().await;
    let mut watch = HealthClient::new(channel(&broker).await)
        .watch(HealthCheckRequest::default())
        .await
        .unwrap()
        .into_inner();
    watch.message().await.unwrap().unwrap();
    let (asks, asked) = tokio::sync::mpsc::channel(1);
    let list = MessageRequest::ListServices(String::new());
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(list),
    };
    asks.send(ask).await.unwrap();
    let mut reflection = ServerReflectionClient::new(channel(&broker).await)
        .server_reflection_info(tokio_stream::wrappers::ReceiverStream::new(asked))
        .await
        .unwrap()
        .into_inner();
    reflection.message().await.unwrap().unwrap();
    // One that has said nothing yet must not hold up the stop.
    let _silent = Raw::silent(broker.socket()).await;
    tokio::time::sleep(Duration::from_millis(100)).await;

    let start = Instant::now();
    broker.terminate();
    let ended = [
        watch.message().await.unwrap_err(),
        reflection.message().await.unwrap_err(),
    ];
    for status in ended {
        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!(status.get_details_error_info().unwrap().reason, "SHUTTING_DOWN");
    }
    drop(asks);
    let socket = broker.socket().to_owned();
    let exit = tokio::task::spawn_blocking(move || broker.wait()).await.unwrap();
    assert!(exit.success());
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    assert!(tokio::net::UnixStream::connect(socket).await.is_err());
}

/// A request that is under way gets 5 s, and then a reason.
#[tokio::test]
async fn a_request_that_does_not_end_is_told_so() {
    let mut broker = Broker::start().await;
    let mut raw = Raw::open(broker.socket()).await;
    // It has 5 s to arrive, too; both come at about the same time, and either is a reason.
    raw.send(&headers(1, GET_TOKEN)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let start = Instant::now();
    broker.terminate();
    let mut goaway = false;
    let mut answered = false;
    while let Some(frame) = raw.receive().await {
        goaway |= frame.kind == GOAWAY;
        if frame.kind == PING && frame.flags & ACK == 0 {
            raw.send(&crate::wire::frame(PING, ACK, 0, &frame.payload))
                .await
                .unwrap();
        }
        answered |= frame.kind == HEADERS && frame.stream == 1;
    }
    assert!(goaway && answered, "{goaway} {answered}");
    assert!(start.elapsed() < Duration::from_secs(7), "{:?}", start.elapsed());
    assert!(
        tokio::task::spawn_blocking(move || broker.wait())
            .await
            .unwrap()
            .success()
    );
}

/// Each watch is told why it ends, and all of them together hold up the stop no longer than one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_watches_end_with_the_reason_in_time() {
    let mut broker = Broker::start().await;
    let client = ProxyTokenStore::new(broker.socket(), None).unwrap();
    let key = EntryKey::parse(PROVIDER, "").unwrap();
    let mut watches = Vec::new();
    for at in 0..1000 {
        // Within the rate of the socket.
        if at % 50 == 49 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let mut watch = client.watch_token(&key).await.unwrap().unwrap();
        watch.next().await.unwrap().unwrap();
        watches.push(watch);
    }
    let start = Instant::now();
    broker.terminate();
    for mut watch in watches {
        let error = watch.next().await.unwrap().unwrap_err();
        assert!(matches!(error, Error::ShuttingDown(_)), "{error}");
    }
    let exit = tokio::task::spawn_blocking(move || broker.wait()).await.unwrap();
    assert!(exit.success());
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}
