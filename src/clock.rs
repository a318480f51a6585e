//! Time as an argument: the one place that reads the wall clock and the boot-time clock.
//!
//! A token expires by the wall clock, but a wall clock can be stepped; the boot-time clock cannot, counts suspend, and
//! means nothing after a reboot. Whoever decides about expiry takes a [`Now`] with both.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;

/// One reading of both clocks, taken together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Now {
    /// The wall clock.
    pub wall: Timestamp,
    /// Time since boot, suspend included.
    pub boot: Duration,
    /// Identifies the boot that `boot` counts from; readings with different ids cannot be compared. Empty where the
    /// system has none: then only the wall clock counts.
    pub boot_id: Arc<str>,
}

/// A boot id that was stored, as one shared text: nearly all records name the same boot.
#[must_use]
pub fn stored_boot_id(text: &str) -> Arc<str> {
    static LAST: Mutex<Option<Arc<str>>> = Mutex::new(None);
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(last) = last.as_ref().filter(|last| &***last == text) {
        return Arc::clone(last);
    }
    Arc::clone(last.insert(Arc::from(text)))
}

/// Where time comes from.
pub trait Clock: Send + Sync + 'static {
    /// Reads both clocks.
    fn now(&self) -> Now;
}

/// The system's clocks.
#[derive(Debug, Clone)]
pub struct SystemClock {
    boot_id: Arc<str>,
}

impl SystemClock {
    /// Reads the boot id once; it cannot change while the process lives.
    #[must_use]
    pub fn new() -> Self {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self {
            boot_id: Arc::from(boot_id.trim()),
        }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that reads the wall clock"
    )]
    fn now(&self) -> Now {
        Now {
            wall: Timestamp::now(),
            boot: boot_time(),
            boot_id: Arc::clone(&self.boot_id),
        }
    }
}

/// Time since boot with suspend; on systems without `CLOCK_BOOTTIME` the monotonic clock.
fn boot_time() -> Duration {
    #[cfg(target_os = "linux")]
    let id = rustix::time::ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    let id = rustix::time::ClockId::Monotonic;
    let now = rustix::time::clock_gettime(id);
    // The kernel never reports a negative time here; zero would only make a token look younger by the wall clock's rule.
    Duration::new(
        u64::try_from(now.tv_sec).unwrap_or_default(),
        u32::try_from(now.tv_nsec).unwrap_or_default(),
    )
}
