//! What a broker that stops still does, and what it does not begin any more.

use credbroker::{
    broker::coordinator::{Asker, RefreshError},
    reason::Reason,
};

use crate::{
    authority::{Step, entry},
    fake::{Change, Fault},
    house::{House, ended, failed, get, getting, pass, settle, timed, token},
};

#[tokio::test(start_paused = true)]
async fn no_flight_begins_after_the_broker_began_to_stop() {
    let house = House::expired().await;
    house.broker.begin_shutdown();
    assert_eq!(house.get().await, failed(Reason::ShuttingDown));
    let coordinator = house.coordinator();
    coordinator.begin_shutdown();
    let saw = house.revision().await;
    let got = coordinator.refresh(&entry(""), &saw, Asker::Renewal).await;
    assert!(matches!(got, Err(RefreshError::ShuttingDown)), "{got:?}");
    assert_eq!(house.authority.times(), 0);
    assert_eq!(timed(house.broker.shutdown()).await.1, 0);
}

#[tokio::test(start_paused = true)]
async fn a_flight_that_waits_for_the_lock_ends_at_once() {
    let house = House::expired().await;
    let _lock = house.store.below(&entry("")).await;
    let getting = house.getting();
    settle().await;
    assert_eq!(timed(house.broker.shutdown()).await.1, 0);
    assert_eq!(ended(getting).await, (failed(Reason::ShuttingDown), 0));
}

#[tokio::test(start_paused = true)]
async fn flights_that_wait_for_a_permit_end_at_once() {
    let house = House::empty();
    house.authority.otherwise(|| Step::Rotate(3600).held());
    let mut all = Vec::new();
    for n in 0..9 {
        house.import(&format!("b{n}"), &format!("rt-b{n}"), 0).await;
        all.push(getting(&house.broker, &format!("b{n}")));
    }
    settle().await;
    house.broker.begin_shutdown();
    assert_eq!(ended(all.pop().unwrap()).await, (failed(Reason::ShuttingDown), 0));
    for _ in 0..8 {
        house.authority.let_go();
    }
    house.broker.shutdown().await;
    for one in all {
        one.await.unwrap().unwrap();
    }
    assert_eq!(house.authority.times(), 8);
}

#[tokio::test(start_paused = true)]
async fn a_pause_before_a_retry_ends_at_once_and_leaves_no_mark() {
    let house = House::expired().await;
    house.authority.then([Step::Busy(Some(20))]);
    let getting = house.getting();
    house.authority.asked(1).await;
    settle().await;
    assert_eq!(timed(house.broker.shutdown()).await.1, 0);
    assert_eq!(getting.await.unwrap(), failed(Reason::ShuttingDown));
    assert_eq!(house.authority.times(), 1);
    assert!(!house.marked().await);
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_not_asked_for_again_by_a_broker_that_stops() {
    let house = House::expired().await;
    house.authority.then([Step::Lost.held()]);
    let getting = house.getting();
    house.authority.asked(1).await;
    house.broker.begin_shutdown();
    house.authority.let_go();
    getting.await.unwrap().unwrap_err();
    house.broker.shutdown().await;
    assert_eq!(house.authority.times(), 1);
    assert!(house.marked().await, "the next start has to know");
}

#[tokio::test(start_paused = true)]
async fn an_exchange_on_the_wire_is_awaited_and_saved() {
    let house = House::expired().await;
    house.authority.then([Step::Rotate(3600).held()]);
    let getting = house.getting();
    house.authority.asked(1).await;
    let broker = house.broker.clone();
    let stopping = tokio::spawn(async move { timed(broker.shutdown()).await });
    pass(14).await;
    assert!(!stopping.is_finished());
    house.authority.let_go();
    assert_eq!(stopping.await.unwrap().1, 14);
    assert_eq!(getting.await.unwrap(), token("at-1"));
    assert_eq!(house.stored_refresh_token().await.unwrap(), "rt-1");
}

#[tokio::test(start_paused = true)]
async fn the_save_of_an_answer_that_came_late_has_five_seconds_of_its_own() {
    let house = House::expired().await;
    house.authority.then([Step::Rotate(3600).held()]);
    let getting = house.getting();
    house.authority.asked(1).await;
    let broker = house.broker.clone();
    let stopping = tokio::spawn(async move { timed(broker.shutdown()).await });
    pass(14).await;
    house.store.hold_changes();
    house.authority.let_go();
    pass(5).await;
    assert!(!stopping.is_finished());
    house.store.let_changes_go();
    assert_eq!(stopping.await.unwrap().1, 19);
    assert_eq!(house.stored_refresh_token().await.unwrap(), "rt-1");
    drop(getting.await);
}

#[tokio::test(start_paused = true)]
async fn a_save_that_fails_while_the_broker_stops_is_tried_once_more() {
    let house = House::expired().await;
    house.authority.then([Step::Rotate(3600).held()]);
    let getting = house.getting();
    house.authority.asked(1).await;
    house.broker.begin_shutdown();
    house.store.fail_only(Change::Record, Fault::Unavailable);
    house.authority.let_go();
    drop(getting.await);
    house.broker.shutdown().await;
    let saves = house.store.changed();
    let saves: Vec<_> = saves
        .iter()
        .rev()
        .take_while(|(kind, _)| *kind == Change::Record)
        .collect();
    assert_eq!(saves.len(), 2, "{saves:?}");
}

#[tokio::test(start_paused = true)]
async fn what_died_with_the_broker_is_an_answer_that_was_lost() {
    let house = House::expired().await;
    house.authority.then([Step::Lost.held()]);
    let getting = house.getting();
    house.authority.asked(1).await;
    house.broker.shutdown().await;
    // The process is gone, its lock with it; here the exchange has to end for that.
    house.authority.let_go();
    drop(getting.await);
    settle().await;
    let next = house.another();
    pass(90).await;
    house.authority.then([Step::Refuse]);
    assert_eq!(get(&next, "").await, failed(Reason::NeedsLogin));
}

#[tokio::test(start_paused = true)]
async fn an_exchange_that_hangs_is_awaited_for_fifteen_seconds() {
    let house = House::expired().await;
    house.authority.then([Step::Rotate(3600).held()]);
    let getting = house.getting();
    house.authority.asked(1).await;
    assert_eq!(timed(house.broker.shutdown()).await.1, 15);
    house.authority.let_go();
    drop(getting.await);
}
