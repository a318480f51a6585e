//! How long somebody waits for an exchange.

use credbroker::broker::coordinator::{Asker, RefreshError};

use crate::{
    authority::{Authority, Step, entry},
    house::{House, broker, ended, getting, pass, settle, timed, token, unavailable},
};

#[tokio::test(start_paused = true)]
async fn callers_stop_waiting_fifteen_seconds_after_the_exchange_began_whenever_they_joined() {
    let house = House::expired().await;
    house.authority.then([Step::Rotate(3600).held()]);
    let first = house.getting();
    house.authority.asked(1).await;
    pass(9).await;
    let second = house.getting();
    let (got, seconds) = timed(async { (first.await.unwrap(), second.await.unwrap()) }).await;
    assert_eq!((got, seconds), ((unavailable(45), unavailable(45)), 6));
    // Who comes later gets that at once, with what is left of the minute.
    pass(20).await;
    assert_eq!(timed(house.get()).await, (unavailable(25), 0));
    assert_eq!(timed(house.refresh()).await, (unavailable(25), 0));
    // The exchange went on.
    house.authority.let_go();
    settle().await;
    assert_eq!(house.get().await, token("at-1"));
    assert_eq!(house.authority.times(), 1);
}

#[tokio::test(start_paused = true)]
async fn callers_that_stop_waiting_get_the_token_that_has_not_expired() {
    let house = House::with(1000).await;
    pass(970).await;
    house.authority.then([Step::Rotate(3600).held()]);
    let refreshing = house.refreshing();
    house.authority.asked(1).await;
    assert_eq!(ended(refreshing).await, (token("at-0"), 15));
    assert_eq!(timed(house.refresh()).await, (token("at-0"), 0));
    pass(10).await;
    // In the last five seconds, too: not usable, but not expired.
    assert_eq!(timed(house.get()).await, (token("at-0"), 0));
    pass(5).await;
    assert_eq!(timed(house.get()).await, (unavailable(30), 0));
    house.authority.let_go();
    settle().await;
}

#[tokio::test(start_paused = true)]
async fn pauses_between_presentations_count_as_part_of_the_exchange() {
    let house = House::expired().await;
    house.authority.then([Step::Busy(Some(14)), Step::Rotate(3600).held()]);
    // The second one has only just begun.
    assert_eq!(timed(house.get()).await, (unavailable(59), 15));
    house.authority.let_go();
    settle().await;
    assert_eq!(house.get().await, token("at-1"));
}

#[tokio::test(start_paused = true)]
async fn who_comes_during_the_repeat_of_a_lost_answer_is_told_how_long_that_may_take() {
    let house = House::expired().await;
    house.authority.then([Step::Lost.held(), Step::Rotate(3600).held()]);
    let first = house.getting();
    house.authority.asked(1).await;
    assert_eq!(ended(first).await, (unavailable(45), 15));
    pass(45).await;
    house.authority.let_go();
    house.authority.asked(2).await;
    pass(20).await;
    assert_eq!(timed(house.get()).await, (unavailable(40), 0));
    // A provider that takes longer than it may: never a delay of nothing.
    pass(50).await;
    assert_eq!(timed(house.get()).await, (unavailable(1), 0));
    house.authority.let_go();
    settle().await;
    assert_eq!(house.get().await, token("at-1"));
}

#[tokio::test(start_paused = true)]
async fn an_exchange_that_never_ends_is_given_up_with_its_mark_and_counts_as_a_lost_answer() {
    let house = House::with(1000).await;
    house.authority.then([Step::Never]);
    let (coordinator, saw) = (house.coordinator(), house.revision().await);
    let renewal = tokio::spawn(async move { coordinator.refresh(&entry(""), &saw, Asker::Renewal).await });
    house.authority.asked(1).await;
    let (got, seconds) = ended(renewal).await;
    assert!(
        matches!(got, Err(RefreshError::Unavailable { .. })) && seconds == 90,
        "{got:?} {seconds}"
    );
    assert!(!house.authority.busy());
    assert!(house.marked().await);
    // Another broker need not wait for a lock, and repeats what was lost.
    assert_eq!(timed(house.refresh()).await, (token("at-1"), 0));
}

#[tokio::test(start_paused = true)]
async fn a_renewal_waits_to_the_end() {
    let house = House::expired().await;
    house.authority.then([Step::Rotate(3600).held()]);
    let (coordinator, saw) = (house.coordinator(), house.revision().await);
    let renewal = tokio::spawn(async move { coordinator.refresh(&entry(""), &saw, Asker::Renewal).await });
    house.authority.asked(1).await;
    pass(59).await;
    house.authority.let_go();
    assert_eq!(renewal.await.unwrap().unwrap().revision, house.revision().await);
}

#[tokio::test(start_paused = true)]
async fn one_hung_provider_does_not_hold_up_another_one() {
    let house = House::expired().await;
    house.authority.otherwise(|| Step::Rotate(3600).held());
    let well = Authority::new(&house.store);
    let both = broker(&house.store, &house.clock, &[("p", &house.authority), ("well", &well)]);
    let mut hung = vec![getting(&both, "")];
    for n in 0..20 {
        let bucket = format!("b{n}");
        house.import(&bucket, &format!("rt-{bucket}"), 0).await;
        hung.push(getting(&both, &bucket));
    }
    house.authority.asked(8).await;
    let key = credbroker::credential::EntryKey::parse("well", "").unwrap();
    let mut tokens = house.tokens("rt-well", 0);
    tokens.access_token = "at-well".into();
    crate::house::import(&both, key.clone(), tokens).await.unwrap();
    let caller = credbroker::broker::Caller::host();
    let got = timed(both.token(&caller, &key, std::time::Duration::ZERO)).await;
    assert!(got.0.is_ok() && got.1 == 0, "{got:?}");
    for _ in 0..hung.len() {
        house.authority.let_go();
    }
    for one in hung {
        one.await.unwrap().unwrap();
    }
}
