//! Too many connections, and too many streams.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    time::Duration,
};

use credbroker::{
    client::{CredentialStore as _, ProxyTokenStore},
    credential::EntryKey,
};
use tokio::time::Instant;

use crate::{
    broker::{Broker, PROVIDER},
    honest::Honest,
    siege::{Load, alone, come_back, seconds, siege},
    wire::*,
};

const MANY: usize = 10_000;

pub(crate) fn room_for_descriptors() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
}

#[tokio::test]
async fn ten_thousand_connections() {
    room_for_descriptors();
    siege("10,000 connections", Load::Busy, |socket| async move {
        let mut held = Vec::with_capacity(MANY);
        for at in 0..MANY {
            // Silent ones, and ones that are through with the handshake.
            held.push(if at % 2 == 0 {
                Raw::silent(&socket).await
            } else {
                Raw::open(&socket).await
            });
            if at % 100 == 0 {
                tokio::task::yield_now().await;
            }
        }
        tokio::time::sleep(seconds()).await;
    })
    .await;
}

#[tokio::test]
async fn ten_thousand_streams() {
    siege("10,000 streams", Load::Busy, |socket| async move {
        let until = Instant::now() + seconds();
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let socket = socket.clone();
            all.spawn(async move {
                let raw = Raw::open(&socket).await;
                let (mut read, mut write) = raw.0.into_split();
                let drain = tokio::spawn(async move {
                    let mut sink = vec![0; 1 << 16];
                    while tokio::io::AsyncReadExt::read(&mut read, &mut sink)
                        .await
                        .is_ok_and(|count| count > 0)
                    {}
                });
                for at in 0..MANY as u32 {
                    if Instant::now() > until + Duration::from_secs(10) {
                        break;
                    }
                    let whole = call(2 * at + 1, GET_TOKEN, MESSAGE);
                    if tokio::io::AsyncWriteExt::write_all(&mut write, &whole).await.is_err() {
                        break;
                    }
                }
                while Instant::now() < until {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                drop(write);
                drain.abort();
            });
        }
        while let Some(ended) = all.join_next().await {
            ended.unwrap();
        }
    })
    .await;
}

/// One connection after the other, each with the calls that pass the socket's rate in any case: together more than
/// that rate. Whoever comes anew still has five calls a second, and nothing is kept of those that went.
#[tokio::test]
async fn connections_without_end() {
    let _alone = alone().await;
    let broker = Broker::start().await;
    let newcomer = async || {
        let start = Instant::now();
        let client = ProxyTokenStore::new(broker.socket(), None).unwrap();
        let key = EntryKey::parse(PROVIDER, "").unwrap();
        // With the handshake, these are the five.
        for _ in 0..4 {
            assert!(client.get_token(&key, Duration::ZERO).await.unwrap().is_some());
        }
        start.elapsed()
    };
    newcomer().await;
    let at_rest = broker.held();
    let until = Instant::now() + seconds();
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let socket = broker.socket().to_owned();
        all.spawn(async move {
            let calls: Vec<u8> = (0..5).flat_map(|at| call(2 * at + 1, GET_TOKEN, MESSAGE)).collect();
            let mut rounds = 0;
            while Instant::now() < until {
                let mut raw = Raw::open(&socket).await;
                raw.send(&calls).await.unwrap();
                let mut answered = 0;
                while answered < 5 {
                    let frame = raw.receive().await.unwrap();
                    answered += usize::from(frame.flags & END_STREAM != 0 && frame.kind == HEADERS);
                }
                rounds += 1;
            }
            rounds
        });
    }
    let (mut worst, mut most) = (Duration::ZERO, at_rest);
    while Instant::now() < until {
        worst = worst.max(newcomer().await);
        most = most.max(broker.held());
    }
    let mut rounds = 0;
    while let Some(some) = all.join_next().await {
        rounds += some.unwrap();
    }
    let after = come_back(&broker, at_rest).await;
    println!("{rounds} connections; a newcomer waited {worst:?} at most; {at_rest:?}, {most:?}, {after:?}");
    assert!(rounds > 50 && worst < Duration::from_secs(4), "{rounds} {worst:?}");
    assert!(most.descriptors < at_rest.descriptors + 64 && after.descriptors <= at_rest.descriptors);
    assert!(after.kib < at_rest.kib + 32 * 1024, "{at_rest:?} {after:?}");
}

const IDLER: &str = "CREDBROKER_HOSTILE_TEST_IDLER";

/// More processes than there is room for, with one connection each that they do not use: nobody holds more than
/// another, so those go that were used longest ago, and who used its own since the last one came keeps it.
#[tokio::test(flavor = "multi_thread")]
async fn many_processes_with_one_connection_each() {
    let broker = Broker::start_with("[limits]\nconnections = 8\n").await;
    let mut honest = Honest::start(broker.socket());
    let at_rest = broker.held();
    let mut idlers: Vec<Child> = Vec::new();
    for _ in 0..20 {
        let idler = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crowds::a_process_that_holds_one_connection", "--nocapture"])
            .env(IDLER, broker.socket())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        idlers.push(idler);
        let mut told = BufReader::new(idlers.last_mut().unwrap().stdout.take().unwrap()).lines();
        assert!(
            told.any(|line| line.unwrap().ends_with("@@settled")),
            "it did not connect"
        );
        // What it asked before does not count.
        honest.report();
        let report = loop {
            tokio::time::sleep(Duration::from_millis(30)).await;
            let report = honest.report();
            if report.calls > 1 || report.failure.is_some() {
                break report;
            }
        };
        assert_eq!(report.failure, None, "{report:?}");
        let held = broker.held();
        assert!(held.descriptors <= at_rest.descriptors + 8 + 1, "{at_rest:?} {held:?}");
    }
    for mut idler in idlers {
        // It ends with its standard input, however its connection fared.
        drop(idler.stdin.take());
        idler.wait().unwrap();
    }
}

/// Not a test: what the one above runs.
#[tokio::test]
async fn a_process_that_holds_one_connection() {
    let Some(socket) = credbroker::config::Environment::from_process()
        .get(IDLER)
        .map(std::path::PathBuf::from)
    else {
        return;
    };
    let mut raw = Raw::open(&socket).await;
    // The broker acknowledges what it has seen.
    while !raw
        .receive()
        .await
        .is_some_and(|frame| frame.kind == SETTINGS && frame.flags == ACK)
    {}
    println!("@@settled");
    tokio::task::spawn_blocking(|| std::io::stdin().lines().next())
        .await
        .unwrap();
    drop(raw);
}
