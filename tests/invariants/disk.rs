//! The store as one process sees it: the memory store, with a disk that dawdles and fails, and a kernel that takes the locks
//! of the dead.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use credbroker::{
    credential::EntryKey,
    store::{Operation, OverCorrupt, StoreError, StoredTokens, TokenGuard, TokenStore},
};
use tokio::time::{Instant, sleep};

use crate::{
    case::{Event, Fails},
    facts::{Slot, World, number},
};

/// Callers wait less for a lock, flights longer (section 8.2): that is how one is told from the other here.
const CALLERS: Duration = Duration::from_secs(10);

pub(crate) struct Disk {
    pub(crate) world: Arc<World>,
    pub(crate) process: usize,
}

#[async_trait]
impl TokenStore for Disk {
    async fn read(&self, key: &EntryKey) -> Result<Option<Arc<StoredTokens>>, StoreError> {
        self.world.lives(self.process).await;
        if self.world.fails(Fails::Reads) {
            return Err(failed(Operation::Read));
        }
        TokenStore::read(&self.world.memory, key).await
    }

    async fn list(&self) -> Result<Vec<EntryKey>, StoreError> {
        TokenStore::list(&self.world.memory).await
    }

    async fn lock(&self, key: &EntryKey, wait: Duration) -> Result<Box<dyn TokenGuard>, StoreError> {
        let (world, process, entry) = (&self.world, self.process, number(key));
        world.lives(process).await;
        let flight = wait > CALLERS;
        if flight {
            world.flight_begins(process, entry);
        }
        let locked = world.memory.lock(key, wait).await;
        if !world.alive(process) {
            // The kernel has it back at once.
            drop(locked);
            return std::future::pending().await;
        }
        let guard = match locked {
            Ok(guard) => guard,
            Err(busy) => {
                if flight {
                    world.flight_ends(process, entry, None);
                }
                return Err(busy);
            }
        };
        let slot: Slot = Arc::new(Mutex::new(Some(guard)));
        let number = world.locked(process, entry, flight, &slot);
        world.hit(process, Event::Locked);
        world.lives(process).await;
        Ok(Box::new(Held {
            world: Arc::clone(world),
            process,
            entry,
            number,
            slot,
        }))
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.world.lives(self.process).await;
        if self.world.fails(Fails::Reads) || self.world.fails(Fails::Writes) || self.world.fails(Fails::Reports) {
            return Err(failed(Operation::Write));
        }
        Ok(())
    }
}

struct Held {
    world: Arc<World>,
    process: usize,
    entry: usize,
    number: usize,
    slot: Slot,
}

impl Held {
    /// The real guard, for one operation that ends at once.
    fn take(&self) -> Box<dyn TokenGuard> {
        self.slot.lock().unwrap().take().unwrap()
    }

    fn give_back(&self, guard: Box<dyn TokenGuard>) {
        *self.slot.lock().unwrap() = Some(guard);
    }
}

#[async_trait]
impl TokenGuard for Held {
    async fn read(&self) -> Result<Option<Arc<StoredTokens>>, StoreError> {
        let (before, after) = self.world.delay();
        sleep(before).await;
        self.world.lives(self.process).await;
        if self.world.fails(Fails::Reads) {
            return Err(failed(Operation::Read));
        }
        let guard = self.take();
        let read = guard.read().await;
        self.give_back(guard);
        sleep(after).await;
        self.world.lives(self.process).await;
        read
    }

    async fn put(&mut self, record: Arc<StoredTokens>, over_corrupt: OverCorrupt) -> Result<(), StoreError> {
        let (world, process) = (&self.world, self.process);
        world.lives(process).await;
        let marks = world.judge_put(process, self.number, self.entry, &record);
        let (before, after) = world.delay();
        if !marks {
            world.hit(process, Event::Saving);
        }
        sleep(before).await;
        world.lives(process).await;
        if world.fails(Fails::Writes) {
            world.not_put(process, self.number, &record);
            return Err(failed(Operation::Write));
        }
        let mut guard = self.take();
        let put = guard.put(Arc::clone(&record), over_corrupt).await;
        self.give_back(guard);
        world.put(self.number, self.entry, &record);
        world.hit(process, if marks { Event::Marked } else { Event::Saved });
        sleep(after).await;
        world.lives(process).await;
        if world.fails(Fails::Reports) {
            world.not_put(process, self.number, &record);
            return Err(failed(Operation::Write));
        }
        put
    }

    async fn remove(&mut self) -> Result<bool, StoreError> {
        let (world, process) = (&self.world, self.process);
        world.lives(process).await;
        let (before, after) = world.delay();
        sleep(before).await;
        world.lives(process).await;
        if world.fails(Fails::Writes) || world.fails(Fails::Removals) {
            return Err(failed(Operation::Remove));
        }
        let mut guard = self.take();
        let removed = guard.remove().await;
        self.give_back(guard);
        world.removed(process, self.entry);
        world.hit(process, Event::Removed);
        sleep(after).await;
        world.lives(process).await;
        if world.fails(Fails::Reports) {
            world.half_removed(self.entry);
            return Err(failed(Operation::Remove));
        }
        removed
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.world.unlocked(self.number);
        }
        drop(self.slot.lock().unwrap().take());
    }
}

impl World {
    /// Whether the disk fails in this way now.
    fn fails(&self, how: Fails) -> bool {
        let state = self.state();
        !state.calm
            && state
                .disk
                .is_some_and(|(fails, until)| fails == how && Instant::now() < until)
    }

    /// How long the next operation takes, before and after it takes effect.
    fn delay(&self) -> (Duration, Duration) {
        let mut state = self.state();
        let number = state.disk_operations;
        state.disk_operations += 1;
        let (before, after) = self
            .case
            .disk
            .get(number)
            .copied()
            .filter(|_| !state.calm)
            .unwrap_or_default();
        (
            Duration::from_millis(before.into()),
            Duration::from_millis(after.into()),
        )
    }
}

fn failed(operation: Operation) -> StoreError {
    StoreError::Unavailable {
        operation,
        what: "the entry".into(),
        cause: Arc::from(Box::<dyn std::error::Error + Send + Sync>::from("the disk fails")),
    }
}
