//! Every error says what to do next: what is wrong, a colon or semicolon, and the mend.

#![expect(clippy::unwrap_used, reason = "a failure here is a test's failure")]

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use credbroker::{
    broker::{self, error::LoginFailure, policy::Right},
    client,
    config::{Config, Environment, PolicyFile, read_capability_file},
    credential::{EntryKey, Name},
    sandbox::{Directories, IdMap, Kind, Mount, Place, Request, Runtime, SandboxError, Source, User, Userns, Way},
    server::{
        metrics::MetricsError,
        socket::{DirRole, Flaw, SocketError},
    },
    store::{Operation, StoreError},
};

/// The first words of a mend, as people are told to do something.
const MENDS: &[&str] = &[
    "add",
    "ask for",
    "begin",
    "change to",
    "check",
    "chmod",
    "chown",
    "choose",
    "connect",
    "correct",
    "create",
    "end or cancel",
    "generate",
    "give",
    "install",
    "log in",
    "look",
    "make",
    "mend",
    "mount",
    "move",
    "name",
    "pass",
    "put",
    "register",
    "remove",
    "restart",
    "restore",
    "run",
    "save",
    "send",
    "set",
    "start",
    "stop",
    "store",
    "try",
    "unset",
    "upgrade",
    "use",
    "write",
    "did you mean",
    "the host allows it with",
    "its log on the host says why",
    "the broker's log on the host says why",
    "reflection lists",
];

#[track_caller]
fn says_what_to_do(error: &dyn std::error::Error) {
    let text = error.to_string();
    assert!(!text.contains(char::is_control), "more than one line: {text:?}");
    let has_mend = text
        .match_indices([':', ';'])
        .filter_map(|(at, _)| text.get(at + 1..)?.strip_prefix(' '))
        .any(|mend| MENDS.iter().any(|word| mend.starts_with(word)));
    assert!(has_mend, "does not say what to do: {text}");
}

fn key() -> EntryKey {
    EntryKey::parse("p", "b").unwrap()
}

fn name() -> Name {
    "k".parse().unwrap()
}

fn store_errors() -> Vec<StoreError> {
    let what = || "the entry p/b".to_owned();
    vec![
        StoreError::Corrupt {
            what: what(),
            detail: "its name is another one".into(),
        },
        StoreError::NewerFormat {
            what: what(),
            format: 9,
        },
        StoreError::Busy {
            what: what(),
            holder: None,
        },
        StoreError::Unavailable {
            operation: Operation::Read,
            what: what(),
            cause: Arc::new(io::Error::other("no space left on device")),
        },
    ]
}

#[test]
fn the_brokers_errors_say_what_to_do() {
    use broker::Error;
    let mut errors = vec![
        Error::NoEntry(key()),
        Error::NoKey(name()),
        Error::MessageTooLarge { what: "it", limit: 1 },
        Error::Unauthenticated("missing"),
        Error::UnauthorizedKey(name()),
        Error::PeerNotAllowed { uid: 5 },
        Error::PeerOutside,
        Error::PeerUnknown,
        Error::UnknownVersion { ours: 1 },
        Error::NeedsLogin(key()),
        Error::RefreshRefused(key()),
        Error::AnswerLost(key()),
        Error::SessionNotFound,
        Error::SessionExpired,
        Error::SessionAlreadyUsed,
        Error::TooManySessions { limit: 16 },
        Error::ProviderNotFound(key()),
        Error::ShuttingDown,
        Error::DeadlineExceeded { seconds: 1.0 },
        Error::AuditUnavailable,
        Error::Internal("x".into()),
        Error::invalid_name("provider", &"a b".parse::<Name>().unwrap_err()),
    ];
    errors.extend(
        [
            LoginFailure::Denied,
            LoginFailure::Expired,
            LoginFailure::NotOurs,
            LoginFailure::Refused,
            LoginFailure::OtherAccount,
            LoginFailure::Withdrawn,
            LoginFailure::NoToken,
            LoginFailure::Rejected,
            LoginFailure::Unavailable,
            LoginFailure::GoesOn,
            LoginFailure::CannotListen,
        ]
        .map(|why| Error::LoginFailed { key: key(), why }),
    );
    errors.extend(store_errors().into_iter().map(Error::Store));
    errors.push(Error::Store(StoreError::Locked { mend: "x".into() }));
    for error in &errors {
        says_what_to_do(error);
    }
}

#[test]
fn what_a_login_mends_names_the_command_for_its_entry() {
    use broker::Error;
    let work = EntryKey::parse("p", "work").unwrap();
    for (key, command) in [
        (EntryKey::parse("p", "").unwrap(), "`credbroker login p`"),
        (work, "`credbroker login p --bucket work`"),
    ] {
        for error in [
            Error::NoEntry,
            Error::NeedsLogin,
            Error::RefreshRefused,
            Error::AnswerLost,
        ] {
            let text = error(key.clone()).to_string();
            assert!(text.contains(command) && text.contains("--allow-login"), "{text}");
        }
    }
}

