//! Where a spool stands: what its file system and its directory are fit for. Read only.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, StatVfs, open, statfs, statvfs};
use rustix::process::geteuid;

use super::root;
use crate::limits::READY_SEGMENTS_COUNT_MAX;

/// Something an operator should know of the place of a spool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// The server refuses to start there.
    pub is_error: bool,
    pub text: String,
    pub help: String,
}

/// File systems on other machines, by the magic numbers of statfs(2). A lock there is kept by messages between
/// machines: after a lost connection the other side gives it to somebody else while the first holder still writes, and
/// two servers on one spool overwrite each other's mail. So they are refused; a network block device (iSCSI, NBD, RBD)
/// with a local file system is fine.
const NETWORK: &[(i64, &str)] = &[
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB2"),
    (0x5346_414f, "AFS"),
    (0x7375_7245, "Coda"),
];
/// File systems in memory.
const VOLATILE: &[(i64, &str)] = &[(0x0102_1994, "tmpfs"), (0x8584_58f6, "ramfs")];
/// Free inodes below this are few: each segment and each large message takes some.
const INODES_FREE_MIN: u64 = 10_000;

/// The name of the file system at `path` if it is one on another machine.
pub(super) fn network_file_system(path: &Path) -> Option<&'static str> {
    name_of(NETWORK, file_system(path)?)
}

fn file_system(path: &Path) -> Option<i64> {
    statfs(path).ok().map(|found| found.f_type)
}

