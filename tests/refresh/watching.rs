//! Who follows an entry: what is told, when, and how it ends.

use std::time::Duration;

use credbroker::{
    broker::{Broker, Caller, Error, KeyWatch, Watch, page::PageRequest, policy::Policy},
    credential::AccessToken,
    reason::Reason,
};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::{
    sync::mpsc::{UnboundedReceiver, error::TryRecvError, unbounded_channel},
    time::{Instant, timeout},
};

use crate::{
    authority::{Step, entry},
    fake::{Change, Fault},
    house::{Got, House, failed, get, import, logout, pass, refresh, save, settle, timed, token},
};

/// A follower in a task of its own, and what it was told.
struct Follower(UnboundedReceiver<Got>);

impl Follower {
    async fn of(broker: &Broker) -> Self {
        let mut watch = watching(broker).await.unwrap();
        let (sender, told) = unbounded_channel();
        tokio::spawn(async move {
            loop {
                let got = read(watch.token().await);
                let ended = got.is_err();
                if sender.send(got).is_err() || ended {
                    return;
                }
            }
        });
        Self(told)
    }

    /// What it was told since the last time, and whether the stream has ended.
    async fn told(&mut self) -> (Vec<Got>, bool) {
        settle().await;
        let mut told = Vec::new();
        loop {
            match self.0.try_recv() {
                Ok(got) => told.push(got),
                Err(end) => return (told, end == TryRecvError::Disconnected),
            }
        }
    }

    /// Exactly this, and no end.
    async fn was_told<const N: usize>(&mut self, tokens: [&str; N]) {
        let expected: Vec<Got> = tokens.into_iter().map(token).collect();
        assert_eq!(self.told().await, (expected, false));
    }

    /// Nothing but the end, for this reason.
    async fn has_ended(&mut self, reason: Reason) {
        assert_eq!(self.told().await, (vec![failed(reason)], true));
    }

    /// The next thing that it is told, and after how long.
    async fn next(&mut self) -> (Got, Duration) {
        let began = Instant::now();
        let got = timeout(Duration::from_secs(100_000), self.0.recv()).await;
        (got.unwrap().unwrap(), began.elapsed())
    }
}

async fn watching(broker: &Broker) -> Result<Watch, Error> {
    broker.watch(&Caller::host(), &entry("")).await
}

async fn following(broker: &Broker) -> Watch {
    broker.follow(&Caller::host(), &entry("")).await.unwrap()
}

fn read(told: Result<AccessToken, Error>) -> Got {
    match told {
        Ok(told) => token(told.access_token.expose_secret()),
        Err(error) => Err((error.reason(), None)),
    }
}

/// What there is to be handed out, if that is told within these seconds.
async fn present(watch: &mut Watch, seconds: u64) -> Option<Option<String>> {
    let told = timeout(Duration::from_secs(seconds), watch.present()).await.ok()?;
    Some(told.unwrap().map(|token| token.access_token.expose_secret().to_owned()))
}

fn some(text: &str) -> Option<Option<String>> {
    Some(Some(text.to_owned()))
}

const NOTHING: Option<Option<String>> = Some(None);

#[tokio::test(start_paused = true)]
async fn the_first_token_is_there_at_once_and_each_renewal_follows() {
    let house = House::with(3600).await;
    let broker = house.renewing();
    let mut follower = Follower::of(&broker).await;
    follower.was_told(["at-0"]).await;
    pass(3239).await;
    follower.was_told([]).await;
    pass(2).await;
    follower.was_told(["at-1"]).await;
    // Nothing changes: nothing is told.
    pass(3000).await;
    follower.was_told([]).await;
    pass(241).await;
    follower.was_told(["at-2"]).await;
}

#[tokio::test(start_paused = true)]
async fn an_expired_token_is_refreshed_first() {
    let house = House::expired().await;
    let mut follower = Follower::of(&house.broker).await;
    follower.was_told(["at-1"]).await;
    assert_eq!(house.authority.times(), 1);
}

