//! What is asked of the system about runtimes: where their programs are, and how they treat users.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use rustix::fs::{Access, access};
use tokio::{process::Command, time::timeout};

use super::places::place;
use crate::{
    cli::{before_exec, output},
    config::Environment,
    sandbox::{Daemon, IdMap, Place, Runtime, SandboxError},
};

/// How long a runtime may take to say something about itself.
const PATIENCE: Duration = Duration::from_secs(30);
/// Where programs are if nothing says so.
const USUAL_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// PATH without what a sandbox can write to: a program of a runtime's name that a sandbox left there would run on the host.
pub(in crate::cli) fn search_path(environment: &Environment, writable: &[Place]) -> OsString {
    let path = environment.get("PATH").unwrap_or(OsStr::new(USUAL_PATH));
    let kept = path.as_bytes().split(|byte| *byte == b':').filter(|directory| {
        let directory = Path::new(OsStr::from_bytes(directory));
        directory.is_absolute() && {
            let place = place(directory);
            !writable.iter().any(|writable| writable.holds(&place))
        }
    });
    OsString::from_vec(kept.collect::<Vec<_>>().join(&b':'))
}

/// What a program of the host's may find in its environment, though a sandbox can write to some places: PATH as above, and no
/// variable that leads there, such as LD_LIBRARY_PATH or PYTHONPATH.
pub(in crate::cli) fn trusted(environment: &Environment, writable: &[Place]) -> Environment {
    let leads_there = |value: &OsStr| {
        let names = |writable: &Place| {
            let path = writable.path().as_os_str().as_bytes();
            value.as_bytes().windows(path.len()).any(|part| part == path)
        };
        let is_there = |part: &[u8]| {
            let part = Path::new(OsStr::from_bytes(part));
            part.is_absolute() && {
                let place = place(part);
                writable.iter().any(|writable| writable.holds(&place))
            }
        };
        writable.iter().any(names) || value.as_bytes().split(|byte| *byte == b':').any(is_there)
    };
    let path = search_path(environment, writable);
    let kept = environment
        .all()
        .filter(|(name, value)| *name != "PATH" && !leads_there(value));
    kept.chain([(OsStr::new("PATH"), path.as_os_str())]).collect()
}

/// The first program of this name.
pub(in crate::cli) fn program(runtime: Runtime, path: &OsStr) -> Result<PathBuf, SandboxError> {
    path.as_bytes()
        .split(|byte| *byte == b':')
        .map(|directory| Path::new(OsStr::from_bytes(directory)).join(runtime.name()))
        .find(|program| program.is_file() && access(program, Access::EXEC_OK).is_ok())
        .ok_or(SandboxError::NoProgram { runtime })
}

/// A program of the host's that is asked something, with these variables and no others. It has no input, and ends when nobody
/// waits for it any more.
pub(super) fn question<'v>(
    program: &Path,
    arguments: impl IntoIterator<Item: AsRef<OsStr>>,
    variables: impl Iterator<Item = (&'v OsStr, &'v OsStr)>,
) -> Command {
    let mut command = std::process::Command::new(program);
    command.args(arguments).env_clear().envs(variables).stdin(Stdio::null());
    before_exec::restore_umask(&mut command);
    let mut command = Command::from(command);
    command.kill_on_drop(true);
    command
}

/// A runtime's program, ready to be asked.
pub(in crate::cli) struct Asked<'a> {
    pub(in crate::cli) runtime: Runtime,
    pub(in crate::cli) program: &'a Path,
    pub(in crate::cli) path: &'a OsStr,
    pub(in crate::cli) environment: &'a Environment,
    pub(in crate::cli) secrets: &'a [&'a str],
}

impl Asked<'_> {
    /// What rootless podman's uids stand for.
    pub(in crate::cli) async fn subordinates(&self) -> Result<Vec<IdMap>, SandboxError> {
        let mend = "see whether `podman unshare true` works; newuidmap comes with the package uidmap";
        let said = self.answer(&["unshare", "cat", "/proc/self/uid_map"], mend).await?;
        let maps: Option<Vec<IdMap>> = said
            .lines()
            .map(|line| {
                let numbers: Vec<&str> = line.split_whitespace().collect();
                numbers.join(":").parse().ok()
            })
            .collect();
        maps.filter(|maps| !maps.is_empty())
            .ok_or_else(|| self.silent("it did not tell its uids", mend))
    }

    /// Whose docker's daemon is.
    pub(in crate::cli) async fn daemon(&self) -> Result<Daemon, SandboxError> {
        let mend = "start its daemon (`systemctl start docker`), and let this user reach it (the group docker, or a rootless daemon)";
        let said = self
            .answer(&["info", "--format", "{{json .SecurityOptions}}"], mend)
            .await?;
        let options: Vec<String> = serde_json::from_str(said.trim())
            .map_err(|_no_list| self.silent("it did not tell how its daemon treats users", mend))?;
        Ok(Daemon::from_security_options(options.iter().map(String::as_str)))
    }

    /// What the runtime says if it is started like this.
    pub(in crate::cli) async fn answer(&self, arguments: &[&str], mend: &'static str) -> Result<String, SandboxError> {
        let mut command = question(
            self.program,
            arguments,
            self.environment.child_environment(self.secrets),
        );
        command.env("PATH", self.path);
        let output = match timeout(PATIENCE, command.output()).await {
            Ok(Ok(output)) => output,
            Ok(Err(error)) => return Err(self.silent(error.to_string(), mend)),
            Err(_elapsed) => return Err(self.silent("it did not answer in time", mend)),
        };
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let last = said.lines().rev().find(|line| !line.trim().is_empty());
        Err(self.silent(output::printable(last.unwrap_or("it failed without a word")), mend))
    }

    fn silent(&self, said: impl Into<String>, mend: &'static str) -> SandboxError {
        SandboxError::Silent {
            runtime: self.runtime,
            said: said.into(),
            mend,
        }
    }
}
