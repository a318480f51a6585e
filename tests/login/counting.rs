//! Every session is counted once, under what ended it.

use credbroker::{broker::counts::LoginEnd, oauth::Flow, oauth::login::LoginTrouble};

use crate::{
    desk::Poll,
    fake::Fault,
    house::{ALL, House, pass, sandbox, settle},
};

fn counted(house: &House) -> Vec<(LoginEnd, u64)> {
    house.broker.counts().logins().filter(|(_, count)| *count > 0).collect()
}

#[tokio::test(start_paused = true)]
async fn a_login_counts_as_what_came_of_it() {
    let table = [
        (Poll::Agreed("alice"), LoginEnd::Complete),
        (Poll::Ended(LoginTrouble::Denied), LoginEnd::Denied),
        (Poll::Ended(LoginTrouble::Expired), LoginEnd::Expired),
        (Poll::Panic, LoginEnd::Failed),
    ];
    for (poll, end) in table {
        let house = House::new(&ALL);
        house.desk.polls([poll]);
        let box_ = sandbox("box");
        let session = house.begin(&box_, Flow::DeviceCode).await.session;
        assert!(counted(&house).is_empty());
        house.outcome(&box_, &session).await;
        assert_eq!(counted(&house), [(end, 1)]);

        // Nobody asks, and its time passes: it has ended long before.
        house.desk.polls([Poll::Ended(LoginTrouble::Denied)]);
        house.begin(&box_, Flow::DeviceCode).await;
        pass(2000).await;
        let denied = if end == LoginEnd::Denied { 2 } else { 1 };
        assert!(
            counted(&house).contains(&(LoginEnd::Denied, denied)),
            "{:?}",
            counted(&house)
        );
        assert_eq!(counted(&house).iter().map(|(_, count)| count).sum::<u64>(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_pasted_code_counts_once() {
    let table = [
        (Ok("alice"), LoginEnd::Complete),
        (
            Err(LoginTrouble::Refused(credbroker::oauth::Seen("x".into()))),
            LoginEnd::Refused,
        ),
    ];
    for (exchange, end) in table {
        let house = House::new(&ALL);
        house.desk.exchanges(exchange);
        let box_ = sandbox("box");
        let session = house.begin(&box_, Flow::PkceRedirect).await.session;
        for _ in 0..2 {
            let _ = house.paste(&box_, &session, "code").await;
        }
        pass(2000).await;
        assert_eq!(counted(&house), [(end, 1)]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_account_that_is_another_and_a_store_that_fails_count_as_that() {
    let house = House::new(&ALL);
    house.import("alice").await;
    house.desk.exchanges(Ok("mallory"));
    let box_ = sandbox("box");
    let session = house.begin(&box_, Flow::PkceRedirect).await.session;
    house.paste(&box_, &session, "code").await.unwrap_err();
    assert_eq!(counted(&house), [(LoginEnd::OtherAccount, 1)]);

    house.desk.exchanges(Ok("alice"));
    let session = house.begin(&box_, Flow::PkceRedirect).await.session;
    house.store.fail_changes(Fault::Unavailable);
    house.paste(&box_, &session, "code").await.unwrap_err();
    assert_eq!(counted(&house), [(LoginEnd::OtherAccount, 1), (LoginEnd::Store, 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_ended_counts_as_what_ended_it_in_every_flow() {
    for flow in ALL {
        let house = House::new(&ALL);
        let box_ = sandbox("box");
        let session = house.begin(&box_, flow).await.session;
        house.cancel(&box_, &session).unwrap();
        assert!(house.cancel(&box_, &session).is_err());
        pass(2000).await;
        assert_eq!(counted(&house), [(LoginEnd::Cancelled, 1)], "{flow:?}");

        let house = House::new(&ALL);
        house.begin(&box_, flow).await;
        pass(2000).await;
        assert_eq!(counted(&house), [(LoginEnd::Expired, 1)], "{flow:?}");

        let house = House::new(&ALL);
        house.import("alice").await;
        house.begin(&box_, flow).await;
        house.logout().await;
        pass(2000).await;
        assert_eq!(counted(&house), [(LoginEnd::Withdrawn, 1)], "{flow:?}");

        // Another process's logout is seen when the token set lands.
        let house = House::new(&[Flow::PkceRedirect]);
        house.import("alice").await;
        let session = house.begin(&box_, Flow::PkceRedirect).await.session;
        let caller = credbroker::broker::Caller::host();
        house
            .another()
            .remove_token(&caller, &crate::house::entry())
            .await
            .unwrap();
        settle().await;
        house.paste(&box_, &session, "code").await.unwrap_err();
        assert_eq!(counted(&house), [(LoginEnd::Withdrawn, 1)]);
    }
}
