//! A device login: asking the provider, at its pace, until the user has answered (RFC 8628 sections 3.4 and 3.5).

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::landing::Outcome;
use crate::{
    clock::Clock,
    oauth::{
        LoginProvider,
        login::{DeviceAuthorization, DevicePoll, LoginTrouble},
    },
};

/// What `slow_down` adds, for good.
const SLOWER: Duration = Duration::from_secs(5);
/// The longest pause after answers that said nothing.
const LONGEST: Duration = Duration::from_secs(60);

/// How long the user is waited for.
pub(super) struct Patience<'a> {
    pub(super) clock: &'a dyn Clock,
    /// When the session's time is over, by boot time.
    pub(super) until: Duration,
}

/// Asks until the user has answered. `None`: the session ended first. `paced` is told each new interval.
pub(super) async fn answered(
    provider: &dyn LoginProvider,
    device: &DeviceAuthorization,
    patience: &Patience<'_>,
    ended: impl Future<Output = ()>,
    paced: impl Fn(Duration),
) -> Option<Outcome> {
    tokio::pin!(ended);
    let until = device.lifetime.map(|lifetime| Instant::now() + lifetime);
    let mut interval = device.interval;
    let mut pause = interval;
    loop {
        let next = Instant::now() + pause;
        if until.is_some_and(|until| next > until) {
            // The codes will have expired by then; the user has the rest of their time to be told nothing new.
            let rest = until.unwrap_or(next);
            return match timeout_at(rest, &mut ended).await {
                Ok(()) => None,
                Err(_elapsed) => Some(Err(LoginTrouble::Expired)),
            };
        }
        tokio::select! {
            () = &mut ended => return None,
            () = sleep(pause) => {}
        }
        let sent = patience.clock.now();
        // No sweep has come by yet.
        if sent.boot >= patience.until {
            return None;
        }
        // Never cut off: the answer may be the token set.
        match provider.poll_device(device).await {
            DevicePoll::Answered(answer) => return Some(Ok((answer, sent))),
            DevicePoll::Ended(trouble) => return Some(Err(trouble)),
            DevicePoll::Pending => pause = interval,
            DevicePoll::SlowDown => {
                interval += SLOWER;
                pause = interval;
                paced(interval);
            }
            DevicePoll::NotProcessed { seen, retry_after } => {
                tracing::debug!(%seen, "a device login could not be asked about");
                pause = (pause * 2)
                    .min(LONGEST.max(interval))
                    .max(retry_after.unwrap_or_default());
            }
        }
    }
}
