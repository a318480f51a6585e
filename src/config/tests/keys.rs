//! Every key of both files: right, wrong, of another type, misspelt.

use std::collections::BTreeSet;

use super::*;

pub(super) const DIGEST: &str = "00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF";

/// Values of the kind that are right, as TOML.
pub(super) fn right(kind: Kind) -> Vec<String> {
    let fixed: &[&str] = match kind {
        Kind::Text => &["'x'", "'ü y'"],
        Kind::Path => &["'/a'", "'a/b'", "'~/a'", "'./~'", "'~'"],
        Kind::Command => &["'pass show x | head -n1'", "\"a\\nb\""],
        Kind::Variable => &["'SECRET_1'", "'_x'"],
        Kind::Url => &["'https://a.example/x'", "'http://[::1]:1/'"],
        Kind::UrlPath => &["'/'", "'/a/b'"],
        Kind::Loopback => &[
            "'127.0.0.1:9464'",
            "'[::1]:1'",
            "'127.0.0.1:0'",
            "'/a/metrics.sock'",
            "'./m'",
            "'~/m'",
        ],
        Kind::Flag => &["true", "false"],
        Kind::Choice(names) => return names.iter().map(|name| format!("'{name}'")).collect(),
        Kind::Count => &["1", "0x10", "1_000", "1000000"],
        Kind::Seconds => &["1", "0x10", "1_000", "315360000"],
        Kind::Texts => &["[]", "['a', 'b:c']", "[\n 'a', # why\n]"],
        Kind::Ports => &["[1]", "[1455, 65_535]"],
        Kind::Statuses => &["[]", "[400, 404, 599]"],
        Kind::Parameters => &["{}", "{ a = 'b', 'c d' = '' }"],
        Kind::Digest => return vec![format!("'{DIGEST}'")],
        Kind::Entries => &["[]", "['p', 'p/b', 'p/*', '*']"],
        Kind::ApiKeys => &["[]", "['k', '*']"],
        Kind::Entry => &["'p'", "'p/b'", "'p/default'"],
        Kind::ApiKey => &["'k'", "'a.b@c'"],
    };
    fixed.iter().map(ToString::to_string).collect()
}

/// Values that are wrong for the kind though of the right type; each with something that must not be quoted.
pub(super) fn wrong(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Text => &["''", "\"hunter2\\n\"", "\"hunter2\\u0000\""],
        Kind::Path => &["''", "\"/hunter2\\u0000\"", "'~hunter2/x'"],
        Kind::Command => &["''", "'  '", "\"hunter2\\u0000\""],
        Kind::Variable => &["''", "'hunter2-x'", "'1hunter2'", "'hunter2=x'", "'CREDBROKER_HUNTER2'"],
        Kind::Url => &[
            "''",
            "'hunter2'",
            "'http://hunter2.example'",
            "'https://u:hunter2@a.example/'",
            "'https://a.example/#hunter2'",
        ],
        Kind::UrlPath => &[
            "''",
            "'hunter2'",
            "'/hunter2?x'",
            "'/hunter2#x'",
            "'/ hunter2'",
            "\"/hunter2\\n\"",
        ],
        Kind::Loopback => &[
            "''",
            "'hunter2'",
            "'9464'",
            "':9464'",
            "'127.0.0.1'",
            "'127.0.0.1:65536'",
            "'127.0.0.1:09464'",
            "'127.0.0.2:9464'",
            "'0.0.0.0:9464'",
            "'[::]:9464'",
            "'[::ffff:127.0.0.1]:9464'",
            "'[::1%1]:9464'",
            "'10.0.0.1:9464'",
            "'localhost:9464'",
            "\"/hunter2\\u0000\"",
            "'~hunter2/x'",
        ],
        Kind::Flag => &["'true'", "'hunter2'"],
        Kind::Choice(_) => &["''", "'hunter2'", "'FILE'", "'non'"],
        Kind::Count => &["0", "-1", "1000001", "99999999999999999999999", "60.0", "'60'"],
        Kind::Seconds => &["0", "-1", "315360001", "99999999999999999999999", "3600.0", "'3600'"],
        Kind::Texts => &[
            "['']",
            "['hunter2 x']",
            "['a', \"hunter2\\n\"]",
            "['a', 1]",
            "'hunter2'",
        ],
        Kind::Ports => &["[0]", "[65536]", "[-1]", "['1']", "1455", "[]"],
        Kind::Statuses => &["[200]", "[399]", "[600]", "['404']", "404"],
        Kind::Parameters => &[
            "{ a = 1 }",
            "{ a = { b = 'hunter2' } }",
            "{ '' = 'hunter2' }",
            "['hunter2']",
        ],
        Kind::Digest => &[
            "''",
            "'hunter2'",
            "'00'",
            "'g0112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF'",
        ],
        Kind::Entries => &["['']", "['p', 'hunter2 x']", "['p/']", "['*/b']", "'p'", "[1]"],
        Kind::ApiKeys => &["['']", "['hunter2/x']", "['k*']", "'k'", "[1]"],
        Kind::Entry => &[
            "''",
            "'hunter2 x'",
            "'hunter2/'",
            "'/hunter2'",
            "'p/hunter2/x'",
            "'hunter2/*'",
            "'*'",
        ],
        Kind::ApiKey => &["''", "'hunter2/x'", "'*'", "'..'"],
    }
}

