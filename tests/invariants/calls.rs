//! Callers: what they ask, when they give up, and what they must never be told.

use std::{fmt::Debug, sync::Arc, time::Duration};

use credbroker::{
    broker::{Broker, Caller, Error},
    clock::Clock as _,
    credential::{AccessToken, Expiry, Revision, SavedToken, TokenSet},
    reason::Reason,
};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::time::{Instant, timeout};

use crate::{
    case::Has,
    facts::{World, key},
    presentations::is,
};

/// What any call may take; a little more than its bound, because a disk may dawdle.
const LONGEST: Duration = Duration::from_secs(65);

/// What was true when a call began.
pub(crate) struct Asked {
    what: &'static str,
    process: usize,
    entry: usize,
    at: Instant,
    /// No older version may be handed out, and none at all up to the other one.
    stored: u64,
    gone: u64,
    present: bool,
    removals: u64,
    imports: u64,
    revision: Option<Revision>,
}

/// A call that is under way.
struct Open(Arc<World>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.state().calls -= 1;
    }
}

impl World {
    pub(crate) fn broker(&self, process: usize) -> Broker {
        self.state().processes[process].broker.clone().unwrap()
    }

    /// A client calls, and gives up after so many milliseconds.
    fn client(
        self: &Arc<Self>,
        process: usize,
        patience: Option<u32>,
        call: impl Future<Output = ()> + Send + 'static,
    ) {
        self.state().calls += 1;
        let open = Open(Arc::clone(self));
        let patience = patience.map_or(Duration::from_secs(3600), |millis| Duration::from_millis(millis.into()));
        let task = tokio::spawn(async move {
            drop(timeout(patience, call).await);
            drop(open);
        });
        self.state().processes[process].calls.push(task.abort_handle());
    }

    pub(crate) fn get(self: &Arc<Self>, process: usize, entry: usize, min_validity: u16, patience: Option<u32>) {
        let (world, broker) = (Arc::clone(self), self.broker(process));
        self.client(process, patience, async move {
            let asked = world.asks("GetToken", process, entry);
            let min_validity = Duration::from_secs(min_validity.into());
            let told = broker.token(&Caller::host(), &key(entry), min_validity).await;
            world.served(&asked, &told);
        });
    }

    pub(crate) fn refresh(self: &Arc<Self>, process: usize, entry: usize, has: Has, patience: Option<u32>) {
        let (world, broker) = (Arc::clone(self), self.broker(process));
        self.client(process, patience, async move {
            let asked = world.asks("RefreshToken", process, entry);
            let revision = match has {
                Has::Nothing => None,
                Has::Current => asked.revision.clone(),
                Has::Old => Some(Revision::from_stored("old")),
            };
            let told = broker
                .refresh_token(&Caller::host(), &key(entry), revision.as_ref())
                .await;
            world.served(&asked, &told);
        });
    }

    pub(crate) fn save(self: &Arc<Self>, process: usize, entry: usize, lifetime: u32, patience: Option<u32>) {
        let (world, broker) = (Arc::clone(self), self.broker(process));
        let access = self.names_access("saved");
        self.client(process, patience, async move {
            let asked = world.asks("SaveToken", process, entry);
            let saved = SavedToken {
                access_token: access.into(),
                expires_in: Some(Duration::from_secs(lifetime.into())),
                expire_time: None,
                token_type: String::new(),
                scope: String::new(),
            };
            let told = broker.save_token(&Caller::host(), &key(entry), saved).await;
            world.told(&asked, told.as_ref());
        });
    }

    pub(crate) fn remove(self: &Arc<Self>, process: usize, entry: usize, patience: Option<u32>) {
        let (world, broker) = (Arc::clone(self), self.broker(process));
        self.client(process, patience, async move {
            let asked = world.asks("RemoveToken", process, entry);
            let told = broker.remove_token(&Caller::host(), &key(entry)).await;
            world.told(&asked, told.as_ref());
            if told.is_ok() {
                let mut state = world.state();
                let it = &mut state.entries[entry];
                it.gone = it.gone.max(it.removed_at);
                let still = it.stored.is_some() && it.imports == asked.imports;
                drop(state);
                if still {
                    world.wrong("a logout was reported as done, and the entry is there");
                }
            }
        });
    }

    /// Logs in anew, or stores the refresh token that is there once more.
    pub(crate) fn import(self: &Arc<Self>, process: usize, entry: usize, lifetime: u32, again: bool) {
        let stored = self.state().entries[entry].stored.clone();
        let stored = stored
            .filter(|_| again)
            .and_then(|stored| stored.tokens.refresh_token.clone());
        let refresh = match stored {
            Some(same) => {
                // Whatever has become of it until then: it is the user who brings it back.
                let mut state = self.state();
                let known = state.refresh.get_mut(same.expose_secret()).unwrap();
                known.brought_back = true;
                known.lost.clear();
                same
            }
            None => SecretString::from(self.logs_in(entry).1),
        };
        let access = self.names_access("imported");
        let (world, broker) = (Arc::clone(self), self.broker(process));
        self.client(process, None, async move {
            let asked = world.asks("import", process, entry);
            world.state().entries[entry].importing.insert(access.clone());
            let now = world.time.now();
            let tokens = TokenSet {
                access_token: access.clone().into(),
                refresh_token: Some(refresh),
                expiry: Some(Expiry::from_lifetime(Duration::from_secs(lifetime.into()), &now)),
                token_type: "Bearer".into(),
                scope: String::new(),
                subject: None,
                extra: [].into(),
                saved_by: "import".into(),
            };
            let told = broker.import(&key(entry), tokens).await;
            world.state().entries[entry].importing.remove(&access);
            world.told(&asked, told.as_ref());
        });
    }

