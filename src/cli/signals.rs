//! Signals that end nothing by themselves: `serve` stops in order, `run` passes them on.

use std::fs;

use rustix::process::Signal;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use crate::cli::failure::Failure;

/// What ends a `serve` in order. SIGHUP is a terminal that was closed.
pub const STOPPING: [Signal; 3] = [Signal::INT, Signal::TERM, Signal::HUP];
/// What a `run` passes on to its command.
pub const FORWARDED: [Signal; 6] = [
    Signal::INT,
    Signal::TERM,
    Signal::HUP,
    Signal::QUIT,
    Signal::USR1,
    Signal::USR2,
];
/// The same for a command that shares no terminal with it: also what the terminal's size and Ctrl-Z are told by.
pub const INTO_A_SANDBOX: [Signal; 8] = [
    Signal::INT,
    Signal::TERM,
    Signal::HUP,
    Signal::QUIT,
    Signal::USR1,
    Signal::USR2,
    Signal::WINCH,
    Signal::TSTP,
];
/// What ends a `login`. SIGHUP is a terminal that was closed.
pub const CANCELLING: [Signal; 4] = [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT];

/// Signals that arrived and were not yet taken.
pub(super) struct Signals(mpsc::UnboundedReceiver<Signal>);

impl Signals {
    /// Catches these from here on. SIGHUP stays ignored where it was, so that `nohup` does what it is for.
    pub(super) fn catch(which: &[Signal]) -> Result<Self, Failure> {
        let (send, receive) = mpsc::unbounded_channel();
        for signal_ in which.iter().copied() {
            if signal_ == Signal::HUP && is_ignored(signal_) {
                continue;
            }
            let mut stream = signal(SignalKind::from_raw(signal_.as_raw()))
                .map_err(|error| Failure::internal(format!("cannot wait for signals: {error}")))?;
            let send = send.clone();
            tokio::spawn(async move {
                while stream.recv().await.is_some() {
                    if send.send(signal_).is_err() {
                        return;
                    }
                }
            });
        }
        Ok(Self(receive))
    }

    /// The next one; `None` if none of them is caught.
    pub(super) async fn next(&mut self) -> Option<Signal> {
        self.0.recv().await
    }
}

/// Whether this process ignores the signal. Where the system does not tell, it is taken not to.
fn is_ignored(which: Signal) -> bool {
    fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| ignored_signals(&status))
        .is_some_and(|ignored| ignored >> (which.as_raw() - 1) & 1 == 1)
}

fn ignored_signals(status: &str) -> Option<u64> {
    let digits = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(digits.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_of_ignored_signals_is_read_as_the_kernel_writes_it() {
        let status = "Name:\tx\nSigBlk:\tffffffffffffffff\nSigIgn:\t0000000000001001\nSigCgt:\t0\n";
        assert_eq!(ignored_signals(status), Some(0x1001));
        assert_eq!(ignored_signals("Name:\tx\n"), None);
        assert_eq!(ignored_signals("SigIgn:\tx\n"), None);
    }
}