/// One value of each TOML type, by name.
pub(super) const TYPES: &[(&str, &str)] = &[
    ("string", "'hunter2 '"),
    ("integer", "7"),
    ("float", "1.5"),
    ("boolean", "true"),
    ("datetime", "2026-01-01"),
    ("array", "[[]]"),
    ("table", "{ hunter2 = {} }"),
];

fn type_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Flag => "boolean",
        Kind::Count | Kind::Seconds => "integer",
        Kind::Texts | Kind::Ports | Kind::Statuses | Kind::Entries | Kind::ApiKeys => "array",
        Kind::Parameters => "table",
        Kind::Text
        | Kind::Path
        | Kind::Command
        | Kind::Variable
        | Kind::Url
        | Kind::UrlPath
        | Kind::Loopback
        | Kind::Choice(_)
        | Kind::Digest
        | Kind::Entry
        | Kind::ApiKey => "string",
    }
}

fn section_of(key: &Key) -> String {
    key.section.replace("NAME", "n").replace("HOST", "h")
}

/// A file that sets one key (on line 3, in a section that is complete but for it), with the key's full name.
fn file_with(key: &Key, value: &str) -> (String, String) {
    let section = section_of(key);
    let mut text = format!("# a comment\n[{section}]\n{} = {value}\n", key.name);
    let rest = match key.section {
        "providers.NAME" => {
            let secret = matches!(key.name, "client_auth").then_some("client_secret_file = 's'");
            let all = ["preset = 'google'", "client_id = 'c'"];
            all.into_iter()
                .chain(secret)
                .filter(|line| !line.starts_with(&format!("{} ", key.name)))
                .collect()
        }
        "git.HOST" if key.name == "username" => vec!["entry = 'p'"],
        "sandboxes.NAME" if key.name != "capability_sha256" => vec![
            "capability_sha256 = \
             '0000000000000000000000000000000000000000000000000000000000000000'",
        ],
        _ => vec![],
    };
    for line in rest {
        text.push_str(line);
        text.push('\n');
    }
    (text, format!("{section}.{}", key.name))
}

type ErrorOf = fn(&str, usize) -> String;
type Load = fn(&str) -> Result<(), ConfigError>;

/// Every key of both files with the functions that load such a file and that give its error.
fn all_keys() -> impl Iterator<Item = (&'static Key, ErrorOf, Load)> {
    let config = KEYS.iter().map(|key| {
        let ok: Load = |text| load(text).map(drop);
        (key, error as ErrorOf, ok)
    });
    let policy = POLICY_KEYS.iter().map(|key| {
        let ok: Load = |text| load_policy(text).map(drop);
        (key, policy_error as ErrorOf, ok)
    });
    config.chain(policy)
}

#[test]
fn every_key_takes_what_its_kind_describes() {
    for (key, _, ok) in all_keys() {
        for value in right(key.kind) {
            let (text, _) = file_with(key, &value);
            let result = ok(&text);
            // Without a secret there is nothing to show, with one there is: both are told apart by another test.
            if key.name == "client_auth" && value == "'none'" {
                assert!(result.is_err());
            } else {
                assert!(result.is_ok(), "{text}\n{}", result.unwrap_err());
            }
        }
    }
}

#[test]
fn every_key_refuses_other_values_with_file_line_and_key() {
    for (key, error, _) in all_keys() {
        for value in wrong(key.kind) {
            let (text, name) = file_with(key, value);
            let error = error(&text, 3);
            assert!(error.contains(&name), "{text}\n{error}");
        }
    }
}

#[test]
fn every_key_refuses_every_other_type_and_says_what_it_takes() {
    for (key, error, _) in all_keys() {
        for (type_name, value) in TYPES {
            if *type_name == type_of(key.kind) {
                continue;
            }
            let (text, name) = file_with(key, value);
            let error = error(&text, 3);
            assert!(
                error.contains(&format!("{name} must be {}", key.kind.description())),
                "{text}\n{error}"
            );
            if *type_name != "string" {
                assert!(error.contains(&format!("not of type {type_name}")), "{text}\n{error}");
            }
        }
    }
}

#[test]
fn every_misspelt_key_is_named_with_the_nearest() {
    for (key, error, _) in all_keys() {
        // A letter doubled, one left out at the end, one too many, another case, a hyphen.
        let (first, rest) = key.name.split_at(1);
        let misspelt = [
            format!("{first}{first}{rest}"),
            key.name[..key.name.len() - 1].to_owned(),
            format!("{}x", key.name),
            key.name.to_uppercase(),
            key.name.replace('_', "-"),
        ];
        for name in misspelt {
            if KEYS.iter().chain(POLICY_KEYS).any(|other| other.name == name) {
                continue;
            }
            let section = section_of(key);
            let text = format!("\n[{section}]\n\n\"{name}\" = '{SECRET}'\n");
            let error = error(&text, 4);
            assert!(error.contains(&format!("unknown key \"{section}.{name}\"")), "{error}");
            assert!(error.contains(&format!("did you mean \"{}\"?", key.name)), "{error}");
        }
    }
}

#[test]
fn the_tables_of_keys_are_sound() {
    let mut seen = BTreeSet::new();
    for key in KEYS.iter().chain(POLICY_KEYS) {
        assert!(seen.insert((key.section, key.name)), "{} twice", key.name);
        assert!(
            !key.meaning.is_empty() && !key.default.is_empty() && !key.meaning.ends_with('.'),
            "{}",
            key.name
        );
    }
}
