//! The open calls of a connection, and what is there for the peer and not sent.

use std::{
    collections::BTreeMap,
    mem,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    Connection, Limits, OWN_STREAMS, SHARERS, STREAMED_BURST, STREAMED_PER_SECOND, SocketRate, UNSENT,
    allowance::Allowance,
};
use crate::broker::Error;

/// What a connection knows of its calls.
#[derive(Debug)]
pub(super) struct Calls {
    open: usize,
    /// Since when none is open, if none is.
    idle_since: Instant,
    streams: usize,
    /// How many of these are among the socket's shared ones.
    shared_streams: usize,
    streamed: Allowance,
    next: u64,
    /// What is there and not sent, of each call; hardly ever of more than one. A call may be over while it is.
    unsent: Vec<Unsent>,
    /// No later than the first of these is due, so that it is looked for only when it could be.
    earliest: Option<Instant>,
    /// How many octets these are.
    octets: usize,
    /// The streams that wait for room, by call.
    waiting: BTreeMap<u64, Waker>,
}

#[derive(Debug)]
struct Unsent {
    call: u64,
    due: Instant,
    parts: usize,
}

impl Calls {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            open: 0,
            idle_since: now,
            streams: 0,
            shared_streams: 0,
            streamed: Allowance::new(now, STREAMED_PER_SECOND, STREAMED_BURST),
            next: 0,
            unsent: Vec::new(),
            earliest: None,
            octets: 0,
            waiting: BTreeMap::new(),
        }
    }

    /// Since when no call is open; `None`: one is.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        (self.open == 0).then_some(self.idle_since)
    }

    /// When the first answer is overdue.
    pub(super) fn due(&mut self, now: Instant) -> Option<Instant> {
        if self.earliest.is_some_and(|earliest| earliest <= now) {
            self.earliest = self.unsent.iter().map(|unsent| unsent.due).min();
        }
        self.earliest
    }
}

impl Connection {
    /// A call begins.
    pub(in crate::server) fn open_call(self: &Arc<Self>) -> OpenCall {
        self.progress().called();
        let mut calls = self.calls();
        calls.open += 1;
        calls.next += 1;
        OpenCall {
            connection: Arc::clone(self),
            id: calls.next,
        }
    }

    /// A streaming call begins. The first few of a connection always may; beyond them, those of the socket share so many.
    ///
    /// # Errors
    /// [`Error::TooManyStreams`].
    pub(in crate::server) fn open_stream(self: &Arc<Self>, socket: &SocketRate) -> Result<OpenStream, Error> {
        let mut calls = self.calls();
        let limit = calls.streams.min(self.streams);
        if calls.streams >= self.streams {
            return Err(Error::TooManyStreams { limit });
        }
        let shared = if calls.streams - calls.shared_streams < OWN_STREAMS {
            None
        } else {
            Some(SharedStream::take(socket.streams()).ok_or(Error::TooManyStreams { limit })?)
        };
        calls.streams += 1;
        calls.shared_streams += usize::from(shared.is_some());
        drop(calls);
        Ok(OpenStream {
            connection: Arc::clone(self),
            shared,
        })
    }

    /// So many octets came in on a stream; returns how long to wait with the next.
    pub(super) fn streamed(&self, octets: usize) -> Duration {
        let octets = u32::try_from(octets).unwrap_or(u32::MAX);
        self.calls().streamed.spend(octets, Instant::now())
    }

    /// Has the streams that wait for room look again.
    pub(super) fn wake_streams(&self) {
        // Not under the lock: what a waker does is its own business.
        let waiting = mem::take(&mut self.calls().waiting);
        waiting.into_values().for_each(Waker::wake);
    }
}

/// An open call of a connection, until it is dropped.
pub(in crate::server) struct OpenCall {
    connection: Arc<Connection>,
    id: u64,
}

impl OpenCall {
    /// A part of the answer is there for the peer, who has so much time until all of it has to be sent; from the first
    /// part, if several are there at once.
    pub(super) fn offer(&self, octets: usize, time: Duration) -> Offer {
        let due = Instant::now() + time;
        let mut calls = self.connection.calls();
        calls.octets += octets;
        if let Some(unsent) = calls.unsent.iter_mut().find(|unsent| unsent.call == self.id) {
            unsent.parts += 1;
        } else {
            let call = self.id;
            calls.unsent.push(Unsent { call, due, parts: 1 });
        }
        if calls.earliest.is_none_or(|earliest| due < earliest) {
            calls.earliest = Some(due);
            drop(calls);
            self.connection.news.notify_one();
        }
        Offer {
            connection: Arc::clone(&self.connection),
            id: self.id,
            octets,
        }
    }

