//! One flight an entry, whoever asks, and whoever goes away.

use std::time::Duration;

use credbroker::{
    broker::coordinator::{Asker, RefreshError},
    reason::Reason,
    store::TokenStore as _,
};

use crate::{
    authority::{Step, entry},
    house::{House, ended, failed, get, getting, pass, settle, timed, token},
};

#[tokio::test(start_paused = true)]
async fn forty_callers_at_once_spend_the_refresh_token_once() {
    let house = House::expired().await;
    house.authority.then([Step::Rotate(3600).held()]);
    let other = house.another();
    let all: Vec<_> = (0..40)
        .map(|n| getting(if n % 2 == 0 { &house.broker } else { &other }, ""))
        .collect();
    house.authority.asked(1).await;
    settle().await;
    house.authority.let_go();
    for one in all {
        assert_eq!(one.await.unwrap(), token("at-1"));
    }
    assert_eq!(house.authority.presented(), ["rt-0"]);
}

#[tokio::test(start_paused = true)]
async fn the_empty_bucket_and_default_are_one_entry_and_one_refresh() {
    let house = House::expired().await;
    house.authority.then([Step::Rotate(3600).held()]);
    let (one, other) = (getting(&house.broker, ""), getting(&house.broker, "default"));
    house.authority.asked(1).await;
    settle().await;
    house.authority.let_go();
    assert_eq!(
        (one.await.unwrap(), other.await.unwrap()),
        (token("at-1"), token("at-1"))
    );
    assert_eq!(house.authority.times(), 1);
}

#[tokio::test(start_paused = true)]
async fn who_read_the_entry_before_the_winner_stored_and_enters_after_it_finished_spends_nothing() {
    let house = House::expired().await;
    let saw = house.revision().await;
    assert_eq!(house.get().await, token("at-1"));
    // At once, in the cooldown; after it; and in another broker, which has none.
    let coordinator = house.coordinator();
    for wait in [0, 0, 60] {
        pass(wait).await;
        for asker in [Asker::Caller, Asker::Renewal] {
            let got = coordinator.refresh(&entry(""), &saw, asker).await.unwrap();
            assert_eq!(got.revision, house.revision().await);
        }
    }
    assert_eq!(house.authority.presented(), ["rt-0"]);
}

#[tokio::test(start_paused = true)]
async fn the_same_coordinator_gives_the_new_token_to_who_saw_the_old_one_also_in_the_cooldown() {
    let house = House::expired().await;
    let saw = house.revision().await;
    let coordinator = house.coordinator();
    let first = coordinator.refresh(&entry(""), &saw, Asker::Caller).await.unwrap();
    let second = coordinator.refresh(&entry(""), &saw, Asker::Caller).await.unwrap();
    assert_eq!(first.revision, second.revision);
    assert_eq!(house.authority.times(), 1);
}

#[tokio::test(start_paused = true)]
async fn identity_decides_and_not_what_remains() {
    let house = House::with(600).await;
    pass(540).await;
    // 60 s left: a renewal that saw this very token gets a new one.
    let coordinator = house.coordinator();
    let saw = house.revision().await;
    let renewed = coordinator.refresh(&entry(""), &saw, Asker::Renewal).await.unwrap();
    assert_ne!(renewed.revision, saw);
    assert_eq!(house.authority.times(), 1);
}

