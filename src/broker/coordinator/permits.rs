//! How many flights one provider has at once, and who is next.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use super::error::Asker;

/// Flights of one provider that run at once.
const FLIGHTS: usize = 8;

/// The permits of one provider. Callers go before renewals; within each, who came first.
#[derive(Clone)]
pub(super) struct Permits {
    queue: Arc<Mutex<Queue>>,
}

struct Queue {
    free: usize,
    /// The next number of a ticket.
    next: u64,
    waiting: BTreeMap<(Asker, u64), oneshot::Sender<Permit>>,
}

/// A permit. Free again when it is dropped.
pub(super) struct Permit {
    permits: Permits,
}

/// A place in the queue. Left when it is dropped.
pub(super) struct Place {
    permits: Permits,
    number: u64,
    granted: oneshot::Receiver<Permit>,
}

/// Moves a renewal forward that a caller has come to wait for.
#[derive(Clone)]
pub(super) struct Promotion {
    permits: Permits,
    number: u64,
}

impl Permits {
    pub(super) fn new() -> Self {
        Self {
            queue: Arc::new(Mutex::new(Queue {
                free: FLIGHTS,
                next: 0,
                waiting: BTreeMap::new(),
            })),
        }
    }

    /// Takes a place in the queue.
    pub(super) fn line_up(&self, asker: Asker) -> Place {
        let (grant, granted) = oneshot::channel();
        let mut queue = self.queue();
        let number = queue.next;
        queue.next += 1;
        queue.waiting.insert((asker, number), grant);
        drop(queue);
        self.serve();
        Place {
            permits: self.clone(),
            number,
            granted,
        }
    }

    /// Gives what is free to those who wait.
    fn serve(&self) {
        loop {
            let mut queue = self.queue();
            if queue.free == 0 {
                return;
            }
            let Some((_, grant)) = queue.waiting.pop_first() else {
                return;
            };
            queue.free -= 1;
            drop(queue);
            // Whoever has left meanwhile drops the permit, which serves the next.
            drop(grant.send(Permit { permits: self.clone() }));
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.permits.queue().free += 1;
        self.permits.serve();
    }
}

impl Place {
    pub(super) fn promotion(&self) -> Promotion {
        Promotion {
            permits: self.permits.clone(),
            number: self.number,
        }
    }

    /// Waits for the permit; `None` cannot happen while the queue lives.
    pub(super) async fn permit(mut self) -> Option<Permit> {
        (&mut self.granted).await.ok()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut queue = self.permits.queue();
        for asker in [Asker::Caller, Asker::Renewal] {
            queue.waiting.remove(&(asker, self.number));
        }
    }
}

impl Promotion {
    pub(super) fn promote(&self) {
        let mut queue = self.permits.queue();
        if let Some(grant) = queue.waiting.remove(&(Asker::Renewal, self.number)) {
            queue.waiting.insert((Asker::Caller, self.number), grant);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn now(place: Place) -> Option<Permit> {
        tokio::time::timeout(std::time::Duration::ZERO, place.permit())
            .await
            .ok()
            .flatten()
    }

    #[tokio::test(start_paused = true)]
    async fn callers_go_before_renewals_and_a_renewal_that_is_waited_for_counts_as_one() {
        let permits = Permits::new();
        let mut held = Vec::new();
        for _ in 0..FLIGHTS {
            held.push(now(permits.line_up(Asker::Renewal)).await.unwrap());
        }
        let renewal = permits.line_up(Asker::Renewal);
        let promoted = permits.line_up(Asker::Renewal);
        let caller = permits.line_up(Asker::Caller);
        promoted.promotion().promote();
        held.pop();
        // Among callers, the older ticket is first.
        let first = now(promoted).await.unwrap();
        assert!(permits.queue().waiting.len() == 2);
        drop(first);
        let second = now(caller).await.unwrap();
        drop(second);
        assert!(now(renewal).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_the_queue_takes_no_permit_along() {
        let permits = Permits::new();
        let held: Vec<_> = (0..FLIGHTS).map(|_| permits.line_up(Asker::Caller)).collect();
        let gone = permits.line_up(Asker::Caller);
        drop(gone);
        assert_eq!(permits.queue().waiting.len(), 0);
        drop(held); // granted, but never taken
        assert_eq!(permits.queue().free, FLIGHTS);
    }
}
