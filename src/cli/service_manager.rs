//! What a service manager is told of a `serve` (`sd_notify(3)`). Without one to tell, nothing is.

use std::{convert::Infallible, time::Duration};

use sd_notify::NotifyState;

use crate::{config::Environment, daemon::Running};

/// How long after a failed look at the store the next one is.
const AGAIN: Duration = Duration::from_secs(1);

/// Tells how the broker stands for as long as it serves: that it is ready as soon as its store can be read, and from then on
/// that it lives, if that is asked for. The socket accepts already.
pub(super) async fn announce(running: &Running, environment: &Environment) -> Infallible {
    if environment.get("NOTIFY_SOCKET").is_none() {
        return std::future::pending().await;
    }
    store_is_readable(running).await;
    let serving = format!("Serving {}", running.socket().display())
        .escape_debug()
        .to_string();
    tell(&[NotifyState::Ready, NotifyState::Status(&serving)]);
    match sd_notify::watchdog_enabled() {
        Some(patience) if !patience.is_zero() => stay_alive(patience).await,
        Some(_) | None => std::future::pending().await,
    }
}

/// Tells that the broker stops.
pub(super) fn stopping() {
    tell(&[
        NotifyState::Stopping,
        NotifyState::Status("Ending the calls that are under way"),
    ]);
}

/// A store that is locked may be unlocked in a moment; until then nobody who waits for this service is sent here.
async fn store_is_readable(running: &Running) {
    let mut told = false;
    while let Err(error) = running.check().await {
        if !told {
            told = true;
            tracing::warn!(%error, "not ready: the store cannot be read");
            tell(&[NotifyState::Status("Waiting: the store cannot be read, see the log")]);
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Twice as often as it has to be. A sign of life is one of the runtime's: its clock runs, and a worker takes up a task. A store
/// or a provider that is down is no reason to be started anew.
async fn stay_alive(patience: Duration) -> Infallible {
    let mut ticks = tokio::time::interval(patience / 2);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if tokio::spawn(async {}).await.is_ok() {
            tell(&[NotifyState::Watchdog]);
        }
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager cannot be told how this service stands");
    }
}
