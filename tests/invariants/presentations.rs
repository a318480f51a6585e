//! The rules about presentations, and the provider's own book.

use std::time::Duration;

use credbroker::oauth::Outcome;

use crate::{
    authority::{DEFAULT_LIFETIME, Reply},
    case::{Answer, Kind},
    facts::{Access, Family, Lost, Presentation, Received, Refresh, World},
};

impl World {
    /// A login at the provider: the first tokens of a new family.
    pub(crate) fn logs_in(&self, entry: usize) -> (String, String) {
        let mut state = self.state();
        let family = state.families.len();
        let refresh = format!("rt-{family}-0");
        state.families.push(Family {
            current: refresh.clone(),
            revoked: false,
        });
        state.refresh.insert(
            refresh.clone(),
            Refresh {
                entry,
                family,
                ..Refresh::default()
            },
        );
        (format!("at-{family}-0"), refresh)
    }

    /// A process sends a refresh token. Whether it may, and what will become of it.
    pub(crate) fn presents(&self, process: usize, refresh: &str) -> (usize, Answer) {
        self.tell(format!("process {process} presents {refresh}"));
        for broken in self.may_present(process, refresh) {
            self.wrong(format!("{refresh}: {broken}"));
        }
        let mut state = self.state();
        let number = state.presentations.len();
        let answer = self
            .case
            .answers
            .get(number)
            .copied()
            .filter(|_| !state.calm)
            .unwrap_or_default();
        let entry = state.refresh.get(refresh).map_or(0, |known| known.entry);
        let guard = state.guard_of(process, entry).unwrap_or(usize::MAX);
        state.presentations.push(Presentation {
            process,
            guard,
            refresh: refresh.to_owned(),
            open: true,
            successor: None,
        });
        state.refresh.entry(refresh.to_owned()).or_default().open = Some(number);
        (number, answer)
    }

    /// Which rules it breaks to present this refresh token now.
    fn may_present(&self, process: usize, refresh: &str) -> Vec<String> {
        let state = self.state();
        let Some(known) = state.refresh.get(refresh) else {
            return vec!["nobody issued it".into()];
        };
        let mut broken: Vec<String> = Vec::new();
        let mut rule = |kept: bool, otherwise: &str| {
            if !kept {
                broken.push(otherwise.to_owned());
            }
        };
        rule(
            !state.processes[process].stopping,
            "presented by a broker that is stopping",
        );
        rule(known.open.is_none(), "presented twice at once");
        let receiver = known.received_by.filter(|receiver| state.processes[*receiver].alive);
        rule(
            known.brought_back || receiver.is_none(),
            "presented after the answer to it was received",
        );
        rule(
            known.brought_back || !known.succeeded,
            "presented after its successor was stored",
        );
        let refused = known.refused.filter(|told| state.processes[*told].alive);
        rule(refused.is_none(), "presented after it was refused");
        rule(
            self.case.may_repeat || known.lost.is_empty(),
            "repeated although the provider's configuration forbids it",
        );
        let entry = &state.entries[known.entry];
        match &entry.stored {
            None => rule(false, "presented although the entry is gone"),
            Some(stored) => {
                let same = stored.tokens.refresh_token.as_ref();
                rule(
                    same.is_some_and(|same| is(same, refresh)),
                    "presented although another one is stored",
                );
                let intent = stored.intent.as_ref();
                rule(
                    intent.is_some_and(|intent| intent.is_about(&refresh.into())),
                    "presented without a durable intent",
                );
            }
        }
        let Some(guard) = state.guard_of(process, known.entry) else {
            rule(false, "presented without the entry's lock");
            return broken;
        };
        let newer = state.guards[&guard].found_newer && self.usable(entry.stored.as_deref());
        rule(!newer, "presented although somebody else had refreshed meanwhile");
        rule(
            entry.intent_of == Some(guard),
            "presented under the intent of another flight",
        );
        if known.brought_back {
            // With the user, the counting begins anew.
            return broken;
        }
        let mine: Vec<_> = known.lost.iter().filter(|lost| lost.process == process).collect();
        if let Some(last) = known.lost.last()
            && last.guard == guard
        {
            rule(
                !last.left_usable,
                "repeated at once although a usable access token was left",
            );
            rule(known.lost.len() < 2, "repeated at once for a second time");
        } else if let [_, .., last] = &*mine {
            let mut flights: Vec<_> = mine.iter().map(|lost| lost.guard).collect();
            flights.dedup();
            let pause = timing_backoff(flights.len());
            let passed = self.time.truth() - last.ended;
            rule(
                passed + Duration::from_millis(1) >= pause,
                &format!("repeated after {passed:?}, the backoff is {pause:?}"),
            );
        }
        broken
    }

