//! Which file is whose: the one place that makes paths of names, and names of paths.
//!
//! Names become lower-case hex, so names that differ only in case stay apart on every file system, and no two entries
//! ever share a file or a lock. Knows nothing of what is inside the files.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use data_encoding::HEXLOWER;

use super::durable::AtPath;
use crate::credential::{EntryKey, Name};

/// Where token sets are.
const TOKENS: &str = "tokens";
/// Where API keys are.
const KEYS: &str = "keys";
/// Where lock files are.
const LOCKS: &str = "locks";

/// Where one record and what belongs to it lies, relative to the store.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Place {
    /// The directory of the record.
    pub(super) directory: PathBuf,
    /// The record's file name.
    pub(super) file: String,
    /// The directory of the lock.
    pub(super) lock_directory: PathBuf,
    /// The lock's file name.
    pub(super) lock: String,
}

impl Place {
    /// The place of an entry.
    pub(super) fn of_entry(key: &EntryKey) -> Self {
        let (provider, bucket) = (hex(&key.provider), hex(&key.bucket));
        Self {
            directory: Path::new(TOKENS).join(&provider),
            file: format!("{bucket}.age"),
            lock_directory: Path::new(LOCKS).join(&provider),
            lock: format!("{bucket}.lock"),
        }
    }

    /// The place of an API key. `keys` is no hex, so its locks cannot meet those of a provider.
    pub(super) fn of_key(name: &Name) -> Self {
        let name = hex(name);
        Self {
            directory: PathBuf::from(KEYS),
            file: format!("{name}.age"),
            lock_directory: Path::new(LOCKS).join(KEYS),
            lock: format!("{name}.lock"),
        }
    }
}

/// The directory of the lock that is held while an identity is made.
pub(super) fn locks(root: &Path) -> PathBuf {
    root.join(LOCKS)
}

