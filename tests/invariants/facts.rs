//! What is true in the world, whatever a broker believes: who lives, what is stored, what was issued, who received it.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::pending,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use credbroker::{
    broker::Broker,
    clock::Clock as _,
    credential::{EntryKey, Expiry},
    store::{StoredTokens, TokenGuard, memory::MemoryStore},
};
use tokio::{sync::watch, task::AbortHandle, time::Instant};

use crate::{
    case::{Case, EVENTS, Event, Fails},
    time::Time,
};

/// How many entries there are.
pub(crate) const ENTRIES: usize = 2;

pub(crate) struct World {
    pub(crate) case: Case,
    pub(crate) time: Time,
    pub(crate) memory: MemoryStore,
    events: watch::Sender<[u32; EVENTS.len()]>,
    state: Mutex<State>,
}

/// A lock as a process holds it: the kernel takes it back when the process dies.
pub(crate) type Slot = Arc<Mutex<Option<Box<dyn TokenGuard>>>>;

#[derive(Default)]
pub(crate) struct State {
    pub(crate) processes: Vec<Process>,
    pub(crate) entries: [Entry; ENTRIES],
    /// By refresh token.
    pub(crate) refresh: BTreeMap<String, Refresh>,
    /// By access token.
    pub(crate) access: BTreeMap<String, Access>,
    pub(crate) families: Vec<Family>,
    pub(crate) presentations: Vec<Presentation>,
    /// Locks that are held, by number.
    pub(crate) guards: BTreeMap<usize, Guard>,
    pub(crate) guards_ever: usize,
    pub(crate) received: Vec<Received>,
    pub(crate) revoked: BTreeSet<String>,
    pub(crate) flights: BTreeMap<(usize, usize), Flight>,
    pub(crate) disk: Option<(Fails, Instant)>,
    pub(crate) disk_operations: usize,
    /// Versions of entries that anybody tried to store.
    pub(crate) versions: u64,
    /// From now on nothing fails any more.
    pub(crate) calm: bool,
    pub(crate) calls: usize,
    story: Vec<String>,
    wrong: Vec<String>,
}

pub(crate) struct Process {
    pub(crate) alive: bool,
    pub(crate) stopping: bool,
    pub(crate) broker: Option<Broker>,
    pub(crate) calls: Vec<AbortHandle>,
    pub(crate) slots: Vec<Slot>,
    pub(crate) doom: Option<Event>,
}

#[derive(Default)]
pub(crate) struct Entry {
    /// What the disk holds, and which version it is.
    pub(crate) stored: Option<Arc<StoredTokens>>,
    pub(crate) version: u64,
    /// Whose intent is there.
    pub(crate) intent_of: Option<usize>,
    /// And which process.
    pub(crate) intent_by: Option<usize>,
    /// Access tokens that imports are about to store.
    pub(crate) importing: BTreeSet<String>,
    /// The last version when the entry was last removed, and when a logout last succeeded.
    pub(crate) removed_at: u64,
    pub(crate) gone: u64,
    pub(crate) removals: u64,
    pub(crate) imports: u64,
    /// A removal or an import took effect, but was reported as failed.
    pub(crate) half_removed: bool,
    pub(crate) half_imported: bool,
}

/// A refresh token.
#[derive(Default)]
pub(crate) struct Refresh {
    pub(crate) entry: usize,
    pub(crate) family: usize,
    pub(crate) number: u32,
    /// The presentation that spent it.
    pub(crate) spent_by: Option<usize>,
    pub(crate) open: Option<usize>,
    /// Who received its successor, and whether that was ever durable.
    pub(crate) received_by: Option<usize>,
    pub(crate) succeeded: bool,
    /// The user brought it back by himself.
    pub(crate) brought_back: bool,
    /// Who was told that it is dead.
    pub(crate) refused: Option<usize>,
    /// Presentations whose outcome nobody knows, since the last definite one.
    pub(crate) lost: Vec<Lost>,
}

pub(crate) struct Lost {
    pub(crate) process: usize,
    pub(crate) guard: usize,
    /// The true time.
    pub(crate) ended: Duration,
    pub(crate) left_usable: bool,
}

/// An access token.
#[derive(Default)]
pub(crate) struct Access {
    /// The version that carried it first; zero: nobody tried to store it.
    pub(crate) version: u64,
    pub(crate) durable: bool,
    /// Processes that could not store it, and know.
    pub(crate) unsaved_in: BTreeSet<usize>,
    pub(crate) expiry: Option<Expiry>,
    /// When the provider issued it (true time, boot), and for how long.
    pub(crate) issued: Option<(Duration, u32, Duration)>,
}

/// All refresh tokens that come from one login.
pub(crate) struct Family {
    pub(crate) current: String,
    pub(crate) revoked: bool,
}

