//! The connections of what a client watches: 64 watches each, a further one when they are full, and none that has no watch
//! left. Calls have a connection of their own, so that neither waits for the other.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{
    Error,
    link::{Lease, Link, Road},
};

/// How many watches a connection has. A broker grants as many, unless its host configured fewer.
const MOST: usize = 64;

/// The connections of one client's watches.
pub(super) struct Watches {
    road: Arc<Road>,
    lines: Mutex<Vec<Line>>,
}

/// One connection.
struct Line {
    link: Arc<Link>,
    /// How many watches it has, those included that are only being begun.
    taken: usize,
    /// How many it may have.
    most: usize,
}

impl Watches {
    pub(super) fn new(road: Arc<Road>) -> Arc<Self> {
        Arc::new(Self {
            road,
            lines: Mutex::default(),
        })
    }

    /// A seat on the first connection that has one. Nothing is connected yet.
    pub(super) fn seat(self: &Arc<Self>) -> Seat {
        let mut lines = self.lines();
        let free = lines.iter_mut().find(|line| line.taken < line.most);
        let link = match free {
            Some(line) => {
                line.taken += 1;
                Arc::clone(&line.link)
            }
            None => {
                // Closed with its last watch: it is idle at once.
                let link = Link::new(Arc::clone(&self.road), Duration::ZERO);
                lines.push(Line {
                    link: Arc::clone(&link),
                    taken: 1,
                    most: MOST,
                });
                link
            }
        };
        Seat {
            watches: Arc::clone(self),
            link,
        }
    }

    fn lines(&self) -> MutexGuard<'_, Vec<Line>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Room for one watch.
pub(super) struct Seat {
    watches: Arc<Watches>,
    link: Arc<Link>,
}

impl Seat {
    /// The right to make the call. Connects if it is the first on its connection.
    pub(super) async fn lease(&self) -> Result<Lease, Error> {
        self.link.lease().await
    }

    /// The broker has no room for this watch: its connection is full with the others. Says whether there are any, that is
    /// whether another connection is worth a try.
    pub(super) fn refused(self) -> bool {
        let mut lines = self.watches.lines();
        let line = lines.iter_mut().find(|line| Arc::ptr_eq(&line.link, &self.link));
        let others = line.map_or(0, |line| {
            line.most = line.taken - 1;
            line.most
        });
        others > 0
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut lines = self.watches.lines();
        if let Some(at) = lines.iter().position(|line| Arc::ptr_eq(&line.link, &self.link))
            && let Some(line) = lines.get_mut(at)
        {
            line.taken -= 1;
            if line.taken == 0 {
                lines.remove(at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watches() -> Arc<Watches> {
        Watches::new(Road::new("/sock".into(), None))
    }

    fn taken(watches: &Watches) -> Vec<usize> {
        watches.lines().iter().map(|line| line.taken).collect()
    }

    #[test]
    fn a_connection_has_64_and_goes_with_its_last() {
        let watches = watches();
        let mut seats: Vec<Seat> = (0..130).map(|_| watches.seat()).collect();
        assert_eq!(taken(&watches), [64, 64, 2]);
        // What became free is taken again before anything new is connected.
        seats.drain(0..3);
        assert_eq!(taken(&watches), [61, 64, 2]);
        seats.push(watches.seat());
        assert_eq!(taken(&watches), [62, 64, 2]);
        seats.drain(61..125);
        assert_eq!(taken(&watches), [62, 2]);
        seats.clear();
        assert!(taken(&watches).is_empty());
    }

    #[test]
    fn who_is_refused_goes_elsewhere_unless_he_was_alone() {
        let watches = watches();
        let mut seats: Vec<Seat> = (0..5).map(|_| watches.seat()).collect();
        assert!(seats.pop().unwrap().refused());
        assert_eq!(taken(&watches), [4]);
        seats.push(watches.seat());
        assert_eq!(taken(&watches), [4, 1]);
        assert!(!seats.pop().unwrap().refused());
        assert_eq!(taken(&watches), [4]);
        // Room that was found to be there is used again.
        drop(seats.pop());
        seats.push(watches.seat());
        assert_eq!(taken(&watches), [4]);
    }
}
