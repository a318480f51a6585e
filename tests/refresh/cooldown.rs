//! How soon after a flight the next one may start, and what is answered until then.

use credbroker::reason::Reason;

use crate::{
    authority::{Step, entry},
    fake::{Change, Fault},
    house::{Got, House, get, pass, refresh, save, token, unavailable},
};

/// How a test makes the next refresh fail.
type Arrange = fn(&House);

fn rejected(seconds: u64) -> Got {
    Err((Reason::ProviderRejected, Some(seconds)))
}

#[tokio::test(start_paused = true)]
async fn a_failing_provider_is_not_called_by_every_client_at_once() {
    let house = House::expired().await;
    house.authority.otherwise(|| Step::Reject);
    // The lifetime is 100 s, so the cooldown is a quarter of that.
    assert_eq!(house.get().await, rejected(25));
    for rest in (1..25).rev() {
        pass(1).await;
        assert_eq!(house.get().await, rejected(rest));
        assert_eq!(house.refresh().await, rejected(rest));
    }
    assert_eq!(house.authority.times(), 1);
    pass(1).await;
    assert_eq!(house.get().await, rejected(25));
    assert_eq!(house.authority.times(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_cooldown_is_thirty_seconds_at_most() {
    let house = House::with(3600).await;
    assert_eq!(house.refresh().await, token("at-1"));
    pass(29).await;
    assert_eq!(house.refresh().await, token("at-1"));
    assert_eq!(house.authority.times(), 1);
    pass(1).await;
    assert_eq!(house.refresh().await, token("at-2"));
}

#[tokio::test(start_paused = true)]
async fn the_cooldown_of_a_short_lived_token_is_a_quarter_of_the_new_lifetime() {
    let house = House::expired().await;
    house.authority.then([Step::Rotate(20)]);
    house.refresh().await.unwrap();
    pass(4).await;
    assert_eq!(house.refresh().await, token("at-1"));
    pass(1).await;
    assert_eq!(house.refresh().await, token("at-2"));
}

#[tokio::test(start_paused = true)]
async fn the_cooldown_counts_from_the_start_of_the_flight() {
    let house = House::expired().await;
    house.authority.then([Step::Reject.held()]);
    let getting = house.getting();
    house.authority.asked(1).await;
    pass(10).await;
    house.authority.let_go();
    assert_eq!(getting.await.unwrap(), rejected(15));
    pass(15).await;
    assert_eq!(house.get().await, token("at-1"));
}

#[tokio::test(start_paused = true)]
async fn after_a_success_who_wants_another_token_is_told_to_wait() {
    let house = House::expired().await;
    house.authority.then([Step::Rotate(3600)]);
    house.refresh().await.unwrap();
    // The token dies early by the other clock: nothing usable is left, and the last flight did not fail.
    house.clock.step_wall(3600);
    pass(10).await;
    assert_eq!(house.refresh().await, Err((Reason::RateLimited, Some(20))));
    assert_eq!(house.get().await, Err((Reason::RateLimited, Some(20))));
    assert_eq!(house.authority.times(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_cooldown_runs_by_boot_time_and_no_step_of_the_wall_clock_ends_or_prolongs_it() {
    let house = House::expired().await;
    house.authority.otherwise(|| Step::Reject);
    house.get().await.unwrap_err();
    house.clock.step_wall(7200);
    assert_eq!(house.get().await, rejected(25));
    house.clock.step_wall(-2 * 7200);
    assert_eq!(house.refresh().await.is_err(), house.authority.times() == 1);
    house.clock.step_boot(26);
    drop(house.refresh().await);
    assert_eq!(house.authority.times(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_another_broker_got_is_seen_in_the_cooldown() {
    let house = House::expired().await;
    house.authority.then([Step::Reject]);
    house.get().await.unwrap_err();
    let other = house.another();
    assert_eq!(get(&other, "").await, token("at-1"));
    assert_eq!(house.get().await, token("at-1"));
    assert_eq!(house.refresh().await, token("at-1"));
    assert_eq!(house.authority.times(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_import_ends_the_cooldown_of_a_failure() {
    let house = House::expired().await;
    house.authority.then([Step::Busy(Some(1000))]);
    assert_eq!(house.get().await, unavailable(1000));
    house.import("", "rt-9", 3600).await;
    assert_eq!(house.refresh().await, token("at-1"));
    assert_eq!(house.authority.presented(), ["rt-0", "rt-9"]);
}

#[tokio::test(start_paused = true)]
async fn a_save_of_a_sandbox_does_not_end_the_cooldown() {
    let house = House::expired().await;
    house.authority.then([Step::Reject]);
    house.get().await.unwrap_err();
    save(&house.broker, "at-saved").await.unwrap();
    assert_eq!(refresh(&house.broker, None).await, token("at-saved"));
    assert_eq!(house.authority.times(), 1);
}

#[tokio::test(start_paused = true)]
async fn waiting_for_a_permit_or_the_lock_is_not_part_of_the_cooldown() {
    let house = House::expired().await;
    house.authority.then([Step::Reject]);
    let lock = house.store.below(&entry("")).await;
    let getting = house.getting();
    pass(9).await;
    drop(lock);
    // From lock to release is the flight.
    assert_eq!(getting.await.unwrap(), rejected(25));
}

#[tokio::test(start_paused = true)]
async fn every_failure_is_told_again_in_the_cooldown_with_what_is_left_of_it() {
    let table: [(Arrange, Reason); 3] = [
        (|house| house.authority.then([Step::Panic]), Reason::InternalError),
        (
            |house| house.store.fail_only(Change::Intent, Fault::Unavailable),
            Reason::StoreUnavailable,
        ),
        (
            |house| house.authority.then([Step::Lost, Step::Lost]),
            Reason::ProviderUnavailable,
        ),
    ];
    for (arrange, reason) in table {
        let house = House::expired().await;
        arrange(&house);
        assert_eq!(house.get().await.unwrap_err().0, reason);
        let times = house.authority.times();
        house.store.fail_changes(None);
        pass(5).await;
        let (again, rest) = house.get().await.unwrap_err();
        assert_eq!(again, reason);
        assert!(rest.is_some_and(|rest| rest > 0), "{reason:?}: {rest:?}");
        assert_eq!(house.authority.times(), times);
    }
}
