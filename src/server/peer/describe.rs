//! What is known of a process that connected: its executable and its name spaces, and whether it is of the sandbox.
//!
//! A broker under Landlock sees nothing of other processes. It looks on a thread that it started before.

use std::{
    os::fd::OwnedFd,
    sync::{Arc, mpsc},
    thread,
};

use tokio::sync::oneshot;

use super::{
    process::Process,
    sandbox::{Root, Verdict},
};
use crate::broker::audit::{PeerFacts, is_format_character};

/// The longest name of an executable that is shown, in characters; the sandbox chooses it.
const MAX_EXECUTABLE: usize = 256;

/// A process that connected, held since then.
#[derive(Debug)]
pub struct Pinned {
    pub(super) pid: i32,
    pub(super) pidfd: OwnedFd,
}

/// What is known of it.
#[derive(Debug, Default)]
pub(in crate::server) struct Described {
    /// `None`: it is gone, or the system does not tell.
    pub(in crate::server) facts: Option<Arc<PeerFacts>>,
    /// `None`: nobody asked.
    pub(in crate::server) verdict: Option<Verdict>,
}

struct Question {
    who: Pinned,
    sandbox: Option<Arc<Root>>,
    answer: oneshot::Sender<Described>,
}

/// Tells about peers. Clones ask the same thread, where there is one; it ends with the last of them.
#[derive(Debug, Clone, Default)]
pub struct Describer(Option<mpsc::Sender<Question>>);

impl Describer {
    /// Looks where it is asked: some ten microseconds, once for each connection.
    #[must_use]
    pub fn here() -> Self {
        Self::default()
    }

    /// Looks on a thread that is started now, and that is not bound by what this one takes from itself later.
    #[must_use]
    pub fn on_a_thread() -> Self {
        let (asks, questions) = mpsc::channel::<Question>();
        let answering = move || {
            for Question { who, sandbox, answer } in questions {
                // Nobody waits any more whose connection has ended: in a rush these are let go at once.
                if !answer.is_closed() {
                    let _ = answer.send(describe(&who, sandbox.as_deref()));
                }
            }
        };
        match thread::Builder::new().name("peers".into()).spawn(answering) {
            Ok(_runs) => Self(Some(asks)),
            Err(error) => {
                tracing::warn!(%error, "less is told about peers: there is no thread for it");
                Self::here()
            }
        }
    }

    /// What is known of this process, and whether it is of this sandbox.
    pub(in crate::server) async fn describe(&self, who: Pinned, sandbox: Option<Arc<Root>>) -> Described {
        let Some(asks) = &self.0 else {
            return describe(&who, sandbox.as_deref());
        };
        let (answer, answered) = oneshot::channel();
        match asks.send(Question { who, sandbox, answer }) {
            Ok(()) => answered.await.unwrap_or_default(),
            Err(_gone) => Described::default(),
        }
    }
}

fn describe(who: &Pinned, sandbox: Option<&Root>) -> Described {
    let process = Process::pinned(who.pid, &who.pidfd);
    Described {
        verdict: sandbox.map(|root| root.judge(process.as_ref())),
        facts: process
            .ok()
            .map(|process| Arc::new(facts(&process)))
            .filter(|facts| **facts != PeerFacts::default()),
    }
}

/// What the system lets this process see; a process of another user shows nothing.
fn facts(process: &Process) -> PeerFacts {
    let namespace = |name: &str| number(&process.link(name)?);
    PeerFacts {
        exe: process.link("exe").map(|path| executable(&path)),
        pid_ns: namespace("ns/pid"),
        user_ns: namespace("ns/user"),
        mnt_ns: namespace("ns/mnt"),
    }
}

/// `pid:[4026531836]`.
fn number(link: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(link).ok()?;
    text.split_once(":[")?.1.strip_suffix(']')?.parse().ok()
}

fn executable(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path);
    let escaped: String = text
        .chars()
        .flat_map(|c| {
            let plain = !c.is_control() && !is_format_character(c) && c != '\u{fffd}';
            (plain.then_some(c).into_iter()).chain((!plain).then(|| c.escape_default()).into_iter().flatten())
        })
        .take(MAX_EXECUTABLE + 1)
        .collect();
    match escaped.char_indices().nth(MAX_EXECUTABLE) {
        Some((end, _)) => format!("{}...", escaped.get(..end).unwrap_or_default()),
        None => escaped,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_a_sandbox_chose_are_escaped_and_cut() {
        assert_eq!(executable(b"/usr/bin/python3"), "/usr/bin/python3");
        assert_eq!(
            executable(b"/a\n{\"x\":1}\x1b[2J\xff"),
            "/a\\n{\"x\":1}\\u{1b}[2J\\u{fffd}"
        );
        for (c, escaped) in [
            ('\u{202e}', "\\u{202e}"),
            ('\u{2066}', "\\u{2066}"),
            ('\u{200b}', "\\u{200b}"),
            ('\u{61c}', "\\u{61c}"),
            ('\u{feff}', "\\u{feff}"),
            ('\u{ad}', "\\u{ad}"),
            ('\u{e0041}', "\\u{e0041}"),
            ('\u{e9}', "\u{e9}"),
        ] {
            assert_eq!(
                executable(format!("/a{c}hs.exe").as_bytes()),
                format!("/a{escaped}hs.exe")
            );
        }
        let long = executable(&[b'x'; 4096]);
        assert_eq!((long.len(), long.ends_with("x...")), (MAX_EXECUTABLE + 3, true));
    }

    #[test]
    fn only_links_to_name_spaces_have_numbers() {
        assert_eq!(number(b"pid:[4026531836]"), Some(4_026_531_836));
        for other in [&b"/bin/sh"[..], b"pid:[x]", b"pid:[1", b"\xff:[1]", b""] {
            assert_eq!(number(other), None);
        }
    }
}
