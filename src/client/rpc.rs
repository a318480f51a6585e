//! The calls themselves: what each operation sends, and what its answer means. The same for a broker behind a socket and
//! for one in this process.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::time::{Instant, timeout_at};
use tonic::{Request, Response, Status};

use super::{
    BucketStats, Error, LoginFlow, LoginStep, Revocation, ServerInfo, TokenStream,
    in_process::InProcess,
    link::{Lease, Link},
    proxy::REQUEST_TIMEOUT,
    stream::{self, Line},
    transport::Stub,
    watches::Watches,
    wire,
};
use crate::{
    broker::Broker,
    clock::{Clock, SystemClock},
    credential::{AccessToken, EntryKey, Name, SavedToken},
    proto,
};

/// The protocol version this client speaks.
const PROTOCOL_VERSION: u32 = 1;

/// The way to a broker, with a limit to every request.
#[derive(Clone)]
pub(super) struct Rpc {
    pub(super) way: Way,
    pub(super) timeout: Duration,
    clock: Arc<dyn Clock>,
}

/// Where the broker is.
#[derive(Clone)]
pub(super) enum Way {
    /// Behind a socket: the connection of the calls, and those of the watches.
    Socket(Arc<Link>, Arc<Watches>),
    /// In this process.
    InProcess(InProcess),
}

/// A login that was begun.
pub(super) struct Begun {
    pub(super) session: Arc<str>,
    pub(super) step: LoginStep,
    /// How often asking is worth it.
    pub(super) interval: Duration,
    pub(super) expire_time: Option<Timestamp>,
}

/// How a login stands.
pub(super) enum Standing {
    /// Asking again is worth it then.
    Pending(Duration),
    Complete(Option<AccessToken>),
    Failed(Error),
}

impl Rpc {
    pub(super) fn new(way: Way, timeout: Duration) -> Self {
        Self {
            way,
            timeout,
            clock: Arc::new(SystemClock::new()),
        }
    }

    /// The calls to a broker in this process.
    pub(super) fn over(broker: Broker) -> Self {
        Self::new(Way::InProcess(InProcess::over(broker)), REQUEST_TIMEOUT)
    }

    pub(super) async fn server_info(&self) -> Result<ServerInfo, Error> {
        match &self.way {
            Way::Socket(link, _) => {
                let deadline = self.deadline();
                let agreed = async { agreed(&link.lease().await?, deadline).await.cloned() };
                self.until(deadline, agreed).await
            }
            Way::InProcess(_) => {
                let send = |mut stub: Stub, request| async move { stub.get_server_info(request).await };
                self.call(our_version(), send).await.map(server_info)
            }
        }
    }

    pub(super) async fn get_token(&self, key: &EntryKey, min_validity: Duration) -> Result<Option<AccessToken>, Error> {
        let message = proto::GetTokenRequest {
            provider: key.provider.to_string(),
            bucket: key.bucket.to_string(),
            min_validity: Some(wire::duration(min_validity)),
        };
        let send = |mut stub: Stub, request| async move { stub.get_token(request).await };
        let answer = present(self.call(message, send).await)?;
        answer.map(|answer| wire::access_token(answer.token)).transpose()
    }

    pub(super) async fn save_token(&self, key: &EntryKey, token: SavedToken) -> Result<(), Error> {
        let message = proto::SaveTokenRequest {
            provider: key.provider.to_string(),
            bucket: key.bucket.to_string(),
            token: Some(wire::saved_token(token)),
        };
        let send = |mut stub: Stub, request| async move { stub.save_token(request).await };
        self.call(message, send).await.map(drop)
    }

    pub(super) async fn remove_token(&self, key: &EntryKey) -> Result<Revocation, Error> {
        let message = proto::RemoveTokenRequest {
            provider: key.provider.to_string(),
            bucket: key.bucket.to_string(),
        };
        let send = |mut stub: Stub, request| async move { stub.remove_token(request).await };
        let answer = present(self.call(message, send).await)?;
        Ok(answer.map_or(Revocation::NothingStored, |answer| {
            wire::revocation(answer.revocation())
        }))
    }

    pub(super) async fn list_providers(&self) -> Result<Vec<Name>, Error> {
        let mut pages = Pages::default();
        while let Some(page_token) = pages.next() {
            let message = proto::ListProvidersRequest {
                page_size: 0,
                page_token,
            };
            let send = |mut stub: Stub, request| async move { stub.list_providers(request).await };
            let page = self.call(message, send).await?;
            pages.add(&page.providers, page.next_page_token)?;
        }
        Ok(pages.names)
    }

    pub(super) async fn refresh_token(
        &self,
        key: &EntryKey,
        revision: Option<&str>,
    ) -> Result<Option<AccessToken>, Error> {
        let message = proto::RefreshTokenRequest {
            provider: key.provider.to_string(),
            bucket: key.bucket.to_string(),
            revision: revision.unwrap_or_default().to_owned(),
        };
        let send = |mut stub: Stub, request| async move { stub.refresh_token(request).await };
        let answer = present(self.call(message, send).await)?;
        answer.map(|answer| wire::access_token(answer.token)).transpose()
    }

