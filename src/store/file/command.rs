//! Runs `identity_command` and `client_secret_command`: a shell command of the host's own configuration whose output is
//! a secret.
//!
//! The output is kept in wiped memory, goes nowhere but to the caller, and is in no message. Runs on a
//! blocking thread.

use std::{
    ffi::OsString,
    io::{self, Read},
    os::fd::AsFd,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::Duration,
};

use rustix::fs::OFlags;
use tokio::time::Instant;
use zeroize::Zeroizing;

/// The most that is taken of the output.
const MAX_OUTPUT: usize = 64 * 1024;
/// What a service manager hands to this process alone.
const OF_THE_SERVICE_MANAGER: [&str; 7] = [
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
];
const PAUSE: Duration = Duration::from_millis(10);
/// Not looked for in PATH: somebody else may write there.
const SHELL: &str = "/bin/sh";
/// Where a command is run. The working directory may be one that a sandbox writes to, and many programs read a
/// configuration of where they are.
const DIRECTORY: &str = "/";

/// A command line of the configuration, and the variables that it finds. It has no `Debug`: people put passwords into both.
#[derive(Clone, PartialEq, Eq)]
#[expect(missing_debug_implementations, reason = "both hold secrets")]
pub struct SecretCommand {
    line: String,
    variables: Option<Vec<(OsString, OsString)>>,
    left_out: Vec<OsString>,
}

impl<S: Into<String>> From<S> for SecretCommand {
    /// It finds the variables of this process.
    fn from(line: S) -> Self {
        Self {
            line: line.into(),
            variables: None,
            left_out: Vec::new(),
        }
    }
}

impl SecretCommand {
    /// It finds these variables and no others.
    #[must_use]
    pub fn with<N: Into<OsString>, V: Into<OsString>>(line: &str, variables: impl IntoIterator<Item = (N, V)>) -> Self {
        let variables = variables.into_iter().map(|(name, value)| (name.into(), value.into()));
        Self {
            line: line.to_owned(),
            variables: Some(variables.collect()),
            left_out: Vec::new(),
        }
    }

    /// The names of variables that it does not find, or not all of, though they are set: it may fail for want of them.
    #[must_use]
    pub(crate) fn without(mut self, names: &[OsString]) -> Self {
        self.left_out = names.to_vec();
        self
    }

    /// What somebody has to know who runs it by hand, where it works. Not in the answer: that goes to a sandbox.
    pub(crate) fn warn_of_left_out(&self, key: &str) {
        if !self.left_out.is_empty() {
            let names = &self.left_out;
            tracing::warn!(
                ?names,
                "{key} was run without these variables, or not with all of them: they lead to what the sandbox can write to, or are relative"
            );
        }
    }
}

/// The output of the command, if it ended well within `limit`; else what went wrong.
pub(crate) fn output(command: &SecretCommand, limit: Duration) -> Result<Zeroizing<Vec<u8>>, String> {
    let deadline = Instant::now() + limit;
    // No process group of its own: a password manager that asks on the terminal could not read from it.
    let mut shell = Command::new(SHELL);
    if let Some(variables) = &command.variables {
        shell
            .env_clear()
            .envs(variables.iter().map(|(name, value)| (name, value)));
    }
    for variable in OF_THE_SERVICE_MANAGER {
        shell.env_remove(variable);
    }
    let mut child = shell
        .args(["-c", &command.line])
        .current_dir(DIRECTORY)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|cause| format!("cannot be started: {cause}"))?;
    let finished = collect(&mut child, deadline);
    if finished.is_err() {
        // Both fail only if it has ended by itself.
        drop(child.kill());
        drop(child.wait());
    }
    let (output, status) = finished?;
    if status.success() {
        Ok(output)
    } else {
        Err(format!("failed ({status})"))
    }
}

/// Reads until the child has ended. The pipe is polled, so that a grandchild that keeps it open holds up nobody.
fn collect(child: &mut Child, deadline: Instant) -> Result<(Zeroizing<Vec<u8>>, ExitStatus), String> {
    let mut pipe = child.stdout.take().ok_or("has no output")?;
    do_not_block(&pipe).map_err(|cause| format!("cannot be read: {cause}"))?;
    // Allocated once: growing would leave parts of the secret behind.
    let mut output = Zeroizing::new(Vec::with_capacity(MAX_OUTPUT));
    loop {
        let status = child
            .try_wait()
            .map_err(|cause| format!("cannot be awaited: {cause}"))?;
        drain(&mut pipe, &mut output)?;
        if let Some(status) = status {
            return Ok((output, status));
        }
        if Instant::now() >= deadline {
            return Err("did not end in time".to_owned());
        }
        thread::sleep(PAUSE);
    }
}

