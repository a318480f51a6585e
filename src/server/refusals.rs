//! Calls that are refused, in the record: one by one as long as they are a few, and as counts beyond that.
//!
//! Who is refused does not decide how much the host's disk has to hold. So what is refused before it is known who asks, or
//! because somebody asks too much, has lines of its own only at a rate; what goes beyond it is told once a second, by reason and
//! sandbox. What was done, and what the policy or a handler refused, is never among it.

use std::{
    collections::BTreeMap,
    mem,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::limits::{Rate, number};
use crate::{
    broker::audit::{Audit, Record, Refusals},
    reason::Reason,
};

/// So many refused calls of a socket have a line each, in a second and at once.
const SINGLY: u32 = 10;
const AT_ONCE: u32 = 100;
/// How often the others are told.
const PERIOD: Duration = Duration::from_secs(1);

/// The refused calls of one socket.
pub(super) struct RefusedCalls {
    audit: Audit,
    singly: Rate,
    counted: Mutex<Counted>,
}

#[derive(Default)]
struct Counted {
    /// A sandbox can only add to its own.
    by_sandbox: BTreeMap<Option<Arc<str>>, Refusals>,
    /// Whether a task tells them.
    told: bool,
}

impl RefusedCalls {
    pub(super) fn new(audit: Audit) -> Arc<Self> {
        Arc::new(Self {
            audit,
            singly: Rate::new(number(SINGLY), number(AT_ONCE)),
            counted: Mutex::default(),
        })
    }

    /// Whether the call is one too many to have a line of its own; then it is counted.
    pub(super) fn count(self: &Arc<Self>, record: &Record, reason: Reason) -> bool {
        if self.singly.check().is_ok() {
            return false;
        }
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let refusals = counted.by_sandbox.entry(record.sandbox.clone());
        let refusals = refusals.or_insert_with(|| Refusals {
            time: record.time,
            until: record.time,
            sandbox: record.sandbox.clone(),
            calls: BTreeMap::new(),
        });
        // The clock may have been set meanwhile.
        refusals.time = refusals.time.min(record.time);
        refusals.until = refusals.until.max(record.time);
        let calls = refusals.calls.entry(reason.as_str()).or_default();
        *calls = calls.saturating_add(1);
        if !mem::replace(&mut counted.told, true) {
            tokio::spawn(Arc::clone(self).tell_each_period());
        }
        true
    }

    /// Tells what was counted, at the end.
    pub(super) fn tell_rest(&self) {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let rest = mem::take(&mut counted.by_sandbox);
        drop(counted);
        self.tell(rest);
    }

    /// Ends when there was nothing to tell; the next call that is counted begins anew.
    async fn tell_each_period(self: Arc<Self>) {
        loop {
            tokio::time::sleep(PERIOD).await;
            let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
            if counted.by_sandbox.is_empty() {
                counted.told = false;
                return;
            }
            let refusals = mem::take(&mut counted.by_sandbox);
            drop(counted);
            self.tell(refusals);
        }
    }

    fn tell(&self, refusals: BTreeMap<Option<Arc<str>>, Refusals>) {
        for refusals in refusals.into_values() {
            self.audit.refusals(refusals);
        }
    }
}

/// Whether an answer of the services with this reason says that nothing was done because too much was asked for, or nothing
/// that there is.
pub(super) fn is_about_nothing_done(reason: &str) -> Option<Reason> {
    let reasons = [Reason::Unimplemented, Reason::TooManyStreams, Reason::TooManySessions];
    reasons.into_iter().find(|known| known.as_str() == reason)
}

#[cfg(test)]
mod tests {
    use std::io;

    use jiff::Timestamp;
    use serde_json::Value;
    use tokio::time::advance;

    use super::*;
    use crate::broker::audit::{AuditWriter, Settings};

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(octets);
            Ok(octets.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Bench {
        refused: Arc<RefusedCalls>,
        writer: AuditWriter,
        sink: Sink,
    }

    impl Bench {
        fn new() -> Self {
            let sink = Sink::default();
            let file = sink.clone();
            let (audit, writer) =
                Audit::start(Settings::without_key(), move || Ok(("audit".into(), file.clone()))).unwrap();
            Self {
                refused: RefusedCalls::new(audit),
                writer,
                sink,
            }
        }

        /// How many of so many calls have lines of their own.
        fn refuse(&self, calls: u32, at: i64, sandbox: Option<&str>, reason: Reason) -> u32 {
            let record = record(at, sandbox);
            (0..calls)
                .map(|_| u32::from(!self.refused.count(&record, reason)))
                .sum()
        }

        fn lines(self) -> Vec<Value> {
            self.writer.finish();
            let text = String::from_utf8(self.sink.0.lock().unwrap().clone()).unwrap();
            let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
            lines.filter(|line| line["event"] == "refusals").collect()
        }
    }

    fn record(at: i64, sandbox: Option<&str>) -> Record {
        Record {
            time: Timestamp::new(at, 0).unwrap(),
            sandbox: sandbox.map(Into::into),
            peer_uid: None,
            peer_pid: None,
            peer: None,
            operation: "GetToken".into(),
            subject: None,
            outcome: "error",
            reason: None,
        }
    }

    /// Lets the task that tells do so.
    async fn seconds(seconds: u64) {
        for _ in 0..seconds {
            tokio::task::yield_now().await;
            advance(PERIOD).await;
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_hundred_at_once_and_ten_a_second_have_lines_of_their_own() {
        let bench = Bench::new();
        let refuse = |calls| bench.refuse(calls, 0, None, Reason::Unauthenticated);
        assert_eq!(refuse(5000), 100);
        for _ in 0..3 {
            seconds(1).await;
            assert_eq!(refuse(5000), 10);
        }
        seconds(3600).await;
        assert_eq!(refuse(5000), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn the_others_are_told_once_a_second_and_none_is_left_out_or_told_twice() {
        let bench = Bench::new();
        let mut counted = 0;
        for second in 0..5 {
            for part in 0..4 {
                let calls = 1000 + part;
                counted += calls - bench.refuse(calls, second, None, Reason::RateLimited);
                tokio::task::yield_now().await;
                advance(PERIOD / 4).await;
                tokio::task::yield_now().await;
            }
        }
        // Where nothing comes any more, nothing is told.
        seconds(100).await;
        let lines = bench.lines();
        assert!((5..=6).contains(&lines.len()), "{lines:#?}");
        let told: u64 = lines
            .iter()
            .map(|line| line["calls"]["RATE_LIMITED"].as_u64().unwrap())
            .sum();
        assert_eq!(told, u64::from(counted));
        assert_eq!(lines[0]["sandbox"], "");
        assert_eq!(lines[0]["time"], "1970-01-01T00:00:00Z");
        assert_eq!(lines.last().unwrap()["until"], "1970-01-01T00:00:04Z");
    }

    #[tokio::test(start_paused = true)]
    async fn they_are_told_by_sandbox_and_reason_and_at_the_end_at_once() {
        let bench = Bench::new();
        bench.refuse(100, 0, None, Reason::Unauthenticated);
        bench.refuse(7, 5, Some("b"), Reason::RateLimited);
        bench.refuse(3, 4, Some("b"), Reason::TooManyStreams);
        bench.refuse(2, 9, None, Reason::PeerNotAllowed);
        bench.refused.tell_rest();
        bench.refused.tell_rest();
        let lines = bench.lines();
        let said: Vec<_> = lines
            .iter()
            .map(|line| [&line["sandbox"], &line["time"], &line["until"], &line["calls"]].map(ToString::to_string))
            .collect();
        assert_eq!(
            said,
            [
                [
                    r#""""#,
                    r#""1970-01-01T00:00:09Z""#,
                    r#""1970-01-01T00:00:09Z""#,
                    r#"{"PEER_NOT_ALLOWED":2}"#
                ],
                [
                    r#""b""#,
                    r#""1970-01-01T00:00:04Z""#,
                    r#""1970-01-01T00:00:05Z""#,
                    r#"{"RATE_LIMITED":7,"TOO_MANY_STREAMS":3}"#
                ],
            ]
        );
    }

    #[test]
    fn what_was_done_is_never_counted() {
        let counted = Reason::ALL
            .into_iter()
            .filter_map(|reason| is_about_nothing_done(reason.as_str()));
        assert_eq!(
            counted.collect::<Vec<_>>(),
            [Reason::Unimplemented, Reason::TooManyStreams, Reason::TooManySessions]
        );
        assert_eq!(is_about_nothing_done("NO_REASON"), None);
    }
}
