//! Which files a broker needs.

use std::{
    fs::{self, DirBuilder},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use crate::{
    cli::args::ServeArgs,
    config::{Backend, ClientSecret, Config, Environment, IdentitySource, MetricsListen},
    daemon,
    server::socket::RuntimeDir,
};

/// What may be done below a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Read.
    Read,
    /// Read and write what is there: a device.
    Device,
    /// Bind a socket and remove it again.
    Socket,
    /// Everything with files, directories and sockets, but to execute them.
    Own,
}

/// One path and what may be done below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) path: PathBuf,
    pub(super) access: Access,
}

/// Programs' own files, names and addresses, time zones, certificate authorities: wherever distributions have them.
const SYSTEM: [&str; 24] = [
    "/bin",
    "/etc",
    "/gnu/store",
    "/lib",
    "/lib32",
    "/lib64",
    "/nix/store",
    "/opt/etc/ssl",
    "/proc",
    "/run/NetworkManager",
    "/run/avahi-daemon",
    "/run/current-system",
    "/run/nscd",
    "/run/resolvconf",
    "/run/systemd/resolve",
    "/sbin",
    "/usr",
    "/var/db",
    "/var/lib/ca-certificates",
    "/var/lib/sss",
    "/var/run/nscd",
    "/var/ssl",
    "/dev/random",
    "/dev/urandom",
];
const DEVICES: [&str; 2] = ["/dev/null", "/dev/zero"];
/// Files that often are links to somewhere else, where their neighbours take their place some day.
const LINKED: [&str; 4] = ["/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/localtime"];
/// Where the host's services listen: too much to be read for a medium's sake.
const SERVICES: &str = "/run";
/// So many links of a directory of certificates are followed.
const MOST_LINKS: usize = 1024;

/// What a `serve` reads and writes.
#[derive(Debug, Default)]
pub(in crate::cli) struct Paths {
    rules: Vec<Rule>,
    home: Option<PathBuf>,
    /// Somebody has to be told there who listens at an abstract socket.
    pub(super) abstract_sockets: bool,
}

impl Paths {
    /// What this configuration needs. Directories that the broker would make later are made now: what is not there cannot
    /// be named. Those that cannot be made are said by who needs them.
    pub(in crate::cli) fn of_serve(config: &Config, environment: &Environment, arguments: &ServeArgs) -> Self {
        let mut paths = Self {
            home: environment.home().and_then(|home| home.canonicalize().ok()),
            abstract_sockets: environment
                .get("NOTIFY_SOCKET")
                .is_some_and(|socket| socket.as_encoded_bytes().starts_with(b"@")),
            ..Self::default()
        };
        paths.system(environment);
        // The configuration has been read; these are read once, at the start.
        for file in arguments.policy.iter().chain(&arguments.capability_file) {
            paths.read(file);
        }
        for provider in config.providers.values() {
            if let Some(ClientSecret::File(file)) = &provider.client_secret {
                paths.beside(file);
            }
        }
        if !arguments.ephemeral && config.store.backend == Backend::File {
            if let Ok(store) = config.store.directory() {
                paths.own(store);
            }
            if let IdentitySource::File(file) = &config.store.identity {
                paths.beside(file);
            }
        }
        if let Ok(audit) = config.audit.directory() {
            paths.own(audit);
        }
        if let Ok(runtime) = daemon::runtime_path(environment) {
            // Made as its owner makes it; who starts the broker says what is wrong with it.
            drop(RuntimeDir::open(&runtime));
            paths.add(&runtime, Access::Own);
        }
        let metrics = match &config.metrics.listen {
            Some(MetricsListen::Unix(path)) => Some(path),
            Some(MetricsListen::Tcp(_)) | None => None,
        };
        for socket in arguments.socket.iter().chain(metrics) {
            if let Some(parent) = std::path::absolute(socket).ok().as_deref().and_then(Path::parent) {
                paths.add(parent, Access::Socket);
            }
        }
        paths
    }

    pub(super) fn rules(&self) -> &[Rule] {
        &self.rules
    }

    fn system(&mut self, environment: &Environment) {
        for path in SYSTEM {
            self.read(Path::new(path));
        }
        for device in DEVICES {
            self.add(Path::new(device), Access::Device);
        }
        for link in LINKED {
            self.linked(Path::new(link));
        }
        // For a panic's backtrace.
        self.read(Path::new("/proc/self/exe"));
        if let Some(file) = environment.get("SSL_CERT_FILE") {
            self.beside(Path::new(file));
        }
        if let Some(directories) = environment.get("SSL_CERT_DIR") {
            for directory in directories.as_encoded_bytes().split(|byte| *byte == b':') {
                if let Ok(directory) = std::str::from_utf8(directory) {
                    self.certificates(Path::new(directory));
                }
            }
        }
    }

