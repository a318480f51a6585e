//! Every lifetime is renewed in time, and none in a loop.

use std::time::Duration;

use credbroker::broker::timing;

use crate::house::{HOUR, House, entry, pass, secs, settle};

const DAY: u64 = 24 * 3600;

#[tokio::test(start_paused = true)]
async fn a_token_of_any_lifetime_never_expires_and_is_never_renewed_in_a_loop() {
    for lifetime in [1, 2, 5, 20, 60, 119, 299, 300, 301, 330, 599, 600, 601, 3600, 86_400] {
        for fraction in [0.0, 0.5, 0.999_999] {
            let house = House::with(secs(lifetime), fraction);
            house.arm(&entry(""), secs(lifetime)).await;
            let mut least = Duration::MAX;
            for _ in 0..200 {
                pass(secs(lifetime) / 10).await;
                least = least.min(house.remaining(&entry("")).await);
            }
            // Twenty lifetimes have passed.
            let row = (lifetime, fraction);
            let lead = secs(lifetime / 2).min(secs(300));
            assert!(least + secs(lifetime) / 10 >= lead, "{row:?}: {least:?} were left");
            assert!(!least.is_zero(), "{row:?}: it expired");
            let times = house.p.times();
            assert!((20..=50).contains(&times), "{row:?}: renewed {times} times");
            let presented = house.p.presented();
            for pair in presented.windows(2) {
                let gap = pair[1].at - pair[0].at;
                assert!(gap >= timing::cooldown(Some(secs(lifetime))), "{row:?}: {gap:?}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_of_five_minutes_is_renewed_about_every_two_and_a_half() {
    let house = House::with(secs(300), 0.999_999);
    house.arm(&entry(""), secs(300)).await;
    pass(HOUR).await;
    assert!(house.gaps().iter().all(|gap| *gap == 121), "{:?}", house.gaps());
    *house.fraction.lock().unwrap() = 0.0;
    let before = house.p.times();
    pass(HOUR).await;
    assert!(
        house.gaps()[before..].iter().all(|gap| *gap == 150),
        "{:?}",
        house.gaps()
    );
}

#[tokio::test(start_paused = true)]
async fn a_timer_of_months_or_years_fires_on_time_and_not_after_a_millisecond() {
    for lifetime in [25 * DAY, 3 * 365 * DAY, 10 * 365 * DAY] {
        let house = House::with(secs(lifetime), 0.0);
        house.arm(&entry(""), secs(lifetime)).await;
        let due = secs(lifetime - lifetime / 10);
        pass(secs(60)).await;
        assert_eq!(house.p.times(), 0, "{lifetime}: after a moment");
        let wall = house.now().wall + (due - secs(60));
        assert_eq!(house.scheduler.renewal(&entry("")).unwrap().due, Some(wall));
        // Nearly all of it in one go, and the rest timer by timer.
        house.clock.advance(due - secs(120)).await;
        pass(secs(59)).await;
        assert_eq!(house.p.times(), 0, "{lifetime}: too early");
        pass(secs(2)).await;
        assert_eq!(house.p.times(), 1, "{lifetime}: not on time");
        pass(secs(600)).await;
        assert_eq!(house.p.times(), 1, "{lifetime}: again");
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_already_inside_its_lead_time_is_armed_and_renewed_at_once() {
    let house = House::new();
    house.import(&entry(""), HOUR).await;
    house.clock.advance(secs(3500)).await;
    house.hand_out(&entry("")).await;
    settle().await;
    assert_eq!(house.p.times(), 1);
    assert_eq!(house.remaining(&entry("")).await, HOUR);
    pass(secs(3239)).await;
    assert_eq!(house.p.times(), 1);
    pass(secs(2)).await;
    assert_eq!(house.p.times(), 2, "it is armed again");
}

#[tokio::test(start_paused = true)]
async fn a_token_that_expired_while_it_was_handed_out_is_renewed_at_once() {
    let house = House::new();
    house.import(&entry(""), Duration::ZERO).await;
    house.hand_out(&entry("")).await;
    settle().await;
    assert_eq!(house.p.times(), 1);
}

#[tokio::test(start_paused = true)]
async fn chance_takes_up_to_29_seconds_off() {
    for (fraction, due) in [(0.0, 3240), (0.5, 3225), (0.999_999, 3211)] {
        let house = House::with(HOUR, fraction);
        house.arm(&entry(""), HOUR).await;
        pass(secs(3300)).await;
        assert_eq!(house.moments(), [due]);
    }
}

#[tokio::test(start_paused = true)]
async fn what_nobody_asked_for_is_not_renewed() {
    let house = House::new();
    house.import(&entry("asleep"), HOUR).await;
    house.arm(&entry("awake"), HOUR).await;
    pass(HOUR * 5).await;
    assert!(house.p.presented().iter().all(|p| p.whose == "awake"));
    assert_eq!(house.p.times(), 5);
    assert!(house.scheduler.renewal(&entry("asleep")).is_none());
}

#[tokio::test(start_paused = true)]
async fn only_what_can_be_renewed_is_armed() {
    let house = House::new();
    let mut eternal = house.tokens(&entry("eternal"), HOUR);
    eternal.expiry = None;
    house.put(&entry("eternal"), eternal).await;
    let mut alone = house.tokens(&entry("alone"), HOUR);
    alone.refresh_token = None;
    house.put(&entry("alone"), alone).await;
    let unknown = credbroker::credential::EntryKey::parse("unknown", "").unwrap();
    house.import(&unknown, HOUR).await;
    for key in [entry("eternal"), entry("alone"), unknown] {
        house.hand_out(&key).await;
        assert!(house.scheduler.renewal(&key).is_none(), "{key}");
    }
    assert_eq!(house.scheduler.armed(), 0);
    assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_uses_arm_one_renewal() {
    let house = House::new();
    house.arm(&entry(""), HOUR).await;
    for _ in 0..1000 {
        pass(secs(3)).await;
        house.hand_out(&entry("")).await;
    }
    assert_eq!(house.scheduler.armed(), 1);
    pass(HOUR).await;
    assert_eq!(house.moments(), [3240, 3240 + 3240]);
}

#[tokio::test(start_paused = true)]
async fn a_token_with_another_expiry_is_armed_anew() {
    let house = House::new();
    house.arm(&entry(""), HOUR).await;
    pass(secs(100)).await;
    house.arm(&entry(""), secs(1000)).await;
    pass(secs(699)).await;
    assert_eq!(house.p.times(), 0);
    pass(secs(2)).await;
    assert_eq!(house.p.times(), 1, "due 300 s before the end of the second one");
    let house = House::new();
    house.arm(&entry(""), secs(1000)).await;
    pass(secs(100)).await;
    house.arm(&entry(""), HOUR).await;
    pass(secs(3000)).await;
    assert_eq!(house.p.times(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_somebody_else_renewed_is_not_renewed_again() {
    let house = House::new();
    house.arm(&entry(""), HOUR).await;
    pass(secs(3200)).await;
    // Another process wrote it; nobody has handed it out here yet.
    house.import(&entry(""), HOUR).await;
    pass(secs(1000)).await;
    assert_eq!(house.p.times(), 0);
    pass(secs(2300)).await;
    // Seen at 3240, when 3560 s were left of it: a tenth of that before its end.
    assert_eq!(
        house.moments(),
        [3200 + 3600 - 356],
        "it is armed for the other one's expiry"
    );
}

#[tokio::test(start_paused = true)]
async fn what_somebody_else_stored_is_renewed_by_its_own_expiry() {
    // Stored at, for so long -> renewed at; it is seen when the first one is due, at 3240 s.
    for (at, lifetime, due) in [(3000, 700, 3400), (2700, 700, 3240), (2600, 650, 3240)] {
        let house = House::new();
        house.arm(&entry(""), HOUR).await;
        pass(secs(at)).await;
        house.import(&entry(""), secs(lifetime)).await;
        pass(secs(3500 - at)).await;
        assert_eq!(house.moments(), [due], "{:?}", (at, lifetime));
    }
}

#[tokio::test(start_paused = true)]
async fn a_renewal_is_shown_with_its_moment() {
    let house = House::new();
    house.p.takes(secs(5));
    house.arm(&entry(""), HOUR).await;
    let renewal = house.scheduler.renewal(&entry("")).unwrap();
    assert_eq!(renewal.due, Some(house.now().wall + secs(3240)));
    assert_eq!((renewal.failures, renewal.under_way), (0, false));
    pass(secs(3242)).await;
    assert!(house.scheduler.renewal(&entry("")).unwrap().under_way);
    pass(secs(5)).await;
    let renewal = house.scheduler.renewal(&entry("")).unwrap();
    assert!(!renewal.under_way);
    assert!(renewal.due.unwrap() > house.now().wall + secs(3200));
}
