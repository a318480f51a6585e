//! Why something is not mounted that a link leads to, or whose place is behind one.

use std::path::Path;

use super::{
    Directories, SandboxError, Source, Way,
    mounts::{WORKING_DIRECTORY, forbidden},
};

impl Source {
    /// Why it is not mounted if this link is on the way to it, where a sandbox can write: who wrote there chose what is mounted.
    #[must_use]
    pub fn behind_a_link(&self, named: &Path, link: &Path) -> SandboxError {
        SandboxError::Forbidden {
            what: "--mount",
            path: named.to_owned(),
            why: format!(
                "is behind a link ({}) that a sandbox may have left, and leads to {}",
                link.display(),
                self.place.path().display()
            ),
            mend: "name the path that is really meant",
        }
    }
}

impl Directories {
    /// Why the working directory is not shown if it was reached by this link.
    #[must_use]
    pub fn behind_a_link(&self, link: &Path) -> SandboxError {
        let why = format!("is behind a link ({}) that a sandbox may have left", link.display());
        forbidden(
            WORKING_DIRECTORY,
            &self.working,
            why,
            "change to it by its own name (`cd -P .`) if it is the one that is meant",
        )
    }
}

impl Way {
    /// Why nothing is mounted there if a link is on the way: who could write there chose where it leads, and the runtime, which
    /// makes the place, may follow it out of the sandbox.
    #[must_use]
    pub fn has_a_link(&self) -> SandboxError {
        SandboxError::Destination {
            path: self.destination.clone(),
            why: "a link is on the way there, in something else that is mounted; remove the link, or choose another place",
        }
    }
}
