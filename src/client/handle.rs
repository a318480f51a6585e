//! An entry's token, always at hand.

use std::{
    fmt,
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::sync::watch;
use tokio_stream::StreamExt as _;
use tokio_util::sync::CancellationToken;

use super::{
    CredentialStore, Error,
    error::Refusal,
    held::{Answer, Question, State},
};
use crate::{
    broker,
    clock::{Clock, SystemClock},
    credential::{AccessToken, EntryKey},
    service::status,
};

/// An entry's token, always at hand: it follows the entry, and [`token`](Self::token) does not wait on the network while
/// the newest token is valid. Clones share everything, so one handle does for a whole program.
///
/// ```no_run
/// use std::sync::Arc;
///
/// use credbroker::client::{self, ExposeSecret as _, TokenHandle};
///
/// # async fn example() -> Result<(), client::Error> {
/// let store = client::token_store_from_env()?;
/// let github = TokenHandle::new(Arc::new(store), client::entry("github", "")?);
/// for _ in 0..1000 {
///     let token = github.token().await?;
///     println!("{} bytes", token.access_token.expose_secret().len());
/// }
/// # Ok(())
/// # }
/// ```
///
/// Nothing is asked before the first call. A token is valid as the broker has it: more than 5 s or a tenth of what was left
/// when it came remains, whichever is less; that is counted by a clock that counts suspend, and the wall clock has no say.
///
/// When the stream of tokens ends, its reason is the answer to who waits, and the next call follows the entry anew, for
/// somebody may have logged in. Until then:
///
/// - No token is given any more that the broker has withdrawn: after [`Error::NotFound`], [`Error::NeedsLogin`],
///   [`Error::ProviderNotFound`], and if this program may not read the entry.
/// - After any other end, such as [`Error::ShuttingDown`], the last token is given while it is valid, and meanwhile the
///   entry is followed anew, if a second or what the broker asked for has passed.
/// - [`Error::ConnectionLost`] and [`Error::UnknownVersion`] are for good, once the last token is not valid any more.
///
/// A task follows the entry, on the thread of the process's store or on the runtime of the call that began it. It ends, and
/// with it the watch at the broker, with the last clone.
#[derive(Clone)]
pub struct TokenHandle {
    shared: Arc<Shared>,
}

struct Shared {
    store: Arc<dyn CredentialStore>,
    key: EntryKey,
    clock: Arc<dyn Clock>,
    state: watch::Sender<State>,
    /// The last handle is gone.
    gone: CancellationToken,
}

impl TokenHandle {
    /// A handle for this entry. Nothing is asked yet.
    #[must_use]
    pub fn new(store: Arc<dyn CredentialStore>, key: EntryKey) -> Self {
        Self {
            shared: Arc::new(Shared {
                store,
                key,
                clock: Arc::new(SystemClock::new()),
                state: watch::Sender::new(State::default()),
                gone: CancellationToken::new(),
            }),
        }
    }

    /// The entry.
    #[must_use]
    pub fn entry(&self) -> &EntryKey {
        &self.shared.key
    }

    /// The newest token: at once while it is valid, else the next one, which the broker is asked for.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such entry; otherwise as for
    /// [`get_token`](CredentialStore::get_token), or why the entry could not be followed.
    pub async fn token(&self) -> Result<AccessToken, Error> {
        let mut reading = self.shared.state.subscribe();
        let before = reading.borrow_and_update().so_far();
        loop {
            let answer = {
                let state = reading.borrow_and_update();
                state.token(self.shared.now(), before)
            };
            match answer {
                Answer::Token(token) => {
                    self.shared.look_after();
                    return Ok(token);
                }
                Answer::Failed(error) => return Err(error),
                Answer::Ask => self.shared.ask(),
                Answer::Wait => wait(&mut reading).await,
            }
        }
    }

    /// The newest token, if there is one and it is valid. It asks nobody.
    #[must_use]
    pub fn current(&self) -> Option<AccessToken> {
        self.shared.state.borrow().current(self.shared.now())
    }

    /// A token of another revision than this one, which is that of the token in use; waits until there is one. The next one
    /// that is given is the newest: what was replaced meanwhile is left out.
    ///
    /// # Errors
    /// Why the entry is not followed any more; the next call follows it anew.
    pub async fn changed(&self, revision: &str) -> Result<AccessToken, Error> {
        let mut reading = self.shared.state.subscribe();
        let before = reading.borrow_and_update().so_far();
        loop {
            let answer = {
                let state = reading.borrow_and_update();
                state.another(revision, self.shared.now(), before)
            };
            match answer {
                Answer::Token(token) => return Ok(token),
                Answer::Failed(error) => return Err(error),
                Answer::Ask => self.shared.ask(),
                Answer::Wait => wait(&mut reading).await,
            }
        }
    }

    /// A new token, for a program whose token was refused where it was used; `revision` is that of the refused one. If there
    /// is another one by now, nobody is asked.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such entry; otherwise as for [`refresh_token`](CredentialStore::refresh_token).
    pub async fn refresh(&self, revision: &str) -> Result<AccessToken, Error> {
        let shared = &self.shared;
        if let Some(other) = self.current().filter(|token| token.revision != revision) {
            return Ok(other);
        }
        let asked_after = shared.state.borrow().withdrawals();
        let Some(token) = shared.store.refresh_token(&shared.key, Some(revision)).await? else {
            shared.state.send_modify(State::forget);
            return Err(no_entry(&shared.key));
        };
        let now = shared.now();
        shared
            .state
            .send_modify(|state| state.renewed(revision, token.clone(), asked_after, now));
        shared.look_after();
        Ok(token)
    }
}

impl fmt::Debug for TokenHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenHandle")
            .field("entry", self.entry())
            .finish_non_exhaustive()
    }
}

