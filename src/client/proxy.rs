//! The store of a program in a sandbox: everything through the socket.

use std::{
    fmt,
    future::pending,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use secrecy::SecretString;

use super::{
    ApiKeyStore, BucketStats, CredentialStore, Error, Revocation, ServerInfo, TokenStream,
    link::{Link, Road},
    rpc::{Rpc, Way},
    transport::Capability,
    watches::Watches,
};
use crate::credential::{AccessToken, EntryKey, Name, SavedToken};

/// How long a request may take unless the builder says otherwise.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// After how long without a call the connection is closed, likewise.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// Longer times are cut to this, so that none overflows a clock.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// Credentials through the socket of a broker. Clones share one connection.
///
/// The connection is made with the first call, on the runtime of that call, and lives on it: it is lost when that runtime
/// ends. [`token_store_from_env`](super::token_store_from_env) has one that outlives its callers. What happens to the
/// connection, see [the module](super).
#[derive(Clone)]
pub struct ProxyTokenStore {
    rpc: Rpc,
    path: PathBuf,
}

impl ProxyTokenStore {
    /// A store that talks to this socket with this capability. Nothing is connected yet.
    ///
    /// # Errors
    /// [`Error::InvalidCapability`].
    pub fn new(socket: impl Into<PathBuf>, capability: Option<SecretString>) -> Result<Self, Error> {
        let builder = Self::builder(socket);
        match capability {
            Some(capability) => builder.capability(capability),
            None => builder,
        }
        .build()
    }

    /// The same with other times.
    pub fn builder(socket: impl Into<PathBuf>) -> ProxyTokenStoreBuilder {
        ProxyTokenStoreBuilder {
            socket: socket.into(),
            capability: None,
            request_timeout: REQUEST_TIMEOUT,
            idle_timeout: IDLE_TIMEOUT,
        }
    }

    /// The socket's path.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.path
    }

    /// What the broker said of itself when the connection was made; connects if there is none.
    ///
    /// # Errors
    /// Why there is no connection.
    pub async fn server_info(&self) -> Result<ServerInfo, Error> {
        self.rpc.server_info().await
    }

    pub(super) fn rpc(&self) -> &Rpc {
        &self.rpc
    }

    pub(super) fn into_rpc(self) -> Rpc {
        self.rpc
    }
}

impl fmt::Debug for ProxyTokenStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyTokenStore")
            .field("socket", &self.path)
            .finish_non_exhaustive()
    }
}

/// Makes a [`ProxyTokenStore`].
#[must_use]
pub struct ProxyTokenStoreBuilder {
    socket: PathBuf,
    capability: Option<SecretString>,
    request_timeout: Duration,
    idle_timeout: Duration,
}

impl ProxyTokenStoreBuilder {
    /// The capability to show with every call: what the host put into `CREDBROKER_CAPABILITY`. None by default.
    pub fn capability(mut self, capability: SecretString) -> Self {
        self.capability = Some(capability);
        self
    }

    /// How long a request may take, connecting included; 30 s by default. A list that has several pages is several
    /// requests. The broker has a limit of its own, 60 s.
    pub fn request_timeout(mut self, limit: Duration) -> Self {
        self.request_timeout = limit;
        self
    }

    /// After how long without a call the connection is closed; 5 minutes by default. The next call makes a new one.
    pub fn idle_timeout(mut self, limit: Duration) -> Self {
        self.idle_timeout = limit;
        self
    }

    /// The store. Nothing is connected yet.
    ///
    /// # Errors
    /// [`Error::InvalidCapability`].
    pub fn build(self) -> Result<ProxyTokenStore, Error> {
        let capability = self.capability.as_ref().map(Capability::new).transpose()?;
        let road = Road::new(self.socket.clone(), capability);
        let calls = Link::new(Arc::clone(&road), self.idle_timeout.min(LONGEST));
        let way = Way::Socket(calls, Watches::new(road));
        Ok(ProxyTokenStore {
            rpc: Rpc::new(way, self.request_timeout.min(LONGEST)),
            path: self.socket,
        })
    }
}

impl fmt::Debug for ProxyTokenStoreBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyTokenStoreBuilder")
            .field("socket", &self.socket)
            .field("request_timeout", &self.request_timeout)
            .field("idle_timeout", &self.idle_timeout)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl CredentialStore for ProxyTokenStore {
    async fn get_token(&self, key: &EntryKey, min_validity: Duration) -> Result<Option<AccessToken>, Error> {
        self.rpc.get_token(key, min_validity).await
    }

    async fn watch_token(&self, key: &EntryKey) -> Result<Option<TokenStream>, Error> {
        self.rpc.watch_token(key, pending()).await
    }

    async fn refresh_token(&self, key: &EntryKey, revision: Option<&str>) -> Result<Option<AccessToken>, Error> {
        self.rpc.refresh_token(key, revision).await
    }

    async fn save_token(&self, key: &EntryKey, token: SavedToken) -> Result<(), Error> {
        self.rpc.save_token(key, token).await
    }

    async fn remove_token(&self, key: &EntryKey) -> Result<Revocation, Error> {
        self.rpc.remove_token(key).await
    }

    async fn list_providers(&self) -> Result<Vec<Name>, Error> {
        self.rpc.list_providers().await
    }

    async fn list_buckets(&self, provider: &Name) -> Result<Vec<Name>, Error> {
        self.rpc.list_buckets(provider).await
    }

    async fn get_bucket_stats(&self, key: &EntryKey) -> Result<Option<BucketStats>, Error> {
        self.rpc.get_bucket_stats(key).await
    }

    async fn acquire_refresh_lock(&self, _key: &EntryKey) -> Result<bool, Error> {
        Ok(true)
    }

    async fn release_refresh_lock(&self, _key: &EntryKey) -> Result<bool, Error> {
        Ok(true)
    }
}

#[async_trait]
impl ApiKeyStore for ProxyTokenStore {
    async fn get_api_key(&self, name: &Name) -> Result<Option<SecretString>, Error> {
        self.rpc.get_api_key(name).await
    }

    async fn has_api_key(&self, name: &Name) -> Result<bool, Error> {
        Ok(self.rpc.get_api_key(name).await?.is_some())
    }

    async fn list_api_keys(&self) -> Result<Vec<Name>, Error> {
        self.rpc.list_api_keys().await
    }

    async fn save_api_key(&self, name: &Name, key: SecretString) -> Result<(), Error> {
        self.rpc.save_api_key(name, key).await
    }

    async fn delete_api_key(&self, name: &Name) -> Result<(), Error> {
        self.rpc.delete_api_key(name).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_30_s_and_a_connection_is_idle_after_5_minutes() {
        let builder = ProxyTokenStore::builder("/sock").capability(SecretString::from("s3cret"));
        let defaults = r#"ProxyTokenStoreBuilder { socket: "/sock", request_timeout: 30s, idle_timeout: 300s, .. }"#;
        assert_eq!(format!("{builder:?}"), defaults);
    }

    #[test]
    fn no_time_is_too_long() {
        let longest = ProxyTokenStore::builder("/sock")
            .request_timeout(Duration::MAX)
            .idle_timeout(Duration::MAX);
        assert!(longest.build().is_ok());
    }
}
