//! A look at the broker behind a socket that asks for no credential.

use std::{path::PathBuf, time::Duration};

use secrecy::SecretString;
use tokio::time::timeout;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use super::{
    Error, ProxyTokenStore, ServerInfo,
    link::{Link, Road},
    proxy::IDLE_TIMEOUT,
    transport::origin,
};

/// How long a broker may take to answer before it counts as silent.
const PATIENCE: Duration = Duration::from_secs(5);

/// Agrees on the protocol version, and shows the capability: who answers, if the broker takes it. `None`: no answer came
/// in time.
///
/// # Errors
/// [`Error::CannotConnect`], [`Error::UnknownVersion`], or what the broker answers.
pub async fn handshake(socket: PathBuf, capability: Option<&SecretString>) -> Result<Option<ServerInfo>, Error> {
    let broker = ProxyTokenStore::new(socket, capability.cloned())?;
    timeout(PATIENCE, broker.server_info())
        .await
        .map_or(Ok(None), |answer| answer.map(Some))
}

/// Whether the broker says that it serves; needs no capability. `None`: no answer came in time.
///
/// # Errors
/// [`Error::CannotConnect`], or what the broker answers.
pub async fn health(socket: PathBuf) -> Result<Option<bool>, Error> {
    let link = Link::new(Road::new(socket, None), IDLE_TIMEOUT);
    let asked = timeout(PATIENCE, async {
        let lease = link.lease().await?;
        let mut stub = HealthClient::with_origin(lease.transport(), origin());
        let answer = stub.check(HealthCheckRequest::default()).await;
        let answer = answer.map_err(|status| lease.failed(status))?;
        Ok(answer.into_inner().status() == ServingStatus::Serving)
    });
    asked.await.map_or(Ok(None), |answer| answer.map(Some))
}
