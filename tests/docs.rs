//! What is written about the command line is what the command line is: the manual page and the tables of
//! `docs/operations.md` are made from the code, and every invocation in the README is one that works.
//!
//! `BLESS=1 cargo test --test docs` writes what is made.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a failure here is a test's failure, and BLESS is a word to the tests"
)]

mod pages;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

use clap::{Command, CommandFactory as _};
use credbroker::{
    cli::{args::Cli, exit_code},
    reason::Reason,
};

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    match fs::read_to_string(path(name)) {
        Ok(text) => text,
        Err(error) => panic!("{name} is part of the project and cannot be read: {error}"),
    }
}

/// Compares the file with what it should be, or writes it.
#[track_caller]
fn expect_page(name: &str, made: &str) {
    if std::env::var_os("BLESS").is_some() {
        fs::create_dir_all(path(name).parent().unwrap()).unwrap();
        fs::write(path(name), made).unwrap();
        return;
    }
    let found = read(name);
    let difference = found.lines().zip(made.lines()).find(|(found, made)| found != made);
    assert!(
        found == made,
        "{name} is not what the code says; renew it with `BLESS=1 cargo test --test docs`. First difference: {difference:?}"
    );
}

/// Every command that does something, as it is typed.
fn leaves() -> Vec<(String, Command)> {
    fn below(name: &str, command: &Command, found: &mut Vec<(String, Command)>) {
        let mut inner = command
            .get_subcommands()
            .filter(|inner| inner.get_name() != "help")
            .peekable();
        if inner.peek().is_none() {
            found.push((name.to_owned(), command.clone()));
        }
        for command in inner {
            below(&format!("{name} {}", command.get_name()), command, found);
        }
    }
    let mut found = Vec::new();
    below("credbroker", &Cli::command(), &mut found);
    found
}

/// What users read of credbroker itself.
const PAGES: [&str; 8] = [
    "README.md",
    "docs/configuration.md",
    "docs/operations.md",
    "docs/login.md",
    "docs/git.md",
    "docs/envoy.md",
    "docs/audit.md",
    "docs/sandboxes.md",
];
/// And of the client packages.
const PACKAGES: [&str; 4] = [
    "clients/README.md",
    "clients/go/README.md",
    "clients/node/README.md",
    "clients/python/README.md",
];

#[test]
fn the_manual_page_is_what_the_command_line_says() {
    expect_page("man/credbroker.1", &pages::manual(&leaves()));
}

#[test]
fn the_tables_of_the_pages_are_those_of_the_code() {
    let mut pages: BTreeMap<&str, String> = BTreeMap::new();
    for (name, marker, made) in pages::tables() {
        let page = pages.entry(name).or_insert_with(|| read(name));
        let (begin, end) = (format!("<!-- begin: {marker} -->\n"), format!("<!-- end: {marker} -->"));
        let Some((before, rest)) = page.split_once(&begin) else {
            panic!("{name} has no {begin}");
        };
        let Some((_, after)) = rest.split_once(&end) else {
            panic!("{name} has no {end}");
        };
        *page = format!("{before}{begin}{made}{end}{after}");
    }
    for (name, page) in pages {
        expect_page(name, &page);
    }
}

#[test]
fn every_reason_stands_at_the_exit_code_that_it_has() {
    for reason in Reason::ALL {
        let at: Vec<&str> = pages::EXIT_CODES
            .iter()
            .filter(|(_, meaning)| {
                let mut words = meaning.split(|c: char| !c.is_ascii_uppercase() && c != '_');
                words.any(|word| word == reason.as_str())
            })
            .map(|(code, _)| *code)
            .collect();
        assert_eq!(at, [exit_code(reason).to_string()], "{reason}");
    }
}

/// What is read from the environment is read by name; each of these names has a row.
#[test]
fn every_variable_that_the_code_reads_is_documented() {
    let page = read("docs/operations.md");
    let rows: BTreeSet<String> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split(" | ").next().map(str::to_owned))
        .flat_map(|cell| cell.split('`').map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let mut found = BTreeSet::new();
    let mut folders = vec![path("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            for call in ["get(\"", "absolute(\"", "xdg(\"", "set(\"", "secret(\""] {
                let names = code.split(call).skip(1).filter_map(|rest| rest.split('"').next());
                let variable =
                    |name: &&str| name.len() > 3 && name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
                found.extend(names.filter(variable).map(str::to_owned));
            }
        }
    }
    assert!(found.len() >= 10, "only {found:?} were found");
    let missing: Vec<_> = found.difference(&rows).collect();
    assert!(missing.is_empty(), "docs/operations.md lacks {missing:?}");
}

