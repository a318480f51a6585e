//! The command line as scripts and people use it: the real binary, its exit codes, its two outputs.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a failure here is a test's failure"
)]

#[expect(dead_code, reason = "each test file uses its own part of what they share")]
mod command;

use std::{
    fs,
    io::pipe,
    os::unix::{fs::PermissionsExt as _, net::UnixListener},
    process::Stdio,
};

use command::{Answer, Host, NO_BOUNDARY, Running, Serve, wait_until};
use jiff::Timestamp;
use rustix::process::Signal;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

const DIGITS: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

fn digest() -> String {
    let bytes = data_encoding::HEXLOWER.decode(DIGITS.as_bytes()).unwrap();
    data_encoding::HEXLOWER.encode(&Sha256::digest(bytes))
}

/// The only file below a directory of the store.
fn only_record(host: &Host, kind: &str) -> std::path::PathBuf {
    command::modes_below(&host.store().join(kind))
        .into_iter()
        .map(|(path, _)| path)
        .find(|path| path.extension().is_some_and(|extension| extension == "age"))
        .unwrap()
}

#[test]
fn what_clap_and_we_refuse_is_usage_64_on_standard_error() {
    let host = Host::new();
    let table: &[(&[&str], &str)] = &[
        (&[], "Usage: credbroker"),
        (&["bogus"], "unrecognized subcommand"),
        (&["token"], "Usage: credbroker token"),
        (&["token", "get"], "Usage: credbroker token get"),
        (&["token", "get", "a b"], "is no valid name"),
        (&["token", "get", "p", "--bucket", ".."], "is no valid name"),
        (&["token", "get", "p", "--bogus"], "unexpected argument"),
        (&["token", "get", "p", "--json", "--header"], "cannot be used with"),
        (&["token", "get", "p", "--min-validity", "-5"], "not negative"),
        (&["token", "get", "p", "--min-validity=soon"], "a number of seconds"),
        (&["key", "set", "k", "secret"], "unexpected argument"),
        (&["run"], "Usage: credbroker run"),
        (&["run", "--"], "Usage: credbroker run"),
        (&["run", "true"], "Usage: credbroker run"),
        (&["run", "--sandbox", "chroot", "--", "true"], "possible values"),
        (
            &["run", "--allow", "p/", "--", "true"],
            "write P for the default bucket",
        ),
        (&["run", "--allow-key", "k/b", "--", "true"], "write K or *"),
        (&["serve", "--allow-uid", "5"], "--capability-file or --policy"),
        (
            &["serve", "--allow-uid", "5", "--allow", "p"],
            "Usage: credbroker serve",
        ),
        (&["serve", "--allow-uid", "x"], "invalid value"),
        (&["serve", "--socket-mode", "660"], "--socket-mode needs --socket"),
        (
            &["serve", "--socket", "s", "--socket-mode", "999"],
            "three octal digits",
        ),
        (
            &["serve", "--policy", "f", "--capability-file", "f"],
            "cannot be used with",
        ),
        (&["serve", "--policy", "f", "--allow", "p"], "cannot be used with"),
        (&["serve", "--policy", "f", "--allow-key", "k"], "cannot be used with"),
        (&["--log-format", "xml", "status"], "possible values"),
    ];
    for (arguments, text) in table {
        host.run(arguments).failed(64).saying(text);
    }
    assert!(host.brokers().is_empty());
}

