//! The rules about what is stored, and about the locks under which it is.

use std::{sync::Arc, time::Duration};

use credbroker::store::StoredTokens;
use secrecy::ExposeSecret as _;

use crate::facts::{Flight, Guard, Slot, World};

/// How long an intent holds.
const INTENT: Duration = Duration::from_secs(90);
const LONGEST_COOLDOWN: Duration = Duration::from_secs(30);

impl World {
    pub(crate) fn flight_begins(&self, process: usize, entry: usize) {
        let truth = self.time.truth();
        let mut state = self.state();
        let version = state.entries[entry].version;
        let unsaved = state.guards.values();
        let unsaved = unsaved.filter(|guard| guard.process == process && guard.entry == entry);
        let unsaved = unsaved.filter(|guard| guard.flight && guard.unsaved).count() > 0;
        let last = state.flights.insert(
            (process, entry),
            Flight {
                started: truth,
                version,
                cooldown: None,
            },
        );
        drop(state);
        self.tell(format!("process {process} begins a flight for entry {entry}"));
        if unsaved {
            self.wrong("a flight starts although the last one's tokens are not saved");
        }
        if let Some(Flight {
            started,
            cooldown: Some(cooldown),
            ..
        }) = last
        {
            let passed = truth - started;
            if passed + Duration::from_millis(1) < cooldown {
                self.wrong(format!(
                    "a flight starts {passed:?} after the last one, the cooldown is {cooldown:?}"
                ));
            }
        }
    }

    /// A flight has given its lock back, or did not get it.
    pub(crate) fn flight_ends(&self, process: usize, entry: usize, lifetime: Option<Option<Duration>>) {
        let mut guard = self.state();
        let state = &mut *guard;
        let stored = state.entries[entry].stored.as_ref();
        let Some(stored) = stored else {
            // Nothing is remembered of what is not there.
            state.flights.remove(&(process, entry));
            return;
        };
        let lifetime = lifetime.unwrap_or_else(|| stored.tokens.expiry.as_ref().map(|expiry| expiry.lifetime));
        if let Some(flight) = state.flights.get_mut(&(process, entry)) {
            flight.cooldown = Some(lifetime.map_or(LONGEST_COOLDOWN, |lifetime| LONGEST_COOLDOWN.min(lifetime / 4)));
        }
    }

    pub(crate) fn locked(&self, process: usize, entry: usize, flight: bool, slot: &Slot) -> usize {
        let mut state = self.state();
        let other = state.guards.values().any(|guard| guard.entry == entry);
        let it = &state.entries[entry];
        let knew = state.flights.get(&(process, entry)).map(|flight| flight.version);
        let found_newer = flight && knew != Some(it.version) && self.usable(it.stored.as_deref());
        let number = state.guards_ever;
        state.guards_ever += 1;
        state.guards.insert(
            number,
            Guard {
                process,
                entry,
                flight,
                wrote_intent: false,
                put_failed: false,
                unsaved: false,
                lost: false,
                found_newer,
                lifetime: None,
            },
        );
        let slots = &mut state.processes[process].slots;
        slots.retain(|slot| slot.lock().unwrap().is_some());
        slots.push(Arc::clone(slot));
        drop(state);
        if other {
            self.wrong(format!("the lock of entry {entry} is held twice"));
        }
        number
    }

    pub(crate) fn unlocked(&self, number: usize) {
        // Of a dead process nothing is left.
        let Some(guard) = self.state().guards.remove(&number) else {
            return;
        };
        if guard.flight {
            self.flight_ends(guard.process, guard.entry, guard.lifetime);
        }
        let left = self.state().entries[guard.entry].intent_of == Some(number);
        if left && guard.wrote_intent && !guard.put_failed && !guard.lost {
            self.wrong("an intent was left behind although the outcome is known");
        }
    }

    /// A process is about to write this. Tells whether it is an intent and nothing else.
    pub(crate) fn judge_put(&self, process: usize, number: usize, entry: usize, record: &Arc<StoredTokens>) -> bool {
        for broken in self.may_put(process, number, entry, record) {
            self.wrong(format!("entry {entry}: {broken}"));
        }
        let mut guard = self.state();
        let state = &mut *guard;
        let access = record.tokens.access_token.expose_secret();
        state.versions += 1;
        let version = state.versions;
        let known = state.access.entry(access.to_owned()).or_default();
        if known.version == 0 {
            known.version = version;
        }
        known.expiry.clone_from(&record.tokens.expiry);
        let importing = state.entries[entry].importing.contains(access);
        let held = state.guards.get_mut(&number);
        if let Some(held) = held.filter(|_| !importing && !access.starts_with("saved")) {
            held.lifetime = Some(record.tokens.expiry.as_ref().map(|expiry| expiry.lifetime));
        }
        let before = state.entries[entry].stored.as_ref();
        before.is_some_and(|before| before.revision == record.revision && record.intent.is_some())
    }

