//! A TOML file as text with lines: reading it, parsing it, and finding its sections and their keys.
//!
//! Both files of this program are tables of sections with known keys. What a key's value means is asked of a
//! [`Section`]; that every key is known is checked here, once, against the tables of [`super::schema`].

use std::{
    fs::{self, File},
    io::{self, Read as _},
    ops::Range,
    path::{Path, PathBuf},
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    error::{ConfigError, Place, escaped},
    git::InvalidHost,
    schema::{Key, did_you_mean},
    section::{Given, Roots, Section, Title},
};
use crate::credential::InvalidName;

/// Far above any sensible configuration: a device or an endless pipe must not fill the memory.
const MAX_FILE: u64 = 1024 * 1024;

/// A file's text and where it came from.
pub(super) struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    /// Reads a file that has to be there.
    pub(super) fn read(path: &Path) -> Result<Self, ConfigError> {
        let unreadable = |e: io::Error| {
            ConfigError::new(
                &Place::file(path),
                format!("cannot be read: {e}"),
                "name a file that exists and that this user can read",
            )
        };
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes))
            .map_err(unreadable)?;
        Self::from_bytes(path, bytes)
    }

    /// Reads a file that need not be there. A symbolic link to nowhere is there: somebody meant something by it.
    pub(super) fn read_if_present(path: &Path) -> Result<Option<Self>, ConfigError> {
        match fs::symlink_metadata(path) {
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            Ok(_) | Err(_) => Self::read(path).map(Some),
        }
    }

    pub(super) fn from_bytes(path: &Path, bytes: Vec<u8>) -> Result<Self, ConfigError> {
        if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_FILE) {
            return Err(ConfigError::new(
                &Place::file(path),
                "is longer than 1 MiB",
                "name a configuration file",
            ));
        }
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Self {
                path: path.to_owned(),
                text,
            }),
            Err(e) => {
                let valid = e.as_bytes().get(..e.utf8_error().valid_up_to()).unwrap_or_default();
                let place = Place::Line(path.to_owned(), line_after(valid));
                Err(ConfigError::new(&place, "is not UTF-8", "save the file as UTF-8 text"))
            }
        }
    }

    /// The text as TOML. The error keeps the parser's message, which names what was expected and quotes nothing.
    pub(super) fn parse(&self) -> Result<DeTable<'_>, ConfigError> {
        DeTable::parse(&self.text).map(Spanned::into_inner).map_err(|e| {
            ConfigError::new(
                &self.place(&e.span().unwrap_or_default()),
                format!("this is not TOML: {}", escaped(e.message())),
                "correct this line (text values need quotes)",
            )
        })
    }

    pub(super) fn place(&self, span: &Range<usize>) -> Place {
        let before = self.text.as_bytes().get(..span.start).unwrap_or_default();
        Place::Line(self.path.clone(), line_after(before))
    }

    /// The file's sections in the order of their lines. `keys` says which there are; one that is written `x.NAME`
    /// holds a section for each name, and `x.HOST` one for each host.
    pub(super) fn sections<'d>(
        &'d self,
        table: &'d DeTable<'d>,
        keys: &'static [Key],
        roots: Roots<'d>,
    ) -> Result<Vec<Section<'d>>, ConfigError> {
        let mut found = Vec::new();
        for (name, value) in in_order(table) {
            let place = self.place(&name.span());
            let known = |section: &str| keys.iter().find(|key| key.section == section).map(|key| key.section);
            let named = || known(&format!("{}.NAME", name.get_ref())).or(known(&format!("{}.HOST", name.get_ref())));
            if let Some(section) = known(name.get_ref()) {
                let content = self.table(name.get_ref(), &place, value)?;
                found.push(self.section(section, None, place, content, keys, roots)?);
            } else if let Some(section) = named() {
                let content = self.table(name.get_ref(), &place, value)?;
                for (inner, value) in in_order(content) {
                    let place = self.place(&inner.span());
                    let shown = dotted(name.get_ref(), inner.get_ref());
                    let title = title(section, inner.get_ref(), &shown, &place)?;
                    let content = self.table(&shown, &place, value)?;
                    found.push(self.section(section, Some(title), place, content, keys, roots)?);
                }
            } else {
                return Err(unknown_section(&place, name.get_ref(), keys));
            }
        }
        Ok(found)
    }

    fn section<'d>(
        &'d self,
        section: &'static str,
        title: Option<Title>,
        place: Place,
        content: &'d DeTable<'d>,
        keys: &'static [Key],
        roots: Roots<'d>,
    ) -> Result<Section<'d>, ConfigError> {
        let mut found = Section::new(section, title, place, roots);
        let names: Vec<&str> = keys.iter().filter(|k| k.section == section).map(|k| k.name).collect();
        for (key, value) in in_order(content) {
            let place = self.place(&key.span());
            let Some(known) = keys.iter().find(|k| k.section == section && k.name == key.get_ref()) else {
                return Err(unknown_key(&place, &found, key.get_ref(), value.get_ref(), &names));
            };
            found.set(known, place, Given::Toml(value, self));
        }
        Ok(found)
    }

    fn table<'d>(
        &self,
        shown: &str,
        place: &Place,
        value: &'d Spanned<DeValue<'d>>,
    ) -> Result<&'d DeTable<'d>, ConfigError> {
        if let DeValue::Table(table) = value.get_ref() {
            return Ok(table);
        }
        Err(ConfigError::new(
            place,
            format!("\"{}\" is a section, not a key", escaped(shown)),
            format!("write [{}] and its keys below it", escaped(shown)),
        ))
    }
}

