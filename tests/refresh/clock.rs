//! A clock that runs with the paused time of a test, and that a test can step.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use credbroker::clock::{Clock, Now};
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// Both clocks go as tokio's does, until one is stepped.
pub(crate) struct Manual {
    start: Instant,
    shift: Mutex<Shift>,
}

struct Shift {
    wall: SignedDuration,
    boot: Duration,
    boot_id: Arc<str>,
}

impl Manual {
    pub(crate) fn new() -> Self {
        Self {
            start: Instant::now(),
            shift: Mutex::new(Shift {
                wall: SignedDuration::ZERO,
                boot: Duration::from_secs(10_000),
                boot_id: "boot".into(),
            }),
        }
    }

    /// Steps the wall clock alone.
    pub(crate) fn step_wall(&self, seconds: i64) {
        self.shift.lock().unwrap().wall += SignedDuration::from_secs(seconds);
    }

    /// Steps the boot-time clock alone, as a suspend does whose time the wall clock does not count.
    pub(crate) fn step_boot(&self, seconds: u64) {
        self.shift.lock().unwrap().boot += Duration::from_secs(seconds);
    }

    /// From now on it is another boot.
    pub(crate) fn reboot(&self) {
        let mut shift = self.shift.lock().unwrap();
        shift.boot = Duration::ZERO;
        shift.boot_id = "another boot".into();
    }
}

impl Clock for Manual {
    fn now(&self) -> Now {
        let passed = self.start.elapsed();
        let shift = self.shift.lock().unwrap();
        let wall = Timestamp::from_second(1_800_000_000).unwrap() + passed + shift.wall;
        Now {
            wall,
            boot: shift.boot + passed,
            boot_id: Arc::clone(&shift.boot_id),
        }
    }
}
