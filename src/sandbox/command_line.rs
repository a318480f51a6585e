//! What is started, as data.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt as _,
    path::PathBuf,
};

use super::quoting::quoted;

/// A program, its arguments, and what it finds in its environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine {
    /// The program.
    pub program: PathBuf,
    /// Its arguments. An option stands together with its value.
    arguments: Vec<Vec<OsString>>,
    /// The program's environment.
    pub environment: Environment,
    /// Where the socket is inside.
    pub socket: PathBuf,
    /// The program's PATH.
    pub path: OsString,
}

/// What the runtime's program finds in its environment, besides the socket's path and the capability.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Environment {
    /// These variables alone, because the command gets what the program has.
    Only(Vec<String>),
    /// What a command without a sandbox gets: the program is the user's own, and the command gets what is named.
    Users,
}

/// Stands for the number of a descriptor among the arguments.
const DESCRIPTOR: &str = "FD";

impl CommandLine {
    pub(super) fn new(program: PathBuf, path: OsString, environment: Environment, socket: &str) -> Self {
        Self {
            program,
            arguments: Vec::new(),
            environment,
            socket: socket.into(),
            path,
        }
    }

    /// Adds an option with its values.
    pub(super) fn add<'a>(&mut self, words: impl IntoIterator<Item = &'a (impl AsRef<OsStr> + ?Sized + 'a)>) {
        let words = words.into_iter().map(|word| word.as_ref().to_owned());
        self.arguments.push(words.collect());
    }

    /// An option whose value is a descriptor that the runtime's program inherits.
    pub(super) fn add_descriptor(&mut self, option: &str) {
        self.add([option, DESCRIPTOR]);
    }

    /// The arguments, with the number of the descriptor that stands for `FD` behind each of these options.
    pub fn arguments(&self, descriptors: &[(&str, i32)]) -> impl Iterator<Item = OsString> {
        // Only a group that was made for it is one; a command may be called as it likes.
        self.arguments.iter().flat_map(move |group| {
            if let [option, value] = group.as_slice()
                && value == DESCRIPTOR
                && let Some((_, number)) = descriptors.iter().find(|(its, _)| option == its)
            {
                vec![option.clone(), number.to_string().into()]
            } else {
                group.clone()
            }
        })
    }

    /// As a shell reads it, an option a line, below a comment that names the variables which are the broker's to pass. Bytes,
    /// because paths are.
    #[must_use]
    pub fn shown(&self) -> Vec<u8> {
        let mut names = vec!["CREDBROKER_CAPABILITY", "CREDBROKER_SOCKET"];
        let whose = match &self.environment {
            Environment::Only(others) => {
                names.extend(others.iter().map(String::as_str));
                "these variables and no others"
            }
            Environment::Users => "this environment and",
        };
        let mut shown = format!("# with {whose}: {}\n", names.join(" ")).into_bytes();
        shown.extend(quoted(self.program.as_os_str()).as_bytes());
        for group in &self.arguments {
            shown.extend(b" \\\n   ");
            for word in group {
                shown.push(b' ');
                shown.extend(quoted(word).as_bytes());
            }
        }
        shown
    }
}
