//! What the documents point at is there: files, headings and tests by name. And what stands there to be copied is safe to
//! copy: no example has a capability that can be guessed.

#![expect(clippy::unwrap_used, reason = "a failure here is a test's failure")]

use std::{
    collections::BTreeSet,
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

/// In its tables they stand in parentheses behind their file.
#[test]
fn every_test_that_the_threat_model_names_exists() {
    let text = fs::read_to_string(root().join("THREAT_MODEL.md")).unwrap();
    // A line may end between a file and its tests.
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut sources = Vec::new();
    files(&root().join("src"), "rs", &mut sources);
    files(&root().join("tests"), "rs", &mut sources);
    let sources: String = sources.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    let mut checked = 0;
    for (_, rest) in text
        .match_indices("` (")
        .map(|(at, found)| text.split_at(at + found.len()))
    {
        for name in rest.split(')').next().unwrap().split(", ") {
            if name.contains('_') && name.chars().all(|c| c.is_ascii_lowercase() || c == '_') {
                assert!(
                    sources.contains(&format!("fn {name}(")),
                    "THREAT_MODEL.md names the test {name}, which is not there"
                );
                checked += 1;
            }
        }
    }
    assert!(checked > 20, "only {checked} tests were found");
    for span in text.split('`').filter(|span| span.starts_with("clients/")) {
        assert!(
            root().join(span).exists(),
            "THREAT_MODEL.md names `{span}`, which is not there"
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
