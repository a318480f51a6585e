//! The clocks, and what protects this program's own memory.

use std::time::Duration;

use jiff::Timestamp;

use super::Report;
use crate::{
    cli::{
        failure,
        hardening::{self, Protection},
    },
    clock::{Clock as _, Now, SystemClock},
    config::Config,
};

pub(super) const CLOCK: &str = "clock";
pub(super) const PROCESS: &str = "process";
/// 1 January 2025: older than this program.
const OLDEST: i64 = 1_735_689_600;
/// What a clock may be corrected by without a word.
const SLACK: Duration = Duration::from_secs(2);

pub(super) fn look_at_clock(newest: Option<Timestamp>, report: &mut Report) {
    judge_clock(&SystemClock::new().now(), newest, report);
}

fn judge_clock(now: &Now, newest: Option<Timestamp>, report: &mut Report) {
    let mend = "set the clock; `timedatectl` shows whether it is kept in step";
    let ahead = newest.map_or(Duration::ZERO, |newest| {
        Duration::try_from(newest.duration_since(now.wall)).unwrap_or_default()
    });
    if now.wall.as_second() < OLDEST {
        report.fail(
            CLOCK,
            "wall clock",
            format!("it says {:.0}, which is before this program was made", now.wall),
            mend,
            failure::CONFIGURATION,
        );
    } else if ahead > SLACK {
        report.warn(
            CLOCK,
            "wall clock",
            format!(
                "it says {:.0}, but a token was stored {} s later: it was stepped back, or ran ahead then",
                now.wall,
                ahead.as_secs()
            ),
            mend,
        );
    } else {
        report.ok(CLOCK, "wall clock", format!("{:.0}", now.wall));
    }
    if now.boot.is_zero() {
        report.fail(
            CLOCK,
            "boot-time clock",
            "it cannot be read",
            "run it where the system lets programs read CLOCK_BOOTTIME",
            failure::INTERNAL,
        );
    } else {
        report.ok(CLOCK, "boot-time clock", format!("{} s since boot", now.boot.as_secs()));
    }
    if now.boot_id.is_empty() {
        report.warn(
            CLOCK,
            "boot id",
            "there is none, so that expiry follows the wall clock alone",
            "make /proc/sys/kernel/random/boot_id readable",
        );
    } else {
        report.ok(CLOCK, "boot id", &*now.boot_id);
    }
}

/// What a `serve` that is started here takes from itself; what it says of itself stands with the brokers.
pub(super) fn look_at_process(config: Option<&Config>, report: &mut Report) {
    for Protection { name, in_force, detail } in hardening::tried(config) {
        if in_force {
            report.ok(PROCESS, name, detail);
        } else if !hardening::is_amiss(name, &detail) {
            report.ok(PROCESS, name, format!("not in force: {detail}"));
        } else {
            report.warn(PROCESS, name, detail, hardening::mend(name));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{super::Status, *};

    fn judged(wall: &str, boot: u64, boot_id: &str, newest: Option<&str>) -> (Vec<Status>, Option<u8>, String) {
        let now = Now {
            wall: wall.parse().unwrap(),
            boot: Duration::from_secs(boot),
            boot_id: Arc::from(boot_id),
        };
        let mut report = Report::default();
        judge_clock(&now, newest.map(|newest| newest.parse().unwrap()), &mut report);
        let detail = report.checks[0].detail.clone();
        assert!(
            report
                .checks
                .iter()
                .all(|check| check.mend.is_some() == (check.status != Status::Ok))
        );
        (
            report.checks.iter().map(|check| check.status).collect(),
            report.code,
            detail,
        )
    }

    #[test]
    fn clocks_that_cannot_be_right_are_told() {
        use Status::{Fail, Ok, Warn};
        let now = "2026-03-01T12:00:00Z";
        let (status, code, said) = judged(now, 5, "b", Some("2026-03-01T12:00:02Z"));
        assert_eq!((status, code), (vec![Ok, Ok, Ok], None));
        assert_eq!(said, "2026-03-01T12:00:00Z");
        let (status, code, said) = judged(now, 5, "b", Some("2026-03-01T13:00:00Z"));
        assert_eq!((status, code), (vec![Warn, Ok, Ok], None));
        assert!(said.contains("3600 s later"), "{said}");
        let (status, code, _) = judged("2024-12-31T23:59:59Z", 5, "b", None);
        assert_eq!((status, code), (vec![Fail, Ok, Ok], Some(78)));
        let (status, code, _) = judged(now, 0, "", None);
        assert_eq!((status, code), (vec![Ok, Fail, Warn], Some(70)));
    }
}
