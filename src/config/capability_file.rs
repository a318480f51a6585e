//! The file of `serve --capability-file`: one capability, in hexadecimal digits.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use data_encoding::HEXLOWER_PERMISSIVE;
use rustix::fs::{FileType, Mode, OFlags};
use secrecy::SecretBox;
use zeroize::Zeroizing;

use super::error::{ConfigError, Place, escaped};

/// What a sandbox shows to be known: 32 random bytes.
pub type Capability = SecretBox<[u8; 32]>;

/// Two digits a byte.
const DIGITS: usize = 64;
/// The digits, a line end of at most two bytes, and one more to see that nothing follows.
const READ_AT_MOST: usize = DIGITS + 3;

/// Reads a capability: 64 hexadecimal digits on one line, in a file that nobody but its owner can read.
///
/// The file is opened once, and what is checked is what was opened.
///
/// # Errors
/// It cannot be read, others can read it, or it holds something else.
pub fn read_capability_file(path: &Path) -> Result<Capability, ConfigError> {
    let fault = |problem: &str, mend: &str| ConfigError::new(&Place::file(path), problem, mend);
    let unreadable = |e: io::Error| {
        fault(
            &format!("the capability cannot be read: {e}"),
            "name a file that exists and that this user can read",
        )
    };
    // Non-blocking, so that a pipe without a writer is refused below instead of waited for here.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| unreadable(e.into()))?;
    let stat = rustix::fs::fstat(&opened).map_err(|e| unreadable(e.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(fault("is not a regular file", "name a file that holds the capability"));
    }
    let name = escaped(&path.to_string_lossy());
    if stat.st_mode & 0o077 != 0 {
        return Err(fault(
            &format!("others than its owner can use it (mode {:04o})", stat.st_mode & 0o7777),
            &format!("make a new capability and keep it to yourself: chmod 600 {name}"),
        ));
    }
    if !is_own(stat.st_uid, rustix::process::geteuid().as_raw()) {
        return Err(fault(
            &format!("it belongs to another user (uid {})", stat.st_uid),
            &format!("make it your own: chown {} {name}", rustix::process::geteuid().as_raw()),
        ));
    }
    let mut text = Zeroizing::new(Vec::with_capacity(READ_AT_MOST));
    let limit = u64::try_from(READ_AT_MOST).unwrap_or(u64::MAX);
    File::from(opened)
        .take(limit)
        .read_to_end(&mut text)
        .map_err(unreadable)?;
    decode(&text).ok_or_else(|| {
        fault(
            "is not a capability: 64 hexadecimal digits on one line",
            "write 32 random bytes into it, for example by: umask 077; od -An -tx1 -N32 /dev/urandom | tr -d ' \\n' > FILE",
        )
    })
}

/// Whether a file of that owner is read by nobody else: root reads everything anyway.
fn is_own(owner: u32, own: u32) -> bool {
    owner == own || owner == 0
}

fn decode(text: &[u8]) -> Option<Capability> {
    let digits = text.strip_suffix(b"\n").unwrap_or(text);
    let digits = digits.strip_suffix(b"\r").unwrap_or(digits);
    if digits.len() != DIGITS {
        return None;
    }
    let mut bytes = Zeroizing::new([0; 32]);
    HEXLOWER_PERMISSIVE.decode_mut(digits, bytes.as_mut_slice()).ok()?;
    Some(SecretBox::init_with_mut(|secret: &mut [u8; 32]| {
        secret.copy_from_slice(bytes.as_slice());
    }))
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{PermissionsExt as _, symlink},
    };

    use secrecy::ExposeSecret as _;

    use super::*;

    const HEX: &str = "00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF";

    fn read(content: &[u8], mode: u32) -> Result<Capability, ConfigError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cap");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        read_capability_file(&path)
    }

    #[test]
    fn one_line_of_64_digits_is_a_capability() {
        for end in ["", "\n", "\r\n"] {
            for mode in [0o600, 0o400] {
                let capability = read(format!("{HEX}{end}").as_bytes(), mode).unwrap();
                let bytes = capability.expose_secret();
                assert_eq!((bytes[1], bytes[31]), (0x11, 0xff));
            }
        }
    }

    #[test]
    fn anything_else_is_refused_and_never_quoted() {
        let table: [String; 9] = [
            String::new(),
            HEX[1..].into(),
            format!("{HEX}0"),
            format!("{HEX}\n\n"),
            format!("{HEX}\n{HEX}\n"),
            format!(" {}", &HEX[1..]),
            format!("{}g", &HEX[1..]),
            format!("0x{}", &HEX[2..]),
            "x".repeat(100_000),
        ];
        for content in table {
            let error = read(content.as_bytes(), 0o600).unwrap_err().to_string();
            assert!(
                error.contains("64 hexadecimal digits") && error.contains("/cap: "),
                "{error}"
            );
            assert!(!error.contains("112233"), "{error}");
        }
    }

    #[test]
    fn a_file_that_others_can_use_is_refused_with_the_mend() {
        for mode in [0o640, 0o604, 0o660, 0o606, 0o610, 0o601, 0o644, 0o777] {
            let error = read(HEX.as_bytes(), mode).unwrap_err().to_string();
            assert!(
                error.contains("chmod 600 ") && error.contains(&format!("{mode:04o}")),
                "{error}"
            );
            assert!(!error.contains("112233"), "{error}");
        }
    }

    #[test]
    fn only_the_own_user_and_root_may_own_it() {
        assert!(is_own(1000, 1000) && is_own(0, 1000) && is_own(0, 0));
        assert!(!is_own(1001, 1000) && !is_own(1000, 0));
    }

    #[test]
    fn what_is_no_regular_file_is_refused_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, Mode::RUSR).unwrap();
        for path in [directory.path(), &pipe, Path::new("/dev/zero")] {
            let error = read_capability_file(path).unwrap_err().to_string();
            assert!(error.contains("is not a regular file"), "{error}");
        }
        let absent = read_capability_file(&directory.path().join("absent"))
            .unwrap_err()
            .to_string();
        assert!(
            absent.contains("/absent: ") && absent.contains("cannot be read"),
            "{absent}"
        );
    }

    #[test]
    fn a_symbolic_link_is_followed_and_its_target_is_what_is_checked() {
        let directory = tempfile::tempdir().unwrap();
        let (path, link) = (directory.path().join("cap"), directory.path().join("link"));
        fs::write(&path, HEX).unwrap();
        symlink(&path, &link).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(read_capability_file(&link).is_ok());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(read_capability_file(&link).is_err());
    }

    #[test]
    fn debug_shows_nothing() {
        let capability = read(HEX.as_bytes(), 0o600).unwrap();
        assert!(!format!("{capability:?}").contains("17"), "0x11 is 17");
    }
}