    /// The provider processes a request, sooner or later.
    pub(crate) fn processes(&self, number: usize, answer: Answer) -> Reply {
        let truth = self.time.truth();
        let boots = self.time.boots();
        let mut guard = self.state();
        let state = &mut *guard;
        let refresh = state.presentations[number].refresh.clone();
        let Some(known) = state.refresh.get_mut(&refresh) else {
            return Reply::InvalidGrant;
        };
        let family = &mut state.families[known.family];
        if family.revoked {
            drop(guard);
            self.tell(format!("the provider refuses {refresh}: its family is revoked"));
            return Reply::InvalidGrant;
        }
        if known.spent_by.is_some() {
            family.revoked = true;
            drop(guard);
            self.tell(format!("the provider sees {refresh} again and revokes its family"));
            return Reply::InvalidGrant;
        }
        let count = state.access.len();
        let access = format!("at-{}-{}", known.family, count + 1);
        let (family_number, entry) = (known.family, known.entry);
        let successor = match answer.kind {
            Kind::Keeps => None,
            _ => Some(Refresh {
                entry,
                family: family_number,
                number: known.number + 1,
                ..Refresh::default()
            }),
        };
        let equal = answer.kind == Kind::Equal;
        let mut issued = None;
        if let Some(successor) = successor {
            known.spent_by = Some(number);
            let name = if equal {
                access.clone()
            } else {
                format!("rt-{family_number}-{}", successor.number)
            };
            family.current.clone_from(&name);
            state.refresh.insert(name.clone(), successor);
            issued = Some(name);
        }
        state.presentations[number].successor.clone_from(&issued);
        let lifetime = answer.lifetime.read().unwrap_or(DEFAULT_LIFETIME);
        state.access.insert(
            access.clone(),
            Access {
                issued: Some((truth, boots, lifetime)),
                ..Access::default()
            },
        );
        drop(guard);
        self.tell(format!("the provider takes {refresh} and issues {access}, {issued:?}"));
        Reply::Issued {
            access,
            refresh: issued,
            equal,
        }
    }

    /// The connection of a presentation is closed, and this is what its process saw.
    pub(crate) fn ends(&self, number: usize, outcome: &Outcome) {
        let truth = self.time.truth();
        let mut guard = self.state();
        let state = &mut *guard;
        let presentation = &mut state.presentations[number];
        presentation.open = false;
        let known = state.refresh.get_mut(&presentation.refresh).unwrap();
        known.open = None;
        let entry = &state.entries[known.entry];
        let left_usable = self.usable(entry.stored.as_deref());
        match outcome {
            Outcome::Answered(_) => {
                known.lost.clear();
                if let Some(successor) = &presentation.successor {
                    known.received_by = Some(presentation.process);
                    state.received.push(Received {
                        process: presentation.process,
                        entry: known.entry,
                        refresh: successor.clone(),
                        changes: entry.changes(),
                        late: entry.stored.is_none(),
                    });
                }
            }
            Outcome::Refused(_) => {
                known.refused = Some(presentation.process);
            }
            Outcome::Rejected(_) => known.lost.clear(),
            Outcome::NotProcessed { .. } => {}
            Outcome::Ambiguous(_) => {
                let (process, held) = (presentation.process, presentation.guard);
                known.lost.push(Lost {
                    process,
                    guard: held,
                    ended: truth,
                    left_usable,
                });
                if let Some(held) = state.guards.get_mut(&held) {
                    held.lost = true;
                }
            }
        }
        let line = format!(
            "process {} gets to {}: {}",
            presentation.process,
            presentation.refresh,
            word(outcome)
        );
        drop(guard);
        self.tell(line);
    }

    /// A process takes a token back.
    pub(crate) fn revokes(&self, token: &str) {
        self.tell(format!("{token} is revoked"));
        let mut guard = self.state();
        let state = &mut *guard;
        state.revoked.insert(token.to_owned());
        if let Some(known) = state.refresh.get(token) {
            state.families[known.family].revoked = true;
        }
    }
}

/// The pause that section 9 wants after so many failures in a row.
fn timing_backoff(failures: usize) -> Duration {
    // Not the broker's own function: it is under test.
    let doubled = 30_u64 << (failures.max(1) - 1).min(10);
    Duration::from_secs(doubled.min(1800))
}

pub(crate) fn is(secret: &secrecy::SecretString, text: &str) -> bool {
    use secrecy::ExposeSecret as _;
    secret.expose_secret() == text
}

fn word(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Answered(_) => "new tokens".to_owned(),
        Outcome::Refused(_) => "invalid_grant".to_owned(),
        Outcome::Rejected(seen) | Outcome::Ambiguous(seen) => seen.to_string(),
        Outcome::NotProcessed { retry_after, .. } => format!("not now ({retry_after:?})"),
    }
}
