//! What is mounted on this host, as the kernel lists it: one directory may be seen at several places, and what is mounted below
//! a directory comes along when that is mounted elsewhere.

use std::{
    ffi::OsString,
    fs,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
};

const LIST: &str = "/proc/self/mountinfo";

struct MountPoint {
    device: Vec<u8>,
    /// What of its file system is seen.
    root: PathBuf,
    /// Where.
    at: PathBuf,
}

/// The list.
pub(super) struct MountPoints(Vec<MountPoint>);

impl MountPoints {
    /// As it is now; empty where the system has no such list.
    pub(super) fn here() -> Self {
        Self::parse(&fs::read(LIST).unwrap_or_default())
    }

    fn parse(list: &[u8]) -> Self {
        let point = |line: &[u8]| {
            let mut fields = line.split(|byte| *byte == b' ').skip(2);
            Some(MountPoint {
                device: fields.next()?.to_vec(),
                root: path(fields.next()?),
                at: path(fields.next()?),
            })
        };
        Self(list.split(|byte| *byte == b'\n').filter_map(point).collect())
    }

    /// Where else a path without links is to be seen, as far as nothing lies over it there.
    pub(super) fn other_names(&self, path: &Path) -> Vec<PathBuf> {
        let holds = |point: &&MountPoint| path.starts_with(&point.at);
        // Of two at one place the later one is on top.
        let Some(own) = self
            .0
            .iter()
            .filter(holds)
            .max_by_key(|point| point.at.components().count())
        else {
            return Vec::new();
        };
        let Ok(rest) = path.strip_prefix(&own.at) else {
            return Vec::new();
        };
        let inner = own.root.join(rest);
        let elsewhere = |point: &MountPoint| {
            let rest = inner.strip_prefix(&point.root).ok()?;
            Some(point.at.join(rest).components().collect::<PathBuf>())
        };
        let same = self.0.iter().filter(|point| point.device == own.device);
        same.filter_map(elsewhere).filter(|other| other != path).collect()
    }

    /// What is mounted below a path without links.
    pub(super) fn below(&self, path: &Path) -> impl Iterator<Item = &Path> {
        let at = self.0.iter().map(|point| point.at.as_path());
        at.filter(move |at| *at != path && at.starts_with(path))
    }
}

/// Spaces and the like are written in octal, behind a backslash.
fn path(written: &[u8]) -> PathBuf {
    let mut read = Vec::with_capacity(written.len());
    let mut rest = written;
    while let Some((first, behind)) = rest.split_first() {
        let octal = behind.get(..3).filter(|_| *first == b'\\');
        let byte = octal
            .and_then(|octal| std::str::from_utf8(octal).ok())
            .and_then(|octal| u8::from_str_radix(octal, 8).ok());
        read.push(byte.unwrap_or(*first));
        rest = if byte.is_some() {
            behind.get(3..).unwrap_or_default()
        } else {
            behind
        };
    }
    OsString::from_vec(read).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &[u8] = b"27 1 259:1 / / rw - ext4 /dev/root rw\n\
        30 27 0:22 / /run rw - tmpfs tmpfs rw\n\
        31 27 259:1 /home/me /srv/a\\040project/home rw - ext4 /dev/root rw\n\
        32 27 0:22 /dbus /srv/bus rw - tmpfs tmpfs rw\n\
        broken\n";

    #[test]
    fn a_directory_has_the_names_that_its_file_system_is_mounted_by() {
        let points = MountPoints::parse(LIST);
        for (path, others) in [
            ("/srv/a project/home/x", &["/home/me/x"][..]),
            ("/srv/a project/home", &["/home/me"]),
            ("/home/me/x", &["/srv/a project/home/x"]),
            ("/srv/a project", &[]),
            ("/srv/bus", &["/run/dbus"]),
            ("/run/dbus/socket", &["/srv/bus/socket"]),
            ("/run", &[]),
        ] {
            let found = points.other_names(Path::new(path));
            assert_eq!(found, others.iter().map(PathBuf::from).collect::<Vec<_>>(), "{path}");
        }
        assert!(MountPoints::parse(b"").other_names(Path::new("/x")).is_empty());
    }

    #[test]
    fn what_is_mounted_below_is_found() {
        let points = MountPoints::parse(LIST);
        let below = |path: &'static str| points.below(Path::new(path)).collect::<Vec<_>>();
        assert_eq!(below("/srv/a project"), [Path::new("/srv/a project/home")]);
        assert_eq!(below("/srv"), [Path::new("/srv/a project/home"), Path::new("/srv/bus")]);
        assert!(below("/srv/a").is_empty() && below("/srv/bus").is_empty());
    }
}
