//! The clocks of a test in paused time.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use credbroker::clock::{Clock, Now};
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// A wall clock and a boot-time clock that go as tokio's paused time goes, until a test moves them apart. Clones are the
/// same clocks.
#[derive(Clone)]
pub(crate) struct PausedClock {
    start: Instant,
    ahead: Arc<Mutex<Ahead>>,
}

/// How far the clocks are ahead of tokio's time.
struct Ahead {
    wall: SignedDuration,
    boot: Duration,
    boot_id: Arc<str>,
}

impl PausedClock {
    /// It is some day, and the machine has been up for a while.
    pub(crate) fn new() -> Self {
        Self {
            start: Instant::now(),
            ahead: Arc::new(Mutex::new(Ahead {
                wall: SignedDuration::ZERO,
                boot: Duration::from_secs(10_000),
                boot_id: "a boot".into(),
            })),
        }
    }

    /// All three clocks run, in one go: timers that come due meanwhile are as late as on a machine that was busy.
    pub(crate) async fn advance(&self, time: Duration) {
        tokio::time::advance(time).await;
    }

    /// The machine sleeps: the wall clock and boot time run, the monotonic clock stands, and with it every timer.
    pub(crate) fn suspend(&self, time: Duration) {
        let mut ahead = self.ahead.lock().unwrap();
        ahead.wall += SignedDuration::try_from(time).unwrap();
        ahead.boot += time;
    }

    /// Somebody sets the wall clock.
    pub(crate) fn step_wall(&self, seconds: i64) {
        self.step_wall_millis(seconds * 1000);
    }

    pub(crate) fn step_wall_millis(&self, millis: i64) {
        self.ahead.lock().unwrap().wall += SignedDuration::from_millis(millis);
    }

    /// Steps boot time alone, as a suspend does whose time the wall clock does not count.
    pub(crate) fn step_boot(&self, seconds: u64) {
        self.ahead.lock().unwrap().boot += Duration::from_secs(seconds);
    }

    /// From now on it is another boot.
    pub(crate) fn reboot(&self) {
        let mut ahead = self.ahead.lock().unwrap();
        ahead.boot = Duration::ZERO;
        ahead.boot_id = "another boot".into();
    }
}

impl Clock for PausedClock {
    fn now(&self) -> Now {
        let passed = self.start.elapsed();
        let ahead = self.ahead.lock().unwrap();
        Now {
            wall: Timestamp::from_second(1_800_000_000).unwrap() + ahead.wall + passed,
            boot: ahead.boot + passed,
            boot_id: Arc::clone(&ahead.boot_id),
        }
    }
}
