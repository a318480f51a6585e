//! What the documents point at is there: files, headings and tests by name. And what stands there to be copied is safe to
//! copy: no example has a capability that can be guessed.

#![expect(clippy::unwrap_used, reason = "a failure here is a test's failure")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below it with the extension, but not what is built or installed there.
fn files(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if entry.file_type().unwrap().is_dir() {
            if !name.starts_with('.') && !["target", "node_modules"].contains(&&*name) {
                files(&path, extension, found);
            }
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
}

fn documents() -> Vec<PathBuf> {
    let mut found = Vec::new();
    files(&root(), "md", &mut found);
    assert!(found.len() >= 15, "only {found:?} were found");
    found
}

/// As GitHub makes it of a heading.
fn anchor(heading: &str) -> String {
    heading
        .trim_start_matches('#')
        .trim()
        .to_lowercase()
        .chars()
        .filter_map(|c| match c {
            ' ' => Some('-'),
            c if c.is_alphanumeric() || "-_".contains(c) => Some(c),
            _ => None,
        })
        .collect()
}

/// The headings, without what only looks like one in a block of code.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut code = false;
    text.lines()
        .filter(|line| {
            code ^= line.starts_with("```");
            !code && line.starts_with('#')
        })
        .map(anchor)
        .collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut checked = 0;
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for (_, rest) in text
            .match_indices("](")
            .map(|(at, found)| text.split_at(at + found.len()))
        {
            let link = rest.split(')').next().unwrap();
            if link.starts_with("http") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() {
                document.clone()
            } else {
                document.parent().unwrap().join(file)
            };
            assert!(target.exists(), "{}: `{link}` leads nowhere", document.display());
            if !anchor.is_empty() {
                let there = anchors(&fs::read_to_string(&target).unwrap());
                assert!(
                    there.contains(anchor),
                    "{}: `{link}` leads to no heading; there are {there:?}",
                    document.display()
                );
            }
            checked += 1;
        }
    }
    assert!(checked > 50, "only {checked} links were found");
}

/// Every test of Rust, by the file and the name it has there.
fn tests_by_file() -> BTreeMap<String, String> {
    let mut sources = Vec::new();
    for folder in ["src", "tests"] {
        files(&root().join(folder), "rs", &mut sources);
    }
    let by_file = sources.iter().map(|file| {
        let name = file.strip_prefix(root()).unwrap().display().to_string();
        (name, fs::read_to_string(file).unwrap())
    });
    by_file.collect()
}

/// The tests that a text names: in parentheses, behind their file.
fn named(text: &str) -> Vec<(String, String)> {
    // A line may end between a file and its tests.
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut found = Vec::new();
    for (before, rest) in text.match_indices("` (").map(|(at, _)| text.split_at(at)) {
        let file = before.rsplit('`').next().unwrap().to_owned();
        let list = rest.trim_start_matches("` (").split(')').next().unwrap();
        for name in list.split(", ") {
            let is_test = name
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
            if file.ends_with(".rs") && is_test {
                found.push((file.clone(), name.to_owned()));
            }
        }
    }
    found
}

/// Whether the text has a test of this name: a function below the attribute that makes it one, or one that a macro makes.
fn has_test(source: &str, name: &str) -> bool {
    let head = format!("fn {name}(");
    let mut parts = source.match_indices(&head).map(|(at, _)| source.split_at(at).0);
    parts.any(|before| {
        let above = before.rsplit("\n\n").next().unwrap_or_default();
        above.contains("test]")
            || above.contains("#[tokio::test")
            || above.contains("#[test")
            || before
                .rsplit("proptest! {")
                .next()
                .is_some_and(|rest| rest.len() < before.len())
    })
}

#[test]
fn every_test_that_a_page_names_is_in_the_file_that_it_names() {
    let sources = tests_by_file();
    let mut checked = 0;
    for document in documents() {
        for (file, name) in named(&fs::read_to_string(&document).unwrap()) {
            let Some(source) = sources.get(&file) else {
                panic!("{} names `{file}`, which is not there", document.display());
            };
            assert!(
                has_test(source, &name),
                "{} names the test {name} of `{file}`, which is not there",
                document.display()
            );
            checked += 1;
        }
    }
    assert!(checked > 150, "only {checked} tests were found");
    let text = fs::read_to_string(root().join("THREAT_MODEL.md")).unwrap();
    for span in text
        .split('`')
        .filter(|span| span.starts_with("clients/") || span.starts_with("tests/"))
    {
        assert!(
            root().join(span).exists(),
            "THREAT_MODEL.md names `{span}`, which is not there"
        );
    }
}

