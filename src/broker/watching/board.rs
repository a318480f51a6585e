//! Places where it stands written how something is: one for each thing that somebody follows, and only while somebody does.
//!
//! A place has one writer, its *feeder*: it looks, writes down what it saw if that is something new, and looks again when it
//! is poked or some time has passed. Whoever changes a thing, or comes upon a change, pokes; nobody else writes, so nothing
//! old is ever written over something new. Readers see what is written, never what was written in between.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

/// The places of one kind of thing. A cheap handle: clones share everything.
pub(in crate::broker) struct Board<K, S> {
    shared: Arc<Shared<K, S>>,
}

struct Shared<K, S> {
    places: Mutex<HashMap<K, Arc<Place<S>>>>,
    /// How many places there are: what nobody follows costs those who poke one look at this.
    followed: AtomicUsize,
    closing: CancellationToken,
}

struct Place<S> {
    written: watch::Sender<S>,
    poke: Notify,
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

impl<K, S> Default for Board<K, S> {
    fn default() -> Self {
        Self {
            shared: Arc::new(Shared {
                places: Mutex::default(),
                followed: AtomicUsize::new(0),
                closing: CancellationToken::new(),
            }),
        }
    }
}

impl<K, S> Board<K, S>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    S: PartialEq + Send + Sync + 'static,
{
    /// What is written at the thing's place, from now on. If it has none, one is made with `blank` on it, and `feeder` makes
    /// who looks: at once, and then every `pause` at the latest. To be called within a runtime.
    pub(in crate::broker) fn follow<L: Look<S>>(
        &self,
        key: &K,
        blank: S,
        pause: Duration,
        feeder: impl FnOnce() -> L,
    ) -> watch::Receiver<S> {
        let mut places = self.shared.places();
        if let Some(place) = places.get(key) {
            return place.written.subscribe();
        }
        let (written, reading) = watch::channel(blank);
        let place = Arc::new(Place {
            written,
            poke: Notify::new(),
        });
        places.insert(key.clone(), Arc::clone(&place));
        self.shared.followed.store(places.len(), Ordering::Release);
        let feeding = Feeding {
            shared: Arc::clone(&self.shared),
            key: key.clone(),
            place,
        };
        // The feeder works for all who follow: it belongs to no call.
        tokio::spawn(feeding.feed(feeder(), pause).instrument(tracing::Span::none()));
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
        if let Some(place) = self.shared.places().get(key)
            && !known(&place.written.borrow())
        {
            place.poke.notify_one();
        }
    }

    /// How many follow a thing.
    pub(in crate::broker) fn followers(&self, key: &K) -> usize {
        self.shared
            .places()
            .get(key)
            .map_or(0, |place| place.written.receiver_count())
    }

    /// How many follow anything.
    pub(in crate::broker) fn all_followers(&self) -> usize {
        let places = self.shared.places();
        places.values().map(|place| place.written.receiver_count()).sum()
    }

    /// Closes all places, for good.
    pub(in crate::broker) fn close(&self) {
        self.shared.closing.cancel();
    }
}

impl<K, S> Shared<K, S> {
    fn places(&self) -> MutexGuard<'_, HashMap<K, Arc<Place<S>>>> {
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
    async fn feed(self, mut feeder: impl Look<S>, pause: Duration) {
        loop {
            let seen = tokio::select! {
                seen = feeder.look() => seen,
                () = self.shared.closing.cancelled() => return,
            };
            self.place.written.send_if_modified(|written| {
                let new = *written != seen;
                if new {
                    *written = seen;
                }
                new
            });
            tokio::select! {
                () = self.place.poke.notified() => {}
                () = sleep(pause) => {}
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
    fn take(&self, places: &mut HashMap<K, Arc<Place<S>>>, key: &K, place: &Arc<Place<S>>) {
        if places.get(key).is_some_and(|there| Arc::ptr_eq(there, place)) {
            places.remove(key);
            self.followed.store(places.len(), Ordering::Release);
        }
    }
}

impl<K: Eq + Hash, S> Drop for Feeding<K, S> {
    fn drop(&mut self) {
        let mut places = self.shared.places();
        self.shared.take(&mut places, &self.key, &self.place);
    }
}
