//! What each outcome of a presentation means, row by row of the table.

use credbroker::reason::Reason;
use secrecy::ExposeSecret as _;

use crate::{
    authority::{Step, answer},
    fake::{Change, Fault},
    house::{House, failed, get, pass, settle, timed, token, unavailable},
};

// A new token set.

#[tokio::test(start_paused = true)]
async fn a_refresh_token_that_the_answer_leaves_out_is_kept() {
    let house = House::expired().await;
    house.authority.then([Step::Keep(3600)]);
    assert_eq!(house.get().await, token("at-1"));
    assert_eq!(house.stored_refresh_token().await.unwrap(), "rt-0");
    assert!(!house.marked().await);
}

#[tokio::test(start_paused = true)]
async fn a_lifetime_counts_from_before_the_request() {
    let house = House::expired().await;
    house.authority.then([Step::Rotate(100).held()]);
    let getting = house.getting();
    house.authority.asked(1).await;
    pass(14).await;
    house.authority.let_go();
    getting.await.unwrap().unwrap();
    pass(80).await;
    assert_eq!(house.get().await, token("at-1"));
    pass(1).await;
    assert_eq!(house.get().await, token("at-2"));
}

#[tokio::test(start_paused = true)]
async fn an_answer_without_a_lifetime_has_the_providers_default() {
    let house = House::expired().await;
    house.authority.default_lifetime_is(50);
    house.authority.then([Step::Answer(answer("at-x", None, None))]);
    assert_eq!(house.get().await, token("at-x"));
    assert_eq!(
        house
            .stored()
            .await
            .unwrap()
            .tokens
            .expiry
            .as_ref()
            .unwrap()
            .lifetime
            .as_secs(),
        50
    );
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_has_expired_already_is_stored_but_never_served() {
    let house = House::expired().await;
    house.authority.then([Step::Rotate(0)]);
    assert_eq!(house.get().await.unwrap_err().0, Reason::ProviderUnavailable);
    assert_eq!(house.stored_refresh_token().await.unwrap(), "rt-1");
    pass(30).await;
    assert_eq!(house.get().await, token("at-2"));
    assert_eq!(house.authority.presented(), ["rt-0", "rt-1"]);
}

#[tokio::test(start_paused = true)]
async fn an_answer_without_a_usable_access_token_keeps_its_refresh_token() {
    let house = House::expired().await;
    let mut odd = answer("", Some("rt-odd".into()), Some(3600));
    odd.access_token = None;
    house.authority.then([Step::Answer(odd)]);
    assert_eq!(house.get().await, unavailable(25));
    assert_eq!(house.stored_refresh_token().await.unwrap(), "rt-odd");
    assert!(!house.marked().await);
    pass(25).await;
    assert_eq!(house.get().await, token("at-1"));
    assert_eq!(house.authority.presented(), ["rt-0", "rt-odd"]);
}

#[tokio::test(start_paused = true)]
async fn an_unexpired_token_is_served_when_the_answer_brings_none() {
    let house = House::with(100).await;
    pass(96).await;
    let mut odd = answer("", Some("rt-odd".into()), Some(3600));
    odd.access_token = None;
    house.authority.then([Step::Answer(odd)]);
    assert_eq!(house.get().await, token("at-0"));
    assert_eq!(house.stored_refresh_token().await.unwrap(), "rt-odd");
}

// Refused.

#[tokio::test(start_paused = true)]
async fn a_refused_refresh_token_is_cleared_and_never_presented_again() {
    let house = House::expired().await;
    house.authority.then([Step::Refuse]);
    assert_eq!(house.get().await, failed(Reason::NeedsLogin));
    assert_eq!(house.stored_refresh_token().await, None);
    assert!(!house.marked().await);
    assert_eq!(
        house.stored().await.unwrap().tokens.access_token.expose_secret(),
        "at-0"
    );
    for _ in 0..3 {
        pass(1000).await;
        assert_eq!(house.get().await, failed(Reason::NeedsLogin));
        assert_eq!(house.refresh().await, failed(Reason::NeedsLogin));
        assert_eq!(get(&house.another(), "").await, failed(Reason::NeedsLogin));
    }
    assert_eq!(house.authority.times(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_unexpired_token_outlives_the_refusal_of_its_refresh_token() {
    let house = House::with(1000).await;
    house.authority.then([Step::Refuse]);
    assert_eq!(house.refresh().await, failed(Reason::NeedsLogin));
    assert_eq!(house.get().await, token("at-0"));
    pass(1000).await;
    assert_eq!(house.get().await, failed(Reason::NeedsLogin));
}

// Rejected.

#[tokio::test(start_paused = true)]
async fn a_rejected_request_keeps_the_refresh_token_and_is_not_repeated_in_the_flight() {
    let house = House::expired().await;
    house.authority.then([Step::Reject]);
    assert_eq!(timed(house.get()).await, (Err((Reason::ProviderRejected, Some(25))), 0));
    assert_eq!(house.stored_refresh_token().await.unwrap(), "rt-0");
    assert!(!house.marked().await);
    pass(25).await;
    assert_eq!(house.get().await, token("at-1"));
    assert_eq!(house.authority.times(), 2);
}

// Not processed.

#[tokio::test(start_paused = true)]
async fn what_was_not_processed_is_sent_again_after_one_and_three_seconds_and_then_no_more() {
    let house = House::expired().await;
    house.authority.otherwise(|| Step::Busy(None));
    assert_eq!(timed(house.get()).await, (unavailable(21), 4));
    assert_eq!(house.authority.moments(), [0, 1, 4]);
    assert!(!house.marked().await);
    assert_eq!(house.stored_refresh_token().await.unwrap(), "rt-0");
}

#[tokio::test(start_paused = true)]
async fn what_was_not_processed_at_first_succeeds_in_the_same_flight() {
    let house = House::expired().await;
    house
        .authority
        .then([Step::Busy(None), Step::Busy(None), Step::Rotate(3600)]);
    assert_eq!(house.get().await, token("at-1"));
    assert_eq!(house.authority.times(), 3);
}

#[tokio::test(start_paused = true)]
async fn retry_after_sets_the_pause() {
    let house = House::expired().await;
    house
        .authority
        .then([Step::Busy(Some(7)), Step::Busy(Some(2)), Step::Rotate(3600)]);
    assert_eq!(timed(house.get()).await, (token("at-1"), 9));
    assert_eq!(house.authority.moments(), [0, 7, 9]);
}

#[tokio::test(start_paused = true)]
async fn a_retry_after_that_is_too_long_for_the_flight_becomes_the_cooldown() {
    let house = House::expired().await;
    house.authority.then([Step::Busy(Some(120))]);
    assert_eq!(timed(house.get()).await, (unavailable(120), 0));
    pass(119).await;
    assert_eq!(house.get().await, unavailable(1));
    assert_eq!(house.authority.times(), 1);
    pass(1).await;
    assert_eq!(house.get().await, token("at-1"));
}

#[tokio::test(start_paused = true)]
async fn a_retry_after_of_days_is_believed_for_an_hour() {
    let house = House::expired().await;
    house.authority.then([Step::Busy(Some(1_000_000))]);
    assert_eq!(house.get().await, unavailable(3600));
    pass(3600).await;
    assert_eq!(house.get().await, token("at-1"));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_again_in_a_flight_of_twenty_five_seconds() {
    // Slow to say no: the pause would end at 24 s, at 25 s.
    for (slow, times) in [(23, 2), (24, 1)] {
        let house = House::expired().await;
        house.authority.then([Step::Busy(None).held(), Step::Reject]);
        let getting = house.getting();
        house.authority.asked(1).await;
        pass(slow).await;
        house.authority.let_go();
        pass(2).await;
        settle().await;
        assert_eq!(house.authority.times(), times);
        drop(getting.await);
    }
}

// Ambiguous.

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_asked_for_once_more_at_once_if_there_is_nothing_to_serve() {
    let house = House::expired().await;
    house.authority.then([Step::Lost, Step::Rotate(3600)]);
    assert_eq!(timed(house.get()).await, (token("at-1"), 0));
    assert_eq!(house.authority.presented(), ["rt-0", "rt-0"]);
    assert_eq!(house.authority.most_at_once(), 1);
    assert!(!house.marked().await);
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_asked_for_at_once_only_once() {
    let house = House::expired().await;
    house.authority.otherwise(|| Step::Lost);
    assert_eq!(timed(house.get()).await, (unavailable(90), 0));
    assert_eq!(house.authority.times(), 2);
    assert!(house.marked().await, "the mark stays: nobody knows");
    assert_eq!(house.stored_refresh_token().await.unwrap(), "rt-0");
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_not_asked_for_at_once_while_there_is_a_token_to_serve() {
    let house = House::with(1000).await;
    house.authority.then([Step::Lost]);
    assert_eq!(house.refresh().await, unavailable(90));
    assert_eq!(house.get().await, token("at-0"));
    pass(89).await;
    assert_eq!(house.refresh().await, token("at-0"));
    assert_eq!(house.authority.times(), 1);
    pass(1).await;
    assert_eq!(house.refresh().await, token("at-1"));
    assert_eq!(house.authority.presented(), ["rt-0", "rt-0"]);
}

#[tokio::test(start_paused = true)]
async fn further_repeats_are_spaced_by_the_mark_and_the_failure_backoff_and_never_two_in_one_flight() {
    let house = House::expired().await;
    house.authority.otherwise(|| Step::Lost);
    let mut waits = Vec::new();
    for _ in 0..7 {
        let (reason, rest) = house.get().await.unwrap_err();
        assert_eq!(reason, Reason::ProviderUnavailable);
        waits.push(rest.unwrap());
        pass(rest.unwrap() - 1).await;
        let times = house.authority.times();
        assert_eq!(house.get().await, unavailable(1));
        assert_eq!(house.authority.times(), times);
        pass(1).await;
    }
    assert_eq!(waits, [90, 90, 120, 240, 480, 960, 1800]);
    assert_eq!(house.authority.times(), 8, "two in the first flight, then one in each");
}

#[tokio::test(start_paused = true)]
async fn a_definite_outcome_ends_the_backoff() {
    let house = House::expired().await;
    for _ in 0..3 {
        house.authority.then([Step::Lost, Step::Lost]);
        house.get().await.unwrap_err();
        pass(1000).await;
    }
    house.authority.then([Step::Rotate(10)]);
    while house.get().await.is_err() {
        pass(30).await;
    }
    pass(1000).await;
    house.authority.otherwise(|| Step::Lost);
    assert_eq!(house.get().await, unavailable(90));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_after_a_lost_answer_names_the_lost_answer() {
    let house = House::expired().await;
    house.authority.then([Step::Lost, Step::Refuse]);
    let error = house.error().await;
    assert_eq!(error.reason(), Reason::NeedsLogin);
    assert!(error.to_string().contains("was lost"), "{error}");
    assert_eq!(house.stored_refresh_token().await, None);
    assert!(!house.marked().await);

    let other = House::expired().await;
    other.authority.then([Step::Refuse]);
    assert!(!other.error().await.to_string().contains("lost"));
}

#[tokio::test(start_paused = true)]
async fn without_leave_to_repeat_a_lost_answer_needs_a_login() {
    let house = House::expired().await;
    house.authority.repeats(false);
    house.authority.then([Step::Lost]);
    let error = house.error().await;
    assert_eq!(error.reason(), Reason::NeedsLogin);
    assert!(error.to_string().contains("was lost"), "{error}");
    pass(1000).await;
    assert_eq!(house.get().await, failed(Reason::NeedsLogin));
    assert_eq!(house.authority.times(), 1);
    assert_eq!(house.stored_refresh_token().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_panics_fails_the_waiters_and_does_not_leave_the_entry_stuck() {
    let house = House::expired().await;
    house.authority.then([Step::Panic.held()]);
    let all = [house.getting(), house.getting()];
    house.authority.asked(1).await;
    settle().await;
    house.authority.let_go();
    for one in all {
        assert_eq!(one.await.unwrap().unwrap_err().0, Reason::InternalError);
    }
    // Nobody knows what the provider did: the mark is waited out.
    pass(30).await;
    assert_eq!(house.get().await, unavailable(60));
    assert_eq!(timed(house.save("at-saved")).await, (Ok(()), 0));
    pass(60).await;
    assert_eq!(house.refresh().await, token("at-1"));
}

#[tokio::test(start_paused = true)]
async fn a_flight_that_presents_nothing_does_not_forget_how_many_answers_were_lost() {
    let house = House::expired().await;
    house.authority.otherwise(|| Step::Lost);
    for wait in [90, 90, 120] {
        assert_eq!(house.get().await, unavailable(wait));
        pass(wait).await;
    }
    house.store.fail_only(Change::Intent, Fault::Unavailable);
    assert_eq!(house.get().await.unwrap_err().0, Reason::StoreUnavailable);
    house.store.fail_changes(None);
    pass(30).await;
    assert_eq!(house.get().await, unavailable(240));
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_still_named_by_a_later_flight_and_after_what_was_not_processed() {
    let house = House::expired().await;
    house.authority.then([Step::Lost, Step::Busy(Some(60)), Step::Refuse]);
    let (reason, wait) = house.get().await.unwrap_err();
    assert_eq!(reason, Reason::ProviderUnavailable);
    assert!(house.marked().await);
    pass(wait.unwrap()).await;
    let error = house.error().await;
    assert_eq!(error.reason(), Reason::NeedsLogin);
    assert!(error.to_string().contains("was lost"), "{error}");
    assert_eq!(house.authority.times(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_provider_whose_tokens_have_all_expired_is_not_asked_in_a_loop() {
    let house = House::expired().await;
    house.authority.otherwise(|| Step::Rotate(0));
    for _ in 0..50 {
        house.get().await.unwrap_err();
    }
    assert_eq!(house.authority.times(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_whose_access_token_is_a_refresh_token_is_not_handed_out() {
    // The one that was presented and stays; and the one that comes with it.
    for (rotated, kept) in [(None, "rt-0"), (Some("rt-0".to_owned()), "rt-0")] {
        let house = House::expired().await;
        house
            .authority
            .then([Step::Answer(answer("rt-0", rotated, Some(3600)))]);
        assert_eq!(house.get().await, unavailable(25));
        assert_eq!(house.stored_refresh_token().await.unwrap(), kept);
        assert_ne!(
            house.stored().await.unwrap().tokens.access_token.expose_secret(),
            "rt-0"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_of_one_refresh_token_does_not_clear_another_one() {
    let house = House::expired().await;
    house.authority.then([Step::Refuse.held()]);
    let getting = house.getting();
    house.authority.asked(1).await;
    // Somebody who has never heard of locks: a restored backup.
    let mut record = (*house.stored().await.unwrap()).clone();
    record.tokens.refresh_token = Some("rt-restored".into());
    record.intent = None;
    house.store.restore(&crate::authority::entry(""), record);
    house.authority.let_go();
    getting.await.unwrap().unwrap_err();
    assert_eq!(house.stored_refresh_token().await.as_deref(), Some("rt-restored"));
}
