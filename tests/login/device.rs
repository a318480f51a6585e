//! The device flow: the pace of RFC 8628 section 3.5, and what ends it.

use credbroker::{
    oauth::{Flow, Seen, login::LoginTrouble},
    reason::Reason,
};
use tokio::time::Instant;

use crate::{
    desk::{Desk, Poll},
    house::{ALL, House, Polled, pass, sandbox},
};

/// The pauses before each question, in seconds.
fn pauses(desk: &Desk, began: Instant) -> Vec<u64> {
    let mut before = began;
    let mut pauses = Vec::new();
    for at in desk.asked() {
        pauses.push(at.duration_since(before).as_secs());
        before = at;
    }
    pauses
}

/// The pauses until the login is over, and how it ended.
async fn run(polls: &[Poll]) -> (Vec<u64>, Polled, House) {
    let house = House::new(&ALL);
    house.desk.polls(polls.iter().cloned());
    let box_ = sandbox("box");
    let began = Instant::now();
    let begun = house.begin(&box_, Flow::DeviceCode).await;
    let outcome = house.outcome(&box_, &begun.session).await;
    (pauses(&house.desk, began), outcome, house)
}

#[tokio::test(start_paused = true)]
async fn the_provider_sets_the_pace() {
    let agreed = Poll::Agreed("alice");
    let (pauses, outcome, house) = run(&[Poll::Pending, Poll::Pending, agreed.clone()]).await;
    assert_eq!(pauses, [5, 5, 5]);
    assert_eq!(outcome, Polled::Complete(Some("at-login-1".to_owned())));
    assert_eq!(house.stored().await.unwrap().tokens.subject.as_deref(), Some("alice"));

    // Slower for good.
    let (pauses, ..) = run(&[
        Poll::SlowDown,
        Poll::SlowDown,
        Poll::Pending,
        Poll::Pending,
        agreed.clone(),
    ])
    .await;
    assert_eq!(pauses, [5, 10, 15, 15, 15]);

    // What could not be asked is asked later and later; the first answer ends that.
    let (pauses, ..) = run(&[
        Poll::Lost,
        Poll::Lost,
        Poll::Lost,
        Poll::Lost,
        Poll::Lost,
        Poll::Pending,
        agreed.clone(),
    ])
    .await;
    assert_eq!(pauses, [5, 10, 20, 40, 60, 60, 5]);

    let (pauses, ..) = run(&[Poll::Busy(45), agreed]).await;
    assert_eq!(pauses, [5, 45]);
}

#[tokio::test(start_paused = true)]
async fn the_caller_is_told_the_new_pace() {
    let house = House::new(&ALL);
    house.desk.polls([Poll::SlowDown]);
    let box_ = sandbox("box");
    let session = house.begin(&box_, Flow::DeviceCode).await.session;
    assert_eq!(house.poll(&box_, &session).await, Ok(Polled::Pending(5)));
    pass(6).await;
    assert_eq!(house.poll(&box_, &session).await, Ok(Polled::Pending(10)));
}

#[tokio::test(start_paused = true)]
async fn polling_only_reads() {
    let house = House::new(&ALL);
    let box_ = sandbox("box");
    let session = house.begin(&box_, Flow::DeviceCode).await.session;
    for _ in 0..1000 {
        assert_eq!(house.poll(&box_, &session).await, Ok(Polled::Pending(5)));
    }
    assert!(house.desk.asked().is_empty());
    pass(11).await;
    assert_eq!(house.desk.asked().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_end_is_told_once() {
    let seen = || Seen("HTTP 400".to_owned());
    let table = [
        (LoginTrouble::Denied, Reason::AccessDenied),
        (LoginTrouble::Expired, Reason::SessionExpired),
        (LoginTrouble::Refused(seen()), Reason::ExchangeFailed),
        (LoginTrouble::Rejected(seen()), Reason::ProviderRejected),
        (LoginTrouble::Unavailable(seen()), Reason::ProviderUnavailable),
    ];
    for (trouble, reason) in table {
        let house = House::new(&ALL);
        house.desk.polls([Poll::Ended(trouble)]);
        let box_ = sandbox("box");
        let session = house.begin(&box_, Flow::DeviceCode).await.session;
        pass(6).await;
        assert_eq!(house.poll(&box_, &session).await, Ok(Polled::Failed(reason)));
        assert_eq!(house.poll(&box_, &session).await, Err(Reason::SessionAlreadyUsed));
        pass(60).await;
        assert_eq!(house.desk.asked().len(), 1, "nobody asks on");
        assert!(house.token().await.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn codes_that_have_expired_are_not_asked_about() {
    let house = House::new(&ALL);
    house.desk.device_lifetime(12);
    let box_ = sandbox("box");
    let begun = house.begin(&box_, Flow::DeviceCode).await;
    pass(11).await;
    assert_eq!(house.poll(&box_, &begun.session).await, Ok(Polled::Pending(5)));
    pass(2).await;
    assert_eq!(
        house.poll(&box_, &begun.session).await,
        Ok(Polled::Failed(Reason::SessionExpired))
    );
    assert_eq!(house.desk.asked().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_shorter_of_the_two_times_is_shown() {
    use credbroker::clock::Clock as _;
    for (lifetime, want) in [(300, 300), (3600, 600)] {
        let house = House::new(&ALL);
        house.desk.device_lifetime(lifetime);
        let begun = house.begin(&sandbox("box"), Flow::DeviceCode).await;
        let left = begun.expire_time.duration_since(house.clock.now().wall);
        assert_eq!(left.as_secs(), want);
    }
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_panics_ends_the_login_and_nothing_else() {
    let house = House::new(&ALL);
    house.desk.polls([Poll::Panic]);
    let box_ = sandbox("box");
    let session = house.begin(&box_, Flow::DeviceCode).await.session;
    pass(6).await;
    assert_eq!(
        house.poll(&box_, &session).await,
        Ok(Polled::Failed(Reason::InternalError))
    );
    house.desk.polls([Poll::Agreed("alice")]);
    let session = house.begin(&box_, Flow::DeviceCode).await.session;
    assert!(matches!(
        house.outcome(&box_, &session).await,
        Polled::Complete(Some(_))
    ));
}