/// Waits for something to happen. The sender lives as long as the handle that waits.
async fn wait(reading: &mut watch::Receiver<State>) {
    let _ = reading.changed().await;
}

/// In the broker's own words.
fn no_entry(key: &EntryKey) -> Error {
    status::from_error(&broker::Error::NoEntry(key.clone())).into()
}

impl Shared {
    fn now(&self) -> Duration {
        self.clock.now().boot
    }

    /// Follows the entry, if it is not followed; nobody waits for it.
    fn look_after(self: &Arc<Self>) {
        let deserted = self.state.borrow().deserted(self.now());
        if deserted {
            self.ask();
        }
    }

    /// Asks the broker, unless somebody does already.
    fn ask(self: &Arc<Self>) {
        let mut question = None;
        self.state.send_if_modified(|state| {
            question = state.ask();
            false
        });
        let Some(question) = question else { return };
        let asking = Asking {
            shared: Arc::downgrade(self),
            open: Some(match question {
                Question::Stream => Open::Stream { first: true },
                Question::Token => Open::Question,
            }),
        };
        let (store, key, gone) = (Arc::clone(&self.store), self.key.clone(), self.gone.clone());
        let task = async move {
            tokio::select! {
                biased;
                () = gone.cancelled() => {}
                () = asking.run(store, &key) => {}
            }
        };
        self.store.spawn(Box::pin(task));
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.gone.cancel();
    }
}

/// A question, and what is read of its answer. It keeps no handle alive, and however it ends, the handle knows.
struct Asking {
    shared: Weak<Shared>,
    /// What the handle still waits for.
    open: Option<Open>,
}

enum Open {
    Stream { first: bool },
    Question,
}

impl Asking {
    async fn run(mut self, store: Arc<dyn CredentialStore>, key: &EntryKey) {
        if matches!(self.open, Some(Open::Question)) {
            match store.get_token(key, Duration::ZERO).await {
                Ok(Some(token)) => self.answered(token),
                Ok(None) => self.failed(no_entry(key)),
                Err(error) => self.failed(error),
            }
            return;
        }
        let followed = store.watch_token(key).await;
        drop(store);
        let mut tokens = match followed {
            Ok(Some(tokens)) => tokens,
            Ok(None) => return self.failed(no_entry(key)),
            Err(error) => return self.failed(error),
        };
        loop {
            match tokens.next().await {
                Some(Ok(token)) => self.told(token),
                Some(Err(error)) => return self.failed(error),
                // A store of somebody else's.
                None => return self.failed(Error::malformed()),
            }
        }
    }

    fn told(&mut self, token: AccessToken) {
        let Some(Open::Stream { first }) = &mut self.open else {
            return;
        };
        let first = std::mem::take(first);
        self.change(|state, now| state.told(token, first, now));
    }

    fn answered(mut self, token: AccessToken) {
        self.open = None;
        self.change(|state, now| state.answered(token, now));
    }

    fn failed(mut self, error: Error) {
        self.end(error);
    }

    fn end(&mut self, error: Error) {
        match self.open.take() {
            Some(Open::Stream { first }) => self.change(|state, now| state.ended(error, first, now)),
            Some(Open::Question) => self.change(|state, now| state.unanswered(error, now)),
            None => {}
        }
    }

    fn change(&self, change: impl FnOnce(&mut State, Duration)) {
        if let Some(shared) = self.shared.upgrade() {
            let now = shared.now();
            shared.state.send_modify(|state| change(state, now));
        }
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.end(Error::ShuttingDown(Refusal::new(
            "the runtime that followed the entry has ended, or there is none: ask again within a tokio runtime",
        )));
    }
}
