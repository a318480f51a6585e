//! What the documents point at is there: files, headings and tests by name. And what stands there to be copied is safe to
//! copy: no example has a capability that can be guessed.

#![expect(clippy::unwrap_used, reason = "a failure here is a test's failure")]

mod explained;
mod sentences;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use explained::{OF_THE_README, OF_THE_THREAT_MODEL};
use sentences::{Sentence, is_shown};
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

/// Whether the text has a test of this name: a function below the attribute that makes it one, or one that a macro makes; none
/// that is only there for another one to run.
fn has_test(source: &str, name: &str) -> bool {
    let head = format!("fn {name}(");
    let mut parts = source.match_indices(&head).map(|(at, _)| source.split_at(at).0);
    parts.any(|before| {
        let above = before.rsplit("\n\n").next().unwrap_or_default();
        if above.contains("#[ignore") || above.contains("/// Not a test") {
            return false;
        }
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

fn page(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap()
}

/// Whether a text names what shows it: a test of a file, an attempt in a real sandbox, or a file of a ring or of a client, which
/// have no names to give. That all of them exist is asked elsewhere.
fn is_named(text: &str) -> bool {
    let file = |span: &str| {
        let of_others = span.starts_with("tests/interop/") || span.starts_with("clients/");
        of_others && root().join(span).is_file()
    };
    let (prose, code) = (text.split('`').step_by(2), text.split('`').skip(1).step_by(2));
    let attempt = |prose: &str| prose.replace("**", "").contains('*');
    !named(text).is_empty() || code.clone().any(file) || prose.clone().any(attempt)
}

/// Files of Rust tests that a text names without saying which of their tests: there may be hundreds.
fn bare(text: &str) -> Vec<&str> {
    let spans = text.split('`').zip(text.split('`').skip(1)).skip(1).step_by(2);
    let bare = spans.filter(|(span, after)| span.ends_with(".rs") && !after.starts_with(" ("));
    bare.map(|(span, _)| span).collect()
}

/// Rows of the tables that say what shows them: the claim and what shows it.
fn shown_rows(text: &str) -> Vec<(&str, &str)> {
    let (mut rows, mut shown) = (Vec::new(), false);
    for line in text.lines() {
        if !line.starts_with('|') {
            shown = false;
        } else if is_shown(line) {
            shown = true;
        } else if shown && !line.starts_with("| ---") {
            let line = line.trim_start_matches("| ").trim_end_matches(" |");
            rows.push((line.split(" | ").next().unwrap(), line.rsplit(" | ").next().unwrap()));
        }
    }
    rows
}

#[test]
fn every_row_of_the_threat_model_names_what_fails_without_it() {
    let text = page("THREAT_MODEL.md");
    let rows = shown_rows(&text);
    assert!(rows.len() > 100, "only {} rows were found", rows.len());
    for (claim, shown) in rows {
        assert!(is_named(shown), "no test is named for: {claim}");
        assert!(bare(shown).is_empty(), "which tests of {:?}: {claim}", bare(shown));
    }
}

/// Asks of sentences that name nothing whether each stands in the list, and of the list whether all of it is there.
fn assert_explained(name: &str, open: &[&Sentence], explained: &[(&str, &[&str])]) {
    let begins = |sentence: &Sentence, words: &str| sentence.text.starts_with(words);
    let words = || explained.iter().flat_map(|(_, words)| words.iter());
    let mut wrong = Vec::new();
    for sentence in open {
        if words().filter(|words| begins(sentence, words)).count() != 1 {
            wrong.push(format!(
                "no test, and no word of what it is ({}): {}",
                sentence.section, sentence.text
            ));
        }
    }
    for words in words() {
        if open.iter().filter(|sentence| begins(sentence, words)).count() != 1 {
            wrong.push(format!("not there without a test, or twice: {words}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "{name}: name the test that fails without it, or say in tests/papers/explained.rs what it is:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn every_sentence_of_the_threat_model_names_what_fails_without_it_or_is_an_explanation() {
    let text = page("THREAT_MODEL.md");
    let sentences = sentences::of(&text);
    let (named, open): (Vec<_>, Vec<_>) = sentences.iter().partition(|sentence| is_named(&sentence.text));
    assert!(named.len() > 35, "only {} sentences name a test", named.len());
    for sentence in named {
        assert!(
            bare(&sentence.text).is_empty(),
            "which tests of these: {:?}",
            sentence.text
        );
    }
    assert_explained("THREAT_MODEL.md", &open, OF_THE_THREAT_MODEL);
}

/// Words that a promise about security hardly does without. What the README says first, and its promises, count anyway.
const OF_SECURITY: &str = "alone|as you|audit|boundary|cannot|capability|denied|encrypt|harden|key|neither|never|no |nobody|none|not |\
                          nothing|only|policy|private|protect|read-only|record|refresh token|refuse|right|safe|sandbox|secret|\
                          secure|serves|stay on|stays|trust|without";

/// Its sentences that have to do with security.
fn of_the_readme() -> Vec<Sentence> {
    let mut sentences = sentences::of(&page("README.md"));
    sentences.retain(|sentence| {
        let text = sentence.text.to_lowercase();
        let always = ["credbroker", "What is promised, and what is not"].contains(&&*sentence.section);
        always || OF_SECURITY.split('|').any(|word| text.contains(word))
    });
    sentences
}

/// Each by its first words, in the README's order, so that whoever reads the one finds the other.
#[test]
fn every_promise_of_the_readme_has_its_row_in_the_threat_model() {
    let text = page("THREAT_MODEL.md");
    let (_, section) = text.split_once("## The promises of the README").unwrap();
    let rows: Vec<&str> = shown_rows(section).into_iter().map(|(promise, _)| promise).collect();
    assert!(rows.len() > 30, "{rows:#?}");
    let sentences = of_the_readme();
    let row_of = |sentence: &&Sentence| rows.iter().copied().find(|row| sentence.text.starts_with(row));
    let (promised, open): (Vec<_>, Vec<_>) = sentences.iter().partition(|sentence| row_of(sentence).is_some());
    let in_order: Vec<&str> = promised.iter().filter_map(row_of).collect();
    assert_eq!(
        rows, in_order,
        "left: rows, right: how the sentences of the README begin"
    );
    assert_explained("README.md", &open, OF_THE_README);
}

/// What stands in italics there was attempted in real sandboxes, by exactly that name.
#[test]
fn every_attempt_that_the_threat_model_names_is_made() {
    let section = page("THREAT_MODEL.md")
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
