//! A disk that takes no more lines, and a broker that hands nothing out without them.

use std::{fs, process::Command};

use rustix::process::Signal;

use crate::command::{Answer, Host, Serve, wait_until};

/// A broker whose files may have 4 KiB, as if the disk were full then: a limit of the system's, which is lifted by
/// [`make_room`].
fn with_little_room(host: &Host, on_full: &str) -> Serve {
    let mut command = host.shell("trap '' XFSZ; ulimit -S -f 8; exec \"$BIN\" --log-format json serve");
    command.env("CREDBROKER_AUDIT_ON_FULL", on_full);
    Serve::from_command(command)
}

fn make_room(serve: &Serve) {
    let done = Command::new("prlimit")
        .args([format!("--pid={}", serve.pid()), "--fsize=unlimited".into()])
        .status();
    assert!(done.unwrap().success(), "prlimit is in util-linux");
}

fn health(serve: &Serve) -> i32 {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let mut stub = crate::support::health_stub(&serve.socket).await;
        let request = tonic_health::pb::HealthCheckRequest::default();
        stub.check(request).await.unwrap().into_inner().status
    })
}

const SERVING: i32 = tonic_health::pb::health_check_response::ServingStatus::Serving as i32;
const NOT_SERVING: i32 = tonic_health::pb::health_check_response::ServingStatus::NotServing as i32;

fn records(host: &Host) -> usize {
    let shown = host.run(&["audit", "show", "--json", "--entry", "p"]).succeeded().out;
    shown.lines().filter(|line| line.contains("\"outcome\":\"ok\"")).count()
}

#[test]
fn no_token_is_handed_out_that_cannot_be_recorded_and_it_mends_itself() {
    let host = Host::with_entry();
    let serve = with_little_room(&host, "refuse");
    assert_eq!(health(&serve), SERVING);
    let mut delivered = 0;
    let refusal = loop {
        let answer = serve.ask(&host, &["token", "get", "p"]);
        if answer.code != 0 {
            break answer;
        }
        delivered += 1;
        assert!(delivered < 100, "the limit does not hold");
    };
    assert!(delivered > 5, "{refusal:?}");
    let refusal = refusal.failed(69).saying("the host's audit cannot be written");
    assert!(refusal.err.contains("on_full") && refusal.out.is_empty(), "{refusal:?}");
    // Other ways to a credential are closed, too, and what is no credential operation is not.
    serve.ask(&host, &["token", "refresh", "p"]).failed(69);
    serve.ask(&host, &["token", "list"]).failed(69);
    assert_eq!(health(&serve), NOT_SERVING);
    let told: Vec<String> = host
        .run(&["status"])
        .succeeded()
        .out
        .lines()
        .map(str::to_owned)
        .collect();
    assert!(told.len() > 1, "the control socket answers: {told:?}");

    make_room(&serve);
    wait_until("tokens are handed out again", || {
        serve.ask(&host, &["token", "get", "p"]).code == 0
    });
    delivered += 1;
    assert_eq!(health(&serve), SERVING);
    assert_eq!(serve.end_by(Signal::TERM), 0);
    // Each that was handed out has its line, those of the time when the disk was full, too.
    let verified = host.run(&["audit", "verify"]).succeeded().out;
    assert!(verified.contains("calls were refused without a record"), "{verified}");
    assert!(!verified.contains("lost"), "{verified}");
    assert_eq!(records(&host), delivered);
}

#[test]
fn where_calls_go_on_the_lost_lines_are_counted_in_the_file_itself() {
    let host = Host::with_entry();
    let serve = with_little_room(&host, "serve");
    for _ in 0..40 {
        serve.ask(&host, &["token", "get", "p"]).succeeded();
    }
    assert_eq!(health(&serve), SERVING);
    assert!(host.run(&["status"]).succeeded().err.contains("audit lines"));
    make_room(&serve);
    serve.ask(&host, &["token", "get", "p"]).succeeded();
    assert_eq!(serve.end_by(Signal::TERM), 0);
    let verified = host.run(&["audit", "verify"]).succeeded().out;
    let lost = verified
        .lines()
        .find_map(|line| line.strip_suffix(" records were lost, as it says itself"));
    let lost: usize = lost.unwrap().trim().parse().unwrap();
    assert_eq!(records(&host) + lost, 41, "{verified}");
    assert!(
        host.run(&["audit", "show"])
            .succeeded()
            .out
            .contains("records were lost")
    );
}

#[test]
fn where_no_file_can_be_made_not_even_the_first_token_is_handed_out() {
    let host = Host::with_entry();
    let block = host.write("state/credbroker/audit", "in the way");
    let mut command = host.command(&["--log-format", "json", "serve"]);
    command.env("CREDBROKER_AUDIT_ON_FULL", "refuse");
    let serve = Serve::from_command(command);
    serve.ask(&host, &["token", "get", "p"]).failed(69);
    assert_eq!(health(&serve), NOT_SERVING);
    fs::remove_file(block).unwrap();
    wait_until("tokens are handed out", || {
        Answer::of(serve.client(&host, &["token", "get", "p"])).code == 0
    });
    assert_eq!(serve.end_by(Signal::TERM), 0);
    host.run(&["audit", "verify"]).succeeded();
}

#[test]
fn what_was_lost_is_told_also_if_no_file_could_be_made_before_the_end() {
    let host = Host::with_entry();
    let block = host.write("state/credbroker/audit", "in the way");
    let serve = Serve::start(&host, &[]);
    for _ in 0..2 {
        serve.ask(&host, &["token", "get", "p"]).succeeded();
    }
    wait_until("the loss is counted", || {
        host.run(&["status"]).succeeded().err.contains("has lost 2 audit lines")
    });
    fs::remove_file(block).unwrap();
    assert_eq!(serve.end_by(Signal::TERM), 0);
    let verified = host.run(&["audit", "verify"]).succeeded().out;
    assert!(
        verified.contains(": whole, 0 records\n  2 records were lost, as it says itself\n"),
        "{verified}"
    );
}
