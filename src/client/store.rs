//! What a program asks of a broker, wherever the broker is.

use std::{pin::Pin, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use secrecy::SecretString;
use tokio::runtime::Handle;

use super::{Error, TokenStream};
use crate::credential::{AccessToken, EntryKey, Name, SavedToken};

/// Access tokens of entries (a provider and a bucket each). There is no way to a refresh token.
///
/// Every call may be made from any number of tasks at once. One that is dropped stops waiting; a change that it began
/// goes on in the broker. The trait is made with [`async_trait`](super::async_trait), so it can be a trait object, and
/// an implementation (a fake in a test, say) is written with the same attribute.
#[async_trait]
pub trait CredentialStore: Send + Sync {
    /// A usable access token. `None`: there is no such entry.
    ///
    /// `min_validity` is how long the token shall still be valid, capped by the broker at half of its lifetime; zero
    /// asks for any usable one. Ask each time a token is needed: the broker renews it before it expires, and answers
    /// from memory.
    ///
    /// # Errors
    /// [`Error::NeedsLogin`] if the token has expired and cannot be renewed; otherwise what the broker answers, or that
    /// it could not be asked.
    async fn get_token(&self, key: &EntryKey, min_validity: Duration) -> Result<Option<AccessToken>, Error>;

    /// The entry's usable access token, then each new one as soon as it is stored, whoever renewed it; nothing while nothing
    /// changes. `None`: there is no such entry. It returns when the first token is there, which may take as long as any
    /// request; after that there is no limit.
    ///
    /// The stream ends after its first error: [`Error::NotFound`] when the entry is removed, [`Error::NeedsLogin`] when its
    /// last token has expired and cannot be renewed, [`Error::ShuttingDown`], [`Error::ConnectionLost`]. Who reads slowly gets
    /// the newest token, not a backlog; after a removal none. A stream that is dropped ends at the broker at once. It may be
    /// read on any runtime. [`TokenHandle`](super::TokenHandle) is for a program that needs a token now and then.
    ///
    /// # Errors
    /// As for [`get_token`](Self::get_token); [`Error::TooManyStreams`].
    async fn watch_token(&self, key: &EntryKey) -> Result<Option<TokenStream>, Error>;

    /// Where the task of a [`TokenHandle`](super::TokenHandle) runs: on the runtime that this is called on, unless the store
    /// has one of its own. Where there is none, the task is dropped, and the handle says so.
    fn spawn(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>) {
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(task);
        }
    }

    /// A new access token, for a program whose token was refused where it was used. `revision` is that of the refused
    /// token: if the broker has another one by now, that is the answer, and the provider is not asked again. `None`: there
    /// is no such entry.
    ///
    /// # Errors
    /// Why there is no new token; [`Error::RateLimited`] if the entry was refreshed a moment ago.
    async fn refresh_token(&self, key: &EntryKey, revision: Option<&str>) -> Result<Option<AccessToken>, Error>;

    /// Replaces the access token of an entry that exists; its refresh token stays.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such entry; [`Error::Unauthorized`] unless the host allows it.
    async fn save_token(&self, key: &EntryKey, token: SavedToken) -> Result<(), Error>;

    /// Removes an entry. When this returns, the entry is gone durably. To remove what is not there is no error.
    ///
    /// # Errors
    /// [`Error::Unauthorized`] unless the host allows it.
    async fn remove_token(&self, key: &EntryKey) -> Result<Revocation, Error>;

    /// The providers of which at least one entry may be read, in order of name.
    ///
    /// # Errors
    /// What the broker answers, or that it could not be asked.
    async fn list_providers(&self) -> Result<Vec<Name>, Error>;

    /// The buckets of a provider that may be read, in order of name.
    ///
    /// # Errors
    /// What the broker answers, or that it could not be asked.
    async fn list_buckets(&self, provider: &Name) -> Result<Vec<Name>, Error>;

    /// How often the entry's token was delivered. Asking is not a use. `None`: there is no such entry.
    ///
    /// # Errors
    /// What the broker answers, or that it could not be asked.
    async fn get_bucket_stats(&self, key: &EntryKey) -> Result<Option<BucketStats>, Error>;

    /// For programs that are used to coordinate refreshes themselves: there is nothing to do, the broker coordinates.
    /// Always `true`.
    ///
    /// # Errors
    /// None here; other implementations may have some.
    async fn acquire_refresh_lock(&self, key: &EntryKey) -> Result<bool, Error>;

    /// The other half of [`acquire_refresh_lock`](Self::acquire_refresh_lock). Always `true`.
    ///
    /// # Errors
    /// None here; other implementations may have some.
    async fn release_refresh_lock(&self, key: &EntryKey) -> Result<bool, Error>;
}

/// API keys. As for threads, tasks and implementations, see [`CredentialStore`].
#[async_trait]
pub trait ApiKeyStore: Send + Sync {
    /// An API key. `None`: there is none of that name.
    ///
    /// # Errors
    /// What the broker answers, or that it could not be asked.
    async fn get_api_key(&self, name: &Name) -> Result<Option<SecretString>, Error>;

    /// Whether there is an API key of that name. It counts as a use, as reading it does.
    ///
    /// # Errors
    /// What the broker answers, or that it could not be asked.
    async fn has_api_key(&self, name: &Name) -> Result<bool, Error>;

    /// The names of the API keys that may be read, in order.
    ///
    /// # Errors
    /// What the broker answers, or that it could not be asked.
    async fn list_api_keys(&self) -> Result<Vec<Name>, Error>;

    /// Sets an API key: text of 1 to 16384 bytes without NUL.
    ///
    /// # Errors
    /// Through a socket always [`Error::ApiKeyManagement`]. On the host [`Error::InvalidRequest`], or the store's failure.
    async fn save_api_key(&self, name: &Name, key: SecretString) -> Result<(), Error>;

    /// Deletes an API key. To delete what is not there is no error.
    ///
    /// # Errors
    /// Through a socket always [`Error::ApiKeyManagement`]. On the host the store's failure.
    async fn delete_api_key(&self, name: &Name) -> Result<(), Error>;
}

/// What the broker said of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerInfo {
    /// The broker's own version.
    pub version: String,
    /// What it offers beyond the first version of the protocol.
    pub features: Vec<String>,
}

impl ServerInfo {
    pub(super) fn new(version: String, features: Vec<String>) -> Self {
        Self { version, features }
    }
}

/// The counts of one bucket.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct BucketStats {
    /// How many times the broker delivered a token of the bucket since it started.
    pub request_count: u64,
    /// Its share among the buckets of the provider that the policy allows, 0 to 100.
    pub percentage: f64,
    /// The last delivery, by the host's clock. `None`: there was none.
    pub last_used: Option<Timestamp>,
}

/// What became of the token at the provider when its entry was removed (RFC 7009). The entry is gone in every case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Revocation {
    /// There was no entry, so there was nothing to revoke.
    NothingStored,
    /// The provider has no revocation endpoint, or none is configured.
    NotSupported,
    /// The provider confirmed the revocation.
    Done,
    /// The provider refused or could not be reached.
    Failed,
    /// The revocation goes on in the broker.
    Pending,
    /// The broker did not say, or said something newer than this client.
    Unknown,
}