/// What is claimed in a table of the threat model has a test of its own, by name; a file alone may hold hundreds.
#[test]
fn every_claim_of_the_threat_model_names_a_test() {
    let text = fs::read_to_string(root().join("THREAT_MODEL.md")).unwrap();
    let (mut shown_by, mut checked) = (false, 0);
    for line in text.lines() {
        if !line.starts_with('|') {
            shown_by = false;
        } else if line.ends_with("| shown by |") {
            shown_by = true;
        } else if shown_by && !line.starts_with("| ---") {
            let last = line.trim_end_matches('|').rsplit(" | ").next().unwrap();
            // In italics: attempts in real sandboxes, each of which has its line in the suite's table.
            let attempted = last.contains('*') || last.contains("tests/interop/sandboxes/");
            let by_name =
                attempted || !named(last).is_empty() || last.contains("clients/") || last.trim() == "as every call";
            assert!(by_name, "no test is named for: {line}");
            checked += 1;
        }
    }
    assert!(checked > 60, "only {checked} claims were found");
}

/// The promises of the README, by their first words.
#[test]
fn every_promise_of_the_readme_has_its_row_in_the_threat_model() {
    let rows = |page: &str, heading: &str| -> Vec<String> {
        let text = fs::read_to_string(root().join(page)).unwrap();
        let (_, after) = text.split_once(heading).unwrap();
        let rows = after.lines().skip_while(|line| !line.starts_with("| ---")).skip(1);
        let rows = rows.take_while(|line| line.starts_with('|'));
        rows.map(|line| line.trim_start_matches("| ").split(" | ").next().unwrap().to_owned())
            .collect()
    };
    let promises = rows("README.md", "## What is promised");
    let shown = rows("THREAT_MODEL.md", "## The promises of the README");
    assert!(promises.len() >= 10, "{promises:?}");
    assert_eq!(promises.len(), shown.len(), "{promises:#?}\n{shown:#?}");
    for (promise, shown) in promises.iter().zip(&shown) {
        assert!(
            promise.starts_with(shown),
            "{shown:?} is not how this begins: {promise:?}"
        );
    }
}

/// What stands in italics there was attempted in real sandboxes, by exactly that name.
#[test]
fn every_attempt_that_the_threat_model_names_is_made() {
    let text = fs::read_to_string(root().join("THREAT_MODEL.md")).unwrap();
    let section = text
        .split("\n## ")
        .find(|section| section.starts_with("Sandboxes\n"))
        .unwrap();
    let section = section
        .replace("**", "")
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    let expected = fs::read_to_string(root().join("tests/interop/sandboxes/expected.txt")).unwrap();
    let made: BTreeSet<&str> = expected
        .lines()
        .filter_map(|line| Some(line.split_once(" | ")?.0))
        .collect();
    let named: Vec<&str> = section.split('*').skip(1).step_by(2).collect();
    assert!(named.len() > 40, "only {} attempts were found", named.len());
    for name in named {
        assert!(
            made.contains(name),
            "THREAT_MODEL.md names the attempt {name:?}, which expected.txt does not have"
        );
    }
}

/// Whoever copies an example and changes nothing has a policy that lets nobody in, not one that lets in who reads it, too.
#[test]
fn no_example_has_the_digest_of_a_capability_that_can_be_guessed() {
    let guessable: BTreeSet<String> = (0..=u8::MAX)
        .map(|byte| data_encoding::HEXLOWER.encode(&Sha256::digest([byte; 32])))
        .collect();
    let mut checked = 0;
    for document in documents() {
        for line in fs::read_to_string(&document).unwrap().lines() {
            if let Some(digest) = line.strip_prefix("capability_sha256 = ") {
                let digest = digest.trim_matches('"');
                assert!(!guessable.contains(digest), "{}: {digest}", document.display());
                checked += 1;
            }
        }
    }
    assert!(checked >= 4, "only {checked} digests were found");
}
