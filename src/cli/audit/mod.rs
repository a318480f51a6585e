//! `audit verify|show`: reads what brokers have written down. Nothing here writes.

mod holder;
mod show;
mod verify;

use std::{
    fs::{self, File},
    io::{self, BufReader},
    path::{Path, PathBuf},
    process::ExitCode,
};

use rustix::{
    fs::{FileType, Mode, OFlags, Stat},
    io::Errno,
};

use crate::{
    cli::{args::AuditCommand, failure::Failure},
    config::{Config, Environment},
};

/// What the name of an audit file has in it, also after somebody else has turned it over (`.jsonl.1`).
const MARK: &str = ".jsonl";

pub(super) async fn audit(
    config: &Config,
    environment: &Environment,
    command: AuditCommand,
) -> Result<ExitCode, Failure> {
    match command {
        AuditCommand::Verify(arguments) => verify::verify(config, environment, &arguments).await,
        AuditCommand::Show(arguments) => show::show(config, &arguments),
    }
}

/// Files to read, by name.
struct Files {
    paths: Vec<PathBuf>,
    /// Whether they are all of a directory.
    whole: bool,
}

impl Files {
    fn find(config: &Config, named: Option<&Path>) -> Result<Self, Failure> {
        let path = match named {
            Some(path) => path,
            None => config.audit.directory()?,
        };
        let about = match path.metadata() {
            Ok(about) => about,
            Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self {
                    paths: Vec::new(),
                    whole: true,
                });
            }
            Err(error) => return Err(unreadable(path, &error)),
        };
        if !about.is_dir() {
            return Ok(Self {
                paths: vec![path.to_owned()],
                whole: false,
            });
        }
        let mut paths = Vec::new();
        for entry in fs::read_dir(path).map_err(|error| unreadable(path, &error))? {
            let entry = entry.map_err(|error| unreadable(path, &error))?;
            if entry.file_name().to_string_lossy().contains(MARK) {
                paths.push(entry.path());
            }
        }
        // Their names begin with the time.
        paths.sort();
        if let (Some(named), true) = (named, paths.is_empty()) {
            return Err(Failure::not_found(format!(
                "there is no audit file in {}; name a directory of them, or leave it out for the configured one",
                named.display()
            )));
        }
        Ok(Self { paths, whole: true })
    }
}

/// Opens a file for reading.
fn open(path: &Path) -> Result<(File, Stat), Failure> {
    let failed = |error: Errno| unreadable(path, &error.into());
    // Non-blocking, so that a pipe without a writer is refused instead of waited for.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = rustix::fs::open(path, flags, Mode::empty()).map_err(failed)?;
    let stat = rustix::fs::fstat(&opened).map_err(failed)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(unreadable(path, &io::Error::other("it is not a regular file")));
    }
    Ok((File::from(opened), stat))
}

/// So large are the pieces in which a file is read.
fn buffered(file: File) -> BufReader<File> {
    BufReader::with_capacity(256 * 1024, file)
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    let message = format!(
        "cannot read {}: {error}; name an audit file, or a directory of them",
        path.display()
    );
    match error.kind() {
        io::ErrorKind::NotFound => Failure::not_found(message),
        _ => Failure::bad_data(message),
    }
}

/// What is said in the end if some of a directory could not be read.
fn some_unreadable(count: usize) -> Failure {
    Failure::bad_data(format!(
        "{count} of what is called like an audit file cannot be read: take it away, or let it be read"
    ))
}

/// How a file is called among its neighbours.
fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}
