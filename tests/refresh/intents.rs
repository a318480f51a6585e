//! The mark that is in the store before a refresh token goes out. That it is there during every presentation is looked
//! at by the fake provider itself, in every test.

use std::{sync::Arc, time::Duration};

use credbroker::{
    broker::{Broker, page::PageRequest, status::EntryState},
    clock::Clock as _,
    credential::Intent,
    reason::Reason,
    store::{HolderState, OverCorrupt, TokenStore as _},
};

use crate::{
    authority::{Step, entry},
    fake::{Change, Fault},
    house::{House, failed, get, pass, settle, timed, token, unavailable},
};

/// Marks the entry as somebody else would who is about to present its refresh token, and dies.
async fn mark(house: &House, refresh_token: &str) {
    let mut record = (*house.stored().await.unwrap()).clone();
    record.intent = Some(Box::new(Intent::to_present(&refresh_token.into(), &house.clock.now())));
    let mut guard = house.store.below(&entry("")).await;
    guard.note(HolderState::Refreshing);
    guard.put(Arc::new(record), OverCorrupt::Refuse).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_mark_is_durable_before_the_refresh_token_goes_out_and_has_its_hash_and_both_clocks() {
    let house = House::expired().await;
    house.authority.then([Step::Rotate(3600).held()]);
    let getting = house.getting();
    house.authority.asked(1).await;
    let stored = house.stored().await.unwrap();
    let intent = stored.intent.as_ref().unwrap();
    assert!(intent.is_about(&"rt-0".into()));
    assert_eq!(intent.written, house.clock.now());
    assert_eq!(intent.deadline, Duration::from_secs(90));
    house.authority.let_go();
    getting.await.unwrap().unwrap();
    assert!(!house.marked().await);
}

#[tokio::test(start_paused = true)]
async fn without_a_mark_nothing_is_presented() {
    let house = House::expired().await;
    house.store.fail_only(Change::Intent, Fault::Unavailable);
    assert_eq!(house.get().await.unwrap_err().0, Reason::StoreUnavailable);
    assert_eq!(house.authority.times(), 0);
    house.store.fail_changes(None);
    pass(30).await;
    assert_eq!(house.get().await, token("at-1"));
}

#[tokio::test(start_paused = true)]
async fn without_a_mark_nothing_is_presented_a_second_time() {
    let house = House::expired().await;
    house.authority.then([Step::Lost.held()]);
    let getting = house.getting();
    house.authority.asked(1).await;
    house.store.fail_only(Change::Intent, Fault::Unavailable);
    house.authority.let_go();
    assert_eq!(getting.await.unwrap().unwrap_err().0, Reason::StoreUnavailable);
    assert_eq!(house.authority.times(), 1);
    assert!(house.marked().await, "the first mark says that an answer was lost");
}

#[tokio::test(start_paused = true)]
async fn every_outcome_but_a_lost_answer_removes_the_mark() {
    let steps: [(fn() -> Step, bool); 7] = [
        (|| Step::Rotate(3600), false),
        (|| Step::Keep(3600), false),
        (|| Step::Rotate(0), false),
        (|| Step::Reject, false),
        (|| Step::Refuse, false),
        (|| Step::Busy(None), false),
        (|| Step::Lost, true),
    ];
    for (row, (step, stays)) in steps.into_iter().enumerate() {
        let house = House::expired().await;
        house.authority.otherwise(step);
        drop(house.get().await);
        assert_eq!(house.marked().await, stays, "row {row}");
    }
}

#[tokio::test(start_paused = true)]
async fn no_mark_is_left_in_the_pause_before_what_was_not_processed_is_sent_again() {
    let house = House::expired().await;
    house.authority.then([Step::Busy(Some(7)), Step::Rotate(3600)]);
    let getting = house.getting();
    house.authority.asked(1).await;
    pass(3).await;
    assert!(!house.marked().await);
    assert_eq!(getting.await.unwrap(), token("at-1"));
}

#[tokio::test(start_paused = true)]
async fn a_mark_does_not_change_the_revision() {
    let house = House::with(1000).await;
    let before = house.revision().await;
    house.authority.then([Step::Reject]);
    house.refresh().await.unwrap_err();
    assert_eq!(house.revision().await, before);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_token_that_somebody_else_has_is_not_presented_before_the_deadline() {
    let house = House::expired().await;
    mark(&house, "rt-0").await;
    pass(20).await;
    // At once, with what is left; and lock and permit are free.
    assert_eq!(timed(house.get()).await, (unavailable(70), 0));
    assert!(house.store.lock(&entry(""), Duration::ZERO).await.is_ok());
    let others: Vec<_> = (0..9).map(|n| format!("b{n}")).collect();
    for bucket in &others {
        house.import(bucket, &format!("rt-{bucket}"), 0).await;
        assert!(timed(get(&house.broker, bucket)).await.0.is_ok());
    }
    pass(69).await;
    assert_eq!(house.get().await, unavailable(1));
    assert!(!house.authority.presented().contains(&"rt-0".to_owned()));
    pass(1).await;
    house.get().await.unwrap();
    assert_eq!(house.authority.presented().last().unwrap(), "rt-0");
}

#[tokio::test(start_paused = true)]
async fn an_unexpired_token_is_served_while_somebody_else_has_the_refresh_token() {
    let house = House::with(100).await;
    pass(97).await;
    mark(&house, "rt-0").await;
    assert_eq!(timed(house.get()).await, (token("at-0"), 0));
    assert_eq!(house.authority.times(), 0);
    pass(3).await;
    assert_eq!(house.get().await, unavailable(87));
}

#[tokio::test(start_paused = true)]
async fn the_deadline_passes_by_either_clock_and_with_every_boot() {
    let steps: [fn(&House); 3] = [
        |house| house.clock.step_wall(90),
        |house| house.clock.step_boot(90),
        |house| house.clock.reboot(),
    ];
    for (row, step) in steps.into_iter().enumerate() {
        let house = House::expired().await;
        mark(&house, "rt-0").await;
        step(&house);
        assert_eq!(house.get().await, token("at-1"), "row {row}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_was_set_back_does_not_prolong_the_deadline() {
    let house = House::expired().await;
    mark(&house, "rt-0").await;
    house.clock.step_wall(-50);
    assert_eq!(house.get().await, unavailable(90));
    pass(90).await;
    // The wall clock's step has made the token look younger to that clock, but not to the other one.
    assert_eq!(house.get().await, token("at-1"));
}

#[tokio::test(start_paused = true)]
async fn a_mark_about_another_refresh_token_keeps_nobody_waiting() {
    let house = House::expired().await;
    mark(&house, "rt-of-another-day").await;
    assert_eq!(house.get().await, token("at-1"));
}

#[tokio::test(start_paused = true)]
async fn what_another_flight_saved_meanwhile_is_served_whatever_the_mark_says() {
    let house = House::expired().await;
    let saw = house.revision().await;
    house.import("", "rt-0", 3600).await;
    mark(&house, "rt-0").await;
    let coordinator = house.coordinator();
    let asker = credbroker::broker::coordinator::Asker::Caller;
    coordinator.refresh(&entry(""), &saw, asker).await.unwrap();
    assert_eq!(house.authority.times(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_presentation_that_died_with_its_process_is_repeated_once_in_a_flight() {
    let house = House::expired().await;
    mark(&house, "rt-0").await;
    pass(90).await;
    house.authority.otherwise(|| Step::Lost);
    // The repeat was this one: no second one at once.
    assert_eq!(house.get().await, unavailable(90));
    assert_eq!(house.authority.times(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_after_a_crash_names_the_lost_answer() {
    let house = House::expired().await;
    mark(&house, "rt-0").await;
    pass(90).await;
    house.authority.then([Step::Refuse]);
    let error = house.error().await;
    assert_eq!(error.reason(), Reason::NeedsLogin);
    assert!(error.to_string().contains("was lost"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn without_leave_to_repeat_an_interrupted_refresh_needs_a_login_once_the_deadline_has_passed() {
    let house = House::expired().await;
    house.authority.repeats(false);
    mark(&house, "rt-0").await;
    assert_eq!(house.get().await, unavailable(90));
    pass(90).await;
    assert_eq!(house.get().await, failed(Reason::NeedsLogin));
    assert_eq!(house.authority.times(), 0);
    assert_eq!(house.stored_refresh_token().await, None);
    assert!(!house.marked().await);
}

#[tokio::test(start_paused = true)]
async fn a_save_of_a_sandbox_carries_the_mark_over() {
    let house = House::expired().await;
    mark(&house, "rt-0").await;
    house.save("at-saved").await.unwrap();
    assert!(house.marked().await);
    assert_eq!(house.refresh().await, unavailable(90));
    assert_eq!(house.authority.times(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_import_drops_the_mark_unless_the_refresh_token_is_the_same() {
    for (refresh_token, stays) in [("rt-0", true), ("rt-new", false), ("", false)] {
        let house = House::expired().await;
        mark(&house, "rt-0").await;
        house.import("", refresh_token, 1000).await;
        assert_eq!(house.marked().await, stays, "{refresh_token}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_mark_that_could_not_be_written_leaves_none_behind() {
    let house = House::expired().await;
    house.store.fail_only(Change::Intent, Fault::Unavailable);
    house.get().await.unwrap_err();
    settle().await;
    // It might be on the disk all the same, and is taken away.
    assert_eq!(house.store.changed().last(), Some(&(Change::Record, true)));
    assert!(!house.marked().await);
}

#[tokio::test(start_paused = true)]
async fn a_repeat_that_cannot_be_marked_leaves_the_mark_of_what_was_lost() {
    let house = House::expired().await;
    mark(&house, "rt-0").await;
    pass(91).await;
    house.store.fail_only(Change::Intent, Fault::Unavailable);
    assert_eq!(house.get().await.unwrap_err().0, Reason::StoreUnavailable);
    assert_eq!(house.authority.times(), 0);
    assert!(house.marked().await, "whoever comes next has to know");
}

#[tokio::test(start_paused = true)]
async fn a_mark_that_cannot_be_removed_does_not_make_this_broker_forget_how_it_ended() {
    let steps: [fn() -> Step; 2] = [|| Step::Reject, || Step::Busy(Some(0))];
    for (row, step) in steps.into_iter().enumerate() {
        let house = House::expired().await;
        // Were the answer taken for lost, the refresh token would have to be given up.
        house.authority.repeats(false);
        house.authority.then([step().held()]);
        let getting = house.getting();
        house.authority.asked(1).await;
        house.store.fail_only(Change::Record, Fault::Unavailable);
        house.authority.otherwise(step);
        house.authority.let_go();
        getting.await.unwrap().unwrap_err();
        assert!(house.marked().await, "row {row}");
        assert_eq!(state(&house).await, EntryState::Due, "row {row}");
        house.store.fail_changes(None);
        house.authority.otherwise(|| Step::Rotate(3600));
        pass(30).await;
        assert_eq!(house.get().await, token("at-1"), "row {row}");
        assert!(!house.marked().await, "row {row}");
    }
}

/// The provider was busy, and then the store takes no change any more.
async fn with_a_mark_that_stayed() -> House {
    let house = House::expired().await;
    house.authority.then([Step::Busy(None).held()]);
    let getting = house.getting();
    house.authority.asked(1).await;
    house.store.fail_changes(Fault::Unavailable);
    house.authority.let_go();
    assert_eq!(getting.await.unwrap().unwrap_err().0, Reason::StoreUnavailable);
    assert!(house.marked().await);
    house
}

#[tokio::test(start_paused = true)]
async fn a_mark_that_may_have_been_written_and_cannot_be_removed_keeps_this_broker_waiting_for_nothing() {
    let house = with_a_mark_that_stayed().await;
    house.store.fail_changes(None);
    pass(30).await;
    assert_eq!(house.get().await, token("at-1"));
}

#[tokio::test(start_paused = true)]
async fn a_mark_that_stayed_goes_before_the_next_flight_writes_its_own() {
    let house = with_a_mark_that_stayed().await;
    pass(30).await;
    house.store.fail_only(Change::Intent, Fault::Unavailable);
    house.get().await.unwrap_err();
    assert_eq!((house.authority.times(), house.marked().await), (1, false));
}

#[tokio::test(start_paused = true)]
async fn a_refresh_is_shown_as_interrupted_once_nobody_is_at_it() {
    let house = House::expired().await;
    house.authority.then([Step::Lost.held(), Step::Lost]);
    let other = house.another();
    let getting = house.getting();
    house.authority.asked(1).await;
    // Another process merely refreshes.
    for broker in [&house.broker, &other] {
        assert_eq!(state_at(broker).await, EntryState::Due);
    }
    house.authority.let_go();
    getting.await.unwrap().unwrap_err();
    for broker in [&house.broker, &other] {
        assert_eq!(state_at(broker).await, EntryState::Ambiguous);
    }
    // A login with another refresh token ends it.
    house.import("", "rt-new", 1000).await;
    assert_eq!(state(&house).await, EntryState::Ok);
}

async fn state(house: &House) -> EntryState {
    state_at(&house.broker).await
}

async fn state_at(broker: &Broker) -> EntryState {
    let (entries, _) = broker.entries(&PageRequest::all()).await.unwrap();
    entries.first().unwrap().state
}
