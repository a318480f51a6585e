//! What a sandbox has to know of this host, found out.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    io::{self, IsTerminal as _},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use rustix::fs::{FileType, fstat};

use super::{
    BROKER_FAILED,
    asking::{self, Asked},
    authorities, links,
    places::{homes, own, passes_a_link, place, private, source, whole, without_dots},
    system_calls,
};
use crate::{
    cli::{args::RunArgs, failure::Failure, output},
    config::{Config, Environment},
    sandbox::{
        About, BwrapHost, Daemon, Directories, DockerHost, Host, Own, Place, PodmanHost, Request, Runtime,
        SYSTEM_PATHS, Sandbox, SandboxError, Source, SystemPath, asks_for_subordinates,
    },
};

/// Where tini is, linked so that it runs in any image. docker brings it under a name of its own.
const INITS: [&str; 3] = [
    "/usr/bin/tini-static",
    "/usr/libexec/docker/docker-init",
    "/usr/bin/docker-init",
];
/// There is only where the kernel has SELinux on.
const SELINUX: &str = "/sys/fs/selinux/enforce";
const RESOLVER: &str = "/etc/resolv.conf";

/// A sandbox, and what the host's own programs find in their environment beside it.
pub(super) struct Confined {
    pub(super) sandbox: Sandbox,
    /// For the commands of the configuration.
    pub(super) hosts: Environment,
    /// For the runtime's program.
    pub(super) runtimes: Environment,
}

/// The sandbox that was asked for, judged by what this host is like.
pub(super) async fn sandbox(
    runtime: Runtime,
    config: &Config,
    explicit: Option<&Path>,
    environment: &Environment,
    arguments: &RunArgs,
) -> Result<Confined, Failure> {
    let request = request(runtime, arguments)?;
    let directories = directories(config, explicit, environment)?;
    // Before anything is asked of a runtime: what must not be mounted is wrong wherever it is.
    request.check(&directories)?;
    if runtime == Runtime::Bwrap {
        no_directory()?;
    }
    // All of them, whatever this sandbox may read: other brokers of this user renew at them, too.
    let providers = config.providers.iter();
    request.check_network(providers.filter_map(|(name, provider)| Some((name.as_str(), provider.without_tls()?))))?;
    if let Some(way) = request.ways(&directories)?.iter().find(|way| passes_a_link(way)) {
        return Err(way.has_a_link().into());
    }
    let writable = writable(&request, &directories);
    // Without a provider nobody is asked for whom they could vouch.
    if !config.providers.is_empty() {
        authorities::check(environment, &writable)?;
    }
    links::check(environment, &request, &directories, &writable).map_err(|error| unknown_directory(&error))??;
    let hosts = asking::trusted(environment, &writable);
    let runtimes = match runtime {
        // It goes by none of those that it passes on, which are as they are.
        Runtime::Bwrap => {
            let inside = environment.all().filter(|(name, _)| *name != "PATH");
            hosts.all().chain(inside).collect()
        }
        Runtime::Podman | Runtime::Docker => {
            let leads_there = |name: &&String| {
                environment
                    .get(name)
                    .is_some_and(|value| hosts.differs(OsStr::new(name), value))
            };
            if let Some(name) = request.variables.iter().find(leads_there) {
                let name = name.clone();
                return Err(SandboxError::LeadsThere { name, runtime }.into());
            }
            hosts.clone()
        }
    };
    let host = host(
        config,
        environment,
        &hosts,
        &request,
        directories,
        arguments.sandbox.dry_run,
    )
    .await?;
    let system = match &host.about {
        About::Bwrap(about) => Some(about.system.as_slice()),
        About::Podman(_) | About::Docker(_) => None,
    };
    if let Some(path) = nowhere(&request, system) {
        return Err(SandboxError::missing_where_nothing_is_made(path.to_owned()).into());
    }
    Ok(Confined {
        sandbox: Sandbox::new(request, host)?,
        hosts,
        runtimes,
    })
}

/// A directory that is open leads to what is beside it, whatever is mounted. Containers do not get at the streams' files.
fn no_directory() -> Result<(), SandboxError> {
    let (input, output, error) = (io::stdin(), io::stdout(), io::stderr());
    for (stream, its) in [
        ("standard input", input.as_fd()),
        ("standard output", output.as_fd()),
        ("standard error", error.as_fd()),
    ] {
        let is_directory = fstat(its).is_ok_and(|about| FileType::from_raw_mode(about.st_mode).is_dir());
        if is_directory {
            return Err(SandboxError::DirectoryStream { stream });
        }
    }
    Ok(())
}

