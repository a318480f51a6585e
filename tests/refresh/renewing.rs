//! What a broker that renews ahead arms, and what it forgets. When a renewal is due is the scheduler's own matter.

use credbroker::broker::{Broker, page::PageRequest, status::EntryStatus};

use crate::{
    authority::entry,
    house::{House, get, import, logout, pass, refresh, save, settle, token},
};

async fn shown(broker: &Broker) -> EntryStatus {
    let (entries, _) = broker.entries(&PageRequest::all()).await.unwrap();
    entries.into_iter().next().unwrap()
}

#[tokio::test(start_paused = true)]
async fn whatever_hands_a_token_out_arms_its_renewal() {
    for by_refresh in [false, true] {
        let house = House::with(3600).await;
        let broker = house.renewing();
        assert_eq!(shown(&broker).await.next_renewal, None);
        let got = match by_refresh {
            false => get(&broker, "").await,
            true => refresh(&broker, None).await,
        };
        assert!(got.is_ok());
        assert!(shown(&broker).await.next_renewal.is_some());
        let before = house.authority.times();
        pass(3239).await;
        assert_eq!(house.authority.times(), before);
        pass(2).await;
        assert_eq!(house.authority.times(), before + 1);
        assert_eq!(get(&broker, "").await, token(&format!("at-{}", before + 1)));
    }
}

#[tokio::test(start_paused = true)]
async fn an_import_arms_the_renewal_before_anybody_asks() {
    let house = House::empty();
    let broker = house.renewing();
    import(&broker, entry(""), house.tokens("rt-0", 3600)).await.unwrap();
    pass(3241).await;
    assert_eq!(house.authority.presented(), ["rt-0"]);
}

#[tokio::test(start_paused = true)]
async fn what_a_sandbox_saved_is_renewed_by_its_own_expiry() {
    let house = House::with(3600).await;
    let broker = house.renewing();
    // Good for 1000 s.
    save(&broker, "at-saved").await.unwrap();
    pass(699).await;
    assert_eq!(house.authority.times(), 0);
    pass(2).await;
    assert_eq!(house.authority.presented(), ["rt-0"]);
}

#[tokio::test(start_paused = true)]
async fn looking_at_an_entry_is_no_use_of_it() {
    let house = House::with(3600).await;
    let broker = house.renewing();
    let shown = shown(&broker).await;
    assert_eq!((shown.next_renewal, shown.last_used), (None, None));
    pass(3600).await;
    assert_eq!(house.authority.times(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_logout_cancels_the_renewal() {
    let house = House::with(3600).await;
    let broker = house.renewing();
    get(&broker, "").await.unwrap();
    logout(&broker).await.unwrap();
    settle().await;
    let touched = house.store.touched();
    pass(4000).await;
    assert_eq!(house.store.touched(), touched, "it looked for an entry that is gone");
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_stops_cancels_every_renewal() {
    let house = House::with(3600).await;
    let broker = house.renewing();
    get(&broker, "").await.unwrap();
    broker.shutdown().await;
    let touched = house.store.touched();
    pass(4000).await;
    assert_eq!(house.store.touched(), touched);
    assert_eq!(house.authority.times(), 0);
}
