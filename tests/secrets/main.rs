//! Envoy's secret discovery, over a real socket: a raw client of the protocol in paused time, against a store, a provider
//! and clocks that do as they are told. The real Envoy is in `tests/interop/envoy`.
#![cfg(feature = "envoy")]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that fails shall panic, also in its helpers"
)]

mod bad;
mod bounds;
mod fetch;
mod house;
mod records;
mod slow;
mod stream;

#[expect(dead_code, reason = "every test binary uses its own part of this")]
#[path = "../support/clock.rs"]
mod clock;
#[path = "../support/log.rs"]
mod log;
#[expect(dead_code, reason = "every test binary uses its own part of this")]
#[path = "../support/provider.rs"]
mod provider;
#[path = "../support/mod.rs"]
mod support;
