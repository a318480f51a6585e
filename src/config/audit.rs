//! `[audit]`.

use std::{
    num::NonZeroU32,
    path::{Path, PathBuf},
};

use super::{error::ConfigError, needed, schema::choice, section::Section};

/// `[audit]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditConfig {
    /// The directory of the audit files. `None`: it is not set, and there is no home to put it in; see
    /// [`AuditConfig::directory`].
    pub path: Option<PathBuf>,
    /// What happens to calls while no line can be written.
    pub on_full: OnFull,
    /// How many MiB a file has before the next one takes over. `None`: the writer's own number holds.
    pub max_file_mib: Option<NonZeroU32>,
}

choice! {
    /// What happens to calls while the audit cannot be written.
    #[derive(Default)]
    pub enum OnFull {
        /// They are answered, and lost lines are counted.
        #[default]
        Serve = "serve",
        /// They are refused before anything happens.
        Refuse = "refuse",
    }
}

impl AuditConfig {
    /// The directory of the audit files, for those who need it.
    ///
    /// # Errors
    /// It is not set, and there is no home directory.
    pub fn directory(&self) -> Result<&Path, ConfigError> {
        needed(self.path.as_deref(), "audit.path", "XDG_STATE_HOME")
    }

    pub(super) fn apply(&mut self, section: &Section<'_>) -> Result<(), ConfigError> {
        if let Some(path) = section.path("path")? {
            self.path = Some(path);
        }
        if let Some(on_full) = section.choice("on_full")? {
            self.on_full = on_full;
        }
        if let Some(size) = section.count("max_file_mib")? {
            self.max_file_mib = Some(size);
        }
        Ok(())
    }
}
