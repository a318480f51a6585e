//! Renews tokens before they expire, so that no caller has to wait for a provider.
//!
//! One task and one queue for all entries: [`agenda`] is what is armed, [`sight`] what the clocks did meanwhile, and
//! `task` waits and carries out. Nothing sleeps for longer than ten seconds: a timer of days would sleep through a suspend
//! or a change of the wall clock, and one of months does not fit into every timer.

mod agenda;
mod sight;
mod task;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use jiff::Timestamp;
use tokio::{runtime::Handle, sync::Notify, task::AbortHandle, time::Instant};

use self::{
    agenda::{Agenda, Failed, Job, Known, Plan},
    sight::{Change, Sight},
    task::{End, Errand},
};
use super::coordinator::RefreshCoordinator;
use crate::{clock::Clock, credential::EntryKey, store::StoredTokens};

/// The longest sleep while something is armed.
const LONGEST_SLEEP: Duration = Duration::from_secs(10);
/// How many entries are taken out of the queue in one go, so that callers never wait long for the agenda.
const BATCH: usize = 512;
/// The least pause before something is looked at again that nobody could try.
const LEAST_PAUSE: Duration = Duration::from_millis(250);

/// A number that is drawn evenly from 0 to below 1.
pub type Jitter = Arc<dyn Fn() -> f64 + Send + Sync>;

/// Arms a renewal for every entry that is handed out. A cheap handle: clones share everything.
///
/// It may be made outside a runtime; its methods are to be called within one. Its task is there only while something is
/// armed, and does not keep the scheduler alive.
#[derive(Clone)]
pub struct ProactiveScheduler {
    shared: Arc<Shared>,
}

/// The next renewal of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Renewal {
    /// When it is due, by the wall clock. `None`: it was given up after too many failures, or needs a login.
    pub due: Option<Timestamp>,
    /// Failures in a row.
    pub failures: u32,
    /// It is under way at this moment.
    pub under_way: bool,
}

/// Somebody waits for the next token of an entry, until this is dropped. It counts as use all the time.
#[must_use = "watching ends when this is dropped"]
pub struct Watching {
    shared: Weak<Shared>,
    key: EntryKey,
}

struct Shared {
    coordinator: RefreshCoordinator,
    clock: Arc<dyn Clock>,
    jitter: Jitter,
    state: Mutex<State>,
    wake: Arc<Notify>,
}

#[derive(Default)]
struct State {
    agenda: Agenda,
    task: Option<AbortHandle>,
    /// The last look of the task at the clocks.
    sight: Option<Sight>,
    /// When the task will wake by itself, by boot time.
    wakes: Duration,
}

impl ProactiveScheduler {
    /// Renews what this coordinator refreshes. `jitter` draws evenly from 0 to below 1.
    #[must_use]
    pub fn new(coordinator: RefreshCoordinator, clock: Arc<dyn Clock>, jitter: Jitter) -> Self {
        Self {
            shared: Arc::new(Shared {
                coordinator,
                clock,
                jitter,
                state: Mutex::default(),
                wake: Arc::new(Notify::new()),
            }),
        }
    }

    /// A token was handed out: arms its renewal, if it has an expiry, a refresh token and a configured provider, and is
    /// not armed already. What was given up is armed again.
    pub fn schedule_if_needed(&self, key: &EntryKey, stored: &StoredTokens) {
        let shared = &self.shared;
        // What nobody can renew is told first: it is never armed, and comes by with every delivery.
        if stored.tokens.refresh_token.is_none() || !shared.coordinator.has_provider(key) {
            return;
        }
        let now = shared.clock.now();
        let mut state = shared.state();
        if state.agenda.used(key, &stored.revision, &now) == Known::No {
            drop(state);
            let Some(plan) = Plan::of(stored, &now, || (shared.jitter)()) else {
                return;
            };
            state = shared.state();
            // Another task may have been faster.
            if state.agenda.used(key, &stored.revision, &now) == Known::No {
                state.agenda.arm(key, plan, &now);
                state.agenda.used(key, &stored.revision, &now);
            }
        }
        shared.rouse(&mut state);
    }

    /// The entry was removed: forgets its renewal. One that is under way does not come back.
    pub fn cancel_for_key(&self, key: &EntryKey) {
        self.shared.state().agenda.cancel(key);
        self.shared.wake.notify_one();
    }

    /// The broker is stopping: forgets all renewals.
    pub fn cancel_all(&self) {
        self.shared.state().agenda.cancel_all();
        self.shared.wake.notify_one();
    }

    /// Counts as use of the entry, and keeps its renewal from being given up, until the guard is dropped. It arms nothing
    /// that was never armed: that takes a [`schedule_if_needed`](Self::schedule_if_needed) with what is stored, whether or
    /// not that could be handed out.
    pub fn watch(&self, key: &EntryKey) -> Watching {
        let now = self.shared.clock.now();
        let mut state = self.shared.state();
        state.agenda.watch(key, &now);
        self.shared.rouse(&mut state);
        Watching {
            shared: Arc::downgrade(&self.shared),
            key: key.clone(),
        }
    }

