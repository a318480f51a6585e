//! When a token is renewed, and when a renewal that failed is tried again.

use std::time::Duration;

use jiff::Timestamp;

use crate::{clock::Now, credential::Expiry};

/// Tokens of a shorter lifetime are reckoned in milliseconds, and renewed at about half of it.
const SHORT_LIFETIME: Duration = Duration::from_secs(600);
/// The least time before expiry at which a token of a longer lifetime is renewed.
const LEAST_LEAD: Duration = Duration::from_secs(300);
/// The most that chance takes off, so that tokens issued together are not renewed together.
const MOST_JITTER: Duration = Duration::from_secs(29);
/// The longest cooldown, and the first pause after a failure.
const HALF_A_MINUTE: Duration = Duration::from_secs(30);
/// The longest pause between two tries.
const HALF_AN_HOUR: Duration = Duration::from_secs(1800);
/// A shorter lifetime sets no pace of its own: `expires_in` is in whole seconds, and a fraction of one must not become a
/// loop.
const SHORTEST_LIFETIME: Duration = Duration::from_secs(1);
/// After so many failures in a row a renewal that nobody watches is given up.
pub const GIVE_UP_AFTER: u32 = 10;

/// When a renewal is due: as soon as one of the two clocks says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// By the wall clock.
    pub wall: Timestamp,
    /// By the boot-time clock, in this boot.
    pub boot: Duration,
}

impl Due {
    /// How long until then: the lesser of what the two clocks say. Zero: it is due.
    #[must_use]
    pub fn wait(&self, now: &Now) -> Duration {
        let by_wall = Duration::try_from(self.wall.duration_since(now.wall)).unwrap_or_default();
        by_wall.min(self.boot.saturating_sub(now.boot))
    }
}

/// When to renew a token, seen from `now`; already due is now. `fraction` is drawn evenly from 0 to below 1.
///
/// Due at `expiry - lead - jitter`: the lead is `max(300, floor(remaining / 10))` s of the whole seconds that remain, the
/// jitter 0 to 29 whole seconds. A lifetime under 10 minutes is reckoned in milliseconds: the lead is half of it, the
/// jitter at most 29 s or a tenth of it.
#[must_use]
pub fn due(expiry: &Expiry, now: &Now, fraction: f64) -> Due {
    let remaining = expiry.remaining(now);
    let early = if expiry.lifetime < SHORT_LIFETIME {
        let jitter = MOST_JITTER.min(expiry.lifetime / 10);
        millis(LEAST_LEAD.min(expiry.lifetime / 2)) + Duration::from_millis(draw(jitter.as_millis(), fraction))
    } else {
        let lead = LEAST_LEAD.max(Duration::from_secs(remaining.as_secs() / 10));
        lead + Duration::from_secs(draw(u128::from(MOST_JITTER.as_secs()), fraction))
    };
    Due {
        wall: expiry.at.saturating_sub(early).unwrap_or(Timestamp::MIN),
        // The boot-time clock goes on from here, so that a wall clock that is set back later delays nothing, also on
        // systems without a boot id.
        boot: now.boot.saturating_add(remaining.saturating_sub(early)),
    }
}

/// How far apart the flights of one entry start at least, counted from the start of the last, failed or not:
/// `min(30 s, lifetime / 4)`, and 30 s for a token that never expires. A token of less than a second, which was as good as
/// expired when it came, says nothing about how soon to ask for another: 30 s, too.
#[must_use]
pub fn cooldown(lifetime: Option<Duration>) -> Duration {
    let lifetime = lifetime.filter(|lifetime| *lifetime >= SHORTEST_LIFETIME);
    lifetime.map_or(HALF_A_MINUTE, |lifetime| HALF_A_MINUTE.min(lifetime / 4))
}

/// Who would miss the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// It was not handed out during its last lifetime.
    Unused,
    /// It was.
    Used,
    /// Somebody waits for the next one.
    Watched,
}

