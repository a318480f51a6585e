//! What StreamSecrets sends, and when.

use credbroker::proto::envoy::DiscoveryRequest;
use tokio::time::{Instant, sleep};

use crate::{
    house::{House, Talk, secs, wanting},
    provider::Step,
    support::{key, name},
};

const TOKEN: &str = "token/p/default";
const KEY: &str = "api-key/k";

#[tokio::test(start_paused = true)]
async fn what_there_is_is_sent_at_once_the_token_alone_and_nothing_more_while_nothing_changes() {
    let house = House::new();
    house.import("", "at-0", "p#0", 3600).await;
    house.set_key("k", "sk-0").await;
    let mut talk = house.talk(&[TOKEN, KEY, TOKEN]).await;
    let start = Instant::now();
    let all = talk.all(&[TOKEN, KEY]).await;
    assert_eq!((all[TOKEN].as_str(), all[KEY].as_str()), ("at-0", "sk-0"));
    assert_eq!(all.len(), 2);
    assert!(start.elapsed() < secs(1));
    talk.is_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn each_new_token_is_sent_and_the_version_says_whether_something_changed() {
    let house = House::new();
    house.provider.otherwise(Step::Answer(secs(100)));
    house.import("", "at-0", "p#0", 100).await;
    let mut talk = house.talk(&[TOKEN]).await;
    let mut versions = vec![talk.told().await.version];
    let start = Instant::now();
    for number in 1..=5 {
        let told = talk.told().await;
        // Tokens of 100 s are renewed after half of that.
        assert_eq!(told.only(TOKEN), format!("at-{number}"));
        let late = start.elapsed().abs_diff(secs(50 * number));
        assert!(late < secs(2), "{number} came {late:?} off");
        assert!(!versions.contains(&told.version));
        versions.push(told.version);
    }
    assert_eq!(house.provider.times(), 5);
    house.provider.judge();
}

#[tokio::test(start_paused = true)]
async fn what_there_is_not_is_empty_at_once_and_all_alike() {
    let house = House::new();
    house.import("expired", "at-old", "", 1).await;
    house
        .import_to(&house.bench.broker, &key("q", ""), "at-q", "", 3600)
        .await;
    house.set_key("other", "sk-other").await;
    sleep(secs(2)).await;
    let outside = ["token/q/default", "token/q/absent", "api-key/other", "api-key/another"];
    let nothing = [
        "token/p",
        "refresh-token/p/default",
        "token/p/a b",
        "*",
        "",
        "api-key/k/k",
    ];
    let absent = ["token/p/absent", "token/p/expired", "api-key/absent"];
    for names in [&outside[..], &nothing, &absent] {
        let touched = house.store.touched();
        for name in names {
            let start = Instant::now();
            let mut talk = house.talk(&[name]).await;
            assert_eq!(talk.told().await.only(name), "", "{name}");
            assert_eq!(house.fetch(&[name]).await.only(name), "", "{name}");
            assert!(start.elapsed() < secs(1), "{name}");
            talk.is_quiet().await;
        }
        if *names != absent {
            assert_eq!(house.store.touched(), touched, "{names:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_removed_is_empty_within_a_second_and_what_comes_later_is_sent_on_the_same_stream() {
    let house = House::new();
    house.set_key("k", "sk-0").await;
    for _ in 0..2 {
        house.import("", "at-0", "p#0", 3600).await;
        let mut talk = house.talk(&[TOKEN, KEY]).await;
        talk.all(&[TOKEN, KEY]).await;
        let start = Instant::now();
        house.remove("").await;
        assert_eq!(talk.told().await.only(TOKEN), "");
        assert!(start.elapsed() < secs(1));
        talk.is_quiet().await;
        house.import("", "at-again", "p#again", 3600).await;
        assert_eq!(talk.told().await.only(TOKEN), "at-again");
        house.bench.broker.remove_api_key(&name("k")).await.unwrap();
        assert_eq!(talk.told().await.only(KEY), "");
        house.set_key("k", "sk-1").await;
        assert_eq!(talk.told().await.only(KEY), "sk-1");
        talk.is_quiet().await;
    }
}

#[tokio::test(start_paused = true)]
async fn another_process_changes_it_and_that_is_sent_within_a_second() {
    let house = House::new();
    let another = house.another();
    house.import("", "at-0", "", 3600).await;
    let mut talk = house.talk(&[TOKEN, KEY]).await;
    talk.all(&[TOKEN, KEY]).await;
    let start = Instant::now();
    house.import_to(&another, &key("p", ""), "at-1", "", 3600).await;
    assert_eq!(talk.told().await.only(TOKEN), "at-1");
    another.set_api_key(&name("k"), "sk-1".into()).await.unwrap();
    assert_eq!(talk.told().await.only(KEY), "sk-1");
    assert!(start.elapsed() < secs(2));
}

#[tokio::test(start_paused = true)]
async fn a_token_that_expires_is_empty_when_it_does_and_the_next_one_comes_by_itself() {
    let house = House::new();
    house.import("", "at-0", "p#0", 100).await;
    house.provider.otherwise(Step::Busy(None));
    let mut talk = house.talk(&[TOKEN]).await;
    assert_eq!(talk.told().await.only(TOKEN), "at-0");
    let start = Instant::now();
    assert_eq!(talk.told().await.only(TOKEN), "");
    let late = start.elapsed().checked_sub(secs(100)).expect("it had not expired");
    assert!(late < secs(1), "{late:?}");
    // Nobody but the stream is interested, for longer than a renewal is tried on behalf of nobody.
    sleep(secs(3600)).await;
    house.provider.otherwise(Step::Answer(secs(3600)));
    assert_eq!(talk.told().await.only(TOKEN), "at-1");
}

#[tokio::test(start_paused = true)]
async fn an_expired_token_is_refreshed_first_for_at_most_5_s() {
    for (takes, first) in [(3, "at-1"), (8, "")] {
        let house = House::new();
        house.import_expired("").await;
        house.provider.takes(secs(takes));
        let start = Instant::now();
        let mut talk = house.talk(&[TOKEN]).await;
        assert_eq!(talk.told().await.only(TOKEN), first);
        assert!(
            start.elapsed().abs_diff(secs(takes.min(5))) < secs(1),
            "{:?}",
            start.elapsed()
        );
        if first.is_empty() {
            assert_eq!(talk.told().await.only(TOKEN), "at-1");
            assert!(start.elapsed().abs_diff(secs(takes)) < secs(1), "{:?}", start.elapsed());
        }
        talk.is_quiet().await;
        assert_eq!(house.provider.times(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_takes_long_holds_up_no_other() {
    let house = House::new();
    house.import_expired("slow").await;
    house.import("", "at-0", "", 3600).await;
    house.provider.takes(secs(4));
    let mut talk = house.talk(&["token/p/slow", TOKEN]).await;
    let start = Instant::now();
    assert_eq!(talk.told().await.only(TOKEN), "at-0");
    assert!(start.elapsed() < secs(1));
    assert_eq!(talk.told().await.only("token/p/slow"), "at-1");
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_added_is_sent_at_once_and_one_that_is_left_out_is_forgotten() {
    let house = House::new();
    house.import("", "at-0", "", 3600).await;
    house.import("b", "at-b", "", 3600).await;
    let mut talk = house.talk(&[TOKEN]).await;
    let first = talk.told().await;
    assert_eq!(first.only(TOKEN), "at-0");
    talk.want(&[TOKEN, "token/p/b"]);
    assert_eq!(talk.told().await.only("token/p/b"), "at-b");
    assert_eq!(house.bench.broker.open_watches(), 2);

    talk.want(&["token/p/b"]);
    talk.is_quiet().await;
    assert_eq!(house.bench.broker.open_watches(), 1);
    assert_eq!(house.bench.broker.watchers(&key("p", "")), 0);
    house.import("b", "at-b-1", "", 3600).await;
    assert_eq!(talk.told().await.only("token/p/b"), "at-b-1");

    // It is new to the stream once more; the version says that it is what it was.
    talk.want(&[TOKEN]);
    let again = talk.told().await;
    assert_eq!((again.only(TOKEN), &again.version), ("at-0", &first.version));
    drop(talk);
    sleep(secs(1)).await;
    assert_eq!(house.bench.broker.open_watches(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_empty_list_asks_for_nothing() {
    let house = House::new();
    house.import("", "at-0", "", 3600).await;
    let mut talk = house.talk(&[]).await;
    talk.is_quiet().await;
    talk.want(&[TOKEN]);
    assert_eq!(talk.told().await.only(TOKEN), "at-0");
    talk.want(&[]);
    talk.is_quiet().await;
    house.import("", "at-1", "", 3600).await;
    talk.is_quiet().await;
    assert_eq!(house.bench.broker.open_watches(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_was_refused_is_not_sent_again_until_there_is_something_else() {
    let house = House::new();
    house.import("", "at-0", "", 3600).await;
    let mut talk = house.talk(&[TOKEN]).await;
    let first = talk.hear().await;
    for _ in 0..3 {
        talk.refuse("no");
        talk.is_quiet().await;
    }
    // Nothing was accepted, so nothing has a version; what is asked for is still the same.
    house.import("", "at-1", "", 3600).await;
    let second = talk.told().await;
    assert_eq!(second.only(TOKEN), "at-1");
    assert_ne!(first.version, second.version);
    assert_eq!(house.bench.broker.secrets_rejected(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_request_about_an_answer_that_is_not_the_last_changes_nothing() {
    let house = House::new();
    house.import("", "at-0", "", 3600).await;
    house.import("b", "at-b", "", 3600).await;
    let mut talk = house.talk(&[TOKEN]).await;
    let first = talk.told().await;
    house.import("", "at-1", "", 3600).await;
    talk.told().await;
    for nonce in [first.nonce.as_str(), "never sent", "99"] {
        talk.say(DiscoveryRequest {
            resource_names: vec!["token/p/b".into()],
            response_nonce: nonce.into(),
            error_detail: Some(Default::default()),
            ..DiscoveryRequest::default()
        });
        talk.is_quiet().await;
    }
    assert_eq!(house.bench.broker.secrets_rejected(), 0);
    // What it followed, it follows.
    house.import("", "at-2", "", 3600).await;
    assert_eq!(talk.told().await.only(TOKEN), "at-2");
    // One without a nonce is about no answer, and counts.
    talk.say(DiscoveryRequest {
        resource_names: vec![TOKEN.into(), "token/p/b".into()],
        ..DiscoveryRequest::default()
    });
    assert_eq!(talk.told().await.only("token/p/b"), "at-b");
}

#[tokio::test(start_paused = true)]
async fn an_envoy_that_comes_back_is_told_everything_whatever_it_says_of_the_stream_before() {
    let house = House::new();
    house.import("", "at-0", "", 3600).await;
    let mut talk = house.talk(&[TOKEN]).await;
    let told = talk.told().await;
    drop(talk);
    let again = DiscoveryRequest {
        version_info: told.version.clone(),
        response_nonce: "of another stream".into(),
        ..wanting(&[TOKEN])
    };
    let mut talk = Talk::begin(house.client().await, again).await.unwrap();
    let again = talk.told().await;
    assert_eq!((again.only(TOKEN), &again.version), ("at-0", &told.version));
}

#[tokio::test(start_paused = true)]
async fn a_stream_counts_as_use_and_its_deliveries_are_counted() {
    let house = House::new();
    house.import("", "at-0", "", 3600).await;
    let mut talk = house.talk(&[TOKEN]).await;
    talk.told().await;
    house.import("", "at-1", "", 3600).await;
    talk.told().await;
    assert_eq!(house.bench.broker.watchers(&key("p", "")), 1);
    assert_eq!(house.bench.broker.deliveries(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_expired_token_that_comes_later_is_refreshed_and_then_sent() {
    let house = House::new();
    let mut talk = house.talk(&[TOKEN]).await;
    assert_eq!(talk.told().await.only(TOKEN), "");
    let start = Instant::now();
    let key = key("p", "");
    house.import_to(&house.another(), &key, "at-old", "p#0", 0).await;
    assert_eq!(talk.told().await.only(TOKEN), "at-1");
    assert!(start.elapsed() < secs(2), "{:?}", start.elapsed());
}
