//! Pages that are made: the manual, and the tables of `docs/operations.md` and `docs/configuration.md`.

#![expect(clippy::unwrap_used, reason = "a failure here is a test's failure")]

use std::fmt::Write as _;

use clap::{Command, CommandFactory as _};
use clap_mangen::{
    Man,
    roff::{Roff, bold, roman},
};
use credbroker::{
    cli::{
        args::Cli,
        signals::{CANCELLING, FORWARDED, STOPPING},
    },
    config::{KEYS, Key, POLICY_KEYS},
    server::metrics::FAMILIES,
};
use rustix::process::Signal;

pub(crate) const EXIT_CODES: &[(&str, &str)] = &[
    ("0", "done"),
    ("64", "usage: the command line is wrong"),
    (
        "65",
        "bad input; INVALID_REQUEST, MESSAGE_TOO_LARGE, STORE_CORRUPT; audit verify: tampered or cut",
    ),
    ("66", "NOT_FOUND, SESSION_NOT_FOUND"),
    (
        "69",
        "no connection to the broker, or it was lost; another broker is in the way; STORE_UNAVAILABLE, UNIMPLEMENTED, UNKNOWN_VERSION; audit verify: made without a key, or locked by somebody unknown",
    ),
    ("70", "INTERNAL_ERROR; the system refused something"),
    (
        "75",
        "try again: RATE_LIMITED, TOO_MANY_STREAMS, TOO_MANY_SESSIONS, PROVIDER_UNAVAILABLE, LOCK_TIMEOUT, SHUTTING_DOWN, DEADLINE_EXCEEDED, STORE_LOCKED",
    ),
    (
        "77",
        "not permitted, or not in a sandbox: UNAUTHENTICATED, UNAUTHORIZED, PEER_NOT_ALLOWED, NEEDS_LOGIN, ACCESS_DENIED, EXCHANGE_FAILED, SESSION_EXPIRED, SESSION_ALREADY_USED",
    ),
    (
        "78",
        "the configuration is wrong; PROVIDER_NOT_FOUND, PROVIDER_REJECTED; audit verify: made with another key",
    ),
    ("128+n", "login: signal n cancelled it (130 for Ctrl-C)"),
];

const RUN_EXIT_CODES: &[(&str, &str)] = &[
    ("125", "run: the broker failed"),
    ("126", "run: CMD cannot be executed"),
    ("127", "run: CMD is not found"),
    ("other", "run: the status of CMD; 128+n if signal n ended it"),
];

const FILES: &[(&str, &str)] = &[
    ("$XDG_CONFIG_HOME/credbroker/config.toml", "the configuration"),
    (
        "$XDG_DATA_HOME/credbroker/",
        "the store: one encrypted file for each entry and API key",
    ),
    (
        "$XDG_DATA_HOME/credbroker/identity.txt",
        "what decrypts the store; keep a backup of it",
    ),
    (
        "$XDG_STATE_HOME/credbroker/audit/",
        "the files of records, at least one for each broker process",
    ),
    (
        "$XDG_RUNTIME_DIR/credbroker/daemon/sandbox/sock",
        "the socket of `serve`; its directory is what a sandbox mounts. Not there with --socket or a socket of systemd's",
    ),
    (
        "$XDG_RUNTIME_DIR/credbroker/daemon/control.sock",
        "the socket of `status`; never given to a sandbox",
    ),
    (
        "$XDG_RUNTIME_DIR/credbroker/daemon/pid, $XDG_RUNTIME_DIR/credbroker/daemon/lock",
        "its process, for people, and the lock that says that it lives",
    ),
    (
        "$XDG_RUNTIME_DIR/credbroker/ID/",
        "the same of a `run`, and of a `serve` with --socket: ID is 22 random characters",
    ),
];

const EXAMPLES: &[(&str, &str)] = &[
    ("Log in to a provider:", "credbroker login github"),
    (
        "Store a token set and an API key:",
        "credbroker token import github < token.json\ncredbroker key set openai < key.txt",
    ),
    (
        "Run a program that may read them:",
        "credbroker run --allow github --allow-key openai -- python3 client.py",
    ),
    (
        "Use a token in a script inside:",
        "curl -H \"$(credbroker token get github --header)\" https://api.github.com/user",
    ),
    (
        "Serve several sandboxes, one of them with a uid of its own:",
        "credbroker serve --policy sandboxes.toml --allow-uid 1000",
    ),
];

/// What a straight apostrophe is, to groff and to others.
const APOSTROPHE: &str = ".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '\n";

/// The scripts of the manual and of the help texts.
pub(crate) fn examples(commands: &[(String, Command)]) -> String {
    let manual = EXAMPLES.iter().map(|(_, script)| (*script).to_owned());
    let help = commands.iter().filter_map(|(_, command)| {
        let text = command.get_after_help()?.to_string();
        Some(text.split_once("Example: ")?.1.to_owned())
    });
    manual.chain(help).map(|script| script + "\n").collect()
}

