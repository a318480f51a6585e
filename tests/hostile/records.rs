//! What floods leave on the host's disk: refused calls cost it a few lines a second, whatever they are and however many come,
//! and still each of them is counted.

use std::{
    collections::BTreeMap,
    fs,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use credbroker::{
    client::{CredentialStore as _, ProxyTokenStore},
    credential::EntryKey,
    proto::{GetTokenRequest, credential_broker_client::CredentialBrokerClient},
};
use serde_json::Value;
use tokio::{task::JoinSet, time::Instant};
use tonic::{Request, metadata::MetadataValue};
use tonic_types::StatusExt as _;

use crate::{
    broker::{Broker, PROVIDER},
    rates::{channel, reason},
    siege::{alone, seconds},
    wire::*,
};

/// The limits of one socket, with what may come at the edges of a second.
const AT_ONCE: u64 = 100;
const A_SECOND: u64 = 10;
/// No line of these is longer.
const LINE: u64 = 600;

const UNANSWERED: &str = "";

/// How calls ended, by reason; `ok` for those that were answered.
type Ends = BTreeMap<String, u64>;

fn add(ends: &mut Ends, end: &str, calls: u64) {
    *ends.entry(end.to_owned()).or_default() += calls;
}

/// How long calls come: for so long, and until enough of them were refused, on a busy machine too.
struct Until {
    time: Instant,
    refused: AtomicU64,
}

impl Until {
    fn is_over(&self) -> bool {
        Instant::now() >= self.time && self.refused.load(Ordering::Relaxed) >= 5 * AT_ONCE
    }
}

/// Calls on one connection, so many at once, until then.
async fn calls(broker: &Broker, capability: Option<&str>, at_once: usize, until: &Arc<Until>) -> JoinSet<Ends> {
    let channel = channel(broker).await;
    let header = capability.map(|capability| format!("Bearer {capability}"));
    let header: Option<MetadataValue<_>> = header.map(|header| header.parse().unwrap());
    let mut callers = JoinSet::new();
    for _ in 0..at_once {
        let mut stub = CredentialBrokerClient::new(channel.clone());
        let (header, until) = (header.clone(), Arc::clone(until));
        callers.spawn(async move {
            let mut ends = Ends::new();
            while !until.is_over() {
                let mut request = Request::new(GetTokenRequest {
                    provider: PROVIDER.into(),
                    ..GetTokenRequest::default()
                });
                if let Some(header) = &header {
                    request.metadata_mut().insert("authorization", header.clone());
                }
                match stub.get_token(request).await {
                    Ok(_token) => add(&mut ends, "ok", 1),
                    // Its connection was cut, before it was refused or after.
                    Err(status) if status.get_details_error_info().is_none() => add(&mut ends, UNANSWERED, 1),
                    Err(status) => {
                        add(&mut ends, &reason(&status), 1);
                        until.refused.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
            ends
        });
    }
    callers
}

/// What the record says, and how much of it there is.
struct Told {
    ends: Ends,
    counted: u64,
    /// Refused calls of which it is not said whose they were.
    nobodys: u64,
    /// Lines, but for those of calls that were answered.
    refusals: u64,
    octets: u64,
    lines: u64,
}

fn told(mut broker: Broker) -> Told {
    broker.terminate();
    assert!(broker.wait().success());
    let verified = broker.verify();
    assert!(verified.status.success(), "{verified:?}");
    let mut told = Told {
        ends: Ends::new(),
        counted: 0,
        nobodys: 0,
        refusals: 0,
        octets: 0,
        lines: 0,
    };
    for file in broker.audit_files() {
        let text = fs::read_to_string(file).unwrap();
        told.octets += text.len() as u64;
        for line in text.lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            told.lines += 1;
            match line["event"].as_str() {
                None if line["outcome"] == "ok" => add(&mut told.ends, "ok", 1),
                None => {
                    told.refusals += 1;
                    told.nobodys += u64::from(line["sandbox"] == "");
                    add(&mut told.ends, line["reason"].as_str().unwrap_or("none"), 1);
                }
                Some("refusals") => {
                    told.refusals += 1;
                    for (reason, calls) in line["calls"].as_object().unwrap() {
                        let calls = calls.as_u64().unwrap();
                        told.counted += calls;
                        told.nobodys += if line["sandbox"] == "" { calls } else { 0 };
                        add(&mut told.ends, reason, calls);
                    }
                }
                Some(_) => {}
            }
        }
    }
    told
}

impl Told {
    fn is_bounded(&self, took: Duration) {
        let seconds = took.as_secs() + 2;
        // One line a second for those who are not known, and one for the sandbox.
        let most = AT_ONCE + (A_SECOND + 2) * seconds;
        assert!(self.refusals <= most, "{} lines in {took:?}", self.refusals);
        assert!(self.octets <= LINE * self.lines, "{} octets", self.octets);
    }
}

/// A flood beside an honest client, who shows the capability.
async fn flood(name: &str, config: &str, connections: usize, at_once: usize, knows_it: bool) -> Told {
    let _alone = alone().await;
    let capability = "5a".repeat(32);
    let broker = Broker::start_guarded(config, &capability).await;
    let honest = ProxyTokenStore::new(broker.socket(), Some(capability.clone().into())).unwrap();
    let key = EntryKey::parse(PROVIDER, "").unwrap();
    let start = Instant::now();
    let until = Arc::new(Until {
        time: start + seconds(),
        refused: AtomicU64::new(0),
    });
    let mut all = Vec::new();
    for _ in 0..connections {
        all.push(calls(&broker, knows_it.then_some(&*capability), at_once, &until).await);
    }
    let mut ends = Ends::new();
    // However long it took to connect, it is served.
    loop {
        assert!(
            honest.get_token(&key, Duration::ZERO).await.unwrap().is_some(),
            "{name}"
        );
        add(&mut ends, "ok", 1);
        if until.is_over() {
            break;
        }
        // Within its rate.
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    for mut callers in all {
        while let Some(some) = callers.join_next().await {
            for (end, calls) in some.unwrap() {
                add(&mut ends, &end, calls);
            }
        }
    }
    let took = start.elapsed();
    let told = told(broker);
    println!(
        "{name}: {ends:?} in {took:?}; {} lines, {} octets",
        told.lines, told.octets
    );
    // What was not answered may have been refused or not; every other call is there once.
    let unanswered = ends.remove(UNANSWERED).unwrap_or_default();
    let mut more = 0;
    for (end, calls) in &told.ends {
        let answered = ends.remove(end).unwrap_or_default();
        assert!(*calls >= answered, "{name}: {end}: {calls} of {answered}");
        more += calls - answered;
    }
    assert!(
        ends.is_empty() && more <= unanswered,
        "{name}: {ends:?}, {more} more, {unanswered}"
    );
    assert!(told.counted > 0, "{name}");
    told.is_bounded(took);
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_capability_on_a_few_connections() {
    flood("calls without a capability", "", 8, 30, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_capability_on_many_connections() {
    flood("calls without a capability on 100 connections", "", 100, 3, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_ones_rate() {
    let low = "[limits]\nrequests_per_second = 10\n";
    flood("calls over the rate", low, 8, 30, true).await;
}

/// Who asks is known when the socket's rate refuses.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_the_sockets_rate() {
    let low = "[limits]\nrequests_per_second = 1000000\nrequests_per_second_per_socket = 10\n";
    let told = flood("calls over the socket's rate", low, 8, 30, true).await;
    assert_eq!((told.ends["RATE_LIMITED"] > AT_ONCE, told.nobodys), (true, 0));
}

/// Whoever takes a call back while its refusal is held back was refused all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_are_taken_back() {
    let _alone = alone().await;
    let broker = Broker::start_guarded("", &"5a".repeat(32)).await;
    let start = Instant::now();
    let until = start + seconds();
    let mut all = JoinSet::new();
    for _ in 0..8 {
        let socket = broker.socket().to_owned();
        all.spawn(async move {
            let mut connections = 0;
            while Instant::now() < until || connections < 3 {
                connections += 1;
                let mut raw = Raw::open(&socket).await;
                for round in 0..40 {
                    let streams = (0..20).map(|at| 2 * (20 * round + at) + 1);
                    let calls: Vec<u8> = streams.clone().flat_map(|id| call(id, GET_TOKEN, MESSAGE)).collect();
                    let resets = streams.flat_map(|id| frame(RST_STREAM, 0, id, &8u32.to_be_bytes()));
                    let resets: Vec<u8> = resets.collect();
                    if raw.send(&calls).await.is_err() {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(25)).await;
                    if raw.send(&resets).await.is_err() {
                        break;
                    }
                }
            }
        });
    }
    while let Some(ended) = all.join_next().await {
        ended.unwrap();
    }
    let took = start.elapsed();
    let told = told(broker);
    println!(
        "calls that are taken back: {:?} in {took:?}; {} lines",
        told.ends, told.lines
    );
    assert!(
        told.counted > AT_ONCE && told.ends.contains_key("RATE_LIMITED"),
        "{:?}",
        told.ends
    );
    assert!(!told.ends.contains_key("none"), "{:?}", told.ends);
    told.is_bounded(took);
}
