//! What can go wrong with a delivery, and with starting egress.

use std::io;
use std::path::{Path, PathBuf};

/// Why egress cannot start.
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    #[error(
        "cannot set up io_uring for the delivery threads: {0}; allow it (sysctl kernel.io_uring_disabled=0, and \
         io_uring_setup in the seccomp profile of a container), raise the memory lock limit, or run Linux 6.1 or later"
    )]
    Ring(io::Error),
    #[error("cannot start a delivery thread: {0}; raise the limits of processes and open files")]
    Thread(io::Error),
}

/// A delivery that did not happen: the message stays in the spool.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path}: {source}")]
pub(super) struct DeliveryError {
    pub action: &'static str,
    pub path: PathBuf,
    pub source: io::Error,
}

impl DeliveryError {
    /// For `map_err`: the error of doing `action` with `path`.
    pub(super) fn of(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self { action, path: path.to_owned(), source }
    }

    /// What an operator can do about it.
    pub(super) fn remedy(&self) -> &'static str {
        match self.source.kind() {
            io::ErrorKind::PermissionDenied => "give the server's user write permission there",
            io::ErrorKind::StorageFull => "make room on that file system",
            io::ErrorKind::QuotaExceeded => "raise the quota, or make room",
            io::ErrorKind::ReadOnlyFilesystem => "mount that file system for writing",
            io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
                "move away the file that stands there"
            }
            io::ErrorKind::InvalidFilename => "choose a shorter path in the route",
            _ => "see the kernel's log for the state of that file system",
        }
    }
}
