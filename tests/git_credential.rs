//! `git-credential` as git runs it: the real binary, asked on standard input, on a host and in a sandbox. With git itself:
//! `tests/interop/git/`.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a failure here is a test's failure"
)]

#[expect(dead_code, reason = "each test file uses its own part of what they share")]
mod command;
#[path = "oauth/server.rs"]
#[expect(dead_code, reason = "each test file uses its own part of what they share")]
mod server;

use command::{Answer, Host, Serve};
use credbroker::clock::{Clock as _, SystemClock};
use server::{Script, Server, answer};

const CONFIG: &str = "config/credbroker/config.toml";
/// Its hosts have an answer as far as the credentials of `Host::with_entry` go.
const HOSTS: &str = "[git.'entry.example']\nentry = 'p'\n\
    [git.'key.example:8443']\napi_key = 'k'\nusername = 'alice'\n\
    [git.'localhost:8080']\nentry = 'p/default'\n\
    [git.'absent.example']\nentry = 'absent'\n\
    [git.'nokey.example']\napi_key = 'absent'\n";
const ERASE: &[&str] = &["git-credential", "erase"];
const GET: &[&str] = &["git-credential", "get"];

fn configured() -> Host {
    let host = Host::with_entry();
    host.write(CONFIG, HOSTS);
    host
}

/// What git writes: the URL in parts, and further lines.
fn lines(url: &str, further: &str) -> Vec<u8> {
    let (protocol, host) = url.split_once("://").unwrap();
    format!("capability[]=authtype\nprotocol={protocol}\nhost={host}\npath=o/r.git\n{further}").into_bytes()
}

fn get(host: &Host, url: &str) -> Answer {
    host.run_with(GET, &lines(url, ""))
}

/// User name and password of an answer; for a token that is good for an hour, with the time of its end.
#[track_caller]
fn user_and_password(answer: Answer, is_token: bool) -> (String, String) {
    let answer = answer.succeeded();
    assert_eq!(answer.err, "");
    let mut lines = answer.out.lines();
    let mut value = |key: &str| {
        let (found, value) = lines.next().unwrap().split_once('=').unwrap();
        assert_eq!(found, key, "{answer:?}");
        value.to_owned()
    };
    let pair = (value("username"), value("password"));
    if is_token {
        let end: i64 = value("password_expiry_utc").parse().unwrap();
        let left = end - SystemClock::new().now().wall.as_second();
        assert!((3400..=3600).contains(&left), "{answer:?}");
    }
    assert_eq!(lines.next(), None, "{answer:?}");
    pair
}

#[track_caller]
fn is_silent(answer: Answer) {
    let answer = answer.succeeded();
    assert_eq!((answer.out.as_str(), answer.err.as_str()), ("", ""));
}

/// Says why on standard error, and that git shall ask nobody else.
#[track_caller]
fn quits(answer: Answer, code: i32, text: &str) {
    assert_eq!((answer.code, answer.out.as_str()), (code, "quit=1\n"), "{answer:?}");
    let _ = answer.saying(text);
}

fn pair(username: &str, password: &str) -> (String, String) {
    (username.to_owned(), password.to_owned())
}

#[test]
fn a_host_of_the_configuration_gets_its_credential_and_no_other_does() {
    let host = configured();
    for url in [
        "https://entry.example",
        "https://Entry.EXAMPLE",
        "https://entry.example:443",
        "http://localhost:8080",
    ] {
        assert_eq!(
            user_and_password(get(&host, url), true),
            pair("oauth2", "access-1"),
            "{url}"
        );
    }
    let key = get(&host, "https://key.example:8443");
    assert_eq!(user_and_password(key, false), pair("alice", "key-1"));
    for url in [
        "https://elsewhere.example",
        "https://entry.example.elsewhere.example",
        "https://entry.example:8443",
        "https://key.example",
        // In clear, to another machine.
        "http://entry.example",
        "http://key.example:8443",
        "ftp://entry.example",
        "cert://",
    ] {
        is_silent(get(&host, url));
        is_silent(host.run_with(ERASE, &lines(url, "password=access-1\n")));
    }
    for input in ["", "\n", "protocol=https\n", "host=entry.example\n"] {
        is_silent(host.run_with(GET, input.as_bytes()));
    }
}

