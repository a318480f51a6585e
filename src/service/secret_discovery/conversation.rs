//! One StreamSecrets: what an Envoy asks for by and by, and what it is told.
//!
//! Each request names all secrets that are wanted from then on. An answer has those that changed, as the protocol allows for
//! secrets; what changes while an answer is under way is looked for when it has been taken, so nothing old piles up. A
//! secret is sent when it is new to the stream, and never again because it was refused.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep_until},
};
use tokio_stream::{Stream as _, StreamMap};
use tonic::{Code, Status, Streaming};

use super::{
    OWN_NAMES, Versions,
    names::{self, Asking, MAX_NAMES, Value, Values},
    rate::Rates,
};
use crate::{
    broker::Error,
    proto::envoy::{DiscoveryRequest, RpcStatus},
    service::status,
};

/// With so many bytes of secrets, an answer is sent; the others come with the next.
const FULL: usize = 32 * 1024;
/// A new name costs what a call does, and calls have a rate.
const PER_NAME: Duration = Duration::from_millis(16);
/// How many names ahead of its pace a stream may be: all of a request, and as many again.
const AHEAD: u32 = 2 * MAX_NAMES as u32;
/// How much is logged of what an Envoy says, in characters.
const MAX_LOGGED: usize = 256;
/// So much of a secret in what an Envoy says is too much for the log.
const TELLING: usize = 8;

pub(super) struct Conversation {
    asking: Asking,
    versions: Versions,
    requests: Streaming<DiscoveryRequest>,
    /// Whether there may be more requests.
    listening: bool,
    /// What is followed, by name.
    followed: StreamMap<String, Values>,
    room: Arc<Semaphore>,
    /// For names beyond those that a stream may always follow.
    permits: HashMap<String, OwnedSemaphorePermit>,
    pace: Pace,
    rates: Rates,
    /// Names that the call still pays for.
    paid: usize,
    /// How many answers were sent: the nonce of the last.
    sent: u64,
    /// What the last answer told.
    last: BTreeMap<String, Value>,
    /// Whether one was refused already.
    refused: bool,
}

impl Conversation {
    pub(super) fn new(
        asking: Asking,
        (versions, room, rates): (Versions, Arc<Semaphore>, Rates),
        requests: Streaming<DiscoveryRequest>,
    ) -> Self {
        Self {
            asking,
            versions,
            requests,
            listening: true,
            followed: StreamMap::new(),
            room,
            permits: HashMap::new(),
            pace: Pace::new(),
            rates,
            paid: OWN_NAMES,
            sent: 0,
            last: BTreeMap::new(),
            refused: false,
        }
    }

    /// Hears the first request.
    pub(super) async fn begin(&mut self) -> Result<(), Status> {
        let request = self.requests.message().await;
        self.hear(request).unwrap_or(Ok(()))
    }

    /// The next answer; `None`: nobody listens any more.
    pub(super) async fn next(&mut self) -> Option<Result<super::DiscoveryResponse, Status>> {
        loop {
            if !self.listening && self.followed.is_empty() {
                return None;
            }
            tokio::select! {
                biased;
                request = heard(&mut self.requests, self.pace.ready_at()), if self.listening => {
                    if let Err(status) = self.hear(request)? {
                        return Some(Err(status));
                    }
                }
                news = news(&mut self.followed) => return Some(self.tell(news)),
            }
        }
    }

    /// Takes what came of a request. `None`: the client has gone.
    fn hear(&mut self, request: Result<Option<DiscoveryRequest>, Status>) -> Option<Result<(), Status>> {
        Some(match request {
            Ok(Some(request)) => self.take(&request).map_err(|error| status::from_error(&error)),
            Ok(None) => {
                self.listening = false;
                Ok(())
            }
            Err(status) if status.code() == Code::Cancelled => return None,
            Err(status) => Err(status),
        })
    }

    fn take(&mut self, request: &DiscoveryRequest) -> Result<(), Error> {
        let names = names::checked(request)?;
        let nonce = &request.response_nonce;
        // A request without a nonce is about no answer; before the first one, a nonce is of another stream.
        let about_last = self.sent > 0 && *nonce == self.sent.to_string();
        if self.sent > 0 && !nonce.is_empty() && !about_last {
            // It crossed an answer, to which there will be another request, with the names that are wanted then.
            return Ok(());
        }
        if let Some(detail) = &request.error_detail
            && about_last
        {
            self.refuse(detail);
        }
        self.follow(names)
    }