#[test]
fn the_examples_of_the_configuration_page_are_accepted() {
    let directory = tempfile::TempDir::new().unwrap();
    let file = directory.path().join("example.toml");
    let environment = credbroker::config::Environment::from_iter([("HOME", "/home/u")]);
    for name in PAGES {
        for example in blocks(&read(name), &["toml"]) {
            fs::write(&file, &example).unwrap();
            let accepted = if example.contains("[sandboxes.") {
                credbroker::config::PolicyFile::load(&file).err()
            } else {
                credbroker::config::Config::load(Some(&file), &environment).err()
            };
            assert!(accepted.is_none(), "{name}: {}\n{example}", accepted.unwrap());
        }
    }
}

#[test]
fn every_argument_and_every_command_has_help_that_ends_without_a_full_stop() {
    for (name, command) in leaves().into_iter().chain([("credbroker".to_owned(), Cli::command())]) {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        assert!(!about.is_empty() && !about.ends_with('.'), "{name}: {about:?}");
        for argument in command.get_arguments() {
            let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
            assert!(
                !help.is_empty() && !help.ends_with('.'),
                "{name} {}: {help:?}",
                argument.get_id()
            );
        }
    }
}

#[test]
fn the_readme_mentions_every_command() {
    let readme = read("README.md");
    for (name, _) in leaves() {
        assert!(readme.contains(&name), "README.md does not mention `{name}`");
    }
}

#[test]
fn every_invocation_in_the_documents_is_one_that_works() {
    let mut checked = 0;
    let mut scripts = vec![("an example of the manual or of --help", pages::examples(&leaves()))];
    for name in PAGES.into_iter().chain(PACKAGES) {
        let found = blocks(&read(name), &["sh", "console", "bash", "shell"]);
        scripts.extend(found.into_iter().map(|block| (name, block)));
    }
    for (name, script) in scripts {
        for words in invocations(&script.replace("\\\n", " ")) {
            if let Err(error) = Cli::command().try_get_matches_from(&words) {
                assert!(!error.use_stderr(), "{name} shows {words:?}, which is refused: {error}");
            }
            checked += 1;
        }
    }
    assert!(checked > 10, "only {checked} invocations were found");
}

#[test]
fn every_flag_that_the_documents_name_exists() {
    let mut known: BTreeSet<String> = ["--help", "--version"].map(str::to_owned).into();
    for (_, command) in leaves().into_iter().chain([(String::new(), Cli::command())]) {
        known.extend(
            command
                .get_arguments()
                .filter_map(|a| Some(format!("--{}", a.get_long()?))),
        );
    }
    for name in PAGES {
        for span in code_spans(&read(name)) {
            let mut words = span.split_whitespace();
            let first = words.next().unwrap_or_default();
            if first == "credbroker" {
                expect_command(name, &span);
            } else if !first.starts_with("--") {
                continue;
            }
            for flag in span
                .split_whitespace()
                .filter(|word| word.starts_with("--") && word.len() > 2)
            {
                let flag = flag.split(['=', '.']).next().unwrap();
                assert!(
                    known.contains(flag),
                    "{name} names {flag} in `{span}`, which does not exist"
                );
            }
        }
    }
}

/// Relative to the project, or to `src/`.
#[test]
fn every_file_that_the_documents_name_exists() {
    let mut checked = 0;
    for name in ["README.md", "ARCHITECTURE.md", "THREAT_MODEL.md", "CONTRIBUTING.md"] {
        for span in code_spans(&read(name)) {
            let top = span.split('/').next().unwrap_or_default();
            let of_the_project =
                span.ends_with(".rs") || ["tests", "proto", "docs", "man", "fuzz", ".ci"].contains(&top);
            if of_the_project && span.contains('/') && !span.contains([' ', '*']) {
                let there = path(&span).exists() || path("src").join(&span).exists();
                assert!(there, "{name} names `{span}`, which is not there");
                checked += 1;
            }
        }
    }
    assert!(checked > 20, "only {checked} files were found");
}