#[test]
fn another_account_than_the_configured_one_is_not_answered_for() {
    let host = configured();
    let ask = |url: &str, username: &str| host.run_with(GET, &lines(url, &format!("username={username}\n")));
    let (entry, key) = ("https://entry.example", "https://key.example:8443");
    assert_eq!(user_and_password(ask(entry, "bob"), true), pair("bob", "access-1"));
    assert_eq!(user_and_password(ask(key, "alice"), false), pair("alice", "key-1"));
    for other in ["bob", "Alice", "alice "] {
        is_silent(ask(key, other));
    }
}

#[test]
fn a_sandbox_is_answered_by_the_configuration_that_it_can_read() {
    let host = configured();
    let serve = Serve::start(&host, &["--allow", "p", "--allow-key", "k"]);
    let config = host.path(CONFIG).display().to_string();
    let by_flag = |url: &str| {
        let command = serve.client(&host, &["--config", &config, "git-credential", "get"]);
        Answer::with_input(command, &lines(url, ""))
    };
    let by_place = |url: &str| {
        let mut command = serve.client(&host, GET);
        command.env("XDG_CONFIG_HOME", host.path("config"));
        Answer::with_input(command, &lines(url, ""))
    };
    for ask in [&by_flag as &dyn Fn(&str) -> Answer, &by_place] {
        let got = ask("https://entry.example");
        assert_eq!(user_and_password(got, true), pair("oauth2", "access-1"));
        let got = ask("https://key.example:8443");
        assert_eq!(user_and_password(got, false), pair("alice", "key-1"));
        is_silent(ask("https://elsewhere.example"));
        is_silent(ask("http://entry.example"));
        quits(ask("https://absent.example"), 77, "--allow absent");
        quits(ask("https://nokey.example"), 77, "--allow-key absent");
    }
    // One that can read none knows no host, and tells who wants to know.
    is_silent(Answer::with_input(
        serve.client(&host, GET),
        &lines("https://entry.example", ""),
    ));
    let mut told = serve.client(&host, GET);
    told.env("RUST_LOG", "info");
    let told = Answer::with_input(told, &lines("https://entry.example", "")).succeeded();
    assert_eq!(told.out, "");
    let _ = told.saying("git is not answered: no [git.HOST] is configured here, and no --host is given");
}

#[test]
fn options_say_the_same_where_no_configuration_is_to_be_read() {
    let host = Host::with_entry();
    let serve = Serve::start(&host, &["--allow", "p", "--allow-key", "k"]);
    let ask = |sandbox: bool, options: &[&str], url: &str, further: &str| {
        let arguments = [&["git-credential"], options, &["get"]].concat();
        let command = if sandbox {
            serve.client(&host, &arguments)
        } else {
            host.command(&arguments)
        };
        Answer::with_input(command, &lines(url, further))
    };
    let url = "https://git.example:8443";
    let entry = ["--host", "git.example:8443", "--entry", "p"];
    let key = ["--host", "Git.example:8443", "--api-key", "k", "--username", "alice"];
    for sandbox in [true, false] {
        let got = ask(sandbox, &entry, url, "");
        assert_eq!(user_and_password(got, true), pair("oauth2", "access-1"));
        assert_eq!(
            user_and_password(ask(sandbox, &key, url, ""), false),
            pair("alice", "key-1")
        );
        is_silent(ask(sandbox, &key, url, "username=bob\n"));
        is_silent(ask(sandbox, &entry, "https://git.example", ""));
        is_silent(ask(sandbox, &entry, "http://git.example:8443", ""));
    }
    // They stand alone: a file that is wrong does not matter in a sandbox, and no other host is looked up in one.
    let wrong = host.write(CONFIG, "[stor]\n");
    let config = ["--config", &wrong];
    let got = ask(true, &[&config[..], &entry].concat(), url, "");
    assert_eq!(user_and_password(got, true), pair("oauth2", "access-1"));
    host.write(CONFIG, HOSTS);
    is_silent(ask(false, &entry, "https://entry.example", ""));
}

