//! The configuration file: what it becomes, when it is read, and what its messages say.

use std::{fs, os::unix::fs::symlink, time::Duration};

use super::*;

#[test]
fn the_messages_read_like_this() {
    let table = [
        (
            "[store]\npth = 'x'",
            2,
            "unknown key \"store.pth\"; did you mean \"path\"?",
        ),
        (
            "stor.path = 'x'",
            1,
            "unknown section \"stor\"; did you mean \"store\"?",
        ),
        (
            "[provider.x]",
            1,
            "unknown section \"provider\"; did you mean \"providers\"?",
        ),
        (
            "backend = 'file'",
            1,
            "unknown section \"backend\"; \"backend\" is a key of [store]",
        ),
        (
            "[store]\nbackend = 'fiel'",
            2,
            "store.backend must be one of \"file\", \"memory\"; did you mean \"file\"?",
        ),
        (
            "store = 1",
            1,
            "\"store\" is a section, not a key; write [store] and its keys below it",
        ),
        (
            "[[store]]",
            1,
            "\"store\" is a section, not a key; write [store] and its keys below it",
        ),
        (
            "[providers]\nx = 'y'",
            2,
            "\"providers.x\" is a section, not a key; write [providers.x] and its keys below it",
        ),
        (
            "[store]\n[store]",
            2,
            "this is not TOML: duplicate key; correct this line (text values need quotes)",
        ),
        (
            "[store]\nzzz = 1",
            2,
            "unknown key \"store.zzz\"; the nearest is \"allow_network_fs\", all there are: backend, path, identity_file, \
             identity_command, allow_network_fs",
        ),
        (
            "[providers.a.b]\npreset = 'google'",
            1,
            "unknown key \"providers.a.b\"; ",
        ),
        (
            "[providers.'a b']",
            1,
            "the name in [providers.'a b'] cannot be used: \"a b\" (3 bytes) is no valid name: ",
        ),
        (
            "[store]\nidentity_file = 'x'\nidentity_command = 'x'",
            3,
            "store.identity_command cannot be set beside identity_file; remove one of the two",
        ),
        (
            "[store]\nallow_network_fs = 1",
            2,
            "store.allow_network_fs must be true or false, not of type integer; correct the value or remove the line",
        ),
    ];
    for (text, line, message) in table {
        let error = error(text, line);
        assert!(
            error.contains(&format!("{PATH}:{line}: {message}")),
            "{text}\n{error}\n{message}"
        );
    }
}

#[test]
fn sections_of_other_versions_are_unknown() {
    assert!(error("\n[sandboxes.n]\n", 2).contains("unknown section"));
    assert!(error("[audit]\non_empty = 'serve'", 2).contains("unknown key \"audit.on_empty\""));
}

