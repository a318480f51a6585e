//! What GetToken and RefreshToken answer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use credbroker::{
    broker::Caller,
    clock::{Clock, Now},
    credential::Revision,
    reason::Reason,
};

use crate::{
    authority::{Step, entry},
    clock::PausedClock,
    house::{House, broker, failed, get_valid_for, pass, refresh, token},
};

#[tokio::test(start_paused = true)]
async fn a_usable_token_is_served_from_memory() {
    let house = House::with(100).await;
    pass(94).await;
    assert_eq!(house.get().await, token("at-0"));
    pass(1).await;
    assert_eq!(house.get().await, token("at-1"), "within the skew of 5 s");
}

#[tokio::test(start_paused = true)]
async fn who_wants_more_than_is_left_gets_a_new_token_but_never_for_more_than_half_the_lifetime() {
    let house = House::with(1000).await;
    assert_eq!(get_valid_for(&house.broker, "", 1_000_000).await, token("at-0"));
    pass(500).await;
    assert_eq!(get_valid_for(&house.broker, "", 500).await, token("at-0"));
    pass(1).await;
    assert_eq!(get_valid_for(&house.broker, "", 499).await, token("at-0"));
    assert_eq!(get_valid_for(&house.broker, "", 1_000_000).await, token("at-1"));
    assert_eq!(house.authority.times(), 1);
}

#[tokio::test(start_paused = true)]
async fn one_call_starts_one_flight_even_if_its_result_is_not_what_was_wanted() {
    let house = House::with(1000).await;
    pass(996).await;
    house.authority.otherwise(|| Step::Rotate(2));
    assert_eq!(get_valid_for(&house.broker, "", 10_000).await, token("at-1"));
    assert_eq!(house.authority.times(), 1);
    house.authority.otherwise(|| Step::Rotate(0));
    pass(2).await;
    assert_eq!(house.get().await.unwrap_err().0, Reason::ProviderUnavailable);
    assert_eq!(house.authority.times(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_fails_leaves_the_unexpired_token_and_never_an_expired_one() {
    for step in [
        || Step::Reject,
        || Step::Refuse,
        || Step::Busy(None),
        || Step::Lost,
        || Step::Panic,
    ] {
        let house = House::with(1000).await;
        house.authority.otherwise(step);
        pass(995).await;
        // The repeats take 4 s of the 5 that are left of it.
        assert_eq!(house.get().await, token("at-0"));
        pass(5).await;
        house.get().await.unwrap_err();
    }
}

#[tokio::test(start_paused = true)]
async fn an_expired_token_is_never_served_whatever_the_other_clock_says() {
    let house = House::with(1000).await;
    house.authority.otherwise(|| Step::Reject);
    house.clock.step_wall(1000);
    assert_eq!(house.get().await.unwrap_err().0, Reason::ProviderRejected);
    house.clock.step_wall(-1000);
    assert_eq!(house.get().await, token("at-0"));
    house.clock.step_boot(1000);
    assert_eq!(house.get().await.unwrap_err().0, Reason::ProviderRejected);
}

/// Stands, and jumps ahead by an hour when it has been read so many times.
struct Jumps {
    clock: PausedClock,
    left: AtomicUsize,
}

impl Clock for Jumps {
    fn now(&self) -> Now {
        if self.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.clock.suspend(Duration::from_secs(3600));
        }
        self.clock.now()
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_that_expires_on_its_way_out_is_not_handed_out() {
    let (mut served, mut refused) = (0, 0);
    // The machine sleeps at each moment at which anybody looks at the clock.
    for reads in 1..30 {
        let house = House::expired().await;
        let broker = house.by(Arc::new(Jumps {
            clock: (*house.clock).clone(),
            left: AtomicUsize::new(reads),
        }));
        match broker.token(&Caller::host(), &entry(""), Duration::ZERO).await {
            Ok(token) => {
                assert_ne!(token.expires_in, Some(Duration::ZERO), "after {reads} reads");
                served += 1;
            }
            Err(error) => {
                assert_eq!(error.reason(), Reason::ProviderUnavailable, "after {reads} reads");
                refused += 1;
            }
        }
    }
    assert!(served > 0 && refused > 0, "{served} {refused}");
}

#[tokio::test(start_paused = true)]
async fn a_token_that_cannot_be_renewed_is_served_until_it_expires() {
    let house = House::empty();
    house.import("", "", 100).await;
    pass(99).await;
    assert_eq!(house.get().await, token("at-0"));
    pass(1).await;
    assert_eq!(house.get().await, failed(Reason::NeedsLogin));
}

#[tokio::test(start_paused = true)]
async fn a_token_without_a_provider_is_served_until_it_expires() {
    let house = House::with(100).await;
    let without = broker(&house.store, &house.clock, &[]);
    pass(99).await;
    assert_eq!(crate::house::get(&without, "").await, token("at-0"));
    pass(1).await;
    assert_eq!(crate::house::get(&without, "").await, failed(Reason::ProviderNotFound));
    assert_eq!(refresh(&without, None).await, failed(Reason::ProviderNotFound));
}

// RefreshToken, row by row.

#[tokio::test(start_paused = true)]
async fn a_refresh_of_the_current_revision_asks_the_provider() {
    let house = House::with(1000).await;
    let current = house.revision().await;
    assert_eq!(refresh(&house.broker, Some(&current)).await, token("at-1"));
    pass(30).await;
    assert_eq!(refresh(&house.broker, None).await, token("at-2"));
    assert_eq!(house.authority.presented(), ["rt-0", "rt-1"]);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_of_a_revision_that_is_not_current_gets_the_usable_current_one() {
    let house = House::with(1000).await;
    for revision in [Revision::from_stored("made up"), Revision::random()] {
        assert_eq!(refresh(&house.broker, Some(&revision)).await, token("at-0"));
    }
    assert_eq!(house.authority.times(), 0);
    pass(996).await;
    let old = Revision::from_stored("old");
    assert_eq!(
        refresh(&house.broker, Some(&old)).await,
        token("at-1"),
        "else as GetToken"
    );
}

#[tokio::test(start_paused = true)]
async fn a_refresh_of_an_old_revision_whose_flight_fails_gets_the_unexpired_token_as_get_token_does() {
    let house = House::with(1000).await;
    pass(996).await;
    house.authority.then([Step::Reject]);
    let old = Revision::from_stored("old");
    assert_eq!(refresh(&house.broker, Some(&old)).await, token("at-0"));
}

#[tokio::test(start_paused = true)]
async fn a_refresh_in_the_cooldown_gets_the_current_token_if_there_is_a_usable_one() {
    let house = House::with(1000).await;
    house.authority.then([Step::Reject]);
    assert_eq!(house.refresh().await, Err((Reason::ProviderRejected, Some(30))));
    assert_eq!(house.refresh().await, token("at-0"));
    assert_eq!(house.authority.times(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_without_a_refresh_token_or_an_entry_asks_nobody() {
    let house = House::empty();
    assert_eq!(house.refresh().await, failed(Reason::NotFound));
    house.import("", "", 100).await;
    assert_eq!(house.refresh().await, failed(Reason::NeedsLogin));
    assert_eq!(house.get().await, token("at-0"));
}

#[tokio::test(start_paused = true)]
async fn what_one_broker_refreshed_the_other_serves() {
    let house = House::expired().await;
    let other = house.another();
    assert_eq!(house.get().await, token("at-1"));
    assert_eq!(crate::house::get(&other, "").await, token("at-1"));
    assert_eq!(house.authority.times(), 1);
}
