//! The arrows between the modules, and other rules about where things may stand.
//!
//! When a test fails here: an arrow that is not in [`ARROWS`] goes back or sideways. Put the code where its arrows point
//! downwards, or hand in as an argument what it reaches for. Only if the picture in `src/lib.rs` itself changes does a
//! row change here, in the same commit as the picture. A row that nothing uses any more is to be deleted.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper that cannot go on fails the test"
)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Who may use whom. `module::part` allows that part alone.
const ARROWS: [(&str, &[&str]); 11] = [
    ("main", &["cli"]),
    (
        "cli",
        &[
            "broker",
            "client",
            "clock",
            "config",
            "credential",
            "daemon",
            "proto",
            "reason",
            "sandbox",
            "server",
            "store",
        ],
    ),
    (
        "daemon",
        &[
            "broker",
            "clock",
            "config",
            "credential",
            "oauth",
            "proto",
            "server",
            "service",
            "store",
        ],
    ),
    ("server", &["broker", "clock", "reason", "service::status"]),
    ("service", &["broker", "credential", "proto", "reason"]),
    // Its broker in the process is the same service, without a socket between.
    (
        "client",
        &[
            "broker",
            "clock",
            "config",
            "credential",
            "daemon::local",
            "daemon::renewed_ahead",
            "proto",
            "reason",
            "service",
        ],
    ),
    ("config", &["broker::policy", "credential", "oauth::Endpoint"]),
    ("broker", &["clock", "credential", "oauth", "reason", "store"]),
    ("store", &["clock", "credential"]),
    ("oauth", &["clock", "credential"]),
    ("credential", &["clock::Now"]),
];

/// A rule about words: files that lie in one of these places may use them, and no other.
struct Words {
    words: &'static [&'static str],
    only_in: &'static [&'static str],
    instead: &'static str,
}

const WORDS: [Words; 8] = [
    Words {
        words: &["tonic::", "tonic_types::", "tonic_health::", "prost::", "prost_types::"],
        only_in: &["proto.rs", "service", "server", "client", "daemon/routes.rs"],
        instead: "wire types stop at service/ and client/: pass a value of the domain",
    },
    Words {
        words: &["hyper::", "hyper_util::"],
        only_in: &["server", "client", "oauth"],
        instead: "HTTP stops at server/, client/ and oauth/: pass a value of the domain",
    },
    Words {
        words: &["reqwest::", "rustls::", "tokio_rustls::", "rustls_native_certs::"],
        only_in: &["oauth/http"],
        instead: "there is one HTTP client, and it alone knows reqwest and TLS: ask a Provider",
    },
    Words {
        words: &["std::fs", "fs::", "std::path", "PathBuf", "UnixStream", "UnixListener"],
        only_in: &[
            "cli",
            "config",
            "daemon.rs",
            "daemon/client_secret.rs",
            "daemon/records.rs",
            "sandbox",
            "store",
            "server",
            "service/control.rs",
            "client",
            "clock.rs",
        ],
        instead: "the core and the values know no path: the composition root hands in what they need",
    },
    Words {
        words: &["std::env::", "env::var"],
        only_in: &["config/environment.rs", "cli/mod.rs"],
        instead: "take a config::Environment",
    },
    Words {
        words: &["Timestamp::now", "SystemTime", "clock_gettime"],
        only_in: &["clock.rs"],
        instead: "take a clock::Now or a Clock",
    },
    Words {
        words: &["age::"],
        only_in: &["store/file"],
        instead: "encryption is the file store's own affair",
    },
    Words {
        words: &["FileStore", "MemoryStore"],
        only_in: &["daemon/stores.rs", "store"],
        instead: "only the composition root names a backend: take a dyn TokenStore",
    },
];

/// Split a longer file by job.
const LONGEST: usize = 500;

struct Source {
    /// Relative to `src/`.
    path: PathBuf,
    /// Without comments and without its tests.
    code: String,
    lines: usize,
}

impl Source {
    fn module(&self) -> String {
        let first = self.path.components().next().unwrap().as_os_str().to_str().unwrap();
        first.trim_end_matches(".rs").to_owned()
    }

    /// How many `super::` in a row stay within the top-level module.
    fn depth(&self) -> usize {
        let folders = self.path.components().count() - 1;
        if self.path.ends_with("mod.rs") {
            folders - 1
        } else {
            folders
        }
    }

    /// Every path below the crate's root that the code names.
    fn uses(&self) -> Vec<String> {
        let mut found = Vec::new();
        for root in ["crate::", "credbroker::"] {
            for (at, _) in self.code.match_indices(root) {
                let before = self.code[..at].chars().next_back();
                if !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$') {
                    paths(&self.code[at + root.len()..], "", &mut found);
                }
            }
        }
        found
    }
}

