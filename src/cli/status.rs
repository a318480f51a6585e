//! `status`: running brokers and stored entries.

use std::{collections::BTreeMap, process::ExitCode, time::Duration};

use jiff::Timestamp;
use serde::Serialize;

use crate::{
    broker::{
        Broker,
        page::PageRequest,
        status::{EntryState, EntryStatus},
    },
    cli::{args::StatusArgs, failure::Failure, output, session::Session},
    client::{self, CredentialStore as _, ProxyTokenStore, timestamp},
    clock::{Clock as _, SystemClock},
    config::Environment,
    credential::EntryKey,
    daemon, proto,
    server::socket::RuntimeDir,
};

/// How long a broker may take to answer before it is shown as silent.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Serialize)]
struct Status {
    brokers: Vec<RunningBroker>,
    entries: Vec<Entry>,
}

#[derive(Serialize)]
struct RunningBroker {
    pid: Option<u32>,
    socket: Option<String>,
    version: Option<String>,
}

#[derive(Serialize)]
struct Entry {
    provider: String,
    bucket: String,
    subject: Option<String>,
    expire_time: Option<Timestamp>,
    next_renewal: Option<Timestamp>,
    failures: u32,
    last_used: Option<Timestamp>,
    /// Streams that follow it now, at all brokers.
    watchers: u32,
    /// Not known through the socket of a sandbox.
    state: Option<&'static str>,
    saved_by: Option<String>,
}

pub(super) async fn status(
    session: &Session,
    environment: &Environment,
    arguments: &StatusArgs,
) -> Result<ExitCode, Failure> {
    let status = match session {
        Session::Host { broker, .. } => on_the_host(broker, environment).await?,
        Session::Sandbox(client) => in_a_sandbox(session, client, environment).await?,
    };
    if arguments.json {
        output::json(&status)?;
    } else {
        print(&status)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The store's entries, with what the running brokers know of them.
async fn on_the_host(broker: &Broker, environment: &Environment) -> Result<Status, Failure> {
    let mut entries = BTreeMap::new();
    for entry in broker.entries(&PageRequest::all()).await?.0 {
        entries.insert(entry.key.clone(), from_store(entry));
    }
    let mut brokers = Vec::new();
    let live = match RuntimeDir::open_existing(&daemon::runtime_path(environment)?)? {
        Some(runtime) => runtime.list_live()?,
        None => Vec::new(),
    };
    for broker in live {
        let answer = tokio::time::timeout(PATIENCE, client::broker_status(broker.control_socket)).await;
        let Ok(Ok(answer)) = answer else {
            brokers.push(RunningBroker {
                pid: broker.pid,
                socket: None,
                version: None,
            });
            continue;
        };
        let lost = answer.counters.as_ref().map_or(0, |counters| counters.audit_lines_lost);
        if lost > 0 {
            output::warning(&format!(
                "the broker with pid {} has lost {lost} audit lines: its log says why",
                answer.pid
            ));
        }
        for told in &answer.entries {
            merge(&mut entries, told);
        }
        brokers.push(RunningBroker {
            pid: Some(answer.pid),
            socket: Some(answer.socket),
            version: Some(answer.version),
        });
    }
    Ok(Status {
        brokers,
        entries: entries.into_values().collect(),
    })
}

fn from_store(entry: EntryStatus) -> Entry {
    Entry {
        provider: entry.key.provider.to_string(),
        bucket: entry.key.bucket.to_string(),
        subject: entry.subject,
        expire_time: entry.expire_time,
        next_renewal: entry.next_renewal,
        failures: entry.failures,
        last_used: entry.last_used,
        watchers: 0,
        state: Some(entry.state.as_str()),
        saved_by: entry.saved_by,
    }
}

/// Adds what a running broker tells: its own entries if it keeps them in memory; of the store's, what only it knows.
fn merge(entries: &mut BTreeMap<EntryKey, Entry>, told: &proto::EntryStatus) {
    let Ok(key) = EntryKey::parse(&told.provider, &told.bucket) else {
        return;
    };
    let last_used = told.last_used_time.as_ref().and_then(timestamp);
    let entry = entries.entry(key).or_insert_with(|| Entry {
        provider: told.provider.clone(),
        bucket: told.bucket.clone(),
        subject: Some(told.subject.clone()).filter(|subject| !subject.is_empty()),
        expire_time: told.expire_time.as_ref().and_then(timestamp),
        next_renewal: None,
        failures: told.failures,
        last_used: None,
        watchers: 0,
        state: state(told.state()),
        saved_by: Some(told.saved_by.clone()).filter(|by| !by.is_empty()),
    });
    entry.last_used = entry.last_used.max(last_used);
    entry.watchers = entry.watchers.saturating_add(told.watchers);
    entry.failures = entry.failures.max(told.failures);
    let next_renewal = told.next_renewal_time.as_ref().and_then(timestamp);
    entry.next_renewal = match (entry.next_renewal, next_renewal) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    };
    let unsaved = told.state() == proto::EntryState::Unsaved;
    // A refresh that was interrupted as the store has it may have begun anew, or may not have been removed as such.
    let refreshing =
        entry.state == Some(EntryState::Ambiguous.as_str()) && told.state() != proto::EntryState::Ambiguous;
    if unsaved || refreshing {
        entry.state = state(told.state());
        entry.expire_time = told.expire_time.as_ref().and_then(timestamp);
    }
}

fn state(state: proto::EntryState) -> Option<&'static str> {
    match state {
        proto::EntryState::Unspecified => None,
        proto::EntryState::Ok => Some(EntryState::Ok.as_str()),
        proto::EntryState::NeedsLogin => Some(EntryState::NeedsLogin.as_str()),
        proto::EntryState::Corrupt => Some(EntryState::Corrupt.as_str()),
        proto::EntryState::Locked => Some(EntryState::Locked.as_str()),
        proto::EntryState::Due => Some(EntryState::Due.as_str()),
        proto::EntryState::Ambiguous => Some(EntryState::Ambiguous.as_str()),
        proto::EntryState::Unsaved => Some(EntryState::Unsaved.as_str()),
    }
}

