//! The user's browser.

use std::{ffi::OsString, process::Stdio};

use crate::{
    cli::{before_exec, output},
    config::Environment,
};

/// Something to open a URL with, on a screen that somebody looks at.
pub(super) struct Browser {
    variables: Vec<(OsString, OsString)>,
}

impl Browser {
    /// `None`: nobody looks, or there is no screen. `secrets` are variables that no child process gets.
    pub(super) fn find(environment: &Environment, secrets: &[&str]) -> Option<Self> {
        let set = |name: &str| environment.get(name).is_some_and(|value| !value.is_empty());
        let screen = cfg!(target_os = "macos") || set("DISPLAY") || set("WAYLAND_DISPLAY");
        (screen && output::stderr_is_terminal()).then(|| Self {
            variables: environment
                .child_environment(secrets)
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
        })
    }

    /// Opens a URL, which the client has judged; whether there was something to open it with. What that prints is for
    /// nobody, and Ctrl-C here does not end it.
    pub(super) fn open(&self, url: &str) -> bool {
        open::commands(url).into_iter().any(|mut command| {
            command
                .env_clear()
                .envs(self.variables.iter().map(|(name, value)| (name, value)))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            before_exec::restore_umask(&mut command);
            // Not waited for here: the runtime does that.
            tokio::process::Command::from(command).process_group(0).spawn().is_ok()
        })
    }
}