/// The paths of a use tree: `a::{b, c::D}` is `a::b` and `a::c::D`.
fn paths(tree: &str, prefix: &str, found: &mut Vec<String>) {
    let end = tree
        .find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'))
        .unwrap_or(tree.len());
    let path = format!("{prefix}{}", &tree[..end]);
    let Some(inner) = tree[end..].strip_prefix('{') else {
        found.push(path);
        return;
    };
    let (mut depth, mut begin) = (0, 0);
    for (at, c) in inner.char_indices() {
        match c {
            '{' => depth += 1,
            ',' | '}' if depth == 0 => {
                let branch = inner[begin..at].trim();
                if !branch.is_empty() {
                    paths(branch, &path, found);
                }
                begin = at + 1;
                if c == '}' {
                    return;
                }
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
}

fn sources() -> Vec<Source> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut found, mut folders) = (Vec::new(), vec![src.clone()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                if path.file_name().unwrap() != "tests" {
                    folders.push(path);
                }
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            let without_comments: Vec<&str> = code.lines().map(|line| line.split("//").next().unwrap()).collect();
            found.push(Source {
                path: path.strip_prefix(&src).unwrap().to_owned(),
                code: without_comments.join("\n"),
                lines: text.lines().count(),
            });
        }
    }
    assert!(found.len() > 50, "the sources were not found");
    found
}

fn allowed(from: &str) -> &'static [&'static str] {
    ARROWS
        .iter()
        .find(|(module, _)| *module == from)
        .map_or(&[], |(_, to)| to)
}

fn covers(row: &str, path: &str) -> bool {
    path == row || path.strip_prefix(row).is_some_and(|rest| rest.starts_with("::"))
}

#[test]
fn every_arrow_goes_down() {
    let mut wrong = BTreeSet::new();
    for source in sources() {
        let from = source.module();
        for path in source.uses() {
            let inside = covers(&from, &path);
            if !inside && !allowed(&from).iter().any(|row| covers(row, &path)) {
                wrong.insert(format!("src/{}: {from} -> {path}", source.path.display()));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "arrows that are not in the table (see the top of this file):\n{wrong:#?}"
    );
}

#[test]
fn every_row_of_the_table_is_used() {
    let sources = sources();
    for (from, to) in ARROWS {
        for row in to {
            let used = sources
                .iter()
                .filter(|source| source.module() == from)
                .any(|source| source.uses().iter().any(|path| covers(row, path)));
            assert!(used, "{from} -> {row} is not used any more: delete the row");
        }
    }
}

#[test]
fn the_table_has_no_circle() {
    // Taking away, again and again, every module that points at nothing has to leave nothing.
    let mut rows: Vec<(&str, Vec<&str>)> = ARROWS.iter().map(|(from, to)| (*from, to.to_vec())).collect();
    // A part may stand lower than its module: the policy is pure values that broker/ happens to own.
    for (_, to) in &mut rows {
        to.retain(|row| !row.contains("::"));
    }
    while !rows.is_empty() {
        let left: BTreeSet<&str> = rows.iter().map(|(from, _)| *from).collect();
        let before = rows.len();
        rows.retain(|(_, to)| to.iter().any(|to| left.contains(to)));
        assert!(rows.len() < before, "a circle among {left:?}");
    }
}

#[test]
fn nobody_climbs_out_of_his_module_with_super() {
    for source in sources() {
        let too_many = "super::".repeat(source.depth() + 1);
        assert!(
            !source.code.contains(&too_many),
            "src/{}: write crate:: instead of {too_many}, so that the arrow can be seen",
            source.path.display()
        );
    }
}

#[test]
fn words_stay_where_they_belong() {
    for source in sources() {
        for rule in &WORDS {
            if rule.only_in.iter().any(|place| source.path.starts_with(place)) {
                continue;
            }
            for word in rule.words {
                let used = source.code.match_indices(word).any(|(at, _)| {
                    let before = source.code[..at].chars().next_back();
                    !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
                });
                assert!(!used, "src/{} uses {word}: {}", source.path.display(), rule.instead);
            }
        }
    }
}

#[test]
fn no_file_is_longer_than_can_be_read_at_a_sitting() {
    for source in sources() {
        assert!(
            source.lines <= LONGEST,
            "src/{} has {} lines: split it by job",
            source.path.display(),
            source.lines
        );
    }
}

#[test]
fn a_use_tree_is_read_whole() {
    let mut found = Vec::new();
    paths("{\n a::{self, B, c::{D, E}},\n f,\n};\n x::y", "", &mut found);
    assert_eq!(found, ["a::self", "a::B", "a::c::D", "a::c::E", "f"]);
    found.clear();
    paths("a::b::C>(x)", "", &mut found);
    assert_eq!(found, ["a::b::C"]);
}
