//! What is known of many entries or API keys at once, for the rounds over their places.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use super::{KeyStanding, Standing, board::Warden};
use crate::{
    clock::Clock,
    credential::{EntryKey, Name},
    store::{KeyStore, TokenStore},
};

/// The entries: they change in the store, and their tokens expire.
pub(in crate::broker) struct Entries {
    pub(in crate::broker) tokens: Arc<dyn TokenStore>,
    pub(in crate::broker) clock: Arc<dyn Clock>,
}

#[async_trait]
impl Warden<EntryKey, Standing> for Entries {
    async fn changed(&self, written: Vec<(EntryKey, Standing)>) -> Vec<EntryKey> {
        let (mut known, mut changed) = (Vec::new(), Vec::new());
        for (key, standing) in written {
            match standing {
                Standing::Token(stored) | Standing::Lapsed(stored) => known.push((key, stored)),
                Standing::Unknown
                | Standing::NeedsLogin
                | Standing::NoProvider
                | Standing::Absent
                | Standing::Unreadable => changed.push(key),
            }
        }
        changed.extend(self.tokens.changed(known).await);
        changed
    }

    fn holds(&self, written: &Standing) -> Option<Duration> {
        match written {
            Standing::Token(stored) => Some(stored.tokens.expiry.as_ref()?.remaining(&self.clock.now())),
            Standing::Unknown
            | Standing::Lapsed(_)
            | Standing::NeedsLogin
            | Standing::NoProvider
            | Standing::Absent
            | Standing::Unreadable => None,
        }
    }
}

/// The API keys: they change in the store.
pub(in crate::broker) struct Keys {
    pub(in crate::broker) keys: Arc<dyn KeyStore>,
}

#[async_trait]
impl Warden<Name, KeyStanding> for Keys {
    async fn changed(&self, written: Vec<(Name, KeyStanding)>) -> Vec<Name> {
        let (mut known, mut changed) = (Vec::new(), Vec::new());
        for (name, standing) in written {
            match standing.0 {
                Some(key) => known.push((name, key)),
                None => changed.push(name),
            }
        }
        changed.extend(self.keys.changed(known).await);
        changed
    }

    fn holds(&self, _written: &KeyStanding) -> Option<Duration> {
        None
    }
}
