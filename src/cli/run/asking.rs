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

use super::{here::without_here, places::place};
use crate::{
    cli::{before_exec, output},
    config::Environment,
    sandbox::{Daemon, IdMap, Place, Runtime, SandboxError},
};

/// How long a runtime may take to say something about itself.
const PATIENCE: Duration = Duration::from_secs(30);
/// Where programs are if nothing says so.
const USUAL_PATH: &str = "/usr/local/bin:/usr/bin:/bin";
/// Where a program is asked something: many read a configuration of where they are, which may be a sandbox's.
const DIRECTORY: &str = "/";
/// What every shell says of where it is. Nobody misses it.
const WHERE: [&str; 3] = ["OLDPWD", "PWD", "_"];

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

/// Whether a byte can be in the middle of a file's name, and does not end one in a list or an option.
fn in_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.+@~".contains(&byte) || !byte.is_ascii()
}

/// From the first slash on.
fn from_slash(word: &[u8]) -> Option<&[u8]> {
    word.get(word.iter().position(|byte| *byte == b'/')?..)
}

/// Whether a path that is found in a value is one there: not the beginning of another name (`/srv/user` for `/srv/u`), and not the
/// end of a longer path (`/mnt/srv/u`). An option may stand before it (`-I/srv/u`).
fn is_whole(value: &[u8], at: usize, length: usize) -> bool {
    let (before, after) = (value.get(..at), value.get(at + length..));
    let word = before.and_then(|before| before.rsplit(|byte| !in_name(*byte) && *byte != b'/').next());
    let longer = word
        .and_then(from_slash)
        .is_some_and(|path| path.iter().any(|byte| in_name(*byte)));
    !longer && !after.and_then(<[u8]>::first).is_some_and(|byte| in_name(*byte))
}

/// What a program of the host's may find in its environment, though a sandbox can write to some places: PATH as above, and no
/// variable that leads there, such as LD_LIBRARY_PATH or PYTHONPATH. What leads to where a program runs is left out, too.
pub(in crate::cli) fn trusted(environment: &Environment, writable: &[Place]) -> Environment {
    let leads_there = |value: &OsStr| {
        let names = |writable: &Place| {
            let (value, path) = (value.as_bytes(), writable.path().as_os_str().as_bytes());
            let mut all = value.windows(path.len()).enumerate();
            all.any(|(at, part)| part == path && is_whole(value, at, path.len()))
        };
        let is_there = |part: &[u8]| {
            let part = Path::new(OsStr::from_bytes(part));
            part.is_absolute() && {
                let place = place(part);
                writable.iter().any(|writable| writable.holds(&place))
            }
        };
        let value = value.as_bytes();
        let mut words = value.split(|byte| !in_name(*byte) && *byte != b'/');
        writable.iter().any(names)
            || value.split(|byte| *byte == b':').any(is_there)
            || words.any(|word| from_slash(word).is_some_and(is_there))
    };
    let path = search_path(environment, writable);
    let kept = environment
        .all()
        .filter(|(name, value)| *name != "PATH" && !leads_there(value))
        .filter_map(|(name, value)| Some((name.to_owned(), without_here(name, value)?)));
    let kept: Environment = kept.chain([("PATH".into(), path)]).collect();
    let less = environment.all().filter(|(name, value)| kept.differs(name, value));
    let names: Vec<&OsStr> = less.map(|(name, _)| name).collect();
    tracing::debug!(
        ?names,
        "variables that the host's own programs do not get, or not all of"
    );
    let missed = names
        .into_iter()
        .filter(|name| !WHERE.iter().any(|other| name == other));
    kept.leaving_out(missed.map(OsStr::to_owned).collect())
}

/// The first program of this name.
pub(in crate::cli) fn program(runtime: Runtime, path: &OsStr) -> Result<PathBuf, SandboxError> {
    path.as_bytes()
        .split(|byte| *byte == b':')
        .map(|directory| Path::new(OsStr::from_bytes(directory)).join(runtime.name()))
        .find(|program| program.is_file() && access(program, Access::EXEC_OK).is_ok())
        .ok_or(SandboxError::NoProgram { runtime })
}

