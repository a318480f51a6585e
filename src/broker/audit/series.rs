//! Whether the files of a directory go together: a file that is closed for its size names the next one, and that one says with
//! which MAC the one before ended.

use std::collections::{BTreeMap, BTreeSet};

use super::verify::{Checked, End, SealedBy};

/// A file that was read.
#[derive(Debug, Clone)]
pub struct Found {
    /// Its name where it was found.
    pub name: String,
    /// Who has it locked, as its broker has for as long as it writes.
    pub lock: Lock,
    /// What is in it.
    pub checked: Checked,
}

impl Found {
    /// The name that others know it by.
    fn own_name(&self) -> &str {
        self.checked.name.as_deref().unwrap_or(&self.name)
    }
}

/// Who holds the lock on a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lock {
    /// Nobody: its broker has ended.
    Free,
    /// The broker that began it: more is to come.
    Broker,
    /// This process, which is not the broker that began it: that one would have kept it from taking the lock.
    Other(u32),
    /// Somebody, and it cannot be told who.
    Unknown,
}

/// What a file is worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is as it was written, from its first to its closing line.
    Whole,
    /// It is as it was written, and its broker still writes.
    Running,
    /// It is as it was written, but there is no closing line, and whether its broker still writes cannot be told.
    Held,
    /// It has no key, but one that has a key goes on from it, and knows how it ended.
    Vouched {
        /// That one.
        by: String,
    },
    /// What there is was written so, but there is no closing line: the broker was killed, or lines were cut.
    Cut,
    /// It is not as it was written.
    Tampered(Vec<String>),
    /// It has no key: damage would show, tampering would not.
    Unkeyed,
    /// Its key is not at hand.
    OtherKey {
        /// The name of its key.
        id: String,
    },
}

/// What is said of a file.
#[derive(Debug, Clone)]
pub struct Judged {
    /// The file.
    pub found: Found,
    /// What it is worth.
    pub verdict: Verdict,
    /// What else there is to know.
    pub notes: Vec<String>,
}

/// Puts files in order: by name, which begins with a time, but those of a row in the order in which they go on from each
/// other, because clocks are set. `names` has a file's own name, and that of the one that it goes on from.
pub fn in_order<F>(files: Vec<F>, names: impl Fn(&F) -> (String, Option<String>)) -> Vec<F> {
    let mut waiting: BTreeMap<(String, usize), (F, Option<String>)> = BTreeMap::new();
    for (at, file) in files.into_iter().enumerate() {
        let (name, previous) = names(&file);
        waiting.insert((name, at), (file, previous));
    }
    let known: BTreeSet<String> = waiting.keys().map(|(name, _)| name.clone()).collect();
    let mut after: BTreeMap<String, Vec<(String, usize)>> = BTreeMap::new();
    let mut first = Vec::new();
    for (key, (_, previous)) in &waiting {
        match previous.as_ref().filter(|previous| known.contains(*previous)) {
            Some(previous) => after.entry(previous.clone()).or_default().push(key.clone()),
            None => first.push(key.clone()),
        }
    }
    // Those that go on from each other in a circle come last: nobody wrote them so.
    let circles: Vec<(String, usize)> = waiting.keys().cloned().collect();
    let mut ordered = Vec::new();
    let mut next: Vec<(String, usize)> = circles.into_iter().rev().chain(first.into_iter().rev()).collect();
    while let Some(key) = next.pop() {
        if let Some((file, _)) = waiting.remove(&key) {
            ordered.push(file);
            next.extend(after.remove(&key.0).unwrap_or_default().into_iter().rev());
        }
    }
    ordered
}

/// Judges a file by itself: what it says of others is not looked at.
#[must_use]
pub fn judge(found: Found) -> Judged {
    let faults = found.checked.faults.iter().map(ToString::to_string).collect();
    let mut notes = Vec::new();
    if found.own_name() != found.name {
        notes.push(format!("it was written as {}", found.own_name()));
    }
    decide(found, faults, None, notes)
}