/// Where the sandbox can leave something.
fn writable(request: &Request, directories: &Directories) -> Vec<Place> {
    let mounts = request.mounts.iter().filter(|(mount, _)| !mount.read_only);
    let mut writable: Vec<_> = mounts.map(|(_, source)| source.place.clone()).collect();
    if request.runtime == Runtime::Bwrap {
        writable.push(directories.working.clone());
    }
    writable
}

fn request(runtime: Runtime, arguments: &RunArgs) -> Result<Request, Failure> {
    let asked = &arguments.sandbox;
    let mut mounts = Vec::new();
    for mount in &asked.mount {
        let source = source(&mount.source).map_err(|error| unknown_directory(&error))?;
        mounts.push((mount.clone(), source));
    }
    Ok(Request {
        runtime,
        image: asked.image.clone(),
        mounts,
        user: asked.user,
        uidmap: asked.uidmap.clone(),
        userns: asked.userns,
        variables: asked.env.clone(),
        arguments: asked.runtime_arg.clone(),
        command: arguments.command.clone(),
    })
}

fn unknown_directory(error: &io::Error) -> Failure {
    Failure::internal(format!(
        "the working directory cannot be found out: {error}; change to one that is there"
    ))
    .with_code(BROKER_FAILED)
}

fn directories(config: &Config, explicit: Option<&Path>, environment: &Environment) -> Result<Directories, Failure> {
    let homes = homes(environment, rustix::process::geteuid().as_raw());
    Ok(Directories {
        working: whole(&fs::canonicalize(".").map_err(|error| unknown_directory(&error))?),
        home_path: environment.home().map(without_dots),
        own: own(config, explicit, environment, &homes),
        homes,
        executable: place(&executable()?),
    })
}

async fn host(
    config: &Config,
    environment: &Environment,
    hosts: &Environment,
    request: &Request,
    directories: Directories,
    dry_run: bool,
) -> Result<Host, Failure> {
    let runtime = request.runtime;
    let uid = rustix::process::geteuid().as_raw();
    let path = hosts.get("PATH").unwrap_or_default().to_owned();
    let program = asking::program(runtime, &path)?;

    let secrets = config.secret_variables();
    let asked = Asked {
        runtime,
        program: &program,
        path: &path,
        environment: hosts,
        secrets: &secrets,
    };
    let selinux = Path::new(SELINUX).exists();
    let about = match runtime {
        Runtime::Bwrap => About::Bwrap(bwrap(environment, &directories.own)?),
        Runtime::Podman => About::Podman(PodmanHost {
            subordinates: if asks_for_subordinates(request, uid) {
                Some(asked.subordinates().await?)
            } else {
                None
            },
            init: podmans_init(),
            selinux,
        }),
        Runtime::Docker => About::Docker(DockerHost {
            daemon: match asked.daemon().await {
                Ok(daemon) => daemon,
                Err(error) if dry_run => {
                    output::warning(&format!("{error}; shown is what a daemon of root's would be told"));
                    Daemon::Plain
                }
                Err(error) => return Err(error.into()),
            },
            selinux,
        }),
    };
    Ok(Host {
        program,
        path,
        uid,
        gid: rustix::process::getegid().as_raw(),
        terminal: io::stdin().is_terminal()
            // What is only shown may go to a pager.
            && (io::stdout().is_terminal() || dry_run && io::stderr().is_terminal()),
        variables: names(environment, &secrets),
        directories,
        about,
    })
}

/// What podman can put before the command, to pass signals on to it.
pub(in crate::cli) fn podmans_init() -> Option<PathBuf> {
    INITS.iter().map(PathBuf::from).find(|init| init.exists())
}

/// The names of the variables that a command may get.
fn names(environment: &Environment, secrets: &[&str]) -> BTreeSet<String> {
    environment
        .child_environment(secrets)
        .filter_map(|(name, _)| name.to_str().map(str::to_owned))
        .collect()
}

