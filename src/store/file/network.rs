//! Is the store on a file system that other hosts share?
//!
//! There `flock` may hold for one host only, and two hosts would present one refresh token. Such stores are refused
//! unless the configuration says otherwise.

use std::path::Path;

/// What to do about a store on one.
pub(super) const MEND: &str =
    "move it to a local disk, or set `allow_network_fs = true` in [store] if only this host uses it";

/// The kind of network file system that holds the store, or will hold it once it is made; `None`: a local one, or one
/// that cannot be told (only Linux is looked at).
pub(super) fn file_system(store: &Path) -> Option<&'static str> {
    #[cfg(target_os = "linux")]
    {
        // The store may not exist yet: it will be on the file system of what is there of its path.
        let there = store.ancestors().find_map(|path| rustix::fs::statfs(path).ok())?;
        // The field's width differs between platforms, the magic numbers have 32 bits.
        let [.., a, b, c, d] = there.f_type.to_be_bytes();
        kind(u32::from_be_bytes([a, b, c, d]))
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = store;
        None
    }
}

/// The magic numbers of `statfs(2)` and of the file systems' own headers. FUSE counts as network: sshfs, rclone and
/// virtiofs look like it, and what is behind one cannot be told from its number.
#[cfg(target_os = "linux")]
fn kind(magic: u32) -> Option<&'static str> {
    Some(match magic {
        0x0000_6969 => "nfs",
        0x0000_517B | 0xFE53_4D42 | 0xFF53_4D42 => "smb",
        0x0102_1997 => "9p",
        0x6573_5546 => "fuse",
        0x00C3_6400 => "ceph",
        0x5346_414F | 0x6B41_4653 => "afs",
        0x7375_7245 => "coda",
        0x0000_564C => "ncp",
        0x0116_1970 => "gfs2",
        0x7461_636F => "ocfs2",
        0x0BD0_0BD0 => "lustre",
        0x4750_4653 => "gpfs",
        0x1983_0326 => "beegfs",
        0x2003_0528 => "orangefs",
        _ => return None,
    })
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn file_systems_that_hosts_share_are_told_from_local_ones() {
        for (magic, name) in [
            (0x6969, "nfs"),
            (0x517B, "smb"),
            (0xFE53_4D42, "smb"),
            (0xFF53_4D42, "smb"),
            (0x0102_1997, "9p"),
            (0x6573_5546, "fuse"),
            (0x00C3_6400, "ceph"),
            (0x5346_414F, "afs"),
            (0x6B41_4653, "afs"),
            (0x7375_7245, "coda"),
            (0x564C, "ncp"),
            (0x0116_1970, "gfs2"),
            (0x7461_636F, "ocfs2"),
            (0x0BD0_0BD0, "lustre"),
            (0x4750_4653, "gpfs"),
            (0x1983_0326, "beegfs"),
            (0x2003_0528, "orangefs"),
        ] {
            assert_eq!(kind(magic), Some(name));
        }
        // ext4, btrfs, xfs, tmpfs, overlayfs, zfs, f2fs.
        for local in [
            0xEF53,
            0x9123_683E,
            0x5846_5342,
            0x0102_1994,
            0x794C_7630,
            0x2FC1_2FC1,
            0xF2F5_2010,
        ] {
            assert_eq!(kind(local), None, "{local:x}");
        }
    }

    #[test]
    fn a_store_that_does_not_exist_yet_is_judged_by_what_is_above_it() {
        assert_eq!(file_system(Path::new("/proc/no/such/store")), None);
        assert!(rustix::fs::statfs("/proc/no/such/store").is_err());
    }
}