/// The pause after so many failures in a row, the first counted as one: `min(1800, 30 * 2^(failures - 1))` s.
#[must_use]
pub fn backoff(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(10);
    HALF_AN_HOUR.min(HALF_A_MINUTE * 2_u32.pow(doublings))
}

/// The pause before the next try after so many failures in a row, `None`: give up.
///
/// The pause is [`backoff`], but not longer than `max(cooldown, lifetime / 4)` for a token that was used during its last
/// lifetime or is watched. After ten failures a watched one is tried every `max(30 s, lifetime / 4)`, at most 30 min, and
/// any other is given up.
#[must_use]
pub fn retry(failures: u32, lifetime: Duration, interest: Interest) -> Option<Duration> {
    let quarter = lifetime / 4;
    if failures >= GIVE_UP_AFTER {
        return (interest == Interest::Watched).then(|| quarter.clamp(HALF_A_MINUTE, HALF_AN_HOUR));
    }
    let pause = backoff(failures);
    Some(match interest {
        Interest::Unused => pause,
        Interest::Used | Interest::Watched => pause.min(quarter.max(cooldown(Some(lifetime)))),
    })
}

/// Whole milliseconds of a duration.
fn millis(duration: Duration) -> Duration {
    Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// Draws evenly from 0 to `most`, both included; `most` is small.
fn draw(most: u128, fraction: f64) -> u64 {
    let most = u32::try_from(most).unwrap_or(u32::MAX);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a float's conversion saturates, and what is above the most is cut"
    )]
    let drawn = (fraction * (f64::from(most) + 1.0)) as u64;
    drawn.min(u64::from(most))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::credential::MAX_LIFETIME;

    const WALL: i64 = 1_800_000_000;
    const BOOT: u64 = 5_000;

    fn secs(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    fn after(passed: Duration) -> Now {
        Now {
            wall: Timestamp::from_second(WALL).unwrap() + passed,
            boot: secs(BOOT) + passed,
            boot_id: "boot".into(),
        }
    }

    fn start() -> Now {
        after(Duration::ZERO)
    }

    /// Seconds from `passed` into a lifetime until the renewal.
    fn wait(lifetime: Duration, passed: Duration, fraction: f64) -> Duration {
        let now = after(passed);
        due(&Expiry::from_lifetime(lifetime, &start()), &now, fraction).wait(&now)
    }

    #[test]
    fn due_table() {
        // lifetime s, passed s, fraction -> wait ms
        let table = [
            // 10 minutes and more: max(300, a tenth) s, and up to 29 s of jitter.
            (600, 0, 0.0, 300_000),
            (600, 0, 0.999, 271_000),
            (600, 0, 1.0 / 30.0, 299_000),
            (601, 0, 0.0, 301_000),
            (3_000, 0, 0.0, 2_700_000),
            (3_009, 0, 0.0, 2_709_000), // a tenth of 3009 is 300.9
            (3_010, 0, 0.0, 2_709_000),
            (3_600, 0, 0.0, 3_240_000),
            (3_600, 0, 0.5, 3_225_000),
            (3_600, 600, 0.0, 2_700_000), // what remains counts: a tenth of 3000
            (3_600, 3_200, 0.0, 100_000),
            (3_600, 3_300, 0.0, 0), // already due
            (3_600, 3_599, 0.9, 0),
            (3_600, 9_999, 0.9, 0),
            // Less: half of it, and up to a tenth.
            (1, 0, 0.0, 500),
            (1, 0, 0.999_999, 400),
            (5, 0, 0.0, 2_500),
            (5, 0, 0.999_999, 2_000),
            (20, 0, 0.0, 10_000),
            (20, 0, 0.5, 9_000),
            (60, 0, 0.0, 30_000),
            (60, 0, 0.999_999, 24_000),
            (299, 0, 0.0, 149_500),
            (299, 0, 0.999_999, 120_500),
            (300, 0, 0.0, 150_000),
            (300, 0, 0.999_999, 121_000),
            (301, 0, 0.0, 150_500),
            (330, 0, 0.0, 165_000),
            (330, 0, 0.999_999, 136_000),
            (599, 0, 0.0, 299_500),
            (599, 0, 0.999_999, 270_500),
            (300, 140, 0.0, 10_000),
            (300, 150, 0.0, 0),
            (0, 0, 0.7, 0),
            // Months and years.
            (25 * 86_400, 0, 0.0, 25 * 86_400 * 900),
            (3 * 31_536_000, 0, 0.0, 3 * 31_536_000 * 900),
            (10 * 31_536_000, 0, 0.999, 10 * 31_536_000 * 900 - 29_000),
        ];
        for (lifetime, passed, fraction, want) in table {
            let wait = wait(secs(lifetime), secs(passed), fraction);
            assert_eq!(wait.as_millis(), want, "{:?}", (lifetime, passed, fraction));
        }
    }

    #[test]
    fn every_whole_second_of_jitter_is_drawn_and_no_other() {
        for second in 0..30_u32 {
            for part in [0.01, 0.5, 0.99] {
                let fraction = (f64::from(second) + part) / 30.0;
                let jitter = secs(3_240) - wait(secs(3600), Duration::ZERO, fraction);
                assert_eq!(jitter, secs(u64::from(second)));
            }
        }
        for strange in [1.0, 7.0, f64::INFINITY, f64::NAN, -1.0] {
            let jitter = secs(3_240) - wait(secs(3600), Duration::ZERO, strange);
            assert!(jitter <= secs(29), "{strange}: {jitter:?}");
        }
    }

    #[test]
    fn a_renewal_is_due_when_either_clock_says_so() {
        let expiry = Expiry::from_lifetime(secs(3600), &start());
        let due = due(&expiry, &start(), 0.0);
        let at = |wall: i64, boot: u64| Now {
            wall: Timestamp::from_second(WALL + wall).unwrap(),
            boot: secs(BOOT + boot),
            boot_id: "boot".into(),
        };
        assert_eq!(due.wait(&at(100, 100)), secs(3_140));
        assert_eq!(
            due.wait(&at(100 - 7_200, 100)),
            secs(3_140),
            "the wall clock was set back"
        );
        assert_eq!(due.wait(&at(100 + 3_100, 100)), secs(40), "and forward");
        assert_eq!(due.wait(&at(100 + 7_200, 100)), Duration::ZERO);
        assert_eq!(due.wait(&at(-7_200, 3_240)), Duration::ZERO);
    }

    #[test]
    fn the_boot_time_clock_counts_from_now_on_where_the_system_has_no_boot_id() {
        let now = |wall: i64, boot: u64| Now {
            wall: Timestamp::from_second(WALL + wall).unwrap(),
            boot: secs(BOOT + boot),
            boot_id: "".into(),
        };
        let due = due(&Expiry::from_lifetime(secs(3600), &now(0, 0)), &now(0, 0), 0.0);
        assert_eq!(due.wait(&now(-36_000, 3_000)), secs(240));
    }

    #[test]
    fn cooldown_table() {
        let table = [
            (None, 30_000),
            (Some(0), 30_000),
            (Some(999), 30_000), // less than a second
            (Some(1_000), 250),
            (Some(5_000), 1_250),
            (Some(20_000), 5_000),
            (Some(119_000), 29_750),
            (Some(120_000), 30_000),
            (Some(u64::MAX), 30_000),
        ];
        for (lifetime, want) in table {
            let pause = cooldown(lifetime.map(Duration::from_millis));
            assert_eq!(pause.as_millis(), want, "{lifetime:?}");
        }
    }

    #[test]
    fn backoff_doubles_from_half_a_minute_to_half_an_hour() {
        let pauses: Vec<u64> = (0..=12).map(|failures| backoff(failures).as_secs()).collect();
        assert_eq!(
            pauses,
            [30, 30, 60, 120, 240, 480, 960, 1800, 1800, 1800, 1800, 1800, 1800]
        );
        assert_eq!(backoff(u32::MAX), secs(1800));
    }

    #[test]
    fn retry_table() {
        use Interest::{Unused, Used, Watched};
        // failures, lifetime, interest -> pause s
        let table = [
            (1, 3600, Unused, Some(30.0)),
            (6, 3600, Unused, Some(960.0)),
            (9, 3600, Unused, Some(1800.0)),
            (6, 3600, Used, Some(900.0)), // a quarter of the lifetime
            (9, 3600, Used, Some(900.0)),
            (9, 36_000, Used, Some(1800.0)),
            (3, 60, Used, Some(15.0)),
            (1, 20, Used, Some(5.0)),
            (1, 20, Watched, Some(5.0)),
            (1, 20, Unused, Some(30.0)),
            (1, 0, Used, Some(30.0)), // the cooldown
            (5, 0, Used, Some(30.0)),
            (10, 3600, Unused, None),
            (10, 3600, Used, None),
            (10, 3600, Watched, Some(900.0)),
            (11, 20, Watched, Some(30.0)),
            (99, 36_000, Watched, Some(1800.0)),
            (u32::MAX, 36_000, Unused, None),
        ];
        for (failures, lifetime, interest, want) in table {
            let pause = retry(failures, secs(lifetime), interest).map(|pause| pause.as_secs_f64());
            assert_eq!(pause, want, "{:?}", (failures, lifetime, interest));
        }
    }

    proptest! {
        #[test]
        fn due_follows_the_rule_to_the_second_for_every_lifetime_and_jitter(
            lifetime in prop_oneof![1..1_200_u64, 1_200..100_000_u64, 100_000..=MAX_LIFETIME.as_secs()],
            part in 0.0..1.0_f64,
            jitter in 0..30_u64,
        ) {
            #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part")]
            let passed = (lifetime as f64 * part) as u64;
            #[expect(clippy::cast_precision_loss, reason = "less than 30")]
            let wait = wait(secs(lifetime), secs(passed), (jitter as f64 + 0.5) / 30.0);
            let remaining = lifetime - passed;
            if lifetime >= 600 {
                prop_assert_eq!(wait, secs(remaining.saturating_sub((remaining / 10).max(300) + jitter)));
            } else {
                let lead = lifetime * 500;
                let most = (lifetime * 100).min(29_000);
                let millis = u64::try_from(wait.as_millis()).unwrap();
                prop_assert!(millis <= (remaining * 1000).saturating_sub(lead));
                prop_assert!(millis >= (remaining * 1000).saturating_sub(lead + most));
            }
        }

        #[test]
        fn a_fresh_token_is_never_due_before_the_cooldown_has_passed(
            lifetime in prop_oneof![1..1_000_000_u64, 1_000..=u64::MAX].prop_map(Duration::from_millis),
            fraction in 0.0..1.0_f64,
        ) {
            let wait = wait(lifetime, Duration::ZERO, fraction);
            prop_assert!(lifetime < secs(1) || wait >= cooldown(Some(lifetime)), "{:?}", wait);
            prop_assert!(lifetime.is_zero() || wait < lifetime);
        }

        #[test]
        fn nothing_overflows(
            lifetime in any::<u64>(), wall in any::<i32>(), passed in any::<u64>(), fraction in any::<f64>(),
            failures in any::<u32>(),
        ) {
            let stored = Now { wall: Timestamp::from_second(i64::from(wall)).unwrap(), boot: secs(passed), boot_id: "b".into() };
            let end = Now { wall: Timestamp::MAX, boot: Duration::MAX, boot_id: "b".into() };
            let begin = Now { wall: Timestamp::MIN, boot: Duration::ZERO, boot_id: "b".into() };
            for issued in [&stored, &end, &begin] {
                let expiry = Expiry::from_lifetime(secs(lifetime), issued);
                for now in [&stored, &end, &begin] {
                    let due = due(&expiry, now, fraction);
                    for later in [&stored, &end, &begin] {
                        prop_assert!(due.wait(later) <= Duration::MAX);
                    }
                }
            }
            for interest in [Interest::Unused, Interest::Used, Interest::Watched] {
                prop_assert!(retry(failures, secs(lifetime), interest).is_none_or(|pause| pause >= secs(1).min(secs(lifetime) / 4)));
            }
        }
    }
}