pub(crate) struct Presentation {
    pub(crate) process: usize,
    pub(crate) guard: usize,
    pub(crate) refresh: String,
    pub(crate) open: bool,
    /// What came of it at the provider: the new refresh token.
    pub(crate) successor: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Guard {
    pub(crate) process: usize,
    pub(crate) entry: usize,
    pub(crate) flight: bool,
    pub(crate) wrote_intent: bool,
    pub(crate) put_failed: bool,
    /// What could not be put last is not put yet.
    pub(crate) unsaved: bool,
    pub(crate) lost: bool,
    /// When it was taken, there was a usable token that its flight did not know.
    pub(crate) found_newer: bool,
    /// The lifetime of what was last put under it.
    pub(crate) lifetime: Option<Option<Duration>>,
}

/// A new refresh token that a process received.
pub(crate) struct Received {
    pub(crate) process: usize,
    pub(crate) entry: usize,
    pub(crate) refresh: String,
    /// Removals and imports of the entry until then.
    pub(crate) changes: u64,
    /// The entry was gone already.
    pub(crate) late: bool,
}

/// The last flight of a process for an entry.
#[derive(Default)]
pub(crate) struct Flight {
    pub(crate) started: Duration,
    /// Which version was stored then.
    pub(crate) version: u64,
    /// Known when it has ended.
    pub(crate) cooldown: Option<Duration>,
}

impl World {
    pub(crate) fn new(case: Case) -> Self {
        Self {
            case,
            time: Time::new(),
            memory: MemoryStore::new(),
            events: watch::Sender::new([0; EVENTS.len()]),
            state: Mutex::default(),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// One line of the story, for people.
    pub(crate) fn tell(&self, what: impl AsRef<str>) {
        let now = self.time.now();
        let line = format!("{:>11.3} s  {}", self.time.truth().as_secs_f64(), what.as_ref());
        drop(now);
        self.state().story.push(line);
    }

    /// A rule was broken.
    pub(crate) fn wrong(&self, what: impl AsRef<str>) {
        self.tell(format!("!!! {}", what.as_ref()));
        self.state().wrong.push(what.as_ref().to_owned());
    }

    /// What was wrong, with the story around it.
    pub(crate) fn verdict(&self) -> Result<(), String> {
        let state = self.state();
        match state.wrong.first() {
            None => Ok(()),
            Some(first) => Err(format!("{first}\n{}", state.story.join("\n"))),
        }
    }

    pub(crate) fn went_wrong(&self) -> bool {
        !self.state().wrong.is_empty()
    }

    pub(crate) fn alive(&self, process: usize) -> bool {
        self.state().processes[process].alive
    }

    /// Goes on if the process does. What a dead one was about to do is never done.
    pub(crate) async fn lives(&self, process: usize) {
        if !self.alive(process) {
            pending::<()>().await;
        }
    }

    /// The numbers of those that live.
    pub(crate) fn living(&self) -> Vec<usize> {
        let state = self.state();
        (0..state.processes.len())
            .filter(|process| state.processes[*process].alive)
            .collect()
    }

    /// This happens now, in this process.
    pub(crate) fn hit(&self, process: usize, event: Event) {
        self.events.send_modify(|counts| counts[event as usize] += 1);
        if self.state().processes[process].doom == Some(event) {
            self.kill(process);
        }
    }

    /// Waits until this happens again.
    pub(crate) async fn next(&self, event: Event) {
        let mut events = self.events.subscribe();
        let before = events.borrow()[event as usize];
        let happened = events.wait_for(|counts| counts[event as usize] > before);
        // It may never happen.
        drop(tokio::time::timeout(Duration::from_secs(20), happened).await);
    }

    /// kill -9: connections are closed, locks are free, nothing else is told to anybody.
    pub(crate) fn kill(&self, process: usize) {
        if !self.alive(process) {
            return;
        }
        self.tell(format!("process {process} dies"));
        let truth = self.time.truth();
        let mut guard = self.state();
        let state = &mut *guard;
        let it = &mut state.processes[process];
        it.alive = false;
        let (broker, calls, slots) = (
            it.broker.take(),
            std::mem::take(&mut it.calls),
            std::mem::take(&mut it.slots),
        );
        for (number, presentation) in state.presentations.iter_mut().enumerate() {
            if presentation.process == process && presentation.open {
                presentation.open = false;
                let refresh = state.refresh.get_mut(&presentation.refresh).unwrap();
                assert_eq!(refresh.open.take(), Some(number));
                refresh.lost.push(Lost {
                    process,
                    guard: presentation.guard,
                    ended: truth,
                    left_usable: false,
                });
            }
        }
        state.guards.retain(|_, guard| guard.process != process);
        drop(guard);
        for slot in slots {
            drop(slot.lock().unwrap().take());
        }
        for call in calls {
            call.abort();
        }
        drop(broker);
    }

    pub(crate) fn usable(&self, stored: Option<&StoredTokens>) -> bool {
        let Some(stored) = stored else { return false };
        let Some(expiry) = &stored.tokens.expiry else {
            return true;
        };
        self.left(expiry) > Duration::from_secs(5).min(expiry.lifetime / 10)
    }

    /// What is left by the stricter of both clocks, reckoned from the record alone.
    pub(crate) fn left(&self, expiry: &Expiry) -> Duration {
        let now = self.time.now();
        let wall = expiry.at.duration_since(now.wall);
        let mut left = Duration::try_from(wall).unwrap_or_default();
        if expiry.stored.boot_id == now.boot_id {
            let whole = Duration::try_from(expiry.at.duration_since(expiry.stored.wall)).unwrap_or_default();
            left = left.min(whole.saturating_sub(now.boot - expiry.stored.boot));
        }
        left
    }
}

impl State {
    /// The lock of the entry that the process holds.
    pub(crate) fn guard_of(&self, process: usize, entry: usize) -> Option<usize> {
        let mut guards = self.guards.iter();
        guards
            .find(|(_, guard)| guard.process == process && guard.entry == entry)
            .map(|(number, _)| *number)
    }
}

impl Entry {
    /// Removals and imports so far.
    pub(crate) fn changes(&self) -> u64 {
        self.removals + self.imports
    }
}

pub(crate) fn key(entry: usize) -> EntryKey {
    EntryKey::parse("p", &format!("b{entry}")).unwrap()
}

pub(crate) fn number(key: &EntryKey) -> usize {
    key.bucket.as_str()[1..].parse().unwrap()
}
