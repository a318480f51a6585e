//! One section of a file, with what the environment overrides: typed answers to "what does this key say?".

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fmt,
    net::SocketAddr,
    num::NonZeroU32,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use data_encoding::HEXLOWER_PERMISSIVE;
use toml::{
    Spanned,
    de::{DeArray, DeValue},
};

use super::{
    Endpoint,
    error::{ConfigError, Place},
    file::{Source, dotted},
    git::GitHost,
    metrics,
    schema::{Choice, Key, did_you_mean},
    values::{Params, ShellCommand},
};
use crate::{
    broker::policy::EntryPattern,
    credential::{EntryKey, MAX_LIFETIME, Name},
};

/// The largest number that a count takes.
const MAX_COUNT: u32 = 1_000_000;

/// What relative paths and `~/` are resolved against.
#[derive(Debug, Clone, Copy)]
pub(super) struct Roots<'d> {
    /// The file's directory, absolute.
    pub(super) base: &'d Path,
    /// The user's home directory.
    pub(super) home: Option<&'d Path>,
}

/// A value as it was written.
#[derive(Clone, Copy)]
pub(super) enum Given<'d> {
    /// In a file.
    Toml(&'d Spanned<DeValue<'d>>, &'d Source),
    /// In an environment variable.
    Variable(&'d OsStr),
}

/// What the user calls a section that there may be many of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Title {
    Name(Name),
    Host(GitHost),
}

impl fmt::Display for Title {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Host(host) => host.fmt(f),
        }
    }
}

struct Setting<'d> {
    key: &'static Key,
    place: Place,
    value: Given<'d>,
}

/// A section: which keys are set, where, and to what.
pub(super) struct Section<'d> {
    section: &'static str,
    title: Option<Title>,
    place: Place,
    roots: Roots<'d>,
    settings: BTreeMap<&'static str, Setting<'d>>,
}

impl fmt::Display for Section<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.title, self.section.split_once('.')) {
            (Some(title), Some((first, _))) => f.write_str(&dotted(first, &title.to_string())),
            (Some(_), None) | (None, _) => f.write_str(self.section),
        }
    }
}

impl<'d> Section<'d> {
    pub(super) fn new(section: &'static str, title: Option<Title>, place: Place, roots: Roots<'d>) -> Self {
        Self {
            section,
            title,
            place,
            roots,
            settings: BTreeMap::new(),
        }
    }

    /// Sets a key, in place of what it was set to before.
    pub(super) fn set(&mut self, key: &'static Key, place: Place, value: Given<'d>) {
        self.settings.insert(key.name, Setting { key, place, value });
    }

