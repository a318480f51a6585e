//! What a refresh promises, in paused time, against a provider, a store and clocks that do as they are told. The parts
//! are the promises' own: one presentation, what each outcome means, what is left when the disk is full, who waits how
//! long, and how a logout and the end of the broker come in between.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that fails shall panic, also in its helpers"
)]

mod authority;
mod cooldown;
mod counting;
mod house;
mod intents;
mod joining;
mod logout;
mod outcomes;
mod permits;
mod processes;
mod renewing;
mod saving;
mod serving;
mod stopping;
mod waiting;
mod watching;

#[expect(dead_code, reason = "every test binary uses its own part of this")]
#[path = "../support/clock.rs"]
mod clock;
#[expect(dead_code, reason = "every test binary uses its own part of this")]
#[path = "../support/fake.rs"]
mod fake;
#[path = "../support/log.rs"]
mod log;
