//! So much a second, and room for some seconds' worth at once. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// An allowance as one moment: the one at which all that was spent will have been paid for.
#[derive(Debug)]
pub(super) struct Allowance {
    each: Duration,
    burst: Duration,
    paid: Instant,
}

impl Allowance {
    pub(super) fn new(now: Instant, per_second: u32, burst: Duration) -> Self {
        Self {
            each: Duration::from_secs(1) / per_second.max(1),
            burst,
            paid: now,
        }
    }

    /// Spends so much, and says how long it takes until that is within the allowance.
    pub(super) fn spend(&mut self, amount: u32, now: Instant) -> Duration {
        self.paid = self.paid.max(now) + self.each * amount;
        (self.paid - now).saturating_sub(self.burst)
    }

    /// Takes back what was spent in error. What was paid for meanwhile stays so: no more is saved up than the burst.
    pub(super) fn give_back(&mut self, amount: u32) {
        self.paid = self.paid.checked_sub(self.each * amount).unwrap_or(self.paid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_spent_too_much_is_paid_back_in_time() {
        let start = Instant::now();
        let seconds = Duration::from_secs_f64;
        let mut allowance = Allowance::new(start, 10, seconds(2.0));
        assert_eq!(allowance.spend(20, start), Duration::ZERO);
        assert_eq!(allowance.spend(5, start), seconds(0.5));
        assert_eq!(allowance.spend(0, start + seconds(0.5)), Duration::ZERO);
        // A long pause saves up no more than the burst.
        let later = start + seconds(100.0);
        assert_eq!(allowance.spend(20, later), Duration::ZERO);
        assert_eq!(allowance.spend(1, later), seconds(0.1));
    }

    #[test]
    fn what_is_given_back_can_be_spent_again_and_saves_up_nothing() {
        let start = Instant::now();
        let mut allowance = Allowance::new(start, 10, Duration::from_secs(2));
        assert_eq!(allowance.spend(20, start), Duration::ZERO);
        allowance.give_back(5);
        assert_eq!(allowance.spend(5, start), Duration::ZERO);
        assert_eq!(allowance.spend(1, start), Duration::from_millis(100));
        let later = start + Duration::from_secs(100);
        allowance.give_back(21);
        assert_eq!(allowance.spend(20, later), Duration::ZERO);
        assert_eq!(allowance.spend(1, later), Duration::from_millis(100));
    }
}
