//! Every flight is counted once, under what it came to.

use credbroker::broker::{Broker, counts::FlightEnd};

use crate::{
    authority::Step,
    fake::Fault,
    house::{House, get, getting, pass, settle},
};

fn counted(broker: &Broker) -> Vec<(FlightEnd, u64)> {
    broker.counts().flights().filter(|(_, count)| *count > 0).collect()
}

#[tokio::test(start_paused = true)]
async fn a_flight_counts_as_what_the_provider_made_of_it() {
    let busy = || Step::Busy(None);
    let table: [(Vec<Step>, FlightEnd); 7] = [
        (vec![Step::Rotate(3600)], FlightEnd::Refreshed),
        (vec![Step::Keep(3600)], FlightEnd::Refreshed),
        (vec![Step::Refuse], FlightEnd::NeedsLogin),
        (vec![Step::Reject], FlightEnd::Rejected),
        (vec![busy(), busy(), busy()], FlightEnd::Unavailable),
        (vec![Step::Lost, Step::Lost], FlightEnd::Ambiguous),
        (vec![Step::Lost, busy(), busy(), busy()], FlightEnd::Ambiguous),
    ];
    for (row, (steps, end)) in table.into_iter().enumerate() {
        let house = House::expired().await;
        house.authority.then(steps);
        // Two who wait for one flight.
        let other = house.getting();
        let _ = house.get().await;
        let _ = other.await.unwrap();
        pass(200).await;
        assert_eq!(counted(&house.broker), [(end, 1)], "row {row}");
        // What is told from memory, or in the cooldown, is no flight.
    }
}

#[tokio::test(start_paused = true)]
async fn a_flight_that_presents_nothing_counts_as_what_stopped_it() {
    // Another process was quicker.
    let house = House::expired().await;
    let other = house.another();
    house.authority.then([Step::Rotate(3600).held()]);
    let first = house.getting();
    house.authority.asked(1).await;
    let second = getting(&other, "");
    settle().await;
    house.authority.let_go();
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
    assert_eq!(counted(&house.broker), [(FlightEnd::Refreshed, 1)]);
    assert_eq!(counted(&other), [(FlightEnd::Found, 1)]);

    // The store.
    let house = House::expired().await;
    house.store.fail_changes(Fault::Unavailable);
    assert!(house.get().await.is_err());
    assert_eq!(counted(&house.broker), [(FlightEnd::Store, 1)]);

    // A logout.
    let house = House::expired().await;
    house.authority.then([Step::Rotate(3600).held()]);
    let getting = house.getting();
    house.authority.asked(1).await;
    house.logout().await.unwrap();
    house.authority.let_go();
    assert!(getting.await.unwrap().is_err());
    assert_eq!(counted(&house.broker), [(FlightEnd::Removed, 1)]);

    // Its own fault.
    let house = House::expired().await;
    house.authority.then([Step::Panic]);
    assert!(house.get().await.is_err());
    assert_eq!(counted(&house.broker), [(FlightEnd::Aborted, 1)]);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_saved_is_counted_until_it_is() {
    let house = House::expired().await;
    house.store.fail_only(crate::fake::Change::Record, Fault::Unavailable);
    get(&house.broker, "").await.unwrap();
    assert_eq!(house.broker.unsaved(), 1);
    house.store.fail_changes(None);
    pass(120).await;
    assert_eq!(house.broker.unsaved(), 0);
    assert_eq!(counted(&house.broker), [(FlightEnd::Refreshed, 1)]);
}
