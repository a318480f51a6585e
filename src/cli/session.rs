//! Where a command works: on this host's store, or through the socket of the sandbox it runs in.

use std::time::Duration;

use secrecy::SecretString;

use crate::{
    broker::{self, Broker, Caller, Error, Renewals, page::PageRequest},
    cli::failure::Failure,
    client::{ApiKeyStore as _, CredentialStore as _, LoginAdapter, ProxyTokenStore, Revocation},
    config::{Backend, Config, Environment},
    credential::{AccessToken, EntryKey, Name, Revision},
    daemon,
};

/// One command's access to credentials.
pub(super) enum Session {
    /// On the host, with all rights. The configuration is a box because the other side has none.
    Host {
        broker: Broker,
        caller: Caller,
        config: Box<Config>,
    },
    /// In a sandbox.
    Sandbox(ProxyTokenStore),
}

impl Session {
    /// Decides by `CREDBROKER_SOCKET`. The host's configuration is not read in a sandbox, which has no part in it.
    pub(super) async fn open(
        config: impl FnOnce() -> Result<Config, Failure>,
        environment: &Environment,
    ) -> Result<Self, Failure> {
        if let Some(socket) = environment.socket() {
            let store = ProxyTokenStore::new(socket, environment.capability())?;
            // Before the command does anything else: without its broker there is nothing for it to do.
            store.server_info().await?;
            return Ok(Self::Sandbox(store));
        }
        let config = config()?;
        Ok(Self::Host {
            broker: daemon::local(&config, environment, false, Renewals::OnUse)?,
            caller: Caller::host(),
            config: Box::new(config),
        })
    }

    /// Waits for what the command began and must not be cut off: an exchange with a provider, and its save.
    pub(super) async fn close(&self) {
        if let Self::Host { broker, .. } = self {
            broker.shutdown().await;
        }
    }

    pub(super) async fn token(&self, key: &EntryKey, min_validity: Duration) -> Result<AccessToken, Failure> {
        match self {
            Self::Host { broker, caller, .. } => Ok(broker.token(caller, key, min_validity).await?),
            Self::Sandbox(client) => client
                .get_token(key, min_validity)
                .await?
                .ok_or_else(|| Failure::not_found(Error::NoEntry(key.clone()).to_string())),
        }
    }

    /// `revision` is that of the token that was refused where it was used. `None`: whichever is current.
    pub(super) async fn refresh(&self, key: &EntryKey, revision: Option<&str>) -> Result<AccessToken, Failure> {
        match self {
            Self::Host { broker, caller, .. } => {
                let revision = revision.map(Revision::from_stored);
                Ok(broker.refresh_token(caller, key, revision.as_ref()).await?)
            }
            Self::Sandbox(client) => client
                .refresh_token(key, revision)
                .await?
                .ok_or_else(|| Failure::not_found(Error::NoEntry(key.clone()).to_string())),
        }
    }

    /// Removes an entry; what became of its token at the provider.
    pub(super) async fn remove(&self, key: &EntryKey) -> Result<Revocation, Failure> {
        match self {
            Self::Host { broker, caller, .. } => Ok(match broker.remove_token(caller, key).await? {
                broker::Revocation::NotSupported => Revocation::NotSupported,
                broker::Revocation::Done => Revocation::Done,
                broker::Revocation::Failed => Revocation::Failed,
                broker::Revocation::Pending => Revocation::Pending,
            }),
            Self::Sandbox(client) => match client.remove_token(key).await? {
                Revocation::NothingStored => Err(Failure::not_found(Error::NoEntry(key.clone()).to_string())),
                revocation => Ok(revocation),
            },
        }
    }

    pub(super) fn login_adapter(&self) -> LoginAdapter {
        match self {
            Self::Host { broker, .. } => LoginAdapter::over(broker.clone()),
            Self::Sandbox(client) => LoginAdapter::from(client),
        }
    }

    pub(super) fn is_sandbox(&self) -> bool {
        matches!(self, Self::Sandbox(_))
    }

    pub(super) async fn entries(&self) -> Result<Vec<EntryKey>, Failure> {
        let mut entries = Vec::new();
        match self {
            Self::Host { broker, caller, .. } => {
                for provider in broker.list_providers(caller, &PageRequest::all()).await?.names {
                    let buckets = broker.list_buckets(caller, &provider, &PageRequest::all()).await?;
                    entries.extend(keys(&provider, buckets.names));
                }
            }
            Self::Sandbox(client) => {
                for provider in client.list_providers().await? {
                    let buckets = client.list_buckets(&provider).await?;
                    entries.extend(keys(&provider, buckets));
                }
            }
        }
        Ok(entries)
    }

    pub(super) async fn api_key(&self, name: &Name) -> Result<SecretString, Failure> {
        match self {
            Self::Host { broker, caller, .. } => Ok(broker.api_key(caller, name).await?.as_ref().clone()),
            Self::Sandbox(client) => client
                .get_api_key(name)
                .await?
                .ok_or_else(|| Failure::not_found(Error::NoKey(name.clone()).to_string())),
        }
    }

    pub(super) async fn api_keys(&self) -> Result<Vec<Name>, Failure> {
        match self {
            Self::Host { broker, caller, .. } => Ok(broker.list_api_keys(caller, &PageRequest::all()).await?.names),
            Self::Sandbox(client) => Ok(client.list_api_keys().await?),
        }
    }

    /// The host's side, for what is to outlive this command.
    pub(super) fn keeping_host(&self) -> Result<(&Broker, &Config), Failure> {
        let (broker, config) = self.host()?;
        match config.store.backend {
            Backend::File => Ok((broker, config)),
            Backend::Memory => Err(Failure::kept_nowhere()),
        }
    }

    /// The host's side; `dispatch` has sent everyone else away.
    pub(super) fn host(&self) -> Result<(&Broker, &Config), Failure> {
        match self {
            Self::Host { broker, config, .. } => Ok((broker, config)),
            Self::Sandbox(_) => Err(Failure::internal("a host command was reached in a sandbox")),
        }
    }
}

fn keys(provider: &Name, buckets: Vec<Name>) -> impl Iterator<Item = EntryKey> + '_ {
    buckets.into_iter().map(|bucket| EntryKey {
        provider: provider.clone(),
        bucket,
    })
}
