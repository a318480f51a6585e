//! Where the records of a broker are written.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::PathBuf,
    sync::Arc,
};

use crate::clock::Clock;

/// Opens this process's audit file, made anew with the first record: time and pid are its name.
pub(super) fn audit_file(dir: PathBuf, clock: Arc<dyn Clock>) -> impl FnMut() -> io::Result<File> + Send {
    move || {
        DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        let time = clock.now().wall.strftime("%Y%m%dT%H%M%S%.6fZ");
        let path = dir.join(format!("{time}-{}.jsonl", std::process::id()));
        OpenOptions::new().append(true).create_new(true).mode(0o600).open(path)
    }
}
