//! What one sandbox may do: patterns over entries and API keys, and the rights that are made of them.
//!
//! Pure code, judged before a store is touched. A [`Policy`] starts from nothing and only ever names what is allowed;
//! there is no denying rule, so the order of the patterns never matters.

use std::{fmt, str::FromStr};

use crate::credential::{DEFAULT_BUCKET, EntryKey, InvalidName, Name};

/// Which entries a right is for.
///
/// `P` is the provider's default bucket, `P/B` one bucket, `P/*` every bucket of the provider, `*` every entry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EntryPattern {
    /// `*`: every entry.
    Everything,
    /// `P/*`: every bucket of one provider.
    Provider(Name),
    /// `P` or `P/B`: one entry.
    Entry(EntryKey),
}

impl EntryPattern {
    /// Whether the entry is one of those meant.
    #[must_use]
    pub fn matches(&self, entry: &EntryKey) -> bool {
        match self {
            Self::Everything => true,
            Self::Provider(provider) => *provider == entry.provider,
            Self::Entry(key) => key == entry,
        }
    }
}

impl fmt::Display for EntryPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everything => f.write_str("*"),
            Self::Provider(provider) => write!(f, "{provider}/*"),
            Self::Entry(key) => key.fmt(f),
        }
    }
}

impl FromStr for EntryPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        if text == "*" {
            return Ok(Self::Everything);
        }
        let (provider, bucket) = match text.split_once('/') {
            // An empty bucket is the default one in a request; in a pattern it is more likely a slip that would
            // silently narrow `P/*`.
            Some((_, "")) => return Err(PatternError::BucketMissing),
            Some((provider, bucket)) => (provider, bucket),
            None => (text, DEFAULT_BUCKET),
        };
        let provider: Name = provider.parse().map_err(PatternError::Provider)?;
        if bucket == "*" {
            return Ok(Self::Provider(provider));
        }
        let bucket = bucket.parse().map_err(PatternError::Bucket)?;
        Ok(Self::Entry(EntryKey { provider, bucket }))
    }
}

/// Which API keys a right is for: `K` is one, `*` is every one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NamePattern {
    /// `*`: every API key.
    Everything,
    /// One API key.
    Named(Name),
}

impl NamePattern {
    /// Whether the API key is one of those meant.
    #[must_use]
    pub fn matches(&self, name: &Name) -> bool {
        match self {
            Self::Everything => true,
            Self::Named(own) => own == name,
        }
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everything => f.write_str("*"),
            Self::Named(name) => name.fmt(f),
        }
    }
}

impl FromStr for NamePattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        if text == "*" {
            return Ok(Self::Everything);
        }
        text.parse().map(Self::Named).map_err(PatternError::ApiKey)
    }
}

/// A text that is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// What stands for the provider is no name.
    #[error("provider: {0}; write P, P/B, P/* or *")]
    Provider(#[source] InvalidName),
    /// What stands for the bucket is neither a name nor `*`.
    #[error("bucket: {0}; write P, P/B, P/* or *")]
    Bucket(#[source] InvalidName),
    /// Nothing follows the slash.
    #[error("no bucket follows the slash: write P for the default bucket, P/B for one, P/* for every bucket")]
    BucketMissing,
    /// What stands for an API key is neither a name nor `*`.
    #[error("API key: {0}; write K or *")]
    ApiKey(#[source] InvalidName),
}

/// What may be done with an entry. Each right is given on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// Read, refresh, watch and list it.
    Read,
    /// Start a login for it.
    Login,
    /// Save an access token to it.
    Save,
    /// Remove it.
    Remove,
}

impl Right {
    /// The flag that gives it; a policy file has the same word with underscores.
    #[must_use]
    pub const fn flag(self) -> &'static str {
        match self {
            Self::Read => "allow",
            Self::Login => "allow-login",
            Self::Save => "allow-save",
            Self::Remove => "allow-remove",
        }
    }

    /// What it is the right to, for messages.
    #[must_use]
    pub const fn verb(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Login => "log in to",
            Self::Save => "save",
            Self::Remove => "remove",
        }
    }
}

/// What one sandbox may do. The default is nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// Entries whose access tokens may be read, refreshed, watched and listed.
    pub read: Vec<EntryPattern>,
    /// API keys that may be read and listed.
    pub keys: Vec<NamePattern>,
    /// Entries that a login may be started for.
    pub login: Vec<EntryPattern>,
    /// Entries that may be saved.
    pub save: Vec<EntryPattern>,
    /// Entries that may be removed.
    pub remove: Vec<EntryPattern>,
}

