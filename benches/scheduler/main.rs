//! What armed renewals cost: bytes an entry, processor time while nothing is due, and a use of an armed entry.
//!
//! ```sh
//! cargo bench --bench scheduler
//! ```
//!
//! Two processes idle side by side, because a shared machine drifts: one with a runtime and nothing in it, one with a
//! hundred thousand armed entries. Nothing here passes or fails. Linux only: it reads `/proc`.

use std::{
    error::Error,
    fs, hint,
    io::{BufRead as _, BufReader},
    process::{Child, Command, ExitCode, Stdio},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use credbroker::{
    broker::{coordinator::RefreshCoordinator, scheduler::ProactiveScheduler},
    clock::{Clock as _, SystemClock},
    credential::{EntryKey, Expiry, TokenSet},
    oauth::{Outcome, Provider, Revoked, Seen, TokenKind},
    store::{StoredTokens, memory::MemoryStore},
};
use rustix::time::{ClockId, clock_gettime};
use secrecy::SecretString;
use tokio::{runtime::Builder, time::Instant};

/// How many entries are armed.
const ENTRIES: usize = 100_000;
/// How long the two processes idle.
const IDLE: Duration = Duration::from_secs(20);
/// How many uses are timed.
const USES: u32 = 1_000_000;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let done = match std::env::args().nth(1).as_deref() {
        Some("empty") => idle(0),
        Some("armed") => idle(ENTRIES),
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
    println!("{ENTRIES} armed entries beside none, {} s idle\n", IDLE.as_secs());
    let both = [("empty", start("empty")?), ("armed", start("armed")?)];
    for (name, mut process) in both {
        let output = process.stdout.take().ok_or("no standard output")?;
        for line in BufReader::new(output).lines() {
            println!("  {name}: {}", line?);
        }
        if !process.wait()?.success() {
            return Err(format!("{name} failed").into());
        }
    }
    Ok(())
}

fn start(name: &str) -> Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    Ok(command.arg(name).stdout(Stdio::piped()).spawn()?)
}

/// Arms so many entries, and does nothing for a while.
fn idle(entries: usize) -> Result<()> {
    Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(async {
            let scheduler = scheduler()?;
            let before = resident()?;
            for n in 0..entries {
                scheduler.schedule_if_needed(&key(n)?, &stored());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
            if let Some(bytes) = (resident()? - before).checked_div(entries) {
                println!("{bytes} bytes an entry");
                println!("{} ns for a use of an armed one", a_use(&scheduler)?);
            }
            println!("{:.1} MiB resident", resident()? as f64 / 1024.0 / 1024.0);
            let (used, began) = (processor_time(), Instant::now());
            tokio::time::sleep(IDLE).await;
            let (used, passed) = (processor_time() - used, began.elapsed());
            println!(
                "{:.2} ms of processor time in {:.0} s: {:.4} %",
                used.as_secs_f64() * 1e3,
                passed.as_secs_f64(),
                used.as_secs_f64() / passed.as_secs_f64() * 100.0
            );
            if scheduler.armed() != entries {
                return Err("something was due".into());
            }
            Ok(())
        })
}

fn a_use(scheduler: &ProactiveScheduler) -> Result<u128> {
    let (key, stored) = (key(ENTRIES)?, stored());
    scheduler.schedule_if_needed(&key, &stored);
    let began = Instant::now();
    for _ in 0..USES {
        scheduler.schedule_if_needed(hint::black_box(&key), hint::black_box(&stored));
    }
    let took = began.elapsed();
    scheduler.cancel_for_key(&key);
    Ok(took.as_nanos() / u128::from(USES))
}

fn scheduler() -> Result<ProactiveScheduler> {
    let clock = Arc::new(SystemClock::new());
    let providers: [(_, Arc<dyn Provider>); 1] = [("provider".parse()?, Arc::new(Nobody))];
    let coordinator = RefreshCoordinator::new(
        Arc::new(MemoryStore::new()),
        Arc::<SystemClock>::clone(&clock),
        providers.into(),
    );
    Ok(ProactiveScheduler::new(
        coordinator,
        clock,
        Arc::new(rand::random::<f64>),
    ))
}

fn key(n: usize) -> Result<EntryKey> {
    EntryKey::parse("provider", &format!("account-{n}")).map_err(|(_, error)| error.into())
}

fn stored() -> StoredTokens {
    StoredTokens::new(TokenSet {
        access_token: SecretString::from("access"),
        refresh_token: Some(SecretString::from("refresh")),
        expiry: Some(Expiry::from_lifetime(
            Duration::from_secs(3600),
            &SystemClock::new().now(),
        )),
        token_type: String::new(),
        scope: String::new(),
        subject: None,
        extra: [].into(),
        saved_by: String::new(),
    })
}

/// The resident memory of this process, in bytes.
fn resident() -> Result<usize> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).ok_or("no VmRSS")?;
    Ok(kib.parse::<usize>()? * 1024)
}

/// What this process had of the processors.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// A provider that nobody asks.
struct Nobody;

#[async_trait]
impl Provider for Nobody {
    async fn refresh(&self, _refresh_token: &SecretString) -> Outcome {
        Outcome::Rejected(Seen(String::new()))
    }

    async fn revoke(&self, _token: &SecretString, _kind: TokenKind) -> Revoked {
        Revoked::NotSupported
    }

    fn default_lifetime(&self) -> Duration {
        Duration::from_secs(3600)
    }

    fn may_repeat_ambiguous(&self) -> bool {
        true
    }
}
