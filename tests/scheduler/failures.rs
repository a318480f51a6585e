//! What a renewal that fails leads to: another try, later and later, and in the end none.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use credbroker::{
    broker::coordinator::Asker,
    credential::Intent,
    store::{OverCorrupt, StoredTokens, TokenStore as _},
};

use crate::{
    house::{HOUR, House, entry, other, pass, secs, settle},
    log::Log,
    provider::Step,
};

/// From the first failure to the last.
const ALL_PAUSES: u64 = 30 + 60 + 120 + 240 + 480 + 960 + 3 * 1800;

#[tokio::test(start_paused = true)]
async fn a_failed_renewal_is_tried_again_later_and_later_and_given_up_after_ten() {
    let house = House::new();
    house.p.otherwise(Step::Reject);
    house.arm(&entry(""), HOUR).await;
    pass(secs(3241)).await;
    let renewal = house.scheduler.renewal(&entry("")).unwrap();
    assert_eq!(renewal.failures, 1);
    assert_eq!(renewal.due, Some(house.now().wall + secs(29)));
    pass(HOUR * 10).await;
    assert_eq!(house.moments()[0], 3240);
    assert_eq!(house.gaps(), [30, 60, 120, 240, 480, 960, 1800, 1800, 1800]);
    let renewal = house.scheduler.renewal(&entry("")).unwrap();
    assert_eq!((renewal.due, renewal.failures, house.scheduler.armed()), (None, 10, 0));
}

#[tokio::test(start_paused = true)]
async fn what_was_given_up_is_tried_again_at_the_next_use() {
    let house = House::new();
    house.p.otherwise(Step::Reject);
    house.arm(&entry(""), HOUR).await;
    pass(HOUR * 10).await;
    assert_eq!((house.p.times(), house.scheduler.armed()), (10, 0));
    house.hand_out(&entry("")).await;
    settle().await;
    assert_eq!(house.p.times(), 11);
    assert_eq!(
        house.scheduler.renewal(&entry("")).unwrap().failures,
        1,
        "from the beginning"
    );
    house.p.otherwise(Step::Answer(HOUR));
    pass(secs(31)).await;
    assert_eq!(house.p.times(), 12);
    assert!(!house.remaining(&entry("")).await.is_zero());
}

#[tokio::test(start_paused = true)]
async fn a_failed_renewal_that_succeeds_in_the_end_is_armed_again() {
    let house = House::new();
    house.p.then(
        "default",
        [Step::Reject, Step::Busy(None), Step::Busy(None), Step::Busy(None)],
    );
    house.arm(&entry(""), HOUR).await;
    pass(HOUR * 3).await;
    // 3240, and the three presentations of one flight from 3270 on, and success after a pause of 60 s.
    assert_eq!(house.moments()[..5], [3240, 3270, 3271, 3274, 3334]);
    assert_eq!(house.moments()[5..], [3334 + 3240, 3334 + 2 * 3240]);
    assert_eq!(house.scheduler.renewal(&entry("")).unwrap().failures, 0);
}

