//! The store that the configuration names.

use std::sync::Arc;

use super::StartError;
use crate::{
    config::{self, Backend, Config, ConfigError, Environment},
    store::{
        KeyStore, TokenStore,
        file::{Diagnosis, FileStore, FileStoreConfig, IdentitySource, SecretCommand},
        memory::MemoryStore,
    },
};

/// The two sides of the one backend that was chosen.
pub(super) struct Stores {
    pub(super) tokens: Arc<dyn TokenStore>,
    pub(super) keys: Arc<dyn KeyStore>,
}

impl Stores {
    fn both<S: TokenStore + KeyStore + Clone>(store: S) -> Self {
        Self {
            tokens: Arc::new(store.clone()),
            keys: Arc::new(store),
        }
    }
}

pub(super) fn stores(config: &Config, environment: &Environment, ephemeral: bool) -> Result<Stores, StartError> {
    if ephemeral || config.store.backend == Backend::Memory {
        return Ok(Stores::both(MemoryStore::default()));
    }
    Ok(Stores::both(FileStore::open(file_store(config, environment)?)?))
}

fn file_store(config: &Config, environment: &Environment) -> Result<FileStoreConfig, ConfigError> {
    let identity = match &config.store.identity {
        config::IdentitySource::Own => IdentitySource::Default,
        config::IdentitySource::File(file) => IdentitySource::File(file.clone()),
        config::IdentitySource::Command(command) => {
            let command = SecretCommand::with(command.as_str(), environment.all());
            IdentitySource::Command(command.without(environment.left_out()))
        }
    };
    Ok(FileStoreConfig {
        path: config.store.directory()?.to_owned(),
        identity,
        allow_network_fs: config.store.allow_network_fs,
    })
}

/// What is right and wrong with the configured store; `None`: nothing is kept, so there is nothing to look at.
///
/// # Errors
/// The configuration does not say where the store is.
pub async fn diagnose_store(config: &Config, environment: &Environment) -> Result<Option<Diagnosis>, ConfigError> {
    match config.store.backend {
        Backend::Memory => Ok(None),
        Backend::File => Ok(Some(FileStore::diagnose(file_store(config, environment)?).await)),
    }
}
