//! The provider: rotates refresh tokens, revokes a family whose spent token comes again, and fails as it was told.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use credbroker::{
    credential::TokenAnswer,
    oauth::{Outcome, Provider, Revoked, Seen, TokenKind},
};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::{sync::oneshot, time::sleep};

use crate::{
    case::{Answer, Event, Kind},
    facts::World,
};

/// What the provider says of itself.
pub(crate) const DEFAULT_LIFETIME: Duration = Duration::from_secs(600);
/// How long it may be silent.
const SILENCE: Duration = Duration::from_secs(60);

/// The provider as one process sees it.
pub(crate) struct Authority {
    pub(crate) world: Arc<World>,
    pub(crate) process: usize,
}

/// What the provider made of a request, before anything happens to the answer.
pub(crate) enum Reply {
    Issued {
        access: String,
        refresh: Option<String>,
        equal: bool,
    },
    InvalidGrant,
}

#[async_trait]
impl Provider for Authority {
    async fn refresh(&self, refresh_token: &SecretString) -> Outcome {
        let (world, process) = (&self.world, self.process);
        world.lives(process).await;
        let (number, answer) = world.presents(process, refresh_token.expose_secret());
        let cut = Cut {
            world,
            process,
            number,
            ended: false,
        };
        world.hit(process, Event::Presented);
        world.lives(process).await;
        let outcome = self.exchange(number, answer).await;
        world.lives(process).await;
        cut.end(&outcome);
        world.hit(process, Event::Answered);
        world.lives(process).await;
        outcome
    }

    async fn revoke(&self, token: &SecretString, _kind: TokenKind) -> Revoked {
        self.world.lives(self.process).await;
        self.world.revokes(token.expose_secret());
        sleep(Duration::from_millis(30)).await;
        Revoked::Done
    }

    fn default_lifetime(&self) -> Duration {
        DEFAULT_LIFETIME
    }

    fn may_repeat_ambiguous(&self) -> bool {
        self.world.case.may_repeat
    }
}

impl Authority {
    /// One exchange, without its bookkeeping. What is on the wire here are outcomes; a rule for statuses and bodies
    /// (`Lost` for a 502, say) would be asked in [`read`].
    async fn exchange(&self, number: usize, answer: Answer) -> Outcome {
        let (there, back) = (
            Duration::from_millis(answer.there.into()),
            Duration::from_millis(answer.back.into()),
        );
        match answer.kind {
            Kind::Rotates | Kind::Keeps | Kind::Equal => {
                let reply = self.reply(number, answer, there).await;
                sleep(back).await;
                read(reply, answer)
            }
            Kind::Lost { processed: true } => {
                drop(self.reply(number, answer, there).await);
                sleep(back).await;
                Outcome::Ambiguous(Seen("the answer broke off".into()))
            }
            Kind::Lost { processed: false } => {
                sleep(there).await;
                Outcome::Ambiguous(Seen("the connection broke off".into()))
            }
            Kind::Silent { processed } => {
                if let Some(millis) = processed {
                    let after = Duration::from_millis(millis.into());
                    let later = self.begin(
                        number,
                        Answer {
                            goes_on: true,
                            ..answer
                        },
                        after,
                    );
                    drop(later);
                }
                sleep(SILENCE).await;
                Outcome::Ambiguous(Seen("silence".into()))
            }
            Kind::Unreachable => {
                sleep(there.min(Duration::from_secs(10))).await;
                Outcome::NotProcessed {
                    seen: Seen("connection refused".into()),
                    retry_after: None,
                }
            }
            Kind::Busy(seconds) => {
                sleep(there).await;
                let retry_after = seconds.map(|seconds| Duration::from_secs(seconds.into()));
                Outcome::NotProcessed {
                    seen: Seen("503".into()),
                    retry_after,
                }
            }
            Kind::Rejects => {
                sleep(there).await;
                Outcome::Rejected(Seen("401".into()))
            }
        }
    }

    async fn reply(&self, number: usize, answer: Answer, after: Duration) -> Reply {
        match self.begin(number, answer, after).await {
            Ok(reply) => reply,
            // It did not go on with the request of a dead process, which will never know.
            Err(_gone) => std::future::pending().await,
        }
    }

    /// The provider works by itself: whoever asked may die or stop listening.
    fn begin(&self, number: usize, answer: Answer, after: Duration) -> oneshot::Receiver<Reply> {
        let (done, reply) = oneshot::channel();
        let (world, process) = (Arc::clone(&self.world), self.process);
        tokio::spawn(async move {
            sleep(after).await;
            if answer.goes_on || world.alive(process) {
                drop(done.send(world.processes(number, answer)));
                world.hit(process, Event::Processed);
            }
        });
        reply
    }
}

/// The answer as a client reads it.
fn read(reply: Reply, answer: Answer) -> Outcome {
    match reply {
        Reply::InvalidGrant => Outcome::Refused(Seen("invalid_grant".into())),
        Reply::Issued { access, refresh, equal } => Outcome::Answered(Box::new(TokenAnswer {
            access_token: (!equal).then(|| access.into()),
            refresh_token: refresh.map(SecretString::from),
            lifetime: answer.lifetime.read(),
            token_type: None,
            scope: answer.there.is_multiple_of(7).then(|| "other".to_owned()),
            subject: None,
            extra: [].into(),
        })),
    }
}

/// Sees an exchange that is dropped by a process that lives.
struct Cut<'a> {
    world: &'a World,
    process: usize,
    number: usize,
    ended: bool,
}

impl Cut<'_> {
    fn end(mut self, outcome: &Outcome) {
        self.ended = true;
        self.world.ends(self.number, outcome);
    }
}

impl Drop for Cut<'_> {
    fn drop(&mut self) {
        // When a world ends, what is left of the dead is dropped, too.
        if !self.ended && self.world.alive(self.process) && !std::thread::panicking() {
            self.world.wrong("an exchange was cut off by a process that lives");
        }
    }
}
