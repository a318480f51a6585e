//! What belongs to one connection for as long as it lives.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    task::Poll,
};

use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until},
};

use super::{HANDSHAKE, Limits, calls::Calls, crowd::Place, progress::Progress, rates::ConnectionRates};
use crate::server::peer::{Described, Peer};

/// Why the broker ends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::server) enum Cut {
    /// The first SETTINGS did not come.
    Handshake,
    /// A frame was begun and not ended.
    Frame,
    /// A header block was begun and not ended.
    HeaderBlock,
    /// The peer does not read.
    Unread,
    /// The peer grants no room for an answer.
    Starved,
    /// Too many frames of a kind that says nothing.
    Flood(&'static str),
    /// There is one connection too many.
    Crowded,
}

impl Cut {
    /// What the GOAWAY says.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Handshake => "no_settings_in_time",
            Self::Frame => "frame_too_slow",
            Self::HeaderBlock => "header_block_too_slow",
            Self::Unread => "nothing_read",
            Self::Starved => "no_window_for_an_answer",
            Self::Flood(word) => word,
            Self::Crowded => "too_many_connections",
        }
    }
}

/// One connection: shared by its adapter, its layers, its calls and the crowd.
pub(in crate::server) struct Connection {
    peer: Option<Peer>,
    /// Set before the first call.
    described: OnceLock<Described>,
    accepted: Instant,
    rates: ConnectionRates,
    /// How many streaming calls it may have.
    pub(super) streams: usize,
    stopping: watch::Receiver<bool>,
    progress: Mutex<Progress>,
    calls: Mutex<Calls>,
    cut: OnceLock<Cut>,
    /// Something may have become due that the connection's task does not wait for yet.
    pub(super) news: Notify,
}

impl Connection {
    pub(in crate::server) fn new(peer: Option<Peer>, limits: &Limits, stopping: watch::Receiver<bool>) -> Arc<Self> {
        let now = Instant::now();
        Arc::new(Self {
            peer,
            described: OnceLock::new(),
            accepted: now,
            rates: ConnectionRates::new(limits),
            streams: limits.streams.get() as usize,
            stopping,
            progress: Mutex::new(Progress::new(now, limits.frames_per_second())),
            calls: Mutex::new(Calls::new(now)),
            cut: OnceLock::new(),
            news: Notify::new(),
        })
    }

    pub(in crate::server) fn peer(&self) -> Option<Peer> {
        self.peer
    }

    /// What was found out about the peer.
    pub(in crate::server) fn describe(&self, described: Described) {
        // It is asked once.
        let _ = self.described.set(described);
    }

    /// What is known of the peer; `None`: nobody asked.
    pub(in crate::server) fn described(&self) -> Option<&Described> {
        self.described.get()
    }

    pub(in crate::server) fn rates(&self) -> &ConnectionRates {
        &self.rates
    }

    pub(super) fn accepted(&self) -> Instant {
        self.accepted
    }