impl Policy {
    /// Every right: the host's own programs.
    #[must_use]
    pub fn host() -> Self {
        let everything = vec![EntryPattern::Everything];
        Self {
            read: everything.clone(),
            keys: vec![NamePattern::Everything],
            login: everything.clone(),
            save: everything.clone(),
            remove: everything,
        }
    }

    /// What `serve` gives to who reaches its socket: every entry to read if none is named, else only those named.
    /// API keys and the other rights are always named.
    #[must_use]
    pub fn serve(mut named: Vec<EntryPattern>) -> Self {
        if named.is_empty() {
            named.push(EntryPattern::Everything);
        }
        Self {
            read: named,
            ..Self::default()
        }
    }

    /// Whether the entry's right is given.
    #[must_use]
    pub fn grants(&self, right: Right, entry: &EntryKey) -> bool {
        match right {
            Right::Read => self.may_read(entry),
            Right::Login => self.may_login(entry),
            Right::Save => self.may_save(entry),
            Right::Remove => self.may_remove(entry),
        }
    }

    /// Whether the entry's access token may be read.
    #[must_use]
    pub fn may_read(&self, entry: &EntryKey) -> bool {
        any(&self.read, entry)
    }

    /// Whether the API key may be read.
    #[must_use]
    pub fn may_read_key(&self, name: &Name) -> bool {
        self.keys.iter().any(|pattern| pattern.matches(name))
    }

    /// Whether a login may be started for the entry.
    #[must_use]
    pub fn may_login(&self, entry: &EntryKey) -> bool {
        any(&self.login, entry)
    }

    /// Whether the entry may be saved.
    #[must_use]
    pub fn may_save(&self, entry: &EntryKey) -> bool {
        any(&self.save, entry)
    }

    /// Whether the entry may be removed.
    #[must_use]
    pub fn may_remove(&self, entry: &EntryKey) -> bool {
        any(&self.remove, entry)
    }
}

