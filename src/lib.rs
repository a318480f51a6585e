//! credbroker hands short-lived credentials to sandboxed processes over gRPC on a Unix domain socket. Refresh tokens
//! and every other long-lived secret stay on the host.
//!
//! A program that needs credentials wants [`client`], which begins with an example; so does `examples/client.rs`. The rest
//! is the broker itself.
//!
//! The modules, from the outside in; arrows go downwards only (`tests/architecture.rs` holds the table):
//!
//! | module | job |
//! | --- | --- |
//! | [`cli`] | one file per command |
//! | [`daemon`] | the composition root: the only place that names concrete backends |
//! | [`server`] | the socket, who is calling, and the layers around every call |
//! | [`service`] | one file per family of calls: decode, ask the broker, encode |
//! | [`broker`] | the core: what a caller may have, and how it comes about |
//! | [`store`] | where token sets and API keys are kept |
//! | [`oauth`] | authorization servers, and the one HTTP client |
//! | [`client`] | what a program imports to get credentials, in a sandbox or on the host |
//! | [`sandbox`] | from what `run --sandbox` is asked for to a runtime's command line |
//! | [`config`] | file, environment and flags become one valid configuration |
//! | [`credential`], [`clock`], [`reason`], [`proto`] | the leaves: values, time, names of failures, generated code |

pub mod broker;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod credential;
pub mod daemon;
pub mod oauth;
pub mod proto;
pub mod reason;
pub mod sandbox;
pub mod server;
pub mod service;
pub mod store;