#[test]
fn a_refusal_names_the_flag_and_the_policys_key_of_the_right_that_is_missing() {
    for (right, flag, word) in [
        (Right::Read, "`--allow p/b`", "`allow`"),
        (Right::Login, "`--allow-login p/b`", "`allow_login`"),
        (Right::Save, "`--allow-save p/b`", "`allow_save`"),
        (Right::Remove, "`--allow-remove p/b`", "`allow_remove`"),
    ] {
        let error = broker::Error::Unauthorized { right, key: key() };
        says_what_to_do(&error);
        let text = error.to_string();
        assert!(text.contains(flag) && text.contains(word), "{text}");
        assert_eq!(text.matches("--").count(), 1, "{text}");
    }
}

#[test]
fn the_errors_of_sandboxes_say_what_to_do() {
    let name = || "N".to_owned();
    let runtime = Runtime::Docker;
    for error in [
        SandboxError::DirectoryStream {
            stream: "standard input",
        },
        SandboxError::VariableWithValue,
        SandboxError::NoVariableName { name: name() },
        SandboxError::OwnVariable { name: name() },
        SandboxError::RuntimesVariable { name: name(), runtime },
        SandboxError::LeadsThere { name: name(), runtime },
        SandboxError::NoSuchVariable { name: name() },
        SandboxError::NoImage { runtime },
        SandboxError::BadImage { image: name() },
        SandboxError::Authorities {
            variable: "SSL_CERT_FILE",
            path: "/p".into(),
        },
        SandboxError::TwoMappings,
        SandboxError::NoSubordinates,
        SandboxError::Remapped,
        SandboxError::NoProgram {
            runtime: Runtime::Bwrap,
        },
        SandboxError::NoProgram {
            runtime: Runtime::Podman,
        },
        SandboxError::NoProgram { runtime },
    ] {
        says_what_to_do(&error);
    }
    // The others get their mend where they are made.
    let (place, kind) = (Place::new("/".into(), None, Vec::new()), Kind::Directory);
    let source = |path: &Path, kind| Source {
        named: path.into(),
        place: Place::new(path.into(), None, Vec::new()),
        kind,
    };
    let directories = Directories {
        working: place,
        home_path: None,
        homes: Vec::new(),
        own: Vec::new(),
        executable: Place::new("/srv/bin/credbroker".into(), None, Vec::new()),
    };
    let mut request = Request {
        runtime: Runtime::Podman,
        image: Some(name()),
        mounts: Vec::new(),
        user: None,
        uidmap: Vec::new(),
        userns: None,
        variables: Vec::new(),
        arguments: Vec::new(),
        command: Vec::new(),
    };
    for (argument, kind) in [
        (&b"/"[..], kind),
        (b"/a", Kind::Absent),
        (b"/a", Kind::Other),
        (b"/a:/proc", kind),
        (b"/a:/run/credbroker", kind),
        (b"/a:/b/../c", kind),
        (b"/srv/bin", kind),
        (b"/a\xff:/b", kind),
        (b"/a:/b\xff", kind),
    ] {
        let mount = Mount::parse(OsStr::from_bytes(argument)).unwrap();
        let source = source(&mount.source, kind);
        request.mounts = vec![(mount, source)];
        says_what_to_do(&request.check(&directories).unwrap_err());
    }
    request.arguments = vec!["--network=host".into()];
    for runtime in [Runtime::Bwrap, Runtime::Podman] {
        request.runtime = runtime;
        says_what_to_do(&request.check_network([("p", "token_endpoint")]).unwrap_err());
    }
    says_what_to_do(&source(Path::new("/a"), kind).behind_a_link(Path::new("/a"), Path::new("/b")));
    says_what_to_do(&directories.behind_a_link(Path::new("/b")));
    says_what_to_do(&SandboxError::missing_where_nothing_is_made("/usr/a".into()));
    let way = Way {
        from: "/a".into(),
        rest: "link/b".into(),
        destination: "/c/link/b".into(),
    };
    says_what_to_do(&way.has_a_link());
    for argument in ["", "/a:b", "/a:/b:c", "/a:/b:ro:d"] {
        says_what_to_do(&Mount::parse(argument.as_ref()).unwrap_err());
    }
    says_what_to_do(&"node".parse::<User>().unwrap_err());
    says_what_to_do(&"0".parse::<IdMap>().unwrap_err());
    says_what_to_do(&"auto".parse::<Userns>().unwrap_err());
}

#[test]
fn the_stores_errors_say_what_to_do() {
    for error in &store_errors() {
        says_what_to_do(error);
    }
}

