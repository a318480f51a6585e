//! `audit verify` and `audit show` over the files of real brokers.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use hmac::{Hmac, Mac as _};
use rustix::process::Signal;
use sha2::Sha256;

use crate::command::{Answer, Host, Serve, wait_until};

pub(crate) fn files(host: &Host) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(host.path("state/credbroker/audit")) else {
        return Vec::new();
    };
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

pub(crate) fn name(path: &std::path::Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

/// A broker that answered three calls, the last of them with a refusal.
pub(crate) fn three_calls(host: &Host, end: Signal) -> PathBuf {
    let known = files(host);
    let serve = Serve::start(host, &["--allow", "p"]);
    for _ in 0..2 {
        serve.ask(host, &["token", "get", "p"]).succeeded();
    }
    serve.ask(host, &["token", "get", "absent"]).failed(77);
    let new = || files(host).into_iter().find(|file| !known.contains(file));
    wait_until("the calls are recorded", || {
        new().is_some_and(|file| fs::read_to_string(file).unwrap().lines().count() == 4)
    });
    serve.end_by(end);
    new().unwrap()
}

/// A secret as it may stand in a text.
fn codings(secret: &[u8]) -> Vec<String> {
    vec![
        data_encoding::BASE64.encode(secret),
        data_encoding::BASE64URL_NOPAD.encode(secret),
        data_encoding::HEXLOWER.encode(secret),
        format!("{secret:?}"),
        String::from_utf8_lossy(secret).into_owned(),
    ]
}

#[test]
fn the_chain_is_what_the_page_says_and_holds_neither_its_key_nor_the_identity() {
    let host = Host::with_entry();
    let mut command = host.command(&["--log-format", "json", "serve"]);
    command.env("RUST_LOG", "trace");
    let serve = Serve::from_command(command);
    serve.ask(&host, &["token", "get", "p"]).succeeded();
    serve.signal(Signal::TERM);
    let log = serve.rest().join("\n");
    serve.end();
    let identity = fs::read_to_string(host.store().join("identity.txt")).unwrap();
    let identity = identity
        .lines()
        .find(|line| line.starts_with("AGE-SECRET-KEY-1"))
        .unwrap();
    let derived = |info: &str| {
        let mut key = [0; 32];
        let hkdf = hkdf::Hkdf::<Sha256>::new(None, identity.as_bytes());
        hkdf.expand(info.as_bytes(), &mut key).unwrap();
        key
    };
    let key = derived("credbroker audit chain v1");
    let text = fs::read_to_string(&files(&host)[0]).unwrap();
    let mut last = vec![0; 32];
    for line in text.lines() {
        let (body, end) = line.split_once(",\"mac\":\"").unwrap();
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
        mac.update(&last);
        mac.update(body.as_bytes());
        last = mac.finalize().into_bytes().to_vec();
        assert_eq!(
            end,
            format!("{}\"}}", data_encoding::BASE64URL_NOPAD.encode(&last)),
            "{line}"
        );
    }
    let id = derived("credbroker audit key id v1");
    let id = data_encoding::BASE64URL_NOPAD.encode(&id[..8]);
    assert!(
        text.lines().next().unwrap().contains(&format!("\"key\":\"{id}\"")),
        "{text}"
    );
    let verified = verify(&host).succeeded();
    let said = [text, log, verified.out, verified.err, host.run(&["audit", "show"]).out].concat();
    assert!(said.contains("GetToken"));
    for coding in [codings(&key), codings(identity.as_bytes())].concat() {
        assert!(!said.contains(&coding), "{coding}");
    }
    // What the entry holds.
    assert!(!said.contains("access-1") && !said.contains("refresh-1"), "{said}");
}

pub(crate) fn verify(host: &Host) -> Answer {
    host.run(&["audit", "verify"])
}

#[test]
fn a_record_is_whole_and_shown_to_people_and_programs() {
    let host = Host::with_entry();
    assert_eq!(verify(&host).succeeded().out, "There is no audit file.\n");
    let file = three_calls(&host, Signal::TERM);
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    let want = format!("{}: whole, 3 records\n", name(&file));
    assert_eq!(verify(&host).succeeded().out, want);
    let one = ["audit", "verify", file.to_str().unwrap()];
    assert_eq!(host.run(&one).succeeded().out, want);

    let shown = host.run(&["audit", "show"]).succeeded().out;
    let lines: Vec<Vec<&str>> = shown.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["TIME", "SANDBOX", "PID", "OPERATION", "RESULT", "ABOUT"]);
    let last: Vec<&[&str]> = lines[1..].iter().map(|line| &line[4..]).collect();
    assert_eq!(
        last,
        [
            &["GetToken", "ok", "p/default"][..],
            &["GetToken", "ok", "p/default"],
            &["GetToken", "UNAUTHORIZED", "absent/default"]
        ]
    );
    assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");

    let count = |arguments: &[&str]| host.run(&[&["audit", "show"], arguments].concat()).succeeded().out;
    let rows = |arguments: &[&str]| count(arguments).lines().count();
    assert_eq!(rows(&["--failed"]), 2);
    assert_eq!(rows(&["--entry", "p"]), 3);
    assert_eq!(rows(&["--entry", "absent/*"]), 2);
    for since in ["1h", "1d", "1w", "2026-01-31", "2026-01-31T09:00:00Z"] {
        assert_eq!(rows(&["--since", since]), 4, "{since}");
    }
    assert_eq!(rows(&["--since", "2999-01-01T00:00:00Z"]), 0);
    assert_eq!(rows(&["--sandbox", "nobody"]), 0);
    let principal = lines[1][2];
    assert_eq!(rows(&["--sandbox", principal]), 4);
    assert_eq!(count(&["--json"]), fs::read_to_string(&file).unwrap());
    assert_eq!(rows(&["--json", "--failed"]), 1);
    for wrong in [["--since", "yesterday"], ["--entry", "a b"]] {
        host.run(&[&["audit", "show"], &wrong[..]].concat()).failed(64);
    }
}