    /// A name for an access token that comes from elsewhere.
    fn names_access(&self, kind: &str) -> String {
        let mut state = self.state();
        let name = format!("{kind}-{}", state.access.len());
        state.access.entry(name.clone()).or_default();
        name
    }

    pub(crate) fn asks(&self, what: &'static str, process: usize, entry: usize) -> Asked {
        let state = self.state();
        let it = &state.entries[entry];
        // While the disk reports failures, what it took all the same may be taken back.
        let settled = !state
            .guards
            .values()
            .any(|guard| guard.entry == entry && guard.put_failed);
        let asked = Asked {
            what,
            process,
            entry,
            at: Instant::now(),
            stored: if settled { it.version } else { 0 },
            gone: it.gone,
            present: it.stored.is_some(),
            removals: it.removals,
            imports: it.imports,
            revision: it.stored.as_ref().map(|stored| stored.revision.clone()),
        };
        drop(state);
        self.tell(format!("process {process}: {what}, entry {entry}"));
        asked
    }

    /// A call has ended. What holds for all of them.
    pub(crate) fn told<T: Debug>(&self, asked: &Asked, told: Result<&T, &Error>) {
        let Asked {
            what, process, entry, ..
        } = *asked;
        match told {
            Ok(_) => self.tell(format!("process {process}: {what}, entry {entry}: done")),
            Err(error) => self.tell(format!("process {process}: {what}, entry {entry}: {error}")),
        }
        let took = asked.at.elapsed();
        if took > LONGEST {
            self.wrong(format!("{what} took {took:?}"));
        }
        let Err(error) = told else { return };
        let state = self.state();
        let it = &state.entries[entry];
        let there = asked.present && it.stored.is_some() && asked.removals == it.removals;
        let stopping = state.processes[process].stopping;
        // Those that are not saved make the store's word the older one.
        let unsaved = state
            .access
            .values()
            .any(|access| access.unsaved_in.contains(&process) && !access.durable);
        let good = it
            .stored
            .as_ref()
            .filter(|stored| Some(&stored.revision) == asked.revision.as_ref());
        let good = good.is_some_and(|stored| {
            stored
                .tokens
                .expiry
                .as_ref()
                .is_none_or(|expiry| !self.left(expiry).is_zero())
        });
        drop(state);
        match error.reason() {
            Reason::InternalError => self.wrong(format!("{what}: a task died")),
            Reason::NotFound if there => self.wrong(format!("{what} did not find what was there all the time")),
            Reason::ShuttingDown if !stopping => self.wrong(format!("{what}: SHUTTING_DOWN, but nobody stops")),
            Reason::ProviderUnavailable
            | Reason::ProviderRejected
            | Reason::NeedsLogin
            | Reason::RateLimited
            | Reason::LockTimeout
                if what == "GetToken" && good && !unsaved =>
            {
                self.wrong(format!("{what} failed although there is a token that has not expired"));
            }
            _ => {}
        }
    }

    /// A call that hands out a token has ended.
    pub(crate) fn served(&self, asked: &Asked, told: &Result<AccessToken, Error>) {
        self.told(asked, told.as_ref());
        if let Ok(token) = told {
            self.tell(format!("{} is served", token.access_token.expose_secret()));
            for broken in self.may_serve(asked, token) {
                self.wrong(broken);
            }
        }
    }

    fn may_serve(&self, asked: &Asked, token: &AccessToken) -> Vec<String> {
        let state = self.state();
        let mut broken = Vec::new();
        let mut rule = |kept: bool, otherwise: &str| {
            if !kept {
                broken.push(format!("{}: {otherwise}", token.access_token.expose_secret()));
            }
        };
        let Some(known) = state.access.get(token.access_token.expose_secret()) else {
            return vec!["a token is served that nobody issued".into()];
        };
        rule(
            !state.refresh.keys().any(|refresh| is(&token.access_token, refresh)),
            "a refresh token is served",
        );
        rule(known.version > 0, "served before anybody tried to save it");
        rule(
            known.durable || known.unsaved_in.contains(&asked.process),
            "served before its save had ended",
        );
        rule(known.version > asked.gone, "served after a logout");
        rule(
            known.version >= asked.stored,
            "served although a newer one was stored before the call",
        );
        let left = known.expiry.as_ref().map(|expiry| self.left(expiry));
        rule(
            left.is_none_or(|left| !left.is_zero()),
            "served although it has expired",
        );
        rule(token.expires_in == left, "served with another rest than it has");
        if let Some((at, boots, lifetime)) = known.issued
            && boots == self.time.boots()
        {
            rule(
                self.time.truth() - at < lifetime,
                "served although it has expired at the provider",
            );
        }
        broken
    }
}
