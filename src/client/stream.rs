//! An entry's tokens as a stream.
//!
//! A task reads what the broker sends and keeps the newest, so that a reader who is slow gets the newest token and no
//! backlog, holds up nobody on the same connection, and may read on any runtime.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio_stream::Stream;
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

use super::{Error, in_process::InProcess, link::Lease, process::too_late, transport::Transport, watches::Seat, wire};
use crate::{clock::Clock, credential::AccessToken, proto};

/// What [`CredentialStore::watch_token`](super::CredentialStore::watch_token) gives: the entry's usable token, then each new
/// one, and in the end why there will be no more. `expires_in` counts from the moment that the token is taken out.
pub type TokenStream = Pin<Box<dyn Stream<Item = Result<AccessToken, Error>> + Send>>;

/// A call that has been answered with a first token.
pub(super) struct Begun {
    pub(super) first: AccessToken,
    pub(super) further: tonic::Streaming<proto::WatchTokenResponse>,
    pub(super) line: Line,
}

/// What a watch goes over.
pub(super) enum Line {
    /// A connection, on which it has a seat.
    Socket(Lease, Seat),
    /// None: the broker is in this process.
    InProcess(InProcess),
}

impl Line {
    pub(super) fn transport(&self) -> Transport {
        match self {
            Self::Socket(lease, _) => lease.transport(),
            Self::InProcess(broker) => broker.transport(),
        }
    }

    pub(super) fn failed(&self, status: Status) -> Error {
        match self {
            Self::Socket(lease, _) => lease.failed(status),
            Self::InProcess(broker) => broker.failed(&status),
        }
    }

    /// The broker has no room for it. Says whether another connection is worth a try.
    pub(super) fn refused(self) -> bool {
        match self {
            Self::Socket(_lease, seat) => seat.refused(),
            Self::InProcess(_) => false,
        }
    }

    /// The runtime that it ran on has ended, and nobody looks after it any more.
    fn cut(self) -> Error {
        match self {
            Self::Socket(lease, _) => lease.cut(),
            Self::InProcess(_) => too_late(),
        }
    }
}

/// Reads on, in a task on this runtime, until the stream is dropped or ends, or `stopped` says why it has to.
pub(super) fn read_on(
    begun: Begun,
    clock: Arc<dyn Clock>,
    stopped: impl Future<Output = Error> + Send + 'static,
) -> TokenStream {
    let newest = Arc::new(Newest::default());
    let Begun { first, further, line } = begun;
    newest.put(first, clock.now().boot);
    let writer = Writer {
        newest: Arc::clone(&newest),
        clock: Arc::clone(&clock),
        line: Some(line),
    };
    let task = tokio::spawn(read(further, writer, stopped));
    Box::pin(Tokens {
        newest,
        clock,
        _task: AbortOnDropHandle::new(task),
    })
}

async fn read(
    mut further: tonic::Streaming<proto::WatchTokenResponse>,
    writer: Writer,
    stopped: impl Future<Output = Error>,
) {
    let last = async {
        loop {
            let answer = match further.message().await {
                Ok(Some(answer)) => wire::access_token(answer.token),
                // A broker says why there will be no more.
                Ok(None) => Err(Error::malformed()),
                Err(status) => Err(writer.failed(status)),
            };
            match answer {
                Ok(token) => writer.put(token),
                Err(error) => return error,
            }
        }
    };
    let error = tokio::select! {
        error = last => error,
        error = stopped => error,
    };
    drop(further);
    writer.end(error);
}

/// The newest of what was read, until it is taken.
#[derive(Default)]
struct Newest(Mutex<Unread>);

#[derive(Default)]
struct Unread {
    /// With the boot time at which it came.
    token: Option<(AccessToken, Duration)>,
    end: End,
    reader: Option<Waker>,
}

#[derive(Default)]
enum End {
    #[default]
    NotYet,
    Untold(Error),
    Told,
}

impl Newest {
    fn put(&self, token: AccessToken, at: Duration) {
        self.write(|unread| unread.token = Some((token, at)));
    }

    fn end(&self, error: Error) {
        self.write(|unread| {
            // There is no such entry any more, so nobody gets its token.
            if matches!(error, Error::NotFound(_)) {
                unread.token = None;
            }
            unread.end = End::Untold(error);
        });
    }