    /// Where it leads, if it is a link: also to what is made later, as who has a network only then does.
    fn linked(&mut self, link: &Path) {
        let Ok(says) = fs::read_link(link) else {
            return;
        };
        match (link.canonicalize(), link.parent()) {
            (Ok(target), _) => self.beside(&target),
            // As it stands there: what is not there has no links on its way.
            (Err(_), Some(directory)) => self.beside(&directory.join(says)),
            (Err(_), None) => {}
        }
    }

    /// Such a directory is full of links.
    fn certificates(&mut self, directory: &Path) {
        self.read(directory);
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        for link in entries.take(MOST_LINKS).map(|entry| entry.path()) {
            if let Ok(target) = link.canonicalize()
                && target.parent() != Some(directory)
            {
                self.read(&target);
            }
        }
    }

    fn add(&mut self, path: &Path, access: Access) {
        let rule = Rule {
            path: path.to_owned(),
            access,
        };
        if path.exists() && !self.rules.contains(&rule) {
            self.rules.push(rule);
        }
    }

    fn read(&mut self, path: &Path) {
        self.add(path, Access::Read);
    }

    /// A file that may be replaced by another one of its name: its directory, links followed. If it is not there now, the
    /// directory around that one, because something may be mounted there; if something is, the directory around the place, because
    /// it may be mounted anew. Never the home, nor everything.
    fn beside(&mut self, file: &Path) {
        let found = file.canonicalize().ok();
        for file in [Some(file), found.as_deref()].into_iter().flatten() {
            self.read(file);
            let Some(directory) = nearest(file.parent().unwrap_or(file)) else {
                continue;
            };
            self.read_unless_too_much(&directory);
            if found.is_none()
                && let Some(around) = directory.parent()
            {
                self.read_unless_too_much(around);
            }
            if let Some(around) = around_the_mount(&directory).filter(|around| around != Path::new(SERVICES)) {
                self.read_unless_too_much(&around);
            }
        }
    }

    fn read_unless_too_much(&mut self, directory: &Path) {
        let holds_the_home = self.home.as_deref().is_some_and(|home| home.starts_with(directory));
        if directory != Path::new("/") && !holds_the_home {
            self.read(directory);
        }
    }

    /// A directory of the broker's own, made if it is not there. If it cannot be made, the one that it would be made in, some
    /// day.
    fn own(&mut self, directory: &Path) {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        if made.is_ok() {
            self.add(directory, Access::Own);
        } else if let Some(nearest) = nearest(directory).filter(|nearest| nearest != Path::new("/")) {
            self.add(&nearest, Access::Own);
        }
    }
}

/// The directory, or the first around it that is there and one; links followed.
fn nearest(directory: &Path) -> Option<PathBuf> {
    let is_there = |path: &Path| path.canonicalize().ok().filter(|found| found.is_dir());
    directory.ancestors().find_map(is_there)
}

/// The directory around the place where the file system of this one is mounted.
fn around_the_mount(directory: &Path) -> Option<PathBuf> {
    let device = |path: &Path| path.metadata().ok().map(|about| about.dev());
    let own = device(directory)?;
    let around = directory
        .ancestors()
        .skip(1)
        .find(|around| device(around) != Some(own))?;
    Some(around.to_owned())
}

