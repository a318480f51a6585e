//! Whatever the clocks do, no renewal is late by more than 15 s, and none is in a loop.

use std::time::Duration;

use crate::{
    house::{HOUR, House, entry, pass, secs},
    provider::Step,
};

const LATEST: Duration = Duration::from_secs(15);

#[tokio::test(start_paused = true)]
async fn a_wall_clock_that_is_set_by_hours_makes_no_renewal_late_and_none_in_a_loop() {
    for hours in [-10_000, -8, -1, 1, 8, 10_000] {
        for passed in [1, 600, 1800, 3235, 3600] {
            let house = House::new();
            house.arm(&entry(""), HOUR).await;
            pass(secs(passed)).await;
            let before = house.p.times();
            house.clock.step_wall(hours * 3600);
            let row = (hours, passed);
            // Due when either clock says so: the one that says less remains.
            let due = house.remaining(&entry("")).await.saturating_sub(secs(360));
            if !due.is_zero() {
                pass(due - secs(1)).await;
                assert_eq!(house.p.times(), before, "{row:?}: early");
                pass(secs(1)).await;
            }
            pass(LATEST).await;
            assert_eq!(house.p.times(), before + 1, "{row:?}: late, or in a loop");
            // And set right again: what was issued meanwhile is renewed in time all the same.
            house.clock.step_wall(-hours * 3600);
            let again = house.p.times();
            pass(LATEST).await;
            assert!(house.p.times() <= again + 1, "{row:?}: in a loop");
            for _ in 0..100 {
                pass(secs(100)).await;
                assert!(!house.remaining(&entry("")).await.is_zero(), "{row:?}: expired");
            }
            let times = house.p.times();
            assert!((again + 2..=again + 4).contains(&times), "{row:?}: {times} times");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn eight_hours_of_suspend_are_made_up_for_within_15_seconds() {
    for passed in [1, 600, 3235] {
        let house = House::new();
        house.arm(&entry(""), HOUR).await;
        pass(secs(passed)).await;
        house.clock.suspend(HOUR * 8);
        assert!(house.remaining(&entry("")).await.is_zero());
        pass(LATEST).await;
        assert_eq!(house.p.times(), 1, "{passed}");
        assert!(house.remaining(&entry("")).await > secs(3500));
    }
}

#[tokio::test(start_paused = true)]
async fn many_short_wakings_add_up() {
    let house = House::new();
    house.arm(&entry(""), HOUR).await;
    // A laptop that wakes for three seconds every ten minutes: 3015 s have passed after five times.
    for _ in 0..5 {
        house.clock.suspend(secs(600));
        pass(secs(3)).await;
    }
    assert_eq!(house.p.times(), 0);
    house.clock.suspend(secs(600));
    pass(LATEST).await;
    assert_eq!(house.p.times(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_failed_in_a_short_wake_window_is_tried_again_after_the_resume() {
    let house = House::new();
    house.p.otherwise(Step::Reject);
    house.arm(&entry(""), HOUR).await;
    house.clock.suspend(HOUR * 8);
    // Failures enough that the pause is 16 minutes by now; the last one in a short wake window.
    pass(secs(30 + 60 + 120 + 240 + 480 + 20)).await;
    let failures = house.scheduler.renewal(&entry("")).unwrap().failures;
    assert_eq!(failures, 6);
    let before = house.p.times();
    house.p.otherwise(Step::Answer(HOUR));
    house.clock.suspend(secs(300));
    pass(LATEST).await;
    assert_eq!(house.p.times(), before + 1);
    assert_eq!(house.scheduler.renewal(&entry("")).unwrap().failures, 0);
}

#[tokio::test(start_paused = true)]
async fn failures_and_pauses_are_forgotten_after_a_resume() {
    let house = House::new();
    house.p.otherwise(Step::Reject);
    house.arm(&entry(""), HOUR).await;
    house.clock.suspend(HOUR * 8);
    pass(secs(30 + 60 + 120 + 240 + 480 + 60)).await;
    let before = house.p.times();
    house.clock.suspend(secs(60));
    pass(LATEST).await;
    assert_eq!(house.p.times(), before + 1);
    assert_eq!(house.scheduler.renewal(&entry("")).unwrap().failures, 1);
    pass(secs(31)).await;
    assert_eq!(house.p.times(), before + 2, "the first pause is half a minute");
}

#[tokio::test(start_paused = true)]
async fn a_suspend_during_a_flight_does_not_lose_the_renewal() {
    let house = House::new();
    house.p.takes(secs(10));
    house.p.then("default", [Step::Reject]);
    house.arm(&entry(""), HOUR).await;
    pass(secs(3245)).await;
    assert!(house.scheduler.renewal(&entry("")).unwrap().under_way);
    house.clock.suspend(HOUR * 8);
    pass(LATEST + secs(31) + secs(10)).await;
    assert_eq!(house.p.times(), 2);
    assert!(house.remaining(&entry("")).await > secs(3500));
}

#[tokio::test(start_paused = true)]
async fn a_wall_clock_that_creeps_ahead_is_followed() {
    let house = House::new();
    house.arm(&entry(""), HOUR).await;
    // Half a second in ten: never a jump, and three minutes in an hour.
    let mut left = house.remaining(&entry("")).await;
    while house.p.times() == 0 {
        left = house.remaining(&entry("")).await;
        assert!(left > secs(360) - LATEST, "late: {left:?} are left");
        pass(secs(5)).await;
        house.clock.step_wall_millis(250);
    }
    assert!(left < secs(366), "early: {left:?} are left");
}

#[tokio::test(start_paused = true)]
async fn a_wall_clock_that_creeps_forgives_no_failure() {
    let house = House::new();
    house.p.otherwise(Step::Reject);
    house.arm(&entry(""), HOUR).await;
    pass(secs(3241)).await;
    for _ in 0..200 {
        pass(secs(1)).await;
        house.clock.step_wall_millis(100);
    }
    assert_eq!(house.moments(), [3240, 3270, 3330]);
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_was_too_busy_to_wake_in_time_has_not_slept() {
    let house = House::new();
    house.p.otherwise(Step::Reject);
    house.arm(&entry(""), HOUR).await;
    pass(secs(3335)).await;
    assert_eq!(house.scheduler.renewal(&entry("")).unwrap().failures, 3);
    house.clock.advance(secs(100)).await;
    pass(secs(1)).await;
    assert_eq!(
        house.scheduler.renewal(&entry("")).unwrap().failures,
        3,
        "no failure was forgotten"
    );
}