#[test]
fn a_whole_file_becomes_a_configuration() {
    let config = load(
        r#"
[store]
backend = "file"
path = "~/tokens"
identity_command = "pass show identity"
allow_network_fs = true

[audit]
path = "audit"
on_full = "refuse"
max_file_mib = 8

[providers.mine]
authorization_endpoint = "https://a.example/authorize"
token_endpoint = "http://127.0.0.1:8080/token"
device_authorization_endpoint = "https://a.example/device"
revocation_endpoint = "https://a.example/revoke"
client_id = "id"
client_secret_file = "secret"
client_auth = "post"
scopes = ["openid", "email"]
flow = "device_code"
redirect_host = "localhost"
redirect_path = "/back"
redirect_ports = [1455, 1456]
redirect_url = "https://a.example/paste"
authorization_params = { access_type = "offline" }
token_request_format = "json"
extra_fields = ["resource_url"]
default_lifetime = 600
retry_ambiguous = false
refused_errors = ["token_revoked"]
refused_statuses = [404]

[providers.mine.token_params]
audience = "x"

[providers."a.b"]
preset = "github"
client_id = "id"
client_secret_env = "GITHUB_SECRET"
"#,
    )
    .unwrap();
    assert_eq!(config.store.directory().unwrap(), Path::new("/home/u/tokens"));
    assert!(config.store.allow_network_fs);
    assert!(matches!(&config.store.identity, IdentitySource::Command(c) if c.as_str() == "pass show identity"));
    assert_eq!(config.audit.directory().unwrap(), Path::new("/etc/cb/audit"));
    assert_eq!(config.audit.on_full, OnFull::Refuse);
    assert_eq!(config.audit.max_file_mib.map(u32::from), Some(8));
    let mine = &config.providers[&"mine".parse().unwrap()];
    assert_eq!(
        mine.token_endpoint.as_ref().unwrap().to_string(),
        "http://127.0.0.1:8080/token"
    );
    assert_eq!(mine.client_secret, Some(ClientSecret::File("/etc/cb/secret".into())));
    assert_eq!(
        (mine.client_auth, mine.flow),
        (Some(ClientAuth::Post), Some(Flow::DeviceCode))
    );
    assert_eq!(mine.scopes.as_deref().unwrap(), ["openid", "email"]);
    assert_eq!(mine.redirect_host.unwrap().as_str(), "localhost");
    assert_eq!(mine.redirect_path.as_deref(), Some("/back"));
    assert_eq!(mine.redirect_ports.as_deref(), Some(&[1455, 1456][..]));
    assert_eq!(
        mine.redirect_url.as_ref().unwrap().to_string(),
        "https://a.example/paste"
    );
    assert_eq!(
        mine.authorization_params.as_ref().unwrap().iter().collect::<Vec<_>>(),
        [("access_type", "offline")]
    );
    assert_eq!(
        mine.token_params.as_ref().unwrap().iter().collect::<Vec<_>>(),
        [("audience", "x")]
    );
    assert_eq!(mine.token_request_format, Some(TokenRequestFormat::Json));
    assert_eq!(mine.extra_fields.as_deref().unwrap(), ["resource_url"]);
    assert_eq!(
        (mine.default_lifetime, mine.retry_ambiguous),
        (Duration::from_secs(600), false)
    );
    assert_eq!(mine.refused_errors.as_deref().unwrap(), ["token_revoked"]);
    assert_eq!(mine.refused_statuses.as_deref(), Some(&[404][..]));
    let other = &config.providers[&"a.b".parse().unwrap()];
    assert_eq!(other.preset, Some(Preset::Github));
    assert_eq!(
        (other.default_lifetime, other.retry_ambiguous),
        (Duration::from_secs(3600), true)
    );
    assert_eq!(config.secret_variables(), ["GITHUB_SECRET"]);
}

#[test]
fn debug_shows_no_command_and_no_parameter() {
    let config = load(
        "[store]\nidentity_command = 'echo hunter2'\n[providers.n]\npreset = 'google'\nclient_id = 'c'\n\
         client_secret_command = 'echo hunter2'\ntoken_endpoint = 'https://a.example/?key=hunter2'\n\
         token_params = { a = 'hunter2' }\nauthorization_params = { b = 'hunter2' }",
    )
    .unwrap();
    let shown = format!("{config:#?}");
    assert!(!shown.contains(SECRET), "{shown}");
}

#[test]
fn nothing_set_means_the_defaults() {
    let config = load("").unwrap();
    assert_eq!(
        config,
        Config::load(None, &env(&[("XDG_CONFIG_HOME", "/nowhere/at/all")])).unwrap()
    );
    assert_eq!(
        (config.store.backend, config.store.allow_network_fs),
        (Backend::File, false)
    );
    assert_eq!(config.store.identity, IdentitySource::Own);
    assert_eq!(
        config.store.directory().unwrap(),
        Path::new("/home/u/.local/share/credbroker")
    );
    assert_eq!(
        config.audit.directory().unwrap(),
        Path::new("/home/u/.local/state/credbroker/audit")
    );
    let xdg = env(&[
        ("XDG_DATA_HOME", "/d"),
        ("XDG_STATE_HOME", "/s"),
        ("XDG_CONFIG_HOME", "/c"),
    ]);
    let config = load_bytes(b"", &xdg).unwrap();
    assert_eq!(config.store.directory().unwrap(), Path::new("/d/credbroker"));
    assert_eq!(config.audit.directory().unwrap(), Path::new("/s/credbroker/audit"));
    assert_eq!(Config::default_file(&xdg), Some("/c/credbroker/config.toml".into()));
}

#[test]
fn without_a_home_only_who_needs_a_directory_fails() {
    let homeless = Environment::default();
    let config = Config::load(None, &homeless).unwrap();
    let error = config.store.directory().unwrap_err().to_string();
    assert!(
        error.contains("store.path") && error.contains("XDG_DATA_HOME") && error.contains("set HOME"),
        "{error}"
    );
    let error = config.audit.directory().unwrap_err().to_string();
    assert!(
        error.contains("audit.path") && error.contains("XDG_STATE_HOME"),
        "{error}"
    );
    let error = load_bytes(b"[store]\npath = '~/x'", &homeless).unwrap_err().to_string();
    assert!(
        error.contains("config.toml:2: store.path begins with ~, but HOME"),
        "{error}"
    );
}