#[test]
fn options_that_do_not_go_together_are_64_and_nothing_is_answered() {
    let host = Host::with_entry();
    for (options, text) in [
        // A token without a host would go to whoever asks.
        (&["--entry", "p"][..], "--host"),
        (&["--api-key", "k"], "--host"),
        (&["--username", "u"], "--host"),
        (&["--host", "a"], "--entry"),
        (&["--host", "a", "--username", "u"], "--entry"),
        (
            &["--host", "a", "--entry", "p", "--api-key", "k"],
            "cannot be used with",
        ),
        (
            &["--host", "https://a", "--entry", "p"],
            "is no host: write it as the URL has it",
        ),
        (&["--host", "a", "--entry", "p/*"], "git needs one entry"),
        (&["--host", "a", "--entry", "*"], "git needs one entry"),
        (&["--host", "a", "--entry", "p/"], "write P for the default bucket"),
        (
            &["--host", "a", "--entry", "p", "--username", ""],
            "a user name is not empty",
        ),
        (
            &["--host", "a", "--entry", "p", "--username", "a\nb"],
            "no control characters",
        ),
    ] {
        let arguments = [&["git-credential"], options, &["get"]].concat();
        let answer = host.run_with(&arguments, &lines("https://a", "")).failed(64);
        assert!(answer.err.contains(text), "{answer:?}");
    }
    host.run(&["git-credential"]).failed(64).saying("<get|store|erase>");
}

