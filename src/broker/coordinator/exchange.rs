//! The exchange with the provider, and what each of its outcomes means.

use std::{sync::Arc, time::Duration};

use secrecy::{ExposeSecret as _, SecretString};
use tokio::{
    sync::MutexGuard,
    time::{Instant, sleep, timeout},
};

use super::{
    error::{LoginCause, RefreshError},
    flight::{End, Landing},
    held::{Held, Open},
    permits::Permit,
    removal,
    saving::save,
    waiting::Progress,
};
use crate::{
    broker::timing,
    credential::{Intent, TokenAnswer, TokenSet},
    oauth::{Outcome, Provider, Seen},
    store::{OverCorrupt, StoredTokens},
};

/// The pauses before what the provider did not process is sent again.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3)];
/// No presentation begins in a flight that is older.
const OLDEST: Duration = Duration::from_secs(25);
/// The longest `Retry-After` that is believed.
const LONGEST_HOLD_OFF: Duration = Duration::from_secs(3600);
/// A permit is given back after so much of an exchange: one hung entry must not keep the others of its provider waiting.
const PERMIT: Duration = Duration::from_secs(15);

/// What an exchange begins with.
pub(super) struct Exchange<'a> {
    pub(super) landing: &'a Landing,
    pub(super) provider: &'a dyn Provider,
    pub(super) held: &'a Held,
    pub(super) refresh_token: SecretString,
    /// The record as it was read under the lock.
    pub(super) stored: Arc<StoredTokens>,
    /// An earlier presentation's answer was lost.
    pub(super) lost: bool,
    /// One of this flight was.
    pub(super) lost_now: bool,
    /// The marks that the record may have: the one that was read, and those that this flight wrote.
    pub(super) marks: Vec<Intent>,
    /// When the flight had everything it needed.
    pub(super) began: Instant,
}

/// What follows from an outcome.
enum Verdict {
    /// The same again, after a pause.
    Again(Duration),
    End(End),
}

/// Presents the refresh token until the outcome is definite or no further presentation is allowed, and stores what came
/// of it. `open` is the lock, opened; it is shut while the provider is asked, so that a logout need not wait.
pub(super) async fn run<'a>(mut exchange: Exchange<'a>, mut open: MutexGuard<'a, Open>, permit: Permit) -> End {
    let shared = &exchange.landing.shared;
    // What an earlier flight lost was the first presentation; this one is the repeat of it.
    let mut repeated = exchange.lost;
    if exchange.lost && !exchange.provider.may_repeat_ambiguous() {
        return exchange.give_up(&mut open, LoginCause::LostAnswer).await;
    }
    let mut permit = Some(permit);
    let mut processed_not = 0;
    loop {
        if shared.stopping.is_cancelled() {
            exchange.withdraw(&mut open).await;
            return exchange.unsent(RefreshError::ShuttingDown);
        }
        let now = shared.clock.now();
        let intent = Intent::to_present(&exchange.refresh_token, &now);
        let mut record = (*exchange.stored).clone();
        record.intent = Some(Box::new(intent.clone()));
        exchange.marks.push(intent.clone());
        if let Err(error) = open.guard.put(Arc::new(record), OverCorrupt::Refuse).await {
            // The mark may be on the disk all the same, and would keep everybody waiting for nothing.
            exchange.withdraw(&mut open).await;
            return exchange.unsent(error);
        }
        if shared.stopping.is_cancelled() {
            // It began to stop while the disk was slow: nothing has been presented, and nothing is.
            exchange.withdraw(&mut open).await;
            return exchange.unsent(RefreshError::ShuttingDown);
        }
        drop(open);

        exchange.landing.at(Progress::Exchange {
            began: exchange.began,
            presented: Instant::now(),
        });
        let outcome = exchange.present(&mut permit, &intent).await;
        let _saving = shared.saves.token();
        open = exchange.held.lock().await;
        if open.removed {
            exchange.late(outcome);
            return exchange.end(RefreshError::NoEntry);
        }
        let verdict = match outcome {
            Outcome::Answered(answer) => Verdict::End(exchange.answered(&mut open, *answer, &now).await),
            Outcome::Refused(seen) => {
                exchange.log(&seen, "refused the refresh token");
                let cause = if exchange.lost {
                    LoginCause::LostAnswer
                } else {
                    LoginCause::Refused
                };
                Verdict::End(exchange.give_up(&mut open, cause).await)
            }
            Outcome::Rejected(seen) => {
                exchange.log(&seen, "rejected the request");
                exchange.clear_intent(&mut open).await;
                let retry_after = Duration::ZERO;
                Verdict::End(exchange.end(RefreshError::Rejected { retry_after }))
            }
            Outcome::NotProcessed { seen, retry_after } => {
                exchange.log(&seen, "did not process the request");
                processed_not += 1;
                exchange
                    .not_processed(&mut open, processed_not, retry_after, &intent)
                    .await
            }
            Outcome::Ambiguous(seen) => {
                exchange.log(&seen, "may or may not have processed the request");
                exchange.lost = true;
                exchange.lost_now = true;
                if exchange.provider.may_repeat_ambiguous() {
                    let at_once = !repeated && !shared.usable(&exchange.stored);
                    repeated = true;
                    exchange.ambiguous(at_once, &intent)
                } else {
                    Verdict::End(exchange.give_up(&mut open, LoginCause::LostAnswer).await)
                }
            }
        };
        match verdict {
            Verdict::End(end) => return end,
            Verdict::Again(pause) => {
                drop(open);
                tokio::select! {
                    () = shared.stopping.cancelled() => {}
                    () = sleep(pause) => {}
                }
                open = exchange.held.lock().await;
                if open.removed {
                    return exchange.end(RefreshError::NoEntry);
                }
            }
        }
    }
}

