//! What a Rust program imports to get credentials: in a sandbox through the socket, on the host from a broker in its own
//! process. The program is the same in both.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use credbroker::client::{self, CredentialStore as _, ExposeSecret as _};
//!
//! # async fn example() -> Result<(), client::Error> {
//! let store = client::token_store_from_env()?;
//! let github = client::entry("github", "")?;
//! match store.get_token(&github, Duration::ZERO).await? {
//!     Some(token) => println!("{} bytes", token.access_token.expose_secret().len()),
//!     None => println!("nobody has logged in to github"),
//! }
//! client::shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! - [`CredentialStore`] and [`ApiKeyStore`] are what can be asked. Access tokens only: there is no way to a refresh token.
//! - [`token_store_from_env`] gives the one [`ProcessStore`] of the process. It has a thread of its own, so it can be used
//!   from any runtime and outlives each; [`shutdown`] ends it in order.
//! - [`ProxyTokenStore`] is one socket's, on the caller's own runtime, for programs that know their socket.
//! - [`LoginAdapter`] logs in: what the user has to see goes to a [`LoginUi`], everything secret stays on the host.
//! - [`TokenHandle`] has an entry's token at hand, and does not wait on the network while the newest is valid;
//!   [`CredentialStore::watch_token`] is the stream of tokens behind it.
//! - [`Error`] has a variant for each reason that a broker gives. That there is no such entry is an answer, not an error.
//!
//! Nothing here refreshes, schedules or repeats a call by itself, but for the question how a login stands: renewal is the broker's business, and so is coordination.
//!
//! # The connection
//!
//! It is made with the first call, begins with the agreement on a protocol version, and carries all calls. What is watched
//! has connections of its own, which are made in the same way: 64 watches on each, and none that has no watch left. Three
//! things can end a connection:
//!
//! - **It breaks.** Then every further call and watch fails with [`Error::ConnectionLost`], for good, whichever of the
//!   connections it was, and also if a broker listens at the path again: only the one who started the sandbox can tell
//!   whether that is the right one. What is under way on another connection goes on.
//! - **No version in common.** Everything further fails with [`Error::UnknownVersion`], for good.
//! - **Nobody used it for 5 minutes.** Then it is closed, and the next call makes a new one.
//!
//! That nobody listens is [`Error::CannotConnect`], and the next call looks again; a broker that is there and has no room
//! at the moment is waited for. A request that is not answered within
//! 30 s fails with [`Error::DeadlineExceeded`]; the connection stays. A watch has this limit up to its first token, and none
//! after it.
//!
//! Before anything is sent, the listener's uid is looked at: it has to be this process's own, root, or the owner of the
//! socket's directory if nobody else can write to that directory. The last is for sandboxes that map users, where the
//! broker may have any uid. So a stranger who was quicker in a shared directory, such as `/tmp`, gets no capability. Whoever
//! sets `CREDBROKER_SOCKET` is trusted to name a directory that only trusted users can replace.
//!
//! # On the host
//!
//! Without `CREDBROKER_SOCKET` the process has a broker of its own over the host's store, as the configuration says that
//! the command line uses, too. It may do everything, has no rates and no audit file, and can set and delete API keys. What
//! went wrong in the store is logged with `tracing`; the error says no more than it would in a sandbox. The program's umask
//! and dumpability stay as they are: files are made with their exact modes, but another process of the same user can read
//! this one's memory unless the program forbids it.

mod connect;
mod control;
mod error;
mod handle;
mod held;
mod in_process;
mod link;
mod login;
pub mod probe;
mod process;
mod proxy;
mod rpc;
mod store;
mod stream;
mod transport;
mod watches;
mod wire;

pub use async_trait::async_trait;
pub use secrecy::{ExposeSecret, SecretString};
pub use tokio_stream::Stream;

pub use self::{
    connect::ConnectError,
    control::broker_status,
    error::{Error, Refusal},
    handle::TokenHandle,
    login::{LoginAdapter, LoginFlow, LoginPrompt, LoginStep, LoginUi},
    process::{ProcessStore, shutdown, token_store_from_env},
    proxy::{ProxyTokenStore, ProxyTokenStoreBuilder},
    store::{ApiKeyStore, BucketStats, CredentialStore, Revocation, ServerInfo},
    stream::TokenStream,
    wire::timestamp,
};
pub use crate::credential::{AccessToken, EntryKey, Name, SavedToken};

/// Names an entry: a provider and a bucket. The empty bucket is the one called `default`.
///
/// # Errors
/// [`Error::InvalidRequest`] if one is no name: 1 to 64 of `[A-Za-z0-9._@-]`, not `.` or `..`.
pub fn entry(provider: &str, bucket: &str) -> Result<EntryKey, Error> {
    EntryKey::parse(provider, bucket).map_err(|(field, invalid)| Error::invalid(field, invalid))
}

/// Names a provider or an API key.
///
/// # Errors
/// [`Error::InvalidRequest`], by the same rule as for [`entry`].
pub fn name(text: &str) -> Result<Name, Error> {
    text.parse().map_err(|invalid| Error::invalid("name", invalid))
}