#[test]
fn a_failure_for_a_host_of_ours_ends_gits_search_and_says_why() {
    let host = configured();
    quits(get(&host, "https://absent.example"), 66, "credbroker login absent");
    quits(get(&host, "https://nokey.example"), 66, "credbroker key set absent");
    host.import("p", r#"{"access_token":"access-2","expires_in":0}"#);
    quits(get(&host, "https://entry.example"), 77, "credbroker login p");
    host.import("p", r#"{"access_token":"access-2","expires_in":0,"refresh_token":"r"}"#);
    quits(get(&host, "https://entry.example"), 78, "[providers.p]");
    // What git's lines cannot carry.
    host.run_with(&["key", "set", "k"], b"key-1\nquit=1").succeeded();
    quits(get(&host, "https://key.example:8443"), 65, "control characters");
    let nobody = || {
        let mut command = host.command(GET);
        command.env("CREDBROKER_SOCKET", host.path("nobody"));
        command
    };
    let cannot = "Cannot connect to the credential broker. Ensure the sandbox was started correctly.";
    quits(
        Answer::with_input(nobody(), &lines("https://entry.example", "")),
        69,
        cannot,
    );
    // Other hosts are not concerned.
    is_silent(Answer::with_input(nobody(), &lines("https://elsewhere.example", "")));
    is_silent(get(&host, "https://elsewhere.example"));
}

#[test]
fn what_may_concern_other_hosts_does_not_end_gits_search() {
    let host = configured();
    host.run_with(GET, b"protocol=https\nhost=entry.example\nhunter2\n")
        .failed(65)
        .saying("a line without an equals sign");
    host.run_with(GET, b"protocol=https\nhost=entry.example\nusername=a\rb\n")
        .failed(65)
        .saying("a username with control characters");
    host.run_with(GET, &vec![b'x'; 300_000])
        .failed(65)
        .saying("longer than 262144 bytes");
    host.write(CONFIG, "[git.'entry.example']\nentri = 'p'\n");
    get(&host, "https://entry.example")
        .failed(78)
        .saying(":2: unknown key \"git.'entry.example'.entri\"; did you mean \"entry\"?");
}

#[test]
fn what_git_keeps_and_what_it_may_say_later_is_ignored() {
    let host = Host::new();
    host.write(CONFIG, HOSTS);
    for word in ["store", "capability", "get-all", "GET"] {
        is_silent(host.run_with(
            &["git-credential", word],
            &lines("https://entry.example", "password=x\n"),
        ));
        is_silent(host.run_with(&["git-credential", word], b"hunter2\0"));
    }
    // A host that is not ours costs nothing either: no store is made for it.
    is_silent(get(&host, "https://elsewhere.example"));
    assert!(!host.store().exists());
}

/// A host whose provider gives out `access-2`, `access-3` and so on, and perhaps a sandbox there.
struct Refreshing {
    server: Server,
    host: Host,
    serve: Option<Serve>,
}

impl Refreshing {
    fn start(sandbox: bool) -> Self {
        let next = |n: u32| {
            let body = format!(r#"{{"access_token":"access-{n}","refresh_token":"refresh-{n}","expires_in":3600}}"#);
            Script::Answer(answer("200 OK", "", &body))
        };
        let server = Server::start((2..9).map(next).collect());
        let host = configured();
        let endpoint = server.url();
        host.write(
            CONFIG,
            &format!("[providers.p]\nclient_id = 'c'\ntoken_endpoint = '{endpoint}'\n{HOSTS}"),
        );
        let serve = sandbox.then(|| Serve::start(&host, &["--allow", "p"]));
        Self { server, host, serve }
    }

    fn ask(&self, arguments: &[&str], further: &str) -> Answer {
        let mut command = match &self.serve {
            Some(serve) => serve.client(&self.host, arguments),
            None => self.host.command(arguments),
        };
        command
            .env("XDG_CONFIG_HOME", self.host.path("config"))
            .env("RUST_LOG", if arguments == ERASE { "trace" } else { "off" });
        Answer::with_input(command, &lines("https://entry.example", further)).succeeded()
    }

    fn erase(&self, further: &str) -> Answer {
        let answer = self.ask(ERASE, further);
        for secret in ["access-", "refresh-1", "refresh-2"] {
            assert!(!answer.err.contains(secret), "{answer:?}");
        }
        assert_eq!(answer.out, "");
        answer
    }

    /// How often the provider was asked, and what git gets now.
    fn now(&self) -> (usize, String) {
        let (_, password) = user_and_password(self.ask(GET, ""), true);
        (self.server.accepted(), password)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_token_is_refreshed_if_it_is_still_the_current_one_and_nothing_is_removed() {
    for sandbox in [false, true] {
        let house = Refreshing::start(sandbox);
        assert_eq!(house.now(), (0, "access-1".to_owned()));
        // Not the one that is stored, or nothing that could be compared.
        for other in ["access-0", "access-", "access-1 ", "access-11"] {
            let said = house.erase(&format!("username=oauth2\npassword={other}\n"));
            let _ = said.saying("entry.example refused a password that is not the token of p/default now");
        }
        assert!(!house.erase("username=oauth2\n").err.contains("refused"));
        assert_eq!(house.now(), (0, "access-1".to_owned()));

        let said = house.erase("username=oauth2\npassword=access-1\n");
        let _ = said.saying("entry.example refused the token of p/default; it was refreshed, so try again");
        assert_eq!(house.now(), (1, "access-2".to_owned()));
        // Whoever still has the old one spends no refresh.
        house.erase("username=oauth2\npassword=access-1\n");
        assert_eq!(house.now(), (1, "access-2".to_owned()));
        if sandbox {
            // A broker that goes on keeps to its cooldown.
            let said = house.erase("username=oauth2\npassword=access-2\n");
            let _ = said.saying("which was refreshed a moment ago; check the account");
            assert_eq!(house.now(), (1, "access-2".to_owned()));
        }
        assert_eq!(house.host.run(&["token", "list"]).succeeded().out, "p/default\n");
    }
}

#[test]
fn a_refused_api_key_is_told_and_kept() {
    let host = configured();
    let erase = |password: &str| {
        let input = lines(
            "https://key.example:8443",
            &format!("username=alice\npassword={password}\n"),
        );
        host.run_with(ERASE, &input).succeeded()
    };
    let said = erase("key-1").saying("key.example:8443 refused the API key k; check its rights, or store another one");
    assert!(said.out.is_empty() && !said.err.contains("key-1"), "{said:?}");
    let _ = erase("key-0").saying("refused a password that is not the API key k now");
    assert_eq!(host.run(&["key", "get", "k"]).succeeded().out, "key-1\n");
}

#[test]
fn no_secret_of_an_answer_is_logged() {
    let host = configured();
    for url in ["https://entry.example", "https://key.example:8443"] {
        let mut command = host.command(GET);
        command.env("RUST_LOG", "trace");
        let answer = Answer::with_input(command, &lines(url, "")).succeeded();
        for secret in ["access-1", "refresh-1", "key-1"] {
            assert!(!answer.err.contains(secret), "{answer:?}");
        }
    }
    // Why git got no answer is for those who ask.
    let mut command = host.command(GET);
    command.env("RUST_LOG", "info");
    let told = Answer::with_input(command, &lines("http://entry.example", "")).succeeded();
    assert_eq!(told.out, "");
    let _ = told.saying("git is not answered: the token would go out unencrypted");
}
