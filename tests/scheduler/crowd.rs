//! Many entries at once.

use std::time::Duration;

use tokio::runtime::Handle;

use crate::house::{HOUR, House, entry, pass, secs, settle};

#[tokio::test(start_paused = true)]
async fn a_thousand_that_are_due_at_once_are_all_renewed_eight_at_a_time() {
    let house = House::new();
    house.p.takes(secs(1));
    for n in 0..1000 {
        house.arm(&entry(&format!("{n}")), HOUR).await;
    }
    pass(secs(3240 + 1000 / 8 + 2)).await;
    assert_eq!(house.p.most_at_once(), 8);
    assert_eq!(house.p.times(), 1000);
    for n in 0..1000 {
        assert!(house.remaining(&entry(&format!("{n}"))).await > secs(3400));
    }
    assert_eq!(house.scheduler.armed(), 1000);
    pass(HOUR).await;
    assert_eq!(house.p.times(), 2000);
}

#[tokio::test(start_paused = true)]
async fn what_comes_due_at_once_after_a_suspend_is_not_a_task_each() {
    let house = House::new();
    house.p.takes(Duration::from_millis(10));
    for n in 0..5000 {
        house.arm(&entry(&format!("{n}")), HOUR).await;
    }
    house.clock.suspend(HOUR * 8);
    pass(secs(60)).await;
    assert_eq!(house.p.times(), 5000);
    assert!(house.p.most_tasks() < 500, "{} tasks", house.p.most_tasks());
}

#[tokio::test(start_paused = true)]
async fn a_hundred_thousand_armed_entries_are_one_task() {
    let house = House::with(HOUR, 0.5);
    let tasks = || Handle::current().metrics().num_alive_tasks();
    for n in 0..100_000 {
        house.arm(&entry(&format!("{n}")), HOUR).await;
    }
    assert_eq!(house.scheduler.armed(), 100_000);
    pass(secs(60)).await;
    assert_eq!(tasks(), 1);
    house.scheduler.cancel_all();
    settle().await;
    assert_eq!((house.scheduler.armed(), tasks()), (0, 0));
}
