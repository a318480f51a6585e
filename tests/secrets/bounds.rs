//! How much one socket's clients may follow.

use credbroker::reason::Reason;

use crate::{
    house::{House, Talk, wanting},
    support::wire::Failure,
};

#[tokio::test(start_paused = true)]
async fn who_follows_very_many_names_leaves_room_for_those_who_follow_a_few() {
    let house = House::new();
    house.import("", "at-0", "", 3600).await;
    let names: Vec<String> = (0..256).map(|at| format!("no name {at}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let client = house.client().await;
    let mut open = Vec::new();
    let refused = loop {
        match Talk::begin(client.clone(), wanting(&names)).await {
            Ok(talk) => open.push(talk),
            Err(status) => break Failure::of::<()>(Err(status)),
        }
    };
    // 1024 beside 4 of each.
    assert_eq!(open.len(), 1024 / (256 - 4));
    assert_eq!(refused.reason(), Some(Reason::TooManyStreams));
    assert_eq!(refused.info.metadata["limit"], "4");
    let mut few = Talk::begin(client.clone(), wanting(&["token/p/default"]))
        .await
        .unwrap();
    assert_eq!(few.told().await.only("token/p/default"), "at-0");
    // What is left out makes room again.
    open[0].told().await;
    open[0].want(&[]);
    open[0].is_quiet().await;
    assert!(Talk::begin(client, wanting(&names)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn who_asks_for_ever_new_names_is_heard_at_a_pace() {
    let house = House::new();
    let mut talk = house.talk(&["*"]).await;
    talk.hear().await;
    let start = tokio::time::Instant::now();
    for round in 0..2000 {
        talk.say(wanting(&[&format!("n{round}")]));
    }
    talk.say(wanting(&["last"]));
    while !talk.hear().await.secrets.contains_key("last") {}
    // 512 ahead, and the others as calls come.
    let took = start.elapsed().as_secs();
    assert!((15..40).contains(&took), "{took}");
}

#[tokio::test(start_paused = true)]
async fn who_asks_for_very_many_names_in_ever_new_calls_is_refused_and_a_few_names_are_not() {
    let house = House::new();
    house.import("", "at-0", "", 3600).await;
    let names: Vec<String> = (0..256).map(|at| format!("token/outside/{at}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut client = house.client().await;
    let mut answered = 0;
    let refused = loop {
        assert!(answered < 100, "each of these calls writes 256 lines to the audit");
        match client.fetch_secrets(wanting(&names)).await {
            Ok(_) => answered += 1,
            Err(status) => break Failure::of::<()>(Err(status)),
        }
    };
    assert_eq!(refused.reason(), Some(Reason::RateLimited));
    // 1024 names ahead, beside 4 of each call.
    assert!((4..8).contains(&answered), "{answered}");
    // A new stream is no way around, and a few names are what a call may ask for.
    let status = Talk::begin(client.clone(), wanting(&names)).await.err().unwrap();
    assert_eq!(Failure::of::<()>(Err(status)).reason(), Some(Reason::RateLimited));
    assert_eq!(house.fetch(&["token/p/default"]).await.only("token/p/default"), "at-0");
    let mut few = house.talk(&["token/p/default"]).await;
    assert_eq!(few.told().await.only("token/p/default"), "at-0");
    // Who waits is served.
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert!(client.fetch_secrets(wanting(&names)).await.is_ok());
}