impl Exchange<'_> {
    /// One presentation. The permit is given back when it takes long.
    ///
    /// A provider ends by itself, and has closed its connection before the mark holds no longer. One that does not end would
    /// keep the entry for ever: it is left alone then.
    async fn present(&self, permit: &mut Option<Permit>, intent: &Intent) -> Outcome {
        let presentation = async {
            let mut asked = self.provider.refresh(&self.refresh_token);
            tokio::select! {
                outcome = &mut asked => return outcome,
                () = tokio::time::sleep_until(self.began + PERMIT) => *permit = None,
            }
            asked.await
        };
        timeout(intent.deadline, presentation)
            .await
            .unwrap_or_else(|_elapsed| Outcome::Ambiguous(Seen("the exchange did not end".to_owned())))
    }

    /// A new token set: merged, saved, and only then anybody's.
    async fn answered(&self, open: &mut Open, mut answer: TokenAnswer, sent: &crate::clock::Now) -> End {
        // Whoever got such an access token would have the refresh token, the one that stays or the one that comes.
        answer.access_token = answer.access_token.filter(|access| {
            let same = |refresh: &SecretString| refresh.expose_secret() == access.expose_secret();
            !same(&self.refresh_token) && !answer.refresh_token.as_ref().is_some_and(same)
        });
        let usable_answer = answer.access_token.is_some();
        // Its lifetime counts from before the request: the provider's began at some time since.
        let tokens = self
            .stored
            .tokens
            .merge_refreshed(answer, self.provider.default_lifetime(), sent);
        let lifetime = tokens.expiry.as_ref().map(|expiry| expiry.lifetime);
        let mut record = StoredTokens::new(tokens);
        if !usable_answer {
            record.revision = self.stored.revision.clone();
        }
        let record = Arc::new(record);
        save(
            &self.landing.shared,
            &self.landing.key,
            self.held,
            open,
            Arc::clone(&record),
        )
        .await;
        let expired = timing::expired(record.tokens.expiry.as_ref(), &self.landing.shared.clock.now());
        let result = if usable_answer && !expired {
            tracing::info!(entry = %self.landing.key, "refreshed");
            Ok(record)
        } else {
            tracing::error!(
                entry = %self.landing.key,
                "the provider's answer is stored, but its access token has expired already or cannot be handed out"
            );
            let retry_after = Duration::ZERO;
            Err(RefreshError::Unavailable { retry_after })
        };
        End {
            result,
            lifetime,
            hold_off: Duration::ZERO,
            ambiguous: Some(false),
        }
    }

    /// The refresh token is dead, or may not be presented again: it is cleared, and nobody presents it any more.
    async fn give_up(&self, open: &mut Open, cause: LoginCause) -> End {
        // What was refused is what is cleared: somebody who knows no locks, a backup, may have brought another one.
        let current = match open.guard.read().await {
            Ok(None) => return self.end(RefreshError::NoEntry),
            Ok(Some(current)) => current,
            Err(error) => {
                tracing::warn!(entry = %self.landing.key, %error, "an entry could not be read again");
                Arc::clone(&self.stored)
            }
        };
        if let Some(other) = &current.tokens.refresh_token
            && other.expose_secret() != self.refresh_token.expose_secret()
        {
            tracing::warn!(entry = %self.landing.key, "the entry has another refresh token than the one that was refused");
            return self.unavailable();
        }
        tracing::warn!(entry = %self.landing.key, ?cause, "the entry needs a login");
        let record = StoredTokens {
            revision: current.revision.clone(),
            tokens: TokenSet {
                refresh_token: None,
                ..current.tokens.clone()
            },
            intent: None,
        };
        save(
            &self.landing.shared,
            &self.landing.key,
            self.held,
            open,
            Arc::new(record),
        )
        .await;
        self.end(RefreshError::NeedsLogin(cause))
    }

    /// Again, twice at most and not in an old flight; what the provider asks for beyond that is the cooldown.
    async fn not_processed(
        &self,
        open: &mut Open,
        times: usize,
        retry_after: Option<Duration>,
        intent: &Intent,
    ) -> Verdict {
        let pause = PAUSES
            .get(times - 1)
            .map(|pause| retry_after.unwrap_or(*pause))
            .filter(|pause| self.began.elapsed().saturating_add(*pause) < OLDEST);
        // Also before a pause: if this broker dies in it, others need not take the token for spent.
        self.withdraw(open).await;
        if let Some(pause) = pause {
            return Verdict::Again(pause);
        }
        let asked = retry_after.unwrap_or_default().min(LONGEST_HOLD_OFF);
        if self.lost {
            // Nothing more is known of the answer that was lost before.
            return Verdict::End(self.still_lost(intent, asked));
        }
        Verdict::End(End {
            hold_off: asked,
            ..self.unavailable()
        })
    }

    /// The first repeat comes at once if there is nothing to serve; further ones are spaced by the failure backoff, and
    /// none comes while the intent of the last presentation holds.
    fn ambiguous(&self, at_once: bool, intent: &Intent) -> Verdict {
        if at_once {
            return Verdict::Again(Duration::ZERO);
        }
        Verdict::End(self.still_lost(intent, Duration::ZERO))
    }

    fn still_lost(&self, intent: &Intent, at_least: Duration) -> End {
        let flights = self.landing.ambiguous_before().saturating_add(1);
        let marked = intent.remaining(&self.landing.shared.clock.now());
        End {
            hold_off: timing::backoff(flights).max(marked).max(at_least),
            ambiguous: Some(true),
            ..self.unavailable()
        }
    }

    /// The flight presents nothing more. Its mark goes, unless an answer was lost: then only time tells.
    async fn withdraw(&self, open: &mut Open) {
        if !self.lost {
            self.clear_intent(open).await;
        }
    }

    async fn clear_intent(&self, open: &mut Open) {
        let mut record = (*self.stored).clone();
        record.intent = None;
        if let Err(error) = open.guard.put(Arc::new(record), OverCorrupt::Refuse).await {
            // Nothing is lost: this broker knows better, and whoever else finds it waits until it has passed.
            self.landing.over(&self.marks);
            tracing::warn!(entry = %self.landing.key, %error, "the mark of a refresh that has ended could not be removed");
        }
    }

    /// The entry was removed while the provider was asked: what came is nobody's.
    fn late(&self, outcome: Outcome) {
        if let Outcome::Answered(answer) = outcome {
            tracing::info!(entry = %self.landing.key, "the answer to a refresh came after the logout and is revoked");
            removal::revoke_late(&self.landing.shared, &self.landing.key, *answer);
        }
    }

    fn end(&self, error: impl Into<RefreshError>) -> End {
        End {
            result: Err(error.into()),
            lifetime: self.stored.tokens.expiry.as_ref().map(|expiry| expiry.lifetime),
            hold_off: Duration::ZERO,
            ambiguous: Some(false),
        }
    }

    /// No usable answer. When to try again is reckoned when the flight lands.
    fn unavailable(&self) -> End {
        self.end(RefreshError::Unavailable {
            retry_after: Duration::ZERO,
        })
    }

    /// The end of a flight that could not send what it wanted to.
    fn unsent(&self, error: impl Into<RefreshError>) -> End {
        End {
            ambiguous: self.lost_now.then_some(true),
            ..self.end(error)
        }
    }

    fn log(&self, seen: &Seen, what: &str) {
        tracing::warn!(entry = %self.landing.key, %seen, "the provider {what}");
    }
}