/// The words after the program's name are commands as far as they are lower-case letters.
fn expect_command(page: &str, span: &str) {
    let mut command = Cli::command();
    for word in span.split_whitespace().skip(1) {
        if command.get_subcommands().next().is_none() || !word.bytes().all(|b| b.is_ascii_lowercase()) {
            return;
        }
        let Some(inner) = command
            .get_subcommands()
            .find(|inner| inner.get_name() == word)
            .cloned()
        else {
            panic!("{page} names `{span}`, but there is no command {word:?}");
        };
        command = inner;
    }
}

/// The fenced blocks in one of these languages.
fn blocks(page: &str, languages: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    let mut inside: Option<(bool, String)> = None;
    for line in page.lines() {
        inside = match (inside, line.strip_prefix("```")) {
            (None, Some(language)) => Some((languages.contains(&language.trim()), String::new())),
            (None, None) => None,
            (Some((wanted, text)), Some(_)) => {
                if wanted {
                    found.push(text);
                }
                None
            }
            (Some((wanted, text)), None) => Some((wanted, format!("{text}{line}\n"))),
        };
    }
    found
}

/// What stands between backquotes outside of fenced blocks.
fn code_spans(page: &str) -> Vec<String> {
    let mut fenced = false;
    let prose: Vec<&str> = page
        .lines()
        .filter(|line| {
            let fence = line.starts_with("```");
            fenced ^= fence;
            !fenced && !fence
        })
        .collect();
    prose
        .join("\n")
        .split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

/// Every `credbroker ...` of a script as words, those inside of quotes and substitutions too.
fn invocations(script: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for (start, name) in script.match_indices("credbroker") {
        let before = script[..start].chars().next_back();
        let begins = before.is_none_or(|c| c.is_whitespace() || "('\"|;&".contains(c));
        let goes_on = script[start + name.len()..].starts_with([' ', '\n']);
        // Only where a command stands: at the beginning of a line (after a prompt) or after an operator.
        let line = script[..start].rsplit('\n').next().unwrap_or_default();
        let line = line.trim_end().trim_end_matches(['\'', '"']).trim_end();
        let commands = line.is_empty()
            || line == "$"
            || line.ends_with(['|', ';', '&', '(', '{'])
            || line.ends_with("-c")
            || line.ends_with("--");
        if begins && goes_on && commands {
            found.push(words(&script[start..]));
        }
    }
    found
}

/// The words of the first simple command, as a shell splits it.
fn words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quote): (Vec<String>, Option<String>, Option<char>) = (Vec::new(), None, None);
    for c in text.chars() {
        match quote {
            Some(open) if c == open => quote = None,
            Some(_) => word.get_or_insert_default().push(c),
            None => match c {
                '\'' | '"' => {
                    quote = Some(c);
                    word.get_or_insert_default();
                }
                '\n' | '|' | ';' | '&' | '<' | '>' | ')' | '#' => break,
                c if c.is_whitespace() => words.extend(word.take()),
                c => word.get_or_insert_default().push(c),
            },
        }
    }
    words.extend(word);
    words
}

#[test]
fn the_reading_of_scripts_finds_what_a_shell_would_run() {
    let script = "credbroker key set k < f # credbroker bogus\n$ credbroker run -- sh -c 'echo \"$(credbroker token get p)\" | x'\necho credbroker\ncat credbroker.toml\n";
    let found = invocations(script);
    let expected: [&[&str]; 3] = [
        &["credbroker", "key", "set", "k"],
        &[
            "credbroker",
            "run",
            "--",
            "sh",
            "-c",
            "echo \"$(credbroker token get p)\" | x",
        ],
        &["credbroker", "token", "get", "p"],
    ];
    assert_eq!(found, expected);
    assert_eq!(code_spans("a `b` c\n```sh\n`d`\n```\n`e\nf`"), ["b", "e\nf"]);
    assert_eq!(
        blocks(
            "```sh\na\n```\n```text\nb\n```\n```console\nc\n```\n",
            &["sh", "console"]
        ),
        ["a\n", "c\n"]
    );
}
