//! `login` and `logout` with the real binary, in a sandbox of a broker whose provider does what the test says, and on a host.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a failure here is a test's failure"
)]

#[expect(dead_code, reason = "each test file uses its own part of what they share")]
mod command;
mod support;

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{Read as _, Write as _},
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _, process::CommandExt as _},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
};

use command::{Answer, BIN, Host, PATH, Running, Serve, wait_until};
use credbroker::{broker::policy::Policy, oauth::Flow};
use rustix::{
    process::Signal,
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize},
};
use serde_json::{Value, json};
use support::{
    Bench, fake, import, key,
    login_fake::{AUTH_URL, GOOD_CODE, Login, PAGE, USER_CODE},
};

/// A broker with a provider `p`, and a home for its clients.
struct Place {
    host: Host,
    bench: Bench,
    login: Login,
}

impl Place {
    fn with(login: Login, policy: Policy) -> Self {
        let bench = Bench::with_logins(&fake::Store::new(), policy, login.parts());
        Self {
            host: Host::new(),
            bench,
            login,
        }
    }

    fn of(flow: Flow) -> Self {
        Self::with(Login::with(&[flow]), Policy::host())
    }

    /// In the sandbox.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.host.command(arguments);
        command
            .env_clear()
            .env("PATH", PATH)
            .env("CREDBROKER_SOCKET", self.bench.socket());
        command
    }

    fn ask(&self, arguments: &[&str]) -> Answer {
        Answer::of(self.command(arguments))
    }

    /// What the terminal that it runs on shows.
    fn at_a_terminal(&self, arguments: &[&str], change: impl FnOnce(&mut Command)) -> Terminal {
        Terminal::start(&self.host, arguments, |command| {
            command
                .env_clear()
                .env("PATH", PATH)
                .env("CREDBROKER_SOCKET", self.bench.socket());
            change(command);
        })
    }
}

/// A terminal of 80 columns with a program on it.
struct Terminal {
    master: File,
    running: Running,
    shown: Arc<Mutex<String>>,
    reading: JoinHandle<()>,
}

impl Terminal {
    fn start(host: &Host, arguments: &[&str], change: impl FnOnce(&mut Command)) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let size = Winsize {
            ws_row: 50,
            ws_col: 80,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&master, size).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let slave = || {
            File::options()
                .read(true)
                .write(true)
                .open(OsStr::from_bytes(name.as_bytes()))
                .unwrap()
        };
        let mut command = host.program("setsid");
        change(&mut command);
        command
            .args(["--ctty", BIN])
            .args(arguments)
            .process_group(rustix::process::getpgrp().as_raw_pid())
            .stdin(slave())
            .stderr(slave());
        let running = Running::start_on(command);
        let shown = Arc::new(Mutex::new(String::new()));
        let (mut source, sink) = (File::from(master.try_clone().unwrap()), Arc::clone(&shown));
        let reading = thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(read @ 1..) = source.read(&mut bytes) {
                sink.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..read]));
            }
        });
        Self {
            master: File::from(master),
            running,
            shown,
            reading,
        }
    }

    fn shown(&self) -> String {
        self.shown.lock().unwrap().clone()
    }

    #[track_caller]
    fn wait_for(&self, text: &str) {
        wait_until(&format!("the terminal shows {text:?}"), || self.shown().contains(text));
    }

    fn type_(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).unwrap();
    }

    fn echoes(&self) -> bool {
        let modes = tcgetattr(&self.master).unwrap().local_modes;
        assert_eq!(modes.contains(LocalModes::ECHO), modes.contains(LocalModes::ICANON));
        modes.contains(LocalModes::ECHO)
    }

    /// Whether a signal has stopped the program, and none has let it go on.
    fn is_stopped(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.running.pid())).unwrap();
        stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
    }

    /// Waits for its end; what was shown, and whether the terminal is as it was.
    #[track_caller]
    fn end(self) -> (i32, String) {
        let Self {
            master,
            running,
            shown,
            reading,
        } = self;
        let code = running.end();
        let modes = tcgetattr(&master).unwrap().local_modes;
        assert!(modes.contains(LocalModes::ECHO | LocalModes::ICANON), "{modes:?}");
        wait_until("everything is read", || reading.is_finished());
        let shown = shown.lock().unwrap().clone();
        (code, shown)
    }
}

