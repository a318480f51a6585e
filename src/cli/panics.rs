//! What a panic says: where it happened, and nothing that it was working on.
//!
//! A panic's message may quote a secret (`str`'s own ones quote the text that was cut wrongly), so only one that is a
//! literal of the program is printed. A backtrace has names of functions only; `RUST_BACKTRACE` asks for it.

use std::{
    any::Any,
    backtrace::{Backtrace, BacktraceStatus},
    panic, thread,
};

use crate::cli::output;

/// From now on, for every thread of this process.
pub(super) fn withhold_values() {
    panic::set_hook(Box::new(|about| {
        let thread = thread::current();
        let thread = thread.name().unwrap_or("without a name");
        let place = about.location().map_or_else(String::new, |at| format!(" at {at}"));
        let message = literal(about.payload()).unwrap_or("its message is withheld: it may quote a secret");
        output::note(&format!("bug: thread {thread} panicked{place}: {message}"));
        let trace = Backtrace::capture();
        if trace.status() == BacktraceStatus::Captured {
            trace.to_string().lines().for_each(output::note);
        }
    }));
}

/// The message, if it was there before the program ran. One that was put together is a `String`.
fn literal(payload: &(dyn Any + Send)) -> Option<&'static str> {
    payload.downcast_ref::<&'static str>().copied()
}