#[tokio::test(start_paused = true)]
async fn who_cannot_have_a_first_token_is_told_at_once_why() {
    let house = House::empty();
    assert_eq!(
        watching(&house.broker).await.err().map(|e| e.reason()),
        Some(Reason::NotFound)
    );
    house.import("", "", 100).await;
    pass(200).await;
    assert_eq!(
        watching(&house.broker).await.err().map(|e| e.reason()),
        Some(Reason::NeedsLogin)
    );
    let stranger = Caller {
        policy: Policy::default().into(),
        at_host: false,
        ..Caller::host()
    };
    let touched = house.store.touched();
    for key in [entry(""), entry("absent")] {
        let refused = house.broker.watch(&stranger, &key).await.err();
        assert_eq!(refused.map(|e| e.reason()), Some(Reason::Unauthorized));
        let refused = house.broker.follow(&stranger, &key).await.err();
        assert_eq!(refused.map(|e| e.reason()), Some(Reason::Unauthorized));
    }
    assert_eq!(house.store.touched(), touched);
    assert_eq!(house.broker.open_watches(), 0);
}

#[tokio::test(start_paused = true)]
async fn whatever_this_broker_writes_is_told_without_a_pause() {
    let house = House::with(3600).await;
    let mut follower = Follower::of(&house.broker).await;
    follower.was_told(["at-0"]).await;
    let ((), seconds) = timed(async {
        save(&house.broker, "at-saved").await.unwrap();
        follower.was_told(["at-saved"]).await;
        refresh(&house.broker, None).await.unwrap();
        follower.was_told(["at-1"]).await;
        house.import("", "rt-9", 3600).await;
        follower.was_told(["at-0"]).await;
        logout(&house.broker).await.unwrap();
        follower.has_ended(Reason::NotFound).await;
    })
    .await;
    assert_eq!(seconds, 0);
}

#[tokio::test(start_paused = true)]
async fn what_another_process_writes_is_told_within_a_second() {
    let house = House::with(3600).await;
    let mut follower = Follower::of(&house.broker).await;
    follower.was_told(["at-0"]).await;
    let another = house.another();
    for (nth, name) in ["at-1", "at-2", "at-3"].into_iter().enumerate() {
        pass(1000 + nth as u64).await;
        refresh(&another, None).await.unwrap();
        let (got, after) = follower.next().await;
        assert_eq!(got, token(name));
        assert!(after < Duration::from_secs(1), "{after:?}");
    }
    logout(&another).await.unwrap();
    let (got, after) = follower.next().await;
    assert_eq!(got, failed(Reason::NotFound));
    assert!(after < Duration::from_secs(1), "{after:?}");
}

