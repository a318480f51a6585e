//! Which variables of the host a sandbox gets.

use std::collections::BTreeSet;

use super::{Runtime, SandboxError};

/// What a program of any kind goes by at a terminal; no secret, no socket, no path of the host.
const TERMINAL: [&str; 4] = ["COLORTERM", "NO_COLOR", "TERM", "TZ"];
/// What programs of this host go by. In a container the image decides.
const HOSTS: [&str; 7] = ["HOME", "LANG", "LANGUAGE", "LOGNAME", "PATH", "SHELL", "USER"];
/// And every one that begins so.
const LOCALE: &str = "LC_";

/// What the broker itself sets.
const OWN: &str = "CREDBROKER_";

/// What the loader and the C library of the runtime's own program go by, which runs on the host: they may name what a sandbox
/// left.
const LOADER: [&str; 8] = [
    "GCONV_PATH",
    "GETCONF_DIR",
    "GLIBC_TUNABLES",
    "HOSTALIASES",
    "LOCPATH",
    "MALLOC_TRACE",
    "NLSPATH",
    "RESOLV_HOST_CONF",
];
/// And every one that begins so.
const LOADERS: &str = "LD_";

/// Whether a runtime gets a variable for itself when it is to pass it on, and lets it say what runs or where that is.
fn is_runtimes(runtime: Runtime, name: &str) -> bool {
    let own = match runtime {
        Runtime::Bwrap => false,
        Runtime::Podman => name.starts_with("CONTAINER") || name == "XDG_CONFIG_HOME",
        Runtime::Docker => name.starts_with("DOCKER_"),
    };
    own || name.starts_with(LOADERS) || LOADER.contains(&name)
}

/// The names of those that are passed, of those that are set; in order.
pub(super) fn passed(runtime: Runtime, asked: &[String], set: &BTreeSet<String>) -> Result<Vec<String>, SandboxError> {
    let usual = |name: &str| match runtime {
        Runtime::Bwrap => TERMINAL.contains(&name) || HOSTS.contains(&name) || name.starts_with(LOCALE),
        Runtime::Podman | Runtime::Docker => TERMINAL.contains(&name),
    };
    let mut passed: BTreeSet<&String> = set.iter().filter(|name| usual(name)).collect();
    for name in asked {
        if name.contains('=') {
            return Err(SandboxError::VariableWithValue);
        }
        if !is_name(name) {
            return Err(SandboxError::NoVariableName { name: name.clone() });
        }
        if name.starts_with(OWN) {
            return Err(SandboxError::OwnVariable { name: name.clone() });
        }
        if is_runtimes(runtime, name) {
            return Err(SandboxError::RuntimesVariable {
                name: name.clone(),
                runtime,
            });
        }
        let Some(name) = set.get(name) else {
            return Err(SandboxError::NoSuchVariable { name: name.clone() });
        };
        passed.insert(name);
    }
    Ok(passed.into_iter().cloned().collect())
}

/// A name as POSIX has it: podman and docker read more than names in what they are given.
fn is_name(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(runtime: Runtime, asked: &[&str], set: &[&str]) -> Result<String, SandboxError> {
        let asked: Vec<String> = asked.iter().map(|&name| name.to_owned()).collect();
        let set = set.iter().map(|&name| name.to_owned()).collect();
        passed(runtime, &asked, &set).map(|names| names.join(" "))
    }

    const SET: [&str; 12] = [
        "AWS_SECRET_ACCESS_KEY",
        "DBUS_SESSION_BUS_ADDRESS",
        "DISPLAY",
        "HOME",
        "HTTPS_PROXY",
        "LC_TIME",
        "LD_PRELOAD",
        "MY_FLAG",
        "PATH",
        "SSH_AUTH_SOCK",
        "TERM",
        "XDG_RUNTIME_DIR",
    ];

    #[test]
    fn only_what_is_on_the_list_or_asked_for_by_name_is_passed() {
        assert_eq!(given(Runtime::Bwrap, &[], &SET).unwrap(), "HOME LC_TIME PATH TERM");
        for container in [Runtime::Podman, Runtime::Docker] {
            assert_eq!(given(container, &[], &SET).unwrap(), "TERM");
            assert_eq!(given(container, &["MY_FLAG", "MY_FLAG"], &SET).unwrap(), "MY_FLAG TERM");
        }
        assert_eq!(
            given(Runtime::Bwrap, &["DISPLAY"], &SET).unwrap(),
            "DISPLAY HOME LC_TIME PATH TERM"
        );
    }

    #[test]
    fn values_patterns_and_the_brokers_own_names_are_refused() {
        let refused = |name: &str| given(Runtime::Podman, &[name], &SET).unwrap_err().to_string();
        for (name, says) in [
            ("A=s3cret", "by name only"),
            ("MY_*", "is no name of a variable"),
            ("", "is no name of a variable"),
            ("1A", "is no name of a variable"),
            ("CREDBROKER_CAPABILITY", "sets by itself"),
            ("UNSET", "is not set"),
        ] {
            let said = refused(name);
            assert!(said.contains(says) && !said.contains("s3cret"), "{name}: {said}");
        }
    }

    #[test]
    fn what_the_runtimes_own_program_would_go_by_is_refused() {
        let all = [Runtime::Bwrap, Runtime::Podman, Runtime::Docker];
        for (name, by) in [
            ("LD_PRELOAD", &all[..]),
            ("LD_LIBRARY_PATH", &all),
            ("LD_AUDIT", &all),
            ("GLIBC_TUNABLES", &all),
            ("GCONV_PATH", &all),
            ("LOCPATH", &all),
            ("NLSPATH", &all),
            ("CONTAINERS_CONF", &[Runtime::Podman]),
            ("CONTAINER_HOST", &[Runtime::Podman]),
            ("XDG_CONFIG_HOME", &[Runtime::Podman]),
            ("DOCKER_CONFIG", &[Runtime::Docker]),
            ("PYTHONPATH", &[]),
            ("LDFLAGS", &[]),
        ] {
            for runtime in all {
                // Whether it is set or not.
                for set in [&[name][..], &[]] {
                    let said = given(runtime, &[name], set).err().map(|error| error.to_string());
                    let refused = said
                        .as_ref()
                        .is_some_and(|said| said.contains("itself, on the host; set it inside"));
                    assert_eq!(refused, by.contains(&runtime), "{name} {runtime:?}: {said:?}");
                }
            }
        }
    }
}