fn lines(out: &str) -> Vec<Value> {
    out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[track_caller]
fn assert_shown_apart(err: &str, texts: &[&str]) {
    for text in texts {
        assert!(
            err.lines().any(|line| line.trim_end() == *text),
            "{text} has no line of its own: {err}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_login_in_a_sandbox_as_json() {
    let place = Place::of(Flow::DeviceCode);
    let running = Running::start(place.command(&["login", "p", "--bucket", "work", "--json"]));
    let mut prompt: Value = serde_json::from_str(&running.line()).unwrap();
    let end = prompt["expire_time"].take();
    assert!(end.as_str().unwrap().parse::<jiff::Timestamp>().is_ok(), "{end}");
    let want = json!({
        "event": "prompt", "provider": "p", "bucket": "work", "flow": "device_code", "auth_url": null,
        "verification_url": PAGE, "verification_url_complete": format!("{PAGE}?user_code={USER_CODE}"),
        "user_code": USER_CODE, "expire_time": null,
    });
    assert_eq!(prompt, want);
    assert_eq!(place.bench.broker.open_logins(), 1);
    place.login.agree();
    let mut complete: Value = serde_json::from_str(&running.line()).unwrap();
    assert!(complete["expire_time"].take().is_string());
    let want = json!({"event": "complete", "provider": "p", "bucket": "work", "subject": null, "expire_time": null});
    assert_eq!(complete, want);
    assert!(running.rest().is_empty());
    assert_eq!(running.end(), 0);
    let token = place.ask(&["token", "get", "p", "--bucket", "work"]).succeeded();
    assert_eq!(token.out, "access-of-login\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_is_read_from_standard_input_and_used_once() {
    let place = Place::of(Flow::PkceRedirect);
    let arguments = ["login", "p", "--json"];
    let good = Answer::with_input(place.command(&arguments), format!("{GOOD_CODE}\n").as_bytes()).succeeded();
    let events = lines(&good.out);
    assert_eq!(events[0]["auth_url"], AUTH_URL);
    assert_eq!(events[0]["flow"], "pkce_redirect");
    assert_eq!(events[1]["event"], "complete");
    assert!(good.err.is_empty(), "{good:?}");

    let bad = Answer::with_input(place.command(&arguments), b"bad-code\n");
    assert_eq!(bad.code, 77, "{bad:?}");
    let error = &lines(&bad.out)[1];
    assert_eq!(
        (&error["event"], &error["reason"]),
        (&json!("error"), &json!("EXCHANGE_FAILED"))
    );
    assert!(bad.err.contains(error["message"].as_str().unwrap()), "{bad:?}");

    let none = Answer::with_input(place.command(&arguments), b"\n");
    assert_eq!(
        (none.code, lines(&none.out)[1]["reason"].clone()),
        (65, Value::Null),
        "{none:?}"
    );
    assert!(!bad.err.contains("bad-code") && !bad.out.contains("bad-code"));
    assert_eq!(place.bench.broker.open_logins(), 0, "what is not complete is cancelled");

    let plain = Answer::with_input(place.command(&["login", "p"]), GOOD_CODE.as_bytes()).succeeded();
    assert_shown_apart(&plain.err, &[AUTH_URL]);
    assert!(plain.out.is_empty(), "{plain:?}");
    // An hour, or 59 minutes if this machine is slow.
    let said = "logged in to p/default; the access token expires in ";
    assert!(
        ["1h\n", "59m\n"]
            .map(|time| format!("{said}{time}"))
            .iter()
            .any(|said| plain.err.contains(said)),
        "{plain:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_terminal_there_is_text_and_nothing_that_moves() {
    let place = Place::with(
        Login::with(&[Flow::BrowserRedirect, Flow::DeviceCode]).that_cannot_listen(),
        Policy::host(),
    );
    place.login.agree();
    let done = place.ask(&["login", "p", "--flow", "browser_redirect"]).succeeded();
    let complete = format!("{PAGE}?user_code={USER_CODE}");
    assert_shown_apart(&done.err, &[PAGE, USER_CODE, &complete]);
    assert!(
        done.out.is_empty() && !done.err.contains(['\u{1b}', '\r', '█']),
        "{done:?}"
    );
    done.saying("the host cannot listen for a browser, so the login goes on with a device code")
        .saying("credbroker: logged in to p/default; the access token expires in");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_log_in_is_told_who_can_allow_it() {
    let place = Place::with(Login::with(&[Flow::DeviceCode]), support::reading(&["p"]));
    let refused = place.ask(&["login", "p", "--json"]);
    assert_eq!(refused.code, 77, "{refused:?}");
    let events = lines(&refused.out);
    assert_eq!((events.len(), events[0]["reason"].as_str()), (1, Some("UNAUTHORIZED")));
    refused.saying("--allow-login p/default");

    // Without the right to read, the login is complete all the same.
    let place = Place::with(
        Login::with(&[Flow::DeviceCode]),
        Policy {
            login: vec!["p".parse().unwrap()],
            ..Policy::default()
        },
    );
    place.login.agree();
    place
        .ask(&["login", "p"])
        .succeeded()
        .saying("logged in to p/default; this sandbox may not read the access token");

    place
        .ask(&["login", "p", "--flow", "pkce_redirect"])
        .failed(65)
        .saying("choose one of these");
    place.ask(&["login", "q"]).failed(77);
}

#[test]
fn the_flags_of_run_and_serve_give_the_right_and_the_arguments_are_checked() {
    let host = Host::new();
    // The right is there: what is missing is the provider.
    for (flag, code, text) in [
        ("--allow-login", 78, "[providers.p]"),
        ("--allow", 77, "--allow-login p/default"),
    ] {
        let command = host.command(&["run", flag, "p", "--", BIN, "login", "p"]);
        let run = Answer::of(command);
        assert_eq!(run.code, code, "{run:?}");
        run.saying(text);
        let serve = Serve::start(&host, &[flag, "p"]);
        serve.ask(&host, &["login", "p"]).failed(code).saying(text);
    }
    host.run(&["login", "p"]).failed(78).saying("[providers.p]");
    for bad in [
        &["login"][..],
        &["login", "p", "--flow", "nonsense"],
        &["login", "a/b"],
        &["logout"],
        &["logout", "p", "--json"],
    ] {
        host.run(bad).failed(64);
    }
    host.run(&["login", "p", "--flow", "nonsense"])
        .failed(64)
        .saying("device_code, pkce_redirect, browser_redirect");
    // Nothing would be kept.
    let mut command = host.command(&["login", "p"]);
    command.env("CREDBROKER_STORE_BACKEND", "memory");
    Answer::of(command).failed(78).saying("nothing would be kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_cancels_the_login() {
    let place = Place::of(Flow::DeviceCode);
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let running = Running::start(place.command(&["login", "p", "--json"]));
        running.line();
        assert_eq!(place.bench.broker.open_logins(), 1);
        running.signal(signal);
        let error: Value = serde_json::from_str(&running.line()).unwrap();
        assert_eq!(
            (&error["event"], &error["reason"]),
            (&json!("error"), &json!("CANCELLED"))
        );
        assert_eq!(running.end(), code);
        assert_eq!(place.bench.broker.open_logins(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn at_a_terminal_there_is_a_qr_code_and_the_time_and_ctrl_c_cancels() {
    let place = Place::of(Flow::DeviceCode);
    let mut terminal = place.at_a_terminal(&["login", "p"], |_| {});
    terminal.wait_for("waiting for you (9:5");
    assert_eq!(place.bench.broker.open_logins(), 1);
    assert_shown_apart(&terminal.shown(), &[PAGE, USER_CODE]);
    assert!(terminal.shown().contains('▀'), "{}", terminal.shown());
    terminal.type_("\u{3}");
    let (code, shown) = terminal.end();
    assert_eq!(code, 130, "{shown}");
    assert!(shown.contains("the login was cancelled; begin it anew"), "{shown}");
    assert_eq!(place.bench.broker.open_logins(), 0);
    assert_fits(&shown);

    let (code, shown) = place.at_a_terminal(&["logout", "p"], |_| {}).end();
    assert_eq!(code, 66, "{shown}");
    assert!(shown.contains("`credbroker token list`"), "{shown}");
    assert_fits(&shown);
}

/// Nothing is wider than the terminal, which would break it anywhere.
fn assert_fits(shown: &str) {
    for line in shown.lines() {
        let wide = line.rsplit('\r').next().unwrap();
        let wide = wide
            .replace("\u{1b}[30;107m", "")
            .replace("\u{1b}[0m", "")
            .replace("\u{1b}[K", "");
        assert!(wide.chars().count() <= 80, "wider than 80 columns: {wide:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn at_a_terminal_the_code_is_not_shown_and_the_terminal_is_given_back() {
    let place = Place::of(Flow::PkceRedirect);
    let mut terminal = place.at_a_terminal(&["login", "p"], |_| {});
    terminal.wait_for("paste the code; it is not shown");
    assert!(!terminal.echoes());
    terminal.type_(&format!("x\u{7f}{GOOD_CODE}\rrest-of-the-paste"));
    let (code, shown) = terminal.end();
    assert_eq!(code, 0, "{shown}");
    assert!(!shown.contains(GOOD_CODE) && !shown.contains("rest-of"), "{shown}");
    assert!(shown.contains("logged in to p/default"), "{shown}");

    let mut terminal = place.at_a_terminal(&["login", "p"], |_| {});
    terminal.wait_for("paste the code; it is not shown");
    terminal.type_("half\u{3}");
    let (code, shown) = terminal.end();
    assert_eq!(code, 130, "{shown}");
    assert_eq!(place.bench.broker.open_logins(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_gets_the_terminal_back_while_the_login_is_stopped() {
    let place = Place::of(Flow::PkceRedirect);
    let mut terminal = place.at_a_terminal(&["login", "p"], |_| {});
    terminal.wait_for("paste the code; it is not shown");
    assert!(!terminal.echoes());
    for _ in 0..2 {
        terminal.type_("\u{1a}");
        wait_until("the login stands still", || terminal.is_stopped());
        assert!(terminal.echoes());
        terminal.running.signal(Signal::CONT);
        wait_until("the login goes on", || !terminal.echoes());
    }
    terminal.type_(&format!("{GOOD_CODE}\r"));
    let (code, shown) = terminal.end();
    assert_eq!(code, 0, "{shown}");
    assert!(!shown.contains(GOOD_CODE), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_is_opened_where_somebody_sees_it() {
    let place = Place::with(Login::with(&[Flow::BrowserRedirect, Flow::DeviceCode]), Policy::host());
    let opened = place.host.path("opened");
    let script = format!(
        "#!/bin/sh\necho noise; echo noise >&2\n{{ echo \"$1\"; env; }} > {0}.new; mv {0}.new {0}\n",
        opened.display()
    );
    let tool = place.host.write("bin/xdg-open", &script);
    fs::set_permissions(tool, fs::Permissions::from_mode(0o700)).unwrap();
    let path = format!("{}:{PATH}", place.host.path("bin").display());
    let start = |arguments: &[&str], display: Option<&str>| {
        place.at_a_terminal(arguments, |command| {
            command.env("PATH", &path);
            if let Some(display) = display {
                command.env("DISPLAY", display);
            }
        })
    };

    let terminal = start(&["login", "p"], Some(":0"));
    wait_until("the browser is opened", || opened.exists());
    let seen = fs::read_to_string(&opened).unwrap();
    assert_eq!(seen.lines().next(), Some(AUTH_URL));
    assert!(seen.contains("DISPLAY=:0") && !seen.contains("CREDBROKER_"), "{seen}");
    place.login.agree();
    let (code, shown) = terminal.end();
    assert_eq!(code, 0, "{shown}");
    assert!(
        shown.contains("it is being opened in your browser") && !shown.contains("noise"),
        "{shown}"
    );
    assert_shown_apart(&shown, &[AUTH_URL]);

    fs::remove_file(&opened).unwrap();
    for (arguments, display) in [
        (&["login", "p", "--flow", "device_code", "--no-browser"][..], Some(":0")),
        (&["login", "p", "--flow", "device_code"], None),
    ] {
        let (code, shown) = start(arguments, display).end();
        assert_eq!(code, 0, "{shown}");
        assert!(!shown.contains("your browser"), "{shown}");
    }
    // Nobody looks at a pipe.
    let mut command = place.command(&["login", "p", "--flow", "device_code"]);
    command.env("PATH", &path).env("DISPLAY", ":0").stderr(Stdio::piped());
    Answer::of(command).succeeded();
    assert!(!opened.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn logout_removes_and_says_what_became_of_the_token() {
    let place = Place::of(Flow::DeviceCode);
    let sentence = "credbroker: logged out of p/work; its token cannot be revoked, and stays good at the provider until it expires: no revocation endpoint is known\n";
    import(&place.bench.broker, "p", "work", r#"{"access_token":"a"}"#).await;
    let arguments = ["logout", "p", "--bucket", "work"];
    let done = place.ask(&arguments).succeeded();
    assert_eq!((done.out.as_str(), done.err.as_str()), ("", sentence));
    let absent = place.bench.broker.entry(&key("p", "work")).await;
    assert!(absent.is_none());
    place
        .ask(&arguments)
        .failed(66)
        .saying("there is no entry p/work, so there is nothing to log out of: look at `credbroker token list`");

    let host = Host::new();
    host.run(&arguments)
        .failed(66)
        .saying("there is no entry p/work, so there is nothing to log out of: look at `credbroker token list`");
    host.run_with(
        &["token", "import", "p", "--bucket", "work"],
        br#"{"access_token":"a"}"#,
    )
    .succeeded();
    assert_eq!(host.run(&arguments).succeeded().err, sentence);
    host.run(&arguments).failed(66);

    let refused = Place::with(Login::with(&[]), support::reading(&["p"]));
    refused
        .ask(&["logout", "p"])
        .failed(77)
        .saying("--allow-remove p/default");
}
