//! What bwrap tells of the command inside: which process it is, and whether it was reached at all.

use std::{
    fs,
    io::{BufRead as _, BufReader, PipeReader},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde::Deserialize;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use crate::cli::failure::Failure;

/// How long a signal waits for the command to be there.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(10);

/// One line of bwrap's.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Line {
    child_pid: Option<i32>,
    exit_code: Option<i32>,
}

#[derive(Clone, Copy, Default)]
struct Told {
    /// Process 1 of the sandbox, which is bwrap's own; the command is its first child.
    first: Option<i32>,
    /// bwrap tells how the command ended, and only if it was executed.
    ended: bool,
    /// Nothing more will be told.
    done: bool,
}

/// The ear for what bwrap tells.
#[derive(Clone)]
pub(super) struct Inside(watch::Receiver<Told>);

impl Inside {
    /// Listens in a thread of its own, which ends with bwrap.
    pub(super) fn hear(pipe: PipeReader) -> Result<Self, Failure> {
        let (tells, hears) = watch::channel(Told::default());
        thread::Builder::new()
            .spawn(move || {
                for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                    let Ok(line) = serde_json::from_str::<Line>(&line) else {
                        continue;
                    };
                    tells.send_modify(|told| {
                        told.first = told.first.or(line.child_pid);
                        told.ended |= line.exit_code.is_some();
                    });
                }
                tells.send_modify(|told| told.done = true);
            })
            .map_err(|error| Failure::internal(format!("cannot start a thread: {error}")))?;
        Ok(Self(hears))
    }

    /// Whether the command was executed; asked when bwrap has ended.
    pub(super) async fn reached(&self) -> bool {
        let mut hears = self.0.clone();
        // What bwrap left behind may hold the pipe open; then what was told is all there is.
        let _ = timeout(PATIENCE, hears.wait_for(|told| told.done)).await;
        let told = *self.0.borrow();
        told.ended
    }

    /// Passes a signal on to the command, not to bwrap, which would end and take the command with it. What a terminal sends
    /// goes to everybody who would share it.
    pub(super) fn signal(&self, signal: Signal, from_the_terminal: bool) {
        let inside = self.clone();
        tokio::spawn(async move {
            let found = timeout(PATIENCE, async {
                loop {
                    if let Some(command) = inside.command() {
                        return command;
                    }
                    sleep(PAUSE).await;
                }
            });
            let sent = match found.await {
                Ok((first, _)) if from_the_terminal => {
                    kill_process_group(first, signal).map_err(|error| error.to_string())
                }
                Ok((_, command)) => kill_process(command, signal).map_err(|error| error.to_string()),
                Err(_elapsed) => Err("the command is not there yet".to_owned()),
            };
            if let Err(error) = sent {
                tracing::warn!(%error, "a signal could not be passed on");
            }
        });
    }

    /// Process 1 of the sandbox, which leads the process group and takes no signal itself, and the first child that it made;
    /// what it adopted comes later in the list.
    fn command(&self) -> Option<(Pid, Pid)> {
        let first = self.0.borrow().first?;
        let children = fs::read_to_string(format!("/proc/{first}/task/{first}/children")).ok()?;
        let command = children.split_whitespace().next()?.parse().ok()?;
        Some((Pid::from_raw(first)?, Pid::from_raw(command)?))
    }
}
