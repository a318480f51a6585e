//! Places where it stands written how something is: one for each thing that somebody follows, and only while somebody does.
//!
//! A place has one writer, its *feeder*: it looks, writes down what it saw if that is something new, and looks again when it
//! is poked. Whoever changes a thing, or comes upon a change, pokes; nobody else writes, so nothing old is ever written over
//! something new. Readers see what is written, never what was written in between.
//!
//! One task makes *rounds* over all places of a board: it pokes where what is written holds no longer, and where something
//! may have changed that nobody of this process saw. That all places are gone through at once is what makes a thousand of
//! them cheap.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

/// How far the rounds are apart: half of what may pass until a change that another process made is seen.
pub(super) const PAUSE: Duration = Duration::from_millis(500);
/// The least pause before a place is poked again whose time is over, and whose feeder has not written yet.
const LEAST_PAUSE: Duration = Duration::from_millis(20);

/// The places of one kind of thing. A cheap handle: clones share everything.
pub(in crate::broker) struct Board<K, S> {
    shared: Arc<Shared<K, S>>,
}

struct Shared<K, S> {
    places: Mutex<Places<K, S>>,
    warden: Box<dyn Warden<K, S>>,
    /// How many places there are: what nobody follows costs those who poke one look at this.
    followed: AtomicUsize,
    closing: CancellationToken,
}

struct Places<K, S> {
    all: HashMap<K, Arc<Place<S>>>,
    /// Whether somebody makes the rounds.
    rounds: bool,
}

struct Place<S> {
    written: watch::Sender<S>,
    poke: Notify,
}

/// What whoever makes the rounds has to know of the things.
#[async_trait]
pub(in crate::broker) trait Warden<K, S>: Send + Sync + 'static {
    /// Those of which something else is to be written than this, for all that is known.
    async fn changed(&self, written: Vec<(K, S)>) -> Vec<K>;

    /// For how long what is written still holds; zero: no longer. `None`: for ever.
    fn holds(&self, written: &S) -> Option<Duration>;
}

/// What a feeder sees, again and again. What it keeps alive, it keeps alive while somebody follows.
pub(in crate::broker) trait Look<S>: Send + 'static {
    /// Looks once.
    fn look(&mut self) -> impl Future<Output = S> + Send;
}

impl<K, S> Clone for Board<K, S> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<K, S> Board<K, S>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    S: Clone + PartialEq + Send + Sync + 'static,
{
    /// A board without any places.
    pub(in crate::broker) fn new(warden: impl Warden<K, S>) -> Self {
        Self {
            shared: Arc::new(Shared {
                places: Mutex::new(Places {
                    all: HashMap::new(),
                    rounds: false,
                }),
                warden: Box::new(warden),
                followed: AtomicUsize::new(0),
                closing: CancellationToken::new(),
            }),
        }
    }

    /// What is written at the thing's place, from now on. If it has none, one is made with `blank` on it, and `feeder` makes
    /// who looks. To be called within a runtime.
    pub(in crate::broker) fn follow<L: Look<S>>(
        &self,
        key: &K,
        blank: S,
        feeder: impl FnOnce() -> L,
    ) -> watch::Receiver<S> {
        let mut places = self.shared.places();
        if let Some(place) = places.all.get(key) {
            return place.written.subscribe();
        }
        let (written, reading) = watch::channel(blank);
        let place = Arc::new(Place {
            written,
            poke: Notify::new(),
        });
        places.all.insert(key.clone(), Arc::clone(&place));
        self.shared.followed.store(places.all.len(), Ordering::Release);
        let rounds = std::mem::replace(&mut places.rounds, true);
        drop(places);
        // Whoever works for all who follow belongs to no call.
        if !rounds {
            let rounds = Rounds(Arc::clone(&self.shared));
            tokio::spawn(rounds.make().instrument(tracing::Span::none()));
        }
        let feeding = Feeding {
            shared: Arc::clone(&self.shared),
            key: key.clone(),
            place,
        };
        tokio::spawn(feeding.feed(feeder()).instrument(tracing::Span::none()));
        reading
    }

    /// Something has changed: its place is looked at again.
    pub(in crate::broker) fn poke(&self, key: &K) {
        self.poke_unless(key, |_| false);
    }

    /// Somebody came upon the thing: it is looked at again, unless its place says so already.
    pub(in crate::broker) fn poke_unless(&self, key: &K, known: impl FnOnce(&S) -> bool) {
        if self.shared.followed.load(Ordering::Acquire) == 0 {
            return;
        }
        if let Some(place) = self.shared.places().all.get(key)
            && !known(&place.written.borrow())
        {
            place.poke.notify_one();
        }
    }

