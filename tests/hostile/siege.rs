//! The frame around an attack: a broker, an honest client before, during and after, and what the broker holds.

use std::{path::PathBuf, time::Duration};

use tokio::{sync::RwLock, time::Instant};

use crate::{
    broker::{Broker, Held},
    honest::Honest,
};

/// The attacks that burn time run alone, those that only wait run together: what is measured is the attack, not the
/// neighbour test.
static ROOM: RwLock<()> = RwLock::const_new(());

/// The broker's bounds during an attack: what 256 connections with all they may hold come to, 64 that have not said anything
/// yet, each of which may be held once more while it is looked at who made it, and some air.
const MOST_KIB: u64 = 256 * 1024;
const MOST_DESCRIPTORS: usize = 256 + 2 * 64 + 40;
/// What stays after it: the allocator keeps some of what was used.
const KEPT_KIB: u64 = 96 * 1024;
/// An honest call may wait so long at most. Generous: it holds on a busy machine with two cores.
const WORST: Duration = Duration::from_secs(4);
/// And during an attack half of the calls and all but one of a hundred so long, or so many times as long as before it:
/// the first is for a quick machine, where twice nothing is nothing, the second for a slow one.
const HALF: Duration = Duration::from_millis(250);
const NEARLY_ALL: Duration = Duration::from_secs(2);
const TIMES: u32 = 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Load {
    /// The attack is busy.
    Busy,
    /// The attack waits.
    Waiting,
}

/// How long an attack goes on.
pub(crate) fn seconds() -> Duration {
    let asked = credbroker::config::Environment::from_process()
        .get("CREDBROKER_HOSTILE_SECONDS")
        .and_then(|text| text.to_str()?.parse().ok());
    Duration::from_secs(asked.unwrap_or(2))
}

/// For an attack that burns time outside of a [`siege`].
pub(crate) async fn alone() -> tokio::sync::RwLockWriteGuard<'static, ()> {
    ROOM.write().await
}

/// Attacks a broker, and checks what has to hold.
pub(crate) async fn siege<F>(name: &str, load: Load, attack: impl FnOnce(PathBuf) -> F)
where
    F: Future<Output = ()>,
{
    let (_alone, _together) = match load {
        Load::Busy => (Some(ROOM.write().await), None),
        Load::Waiting => (None, Some(ROOM.read().await)),
    };
    let broker = Broker::start().await;
    let mut honest = Honest::start_within_its_share(broker.socket());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = honest.report();
    let at_rest = broker.held();

    let mut most = at_rest;
    let mut attack = std::pin::pin!(attack(broker.socket().to_owned()));
    loop {
        tokio::select! {
            () = &mut attack => break,
            () = tokio::time::sleep(Duration::from_millis(50)) => most = most.max(broker.held()),
        }
    }
    let during = honest.report();
    let after = come_back(&broker, at_rest).await;
    let then = honest.report();

    println!(
        "| {name} | {:.1}/{:.1} | {:.1}/{:.1} | {} | {} | {} | {} |",
        ms(before.p50),
        ms(before.p99),
        ms(during.p50),
        ms(during.p99),
        at_rest.kib / 1024,
        most.kib / 1024,
        after.kib / 1024,
        most.descriptors
    );
    for (when, report) in [("before", &before), ("during", &during), ("after", &then)] {
        assert_eq!(report.failure, None, "{name}, {when}: {report}");
        assert!(report.calls > 0 && report.worst < WORST, "{name}, {when}: {report}");
    }
    assert!(
        during.p50 < HALF.max(before.p50 * TIMES) && during.p99 < NEARLY_ALL.max(before.p99 * TIMES),
        "{name}: before {before}, during {during}"
    );
    assert!(
        most.kib < MOST_KIB && most.descriptors < MOST_DESCRIPTORS,
        "{name}: {most:?}"
    );
    assert!(
        after.kib < at_rest.kib + KEPT_KIB,
        "{name}: {at_rest:?}, then {after:?}"
    );
    assert!(
        after.descriptors <= at_rest.descriptors,
        "{name}: {at_rest:?}, then {after:?}"
    );
}

/// Waits for the descriptors to be given back, for as long as the slowest limit lets one be held.
pub(crate) async fn come_back(broker: &Broker, at_rest: Held) -> Held {
    let start = Instant::now();
    loop {
        let held = broker.held();
        if held.descriptors <= at_rest.descriptors || start.elapsed() > Duration::from_secs(15) {
            return held;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

impl Held {
    pub(crate) fn max(self, other: Self) -> Self {
        Self {
            kib: self.kib.max(other.kib),
            descriptors: self.descriptors.max(other.descriptors),
        }
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
