//! Decisions about time, as pure functions of the token's expiry and a reading of the clocks.

mod renewal;

use std::time::Duration;

use crate::{clock::Now, credential::Expiry};
pub use renewal::{Due, GIVE_UP_AFTER, Interest, backoff, cooldown, due, retry};

/// The most that is left of a token when it counts as too old to begin something with.
const MAX_SKEW: Duration = Duration::from_secs(5);

/// Whether a token can be handed out without a second thought: on both clocks more than `min(5 s, lifetime / 10)`
/// remains, and at least `min_validity`, which is capped at half the lifetime so that asking for too much cannot ask for
/// a new token with every call. A token without expiry is always usable.
#[must_use]
pub fn usable(expiry: Option<&Expiry>, now: &Now, min_validity: Duration) -> bool {
    let Some(expiry) = expiry else { return true };
    let remaining = expiry.remaining(now);
    let skew = MAX_SKEW.min(expiry.lifetime / 10);
    remaining > skew && remaining >= min_validity.min(expiry.lifetime / 2)
}

/// Whether a token is known to have expired, by either clock.
#[must_use]
pub fn expired(expiry: Option<&Expiry>, now: &Now) -> bool {
    expiry.is_some_and(|expiry| expiry.remaining(now).is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;

    fn at(wall: i64, boot: u64, boot_id: &str) -> Now {
        Now {
            wall: Timestamp::from_second(wall).unwrap(),
            boot: Duration::from_secs(boot),
            boot_id: boot_id.into(),
        }
    }

    fn secs(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    #[test]
    fn usable_table() {
        // lifetime, seconds passed, min_validity -> usable, expired
        let table = [
            (3600, 0, 0, true, false),
            (3600, 3594, 0, true, false),
            (3600, 3595, 0, false, false), // the skew of 5 s
            (3600, 3600, 0, false, true),
            (3600, 4000, 0, false, true),
            (20, 17, 0, true, false),
            (20, 18, 0, false, false), // a tenth of the lifetime
            (3600, 0, 1800, true, false),
            (3600, 0, 9999, true, false), // capped at half
            (3600, 1800, 9999, true, false),
            (3600, 1801, 9999, false, false),
            (3600, 1801, 1799, true, false),
            (0, 0, 0, false, true),
        ];
        for (lifetime, passed, min_validity, want_usable, want_expired) in table {
            let expiry = Expiry::from_lifetime(secs(lifetime), &at(1_000_000, 500, "b"));
            let now = at(1_000_000 + i64::try_from(passed).unwrap(), 500 + passed, "b");
            let row = (lifetime, passed, min_validity);
            assert_eq!(usable(Some(&expiry), &now, secs(min_validity)), want_usable, "{row:?}");
            assert_eq!(expired(Some(&expiry), &now), want_expired, "{row:?}");
        }
    }

    #[test]
    fn either_clock_can_tell_expiry() {
        let expiry = Expiry::from_lifetime(secs(100), &at(1_000_000, 500, "b"));
        // The wall clock was set back an hour: the boot-time clock still tells.
        assert!(expired(Some(&expiry), &at(1_000_000 - 3600, 601, "b")));
        // Suspend on a machine whose wall clock ran on: the wall clock tells.
        assert!(expired(Some(&expiry), &at(1_000_101, 501, "b")));
        // Another boot: its boot time means nothing here.
        assert!(!expired(Some(&expiry), &at(1_000_050, 9_999, "other")));
        assert!(!expired(Some(&expiry), &at(1_000_050, 9_999, "")));
    }

    #[test]
    fn a_token_without_expiry_is_always_usable() {
        assert!(usable(None, &at(0, 0, ""), secs(u64::MAX)));
        assert!(!expired(None, &at(0, 0, "")));
    }

    #[test]
    fn lifetimes_above_ten_years_are_cut() {
        let now = at(1_000_000, 0, "b");
        let expiry = Expiry::from_lifetime(secs(u64::MAX), &now);
        assert_eq!(expiry.remaining(&now), secs(10 * 365 * 24 * 3600));
    }
}
