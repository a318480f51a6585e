//! What is armed, and in which order it comes due. Plain state: no task, no clock, no chance.
//!
//! There is one queue, in order of boot time. What is due by the wall clock has its place where that moment is by boot
//! time as things stand; when the wall clock moves against it, [`Agenda::reorder`] finds the places anew.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use crate::{
    broker::timing::{self, Due, Interest},
    clock::Now,
    credential::{EntryKey, Name, Revision},
    store::StoredTokens,
};

/// How many renewals of one provider are asked for at once. More than the coordinator lets fly, so that flights never
/// wait for the agenda, also when many of them hang; and few enough that a hundred thousand which come due at once, after
/// a suspend, are not a hundred thousand tasks.
const AT_ONCE: usize = 128;

/// What is to be renewed, and when: made of a token set, before the agenda is touched.
pub(super) struct Plan {
    revision: Revision,
    lifetime: Duration,
    due: Due,
}

impl Plan {
    /// `None`: there is nothing to renew, or nothing to renew it with.
    pub(super) fn of(stored: &StoredTokens, now: &Now, fraction: impl FnOnce() -> f64) -> Option<Self> {
        let expiry = stored.tokens.expiry.as_ref()?;
        stored.tokens.refresh_token.as_ref()?;
        Some(Self {
            revision: stored.revision.clone(),
            lifetime: expiry.lifetime,
            due: timing::due(expiry, now, fraction()),
        })
    }

    pub(super) fn is_due(&self, now: &Now) -> bool {
        self.due.wait(now).is_zero()
    }
}

/// A renewal that is due: the entry, and the version that it was armed for.
#[derive(Clone)]
pub(super) struct Job {
    pub(super) key: Arc<EntryKey>,
    pub(super) revision: Revision,
    ticket: u64,
}

/// What the agenda knew of an entry that was handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// It is not armed for this version.
    No,
    /// It is armed, or only a login helps.
    Armed,
}

/// What became of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failed {
    /// Tried again after this pause.
    Again(Duration),
    /// Given up after so many in a row.
    GivenUp(u32),
    /// Nobody is interested any more.
    Forgotten,
}

/// What `status` shows.
pub(super) struct Outlook {
    /// By boot time. `None`: there will be no renewal.
    pub(super) due: Option<Duration>,
    pub(super) failures: u32,
    pub(super) under_way: bool,
}

/// The entries, their order, and who waits for a turn.
#[derive(Default)]
pub(super) struct Agenda {
    entries: HashMap<Arc<EntryKey>, Entry>,
    /// Entries that wait for their moment, by boot time; the ticket tells those of one moment apart.
    queue: BTreeMap<(Duration, u64), Arc<EntryKey>>,
    /// Entries that are due, by provider, and how many of each are under way.
    lines: HashMap<Name, Line>,
    watched: HashMap<EntryKey, usize>,
    armed: usize,
    last_ticket: u64,
}

struct Entry {
    revision: Revision,
    lifetime: Duration,
    due: Due,
    /// By boot time: the end of a cooldown or of a pause after a failure.
    not_before: Duration,
    /// The same if somebody used the token; `None`: no difference.
    not_before_if_used: Option<Duration>,
    /// The place in the queue.
    at: Duration,
    /// New with every place: an old one is worth nothing.
    ticket: u64,
    /// The last use and the start of the last flight, by boot time.
    used: Duration,
    flight: Option<Duration>,
    failures: u32,
    phase: Phase,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// In the queue.
    Waiting,
    /// Due, in its provider's line.
    InLine,
    UnderWay,
    /// Until the next use.
    GivenUp,
    /// Until another version comes.
    NeedsLogin,
}

impl Phase {
    fn is_armed(self) -> bool {
        matches!(self, Self::Waiting | Self::InLine | Self::UnderWay)
    }
}

#[derive(Default)]
struct Line {
    under_way: usize,
    waiting: VecDeque<(Arc<EntryKey>, u64)>,
}

impl Agenda {
    /// How many entries are armed.
    pub(super) fn armed(&self) -> usize {
        self.armed
    }

    /// The next moment that something is due, by boot time.
    pub(super) fn next(&self) -> Option<Duration> {
        self.queue.first_key_value().map(|((at, _), _)| *at)
    }

    /// Marks a use of this version.
    pub(super) fn used(&mut self, key: &EntryKey, revision: &Revision, now: &Now) -> Known {
        let Some(entry) = self.entries.get_mut(key).filter(|entry| entry.revision == *revision) else {
            return Known::No;
        };
        entry.used = now.boot;
        if entry.phase == Phase::GivenUp || entry.not_before_if_used.is_some() {
            self.hurry(key, now);
        }
        Known::Armed
    }

