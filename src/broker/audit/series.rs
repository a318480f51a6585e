//! Whether the files of a directory go together: a file that is closed for its size names the next one, and that one says with
//! which MAC the one before ended.

use std::collections::BTreeMap;

use super::verify::{Checked, End, SealedBy};

/// A file that was read.
#[derive(Debug, Clone)]
pub struct Found {
    /// Its name where it was found.
    pub name: String,
    /// Whether a broker still writes it.
    pub live: bool,
    /// What is in it.
    pub checked: Checked,
}

impl Found {
    /// The name that others know it by.
    fn own_name(&self) -> &str {
        self.checked.name.as_deref().unwrap_or(&self.name)
    }
}

/// What a file is worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is as it was written, from its first to its closing line.
    Whole,
    /// It is as it was written, and its broker still writes.
    Running,
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
    let mut voucher: Vec<Option<String>> = vec![None; files.len()];
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
                    let vouches = *sealed == SealedBy::Key && found.checked.faults.is_empty();
                    if vouches
                        && other.checked.sealed == SealedBy::Nobody
                        && let Some(voucher) = voucher.get_mut(before)
                    {
                        *voucher = Some(found.name.clone());
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
    let judged = files.into_iter().zip(faults).zip(voucher).zip(notes);
    judged
        .map(|(((found, faults), voucher), notes)| decide(found, faults, voucher, notes))
        .collect()
}

/// A broker gets its key once and keeps it to its end. Under a key that is not at hand every line seems to follow, so a file
/// that says it has one could be put between two others.
fn changes_key(before: &Checked, after: &Checked) -> bool {
    before.key.is_some() && after.key != before.key
}

fn decide(found: Found, faults: Vec<String>, voucher: Option<String>, notes: Vec<String>) -> Judged {
    let checked = &found.checked;
    let verdict = if !faults.is_empty() {
        Verdict::Tampered(faults)
    } else if let SealedBy::Unknown(id) = &checked.sealed {
        Verdict::OtherKey { id: id.clone() }
    } else if checked.end != End::Closed && !found.live {
        Verdict::Cut
    } else if let Some(by) = voucher {
        Verdict::Vouched { by }
    } else if checked.sealed == SealedBy::Nobody {
        Verdict::Unkeyed
    } else if checked.end == End::Closed {
        Verdict::Whole
    } else {
        Verdict::Running
    };
    Judged { found, verdict, notes }
}
