//! When a token expires, by the wall clock and by the boot-time clock.

use std::time::Duration;

use jiff::Timestamp;

use crate::clock::Now;

/// The longest lifetime that is believed; a longer one is cut to this.
pub const MAX_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// When an access token expires, by both clocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expiry {
    /// The moment by the wall clock.
    pub at: Timestamp,
    /// How long the token was good for when it was issued.
    pub lifetime: Duration,
    /// The reading of both clocks when the token was stored, so that the boot-time clock can tell expiry, too.
    pub stored: Now,
}

impl Expiry {
    /// The expiry of a token that is good for `lifetime` from `now` on. Lifetimes above [`MAX_LIFETIME`] are cut.
    #[must_use]
    pub fn from_lifetime(lifetime: Duration, now: &Now) -> Self {
        let lifetime = lifetime.min(MAX_LIFETIME);
        Self {
            at: now.wall.saturating_add(lifetime).unwrap_or(Timestamp::MAX),
            lifetime,
            stored: now.clone(),
        }
    }

    /// What remains: the lesser of what the two clocks say. Zero: expired.
    #[must_use]
    pub fn remaining(&self, now: &Now) -> Duration {
        let by_wall = until(now.wall, self.at);
        if self.stored.boot_id.is_empty() || self.stored.boot_id != now.boot_id {
            return by_wall;
        }
        let left_when_stored = until(self.stored.wall, self.at);
        let passed = now.boot.saturating_sub(self.stored.boot);
        by_wall.min(left_when_stored.saturating_sub(passed))
    }
}

/// The time from `from` to `to`, zero if `to` is not later.
fn until(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}
