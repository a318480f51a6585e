//! What the environment overrides.

use std::{ffi::OsString, os::unix::ffi::OsStringExt as _};

use super::{keys::right, *};

#[test]
fn variables_override_single_keys() {
    let text = b"[store]\nbackend = 'file'\npath = '/file'\nallow_network_fs = true\n[audit]\npath = '/file'";
    let variables = [
        ("CREDBROKER_STORE_BACKEND", "memory"),
        ("CREDBROKER_STORE_PATH", "~/variable"),
        ("CREDBROKER_STORE_IDENTITY_FILE", "/identity"),
        ("CREDBROKER_STORE_ALLOW_NETWORK_FS", "false"),
        ("CREDBROKER_AUDIT_PATH", "/variable"),
        ("CREDBROKER_AUDIT_ON_FULL", "refuse"),
        ("CREDBROKER_LIMITS_CONNECTIONS", "7"),
        ("CREDBROKER_LOGIN_TIMEOUT_SECONDS", "30"),
        (SOCKET, "/s"),
        (CAPABILITY, "c"),
    ];
    for config in [
        load_bytes(text, &env(&variables)),
        load_bytes(b"", &env(&variables)),
        Config::load(None, &env(&variables)),
    ] {
        let config = config.unwrap();
        assert_eq!(config.store.backend, Backend::Memory);
        assert_eq!(config.store.directory().unwrap(), Path::new("/home/u/variable"));
        assert_eq!(config.store.identity, IdentitySource::File("/identity".into()));
        assert!(!config.store.allow_network_fs);
        assert_eq!(config.audit.directory().unwrap(), Path::new("/variable"));
        assert_eq!(config.audit.on_full, OnFull::Refuse);
        assert_eq!(config.limits.connections.map(u32::from), Some(7));
        assert_eq!(config.limits.streams, None);
        assert_eq!(config.login.timeout.as_secs(), 30);
    }
    assert_eq!(load_bytes(text, &env(&[])).unwrap().login.timeout.as_secs(), 600);
    let set = load_bytes(b"[login]\ntimeout_seconds = 90", &env(&[])).unwrap();
    assert_eq!(set.login.timeout.as_secs(), 90);
    let one = load_bytes(text, &env(&[("CREDBROKER_STORE_BACKEND", "memory")])).unwrap();
    assert_eq!(
        (one.store.backend, one.store.directory().unwrap()),
        (Backend::Memory, Path::new("/file"))
    );
    let command = load_bytes(b"", &env(&[("CREDBROKER_STORE_IDENTITY_COMMAND", "echo hunter2")])).unwrap();
    assert!(matches!(&command.store.identity, IdentitySource::Command(c) if c.as_str() == "echo hunter2"));
    // An override of a wrong value makes the file right; of an unknown key nothing does.
    assert!(load_bytes(b"[store]\nbackend = 1", &env(&[("CREDBROKER_STORE_BACKEND", "memory")])).is_ok());
}

#[test]
fn every_key_but_the_providers_and_hosts_has_its_variable() {
    for key in KEYS.iter().filter(|key| !key.section.contains('.')) {
        let value = match right(key.kind).first() {
            Some(value) => value.trim_matches('\'').to_owned(),
            None => continue,
        };
        let variable = format!("CREDBROKER_{}_{}", key.section, key.name).to_uppercase();
        load_bytes(b"", &env(&[(&variable, &value)])).unwrap();
        for bad in ["", "~hunter2/"] {
            // Any text that is not empty is a command.
            if key.kind == Kind::Command && !bad.is_empty() {
                continue;
            }
            let error = load_bytes(b"", &env(&[(&variable, bad)])).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("{variable}: {}.{} ", key.section, key.name)),
                "{error}"
            );
            assert!(!error.contains(SECRET) && error.contains("; "), "{error}");
        }
    }
}

#[test]
fn unknown_variables_are_named_with_the_nearest() {
    let table = [
        ("CREDBROKER_STORE_PTH", "did you mean \"CREDBROKER_STORE_PATH\"?"),
        (
            "CREDBROKER_STORE_BACKENDS",
            "did you mean \"CREDBROKER_STORE_BACKEND\"?",
        ),
        ("CREDBROKER_SOKCET", "did you mean \"CREDBROKER_SOCKET\"?"),
        ("CREDBROKER_CAPABILTY", "did you mean \"CREDBROKER_CAPABILITY\"?"),
        ("CREDBROKER_AUDIT_ON_FUL", "did you mean \"CREDBROKER_AUDIT_ON_FULL\"?"),
        (
            "CREDBROKER_PROVIDERS_X_CLIENT_ID",
            "providers are set in the configuration file only",
        ),
        (
            "CREDBROKER_GIT_ENTRY",
            "git's hosts are set in the configuration file only",
        ),
        ("CREDBROKER_store_path", "did you mean \"CREDBROKER_STORE_PATH\"?"),
        ("CREDBROKER_", "CREDBROKER_"),
    ];
    for (variable, hint) in table {
        let error = load_bytes(b"", &env(&[(variable, SECRET)])).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("{variable}: unknown variable \"{variable}\"; ")),
            "{error}"
        );
        assert!(error.contains(hint) && !error.contains(SECRET), "{error}");
    }
    // A variable of another program that only begins alike is none of ours.
    assert!(load_bytes(b"", &env(&[("CREDBROKERS_X", "1"), ("credbroker_x", "1")])).is_ok());
}

#[test]
fn variables_need_not_be_utf8() {
    let odd = |tail: &[u8]| OsString::from_vec([b"/p", tail].concat());
    let path = odd(b"\xff");
    let environment: Environment = [("CREDBROKER_STORE_PATH", path.clone())].into_iter().collect();
    assert_eq!(
        load_bytes(b"", &environment).unwrap().store.directory().unwrap(),
        Path::new(&path)
    );
    let environment: Environment = [("CREDBROKER_STORE_BACKEND", odd(b"\xff"))].into_iter().collect();
    assert!(
        load_bytes(b"", &environment)
            .unwrap_err()
            .to_string()
            .starts_with("CREDBROKER_STORE_BACKEND: ")
    );
    let name = OsString::from_vec(b"CREDBROKER_\xff\n".to_vec());
    let environment: Environment = [(name, "x")].into_iter().collect();
    let error = load_bytes(b"", &environment).unwrap_err().to_string();
    assert!(
        error.contains("unknown variable") && !error.contains(char::is_control),
        "{error:?}"
    );
}

#[test]
fn a_conflict_of_file_and_variable_names_the_variable() {
    let error = load_bytes(
        b"[store]\nidentity_file = 'x'",
        &env(&[("CREDBROKER_STORE_IDENTITY_COMMAND", "x")]),
    )
    .unwrap_err()
    .to_string();
    assert!(
        error.starts_with("CREDBROKER_STORE_IDENTITY_COMMAND: store.identity_command cannot be set beside"),
        "{error}"
    );
}

#[test]
fn relative_paths_of_a_variable_belong_to_the_working_directory() {
    let config = load_bytes(b"", &env(&[("CREDBROKER_STORE_PATH", "tokens")])).unwrap();
    let here = std::env::current_dir().unwrap();
    assert_eq!(config.store.directory().unwrap(), here.join("tokens"));
}
