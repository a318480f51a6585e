//! What a GetToken costs, side by side with the floor: an empty unary call of the same size on a bare tonic server with
//! the same HTTP/2 settings and runtime.
//!
//! ```sh
//! cargo bench --bench broker
//! ```
//!
//! Both servers are processes of their own on Unix sockets, pinned to one core, and the client to another, where the
//! system allows it. The two are measured in turns within one run, because a shared machine drifts; ratios are taken turn
//! by turn and their median is what to quote. Nothing here passes or fails.

mod client;
mod server;

use std::{error::Error, process::ExitCode, time::Duration};

use client::{Load, Measured};
use server::{Kind, Server, prepare};

/// How many turns each server gets.
const TURNS: usize = 10;
/// How long a turn lasts.
const TURN: Duration = Duration::from_millis(1500);
/// How many entries the store has for the memory figure.
const ENTRIES: usize = 10_000;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let done = match arguments.next().as_deref() {
        Some("server") => server::main(arguments),
        // `cargo bench` passes --bench; `cargo test --benches` runs this with --test, to see that it still builds.
        Some("--test") => Ok(()),
        _ => compare(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn compare() -> Result<()> {
    client::pin(1);
    println!(
        "{TURNS} turns of {:.1} s each, median [min .. max]\n",
        TURN.as_secs_f64()
    );
    let floor = Server::start(Kind::Floor, prepare(1)?)?;
    let broker = Server::start(Kind::Broker, prepare(1)?)?;
    for load in [
        Load {
            connections: 1,
            turn: TURN,
        },
        Load {
            connections: 16,
            turn: TURN,
        },
    ] {
        // Warm both before anything counts.
        client::measure(&floor, load)?;
        client::measure(&broker, load)?;
        let mut turns = Vec::new();
        for _ in 0..TURNS {
            turns.push((client::measure(&floor, load)?, client::measure(&broker, load)?));
        }
        println!("{} connection(s), one call after another on each", load.connections);
        row("p50, µs", &turns, |m| m.p50.as_secs_f64() * 1e6);
        row("p99, µs", &turns, |m| m.p99.as_secs_f64() * 1e6);
        row("calls/s", &turns, |m| m.rate);
        row("server CPU, µs/call", &turns, |m| m.cpu_per_call.as_secs_f64() * 1e6);
        println!();
    }
    drop((floor, broker));

    println!("start of the process to the first token, ms");
    let starts = (0..TURNS)
        .map(|_| Ok((first_answer(Kind::Floor)?, first_answer(Kind::Broker)?)))
        .collect::<Result<Vec<_>>>()?;
    println!("  floor  {}", spread(starts.iter().map(|s| s.0)));
    println!("  broker {}\n", spread(starts.iter().map(|s| s.1)));

    let floor = Server::start(Kind::Floor, prepare(1)?)?;
    client::measure(
        &floor,
        Load {
            connections: 1,
            turn: TURN,
        },
    )?;
    let broker = Server::start(Kind::Broker, prepare(ENTRIES)?)?;
    let idle = broker.resident_kib()?;
    client::read_all(&broker, ENTRIES)?;
    println!("resident memory, MiB");
    println!(
        "  floor, after calls                      {:.1}",
        mib(floor.resident_kib()?)
    );
    println!("  broker, {ENTRIES} entries stored, none read {:.1}", mib(idle));
    println!(
        "  broker, {ENTRIES} entries read            {:.1}",
        mib(broker.resident_kib()?)
    );
    Ok(())
}

fn first_answer(kind: Kind) -> Result<f64> {
    let home = prepare(1)?;
    let started = tokio::time::Instant::now();
    let server = Server::start(kind, home)?;
    client::one_call(&server)?;
    Ok(started.elapsed().as_secs_f64() * 1e3)
}

fn row(name: &str, turns: &[(Measured, Measured)], figure: impl Fn(&Measured) -> f64) {
    println!("  {name:<20} floor  {}", spread(turns.iter().map(|t| figure(&t.0))));
    println!("  {:<20} broker {}", "", spread(turns.iter().map(|t| figure(&t.1))));
    println!(
        "  {:<20} ratio  {}",
        "",
        spread(turns.iter().map(|t| figure(&t.1) / figure(&t.0)))
    );
}

fn spread(figures: impl Iterator<Item = f64>) -> String {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    let at = |index: usize| figures.get(index).copied().unwrap_or(f64::NAN);
    format!(
        "{:>9.2} [{:.2} .. {:.2}]",
        at(figures.len() / 2),
        at(0),
        at(figures.len().saturating_sub(1))
    )
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}
