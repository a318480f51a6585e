//! Where a call goes once it has passed the layers.

use std::{convert::Infallible, sync::Arc};

use http::{Request, Response};
use tonic::{body::Body, codegen::BoxFuture, server::NamedService, service};
use tower::{Service, ServiceExt as _};

/// What the paths of the sandbox's own service begin with.
pub(super) const CREDENTIALS: &str = "/credbroker.v1.CredentialBroker/";
/// What the paths of Envoy's secret discovery begin with.
pub(super) const SECRETS: &str = "/envoy.service.secret.v3.SecretDiscoveryService/";

type Answered = BoxFuture<Response<Body>, Infallible>;

/// The services of one socket. Calls of the first, its own, go straight to it: they are nearly all there are, and tonic's
/// router wraps each body on its way in and out once more. All others go through the router.
#[derive(Clone)]
pub struct Routes {
    name: &'static str,
    own: Arc<dyn Fn(Request<Body>) -> Answered + Send + Sync>,
    all: service::Routes,
}

impl Routes {
    /// The socket's own service; the others are added.
    pub fn new<S>(own: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future = Answered>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
    {
        let all = service::Routes::new(own.clone());
        Self {
            name: S::NAME,
            // What tonic generates is always ready.
            own: Arc::new(move |request| own.clone().call(request)),
            all,
        }
    }

    /// The same with one more service.
    #[must_use]
    pub fn add_service<S>(self, service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + NamedService + Clone + Send + Sync,
        S: 'static,
        S::Future: Send + 'static,
    {
        Self {
            all: self.all.add_service(service),
            ..self
        }
    }

    /// To be called when all are there.
    pub(super) fn prepare(self) -> Self {
        Self {
            all: self.all.prepare(),
            ..self
        }
    }

    /// Hands a call on.
    pub(super) async fn call(&self, request: Request<Body>) -> Response<Body> {
        let Ok(response) = if self.is_own(request.uri().path()) {
            (self.own)(request).await
        } else {
            self.all.clone().oneshot(request).await
        };
        response
    }

    fn is_own(&self, path: &str) -> bool {
        path.strip_prefix('/')
            .and_then(|path| path.strip_prefix(self.name))
            .and_then(|path| path.strip_prefix('/'))
            .is_some_and(|method| !method.is_empty())
    }
}
