//! What a watch costs, side by side with the floor: a broadcast of messages of the same size over a bare tonic server, from
//! `tokio::sync::watch`, with the same HTTP/2 settings, runtime and client.
//!
//! ```sh
//! cargo bench --bench watch
//! ```
//!
//! Both servers are processes of their own on Unix sockets, pinned to one core, and the client to another, where the system
//! allows it; they take turns within one run, because a shared machine drifts. A time is from the moment that the store
//! said the new token was durable (the floor: that it was sent) to the moment that the watcher's task has it, by the
//! monotonic clock, which all processes share. Nothing here passes or fails. Linux only: it reads `/proc`.

mod client;
mod server;

use std::{error::Error, process::ExitCode, time::Duration};

use client::{Watchers, stall};
use server::{Kind, Server};

/// How many watch, and how many entries there are.
const WATCHERS: usize = 1000;
/// How many turns each server gets.
const TURNS: usize = 20;
/// Between two turns: a connection may stream 32 KiB a second.
const PAUSE: Duration = Duration::from_millis(400);
/// How long nothing changes.
const IDLE: Duration = Duration::from_secs(20);

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let done = match arguments.next().as_deref() {
        Some("server") => server::main(arguments),
        // `cargo bench` passes --bench; `cargo test --benches` runs this with --test, to see that it still builds.
        Some("--test") => Ok(()),
        _ => client::pin(1).and_then(|()| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(compare())
        }),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench failed: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The floor and the broker, and what is measured of each.
struct Both<T> {
    floor: T,
    broker: T,
}

async fn compare() -> Result<()> {
    let mut servers = Both {
        floor: Server::start(Kind::Floor)?,
        broker: Server::start(Kind::Broker)?,
    };
    println!("{WATCHERS} watchers of one entry, {TURNS} turns");
    let empty = resident(&servers)?;
    let mut watchers = all_watch(&servers, |_| 0).await?;
    let full = resident(&servers)?;
    turns(&mut servers, &mut watchers, 1).await?;
    let each = |before: u64, after: u64| after.saturating_sub(before) as f64 / WATCHERS as f64;
    println!("  KiB a watcher     floor  {:>9.1}", each(empty.floor, full.floor));
    println!("                    broker {:>9.1}\n", each(empty.broker, full.broker));

    println!("the same with one more that does not read");
    let stalled = (stall(&servers.floor.socket)?, stall(&servers.broker.socket)?);
    turns(&mut servers, &mut watchers, 1).await?;
    drop((watchers, stalled));
    println!();

    // New ones, so that nobody pays for what was before.
    drop(servers);
    let mut servers = Both {
        floor: Server::start(Kind::Floor)?,
        broker: Server::start(Kind::Broker)?,
    };
    println!("{WATCHERS} entries of one watching client");
    let mut watchers = all_watch(&servers, |watcher| watcher).await?;
    println!("  processor time while nothing changes, {} s", IDLE.as_secs());
    let before = processor(&servers)?;
    tokio::time::sleep(IDLE).await;
    let after = processor(&servers)?;
    let share = |before: Duration, after: Duration| (after - before).as_secs_f64() / IDLE.as_secs_f64() * 100.0;
    println!("  % of a core       floor  {:>9.3}", share(before.floor, after.floor));
    println!("                    broker {:>9.3}", share(before.broker, after.broker));
    println!("  one in ten of them changes in each turn");
    turns(&mut servers, &mut watchers, WATCHERS / 10).await?;
    println!("  all of them change in each turn");
    turns(&mut servers, &mut watchers, WATCHERS).await
}

fn resident(servers: &Both<Server>) -> Result<Both<u64>> {
    Ok(Both {
        floor: servers.floor.resident_kib()?,
        broker: servers.broker.resident_kib()?,
    })
}

fn processor(servers: &Both<Server>) -> Result<Both<Duration>> {
    Ok(Both {
        floor: servers.floor.cpu()?,
        broker: servers.broker.cpu()?,
    })
}

async fn all_watch(servers: &Both<Server>, entry: fn(usize) -> usize) -> Result<Both<Watchers>> {
    Ok(Both {
        floor: Watchers::begin(&servers.floor.socket, WATCHERS, entry).await?,
        broker: Watchers::begin(&servers.broker.socket, WATCHERS, entry).await?,
    })
}

/// So many entries change in each turn; whoever watches one of them is waited for.
async fn turns(servers: &mut Both<Server>, watchers: &mut Both<Watchers>, entries: usize) -> Result<()> {
    let mut times = Both {
        floor: Vec::new(),
        broker: Vec::new(),
    };
    // The first one warms both.
    for turn in 0..=TURNS {
        let floor = watchers.floor.turn(&mut servers.floor, entries).await?;
        let broker = watchers.broker.turn(&mut servers.broker, entries).await?;
        if turn > 0 {
            times.floor.extend(floor);
            times.broker.extend(broker);
        }
        tokio::time::sleep(PAUSE).await;
    }
    times.floor.sort_unstable();
    times.broker.sort_unstable();
    for (name, share) in [("p50, ms", 50), ("p99, ms", 99)] {
        let at = |times: &[Duration]| {
            let time = times.get(times.len() * share / 100).copied().unwrap_or_default();
            time.as_secs_f64() * 1e3
        };
        let (floor, broker) = (at(&times.floor), at(&times.broker));
        println!("  {name:<17} floor  {floor:>9.2}");
        println!("  {:<17} broker {broker:>9.2}  ratio {:.2}", "", broker / floor);
    }
    Ok(())
}