fn name_of(names: &[(i64, &'static str)], magic: i64) -> Option<&'static str> {
    // The kernel's type is 32 bits wide; whether a number with the highest bit set comes as a negative one is up to the
    // architecture.
    names.iter().find(|(known, _)| (*known as u32) == (magic as u32)).map(|(_, name)| *name)
}

/// What is to be said of a spool at `path`, which need not exist yet, for this many shards with segments of this size.
pub fn survey(path: &Path, shards_count: u16, segment_size: u64) -> Vec<Remark> {
    let Some(there) = existing(path) else { return Vec::new() };
    let mut remarks = Vec::new();
    let mut remark = |is_error, text: String, help: &str| {
        remarks.push(Remark { is_error, text, help: help.to_owned() });
    };
    let magic = file_system(&there).unwrap_or(0);
    if let Some(name) = name_of(NETWORK, magic) {
        let text =
            format!("{} is on {name}, where a lock can be lost while its holder writes", path.display());
        remark(true, text, "put the spool on a local disk or a network block device");
    }
    if let Some(name) = name_of(VOLATILE, magic) {
        let text = format!("{} is on {name}: a restart of the machine loses all mail in it", path.display());
        remark(false, text, "put the spool on a disk");
    } else if refuses_direct_writes(&there) {
        let text = format!("the file system of {} takes no direct writes (O_DIRECT)", path.display());
        remark(
            false,
            text,
            "writes go through the page cache and cost more; ext4, xfs and btrfs take direct ones",
        );
    }
    if let Ok(free) = statvfs(&there) {
        // A new spool makes all of its segments ahead; one in use has most of them.
        let ahead_count = if root::is_marked(path) { 1 } else { READY_SEGMENTS_COUNT_MAX as u64 };
        remarks.extend(room(path, &free, segment_size.saturating_mul(ahead_count * u64::from(shards_count))));
    }
    if let Some(text) = foreign_owner(path) {
        let help =
            "run the server as that user, or give the directory to the server's user: chown -R".to_owned();
        remarks.push(Remark { is_error: false, text, help });
    }
    remarks
}

fn room(path: &Path, free: &StatVfs, octets_wanted: u64) -> Option<Remark> {
    let octets = free.f_bavail.saturating_mul(free.f_frsize);
    let text = if octets < octets_wanted {
        format!("{} has {octets} octets free; its next segments take {octets_wanted}", path.display())
    } else if free.f_files > 0 && free.f_favail < INODES_FREE_MIN {
        // A file system without a table of inodes (btrfs) says 0 of 0.
        format!("the file system of {} has {} inodes left", path.display(), free.f_favail)
    } else {
        return None;
    };
    let help = "make room there: a server without room answers 452".to_owned();
    Some(Remark { is_error: false, text, help })
}

/// Tried on a file without a name, which vanishes by itself. Where such files cannot be made, nothing is said.
fn refuses_direct_writes(directory: &Path) -> bool {
    let unnamed = |more: OFlags| {
        open(directory, OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC | more, Mode::RUSR | Mode::WUSR)
    };
    unnamed(OFlags::empty()).is_ok() && unnamed(OFlags::DIRECT).is_err()
}

/// Where the directory is there and another user's.
fn foreign_owner(path: &Path) -> Option<String> {
    let metadata = fs::metadata(path).ok()?;
    let user = geteuid().as_raw();
    (metadata.uid() != user).then(|| owner(path, &metadata, user))
}

fn owner(path: &Path, metadata: &fs::Metadata, user: u32) -> String {
    let (path, owner, mode) = (path.display(), metadata.uid(), metadata.mode() & 0o7777);
    format!("{path} belongs to the user with id {owner} (mode {mode:03o}), and this one has id {user}")
}

/// For an error of permissions: which directory or file it is about, whose it is, and who asked.
pub(super) fn permissions(path: &Path) -> Option<String> {
    let there = path.ancestors().find_map(|path| Some((path, fs::symlink_metadata(path).ok()?)));
    there.map(|(path, metadata)| owner(path, &metadata, geteuid().as_raw()))
}

/// The path, or the nearest directory above it that exists.
fn existing(path: &Path) -> Option<PathBuf> {
    let path = if path.is_absolute() { path.to_owned() } else { Path::new(".").join(path) };
    path.ancestors().find(|path| path.is_dir()).map(Path::to_owned)
}

/// The program that runs as this process, if there is one.
pub(super) fn program(pid: u32) -> io::Result<String> {
    Ok(fs::read_to_string(format!("/proc/{pid}/comm"))?.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_file_systems_are_told_by_their_magic_numbers() {
        // As include/uapi/linux/magic.h of the kernel has them.
        for (magic, name) in
            [(0x6969, "NFS"), (0xff53_4d42_u32 as i32, "CIFS"), (0xfe53_4d42_u32 as i32, "SMB2")]
        {
            assert_eq!(name_of(NETWORK, i64::from(magic)), Some(name));
        }
        for local in [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x794c_7630] {
            assert_eq!(name_of(NETWORK, local), None, "{local:x}");
        }
    }

    #[test]
    fn memory_is_no_place_for_a_spool() {
        let remarks = survey(Path::new("/dev/shm/ringmx/spool"), 1, 0);
        if name_of(VOLATILE, file_system(Path::new("/dev/shm")).unwrap_or(0)).is_some() {
            assert!(
                remarks.iter().any(|remark| remark.text.contains("tmpfs") && !remark.is_error),
                "{remarks:?}"
            );
        } else {
            eprintln!("SKIPPED: /dev/shm is no tmpfs here");
        }
    }

    #[test]
    fn too_little_room_is_told() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(
            survey(dir.path(), 1, 0).iter().filter(|remark| remark.text.contains("octets free")).count(),
            0
        );
        let remarks = survey(&dir.path().join("not/there"), 1, u64::MAX);
        assert!(remarks.iter().any(|remark| remark.text.contains("octets free")), "{remarks:?}");
        let mut free = statvfs(dir.path()).unwrap();
        (free.f_files, free.f_favail) = (1_000_000, 17);
        assert!(room(dir.path(), &free, 0).unwrap().text.contains("17 inodes"));
        (free.f_files, free.f_favail) = (0, 0);
        assert_eq!(room(dir.path(), &free, 0), None, "no table of inodes");
    }

    #[test]
    fn another_users_directory_is_told() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(foreign_owner(dir.path()), None);
        let metadata = fs::metadata(dir.path()).unwrap();
        let text = owner(dir.path(), &metadata, metadata.uid() + 1);
        assert!(text.contains(&format!("has id {}", metadata.uid() + 1)), "{text}");
    }
}