/// The rounds end with the last who follows, and begin anew with the next.
#[tokio::test(start_paused = true)]
async fn what_another_process_writes_is_told_to_who_comes_later_too() {
    let house = House::with(3600).await;
    drop(watching(&house.broker).await.unwrap());
    pass(10).await;
    let mut follower = Follower::of(&house.broker).await;
    follower.was_told(["at-0"]).await;
    pass(100).await;
    refresh(&house.another(), None).await.unwrap();
    let (got, after) = follower.next().await;
    assert_eq!(got, token("at-1"));
    assert!(after < Duration::from_secs(1), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn what_a_caller_comes_upon_is_told_to_all_who_follow() {
    let house = House::with(3600).await;
    let mut follower = Follower::of(&house.broker).await;
    follower.was_told(["at-0"]).await;
    refresh(&house.another(), None).await.unwrap();
    follower.was_told([]).await;
    let (got, seconds) = timed(async {
        let got = get(&house.broker, "").await;
        follower.was_told(["at-1"]).await;
        got
    })
    .await;
    assert_eq!((got, seconds), (token("at-1"), 0));
}

#[tokio::test(start_paused = true)]
async fn a_second_follower_is_never_told_what_the_place_still_says() {
    let house = House::with(3600).await;
    let mut first = Follower::of(&house.broker).await;
    first.was_told(["at-0"]).await;
    refresh(&house.another(), None).await.unwrap();
    // The place has not been looked at since; the second one asks the store.
    let mut second = Follower::of(&house.broker).await;
    second.was_told(["at-1"]).await;
    pass(10).await;
    second.was_told([]).await;
    first.was_told(["at-1"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_token_that_cannot_be_renewed_is_good_to_its_end() {
    let house = House::with(3600).await;
    house.authority.otherwise(|| Step::Refuse);
    let mut follower = Follower::of(&house.renewing()).await;
    follower.was_told(["at-0"]).await;
    pass(3300).await;
    assert_eq!(house.stored_refresh_token().await, None);
    follower.was_told([]).await;
    let (got, after) = follower.next().await;
    assert_eq!(got, failed(Reason::NeedsLogin));
    assert!((300..=301).contains(&after.as_secs()), "{after:?}");
    assert_eq!(follower.told().await, (vec![], true));
}

#[tokio::test(start_paused = true)]
async fn who_follows_an_entry_without_a_provider_is_told_which_mend_helps() {
    let house = House::with(3600).await;
    let broker = house.without_provider();
    let mut follower = Follower::of(&broker).await;
    follower.was_told(["at-0"]).await;
    let (got, after) = follower.next().await;
    assert_eq!((got, after.as_secs()), (failed(Reason::ProviderNotFound), 3600));
}

#[tokio::test(start_paused = true)]
async fn a_login_before_the_end_goes_on_in_the_same_stream() {
    let house = House::with(3600).await;
    let broker = house.renewing();
    house.authority.then([Step::Refuse]);
    let mut follower = Follower::of(&broker).await;
    pass(3300).await;
    import(&broker, entry(""), house.tokens("rt-new", 3600)).await.unwrap();
    follower.was_told(["at-0", "at-0"]).await;
    pass(3300).await;
    follower.was_told(["at-1"]).await;
}

#[tokio::test(start_paused = true)]
async fn while_the_provider_is_down_nothing_is_told_and_the_next_token_is() {
    let house = House::with(600).await;
    let broker = house.renewing();
    house.authority.otherwise(|| Step::Busy(None));
    let mut follower = Follower::of(&broker).await;
    follower.was_told(["at-0"]).await;
    // Far beyond the ten failures after which nobody else's renewal is tried.
    pass(12 * 3600).await;
    follower.was_told([]).await;
    assert!(house.authority.times() > 20);
    house.authority.otherwise(|| Step::Rotate(3600));
    pass(1800).await;
    let (told, ended) = follower.told().await;
    assert!(matches!(told.as_slice(), [Ok(_)]) && !ended, "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_cannot_be_read_ends_nothing() {
    let house = House::with(3600).await;
    let mut follower = Follower::of(&house.broker).await;
    follower.was_told(["at-0"]).await;
    for fault in [Fault::Unavailable, Fault::Corrupt, Fault::Locked] {
        house.store.fail(fault);
        pass(10).await;
        follower.was_told([]).await;
    }
    house.store.fail(None);
    save(&house.broker, "at-saved").await.unwrap();
    follower.was_told(["at-saved"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_token_that_could_not_be_saved_is_told_all_the_same() {
    let house = House::with(3600).await;
    let mut follower = Follower::of(&house.broker).await;
    follower.was_told(["at-0"]).await;
    house.store.fail_only(Change::Record, Fault::Unavailable);
    let ((), seconds) = timed(async {
        refresh(&house.broker, None).await.unwrap();
        follower.was_told(["at-1"]).await;
    })
    .await;
    assert_eq!(seconds, 0);
    house.store.fail_changes(None);
    pass(60).await;
    follower.was_told([]).await;
}

/// While the store fails, one looks for all who follow, as before.
#[tokio::test(start_paused = true)]
async fn a_store_that_fails_is_not_asked_by_everybody() {
    let house = House::with(3600).await;
    let mut followers = Vec::new();
    for _ in 0..10 {
        followers.push(Follower::of(&house.broker).await);
    }
    pass(1).await;
    house.store.fail(Fault::Unavailable);
    let before = house.store.touched();
    pass(100).await;
    let looks = house.store.touched() - before;
    assert!((199..=201).contains(&looks), "{looks}");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_panics_ends_it_as_our_own_fault() {
    let house = House::with(3600).await;
    let mut follower = Follower::of(&house.broker).await;
    follower.was_told(["at-0"]).await;
    house.store.fail(Fault::Panic);
    pass(1).await;
    follower.has_ended(Reason::InternalError).await;
    house.store.fail(None);
    assert_eq!(house.broker.open_watches(), 0);
    Follower::of(&house.broker).await.was_told(["at-0"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_gets_the_newest_and_no_backlog() {
    let house = House::with(3600).await;
    let mut watch = watching(&house.broker).await.unwrap();
    assert_eq!(read(watch.token().await), token("at-0"));
    for _ in 0..5 {
        pass(60).await;
        refresh(&house.broker, None).await.unwrap();
    }
    assert_eq!(read(watch.token().await), token("at-5"));
    assert!(timeout(Duration::from_secs(1000), watch.token()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn what_expired_before_a_slow_reader_came_is_not_told() {
    let house = House::with(3600).await;
    let mut watch = watching(&house.broker).await.unwrap();
    assert_eq!(read(watch.token().await), token("at-0"));
    save(&house.broker, "at-saved").await.unwrap();
    pass(2000).await;
    assert!(timeout(Duration::from_secs(1), watch.token()).await.is_err());
    let got = refresh(&house.broker, None).await;
    assert_eq!(read(watch.token().await), got);
}

#[tokio::test(start_paused = true)]
async fn both_clocks_end_a_token() {
    for by_suspend in [false, true] {
        let house = House::empty();
        house.import("", "", 3600).await;
        let mut follower = Follower::of(&house.broker).await;
        follower.was_told(["at-0"]).await;
        match by_suspend {
            true => house.clock.step_boot(4000),
            false => house.clock.step_wall(4000),
        }
        let (got, after) = follower.next().await;
        assert_eq!(got, failed(Reason::NeedsLogin));
        assert!(after < Duration::from_secs(1), "{after:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_looks_when_nobody_follows() {
    let house = House::with(3600).await;
    let first = watching(&house.broker).await.unwrap();
    let second = watching(&house.broker).await.unwrap();
    assert_eq!((house.broker.watchers(&entry("")), house.broker.open_watches()), (2, 2));
    let (entries, _) = house.broker.entries(&PageRequest::all()).await.unwrap();
    assert_eq!(entries.first().unwrap().watchers, 2);
    let before = house.store.touched();
    pass(10).await;
    // One look for both, twice a second.
    let looks = house.store.touched() - before;
    assert!((20..=22).contains(&looks), "{looks}");
    drop((first, second));
    pass(1).await;
    let before = house.store.touched();
    pass(100).await;
    assert_eq!(house.store.touched(), before);
    assert_eq!((house.broker.watchers(&entry("")), house.broker.open_watches()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn each_token_that_is_told_is_a_delivery() {
    let house = House::with(3600).await;
    let mut follower = Follower::of(&house.broker).await;
    pass(100).await;
    assert_eq!(house.broker.deliveries(), 1);
    refresh(&house.another(), None).await.unwrap();
    follower.next().await.0.unwrap();
    follower.next().await.0.unwrap();
    assert_eq!(house.broker.deliveries(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_broker_is_the_end_of_all_who_follow() {
    let house = House::with(3600).await;
    let mut follower = Follower::of(&house.broker).await;
    let mut secret = following(&house.broker).await;
    assert_eq!(present(&mut secret, 1).await, some("at-0"));
    let mut key = house.broker.follow_key(&Caller::host(), &"k".parse().unwrap()).unwrap();
    assert!(key.present().await.unwrap().is_none());
    follower.was_told(["at-0"]).await;
    house.broker.begin_shutdown();
    follower.has_ended(Reason::ShuttingDown).await;
    assert_eq!(secret.present().await.unwrap_err().reason(), Reason::ShuttingDown);
    assert_eq!(key.present().await.unwrap_err().reason(), Reason::ShuttingDown);
    assert_eq!(
        watching(&house.broker).await.err().map(|e| e.reason()),
        Some(Reason::ShuttingDown)
    );
}

#[tokio::test(start_paused = true)]
async fn who_follows_what_is_not_there_is_told_so_and_then_what_comes() {
    let house = House::empty();
    let broker = house.renewing();
    let mut secret = following(&broker).await;
    assert_eq!(present(&mut secret, 1).await, NOTHING);
    assert_eq!(present(&mut secret, 100).await, None);
    import(&broker, entry(""), house.tokens("rt-0", 3600)).await.unwrap();
    assert_eq!(present(&mut secret, 1).await, some("at-0"));
    assert_eq!(present(&mut secret, 3300).await, some("at-1"));
    logout(&broker).await.unwrap();
    assert_eq!(present(&mut secret, 1).await, NOTHING);
    assert_eq!(present(&mut secret, 100).await, None);
    // What another process stores is seen, too.
    import(&house.another(), entry(""), house.tokens("rt-9", 3600))
        .await
        .unwrap();
    assert_eq!(present(&mut secret, 1).await, some("at-0"));
}

/// The question about all at once hangs: each is looked at by itself.
#[tokio::test(start_paused = true)]
async fn a_look_at_all_that_hangs_holds_up_nobody_for_long() {
    let house = House::with(3600).await;
    let mut follower = Follower::of(&house.broker).await;
    follower.was_told(["at-0"]).await;
    house.store.hold_looks();
    refresh(&house.another(), None).await.unwrap();
    let (got, after) = follower.next().await;
    assert_eq!(got, token("at-1"));
    assert!(after <= Duration::from_millis(1500), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn an_expired_token_is_taken_back_and_the_provider_s_next_one_is_told() {
    let house = House::with(600).await;
    let broker = house.renewing();
    house.authority.otherwise(|| Step::Busy(None));
    let mut secret = following(&broker).await;
    assert_eq!(present(&mut secret, 1).await, some("at-0"));
    let (told, seconds) = timed(present(&mut secret, 10_000)).await;
    assert_eq!((told, seconds), (NOTHING, 600));
    house.authority.otherwise(|| Step::Rotate(3600));
    let told = present(&mut secret, 1800).await;
    assert!(matches!(told, Some(Some(_))), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn who_follows_an_expired_entry_has_it_renewed_though_the_first_refresh_failed() {
    let house = House::expired().await;
    let broker = house.renewing();
    house.authority.otherwise(|| Step::Busy(None));
    assert_eq!(get(&broker, "").await.unwrap_err().0, Reason::ProviderUnavailable);
    let mut secret = following(&broker).await;
    assert_eq!(present(&mut secret, 1).await, NOTHING);
    pass(6 * 3600).await;
    house.authority.otherwise(|| Step::Rotate(3600));
    let told = present(&mut secret, 1800).await;
    assert!(matches!(told, Some(Some(_))), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn a_refresh_is_waited_for_five_seconds() {
    let house = House::expired().await;
    house.authority.then([Step::Rotate(3600).held()]);
    let ((mut secret, first), seconds) = timed(async {
        let mut secret = following(&house.broker).await;
        let first = present(&mut secret, 1).await;
        (secret, first)
    })
    .await;
    assert_eq!((first, seconds), (NOTHING, 5));
    house.authority.let_go();
    assert_eq!(present(&mut secret, 1).await, some("at-1"));
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_store_takes_no_token_back_before_its_end() {
    let house = House::empty();
    house.import("", "", 100).await;
    let mut secret = following(&house.broker).await;
    assert_eq!(present(&mut secret, 1).await, some("at-0"));
    house.store.fail(Fault::Unavailable);
    let (told, seconds) = timed(present(&mut secret, 1000)).await;
    assert_eq!((told, seconds), (NOTHING, 100));
}

/// A disk that hangs must not keep an expired token good.
#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_keeps_no_token_beyond_its_end() {
    let house = House::empty();
    house.import("", "", 100).await;
    let mut secret = following(&house.broker).await;
    assert_eq!(present(&mut secret, 1).await, some("at-0"));
    pass(1).await;
    house.store.hold_reads();
    let began = Instant::now();
    assert_eq!(present(&mut secret, 1000).await, NOTHING);
    let after = began.elapsed();
    assert!((99..=102).contains(&after.as_secs()), "{after:?}");
    house.store.let_reads_go();
    house.import("", "", 100).await;
    assert_eq!(present(&mut secret, 2).await, some("at-0"));
}

#[tokio::test(start_paused = true)]
async fn a_token_is_taken_back_when_it_ends_and_not_at_the_next_look() {
    let house = House::empty();
    house.import("", "", 100).await;
    // Between two rounds.
    tokio::time::sleep(Duration::from_millis(250)).await;
    let mut secret = following(&house.broker).await;
    assert_eq!(present(&mut secret, 1).await, some("at-0"));
    pass(99).await;
    let began = Instant::now();
    assert_eq!(present(&mut secret, 10).await, NOTHING);
    let after = began.elapsed();
    assert!(after <= Duration::from_millis(780), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn who_began_while_the_store_failed_is_told_when_it_is_back() {
    let house = House::with(3600).await;
    // The place knows the token, because somebody else follows it.
    let mut first = following(&house.broker).await;
    assert_eq!(present(&mut first, 10).await, some("at-0"));
    assert_eq!(present(&mut first, 10).await, None);
    house.store.fail(Fault::Unavailable);
    let mut second = following(&house.broker).await;
    assert_eq!(present(&mut second, 1).await, NOTHING);
    assert_eq!(present(&mut second, 10).await, None);
    house.store.fail(None);
    assert_eq!(present(&mut second, 1).await, some("at-0"));
    assert_eq!(present(&mut first, 10).await, None);
}

async fn key_present(watch: &mut KeyWatch, seconds: u64) -> Option<Option<String>> {
    let told = timeout(Duration::from_secs(seconds), watch.present()).await.ok()?;
    Some(told.unwrap().map(|key| key.expose_secret().to_owned()))
}

#[tokio::test(start_paused = true)]
async fn an_api_key_is_followed_from_nothing_to_nothing() {
    let house = House::empty();
    let name = "openai".parse().unwrap();
    let mut key = house.broker.follow_key(&Caller::host(), &name).unwrap();
    assert_eq!(key_present(&mut key, 1).await, NOTHING);
    assert_eq!(key_present(&mut key, 100).await, None);
    house
        .broker
        .set_api_key(&name, SecretString::from("one"))
        .await
        .unwrap();
    let (told, seconds) = timed(key_present(&mut key, 10)).await;
    assert_eq!((told, seconds), (some("one"), 0));
    // The same key again is nothing new; what another process sets is, within a second.
    house
        .broker
        .set_api_key(&name, SecretString::from("one"))
        .await
        .unwrap();
    assert_eq!(key_present(&mut key, 100).await, None);
    house
        .another()
        .set_api_key(&name, SecretString::from("two"))
        .await
        .unwrap();
    assert_eq!(key_present(&mut key, 1).await, some("two"));
    // A store that fails takes nothing back.
    house.store.fail(Fault::Unavailable);
    assert_eq!(key_present(&mut key, 100).await, None);
    let mut second = house.broker.follow_key(&Caller::host(), &name).unwrap();
    assert_eq!(key_present(&mut second, 1).await, NOTHING);
    house.store.fail(None);
    assert_eq!(key_present(&mut second, 1).await, some("two"));
    house.broker.remove_api_key(&name).await.unwrap();
    assert_eq!(key_present(&mut key, 1).await, NOTHING);
    house
        .another()
        .set_api_key(&name, SecretString::from("three"))
        .await
        .unwrap();
    assert_eq!(key_present(&mut key, 1).await, some("three"));
    let stranger = Caller {
        policy: Policy::default().into(),
        ..Caller::host()
    };
    let refused = house.broker.follow_key(&stranger, &name).err().map(|e| e.reason());
    assert_eq!(refused, Some(Reason::Unauthorized));
}
