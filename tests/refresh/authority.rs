//! A provider that does what a test tells it, step by step, and remembers what was presented to it.
//!
//! It is strict in what no test may ever allow: a refresh token presented twice at once, one presented again after its
//! answer had arrived, a presentation without a durable mark in the store, and an exchange that is cut off.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use credbroker::{
    credential::{EntryKey, TokenAnswer},
    oauth::{Outcome, Provider, Revoked, Seen, TokenKind},
    store::TokenStore,
};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::{
    sync::{Semaphore, watch},
    time::Instant,
};

use crate::fake;

/// What becomes of one presentation.
pub(crate) enum Step {
    /// A new access token for so many seconds, and a new refresh token.
    Rotate(u64),
    /// A new access token, and no refresh token.
    Keep(u64),
    /// This answer.
    Answer(TokenAnswer),
    Refuse,
    Reject,
    /// Not processed, with this `Retry-After`.
    Busy(Option<u64>),
    /// The answer is lost.
    Lost,
    Panic,
    /// Nothing, ever.
    Never,
    /// The same, once the test lets it go.
    Held(Box<Step>),
}

impl Step {
    pub(crate) fn held(self) -> Self {
        Self::Held(Box::new(self))
    }
}

/// The fake authorization server.
pub(crate) struct Authority {
    store: fake::Store,
    /// Where marks may be, too.
    others: Mutex<Vec<Arc<dyn TokenStore>>>,
    script: Mutex<Script>,
    asked: watch::Sender<usize>,
    gate: Semaphore,
    revocation_gate: Semaphore,
    revoking: watch::Sender<usize>,
}

struct Script {
    steps: VecDeque<Step>,
    /// What is asked when the steps have run out.
    otherwise: fn() -> Step,
    /// What was presented, and when.
    presented: Vec<(String, Instant)>,
    under_way: BTreeSet<String>,
    most_at_once: usize,
    /// Refresh tokens whose successor has arrived.
    spent: HashSet<String>,
    given: usize,
    repeats: bool,
    default_lifetime: Duration,
    revoked: Revoked,
    revocation_panics: bool,
    revocations: Vec<(String, TokenKind)>,
    violations: Vec<String>,
}

impl Authority {
    pub(crate) fn new(store: &fake::Store) -> Arc<Self> {
        Arc::new(Self {
            store: store.clone(),
            others: Mutex::default(),
            script: Mutex::new(Script {
                steps: VecDeque::new(),
                otherwise: || Step::Rotate(3600),
                presented: Vec::new(),
                under_way: BTreeSet::new(),
                most_at_once: 0,
                spent: HashSet::new(),
                given: 0,
                repeats: true,
                default_lifetime: Duration::from_secs(3600),
                revoked: Revoked::Done,
                revocation_panics: false,
                revocations: Vec::new(),
                violations: Vec::new(),
            }),
            asked: watch::Sender::new(0),
            gate: Semaphore::new(0),
            revocation_gate: Semaphore::new(Semaphore::MAX_PERMITS),
            revoking: watch::Sender::new(0),
        })
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Entries of this store are refreshed here, too.
    pub(crate) fn serves(&self, store: Arc<dyn TokenStore>) {
        self.others.lock().unwrap().push(store);
    }

    /// What the next presentations lead to.
    pub(crate) fn then(&self, steps: impl IntoIterator<Item = Step>) {
        self.script().steps.extend(steps);
    }

    /// What every presentation leads to that no step was given for.
    pub(crate) fn otherwise(&self, step: fn() -> Step) {
        self.script().otherwise = step;
    }

    /// Lets one held exchange go.
    pub(crate) fn let_go(&self) {
        self.gate.add_permits(1);
    }

    /// Waits until so many presentations have begun.
    pub(crate) async fn asked(&self, times: usize) {
        let mut asked = self.asked.subscribe();
        asked.wait_for(|asked| *asked >= times).await.unwrap();
    }

    /// The refresh tokens that were presented, in order.
    pub(crate) fn presented(&self) -> Vec<String> {
        self.script().presented.iter().map(|(token, _)| token.clone()).collect()
    }

    pub(crate) fn times(&self) -> usize {
        self.script().presented.len()
    }

    /// Seconds from the first presentation to each, rounded down.
    pub(crate) fn moments(&self) -> Vec<u64> {
        let script = self.script();
        let first = script.presented.first().map(|(_, at)| *at);
        let since = |at: &Instant| first.map_or(0, |first| at.duration_since(first).as_secs());
        script.presented.iter().map(|(_, at)| since(at)).collect()
    }

    pub(crate) fn most_at_once(&self) -> usize {
        self.script().most_at_once
    }

    /// `retry_ambiguous` of the configuration.
    pub(crate) fn repeats(&self, repeats: bool) {
        self.script().repeats = repeats;
    }

    pub(crate) fn default_lifetime_is(&self, seconds: u64) {
        self.script().default_lifetime = Duration::from_secs(seconds);
    }

    /// What every revocation comes to.
    pub(crate) fn revokes(&self, revoked: Revoked) {
        self.script().revoked = revoked;
    }

    pub(crate) fn panics_when_it_revokes(&self) {
        self.script().revocation_panics = true;
    }

    pub(crate) fn hold_revocations(&self) {
        self.revocation_gate.forget_permits(Semaphore::MAX_PERMITS);
    }

    pub(crate) fn let_revocations_go(&self) {
        self.revocation_gate.add_permits(16);
    }

    pub(crate) fn revocations(&self) -> Vec<(String, TokenKind)> {
        self.script().revocations.clone()
    }

    pub(crate) async fn revoked(&self, times: usize) {
        let mut revoking = self.revoking.subscribe();
        revoking.wait_for(|revoking| *revoking >= times).await.unwrap();
    }

    /// Whether a refresh token is being presented now.
    pub(crate) fn busy(&self) -> bool {
        !self.script().under_way.is_empty()
    }

    pub(crate) fn violations(&self) -> Vec<String> {
        self.script().violations.clone()
    }

    fn begin(&self, token: &str) -> Presentation<'_> {
        let mut script = self.script();
        script.presented.push((token.to_owned(), Instant::now()));
        if script.spent.contains(token) {
            script
                .violations
                .push(format!("{token} was presented again after its answer had arrived"));
        }
        if !script.under_way.insert(token.to_owned()) {
            script.violations.push(format!("{token} was presented twice at once"));
        }
        script.most_at_once = script.most_at_once.max(script.under_way.len());
        Presentation {
            authority: self,
            token: token.to_owned(),
            ended: false,
        }
    }

