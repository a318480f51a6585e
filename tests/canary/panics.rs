//! What a panic of the program prints.

use std::{
    env,
    process::{Command, Stdio},
    thread,
};

use crate::scanner::Scanner;

const SECRET: &str = "rt-canary-panic-5d1e9a7b3c";
const ROLE: &str = "CREDBROKER_TEST_ROLE";

/// Starts as the program does, then panics the way its code could.
#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "how the test binary tells its child what to do"
)]
fn child_that_panics() {
    let Ok(role) = env::var(ROLE) else { return };
    let _usage = credbroker::cli::main_with(["credbroker".into(), "--version".into()]);
    let panicking = thread::Builder::new().name("worker".into()).spawn(move || {
        let secret = std::hint::black_box(format!("é{SECRET}"));
        match role.as_str() {
            "message" => panic!("cannot use {secret}"),
            "unwrap" => refused(secret).unwrap(),
            "slice" => drop(secret[1..].to_owned()),
            "literal" => panic!("a literal"),
            other => panic!("no such role: {other}"),
        }
    });
    assert!(panicking.unwrap().join().is_err());
}

#[test]
fn a_panic_says_where_and_not_what_it_was_working_on() {
    for role in ["message", "unwrap", "slice", "literal"] {
        let child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "panics::child_that_panics", "--nocapture"])
            .env(ROLE, role)
            .env("RUST_BACKTRACE", "full")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = [child.stdout, child.stderr].concat();
        Scanner::new([("the secret", SECRET)]).assert_clean(role, &said);
        let said = String::from_utf8(said).unwrap();
        assert!(
            said.contains("bug: thread worker panicked at tests/canary/panics.rs:"),
            "{said}"
        );
        assert_eq!(said.contains("it may quote a secret"), role != "literal", "{said}");
        // The backtrace that was asked for.
        assert!(said.contains("canary::panics::child_that_panics"), "{role}: {said}");
    }
}

/// A failure that quotes what it was given.
fn refused(secret: String) -> Result<(), String> {
    Err(secret)
}
