//! The client library against real brokers, in this process and in others, and against a scripted one for what no broker
//! does.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that fails shall panic, also in its helpers"
)]

mod answers;
mod broker;
mod connection;
mod handle;
mod login;
mod loss;
mod owner;
mod process;
mod rows;
mod scripted;
mod watch;
mod watched;
