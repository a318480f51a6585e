//! What `audit verify` and `audit show` make of files that others can write to, lock, and name.

use std::{
    fs::{self, File},
    path::Path,
};

use hmac::{Hmac, Mac as _};
use rustix::process::Signal;
use sha2::Sha256;

use crate::{
    broker::{files, name, three_calls, verify},
    command::{Answer, BIN, Host, Serve, bwrap, wait_until},
};

#[test]
fn a_lock_of_somebody_else_hides_no_cut_tail() {
    let host = Host::with_entry();
    let file = three_calls(&host, Signal::TERM);
    let good = fs::read_to_string(&file).unwrap();
    let locked = File::open(&file).unwrap();
    locked.lock().unwrap();
    // A closed file has nothing to hide.
    let whole = verify(&host).succeeded().out;
    let note = format!(
        "  process {} took a lock on it, and is not the broker that began it, or has ended\n",
        std::process::id()
    );
    assert_eq!(whole, format!("{}: whole, 3 records\n{note}", name(&file)));
    let three: String = good.split_inclusive('\n').take(3).collect();
    for (left, records) in [
        (three.as_str(), "2 records"),
        (&three[..three.len() - 9], "1 record"),
        ("", "0 records"),
    ] {
        // The same file, so that the lock stays on it.
        fs::write(&file, left).unwrap();
        let answer = verify(&host);
        assert_eq!(answer.code, 65, "{left:?} {answer:?}");
        let want =
            format!("no closing line: the broker was killed, or lines were cut; whole until there, {records}\n{note}");
        assert!(answer.out.ends_with(&want), "{answer:?}");
    }
}

#[test]
fn who_cannot_see_the_broker_is_told_that_nothing_can_be_told() {
    if !bwrap() {
        return;
    }
    let host = Host::with_entry();
    let serve = Serve::start(&host, &[]);
    serve.ask(&host, &["token", "get", "p"]).succeeded();
    wait_until("the call is recorded", || {
        verify(&host).out.contains("whole so far, 1 record;")
    });
    // Another pid name space, in which the broker is not.
    let mut elsewhere = host.program("bwrap");
    elsewhere.args([
        "--dev-bind",
        "/",
        "/",
        "--unshare-user",
        "--unshare-pid",
        "--proc",
        "/proc",
        "--",
    ]);
    elsewhere.args([BIN, "audit", "verify"]);
    let answer = Answer::of(elsewhere);
    assert_eq!(answer.code, 69, "{answer:?}");
    let file = name(&files(&host)[0]);
    assert_eq!(
        answer.out,
        format!(
            "{file}: whole so far, 1 record; somebody holds a lock on it, and it cannot be told whether that is its broker\n"
        )
    );
    assert!(
        answer
            .err
            .contains("verify where it runs (in its container), or when it has ended"),
        "{answer:?}"
    );
    verify(&host).succeeded();
    serve.end_by(Signal::TERM);
}

/// A closed file without a key, as anybody can make it, and the MAC that it ends with.
fn unkeyed(path: &Path, previous: Option<(&str, &str)>, sandbox: &str) -> String {
    let own = name(path);
    let previous = previous.map_or(String::new(), |(file, mac)| {
        format!(r#","previous":{{"file":"{file}","mac":"{mac}"}}"#)
    });
    let mut last = vec![0; 32];
    let mut text = String::new();
    for body in [
        format!(
            r#"{{"n":1,"event":"begin","time":"2026-01-31T09:00:00Z","file":"{own}","id":"{own}","pid":1,"key":null{previous}"#
        ),
        format!(r#"{{"n":2,"time":"2026-01-31T09:00:00Z","sandbox":"{sandbox}","operation":"GetToken","outcome":"ok""#),
        r#"{"n":3,"event":"end","time":"2026-01-31T09:00:00Z","records":1"#.to_owned(),
    ] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&[]).unwrap();
        mac.update(&last);
        mac.update(body.as_bytes());
        last = mac.finalize().into_bytes().to_vec();
        let mac = data_encoding::BASE64URL_NOPAD.encode(&last);
        text.push_str(&format!("{body},\"mac\":\"{mac}\"}}\n"));
    }
    fs::write(path, text).unwrap();
    data_encoding::BASE64URL_NOPAD.encode(&last)
}

