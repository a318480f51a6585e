//! What several targets have in common: time that stands, a broker with secrets in it, and calls to a service of it.

#![allow(missing_docs, reason = "for the targets next door only")]

pub mod calls;
pub mod endpoint;
pub mod house;
pub mod input;

use std::{future::Future, sync::Arc, time::Duration};

use credbroker::clock::{Clock, Now};
use jiff::Timestamp;

/// Runs to the end in a runtime of its own with paused time, so that nothing of one input is left for the next.
pub fn in_paused_time<F: Future>(work: F) -> F::Output {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().unwrap();
    runtime.block_on(work)
}

/// Both clocks go as tokio's paused time does.
pub struct PausedClock(tokio::time::Instant);

impl PausedClock {
    pub fn start() -> Arc<Self> {
        Arc::new(Self(tokio::time::Instant::now()))
    }
}

impl Clock for PausedClock {
    fn now(&self) -> Now {
        after(self.0.elapsed())
    }
}

/// Both clocks, so long after some moment.
pub fn after(passed: Duration) -> Now {
    Now {
        wall: Timestamp::from_second(1_800_000_000).unwrap() + passed,
        boot: Duration::from_secs(10_000) + passed,
        boot_id: "a boot".into(),
    }
}

/// Whether one text is in the other.
pub fn holds(octets: &[u8], text: &str) -> bool {
    octets.windows(text.len()).any(|window| window == text.as_bytes())
}