    /// Arms an entry for another version than before. Its failures are forgotten, its last flight is not.
    pub(super) fn arm(&mut self, key: &EntryKey, plan: Plan, now: &Now) {
        let Plan {
            revision,
            lifetime,
            due,
        } = plan;
        let known = self.entries.get_key_value(key).map(|(key, _)| Arc::clone(key));
        let key = known.unwrap_or_else(|| Arc::new(key.clone()));
        self.dequeue(&key);
        let before = self.entries.get(&key);
        let entry = Entry {
            revision,
            lifetime,
            due,
            not_before: Duration::ZERO,
            not_before_if_used: None,
            at: Duration::ZERO,
            ticket: 0,
            used: before.map_or(now.boot, |entry| entry.used),
            flight: before.and_then(|entry| entry.flight),
            failures: 0,
            phase: before.map_or(Phase::GivenUp, |entry| entry.phase),
        };
        self.entries.insert(Arc::clone(&key), entry);
        self.start_over(&key, now);
    }

    /// Arms an entry for another version than before. Its failures still count.
    pub(super) fn arm_again(&mut self, key: &EntryKey, plan: Plan, now: &Now) {
        let failures = self.entries.get(key).map_or(0, |entry| entry.failures);
        self.arm(key, plan, now);
        if let Some(entry) = self.entries.get_mut(key) {
            entry.failures = failures;
        }
    }

    /// Forgets an entry. A renewal of it that is under way changes nothing any more.
    pub(super) fn cancel(&mut self, key: &EntryKey) {
        self.dequeue(key);
        if self.entries.remove(key).is_some_and(|entry| entry.phase.is_armed()) {
            self.armed -= 1;
        }
    }

    /// Forgets all entries; those who watch stay.
    pub(super) fn cancel_all(&mut self) {
        self.entries = HashMap::new();
        self.queue = BTreeMap::new();
        self.armed = 0;
        for line in self.lines.values_mut() {
            line.waiting = VecDeque::new();
        }
        self.lines.retain(|_, line| line.under_way > 0);
    }

    /// Somebody waits for the entry's next token, and never is it given up.
    pub(super) fn watch(&mut self, key: &EntryKey, now: &Now) {
        *self.watched.entry(key.clone()).or_default() += 1;
        self.hurry(key, now);
    }

    /// Somebody waits no more. That was a use.
    pub(super) fn unwatch(&mut self, key: &EntryKey, now: &Now) {
        if let Some(watching) = self.watched.get_mut(key) {
            *watching -= 1;
            if *watching == 0 {
                self.watched.remove(key);
            }
        }
        if let Some(entry) = self.entries.get_mut(key) {
            entry.used = now.boot;
        }
    }

    /// Moves up to `at_most` entries that are due out of the queue into their provider's line, and returns those whose turn
    /// it is.
    pub(super) fn take_due(&mut self, now: &Now, at_most: usize) -> Vec<Job> {
        for _ in 0..at_most {
            let Some(first) = self.queue.first_entry().filter(|first| first.key().0 <= now.boot) else {
                break;
            };
            let key = first.remove();
            let Some(entry) = self.entries.get_mut(&key) else {
                continue;
            };
            entry.phase = Phase::InLine;
            let line = self.lines.entry(key.provider.clone()).or_default();
            line.waiting.push_back((key, entry.ticket));
        }
        let Self { lines, entries, .. } = self;
        let mut jobs = Vec::new();
        for line in lines.values_mut() {
            while let Some(job) = line.next(entries) {
                jobs.push(job);
            }
        }
        lines.retain(|_, line| line.under_way > 0);
        jobs
    }

    /// A renewal of this provider has ended. `true`: it is somebody else's turn.
    pub(super) fn ended(&mut self, provider: &Name) -> bool {
        let Some(line) = self.lines.get_mut(provider) else {
            return false;
        };
        line.under_way = line.under_way.saturating_sub(1);
        !line.waiting.is_empty()
    }

    /// A flight for this entry began.
    pub(super) fn flew(&mut self, job: &Job, started: Duration) {
        if let Some(entry) = self.entries.get_mut(&job.key) {
            entry.flight = entry.flight.max(Some(started));
        }
    }

    /// Whether this is still the renewal that the entry waits for: it was not cancelled, nor armed anew.
    pub(super) fn expects(&self, job: &Job) -> bool {
        let entry = self.entries.get(&job.key);
        entry.is_some_and(|entry| entry.ticket == job.ticket && entry.phase == Phase::UnderWay)
    }

    /// Looks at the entry again at this moment, by boot time; nothing failed.
    pub(super) fn postpone(&mut self, job: &Job, until: Duration, now: &Now) {
        if let Some(entry) = self.entries.get_mut(&job.key) {
            entry.not_before = until;
            entry.not_before_if_used = None;
            self.enqueue(&job.key, now);
        }
    }