#[test]
fn the_sockets_errors_say_what_to_do() {
    let path = || PathBuf::from("/run/x");
    let roles = [
        DirRole::Temporary,
        DirRole::RuntimeParent,
        DirRole::Runtime,
        DirRole::SocketParent,
    ];
    let mut errors = vec![
        SocketError::NotASocketMode { mode: 0o7777 },
        SocketError::DaemonRunning {
            pid: Some(1),
            socket: path(),
        },
        SocketError::InUse {
            path: path(),
            pid: None,
        },
        SocketError::NotASocket { path: path() },
        SocketError::Unclear {
            path: path(),
            source: io::Error::other("x"),
        },
        SocketError::Occupied { path: path() },
        SocketError::Changed { path: path() },
        SocketError::SeveralInherited {
            count: 2,
            names: Some("a:b".into()),
        },
        SocketError::NotInheritable {
            problem: "it does not listen".into(),
        },
        SocketError::InheritedAndChosen,
        SocketError::Busy {
            path: path(),
            seconds: 10,
        },
        SocketError::System {
            action: "bind",
            path: path(),
            source: io::Error::other("x"),
        },
    ];
    for role in roles {
        errors.push(SocketError::Missing { path: path(), role });
        errors.push(SocketError::PathTooLong {
            path: path(),
            length: 120,
            limit: 107,
            role,
        });
        for flaw in [
            Flaw::Symlink,
            Flaw::NotADirectory,
            Flaw::Owner { found: 1, own: 2 },
            Flaw::Mode { found: 0o777 },
        ] {
            errors.push(SocketError::Unsafe {
                path: path(),
                role,
                flaw,
            });
        }
    }
    for error in &errors {
        says_what_to_do(error);
    }
    // Where the key of the configuration asked for the path, nobody is sent to the flag.
    for error in errors {
        let error = MetricsError::Path(error);
        says_what_to_do(&error);
        assert!(!error.to_string().contains("--socket PATH"), "{error}");
    }
    says_what_to_do(&MetricsError::Address {
        address: "127.0.0.1:1".parse().unwrap(),
        cause: io::Error::other("x"),
    });
    // This one is the rule itself.
    let error = SocketError::NotASocketPath { path: path() }.to_string();
    assert!(error.contains(": it must be absolute"), "{error}");
}

#[test]
fn the_configurations_errors_say_what_to_do() {
    let directory = tempfile::TempDir::new().unwrap();
    let file = directory.path().join("file");
    let none = Environment::default();
    for text in [
        "[stor]",
        "[store]\nbacken = 1",
        "[store]\nbackend = 1",
        "[store]\nbackend = \"fil\"",
        "[store]\npath = \"~/x\"",
        "[store]\npath = \"~x/y\"",
        "[store]\nidentity_file = \"a\"\nidentity_command = \"b\"",
        "[providers.\"a b\"]",
        "[providers.p]",
        "[providers.p]\nclient_id = \"c\"",
        "[providers.p]\nclient_secret = \"c\"",
        "store = 1",
        "backend = 1",
        "not toml",
    ] {
        fs::write(&file, text).unwrap();
        says_what_to_do(&Config::load(Some(&file), &none).unwrap_err());
    }
    for text in [
        "",
        "[sandboxes.a]",
        "[sandbox.a]",
        "[sandboxes.a]\ncapability_sha256 = \"x\"",
    ] {
        fs::write(&file, text).unwrap();
        says_what_to_do(&PolicyFile::load(&file).unwrap_err());
    }
    fs::write(&file, "x").unwrap();
    says_what_to_do(&read_capability_file(&file).unwrap_err());
    says_what_to_do(&read_capability_file(directory.path()).unwrap_err());
    says_what_to_do(&read_capability_file(&directory.path().join("absent")).unwrap_err());
    says_what_to_do(&Config::load(Some(directory.path()), &none).unwrap_err());
    for variable in [
        "CREDBROKER_STORE_BACKEN",
        "CREDBROKER_PROVIDERS_P_ISSUER",
        "CREDBROKER_STORE_BACKEND",
    ] {
        let environment = Environment::from_iter([(variable, "x")]);
        says_what_to_do(&Config::load(None, &environment).unwrap_err());
    }
    let config = Config::load(None, &none).unwrap();
    says_what_to_do(&config.store.directory().unwrap_err());
    says_what_to_do(&config.audit.directory().unwrap_err());
}

#[tokio::test]
async fn the_clients_errors_say_what_to_do() {
    let absent = client::ProxyTokenStore::new("/nonexistent/sock", None)
        .unwrap()
        .server_info()
        .await
        .err()
        .unwrap();
    assert_eq!(
        absent.to_string(),
        "Cannot connect to the credential broker. Ensure the sandbox was started correctly."
    );
    assert_eq!(
        client::Error::ConnectionLost.to_string(),
        "Credential broker connection lost. Restart the session."
    );
    assert_eq!(
        client::Error::UnknownVersion(client::Refusal::new("other words")).to_string(),
        "Credential broker version mismatch. Restart the session."
    );
    says_what_to_do(&client::Error::InvalidCapability);
    says_what_to_do(&client::Error::LoginCancelled);
    let other = |reason: &str| client::Error::Other {
        code: tonic::Code::Internal,
        reason: reason.into(),
        refusal: client::Refusal::new("something else"),
    };
    says_what_to_do(&other(""));
    // What a newer broker says is its own sentence; the name of its reason helps to look it up.
    assert_eq!(other("NEW_REASON").to_string(), "something else (NEW_REASON)");
}