    /// Whether a stream may go on: what it said before is sent, there is not too much of the others', and the socket
    /// takes more.
    pub(super) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        // Held while all of it is looked at, so that no wakeup is missed.
        let mut calls = self.connection.calls();
        let sent = calls.unsent.iter().all(|unsent| unsent.call != self.id);
        let room = calls.octets < UNSENT && sent;
        if room && !self.connection.progress().is_full() {
            return Poll::Ready(());
        }
        let before = calls.waiting.insert(self.id, cx.waker().clone());
        drop(calls);
        drop(before);
        Poll::Pending
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        let mut calls = self.connection.calls();
        calls.open -= 1;
        if calls.open == 0 {
            calls.idle_since = Instant::now();
        }
        let waited = calls.waiting.remove(&self.id);
        drop(calls);
        drop(waited);
    }
}

/// A part of an answer: unsent until this is dropped.
pub(super) struct Offer {
    connection: Arc<Connection>,
    id: u64,
    octets: usize,
}

impl Offer {
    /// The part has so many octets more than was said.
    pub(super) fn grow(&mut self, octets: usize) {
        self.octets += octets;
        self.connection.calls().octets += octets;
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        let mut calls = self.connection.calls();
        let was_full = calls.octets >= UNSENT;
        calls.octets -= self.octets;
        if let Some(at) = calls.unsent.iter().position(|unsent| unsent.call == self.id) {
            let gone = calls.unsent.get_mut(at).is_some_and(|unsent| {
                unsent.parts -= 1;
                unsent.parts == 0
            });
            if gone {
                calls.unsent.swap_remove(at);
            }
        }
        let wake = calls.waiting.contains_key(&self.id) || (was_full && calls.octets < UNSENT);
        drop(calls);
        if wake {
            self.connection.wake_streams();
        }
    }
}

/// An open streaming call of a connection, until it is dropped.
pub(in crate::server) struct OpenStream {
    connection: Arc<Connection>,
    shared: Option<SharedStream>,
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let mut calls = self.connection.calls();
        calls.streams -= 1;
        calls.shared_streams -= usize::from(self.shared.is_some());
    }
}

/// How many streaming calls the connections of a socket may still have beyond those that each may have in any case.
pub(super) struct SharedStreams(AtomicUsize);

impl SharedStreams {
    pub(super) fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self(AtomicUsize::new(SHARERS * limits.streams.get() as usize)))
    }
}

/// One of them, until it is dropped.
struct SharedStream(Arc<SharedStreams>);

impl SharedStream {
    fn take(streams: &Arc<SharedStreams>) -> Option<Self> {
        let one_less = |left: usize| left.checked_sub(1);
        let taken = streams.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
        taken.is_ok().then(|| Self(Arc::clone(streams)))
    }
}

