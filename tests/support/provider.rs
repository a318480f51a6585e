//! An authorization server that rotates refresh tokens, counts what is presented, and fails when a test tells it to.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use credbroker::{
    credential::TokenAnswer,
    oauth::{Outcome, Provider, Revoked, Seen, TokenKind},
};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::time::{Instant, sleep};

/// What becomes of a presentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// A new token set; the access token is good for so long.
    Answer(Duration),
    Refuse,
    Reject,
    /// Not processed, with this `Retry-After`.
    Busy(Option<Duration>),
    /// No answer for as long as a provider waits for one.
    Hang,
}

/// One presentation of a refresh token.
#[derive(Debug, Clone)]
pub(crate) struct Presentation {
    /// Whose refresh token it was: the text before its `#`.
    pub(crate) whose: String,
    /// When it began, by tokio's clock.
    pub(crate) at: Instant,
}

/// The fake. It panics a test that presents one refresh token twice at once, or one that was spent.
pub(crate) struct FakeProvider {
    script: Mutex<Script>,
}

struct Script {
    steps: HashMap<String, VecDeque<Step>>,
    otherwise: Step,
    latency: Duration,
    presented: Vec<Presentation>,
    at_once: BTreeSet<String>,
    most_at_once: usize,
    most_tasks: usize,
    spent: BTreeSet<String>,
    wrong: Vec<String>,
}

impl FakeProvider {
    /// One whose access tokens are good for so long.
    pub(crate) fn new(lifetime: Duration) -> Arc<Self> {
        Arc::new(Self {
            script: Mutex::new(Script {
                steps: HashMap::new(),
                otherwise: Step::Answer(lifetime),
                latency: Duration::ZERO,
                presented: Vec::new(),
                at_once: BTreeSet::new(),
                most_at_once: 0,
                most_tasks: 0,
                spent: BTreeSet::new(),
                wrong: Vec::new(),
            }),
        })
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next steps for one account.
    pub(crate) fn then(&self, whose: &str, steps: impl IntoIterator<Item = Step>) {
        self.script().steps.entry(whose.to_owned()).or_default().extend(steps);
    }

    /// What happens where no step was given.
    pub(crate) fn otherwise(&self, step: Step) {
        self.script().otherwise = step;
    }

    /// How long an answer takes.
    pub(crate) fn takes(&self, latency: Duration) {
        self.script().latency = latency;
    }

    /// What was presented, in order.
    pub(crate) fn presented(&self) -> Vec<Presentation> {
        self.script().presented.clone()
    }

    /// How many times something was presented.
    pub(crate) fn times(&self) -> usize {
        self.script().presented.len()
    }

    /// The most presentations at one moment.
    pub(crate) fn most_at_once(&self) -> usize {
        self.script().most_at_once
    }

    /// The most tasks that the runtime had during a presentation.
    pub(crate) fn most_tasks(&self) -> usize {
        self.script().most_tasks
    }

    /// Fails the test if a refresh token was presented twice at once, or after it was spent.
    pub(crate) fn judge(&self) {
        assert!(self.script().wrong.is_empty(), "{:?}", self.script().wrong);
    }

    fn begin(&self, token: &str) -> (Step, Duration) {
        let whose = token.split('#').next().unwrap_or_default().to_owned();
        let mut script = self.script();
        script.presented.push(Presentation {
            whose: whose.clone(),
            at: Instant::now(),
        });
        if script.spent.contains(token) {
            script.wrong.push(format!("{token} was spent"));
        }
        if !script.at_once.insert(token.to_owned()) {
            script.wrong.push(format!("{token} twice at once"));
        }
        script.most_at_once = script.most_at_once.max(script.at_once.len());
        let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
        script.most_tasks = script.most_tasks.max(tasks);
        let step = script.steps.get_mut(&whose).and_then(VecDeque::pop_front);
        (step.unwrap_or(script.otherwise), script.latency)
    }
}

#[async_trait]
impl Provider for FakeProvider {
    async fn refresh(&self, refresh_token: &SecretString) -> Outcome {
        let token = refresh_token.expose_secret();
        let (step, latency) = self.begin(token);
        sleep(if step == Step::Hang {
            Duration::from_secs(60)
        } else {
            latency
        })
        .await;
        let mut script = self.script();
        script.at_once.remove(token);
        let seen = || Seen(format!("{step:?}"));
        match step {
            Step::Answer(lifetime) => {
                script.spent.insert(token.to_owned());
                let number = script.spent.len();
                let whose = token.split('#').next().unwrap_or_default();
                Outcome::Answered(Box::new(TokenAnswer {
                    access_token: Some(format!("at-{number}").into()),
                    refresh_token: Some(format!("{whose}#{number}").into()),
                    lifetime: Some(lifetime),
                    token_type: None,
                    scope: None,
                    subject: None,
                    extra: BTreeMap::new(),
                }))
            }
            Step::Refuse => Outcome::Refused(seen()),
            Step::Reject => Outcome::Rejected(seen()),
            Step::Busy(retry_after) => Outcome::NotProcessed {
                seen: seen(),
                retry_after,
            },
            Step::Hang => Outcome::Ambiguous(seen()),
        }
    }

    async fn revoke(&self, _token: &SecretString, _kind: TokenKind) -> Revoked {
        Revoked::NotSupported
    }

    fn default_lifetime(&self) -> Duration {
        Duration::from_secs(3600)
    }

    fn may_repeat_ambiguous(&self) -> bool {
        true
    }
}