/// What the user calls a section, as the section's kind has it.
fn title(section: &str, text: &str, shown: &str, place: &Place) -> Result<Title, ConfigError> {
    if section.ends_with(".HOST") {
        text.parse().map(Title::Host).map_err(|error: InvalidHost| {
            let problem = format!("the host in [{shown}] cannot be used");
            ConfigError::new(place, problem, error.mend())
        })
    } else {
        text.parse().map(Title::Name).map_err(|error: InvalidName| {
            let problem = format!("the name in [{shown}] cannot be used: {error}");
            ConfigError::new(place, problem, "choose another name")
        })
    }
}

fn unknown_section(place: &Place, name: &str, keys: &[Key]) -> ConfigError {
    let problem = format!("unknown section \"{}\"", escaped(name));
    if let Some(key) = keys.iter().find(|key| key.name == name) {
        return ConfigError::new(
            place,
            problem,
            format!("\"{name}\" is a key of [{}]: write it below that", key.section),
        );
    }
    let mut sections: Vec<&str> = keys
        .iter()
        .map(|key| key.section.split('.').next().unwrap_or_default())
        .collect();
    sections.dedup();
    ConfigError::new(place, problem, did_you_mean(name, &sections))
}

fn unknown_key(place: &Place, section: &Section<'_>, key: &str, value: &DeValue<'_>, names: &[&str]) -> ConfigError {
    let mut hint = did_you_mean(key, names);
    if key == "client_secret" {
        // The most likely slip of all, and the nearest key alone does not say why there is no such key.
        hint.push_str(" (a secret is never written into this file)");
    } else if value.is_table() && section.has_title() {
        hint.push_str(" (a name with a dot needs quotes: [section.\"a.b\"])");
    }
    ConfigError::new(
        place,
        format!("unknown key \"{}\"", dotted(&section.to_string(), key)),
        hint,
    )
}

/// The table's entries as the file orders them, so that the first error is the uppermost one.
fn in_order<'d>(table: &'d DeTable<'d>) -> Vec<(&'d Spanned<toml::de::DeString<'d>>, &'d Spanned<DeValue<'d>>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

/// A key below a section as messages show it; quoted where TOML would need quotes.
pub(super) fn dotted(section: &str, key: &str) -> String {
    let bare = !key.is_empty()
        && key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    let section = escaped(section);
    if bare {
        format!("{section}.{}", escaped(key))
    } else {
        format!("{section}.'{}'", escaped(key))
    }
}

/// The line, counted from 1, that the byte after these is on.
fn line_after(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte == b'\n').count() + 1
}