    fn write(&self, change: impl FnOnce(&mut Unread)) {
        let reader = {
            let mut unread = self.unread();
            change(&mut unread);
            unread.reader.take()
        };
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    fn unread(&self) -> MutexGuard<'_, Unread> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task's side. However the task ends, the reader is told.
struct Writer {
    newest: Arc<Newest>,
    clock: Arc<dyn Clock>,
    /// Until the end.
    line: Option<Line>,
}

impl Writer {
    fn put(&self, token: AccessToken) {
        self.newest.put(token, self.clock.now().boot);
    }

    fn failed(&self, status: Status) -> Error {
        match &self.line {
            Some(line) => line.failed(status),
            None => status.into(),
        }
    }

    fn end(mut self, error: Error) {
        // Who is told of the end finds its room on the connection free.
        self.line = None;
        self.newest.end(error);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let deserted = Arc::strong_count(&self.newest) == 1;
        if let Some(line) = self.line.take().filter(|_| !deserted) {
            let error = line.cut();
            self.newest.end(error);
        }
    }
}

/// The reader's side. It lets go of what it shares with the task before it ends the task.
struct Tokens {
    newest: Arc<Newest>,
    clock: Arc<dyn Clock>,
    /// Dropped, it ends the call at the broker.
    _task: AbortOnDropHandle<()>,
}

impl Stream for Tokens {
    type Item = Result<AccessToken, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut unread = self.newest.unread();
        if let Some((token, at)) = unread.token.take() {
            drop(unread);
            let passed = self.clock.now().boot.saturating_sub(at);
            return Poll::Ready(Some(Ok(aged(token, passed))));
        }
        match std::mem::replace(&mut unread.end, End::Told) {
            End::Untold(error) => Poll::Ready(Some(Err(error))),
            End::Told => Poll::Ready(None),
            End::NotYet => {
                unread.end = End::NotYet;
                unread.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// The token as it is when some time has passed.
pub(super) fn aged(mut token: AccessToken, passed: Duration) -> AccessToken {
    token.expires_in = token.expires_in.map(|left| left.saturating_sub(passed));
    token
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;
    use tokio_stream::StreamExt as _;

    use super::*;
    use crate::{clock::SystemClock, reason::Reason};

    fn token(text: &str) -> AccessToken {
        let wire = proto::AccessToken {
            access_token: text.to_owned(),
            expires_in: Some(wire::duration(Duration::from_secs(3600))),
            ..proto::AccessToken::default()
        };
        wire::access_token(Some(wire)).unwrap()
    }

    /// What a reader gets who comes when all this has happened.
    async fn late(write: impl FnOnce(&Newest, Duration)) -> Vec<String> {
        let newest = Arc::new(Newest::default());
        let clock = Arc::new(SystemClock::new());
        write(&newest, clock.now().boot);
        let tokens = Tokens {
            newest,
            clock,
            _task: AbortOnDropHandle::new(tokio::spawn(std::future::pending())),
        };
        let told = tokens.map(|told| match told {
            Ok(token) => token.access_token.expose_secret().to_owned(),
            Err(error) => error.to_string(),
        });
        told.collect().await
    }

    fn error(reason: Reason) -> Error {
        Error::refused(reason, super::super::Refusal::new(reason.as_str()))
    }

    #[tokio::test]
    async fn a_slow_reader_gets_the_newest_token_and_the_end() {
        let told = late(|newest, now| {
            newest.put(token("one"), now);
            newest.put(token("two"), now);
            newest.end(error(Reason::ShuttingDown));
        });
        assert_eq!(told.await, ["two", "SHUTTING_DOWN"]);
    }

    #[tokio::test]
    async fn the_token_of_an_entry_that_was_removed_is_not_told_any_more() {
        let told = late(|newest, now| {
            newest.put(token("one"), now);
            newest.end(error(Reason::NotFound));
        });
        assert_eq!(told.await, ["NOT_FOUND"]);
    }

    #[test]
    fn what_is_left_counts_from_the_moment_it_is_taken() {
        for (passed, left) in [(0, 3600), (600, 3000), (4000, 0)] {
            let aged = aged(token("one"), Duration::from_secs(passed));
            assert_eq!(aged.expires_in, Some(Duration::from_secs(left)));
        }
    }
}
