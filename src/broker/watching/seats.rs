//! How much one sandbox follows at once: each place that is followed costs the store two looks a second.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::broker::Error;

/// What one sandbox may follow at once, over all its streams and connections.
pub(super) const MOST: usize = 8192;

/// Who follows how much. Clones share the counts.
#[derive(Clone, Default)]
pub(in crate::broker) struct Seats {
    taken: Arc<Mutex<HashMap<Arc<str>, usize>>>,
}

/// One of a sandbox's, until this is dropped.
pub(super) struct Seat {
    seats: Seats,
    principal: Arc<str>,
}

impl Seats {
    /// Takes one of the principal's.
    ///
    /// # Errors
    /// [`Error::TooManyWatches`].
    pub(super) fn take(&self, principal: &Arc<str>) -> Result<Seat, Error> {
        let mut taken = self.taken();
        let count = taken.entry(Arc::clone(principal)).or_default();
        if *count >= MOST {
            return Err(Error::TooManyWatches { limit: MOST });
        }
        *count += 1;
        drop(taken);
        Ok(Seat {
            seats: self.clone(),
            principal: Arc::clone(principal),
        })
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<Arc<str>, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken();
        if let Some(count) = taken.get_mut(&self.principal) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.principal);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sandbox_has_its_own_and_gets_them_back() {
        let seats = Seats::default();
        let (one, other): (Arc<str>, Arc<str>) = ("one".into(), "other".into());
        let mut all: Vec<Seat> = (0..MOST).map(|_| seats.take(&one).ok().unwrap()).collect();
        assert!(matches!(seats.take(&one), Err(Error::TooManyWatches { limit: MOST })));
        assert!(seats.take(&other).is_ok());
        all.pop();
        assert!(seats.take(&one).is_ok());
        drop(all);
        assert!(seats.taken().is_empty());
    }
}