#[test]
fn a_running_broker_is_told_from_a_killed_one_and_a_killed_one_from_a_clean_end() {
    let host = Host::with_entry();
    let serve = Serve::start(&host, &[]);
    serve.ask(&host, &["token", "get", "p"]).succeeded();
    wait_until("the call is recorded", || !files(&host).is_empty());
    let file = name(&files(&host)[0]);
    wait_until("it verifies", || verify(&host).code == 0);
    let want = format!(
        "{file}: whole so far, 1 record; its broker (pid {}) still writes\n",
        serve.pid()
    );
    assert_eq!(verify(&host).succeeded().out, want);
    serve.end_by(Signal::KILL);
    let killed = verify(&host);
    assert_eq!(killed.code, 65);
    assert_eq!(
        killed.out,
        format!("{file}: no closing line: the broker was killed, or lines were cut; whole until there, 1 record\n")
    );
    assert!(killed.err.contains("1 of 1 file has no closing line"), "{killed:?}");
}

#[test]
fn what_was_changed_is_65_with_its_line_and_so_is_a_cut_tail() {
    let host = Host::with_entry();
    let file = three_calls(&host, Signal::TERM);
    let good = fs::read_to_string(&file).unwrap();
    let changed = good.replacen("UNAUTHORIZED", "UNAUTHENTICATED", 1);
    let lines: Vec<&str> = good.lines().collect();
    let without = |left_out: usize| -> String {
        let kept = lines.iter().enumerate().filter(|(at, _)| *at != left_out);
        kept.map(|(_, line)| format!("{line}\n")).collect()
    };
    for (bad, want) in [
        (
            changed,
            "TAMPERED, 3 records left\n  line 4 was changed, or what was before it\n",
        ),
        (
            without(2),
            "TAMPERED, 2 records left\n  1 line is missing before line 3\n",
        ),
        (without(4), "no closing line: the broker was killed, or lines were cut"),
        (good[..good.len() - 40].to_owned(), "no closing line"),
    ] {
        fs::write(&file, &bad).unwrap();
        let answer = verify(&host);
        assert_eq!(answer.code, 65, "{answer:?}");
        assert!(answer.out.contains(want), "{want:?} is not in {answer:?}");
    }
    // What is odd is left out of what is shown, and said.
    fs::write(&file, format!("\u{1b}[2J junk\n{good}")).unwrap();
    let shown = host.run(&["audit", "show"]);
    assert_eq!((shown.code, shown.out.lines().count()), (65, 4));
    assert!(shown.err.contains("1 line that is none of an audit"), "{shown:?}");
    assert!(!format!("{}{}", shown.out, shown.err).contains('\u{1b}'));
}

