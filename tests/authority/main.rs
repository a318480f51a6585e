//! The `:authority` adapter with the real `h2` behind it as the judge.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a helper that panics fails the test that called it; clippy knows that only of test functions"
)]

mod client;
mod properties;
mod recorded;
mod server;
mod stream;
mod tonic;
