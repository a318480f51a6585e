//! The end of the broker in the middle of logins.

use credbroker::reason::Reason;

use crate::house::{ALL, House, begin, pass, sandbox};

#[tokio::test(start_paused = true)]
async fn a_broker_that_stops_ends_every_login_that_waits_for_a_user() {
    let house = House::new(&ALL);
    let box_ = sandbox("box");
    let mut sessions = Vec::new();
    for flow in ALL {
        sessions.push(house.begin(&box_, flow).await.session);
    }
    let began = tokio::time::Instant::now();
    house.broker.shutdown().await;
    assert!(began.elapsed().as_secs() < 1);
    assert_eq!(house.desk.listening(), 0);
    for session in &sessions {
        assert_eq!(house.poll(&box_, session).await, Err(Reason::ShuttingDown));
        assert_eq!(house.paste(&box_, session, "code").await, Err(Reason::ShuttingDown));
        assert_eq!(house.cancel(&box_, session), Err(Reason::ShuttingDown));
    }
    let refused = begin(&house.broker, &box_, None).await.err().unwrap();
    assert_eq!(refused.reason(), Reason::ShuttingDown);
    pass(60).await;
    assert!(house.desk.asked().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_exchange_on_the_wire_is_awaited_and_stored() {
    let house = House::new(&ALL);
    let box_ = sandbox("box");
    let (_session, pasting) = house.exchanging(&box_).await;
    let broker = house.broker.clone();
    let stopping = tokio::spawn(async move { broker.shutdown().await });
    pass(10).await;
    assert!(!stopping.is_finished());
    house.desk.open();
    stopping.await.unwrap();
    assert_eq!(house.token().await.as_deref(), Some("at-login-1"));
    drop(pasting);
}

#[tokio::test(start_paused = true)]
async fn one_that_never_ends_is_not_awaited_for_ever() {
    let house = House::new(&ALL);
    let box_ = sandbox("box");
    let (_session, _pasting) = house.exchanging(&box_).await;
    let began = tokio::time::Instant::now();
    house.broker.shutdown().await;
    assert_eq!(began.elapsed().as_secs(), 20);
}