    /// Follows an entry; `None`: there is no such entry. What it sends is read by a task on this runtime, until `stopped`
    /// says why no more.
    pub(super) async fn watch_token(
        &self,
        key: &EntryKey,
        stopped: impl Future<Output = Error> + Send + 'static,
    ) -> Result<Option<TokenStream>, Error> {
        let deadline = self.deadline();
        let begun = present(self.until(deadline, self.begin_watch(key, deadline)).await)?;
        Ok(begun.map(|begun| stream::read_on(begun, Arc::clone(&self.clock), stopped)))
    }

    /// The call up to its first token. It has no time of its own at the broker: that would end what comes later, too.
    async fn begin_watch(&self, key: &EntryKey, deadline: Instant) -> Result<stream::Begun, Error> {
        loop {
            let line = self.line(deadline).await?;
            let message = proto::WatchTokenRequest {
                provider: key.provider.to_string(),
                bucket: key.bucket.to_string(),
            };
            let answered = async {
                let mut further = line.transport().stub().watch_token(message).await?.into_inner();
                Ok((further.message().await?, further))
            };
            match answered.await {
                Ok((first, further)) => {
                    let first = wire::access_token(first.and_then(|first| first.token))?;
                    return Ok(stream::Begun { first, further, line });
                }
                Err(status) => match line.failed(status) {
                    Error::TooManyStreams(_) if line.refused() => {}
                    error => return Err(error),
                },
            }
        }
    }

    async fn line(&self, deadline: Instant) -> Result<Line, Error> {
        Ok(match &self.way {
            Way::Socket(_, watches) => {
                let seat = watches.seat();
                let lease = seat.lease().await?;
                agreed(&lease, deadline).await?;
                Line::Socket(lease, seat)
            }
            Way::InProcess(broker) => Line::InProcess(broker.clone()),
        })
    }

    pub(super) async fn list_buckets(&self, provider: &Name) -> Result<Vec<Name>, Error> {
        let mut pages = Pages::default();
        while let Some(page_token) = pages.next() {
            let message = proto::ListBucketsRequest {
                provider: provider.to_string(),
                page_size: 0,
                page_token,
            };
            let send = |mut stub: Stub, request| async move { stub.list_buckets(request).await };
            let page = self.call(message, send).await?;
            pages.add(&page.buckets, page.next_page_token)?;
        }
        Ok(pages.names)
    }

    pub(super) async fn get_bucket_stats(&self, key: &EntryKey) -> Result<Option<BucketStats>, Error> {
        let message = proto::GetBucketStatsRequest {
            provider: key.provider.to_string(),
            bucket: key.bucket.to_string(),
        };
        let send = |mut stub: Stub, request| async move { stub.get_bucket_stats(request).await };
        let answer = present(self.call(message, send).await)?;
        answer.map(|answer| wire::bucket_stats(answer.stats)).transpose()
    }

    pub(super) async fn get_api_key(&self, name: &Name) -> Result<Option<SecretString>, Error> {
        let message = proto::GetApiKeyRequest { name: name.to_string() };
        let send = |mut stub: Stub, request| async move { stub.get_api_key(request).await };
        let answer = present(self.call(message, send).await)?;
        Ok(answer.map(|answer| SecretString::from(answer.api_key)))
    }

    pub(super) async fn list_api_keys(&self) -> Result<Vec<Name>, Error> {
        let mut pages = Pages::default();
        while let Some(page_token) = pages.next() {
            let message = proto::ListApiKeysRequest {
                page_size: 0,
                page_token,
            };
            let send = |mut stub: Stub, request| async move { stub.list_api_keys(request).await };
            let page = self.call(message, send).await?;
            pages.add(&page.names, page.next_page_token)?;
        }
        Ok(pages.names)
    }

    pub(super) async fn save_api_key(&self, name: &Name, key: SecretString) -> Result<(), Error> {
        match &self.way {
            Way::Socket(..) => Err(Error::ApiKeyManagement),
            Way::InProcess(broker) => self.until(self.deadline(), broker.save_api_key(name, key)).await,
        }
    }

    pub(super) async fn delete_api_key(&self, name: &Name) -> Result<(), Error> {
        match &self.way {
            Way::Socket(..) => Err(Error::ApiKeyManagement),
            Way::InProcess(broker) => self.until(self.deadline(), broker.delete_api_key(name)).await,
        }
    }

    pub(super) async fn initiate_login(&self, key: &EntryKey, flow: Option<LoginFlow>) -> Result<Begun, Error> {
        let message = proto::InitiateLoginRequest {
            provider: key.provider.to_string(),
            bucket: key.bucket.to_string(),
            flow: wire::flow(flow).into(),
        };
        let send = |mut stub: Stub, request| async move { stub.initiate_login(request).await };
        wire::begun(self.call(message, send).await?)
    }

