//! The way off the async threads: file work runs on blocking ones, and nobody waits for it longer than a store call may
//! take. Work that nobody waits for any more is not cut short.

use std::{error::Error as StdError, sync::Arc, time::Duration};

use tokio::{
    task::{JoinError, spawn_blocking},
    time::{Instant, timeout_at},
};

use crate::store::{Operation, StoreError};

/// What one store call may take.
pub(super) const LIMIT: Duration = Duration::from_secs(15);

/// What is being done, and to what: the context of every failure.
#[derive(Debug, Clone)]
pub(super) struct Doing {
    pub(super) operation: Operation,
    pub(super) what: String,
}

impl Doing {
    pub(super) fn new(operation: Operation, what: impl Into<String>) -> Self {
        Self {
            operation,
            what: what.into(),
        }
    }

    /// The system refused it.
    pub(super) fn failed(&self, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> StoreError {
        StoreError::Unavailable {
            operation: self.operation,
            what: self.what.clone(),
            cause: Arc::from(cause.into()),
        }
    }

    /// It took too long.
    pub(super) fn timed_out(&self) -> StoreError {
        self.failed("timed out")
    }

    /// Its thread or task died. The panic's text is not passed on: it could quote what was being worked on.
    pub(super) fn died(&self, cause: &JoinError) -> StoreError {
        self.failed(if cause.is_panic() {
            "internal error of the store"
        } else {
            "the process is ending"
        })
    }
}

/// Runs `job` on a blocking thread and waits for it until `deadline`.
pub(super) async fn off_thread<T: Send + 'static>(
    doing: &Doing,
    deadline: Instant,
    job: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match timeout_at(deadline, spawn_blocking(job)).await {
        Ok(Ok(result)) => result,
        Ok(Err(cause)) => Err(doing.died(&cause)),
        Err(_elapsed) => Err(doing.timed_out()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_call_that_hangs_ends_by_its_limit_and_its_work_goes_on() {
        let (done, finished) = mpsc::channel();
        let doing = Doing::new(Operation::Write, "entry a/b");
        let soon = Instant::now() + Duration::from_millis(20);
        let answer = off_thread(&doing, soon, move || {
            std::thread::sleep(Duration::from_millis(200));
            done.send(()).unwrap();
            Ok(())
        });
        let error = answer.await.unwrap_err();
        assert!(
            error.to_string().starts_with("cannot write entry a/b: timed out;"),
            "{error}"
        );
        spawn_blocking(move || finished.recv().unwrap()).await.unwrap();
    }

    #[tokio::test]
    async fn a_panic_in_the_work_is_a_failure_that_quotes_nothing() {
        let doing = Doing::new(Operation::Read, "entry a/b");
        let deadline = Instant::now() + LIMIT;
        let error = off_thread::<()>(&doing, deadline, || panic!("s3cret"))
            .await
            .unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("cannot read entry a/b: internal error of the store;"),
            "{text}"
        );
        assert!(!text.contains("s3cret"), "{text}");
    }
}