#[tokio::test(start_paused = true)]
async fn what_another_process_renewed_is_no_failure_any_more() {
    let house = House::new();
    house.p.otherwise(Step::Reject);
    house.arm(&entry(""), HOUR).await;
    pass(secs(3275)).await;
    assert_eq!(house.scheduler.renewal(&entry("")).unwrap().failures, 2);
    // Nobody hands it out: it is found when the next try is due.
    house.import(&entry(""), HOUR).await;
    pass(secs(60)).await;
    let renewal = house.scheduler.renewal(&entry("")).unwrap();
    assert_eq!((house.p.times(), renewal.failures), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_token_in_use_is_tried_at_least_every_quarter_of_its_lifetime() {
    let house = House::new();
    house.p.otherwise(Step::Reject);
    house.arm(&entry(""), secs(600)).await;
    for _ in 0..200 {
        pass(secs(5)).await;
        house.hand_out(&entry("")).await;
    }
    assert_eq!(house.moments()[0], 300);
    assert_eq!(house.gaps(), [30, 60, 120, 150, 150, 150]);
}

#[tokio::test(start_paused = true)]
async fn a_short_lived_token_in_use_is_tried_again_at_once_but_not_before_the_cooldown() {
    let house = House::with(secs(20), 0.0);
    house.p.then("default", [Step::Reject, Step::Reject]);
    house.arm(&entry(""), secs(20)).await;
    pass(secs(21)).await;
    assert_eq!(house.moments(), [10, 15, 20]);
}

#[tokio::test(start_paused = true)]
async fn a_use_cuts_a_long_pause() {
    let house = House::new();
    house.p.otherwise(Step::Reject);
    house.arm(&entry(""), secs(600)).await;
    // Unused since: failures at 300, 330, 390, 510, 750 and 1230.
    pass(secs(1240)).await;
    assert_eq!(house.moments(), [300, 330, 390, 510, 750 - 90, 750 - 90 + 480]);
    house.hand_out(&entry("")).await;
    pass(secs(60)).await;
    assert_eq!(house.p.times(), 7, "{:?}", house.moments());
}

#[tokio::test(start_paused = true)]
async fn a_watched_renewal_is_never_given_up() {
    let house = House::new();
    house.p.otherwise(Step::Reject);
    house.arm(&entry(""), HOUR).await;
    let watching = house.scheduler.watch(&entry(""));
    let second = house.scheduler.watch(&entry(""));
    drop(second);
    pass(secs(3240) + HOUR * 10).await;
    let gaps = house.gaps();
    assert_eq!(gaps[..6], [30, 60, 120, 240, 480, 900]);
    assert!(gaps.len() > 30 && gaps[6..].iter().all(|gap| *gap == 900), "{gaps:?}");
    drop(watching);
    let before = house.p.times();
    pass(HOUR * 10).await;
    assert_eq!(house.p.times(), before + 1, "nobody watches any more");
    assert_eq!(house.scheduler.armed(), 0);
}

#[tokio::test(start_paused = true)]
async fn who_watched_until_a_moment_ago_has_used_the_token_until_then() {
    let house = House::new();
    house.p.otherwise(Step::Reject);
    house.arm(&entry(""), secs(600)).await;
    let watching = house.scheduler.watch(&entry(""));
    pass(secs(700)).await;
    drop(watching);
    pass(secs(300)).await;
    // A quarter of the lifetime, as for any token in use.
    assert_eq!(house.moments(), [300, 330, 390, 510, 660, 810, 960]);
}

#[tokio::test(start_paused = true)]
async fn a_watched_token_of_a_short_lifetime_is_tried_every_half_a_minute_after_ten_failures() {
    let house = House::new();
    house.p.otherwise(Step::Reject);
    house.arm(&entry(""), secs(20)).await;
    let _watching = house.scheduler.watch(&entry(""));
    pass(secs(600)).await;
    let gaps = house.gaps();
    assert_eq!(gaps[..9], [5; 9]);
    assert!(gaps.len() > 20 && gaps[9..].iter().all(|gap| *gap == 30), "{gaps:?}");
}

#[tokio::test(start_paused = true)]
async fn what_was_given_up_is_tried_again_for_a_watcher() {
    let house = House::new();
    house.p.otherwise(Step::Reject);
    house.arm(&entry(""), HOUR).await;
    pass(HOUR * 10).await;
    assert_eq!(house.scheduler.armed(), 0);
    house.p.otherwise(Step::Answer(HOUR));
    let _watching = house.scheduler.watch(&entry(""));
    settle().await;
    assert!(!house.remaining(&entry("")).await.is_zero());
    assert_eq!(house.scheduler.armed(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_refused_refresh_token_is_presented_once_and_never_again() {
    let house = House::new();
    house.p.otherwise(Step::Refuse);
    house.arm(&entry(""), HOUR).await;
    let watching = house.scheduler.watch(&entry(""));
    pass(secs(3241)).await;
    assert_eq!((house.p.times(), house.scheduler.armed()), (1, 0));
    assert_eq!(house.scheduler.renewal(&entry("")).unwrap().due, None);
    for _ in 0..100 {
        house.hand_out(&entry("")).await;
        pass(secs(3)).await;
    }
    drop(watching);
    pass(HOUR * 10).await;
    assert_eq!((house.p.times(), house.scheduler.armed()), (1, 0));
    // A login is another matter.
    house.p.otherwise(Step::Answer(HOUR));
    house.arm(&entry(""), HOUR).await;
    pass(HOUR).await;
    assert_eq!((house.p.times(), house.scheduler.armed()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn what_the_provider_asks_for_is_waited_for() {
    let house = House::new();
    house.p.then("default", [Step::Busy(Some(secs(500)))]);
    house.arm(&entry(""), HOUR).await;
    pass(secs(3241)).await;
    // And it is shown so from the beginning.
    let renewal = house.scheduler.renewal(&entry("")).unwrap();
    assert_eq!((renewal.due, renewal.failures), (Some(house.now().wall + secs(499)), 1));
    pass(HOUR * 2).await;
    assert_eq!(house.moments()[..2], [3240, 3740]);
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_refresh_is_waited_out_and_renewed_at_that_moment() {
    let house = House::new();
    let tokens = house.tokens(&entry(""), HOUR);
    // Nearly all of its time has passed when somebody is about to present the refresh token, and dies.
    house.clock.advance(secs(3500)).await;
    let refresh_token = tokens.refresh_token.clone().unwrap();
    let record = StoredTokens {
        intent: Some(Box::new(Intent::to_present(&refresh_token, &house.now()))),
        ..StoredTokens::new(tokens)
    };
    let mut guard = house.store.lock(&entry(""), secs(1)).await.unwrap();
    guard.put(Arc::new(record), OverCorrupt::Refuse).await.unwrap();
    drop(guard);
    house.clock.advance(secs(80)).await;
    house.hand_out(&entry("")).await;
    pass(secs(9)).await;
    assert_eq!(house.p.times(), 0);
    assert_eq!(house.scheduler.renewal(&entry("")).unwrap().failures, 0);
    pass(secs(2)).await;
    assert_eq!(house.moments(), [3590]);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_somebody_asked_for_a_moment_ago_is_no_failure() {
    let house = House::new();
    house.p.then("default", [Step::Reject]);
    let stored = house.arm(&entry(""), HOUR).await;
    pass(secs(3225)).await;
    let asked = house
        .coordinator
        .refresh(&entry(""), &stored.revision, Asker::Caller)
        .await;
    assert!(asked.is_err());
    pass(secs(20)).await;
    assert_eq!(house.scheduler.renewal(&entry("")).unwrap().failures, 0);
    pass(secs(11)).await;
    assert_eq!(house.moments(), [3225, 3255], "when the cooldown has passed");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_cannot_be_read_is_asked_again() {
    let house = House::new();
    house.arm(&entry(""), HOUR).await;
    house.store.unreadable.store(true, Ordering::Relaxed);
    pass(secs(3300)).await;
    assert_eq!(house.scheduler.renewal(&entry("")).unwrap().failures, 2);
    house.store.unreadable.store(false, Ordering::Relaxed);
    pass(secs(60)).await;
    assert_eq!(house.moments(), [3330]);
    assert_eq!(house.scheduler.renewal(&entry("")).unwrap().failures, 0);
}

#[tokio::test(start_paused = true)]
async fn one_hung_provider_delays_nobody_else() {
    let house = House::new();
    house.p.otherwise(Step::Hang);
    for n in 0..200 {
        house.arm(&entry(&format!("{n}")), HOUR).await;
    }
    house.arm(&other("healthy"), HOUR).await;
    pass(secs(3242)).await;
    assert_eq!(house.q.times(), 1);
    assert_eq!(house.scheduler.renewal(&other("healthy")).unwrap().failures, 0);
    pass(secs(3240)).await;
    assert_eq!(house.q.times(), 2);
    // And what hangs does not keep the others of its provider for ever.
    assert!(house.p.times() >= 200);
}

#[tokio::test(start_paused = true)]
async fn a_provider_whose_tokens_have_expired_when_they_come_is_given_up() {
    let house = House::with(Duration::ZERO, 0.0);
    house.arm(&entry(""), HOUR).await;
    pass(HOUR * 24).await;
    assert_eq!(house.gaps(), [30, 60, 120, 240, 480, 960, 1800, 1800, 1800]);
    assert_eq!(house.scheduler.armed(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_provider_whose_tokens_last_for_a_millisecond_is_not_asked_in_a_loop() {
    let house = House::with(Duration::from_millis(1), 0.0);
    house.arm(&entry(""), HOUR).await;
    pass(HOUR * 2).await;
    assert!(house.gaps().iter().all(|gap| *gap >= 30), "{:?}", house.gaps());
}

#[tokio::test(start_paused = true)]
async fn giving_up_is_said_once_and_names_the_entry() {
    let log = Log::of_warnings();
    let house = House::new();
    house.p.otherwise(Step::Reject);
    house.arm(&entry("said-once"), HOUR).await;
    pass(secs(3240 + ALL_PAUSES - 5)).await;
    assert_eq!(log.lines("said-once", "given up").len(), 0);
    pass(secs(10)).await;
    let lines = log.lines("said-once", "given up");
    assert_eq!(lines.len(), 1);
    assert!(
        lines
            .iter()
            .all(|line| line.contains("WARN") && line.contains("entry=p/said-once failures=10")),
        "{lines:?}"
    );
    pass(HOUR * 10).await;
    assert_eq!(log.lines("said-once", "given up").len(), 1);
}
