//! The record of a real broker: that it is whole, that it says so when it is not, and that nothing is handed out without it
//! where that is asked for.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a helper that cannot go on fails the test"
)]

mod broker;
#[path = "../command/mod.rs"]
#[expect(dead_code, reason = "other tests use the rest of it")]
mod command;
mod full;
mod reading;
mod streams;
#[path = "../support/mod.rs"]
mod support;
