//! `audit verify`.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use tokio::time::sleep;

use super::{Files, buffered, holder, name_of, open, some_unreadable, unreadable};
use crate::{
    broker::{
        Renewals,
        audit::{
            chain::Key,
            series::{Found, Judged, Lock, Verdict, in_order, judge, judge_all},
            verify::{End, check},
        },
    },
    cli::{args::AuditVerifyArgs, failure::Failure, output},
    clock::{Clock as _, SystemClock},
    config::{Config, Environment},
    daemon,
};

/// How long a broker may take from making a file to saying that it is its own.
const BEGINNING: Duration = Duration::from_millis(50);

pub(super) async fn verify(
    config: &Config,
    environment: &Environment,
    arguments: &AuditVerifyArgs,
) -> Result<ExitCode, Failure> {
    let named = arguments.file.as_deref();
    if Files::find(config, named)?.paths.is_empty() {
        output::line("There is no audit file.")?;
        return Ok(ExitCode::SUCCESS);
    }
    // Before the files: an identity may take its time to come, and brokers go on writing.
    let broker = daemon::local(config, environment, false, Renewals::OnUse)?;
    let keys = broker.audit_keys(false).await?;
    let Reading {
        found,
        unreadable,
        links,
        whole,
    } = read(config, named, &keys).await?;
    let mut judged: Vec<Judged> = if whole {
        judge_all(in_order(found, own_and_previous))
    } else {
        found.into_iter().map(judge).collect()
    };
    for judged in &mut judged {
        if links.contains(&judged.found.name) {
            judged.notes.push("it is a symbolic link".to_owned());
        }
        tell(judged)?;
    }
    for why in &unreadable {
        output::line(&output::printable(why))?;
    }
    conclude(&judged, unreadable.len())
}

/// What was read.
struct Reading {
    found: Vec<Found>,
    /// What could not be, and why: of the other files is told all the same.
    unreadable: Vec<String>,
    /// Which names are those of links: no broker makes one.
    links: BTreeSet<String>,
    /// Whether it is a directory.
    whole: bool,
}

fn own_and_previous(found: &Found) -> (String, Option<String>) {
    let checked = &found.checked;
    let own = checked.name.as_ref().unwrap_or(&found.name);
    (own.clone(), checked.previous.as_ref().map(|(name, _)| name.clone()))
}

/// Reads every file. A broker that begins a new one meanwhile closes the one before, which then has to be read again,
/// or the two would not fit together.
async fn read(config: &Config, named: Option<&Path>, keys: &[Key]) -> Result<Reading, Failure> {
    let mut read: BTreeMap<PathBuf, Result<Found, Failure>> = BTreeMap::new();
    loop {
        let files = Files::find(config, named)?;
        let news = files.paths.iter().any(|path| !read.contains_key(path));
        if !news {
            let (mut found, mut unreadable) = (Vec::new(), Vec::new());
            let links = files.paths.iter().filter(|path| path.is_symlink());
            let links = links.map(|path| name_of(path)).collect();
            for outcome in files.paths.iter().filter_map(|path| read.remove(path)) {
                match outcome {
                    Ok(file) => found.push(file),
                    Err(failure) if files.whole => unreadable.push(failure.message().to_owned()),
                    Err(failure) => return Err(failure),
                }
            }
            return Ok(Reading {
                found,
                unreadable,
                links,
                whole: files.whole,
            });
        }
        for path in files.paths {
            if matches!(read.get(&path), Some(Ok(found)) if has_ended(found)) {
                continue;
            }
            let mut found = look(&path, keys);
            if matches!(&found, Ok(found) if found.checked.end == End::Empty && found.lock != Lock::Broker) {
                // A broker may be about to begin it.
                sleep(BEGINNING).await;
                found = look(&path, keys);
            }
            read.insert(path, found);
        }
    }
}

/// Whether nothing comes any more.
fn has_ended(found: &Found) -> bool {
    matches!(found.lock, Lock::Free | Lock::Other(_))
}

fn look(path: &Path, keys: &[Key]) -> Result<Found, Failure> {
    let failed = |error| unreadable(path, &error);
    let (file, stat) = open(path)?;
    // Before the lines: a broker that ends meanwhile has closed the file by then.
    let locked = holder::look(&file, &stat).map_err(failed)?;
    let now = SystemClock::new().now();
    let checked = check(buffered(file), keys).map_err(failed)?;
    let name = name_of(path);
    let broker = checked.pid.zip(checked.began).or_else(|| holder::named(&name));
    let lock = locked.judge(broker, &now);
    Ok(Found { name, lock, checked })
}

