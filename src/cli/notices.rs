//! What the host says on `run`'s terminal about the logins that its sandbox begins.

use std::{
    fs::{File, OpenOptions},
    io::{self, IsTerminal as _, Write},
    os::unix::fs::OpenOptionsExt as _,
    sync::{
        Arc,
        mpsc::{SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use rustix::fs::OFlags;

use crate::{
    broker::login::{Notice, Notices, to_the_log},
    cli::output,
};

/// How many wait for a terminal that takes no more. A sandbox cannot have more logins open at once than that.
const WAITING: usize = 64;
/// How long the end waits for a terminal.
const PATIENCE: Duration = Duration::from_secs(1);

/// Prints notices in a thread of its own: a terminal may stand still for as long as its user likes.
pub(super) struct Printer(Option<Terminal>);

struct Terminal {
    thread: SyncSender<Said>,
    /// The log goes somewhere else, and is told as well.
    beside_the_log: bool,
}

enum Said {
    Text(String),
    /// Tells when everything before it is printed.
    Mark(SyncSender<()>),
}

impl Printer {
    /// Prints to the terminal that this program has. Without one there is nobody to warn and nobody to ask, and what a
    /// terminal may show is not for a file: then the log is told, without it.
    pub(super) fn start() -> Self {
        let beside_the_log = !io::stderr().is_terminal();
        let thread = terminal().and_then(printing_to);
        Self(thread.map(|thread| Terminal { thread, beside_the_log }))
    }

    /// What the broker tells.
    pub(super) fn notices(&self) -> Notices {
        let log = to_the_log();
        let Some(Terminal { thread, beside_the_log }) = &self.0 else {
            return log;
        };
        let (thread, beside_the_log) = (thread.clone(), *beside_the_log);
        Arc::new(move |notice: &Notice<'_>| {
            if beside_the_log {
                log(notice);
            }
            // The sandbox may have left the cursor in a line, as `login` does in the one with the time that is left.
            let text = output::wrapped(&format!("credbroker: {notice}"), columns());
            let text = format!("\r\u{1b}[K{text}\n");
            if thread.try_send(Said::Text(text)).is_err() {
                tracing::warn!("the terminal takes nothing more: a login of the sandbox was not shown on it");
            }
        })
    }

    /// Waits for what was said last.
    pub(super) fn finish(self) {
        let (send, done) = sync_channel(1);
        if let Some(terminal) = self.0
            && terminal.thread.try_send(Said::Mark(send)).is_ok()
        {
            // A terminal that stands still holds up nobody.
            let _ = done.recv_timeout(PATIENCE);
        }
    }
}

/// The thread's end of it. `None`: the system has none for this.
fn printing_to(mut terminal: Box<dyn Write + Send>) -> Option<SyncSender<Said>> {
    let (send, receive) = sync_channel(WAITING);
    let print = move || {
        for said in receive {
            match said {
                // It may be gone; then there is nobody to tell.
                Said::Text(text) => drop(terminal.write_all(text.as_bytes()).and_then(|()| terminal.flush())),
                Said::Mark(done) => drop(done.send(())),
            }
        }
    };
    thread::Builder::new().name("notices".into()).spawn(print).ok()?;
    Some(send)
}

/// Standard error, or where that goes to a file, the terminal that this process belongs to.
fn terminal() -> Option<Box<dyn Write + Send>> {
    if io::stderr().is_terminal() {
        return Some(Box::new(io::stderr()));
    }
    Some(Box::new(controlling_terminal()?))
}

fn controlling_terminal() -> Option<File> {
    let no_control = i32::try_from(OFlags::NOCTTY.bits()).unwrap_or_default();
    OpenOptions::new()
        .write(true)
        .custom_flags(no_control)
        .open("/dev/tty")
        .ok()
}

/// How wide that terminal is now.
fn columns() -> Option<u16> {
    output::columns(io::stderr()).or_else(|| output::columns(controlling_terminal()?))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::{broker::login::Shown, credential::EntryKey};

    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// One that never takes a byte.
    struct Still(std::sync::mpsc::Receiver<()>);

    impl Write for Still {
        fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
            self.0.recv().map(|()| 0).map_err(io::Error::other)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn printer(terminal: impl Write + Send + 'static) -> Printer {
        let thread = printing_to(Box::new(terminal)).unwrap();
        Printer(Some(Terminal {
            thread,
            beside_the_log: false,
        }))
    }

    fn say(notices: &Notices) {
        let key = EntryKey::parse("p", "").unwrap();
        let shown = Shown::Device {
            verification_url: "https://p.example/\u{1b}[2J".to_owned(),
            verification_url_complete: None,
            user_code: "WDJB".to_owned(),
            interval: Duration::from_secs(5),
        };
        notices(&Notice::Begun {
            principal: "run",
            key: &key,
            shown: &shown,
        });
    }

    #[test]
    fn the_terminal_is_told_who_asks_for_what_and_nothing_plays_with_it() {
        let text = Arc::default();
        let printer = printer(Shared(Arc::clone(&text)));
        let notices = printer.notices();
        say(&notices);
        printer.finish();
        let text = String::from_utf8(text.lock().unwrap().clone()).unwrap();
        let text = text.strip_prefix("\r\u{1b}[K").unwrap();
        assert!(
            text.starts_with("credbroker: sandbox run asks you to log in to p/default."),
            "{text}"
        );
        assert!(
            text.contains("WDJB") && text.contains("https://p.example/") && !text.contains('\u{1b}'),
            "{text}"
        );
    }

    #[test]
    fn a_terminal_that_stands_still_holds_up_nobody() {
        let (_hold, still) = std::sync::mpsc::channel();
        let printer = printer(Still(still));
        let notices = printer.notices();
        for _ in 0..3 * WAITING {
            say(&notices);
        }
        printer.finish();
    }
}
