//! How many calls and streams pass, and what the others are told.

use std::time::Duration;

use credbroker::proto::{GetServerInfoRequest, credential_broker_client::CredentialBrokerClient};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_types::StatusExt as _;

use crate::broker::Broker;

pub(crate) async fn channel(broker: &Broker) -> Channel {
    let socket = broker.socket().to_owned();
    let connect = move |_| {
        let socket = socket.clone();
        async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
    };
    let endpoint = Endpoint::from_static("http://localhost");
    endpoint
        .connect_with_connector(tower::service_fn(connect))
        .await
        .unwrap()
}

pub(crate) fn reason(status: &Status) -> String {
    status.get_details_error_info().unwrap().reason
}

#[tokio::test]
async fn more_calls_than_a_connection_may_make() {
    let broker = Broker::start_with("[limits]\nrequests_per_second = 5\n").await;
    let mut client = CredentialBrokerClient::new(channel(&broker).await);
    let mut health = HealthClient::new(channel(&broker).await);
    let mut refused = Vec::new();
    for _ in 0..15 {
        if let Err(status) = client.get_server_info(GetServerInfoRequest::default()).await {
            refused.push(status);
        }
    }
    assert!(!refused.is_empty() && refused.len() <= 5, "{}", refused.len());
    for status in &refused {
        assert_eq!(
            (status.code(), reason(status).as_str()),
            (Code::ResourceExhausted, "RATE_LIMITED")
        );
        let delay = status.get_details_retry_info().unwrap().retry_delay.unwrap();
        assert!(
            delay > Duration::ZERO && delay <= Duration::from_millis(200),
            "{delay:?}"
        );
    }
    // Who waits as it was told to is served; and neither another connection nor health was ever in the way.
    let delay = refused
        .last()
        .unwrap()
        .get_details_retry_info()
        .unwrap()
        .retry_delay
        .unwrap();
    tokio::time::sleep(delay).await;
    client.get_server_info(GetServerInfoRequest::default()).await.unwrap();
    CredentialBrokerClient::new(channel(&broker).await)
        .get_server_info(GetServerInfoRequest::default())
        .await
        .unwrap();
    for _ in 0..10 {
        health.check(HealthCheckRequest::default()).await.unwrap();
    }
    let too_many = health.check(HealthCheckRequest::default()).await.unwrap_err();
    assert_eq!(reason(&too_many), "RATE_LIMITED");
}

#[tokio::test]
async fn a_busy_socket_still_serves_every_connection_five_a_second() {
    let broker = Broker::start_with("[limits]\nrequests_per_second_per_socket = 10\n").await;
    let mut noisy = CredentialBrokerClient::new(channel(&broker).await);
    let mut passed = 0;
    for _ in 0..50 {
        passed += usize::from(noisy.get_server_info(GetServerInfoRequest::default()).await.is_ok());
    }
    assert!(passed < 45, "{passed}");
    let mut quiet = CredentialBrokerClient::new(channel(&broker).await);
    for _ in 0..5 {
        quiet.get_server_info(GetServerInfoRequest::default()).await.unwrap();
    }
}

#[tokio::test]
async fn one_stream_too_many() {
    let broker = Broker::start_with("[limits]\nstreams = 3\n").await;
    let mut client = HealthClient::new(channel(&broker).await);
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut stream = client.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
        stream.message().await.unwrap().unwrap();
        open.push(stream);
    }
    let refused = client.watch(HealthCheckRequest::default()).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::ResourceExhausted, "TOO_MANY_STREAMS")
    );
    // Unary calls are not counted, and an ended stream is none.
    client.check(HealthCheckRequest::default()).await.unwrap();
    open.pop();
    tokio::time::sleep(Duration::from_millis(500)).await;
    client.watch(HealthCheckRequest::default()).await.unwrap();
}