    /// Which rules it breaks to write this.
    fn may_put(&self, process: usize, number: usize, entry: usize, record: &StoredTokens) -> Vec<String> {
        let state = self.state();
        let it = &state.entries[entry];
        let access = record.tokens.access_token.expose_secret();
        let importing = it.importing.contains(access);
        let mut broken = Vec::new();
        let mut rule = |kept: bool, otherwise: String| {
            if !kept {
                broken.push(otherwise);
            }
        };
        rule(
            state.access.contains_key(access),
            format!("{access} is stored, and nobody issued it"),
        );
        let new = record.tokens.refresh_token.as_ref().map(|token| token.expose_secret());
        let Some(before) = &it.stored else {
            rule(
                importing || it.half_removed,
                format!("{access} is written back after a logout"),
            );
            return broken;
        };
        let old = before.tokens.refresh_token.as_ref().map(|token| token.expose_secret());
        match (old, new) {
            _ if importing || it.half_imported || old == new => {}
            (Some(old), Some(new)) => {
                let received = state.presentations.iter().any(|presentation| {
                    presentation.process == process
                        && !presentation.open
                        && presentation.refresh == old
                        && presentation.successor.as_deref() == Some(new)
                });
                rule(
                    received,
                    format!("{old} is replaced by {new}, which this process did not get for it"),
                );
            }
            (Some(old), None) => {
                let known = &state.refresh[old];
                let given_up = !self.case.may_repeat && (!known.lost.is_empty() || before.intent.is_some());
                rule(
                    known.refused.is_some() || given_up,
                    format!("{old} is cleared although nobody refused it"),
                );
            }
            (None, _) => rule(false, "a refresh token appears from nowhere".into()),
        }
        let Some(refresh) = new else { return broken };
        let lost = !state.refresh[refresh].lost.is_empty();
        let prior = before.intent.as_ref().filter(|intent| intent.is_about(&refresh.into()));
        match (&record.intent, prior) {
            (Some(intent), prior) if prior != Some(intent) => {
                rule(
                    intent.is_about(&refresh.into()),
                    "the intent is about another refresh token".into(),
                );
                let now = credbroker::clock::Clock::now(&self.time);
                let holds = prior.filter(|_| it.intent_of != Some(number)).is_some_and(|prior| {
                    let wall = Duration::try_from(now.wall.duration_since(prior.written.wall)).unwrap_or_default();
                    prior.written.boot_id == now.boot_id && now.boot - prior.written.boot < INTENT && wall < INTENT
                });
                rule(
                    !holds,
                    "the intent of another flight is replaced before it has passed".into(),
                );
            }
            (None, Some(_)) => {
                // A flight whose own process lives may have failed to drop it.
                rule(
                    it.intent_of == Some(number) || it.intent_by == Some(process),
                    "the intent of another process's flight is dropped".into(),
                );
                rule(!lost, "an intent is dropped although nobody knows the outcome".into());
            }
            _ => {}
        }
        broken
    }

    /// It is durable.
    pub(crate) fn put(&self, number: usize, entry: usize, record: &Arc<StoredTokens>) {
        let mut guard = self.state();
        let state = &mut *guard;
        if let Some(held) = state.guards.get_mut(&number) {
            held.unsaved = false;
        }
        let access = record.tokens.access_token.expose_secret();
        let it = &mut state.entries[entry];
        let known = state.access.get_mut(access).unwrap();
        known.durable = true;
        it.version = known.version;
        it.half_removed = false;
        it.half_imported = false;
        let refresh = record.tokens.refresh_token.as_ref().map(|token| token.expose_secret());
        if it.importing.contains(access) {
            it.imports += 1;
            if let Some(known) = refresh.and_then(|refresh| state.refresh.get_mut(refresh))
                && record.intent.is_none()
            {
                known.lost.clear();
                known.refused = None;
            }
            if let Some(held) = state.guards.get(&number) {
                state.flights.remove(&(held.process, entry));
            }
        }
        let before = it.stored.replace(Arc::clone(record));
        let prior = before.as_ref().and_then(|before| before.intent.as_ref());
        match &record.intent {
            None => it.intent_of = None,
            Some(intent) if prior != Some(intent) => {
                let others = prior.is_some() && it.intent_of != Some(number);
                it.intent_of = Some(number);
                it.intent_by = state.guards.get(&number).map(|held| held.process);
                if let Some(held) = state.guards.get_mut(&number) {
                    held.wrote_intent = true;
                    // What an earlier flight left unknown stays unknown.
                    held.lost |= others;
                }
            }
            Some(_) => {}
        }
        if let Some(refresh) = refresh {
            let spent = state
                .presentations
                .iter()
                .find(|one| one.successor.as_deref() == Some(refresh));
            if let Some(spent) = spent {
                state.refresh.get_mut(&spent.refresh).unwrap().succeeded = true;
            }
        }
        let intent = if record.intent.is_some() {
            ", with an intent"
        } else {
            ""
        };
        let line = format!("entry {entry} is stored: {access}, {refresh:?}{intent}");
        drop(guard);
        self.tell(line);
    }

    /// A process learns that it could not write this.
    pub(crate) fn not_put(&self, process: usize, number: usize, record: &StoredTokens) {
        let mut guard = self.state();
        let state = &mut *guard;
        let access = record.tokens.access_token.expose_secret();
        if let Some(held) = state.guards.get_mut(&number) {
            held.put_failed = true;
            held.unsaved = true;
            let it = &mut state.entries[held.entry];
            it.half_imported = it.importing.contains(access) && state.access[access].durable;
            if held.flight {
                state.access.get_mut(access).unwrap().unsaved_in.insert(process);
            }
        }
        drop(guard);
        self.tell(format!("process {process} cannot store {access}"));
    }

    pub(crate) fn removed(&self, process: usize, entry: usize) {
        let mut guard = self.state();
        let state = &mut *guard;
        let it = &mut state.entries[entry];
        if it.stored.take().is_some() {
            it.removals += 1;
        }
        it.version = 0;
        it.intent_of = None;
        it.removed_at = state.versions;
        state.flights.remove(&(process, entry));
        drop(guard);
        self.tell(format!("process {process} removes entry {entry}"));
    }

    pub(crate) fn half_removed(&self, entry: usize) {
        self.state().entries[entry].half_removed = true;
    }
}