    /// Counts a failure, and arms the next try: not before `retry_after` has passed.
    pub(super) fn failed(&mut self, job: &Job, retry_after: Duration, now: &Now) -> Failed {
        let watched = self.watched.contains_key(&*job.key);
        let Some(entry) = self.entries.get_mut(&job.key) else {
            return Failed::Forgotten;
        };
        entry.failures = entry.failures.saturating_add(1);
        let interest = if watched {
            Interest::Watched
        } else if now.boot.saturating_sub(entry.used) <= entry.lifetime {
            Interest::Used
        } else {
            Interest::Unused
        };
        let pause = |interest| timing::retry(entry.failures, entry.lifetime, interest).map(|p| p.max(retry_after));
        let Some(again) = pause(interest) else {
            entry.phase = Phase::GivenUp;
            self.armed -= 1;
            return Failed::GivenUp(entry.failures);
        };
        let if_used = pause(Interest::Used).filter(|if_used| *if_used < again);
        entry.not_before = now.boot.saturating_add(again);
        entry.not_before_if_used = if_used.map(|pause| now.boot.saturating_add(pause));
        self.enqueue(&job.key, now);
        Failed::Again(again)
    }

    /// Only a login helps: nothing more until another version comes.
    pub(super) fn needs_login(&mut self, job: &Job) {
        if let Some(entry) = self.entries.get_mut(&job.key) {
            entry.failures = entry.failures.saturating_add(1);
            entry.phase = Phase::NeedsLogin;
            self.armed -= 1;
        }
    }

    /// Finds every place anew, because the wall clock has moved against boot time.
    pub(super) fn reorder(&mut self, now: &Now) {
        for ((_, ticket), key) in std::mem::take(&mut self.queue) {
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.at = entry.moment(now);
                self.queue.insert((entry.at, ticket), key);
            }
        }
    }

    /// Forgets failures and their pauses, and finds every place anew. What was given up stays so until it is used.
    pub(super) fn resume(&mut self, now: &Now) {
        for entry in self.entries.values_mut().filter(|entry| entry.phase.is_armed()) {
            entry.forgive();
        }
        self.reorder(now);
    }

    /// What is known of the entry's next renewal.
    pub(super) fn outlook(&self, key: &EntryKey) -> Option<Outlook> {
        let entry = self.entries.get(key)?;
        Some(Outlook {
            due: entry.phase.is_armed().then_some(entry.at),
            failures: entry.failures,
            under_way: entry.phase == Phase::UnderWay,
        })
    }

    /// A use: what was given up is tried again, and a pause that is so long because nobody needed the token is cut.
    fn hurry(&mut self, key: &EntryKey, now: &Now) {
        let Some((key, entry)) = self.entries.get_key_value(key) else {
            return;
        };
        let (key, phase, sooner) = (Arc::clone(key), entry.phase, entry.not_before_if_used);
        match (phase, sooner) {
            (Phase::GivenUp, _) => self.start_over(&key, now),
            (Phase::Waiting, Some(sooner)) => {
                self.dequeue(&key);
                if let Some(entry) = self.entries.get_mut(&key) {
                    entry.not_before = sooner;
                    entry.not_before_if_used = None;
                }
                self.enqueue(&key, now);
            }
            _ => {}
        }
    }

    /// Arms an entry without a failure, whatever it was before.
    fn start_over(&mut self, key: &Arc<EntryKey>, now: &Now) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.forgive();
            if !entry.phase.is_armed() {
                self.armed += 1;
            }
            self.enqueue(key, now);
        }
    }

    /// Gives an entry that is not in the queue its place there.
    fn enqueue(&mut self, key: &Arc<EntryKey>, now: &Now) {
        self.last_ticket += 1;
        if let Some(entry) = self.entries.get_mut(key) {
            entry.ticket = self.last_ticket;
            entry.phase = Phase::Waiting;
            entry.at = entry.moment(now);
            self.queue.insert((entry.at, entry.ticket), Arc::clone(key));
        }
    }

    fn dequeue(&mut self, key: &EntryKey) {
        if let Some(entry) = self.entries.get(key) {
            self.queue.remove(&(entry.at, entry.ticket));
        }
    }
}

impl Line {
    /// Whose turn it is, if it is anybody's.
    fn next(&mut self, entries: &mut HashMap<Arc<EntryKey>, Entry>) -> Option<Job> {
        while self.under_way < AT_ONCE {
            let (key, ticket) = self.waiting.pop_front()?;
            let entry = entries.get_mut(&key);
            // Others were cancelled or armed anew since.
            if let Some(entry) = entry.filter(|entry| entry.ticket == ticket && entry.phase == Phase::InLine) {
                entry.phase = Phase::UnderWay;
                self.under_way += 1;
                let revision = entry.revision.clone();
                return Some(Job { key, revision, ticket });
            }
        }
        None
    }
}

impl Entry {
    /// When to look at it, by boot time.
    fn moment(&self, now: &Now) -> Duration {
        now.boot.saturating_add(self.due.wait(now)).max(self.not_before)
    }

    /// No failure, and no pause but the cooldown.
    fn forgive(&mut self) {
        self.failures = 0;
        self.not_before_if_used = None;
        self.not_before = self.flight.map_or(Duration::ZERO, |started| {
            started.saturating_add(timing::cooldown(Some(self.lifetime)))
        });
    }
}
