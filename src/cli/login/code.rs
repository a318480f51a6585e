//! Reading a code that nobody shall see.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use rustix::{
    process::{Signal, getpid, kill_process},
    termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr},
};
use secrecy::SecretString;
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use crate::cli::signals::Signals;

/// The longest line that is taken: more than any code or redirect URL.
const LONGEST: usize = 16 * 1024;
/// What some terminals put around what is pasted.
const PASTED: (&str, &str) = ("\u{1b}[200~", "\u{1b}[201~");

/// One line from standard input. `None`: it ended before there was one, or it is no text.
pub(super) struct Line {
    read: oneshot::Receiver<Option<SecretString>>,
    /// Gives the terminal back as it was, whichever way this ends.
    _silence: Option<Silence>,
}

impl Line {
    /// Begins to read. At a terminal nothing is shown, and lines may be longer than a terminal's own.
    pub(super) fn begin() -> io::Result<Self> {
        let silence = Silence::of_standard_input()?;
        let (send, read) = oneshot::channel();
        // A thread that is left behind in its read ends with the process; a task of the runtime would keep it alive.
        thread::Builder::new().name("code".into()).spawn(move || {
            // Nobody may be waiting any more.
            drop(send.send(read_line(&mut Bytes)));
        })?;
        Ok(Self {
            read,
            _silence: silence,
        })
    }

    /// The line. May be dropped and called again.
    pub(super) async fn read(&mut self) -> Option<SecretString> {
        (&mut self.read).await.ok().flatten()
    }
}

/// Standard input, byte by byte and without a buffer, so that nothing is taken that comes after the line.
struct Bytes;

impl Iterator for Bytes {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        let mut byte = [0];
        loop {
            match rustix::io::read(io::stdin(), &mut byte) {
                Ok(1) => return Some(byte[0]),
                Err(rustix::io::Errno::INTR) => {}
                Ok(_) | Err(_) => return None,
            }
        }
    }
}

/// The first line that is not empty, edited as a terminal would.
fn read_line(bytes: &mut impl Iterator<Item = u8>) -> Option<SecretString> {
    // In one allocation, so that growing leaves no copy behind.
    let mut line = Zeroizing::new(Vec::with_capacity(LONGEST));
    loop {
        match bytes.next() {
            Some(b'\n' | b'\r') => {
                if let Some(text) = text(&line) {
                    return Some(text);
                }
                line.clear();
            }
            // Ctrl-D
            None | Some(0x04) => return text(&line),
            // Backspace, and Ctrl-U
            Some(0x08 | 0x7f) => drop(line.pop()),
            Some(0x15) => line.clear(),
            Some(_) if line.len() == LONGEST => return None,
            Some(byte) => line.push(byte),
        }
    }
}

/// `None`: there is nothing in the line, or no text.
fn text(line: &[u8]) -> Option<SecretString> {
    let text = std::str::from_utf8(line).ok()?.trim();
    let text = text.strip_prefix(PASTED.0).unwrap_or(text);
    let text = text.strip_suffix(PASTED.1).unwrap_or(text).trim();
    (!text.is_empty()).then(|| SecretString::from(text))
}

/// A terminal that shows nothing of what is typed. The modes it had, until they are given back.
struct Silence(Arc<Mutex<Option<Termios>>>);

impl Silence {
    /// `None`: standard input is no terminal.
    fn of_standard_input() -> io::Result<Option<Self>> {
        if !io::IsTerminal::is_terminal(&io::stdin()) {
            return Ok(None);
        }
        let before = tcgetattr(io::stdin())?;
        silence(&before)?;
        let modes = Arc::new(Mutex::new(Some(before)));
        // Where stopping cannot be caught, it still stops.
        if let Ok(stops) = Signals::catch(&[Signal::TSTP]) {
            tokio::spawn(stop_and_go(stops, Arc::clone(&modes)));
        }
        Ok(Some(Self(modes)))
    }
}

/// Echo off, and no lines: whole ones are at most 4096 bytes long, and what is over is thrown away.
fn silence(before: &Termios) -> io::Result<()> {
    let mut silent = before.clone();
    silent
        .local_modes
        .remove(LocalModes::ECHO | LocalModes::ECHONL | LocalModes::ICANON);
    silent.special_codes[SpecialCodeIndex::VMIN] = 1;
    silent.special_codes[SpecialCodeIndex::VTIME] = 0;
    // What was typed ahead stays.
    tcsetattr(io::stdin(), OptionalActions::Now, &silent)?;
    Ok(())
}

/// Ctrl-Z: the shell gets the terminal as it was, and it is silent again afterwards. Goes on after the code was read,
/// because a signal that was caught once does nothing by itself any more.
async fn stop_and_go(mut stops: Signals, modes: Arc<Mutex<Option<Termios>>>) {
    while stops.next().await.is_some() {
        // Held while the process stands still, so that nothing is given back twice.
        let before = lock(&modes);
        if let Some(before) = &*before {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
        let _ = kill_process(getpid(), Signal::STOP);
        if let Some(before) = &*before {
            let _ = silence(before);
        }
    }
}

fn lock(modes: &Mutex<Option<Termios>>) -> MutexGuard<'_, Option<Termios>> {
    modes.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Silence {
    fn drop(&mut self) {
        if let Some(before) = lock(&self.0).take() {
            // What is left of a paste is not for the shell. If it fails, the terminal is gone.
            let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &before);
        }
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    #[test]
    fn a_line_is_edited_trimmed_and_may_be_long() {
        let read = |input: &str| read_line(&mut input.bytes()).map(|text| text.expose_secret().to_owned());
        let long = "x".repeat(8000);
        for (input, want) in [
            ("code\nrest", Some("code")),
            ("  code#state \r\n", Some("code#state")),
            ("\n\n code", Some("code")),
            ("codf\u{7f}e\n", Some("code")),
            ("\u{7f}\u{7f}code\n", Some("code")),
            ("wrong\u{15}code\n", Some("code")),
            ("\u{1b}[200~code\u{1b}[201~\n", Some("code")),
            ("code\u{4}more\n", Some("code")),
            (&format!("{long}\n"), Some(long.as_str())),
            ("", None),
            ("\n \n", None),
            ("\u{4}", None),
            (&"x".repeat(LONGEST + 1), None),
        ] {
            assert_eq!(read(input).as_deref(), want, "{} bytes", input.len());
        }
        assert!(read_line(&mut [0xff, b'\n'].into_iter()).is_none());
    }
}
