//! Signals that cancel a login.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::process::Signal;
use tokio::sync::watch;

use crate::cli::{
    failure::Failure,
    signals::{CANCELLING, Signals},
};

/// The first signal that asked for the end. Clones are the same.
#[derive(Clone)]
pub(super) struct Interrupt {
    first: watch::Receiver<Option<Signal>>,
    prompted: Arc<AtomicBool>,
}

impl Interrupt {
    /// Catches them from here on.
    pub(super) fn catch() -> Result<Self, Failure> {
        let mut signals = Signals::catch(&CANCELLING)?;
        let (raise, first) = watch::channel(None);
        tokio::spawn(async move {
            while let Some(signal) = signals.next().await {
                raise.send_if_modified(|first| first.replace(signal).is_none());
            }
        });
        Ok(Self {
            first,
            prompted: Arc::default(),
        })
    }

    /// The signal, if there was one.
    pub(super) fn signal(&self) -> Option<Signal> {
        *self.first.borrow()
    }

    /// Returns when there was one.
    pub(super) async fn raised(&self) {
        // Without a sender there will be none.
        if self.first.clone().wait_for(Option::is_some).await.is_err() {
            pending::<()>().await;
        }
    }

    /// The user has been shown what to open; from now on there is something to cancel.
    pub(super) fn prompted(&self) {
        self.prompted.store(true, Ordering::Release);
    }

    /// Returns when there was one before the user was shown anything.
    pub(super) async fn before_the_prompt(&self) {
        self.raised().await;
        if self.prompted.load(Ordering::Acquire) {
            pending::<()>().await;
        }
    }
}