fn bwrap(environment: &Environment, own: &[Own]) -> Result<BwrapHost, Failure> {
    let own = own.iter().map(|own| own.place.path().to_owned());
    // The configuration of the system is shown as far as it is everybody's: root runs commands, too.
    let hidden: Vec<PathBuf> = own
        .filter(|own| own.exists())
        .chain(private(Path::new("/etc")))
        .collect();
    let system = SYSTEM_PATHS.iter().filter_map(|path| system(Path::new(path), &hidden));
    let filters = system_calls::filter().is_some();
    if !filters {
        output::warning(
            "there is no filter of system calls for this kind of machine: the command reaches this user's kernel keyrings; keep no keys there, or use --sandbox podman or docker",
        );
    }
    Ok(BwrapHost {
        system: system.collect(),
        resolver: resolver(),
        filters,
        executable: executable()?,
        path: environment.get("PATH").unwrap_or(OsStr::new("")).to_owned(),
    })
}

fn executable() -> Result<PathBuf, Failure> {
    let executable = fs::read_link("/proc/self/exe").ok().filter(|program| program.exists());
    executable.ok_or_else(|| {
        Failure::internal("this program's own file is not found: start it anew, it was replaced or removed")
            .with_code(BROKER_FAILED)
    })
}

/// What is there, without what is hidden.
fn system(path: &Path, hidden: &[PathBuf]) -> Option<SystemPath> {
    let about = path.symlink_metadata().ok()?;
    let is_hidden = hidden.iter().any(|hidden| hidden == path);
    let path = path.to_owned();
    if about.is_symlink() {
        let target = fs::read_link(&path).ok()?;
        return Some(SystemPath::Link { path, target });
    }
    if !about.is_dir() {
        return (about.is_file() && !is_hidden).then_some(SystemPath::File(path));
    }
    if is_hidden {
        return Some(SystemPath::Hidden(path));
    }
    if !hidden.iter().any(|hidden| hidden.starts_with(&path)) {
        return Some(SystemPath::Directory(path));
    }
    let mut entries: Vec<PathBuf> = fs::read_dir(&path).ok()?.flatten().map(|entry| entry.path()).collect();
    entries.sort();
    let shown = entries.iter().filter_map(|entry| system(entry, hidden)).collect();
    Some(SystemPath::Parts { path, shown })
}

/// The place of a mount that would have to be made where nothing can be made: in what is read-only.
fn nowhere<'a>(request: &'a Request, system: Option<&[SystemPath]>) -> Option<&'a Path> {
    let mounts = request.mounts.iter();
    let places: Vec<(&Path, &Source, bool)> = mounts
        .map(|(mount, source)| {
            (
                mount.destination.as_ref().unwrap_or(&source.named).as_path(),
                source,
                mount.read_only,
            )
        })
        .collect();
    let missing = |place: &Path| {
        let others = places
            .iter()
            .filter(|(other, ..)| *other != place && place.starts_with(other));
        match others.max_by_key(|(other, ..)| other.components().count()) {
            Some((other, source, read_only)) => {
                let there = place.strip_prefix(other).map(|rest| source.place.path().join(rest));
                *read_only && there.is_ok_and(|there| !there.exists())
            }
            None => system.is_some_and(|system| is_missing(system, place)),
        }
    };
    places.iter().map(|(place, ..)| *place).find(|place| missing(place))
}

/// Whether something is missing in what of the system a sandbox sees.
fn is_missing(system: &[SystemPath], path: &Path) -> bool {
    let place = place(path);
    SYSTEM_PATHS.iter().any(|system| place.path().starts_with(system)) && !is_shown(system, place.path())
}

fn is_shown(system: &[SystemPath], path: &Path) -> bool {
    system.iter().any(|system| match system {
        SystemPath::Directory(directory) => path.starts_with(directory) && path.exists(),
        SystemPath::Parts { path: parts, shown } => path == parts || is_shown(shown, path),
        SystemPath::Hidden(only) | SystemPath::File(only) | SystemPath::Link { path: only, .. } => path == only,
    })
}

/// Many systems have the resolver's configuration below /run, which a sandbox does not see.
fn resolver() -> Option<(PathBuf, PathBuf)> {
    let link = Path::new(RESOLVER);
    let target = fs::read_link(link).ok()?;
    let named = without_dots(&link.parent()?.join(target));
    let shown = SYSTEM_PATHS.iter().any(|system| named.starts_with(system));
    let file = fs::canonicalize(link).ok()?;
    (!shown).then_some((file, named))
}

impl From<SandboxError> for Failure {
    fn from(error: SandboxError) -> Self {
        if error.is_usage() {
            Self::usage(error.to_string())
        } else {
            Self::internal(error.to_string()).with_code(BROKER_FAILED)
        }
    }
}
