//! Variables that name places: where a relative one leads depends on where a program runs, which may be a sandbox's directory.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
};

/// Lists of places that programs take code or a configuration from. An empty part is where the program runs.
const LISTS: [&str; 20] = [
    "CDPATH",
    "CLASSPATH",
    "CNI_PATH",
    "GCONV_PATH",
    "GIO_EXTRA_MODULES",
    "GUILE_LOAD_PATH",
    "KRB5_CONFIG",
    "KUBECONFIG",
    "LD_AUDIT",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "LOCPATH",
    "NLSPATH",
    "NODE_PATH",
    "PERL5LIB",
    "PERLLIB",
    "PYTHONPATH",
    "RUBYLIB",
    "XDG_CONFIG_DIRS",
    "XDG_DATA_DIRS",
];

/// Single places of the same kind: of the runtimes, of shells, of git, and of those that are asked for a registry's password.
const PLACES: [&str; 47] = [
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "BASH_ENV",
    "BUILDX_CONFIG",
    "CLOUDSDK_CONFIG",
    "CONTAINERS_CONF",
    "CONTAINERS_CONF_OVERRIDE",
    "CONTAINERS_HELPER_BINARY_DIR",
    "CONTAINERS_REGISTRIES_CONF",
    "CONTAINERS_REGISTRIES_CONF_DIR",
    "CONTAINERS_STORAGE_CONF",
    "CONTAINER_SSHKEY",
    "CONTAINER_TLS_CA",
    "CONTAINER_TLS_CERT",
    "CONTAINER_TLS_KEY",
    "DOCKER_CERT_PATH",
    "DOCKER_CONFIG",
    "ENV",
    "GIT_COMMON_DIR",
    "GIT_CONFIG",
    "GIT_CONFIG_GLOBAL",
    "GIT_CONFIG_SYSTEM",
    "GIT_DIR",
    "GIT_EXEC_PATH",
    "GIT_TEMPLATE_DIR",
    "GNUPGHOME",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "HOME",
    "INPUTRC",
    "OPENSSL_CONF",
    "OPENSSL_ENGINES",
    "OPENSSL_MODULES",
    "PASSWORD_STORE_DIR",
    "PASSWORD_STORE_EXTENSIONS_DIR",
    "PODMAN_CONNECTIONS_CONF",
    "PYTHONHOME",
    "PYTHONUSERBASE",
    "REGISTRIES_CONFIG_PATH",
    "REGISTRY_AUTH_FILE",
    "TMPDIR",
    "XDG_BIN_HOME",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_RUNTIME_DIR",
    "XDG_STATE_HOME",
    "ZDOTDIR",
];

/// Programs. One without a slash is looked for in PATH.
const PROGRAMS: [&str; 8] = [
    "CLOUDSDK_PYTHON",
    "GIT_ASKPASS",
    "GIT_SSH",
    "PODMAN_BINARY",
    "SHELL",
    "SSH_ASKPASS",
    "SSH_SK_PROVIDER",
    "SUDO_ASKPASS",
];

/// Options of podman's storage, divided by commas; one of them names a program.
const STORAGE: &str = "STORAGE_OPTS";
const PROGRAM: &[u8] = b"mount_program";

/// Whether an option names a program by another path than an absolute one.
fn is_relative_program(option: &[u8]) -> bool {
    let mut parts = option.splitn(2, |byte| *byte == b'=');
    let names_one = parts.next().is_some_and(|key| key.trim_ascii().ends_with(PROGRAM));
    names_one && !parts.next().is_some_and(|path| path.starts_with(b"/"))
}

/// What remains of a variable without such places. `None`: nothing.
pub(super) fn without_here(name: &OsStr, value: &OsStr) -> Option<OsString> {
    let is_in = |names: &[&str]| names.iter().any(|other| name == *other);
    let bytes = value.as_bytes();
    let is_absolute = bytes.starts_with(b"/");
    if is_in(&LISTS) {
        let ends: &[u8] = if name.as_bytes().starts_with(b"LD_") {
            b":; "
        } else {
            b":"
        };
        let parts = bytes.split(|byte| ends.contains(byte));
        let kept: Vec<&[u8]> = parts.filter(|part| part.starts_with(b"/")).collect();
        return (!kept.is_empty()).then(|| OsString::from_vec(kept.join(&b':')));
    }
    let leads_here = (is_in(&PLACES) && !is_absolute)
        || (is_in(&PROGRAMS) && !is_absolute && bytes.contains(&b'/'))
        || (name == STORAGE && bytes.split(|byte| *byte == b',').any(is_relative_program));
    (!leads_here).then(|| value.to_owned())
}