#[test]
fn no_secret_is_taken_from_an_argument() {
    let host = Host::new();
    host.run(&["key", "set", "k", "secret"])
        .failed(64)
        .saying("unexpected argument");
    // A file of that name is what it looks for.
    host.run(&["token", "import", "p", r#"{"access_token":"a"}"#])
        .failed(65)
        .saying("give a file");
    for kind in ["token", "key"] {
        assert_eq!(host.run(&[kind, "list"]).succeeded().out, "");
    }
}

#[test]
fn a_socket_path_that_the_system_has_no_room_for_is_refused_with_the_limit_and_the_way_out() {
    let host = Host::new();
    let path = host.path(&"x".repeat(120));
    host.run(&["serve", "--socket", path.to_str().unwrap()])
        .failed(64)
        .saying(if cfg!(target_os = "linux") { "107" } else { "103" })
        .saying("choose a shorter --socket PATH");
    assert!(host.brokers().is_empty());
}

#[test]
fn one_entry_that_cannot_be_opened_does_not_hide_the_others_from_status() {
    let host = Host::new();
    for provider in ["p", "q"] {
        host.import(provider, r#"{"access_token":"a"}"#);
    }
    let file = host.store().join("tokens/70/64656661756c74.age");
    fs::remove_file(&file).unwrap();
    std::os::unix::fs::symlink("/nowhere", &file).unwrap();
    let status: Value = serde_json::from_str(&host.run(&["status", "--json"]).succeeded().out).unwrap();
    let states: Vec<_> = status["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["state"].clone())
        .collect();
    assert_eq!(states, ["locked", "ok"]);
}

#[test]
fn help_and_version_are_results() {
    let host = Host::new();
    for arguments in [
        &["--help"][..],
        &["help", "run"],
        &["token", "get", "-h"],
        &["--version"],
    ] {
        let answer = host.run(arguments).succeeded();
        assert!(!answer.out.is_empty() && answer.err.is_empty(), "{answer:?}");
    }
    let version = host.run(&["--version"]).out;
    assert_eq!(version, format!("credbroker {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn results_go_to_standard_output_and_everything_else_to_standard_error() {
    let host = Host::new();
    let imported = host.run_with(
        &["token", "import", "p", "-"],
        br#"{"access_token":"a","refresh_token":"r"}"#,
    );
    assert_eq!(imported.code, 0, "{imported:?}");
    assert_eq!(imported.out, "");
    assert!(
        imported
            .err
            .starts_with("credbroker: stored p/default with a refresh token; "),
        "{imported:?}"
    );

    let set = host.run_with(&["key", "set", "k"], b"v");
    assert_eq!(
        (set.code, set.out.as_str(), set.err.as_str()),
        (0, "", "credbroker: stored the API key k\n")
    );

    let table: &[(&[&str], &str)] = &[
        (&["token", "get", "p"], "a\n"),
        (&["token", "get", "p", "--min-validity", "5m"], "a\n"),
        (&["token", "get", "p", "--min-validity", "315360000"], "a\n"),
        (&["token", "get", "p", "--header"], "authorization: Bearer a\n"),
        (&["token", "list"], "p/default\n"),
        (&["key", "get", "k"], "v\n"),
        (&["key", "list"], "k\n"),
    ];
    for (arguments, out) in table {
        let answer = host.run(arguments).succeeded();
        assert_eq!((answer.out.as_str(), answer.err.as_str()), (*out, ""), "{arguments:?}");
    }
    let providers = host.run(&["providers"]).succeeded();
    assert!(
        providers.out.starts_with("PROVIDER ") && providers.out.contains("\np "),
        "{providers:?}"
    );
    let status = host.run(&["status"]).succeeded();
    assert!(status.out.contains("p/default") && status.err.is_empty(), "{status:?}");

    let removed = host.run(&["key", "remove", "k"]).succeeded();
    assert_eq!(
        (removed.out.as_str(), removed.err.as_str()),
        ("", "credbroker: removed the API key k\n")
    );
    assert_eq!(host.run(&["key", "list"]).succeeded().out, "");

    let empty = Host::new().run(&["providers"]).succeeded();
    assert!(empty.out.is_empty() && empty.err.contains("token import"), "{empty:?}");
}

#[test]
fn a_sandbox_gets_the_same_answers_through_its_socket_and_needs_no_home() {
    let host = Host::with_entry();
    let serve = Serve::start(&host, &["--allow", "p", "--allow-key", "k"]);
    for arguments in [
        &["token", "get", "p"][..],
        &["token", "get", "p", "--min-validity", "90s"],
        &["token", "get", "p", "--header"],
        &["token", "list"],
        &["key", "get", "k"],
        &["key", "list"],
    ] {
        let (there, here) = (host.run(arguments).succeeded(), serve.ask(&host, arguments).succeeded());
        assert_eq!(there.out, here.out, "{arguments:?}");
        assert_eq!(here.err, "");
    }
    let status = serve.ask(&host, &["status"]).succeeded();
    assert!(
        status.out.contains("p/default") && status.out.contains(env!("CARGO_PKG_VERSION")),
        "{status:?}"
    );
    // The host's configuration has no part in a sandbox, whatever is wrong with it.
    serve
        .ask(&host, &["--config", "/nonexistent", "token", "get", "p"])
        .succeeded();

    serve.ask(&host, &["token", "get", "absent", "--json"]).failed(77);
    assert_eq!(serve.end_by(Signal::TERM), 0);
}

#[test]
fn json_of_a_token_has_the_keys_and_types_that_programs_rely_on() {
    let host = Host::new();
    host.import(
        "p",
        r#"{"access_token":"a","refresh_token":"r","expires_in":3600,"token_type":"bearer","scope":"x y"}"#,
    );
    host.import("forever", r#"{"access_token":"b"}"#);
    let serve = Serve::start(&host, &[]);
    for ask in [
        &(|arguments: &[&str]| host.run(arguments)) as &dyn Fn(&[&str]) -> Answer,
        &|arguments| serve.ask(&host, arguments),
    ] {
        let answer = ask(&["token", "get", "p", "--json"]).succeeded();
        let json: Value = serde_json::from_str(&answer.out).unwrap();
        let keys: Vec<&String> = json.as_object().unwrap().keys().collect();
        assert_eq!(
            keys,
            [
                "access_token",
                "expire_time",
                "expires_in",
                "extra",
                "revision",
                "scope",
                "token_type"
            ]
        );
        assert_eq!(json["access_token"], "a");
        assert_eq!(json["token_type"], "bearer");
        assert_eq!(json["scope"], "x y");
        assert_eq!(json["extra"], serde_json::json!({}));
        assert!(!json["revision"].as_str().unwrap().is_empty());
        let left = json["expires_in"].as_u64().unwrap();
        assert!((3500..=3600).contains(&left), "{left}");
        let expire_time: Timestamp = json["expire_time"].as_str().unwrap().parse().unwrap();
        assert!(expire_time > Timestamp::UNIX_EPOCH);

        let answer = ask(&["token", "get", "forever", "--json"]).succeeded();
        let json: Value = serde_json::from_str(&answer.out).unwrap();
        assert!(json["expire_time"].is_null() && json["expires_in"].is_null(), "{json}");
        assert_eq!(json["token_type"], "Bearer");
    }
}

#[test]
fn json_of_the_status_has_the_keys_and_types_that_programs_rely_on() {
    let host = Host::new();
    host.import(
        "p",
        r#"{"access_token":"a","refresh_token":"r","expires_in":3600,"sub":"alice"}"#,
    );
    host.import("old", r#"{"access_token":"a","expires_in":0}"#);
    host.import("new", r#"{"access_token":"a"}"#);
    let serve = Serve::start(&host, &[]);
    serve.ask(&host, &["token", "get", "p"]).succeeded();

    let json: Value = serde_json::from_str(&host.run(&["status", "--json"]).succeeded().out).unwrap();
    assert_eq!(
        json.as_object().unwrap().keys().collect::<Vec<_>>(),
        ["brokers", "entries"]
    );
    let broker = &json["brokers"][0];
    assert_eq!(broker.as_object().unwrap().len(), 3);
    assert_eq!(broker["pid"], serve.pid());
    assert_eq!(broker["socket"], serve.socket.to_str().unwrap());
    assert_eq!(broker["version"], env!("CARGO_PKG_VERSION"));

    let entries = json["entries"].as_array().unwrap();
    assert_eq!(entries.len(), 3);
    for entry in entries {
        let mut keys: Vec<&str> = entry.as_object().unwrap().keys().map(String::as_str).collect();
        keys.sort_unstable();
        assert_eq!(
            keys,
            [
                "bucket",
                "expire_time",
                "failures",
                "last_used",
                "next_renewal",
                "provider",
                "saved_by",
                "state",
                "subject",
                "watchers"
            ]
        );
        assert_eq!(entry["bucket"], "default");
        assert!(entry["failures"].is_u64() && entry["state"].is_string(), "{entry}");
    }
    let of = |provider: &str| entries.iter().find(|entry| entry["provider"] == provider).unwrap();
    let p = of("p");
    assert_eq!(
        (&p["state"], &p["subject"]),
        (&Value::from("ok"), &Value::from("alice"))
    );
    for moment in ["expire_time", "last_used"] {
        p[moment].as_str().unwrap().parse::<Timestamp>().unwrap();
    }
    assert_eq!(of("old")["state"], "needs_login");
    assert!(of("new")["expire_time"].is_null() && of("new")["last_used"].is_null() && of("new")["subject"].is_null());

    // A sandbox learns less, in the same shape.
    let json: Value = serde_json::from_str(&serve.ask(&host, &["status", "--json"]).succeeded().out).unwrap();
    assert_eq!(json["brokers"][0]["socket"], serve.socket.to_str().unwrap());
    assert_eq!(json["brokers"][0]["version"], env!("CARGO_PKG_VERSION"));
    assert!(json["entries"][0]["state"].is_null() && json["entries"][0]["subject"].is_null());
}

#[test]
fn an_import_that_is_refused_ends_with_65_and_never_quotes_what_it_read() {
    let host = Host::new();
    let long = format!(r#"{{"access_token":"hunter2{}"}}"#, "x".repeat(20_000));
    let huge = format!(r#"{{"access_token":"hunter2","x":"{}"}}"#, "x".repeat(300_000));
    let table = [
        ("", "not JSON"),
        ("hunter2", "not JSON"),
        (r#"{"access_token":"hunter2""#, "not JSON"),
        (r#"["hunter2"]"#, "not a JSON object"),
        (r#"{"refresh_token":"hunter2"}"#, "\"access_token\" is missing"),
        (r#"{"access_token":""}"#, "\"access_token\" is missing"),
        (r#"{"access_token":["hunter2"]}"#, "\"access_token\" is not a string"),
        (
            r#"{"access_token":"a","refresh_token":["hunter2"]}"#,
            "\"refresh_token\" is not a string",
        ),
        (r#"{"access_token":"hunter2\nx"}"#, "\"access_token\" is not a token"),
        (r#"{"access_token":"a","expires_in":"hunter2"}"#, "\"expires_in\""),
        (r#"{"access_token":"a","expires_at":"hunter2"}"#, "\"expires_at\""),
        (&long, "\"access_token\" is not a token"),
        (&huge, "larger than"),
    ];
    for (json, text) in table {
        let answer = host
            .run_with(&["token", "import", "p"], json.as_bytes())
            .failed(65)
            .saying(text);
        assert!(!answer.err.contains("hunter2"), "{answer:?}");
        let file = host.write("token.json", json);
        let answer = host
            .run(&["token", "import", "p", &file])
            .failed(65)
            .saying(text)
            .saying("token.json");
        assert!(!answer.err.contains("hunter2"), "{answer:?}");
    }
    host.run_with(&["token", "import", "p"], b"\xff\xfe").failed(65);
    host.run(&["token", "import", "p", "/nonexistent"])
        .failed(65)
        .saying("/nonexistent");
    host.run(&["token", "import", "p", "/"]).failed(65);
    assert_eq!(host.run(&["token", "list"]).succeeded().out, "");
}

#[test]
fn an_import_takes_a_file_or_standard_input_and_replaces_what_is_there() {
    let host = Host::new();
    let file = host.write(
        "token.json",
        r#"{"access_token":"from-file","expires_at":"2999-01-01T00:00:00Z"}"#,
    );
    host.run(&["token", "import", "p", "--bucket", "work", &file])
        .succeeded()
        .saying("stored p/work without a refresh token");
    assert_eq!(host.run(&["token", "get", "p", "--bucket", "work"]).out, "from-file\n");
    for arguments in [
        &["token", "import", "p", "--bucket", "work"][..],
        &["token", "import", "p", "--bucket", "work", "-"],
    ] {
        host.run_with(arguments, br#"{"access_token":"from-stdin"}"#)
            .succeeded()
            .saying("does not expire");
        assert_eq!(host.run(&["token", "get", "p", "--bucket", "work"]).out, "from-stdin\n");
    }
    assert_eq!(host.run(&["token", "list"]).out, "p/work\n");
}

#[test]
fn key_set_drops_one_final_line_end_and_refuses_what_is_no_key() {
    let host = Host::new();
    for (input, stored) in [
        ("v", "v"),
        ("v\n", "v"),
        ("v\r\n", "v"),
        ("v\n\n", "v\n"),
        ("a\nb\n", "a\nb"),
        (" v ", " v "),
    ] {
        host.run_with(&["key", "set", "k"], input.as_bytes()).succeeded();
        assert_eq!(
            host.run(&["key", "get", "k"]).succeeded().out,
            format!("{stored}\n"),
            "{input:?}"
        );
    }
    let long = "x".repeat(100_000);
    for bad in [&b""[..], b"\n", b"\r\n", b"hunter2\xff", b"hunter2\0", long.as_bytes()] {
        let answer = host.run_with(&["key", "set", "k"], bad).failed(65);
        assert!(!answer.err.contains("hunter2"), "{answer:?}");
    }
    assert_eq!(host.run(&["key", "get", "k"]).out, " v \n");
}

#[test]
fn what_is_not_there_is_66_on_the_host_and_in_a_sandbox() {
    let host = Host::with_entry();
    let serve = Serve::start(&host, &["--allow", "*", "--allow-key", "*"]);
    for arguments in [
        &["token", "get", "absent"][..],
        &["token", "get", "p", "--bucket", "absent"],
        &["key", "get", "absent"],
    ] {
        host.run(arguments).failed(66).saying("on the host with `credbroker");
        serve
            .ask(&host, arguments)
            .failed(66)
            .saying("on the host with `credbroker");
    }
    host.run(&["key", "remove", "absent"]).failed(66);
}

#[test]
fn nobody_at_the_socket_is_69_with_the_sentence_of_the_client() {
    let host = Host::new();
    let stale = host.path("stale");
    drop(UnixListener::bind(&stale).unwrap());
    let file = host.write("file", "");
    for socket in [host.path("absent").as_path(), &stale, file.as_ref()] {
        for arguments in [
            &["token", "get", "p"][..],
            &["token", "list"],
            &["key", "list"],
            &["status"],
        ] {
            let mut command = host.command(arguments);
            command.env("CREDBROKER_SOCKET", socket);
            let answer = Answer::of(command).failed(69);
            assert_eq!(
                answer.err,
                "credbroker: error: Cannot connect to the credential broker. Ensure the sandbox was started correctly.\n"
            );
        }
    }
}

#[test]
fn what_works_on_the_host_only_is_77_in_a_sandbox_with_the_exact_sentence() {
    let host = Host::new();
    let only = |name: &str| format!("`{name}` is not available in sandbox mode. Run it on the host.");
    let keys = "API key management is not available in sandbox mode. Manage keys on the host.".to_owned();
    let table: &[(&[&str], String)] = &[
        (&["serve"], only("serve")),
        (&["run", "--", "true"], only("run")),
        (&["providers"], only("providers")),
        (&["audit", "verify"], only("audit verify")),
        (&["audit", "show", "--json"], only("audit show")),
        (&["token", "import", "p"], only("token import")),
        (&["key", "set", "k"], keys.clone()),
        (&["key", "remove", "k"], keys),
    ];
    for (arguments, sentence) in table {
        // Said before anything is connected to or read.
        let mut command = host.command(arguments);
        command
            .env("CREDBROKER_SOCKET", "/nonexistent")
            .env("CREDBROKER_NONSENSE", "1");
        let answer = Answer::of(command).failed(77);
        assert_eq!(answer.err, format!("credbroker: error: {sentence}\n"));
    }
    // An empty variable is as good as none.
    let mut command = host.command(&["providers"]);
    command.env("CREDBROKER_SOCKET", "");
    Answer::of(command).succeeded();
}

#[test]
fn a_refusal_is_77_and_names_the_one_flag_that_helps_whether_the_entry_exists_or_not() {
    let host = Host::with_entry();
    let serve = Serve::start(&host, &["--allow", "other"]);
    let refused = serve.ask(&host, &["token", "get", "p"]).failed(77);
    assert!(
        refused.err.contains("`--allow p/default`") && !refused.err.contains("--allow-"),
        "{refused:?}"
    );
    let absent = serve.ask(&host, &["token", "get", "q"]).failed(77);
    assert_eq!(absent.err, refused.err.replace("p/default", "q/default"));
    let key = serve
        .ask(&host, &["key", "get", "k"])
        .failed(77)
        .saying("`--allow-key k`");
    assert_eq!(
        serve.ask(&host, &["key", "get", "j"]).failed(77).err,
        key.err.replace("key k", "key j")
    );
    // Lists leave out, they do not refuse.
    for list in ["token", "key"] {
        let listed = serve.ask(&host, &[list, "list"]).succeeded();
        assert_eq!((listed.out.as_str(), listed.err.as_str()), ("", ""));
    }
}

#[test]
fn a_capability_that_is_missing_or_wrong_is_77() {
    let host = Host::with_entry();
    let file = host.write("capability", &format!("{DIGITS}\n"));
    let serve = Serve::start(&host, &["--capability-file", &file]);
    let with = |capability: &str| {
        let mut command = serve.client(&host, &["token", "get", "p"]);
        command.env("CREDBROKER_CAPABILITY", capability);
        Answer::of(command)
    };
    serve.ask(&host, &["token", "get", "p"]).failed(77).saying("missing");
    for wrong in [&DIGITS.replace('0', "1"), &DIGITS[..62], "x", "\u{1}"] {
        let answer = with(wrong).failed(77);
        assert!(wrong.len() < 60 || !answer.err.contains(wrong), "{answer:?}");
    }
    assert_eq!(with(DIGITS).succeeded().out, "access-1\n");
}

#[test]
fn an_expired_token_says_what_is_missing_to_renew_it() {
    let host = Host::new();
    host.import("p", r#"{"access_token":"a","expires_in":0}"#);
    host.import("q", r#"{"access_token":"a","expires_in":0,"refresh_token":"r"}"#);
    let serve = Serve::start(&host, &[]);
    for (provider, code, text) in [("p", 77, "token import"), ("q", 78, "[providers.q]")] {
        let arguments = ["token", "get", provider];
        host.run(&arguments).failed(code).saying(text);
        serve.ask(&host, &arguments).failed(code).saying(text);
    }
}

#[test]
fn a_store_without_its_identity_is_75_and_not_empty() {
    let host = Host::with_entry();
    fs::rename(host.store().join("identity.txt"), host.path("identity")).unwrap();
    let serve = Serve::start(&host, &["--allow-key", "*"]);
    for arguments in [&["token", "get", "p"][..], &["key", "get", "k"]] {
        host.run(arguments).failed(75).saying("identity.txt");
        // A sandbox is told no path.
        let told = serve.ask(&host, arguments).failed(75).saying("locked");
        assert!(!told.err.contains("identity"), "{told:?}");
    }
    host.run_with(&["token", "import", "q"], br#"{"access_token":"a"}"#)
        .failed(75);
    let json: Value = serde_json::from_str(&host.run(&["status", "--json"]).succeeded().out).unwrap();
    assert_eq!(json["entries"][0]["state"], "locked");

    fs::rename(host.path("identity"), host.store().join("identity.txt")).unwrap();
    assert_eq!(host.run(&["token", "get", "p"]).succeeded().out, "access-1\n");
    fs::set_permissions(host.store().join("identity.txt"), fs::Permissions::from_mode(0o644)).unwrap();
    host.run(&["token", "get", "p"]).failed(75).saying("chmod 600");
}

#[test]
fn a_corrupt_record_is_65_and_only_an_import_or_key_set_replaces_it() {
    let host = Host::with_entry();
    for kind in ["tokens", "keys"] {
        fs::write(only_record(&host, kind), "hunter2").unwrap();
    }
    let serve = Serve::start(&host, &["--allow-key", "*"]);
    for arguments in [&["token", "get", "p"][..], &["key", "get", "k"]] {
        for answer in [host.run(arguments), serve.ask(&host, arguments)] {
            let answer = answer.failed(65).saying("corrupt");
            assert!(!answer.err.contains("hunter2"), "{answer:?}");
        }
    }
    let json: Value = serde_json::from_str(&host.run(&["status", "--json"]).succeeded().out).unwrap();
    assert_eq!(json["entries"][0]["state"], "corrupt");
    assert_eq!(host.run(&["token", "list"]).succeeded().out, "p/default\n");

    host.import("p", r#"{"access_token":"again"}"#);
    host.run_with(&["key", "set", "k"], b"again").succeeded();
    assert_eq!(host.run(&["token", "get", "p"]).succeeded().out, "again\n");
    assert_eq!(host.run(&["key", "get", "k"]).succeeded().out, "again\n");
}

#[test]
fn a_configuration_error_is_78_on_one_line_with_file_line_key_and_the_nearest_key() {
    let host = Host::new();
    let file = host.write(
        "config/credbroker/config.toml",
        "# why\n[store]\nbackend = \"file\"\nidentity_fil = \"hunter2\"\n",
    );
    for arguments in [
        &["token", "get", "p"][..],
        &["status"],
        &["providers"],
        &["serve"],
        &["key", "set", "k"],
    ] {
        let answer = host.run(arguments).failed(78);
        assert_eq!(
            answer.err,
            format!(
                "credbroker: error: {file}:4: unknown key \"store.identity_fil\"; did you mean \"identity_file\"?\n"
            )
        );
    }
    host.write("config/credbroker/config.toml", "");
    host.run(&["token", "list"]).succeeded();

    for (content, text) in [
        ("[stor]\n", "unknown section \"stor\""),
        ("[store]\nbackend = 3\n", ":2: store.backend must be one of \"file\""),
        ("[store]\nbackend = hunter2\n", ":2: this is not TOML"),
        (
            "[providers.p]\nclient_secret = \"hunter2\"\n",
            "a secret is never written into this file",
        ),
        ("[store]\npath = \"\"\n", ":2: store.path must be a path"),
    ] {
        let other = host.write("other.toml", content);
        let answer = host
            .run(&["--config", &other, "token", "list"])
            .failed(78)
            .saying(text)
            .saying(&other);
        assert_eq!(answer.err.lines().count(), 1, "{answer:?}");
        assert!(!answer.err.contains("hunter2"), "{answer:?}");
        // The flag is every command's, before and after its name.
        host.run(&["token", "list", "--config", &other]).failed(78);
    }
    host.run(&["--config", "/nonexistent", "token", "list"])
        .failed(78)
        .saying("/nonexistent: cannot be read");

    let mut command = host.command(&["token", "list"]);
    command.env("CREDBROKER_STORE_BACKEN", "hunter2");
    let answer = Answer::of(command).failed(78).saying("CREDBROKER_STORE_BACKEND");
    assert!(
        answer.err.lines().count() == 1 && !answer.err.contains("hunter2"),
        "{answer:?}"
    );
}

#[test]
fn a_variable_overrides_the_file_and_nothing_else_is_switched_silently() {
    let host = Host::with_entry();
    let elsewhere = host.path("elsewhere");
    host.write(
        "config/credbroker/config.toml",
        "[store]\npath = \"config.toml/store\"\n",
    );
    host.run_with(&["token", "import", "q"], br#"{"access_token":"a"}"#)
        .failed(69);
    let mut command = host.command(&["token", "import", "q"]);
    command.env("CREDBROKER_STORE_PATH", &elsewhere);
    Answer::with_input(command, br#"{"access_token":"a"}"#).succeeded();
    assert!(elsewhere.join("tokens").is_dir());
}

#[test]
fn an_empty_bucket_is_the_default_one() {
    let host = Host::new();
    host.run_with(&["token", "import", "p", "--bucket", ""], br#"{"access_token":"a"}"#)
        .succeeded();
    for bucket in ["", "default"] {
        assert_eq!(
            host.run(&["token", "get", "p", "--bucket", bucket]).succeeded().out,
            "a\n"
        );
    }
    host.run(&["token", "get", "p", "--bucket", "a/b"]).failed(64);
}

#[test]
fn input_that_is_refused_says_what_to_give() {
    let host = Host::new();
    let large = vec![b'x'; 300_000];
    for (arguments, input, mend) in [
        (
            &["token", "import", "p"][..],
            &b"x"[..],
            "; give the JSON that the provider answered with",
        ),
        (
            &["token", "import", "p"],
            &large,
            "; give a file that holds the provider's token answer alone",
        ),
        (
            &["token", "import", "p", "absent"],
            b"",
            "; give a file that holds the provider's token answer alone",
        ),
        (
            &["token", "import", "p", "/"],
            b"",
            "; give a file that holds the provider's token answer alone",
        ),
        (&["key", "set", "k"], b"", "; give the key alone on standard input"),
        (&["key", "set", "k"], b"\xff", "; give the key alone on standard input"),
        (&["key", "set", "k"], b"a\0", "; give the key alone on standard input"),
        (&["key", "set", "k"], &large, "; give the key alone on standard input"),
    ] {
        host.run_with(arguments, input).failed(65).saying(mend);
    }
}

#[test]
fn a_store_that_ends_with_the_command_is_78_and_nothing_is_reported_stored() {
    let host = Host::new();
    for arguments in [&["token", "import", "p"], &["key", "set", "k"]] {
        let mut command = host.command(arguments);
        command.env("CREDBROKER_STORE_BACKEND", "memory");
        Answer::with_input(command, br#"{"access_token":"a"}"#)
            .failed(78)
            .saying("nothing would be kept");
    }
}

#[test]
fn audit_lines_that_a_broker_lost_are_told_by_the_status() {
    let host = Host::with_entry();
    let mut command = host.command(&["--log-format", "json", "serve"]);
    command.env("CREDBROKER_AUDIT_PATH", "/dev/null/audit");
    let serve = Serve::from_command(command);
    assert!(host.run(&["status"]).succeeded().err.is_empty());
    serve.ask(&host, &["token", "get", "p"]).succeeded();
    let told = format!(
        "credbroker: warning: the broker with pid {} has lost 1 audit lines: its log says why\n",
        serve.pid()
    );
    // The line is written by a thread of its own.
    wait_until("the loss is told", || {
        host.run(&["status", "--json"]).succeeded().err == told
    });
    assert_eq!(serve.end_by(Signal::TERM), 0);
}

#[test]
fn a_right_is_taken_back_by_a_restart_and_not_before() {
    let host = Host::with_entry();
    let policy = |rights: &str| {
        let digest = digest();
        let content = format!("[sandboxes.a]\ncapability_sha256 = \"{digest}\"\n{rights}\n");
        host.write("policy.toml", &content)
    };
    let get = |serve: &Serve| {
        let mut client = serve.client(&host, &["token", "get", "p"]);
        client.env("CREDBROKER_CAPABILITY", DIGITS);
        Answer::of(client)
    };
    let file = policy("allow = [\"p\"]");
    let serve = Serve::start(&host, &["--policy", &file]);
    get(&serve).succeeded();
    policy("");
    get(&serve).succeeded();
    assert_eq!(serve.end_by(Signal::TERM), 0);
    let serve = Serve::start(&host, &["--policy", &file]);
    get(&serve)
        .failed(77)
        .saying("the policy of this sandbox does not allow");
    assert_eq!(serve.end_by(Signal::TERM), 0);
}

#[test]
fn the_files_that_say_who_may_connect_are_78_when_they_are_wrong() {
    let host = Host::new();
    for (content, text) in [
        ("", "names no sandbox"),
        ("[sandboxes.a]\n", "capability_sha256"),
        (
            "[sandboxes.a]\ncapability_sha256 = \"x\"\n",
            ":2: sandboxes.a.capability_sha256",
        ),
        (
            &format!("[sandboxes.a]\ncapability_sha256 = \"{}\"\nalow = [\"p\"]\n", digest()),
            "did you mean \"allow\"?",
        ),
        (
            &format!(
                "[sandboxes.a]\ncapability_sha256 = \"{}\"\nallow = [\"p/\"]\n",
                digest()
            ),
            ":3: ",
        ),
    ] {
        let file = host.write("policy.toml", content);
        let answer = host
            .run(&["serve", "--policy", &file])
            .failed(78)
            .saying(text)
            .saying(&file);
        assert_eq!(answer.err.lines().count(), 1, "{answer:?}");
    }
    host.run(&["serve", "--policy", "/nonexistent"]).failed(78);
    host.run(&["serve", "--capability-file", "/nonexistent"]).failed(78);
    let file = host.write("capability", "hunter2\n");
    let answer = host
        .run(&["serve", "--capability-file", &file])
        .failed(78)
        .saying("64 hexadecimal digits");
    assert!(!answer.err.contains("hunter2"), "{answer:?}");
    let file = host.write("capability", DIGITS);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    host.run(&["serve", "--capability-file", &file])
        .failed(78)
        .saying("chmod 600");
    assert!(host.brokers().is_empty());
}

#[test]
fn a_runtime_directory_that_others_can_enter_is_refused_with_the_mend() {
    let host = Host::new();
    fs::create_dir(host.runtime()).unwrap();
    fs::set_permissions(host.runtime(), fs::Permissions::from_mode(0o755)).unwrap();
    host.run(&["serve"]).failed(78).saying("chmod 700");
    host.run(&["run", "--", "true"]).failed(125).saying("chmod 700");
}

#[test]
fn run_ends_with_the_status_of_its_command_or_says_that_the_broker_failed() {
    let host = Host::new();
    let not_executable = host.write("plain", "x");
    let script = host.write("script", "#!/nonexistent/interpreter\n");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o700)).unwrap();
    let table: &[(&[&str], i32)] = &[
        (&["true"], 0),
        (&["false"], 1),
        (&["sh", "-c", "exit 64"], 64),
        (&["sh", "-c", "exit 255"], 255),
        (&["sh", "-c", "kill -TERM $$"], 143),
        (&["sh", "-c", "kill -KILL $$"], 137),
        (&["sh", "-c", "kill -SEGV $$"], 139),
    ];
    for (command, code) in table {
        let answer = host.run(&[&["run", "--"], *command].concat());
        assert_eq!((answer.code, answer.err.as_str()), (*code, NO_BOUNDARY), "{command:?}");
    }
    for (program, code, text) in [
        ("no-such-program", 127, "is not found"),
        ("/nonexistent/program", 127, "is not found"),
        (&not_executable, 126, "may execute it"),
        ("/", 126, "may execute it"),
        (&script, 126, "interpreter"),
    ] {
        host.run(&["run", "--", program]).failed(code).saying(text);
        assert!(host.brokers().is_empty());
    }
    let config = host.write("bad.toml", "[stor]\n");
    let answer = host
        .run(&["run", "--config", &config, "--", "touch", "started"])
        .failed(125)
        .saying("unknown section");
    assert!(!answer.err.contains("warning"), "{answer:?}");
    assert!(!host.path("started").exists());
}

#[test]
fn control_characters_of_a_subject_do_not_reach_the_terminal() {
    let host = Host::new();
    host.import("p", r#"{"access_token":"a","sub":"\u001b]0;x\u0007al\u202eice\r\n"}"#);
    let status = host.run(&["status"]).succeeded();
    assert!(
        status.out.contains(r"\u{1b}]0;x\u{7}al\u{202e}ice\u{d}\u{a}"),
        "{status:?}"
    );
    assert!(
        !status.out.contains(['\u{1b}', '\u{7}', '\u{202e}', '\r']),
        "{status:?}"
    );
    let answer = host.run(&["token", "import", "p", "no\u{1b}[31m\nfile"]).failed(65);
    assert!(
        !answer.err.contains('\u{1b}') && answer.err.lines().count() == 1,
        "{answer:?}"
    );
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error_and_a_full_disk_is() {
    let host = Host::with_entry();
    for arguments in [
        &["token", "list"][..],
        &["status"],
        &["status", "--json"],
        &["token", "get", "p", "--json"],
    ] {
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        let output = host
            .command(arguments)
            .stdout(writer)
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        let answer = Answer::from(output);
        assert_eq!((answer.code, answer.err.as_str()), (0, ""), "{arguments:?}");
        if cfg!(target_os = "linux") {
            let full = fs::File::options().write(true).open("/dev/full").unwrap();
            let output = host
                .command(arguments)
                .stdout(full)
                .stderr(Stdio::piped())
                .output()
                .unwrap();
            let answer = Answer::from(output).failed(70);
            assert!(answer.err.contains("cannot write to standard output"), "{answer:?}");
        }
    }
}

#[test]
fn closed_standard_streams_break_nothing() {
    let host = Host::with_entry();
    let shell = |script: &str| Answer::of(host.shell(script));
    shell("exec \"$BIN\" token import q <&-").failed(65).saying("not JSON");
    shell("exec \"$BIN\" key set q <&-").failed(65).saying("empty");
    assert_eq!(
        shell("exec \"$BIN\" token get p <&- 2>&-").succeeded().out,
        "access-1\n"
    );
    shell("exec \"$BIN\" token list <&- >&- 2>&-").succeeded();
    assert_eq!(shell("exec \"$BIN\" token get absent 2>&-").code, 66);
    // A closed stream must not become one of the broker's own descriptors.
    shell("exec \"$BIN\" run --allow p -- sh -c '\"$BIN\" token get p >token' <&- >&- 2>&-").succeeded();
    assert_eq!(fs::read_to_string(host.path("token")).unwrap(), "access-1\n");
}

#[test]
fn a_level_that_is_not_understood_is_said_once_and_ignored() {
    let host = Host::with_entry();
    let mut command = host.command(&["token", "get", "p"]);
    command.env("RUST_LOG", "credbroker=lou\u{1b}d");
    let answer = Answer::of(command).succeeded();
    assert_eq!(answer.out, "access-1\n");
    assert_eq!(
        answer.err,
        "credbroker: warning: RUST_LOG is not understood and ignored: write a level, such as debug\n"
    );
}

#[test]
fn no_secret_is_ever_on_a_command_line_or_in_a_log() {
    let host = Host::with_entry();
    let file = host.write("capability", DIGITS);
    let mut command = host.command(&["--log-format", "json", "serve", "--capability-file", &file]);
    command.env("RUST_LOG", "trace");
    let serve = Serve::from_command(command);
    let mut client = serve.client(&host, &["token", "get", "p"]);
    client.env("CREDBROKER_CAPABILITY", DIGITS).env("RUST_LOG", "trace");
    let answer = Answer::of(client).succeeded();
    let secrets = ["access-1", "refresh-1", "key-1", DIGITS];
    let command_line = |pid: u32| String::from_utf8(fs::read(format!("/proc/{pid}/cmdline")).unwrap()).unwrap();
    let check = |text: &str| {
        for secret in secrets {
            assert!(!text.contains(secret), "{secret} is in {text}");
        }
    };
    check(&answer.err);
    check(&command_line(serve.pid()));

    let mut run = host.command(&[
        "run",
        "--allow",
        "p",
        "--",
        "sh",
        "-c",
        "echo $CREDBROKER_CAPABILITY; echo $$; read x",
    ]);
    run.env("RUST_LOG", "warn");
    let run = Running::start(run);
    let (capability, child) = (run.line(), run.line());
    assert_eq!(capability.len(), 64);
    for pid in [run.pid(), child.parse().unwrap()] {
        let line = command_line(pid);
        assert!(line.contains("read x"), "{line}");
        assert!(!line.contains(&capability), "{line}");
    }
    assert_eq!(run.end(), 1);

    serve.signal(Signal::TERM);
    for line in serve.rest() {
        check(&line);
    }
    assert_eq!(serve.end(), 0);
}