impl Drop for SharedStream {
    fn drop(&mut self) {
        self.0.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::{
        sync::watch,
        time::{sleep, timeout},
    };

    use super::*;
    use crate::server::limits::{Crowd, Cut, Limits, Place, STREAM_MESSAGE, UNARY_ANSWER};

    const DAY: Duration = Duration::from_secs(86_400);

    fn connection() -> (Arc<Connection>, Place, watch::Sender<bool>) {
        let limits = Limits::default();
        let (stop, stopping) = watch::channel(false);
        let connection = Connection::new(None, &limits, stopping);
        let now = Instant::now();
        connection.progress().read(&[0; 24], now).unwrap();
        connection.progress().read(&[0, 0, 0, 4, 0, 0, 0, 0, 0], now).unwrap();
        let place = Crowd::new(&limits).join(&connection);
        (connection, place, stop)
    }

    async fn room(call: &OpenCall) {
        poll_fn(|cx| call.poll_room(cx)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_not_sent_ends_the_connection() {
        let (connection, place, _stop) = connection();
        let start = Instant::now();
        let (unary, stream) = (connection.open_call(), connection.open_call());
        let held = stream.offer(1, STREAM_MESSAGE);
        let waits = async {
            sleep(Duration::from_secs(20)).await;
            // Sent in time, and again: no reason to end.
            for _ in 0..3 {
                let offer = unary.offer(1, UNARY_ANSWER);
                sleep(Duration::from_secs(9)).await;
                drop(offer);
            }
            // A second part does not give the first one more time; and the end of the call none, either.
            let first = unary.offer(1, UNARY_ANSWER);
            sleep(Duration::from_secs(4)).await;
            let second = unary.offer(1, UNARY_ANSWER);
            drop(unary);
            drop(first);
            std::future::pending::<()>().await;
            drop(second);
        };
        let cut = tokio::select! {
            cut = connection.ends(&place) => cut,
            () = waits => unreachable!(),
        };
        assert_eq!((start.elapsed().as_secs(), cut), (20 + 27 + 10, Cut::Starved));
        drop(held);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_waits_for_the_socket() {
        let (connection, _place, _stop) = connection();
        let call = connection.open_call();
        room(&call).await;
        connection.progress().full(Instant::now());
        assert!(timeout(DAY, room(&call)).await.is_err());
        let ((), ()) = tokio::join!(room(&call), async { connection.flushed() });
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_waits_for_what_it_said_before_and_for_much_of_others() {
        let (connection, _place, _stop) = connection();
        let (one, two) = (connection.open_call(), connection.open_call());
        let small = one.offer(1, STREAM_MESSAGE);
        assert!(timeout(DAY, room(&one)).await.is_err());
        room(&two).await;
        let ((), ()) = tokio::join!(room(&one), async { drop(small) });

        let mut much = one.offer(0, STREAM_MESSAGE);
        much.grow(UNSENT);
        assert!(timeout(DAY, room(&two)).await.is_err());
        let ((), ()) = tokio::join!(room(&two), async { drop(much) });
        assert!(connection.calls().waiting.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_unsent_is_the_sum_of_what_is_held() {
        let (connection, _place, _stop) = connection();
        let (one, two, three) = (connection.open_call(), connection.open_call(), connection.open_call());
        let half = UNSENT / 2 + 1;
        let first = one.offer(half, STREAM_MESSAGE);
        let _second = two.offer(half, STREAM_MESSAGE);
        assert!(timeout(DAY, room(&three)).await.is_err());
        drop(first);
        room(&three).await;
        let _third = one.offer(half, STREAM_MESSAGE);
        assert!(timeout(DAY, room(&three)).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_kept_of_a_stream_that_ends_while_it_waits() {
        let (connection, _place, _stop) = connection();
        let (one, two) = (connection.open_call(), connection.open_call());
        let _much = one.offer(UNSENT, STREAM_MESSAGE);
        assert!(timeout(DAY, room(&two)).await.is_err());
        assert_eq!(connection.calls().waiting.len(), 1);
        drop(two);
        assert!(connection.calls().waiting.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_65th_stream_is_one_too_many_until_another_ends() {
        let (connection, _place, _stop) = connection();
        let socket = SocketRate::new(&Limits::default());
        let mut open: Vec<_> = (0..64).map(|_| connection.open_stream(&socket).unwrap()).collect();
        assert!(matches!(
            connection.open_stream(&socket),
            Err(Error::TooManyStreams { limit: 64 })
        ));
        open.pop();
        assert!(connection.open_stream(&socket).is_ok());
    }

    /// The few that a connection always may have are its own also while it has some of the shared ones.
    #[tokio::test(start_paused = true)]
    async fn a_stream_of_its_own_is_there_again_when_the_shared_ones_are_gone() {
        let socket = SocketRate::new(&Limits::default());
        let all_of = |connection: &Arc<Connection>| -> Vec<_> {
            std::iter::from_fn(|| connection.open_stream(&socket).ok()).collect()
        };
        let (first, ..) = connection();
        let mut open = all_of(&first);
        let others: Vec<_> = (0..20).map(|_| connection()).collect();
        let _held: Vec<_> = others.iter().map(|(connection, ..)| all_of(connection)).collect();
        assert_eq!(socket.streams().0.load(Ordering::Relaxed), 0);
        assert!(open.remove(0).shared.is_none());
        let again = first.open_stream(&socket).unwrap();
        assert!(again.shared.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn greedy_connections_leave_each_other_one_four_streams() {
        let socket = SocketRate::new(&Limits::default());
        let others: Vec<_> = (0..40).map(|_| connection()).collect();
        let all_of = |connection: &Arc<Connection>| -> Vec<_> {
            std::iter::from_fn(|| connection.open_stream(&socket).ok()).collect()
        };
        let mut open: Vec<_> = others.iter().map(|(connection, ..)| all_of(connection)).collect();
        // 60 shared ones each for seventeen, 4 for the next.
        let counts: Vec<_> = open.iter().map(Vec::len).collect();
        assert_eq!(counts, [vec![64; 17], vec![8], vec![4; 22]].concat());
        let (late, ..) = connection();
        let mut own = all_of(&late);
        assert_eq!(own.len(), 4);
        assert!(matches!(
            late.open_stream(&socket),
            Err(Error::TooManyStreams { limit: 4 })
        ));
        // What ends is there again, for whom it was.
        own.remove(0);
        own.push(late.open_stream(&socket).unwrap());
        open.truncate(17);
        own.extend(all_of(&late));
        assert_eq!(own.len(), 8);
        drop((open, own));
        assert_eq!(socket.streams().0.load(Ordering::Relaxed), 1024);
        let calls = late.calls();
        assert_eq!((calls.streams, calls.shared_streams), (0, 0));
    }
}
