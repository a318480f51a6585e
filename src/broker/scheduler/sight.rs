//! What the clocks did between two looks at them.

use std::time::Duration;

use tokio::time::Instant;

use crate::clock::Now;

/// The wall clock against boot time, or boot time against the monotonic clock: a jump of more than this is a resume.
const JUMP: i128 = Duration::from_secs(2).as_nanos() as i128;
/// The wall clock may creep so far from boot time before the queue is put in order again.
const CREEP: i128 = Duration::from_secs(1).as_nanos() as i128;

/// A look at the clocks; differences in nanoseconds.
pub(super) struct Sight {
    origin: Instant,
    wall_ahead_of_boot: i128,
    boot_ahead_of_monotonic: i128,
    /// The difference by which the queue is in order.
    in_order_by: i128,
}

/// What happened since the last look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// The clocks ran together.
    None,
    /// The wall clock has crept away little by little, as it does when it is disciplined.
    Creep,
    /// The machine slept, or somebody set the wall clock.
    Jump,
}

impl Sight {
    /// The first look.
    pub(super) fn first(now: &Now, monotonic: Instant) -> Self {
        let wall_ahead_of_boot = wall_ahead_of_boot(now);
        Self {
            origin: monotonic,
            wall_ahead_of_boot,
            boot_ahead_of_monotonic: nanos(now.boot),
            in_order_by: wall_ahead_of_boot,
        }
    }

    /// Looks again.
    pub(super) fn look(&mut self, now: &Now, monotonic: Instant) -> Change {
        let wall = wall_ahead_of_boot(now);
        let boot = nanos(now.boot) - nanos(monotonic.saturating_duration_since(self.origin));
        let jumped =
            (wall - self.wall_ahead_of_boot).abs() > JUMP || (boot - self.boot_ahead_of_monotonic).abs() > JUMP;
        self.wall_ahead_of_boot = wall;
        self.boot_ahead_of_monotonic = boot;
        let change = match jumped {
            true => Change::Jump,
            false if (wall - self.in_order_by).abs() > CREEP => Change::Creep,
            false => return Change::None,
        };
        self.in_order_by = wall;
        change
    }
}

fn wall_ahead_of_boot(now: &Now) -> i128 {
    now.wall.as_nanosecond() - nanos(now.boot)
}

/// Centuries of nanoseconds fit many times.
fn nanos(duration: Duration) -> i128 {
    i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX / 4)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn jumps_and_creeping_are_told_from_time_that_passes() {
        // seconds that each clock moved, in milliseconds: wall, boot, monotonic -> change
        let table = [
            (10_000, 10_000, 10_000, Change::None),
            (10_900, 10_000, 10_000, Change::None),
            (11_000, 10_000, 10_000, Change::Creep), // 1.9 s in two steps
            (10_900, 10_000, 10_000, Change::None),  // counted from there
            (12_001, 10_000, 10_000, Change::Jump),
            (7_999, 10_000, 10_000, Change::Jump),
            (-7_200_000, 10_000, 10_000, Change::Jump),
            (31_536_000_000, 10_000, 10_000, Change::Jump),
            (28_810_000, 28_810_000, 10_000, Change::Jump), // suspended for eight hours
            (12_001, 12_001, 10_000, Change::Jump),
            (11_999, 11_999, 10_000, Change::None),
            (28_800_000, 28_800_000, 28_800_000, Change::None), // nobody looked for eight hours
            (0, 0, 0, Change::None),
            // Exactly as much as is let be.
            (12_000, 12_000, 10_000, Change::None),
            (11_000, 10_000, 10_000, Change::None),
            (10_001, 10_000, 10_000, Change::Creep),
            (12_000, 10_000, 10_000, Change::Creep),
        ];
        let mut now = Now {
            wall: Timestamp::from_second(1_800_000_000).unwrap(),
            boot: Duration::from_secs(5_000),
            boot_id: "boot".into(),
        };
        let mut sight = Sight::first(&now, Instant::now());
        for (wall, boot, monotonic, want) in table {
            now.wall += jiff::SignedDuration::from_millis(wall);
            now.boot += Duration::from_millis(boot);
            tokio::time::advance(Duration::from_millis(monotonic)).await;
            assert_eq!(sight.look(&now, Instant::now()), want, "{:?}", (wall, boot, monotonic));
        }
    }
}
