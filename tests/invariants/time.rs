//! The clocks of the world: one true time, and what each clock makes of it.

use std::{sync::Mutex, time::Duration};

use credbroker::clock::{Clock, Now};
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// Follows tokio's paused time, which is the monotonic clock.
pub(crate) struct Time {
    began: Instant,
    set: Mutex<Set>,
}

#[derive(Default)]
struct Set {
    /// What the monotonic clock slept through.
    suspended: Duration,
    /// How far the wall clock was set away from the truth.
    stepped: SignedDuration,
    /// The true time of the last boot, and how many there were.
    booted: Duration,
    boots: u32,
}

impl Time {
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            set: Mutex::default(),
        }
    }

    /// What has really passed.
    pub(crate) fn truth(&self) -> Duration {
        self.began.elapsed() + self.set.lock().unwrap().suspended
    }

    pub(crate) fn boots(&self) -> u32 {
        self.set.lock().unwrap().boots
    }

    pub(crate) fn suspend(&self, time: Duration) {
        self.set.lock().unwrap().suspended += time;
    }

    pub(crate) fn step(&self, seconds: i32) {
        self.set.lock().unwrap().stepped += SignedDuration::from_secs(seconds.into());
    }

    pub(crate) fn reboot(&self) {
        let truth = self.truth();
        let mut set = self.set.lock().unwrap();
        set.booted = truth;
        set.boots += 1;
    }
}

impl Clock for Time {
    fn now(&self) -> Now {
        let truth = self.truth();
        let set = self.set.lock().unwrap();
        let epoch = Timestamp::from_second(1_800_000_000).unwrap();
        Now {
            wall: epoch + truth + set.stepped,
            boot: truth - set.booted + Duration::from_secs(60),
            boot_id: format!("boot-{}", set.boots).into(),
        }
    }
}
