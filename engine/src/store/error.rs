//! What can be wrong with a spool: each error names the path, the reason and what to do.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::site;
use crate::spool::FORMAT_VERSION;
use crate::spool::segment::HeaderFault;

/// Why a spool cannot be opened or read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot {action} {path}: {source}; {remedy}")]
    Io { action: &'static str, path: PathBuf, source: io::Error, remedy: String },

    #[error(
        "the spool {path} is in use by another server{}; stop that one, or give this one its own `[spool] path`",
        holder.as_ref().map(|holder| format!(" ({holder})")).unwrap_or_default()
    )]
    Locked { path: PathBuf, holder: Option<String> },

    #[error(
        "the spool {path} is on {file_system}: a lock there can be lost while its holder writes, and a second server \
         would overwrite mail; put the spool on a local disk or a network block device. Nothing was changed"
    )]
    Network { path: PathBuf, file_system: &'static str },

    #[error(
        "{path} was written by a newer ringmx (format version {found}, this one reads up to {supported}); \
         run that version, or give this one another `[spool] path`. Nothing was changed"
    )]
    Newer { path: PathBuf, found: u32, supported: u32 },

    #[error(
        "{path} was written by a newer ringmx: it holds {what} that this one does not know; run that version, or \
         give this one another `[spool] path`. Nothing was changed"
    )]
    Unknown { path: PathBuf, what: &'static str },

    #[error(
        "{path} does not say that its directory is a spool; if the directory is one, restore the file from a backup, \
         otherwise choose another `[spool] path`"
    )]
    BadMarker { path: PathBuf },

    #[error("there is no spool at {path}; check `[spool] path`, or start the server once to create it")]
    NoSpool { path: PathBuf },

    #[error("a segment size of {size} bytes is outside {min} to {max}; change `[spool] segment_size`")]
    SegmentSize { size: u64, min: u64, max: u64 },

    #[error("no message {id} in the spool {path}; delivered messages are overwritten in time")]
    NoMessage { id: crate::id::MessageId, path: PathBuf },

    #[error("cannot export to {}: {_1}", _0.display())]
    Export(PathBuf, io::Error),
}

impl StoreError {
    /// Why the segment at `path` keeps the spool from being read; `None` where it is only damaged itself.
    pub(super) fn header(path: &Path, fault: HeaderFault) -> Option<Self> {
        let path = path.to_owned();
        match fault {
            HeaderFault::Damaged => None,
            HeaderFault::Newer(found) => {
                Some(Self::Newer { path, found: u32::from(found), supported: u32::from(FORMAT_VERSION) })
            }
            HeaderFault::Unknown(what) => Some(Self::Unknown { path, what }),
        }
    }

    /// For `map_err`: the error of doing `action` ("create", "read", ...) with `path`.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), remedy: remedy(path, &source), source }
    }
}

/// What an operator can do about an error of the system.
fn remedy(path: &Path, source: &io::Error) -> String {
    let remedy = match source.kind() {
        io::ErrorKind::PermissionDenied => {
            let whose = site::permissions(path).map(|whose| format!(" ({whose})")).unwrap_or_default();
            return format!("give the server's user read and write permission there{whose}");
        }
        io::ErrorKind::NotFound => "check `[spool] path`",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room on that file system",
        io::ErrorKind::ReadOnlyFilesystem => "mount that file system for writing",
        io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory | io::ErrorKind::AlreadyExists => {
            "move away what stands there"
        }
        _ if source.raw_os_error() == Some(Errno::MFILE.raw_os_error()) => {
            "raise the limit of open files (ulimit -Hn, systemd LimitNOFILE=): each segment with mail takes one"
        }
        _ if source.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
            "a symbolic link is not followed there; put the file itself in its place"
        }
        _ => "see the kernel's log for the disk's state",
    };
    remedy.to_owned()
}
