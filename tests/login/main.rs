//! What a login promises, in paused time, against a provider, a store and people that do as they are told: sessions and
//! who may use them, the three flows, whose account it is, and what a logout or the end of the broker does in between.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that fails shall panic, also in its helpers"
)]

mod accounts;
mod browser;
mod counting;
mod device;
mod ending;
mod house;
mod paste;
mod races;
mod sessions;

#[expect(dead_code, reason = "every test binary uses its own part of this")]
#[path = "../support/clock.rs"]
mod clock;
#[path = "../support/login.rs"]
mod desk;
#[expect(dead_code, reason = "every test binary uses its own part of this")]
#[path = "../support/fake.rs"]
mod fake;
#[path = "../support/log.rs"]
mod log;
