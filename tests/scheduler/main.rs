//! What proactive renewal promises, in paused time: that every token is renewed in time whatever the clocks do, that
//! nothing spins, what a failure leads to, and what a hundred thousand entries cost.
#![expect(clippy::unwrap_used, reason = "a test that fails shall panic, also in its helpers")]

mod clocks;
mod crowd;
mod ending;
mod failures;
mod house;
mod lifetimes;

#[expect(dead_code, reason = "every test binary uses its own part of this")]
#[path = "../support/clock.rs"]
mod clock;
#[path = "../support/log.rs"]
mod log;
#[path = "../support/provider.rs"]
mod provider;
