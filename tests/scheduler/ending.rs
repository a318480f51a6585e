//! What stops a renewal, and that nothing is left behind.

use std::{sync::Arc, time::Duration};

use credbroker::{
    broker::{coordinator::RefreshCoordinator, scheduler::ProactiveScheduler},
    clock::{Clock as _, SystemClock},
    oauth::Provider,
    store::{OverCorrupt, TokenStore as _, memory::MemoryStore},
};
use tokio::runtime::{Builder, Handle};

use crate::{
    house::{HOUR, House, entry, pass, secs, settle},
    provider::{FakeProvider, Step},
};

fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_entry_is_not_renewed_and_the_others_are() {
    let house = House::new();
    for bucket in ["a", "b"] {
        house.arm(&entry(bucket), HOUR).await;
    }
    house.scheduler.cancel_for_key(&entry("a"));
    assert_eq!(house.scheduler.armed(), 1);
    pass(HOUR * 3).await;
    assert!(house.p.presented().iter().all(|p| p.whose == "b"));
    assert_eq!(house.p.times(), 3);
    house.scheduler.cancel_for_key(&entry("b"));
    house.scheduler.cancel_for_key(&entry("never-armed"));
    settle().await;
    assert_eq!(tasks(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_is_cancelled_under_way_does_not_come_back() {
    for (step, seconds) in [(Step::Answer(HOUR), 5), (Step::Reject, 5), (Step::Hang, 60)] {
        let house = House::new();
        house.p.takes(secs(5));
        house.p.otherwise(step);
        house.arm(&entry(""), HOUR).await;
        pass(secs(3242)).await;
        assert_eq!(house.p.times(), 1);
        house.scheduler.cancel_for_key(&entry(""));
        assert_eq!(house.scheduler.armed(), 0);
        assert!(house.scheduler.renewal(&entry("")).is_none());
        pass(secs(seconds)).await;
        assert_eq!(house.scheduler.armed(), 0, "{step:?}");
        pass(HOUR * 3).await;
        assert_eq!((house.p.times(), tasks()), (1, 0), "{step:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_login_after_a_logout_during_a_flight_is_armed_for_itself() {
    let house = House::new();
    house.p.takes(secs(5));
    house.p.then("default", [Step::Refuse]);
    house.arm(&entry(""), HOUR).await;
    pass(secs(3242)).await;
    house.scheduler.cancel_for_key(&entry(""));
    // It is handed out while the flight is under way, whose end is none of its business.
    let stored = house.tokens(&entry(""), HOUR);
    house
        .scheduler
        .schedule_if_needed(&entry(""), &credbroker::store::StoredTokens::new(stored));
    pass(secs(10)).await;
    assert_eq!(house.scheduler.armed(), 1);
    assert_eq!(house.scheduler.renewal(&entry("")).unwrap().failures, 0);
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_is_gone_when_it_is_due_is_forgotten() {
    let house = House::new();
    house.arm(&entry(""), HOUR).await;
    house.remove(&entry("")).await;
    pass(secs(3245)).await;
    assert_eq!((house.p.times(), house.scheduler.armed(), tasks()), (0, 0, 0));
    assert!(house.scheduler.renewal(&entry("")).is_none());
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_lost_its_refresh_token_is_forgotten_when_it_is_due() {
    let house = House::new();
    house.arm(&entry(""), HOUR).await;
    let mut tokens = house.tokens(&entry(""), HOUR);
    tokens.refresh_token = None;
    house.put(&entry(""), tokens).await;
    pass(secs(3245)).await;
    assert_eq!((house.p.times(), house.scheduler.armed(), tasks()), (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn everything_can_be_cancelled_and_armed_again() {
    let house = House::new();
    house.p.takes(secs(5));
    for bucket in ["a", "b", "c"] {
        house.arm(&entry(bucket), HOUR).await;
    }
    pass(secs(3242)).await;
    assert_eq!(house.p.times(), 3);
    house.scheduler.cancel_all();
    assert_eq!(house.scheduler.armed(), 0);
    pass(secs(10)).await;
    assert_eq!((house.scheduler.armed(), tasks()), (0, 0));
    pass(HOUR * 3).await;
    assert_eq!(house.p.times(), 3);
    house.hand_out(&entry("a")).await;
    assert_eq!((house.scheduler.armed(), tasks()), (1, 1));
    pass(secs(10)).await;
    assert_eq!(house.p.times(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_stops_renews_nothing_more() {
    let house = House::new();
    house.arm(&entry(""), HOUR).await;
    house.coordinator.begin_shutdown();
    pass(HOUR).await;
    assert_eq!((house.p.times(), house.scheduler.armed(), tasks()), (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_scheduler_that_never_armed_anything_has_no_task_and_one_that_is_dropped_leaves_none() {
    let house = House::new();
    assert_eq!(tasks(), 0);
    house.arm(&entry(""), HOUR).await;
    assert_eq!(tasks(), 1);
    let clone = house.scheduler.clone();
    let watching = house.scheduler.watch(&entry(""));
    drop(house);
    settle().await;
    assert_eq!((clone.armed(), tasks()), (1, 1));
    drop(clone);
    settle().await;
    assert_eq!(tasks(), 0, "the task outlives its scheduler, or keeps it alive");
    drop(watching);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_scheduler_leaves_a_flight_to_its_coordinator() {
    let house = House::new();
    house.p.takes(secs(5));
    let p = Arc::clone(&house.p);
    house.arm(&entry(""), HOUR).await;
    pass(secs(3242)).await;
    drop(house);
    pass(secs(10)).await;
    assert_eq!((p.times(), tasks()), (1, 0));
}

#[test]
fn a_scheduler_outlives_the_runtime_that_its_task_was_in() {
    let clock = SystemClock::new();
    let store = MemoryStore::new();
    let provider = FakeProvider::new(HOUR);
    let providers: [(_, Arc<dyn Provider>); 1] = [("p".parse().unwrap(), Arc::<FakeProvider>::clone(&provider))];
    let coordinator = RefreshCoordinator::new(Arc::new(store.clone()), Arc::new(clock.clone()), providers.into());
    // Made outside any runtime.
    let scheduler = ProactiveScheduler::new(coordinator, Arc::new(clock.clone()), Arc::new(|| 0.0));
    let runtime = || Builder::new_current_thread().enable_all().build().unwrap();
    let key = entry("");
    let tokens = |lifetime| {
        use credbroker::credential::{Expiry, TokenSet};
        TokenSet {
            access_token: "at".into(),
            refresh_token: Some("default#0".into()),
            expiry: Some(Expiry::from_lifetime(lifetime, &clock.now())),
            token_type: String::new(),
            scope: String::new(),
            subject: None,
            extra: [].into(),
            saved_by: String::new(),
        }
    };
    let put = async |lifetime| {
        let mut guard = store.lock(&key, secs(1)).await.unwrap();
        guard.write(tokens(lifetime), OverCorrupt::Replace).await.unwrap()
    };
    let first = runtime();
    first.block_on(async {
        scheduler.schedule_if_needed(&key, &*put(HOUR).await);
        tokio::task::yield_now().await;
        assert_eq!(tasks(), 1);
    });
    drop(first);
    // Outside a runtime, nothing can be started; nothing breaks either.
    let stored = runtime().block_on(put(Duration::ZERO));
    scheduler.schedule_if_needed(&key, &stored);
    assert_eq!(scheduler.armed(), 1);
    runtime().block_on(async {
        scheduler.schedule_if_needed(&key, &stored);
        let renewed = async {
            while provider.times() == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(secs(10), renewed).await.unwrap();
    });
}
