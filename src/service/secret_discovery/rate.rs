//! How many names a sandbox may ask for, over all its calls.

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

/// Names cost what calls do: each is looked up, and one outside the policy is written to the audit. So they have a rate, too,
/// which is each sandbox's own. There are as many as the host named, so nothing is ever taken out.
#[derive(Clone, Default)]
pub(super) struct NameRate(Arc<Mutex<HashMap<Arc<str>, Instant>>>);

impl NameRate {
    /// The principal asks for so many names beyond those that its call pays for.
    ///
    /// # Errors
    /// [`Error::RateLimited`].
    pub(super) fn spend(&self, principal: &Arc<str>, names: usize) -> Result<(), Error> {
        if names == 0 {
            return Ok(());
        }
        let now = Instant::now();
        let mut paid = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let paid = paid.entry(Arc::clone(principal)).or_insert(now);
        let behind = paid.saturating_duration_since(now);
        let retry_after = behind.saturating_sub(PER_NAME * AHEAD);
        if !retry_after.is_zero() {
            return Err(Error::RateLimited {
                whose: "the names of secrets that this sandbox asks for",
                retry_after,
            });
        }
        *paid = now + behind + PER_NAME * u32::try_from(names).unwrap_or(u32::MAX);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_sandbox_has_its_own_rate_and_the_delay_is_true() {
        let rate = NameRate::default();
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