    pub(super) async fn exchange_code(&self, id: &str, code: SecretString) -> Result<Option<AccessToken>, Error> {
        let message = proto::ExchangeCodeRequest {
            session_id: id.to_owned(),
            code: code.expose_secret().to_owned(),
        };
        let send = |mut stub: Stub, request| async move { stub.exchange_code(request).await };
        wire::readable_token(self.call(message, send).await?.token)
    }

    pub(super) async fn poll_login(&self, id: &str) -> Result<Standing, Error> {
        let message = proto::PollLoginRequest {
            session_id: id.to_owned(),
        };
        let send = |mut stub: Stub, request| async move { stub.poll_login(request).await };
        wire::standing(self.call(message, send).await?)
    }

    pub(super) async fn cancel_login(&self, id: &str) -> Result<(), Error> {
        let message = proto::CancelLoginRequest {
            session_id: id.to_owned(),
        };
        let send = |mut stub: Stub, request| async move { stub.cancel_login(request).await };
        self.call(message, send).await.map(drop)
    }

    /// One request and its answer. Connecting and agreeing on a version count as part of it.
    async fn call<Q, A, F>(&self, message: Q, send: impl FnOnce(Stub, Request<Q>) -> F) -> Result<A, Error>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let deadline = self.deadline();
        let call = async {
            match &self.way {
                Way::Socket(link, _) => {
                    let lease = link.lease().await?;
                    agreed(&lease, deadline).await?;
                    let answer = send(lease.transport().stub(), by(deadline, message)).await;
                    answer.map_err(|status| lease.failed(status))
                }
                Way::InProcess(broker) => {
                    let answer = send(broker.transport().stub(), by(deadline, message)).await;
                    answer.map_err(|status| broker.failed(&status))
                }
            }
        };
        self.until(deadline, call).await.map(Response::into_inner)
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }

    async fn until<T>(&self, deadline: Instant, call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        timeout_at(deadline, call)
            .await
            .unwrap_or_else(|_elapsed| Err(Error::not_answered_within(self.timeout)))
    }
}

/// The request with what is left until the deadline, so that the broker does not work on for nobody.
fn by<Q>(deadline: Instant, message: Q) -> Request<Q> {
    let mut request = Request::new(message);
    request.set_timeout(deadline.saturating_duration_since(Instant::now()));
    request
}

/// Agrees on the protocol version, once for each connection: whoever comes first asks, the others wait for the answer.
async fn agreed(lease: &Lease, deadline: Instant) -> Result<&ServerInfo, Error> {
    let ask = || async {
        let mut stub = lease.transport().stub();
        let answer = stub.get_server_info(by(deadline, our_version())).await;
        let answer = answer.map_err(|status| lease.failed(status))?.into_inner();
        if answer.version == PROTOCOL_VERSION {
            Ok(server_info(answer))
        } else {
            Err(lease.mismatched())
        }
    };
    lease.server().get_or_try_init(ask).await
}

fn our_version() -> proto::GetServerInfoRequest {
    proto::GetServerInfoRequest {
        min_version: PROTOCOL_VERSION,
        max_version: PROTOCOL_VERSION,
    }
}

fn server_info(answer: proto::GetServerInfoResponse) -> ServerInfo {
    ServerInfo::new(answer.server_version, answer.features)
}

/// `NOT_FOUND` is an answer, not a failure: there is nothing of that name.
fn present<T>(answer: Result<T, Error>) -> Result<Option<T>, Error> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(Error::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The pages of a list, one after the other.
#[derive(Default)]
struct Pages {
    names: Vec<Name>,
    asked: Asked,
}

#[derive(Default)]
enum Asked {
    #[default]
    Nothing,
    For(String),
    Everything,
}

impl Pages {
    /// The token of the next page; `None`: there is none.
    fn next(&self) -> Option<String> {
        match &self.asked {
            Asked::Nothing => Some(String::new()),
            Asked::For(token) => Some(token.clone()),
            Asked::Everything => None,
        }
    }

    /// A page without a new name, or out of order, is refused: such a list need not end.
    fn add(&mut self, page: &[String], next_token: String) -> Result<(), Error> {
        let page = wire::names(page)?;
        let last = self.names.last();
        let ascending = page.first().is_none_or(|first| last.is_none_or(|last| last < first));
        if !ascending || (page.is_empty() && !next_token.is_empty()) {
            return Err(Error::malformed());
        }
        self.names.extend(page);
        self.asked = if next_token.is_empty() {
            Asked::Everything
        } else {
            Asked::For(next_token)
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_that_could_go_on_for_ever_are_refused() {
        let page = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let mut pages = Pages::default();
        assert_eq!(pages.next().as_deref(), Some(""));
        pages.add(&page(&["a", "b"]), "1".to_owned()).unwrap();
        assert_eq!(pages.next().as_deref(), Some("1"));
        assert!(pages.add(&page(&["b"]), "1".to_owned()).is_err());
        assert!(pages.add(&page(&[]), "2".to_owned()).is_err());
        pages.add(&page(&["c"]), String::new()).unwrap();
        assert_eq!(pages.next(), None);
        assert_eq!(pages.names.len(), 3);
    }
}