fn environment() -> Vec<(String, String)> {
    let mut rows: Vec<(String, String)> = [
        (
            "CREDBROKER_SOCKET",
            "the socket of the broker that a sandbox talks to; where it is set, commands work through it",
        ),
        (
            "CREDBROKER_CAPABILITY",
            "the capability that is sent with every call, 64 hexadecimal digits",
        ),
    ]
    .map(|(name, meaning)| (name.to_owned(), meaning.to_owned()))
    .into();
    rows.extend(KEYS.iter().filter(|key| variable(key).is_some()).map(|key| {
        (
            variable(key).unwrap(),
            format!("overrides {}.{}", key.section, key.name),
        )
    }));
    rows.extend(
        [
            ("PATH", "where `run --sandbox` and `doctor` look for bwrap, podman and docker; not in directories that the sandbox may write to"),
            ("RUST_LOG", "what is logged: a level (error, warn, info, debug, trace) or target=level; info for `serve`, else warn"),
            ("XDG_CONFIG_HOME, XDG_DATA_HOME, XDG_STATE_HOME", "where the files are; ~/.config, ~/.local/share and ~/.local/state if not set"),
            ("HTTPS_PROXY, ALL_PROXY, NO_PROXY", "the http:// proxy that leads to providers, and the hosts that need none; also in small letters"),
            ("SSL_CERT_FILE, SSL_CERT_DIR", "certificate authorities that vouch for providers, instead of the system's"),
            ("XDG_RUNTIME_DIR", "where brokers have their sockets; if not set, cb-UID in TMPDIR or /tmp"),
            ("HOME, TMPDIR", "where the directories above are if they are not set"),
            ("DISPLAY, WAYLAND_DISPLAY", "`login` opens a browser only if one of them is set"),
            ("LISTEN_FDS, LISTEN_PID, LISTEN_FDNAMES", "the socket that systemd hands to `serve`; no child process gets them"),
            ("NOTIFY_SOCKET", "where `serve` says READY=1, STATUS= and STOPPING=1; no child process gets it"),
            ("WATCHDOG_USEC, WATCHDOG_PID", "how often `serve` has to say WATCHDOG=1; it does so twice as often"),
        ]
        .map(|(name, meaning)| (name.to_owned(), meaning.to_owned())),
    );
    rows
}

/// The variable that overrides the key; providers have none.
fn variable(key: &Key) -> Option<String> {
    (!key.section.contains('.')).then(|| format!("CREDBROKER_{}_{}", key.section, key.name).to_uppercase())
}

/// The made parts of the pages, by page and the name of their marker.
pub(crate) fn tables() -> Vec<(&'static str, &'static str, String)> {
    let configuration =
        [("policy keys", keys(POLICY_KEYS))].map(|(marker, made)| ("docs/configuration.md", marker, made));
    let operations = reference()
        .into_iter()
        .map(|(marker, made)| ("docs/operations.md", marker, made));
    configuration.into_iter().chain(operations).collect()
}

fn reference() -> Vec<(&'static str, String)> {
    vec![
        ("keys", keys(KEYS)),
        ("signals", signals()),
        ("metrics", metrics()),
        (
            "environment",
            table(
                ["variable", "meaning"],
                environment()
                    .iter()
                    .map(|(name, meaning)| [code(name), meaning.clone()]),
            ),
        ),
        (
            "files",
            table(
                ["path", "what it is"],
                FILES.iter().map(|(path, what)| [code(path), (*what).to_owned()]),
            ),
        ),
        (
            "exit codes",
            table(
                ["code", "meaning"],
                EXIT_CODES
                    .iter()
                    .chain(RUN_EXIT_CODES)
                    .map(|(code, meaning)| [(*code).to_owned(), (*meaning).to_owned()]),
            ),
        ),
    ]
}

/// What each command does with a signal that it catches.
fn signals() -> String {
    let names = [
        (Signal::INT, "SIGINT"),
        (Signal::TERM, "SIGTERM"),
        (Signal::HUP, "SIGHUP"),
        (Signal::QUIT, "SIGQUIT"),
        (Signal::USR1, "SIGUSR1"),
        (Signal::USR2, "SIGUSR2"),
    ];
    let caught = |signal: &Signal| {
        [&STOPPING[..], &FORWARDED, &CANCELLING]
            .iter()
            .any(|all| all.contains(signal))
    };
    let count = (1..65).filter_map(Signal::from_named_raw).filter(caught).count();
    assert_eq!(count, names.len(), "a signal is caught that has no name here");
    let what = |all: &[Signal], signal: &Signal, what: &str| if all.contains(signal) { what } else { "-" }.to_owned();
    table(
        ["signal", "`serve`", "`run`", "`login`"],
        names.iter().map(|(signal, name)| {
            [
                code(name),
                what(&STOPPING, signal, "stops in order"),
                what(&FORWARDED, signal, "passes it on to the command"),
                what(&CANCELLING, signal, "cancels the login"),
            ]
        }),
    )
}