    fn follow(&mut self, names: BTreeSet<String>) -> Result<(), Error> {
        let gone: Vec<String> = self
            .followed
            .keys()
            .filter(|name| !names.contains(*name))
            .cloned()
            .collect();
        for name in gone {
            self.followed.remove(&name);
            self.permits.remove(&name);
        }
        let new: Vec<String> = names
            .into_iter()
            .filter(|name| !self.followed.contains_key(name))
            .collect();
        // The call pays for the first ones.
        let paid = std::mem::take(&mut self.paid);
        let beyond = new.len().saturating_sub(paid);
        self.rates.spend(&self.asking.caller.principal, beyond)?;
        for name in new {
            if self.followed.len() - self.permits.len() >= OWN_NAMES {
                let permit = Arc::clone(&self.room).try_acquire_owned();
                let permit = permit.map_err(|_none_left| Error::TooManyNames { limit: OWN_NAMES })?;
                self.permits.insert(name.clone(), permit);
            }
            self.pace.spend();
            self.followed
                .insert(name.clone(), names::values(self.asking.clone(), &name));
        }
        Ok(())
    }

    /// The Envoy did not accept the last answer. That changes nothing: what it has not accepted is not said again.
    fn refuse(&mut self, detail: &RpcStatus) {
        self.asking.broker.count_secrets_rejected();
        let said = if self.last.values().any(|value| tells(&detail.message, value.text())) {
            "[it holds a secret]".to_owned()
        } else {
            detail
                .message
                .chars()
                .take(MAX_LOGGED)
                .flat_map(char::escape_default)
                .collect()
        };
        let sandbox = &*self.asking.caller.principal;
        let what = "an Envoy did not accept a secret";
        // Once a stream is worth a look; a client that always refuses does not fill the log, nor does one with ever new
        // streams.
        if std::mem::replace(&mut self.refused, true) || !self.rates.is_logged(&self.asking.caller.principal) {
            tracing::debug!(sandbox, code = detail.code, %said, "{what}");
        } else {
            tracing::warn!(sandbox, code = detail.code, %said, "{what}");
        }
    }

    fn tell(&mut self, news: Result<BTreeMap<String, Value>, Error>) -> Result<super::DiscoveryResponse, Status> {
        self.last = news.map_err(|error| status::from_error(&error))?;
        self.sent += 1;
        Ok(self.versions.answer(&self.last, self.sent.to_string()))
    }
}

/// Whether what was said shows a secret, or enough of one.
fn tells(said: &str, secret: &str) -> bool {
    let enough = secret
        .char_indices()
        .nth(TELLING)
        .map_or(secret, |(at, _)| secret.split_at(at).0);
    !enough.is_empty() && said.contains(enough)
}

async fn heard(
    requests: &mut Streaming<DiscoveryRequest>,
    ready_at: Instant,
) -> Result<Option<DiscoveryRequest>, Status> {
    if ready_at > Instant::now() {
        sleep_until(ready_at).await;
    }
    requests.message().await
}

/// What is new now, once something is: all of it that fits an answer, and of each name the newest.
async fn news(followed: &mut StreamMap<String, Values>) -> Result<BTreeMap<String, Value>, Error> {
    poll_fn(|cx| poll_news(followed, cx)).await
}

fn poll_news(
    followed: &mut StreamMap<String, Values>,
    cx: &mut Context<'_>,
) -> Poll<Result<BTreeMap<String, Value>, Error>> {
    let mut news = BTreeMap::new();
    let mut size = 0;
    while size < FULL {
        match Pin::new(&mut *followed).poll_next(cx) {
            Poll::Ready(Some((name, value))) => {
                let value = value?;
                size += name.len() + value.text().len();
                news.insert(name, value);
            }
            // An empty map is filled by a request.
            Poll::Ready(None) | Poll::Pending => break,
        }
    }
    if news.is_empty() {
        Poll::Pending
    } else {
        Poll::Ready(Ok(news))
    }
}

/// How fast names may come.
struct Pace {
    /// When all names that came would have, one after the other.
    due: Instant,
}

impl Pace {
    fn new() -> Self {
        Self { due: Instant::now() }
    }

    fn spend(&mut self) {
        self.due = self.due.max(Instant::now()) + PER_NAME;
    }

    /// When the next request may be heard.
    fn ready_at(&self) -> Instant {
        self.due.checked_sub(PER_NAME * AHEAD).unwrap_or(self.due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_shows_the_beginning_of_a_secret_is_noticed() {
        let table = [
            ("value: \"gho_12345678\"", "gho_12345678", true),
            ("value: gho_1234...", "gho_12345678", true),
            ("value: gho_123", "gho_12345678", false),
            ("short: abc", "abc", true),
            ("anything", "", false),
        ];
        for (said, secret, want) in table {
            assert_eq!(tells(said, secret), want, "{said} {secret}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn names_come_at_a_pace() {
        let mut pace = Pace::new();
        for _ in 0..AHEAD {
            pace.spend();
        }
        assert!(pace.ready_at() <= Instant::now());
        for _ in 0..MAX_NAMES {
            pace.spend();
        }
        let wait = pace.ready_at() - Instant::now();
        assert_eq!(wait, PER_NAME * 256);
        tokio::time::advance(Duration::from_secs(3600)).await;
        pace.spend();
        assert!(
            pace.ready_at() < Instant::now(),
            "an hour's rest is not saved up: {:?}",
            pace.ready_at()
        );
    }
}
