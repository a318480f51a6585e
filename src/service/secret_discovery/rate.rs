//! How many names a sandbox may ask for, over all its calls, and how much of what it says is logged.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::broker::Error;

/// What one name costs: as many may come in a second as calls on a socket.
const PER_NAME: Duration = Duration::from_micros(1_000_000 / 600);
/// How many may come at once.
const AHEAD: u32 = 1024;
/// So often a refusal is logged where it is seen, after the first ones.
const PER_REFUSAL: Duration = Duration::from_secs(10);
const FIRST_REFUSALS: u32 = 8;

/// Names cost what calls do: each is looked up, and one outside the policy is written to the audit. So they have a rate, too,
/// which is each sandbox's own. There are as many as the host named, so nothing is ever taken out.
#[derive(Clone, Default)]
pub(super) struct Rates {
    names: Paid,
    refusals: Paid,
}

/// When all that a principal has spent will have been paid for.
type Paid = Arc<Mutex<HashMap<Arc<str>, Instant>>>;

impl Rates {
    /// The principal asks for so many names beyond those that its call pays for.
    ///
    /// # Errors
    /// [`Error::RateLimited`].
    pub(super) fn spend(&self, principal: &Arc<str>, names: usize) -> Result<(), Error> {
        if names == 0 {
            return Ok(());
        }
        let cost = PER_NAME * u32::try_from(names).unwrap_or(u32::MAX);
        spend(&self.names, principal, cost, PER_NAME * AHEAD).map_err(|retry_after| Error::RateLimited {
            whose: "the names of secrets that this sandbox asks for",
            retry_after,
        })
    }

    /// Whether what the principal's Envoy refused is logged where it is seen.
    pub(super) fn is_logged(&self, principal: &Arc<str>) -> bool {
        spend(&self.refusals, principal, PER_REFUSAL, PER_REFUSAL * FIRST_REFUSALS).is_ok()
    }
}

/// Spends so much, unless more than `ahead` is not paid for; then it says how long to wait.
fn spend(paid: &Paid, principal: &Arc<str>, cost: Duration, ahead: Duration) -> Result<(), Duration> {
    let now = Instant::now();
    let mut paid = paid.lock().unwrap_or_else(PoisonError::into_inner);
    let paid = paid.entry(Arc::clone(principal)).or_insert(now);
    let behind = paid.saturating_duration_since(now);
    let retry_after = behind.saturating_sub(ahead);
    if !retry_after.is_zero() {
        return Err(retry_after);
    }
    *paid = now + behind + cost;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_sandbox_has_its_own_rate_and_the_delay_is_true() {
        let rate = Rates::default();
        let (one, other): (Arc<str>, Arc<str>) = ("one".into(), "other".into());
        let names = |principal: &Arc<str>| (0..5000).take_while(|_| rate.spend(principal, 1).is_ok()).count();
        assert_eq!(names(&one), 1025);
        assert_eq!(names(&other), 1025);
        assert!(rate.spend(&one, 0).is_ok());
        let Err(Error::RateLimited { retry_after, .. }) = rate.spend(&one, 1) else {
            panic!("it passed")
        };
        tokio::time::advance(retry_after).await;
        assert!(rate.spend(&one, 1).is_ok());
        assert!(rate.spend(&one, 1).is_err());
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(names(&one), 1025);
    }
}