    /// How many follow a thing.
    pub(in crate::broker) fn followers(&self, key: &K) -> usize {
        self.shared
            .places()
            .all
            .get(key)
            .map_or(0, |place| place.written.receiver_count())
    }

    /// How many follow anything.
    pub(in crate::broker) fn all_followers(&self) -> usize {
        let places = self.shared.places();
        places.all.values().map(|place| place.written.receiver_count()).sum()
    }

    /// Closes all places, for good.
    pub(in crate::broker) fn close(&self) {
        self.shared.closing.cancel();
    }
}

impl<K, S> Shared<K, S> {
    fn places(&self) -> MutexGuard<'_, Places<K, S>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A feeder at work. However it ends, also by a panic, its place is closed.
struct Feeding<K: Eq + Hash, S> {
    shared: Arc<Shared<K, S>>,
    key: K,
    place: Arc<Place<S>>,
}

impl<K, S> Feeding<K, S>
where
    K: Eq + Hash,
    S: PartialEq,
{
    async fn feed(self, mut feeder: impl Look<S>) {
        loop {
            let seen = tokio::select! {
                seen = feeder.look() => seen,
                () = self.shared.closing.cancelled() => return,
            };
            self.place.written.send_if_modified(|written| {
                // What is alike is written, too, so that the rounds know it again.
                std::mem::replace(written, seen) != *written
            });
            tokio::select! {
                () = self.place.poke.notified() => {}
                () = self.place.written.closed() => {
                    if self.leave() {
                        return;
                    }
                }
                () = self.shared.closing.cancelled() => return,
            }
        }
    }

    /// Takes the place away, unless somebody follows again.
    fn leave(&self) -> bool {
        let mut places = self.shared.places();
        let deserted = self.place.written.is_closed();
        if deserted {
            self.shared.take(&mut places, &self.key, &self.place);
        }
        deserted
    }
}

impl<K: Eq + Hash, S> Shared<K, S> {
    fn take(&self, places: &mut Places<K, S>, key: &K, place: &Arc<Place<S>>) {
        if places.all.get(key).is_some_and(|there| Arc::ptr_eq(there, place)) {
            places.all.remove(key);
            self.followed.store(places.all.len(), Ordering::Release);
        }
    }
}

/// Who makes the rounds, while there are places.
struct Rounds<K, S>(Arc<Shared<K, S>>);

impl<K, S> Rounds<K, S>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    S: Clone + Send + Sync + 'static,
{
    async fn make(self) {
        let shared = &self.0;
        let mut last = Instant::now();
        // A look that hangs goes on; there is never more than one.
        let mut looking = None;
        loop {
            let rest = PAUSE.saturating_sub(last.elapsed());
            tokio::select! {
                () = sleep(self.over().map_or(rest, |over| over.clamp(LEAST_PAUSE, rest.max(LEAST_PAUSE)))) => {}
                () = shared.closing.cancelled() => return,
            }
            if last.elapsed() < PAUSE {
                continue;
            }
            last = Instant::now();
            let Some(written) = self.written() else { return };
            let mut look = looking.take().unwrap_or_else(|| shared.warden.changed(written));
            match timeout(PAUSE, &mut look).await {
                Ok(changed) => self.poke(&changed),
                Err(_elapsed) => {
                    self.poke_all();
                    looking = Some(look);
                }
            }
        }
    }

    /// Pokes where what is written holds no longer; after how long the next time is over, if one is.
    fn over(&self) -> Option<Duration> {
        let places = self.0.places();
        let holding = places.all.values().filter_map(|place| {
            let holds = self.0.warden.holds(&place.written.borrow())?;
            if holds.is_zero() {
                place.poke.notify_one();
            }
            Some(holds)
        });
        holding.min()
    }

    fn poke(&self, keys: &[K]) {
        let places = self.0.places();
        for place in keys.iter().filter_map(|key| places.all.get(key)) {
            place.poke.notify_one();
        }
    }

    fn poke_all(&self) {
        let places = self.0.places();
        places.all.values().for_each(|place| place.poke.notify_one());
    }

    /// What is written at the places. `None`: nothing is followed any more, and the rounds are over.
    fn written(&self) -> Option<Vec<(K, S)>> {
        let mut places = self.0.places();
        if places.all.is_empty() {
            places.rounds = false;
            return None;
        }
        let written = |(key, place): (&K, &Arc<Place<S>>)| (key.clone(), place.written.borrow().clone());
        Some(places.all.iter().map(written).collect())
    }
}

impl<K, S> Drop for Rounds<K, S> {
    /// After a panic the next who follows has somebody make the rounds again.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.places().rounds = false;
        }
    }
}

impl<K: Eq + Hash, S> Drop for Feeding<K, S> {
    fn drop(&mut self) {
        let mut places = self.shared.places();
        self.shared.take(&mut places, &self.key, &self.place);
    }
}
