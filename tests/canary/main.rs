//! Secrets as canaries: put everywhere a secret can be, looked for everywhere one must not be.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper that cannot go on fails the test"
)]

#[path = "../command/mod.rs"]
#[expect(dead_code, reason = "other tests use the rest of it")]
mod command;
mod live;
mod logins;
mod panics;
mod scanner;
#[path = "../support/wire.rs"]
#[expect(dead_code, reason = "other tests use the rest of it")]
mod wire;

mod types;