#[tokio::test(start_paused = true)]
async fn another_revision_that_is_not_usable_does_not_end_a_flight() {
    let house = House::expired().await;
    let saw = house.revision().await;
    house.import("", "rt-5", 3600).await;
    pass(3597).await;
    house
        .coordinator()
        .refresh(&entry(""), &saw, Asker::Caller)
        .await
        .unwrap();
    assert_eq!(house.authority.presented(), ["rt-5"]);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_does_not_abort_the_exchange() {
    let house = House::expired().await;
    house.authority.then([Step::Rotate(3600).held()]);
    let (gone, stays) = (house.getting(), house.getting());
    house.authority.asked(1).await;
    gone.abort();
    settle().await;
    house.authority.let_go();
    assert_eq!(stays.await.unwrap(), token("at-1"));
    assert_eq!(house.authority.times(), 1);
}

#[tokio::test(start_paused = true)]
async fn callers_that_all_go_away_do_not_abort_the_exchange_nor_lose_its_result() {
    let house = House::expired().await;
    house.authority.then([Step::Rotate(3600).held()]);
    let all = [house.getting(), house.getting()];
    house.authority.asked(1).await;
    for one in all {
        one.abort();
        assert!(one.await.unwrap_err().is_cancelled());
    }
    pass(5).await;
    assert!(house.authority.busy(), "cut off");
    house.authority.let_go();
    settle().await;
    assert_eq!(house.stored_refresh_token().await.unwrap(), "rt-1");
    assert_eq!(house.get().await, token("at-1"));
    assert_eq!(house.authority.times(), 1);
}

#[tokio::test(start_paused = true)]
async fn callers_that_all_go_away_before_the_lock_is_had_do_not_end_the_flight() {
    let house = House::expired().await;
    let lock = house.store.below(&entry("")).await;
    let gone = house.getting();
    settle().await;
    gone.abort();
    drop(lock);
    house.authority.asked(1).await;
    settle().await;
    assert_eq!(house.stored_refresh_token().await.unwrap(), "rt-1");
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_is_only_slow_keeps_its_lock_and_its_result() {
    let house = House::expired().await;
    // Well over a minute: longer than every wait.
    house.authority.then([Step::Rotate(3600).held()]);
    let first = house.getting();
    house.authority.asked(1).await;
    let other = house.another();
    for _ in 0..2 {
        assert_eq!(timed(get(&other, "")).await, (failed(Reason::LockTimeout), 10));
        pass(31).await;
    }
    house.authority.let_go();
    settle().await;
    first.abort();
    assert_eq!(house.authority.times(), 1, "robbed");
    assert_eq!(house.stored_refresh_token().await.unwrap(), "rt-1");
    assert_eq!(get(&other, "").await, token("at-1"));
}

#[tokio::test(start_paused = true)]
async fn callers_wait_ten_seconds_for_the_lock_and_the_leader_thirty() {
    let house = House::expired().await;
    let lock = house.store.below(&entry("")).await;
    let first = house.getting();
    pass(5).await;
    let late = house.getting();
    assert_eq!(ended(first).await, (failed(Reason::LockTimeout), 5));
    assert_eq!(ended(late).await, (failed(Reason::LockTimeout), 5));
    // The flight goes on for those who come later.
    pass(14).await;
    let waits = house.getting();
    settle().await;
    drop(lock);
    assert_eq!(waits.await.unwrap(), token("at-1"));
}

#[tokio::test(start_paused = true)]
async fn the_leader_gives_up_after_thirty_seconds() {
    let house = House::expired().await;
    let lock = house.store.below(&entry("")).await;
    let saw = house.revision().await;
    let coordinator = house.coordinator();
    let key = entry("");
    let (got, seconds) = timed(coordinator.refresh(&key, &saw, Asker::Renewal)).await;
    assert!(matches!(got, Err(RefreshError::Store(_))), "{got:?}");
    assert_eq!(seconds, 30);
    drop(lock);
    pass(30).await;
    coordinator.refresh(&entry(""), &saw, Asker::Renewal).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_lock_is_free_when_a_flight_has_ended() {
    let house = House::expired().await;
    for step in [
        Step::Rotate(0),
        Step::Reject,
        Step::Busy(Some(100)),
        Step::Lost,
        Step::Refuse,
    ] {
        house.authority.then([step]);
        drop(house.refresh().await);
        assert!(house.store.lock(&entry(""), Duration::ZERO).await.is_ok());
        pass(1000).await;
    }
}
