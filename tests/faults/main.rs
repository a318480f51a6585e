//! The client of the fault scripts (`tests/faults/run.sh`): one call to a running broker, told in one word.
//!
//! Without a role this does nothing: a test only in name.
#![expect(clippy::unwrap_used, reason = "a client that cannot go on fails its script")]

use std::{env, path::PathBuf};

use credbroker::proto::{self, credential_broker_client::CredentialBrokerClient};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_types::StatusExt as _;

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "how the scripts tell their client what to do")]
async fn client_in_a_role() {
    let Ok(role) = env::var("CREDBROKER_TEST_ROLE") else {
        return;
    };
    let variable = |name: &str| env::var(name).unwrap();
    let channel = channel(variable("CREDBROKER_TEST_SOCKET").into()).await;
    let answer = match role.as_str() {
        "save" => save(channel, variable("CREDBROKER_TEST_TOKEN")).await,
        "get" => get(channel).await,
        "refresh" => refresh(channel).await,
        "health" => health(channel).await,
        other => format!("no such role: {other}"),
    };
    // The test runner has begun a line.
    println!("\nclient: {answer}");
}

async fn channel(socket: PathBuf) -> Channel {
    Endpoint::from_static("http://localhost")
        .connect_with_connector(tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        }))
        .await
        .unwrap()
}

/// Saves an access token of the entry `p/default`.
async fn save(channel: Channel, access_token: String) -> String {
    let request = proto::SaveTokenRequest {
        provider: "p".into(),
        bucket: String::new(),
        token: Some(proto::AccessToken {
            access_token,
            ..Default::default()
        }),
    };
    let saved = CredentialBrokerClient::new(channel).save_token(request).await;
    saved.map_or_else(|status| reason(&status), |_| "ok".into())
}

async fn get(channel: Channel) -> String {
    let request = proto::GetTokenRequest {
        provider: "p".into(),
        ..Default::default()
    };
    match CredentialBrokerClient::new(channel).get_token(request).await {
        Ok(answer) => answer.into_inner().token.unwrap().access_token,
        Err(status) => reason(&status),
    }
}

async fn refresh(channel: Channel) -> String {
    let request = proto::RefreshTokenRequest {
        provider: "p".into(),
        ..Default::default()
    };
    match CredentialBrokerClient::new(channel).refresh_token(request).await {
        Ok(answer) => answer.into_inner().token.unwrap().access_token,
        Err(status) => reason(&status),
    }
}

async fn health(channel: Channel) -> String {
    let answer = HealthClient::new(channel).check(HealthCheckRequest::default()).await;
    match answer.map(|answer| answer.into_inner().status()) {
        Ok(ServingStatus::Serving) => "serving".into(),
        Ok(ServingStatus::NotServing) => "not-serving".into(),
        Ok(other) => format!("{other:?}"),
        Err(status) => reason(&status),
    }
}

/// The machine-readable reason; without one the connection broke.
fn reason(status: &tonic::Status) -> String {
    status
        .get_details_error_info()
        .map_or_else(|| "connection-lost".into(), |info| info.reason)
}
