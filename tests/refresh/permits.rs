//! How many flights one provider has at once, and who is next.

use credbroker::{
    broker::coordinator::{Asker, RefreshCoordinator},
    reason::Reason,
};
use tokio::task::JoinHandle;

use crate::{
    authority::{Step, entry},
    house::{Got, House, getting, pass, settle, timed, token, unavailable},
};

/// A house of expired entries `b0`, `b1` and so on, with refresh tokens `rt-b0` and so on, whose provider holds every exchange.
async fn crowded(entries: usize) -> House {
    let house = House::empty();
    for n in 0..entries {
        house.import(&format!("b{n}"), &format!("rt-b{n}"), 0).await;
    }
    house.authority.otherwise(|| Step::Rotate(3600).held());
    house
}

fn crowd(house: &House, numbers: std::ops::Range<usize>) -> Vec<JoinHandle<Got>> {
    numbers.map(|n| getting(&house.broker, &format!("b{n}"))).collect()
}

async fn let_all_go(house: &House, all: Vec<JoinHandle<Got>>) {
    for one in all {
        house.authority.let_go();
        drop(one.await);
    }
    settle().await;
}

async fn renewal(house: &House, coordinator: &RefreshCoordinator, bucket: &str) {
    let key = entry(bucket);
    let saw = house.store.peek(&key).await.unwrap().revision.clone();
    let coordinator = coordinator.clone();
    tokio::spawn(async move { drop(coordinator.refresh(&key, &saw, Asker::Renewal).await) });
    settle().await;
}

async fn caller(house: &House, coordinator: &RefreshCoordinator, bucket: &str) {
    let key = entry(bucket);
    let saw = house.store.peek(&key).await.unwrap().revision.clone();
    let coordinator = coordinator.clone();
    tokio::spawn(async move { drop(coordinator.refresh(&key, &saw, Asker::Caller).await) });
    settle().await;
}

#[tokio::test(start_paused = true)]
async fn a_provider_has_eight_flights_at_once() {
    let house = crowded(20).await;
    let all = crowd(&house, 0..20);
    settle().await;
    assert_eq!(house.authority.times(), 8);
    house.authority.let_go();
    settle().await;
    assert_eq!(house.authority.times(), 9);
    assert_eq!(house.authority.most_at_once(), 8);
    let_all_go(&house, all).await;
}

#[tokio::test(start_paused = true)]
async fn a_permit_comes_back_after_fifteen_seconds_of_exchange_and_no_earlier() {
    let house = crowded(20).await;
    let all = crowd(&house, 0..9);
    settle().await;
    pass(14).await;
    assert_eq!(house.authority.times(), 8);
    pass(1).await;
    settle().await;
    assert_eq!(house.authority.times(), 9);
    // The hung ones have none to give back a second time.
    let more = crowd(&house, 9..20);
    settle().await;
    assert_eq!(house.authority.times(), 16);
    let_all_go(&house, all).await;
    let_all_go(&house, more).await;
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_permit_longer_than_fifteen_seconds_is_told_so() {
    let house = crowded(17).await;
    // Eight hang, eight more have the permits after 15 s, and the seventeenth is behind them.
    let all = crowd(&house, 0..16);
    settle().await;
    let last = getting(&house.broker, "b16");
    let (got, seconds) = timed(last).await;
    assert_eq!((got.unwrap(), seconds), (unavailable(15), 15));
    let_all_go(&house, all).await;
}

#[tokio::test(start_paused = true)]
async fn who_gets_no_permit_is_served_the_token_that_has_not_expired() {
    let house = crowded(16).await;
    house.import("", "rt-0", 1000).await;
    let all = crowd(&house, 0..16);
    settle().await;
    assert_eq!(timed(house.refresh()).await, (token("at-0"), 15));
    let_all_go(&house, all).await;
}

#[tokio::test(start_paused = true)]
async fn callers_go_before_renewals_and_a_renewal_that_a_caller_joins_is_one() {
    let house = crowded(8).await;
    for bucket in ["renewal", "joined", "caller"] {
        house.import(bucket, &format!("rt-{bucket}"), 0).await;
    }
    let coordinator = house.coordinator();
    for n in 0..8 {
        renewal(&house, &coordinator, &format!("b{n}")).await;
    }
    renewal(&house, &coordinator, "renewal").await;
    renewal(&house, &coordinator, "joined").await;
    caller(&house, &coordinator, "caller").await;
    caller(&house, &coordinator, "joined").await;
    assert_eq!(house.authority.times(), 8);
    for _ in 0..11 {
        house.authority.let_go();
        settle().await;
    }
    assert_eq!(
        house.authority.presented()[8..],
        ["rt-joined", "rt-caller", "rt-renewal"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_flight_that_fails_or_panics_gives_its_permit_back() {
    let house = crowded(0).await;
    house.authority.otherwise(|| Step::Panic);
    for n in 0..9 {
        house.import(&format!("b{n}"), &format!("rt-b{n}"), 0).await;
        let got = getting(&house.broker, &format!("b{n}")).await.unwrap();
        assert_eq!(got.unwrap_err().0, Reason::InternalError);
    }
    house.authority.otherwise(|| Step::Rotate(3600));
    house.import("", "rt-0", 0).await;
    assert_eq!(timed(house.get()).await, (token("at-1"), 0));
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_waits_for_a_permit_and_goes_away_does_not_end_its_flight() {
    let house = crowded(9).await;
    let all = crowd(&house, 0..8);
    settle().await;
    let gone = getting(&house.broker, "b8");
    settle().await;
    gone.abort();
    let_all_go(&house, all).await;
    settle().await;
    assert_eq!(house.authority.times(), 9);
    house.authority.let_go();
    settle().await;
    assert!(house.store.peek(&entry("b8")).await.unwrap().intent.is_none());
}
