//! The process's environment, read once and then carried as a value.
//!
//! [`Environment::from_process`] is the only place of the program that reads environment variables; everything else
//! takes an [`Environment`], so that tests can hand in theirs. Its `Debug` shows no value: environments hold secrets.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fmt,
    path::{Path, PathBuf},
};

use secrecy::SecretString;

/// What every variable of this program begins with.
pub(super) const PREFIX: &str = "CREDBROKER_";
/// Names the socket that a program in a sandbox talks to.
pub const SOCKET: &str = "CREDBROKER_SOCKET";
/// Carries the capability that a program in a sandbox shows.
pub const CAPABILITY: &str = "CREDBROKER_CAPABILITY";

/// A captured environment.
#[derive(Clone, Default)]
pub struct Environment {
    variables: BTreeMap<OsString, OsString>,
    left_out: Vec<OsString>,
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Environment({} variables)", self.variables.len())
    }
}

impl<N: Into<OsString>, V: Into<OsString>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Self {
        Self {
            variables: variables.into_iter().map(|(n, v)| (n.into(), v.into())).collect(),
            left_out: Vec::new(),
        }
    }
}

impl Environment {
    /// The environment of this process as it is now.
    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that reads the environment"
    )]
    pub fn from_process() -> Self {
        std::env::vars_os().collect()
    }

    /// The variable's value, also an empty one.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&OsStr> {
        self.variables.get(OsStr::new(name)).map(OsString::as_os_str)
    }

    /// All variables. Some values are secrets.
    pub fn all(&self) -> impl Iterator<Item = (&OsStr, &OsStr)> {
        self.variables
            .iter()
            .map(|(name, value)| (name.as_os_str(), value.as_os_str()))
    }

    /// Whether a variable is not in it, or has another value.
    pub(crate) fn differs(&self, name: &OsStr, value: &OsStr) -> bool {
        self.variables.get(name).is_none_or(|own| own != value)
    }

    /// Remembers which variables it lacks, or has less of, than where it was taken from, for those who look for the reason of a
    /// failure.
    pub(crate) fn leaving_out(mut self, names: Vec<OsString>) -> Self {
        self.left_out = names;
        self
    }

    /// Their names.
    pub(crate) fn left_out(&self) -> &[OsString] {
        &self.left_out
    }

    /// The variable's value as a secret. `None`: it is absent, empty or not UTF-8.
    #[must_use]
    pub fn secret(&self, name: &str) -> Option<SecretString> {
        let value = self.get(name)?.to_str()?;
        (!value.is_empty()).then(|| SecretString::from(value))
    }

    /// `HOME`, if it is an absolute path.
    #[must_use]
    pub fn home(&self) -> Option<&Path> {
        self.absolute("HOME")
    }

    /// The directory of the user's configuration files: `$XDG_CONFIG_HOME`, else `$HOME/.config`.
    #[must_use]
    pub fn config_home(&self) -> Option<PathBuf> {
        self.xdg("XDG_CONFIG_HOME", ".config")
    }

    /// The directory of the user's data files: `$XDG_DATA_HOME`, else `$HOME/.local/share`.
    #[must_use]
    pub fn data_home(&self) -> Option<PathBuf> {
        self.xdg("XDG_DATA_HOME", ".local/share")
    }

    /// The directory of the user's state files: `$XDG_STATE_HOME`, else `$HOME/.local/state`.
    #[must_use]
    pub fn state_home(&self) -> Option<PathBuf> {
        self.xdg("XDG_STATE_HOME", ".local/state")
    }

    /// `$XDG_RUNTIME_DIR`. It has no default: who needs one falls back to [`Environment::temporary_directory`].
    #[must_use]
    pub fn runtime_directory(&self) -> Option<&Path> {
        self.absolute("XDG_RUNTIME_DIR")
    }

    /// `$TMPDIR` if it is an absolute path, else `/tmp`.
    #[must_use]
    pub fn temporary_directory(&self) -> &Path {
        self.absolute("TMPDIR").unwrap_or(Path::new("/tmp"))
    }

    /// The socket to talk to; set in a sandbox. An empty value is as good as none.
    #[must_use]
    pub fn socket(&self) -> Option<&Path> {
        self.get(SOCKET).filter(|value| !value.is_empty()).map(Path::new)
    }

    /// The capability to show; set in a sandbox. An empty value is as good as none.
    #[must_use]
    pub fn capability(&self) -> Option<SecretString> {
        self.secret(CAPABILITY)
    }

    /// What a child process that is not sandboxed gets: everything but this program's own variables (the capability
    /// among them), what systemd handed to this process alone, and `also_remove` (the variables that hold client
    /// secrets, see [`Config::secret_variables`](super::Config::secret_variables)).
    pub fn child_environment<'a, S: AsRef<str>>(
        &'a self,
        also_remove: &'a [S],
    ) -> impl Iterator<Item = (&'a OsStr, &'a OsStr)> {
        let kept = move |name: &OsStr| {
            let bytes = name.as_encoded_bytes();
            !bytes.starts_with(PREFIX.as_bytes())
                && !bytes.starts_with(b"LISTEN_")
                && name != "NOTIFY_SOCKET"
                && !also_remove.iter().any(|removed| name == removed.as_ref())
        };
        self.variables
            .iter()
            .map(|(name, value)| (name.as_os_str(), value.as_os_str()))
            .filter(move |(name, _)| kept(name))
    }

    /// The variables that begin with [`PREFIX`], in order of name.
    pub(super) fn own_variables(&self) -> impl Iterator<Item = (&OsStr, &OsStr)> {
        self.variables
            .iter()
            .map(|(name, value)| (name.as_os_str(), value.as_os_str()))
            .filter(|(name, _)| name.as_encoded_bytes().starts_with(PREFIX.as_bytes()))
    }

    fn xdg(&self, variable: &str, below_home: &str) -> Option<PathBuf> {
        match self.absolute(variable) {
            Some(path) => Some(path.to_owned()),
            None => self.home().map(|home| home.join(below_home)),
        }
    }

    /// The XDG base directory specification has relative paths ignored, as if the variable were unset.
    fn absolute(&self, variable: &str) -> Option<&Path> {
        self.get(variable).map(Path::new).filter(|path| path.is_absolute())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use secrecy::ExposeSecret as _;

    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        variables.iter().copied().collect()
    }

    #[test]
    fn directories_follow_the_base_directory_specification() {
        type Accessor = fn(&Environment) -> Option<PathBuf>;
        let table: [(&str, &str, Accessor); 3] = [
            ("XDG_CONFIG_HOME", "/h/.config", Environment::config_home),
            ("XDG_DATA_HOME", "/h/.local/share", Environment::data_home),
            ("XDG_STATE_HOME", "/h/.local/state", Environment::state_home),
        ];
        for (variable, default, accessor) in table {
            assert_eq!(accessor(&environment(&[("HOME", "/h")])), Some(default.into()));
            assert_eq!(
                accessor(&environment(&[("HOME", "/h"), (variable, "/x")])),
                Some("/x".into())
            );
            assert_eq!(accessor(&environment(&[(variable, "/x")])), Some("/x".into()));
            for ignored in ["", "x", "./x", "~/x"] {
                assert_eq!(
                    accessor(&environment(&[("HOME", "/h"), (variable, ignored)])),
                    Some(default.into())
                );
            }
            for home in ["", "h"] {
                assert_eq!(accessor(&environment(&[("HOME", home)])), None);
            }
            assert_eq!(accessor(&Environment::default()), None);
        }
    }

    #[test]
    fn runtime_and_temporary_directories_have_to_be_absolute() {
        assert_eq!(
            environment(&[("XDG_RUNTIME_DIR", "/r")]).runtime_directory(),
            Some(Path::new("/r"))
        );
        assert_eq!(environment(&[("XDG_RUNTIME_DIR", "r")]).runtime_directory(), None);
        assert_eq!(environment(&[("TMPDIR", "/t")]).temporary_directory(), Path::new("/t"));
        for ignored in ["", "t"] {
            assert_eq!(
                environment(&[("TMPDIR", ignored)]).temporary_directory(),
                Path::new("/tmp")
            );
        }
        assert_eq!(Environment::default().temporary_directory(), Path::new("/tmp"));
    }

    #[test]
    fn socket_and_capability_are_what_a_sandbox_gets() {
        let inside = environment(&[(SOCKET, "/s/sock"), (CAPABILITY, "0123")]);
        assert_eq!(inside.socket(), Some(Path::new("/s/sock")));
        assert_eq!(inside.capability().unwrap().expose_secret(), "0123");
        for outside in [environment(&[(SOCKET, ""), (CAPABILITY, "")]), Environment::default()] {
            assert!(outside.socket().is_none() && outside.capability().is_none());
        }
    }

    #[test]
    fn debug_shows_no_value() {
        let shown = format!("{:?}", environment(&[(CAPABILITY, "s3cret"), ("HOME", "/h")]));
        assert_eq!(shown, "Environment(2 variables)");
    }

    #[test]
    fn a_child_gets_neither_our_variables_nor_systemds_nor_client_secrets() {
        let odd = OsString::from_vec(b"CREDBROKER_\xff".to_vec());
        let mut parent = environment(&[
            ("PATH", "/bin"),
            ("EMPTY", ""),
            (SOCKET, "/s"),
            (CAPABILITY, "c"),
            ("CREDBROKER_STORE_PATH", "/p"),
            ("CREDBROKER", "stays: it lacks the underscore"),
            ("LISTEN_FDS", "1"),
            ("LISTEN_PID", "2"),
            ("LISTEN_FDNAMES", "n"),
            ("NOTIFY_SOCKET", "/n"),
            ("GOOGLE_SECRET", "g"),
            ("GOOGLE_SECRET_2", "stays"),
        ]);
        parent.variables.insert(odd, "x".into());
        let child: Vec<_> = parent
            .child_environment(&["GOOGLE_SECRET"])
            .map(|(name, _)| name.to_str().unwrap())
            .collect();
        assert_eq!(child, ["CREDBROKER", "EMPTY", "GOOGLE_SECRET_2", "PATH"]);
        assert!(
            parent
                .child_environment::<&str>(&[])
                .any(|(name, value)| name == "GOOGLE_SECRET" && value == "g")
        );
    }

    #[test]
    fn the_process_has_an_environment() {
        assert!(Environment::from_process().get("PATH").is_some());
    }
}
