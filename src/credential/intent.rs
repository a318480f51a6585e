//! The mark that a refresh leaves in the store before a refresh token goes out.

use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::clock::Now;

/// How long an intent keeps others from presenting the same refresh token: longer than any presentation lasts.
const DEADLINE: Duration = Duration::from_secs(90);

/// "I am about to present this refresh token." Written durably before the first byte leaves, removed with whatever the
/// outcome is, unless nobody can know the outcome. Who finds one of another flight, in whatever process, waits it out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    /// SHA-256 of the refresh token: tells whether the mark is about the one that is stored.
    pub refresh_token_sha256: [u8; 32],
    /// When it was written, by both clocks.
    pub written: Now,
    /// For how long it holds.
    pub deadline: Duration,
}

impl Intent {
    /// The intent to present this refresh token now.
    #[must_use]
    pub fn to_present(refresh_token: &SecretString, now: &Now) -> Self {
        Self {
            refresh_token_sha256: digest(refresh_token),
            written: now.clone(),
            deadline: DEADLINE,
        }
    }

    /// Whether it is about this refresh token.
    #[must_use]
    pub fn is_about(&self, refresh_token: &SecretString) -> bool {
        bool::from(self.refresh_token_sha256.ct_eq(&digest(refresh_token)))
    }

    /// How much longer it holds; zero: whoever wrote it is not presenting any more. It has passed when either clock says
    /// so, and with every boot.
    #[must_use]
    pub fn remaining(&self, now: &Now) -> Duration {
        if self.written.boot_id != now.boot_id {
            return Duration::ZERO;
        }
        let by_boot = self.deadline.saturating_sub(now.boot.saturating_sub(self.written.boot));
        let passed = Duration::try_from(now.wall.duration_since(self.written.wall)).unwrap_or_default();
        by_boot.min(self.deadline.saturating_sub(passed))
    }
}

fn digest(refresh_token: &SecretString) -> [u8; 32] {
    Sha256::digest(refresh_token.expose_secret()).into()
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

    #[test]
    fn an_intent_passes_by_either_clock_and_with_every_boot() {
        let intent = Intent::to_present(&"refresh".into(), &at(1_000, 500, "b"));
        let table = [
            (at(1_000, 500, "b"), 90),
            (at(1_030, 530, "b"), 60),
            (at(1_090, 590, "b"), 0),
            (at(1_000, 590, "b"), 0), // the wall clock was set back
            (at(5_000, 501, "b"), 0), // and forward
            (at(900, 540, "b"), 50),
            (at(1_001, 3, "other"), 0),
        ];
        for (now, want) in table {
            assert_eq!(intent.remaining(&now).as_secs(), want, "{now:?}");
        }
    }

    #[test]
    fn an_intent_is_about_one_refresh_token_and_does_not_hold_it() {
        let intent = Intent::to_present(&"refresh".into(), &at(0, 0, "b"));
        assert!(intent.is_about(&"refresh".into()));
        assert!(!intent.is_about(&"refreshed".into()));
        assert!(!format!("{intent:?}").contains("refresh\""));
    }
}
