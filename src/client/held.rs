//! What a [`TokenHandle`](super::TokenHandle) knows, and what follows from it for who asks: no I/O, no clock of its own.

use std::time::Duration;

use jiff::Timestamp;

use super::{Error, stream::aged};
use crate::{
    broker::timing::{expired, usable},
    clock::Now,
    credential::{AccessToken, Expiry},
};

/// How long a broker that refused is left alone while nobody has to wait for it.
const PAUSE: Duration = Duration::from_secs(1);

/// A token, and when it came.
struct Held {
    token: AccessToken,
    received: Duration,
    expiry: Option<Expiry>,
}

impl Held {
    /// `now` is the boot time. The wall clock of a sandbox may be anything, so here it stands still: what the broker said
    /// is left counts from the moment that the token came.
    fn new(token: AccessToken, now: Duration) -> Self {
        let received = Now {
            wall: Timestamp::UNIX_EPOCH,
            boot: now,
            boot_id: "this".into(),
        };
        Self {
            expiry: token.expires_in.map(|left| Expiry::from_lifetime(left, &received)),
            received: now,
            token,
        }
    }

    fn at(&self, now: Duration) -> Option<Now> {
        self.expiry.as_ref().map(|expiry| Now {
            boot: now,
            ..expiry.stored.clone()
        })
    }

    /// The broker's own rule, with what was left as the lifetime.
    fn usable(&self, now: Duration) -> bool {
        self.at(now)
            .is_none_or(|now| usable(self.expiry.as_ref(), &now, Duration::ZERO))
    }

    fn expired(&self, now: Duration) -> bool {
        self.at(now).is_some_and(|now| expired(self.expiry.as_ref(), &now))
    }

    fn token(&self, now: Duration) -> AccessToken {
        aged(self.token.clone(), now.saturating_sub(self.received))
    }
}

/// What a handle knows.
#[derive(Default)]
pub(super) struct State {
    held: Option<Held>,
    /// A stream is open.
    watched: bool,
    /// A question is under way: for a stream, or for a token if there is a stream.
    asking: bool,
    so_far: Counts,
    failure: Option<Error>,
    /// How often the token was taken back.
    withdrawals: u64,
    /// How often it had been when the question began that is under way.
    asked_after: u64,
    /// The version that was refused last where it was used, and replaced.
    refused: Option<String>,
    /// The failure is for good.
    over: bool,
    /// Until then nobody asks without need.
    not_before: Duration,
}

/// How often something has happened.
#[derive(Clone, Copy, Default)]
pub(super) struct Counts {
    /// A token came.
    tokens: u64,
    /// A question was answered with a token.
    answers: u64,
    /// A question failed, or a stream ended.
    failures: u64,
    /// No stream came about, or one ended.
    ends: u64,
}

/// What to do for who asks.
pub(super) enum Answer {
    Token(AccessToken),
    Failed(Error),
    /// Ask the broker, and wait.
    Ask,
    Wait,
}

/// What to ask the broker for.
pub(super) enum Question {
    Stream,
    Token,
}

impl State {
    pub(super) fn so_far(&self) -> Counts {
        self.so_far
    }

    /// The newest token, if it is usable.
    pub(super) fn current(&self, now: Duration) -> Option<AccessToken> {
        let held = self.held.as_ref().filter(|held| held.usable(now))?;
        Some(held.token(now))
    }

    /// For who needs a token, and has waited since `before`.
    pub(super) fn token(&self, now: Duration, before: Counts) -> Answer {
        if let Some(held) = &self.held
            && (held.usable(now) || (self.so_far.tokens > before.tokens && !held.expired(now)))
        {
            return Answer::Token(held.token(now));
        }
        if self.so_far.answers > before.answers {
            // No broker hands out what has expired.
            return Answer::Failed(Error::malformed());
        }
        if self.over || self.so_far.failures > before.failures {
            return Answer::Failed(self.failed());
        }
        self.wait()
    }

    /// For who waits for another token than that of this revision, since `before`.
    pub(super) fn another(&self, revision: &str, now: Duration, before: Counts) -> Answer {
        let other = self.held.as_ref().filter(|held| held.token.revision != revision);
        if let Some(held) = other.filter(|held| !held.expired(now)) {
            return Answer::Token(held.token(now));
        }
        if self.so_far.ends > before.ends || (self.over && !self.watched) {
            return Answer::Failed(self.failed());
        }
        if self.watched { Answer::Wait } else { self.wait() }
    }

