//! What is written down: the audit, and the log of what was refused.

use std::sync::OnceLock;

use serde_json::Value;

use crate::{
    house::{House, wanting},
    log::Log,
};

/// One for all tests of this program.
fn log() -> &'static Log {
    static LOG: OnceLock<Log> = OnceLock::new();
    LOG.get_or_init(Log::of_warnings)
}

fn lines(audit: &[Value]) -> Vec<String> {
    audit
        .iter()
        .map(|line| {
            let field = |name: &str| line[name].as_str().unwrap_or("-").to_owned();
            ["operation", "provider", "bucket", "key", "outcome", "reason"]
                .map(field)
                .join(" ")
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn each_secret_that_is_delivered_has_a_line_and_so_has_each_that_is_outside_the_policy() {
    let house = House::new();
    house.import("", "at-canary", "", 3600).await;
    house.set_key("k", "sk-canary").await;
    let names = [
        "token/p/default",
        "api-key/k",
        "token/q/x",
        "api-key/other",
        "token/p/absent",
        "junk",
    ];
    let mut talk = house.talk(&names).await;
    talk.all(&names).await;
    house.import("", "at-canary-2", "", 3600).await;
    talk.told().await;
    house.fetch(&["token/p/default", "token/q/y"]).await;
    drop(talk);
    let audit = house.bench.stop().await;
    let mut lines = lines(&audit);
    assert!(!format!("{audit:?}").contains("canary"));
    lines.sort();
    assert_eq!(
        lines,
        [
            "FetchSecrets - - - ok -",
            "FetchSecrets p default - ok -",
            "FetchSecrets q y - error UNAUTHORIZED",
            "StreamSecrets - - - ok -",
            "StreamSecrets - - k ok -",
            "StreamSecrets - - other error UNAUTHORIZED",
            "StreamSecrets p default - ok -",
            "StreamSecrets p default - ok -",
            "StreamSecrets q x - error UNAUTHORIZED",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_is_logged_once_a_stream_escaped_short_and_without_the_secret() {
    let log = log();
    let house = House::new();
    house.import("", "at-canary-5d1b", "", 3600).await;
    let mut talk = house.talk(&["token/p/default"]).await;
    talk.hear().await;
    talk.refuse(&format!("\u{1b}[31mbad\n{}", "é".repeat(5000)));
    talk.is_quiet().await;
    talk.refuse("a second time");
    talk.is_quiet().await;
    let told = log.lines("bad", "did not accept");
    assert_eq!(told.len(), 1, "{}", log.text());
    assert!(
        told[0].contains(r"\u{1b}[31mbad\n\u{e9}") && told[0].len() < 4096,
        "{}",
        told[0]
    );
    assert!(log.lines("a second time", "").is_empty());
    assert_eq!(house.bench.broker.secrets_rejected(), 2);

    // Envoy quotes what it does not like.
    let mut talk = house.talk(&["token/p/default"]).await;
    talk.hear().await;
    talk.refuse("value: at-canary-5d1b is not welcome here");
    talk.is_quiet().await;
    assert_eq!(log.lines("it holds a secret", "did not accept").len(), 1);
    assert!(!log.text().contains("canary-5d1b"));
}

#[tokio::test(start_paused = true)]
async fn no_debug_of_a_message_shows_a_secret() {
    let house = House::new();
    house.import("", "at-canary-77aa", "", 3600).await;
    let answer = house
        .client()
        .await
        .fetch_secrets(wanting(&["token/p/default"]))
        .await
        .unwrap();
    let answer = answer.into_inner();
    let any = &answer.resources[0];
    assert!(String::from_utf8_lossy(&any.value).contains("at-canary-77aa"));
    let secret = <credbroker::proto::envoy::Secret as prost::Message>::decode(any.value.as_slice()).unwrap();
    let Some(credbroker::proto::envoy::secret::Type::GenericSecret(generic)) = &secret.r#type else {
        panic!("no generic secret")
    };
    let source = generic.secret.as_ref().unwrap();
    let shown = format!(
        "{answer:?} {secret:?} {:?} {generic:?} {source:?} {:?}",
        secret.r#type, source.specifier
    );
    // Neither as text nor as the numbers of bytes.
    assert!(!shown.contains("canary") && !shown.contains("99, 97, 110"), "{shown}");
}

#[tokio::test(start_paused = true)]
async fn who_refuses_on_ever_new_streams_does_not_fill_the_log() {
    let log = log();
    let house = House::new();
    house.import("", "at-0", "", 3600).await;
    for _ in 0..40 {
        let mut talk = house.talk(&["token/p/default"]).await;
        talk.hear().await;
        talk.refuse("again and again");
        // The answer to what comes after it: the refusal was heard.
        talk.want(&["*"]);
        talk.hear().await;
    }
    assert_eq!(house.bench.broker.secrets_rejected(), 40);
    let told = log.lines("again and again", "did not accept").len();
    assert!((1..15).contains(&told), "{told}");
}