#[test]
fn the_default_file_may_be_absent_and_a_named_one_may_not() {
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path().to_str().unwrap();
    let env = env(&[("XDG_CONFIG_HOME", home)]);
    assert!(Config::load(None, &env).is_ok());
    let absent = directory.path().join("absent.toml");
    let error = Config::load(Some(&absent), &env).unwrap_err().to_string();
    assert!(
        error.starts_with(&format!("{}: cannot be read: ", absent.display())),
        "{error}"
    );

    fs::create_dir(directory.path().join("credbroker")).unwrap();
    let file = directory.path().join("credbroker/config.toml");
    fs::write(&file, "[store]\npath = 'below'\n").unwrap();
    for explicit in [None, Some(file.as_path())] {
        let config = Config::load(explicit, &env).unwrap();
        assert_eq!(
            config.store.directory().unwrap(),
            directory.path().join("credbroker/below")
        );
    }
    fs::remove_file(&file).unwrap();
    symlink("nowhere", &file).unwrap();
    assert!(
        Config::load(None, &env)
            .unwrap_err()
            .to_string()
            .contains("cannot be read"),
        "a dangling link is meant"
    );
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    assert!(
        Config::load(None, &env)
            .unwrap_err()
            .to_string()
            .contains("cannot be read"),
        "a directory is no file"
    );
}

#[test]
fn files_that_are_no_text_or_no_toml_are_refused_with_the_line() {
    let error = load_bytes(b"\n\n# \xff", &env(&[])).unwrap_err().to_string();
    assert_eq!(error, format!("{PATH}:3: is not UTF-8; save the file as UTF-8 text"));
    let long = vec![b'#'; 1024 * 1024 + 1];
    assert!(
        load_bytes(&long, &env(&[]))
            .unwrap_err()
            .to_string()
            .contains("longer than 1 MiB")
    );
    assert!(
        Config::load(Some(Path::new("/dev/zero")), &env(&[]))
            .unwrap_err()
            .to_string()
            .contains("longer than 1 MiB")
    );
    assert!(
        load_bytes(b"\xef\xbb\xbf[store]\r\nbackend = 'memory'\r\n", &env(&[])).is_ok(),
        "BOM and CRLF"
    );
    for text in [
        "[store]\npath = hunter2",
        "[store]\npath = 'hunter2",
        "[store]\npath = \"hunter2\\q\"",
        "[store]\nhunter2",
        "[store]\npath = 'a' hunter2",
        "[store]\npath = 'hunter2'\npath = 'hunter2'",
    ] {
        let error = load(text).unwrap_err().to_string();
        assert!(
            error.contains("this is not TOML") && !error.contains(SECRET),
            "{text}\n{error}"
        );
        assert!(
            error.starts_with(&format!("{PATH}:2: ")) || error.starts_with(&format!("{PATH}:3: ")),
            "{error}"
        );
    }
    let deep = format!("a = {}", "[".repeat(100_000));
    assert!(load(&deep).is_err(), "nesting ends before the stack does");
}

#[test]
fn keys_in_messages_are_escaped_and_cut() {
    let error = error(&format!("[store]\n\"a\\n\\u001b{}\" = 1", "x".repeat(1000)), 2);
    assert!(error.len() < 500 && error.contains("a\\n\\u{1b}x"), "{error}");
}

#[test]
fn an_empty_section_changes_nothing() {
    assert_eq!(load("[audit]\n[store]\n[providers]").unwrap(), load("").unwrap());
}

#[test]
fn paths_of_a_file_named_relatively_are_absolute_all_the_same() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("c.toml"), "[store]\npath = 'tokens'\n").unwrap();
    let up: PathBuf = std::env::current_dir()
        .unwrap()
        .components()
        .skip(1)
        .map(|_| "..")
        .collect();
    let relative = up.join(directory.path().strip_prefix("/").unwrap()).join("c.toml");
    let config = Config::load(Some(&relative), &env(&[])).unwrap();
    let path = config.store.directory().unwrap();
    assert!(path.is_absolute() && path.ends_with("tokens"), "{}", path.display());
    fs::create_dir(path).unwrap();
    assert!(directory.path().join("tokens").is_dir());
}