    /// The section as the tables of keys name it.
    pub(super) fn kind(&self) -> &'static str {
        self.section
    }

    /// The name that the user chose, in a section that has one.
    pub(super) fn name(&self) -> Option<&Name> {
        match &self.title {
            Some(Title::Name(name)) => Some(name),
            Some(Title::Host(_)) | None => None,
        }
    }

    /// The host, in a section that is about one.
    pub(super) fn host(&self) -> Option<&GitHost> {
        match &self.title {
            Some(Title::Host(host)) => Some(host),
            Some(Title::Name(_)) | None => None,
        }
    }

    pub(super) fn has_title(&self) -> bool {
        self.title.is_some()
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.settings.contains_key(key)
    }

    /// An error about one key, at the key's place if it is set, else at the section's.
    pub(super) fn fault(&self, key: &str, problem: &str, mend: &str) -> ConfigError {
        let place = self.settings.get(key).map_or(&self.place, |setting| &setting.place);
        ConfigError::new(place, format!("{} {problem}", dotted(&self.to_string(), key)), mend)
    }

    /// An error about the section as a whole.
    pub(super) fn incomplete(&self, problem: &str, mend: &str) -> ConfigError {
        ConfigError::new(&self.place, format!("[{self}] {problem}"), mend)
    }

    /// Of these keys at most one may be set.
    pub(super) fn at_most_one(&self, keys: &[&str]) -> Result<(), ConfigError> {
        let mut set = keys.iter().filter(|key| self.has(key));
        if let (Some(first), Some(second)) = (set.next(), set.next()) {
            let problem = format!("cannot be set beside {first}");
            return Err(self.fault(second, &problem, "remove one of the two"));
        }
        Ok(())
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<String>, ConfigError> {
        self.with(key, |setting| {
            let text = setting.text()?;
            is_plain(text).then(|| text.to_owned())
        })
    }

    pub(super) fn command(&self, key: &str) -> Result<Option<ShellCommand>, ConfigError> {
        self.with(key, |setting| {
            let text = setting.text()?;
            (!text.trim().is_empty() && !text.contains('\0')).then(|| ShellCommand::new(text))
        })
    }

    pub(super) fn variable(&self, key: &str) -> Result<Option<String>, ConfigError> {
        self.with(key, |setting| {
            let text = setting.text()?;
            let first = text.bytes().next()?;
            let fits = !first.is_ascii_digit() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            fits.then(|| text.to_owned())
        })
    }

    /// The name of an API key.
    pub(super) fn name_of(&self, key: &str) -> Result<Option<Name>, ConfigError> {
        self.with(key, |setting| setting.text()?.parse().ok())
    }

    /// One entry: `P` or `P/B`.
    pub(super) fn entry(&self, key: &str) -> Result<Option<EntryKey>, ConfigError> {
        self.with(key, |setting| match setting.text()?.parse().ok()? {
            EntryPattern::Entry(entry) => Some(entry),
            EntryPattern::Provider(_) | EntryPattern::Everything => None,
        })
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, ConfigError> {
        self.with(key, |setting| match setting.value {
            Given::Toml(value, _) => value.get_ref().as_bool(),
            Given::Variable(text) => text.to_str()?.parse().ok(),
        })
    }

    pub(super) fn url(&self, key: &str) -> Result<Option<Endpoint>, ConfigError> {
        self.with(key, |setting| Endpoint::parse(setting.text()?))
    }

    pub(super) fn url_path(&self, key: &str) -> Result<Option<String>, ConfigError> {
        self.with(key, |setting| {
            let text = setting.text()?;
            let fits = text.starts_with('/')
                && text
                    .bytes()
                    .all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#' | b'"' | b'\\' | b'<' | b'>'));
            fits.then(|| text.to_owned())
        })
    }

    pub(super) fn choice<C: Choice>(&self, key: &str) -> Result<Option<C>, ConfigError> {
        let Some(setting) = self.settings.get(key) else {
            return Ok(None);
        };
        let Some(text) = setting.text() else {
            return Err(self.wrong(setting, None));
        };
        match C::ALL.iter().find(|choice| choice.name() == text) {
            Some(choice) => Ok(Some(*choice)),
            None => {
                let names: Vec<&str> = C::ALL.iter().map(|choice| choice.name()).collect();
                Err(self.wrong(setting, Some(did_you_mean(text, &names))))
            }
        }
    }

    /// A path. Relative ones belong to the file that names them, wherever the program was started; a variable's
    /// belong to the working directory, as on a command line. `~/` is the home directory in both.
    pub(super) fn path(&self, key: &str) -> Result<Option<PathBuf>, ConfigError> {
        let Some(setting) = self.settings.get(key) else {
            return Ok(None);
        };
        let written = match setting.value {
            Given::Toml(value, _) => value.get_ref().as_str().map(Path::new),
            Given::Variable(text) => Some(Path::new(text)),
        };
        let fits = |path: &&Path| {
            let bytes = path.as_os_str().as_encoded_bytes();
            !bytes.is_empty() && !bytes.contains(&0)
        };
        let Some(written) = written.filter(fits) else {
            return Err(self.wrong(setting, None));
        };
        if let Ok(below) = written.strip_prefix("~") {
            let Some(home) = self.roots.home else {
                let mend = "set HOME or write an absolute path";
                return Err(self.fault(key, "begins with ~, but HOME is not an absolute path", mend));
            };
            return Ok(Some(home.join(below)));
        }
        if written.as_os_str().as_encoded_bytes().starts_with(b"~") {
            let mend = "write an absolute path, or ./~ for a directory of that name";
            return Err(self.fault(key, "names another user's home directory, which is not looked up", mend));
        }
        Ok(Some(match setting.value {
            Given::Toml(..) => self.roots.base.join(written),
            Given::Variable(_) => absolute(written),
        }))
    }

    /// Whether the value has a slash, and so can only be a path.
    pub(super) fn is_path(&self, key: &str) -> bool {
        self.settings.get(key).is_some_and(|setting| match setting.value {
            Given::Toml(value, _) => value.get_ref().as_str().is_some_and(|text| text.contains('/')),
            Given::Variable(text) => text.as_encoded_bytes().contains(&b'/'),
        })
    }

    /// A loopback address with a port.
    pub(super) fn loopback(&self, key: &str) -> Result<Option<SocketAddr>, ConfigError> {
        self.with(key, |setting| metrics::loopback(setting.text()?))
    }

    pub(super) fn seconds(&self, key: &str) -> Result<Option<Duration>, ConfigError> {
        self.with(key, |setting| {
            let seconds = match setting.value {
                Given::Toml(value, _) => integer(value.get_ref()),
                Given::Variable(text) => text.to_str()?.parse().ok(),
            };
            seconds
                .filter(|seconds| (1..=MAX_LIFETIME.as_secs()).contains(seconds))
                .map(Duration::from_secs)
        })
    }

    /// A whole number from 1 to a million.
    pub(super) fn count(&self, key: &str) -> Result<Option<NonZeroU32>, ConfigError> {
        self.with(key, |setting| {
            let number = match setting.value {
                Given::Toml(value, _) => integer(value.get_ref())?.try_into().ok()?,
                Given::Variable(text) => text.to_str()?.parse().ok()?,
            };
            NonZeroU32::new(number).filter(|number| number.get() <= MAX_COUNT)
        })
    }

    /// An array of integers in a range, each of which fits `u16`.
    pub(super) fn numbers(&self, key: &str, range: &RangeInclusive<u16>) -> Result<Option<Vec<u16>>, ConfigError> {
        self.items(key, |value| {
            let number = u16::try_from(integer(value)?).ok()?;
            range.contains(&number).then_some(number)
        })
    }

    /// An array of strings without spaces (scopes, error codes and fields have none).
    pub(super) fn words(&self, key: &str) -> Result<Option<Vec<String>>, ConfigError> {
        self.items(key, |value| {
            let text = value.as_str()?;
            (is_plain(text) && !text.contains(char::is_whitespace)).then(|| text.to_owned())
        })
    }

    /// 64 hexadecimal digits.
    pub(super) fn digest(&self, key: &str) -> Result<Option<[u8; 32]>, ConfigError> {
        self.with(key, |setting| {
            let bytes = HEXLOWER_PERMISSIVE.decode(setting.text()?.as_bytes()).ok()?;
            bytes.try_into().ok()
        })
    }

    /// An array of strings that parse.
    pub(super) fn parsed<T: std::str::FromStr>(&self, key: &str) -> Result<Option<Vec<T>>, ConfigError> {
        self.items(key, |value| value.as_str()?.parse().ok())
    }

    pub(super) fn params(&self, key: &str) -> Result<Option<Params>, ConfigError> {
        let Some(setting) = self.settings.get(key) else {
            return Ok(None);
        };
        let Given::Toml(value, source) = setting.value else {
            return Err(self.wrong(setting, None));
        };
        let DeValue::Table(table) = value.get_ref() else {
            return Err(self.wrong(setting, None));
        };
        let mut params = BTreeMap::new();
        for (name, value) in table {
            let Some(text) = value.get_ref().as_str().filter(|_| !name.get_ref().is_empty()) else {
                let whole = dotted(&dotted(&self.to_string(), key), name.get_ref());
                return Err(ConfigError::new(
                    &source.place(&name.span()),
                    format!("{whole} must be a string under a name that is not empty"),
                    "put quotes around the value",
                ));
            };
            params.insert(name.get_ref().to_string(), text.to_owned());
        }
        Ok(Some(Params::new(params)))
    }

    /// Reads one key with a function that has an answer only for what the key's kind describes.
    fn with<T>(&self, key: &str, read: impl FnOnce(&Setting<'d>) -> Option<T>) -> Result<Option<T>, ConfigError> {
        match self.settings.get(key) {
            Some(setting) => read(setting).map(Some).ok_or_else(|| self.wrong(setting, None)),
            None => Ok(None),
        }
    }

    /// Reads an array whose items the function has an answer for.
    fn items<T>(&self, key: &str, read: impl Fn(&DeValue<'_>) -> Option<T>) -> Result<Option<Vec<T>>, ConfigError> {
        let Some(setting) = self.settings.get(key) else {
            return Ok(None);
        };
        let Given::Toml(value, source) = setting.value else {
            return Err(self.wrong(setting, None));
        };
        let Some(array) = array(value) else {
            return Err(self.wrong(setting, None));
        };
        let mut items = Vec::new();
        for (index, item) in array.iter().enumerate() {
            let Some(item_read) = read(item.get_ref()) else {
                return Err(ConfigError::new(
                    &source.place(&item.span()),
                    format!("item {} of {} cannot be used", index + 1, self.shown(setting)),
                    format!("the key takes {}", setting.key.kind.description()),
                ));
            };
            items.push(item_read);
        }
        Ok(Some(items))
    }

    fn shown(&self, setting: &Setting<'_>) -> String {
        dotted(&self.to_string(), setting.key.name)
    }

    fn wrong(&self, setting: &Setting<'_>, hint: Option<String>) -> ConfigError {
        let not = match setting.value {
            Given::Toml(value, _) if !value.get_ref().is_str() => {
                format!(", not of type {}", value.get_ref().type_str())
            }
            Given::Variable(text) if text.is_empty() => ", not empty".to_owned(),
            Given::Toml(..) | Given::Variable(_) => String::new(),
        };
        let must = setting.key.kind.description();
        let mend = match (hint, setting.value) {
            (Some(hint), _) => hint,
            (None, Given::Toml(..)) => "correct the value or remove the line".to_owned(),
            (None, Given::Variable(_)) => "correct the variable or unset it".to_owned(),
        };
        let problem = format!("{} must be {must}{not}", self.shown(setting));
        ConfigError::new(&setting.place, problem, mend)
    }
}

impl<'d> Setting<'d> {
    fn text(&self) -> Option<&'d str> {
        match self.value {
            Given::Toml(value, _) => value.get_ref().as_str(),
            Given::Variable(text) => text.to_str(),
        }
    }
}

/// The working directory may be gone; then a relative path stays what it is and fails where it is used.
pub(super) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn is_plain(text: &str) -> bool {
    !text.is_empty() && !text.contains(char::is_control)
}

fn array<'d>(value: &'d Spanned<DeValue<'d>>) -> Option<&'d DeArray<'d>> {
    value.get_ref().as_array()
}

fn integer(value: &DeValue<'_>) -> Option<u64> {
    let integer = value.as_integer()?;
    u64::from_str_radix(integer.as_str(), integer.radix()).ok()
}