    /// Since when it has no open call; `None`: it has one.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        self.calls().idle_since()
    }

    /// Whether the first SETTINGS has come.
    pub(in crate::server) fn settled(&self) -> bool {
        self.progress().settled()
    }

    /// Completes when the broker stops.
    pub(in crate::server) async fn stopping(&self) {
        let mut stopping = self.stopping.clone();
        // An error means that the accept loop is gone, which is a stop as well.
        let _ = stopping.wait_for(|stop| *stop).await;
    }

    /// All that there was to write has been written.
    pub(super) fn flushed(&self) {
        // Nobody waits for a socket that was not full.
        if self.progress().flushed() {
            self.wake_streams();
        }
    }

    /// Has the connection ended, for the first reason that is given.
    pub(super) fn cut(&self, cut: Cut) {
        // A second reason comes too late.
        let _ = self.cut.set(cut);
        self.news.notify_one();
    }

    /// Why it is being ended.
    pub(super) fn why_cut(&self) -> Option<Cut> {
        self.cut.get().copied()
    }

    /// Completes when the connection has to end. To be polled by the task that serves the connection, after the
    /// connection: only then has all been read that is there, and what is missing is the peer's fault.
    pub(in crate::server) async fn ends(&self, place: &Place) -> Cut {
        let mut sleep = pin!(sleep_until(self.accepted + HANDSHAKE));
        let mut news = pin!(self.news.notified());
        let mut settled = false;
        let cut = poll_fn(|cx| {
            loop {
                while news.as_mut().poll(cx).is_ready() {
                    news.set(self.news.notified());
                }
                if let Some(cut) = self.why_cut() {
                    return Poll::Ready(cut);
                }
                if !settled && self.settled() {
                    settled = true;
                    place.settle();
                }
                let now = Instant::now();
                match self.due(now) {
                    None => return Poll::Pending,
                    Some((at, cut)) if at <= now => return Poll::Ready(cut),
                    Some((at, _)) => {
                        if sleep.deadline() != at {
                            sleep.as_mut().reset(at);
                        }
                        if sleep.as_mut().poll(cx).is_pending() {
                            return Poll::Pending;
                        }
                    }
                }
            }
        })
        .await;
        // The adapter says it to the peer when it is dropped.
        self.cut(cut);
        cut
    }

    fn due(&self, now: Instant) -> Option<(Instant, Cut)> {
        let answer = self.calls().due(now).map(|at| (at, Cut::Starved));
        let progress = self.progress().due();
        [answer, progress].into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    pub(super) fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::server::limits::Crowd;

    fn connection() -> (Arc<Connection>, Place, watch::Sender<bool>) {
        let limits = Limits::default();
        let (stop, stopping) = watch::channel(false);
        let connection = Connection::new(None, &limits, stopping);
        let place = Crowd::new(&limits).join(&connection);
        (connection, place, stop)
    }

    fn settle(connection: &Connection) {
        let now = Instant::now();
        connection.progress().read(&[0; 24], now).unwrap();
        connection.progress().read(&[0, 0, 0, 4, 0, 0, 0, 0, 0], now).unwrap();
    }

    async fn ends_after(connection: &Connection, place: &Place) -> (u64, Cut) {
        let start = Instant::now();
        let cut = connection.ends(place).await;
        (start.elapsed().as_secs(), cut)
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_peer_is_left_after_5_s() {
        let (connection, place, _stop) = connection();
        assert_eq!(ends_after(&connection, &place).await, (5, Cut::Handshake));
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_is_left_alone() {
        let (connection, place, _stop) = connection();
        settle(&connection);
        let day = Duration::from_secs(86_400);
        assert!(tokio::time::timeout(day, connection.ends(&place)).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn idle_is_since_the_last_call_ended() {
        let (connection, _place, _stop) = connection();
        let accepted = Instant::now();
        assert_eq!(connection.idle_since(), Some(accepted));
        let (first, second) = (connection.open_call(), connection.open_call());
        tokio::time::advance(Duration::from_secs(3)).await;
        drop(first);
        assert_eq!(connection.idle_since(), None);
        tokio::time::advance(Duration::from_secs(4)).await;
        drop(second);
        assert_eq!(connection.idle_since(), Some(accepted + Duration::from_secs(7)));
    }

    /// The task that serves a connection says when its peer has begun.
    #[tokio::test(start_paused = true)]
    async fn who_has_sent_settings_is_not_counted_with_the_silent() {
        let limits = Limits::default();
        let crowd = Crowd::new(&limits);
        let (_stop, stopping) = watch::channel(false);
        let join = async |speaks: bool| {
            let connection = Connection::new(None, &limits, stopping.clone());
            if speaks {
                settle(&connection);
            }
            let place = crowd.join(&connection);
            // Polled once.
            let served = tokio::time::timeout(Duration::ZERO, connection.ends(&place)).await;
            assert!(served.is_err());
            (connection, place)
        };
        let speaking = join(true).await;
        let mut silent = Vec::new();
        for _ in 0..64 {
            silent.push(join(false).await);
        }
        let cut = |(connection, _): &(Arc<Connection>, Place)| connection.why_cut();
        assert_eq!((cut(&speaking), cut(&silent[0])), (None, None));
        silent.push(join(false).await);
        assert_eq!((cut(&speaking), cut(&silent[0])), (None, Some(Cut::Crowded)));
    }

    #[tokio::test(start_paused = true)]
    async fn of_65_silent_connections_and_of_257_others_one_goes() {
        let limits = Limits::default();
        let crowd = Crowd::new(&limits);
        let (_stop, stopping) = watch::channel(false);
        let mut members = Vec::new();
        let mut join = || {
            let connection = Connection::new(None, &limits, stopping.clone());
            let place = crowd.join(&connection);
            members.push((connection, place));
            members.len() - 1
        };
        for _ in 0..64 {
            join();
        }
        join();
        let gone = |members: &[(Arc<Connection>, Place)]| -> Vec<usize> {
            let gone = |(at, (connection, _)): (usize, &(Arc<Connection>, Place))| connection.why_cut().map(|_| at);
            members.iter().enumerate().filter_map(gone).collect()
        };
        assert_eq!(gone(&members), [0]);
        for (_, place) in members.iter().skip(1) {
            place.settle();
        }
        for _ in 64..256 {
            let connection = Connection::new(None, &limits, stopping.clone());
            let place = crowd.join(&connection);
            place.settle();
            members.push((connection, place));
        }
        assert_eq!(gone(&members), [0]);
        let busy = members[1].0.open_call();
        let connection = Connection::new(None, &limits, stopping.clone());
        let place = crowd.join(&connection);
        place.settle();
        assert_eq!(gone(&members), [0, 2]);
        drop(busy);
    }
}