/// Every entry that has a file, in order of key.
pub(super) fn entries(root: &Path) -> Result<Vec<EntryKey>, AtPath> {
    let tokens = root.join(TOKENS);
    let mut found = Vec::new();
    for directory in names_in(&tokens)? {
        let Some(provider) = unhex(&directory) else { continue };
        for file in names_in(&tokens.join(&directory))? {
            if let Some(bucket) = file.strip_suffix(".age").and_then(unhex) {
                found.push(EntryKey {
                    provider: provider.clone(),
                    bucket,
                });
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Every API key that has a file, in order of name.
pub(super) fn keys(root: &Path) -> Result<Vec<Name>, AtPath> {
    let mut found: Vec<Name> = names_in(&root.join(KEYS))?
        .iter()
        .filter_map(|file| file.strip_suffix(".age").and_then(unhex))
        .collect();
    found.sort();
    Ok(found)
}

/// The store's directories that are there and that changes of records go into.
pub(super) fn directories(root: &Path) -> Result<Vec<PathBuf>, AtPath> {
    let mut found = Vec::new();
    for kind in [TOKENS, LOCKS, KEYS] {
        let directory = root.join(kind);
        let names = names_in(&directory)?;
        let inner = names
            .iter()
            .map(|name| directory.join(name))
            .filter(|path| path.is_dir());
        found.extend(inner);
        found.extend(directory.is_dir().then_some(directory));
    }
    Ok(found)
}

/// Every lock file, in order of path.
pub(super) fn lock_files(root: &Path) -> Result<Vec<PathBuf>, AtPath> {
    let locks = root.join(LOCKS);
    let mut found = Vec::new();
    for name in names_in(&locks)? {
        let path = locks.join(&name);
        if path.is_dir() {
            found.extend(names_in(&path)?.iter().map(|file| path.join(file)));
        } else {
            found.push(path);
        }
    }
    found.retain(|path| path.extension().is_some_and(|extension| extension == "lock"));
    found.sort();
    Ok(found)
}

/// The lock file of an entry.
pub(super) fn entry_lock(root: &Path, key: &EntryKey) -> PathBuf {
    let place = Place::of_entry(key);
    root.join(place.lock_directory).join(place.lock)
}

/// Whose lock a lock file is, for people; `None`: not a record's.
pub(super) fn lock_of(root: &Path, path: &Path) -> Option<String> {
    let below = path.strip_prefix(locks(root)).ok()?;
    let directory = below.parent()?.to_str()?;
    let name = unhex(below.file_stem()?.to_str()?)?;
    if directory == KEYS {
        return Some(format!("the API key {name}"));
    }
    Some(format!("{}/{name}", unhex(directory)?))
}

/// Whether the lists above can be had now, without making them.
pub(super) fn can_be_listed(root: &Path) -> Result<(), AtPath> {
    let tokens = root.join(TOKENS);
    let providers = names_in(&tokens)?;
    let providers = providers.iter().filter(|name| unhex(name).is_some());
    for directory in providers.map(|name| tokens.join(name)).chain([root.join(KEYS)]) {
        match fs::read_dir(&directory).and_then(|mut entries| entries.next().transpose()) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(AtPath::new(&directory, cause)),
            _ => {}
        }
    }
    Ok(())
}

/// The file names in a directory; none if it is absent. Any other failure is one: a list that silently lacks names
/// would look like a logout.
fn names_in(directory: &Path) -> Result<Vec<String>, AtPath> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(cause) => return Err(AtPath::new(directory, cause)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|cause| AtPath::new(directory, cause))?;
        // A name that is no UTF-8 is no hex either: a stranger's.
        if let Ok(name) = entry.file_name().into_string() {
            names.push(name);
        }
    }
    Ok(names)
}

fn hex(name: &Name) -> String {
    HEXLOWER.encode(name.as_str().as_bytes())
}

fn unhex(text: &str) -> Option<Name> {
    let bytes = HEXLOWER.decode(text.as_bytes()).ok()?;
    std::str::from_utf8(&bytes).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(provider: &str, bucket: &str) -> Place {
        Place::of_entry(&EntryKey::parse(provider, bucket).unwrap())
    }

    #[test]
    fn entries_whose_joined_names_are_alike_have_locks_of_their_own() {
        let (a, b) = (entry("a-b", "default"), entry("a", "b"));
        assert_ne!(a.lock_directory.join(&a.lock), b.lock_directory.join(&b.lock));
        assert_ne!(a.directory.join(&a.file), b.directory.join(&b.file));
        assert_eq!(
            a.lock_directory.join(&a.lock),
            Path::new("locks/612d62/64656661756c74.lock")
        );
    }

    #[test]
    fn the_lock_of_an_api_key_is_no_lock_of_an_entry() {
        let key = Place::of_key(&"default".parse().unwrap());
        assert_eq!(key.lock_directory, Path::new("locks/keys"));
        assert!(HEXLOWER.decode(b"keys").is_err());
        assert_ne!(key.lock_directory, entry("keys", "default").lock_directory);
    }

    #[test]
    fn a_lock_file_says_whose_it_is() {
        let root = Path::new("/s");
        let whose = |place: Place| lock_of(root, &root.join(place.lock_directory).join(place.lock));
        assert_eq!(whose(entry("a-b", "c")).as_deref(), Some("a-b/c"));
        assert_eq!(
            whose(Place::of_key(&"k".parse().unwrap())).as_deref(),
            Some("the API key k")
        );
        for stranger in ["/s/locks/identity.lock", "/s/locks/zz/6162.lock", "/x/6162.lock"] {
            assert_eq!(lock_of(root, Path::new(stranger)), None, "{stranger}");
        }
    }

    #[test]
    fn only_lower_case_hex_of_a_valid_name_is_a_name() {
        assert_eq!(unhex("6162").unwrap().as_str(), "ab");
        for stranger in ["", "6", "4A", "zz", "2e", "2e2e", "2f", "ff", ".6162", "6162.age"] {
            assert!(unhex(stranger).is_none(), "{stranger}");
        }
    }

    #[test]
    fn names_that_differ_only_in_case_have_files_that_differ_in_more() {
        let (a, b) = (entry("GitHub", "me"), entry("github", "me"));
        assert_ne!(
            a.directory.to_string_lossy().to_lowercase(),
            b.directory.to_string_lossy().to_lowercase()
        );
    }
}
