//! Directories and sockets as they are on a disk, among threads, processes, other users and kill -9.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test says what it expects by failing"
)]

mod brokers;
mod crashes;
mod directories;
mod fixture;
mod paths;
mod races;
