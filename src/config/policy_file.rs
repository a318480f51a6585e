//! The file of `serve --policy`: which sandboxes there are, how each one is known, and what it may do.

use std::{collections::BTreeMap, path::Path};

use super::{
    error::{ConfigError, Place},
    file::Source,
    schema::POLICY_KEYS,
    section::{Roots, Section},
};
use crate::{broker::policy::Policy, credential::Name};

/// The sandboxes of one policy file: at least one, no two with the same capability.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyFile {
    /// The sandboxes, in the order of the file.
    pub sandboxes: Vec<Sandbox>,
}

/// `[sandboxes.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    /// Its name, for records.
    pub name: Name,
    /// The SHA-256 of its capability's 32 bytes. It is no secret: nothing follows from it.
    pub capability_sha256: [u8; 32],
    /// What it may do.
    pub policy: Policy,
}

impl PolicyFile {
    /// Reads a policy file.
    ///
    /// # Errors
    /// It cannot be read, or something in it is wrong or unknown.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::from_source(&Source::read(path)?, path)
    }

    pub(super) fn from_source(source: &Source, path: &Path) -> Result<Self, ConfigError> {
        let table = source.parse()?;
        // No key of this file is a path.
        let roots = Roots {
            base: Path::new("/"),
            home: None,
        };
        let mut sandboxes = Vec::new();
        let mut owners = BTreeMap::new();
        for section in source.sections(&table, POLICY_KEYS, roots)? {
            let Some(sandbox) = Sandbox::from_section(&section)? else {
                continue;
            };
            if let Some(other) = owners.insert(sandbox.capability_sha256, sandbox.name.clone()) {
                return Err(section.fault(
                    "capability_sha256",
                    &format!("is the same as that of sandbox {other}"),
                    "give each sandbox a capability of its own",
                ));
            }
            sandboxes.push(sandbox);
        }
        if sandboxes.is_empty() {
            return Err(ConfigError::new(
                &Place::file(path),
                "names no sandbox, so nobody could connect",
                "add [sandboxes.NAME] with capability_sha256 and what it may do",
            ));
        }
        Ok(Self { sandboxes })
    }
}

impl Sandbox {
    /// `None` for a section without a name, which this file does not have.
    fn from_section(section: &Section<'_>) -> Result<Option<Self>, ConfigError> {
        let Some(name) = section.name().cloned() else {
            return Ok(None);
        };
        let capability_sha256 = section.digest("capability_sha256")?.ok_or_else(|| {
            section.incomplete(
                "lacks capability_sha256",
                "set it to the SHA-256 of the capability's 32 bytes, in hexadecimal digits",
            )
        })?;
        let policy = Policy {
            read: section.parsed("allow")?.unwrap_or_default(),
            keys: section.parsed("allow_key")?.unwrap_or_default(),
            login: section.parsed("allow_login")?.unwrap_or_default(),
            save: section.parsed("allow_save")?.unwrap_or_default(),
            remove: section.parsed("allow_remove")?.unwrap_or_default(),
        };
        Ok(Some(Self {
            name,
            capability_sha256,
            policy,
        }))
    }
}