    fn wait(&self) -> Answer {
        if self.asking { Answer::Wait } else { Answer::Ask }
    }

    fn failed(&self) -> Error {
        self.failure.as_ref().map_or_else(Error::malformed, Error::again)
    }

    /// Whether a new stream is worth it although nobody waits for it.
    pub(super) fn deserted(&self, now: Duration) -> bool {
        !self.watched && !self.asking && !self.over && now >= self.not_before
    }

    /// Begins a question, unless one is under way or none would be answered.
    pub(super) fn ask(&mut self) -> Option<Question> {
        if self.asking || self.over {
            return None;
        }
        self.asking = true;
        self.asked_after = self.withdrawals;
        Some(if self.watched {
            Question::Token
        } else {
            Question::Stream
        })
    }

    /// The stream's token; `first`: it is the answer to a question.
    pub(super) fn told(&mut self, token: AccessToken, first: bool, now: Duration) {
        if first {
            self.asking = false;
            self.so_far.answers += 1;
        }
        self.watched = true;
        // A message may have been under way when its token was refused and replaced.
        let refused = self.refused.as_ref() == Some(&token.revision);
        if !refused || self.current(now).is_none() {
            self.hold(token, now);
        }
    }

    /// The answer to a question for a token. What the stream told meanwhile is newer, also that there is none any more: then
    /// this one may be what was withdrawn, and who still waits asks anew.
    pub(super) fn answered(&mut self, token: AccessToken, now: Duration) {
        self.asking = false;
        if self.withdrawals != self.asked_after {
            return;
        }
        self.so_far.answers += 1;
        if self.current(now).is_none() {
            self.hold(token, now);
        }
    }

    /// How often the token was taken back so far.
    pub(super) fn withdrawals(&self) -> u64 {
        self.withdrawals
    }

    /// The token that took the place of the one that was refused, unless the stream told of another one meanwhile, or that
    /// there is none; `asked_after`: how often that had been when the question began.
    pub(super) fn renewed(&mut self, refused: &str, token: AccessToken, asked_after: u64, now: Duration) {
        if self.withdrawals != asked_after {
            return;
        }
        if token.revision != refused {
            self.refused = Some(refused.to_owned());
        }
        let other = |held: &&Held| held.token.revision != refused && held.usable(now);
        if self.held.as_ref().filter(other).is_none() {
            self.hold(token, now);
        }
    }

    /// The stream has ended, or there is none; `asked`: that is the answer to a question.
    pub(super) fn ended(&mut self, error: Error, asked: bool, now: Duration) {
        self.watched = false;
        self.so_far.ends += 1;
        self.fail(error, asked, now);
    }

    /// The question for a token failed.
    pub(super) fn unanswered(&mut self, error: Error, now: Duration) {
        self.fail(error, true, now);
    }

    fn fail(&mut self, error: Error, asked: bool, now: Duration) {
        if asked {
            self.asking = false;
        }
        self.so_far.failures += 1;
        self.not_before = now.saturating_add(error.retry_after().unwrap_or_default().max(PAUSE));
        self.over |= matches!(error, Error::ConnectionLost | Error::UnknownVersion(_));
        if withdraws(&error) {
            self.forget();
        }
        self.failure = Some(error);
    }

    /// There is no such entry.
    pub(super) fn forget(&mut self) {
        self.withdrawals += 1;
        self.held = None;
    }

    fn hold(&mut self, token: AccessToken, now: Duration) {
        self.so_far.tokens += 1;
        self.held = Some(Held::new(token, now));
    }
}