#[cfg(test)]
impl Paths {
    pub(super) fn of(rules: &[(&Path, Access)]) -> Self {
        let mut paths = Self::default();
        for (path, access) in rules {
            paths.add(path, *access);
        }
        paths
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn of(paths: &Paths, access: Access) -> Vec<&Path> {
        let rules = paths.rules().iter().filter(|rule| rule.access == access);
        rules.map(|rule| rule.path.as_path()).collect()
    }

    #[test]
    fn a_file_that_may_be_replaced_opens_its_directory_but_never_the_home() {
        let dir = tempfile::TempDir::new().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let home = root.join("home");
        for made in ["home/u/.config", "secrets/..data", "media/stick"] {
            fs::create_dir_all(root.join(made)).unwrap();
        }
        fs::write(root.join("home/u/id"), "").unwrap();
        fs::write(root.join("secrets/..data/id"), "").unwrap();
        symlink("..data/id", root.join("secrets/id")).unwrap();
        let beside = |file: &str| {
            let mut paths = Paths {
                home: Some(home.join("u")),
                ..Paths::default()
            };
            paths.beside(&root.join(file));
            let mut found: Vec<String> = of(&paths, Access::Read)
                .into_iter()
                .map(|path| path.strip_prefix(&root).unwrap().display().to_string())
                .collect();
            found.sort();
            found
        };
        assert_eq!(beside("home/u/id"), ["home/u/id"]);
        assert_eq!(
            beside("secrets/id"),
            ["secrets", "secrets/..data", "secrets/..data/id", "secrets/id"]
        );
        assert_eq!(beside("home/u/.config/id"), ["home/u/.config"]);
        // Not mounted yet.
        assert_eq!(beside("media/stick/id"), ["media", "media/stick"]);
    }

    #[test]
    fn a_link_that_leads_nowhere_yet_opens_where_it_will_lead() {
        let dir = tempfile::TempDir::new().unwrap();
        let root = dir.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("run/network")).unwrap();
        fs::create_dir(root.join("etc")).unwrap();
        symlink("../run/network/made-later/resolv.conf", root.join("etc/resolv.conf")).unwrap();
        fs::write(root.join("etc/hosts"), "").unwrap();
        let mut paths = Paths::default();
        paths.linked(&root.join("etc/hosts"));
        assert!(paths.rules().is_empty());
        paths.linked(&root.join("etc/resolv.conf"));
        assert!(
            of(&paths, Access::Read).contains(&root.join("run/network").as_path()),
            "{paths:?}"
        );
    }

    #[test]
    fn a_file_on_a_medium_that_may_be_mounted_anew_opens_what_is_around_the_medium() {
        // Where the tests may write, this is what is a file system of its own nearly everywhere.
        let medium = Path::new("/dev/shm");
        let dir = tempfile::TempDir::new_in(medium).unwrap();
        fs::write(dir.path().join("id"), "").unwrap();
        assert_eq!(around_the_mount(dir.path()).as_deref(), medium.parent());
        let mut paths = Paths::default();
        paths.beside(&dir.path().join("id"));
        assert!(of(&paths, Access::Read).contains(&Path::new("/dev")));
        // Not everything, where that is what is around.
        let mut paths = Paths::default();
        paths.beside(Path::new("/proc/version"));
        assert!(!of(&paths, Access::Read).contains(&Path::new("/")));
    }

    #[test]
    fn a_serve_owns_its_directories_and_nothing_around_them() {
        let dir = tempfile::TempDir::new().unwrap();
        let root = dir.path().canonicalize().unwrap();
        for made in ["run", "elsewhere"] {
            fs::create_dir(root.join(made)).unwrap();
            fs::set_permissions(root.join(made), fs::Permissions::from_mode(0o700)).unwrap();
        }
        fs::write(root.join("roots.pem"), "").unwrap();
        let variables = [
            ("HOME", root.join("home")),
            ("XDG_RUNTIME_DIR", root.join("run")),
            ("SSL_CERT_FILE", root.join("roots.pem")),
            ("NOTIFY_SOCKET", "@notify".into()),
        ];
        let environment: Environment = variables.into_iter().collect();
        let config = Config::load(None, &environment).unwrap();
        let arguments = |socket: Option<PathBuf>, ephemeral| ServeArgs {
            socket,
            ephemeral,
            ..ServeArgs::default()
        };
        let paths = Paths::of_serve(
            &config,
            &environment,
            &arguments(Some(root.join("elsewhere/sock")), false),
        );
        let (store, audit) = (
            root.join("home/.local/share/credbroker"),
            root.join("home/.local/state/credbroker/audit"),
        );
        assert_eq!(
            of(&paths, Access::Own),
            [store.as_path(), &audit, &root.join("run/credbroker")]
        );
        assert_eq!(of(&paths, Access::Socket), [root.join("elsewhere")]);
        assert!(of(&paths, Access::Read).contains(&root.join("roots.pem").as_path()) && paths.abstract_sockets);
        assert_eq!(fs::metadata(&store).unwrap().permissions().mode() & 0o777, 0o700);
        let paths = Paths::of_serve(&config, &environment, &arguments(None, true));
        assert_eq!(of(&paths, Access::Own), [audit.as_path(), &root.join("run/credbroker")]);
        assert!(of(&paths, Access::Socket).is_empty());
        // Something in the way: when it is gone, the directory can be made.
        fs::remove_dir(&audit).unwrap();
        fs::write(&audit, "in the way").unwrap();
        let paths = Paths::of_serve(&config, &environment, &arguments(None, true));
        assert!(of(&paths, Access::Own).contains(&root.join("home/.local/state/credbroker").as_path()));
    }
}