fn any(patterns: &[EntryPattern], entry: &EntryKey) -> bool {
    patterns.iter().any(|pattern| pattern.matches(entry))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(text: &str) -> EntryKey {
        let (provider, bucket) = text.split_once('/').unwrap();
        EntryKey::parse(provider, bucket).unwrap()
    }

    fn patterns(texts: &[&str]) -> Vec<EntryPattern> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_refusal_names_the_right_and_both_ways_to_give_it() {
        for (right, words) in [
            (
                Right::Read,
                "to read p/b: the host allows it with `--allow p/b` (in a policy file, `allow`)",
            ),
            (
                Right::Login,
                "to log in to p/b: the host allows it with `--allow-login p/b` (in a policy file, `allow_login`)",
            ),
            (
                Right::Save,
                "to save p/b: the host allows it with `--allow-save p/b` (in a policy file, `allow_save`)",
            ),
            (
                Right::Remove,
                "to remove p/b: the host allows it with `--allow-remove p/b` (in a policy file, `allow_remove`)",
            ),
        ] {
            let refused = crate::broker::Error::Unauthorized {
                right,
                key: entry("p/b"),
            };
            let said = format!("the policy of this sandbox does not allow {words}");
            assert_eq!(refused.to_string(), said);
        }
    }

    #[test]
    fn entry_patterns_mean_what_the_documentation_says() {
        // Pattern, canonical form, what it matches, what it does not.
        let table: &[(&str, &str, &[&str], &[&str])] = &[
            (
                "p",
                "p/default",
                &["p/default", "p/"],
                &["p/b", "q/default", "P/default", "pp/default"],
            ),
            ("p/default", "p/default", &["p/default"], &["p/b"]),
            ("p/b", "p/b", &["p/b"], &["p/default", "p/bb", "p/B", "q/b"]),
            ("p/*", "p/*", &["p/default", "p/b"], &["q/default", "pp/b"]),
            ("*", "*", &["p/default", "q/b"], &[]),
            ("a.b@c-d_E/x@y", "a.b@c-d_E/x@y", &["a.b@c-d_E/x@y"], &["a.b@c-d_E/x"]),
        ];
        for (text, canonical, matched, unmatched) in table {
            let pattern: EntryPattern = text.parse().unwrap();
            assert_eq!(pattern.to_string(), *canonical, "{text}");
            assert_eq!(canonical.parse::<EntryPattern>().unwrap(), pattern, "{text}");
            for other in *matched {
                assert!(pattern.matches(&entry(other)), "{text} {other}");
            }
            for other in *unmatched {
                assert!(!pattern.matches(&entry(other)), "{text} {other}");
            }
        }
    }

    #[test]
    fn what_is_no_entry_pattern_is_refused_with_the_forms_that_are() {
        let long = "x".repeat(65);
        for text in [
            "", "/", "/b", "*/b", "*/*", "**", "p*", "p/b*", "p/b/c", "p/*/c", ".", "..", "p/.", "p/..", " p", "p ",
            "p /b", "p/ b", "p\n", "p,q", "ü", "p\0", &long,
        ] {
            let error = text.parse::<EntryPattern>().unwrap_err().to_string();
            assert!(error.contains("write P"), "{text:?}: {error}");
            assert!(!error.contains(char::is_control), "{text:?}: {error:?}");
        }
        assert_eq!("p/".parse::<EntryPattern>(), Err(PatternError::BucketMissing));
        assert!(matches!("p/b c".parse::<EntryPattern>(), Err(PatternError::Bucket(_))));
        assert!(matches!(
            "p q/b".parse::<EntryPattern>(),
            Err(PatternError::Provider(_))
        ));
    }

    #[test]
    fn key_patterns_name_one_key_or_all() {
        let (k, other): (Name, Name) = ("k".parse().unwrap(), "kk".parse().unwrap());
        let one: NamePattern = "k".parse().unwrap();
        assert!(one.matches(&k) && !one.matches(&other));
        assert_eq!(one.to_string(), "k");
        let all: NamePattern = "*".parse().unwrap();
        assert!(all.matches(&k) && all.matches(&other));
        assert_eq!(all.to_string(), "*");
        for text in ["", "k/b", "k*", "**", ".", "..", "k k", "k\n"] {
            let error = text.parse::<NamePattern>().unwrap_err().to_string();
            assert!(error.contains("write K or *"), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_policy_starts_from_nothing() {
        let (nothing, p) = (Policy::default(), entry("p/default"));
        assert!(!nothing.may_read(&p) && !nothing.may_login(&p) && !nothing.may_save(&p) && !nothing.may_remove(&p));
        assert!(!nothing.may_read_key(&p.provider));
    }

    #[test]
    fn the_host_may_do_everything() {
        let (host, p) = (Policy::host(), entry("p/b"));
        assert!(host.may_read(&p) && host.may_login(&p) && host.may_save(&p) && host.may_remove(&p));
        assert!(host.may_read_key(&p.provider));
    }

    #[test]
    fn serve_reads_everything_until_an_entry_is_named() {
        let all = Policy::serve(vec![]);
        assert!(all.may_read(&entry("p/b")));
        let some = Policy::serve(patterns(&["p/b", "q"]));
        assert!(some.may_read(&entry("p/b")) && some.may_read(&entry("q/default")));
        assert!(!some.may_read(&entry("p/default")) && !some.may_read(&entry("q/b")));
        for policy in [all, some] {
            let p = entry("p/b");
            assert!(!policy.may_login(&p) && !policy.may_save(&p) && !policy.may_remove(&p));
            assert!(!policy.may_read_key(&p.provider));
        }
    }

    #[test]
    fn each_right_is_its_own() {
        let (p, only) = (entry("p/b"), patterns(&["p/b"]));
        let rights = |policy: &Policy| {
            [
                policy.grants(Right::Read, &p),
                policy.may_read_key(&p.provider),
                policy.grants(Right::Login, &p),
                policy.grants(Right::Save, &p),
                policy.grants(Right::Remove, &p),
            ]
        };
        let none = Policy::default;
        let table = [
            (
                Policy {
                    read: only.clone(),
                    ..none()
                },
                [true, false, false, false, false],
            ),
            (
                Policy {
                    keys: vec![NamePattern::Named(p.provider.clone())],
                    ..none()
                },
                [false, true, false, false, false],
            ),
            (
                Policy {
                    login: only.clone(),
                    ..none()
                },
                [false, false, true, false, false],
            ),
            (
                Policy {
                    save: only.clone(),
                    ..none()
                },
                [false, false, false, true, false],
            ),
            (Policy { remove: only, ..none() }, [false, false, false, false, true]),
        ];
        for (policy, expected) in table {
            assert_eq!(rights(&policy), expected, "{policy:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_pattern_or_an_error_and_canonical_forms_stay(text in "\\PC{0,80}|[a-z*/.]{0,12}") {
            if let Ok(pattern) = text.parse::<EntryPattern>() {
                prop_assert_eq!(pattern.to_string().parse::<EntryPattern>().unwrap(), pattern);
            }
            if let Ok(pattern) = text.parse::<NamePattern>() {
                prop_assert_eq!(pattern.to_string(), text);
            }
        }
    }
}
