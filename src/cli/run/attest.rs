//! `--attest pidns`: which process the sandbox descends from.

use std::{io, time::Duration};

use tokio::time::sleep;

use super::{BROKER_FAILED, confined::Session};
use crate::{
    cli::failure::Failure,
    sandbox::{Broker, Sandbox},
    server::peer::{OnlySandbox, Reveal, Root, can_pin},
};

/// How long a container may take to begin, its image to be fetched included.
const PATIENCE: Duration = Duration::from_secs(600);
/// Between two questions, at first and at most: a container that is there begins at once, an image may take minutes to come.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// A sandbox that is about to be started. Where peers cannot be held, their numbers would prove nothing.
pub(super) fn sandbox_to_come() -> Result<(OnlySandbox, Reveal), Failure> {
    can_pin().map_err(|missing| {
        let text = format!("--attest pidns cannot be had on this system: {missing}; leave --attest out");
        Failure::internal(text).with_code(BROKER_FAILED)
    })?;
    Ok(OnlySandbox::to_be_started())
}

/// The sandbox descends from this child of ours, which has not been waited for.
pub(super) fn child(reveal: &Reveal, pid: Option<u32>) {
    // Without a number it has ended, and nobody is in there.
    let Some(pid) = pid.and_then(|pid| i32::try_from(pid).ok()) else {
        return;
    };
    match Root::of(pid) {
        Ok(root) => reveal.started(root),
        Err(error) => {
            tracing::warn!(pid, %error, "the first process of the sandbox cannot be looked at; nobody is served");
        }
    }
}

/// The sandbox descends from the first process of the container, which is no child of ours: its runtime knows it, some time
/// after it has been started. Until then nobody is served.
///
/// # Errors
/// Nothing in this container could ever be told from the host's own processes.
pub(super) async fn container(
    reveal: &Reveal,
    sandbox: &Sandbox,
    broker: &Broker,
    session: &Session<'_>,
) -> Result<(), Failure> {
    let end = tokio::time::Instant::now() + PATIENCE;
    let mut pause = PAUSE.0;
    while tokio::time::Instant::now() < end {
        match first_process(sandbox, broker, session).await {
            Ok(Some(root)) => {
                reveal.started(root);
                return Ok(());
            }
            Ok(None) => {}
            Err(NoNameSpace) => {
                let text = "--attest pidns: the container has the process numbers of this host, so its processes cannot be told \
                     from others; leave out what makes it so (--runtime-arg=--pid=host, or `pidns` in containers.conf), or --attest";
                return Err(Failure::internal(text).with_code(BROKER_FAILED));
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE.1);
    }
    tracing::warn!("the runtime does not say which process the container began with; nobody is served");
    Ok(())
}

/// The container's first process is in the broker's own pid name space, and stays there.
struct NoNameSpace;

/// `None`: not yet.
async fn first_process(sandbox: &Sandbox, broker: &Broker, session: &Session<'_>) -> Result<Option<Root>, NoNameSpace> {
    let Some(pid) = asked(sandbox, broker, session).await else {
        return Ok(None);
    };
    let root = Root::below(pid);
    // Asked again: the number was still its own when it was looked at.
    if asked(sandbox, broker, session).await != Some(pid) {
        return Ok(None);
    }
    match root {
        Ok(root) => Ok(Some(root)),
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Err(NoNameSpace),
        Err(_gone) => Ok(None),
    }
}

async fn asked(sandbox: &Sandbox, broker: &Broker, session: &Session<'_>) -> Option<i32> {
    let line = sandbox.first_process(broker)?;
    let mut command = session.question(&line);
    let answer = command.output().await.ok()?;
    let pid = std::str::from_utf8(&answer.stdout).ok()?.trim().parse().ok()?;
    (answer.status.success() && pid > 0).then_some(pid)
}
