//! The directory that all brokers of one user share.

use std::{
    fs,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{fs::CWD, io::Errno};

use super::{
    dir::{make_private_dir, names, open_dir, open_judged},
    error::{DirRole, SocketError},
    layout::{DirName, Life, control_socket, read_pid},
    lock::RuntimeLock,
    probe::{PATH_LIMIT, check_length},
};

/// The directory that all brokers of one user share: nobody else may enter it, so it is the wall around every socket
/// below. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RuntimeDir {
    path: Arc<Path>,
    dir: Arc<OwnedFd>,
}

/// A broker that is running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveBroker {
    /// Its directory.
    pub dir: PathBuf,
    /// Its process, if the directory tells.
    pub pid: Option<u32>,
    /// Where it answers the host.
    pub control_socket: PathBuf,
}

/// What is in the directory, at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// The brokers that run.
    pub live: Vec<LiveBroker>,
    /// The directories of brokers that do not run any more; the next start sweeps them.
    pub dead: Vec<PathBuf>,
}

impl RuntimeDir {
    /// Where the directory is: `$XDG_RUNTIME_DIR/credbroker`, else `cb-{uid}` in the real path of the temporary
    /// directory. A relative or empty `XDG_RUNTIME_DIR` counts as not set, as its specification asks.
    pub fn locate(xdg_runtime_dir: Option<&Path>, temp_dir: &Path, uid: u32) -> Result<PathBuf, SocketError> {
        if let Some(xdg) = xdg_runtime_dir.filter(|xdg| xdg.is_absolute()) {
            return Ok(xdg.join("credbroker"));
        }
        match fs::canonicalize(temp_dir) {
            Ok(real) => Ok(real.join(format!("cb-{uid}"))),
            Err(_not_there) => Err(SocketError::Missing {
                path: temp_dir.to_owned(),
                role: DirRole::Temporary,
            }),
        }
    }

    /// Opens the directory, and makes it if it is not there. One that others could enter, write to or put elsewhere is
    /// refused, never mended: what is in it already may be theirs.
    pub fn open(path: &Path) -> Result<Self, SocketError> {
        match make_private_dir(CWD, path) {
            // Also one just made is judged: its name may already mean something else.
            Ok(_) | Err(Errno::EXIST) => {}
            Err(Errno::NOENT) => {
                return Err(SocketError::Missing {
                    path: path.parent().unwrap_or(path).to_owned(),
                    role: DirRole::RuntimeParent,
                });
            }
            Err(errno) => return Err(SocketError::system("create directory", path)(errno)),
        }
        Ok(Self {
            path: path.into(),
            dir: Arc::new(open_judged(path, DirRole::Runtime)?),
        })
    }

    /// Opens the directory if it is there; for those who only look.
    pub fn open_existing(path: &Path) -> Result<Option<Self>, SocketError> {
        match open_judged(path, DirRole::Runtime) {
            Ok(dir) => Ok(Some(Self {
                path: path.into(),
                dir: Arc::new(dir),
            })),
            Err(SocketError::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many bytes the longest path of a socket below this directory leaves of what the system allows.
    ///
    /// # Errors
    /// [`SocketError::PathTooLong`].
    pub fn room(path: &Path) -> Result<usize, SocketError> {
        let longest = control_socket(&path.join(DirName::Random.make()));
        check_length(&longest, DirRole::Runtime)?;
        Ok(PATH_LIMIT.saturating_sub(longest.as_os_str().len()))
    }

    /// The brokers that run now, in order of their directories. Takes the directory's lock, because asking whether a
    /// broker's lock is held means taking it for an instant, and a broker that starts must not find it taken.
    pub fn list_live(&self) -> Result<Vec<LiveBroker>, SocketError> {
        self.survey().map(|survey| survey.live)
    }

    /// Who runs and what dead brokers left behind, by the same means. Changes nothing: what is dead stays for the next
    /// start to sweep.
    pub fn survey(&self) -> Result<Survey, SocketError> {
        let mut survey = Survey::default();
        let Some(_lock) = RuntimeLock::take_if_there(&self.dir, &self.path)? else {
            return Ok(survey);
        };
        let mut names = names(&self.dir).map_err(SocketError::system("list directory", &self.path))?;
        names.sort();
        for name in names.iter().filter(|name| DirName::is_one(name)) {
            let Ok(dir) = open_dir(&self.dir, name.as_os_str()) else {
                continue;
            };
            let path = self.path.join(name);
            match Life::of(&dir) {
                Ok(Life::Live) => survey.live.push(LiveBroker {
                    pid: read_pid(&dir),
                    control_socket: control_socket(&path),
                    dir: path,
                }),
                Ok(Life::Dead { .. }) => survey.dead.push(path),
                // It cannot be told.
                Err(_) => {}
            }
        }
        Ok(survey)
    }

    /// Waits for the right to create, probe, bind and sweep here.
    pub(super) fn lock(&self) -> Result<RuntimeLock, SocketError> {
        RuntimeLock::take(&self.dir, &self.path)
    }
}

impl AsFd for RuntimeDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}
