//! The host's own question to its running brokers. A sandbox has no way to it.

use std::path::PathBuf;

use tokio::time::timeout;

use super::{
    Error,
    link::{Link, Road},
    proxy::{IDLE_TIMEOUT, REQUEST_TIMEOUT},
    transport::origin,
};
use crate::proto::{GetStatusRequest, GetStatusResponse, control_broker_client::ControlBrokerClient};

/// Asks a running broker for its state over its control socket: every page of its entries in one answer.
///
/// # Errors
/// [`Error::CannotConnect`], [`Error::DeadlineExceeded`] after 30 s, or what the broker answers.
pub async fn broker_status(control_socket: PathBuf) -> Result<GetStatusResponse, Error> {
    timeout(REQUEST_TIMEOUT, every_page(control_socket))
        .await
        .unwrap_or_else(|_elapsed| Err(Error::not_answered_within(REQUEST_TIMEOUT)))
}

async fn every_page(control_socket: PathBuf) -> Result<GetStatusResponse, Error> {
    let link = Link::new(Road::new(control_socket, None), IDLE_TIMEOUT);
    let lease = link.lease().await?;
    let mut stub = ControlBrokerClient::with_origin(lease.transport(), origin());
    let failed = |status| lease.failed(status);
    let first = stub.get_status(GetStatusRequest::default()).await;
    let mut status = first.map_err(failed)?.into_inner();
    while !status.next_page_token.is_empty() {
        let request = GetStatusRequest {
            page_size: 0,
            page_token: std::mem::take(&mut status.next_page_token),
        };
        let page = stub.get_status(request).await.map_err(failed)?.into_inner();
        status.entries.extend(page.entries);
        status.next_page_token = page.next_page_token;
    }
    Ok(status)
}