#[test]
fn files_of_one_broker_are_read_in_the_order_of_their_chain_and_brokers_by_name() {
    let host = Host::with_entry();
    let directory = host.path("records");
    fs::create_dir(&directory).unwrap();
    // The clock was set back between the two files of the first broker.
    let file = |name: &str| directory.join(name);
    let mac = unkeyed(&file("20260102T000000.000000Z-1.jsonl"), None, "first");
    let before = ("20260102T000000.000000Z-1.jsonl", &*mac);
    unkeyed(&file("20260101T000000.000000Z-1.jsonl"), Some(before), "second");
    unkeyed(&file("20260103T000000.000000Z-2.jsonl"), None, "third");
    let directory = directory.to_str().unwrap();
    let shown = host.run(&["audit", "show", directory]).succeeded().out;
    let sandboxes: Vec<&str> = shown
        .lines()
        .filter_map(|line| line.split_whitespace().nth(2))
        .collect();
    assert_eq!(sandboxes, ["PID", "first", "second", "third"], "{shown}");
    let verified = host.run(&["audit", "verify", directory]);
    assert_eq!(verified.code, 69, "{verified:?}");
    let names: Vec<&str> = verified
        .out
        .lines()
        .filter_map(|line| line.split_once('T'))
        .map(|(day, _)| day)
        .collect();
    assert_eq!(names, ["20260102", "20260101", "20260103"], "{verified:?}");
    assert!(
        verified.err.contains("3 of 3 files were made without a key"),
        "{verified:?}"
    );
}

#[test]
fn rows_fit_eighty_columns_however_long_the_names_are() {
    let host = Host::new();
    let long = |letter: &str| letter.repeat(64);
    let line = format!(
        r#"{{"n":1,"time":"2026-01-31T09:00:00Z","sandbox":"a-rather-long-sandbox-name","peer_pid":4194304,"operation":"{}","provider":"{}","bucket":"{}","outcome":"error","reason":"PROVIDER_UNAVAILABLE"}}"#,
        long("M"),
        long("p"),
        long("b"),
    );
    let file = host.write("long.jsonl", &format!("{line}\n"));
    let shown = host.run(&["audit", "show", &file]).succeeded().out;
    let widths: Vec<usize> = shown.lines().map(|line| line.chars().count()).collect();
    assert!(widths.len() == 2 && widths.iter().all(|width| *width <= 80), "{shown}");
    assert!(
        shown.contains(" a-rathe… 4194304 MMMMMMMMMMMMM… PROVIDER_UN… pppp"),
        "{shown}"
    );
    assert_eq!(
        host.run(&["audit", "show", "--json", &file]).succeeded().out,
        format!("{line}\n")
    );
}

#[test]
fn json_has_the_same_value_and_no_control_characters() {
    let host = Host::new();
    let line = "{\"n\":1,\r\"time\":\"2026-01-31T09:00:00Z\",\"sandbox\":\"a\u{9b}31mb\u{202e}\",\"operation\":\"x\\r\u{7f}\",\"outcome\":\"ok\"}";
    let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    let file = host.write("odd.jsonl", &format!("{line}\n"));
    let shown = host.run(&["audit", "show", "--json", &file]).succeeded().out;
    assert_eq!(value(&shown), value(line));
    let plays = |c: char| c.is_control() || c == '\u{202e}';
    assert!(!shown.trim_end_matches('\n').contains(plays), "{shown:?}");
    // Bytes that are no text could be control characters of an 8-bit terminal.
    let mut bytes = line.as_bytes().to_vec();
    let end = bytes.len() - 1;
    bytes.splice(end..end, *b",\"more\":\"\x9b31m\"");
    bytes.push(b'\n');
    fs::write(&file, bytes).unwrap();
    let shown = host.run(&["audit", "show", "--json", &file]);
    assert_eq!((shown.code, &*shown.out), (65, ""), "{shown:?}");
    assert!(shown.err.contains("1 line that is none of an audit"), "{shown:?}");
}

#[test]
fn a_directory_that_is_named_and_has_no_audit_file_is_66() {
    let host = Host::with_entry();
    let empty = host.path("empty");
    fs::create_dir(&empty).unwrap();
    fs::write(empty.join("20260131T090000.000000Z-1.log"), "").unwrap();
    for command in ["verify", "show"] {
        host.run(&["audit", command, empty.to_str().unwrap()])
            .failed(66)
            .saying("there is no audit file in");
        // A broker that nobody asked has left none.
        host.run(&["audit", command]).succeeded();
    }
}

#[test]
fn a_link_is_followed_and_told() {
    let host = Host::with_entry();
    let file = three_calls(&host, Signal::TERM);
    let elsewhere = host.path("elsewhere.jsonl");
    fs::rename(&file, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &file).unwrap();
    let want = format!("{}: whole, 3 records\n  it is a symbolic link\n", name(&file));
    assert_eq!(verify(&host).succeeded().out, want);
}