fn metrics() -> String {
    table(
        ["metric", "kind", "labels", "meaning"],
        FAMILIES.iter().map(|family| {
            let labels = family.labels.iter().map(|label| code(label)).collect::<Vec<_>>();
            [
                code(family.name),
                family.kind.as_str().to_owned(),
                labels.join(", "),
                family.meaning.to_owned(),
            ]
        }),
    )
}

/// A table for each section.
fn keys(keys: &[Key]) -> String {
    let mut sections: Vec<&str> = keys.iter().map(|key| key.section).collect();
    sections.dedup();
    let mut page = String::new();
    for section in sections {
        let rows = keys.iter().filter(|key| key.section == section).map(|key| {
            [
                code(key.name),
                key.kind.description(),
                key.default.to_owned(),
                key.meaning.to_owned(),
            ]
        });
        write!(
            page,
            "`[{section}]`\n\n{}\n",
            table(["key", "takes", "default", "meaning"], rows)
        )
        .unwrap();
    }
    page.trim_end().to_owned() + "\n"
}

fn table<const N: usize>(heading: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let mut page = format!("| {} |\n|{}\n", heading.join(" | "), " --- |".repeat(N));
    for row in rows {
        let cells = row.map(|cell| cell.replace('|', "\\|"));
        writeln!(page, "| {} |", cells.join(" | ")).unwrap();
    }
    page
}

fn code(text: &str) -> String {
    text.split(", ")
        .map(|part| format!("`{part}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// The manual: one page with every command.
pub(crate) fn manual(commands: &[(String, Command)]) -> String {
    let whole = Man::new(Cli::command());
    let version = env!("CARGO_PKG_VERSION");
    let mut page = format!("{APOSTROPHE}.TH credbroker 1 \"\" \"credbroker {version}\" \"User Commands\"\n");
    page += &made(|w| whole.render_name_section(w));
    page += ".SH SYNOPSIS\n";
    page += &synopsis(Cli::command());
    page += &made(|w| whole.render_description_section(w));
    page += ".SH COMMANDS\n";
    for (name, command) in commands {
        page += &one_command(name, command);
    }
    page += &made(|w| whole.render_options_section(w));

    let own = |rows: Vec<(String, String)>| {
        let mut roff = Roff::new();
        for (term, meaning) in rows {
            roff.control("TP", []).text([bold(term)]).text([roman(meaning)]);
        }
        roff.to_roff()
    };
    let owned = |rows: &[(&str, &str)]| rows.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
    page += ".SH ENVIRONMENT\n";
    page += &own(environment());
    page += ".SH FILES\n";
    page += &own(owned(FILES));
    page += ".SH EXIT STATUS\n";
    page += &own(owned(&[EXIT_CODES, RUN_EXIT_CODES].concat()));
    page += ".SH EXAMPLES\n";
    for (what, script) in EXAMPLES {
        let mut roff = Roff::new();
        roff.control("PP", [])
            .text([roman(*what)])
            .control("RS", ["4"])
            .control("nf", []);
        for line in script.lines() {
            roff.text([bold(line)]);
        }
        roff.control("fi", []).control("RE", []);
        page += &roff.to_roff();
    }
    page
}

fn one_command(name: &str, command: &Command) -> String {
    let command = command
        .clone()
        .disable_help_flag(true)
        .bin_name(name)
        .display_name(name);
    let paragraphs = |text: &str| {
        let mut roff = Roff::new();
        for paragraph in text.split("\n\n") {
            roff.control("PP", []).text([roman(paragraph)]);
        }
        roff.to_roff()
    };
    let about = command.get_about().unwrap().to_string();
    let after = command.get_after_help().map(ToString::to_string);
    let has_arguments = command.get_arguments().next().is_some();
    let usage = synopsis(command.clone());
    let man = Man::new(command);
    let mut page = format!(".SS \"{name}\"\n");
    page += &usage;
    page += &paragraphs(&format!("{about}."));
    if has_arguments {
        page += body(&made(|w| man.render_options_section(w)));
    }
    if let Some(after) = after {
        page += &paragraphs(&after);
    }
    page
}

/// The usage as `--help` has it.
fn synopsis(mut command: Command) -> String {
    let usage = command.render_usage().to_string();
    let mut roff = Roff::new();
    roff.text([bold(usage.trim_start_matches("Usage: "))]);
    roff.to_roff()
}

fn made(render: impl FnOnce(&mut dyn std::io::Write) -> std::io::Result<()>) -> String {
    let mut bytes = Vec::new();
    render(&mut bytes).unwrap();
    without_preamble(&String::from_utf8(bytes).unwrap())
}

/// Each rendering defines the apostrophe anew; once is enough for one page.
fn without_preamble(text: &str) -> String {
    text.lines()
        .filter(|line| !line.starts_with(".ie ") && !line.starts_with(".el "))
        .map(|line| format!("{line}\n"))
        .collect()
}

/// A section without its heading.
fn body(section: &str) -> &str {
    section.split_once('\n').map_or("", |(_, body)| body)
}