/// A program of the host's that is asked something, with these variables and no others, where no sandbox can write. It has no
/// input, and ends when nobody waits for it any more.
pub(super) fn question<'v>(
    program: &Path,
    arguments: impl IntoIterator<Item: AsRef<OsStr>>,
    variables: impl Iterator<Item = (&'v OsStr, &'v OsStr)>,
) -> Command {
    let mut command = std::process::Command::new(program);
    command.args(arguments).env_clear().envs(variables);
    command.current_dir(DIRECTORY).stdin(Stdio::null());
    before_exec::restore_umask(&mut command);
    let mut command = Command::from(command);
    command.kill_on_drop(true);
    command
}

/// What stands in a `uid_map`; `None`: nothing, or something else.
fn id_maps(text: &str) -> Option<Vec<IdMap>> {
    let maps: Option<Vec<IdMap>> = text
        .lines()
        .map(|line| {
            let numbers: Vec<&str> = line.split_whitespace().collect();
            numbers.join(":").parse().ok()
        })
        .collect();
    maps.filter(|maps| !maps.is_empty())
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
        id_maps(&said).ok_or_else(|| self.silent("it did not tell its uids", mend))
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

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    /// A program in a directory of its own; without a script it is a directory.
    fn make(directory: &Path, name: &str, mode: u32, script: Option<&str>) -> PathBuf {
        let path = directory.join(name);
        fs::create_dir_all(directory).unwrap();
        match script {
            Some(script) => fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap(),
            None => fs::create_dir(&path).unwrap(),
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    /// What this script makes of the question.
    async fn answer(script: &str) -> Result<Vec<IdMap>, String> {
        let directory = tempfile::tempdir().unwrap();
        let program = make(directory.path(), "podman", 0o644, Some(script));
        // By way of a shell: a file that another thread's child still holds open cannot be executed.
        let wrapper = directory.path().join("wrapper");
        std::os::unix::fs::symlink("/bin/sh", &wrapper).unwrap();
        let environment = [("ENV_OF", "the test")].into_iter().collect();
        let asked = Asked {
            runtime: Runtime::Podman,
            program: &wrapper,
            path: OsStr::new(USUAL_PATH),
            environment: &environment,
            secrets: &[],
        };
        let said = asked.answer(&[program.to_str().unwrap()], "mend it").await;
        said.map_err(|error| error.to_string())
            .and_then(|said| id_maps(&said).ok_or_else(|| "no maps".to_owned()))
    }

    #[tokio::test]
    async fn a_runtime_tells_its_uids_or_why_not() {
        let map = |inside, outside, size| IdMap { inside, outside, size };
        assert_eq!(
            answer("echo '  0   1000     1'; echo '  1 100000 65536'").await,
            Ok(vec![map(0, 1000, 1), map(1, 100_000, 65_536)])
        );
        // What lies where this was started is not what it reads.
        assert_eq!(
            answer(r#"test "$(pwd -P)" = / && echo 0 0 1"#).await,
            Ok(vec![map(0, 0, 1)])
        );
        for script in ["true", "echo 0 1000", "echo 0 1000 1; echo x"] {
            assert_eq!(answer(script).await, Err("no maps".to_owned()), "{script}");
        }
        let failed = answer("echo first >&2; echo 'it is broken' >&2; echo >&2; exit 3")
            .await
            .unwrap_err();
        assert!(
            failed.contains("it is broken") && failed.contains("mend it"),
            "{failed}"
        );
        let silent = answer("exit 3").await.unwrap_err();
        assert!(silent.contains("it failed without a word"), "{silent}");
    }

    /// `env` runs what podman is asked to run, and `echo` answers with something else.
    #[tokio::test]
    async fn the_uids_are_those_that_the_runtime_sees() {
        let environment = Environment::default();
        let ask = async |program: &str| {
            let asked = Asked {
                runtime: Runtime::Podman,
                program: Path::new(program),
                path: OsStr::new(USUAL_PATH),
                environment: &environment,
                secrets: &[],
            };
            asked.subordinates().await.map_err(|error| error.to_string())
        };
        let here = fs::read_to_string("/proc/self/uid_map").unwrap();
        assert_eq!(ask("/usr/bin/env").await.ok(), id_maps(&here));
        let error = ask("/bin/echo").await.unwrap_err();
        assert!(error.contains("it did not tell its uids"), "{error}");
    }

    #[test]
    fn a_program_is_the_first_file_of_its_name_that_can_be_executed() {
        let directory = tempfile::tempdir().unwrap();
        let [none, directories, text, real, later] =
            ["none", "directories", "text", "real", "later"].map(|name| directory.path().join(name));
        fs::create_dir(&none).unwrap();
        make(&directories, "bwrap", 0o755, None);
        make(&text, "bwrap", 0o644, Some("exit 0"));
        let want = make(&real, "bwrap", 0o755, Some("exit 0"));
        make(&later, "bwrap", 0o755, Some("exit 0"));
        let path = std::env::join_paths([&none, &directories, &text, &real, &later]).unwrap();
        assert_eq!(program(Runtime::Bwrap, &path).ok(), Some(want));
        let path = std::env::join_paths([&none, &directories, &text]).unwrap();
        assert!(matches!(
            program(Runtime::Bwrap, &path),
            Err(SandboxError::NoProgram {
                runtime: Runtime::Bwrap
            })
        ));
    }

    #[test]
    fn no_variable_leads_to_where_a_sandbox_can_write_and_the_others_stay() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().canonicalize().unwrap();
        let writable = directory.join("project");
        fs::create_dir(&writable).unwrap();
        let link = directory.join("link");
        std::os::unix::fs::symlink(&writable, &link).unwrap();
        let inside = writable.display().to_string();
        let variables = [
            ("PATH", format!("/usr/bin:{inside}/bin:relative:/bin")),
            ("SAME", inside.clone()),
            ("OPTION", format!("-L{inside}/lib")),
            ("AMONG_OTHERS", format!("/usr/lib:{}/lib", link.display())),
            ("BY_A_LINK", link.display().to_string()),
            ("ABOVE", directory.display().to_string()),
            ("ELSEWHERE", "/usr/lib:/lib".to_owned()),
            ("RELATIVE", "lib:.".to_owned()),
            ("EMPTY", String::new()),
            ("LONG", "x".repeat(500)),
        ];
        let at = [("PWD", inside.clone()), ("OLDPWD", inside.clone())];
        let trusted = trusted(&variables.into_iter().chain(at).collect(), &[place(&writable)]);
        let kept: Vec<&str> = trusted.all().map(|(name, _)| name.to_str().unwrap()).collect();
        assert_eq!(kept, ["ABOVE", "ELSEWHERE", "EMPTY", "LONG", "PATH", "RELATIVE"]);
        assert_eq!(trusted.get("PATH"), Some(OsStr::new("/usr/bin:/bin")));
        assert_eq!(
            trusted.left_out(),
            ["AMONG_OTHERS", "BY_A_LINK", "OPTION", "PATH", "SAME"].map(OsString::from)
        );
    }

    /// What is kept of this variable where a sandbox can write to this place.
    fn kept(writable: &str, name: &str, value: &str) -> Option<String> {
        let environment: Environment = [(name, value)].into_iter().collect();
        let writable = Place::new(writable.into(), None, Vec::new());
        let kept = trusted(&environment, &[writable]);
        kept.get(name).map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn a_value_leads_to_a_place_by_its_whole_path() {
        for (value, leads) in [
            ("/n/u", true),
            ("/n/u/", true),
            ("/n/u/id", true),
            ("/x:/n/u", true),
            ("/n/u:/x", true),
            ("--require=/n/u/x.js", true),
            ("--require /n/u/x.js --y", true),
            ("-I/n/u", true),
            ("-I/n/u -Mx", true),
            ("'/n/u'", true),
            ("\"/n/u\"", true),
            ("cat </n/u;ls", true),
            ("file:///n/u", true),
            ("//n/u", true),
            ("--x=/usr/../n/u", true),
            ("=/m/x,/n/u", true),
            ("/n/user:/n/u", true),
            ("/n/user", false),
            ("/n/user:/x", false),
            ("/n/u-2/id", false),
            ("/n/u.old", false),
            ("/n/u\u{e4}", false),
            ("/m/n/u", false),
            ("--x=/m/n/u/id", false),
            ("--x /m/n/u", false),
            ("/n", false),
            ("", false),
        ] {
            assert_eq!(kept("/n/u", "V", value).is_none(), leads, "{value}");
        }
        // Behind a link, in an option.
        let directory = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/", directory.path().join("link")).unwrap();
        let option = format!("--x={}/link/n/u/id", directory.path().display());
        assert_eq!(kept("/n/u", "V", &option), None);
        // The place's own name may have what else ends one.
        assert_eq!(kept("/n/a b:c", "V", "--x=/n/a b:c/d"), None);
        assert!(kept("/n/a b:c", "V", "--x=/n/a b:cd").is_some());
    }

    #[test]
    fn code_is_not_taken_from_where_a_program_runs() {
        for (name, value, want) in [
            ("LD_LIBRARY_PATH", "/opt/cuda/lib64", Some("/opt/cuda/lib64")),
            ("LD_LIBRARY_PATH", "/opt/cuda/lib64:", Some("/opt/cuda/lib64")),
            ("LD_LIBRARY_PATH", ":/opt/a::/opt/b", Some("/opt/a:/opt/b")),
            ("LD_LIBRARY_PATH", "/opt/a;;/opt/b", Some("/opt/a:/opt/b")),
            ("LD_LIBRARY_PATH", "", None),
            ("LD_LIBRARY_PATH", "lib", None),
            ("LD_LIBRARY_PATH", "$ORIGIN/lib", None),
            ("LD_PRELOAD", "/opt/a.so ./b.so", Some("/opt/a.so")),
            ("LD_AUDIT", "a.so", None),
            ("GCONV_PATH", ".", None),
            ("PYTHONPATH", ".:/opt/my python", Some("/opt/my python")),
            ("PERL5LIB", "/opt/perl:lib", Some("/opt/perl")),
            ("NODE_PATH", "node_modules", None),
            ("XDG_DATA_DIRS", "share:/usr/share:", Some("/usr/share")),
            ("CDPATH", ".", None),
            ("CONTAINERS_CONF", "c.conf", None),
            ("CONTAINERS_CONF", "/dev/null", Some("/dev/null")),
            ("DOCKER_CONFIG", ".docker", None),
            ("DOCKER_CONFIG", "/opt/a:b", Some("/opt/a:b")),
            ("REGISTRY_AUTH_FILE", "./auth.json", None),
            ("XDG_CONFIG_HOME", "x", None),
            ("XDG_RUNTIME_DIR", "/run/user/1", Some("/run/user/1")),
            ("HOME", "~", None),
            ("TMPDIR", "", None),
            ("BASH_ENV", "$PWD/x", None),
            ("ENV", "/opt/env", Some("/opt/env")),
            ("SHELL", "/bin/sh", Some("/bin/sh")),
            ("SHELL", "bin/sh", None),
            ("SSH_ASKPASS", "ksshaskpass", Some("ksshaskpass")),
            ("SSH_ASKPASS", "./askpass", None),
            ("STORAGE_OPTS", "overlay.mount_program=./x", None),
            ("STORAGE_OPTS", "mount_program=/usr/bin/x,vfs.mount_program = y", None),
            (
                "STORAGE_OPTS",
                "overlay.mount_program=/usr/bin/x,ignore_chown_errors=true",
                Some("overlay.mount_program=/usr/bin/x,ignore_chown_errors=true"),
            ),
            // No places.
            ("LANG", "C.UTF-8", Some("C.UTF-8")),
            ("XDG_SESSION_TYPE", "tty", Some("tty")),
            ("EMPTY", "", Some("")),
        ] {
            assert_eq!(kept("/nowhere/project", name, value).as_deref(), want, "{name}={value}");
        }
    }
}