/// Judges all files of a directory, each with its neighbours.
#[must_use]
pub fn judge_all(files: Vec<Found>) -> Vec<Judged> {
    let mut faults: Vec<Vec<String>> = Vec::with_capacity(files.len());
    let mut notes: Vec<Vec<String>> = vec![Vec::new(); files.len()];
    // From a file to the one before it that has no key, if the two fit together.
    let mut vouchable: BTreeMap<usize, usize> = BTreeMap::new();
    let mut by_name: BTreeMap<&str, usize> = BTreeMap::new();
    let mut by_id: BTreeMap<&str, usize> = BTreeMap::new();
    let mut twice: Vec<(usize, usize)> = Vec::new();
    for (at, found) in files.iter().enumerate() {
        faults.push(found.checked.faults.iter().map(ToString::to_string).collect());
        by_name.entry(found.own_name()).or_insert(at);
        if let Some(id) = &found.checked.id
            && let Some(other) = by_id.insert(id, at)
        {
            twice.push((other, at));
        }
    }
    let mut wrong = |at: usize, what: String| {
        if let Some(faults) = faults.get_mut(at) {
            faults.push(what);
        }
    };
    for (one, other) in twice {
        if let (Some(first), Some(second)) = (files.get(one), files.get(other)) {
            wrong(other, format!("it is the same file as {}", first.name));
            wrong(one, format!("it is the same file as {}", second.name));
        }
    }
    for (at, found) in files.iter().enumerate() {
        let Checked {
            previous, next, sealed, ..
        } = &found.checked;
        let mut note = |what: String| {
            if let Some(notes) = notes.get_mut(at) {
                notes.push(what);
            }
        };
        if found.own_name() != found.name {
            // What turns files over adds to their names.
            if found.name.starts_with(found.own_name()) {
                note(format!("it was written as {}", found.own_name()));
            } else {
                wrong(at, format!("it is {}, under another name", found.own_name()));
            }
        }
        if let Some((name, mac)) = previous {
            match by_name
                .get(&**name)
                .and_then(|before| Some((*before, files.get(*before)?)))
            {
                None => note(format!("{name}, which it goes on from, is not there")),
                Some((before, other)) if other.checked.last.as_ref() != Some(mac) => {
                    wrong(before, format!("it ends otherwise than {} says", found.name));
                }
                Some((before, other)) if changes_key(&other.checked, &found.checked) => {
                    // Of the two, the one whose lines could be checked is not the forged one.
                    let (suspect, other) = if *sealed == SealedBy::Key {
                        (before, &found.name)
                    } else {
                        (at, &other.name)
                    };
                    wrong(suspect, format!("it is not under the key of {other}, as it has to be"));
                }
                Some((before, other)) => {
                    if found.checked.faults.is_empty() && other.checked.sealed == SealedBy::Nobody {
                        vouchable.insert(at, before);
                    }
                }
            }
        }
        if let Some(name) = next {
            match by_name.get(&**name).and_then(|after| files.get(*after)) {
                None => wrong(at, format!("{name}, which goes on from it, is not there")),
                Some(after) => {
                    let says = after.checked.previous.as_ref().map(|(before, _)| &**before);
                    if says != Some(found.own_name()) && after.checked.end != End::Empty {
                        wrong(at, format!("{name} does not go on from it"));
                    }
                }
            }
        }
    }
    let voucher = vouchers(&files, &vouchable);
    let judged = files.into_iter().zip(faults).zip(voucher).zip(notes);
    judged
        .map(|(((found, faults), voucher), notes)| decide(found, faults, voucher, notes))
        .collect()
}

/// Who vouches for which file. The MAC that a file with a key names is over all lines of the one before, its first line with the
/// MAC that this one names among them: so it vouches for that one, too, and so on.
fn vouchers(files: &[Found], vouchable: &BTreeMap<usize, usize>) -> Vec<Option<String>> {
    let mut vouchers: Vec<Option<String>> = vec![None; files.len()];
    for (at, found) in files.iter().enumerate() {
        if found.checked.sealed != SealedBy::Key {
            continue;
        }
        let mut now = at;
        while let Some(before) = vouchable.get(&now) {
            match vouchers.get_mut(*before) {
                Some(voucher @ None) => *voucher = Some(found.name.clone()),
                // Two that go on from the same one.
                _ => break,
            }
            now = *before;
        }
    }
    vouchers
}

/// A broker gets its key once and keeps it to its end. Under a key that is not at hand every line seems to follow, so a file
/// that says it has one could be put between two others.
fn changes_key(before: &Checked, after: &Checked) -> bool {
    before.key.is_some() && after.key != before.key
}

fn decide(found: Found, faults: Vec<String>, voucher: Option<String>, mut notes: Vec<String>) -> Judged {
    let checked = &found.checked;
    let verdict = if !faults.is_empty() {
        Verdict::Tampered(faults)
    } else if let SealedBy::Unknown(id) = &checked.sealed {
        Verdict::OtherKey { id: id.clone() }
    } else if checked.end != End::Closed && matches!(found.lock, Lock::Free | Lock::Other(_)) {
        Verdict::Cut
    } else if let Some(by) = voucher {
        Verdict::Vouched { by }
    } else if checked.sealed == SealedBy::Nobody {
        Verdict::Unkeyed
    } else if checked.end == End::Closed {
        Verdict::Whole
    } else if found.lock == Lock::Broker {
        Verdict::Running
    } else {
        Verdict::Held
    };
    if let Lock::Other(pid) = found.lock {
        notes.push(format!(
            "process {pid} took a lock on it, and is not the broker that began it, or has ended"
        ));
    }
    Judged { found, verdict, notes }
}
