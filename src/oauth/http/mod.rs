//! The one HTTP client. It makes one request over one connection, and the connection is closed when it returns.
//!
//! Each exchange has a reqwest client of its own that lives for this one request: no pool, redirect, retry, cookie or
//! decompression, so nothing could send a body a second time. But reqwest leaves a connection to a task of its own, which
//! on a shared runtime would end some time after the answer. So each exchange also has a thread and a runtime of its own:
//! when the answer is complete, or the limit has passed, the runtime is dropped, with it every task, with those every
//! socket, and only then is anything told. Who stops waiting does not cut an exchange off.
//!
//! Whether anything was sent is not read from an error. The connector says when it hands a connection over; before that
//! nothing of a request can have been written, and from then on it counts as written.
//!
//! Bodies are bounded and kept in memory that is wiped, as far as it is ours: hyper's read buffer is not. An answer's head
//! has hyper's own bounds, 100 fields and some 400 KiB, for which reqwest has no setting that is lower.

mod client;
mod connect;
mod proxy;

use std::{
    io,
    sync::{Arc, OnceLock},
    thread,
    time::Duration,
};

use http::{HeaderMap, HeaderValue, Method, StatusCode};
use rustls::ClientConfig;
use tokio::{runtime, sync::oneshot};
use zeroize::Zeroizing;

pub use self::connect::{Layer, Unreachable};
use self::proxy::Proxying;
use super::Endpoint;

/// How long an exchange may take, and how much it may bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpLimits {
    /// From the look-up of the name to the end of the TLS handshake.
    pub connect: Duration,
    /// From the first byte of the request to the last of the answer.
    pub answer: Duration,
    /// Bytes of the answer's body.
    pub body: usize,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            answer: Duration::from_secs(60),
            body: 1024 * 1024,
        }
    }
}

/// Which proxies lead outside, in the words of curl. Loopback is never asked through one.
#[derive(Clone, Default)]
pub struct Proxies {
    /// For https (`HTTPS_PROXY`, else `ALL_PROXY`).
    pub https: Option<String>,
    /// Hosts that are asked directly (`NO_PROXY`).
    pub except: Option<String>,
}

/// The client. It keeps no connection, so there is nothing in it but settings.
pub struct Http {
    limits: HttpLimits,
    proxying: Option<Proxying>,
    tls: OnceLock<ClientConfig>,
}

/// What is sent.
pub(super) struct Outgoing {
    pub(super) method: Method,
    pub(super) to: Endpoint,
    /// `Content-Type` and the body.
    pub(super) body: Option<(HeaderValue, Zeroizing<Vec<u8>>)>,
    pub(super) authorization: Option<HeaderValue>,
}

/// A complete answer.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Zeroizing<Vec<u8>>,
}

/// Why there is no complete answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoAnswer {
    /// Nothing of the request was written.
    #[error(transparent)]
    NotSent(Unreachable),
    /// Something of it may have been written; what was seen then.
    #[error("{0}")]
    Lost(&'static str),
}

impl Http {
    /// A client with these limits and proxies.
    #[must_use]
    pub fn new(limits: HttpLimits, proxies: &Proxies) -> Self {
        Self {
            limits,
            proxying: Proxying::new(proxies),
            tls: OnceLock::new(),
        }
    }

    /// Reads the system's certificate authorities, as they are now. What cannot be read is tried again when it is needed.
    pub fn read_authorities(&self) {
        if let Err(error) = connect::trusting(&self.tls) {
            tracing::debug!(%error, "no certificate authorities yet");
        }
    }

    /// Fetches a document that is no secret (GET).
    pub(super) async fn get(self: &Arc<Self>, from: Endpoint) -> Result<Answer, NoAnswer> {
        let outgoing = Outgoing {
            method: Method::GET,
            to: from,
            body: None,
            authorization: None,
        };
        self.exchange(outgoing).await
    }

    /// Sends the request once. When this returns, its connection is closed.
    pub(super) async fn exchange(self: &Arc<Self>, outgoing: Outgoing) -> Result<Answer, NoAnswer> {
        let http = Arc::clone(self);
        apart(move || async move { http.ask(outgoing).await }).await
    }

    /// Connects and closes again: whether the endpoint can be reached. Nothing is sent to it.
    ///
    /// # Errors
    /// The layer that failed.
    pub(super) async fn reach(self: &Arc<Self>, endpoint: &Endpoint) -> Result<(), Unreachable> {
        let (http, endpoint) = (Arc::clone(self), endpoint.clone());
        let reached = apart(move || async move { http.touch(endpoint).await.map_err(NoAnswer::NotSent) });
        reached.await.map_err(|error| match error {
            NoAnswer::NotSent(unreachable) => unreachable,
            NoAnswer::Lost(seen) => Unreachable::new(Layer::Tcp, seen),
        })
    }
}

/// Runs this on a thread and a runtime of its own, to the end, whoever is waiting.
async fn apart<T, W, F>(work: W) -> Result<T, NoAnswer>
where
    T: Send + 'static,
    W: FnOnce() -> F + Send + 'static,
    F: Future<Output = Result<T, NoAnswer>>,
{
    let (tell, told) = oneshot::channel();
    let not_begun = |error: &io::Error| NoAnswer::NotSent(Unreachable::new(Layer::Tcp, error.kind().to_string()));
    let running = thread::Builder::new().name("exchange".into()).spawn(move || {
        let done = match runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => {
                let done = runtime.block_on(work());
                // It closes what is open, and waits for nothing: look-ups have threads of their own.
                drop(runtime);
                done
            }
            Err(error) => Err(not_begun(&error)),
        };
        // Whoever asked may have gone.
        let _ = tell.send(done);
    });
    running.map_err(|error| not_begun(&error))?;
    // It tells something, unless it has panicked.
    told.await.unwrap_or(Err(NoAnswer::Lost("the exchange broke off")))
}

#[cfg(test)]
mod tests {
    use std::{
        future::pending,
        sync::atomic::{AtomicBool, Ordering},
    };

    use super::*;

    /// Something that takes its time to end.
    struct Slow(Arc<AtomicBool>);

    impl Drop for Slow {
        fn drop(&mut self) {
            thread::sleep(Duration::from_millis(50));
            self.0.store(true, Ordering::Release);
        }
    }

    #[tokio::test]
    async fn what_an_exchange_leaves_running_has_ended_when_it_is_told() {
        let ended = Arc::new(AtomicBool::new(false));
        let slow = Slow(Arc::clone(&ended));
        let exchange = apart(move || async move {
            tokio::spawn(async move {
                let _slow = slow;
                pending::<()>().await;
            });
            tokio::task::yield_now().await;
            Ok(())
        });
        assert!(exchange.await.is_ok());
        assert!(ended.load(Ordering::Acquire));
    }
}