/// What the sandbox may know: the broker behind its socket and the entries it may read.
async fn in_a_sandbox(
    session: &Session,
    client: &ProxyTokenStore,
    environment: &Environment,
) -> Result<Status, Failure> {
    let mut entries = Vec::new();
    for key in session.entries().await? {
        let stats = client.get_bucket_stats(&key).await?;
        entries.push(Entry {
            provider: key.provider.to_string(),
            bucket: key.bucket.to_string(),
            subject: None,
            expire_time: None,
            next_renewal: None,
            failures: 0,
            last_used: stats.and_then(|stats| stats.last_used),
            watchers: 0,
            state: None,
            saved_by: None,
        });
    }
    Ok(Status {
        brokers: vec![RunningBroker {
            pid: None,
            socket: environment.socket().map(|path| path.display().to_string()),
            version: Some(client.server_info().await?.version),
        }],
        entries,
    })
}

fn print(status: &Status) -> Result<(), Failure> {
    let or_dash = |text: Option<String>| text.map_or_else(|| "-".to_owned(), |text| output::printable(&text));
    if status.brokers.is_empty() {
        output::line("No broker is running.")?;
    } else {
        let rows = status.brokers.iter().map(|broker| {
            vec![
                or_dash(broker.pid.map(|pid| pid.to_string())),
                or_dash(broker.version.clone()),
                broker
                    .socket
                    .as_deref()
                    .map_or_else(|| "(does not answer)".to_owned(), output::printable),
            ]
        });
        output::table(&["BROKER", "VERSION", "SOCKET"], rows)?;
    }
    output::line("")?;
    if status.entries.is_empty() {
        return output::line("No entry is stored.");
    }
    let now = SystemClock::new().now().wall;
    let moment = |at: Option<Timestamp>, none: &str| at.map_or_else(|| none.to_owned(), |at| output::relative(at, now));
    let rows = status.entries.iter().map(|entry| {
        let state = entry.state.unwrap_or("-");
        let known = matches!(state, "ok" | "due" | "needs_login" | "unsaved" | "ambiguous");
        vec![
            format!("{}/{}", entry.provider, entry.bucket),
            state.to_owned(),
            moment(entry.expire_time, if known { "never" } else { "-" }),
            renewal(moment(entry.next_renewal, "-"), entry.failures),
            used(moment(entry.last_used, "-"), entry.watchers),
            or_dash(entry.subject.clone()),
            or_dash(entry.saved_by.clone()),
        ]
    });
    output::table(
        &[
            "ENTRY",
            "STATE",
            "EXPIRES",
            "RENEWAL",
            "LAST USED",
            "SUBJECT",
            "SAVED BY",
        ],
        rows,
    )?;
    for entry in &status.entries {
        if let Some(meaning) = entry.state.and_then(meaning) {
            let name = format!("{}/{}", entry.provider, entry.bucket);
            output::line(&format!("\n{}", meaning.replace("ENTRY", &name)))?;
        }
    }
    Ok(())
}

/// What a state means that calls for an explanation.
fn meaning(state: &str) -> Option<&'static str> {
    match state {
        "ambiguous" => Some(
            "A refresh of ENTRY was interrupted before the provider's answer was stored. The next one asks again, and shows \
             whether the provider spent the refresh token; if so, ENTRY needs a login.",
        ),
        "unsaved" => Some(
            "The newest token set of ENTRY lives only in the memory of its broker, and is lost if that is killed. It is saved \
             as soon as the store can be written: see what `credbroker doctor` says of it.",
        ),
        _ => None,
    }
}

/// The last use, and how many streams go on with it.
fn used(last: String, watchers: u32) -> String {
    match watchers {
        0 => last,
        1 => format!("{last} (1 stream)"),
        _ => format!("{last} ({watchers} streams)"),
    }
}

/// The next renewal, and how many have failed in a row.
fn renewal(next: String, failures: u32) -> String {
    match failures {
        0 => next,
        1 => format!("{next} (1 failure)"),
        _ => format!("{next} ({failures} failures)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_streams_of_all_brokers_are_added_up() {
        let told = |watchers| proto::EntryStatus {
            provider: "p".into(),
            bucket: "default".into(),
            watchers,
            ..Default::default()
        };
        let mut entries = BTreeMap::new();
        merge(&mut entries, &told(2));
        merge(&mut entries, &told(1));
        let watchers: Vec<_> = entries.values().map(|entry| entry.watchers).collect();
        assert_eq!(watchers, [3]);
        assert_eq!(used("1m ago".into(), 3), "1m ago (3 streams)");
    }
}