    /// The entry's next renewal. `None`: it was never armed, or was cancelled.
    #[must_use]
    pub fn renewal(&self, key: &EntryKey) -> Option<Renewal> {
        let now = self.shared.clock.now();
        let outlook = self.shared.state().agenda.outlook(key)?;
        Some(Renewal {
            due: outlook.due.map(|due| {
                let wait = due.saturating_sub(now.boot);
                now.wall.saturating_add(wait).unwrap_or(Timestamp::MAX)
            }),
            failures: outlook.failures,
            under_way: outlook.under_way,
        })
    }

    /// How many entries are armed.
    #[must_use]
    pub fn armed(&self) -> usize {
        self.shared.state().agenda.armed()
    }
}

impl fmt::Debug for ProactiveScheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProactiveScheduler")
            .field("armed", &self.armed())
            .finish_non_exhaustive()
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            let now = shared.clock.now();
            shared.state().agenda.unwatch(&self.key, &now);
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // The task finds nobody, and ends.
        self.wake.notify_one();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sees to it that the task is there, and awake in time; or ends.
    fn rouse(self: &Arc<Self>, state: &mut State) {
        if state.agenda.armed() == 0 {
            self.wake.notify_one();
            return;
        }
        if state.task.as_ref().is_none_or(AbortHandle::is_finished) {
            // Outside a runtime there is nobody to wait; the next use will find one.
            if let Ok(runtime) = Handle::try_current() {
                let waiting = task::wait(Arc::downgrade(self), Arc::clone(&self.wake));
                state.task = Some(runtime.spawn(waiting).abort_handle());
            }
        } else if state.agenda.next().is_some_and(|next| next < state.wakes) {
            self.wake.notify_one();
        }
    }

    /// What the task does when it wakes: looks at the clocks, starts what is due, and says how long to sleep. `None`:
    /// nothing is armed, and the task ends.
    fn look(self: &Arc<Self>) -> Option<Duration> {
        let (now, monotonic) = (self.clock.now(), Instant::now());
        let mut state = self.state();
        if state.agenda.armed() == 0 {
            state.task = None;
            state.sight = None;
            return None;
        }
        let change = match &mut state.sight {
            Some(sight) => sight.look(&now, monotonic),
            none => {
                *none = Some(Sight::first(&now, monotonic));
                Change::None
            }
        };
        match change {
            Change::None => {}
            Change::Creep => state.agenda.reorder(&now),
            Change::Jump => {
                tracing::debug!("the machine slept, or a clock was set: every renewal is looked at again");
                state.agenda.resume(&now);
            }
        }
        let jobs = state.agenda.take_due(&now, BATCH);
        let next = state.agenda.next();
        let pause = next.map_or(LONGEST_SLEEP, |at| at.saturating_sub(now.boot).min(LONGEST_SLEEP));
        state.wakes = now.boot.saturating_add(pause);
        drop(state);
        for job in jobs {
            // In tasks of their own: one that hangs holds up no other.
            tokio::spawn(Errand::new(self, job).run(self.coordinator.clone()));
        }
        Some(pause)
    }

    /// A renewal has ended.
    fn settle(self: &Arc<Self>, job: &Job, flight: Option<Duration>, end: &End) {
        let now = self.clock.now();
        let key = &*job.key;
        let plan = match end {
            End::Renewed(stored) | End::Found(stored) => Plan::of(stored, &now, || (self.jitter)()),
            End::Nothing | End::NeedsLogin | End::Later(_) | End::Failed(_) => None,
        };
        let mut state = self.state();
        let agenda = &mut state.agenda;
        let next_in_line = agenda.ended(&key.provider);
        if let Some(started) = flight {
            agenda.flew(job, started);
        }
        let mut given_up = None;
        if agenda.expects(job) {
            match end {
                End::Renewed(_) | End::Found(_) => match plan {
                    // A version that was due when it came is no success: a provider whose answers have always expired
                    // already is given up like any other that fails.
                    Some(plan) if matches!(end, End::Found(_)) && plan.is_due(&now) => {
                        agenda.arm_again(key, plan, &now);
                    }
                    Some(plan) => agenda.arm(key, plan, &now),
                    None => agenda.cancel(key),
                },
                End::Nothing => agenda.cancel(key),
                End::NeedsLogin => agenda.needs_login(job),
                End::Later(pause) => {
                    agenda.postpone(job, now.boot.saturating_add(LEAST_PAUSE.max(*pause)), &now);
                }
                End::Failed(retry_after) => {
                    if let Failed::GivenUp(failures) = agenda.failed(job, *retry_after, &now) {
                        given_up = Some(failures);
                    }
                }
            }
        }
        self.rouse(&mut state);
        drop(state);
        if let Some(failures) = given_up {
            tracing::warn!(entry = %key, failures, "renewal was given up; the next use tries again");
        }
        if next_in_line {
            self.wake.notify_one();
        }
    }
}
