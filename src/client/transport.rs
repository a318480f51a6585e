//! What the generated stubs call through: a connection to a socket, or the service in this process.
//!
//! tonic's own channel is not used because it connects again by itself, which a client of a sandbox must not do.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use http::{
    HeaderValue, Request, Response, Uri,
    header::{AUTHORIZATION, USER_AGENT},
};
use secrecy::{ExposeSecret as _, SecretString};
use tonic::{body::Body, client::GrpcService};
use tower::Service;

use super::{Error, connect::Sender};
use crate::{
    broker::Caller,
    proto::{credential_broker_client::CredentialBrokerClient, credential_broker_server::CredentialBrokerServer},
    service::CredentialService,
};

/// The stub of every call.
pub(super) type Stub = CredentialBrokerClient<Transport>;
type BoxError = Box<dyn std::error::Error + Send + Sync>;

const AGENT: &str = concat!("credbroker/", env!("CARGO_PKG_VERSION"));

/// What the broker sees as `:authority`. The name is never resolved.
pub(super) fn origin() -> Uri {
    Uri::from_static("http://localhost")
}

/// The sandbox's capability as a header.
#[derive(Clone)]
pub(super) struct Capability(HeaderValue);

impl Capability {
    pub(super) fn new(capability: &SecretString) -> Result<Self, Error> {
        let text = zeroize::Zeroizing::new(format!("Bearer {}", capability.expose_secret()));
        let mut value = HeaderValue::from_str(&text).map_err(|_characters| Error::InvalidCapability)?;
        // Kept out of every Debug output, and out of HPACK's dynamic table.
        value.set_sensitive(true);
        Ok(Self(value))
    }
}

/// One call's way to the broker.
#[derive(Clone)]
pub(super) enum Transport {
    /// A connection.
    Socket(Sender, Option<Capability>),
    /// The service itself. What it does with a request is the same, to the byte.
    InProcess(CredentialBrokerServer<CredentialService>),
}

impl Transport {
    pub(super) fn stub(self) -> Stub {
        CredentialBrokerClient::with_origin(self, origin())
    }
}

impl Service<Request<Body>> for Transport {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // A connection takes any number of calls and queues them; whether it still lives, the call itself tells.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        match self {
            Self::Socket(sender, capability) => {
                let headers = request.headers_mut();
                headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
                if let Some(Capability(value)) = capability {
                    headers.insert(AUTHORIZATION, value.clone());
                }
                let answer = sender.send_request(request);
                Box::pin(async move { Ok(answer.await?.map(Body::new)) })
            }
            Self::InProcess(service) => {
                // What the layers of a socket would have found out: here it is the host's own user.
                request.extensions_mut().insert(Caller::host());
                let answer = GrpcService::call(service, request);
                Box::pin(async move { Ok(answer.await?) })
            }
        }
    }
}