fn tell(Judged { found, verdict, notes }: &Judged) -> Result<(), Failure> {
    let checked = &found.checked;
    let records = match checked.records {
        1 => "1 record".to_owned(),
        records => format!("{records} records"),
    };
    let said = match verdict {
        Verdict::Whole => format!("whole, {records}"),
        Verdict::Running => match checked.pid {
            Some(pid) => format!("whole so far, {records}; its broker (pid {pid}) still writes"),
            None => "nothing yet; its broker still writes".to_owned(),
        },
        Verdict::Held => format!(
            "whole so far, {records}; somebody holds a lock on it, and it cannot be told whether that is its broker"
        ),
        Verdict::Vouched { by } => format!("whole, {records}; it has no key of its own, but {by} vouches for it"),
        Verdict::Cut => {
            format!("no closing line: the broker was killed, or lines were cut; whole until there, {records}")
        }
        Verdict::Tampered(_) => format!("TAMPERED, {records} left"),
        Verdict::Unkeyed => {
            format!(
                "made without a key, {records}: damage would show, tampering would not (--ephemeral, or a locked store)"
            )
        }
        Verdict::OtherKey { id } => {
            format!(
                "made with another key, {id}: nothing can be said of its lines; name the identity that it was made with in `[store] identity_file`"
            )
        }
    };
    output::line(&output::printable(&format!("{}: {said}", found.name)))?;
    let faults = match verdict {
        Verdict::Tampered(faults) => &**faults,
        _ => &[],
    };
    for what in faults.iter().chain(notes) {
        output::line(&format!("  {}", output::printable(what)))?;
    }
    if checked.lost > 0 {
        output::line(&format!("  {} records were lost, as it says itself", checked.lost))?;
    }
    if checked.refused > 0 {
        output::line(&format!(
            "  {} calls were refused without a record, as it says itself",
            checked.refused
        ))?;
    }
    if checked.counted > 0 {
        output::line(&format!(
            "  {} more calls were refused, and only counted",
            checked.counted
        ))?;
    }
    Ok(())
}

/// The worst that was found says how the command ends.
fn conclude(judged: &[Judged], unreadable: usize) -> Result<ExitCode, Failure> {
    let count = |is: fn(&Verdict) -> bool| judged.iter().filter(|judged| is(&judged.verdict)).count();
    let of = judged.len();
    let files = if of == 1 { "file" } else { "files" };
    let tampered = count(|verdict| matches!(verdict, Verdict::Tampered(_)));
    let cut = count(|verdict| *verdict == Verdict::Cut);
    if tampered > 0 {
        return Err(Failure::bad_data(format!(
            "{tampered} of {of} {files} {} not as written: compare with a copy, and look for who could write there",
            are(tampered)
        )));
    }
    if unreadable > 0 {
        return Err(some_unreadable(unreadable));
    }
    if cut > 0 {
        return Err(Failure::bad_data(format!(
            "{cut} of {of} {files} {} no closing line: if a broker was killed then, that is why; else lines were cut",
            has(cut)
        )));
    }
    let other = count(|verdict| matches!(verdict, Verdict::OtherKey { .. }));
    if other > 0 {
        return Err(Failure::configuration(format!(
            "{other} of {of} {files} {} made with another key: name its identity in `[store] identity_file`, \
             or in CREDBROKER_STORE_IDENTITY_FILE",
            were(other)
        )));
    }
    let held = count(|verdict| *verdict == Verdict::Held);
    if held > 0 {
        return Err(Failure::unavailable(format!(
            "{held} of {of} {files} {} no closing line, and whether the broker still writes cannot be told from here: verify where \
             it runs (in its container), or when it has ended",
            has(held)
        )));
    }
    let unkeyed = count(|verdict| *verdict == Verdict::Unkeyed);
    if unkeyed > 0 {
        return Err(Failure::unavailable(format!(
            "{unkeyed} of {of} {files} {} made without a key and cannot be verified: give brokers with --ephemeral another \
             `path` in [audit], and keep the store unlocked while brokers start",
            were(unkeyed)
        )));
    }
    Ok(ExitCode::SUCCESS)
}

fn are(count: usize) -> &'static str {
    if count == 1 { "is" } else { "are" }
}

fn were(count: usize) -> &'static str {
    if count == 1 { "was" } else { "were" }
}

fn has(count: usize) -> &'static str {
    if count == 1 { "has" } else { "have" }
}
