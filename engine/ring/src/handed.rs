//! Sockets that were open when the process began.

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

/// The first descriptor behind standard input, output and error: sd_listen_fds(3).
const FIRST: i32 = 3;

/// Takes descriptors 3 and on, of which the service manager said that there are so many. Gives them once, and stops at
/// the first that is not open.
pub fn take_handed_sockets(count: usize) -> Vec<OwnedFd> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::AcqRel) {
        return Vec::new();
    }
    let last = FIRST.saturating_add(i32::try_from(count).unwrap_or(i32::MAX));
    (FIRST..last).map_while(take).collect()
}

fn take(number: i32) -> Option<OwnedFd> {
    // SAFETY: borrowed for two calls only, which fail if it is not open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    // What this process opened itself has the flag: that is somebody's already.
    if fcntl_getfd(borrowed).ok()?.contains(FdFlags::CLOEXEC) {
        return None;
    }
    fcntl_setfd(borrowed, FdFlags::CLOEXEC).ok()?;
    // SAFETY: it is open, and nobody's: it was handed in, since it had no close-on-exec flag, and is taken once.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}