#[test]
fn control_characters_in_a_record_do_not_reach_the_terminal() {
    let host = Host::new();
    let line = r#"{"n":1,"time":"2026-01-31T09:00:00Z","sandbox":"a\u001b[2Jb","operation":"x\r\ny","outcome":"ok","key":"\u202e"}"#;
    let file = host.write("odd.jsonl", &format!("{line}\n"));
    let shown = host.run(&["audit", "show", &file]).succeeded().out;
    assert!(
        shown.lines().count() == 2 && shown.contains("a\\u{1b}…") && shown.contains("x\\u{d}\\u{a}y"),
        "{shown}"
    );
    assert!(
        shown.chars().all(|c| c == '\n' || !c.is_control() && c != '\u{202e}'),
        "{shown:?}"
    );
}

#[test]
fn refused_calls_that_are_only_counted_are_shown_by_sandbox_and_reason() {
    let host = Host::new();
    let lines = [
        r#"{"n":2,"time":"2026-01-31T09:00:00Z","sandbox":"agent","operation":"GetToken","provider":"p","bucket":"default","outcome":"ok"}"#,
        r#"{"n":3,"event":"refusals","time":"2026-01-31T09:00:01Z","until":"2026-01-31T09:00:01.9Z","sandbox":"","calls":{"RATE_LIMITED":23456,"UNAUTHENTICATED":60}}"#,
        r#"{"n":4,"event":"refusals","time":"2026-01-31T09:00:02Z","until":"2026-01-31T09:00:03Z","sandbox":"agent","calls":{"TOO_MANY_SESSIONS":7}}"#,
    ];
    let file = host.write("counts.jsonl", &lines.map(|line| format!("{line}\n")).concat());
    let show = |more: &[&str]| {
        let out = host.run(&[&["audit", "show", &file], more].concat()).succeeded().out;
        out.lines().skip(1).map(str::to_owned).collect::<Vec<_>>()
    };
    let counted = [
        "2026-01-31 09:00:01 -        -       23456 calls    RATE_LIMITED within 0.9 s",
        "2026-01-31 09:00:01 -        -       60 calls       UNAUTHENTIC… within 0.9 s",
        "2026-01-31 09:00:02 agent    -       7 calls        TOO_MANY_SE… within 1.0 s",
    ];
    assert_eq!(show(&[])[1..], counted);
    assert_eq!(show(&["--failed"]), counted);
    assert_eq!(show(&["--sandbox", "agent"])[1..], counted[2..]);
    assert_eq!(show(&["--sandbox", ""]), counted[..2]);
    assert_eq!(show(&["--entry", "p"]).len(), 1);
    // By when the last of them came.
    assert_eq!(show(&["--since", "2026-01-31T09:00:02.5Z"]), counted[2..]);
    let json = host
        .run(&["audit", "show", "--json", "--failed", &file])
        .succeeded()
        .out;
    assert_eq!(json.lines().collect::<Vec<_>>(), lines[1..]);
}