/// Whether the entry's token is not to be used any more. Other failures say nothing of it.
fn withdraws(error: &Error) -> bool {
    matches!(
        error,
        Error::NotFound(_)
            | Error::NeedsLogin(_)
            | Error::ProviderNotFound(_)
            | Error::Unauthenticated(_)
            | Error::Unauthorized(_)
            | Error::PeerNotAllowed(_)
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{client::Refusal, reason::Reason};

    const START: Duration = Duration::from_secs(10_000);

    fn after(seconds: f64) -> Duration {
        START + Duration::from_secs_f64(seconds)
    }

    /// A token that is good for so many seconds.
    fn token(revision: &str, seconds: Option<f64>) -> AccessToken {
        AccessToken {
            access_token: revision.into(),
            // What the host's clock says is nobody's business here.
            expire_time: Some(Timestamp::UNIX_EPOCH),
            expires_in: seconds.map(Duration::from_secs_f64),
            token_type: String::new(),
            scope: String::new(),
            extra: BTreeMap::new(),
            revision: revision.to_owned(),
        }
    }

    /// Watched, with this token.
    fn watched(seconds: Option<f64>) -> State {
        let mut state = State::default();
        assert!(matches!(state.ask(), Some(Question::Stream)));
        state.told(token("one", seconds), true, START);
        state
    }

    fn refused(reason: Reason) -> Error {
        Error::refused(reason, Refusal::default())
    }

    /// What who asks now is answered: a revision, a reason, or what is done.
    fn told(answer: Answer) -> String {
        match answer {
            Answer::Token(token) => token.revision,
            Answer::Failed(error) => error
                .reason()
                .map_or_else(|| "lost".to_owned(), |reason| reason.as_str().to_owned()),
            Answer::Ask => "ask".to_owned(),
            Answer::Wait => "wait".to_owned(),
        }
    }

    fn asks(state: &State, now: Duration) -> String {
        told(state.token(now, state.so_far()))
    }

    #[test]
    fn a_token_is_handed_out_while_the_broker_would_and_the_wall_clock_has_no_say() {
        // lifetime, seconds since it came -> usable, expired
        let table = [
            (Some(3600.0), 0.0, true, false),
            (Some(3600.0), 3594.9, true, false),
            (Some(3600.0), 3595.0, false, false), // the skew of 5 s
            (Some(3600.0), 3600.0, false, true),
            (Some(3600.0), 90_000.0, false, true), // a night of suspend
            (Some(20.0), 17.9, true, false),
            (Some(20.0), 18.0, false, false), // a tenth of what was left
            (Some(0.5), 0.4, true, false),
            (Some(0.5), 0.45, false, false),
            (Some(0.0), 0.0, false, true),
            (None, 1e9, true, false),
        ];
        for (lifetime, passed, want_usable, want_expired) in table {
            let row = (lifetime, passed);
            let held = Held::new(token("one", lifetime), START);
            assert_eq!(held.usable(after(passed)), want_usable, "{row:?}");
            assert_eq!(held.expired(after(passed)), want_expired, "{row:?}");
            let state = watched(lifetime);
            assert_eq!(asks(&state, after(passed)) == "one", want_usable, "{row:?}");
            assert_eq!(state.current(after(passed)).is_some(), want_usable, "{row:?}");
        }
        let half = watched(Some(3600.0)).current(after(1800.0)).unwrap();
        assert_eq!(half.expires_in, Some(Duration::from_secs(1800)));
    }

    #[test]
    fn a_token_near_its_end_is_asked_for_once_and_taken_as_it_comes() {
        let mut state = watched(Some(3600.0));
        let (now, before) = (after(3596.0), state.so_far());
        assert_eq!(asks(&state, now), "ask");
        assert!(matches!(state.ask(), Some(Question::Token)));
        assert!(state.ask().is_none());
        assert_eq!(asks(&state, now), "wait");
        // The broker has no other one, and this one is still good.
        state.answered(token("one", Some(4.0)), now);
        assert_eq!(told(state.token(now, before)), "one");
        // Whoever comes now has not asked yet.
        assert_eq!(asks(&state, after(3599.9)), "ask");

        let mut state = watched(Some(10.0));
        let (now, before) = (after(20.0), state.so_far());
        state.ask();
        state.unanswered(refused(Reason::ProviderUnavailable), now);
        assert_eq!(told(state.token(now, before)), "PROVIDER_UNAVAILABLE");
        assert_eq!(asks(&state, now), "ask");
        // The stream has outlived that.
        state.told(token("two", Some(10.0)), false, now);
        assert_eq!(asks(&state, now), "two");

        // What came over the stream meanwhile is newer than an answer.
        state.ask();
        state.answered(token("old", Some(10.0)), now);
        assert_eq!(asks(&state, now), "two");
        // What has expired when it comes is no answer.
        let (now, before) = (after(100.0), state.so_far());
        state.ask();
        state.answered(token("three", Some(0.0)), now);
        assert!(matches!(state.token(now, before), Answer::Failed(Error::Other { .. })));
    }

    #[test]
    fn what_an_end_means_for_the_token_that_is_left() {
        use Reason::{
            InternalError, NeedsLogin, NotFound, ProviderNotFound, RateLimited, ShuttingDown, TooManyStreams,
            Unauthorized,
        };
        for reason in [NotFound, NeedsLogin, ProviderNotFound, Unauthorized] {
            let mut state = watched(Some(3600.0));
            let before = state.so_far();
            state.ended(refused(reason), false, START);
            assert_eq!(told(state.token(START, before)), reason.as_str());
            assert!(state.current(START).is_none());
            // A login may have happened: the next one asks anew.
            assert_eq!(asks(&state, START), "ask");
        }
        for reason in [ShuttingDown, InternalError, RateLimited, TooManyStreams] {
            let mut state = watched(Some(3600.0));
            state.ended(refused(reason), false, START);
            assert_eq!(asks(&state, after(10.0)), "one");
            assert_eq!(asks(&state, after(3600.0)), "ask");
            // A broker that refused is not asked again at once without need.
            assert!(!state.deserted(START) && state.deserted(after(1.0)));
        }
        for end in [|| Error::ConnectionLost, || refused(Reason::UnknownVersion)] {
            let mut state = watched(Some(3600.0));
            state.ended(end(), false, START);
            assert_eq!(asks(&state, after(10.0)), "one");
            assert_ne!(asks(&state, after(3600.0)), "ask");
            assert!(!state.deserted(after(10.0)) && state.ask().is_none());
        }
    }

    #[test]
    fn who_waits_for_another_token_waits_for_the_stream_alone() {
        let mut state = watched(Some(10.0));
        let before = state.so_far();
        assert_eq!(told(state.another("none", START, before)), "one");
        assert_eq!(told(state.another("one", after(60.0), before)), "wait");
        // Somebody else asked in vain.
        state.ask();
        state.unanswered(refused(Reason::ProviderUnavailable), START);
        assert_eq!(told(state.another("one", START, before)), "wait");
        state.told(token("two", Some(10.0)), false, START);
        assert_eq!(told(state.another("one", START, before)), "two");
        state.ended(refused(Reason::ShuttingDown), false, START);
        assert_eq!(told(state.another("two", START, before)), "SHUTTING_DOWN");
        assert_eq!(told(state.another("two", START, state.so_far())), "ask");
    }

    #[test]
    fn a_renewed_token_takes_the_place_of_the_refused_one_alone() {
        let mut state = watched(Some(3600.0));
        state.renewed("one", token("two", Some(3600.0)), 0, START);
        assert_eq!(asks(&state, START), "two");
        state.renewed("one", token("late", Some(3600.0)), 0, START);
        assert_eq!(asks(&state, START), "two");
        // A message of the stream that was under way brings nothing back that was refused.
        state.told(token("one", Some(3600.0)), false, START);
        assert_eq!(asks(&state, START), "two");
        state.forget();
        state.renewed("two", token("late", Some(3600.0)), 0, START);
        assert!(state.current(START).is_none());
        state.renewed("two", token("three", Some(3600.0)), state.withdrawals(), START);
        assert_eq!(asks(&state, START), "three");
    }

    #[test]
    fn an_answer_that_comes_after_the_token_was_withdrawn_brings_it_back_to_nobody() {
        let mut state = watched(Some(10.0));
        let now = after(9.0);
        let before = state.so_far();
        assert_eq!(asks(&state, now), "ask");
        assert!(matches!(state.ask(), Some(Question::Token)));
        // The answer is under way on one connection, and the stream of another one says that the entry was removed.
        state.ended(refused(Reason::NotFound), false, now);
        assert_eq!(asks(&state, now), "wait");
        let late = state.so_far();
        state.answered(token("removed", Some(3600.0)), now);
        assert!(state.current(now).is_none());
        assert_eq!(told(state.token(now, before)), "NOT_FOUND");
        assert_eq!(told(state.token(now, late)), "ask");
        assert!(matches!(state.ask(), Some(Question::Stream)));
    }
}
