//! What the stores promise: one suite over every backend, and what only files can break.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that fails shall panic, also in its helpers"
)]

mod contract;
mod damage;
mod disk;
mod identity;
mod processes;
mod support;