#[test]
fn another_identity_is_told_from_tampering_and_the_old_one_verifies() {
    let host = Host::with_entry();
    three_calls(&host, Signal::TERM);
    let other = Host::with_entry();
    let other_identity = other.store().join("identity.txt");
    let with = |identity: &std::path::Path| {
        let mut command = host.command(&["audit", "verify"]);
        command.env("CREDBROKER_STORE_IDENTITY_FILE", identity);
        Answer::of(command)
    };
    let unknown = with(&other_identity);
    assert_eq!(unknown.code, 78);
    assert!(unknown.out.contains("made with another key"), "{unknown:?}");
    // After a change of identities the file may have both; which one comes first makes no difference.
    let both = [
        fs::read_to_string(&other_identity).unwrap(),
        fs::read_to_string(host.store().join("identity.txt")).unwrap(),
    ]
    .concat();
    let both = PathBuf::from(host.write("both.txt", &both));
    fs::set_permissions(&both, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    with(&both).succeeded();
    // Nor without any: a store that is locked can be asked later.
    with(&host.path("absent")).saying("does not exist");
    assert_eq!(with(&host.path("absent")).code, 75);
}

#[test]
fn what_is_made_without_a_key_is_not_called_whole() {
    let host = Host::new();
    let serve = Serve::start(&host, &["--ephemeral"]);
    serve.ask(&host, &["token", "get", "p"]).failed(66);
    serve.end_by(Signal::TERM);
    let answer = verify(&host);
    assert_eq!(answer.code, 69);
    assert!(answer.out.contains("made without a key, 1 record"), "{answer:?}");
}

#[test]
fn what_is_written_while_the_store_is_locked_is_vouched_for_once_it_is_open() {
    let host = Host::with_entry();
    let identity = host.store().join("identity.txt");
    let away = host.path("away.txt");
    fs::rename(&identity, &away).unwrap();
    let serve = Serve::start(&host, &[]);
    serve.ask(&host, &["token", "get", "p"]).failed(75);
    // The key is asked for beside the call, and could come in time.
    wait_until("there is a file without a key", || {
        let begun = |file: &PathBuf| fs::read(file).is_ok_and(|bytes| bytes.contains(&b'\n'));
        files(&host).iter().any(begun)
    });
    fs::rename(&away, &identity).unwrap();
    wait_until("the next file goes on under the key", || {
        serve.ask(&host, &["token", "get", "p"]).succeeded();
        thread::sleep(Duration::from_millis(500));
        files(&host).len() == 2
    });
    serve.end_by(Signal::TERM);
    let answer = verify(&host).succeeded();
    assert!(
        answer.out.contains("it has no key of its own, but ") && answer.out.contains(" vouches for it"),
        "{answer:?}"
    );
}

#[test]
fn files_of_a_busy_broker_go_on_from_each_other() {
    let host = Host::with_entry();
    let mut command = host.command(&["--log-format", "json", "serve"]);
    for (variable, value) in [
        ("CREDBROKER_AUDIT_MAX_FILE_MIB", "1"),
        ("CREDBROKER_LIMITS_REQUESTS_PER_SECOND", "1000000"),
        ("CREDBROKER_LIMITS_REQUESTS_PER_SECOND_PER_SOCKET", "1000000"),
    ] {
        command.env(variable, value);
    }
    let serve = Serve::from_command(command);
    let socket = serve.socket.clone();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        // Files are closed and begun while others are read.
        let verifies = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                verify(&host).succeeded();
            }
        });
        runtime.block_on(async {
            let stub = crate::support::stub(&socket).await;
            let callers = (0..8).map(|_| {
                let mut stub = stub.clone();
                tokio::spawn(async move {
                    for _ in 0..900 {
                        let request = credbroker::proto::GetTokenRequest {
                            provider: "p".into(),
                            ..Default::default()
                        };
                        stub.get_token(request).await.unwrap();
                    }
                })
            });
            for caller in callers.collect::<Vec<_>>() {
                caller.await.unwrap();
            }
        });
        done.store(true, Ordering::Relaxed);
        verifies.join().unwrap();
    });
    serve.end_by(Signal::TERM);
    let files = files(&host);
    assert!(files.len() > 1, "{files:?}");
    let answer = verify(&host).succeeded();
    let records: u64 = answer
        .out
        .lines()
        .map(|line| line.split_whitespace().nth(2).unwrap().parse::<u64>().unwrap())
        .sum();
    assert_eq!(records, 7200, "{answer:?}");
    fs::remove_file(&files[1]).unwrap();
    let missing = verify(&host);
    assert_eq!(missing.code, 65);
    assert!(
        missing.out.contains("which goes on from it, is not there"),
        "{missing:?}"
    );
}

#[test]
fn what_cannot_be_read_silences_nothing_about_the_rest() {
    let host = Host::with_entry();
    let file = three_calls(&host, Signal::TERM);
    let directory = file.parent().unwrap();
    fs::create_dir(directory.join("00.jsonl")).unwrap();
    std::os::unix::fs::symlink("/nonexistent", directory.join("01.jsonl")).unwrap();
    let answer = verify(&host);
    assert_eq!(answer.code, 65, "{answer:?}");
    assert!(
        answer.out.contains(": whole, 3 records") && answer.out.contains("00.jsonl") && answer.out.contains("01.jsonl")
    );
    let shown = host.run(&["audit", "show"]);
    assert_eq!(shown.code, 65, "{shown:?}");
    assert_eq!(shown.out.matches("GetToken").count(), 3, "{shown:?}");
    // A fault is what it ends with, whatever else there is.
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replacen("GetToken", "GetTokem", 1)).unwrap();
    let answer = verify(&host);
    assert!(
        answer.out.contains("TAMPERED") && answer.err.contains("not as written"),
        "{answer:?}"
    );
}

#[test]
fn what_is_no_audit_is_told_with_the_mend() {
    let host = Host::new();
    for command in ["verify", "show"] {
        host.run(&["audit", command, "/nonexistent"])
            .failed(66)
            .saying("name an audit file");
        host.run(&["audit", command, "/dev/null"])
            .failed(65)
            .saying("not a regular file");
        let pipe = host.path(command);
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        host.run(&["audit", command, pipe.to_str().unwrap()]).failed(65);
    }
}