    /// What the store must say while a refresh token is out.
    async fn look_for_the_mark(&self, token: &SecretString) {
        let mut marked = false;
        for key in self.store.keys().await {
            let stored = self.store.peek(&key).await;
            let intent = stored.and_then(|stored| stored.intent.clone());
            marked |= intent.is_some_and(|intent| intent.is_about(token));
        }
        let others = self.others.lock().unwrap().clone();
        for other in others {
            for key in other.list().await.unwrap() {
                let stored = other.read(&key).await.unwrap();
                let intent = stored.and_then(|stored| stored.intent.clone());
                marked |= intent.is_some_and(|intent| intent.is_about(token));
            }
        }
        if !marked {
            let what = format!("{} was presented without a mark in the store", token.expose_secret());
            self.script().violations.push(what);
        }
    }

    fn answer(&self, token: &str, lifetime: u64, rotates: bool) -> TokenAnswer {
        let mut script = self.script();
        script.given += 1;
        let given = script.given;
        if rotates {
            script.spent.insert(token.to_owned());
        }
        answer(
            &format!("at-{given}"),
            rotates.then(|| format!("rt-{given}")),
            Some(lifetime),
        )
    }
}

/// A token answer with these fields and no other.
pub(crate) fn answer(access: &str, refresh: Option<String>, lifetime: Option<u64>) -> TokenAnswer {
    TokenAnswer {
        access_token: Some(access.into()),
        refresh_token: refresh.map(SecretString::from),
        lifetime: lifetime.map(Duration::from_secs),
        token_type: None,
        scope: None,
        subject: None,
        extra: BTreeMap::new(),
    }
}

/// One presentation: over when it is dropped.
struct Presentation<'a> {
    authority: &'a Authority,
    token: String,
    ended: bool,
}

impl Drop for Presentation<'_> {
    fn drop(&mut self) {
        let mut script = self.authority.script();
        script.under_way.remove(&self.token);
        if !self.ended && !std::thread::panicking() {
            let what = format!("the exchange of {} was cut off", self.token);
            script.violations.push(what);
        }
    }
}

#[async_trait]
impl Provider for Authority {
    async fn refresh(&self, refresh_token: &SecretString) -> Outcome {
        let token = refresh_token.expose_secret();
        let mut presentation = self.begin(token);
        self.look_for_the_mark(refresh_token).await;
        self.asked.send_modify(|asked| *asked += 1);
        let mut step = {
            let mut script = self.script();
            let otherwise = script.otherwise;
            script.steps.pop_front().unwrap_or_else(otherwise)
        };
        while let Step::Held(inner) = step {
            self.gate.acquire().await.unwrap().forget();
            step = *inner;
        }
        let seen = || Seen("as the test said".into());
        let outcome = match step {
            Step::Rotate(lifetime) => Outcome::Answered(Box::new(self.answer(token, lifetime, true))),
            Step::Keep(lifetime) => Outcome::Answered(Box::new(self.answer(token, lifetime, false))),
            Step::Answer(answer) => Outcome::Answered(Box::new(answer)),
            Step::Refuse => Outcome::Refused(seen()),
            Step::Reject => Outcome::Rejected(seen()),
            Step::Busy(retry_after) => Outcome::NotProcessed {
                seen: seen(),
                retry_after: retry_after.map(Duration::from_secs),
            },
            Step::Lost => Outcome::Ambiguous(seen()),
            Step::Never => {
                // Whoever gives this one up has waited for longer than any exchange lasts.
                presentation.ended = true;
                std::future::pending().await
            }
            Step::Panic => panic!("the provider panics, as the test said"),
            Step::Held(_) => unreachable!("let go above"),
        };
        presentation.ended = true;
        outcome
    }

    async fn revoke(&self, token: &SecretString, kind: TokenKind) -> Revoked {
        self.script().revocations.push((token.expose_secret().to_owned(), kind));
        self.revoking.send_modify(|revoking| *revoking += 1);
        self.revocation_gate.acquire().await.unwrap().forget();
        assert!(
            !self.script().revocation_panics,
            "the revocation panics, as the test said"
        );
        self.script().revoked.clone()
    }

    fn default_lifetime(&self) -> Duration {
        self.script().default_lifetime
    }

    fn may_repeat_ambiguous(&self) -> bool {
        self.script().repeats
    }
}

/// The key of an entry of the fake provider.
pub(crate) fn entry(bucket: &str) -> EntryKey {
    EntryKey::parse("p", bucket).unwrap()
}
