//! `grpc.health.v1.Health`, telling the truth: every answer asks the broker now.

use std::{pin::Pin, time::Duration};

use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus, health_server};

use crate::broker::Broker;

/// How often a watched status is looked at again. Nothing is looked at while nobody watches.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Serves the health of a broker under the empty name and the name of its service.
#[derive(Clone)]
pub struct HealthService {
    broker: Broker,
    service: &'static str,
}

impl HealthService {
    /// Serves the health of this broker. `service` is the full name of the gRPC service on the same socket.
    #[must_use]
    pub fn new(broker: Broker, service: &'static str) -> Self {
        Self { broker, service }
    }

    fn knows(&self, service: &str) -> bool {
        service.is_empty() || service == self.service
    }
}

async fn now(broker: &Broker) -> ServingStatus {
    match broker.check().await {
        Ok(()) => ServingStatus::Serving,
        Err(error) => {
            tracing::warn!(%error, "not serving");
            ServingStatus::NotServing
        }
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl health_server::Health for HealthService {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        if !self.knows(&request.get_ref().service) {
            return Err(Status::not_found("unknown service"));
        }
        Ok(Response::new(response(now(&self.broker).await)))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    /// First the status as it is, then every change. An unknown service is told as such and watched on, as the health
    /// protocol wants it.
    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let known = self.knows(&request.get_ref().service);
        let broker = self.broker.clone();
        // One place: a slow reader gets the newest status, not a backlog.
        let (send, receive) = tokio::sync::mpsc::channel(1);
        tokio::spawn(async move {
            let mut told = None;
            loop {
                let status = if known {
                    now(&broker).await
                } else {
                    ServingStatus::ServiceUnknown
                };
                if told != Some(status) {
                    if send.send(Ok(response(status))).await.is_err() {
                        return;
                    }
                    told = Some(status);
                }
                tokio::select! {
                    () = tokio::time::sleep(WATCH_INTERVAL) => {}
                    () = send.closed() => return,
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }
}
