//! A hostile client beside an honest one. In each attack the honest client, a process of its own, has to be served
//! throughout, and the broker's memory and descriptors have to stay below a bound and come back.
//!
//! `cargo test --test hostile` attacks for 2 s each; `CREDBROKER_HOSTILE_SECONDS=30` for longer. What an honest client
//! waited, and what the broker held, is printed (`-- --nocapture`).

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing"
)]

mod broker;
mod crowds;
mod drain;
mod floods;
mod honest;
mod junk;
mod rates;
mod records;
mod siege;
mod slow;
mod starvation;
mod wire;