fn do_not_block(pipe: &impl AsFd) -> rustix::io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(pipe)?;
    rustix::fs::fcntl_setfl(pipe, flags | OFlags::NONBLOCK)
}

/// Takes what is there now.
fn drain(pipe: &mut impl Read, output: &mut Zeroizing<Vec<u8>>) -> Result<(), String> {
    let mut part = Zeroizing::new([0_u8; 4096]);
    loop {
        match pipe.read(part.as_mut_slice()) {
            Ok(0) => return Ok(()),
            Ok(n) if output.len() + n > MAX_OUTPUT => return Err("printed too much".to_owned()),
            Ok(n) => output.extend_from_slice(part.get(..n).unwrap_or_default()),
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(cause) => return Err(format!("cannot be read: {cause}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(15);

    #[test]
    fn the_output_is_what_the_shell_command_printed() {
        assert_eq!(
            output(&"echo a; cat; echo b".into(), LONG).unwrap().as_slice(),
            b"a\nb\n"
        );
    }

    #[test]
    fn it_runs_where_nobody_else_writes_with_the_variables_it_is_given() {
        let command = SecretCommand::with("pwd; echo $A $HOME", [("A", "a"), ("NOTIFY_SOCKET", "/x")]);
        assert_eq!(output(&command, LONG).unwrap().as_slice(), b"/\na\n");
        // The shell itself is not looked for.
        let command = SecretCommand::with("echo $PATH", [("PATH", "/nowhere")]);
        assert_eq!(output(&command, LONG).unwrap().as_slice(), b"/nowhere\n");
    }

    #[test]
    fn a_command_that_hangs_is_ended_by_the_limit_also_if_its_children_hold_the_pipe() {
        assert_eq!(
            output(&"sleep 60".into(), Duration::from_millis(50)).unwrap_err(),
            "did not end in time"
        );
        let began = Instant::now();
        assert_eq!(output(&"sleep 20 & echo a".into(), LONG).unwrap().as_slice(), b"a\n");
        assert!(began.elapsed() < LONG);
    }

    #[test]
    fn a_failed_command_gives_no_output_away() {
        let said = output(&"echo AGE-SECRET-KEY-1; echo AGE-SECRET-KEY-1 >&2; exit 3".into(), LONG).unwrap_err();
        assert!(said.contains('3') && !said.contains("AGE"), "{said}");
    }

    #[test]
    fn endless_output_is_cut() {
        assert_eq!(output(&"cat /dev/zero".into(), LONG).unwrap_err(), "printed too much");
    }

    /// A pipe that says this, one after the other, and then that there is nothing now.
    struct Pipe(Vec<io::Result<usize>>);

    impl Read for Pipe {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.0.remove(0).inspect(|count| buf[..*count].fill(b'x'))
        }
    }

    #[test]
    fn what_is_there_is_taken_to_the_last_octet_and_not_one_more() {
        let error = |kind: io::ErrorKind| Err(io::Error::from(kind));
        let full = || std::iter::repeat_with(|| Ok(4096)).take(MAX_OUTPUT / 4096);
        let all = MAX_OUTPUT;
        let table = [
            (vec![], Ok(0)),
            (vec![Ok(3), error(io::ErrorKind::Interrupted), Ok(4)], Ok(7)),
            (
                vec![Ok(3), error(io::ErrorKind::BrokenPipe)],
                Err("cannot be read: broken pipe"),
            ),
            (full().collect(), Ok(all)),
            (full().chain([Ok(1)]).collect(), Err("printed too much")),
        ];
        for (row, (said, want)) in table.into_iter().enumerate() {
            let mut output = Zeroizing::default();
            let got = drain(&mut Pipe(said), &mut output).map(|()| output.len());
            assert_eq!(got, want.map_err(str::to_owned), "{row}");
        }
    }
}
